"""Until when those in a queue wait. Pure.

Whoever leaves a queue is not looked for here: that it does not wait any more is found when its time comes, or when so
many of these have come together that they are worth removing.

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

W = TypeVar("W")

_FEW = 1024


class Deadlines(Generic[W]):
    """`waits` says whether somebody waits still."""

    def __init__(self, waits: Callable[[W], bool]):
        self._waits = waits
        self._heap: list[tuple[float, int, W]] = []
        self._order = count()
        self._compact_at = _FEW

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, who: W) -> None:
        heapq.heappush(self._heap, (at, next(self._order), who))
        if len(self._heap) >= self._compact_at:
            self._heap = [entry for entry in self._heap if self._waits(entry[2])]
            heapq.heapify(self._heap)
            self._compact_at = 2 * len(self._heap) + _FEW

    def next(self) -> float:
        while self._heap and not self._waits(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[W]:
        """Those who have waited until now in vain, one after the other: what is done about one may change the rest."""
        while self.next() <= now:
            yield heapq.heappop(self._heap)[2]
