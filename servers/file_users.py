"""Which sessions have programs that may use locks on which files, whether they hold any at the moment or not. Pure.

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

from servers.range_claims import RangeSession


class FileUsers:
    """A use lasts until a renewal does not list it any more."""

    def __init__(self) -> None:
        self._sessions: dict[int, set[int]] = {}

    def add(self, session: RangeSession, ino: int, ticket: int = 0) -> None:
        session.using[ino] = max(ticket, session.using.get(ino, 0))
        self._sessions.setdefault(ino, set()).add(session.number)

    def elsewhere(self, session: RangeSession, ino: int) -> bool:
        """Whether other sessions use it too."""
        return bool(self._sessions.get(ino, set()) - {session.number})

    def list_all(self, session: RangeSession, inos: set[int]) -> None:
        """What a renewal says; it could not know of uses that came with later tickets."""
        for ino in [ino for ino, ticket in session.using.items() if ino not in inos and session.is_settled(ticket)]:
            self._remove(session, ino)
        for ino in inos - session.using.keys():
            self.add(session, ino)

    def remove_all(self, session: RangeSession) -> None:
        for ino in [*session.using]:
            self._remove(session, ino)

    def _remove(self, session: RangeSession, ino: int) -> None:
        del session.using[ino]
        self._sessions[ino].discard(session.number)
        if not self._sessions[ino]:
            del self._sessions[ino]
