"""The Linux driver's requests on locks between programs: POSIX (fcntl) and BSD (flock) ones, where the file system has
them. A lock that the kernel would grant by itself would be seen by this machine alone, so without them the answer is
ENOLCK."""

import errno
import fcntl
from typing import NamedTuple

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_channel import BODY, Handlers, Interrupts, Request, beyond, refusal
from dfsfuse.drivers.linux_files import Files
from dfsfuse.filesystem import FileSystem

_END = (1 << 63) - 1


class RangeLock(NamedTuple):
    """`kind` is F_RDLCK, F_WRLCK or F_UNLCK of the bytes from `start` to `last`; a flock covers all bytes. `owner` is
    the kernel's number for who holds it."""

    owner: int
    kind: int
    start: int
    last: int
    pid: int
    flock: bool


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
        found = self._fs.get_lock(self._files.handle(fh), lock)
        if found is None:
            return fuse.fuse_file_lock.pack(lock.start, lock.last, fcntl.F_UNLCK, 0)
        return fuse.fuse_file_lock.pack(found.start, found.last, found.kind, found.pid)

    def setlk(self, request: Request) -> bytes:
        return self._set(request, wait=False)

    def setlkw(self, request: Request) -> bytes:
        return self._set(request, wait=True)

    def _set(self, request: Request, wait: bool) -> bytes:
        fh, lock = _asked(request)
        self._fs.set_lock(self._files.handle(fh), lock, wait, self._interrupts.of(request))
        return b""


def _asked(request: Request) -> tuple[int, RangeLock]:
    fh, owner, start, last, kind, pid, flags = fuse.fuse_lk_in.unpack_from(request.buffer, BODY)
    if kind not in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK) or start > last or last > _END:
        raise refusal(errno.EINVAL, "not a lock")
    return fh, RangeLock(owner, kind, start, last, pid, bool(flags & fuse.FUSE_LK_FLOCK))
