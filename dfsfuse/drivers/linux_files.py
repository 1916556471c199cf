"""The Linux driver's requests on files and on what is open.

An open goes by the name that the kernel looked up, and says which inode it expects there: between look-up and open
another client may have put another file in its place. ESTALE then makes the kernel look the name up again.

Threads: the driver's. `_opened` and `_stale` are dictionaries whose single operations are atomic.
"""

import errno
import functools
import itertools
import logging
import math
import os
import stat
import time
from collections.abc import Callable

from dfsfuse.content import Content
from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers import fuse_replies as replies
from dfsfuse.drivers.fuse_backing import LEAST_BYTES, Backing
from dfsfuse.drivers.fuse_channel import (
    BODY,
    DATA,
    PAYLOAD_BYTES_MAX,
    Handlers,
    Interrupts,
    Request,
    beyond,
    refusal,
)
from dfsfuse.drivers.fuse_forgetting import Forgetting
from dfsfuse.drivers.fuse_late_reads import Read
from dfsfuse.drivers.fuse_lending import BESIDE, Lending, Lingering
from dfsfuse.drivers.fuse_node import Name, Node, Way
from dfsfuse.drivers.fuse_nodes import Nodes, Result
from dfsfuse.drivers.fuse_spares import Opened, Spares
from dfsfuse.errors import AlreadyExists, DfsError, Stale
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import ROOT_INO, Attributes
from dfsfuse.openfiles import Handle
from dfsfuse.places import Place

log = logging.getLogger(__name__)

_AGAIN_S, _STALE_MAX = 1.0, 1000
"""How long after ESTALE the kernel's second try comes; of how many threads that is remembered."""
_Stale = tuple[Name | None, int, float]
"""(name, number of the node, when a thread was told that it leads elsewhere)."""
_NEVER: _Stale = (None, 0, -math.inf)

_WRITE_DATA = BODY + fuse.fuse_write_in.size
ROOT_UID = 0
"""Has the capabilities that let set-id bits stay at a write, and trusted attributes be listed."""


