"""The driver over fusepy's Operations (package mfusepy) and libfuse 3: translates, and calls the file system.

`Driver` is the Operations object; what libfuse calls is in fusepy_callbacks.py.

Waiting opens and waiting locks occupy libfuse's threads: the file system bounds them below THREADS_MAX. Every close is
asked for (no `noflush`), as it carries the owner whose locks go. What libfuse keeps from a driver, and which errno
programs get for it, is listed in docs/SEMANTICS.md.

Threads: libfuse's, and those that tell of changed content. `_handles` is a dictionary whose single operations are
atomic.
"""

import ctypes
import errno
import fcntl
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from stat import S_IFDIR
from typing import NamedTuple

import mfusepy

from dfsfuse.content import Content
from dfsfuse.drivers.fusepy_callbacks import Callbacks
from dfsfuse.drivers.kernel_nodes import KernelNode, KernelNodes
from dfsfuse.errors import AlreadyExists, DfsError, NotFound, NotSupported
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import NAME_BYTES_MAX, Attributes, is_acl
from dfsfuse.openfiles import Handle
from dfsfuse.places import Place, place_of
from dfsfuse.range_locks import FileLock
from dfsfuse.space import BLOCK_BYTES

log = logging.getLogger(__name__)

THREADS_MAX = 256
IDLE_THREADS_MAX = 10
KERNEL_HOLD_S = 0.25
REQUEST_BYTES = 1 << 20
_RENAME_EXCHANGE = 2
_ROOT_UID = 0
"""Has the capabilities that let set-id bits stay at a write, and trusted attributes be listed."""
_WANT_NOT = (1 << 11) | (1 << 12)
"""FUSE_CAP_HANDLE_KILLPRIV: the kernel clears set-uid bits itself. FUSE_CAP_AUTO_INVAL_DATA: would drop the pages at
every change of mtime, our own included; this driver invalidates what has changed elsewhere."""

_LAST_BYTE = (1 << 63) - 1
_FLOCKS = {fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}

_libfuse = mfusepy._libfuse
_libfuse.fuse_invalidate_path.argtypes = (ctypes.c_void_p, ctypes.c_char_p)


def interrupted() -> bool:
    """Has the program that made this request been interrupted or killed?"""
    return bool(_libfuse.fuse_interrupted())


class _Open:
    """An open file of the kernel's: the handle, the kernel's node through which it was opened, and whether past its
    pages; `mixed`: as these are another version's."""

    def __init__(self, handle: Handle, node: KernelNode, direct: bool):
        self.handle, self.node, self.direct = handle, node, direct
        self.mixed = direct and node.content not in (None, handle.content)


class _OpenFolder(NamedTuple):
    """An open folder: which it is, wherever it is moved, and where it was when it was opened."""

    ino: int
    place: Place


