"""Reading and writing the cache's files: large stretches past the kernel's pages.

The kernel has the bytes of an open file in pages of the mount already; in those of the cache's file it would have them
twice. What is small is quicker through pages all the same, and is often written again.

Threads: any.
"""

import os
from collections.abc import Iterator

from dfsfuse import direct_io

Data = bytes | bytearray | memoryview

LARGE_BYTES = 512 << 10
"""From here on going past the pages costs less processor time even where pages are cheap (docs/PERFORMANCE.md)."""


def written(fd: int, data: Data, offset: int, past_pages: bool = True) -> Iterator[int]:
    """Write it all, past the pages where it is much and they are not wanted; how many bytes each call of the system has
    taken. Raises OSError, after what it has taken."""
    done = direct_io.pwrite(fd, data, offset) if past_pages and len(data) >= LARGE_BYTES else 0
    yield done
    while done < len(data):
        count = os.pwrite(fd, memoryview(data)[done:], offset + done)
        done += count
        yield count


def write_all(fd: int, data: Data, offset: int) -> None:
    for _ in written(fd, data, offset):
        pass


def read_into(fd: int, buffer: memoryview, offset: int, past_pages: bool) -> int:
    """As much as fits and the file has; how many bytes. `past_pages`: it was written as a large stretch."""
    done = direct_io.pread_into(fd, buffer, offset) if past_pages and len(buffer) >= LARGE_BYTES else 0
    while done < len(buffer) and (count := os.preadv(fd, [buffer[done:]], offset + done)):
        done += count
    return done
