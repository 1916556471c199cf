"""Locks that are asked back: a client keeps a lock that no program uses any more until another one wants it. Pure.

Only the client knows whether one of its programs uses a lock at the moment, as that costs no request. So a session that
watches is asked for a lock that another session wants, once, and answers by giving it back, or that it is used. Then
it is given back as soon as it is not used any more, and who does not wait need not wait for an answer either.

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from dfsfuse.messages import LIST_PAGE_MAX, HeldLock
from servers.claims import Claim, remember

ANSWER_S = 1.0
"""How long who does not wait for a lock waits for its holder to answer."""


class Recalls:
    """`_asked`: by session, the locks that it holds, is asked for, and has not answered."""

    def __init__(self) -> None:
        self._watching: OrderedDict[int, None] = OrderedDict()
        self._asked: dict[int, dict[Claim, None]] = {}
        self._news: dict[int, None] = {}

    def watches(self, session: int) -> None:
        """The session hears what it is asked for."""
        if session not in self._watching:
            remember(self._watching, session, None)

    def may_be_kept(self, holder: Claim, session: int) -> bool:
        """Whether the holder of a lock may give it back at once to that other session."""
        return holder.session.number in self._watching and holder.session.number != session and not holder.used

    def ask(self, holder: Claim) -> None:
        """Another session wants the lock."""
        if holder.session.number in self._watching and not holder.used:
            self._asked.setdefault(holder.session.number, {})[holder] = None
            self._news[holder.session.number] = None

    def answered_used(self, session: int, locks: Iterable[HeldLock]) -> list[Claim]:
        """Those of the locks that the session was asked for."""
        pairs = {(lock.ino, lock.token) for lock in locks}
        found = [claim for claim in self._asked.get(session, ()) if (claim.ino, claim.token) in pairs]
        for claim in found:
            claim.used = True
            self.over(claim)
        return found

    def over(self, holder: Claim) -> None:
        """It is answered, or not held any more."""
        asked = self._asked.get(holder.session.number)
        if asked is not None:
            asked.pop(holder, None)
            if not asked:
                del self._asked[holder.session.number]

    def end(self, session: int) -> None:
        self._watching.pop(session, None)
        self._news[session] = None

    def of(self, session: int) -> list[HeldLock]:
        """What the session has not answered yet, or some of it."""
        asked = islice(self._asked.get(session, ()), LIST_PAGE_MAX)
        return [HeldLock(claim.ino, claim.token) for claim in asked]

    def take_news(self) -> list[int]:
        """Sessions that are to be told something, or have ended."""
        news, self._news = list(self._news), {}
        return news
