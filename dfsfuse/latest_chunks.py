"""The chunks that came down last, in memory: whoever reads on is given what has just been fetched from there, and not
from the cache's disk, to which it went past the kernel's pages.

Threads: any. `_mutex` guards the table; it is held while a part of a chunk is copied, and never while one comes.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from dfsfuse.buffers import Buffers

KEPT_MAX = 4
"""Of 4 MiB each, at most: the one that is being read, and those that come meanwhile. Those that came first go first,
read or not: by the order of reading it would be those that are read next."""


class _Kept:
    """`users`: for how many the buffer must stay as it is."""

    __slots__ = ("buffer", "data", "users")

    def __init__(self, buffer: memoryview, length: int):
        self.buffer, self.data, self.users = buffer, buffer[:length], 1


class LatestChunks:
    """`bring` fetches a chunk into a buffer, verified, and returns its length."""

    def __init__(self, bring: Callable[[bytes, memoryview], int], buffers: Buffers):
        self._bring, self._buffers = bring, buffers
        self._mutex = threading.Lock()
        self._kept: dict[bytes, _Kept] = {}

    @contextlib.contextmanager
    def lend(self, name: bytes) -> Iterator[memoryview]:
        """One whole chunk, for the block; fetched if it is not here. Raises what `bring` raises."""
        kept = self._find(name) or self._fetch(name)
        try:
            yield kept.data
        finally:
            with self._mutex:
                kept.users -= 1
                if not kept.users and self._kept.get(name) is not kept:
                    self._buffers.give(kept.buffer)
                self._shrink()

    def copy(self, name: bytes, start: int, part: memoryview) -> bool:
        """Fill `part` from there on; False where the chunk is not here."""
        with self._mutex:
            kept = self._kept.get(name)
            if kept is None:
                return False
            part[:] = kept.data[start : start + len(part)]
            return True

    def _find(self, name: bytes) -> _Kept | None:
        with self._mutex:
            kept = self._kept.get(name)
            if kept is not None:
                kept.users += 1
            return kept

    def _fetch(self, name: bytes) -> _Kept:
        buffer = self._buffers.take()
        try:
            kept = _Kept(buffer, self._bring(name, buffer))
        except BaseException:
            self._buffers.give(buffer)
            raise
        with self._mutex:
            former = self._kept.pop(name, None)
            self._kept[name] = kept
            if former is not None and not former.users:
                self._buffers.give(former.buffer)
            self._shrink()
        return kept

    def _shrink(self) -> None:
        idle = [name for name, kept in self._kept.items() if not kept.users]
        for name in idle[: max(0, len(self._kept) - KEPT_MAX)]:
            self._buffers.give(self._kept.pop(name).buffer)
