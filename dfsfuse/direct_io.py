"""Reading and writing past the kernel's pages (O_DIRECT), for bytes that are many and are not needed again soon.

Each 4 KiB that go through the kernel's pages take a page, and a fresh page can cost more than hashing, sending and
copying what is in it taken together (docs/PERFORMANCE.md). Only whole blocks go past them, between a place in the file
and memory that both begin at a block's border, and not on every file system; whoever asks does the rest the usual way.
The kernel keeps both ways in step: what is written by one is read by the other.

Threads: any. A file is opened once more for each call, as all who use a descriptor share its flags.
"""

import errno
import mmap
import os

BLOCK_BYTES = 4096
"""No disk that is sold has larger ones."""
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_CANNOT = errno.EINVAL, errno.ENOENT
"""The file system or the memory is not fit for it; there is no /proc."""

Data = bytes | bytearray | memoryview


def memory(length: int) -> memoryview:
    """Zeros that begin at a block's border. They take no room before they are used."""
    return memoryview(mmap.mmap(-1, length))


def pwrite(fd: int, data: Data, offset: int) -> int:
    """How many bytes were written, whole blocks; 0 where none can go past the pages. Raises OSError."""
    whole = _whole_blocks(len(data), offset)
    if not whole:
        return 0
    try:
        direct = _again(fd, os.O_WRONLY)
        try:
            return os.pwrite(direct, memoryview(data)[:whole], offset)
        finally:
            os.close(direct)
    except OSError as error:
        if error.errno in _CANNOT:
            return 0
        raise


def pread_into(fd: int, buffer: memoryview, offset: int) -> int:
    """How many bytes were read: all that the file has for the whole blocks of `buffer`, or fewer; 0 where none can go
    past the pages. Raises OSError."""
    whole = _whole_blocks(len(buffer), offset)
    if not whole:
        return 0
    try:
        direct = _again(fd, os.O_RDONLY)
        try:
            return os.preadv(direct, (buffer[:whole],), offset)
        finally:
            os.close(direct)
    except OSError as error:
        if error.errno in _CANNOT:
            return 0
        raise


def _whole_blocks(length: int, offset: int) -> int:
    return 0 if offset % BLOCK_BYTES else length // BLOCK_BYTES * BLOCK_BYTES


def _again(fd: int, access: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", access | _O_DIRECT | os.O_CLOEXEC)
