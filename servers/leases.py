"""Sessions that live while they renew, and whether all of those from before a start have come back. Pure.

Leases are equally long, so the first session of the row is the next to lapse.

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

from dfsfuse import errors
from servers.claims import LOCK_LEASE_S, Phase, remember
from servers.returns import Returns


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
        self.returns = Returns()
        self._sessions: OrderedDict[int, S] = OrderedDict()
        self._ended: OrderedDict[int, None] = OrderedDict()

    def begin(self, sessions: Iterable[int], now: float) -> None:
        """Wait for these, a lease at most."""
        self.phase = Phase.RETURNING
        back = {number for number, session in self._sessions.items() if session.returned}
        self.returns.begin(set(sessions) - back - self._ended.keys(), now, self.lease_s)

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

    def returned(self, session: S, missing: set[int], now: float) -> None:
        """`missing`: its tickets that wait in a queue and are not there yet."""
        session.returned = True
        if self.phase is not Phase.GRANTING:
            self.returns.session_back(session.number, missing, now)

    def extend(self, until: float) -> None:
        """No session lapses before that."""
        for session in self._sessions.values():
            session.lapses_at = max(session.lapses_at, until)

    def end(self, number: int) -> S | None:
        """Every later request of it is refused."""
        remember(self._ended, number, None)
        self.returns.gone(number)
        return self._sessions.pop(number, None)

    # -- time

    def next_deadline(self) -> float:
        first = next(iter(self._sessions.values()), None)
        return min(self.returns.resumes_at, first.lapses_at if first is not None else self.returns.resumes_at)

    def take_lapsed(self, now: float) -> list[S]:
        lapsed = list(takewhile(lambda session: session.lapses_at <= now, self._sessions.values()))
        for session in lapsed:
            del self._sessions[session.number]
            self.returns.gone(session.number)
        return lapsed

    def resumes(self, now: float) -> bool:
        """Whether granting begins at this moment."""
        if self.phase is not Phase.RETURNING or not self.returns.are_complete(now):
            return False
        self.phase = Phase.GRANTING
        self.returns.end()
        return True
