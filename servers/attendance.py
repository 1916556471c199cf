"""Which sessions are there: who was heard of lately, whose leases are over, and who is gone for good. Pure.

    live      renewed within PROMISE_LEASE_S
    silent    not; its write locks are gone after LOCK_LEASE_S, which is noted in its record, so that nobody waits for
              it after a restart
    ended     silent for PROMISE_LEASE_S + OPEN_ROWS_S: it and its open rows go

When a session was heard of is not stored: after a start each stored one has its time anew.
"""

from dfsfuse import errors
from dfsfuse.messages import AllocateInodes, Begin, End, InodeRange, Renew, SessionRow
from servers import sessions
from servers.store import Store

PROMISE_LEASE_S = 4.0
LOCK_LEASE_S = 8.0
OPEN_ROWS_S = 600.0


class Attendance:
    """The sessions in one store. `now_s` is a monotonic time."""

    def __init__(self, store: Store, now_s: float):
        self._store = store
        self._lapsed = store.read(sessions.lapsed_sessions)
        self._seen_s = {row.session: now_s for row in store.read(sessions.all_sessions)}
        self._seen_s.update(dict.fromkeys(self._lapsed, now_s - LOCK_LEASE_S - 1))
        self._unsent = dict.fromkeys(self._seen_s, 0)

    def begin(self, request: Begin, now_s: float) -> int:
        session = self._store.transact(lambda tx: sessions.begin(tx, request))
        self._seen_s[session] = now_s
        return session

    def heard(self, request: Renew, now_s: float) -> bool:
        """Had its lease ended meanwhile?"""
        self.check(request.session)
        revived = now_s - self._seen_s[request.session] > PROMISE_LEASE_S
        self._seen_s[request.session] = now_s
        self._unsent[request.session] = request.unsent_files
        return revived

    def note(self, request: Renew) -> bool:
        """What of a renewal is stored; False if the store could not be written."""
        try:
            if request.closed:
                self._store.transact(lambda tx: sessions.close_rows(tx, request.session, request.closed))
            if request.session in self._lapsed:
                self._set_lapsed(request.session, False)
        except errors.ServerError:
            return False
        return True

    def end(self, request: End) -> None:
        self._store.transact(lambda tx: sessions.end(tx, request.session))
        self._seen_s.pop(request.session, None)
        self._unsent.pop(request.session, None)
        self._lapsed.discard(request.session)

    def allocate(self, request: AllocateInodes) -> InodeRange:
        return self._store.transact(lambda tx: sessions.allocate(tx, request))

    def end_lapsed(self, now_s: float) -> None:
        """End the sessions that have been silent for longer than their open rows last; note whose locks are gone."""
        for session, seen_s in list(self._seen_s.items()):
            if now_s - seen_s > PROMISE_LEASE_S + OPEN_ROWS_S:
                self.end(End(session))
            elif now_s - seen_s > LOCK_LEASE_S and session not in self._lapsed:
                self._set_lapsed(session, True)

    def _set_lapsed(self, session: int, lapsed: bool) -> None:
        self._store.transact(lambda tx: sessions.set_lapsed(tx, session, lapsed))
        (self._lapsed.add if lapsed else self._lapsed.discard)(session)

    def check(self, session: int) -> None:
        """Raises SessionEnded."""
        if session not in self._seen_s:
            raise errors.SessionEnded(f"session {session} has ended; begin a new one")

    def with_locks(self, now_s: float) -> list[int]:
        """Those that may still hold write locks."""
        return self._seen_within(LOCK_LEASE_S, now_s)

    def _seen_within(self, seconds: float, now_s: float) -> list[int]:
        return [session for session, seen_s in self._seen_s.items() if now_s - seen_s <= seconds]

    def rows(self, now_s: float) -> list[SessionRow]:
        """All sessions, for people."""
        live = set(self._seen_within(PROMISE_LEASE_S, now_s))
        rows: list[SessionRow] = self._store.read(sessions.all_sessions)
        for row in rows:
            row.live = row.session in live
            row.unsent_files = self._unsent.get(row.session, 0)
        return rows
