"""Receipts: the numbers by which a file server gives its word that it has a chunk, and for which chunk it gave which.

A number's high part is the number of the start, which rises on disk before it is used; the low part counts. So numbers
rise for ever, and those below `first` were given by an earlier start.

A chunk may be deleted as long as nobody relies on it: as long as its newest receipt is below a number from which on
the directory accepts receipts. To keep the two apart, who is about to give a receipt says so first (`begin`, `end`),
and waits while the chunk is being deleted; whoever deletes leaves alone what is in hand.

The newest receipt is remembered for NEWEST_MAX chunks. When these are too many, all are forgotten: from then on a chunk
that is not remembered counts as having the latest number of that moment, which is too high, and so always safe.

Threads: all methods may be called from any thread; `_changed` guards everything, and is held for memory work alone.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator

COUNTER_BITS = 40
NEWEST_MAX = 1 << 16


class Receipts:
    """Those of the start of this number."""

    def __init__(self, start: int):
        self._changed = threading.Condition(threading.Lock())
        self._newest: dict[bytes, int] = {}
        self._in_hand: dict[bytes, int] = {}
        self._deleting: set[bytes] = set()
        self.first = self.next = (start << COUNTER_BITS) + 1
        self._forgotten = self.next - 1
        self.synced = 0

    def go_on_from(self, number: int) -> None:
        """Numbers are this one and those above from now on. `first`, which names the start, stays."""
        with self._changed:
            self._newest.clear()
            self.next = max(self.next, number)
            self._forgotten = self.next - 1

    def begin(self, name: bytes) -> None:
        """A receipt for this chunk is going to be given, perhaps: until `end` it is not deleted."""
        with self._changed:
            while name in self._deleting:
                self._changed.wait()
            self._in_hand[name] = self._in_hand.get(name, 0) + 1

    def end(self, name: bytes) -> None:
        with self._changed:
            self._in_hand[name] -= 1
            if not self._in_hand[name]:
                del self._in_hand[name]

    def give(self, name: bytes) -> int:
        """The number of a new receipt; the chunk is in hand."""
        with self._changed:
            number, self.next = self.next, self.next + 1
            if len(self._newest) >= NEWEST_MAX:
                self._newest.clear()
                self._forgotten = number - 1
            self._newest[name] = number
        return number

    def newest(self, name: bytes) -> int:
        """No receipt for this chunk has a number above this one."""
        with self._changed:
            return self._newest.get(name, self._forgotten)

    def is_known_from(self, name: bytes, number: int) -> bool:
        """Is a receipt for this chunk remembered that has this number or a later one?"""
        with self._changed:
            return self._newest.get(name, 0) >= number

    @contextlib.contextmanager
    def deleting(self, names: Iterable[bytes], below: int) -> Iterator[list[bytes]]:
        """Those of the chunks that may be deleted within the block: no receipt from `below` on was given for them, and
        none is given meanwhile."""
        with self._changed:
            free = [name for name in dict.fromkeys(names) if self._is_free(name, below)]
            self._deleting.update(free)
        try:
            yield free
        finally:
            with self._changed:
                self._deleting.difference_update(free)
                self._changed.notify_all()

    def _is_free(self, name: bytes, below: int) -> bool:
        in_use = name in self._in_hand or name in self._deleting
        return not in_use and self._newest.get(name, self._forgotten) < below
