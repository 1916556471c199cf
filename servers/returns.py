"""Who is to come back after a start of the lock service before it grants anything. Pure.

Sessions of before come back by a renewal, which says what they hold, and who of them waited in a queue. These come back
with their tickets, and tell for how long they have waited, so that they have their places again. Sessions have a lease
for that, and once all are back those who waited have TICKET_RETURN_S, as after any broken connection.

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

from servers.claims import TICKET_RETURN_S


class Returns:
    def __init__(self) -> None:
        self.resumes_at = math.inf
        self._sessions: set[int] = set()
        self._places: dict[int, set[int]] = {}

    def begin(self, sessions: set[int], now: float, lease_s: float) -> None:
        """Wait for these sessions. The places of who came back before stay known."""
        self._sessions, self.resumes_at = sessions, now + lease_s
        self._set_limit(now)

    def session_back(self, session: int, missing: set[int], now: float) -> None:
        """It has renewed; `missing` are its tickets that wait in a queue and are not there yet."""
        self._sessions.discard(session)
        self._places[session] = missing
        self._set_limit(now)

    def _set_limit(self, now: float) -> None:
        if not self._sessions and self.resumes_at < math.inf:
            self.resumes_at = min(self.resumes_at, now + TICKET_RETURN_S)

    def place_back(self, session: int, ticket: int, now: float) -> None:
        """Where it was the last one, granting is due."""
        missing = self._places.get(session, set())
        if ticket in missing:
            missing.remove(ticket)
            if self.resumes_at < math.inf and self.are_complete(now):
                self.resumes_at = min(self.resumes_at, now)

    def gone(self, session: int) -> None:
        """Nobody waits for it any longer."""
        self._sessions.discard(session)
        self._places.pop(session, None)

    def are_complete(self, now: float) -> bool:
        """Or it is too late for those who are not back."""
        return now >= self.resumes_at or not (self._sessions or any(self._places.values()))

    def end(self) -> None:
        self.resumes_at = math.inf
        self._sessions.clear()
        self._places.clear()


class Waits(Protocol):
    """Somebody in a queue, who has waited since then."""

    since: float


W = TypeVar("W", bound=Waits)


def take_place(queue: dict[W, None], newcomer: W) -> None:
    """Behind those who have waited for longer: a queue has its order of before a restart again, whoever is back first.
    Who comes for the first time is the last."""
    last = next(reversed(queue), None)
    later: Iterable[W] = ()
    if last is not None and last.since > newcomer.since:
        later = [other for other in queue if other.since > newcomer.since]
    queue[newcomer] = None
    for other in later:
        del queue[other]
        queue[other] = None