class Files:
    """What is open, by the number that the kernel has for it."""

    def __init__(
        self, filesystem: FileSystem, nodes: Nodes, interrupts: Interrupts, forgetting: Forgetting, backing: Backing
    ):
        self._fs, self._nodes, self._interrupts, self._forgetting = filesystem, nodes, interrupts, forgetting
        self._backing, self.ask_for_lease = backing, filesystem.files.in_kernel.ask_for_lease
        self._lending = Lending(filesystem, backing)
        closed = functools.partial(self._give_up, close=self._closed)
        self._lingering = Lingering(filesystem.files.in_kernel.may_close, closed)
        self.spares = Spares(filesystem, nodes, closed)
        nodes.let_go = self.spares.drop
        self._copy_range = getattr(filesystem, "copy_range", None)
        self._opened: dict[int, Opened] = {}
        self._stale: dict[int, _Stale] = {}
        filesystem.program_locks.on_content_changed(self._forget_pages)
        self._numbers = itertools.count(1)

    def begin_passthrough(self, written_bytes_max: int) -> None:
        """Whether the kernel has it is known; it may write files up to that size."""
        self._fs.files.in_kernel.sizes = (LEAST_BYTES, written_bytes_max) if self._backing.on else None

    def handlers(self) -> Handlers:
        return {
            fuse.FUSE_OPEN: (self.open, beyond(fuse.fuse_open_in)),
            fuse.FUSE_CREATE: (self.create, beyond(fuse.fuse_create_in)),
            fuse.FUSE_TMPFILE: (self.tmpfile, beyond(fuse.fuse_create_in)),
            fuse.FUSE_READ: (self.read, beyond(fuse.fuse_read_in)),
            fuse.FUSE_WRITE: (self.write, beyond(fuse.fuse_write_in)),
            fuse.FUSE_FALLOCATE: (self.fallocate, beyond(fuse.fuse_fallocate_in)),
            fuse.FUSE_LSEEK: (self.lseek, beyond(fuse.fuse_lseek_in)),
            fuse.FUSE_COPY_FILE_RANGE: (self.copy_file_range, beyond(fuse.fuse_copy_file_range_in)),
            fuse.FUSE_COPY_FILE_RANGE_64: (self.copy_file_range, beyond(fuse.fuse_copy_file_range_in)),
            fuse.FUSE_FLUSH: (self.flush, beyond(fuse.fuse_flush_in)),
            fuse.FUSE_FSYNC: (self.fsync, beyond(fuse.fuse_fsync_in)),
            fuse.FUSE_RELEASE: (self.release, beyond(fuse.fuse_release_in)),
        }

    def _get(self, fh: int) -> Opened:
        opened = self._opened.get(fh)
        if opened is None:
            raise refusal(errno.EBADF)
        if not opened.taken:
            opened.taken = True
            self._nodes.taken(opened.node, opened.way)
        return opened

    # -- opening

    def open(self, request: Request) -> bytes:
        flags, open_flags = fuse.fuse_open_in.unpack_from(request.buffer, BODY)
        node = self._nodes.get(request.nodeid)
        writes = (flags & os.O_ACCMODE) != os.O_RDONLY or bool(flags & os.O_TRUNC)
        fh = self.spares.take(node, flags, request.pid)
        if fh:
            request.undo = functools.partial(self._give_up, fh)
            return replies.open_out(fh, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH)
        try:
            if not writes:
                return self._open(request, node, flags, open_flags)
            self._nodes.begin_writing(node, functools.partial(self._lending.may_join, flags))
            try:
                return self._open(request, node, flags, open_flags)
            finally:
                self._nodes.end_writing(node)
        except OSError as error:
            if error.errno == errno.ESTALE:
                # The node is superseded, and the thread comes again.
                self._comes_again(request.pid, node.name or node.was)
                self.tell_superseded()
            raise

    def _open(self, request: Request, node: Node, flags: int, open_flags: int) -> bytes:
        def act(place: Place, shown: bytes) -> tuple[Handle, Attributes]:
            interrupted = self._interrupts.of(request)
            privileged = request.uid == ROOT_UID and not open_flags & fuse.FUSE_OPEN_KILL_SUIDGID
            return self._fs.open(place, flags, request.pid, interrupted, privileged, ino=node.ino, shown=shown)

        handle, attributes = self.through_name(request.pid, node, act)
        fh, kept, way = self._hold(request, handle, node, attributes)
        if (way.look_again or handle.writable) and not flags & os.O_TRUNC:
            self._forgetting.attributes_over(node)
        return replies.open_out(fh, kept, way.backing)

    def through_name(self, thread: int, node: Node, act: Callable[[Place, bytes], Result]) -> Result:
        """`act(place, path for people)` for open(2) and truncate(2), by the name of what is opened or cut.

        Where the name leads elsewhere for the second time in one call, what the kernel has looked up for that very call
        is as new as can be, and is reached by its inode: a third look-up does not come, and programs that move names
        without a pause must not see ESTALE. Only where the kernel has taken the answer to another program's look-up
        for it, which was begun before this call, that may be older than what the call must see.

        A name in doubt counts as one that leads elsewhere: another program may just have found out that it does. What
        was not looked up since has no name, and is opened through /proc."""
        begun, name, (place, shown) = time.monotonic(), node.name or node.was, self._nodes.place_of(node)
        try:
            if place[0] != ROOT_INO or not place[1]:
                raise Stale("no names lead to it")
            done = self._nodes.through_name(node, act)
        except Stale:
            former, number, when = self._stale.pop(thread, _NEVER)
            again = number == node.id or name is not None and name == former
            again = again and (node.looked_at >= when or node.name is None and node.found_at < when)
            if again and time.monotonic() - when < _AGAIN_S:
                return act((node.ino, ()), shown)
            self._comes_again(thread, name, node.id, begun)
            raise
        self._stale.pop(thread, None)
        return done

    def _comes_again(self, thread: int, name: Name | None, number: int = 0, since: float = 0.0) -> None:
        """`since`: what was looked up from then on is as new as its call must see it (monotonic; 0.0: from now on)."""
        self._stale[thread] = name, number, since or time.monotonic()
        if len(self._stale) > _STALE_MAX:
            self._stale.clear()

    def comes_again(self, thread: int) -> bool:
        """Was it told of late to look its names up again, in order to open something?"""
        known = self._stale.get(thread)
        return known is not None and time.monotonic() - known[2] < _AGAIN_S

    def tell_superseded(self) -> None:
        """The kernel keeps no attributes any more of nodes that are not their inode's only ones."""
        for node in self._nodes.take_superseded():
            self._forgetting.attributes_over(node)

    def not_there(self, thread: int) -> None:
        """The kernel has looked a name up, and will not open it: what the thread opens next is another open(2)."""
        self._stale.pop(thread, None)

    def shown(self, folder: Node, name: bytes) -> bytes:
        """The path for people of a name in a folder."""
        return self._nodes.place_of(folder)[1].rstrip(b"/") + b"/" + name

    def create(self, request: Request) -> bytes:
        """Holds the folder's lock in the kernel, so it never waits: if the name has come to exist, ESTALE makes the
        kernel look it up and open it, which waits outside that lock."""
        flags, mode, umask, _ = fuse.fuse_create_in.unpack_from(request.buffer, BODY)
        folder, name = self._nodes.get(request.nodeid), request.name(BODY + fuse.fuse_create_in.size)
        shown = self.shown(folder, name)
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        try:
            place, privileged = (folder.ino, (name,)), request.uid == ROOT_UID
            handle, attributes = self._fs.create(
                place,
                mode,
                request.uid,
                request.gid,
                flags,
                request.pid,
                privileged,
                shown,
                self._interrupts.of(request),
                umask,
            )
        except AlreadyExists:
            self._comes_again(request.pid, (folder.ino, name))
            raise refusal(errno.EEXIST if flags & os.O_EXCL else errno.ESTALE) from None
        return self._created(request, handle, attributes, (folder.ino, name))

    def tmpfile(self, request: Request) -> bytes:
        flags, mode, umask, _ = fuse.fuse_create_in.unpack_from(request.buffer, BODY)
        folder, mode = self._nodes.get(request.nodeid), stat.S_IFREG | stat.S_IMODE(mode)
        try:
            handle, attributes = self._fs.create_unnamed(
                (folder.ino, ()), mode, request.uid, request.gid, flags, request.pid, request.uid == ROOT_UID,
                self._interrupts.of(request), umask,
            )  # fmt: skip
        except Stale:
            if folder.folder is None:
                raise
            # As ext4 has it in a folder that was removed while a program is in it.
            raise refusal(errno.EPERM) from None
        return self._created(request, handle, attributes, None)

    def _created(
        self, request: Request, handle: Handle, attributes: Attributes, name: tuple[int, bytes] | None
    ) -> bytes:
        node = self._nodes.found(attributes.ino, name)
        fh, kept, way = self._hold(request, handle, node, attributes)
        give_up, nodeid = request.undo, node.id

        def undo() -> None:
            give_up()
            self._nodes.forget(nodeid, 1)

        request.undo = undo
        return replies.create_out(node, self._nodes.tell(node, attributes), fh, kept, way.backing)

    def _hold(self, request: Request, handle: Handle, node: Node, attributes: Attributes) -> tuple[int, int, Way]:
        """(number, FOPEN_ flags, how it is open) of a new open file. Raises ESTALE as `Nodes.open`."""
        lend, beside = self._lending.of(handle, node, attributes), bool(handle.flags & BESIDE)
        try:
            way = self._nodes.open(node, handle.content, attributes, handle.past_pages, lend, beside)
        except OSError:
            self._fs.program_locks.release(handle)
            raise
        if handle.writable:
            # One that another program has closed since this open was begun.
            self.spares.drop(node.ino)
        fh = next(self._numbers)
        self._opened[fh] = Opened(handle, node, way)
        request.undo = functools.partial(self._give_up, fh)
        flags = fuse.FOPEN_KEEP_CACHE * way.keep | fuse.FOPEN_DIRECT_IO * way.direct
        flags |= fuse.FOPEN_PASSTHROUGH * (way.backing > 0)
        if not handle.writable and not self._fs.program_locks.is_shared(node.ino):
            # Each close of what programs lock is asked for, as it carries the owner whose locks go with it.
            flags |= fuse.FOPEN_NOFLUSH
        return fh, flags, way

    def _forget_pages(self, content: Content, ino: int) -> None:
        """Programs are about to see another version through what they have open."""
        self._forgetting.content_over(content, ino)

    # -- reading and writing

    def read(self, request: Request) -> None:
        fh, offset, size, read_flags, _, _ = fuse.fuse_read_in.unpack_from(request.buffer, BODY)
        opened = self._get(fh)
        if opened.mixed and not read_flags & fuse.FUSE_READ_LOCKOWNER:
            # sendfile, splice and mmap go through the kernel's pages, which are another version's: better no answer.
            raise refusal(errno.EINVAL)
        if opened.handle.content.writers and not read_flags & fuse.FUSE_READ_LOCKOWNER:
            self._forgetting.begin_read(opened.node, Read(request.unique, offset, offset + size))
        opened.asked += size
        room = request.view[DATA : DATA + min(size, PAYLOAD_BYTES_MAX)]
        request.reply_data(self._fs.files.read_into(opened.handle, room, offset))

    def write(self, request: Request) -> bytes:
        fh, offset, size, write_flags, _, flags = fuse.fuse_write_in.unpack_from(request.buffer, BODY)
        opened, data = self._get(fh), request.data(_WRITE_DATA, size)
        node = opened.node
        if write_flags & fuse.FUSE_WRITE_KILL_SUIDGID:
            opened.handle.privileged = False
        append = bool(flags & os.O_APPEND) and not write_flags & fuse.FUSE_WRITE_CACHE
        written = self._fs.files.write(opened.handle, data, offset, append, self._interrupts.of(request))
        self._forgetting.written(node, request.unique, offset, offset + written)
        self._nodes.changed_by_kernel(node)
        if flags & os.O_DSYNC and opened.way.direct:
            # O_SYNC has that bit too, and RWF_DSYNC. The kernel asks for it only where it goes through its pages.
            self._fs.files.flush(opened.handle, durable=True)
        return fuse.fuse_write_out.pack(written)

    def handle(self, fh: int) -> Handle:
        return self._get(fh).handle

    def resize(self, request: Request, fh: int, size: int, privileged: bool) -> None:
        handle = self._get(fh).handle
        handle.privileged = handle.privileged and privileged
        self._fs.files.resize(handle, size, self._interrupts.of(request))

    def fallocate(self, request: Request) -> bytes:
        fh, offset, length, mode = fuse.fuse_fallocate_in.unpack_from(request.buffer, BODY)
        opened = self._get(fh)
        self._note_writer(request, opened.handle)
        self._fs.fallocate(opened.handle, mode, offset, length, self._interrupts.of(request))
        self._nodes.changed_by_kernel(opened.node)
        return b""

    def is_open_to_write(self, node: Node) -> bool:
        """By any program of this mount."""
        return any(opened.node.ino == node.ino and opened.handle.writable for opened in list(self._opened.values()))

    def _note_writer(self, request: Request, handle: Handle) -> None:
        """The kernel does not say whether set-id bits stay, as it does of writes."""
        handle.privileged = handle.privileged and request.uid == ROOT_UID

    def lseek(self, request: Request) -> bytes:
        fh, offset, whence = fuse.fuse_lseek_in.unpack_from(request.buffer, BODY)
        return fuse.fuse_lseek_out.pack(self._fs.lseek(self._get(fh).handle, offset, whence))

    def copy_file_range(self, request: Request) -> bytes:
        fh_in, off_in, _, fh_out, off_out, length, _ = fuse.fuse_copy_file_range_in.unpack_from(request.buffer, BODY)
        source, target = self._get(fh_in), self._get(fh_out)
        if source.mixed:
            # The kernel goes by the size of the other version, whose pages it has: the program has to read and write.
            raise refusal(errno.EINVAL)
        if self._copy_range is None:
            raise refusal(errno.EOPNOTSUPP)
        self._note_writer(request, target.handle)
        interrupted = self._interrupts.of(request)
        copied = self._copy_range(source.handle, off_in, target.handle, off_out, length, interrupted)
        self._nodes.changed_by_kernel(target.node)
        if request.opcode == fuse.FUSE_COPY_FILE_RANGE_64:
            return fuse.fuse_copy_file_range_out.pack(copied)
        return fuse.fuse_write_out.pack(copied)

    # -- closing

    def flush(self, request: Request) -> bytes:
        fh, owner = fuse.fuse_flush_in.unpack_from(request.buffer, BODY)
        self._fs.program_locks.flush(self._get(fh).handle, owner)
        return b""

    def fsync(self, request: Request) -> bytes:
        fh, _ = fuse.fuse_fsync_in.unpack_from(request.buffer, BODY)
        self._fs.files.flush(self._get(fh).handle, durable=True)
        return b""

    def release(self, request: Request) -> bytes:
        fh = fuse.fuse_release_in.unpack_from(request.buffer, BODY)[0]
        opened = self._opened.get(fh)
        if opened is None or not self.spares.keep(fh, opened):
            self._close(fh)
        return b""

    def _close(self, fh: int) -> None:
        opened = self._opened.get(fh)
        if opened is None:
            raise refusal(errno.EBADF)
        if opened.handle.unseen and not self._fs.files.in_kernel.may_close(opened.handle):
            self._lingering.add(fh, opened.handle)
        else:
            self._closed(fh)

    def _closed(self, fh: int) -> None:
        opened = self._opened.pop(fh, None)
        if opened is None:
            return
        try:
            self._fs.program_locks.release(opened.handle)
        finally:
            if self._backing.on and opened.has_missed():
                self._nodes.pages_gone(opened.node, opened.handle.content)
            ended = self._nodes.close(opened.node, opened.way)
            if ended:
                self._backing.close(ended)
                self._fs.files.in_kernel.take_back(opened.handle.content)

    def _give_up(self, fh: int, close: Callable[[int], None] | None = None) -> None:
        try:
            (close or self._close)(fh)
        except (DfsError, OSError) as error:
            log.error("a file that nobody waits for any more cannot be closed: %s", error)

    def close_all(self) -> None:
        """The mount has ended, and with it requests that would have closed these."""
        self._lingering.end()
        for fh, opened in list(self._opened.items()):
            self._fs.files.in_kernel.leave(opened.handle)
            self._give_up(fh, self._closed)
