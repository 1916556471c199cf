"""Which chunks are certainly not here, told without asking a disk: a Bloom filter (Bloom, 1970) over chunks' names.

Names are hashes, so their own bytes choose the bits. With 2^24 bits and four of them for each name, one in 400 of a
million names that are not there looks as if it were; then the index is asked.

Threads: its owner's lock. Bits are set and never cleared.
"""

from struct import Struct

_BITS = 1 << 24
_four = Struct("<IIII").unpack_from


class NameFilter:
    """2 MiB of memory, however many names."""

    def __init__(self) -> None:
        self._bits = bytearray(_BITS // 8)

    def add(self, name: bytes) -> None:
        bits = self._bits
        for number in _four(name):
            bits[(number % _BITS) >> 3] |= 1 << (number & 7)

    def may_have(self, name: bytes) -> bool:
        """False: it was never added."""
        bits = self._bits
        return all(bits[(number % _BITS) >> 3] >> (number & 7) & 1 for number in _four(name))
