"""Who waits for which lock: one queue of claims for each inode, in the order of their coming. Pure.

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator

from servers.claims import TICKET_RETURN_S, Claim, Session, State
from servers.deadlines import Deadlines
from servers.returns import take_place


class Queues:
    """`away`: claims whose connections have closed, the first to be dropped first. `waits`: until when claims wait."""

    def __init__(self) -> None:
        self._by_ino: dict[int, OrderedDict[Claim, None]] = {}
        # The times to return are equally long: the first is the next to end.
        self.away: OrderedDict[Claim, None] = OrderedDict()
        self.waits = Deadlines[Claim](lambda claim: claim.queued)

    def __contains__(self, ino: int) -> bool:
        return ino in self._by_ino

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._by_ino))

    def of(self, ino: int) -> list[Claim]:
        return list(self._by_ino.get(ino, ()))

    def by_ino(self) -> dict[int, OrderedDict[Claim, None]]:
        """To look at."""
        return self._by_ino

    def length(self, ino: int) -> int:
        return len(self._by_ino.get(ino, ()))

    def place(self, claim: Claim) -> None:
        take_place(self._by_ino.setdefault(claim.ino, OrderedDict()), claim)

    def leave(self, claim: Claim) -> None:
        queue = self._by_ino[claim.ino]
        del queue[claim]
        if not queue:
            del self._by_ino[claim.ino]

    def drop(self, claim: Claim) -> None:
        """It is over without a grant."""
        claim.move(State.OVER)
        self.leave(claim)
        self.away.pop(claim, None)
        del claim.session.claims[claim.ticket]

    def goes_away(self, claim: Claim, now: float) -> None:
        claim.move(State.AWAY)
        claim.returns_by = now + TICKET_RETURN_S
        self.away[claim] = None

    def comes_back(self, claim: Claim) -> None:
        claim.move(State.WAITING)
        del self.away[claim]

    def first_waiting(self, ino: int) -> Claim | None:
        return next((claim for claim in self._by_ino.get(ino, ()) if claim.state is State.WAITING), None)

    def first_of_others(self, ino: int, session: Session) -> Claim | None:
        """The first who waits for a lock that `session` holds."""
        others = (claim for claim in self._by_ino.get(ino, ()) if claim.session is not session)
        return next((claim for claim in others if claim.state is State.WAITING), None)

    def others_wait(self, ino: int, session: Session) -> bool:
        return any(claim.session is not session for claim in self.who_waits(ino))

    def has_others(self, ino: int, session: Session) -> bool:
        return any(claim.session is not session for claim in self._by_ino.get(ino, ()))

    def who_waits(self, ino: int) -> list[Claim]:
        """Not those who wait for an answer alone, which are `who_does_not_wait`."""
        return [claim for claim in self._by_ino.get(ino, ()) if claim.wait_s > 0]

    def who_does_not_wait(self, ino: int) -> list[Claim]:
        return [claim for claim in self._by_ino.get(ino, ()) if claim.wait_s == 0]

    # -- time

    def extend(self, until: float) -> None:
        for claim in self.away:
            claim.returns_by = max(claim.returns_by, until)

    def next_deadline(self) -> float:
        return min(next(iter(self.away)).returns_by if self.away else math.inf, self.waits.next())

    def drop_away(self, now: float) -> None:
        while self.away and (claim := next(iter(self.away))).returns_by <= now:
            self.drop(claim)
