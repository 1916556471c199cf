"""Sessions that live while they renew, and whether all of those from before a start have come back. Pure.

Leases are equally long, so the first session of the row is the next to lapse.

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

from dfsfuse import errors
from servers.claims import LOCK_LEASE_S, Phase, remember


class Leased(Protocol):
    """A session. `returned`: it has said what it holds since this service started."""

    number: int
    lapses_at: float
    returned: bool


S = TypeVar("S", bound=Leased)


class Leases(Generic[S]):
    """`make` makes a session of a number that is not known: a new one, or one that has lapsed and holds nothing."""

    def __init__(self, make: Callable[[int], S], lease_s: float = LOCK_LEASE_S):
        self.lease_s, self._make = lease_s, make
        self.phase = Phase.STARTING
        self._resumes_at = math.inf
        self._returning: set[int] = set()
        self._sessions: OrderedDict[int, S] = OrderedDict()
        self._ended: OrderedDict[int, None] = OrderedDict()

    def begin(self, sessions: Iterable[int], now: float) -> None:
        """Wait for these, a lease at most."""
        self.phase, self._resumes_at = Phase.RETURNING, now + self.lease_s
        back = {number for number, session in self._sessions.items() if session.returned}
        self._returning = set(sessions) - back - self._ended.keys()

    def check_granting(self) -> None:
        if self.phase is not Phase.GRANTING:
            raise errors.Starting("the lock service has just started and waits for its sessions")

    def get(self, number: int) -> S | None:
        """Raises SessionEnded."""
        if number in self._ended:
            raise errors.SessionEnded(f"session {number} has ended")
        return self._sessions.get(number)

    def renewed(self, number: int, now: float) -> S:
        """The session with a new lease."""
        session = self.get(number)
        if session is None:
            session = self._sessions[number] = self._make(number)
        session.lapses_at = now + self.lease_s
        self._sessions.move_to_end(number)
        return session

    def returned(self, session: S) -> None:
        session.returned = True
        self._returning.discard(session.number)

    def end(self, number: int) -> S | None:
        """Every later request of it is refused."""
        remember(self._ended, number, None)
        self._returning.discard(number)
        return self._sessions.pop(number, None)

    # -- time

    def next_deadline(self) -> float:
        first = next(iter(self._sessions.values()), None)
        return min(self._resumes_at, first.lapses_at if first is not None else math.inf)

    def take_lapsed(self, now: float) -> list[S]:
        lapsed = list(takewhile(lambda session: session.lapses_at <= now, self._sessions.values()))
        for session in lapsed:
            del self._sessions[session.number]
        return lapsed

    def resumes(self, now: float) -> bool:
        """Whether granting begins at this moment."""
        if self.phase is not Phase.RETURNING or (self._returning and now < self._resumes_at):
            return False
        self.phase, self._resumes_at = Phase.GRANTING, math.inf
        self._returning.clear()
        return True
