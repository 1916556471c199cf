"""Which sessions are there: who was heard of lately, whose leases are over, and who is gone for good. Pure.

    live      renewed within PROMISE_LEASE_S
    silent    not; its locks are gone after LOCKS_S, which is noted in its record, so that nobody waits for it after a
              restart
    gone      silent for PROMISE_LEASE_S + OPEN_ROWS_S, or ended by a client that could not send everything: it is
              refused as one that has ended, and its open rows go, but for those for writing. Its client's cache may
              have content that is based on these versions: without them a copy of it could not be made
    ended     taken over by the next session of the same cache, or gone for KEPT_S: nothing is left of it

When a session was heard of is not stored: after a start each stored one has its time anew. For how long one is gone is
counted while the directory runs, each COUNT_EVERY_S, as clocks are set and machines sleep.
"""

from dfsfuse import errors
from dfsfuse.messages import (
    AllocateInodes,
    Begin,
    Change,
    Doubt,
    End,
    InodeRange,
    Renew,
    SessionRow,
    TakenOver,
    TakeOver,
    Watch,
)
from servers import sessions
from servers.store import Store

PROMISE_LEASE_S = 4.0
LOCKS_S = 60.0
"""The locks of a session that was silent for so long are gone: its client keeps and takes none without having been
answered here within HEARD_S (dfsfuse/lock_lease.py), which with a lease of locks is less."""
OPEN_ROWS_S = 600.0
KEPT_S = 7 * 24 * 3600.0
COUNT_EVERY_S = 60.0


class Attendance:
    """The sessions in one store. `now_s` is a monotonic time."""

    def __init__(self, store: Store, now_s: float):
        self._store = store
        known = store.read(sessions.all_records)
        self._gone = {session: record.gone_s for session, record in known.items() if record.gone}
        self._lapsed = {session for session, record in known.items() if record.lapsed and not record.gone}
        self._seen_s = dict.fromkeys(known.keys() - self._gone.keys(), now_s)
        self._seen_s.update(dict.fromkeys(self._lapsed, now_s - LOCKS_S - 1))
        self._unsent = dict.fromkeys(self._seen_s, 0)
        self._counted_s = now_s
        self._given_up: set[Doubt] = set()

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

    def watched(self, request: Watch, now_s: float) -> None:
        """As `heard`. What the client has given up waiting for is not done any more: what may still arrive comes over a
        connection of this start."""
        self.check(request.session)
        if request.session in self._lapsed:
            self._set_lapsed(request.session, False)
        self._seen_s[request.session] = now_s
        self._given_up.update(doubt for doubt in request.doubts if doubt.session == request.session)

    def check_wanted(self, request: Change) -> None:
        """OutOfSequence for what its client has given up waiting for."""
        if self._given_up and Doubt(request.session, request.slot, request.sequence) in self._given_up:
            raise errors.OutOfSequence("its client has given up waiting for this change, and it was not made")

    def end(self, request: End) -> None:
        session = request.session
        if request.keeps:
            self._leave(session)
        else:
            self._store.transact(lambda tx: sessions.end(tx, session))
            self._forget(session)

    def take_over(self, request: TakeOver) -> TakenOver:
        self.check(request.session)
        if request.session in request.formers:
            raise errors.BadRequest("a session cannot take over from itself")
        taken = self._store.transact(lambda tx: sessions.take_over(tx, request))
        for former in request.formers:
            self._forget(former)
        return taken

    def _leave(self, session: int) -> None:
        record = self._store.transact(lambda tx: sessions.leave(tx, session))
        self._forget(session)
        if record is not None:
            self._gone[session] = record.gone_s

    def _forget(self, session: int) -> None:
        self._gone.pop(session, None)
        self._seen_s.pop(session, None)
        self._unsent.pop(session, None)
        self._lapsed.discard(session)
        self._given_up = {doubt for doubt in self._given_up if doubt.session != session}

    def allocate(self, request: AllocateInodes) -> InodeRange:
        return self._store.transact(lambda tx: sessions.allocate(tx, request))

    def end_lapsed(self, now_s: float) -> list[int]:
        """What becomes of sessions by time alone; done now and then. Those that have just ended are returned."""
        ended = []
        for session, seen_s in list(self._seen_s.items()):
            if now_s - seen_s > PROMISE_LEASE_S + OPEN_ROWS_S:
                self._leave(session)
                ended.append(session)
            elif now_s - seen_s > LOCKS_S and session not in self._lapsed:
                self._set_lapsed(session, True)
        if now_s - self._counted_s >= COUNT_EVERY_S:
            self._count_gone(min(now_s - self._counted_s, 2 * COUNT_EVERY_S))
            self._counted_s = now_s
        return ended

    def _count_gone(self, seconds: float) -> None:
        if not self._gone:
            return
        found = self._store.transact(lambda tx: sessions.count_gone(tx, self._gone, seconds))
        self._gone = {session: record.gone_s for session, record in found.items()}
        for session, gone_s in list(self._gone.items()):
            if gone_s >= KEPT_S:
                self.end(End(session))

    def _set_lapsed(self, session: int, lapsed: bool) -> None:
        self._store.transact(lambda tx: sessions.set_lapsed(tx, session, lapsed))
        (self._lapsed.add if lapsed else self._lapsed.discard)(session)

    def check(self, session: int) -> None:
        """Raises SessionEnded."""
        if session not in self._seen_s:
            raise errors.SessionEnded(f"session {session} has ended; begin a new one")

    def with_locks(self, now_s: float) -> list[int]:
        """Those that may still hold locks. A client that cannot reach the directory may go on renewing them."""
        return self._seen_within(LOCKS_S, now_s)

    def _seen_within(self, seconds: float, now_s: float) -> list[int]:
        return [session for session, seen_s in self._seen_s.items() if now_s - seen_s <= seconds]

    def rows(self, now_s: float) -> list[SessionRow]:
        """All sessions, for people."""
        live = set(self._seen_within(PROMISE_LEASE_S, now_s))
        return [
            SessionRow(
                session=session,
                host=record.host,
                pid=record.pid,
                mountpoint=record.mountpoint,
                user=record.user,
                live=session in live,
                unsent_files=self._unsent.get(session, 0),
                gone=record.gone,
                kept_files=record.kept_files,
                kept_s=max(0.0, KEPT_S - self._gone[session]) if session in self._gone else 0.0,
            )
            for session, record in self._store.read(sessions.all_records).items()
        ]
