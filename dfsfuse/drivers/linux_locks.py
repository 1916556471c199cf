"""The Linux driver's requests on locks between programs: POSIX (fcntl) and BSD (flock) ones. Those of open file
descriptions come as POSIX locks whose owner is the description.

A lock that is waited for holds no worker: its answer is written by whoever hears that it is granted, or that its
program was interrupted.
"""

import errno
import fcntl
from collections.abc import Callable

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_channel import BODY, Handlers, Interrupts, LaterReply, Request, beyond, refusal
from dfsfuse.drivers.linux_files import Files
from dfsfuse.errors import DfsError
from dfsfuse.filesystem import FileSystem
from dfsfuse.range_locks import FileLock

_END = (1 << 63) - 1


class Locks:
    """Translates, and keeps nothing."""

    def __init__(self, filesystem: FileSystem, interrupts: Interrupts, files: Files):
        self._fs, self._interrupts, self._files = filesystem, interrupts, files

    def handlers(self) -> Handlers:
        least = beyond(fuse.fuse_lk_in)
        return {
            fuse.FUSE_GETLK: (self.getlk, least),
            fuse.FUSE_SETLK: (self.setlk, least),
            fuse.FUSE_SETLKW: (self.setlkw, least),
        }

    def getlk(self, request: Request) -> bytes:
        fh, lock = _asked(request)
        found = self._fs.program_locks.get(self._files.handle(fh), lock)
        if found is None:
            return fuse.fuse_file_lock.pack(lock.start, lock.last, fcntl.F_UNLCK, 0)
        return fuse.fuse_file_lock.pack(found.start, found.last, found.kind, found.pid)

    def setlk(self, request: Request) -> bytes:
        fh, lock = _asked(request)
        self._fs.program_locks.set(self._files.handle(fh), lock)
        return b""

    def setlkw(self, request: Request) -> bytes | None:
        fh, lock = _asked(request)
        if lock.kind == fcntl.F_UNLCK:
            return self.setlk(request)
        handle, interrupted = self._files.handle(fh), self._interrupts.of(request)
        locked = self._fs.program_locks.begin(handle, lock, lambda: _answer_later(request), interrupted)
        return b"" if locked else None


def _answer_later(request: Request) -> Callable[[DfsError | None], None]:
    """What to call once it is decided."""
    later = LaterReply(request)

    def decided(error: DfsError | None) -> None:
        if error is None:
            later.reply()
        else:
            later.fail(error.errno)

    return decided


def _asked(request: Request) -> tuple[int, FileLock]:
    fh, owner, start, last, kind, pid, flags = fuse.fuse_lk_in.unpack_from(request.buffer, BODY)
    if kind not in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK) or start > last or last > _END:
        raise refusal(errno.EINVAL, "not a lock")
    return fh, FileLock(owner, kind, start, last, pid, bool(flags & fuse.FUSE_LK_FLOCK))