class Driver(mfusepy.Operations):
    """fusepy's interface, with `raw_fi`: handles come as fuse_file_info."""

    use_ns = True
    flag_nopath = flag_nullpath_ok = True

    def __init__(self, filesystem: FileSystem, on_ready: Callable[[], None]):
        self._fs, self._on_ready = filesystem, on_ready
        self._locks = filesystem.program_locks
        self._nodes = KernelNodes(KERNEL_HOLD_S, self._locks.is_shared)
        self._handles: dict[int, _Open | _OpenFolder] = {}
        self._numbers = itertools.count(1)
        self._fuse = None
        self._locks.on_content_changed(self._forget_pages)

    def init_with_config(self, connection, config) -> None:
        self._fuse = _libfuse.fuse_get_context().contents.fuse
        config.use_ino = config.hard_remove = config.nullpath_ok = 1
        config.entry_timeout = config.attr_timeout = KERNEL_HOLD_S
        config.negative_timeout = 0.0
        connection.want &= ~_WANT_NOT
        connection.max_write = connection.max_read = connection.max_readahead = REQUEST_BYTES
        self._on_ready()

    # -- looking

    def getattr(self, path: str | None, fh=None) -> Attributes:
        if fh is not None:
            opened = self._handles[fh.fh]
            return self._nodes.tell_open(opened.node, self._fs.attributes_of(opened.handle))
        return self._nodes.tell(path, self._fs.lookup(place_of(path)))

    def readlink(self, path: str) -> str:
        return os.fsdecode(self._fs.lookup(place_of(path)).target)

    def statfs(self, path: str) -> dict[str, int]:
        space = self._fs.space()
        free = space.free_bytes // BLOCK_BYTES
        return {
            "f_bsize": BLOCK_BYTES, "f_frsize": BLOCK_BYTES, "f_blocks": space.total_bytes // BLOCK_BYTES,
            "f_bfree": free, "f_bavail": free, "f_files": space.inodes + space.inodes_free,
            "f_ffree": space.inodes_free, "f_favail": space.inodes_free, "f_namemax": NAME_BYTES_MAX,
        }  # fmt: skip

    def opendir(self, path: str) -> int:
        place = place_of(path)
        return self._number(_OpenFolder(self._fs.open_folder(place), place))

    def readdir(self, path: str | None, fh: int) -> Iterator:
        """Programs pass over entries without an inode number."""
        opened = self._handles[fh]
        yield _entry(b".", S_IFDIR, opened.ino)
        yield _entry(b"..", S_IFDIR, self._parent_of(opened))
        for entry in self._fs.list_folder((opened.ino, ()), seen_at=opened.place, moves_atime=True):
            yield _entry(entry.name, entry.attributes.mode, entry.attributes.ino)

    def _parent_of(self, opened: _OpenFolder) -> int:
        """As far as it is known: the folder may have moved."""
        try:
            return self._fs.lookup((opened.place[0], opened.place[1][:-1])).ino
        except DfsError:
            return opened.ino

    def releasedir(self, path: str | None, fh: int) -> None:
        self._handles.pop(fh, None)

    def _number(self, held: _Open | _OpenFolder) -> int:
        number = next(self._numbers)
        self._handles[number] = held
        return number

    # -- names and attributes

    def mkdir(self, path: str, mode: int) -> None:
        uid, gid, _ = mfusepy.fuse_get_context()
        self._fs.make(place_of(path), 0o040000 | mode & 0o7777, uid, gid)

    def symlink(self, path: str, target: str) -> None:
        uid, gid, _ = mfusepy.fuse_get_context()
        self._fs.make(place_of(path), 0o120777, uid, gid, target=os.fsencode(target))

    def mknod(self, path: str, mode: int, device: int) -> None:
        uid, gid, _ = mfusepy.fuse_get_context()
        self._fs.make(place_of(path), mode, uid, gid, rdev=device)

    def link(self, new: str, old: str) -> None:
        self._fs.link(self._place(old), place_of(new))
        self._nodes.removed(new)
        self._look_again(old)

    def unlink(self, path: str) -> None:
        self._fs.remove(place_of(path), folder=False, thread=mfusepy.fuse_get_context()[2])
        self._nodes.removed(path)

    def rmdir(self, path: str) -> None:
        self._fs.remove(place_of(path), folder=True, thread=mfusepy.fuse_get_context()[2])

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self._fs.rename(place_of(old), place_of(new), flags, mfusepy.fuse_get_context()[2])
        self._nodes.renamed(old, new, bool(flags & _RENAME_EXCHANGE))

    def chmod(self, path: str | None, mode: int, fi=None) -> None:
        self._fs.set_attributes(self._place(path, fi), mode=mode)

    def chown(self, path: str | None, uid: int, gid: int, fi=None) -> None:
        none = 0xFFFFFFFF
        changed = {"uid": None if uid & none == none else uid, "gid": None if gid & none == none else gid}
        self._fs.set_attributes(self._place(path, fi), **changed)

    def utimens(self, path: str | None, times: tuple[int | None, int | None], fi=None) -> None:
        self._fs.set_attributes(self._place(path, fi), atime_ns=times[0], mtime_ns=times[1])

    def getxattr(self, path: str | None, name: bytes) -> bytes:
        _check_no_acl(name)
        return self._fs.getxattr(self._place(path), name)

    def setxattr(self, path: str | None, name: bytes, value: bytes, flags: int) -> None:
        _check_no_acl(name)
        self._fs.setxattr(self._place(path), name, value, flags)

    def listxattr(self, path: str | None) -> bytes:
        privileged = mfusepy.fuse_get_context()[0] == _ROOT_UID
        names = self._fs.listxattr(self._place(path), privileged)
        return b"".join(name + b"\0" for name in names if not is_acl(name))

    def removexattr(self, path: str | None, name: bytes) -> None:
        _check_no_acl(name)
        self._fs.removexattr(self._place(path), name)

    def _place(self, path: str | None, fi=None) -> Place:
        """libfuse passes no path where it passes a handle, which it seldom does, and none for an unlinked file."""
        if path is not None:
            return place_of(path)
        if fi is None:
            raise mfusepy.FuseOSError(errno.ESTALE)
        return self._handle(fi).content.ino, ()

    # -- files

    def create(self, path: str, mode: int, fi) -> int:
        """Holds the folder's lock in the kernel, so it never waits: if the name has come to exist, ESTALE makes the
        kernel look it up and open it, which waits outside that lock."""
        uid, gid, pid = mfusepy.fuse_get_context()
        place, mode = place_of(path), 0o100000 | mode & 0o7777
        try:
            privileged = uid == _ROOT_UID
            handle, attributes = self._fs.create(
                place, mode, uid, gid, fi.flags, pid, privileged, interrupted=interrupted
            )
        except AlreadyExists:
            raise mfusepy.FuseOSError(errno.EEXIST if fi.flags & os.O_EXCL else errno.ESTALE) from None
        self._nodes.removed(path)
        self._opened(path, handle, attributes, fi)
        return 0

    def open(self, path: str, fi) -> int:
        """The kernel has just looked the name up, and may remember what another client has removed since: ESTALE makes
        it look again, and make the file where that was asked for."""
        uid, _, pid = mfusepy.fuse_get_context()
        try:
            handle, attributes = self._fs.open(place_of(path), fi.flags, pid, interrupted, uid == _ROOT_UID)
        except NotFound:
            raise mfusepy.FuseOSError(errno.ESTALE) from None
        self._opened(path, handle, attributes, fi)
        return 0

    def _opened(self, path: str, handle: Handle, attributes: Attributes, fi) -> None:
        node, keep, direct, look_again = self._nodes.open(path, handle.content, attributes, handle.past_pages)
        fi.fh = self._number(_Open(handle, node, direct))
        fi.keep_cache, fi.direct_io = keep, direct
        if look_again:
            self._look_again(path)

    def _look_again(self, path: str) -> None:
        """The kernel's attributes and pages of a path are not right any more."""
        _libfuse.fuse_invalidate_path(self._fuse, os.fsencode(path))

    def _forget_pages(self, content: Content, ino: int) -> None:
        """Programs are about to see another version through what they have open. libfuse can say so of files that have
        a name. Who opens the file next need not say it once more: the kernel takes no answer that this overtakes, and
        who has just locked the file would read on with the size of before."""
        opened = [held for held in list(self._handles.values()) if isinstance(held, _Open)]
        for node in {held.node for held in opened if held.handle.content is content}:
            self._nodes.asks_again(node)
            if node.path is not None:
                self._look_again(node.path)

    def _handle(self, fi) -> Handle:
        return self._handles[fi.fh].handle

    def read(self, fi, buffer: memoryview, offset: int) -> int:
        opened = self._handles[fi.fh]
        if opened.mixed and not fi.lock_owner:
            # sendfile, splice and mmap go through the kernel's pages, which are another version's: better no answer.
            raise mfusepy.FuseOSError(errno.EINVAL)
        return self._fs.files.read_into(opened.handle, buffer, offset)

    def copy_file_range(self, fi_in) -> int:
        """Done by the kernel, through its pages; only where these are another version's, the program has to read and
        write itself, as it does on EINVAL."""
        raise mfusepy.FuseOSError(errno.EINVAL if self._handles[fi_in.fh].mixed else errno.EOPNOTSUPP)

    def write(self, fi, data: memoryview, offset: int) -> int:
        append, opened = bool(fi.flags & os.O_APPEND) and not fi.writepage, self._handles[fi.fh]
        written = self._fs.files.write(opened.handle, data, offset, append, interrupted)
        if fi.flags & os.O_DSYNC and opened.direct:
            # The kernel asks for it only where it goes through its pages.
            self._fs.files.flush(opened.handle, durable=True)
        return written

    def truncate(self, path: str | None, length: int, fi=None) -> None:
        if fi is not None:
            self._fs.files.resize(self._handle(fi), length, interrupted)
            return
        uid, _, pid = mfusepy.fuse_get_context()
        self._fs.truncate(self._place(path), length, pid, interrupted, uid == _ROOT_UID)

    def flush(self, path: str | None, fi) -> None:
        self._locks.flush(self._handle(fi), fi.lock_owner)

    def fsync(self, path: str | None, datasync: int, fi) -> None:
        self._fs.files.flush(self._handle(fi), durable=True)

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> None:
        self._fs.session.sync()

    def release(self, path: str | None, fi) -> None:
        opened = self._handles.pop(fi.fh)
        try:
            self._locks.release(opened.handle)
        finally:
            self._nodes.close(opened.node, opened.handle.content, opened.direct)

    def lock(self, path: str | None, fi, command: int, lock) -> None:
        """fcntl: locks of processes, and of open file descriptions, which libfuse does not tell apart."""
        if fi.flush:
            # libfuse asks for this after each flush, which has done it.
            return
        asked = lock.contents
        last = asked.l_start + asked.l_len - 1 if asked.l_len else _LAST_BYTE
        wanted = FileLock(fi.lock_owner, asked.l_type, asked.l_start, last, max(0, asked.l_pid))
        if command != fcntl.F_GETLK:
            self._locks.set(self._handle(fi), wanted, command == fcntl.F_SETLKW, interrupted)
            return
        found = self._locks.get(self._handle(fi), wanted)
        if found is None:
            asked.l_type = fcntl.F_UNLCK
            return
        asked.l_type, asked.l_whence, asked.l_start, asked.l_pid = found.kind, os.SEEK_SET, found.start, found.pid
        asked.l_len = 0 if found.last == _LAST_BYTE else found.last + 1 - found.start

    def flock(self, path: str | None, fi, operation: int) -> None:
        kind, pid = _FLOCKS[operation & ~fcntl.LOCK_NB], mfusepy.fuse_get_context()[2]
        wanted = FileLock(fi.lock_owner, kind, pid=pid, flock=True)
        self._locks.set(self._handle(fi), wanted, not operation & fcntl.LOCK_NB, interrupted)

    def destroy(self, path: str) -> None:
        log.info("unmounting")


