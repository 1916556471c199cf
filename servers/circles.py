"""Who waits for whom among the owners of POSIX locks: a circle of them would wait for ever. Pure.

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

from collections.abc import Callable, Iterable

from servers.range_claims import Holding, OwnerId, Waiter


class Circles:
    """`in_the_way` tells what a waiter waits for."""

    def __init__(self, in_the_way: Callable[[Waiter], Iterable[Holding]]):
        self._in_the_way = in_the_way
        self._waits_of: dict[OwnerId, set[Waiter]] = {}

    def add(self, waiter: Waiter) -> None:
        if waiter.request.kind == "posix":
            self._waits_of.setdefault(waiter.owner, set()).add(waiter)

    def remove(self, waiter: Waiter) -> None:
        waits = self._waits_of.get(waiter.owner, set())
        waits.discard(waiter)
        if not waits:
            self._waits_of.pop(waiter.owner, None)

    def closed_by(self, waiter: Waiter) -> bool:
        """Whether an owner whom it waits for waits for its owner, directly or through others."""
        if waiter.request.kind != "posix":
            return False
        ahead, seen = [*self._in_the_way(waiter)], set[OwnerId]()
        while ahead:
            holding = ahead.pop()
            if holding.kind != "posix" or holding.owner in seen:
                continue
            if holding.owner == waiter.owner:
                return True
            seen.add(holding.owner)
            for other in self._waits_of.get(holding.owner, ()):
                ahead += self._in_the_way(other)
        return False

    def closed_by_grant(self, holding: Holding, queue: Iterable[Waiter]) -> Waiter | None:
        """One of a queue who waits for what was just granted, while its owner waits for him."""
        if holding.owner not in self._waits_of:
            return None
        return next((w for w in queue if holding in self._in_the_way(w) and self.closed_by(w)), None)
