"""Room and holes of open files: fallocate, lseek and copy_file_range, as Linux has them.

Room that is allocated is content, of zeros: it is checked against the quota and the servers' room as they were a second
ago, reserved on the local disk, and counted by the commit. Beyond the end of a file (FALLOC_FL_KEEP_SIZE) it is only
checked, and reserved until the last close.

Threads: any; see openfiles.py.
"""

import contextlib
import errno
import time
from collections.abc import Callable, Iterator

from dfsfuse import errors, holes, sparse_files
from dfsfuse.cache import Cache
from dfsfuse.content import Content
from dfsfuse.messages import Quota, QuotaReply
from dfsfuse.openfiles import FILE_BYTES_MAX, Handle, OpenFiles
from dfsfuse.session import Session
from dfsfuse.sparse_files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from dfsfuse.waiting import Interrupted, never

COPY_BYTES_MAX = 64 << 20
"""What one call copies at most; programs ask again for the rest."""
_PART_BYTES = 1 << 20


class Allocation:
    def __init__(self, session: Session, files: OpenFiles, cache: Cache):
        self._session, self._files, self._cache = session, files, cache

    def fallocate(self, handle: Handle, mode: int, offset: int, length: int, interrupted: Interrupted = never) -> None:
        """The modes of fallocate(2): none, KEEP_SIZE, PUNCH_HOLE with KEEP_SIZE, ZERO_RANGE with or without it."""
        self._files.check_writable(handle)
        if offset < 0 or length <= 0:
            raise errors.InvalidArgument("a range has a length, and begins within a file")
        keep_size, end = bool(mode & FALLOC_FL_KEEP_SIZE), offset + length
        if end > FILE_BYTES_MAX:
            raise errors.FileTooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        with self._files.sharing.writing(handle, interrupted):
            if mode == FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
                self._punch(handle, offset, end)
            elif mode & ~FALLOC_FL_KEEP_SIZE == FALLOC_FL_ZERO_RANGE:
                self._clear(handle, offset, end, keep_size)
            elif not mode & ~FALLOC_FL_KEEP_SIZE:
                self._allocate(handle, offset, end, keep_size)
            else:
                raise errors.NotSupported(f"fallocate with mode {mode:#x}")

    def _punch(self, handle: Handle, start: int, end: int) -> None:
        content = handle.content
        self._files.bring(content, lambda c: c.unready(start, min(end, c.size)))
        self._change(content, lambda: holes.punch(content, start, end, time.time_ns(), handle.privileged))

    def _clear(self, handle: Handle, start: int, end: int, keep_size: bool) -> None:
        content = handle.content
        self._check_room(content, start, end)
        self._bring_lacking(content, start, end)
        self._files.bring(content, lambda c: c.unready(start, min(end, c.size)))
        self._change(content, lambda: holes.clear(content, start, end, keep_size, time.time_ns(), handle.privileged))

    def _allocate(self, handle: Handle, start: int, end: int, keep_size: bool) -> None:
        content = handle.content
        self._check_room(content, start, end)
        self._bring_lacking(content, start, end)
        self._change(content, lambda: holes.allocate(content, start, end, keep_size, time.time_ns(), handle.privileged))

    def _bring_lacking(self, content: Content, start: int, end: int) -> None:
        """Entries that have content beside the holes in this range."""

        def wanted(content: Content) -> list[int]:
            lacking = holes.lacking(content, start, end)
            return sorted({index for part in lacking for index in content.unready(*part)})

        self._files.bring(content, wanted)

    def _change(self, content: Content, change: Callable[[], bool]) -> None:
        """A change of the local file, once more with room made for it where the disk is full; then the index is told
        where it must be."""
        if self._cache.with_room(lambda: _if_possible(change)):
            self._cache.mark_open(content)

    def _check_room(self, content: Content, start: int, end: int) -> None:
        """Nobody keeps the room for this file but the local disk: what is free now may be gone at the commit."""
        needed = sum(last - first for first, last in holes.lacking(content, start, end))
        space = self._session.space
        if needed <= space.free_bytes or not space.total_bytes:
            return
        quota: QuotaReply = self._session.query(Quota(), QuotaReply)
        if quota.bytes_max and quota.used_bytes + needed > quota.bytes_max:
            raise errors.QuotaExceeded(
                f"the quota of the volume is {quota.bytes_max} bytes, and {needed} more are asked"
            )
        raise errors.NoSpace(f"the file servers have no room for {needed} bytes more")

    # -- finding

    def lseek(self, handle: Handle, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE. Raises OSError."""
        self._files.in_kernel.find(handle.content)
        return holes.seek(handle.content, offset, whence)

    # -- copying

    def copy_range(
        self,
        source: Handle,
        offset: int,
        target: Handle,
        target_offset: int,
        length: int,
        interrupted: Interrupted = never,
    ) -> int:
        """Between two caches on the local disk; holes stay holes. How many bytes: fewer at the source's end, and of
        more than COPY_BYTES_MAX."""
        self._files.check_writable(target)
        self._files.in_kernel.find(source.content)
        length = min(length, COPY_BYTES_MAX, source.content.size - offset)
        if length <= 0:
            return 0
        if target_offset + length > FILE_BYTES_MAX:
            raise errors.FileTooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        if source.content.shared:
            return self._copy_shared(source, offset, target, target_offset, length, interrupted)
        with self._files.sharing.writing(target, interrupted):
            self._copy(source.content, offset, target, target_offset, length)
        return length

    def _copy(self, source: Content, offset: int, target: Handle, target_offset: int, length: int) -> None:
        # Taken before anything is written, as source and target may be one content.
        parts = list(holes.stretches(source, offset, offset + length))
        for first, last, is_content in parts:
            start = first - offset + target_offset
            if is_content:
                self._copy_content(source, first, target, start, last - first)
            else:
                self._copy_hole(target, start, start + last - first)

    def _copy_shared(
        self, source: Handle, offset: int, target: Handle, target_offset: int, length: int, interrupted: Interrupted
    ) -> int:
        """A part, through memory: of a file on which programs use locks, which may become another version meanwhile."""
        data = self._files.read(source, min(length, _PART_BYTES), offset)
        return self._files.write(target, data, target_offset, interrupted=interrupted) if data else 0

    def _copy_content(self, source: Content, offset: int, target: Handle, start: int, length: int) -> None:
        content, end = target.content, start + length

        def copy() -> bool:
            with content.mutex:
                # A disk that is full says so before anything is overwritten.
                sparse_files.reserve_if_possible(content.fd, start, length)
                sparse_files.copy(source.fd, offset, content.fd, start, length)
                content.touch(time.time_ns(), target.privileged)
                return content.account(start, end)

        with _pinned(source):
            self._files.bring(source, lambda c: c.missing(offset, offset + length))
            self._files.bring(content, lambda c: c.unready(start, end))
            self._change(content, copy)

    def _copy_hole(self, target: Handle, start: int, end: int) -> None:
        content = target.content
        if start < content.size:
            self._punch(target, start, end)
        if end > content.size:
            self._files.resize_within(target, end)


@contextlib.contextmanager
def _pinned(content: Content) -> Iterator[None]:
    """What is here of it stays, however full the disk is."""
    with content.mutex:
        content.pins += 1
    try:
        yield
    finally:
        with content.mutex:
            content.pins -= 1


def _if_possible(change: Callable[[], bool]) -> bool:
    try:
        return change()
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise errors.NotSupported("the local cache's disk cannot reserve room") from None
