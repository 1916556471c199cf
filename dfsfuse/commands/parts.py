"""Contents in parts: of a stream, of a file of this machine, and of one in the volume. What is a hole is in no part.

A part is where its bytes begin, and the bytes, which are in the same memory as those of the part before. Where a
content ends with a hole, its last part is empty and begins at the end.
"""

import errno
import os
from collections.abc import Callable, Iterator

from dfsfuse.filesystem import FileSystem
from dfsfuse.openfiles import Handle

PIECE_BYTES = 4 << 20
"""What a part has at most."""

Part = tuple[int, memoryview]


def of_stream(read_into: Callable[[memoryview], int | None]) -> Iterator[Part]:
    """All that `read_into` gives until it gives nothing."""
    buffer, offset = _buffer(), 0
    while count := read_into(buffer):
        yield offset, buffer[:count]
        offset += count


def of_local_file(descriptor: int) -> Iterator[Part]:
    """Of a file that can be read at any offset; to its end, however long it says that it is."""
    return _parts(
        lambda offset, whence: os.lseek(descriptor, offset, whence),
        lambda: os.fstat(descriptor).st_size,
        lambda buffer, offset: os.preadv(descriptor, [buffer], offset),
    )


def of_handle(files: FileSystem, handle: Handle) -> Iterator[Part]:
    """Of a file on which programs use locks the holes too: it may become another version meanwhile."""

    def seek(offset: int, whence: int) -> int:
        if handle.content.shared:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return files.lseek(handle, offset, whence)

    return _parts(
        seek,
        lambda: handle.content.size,
        lambda buffer, offset: files.files.read_into(handle, buffer, offset),
    )


def pieces(files: FileSystem, handle: Handle) -> Iterator[memoryview]:
    """The content from its beginning to its end, holes as zeros."""
    return (data for _, data in of_stream(_reader(files, handle)))


def _reader(files: FileSystem, handle: Handle) -> Callable[[memoryview], int]:
    offset = 0

    def read_into(buffer: memoryview) -> int:
        nonlocal offset
        count = files.files.read_into(handle, buffer, offset)
        offset += count
        return count

    return read_into


def _buffer() -> memoryview:
    return memoryview(bytearray(PIECE_BYTES))


Seek = Callable[[int, int], int]


def _parts(seek: Seek, size: Callable[[], int], read_into: Callable[[memoryview, int], int]) -> Iterator[Part]:
    """`seek` and its errors are lseek(2)'s."""
    buffer, end = _buffer(), 0
    while True:
        start, length = _stretch(seek, size, end)
        count = read_into(buffer[:length], start)
        if not count:
            break
        yield start, buffer[:count]
        end = start + count
    if start > end:
        yield start, buffer[:0]


def _stretch(seek: Seek, size: Callable[[], int], offset: int) -> tuple[int, int]:
    """Where the next content begins, and how much of it to read at once; at the end of all, nothing will be there."""
    try:
        start = seek(offset, os.SEEK_DATA)
        return start, min(seek(start, os.SEEK_HOLE) - start, PIECE_BYTES)
    except OSError as error:
        # Files of /proc know of no holes, and some say that they are empty while they are not.
        return (max(offset, size()) if error.errno == errno.ENXIO else offset), PIECE_BYTES
