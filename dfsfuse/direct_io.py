"""Reading and writing past the kernel's pages (O_DIRECT), for bytes that are many and are not needed again soon.

Each 4 KiB that go through the kernel's pages take a page, and a fresh page costs more than hashing, sending and copying
what is in it taken together (docs/PERFORMANCE.md). Only whole blocks can go past them, between a place in the file and
memory that both begin at a block's border, and not on every file system; whoever asks does the rest the usual way. The
kernel keeps both ways in step: what is written by one is read by the other.

Threads: a descriptor's flags change for all who use it, so each belongs to one thread meanwhile.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator

BLOCK_BYTES = 4096
"""No disk that is sold has larger ones."""
_O_DIRECT = getattr(os, "O_DIRECT", 0)

Data = bytes | bytearray | memoryview


def memory(length: int) -> memoryview:
    """Zeros that begin at a block's border. They take no room before they are used."""
    mapping = mmap.mmap(-1, length)
    with contextlib.suppress(AttributeError, OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapping)


def write_blocks(fd: int, data: Data) -> int:
    """The whole blocks of `data` to the beginning of a file; how many bytes were written. Fewer, and 0, where the rest
    must be written through the kernel's pages. Raises OSError, as os.pwrite does."""
    whole = len(data) // BLOCK_BYTES * BLOCK_BYTES
    try:
        with _past_pages(fd):
            return os.pwrite(fd, memoryview(data)[:whole], 0) if whole else 0
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0


def read_into(fd: int, buffer: memoryview) -> int:
    """As much of the beginning of a file as fits into `buffer`, whole blocks that begin at a block's border; how many
    bytes were read. Fewer than the file has, and 0, where the rest must be read through the kernel's pages. Raises
    OSError, as os.preadv does."""
    try:
        with _past_pages(fd):
            return os.preadv(fd, (buffer,), 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0


@contextlib.contextmanager
def _past_pages(fd: int) -> Iterator[None]:
    """Raises OSError, EINVAL: the file system has no other way than through pages."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | _O_DIRECT)
    try:
        yield
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