def _check_no_acl(name: bytes) -> None:
    """The kernel checks access control lists only where a driver asks for that at INIT, which libfuse does not pass on:
    a list that could be set would promise what nobody keeps."""
    if is_acl(name):
        raise NotSupported("this driver passes on no access control lists")


def _entry(name: bytes, mode: int, ino: int) -> tuple[str, dict[str, int], int]:
    return os.fsdecode(name), {"st_mode": mode, "st_ino": ino}, 0


def run(
    filesystem: FileSystem,
    mountpoint: str,
    *,
    read_only: bool,
    allow_other: bool,
    fsname: str,
    on_ready: Callable[[], None],
    suid: bool = False,
    dev: bool = False,
) -> None:
    """Mount and serve until unmounted. RuntimeError where libfuse refuses."""
    options = {"subtype": "dfsfuse", "fsname": fsname, "default_permissions": True, "allow_other": allow_other}
    options |= {"ro": True} if read_only else {}
    options |= {"suid": True} if suid else {}
    options |= {"dev": True} if dev else {}
    options |= {"max_read": REQUEST_BYTES}
    if _libfuse.fuse_version() >= 312:
        options |= {"max_threads": THREADS_MAX, "max_idle_threads": IDLE_THREADS_MAX}
    Callbacks(Driver(filesystem, on_ready), mountpoint, raw_fi=True, foreground=True, **options)
