"""How much of the local disk each content of the cache takes, and all of them.

Threads: the cache's, which calls this under its mutex.
"""

_FILE_BYTES_MIN = 4096
"""What a file without a block counts as: it has a row and an inode of the local disk."""


class Sizes:
    """By the contents' numbers in the index."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self.used_bytes = 0

    def note(self, number: int, size_bytes: int) -> None:
        # Of equal numbers the constant: a hundred thousand small files need one object.
        size_bytes = max(_FILE_BYTES_MIN, size_bytes)
        self.used_bytes += size_bytes - self._sizes.get(number, 0)
        self._sizes[number] = size_bytes

    def grow(self, number: int, more_bytes: int) -> None:
        self.note(number, self._sizes.get(number, 0) + more_bytes)

    def forget(self, number: int) -> None:
        self.used_bytes -= self._sizes.pop(number, 0)
