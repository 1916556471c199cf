"""Locks of inode numbers that only this session knows, taken beforehand for files that will be made: RESERVE at a time,
so creating a file seldom costs a request for its lock.

Threads: the list is that of locks.py, which reads and changes it under its condition; `ask` is called without.
"""

from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.kept_locks import Lock
from dfsfuse.lock_lease import LockLease
from dfsfuse.messages import Reserve, Reserved
from dfsfuse.patience import Patience
from dfsfuse.session import Session, boottime_s
from dfsfuse.waiting import Interrupted

RESERVE = 32


class Reservations:
    """`locks`: those that are there."""

    def __init__(self, session: Session, lease: LockLease, patience: Patience, wait_s: float):
        self._session, self._lease, self._patience, self._wait_s = session, lease, patience, wait_s
        self.locks: list[Lock] = []

    def take(self, path: bytes, pid: int) -> Lock | None:
        while self.locks:
            lock = self.locks.pop()
            if lock.valid(boottime_s()):
                lock.pids = [pid]
                lock.used_as(path)
                return lock
        return None

    def ask(self, add: Callable[[list[Lock]], None], interrupted: Interrupted) -> None:
        """`add` gets the new ones before their tickets are over."""
        session, inos = self._session.id, [self._session.new_inode() for _ in range(RESERVE)]
        tickets = self._lease.new_tickets(RESERVE)
        try:
            tokens, lease_s, sent_s = self._receive(session, inos, tickets[0], interrupted)
            until_s = self._lease.granted_until_s(sent_s, lease_s)
            fresh = [Lock(ino, token, until_s, 0, b"", session) for ino, token in zip(inos, tokens, strict=True)]
            add([lock for lock in fresh if lock.token])
        finally:
            self._lease.over(tickets)

    def _receive(
        self, session: int, inos: list[int], first: int, interrupted: Interrupted
    ) -> tuple[list[int], float, float]:
        """(tokens, lease in s, when it was asked for). Busy while the lock service grants nothing."""
        request, sent_s = Reserve(session=session, inos=inos, ticket=first), 0.0

        def attempt(left_s: float) -> Reserved:
            nonlocal sent_s
            sent_s = boottime_s()
            reply: Reserved = self._lease.ask_for_lock("reserve", request, Reserved, left_s, interrupted)
            if not any(reply.tokens):
                raise errors.Starting("the lock service waits for its sessions after a restart")
            return reply

        try:
            patience_s = max(self._wait_s + self._lease.answer_s(), self._session.timeout_s)
            reply = self._patience.until_answered(attempt, patience_s, interrupted)
        except errors.Starting as error:
            raise errors.Busy(str(error)) from None
        return reply.tokens, reply.lease_s, sent_s
