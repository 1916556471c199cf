"""Whether this client may use what it was promised: the lease, and what stands against it. Pure.

The directory calls back about changes of others, not about this client's own. Where one of these was not answered it
may still be made, later, over a connection that both have forgotten; so until the directory has been told that it is
not wanted any more, nothing counts.

What memory had no room for is dropped, and the directory is told so. Until it has heard, it may promise the same anew,
and then take that for dropped: so that does not count either.

Threads: those of attributes.py, which calls this under its mutex.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

from dfsfuse.messages import Doubt

_DROPPED_MAX = 10_000


class PromiseLease:
    """`dropping`: inode numbers that the directory is being told of."""

    def __init__(self) -> None:
        self._until = 0.0
        self._ends = False
        self._doubts: list[Doubt] = []
        self.dropping: dict[int, None] = {}

    def counts(self, now: float) -> bool:
        return now < self._until

    def extend(self, until: float, settled: Sequence[Doubt], now: float) -> bool:
        """Had it ended before? Then what was promised before does not count any more."""
        self._doubts = [doubt for doubt in self._doubts if doubt not in settled]
        lapsed = now >= self._until
        self._until, self._ends = (0.0, False) if self._doubts else (until, True)
        return lapsed

    def end(self) -> None:
        self._until, self._ends = 0.0, False

    def left_s(self, now: float) -> float:
        """How long it lasts still; 0.0: it has ended."""
        return max(0.0, self._until - now)

    def has_ended(self, now: float) -> bool:
        """By itself, or in doubt, since this was asked last."""
        ended = self._ends and not self.counts(now)
        self._ends = self._ends and not ended
        return ended

    def in_doubt(self, doubt: Doubt) -> None:
        self._doubts.append(doubt)
        self._until = 0.0

    @property
    def doubts(self) -> list[Doubt]:
        return list(self._doubts)

    def drop(self, inos: Iterable[int]) -> None:
        self.dropping.update(dict.fromkeys(inos))

    def dropped(self) -> list[int]:
        """What to tell the directory, a part at a time."""
        return list(islice(self.dropping, _DROPPED_MAX))

    def drop_heard(self, inos: list[int]) -> None:
        for ino in inos:
            self.dropping.pop(ino, None)
