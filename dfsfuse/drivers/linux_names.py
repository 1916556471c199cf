"""The Linux driver's requests on names and attributes."""

import contextlib
import errno
import functools
import stat
import time
from collections.abc import Iterator

import msgspec

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers import fuse_replies as replies
from dfsfuse.drivers.fuse_channel import BODY, Handlers, Interrupts, Request, beyond, refusal
from dfsfuse.drivers.fuse_node import Name, Node
from dfsfuse.drivers.fuse_nodes import Nodes
from dfsfuse.drivers.fuse_second_looks import SecondLooks
from dfsfuse.drivers.linux_files import ROOT_UID, Files
from dfsfuse.errors import NotFound, Stale
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import RENAME_EXCHANGE, Attributes
from dfsfuse.places import Place

_NANO = 10**9
_SET_GID = stat.S_ISGID | stat.S_IXGRP
_CHANGES = (
    fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_MTIME
)  # fmt: skip


class Names:
    """Translates; what it keeps is in `nodes`."""

    def __init__(
        self, filesystem: FileSystem, nodes: Nodes, interrupts: Interrupts, files: Files, second_looks: SecondLooks
    ):
        self._fs, self._nodes, self._interrupts, self._files = filesystem, nodes, interrupts, files
        self._second_looks = second_looks

    def handlers(self) -> Handlers:
        return {
            fuse.FUSE_LOOKUP: (self.lookup, BODY),
            fuse.FUSE_FORGET: (self.forget, beyond(fuse.fuse_forget_in)),
            fuse.FUSE_BATCH_FORGET: (self.batch_forget, beyond(fuse.fuse_batch_forget_in)),
            fuse.FUSE_GETATTR: (self.getattr, BODY),
            fuse.FUSE_STATX: (self.statx, BODY),
            fuse.FUSE_SETATTR: (self.setattr, beyond(fuse.fuse_setattr_in)),
            fuse.FUSE_READLINK: (self.readlink, BODY),
            fuse.FUSE_STATFS: (self.statfs, BODY),
            fuse.FUSE_SYMLINK: (self.symlink, BODY),
            fuse.FUSE_MKNOD: (self.mknod, beyond(fuse.fuse_mknod_in)),
            fuse.FUSE_MKDIR: (self.mkdir, beyond(fuse.fuse_mkdir_in)),
            fuse.FUSE_UNLINK: (self.unlink, BODY),
            fuse.FUSE_RMDIR: (self.rmdir, BODY),
            fuse.FUSE_RENAME: (self.rename, beyond(fuse.fuse_rename_in)),
            fuse.FUSE_RENAME2: (self.rename2, beyond(fuse.fuse_rename2_in)),
            fuse.FUSE_LINK: (self.link, beyond(fuse.fuse_link_in)),
            fuse.FUSE_SETXATTR: (self.setxattr, beyond(fuse.fuse_setxattr_in)),
            fuse.FUSE_GETXATTR: (self.getxattr, beyond(fuse.fuse_getxattr_in)),
            fuse.FUSE_LISTXATTR: (self.listxattr, beyond(fuse.fuse_getxattr_in)),
            fuse.FUSE_REMOVEXATTR: (self.removexattr, BODY),
        }

    # -- looking

    def lookup(self, request: Request) -> bytes:
        folder, name = self._nodes.get(request.nodeid), request.name()
        parent, begun_at = folder.ino, time.monotonic()
        try:
            attributes = self._fs.lookup((parent, (name,)), lambda: self._files.shown(folder, name))
        except NotFound:
            self._files.not_there(request.pid)
            self._second_looks.not_found(request.pid, folder)
            raise
        if self._second_looks:
            self._second_looks.found(request.pid, begun_at)
        return self._entry(request, attributes, (parent, name), begun_at)

    def _entry(self, request: Request, attributes: Attributes, name: tuple[int, bytes], begun_at: float = 0.0) -> bytes:
        """The reply that names a node."""
        to_open = self._files.comes_again(request.pid)
        node = self._nodes.found(attributes.ino, name, attributes.version, to_open, begun_at)
        request.undo = functools.partial(self._nodes.forget, node.id, 1)
        if node.several:
            self._files.tell_superseded()
        return replies.entry_out(node, self._nodes.tell(node, attributes))

    def forget(self, request: Request) -> None:
        self._nodes.forget(request.nodeid, fuse.fuse_forget_in.unpack_from(request.buffer, BODY)[0])

    def batch_forget(self, request: Request) -> None:
        count = fuse.fuse_batch_forget_in.unpack_from(request.buffer, BODY)[0]
        start, size = BODY + fuse.fuse_batch_forget_in.size, fuse.fuse_forget_one.size
        data = request.data(start, min(count * size, request.end - start) // size * size)
        for nodeid, lookups in fuse.fuse_forget_one.iter_unpack(data):
            self._nodes.forget(nodeid, lookups)

    def getattr(self, request: Request) -> bytes:
        node = self._nodes.get(request.nodeid)
        return replies.attr_out(node, self._nodes.tell(node, self._attributes(node)))

    def statx(self, request: Request) -> bytes:
        node = self._nodes.get(request.nodeid)
        return replies.statx_out(node, self._nodes.tell(node, self._attributes(node)))

    def _attributes(self, node: Node) -> Attributes:
        try:
            return self._fs.lookup_open(node.ino) if node.opens else self._fs.lookup((node.ino, ()))
        except Stale:
            return self._removed_folder(node)

    def _removed_folder(self, node: Node) -> Attributes:
        """The inode is gone: programs may still be in the folder that it was."""
        left = node.removed_folder()
        if left is None:
            raise refusal(errno.ESTALE)
        return left

    def readlink(self, request: Request) -> bytes:
        attributes = self._fs.lookup((self._nodes.get(request.nodeid).ino, ()))
        if not stat.S_ISLNK(attributes.mode):
            raise refusal(errno.EINVAL)
        return attributes.target

    def statfs(self, request: Request) -> bytes:
        return replies.statfs_out(self._fs.space())

    # -- attributes

    def setattr(self, request: Request) -> bytes:
        fields = fuse.fuse_setattr_in.unpack_from(request.buffer, BODY)
        valid, fh, size = fields[:3]
        node = self._nodes.get(request.nodeid)
        if valid & fuse.FATTR_SIZE:
            privileged = request.uid == ROOT_UID and not valid & fuse.FATTR_KILL_SUIDGID
            self._resize(request, node, fh if valid & fuse.FATTR_FH else None, size, privileged)
        changes = _changes(fields) if valid & _CHANGES else self._owner_again(request, node)
        if changes:
            self._set(node, changes)
        return replies.attr_out(node, self._nodes.tell(node, self._attributes(node)))

    def _owner_again(self, request: Request, node: Node) -> dict[str, int]:
        """A change of nothing is chown(-1, -1): it takes set-id bits as any chown does, and moves ctime; anybody may do
        it who takes no such bits by it. Or it announces a write by somebody who may not keep these bits, and who need
        not own the file: then the write takes them."""
        attributes = self._attributes(node)
        if request.uid not in (ROOT_UID, attributes.uid):
            if self._files.is_open_to_write(node):
                return {}
            if stat.S_ISREG(attributes.mode) and _has_set_ids(attributes.mode):
                raise refusal(errno.EPERM)
        return {"uid": attributes.uid}

    def _set(self, node: Node, changes: dict[str, int]) -> None:
        try:
            self._fs.set_attributes((node.ino, ()), **changes)
        except Stale:
            left = self._removed_folder(node)
            if "mode" in changes:
                changes["mode"] |= stat.S_IFDIR
            node.folder = msgspec.structs.replace(left, **changes, ctime_ns=time.time_ns())

    def _resize(self, request: Request, node: Node, fh: int | None, size: int, privileged: bool) -> None:
        if fh is not None:
            self._files.resize(request, fh, size, privileged)
            return

        def truncate(place: Place, shown: bytes) -> None:
            interrupted = self._interrupts.of(request)
            self._fs.truncate(place, size, request.pid, interrupted, privileged, ino=node.ino, shown=shown)

        try:
            self._files.through_name(request.pid, node, truncate)
        finally:
            self._files.spares.drop(node.ino)

    # -- changing names

    def mkdir(self, request: Request) -> bytes:
        mode, umask = fuse.fuse_mkdir_in.unpack_from(request.buffer, BODY)
        name = request.name(BODY + fuse.fuse_mkdir_in.size)
        return self._made(request, name, stat.S_IFDIR | mode & 0o7777, umask=umask)

    def mknod(self, request: Request) -> bytes:
        mode, rdev, umask, _ = fuse.fuse_mknod_in.unpack_from(request.buffer, BODY)
        name = request.name(BODY + fuse.fuse_mknod_in.size)
        return self._made(request, name, mode, rdev=rdev, umask=umask)

    def symlink(self, request: Request) -> bytes:
        name, target = request.two_names()
        return self._made(request, name, stat.S_IFLNK | 0o777, target=target)

    def _made(
        self, request: Request, name: bytes, mode: int, target: bytes = b"", rdev: int = 0, umask: int = 0
    ) -> bytes:
        parent = self._nodes.get(request.nodeid).ino
        attributes = self._fs.make((parent, (name,)), mode, request.uid, request.gid, target, rdev, umask)
        return self._entry(request, attributes, (parent, name))

    def unlink(self, request: Request) -> bytes:
        return self._remove(request, folder=False)

    def rmdir(self, request: Request) -> bytes:
        return self._remove(request, folder=True)

    def _remove(self, request: Request, folder: bool) -> bytes:
        parent, name = self._nodes.get(request.nodeid).ino, request.name()
        with self._name_goes((parent, name)):
            self._fs.remove((parent, (name,)), folder, request.pid)
        self._nodes.removed((parent, name))
        return b""

    @contextlib.contextmanager
    def _name_goes(self, name: Name) -> Iterator[None]:
        """What nobody has open is not kept when its name goes, nor what a program closes while it goes."""
        node = self._nodes.named.get(name)
        if node is None:
            yield
            return
        self._files.spares.drop(node.ino)
        try:
            yield
        finally:
            self._files.spares.drop(node.ino)

    def rename(self, request: Request) -> bytes:
        newdir = fuse.fuse_rename_in.unpack_from(request.buffer, BODY)[0]
        return self._rename(request, newdir, 0, BODY + fuse.fuse_rename_in.size)

    def rename2(self, request: Request) -> bytes:
        newdir, flags = fuse.fuse_rename2_in.unpack_from(request.buffer, BODY)
        return self._rename(request, newdir, flags, BODY + fuse.fuse_rename2_in.size)

    def _rename(self, request: Request, newdir: int, flags: int, start: int) -> bytes:
        old_name, new_name = request.two_names(start)
        old = self._nodes.get(request.nodeid).ino, old_name
        new = self._nodes.get(newdir).ino, new_name
        with self._name_goes(new):
            self._fs.rename((old[0], (old[1],)), (new[0], (new[1],)), flags, request.pid)
        self._nodes.renamed(old, new, bool(flags & RENAME_EXCHANGE))
        return b""

    def link(self, request: Request) -> bytes:
        linked = self._nodes.get(fuse.fuse_link_in.unpack_from(request.buffer, BODY)[0])
        parent, name = self._nodes.get(request.nodeid).ino, request.name(BODY + fuse.fuse_link_in.size)
        return self._entry(request, self._fs.link((linked.ino, ()), (parent, (name,))), (parent, name))

    # -- extended attributes

    def setxattr(self, request: Request) -> bytes:
        size, flags, extra, _ = fuse.fuse_setxattr_in.unpack_from(request.buffer, BODY)
        start = BODY + fuse.fuse_setxattr_in.size
        name = request.name(start)
        value = bytes(request.data(start + len(name) + 1, size))
        self._fs.setxattr(self._place(request), name, value, flags, bool(extra & fuse.FUSE_SETXATTR_ACL_KILL_SGID))
        return b""

    def getxattr(self, request: Request) -> bytes | None:
        name, place = request.name(BODY + fuse.fuse_getxattr_in.size), self._place(request)
        if self._fs.lacks_xattr(place, name):
            # The kernel asks before the first write to a file, so most files are asked about in vain.
            request.fail(errno.ENODATA)
            return None
        return _as_asked(request, self._fs.getxattr(place, name))

    def listxattr(self, request: Request) -> bytes:
        names = self._fs.listxattr(self._place(request), request.uid == ROOT_UID)
        return _as_asked(request, b"".join(name + b"\0" for name in names))

    def removexattr(self, request: Request) -> bytes:
        self._fs.removexattr(self._place(request), request.name())
        return b""

    def _place(self, request: Request) -> Place:
        return self._nodes.get(request.nodeid).ino, ()


def _has_set_ids(mode: int) -> bool:
    """Those that a new owner or another writer takes: set-group-id counts where the group may execute."""
    return bool(mode & stat.S_ISUID) or mode & _SET_GID == _SET_GID


def _as_asked(request: Request, value: bytes) -> bytes:
    """A value, or its length where the program asks for that with a size of 0."""
    size = fuse.fuse_getxattr_in.unpack_from(request.buffer, BODY)[0]
    if size == 0:
        return fuse.fuse_getxattr_out.pack(len(value))
    if len(value) > size:
        raise refusal(errno.ERANGE)
    return value


def _changes(fields: tuple[int, ...]) -> dict[str, int]:
    """What SETATTR asks for, save the size, by the names that `set_attributes` has for it. Set-id bits that go with a
    new owner or with content are the file system's: what the kernel was told of the mode may be old."""
    valid, _, _, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid = fields
    now_ns = time.time_ns()
    changes: dict[str, int] = {}
    if valid & fuse.FATTR_UID:
        changes["uid"] = uid
    if valid & fuse.FATTR_GID:
        changes["gid"] = gid
    if valid & fuse.FATTR_ATIME:
        changes["atime_ns"] = now_ns if valid & fuse.FATTR_ATIME_NOW else atime * _NANO + atime_ns
    if valid & fuse.FATTR_MTIME:
        changes["mtime_ns"] = now_ns if valid & fuse.FATTR_MTIME_NOW else mtime * _NANO + mtime_ns
    if valid & fuse.FATTR_MODE:
        changes["mode"] = stat.S_IMODE(mode)
    return changes
