"""The C library's allocator, where it is glibc's: what was freed goes back to the system. Elsewhere nothing is done.

glibc takes blocks of 128 KiB and more from the system one by one, and gives them back when they are freed; but with
each it raises this limit to the block's size, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). The tables of Python's
dictionaries are such blocks, and are made anew as their entries change. So they soon lie in the arenas, what they leave
is filled up by small blocks that stay, and the next ones need more room.
"""

import ctypes

_LARGE_BYTES, _TOP_BYTES = 256 << 10, 1 << 20
"""From which size on a block is apart; how much is kept at an arena's end."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_libc = ctypes.CDLL(None)
_is_glibc = hasattr(_libc, "malloc_trim")


def keep_large_blocks_apart() -> None:
    """From now on, however many of them are freed."""
    if _is_glibc:
        _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        _libc.mallopt(_M_TRIM_THRESHOLD, _TOP_BYTES)


def give_back() -> None:
    """Whole pages of what is free within arenas, which takes about 1 ms; threads that need memory just then wait."""
    if _is_glibc:
        _libc.malloc_trim(0)
