"""Taking fcntl's record locks, and looking at who is in the way: for the rules about locks."""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from posix_rules.files import opened
from posix_rules.processes import Child, Peer, child, in_child

READ, WRITE, NONE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
SETLK, SETLKW, GETLK = fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_GETLK
OFD_SETLK, OFD_SETLKW, OFD_GETLK = fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW, fcntl.F_OFD_GETLK
_FLOCK = "hhqqi4x"
"""struct flock: type, whence, start, length, pid."""


def lock(fd: int, kind: int, start: int = 0, length: int = 0, command: int = SETLK, whence: int = 0) -> None:
    fcntl.fcntl(fd, command, struct.pack(_FLOCK, kind, whence, start, length, 0))


def blocker(fd: int, kind: int, start: int = 0, length: int = 0, command: int = GETLK) -> tuple[int, ...] | None:
    """What F_GETLK tells of who is in the way: type, start, length, pid."""
    told = fcntl.fcntl(fd, command, struct.pack(_FLOCK, kind, 0, start, length, 0))
    there, _, begin, size, pid = struct.unpack(_FLOCK, told)
    return None if there == NONE else (there, begin, size, pid)


def is_refused(fd: int, kind: int, start: int = 0, length: int = 0, command: int = SETLK) -> bool:
    """The lock is refused with EAGAIN or EACCES, which POSIX leaves to choose."""
    try:
        lock(fd, kind, start, length, command)
    except OSError as refused:
        if refused.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return True
    return False


def refused_to_another(path: Path, kind: int, start: int = 0, length: int = 0) -> bool:
    """The same for a process of its own, which lets the lock go again."""

    def attempt() -> bool:
        with opened(path, os.O_RDWR) as fd:
            return is_refused(fd, kind, start, length)

    return in_child(attempt)


@contextlib.contextmanager
def held_by_another(path: Path, kind: int, start: int = 0, length: int = 0) -> Iterator[Child]:
    """A process that holds a record lock until it is told to end."""

    def hold(parent: Peer) -> None:
        with opened(path, os.O_RDWR) as fd:
            lock(fd, kind, start, length)
            parent.say("held")
            parent.hear()

    with child(hold) as holder:
        assert holder.hear() == "held"
        yield holder


@contextlib.contextmanager
def waiting(path: Path, command: int) -> Iterator[Child]:
    """A process that waits for a write lock of the whole file."""

    def wait(parent: Peer) -> None:
        with opened(path, os.O_RDWR) as fd:
            parent.say("waiting")
            lock(fd, WRITE, command=command)
            parent.say("granted")
            parent.hear()

    with child(wait) as waiter:
        assert waiter.hear() == "waiting"
        waiter.wait_asleep()
        assert waiter.silent()
        yield waiter
