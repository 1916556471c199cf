"""Files of the local disk that have holes: making and finding them, and room that is reserved.

Where the local disk cannot punch holes, zeros are written; where it cannot reserve room, that is said.
"""

import contextlib
import ctypes
import errno
import functools
import os
from collections.abc import Iterator

from dfsfuse.disk_io import write_all

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 0x01, 0x02, 0x10
_CANNOT = errno.EOPNOTSUPP, errno.ENOSYS
_ZEROS = memoryview(bytes(1 << 20))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc().fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Zeros that take no room; the size stays."""
    try:
        _fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        _write_zeros(fd, offset, offset + length)


def _write_zeros(fd: int, start: int, end: int) -> None:
    """Where there is content."""
    for first, last, is_content in stretches(fd, start, end):
        for at in range(first, last, len(_ZEROS)) if is_content else ():
            write_all(fd, _ZEROS[: last - at], at)


def reserve(fd: int, offset: int, length: int, keep_size: bool) -> None:
    """Room on the disk for this range; what is in it stays. EOPNOTSUPP where the disk cannot."""
    _fallocate(fd, FALLOC_FL_KEEP_SIZE if keep_size else 0, offset, length)


def reserve_if_possible(fd: int, offset: int, length: int) -> None:
    """As `reserve`, keeping the size, where the disk can."""
    try:
        reserve(fd, offset, length, keep_size=True)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def holds_data(fd: int, offset: int, length: int) -> bool:
    """False where the range is one hole, or room that was reserved and not written."""
    with contextlib.suppress(OSError):
        return os.lseek(fd, offset, os.SEEK_DATA) < offset + length
    return False


def copy(source: int, offset: int, target: int, target_offset: int, length: int) -> None:
    """Within the disk where it can, else through memory."""
    while length:
        try:
            done = os.copy_file_range(source, target, length, offset, target_offset)
        except OSError as error:
            if error.errno not in (*_CANNOT, errno.EXDEV, errno.EINVAL):
                raise
            done = os.pwrite(target, os.pread(source, min(length, 1 << 20), offset), target_offset)
        if not done:
            raise OSError(errno.EIO, "the file ends before the range that is copied")
        offset, target_offset, length = offset + done, target_offset + done, length - done


def copy_file(source: str, target: str) -> None:
    """A new file, with the same holes. Raises OSError."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        os.ftruncate(new.fileno(), size)
        for first, last, is_content in stretches(old.fileno(), 0, size):
            if is_content:
                copy(old.fileno(), first, new.fileno(), first, last - first)


def stretches(fd: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """The range cut at the borders of the file's holes: (start, end, is content)."""
    while start < end:
        begins = _seek(fd, start, os.SEEK_DATA, end)
        stops = _seek(fd, start, os.SEEK_HOLE, end) if begins == start else begins
        yield start, min(stops, end), begins == start
        start = stops


def _seek(fd: int, offset: int, whence: int, end: int) -> int:
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end
