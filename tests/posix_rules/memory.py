"""Mappings as a program in C has them. Python's mmap keeps a duplicate of the descriptor: it is never really closed."""

import ctypes
import mmap
import os

PAGE = mmap.PAGESIZE
READ, WRITE, EXECUTE = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
SHARED, PRIVATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE
MS_ASYNC, MS_SYNC = 1, 4
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


class Mapping:
    """`length` bytes of a file in memory, until the block ends."""

    def __init__(self, fd: int, length: int, protection: int = READ | WRITE, kind: int = SHARED, offset: int = 0):
        address = _libc.mmap(None, ctypes.c_size_t(length), protection, kind, fd, ctypes.c_int64(offset))
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._address, self._length = address, length

    def __enter__(self) -> "Mapping":
        return self

    def __exit__(self, *_: object) -> None:
        self.unmap()

    def unmap(self) -> None:
        """munmap; once."""
        if self._length:
            _libc.munmap(ctypes.c_void_p(self._address), ctypes.c_size_t(self._length))
            self._length = 0

    def read(self, offset: int, length: int) -> bytes:
        return ctypes.string_at(self._address + offset, length)

    def store(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self._address + offset, data, len(data))

    def sync(self, flags: int = MS_SYNC) -> None:
        """msync."""
        if _libc.msync(ctypes.c_void_p(self._address), ctypes.c_size_t(self._length), flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
