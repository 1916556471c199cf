"""What is done where the cache's disk has no room.

    reading    evicts what nobody uses; where that is not enough, it goes past the cache (passing.py)
    writing    evicts, and drops what programs only read: it is fetched again when they go on
    the index  the same, and takes the reserve: without its rows nothing could be sent, and so nothing evicted

Only what the servers have goes. Who has been told that something is written never hears otherwise.

Threads: the cache's mutex is held while anything is dropped, so that no content is opened or closed meanwhile.
"""

import contextlib
import enum
import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dfsfuse import errors
from dfsfuse.chunks import Ranges
from dfsfuse.content import Content
from dfsfuse.lending import is_left
from dfsfuse.sparse_files import punch_hole

log = logging.getLogger(__name__)

RESERVE_BYTES, _STEP_BYTES = 1 << 20, 1 << 16
_FULL = errno.ENOSPC, errno.EDQUOT

Result = TypeVar("Result")


class Need(enum.IntEnum):
    """What the room is for; each may do what those before it may."""

    READ = 1
    WRITE = 2
    INDEX = 3


class Reserve:
    """Room that is kept for the index, as a file at `path`."""

    def __init__(self, path: Path):
        self._path = path
        self.keep()

    def keep(self) -> None:
        """As much as there is room for."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("no room can be kept for the cache's index: %s", error)
            return
        try:
            wanted = RESERVE_BYTES
            while wanted >= _STEP_BYTES and not _allocated(fd, wanted):
                wanted -= _STEP_BYTES
        finally:
            os.close(fd)

    def give(self) -> bool:
        """False: there is none."""
        try:
            there = os.stat(self._path).st_size > 0
            os.truncate(self._path, 0)
        except OSError:
            return False
        return there


def with_reserve(path: Path, work: Callable[[], Result]) -> Result:
    """`work()`, before there is a FullDisk; where the disk has no room for it, it is done once more in that of the
    reserve that an earlier client has left at `path`. Raises NoSpace."""
    try:
        return work()
    except errors.NoSpace:
        if not Reserve(path).give():
            raise
        return work()


class FullDisk:
    """`evict` removes all that nobody uses, `in_use` is the rest; `forget_present(row)` tells the index that nothing of
    a content is here."""

    def __init__(
        self,
        mutex: threading.RLock,
        evict: Callable[[], int],
        in_use: Callable[[], list[Content]],
        forget_present: Callable[[int], None],
        reserve: Reserve,
    ):
        self._mutex, self._evict, self._in_use, self._forget_present = mutex, evict, in_use, forget_present
        self._reserve = reserve

    def with_room(self, work: Callable[[], Result], need: Need = Need.WRITE) -> Result:
        """`work()`; where the disk has no room for it, as much is freed as may be, and it is done once more. Of the
        disk's errors none but these of `dfsfuse.errors` is raised."""
        try:
            return work()
        except (errors.NoSpace, OSError) as error:
            _check_full(error)
        for free in [self._evict, self._drop_read, self._reserve.give][:need]:
            if free():
                try:
                    return work()
                except (errors.NoSpace, OSError) as error:
                    _check_full(error)
                finally:
                    # Before what others write takes it.
                    self._reserve.keep()
        raise errors.NoSpace("the local cache's disk is full, and nothing in it can be evicted")

    def _drop_read(self) -> bool:
        """Drop what programs have open, and only read; False: there is nothing of that kind."""
        with self._mutex:
            dropped = [self._drop(content) for content in self._in_use() if _is_only_read(content)]
            self._reserve.keep()
        return any(dropped)

    def _drop(self, content: Content) -> bool:
        """The index first: what it promises must be there."""
        try:
            self._forget_present(content.row)
        except errors.NoSpace:
            if not self._reserve.give():
                return False
            with contextlib.suppress(errors.NoSpace):
                return self._drop(content)
            return False
        return _empty(content)


def _allocated(fd: int, length: int) -> bool:
    """False: there is no room for so much."""
    try:
        os.posix_fallocate(fd, 0, length)
    except OSError:
        return False
    return True


def _check_full(error: errors.NoSpace | OSError) -> None:
    """Raises another error of the disk's."""
    if error.errno not in _FULL:
        raise errors.from_os_error(error, "using the local cache") from None


def _is_only_read(content: Content) -> bool:
    with content.mutex:
        if content.writers or content.changed or content.shared or content.pins or not content.present:
            return False
        return not is_left(content)


def _empty(content: Content) -> bool:
    with content.mutex:
        if not _is_only_read(content):
            return False
        content.drops += 1
        content.present = Ranges()
        content.noted.clear()
        content.row_current = False
        punch_hole(content.fd, 0, content.size)
        return True
