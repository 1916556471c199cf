"""The write locks that this client holds, and those it waits for.

The client holds a file's lock once for all its local opens. A local open joins a lock that is held; when another
client has waited for it for JOIN_S_MAX, only a process that has a writing handle already may still join, and others
queue at the lock service like everybody else: so a stream of local opens does not starve other clients.

    free -> asking -> held -> returning -> under way -> free
              |         ^         |
              |         +---------+     a local open within RETURN_AFTER_S takes it back
              +-> free                  refused, interrupted, or the service does not answer

Locks that are given back wait RETURN_AFTER_S for a request to go along with, so that closing many files costs few.
While a lock is under way to the service nobody here asks for it: the question could overtake it.

A lock whose lease (lock_lease.py) has run out is lost.

Threads: `_changed` (a condition) guards all tables; it is never held across a request. One thread gives locks back.
"""

import logging
import os
import threading
import time

from dfsfuse import errors
from dfsfuse.lock_lease import LEASE_S, LockLease
from dfsfuse.messages import (
    Acquire,
    Granted,
    HeldLock,
    Nothing,
    ReleaseLocks,
    RenewedLocks,
    RenewLocks,
    Reserve,
    Reserved,
)
from dfsfuse.patience import Patience
from dfsfuse.processes import command_of
from dfsfuse.session import Session, boottime_s
from dfsfuse.waiting import POLL_S, WAITING_OPENS_MAX, Interrupted, Opening, WaitingOpens, never

log = logging.getLogger(__name__)

JOIN_S_MAX = 2.0
RETURN_AFTER_S = 0.01
RESERVE = 32


class Lock:
    """One lock held by this client. `lost` once it is known that it is no longer ours."""

    def __init__(self, ino: int, token: int, until_s: float, pid: int, path: bytes):
        self.ino, self.token, self.until_s = ino, token, until_s
        self.pids, self.path = [pid], path
        self.wanted = False
        self.lost = False

    def valid(self, now_s: float) -> bool:
        return not self.lost and now_s < self.until_s

    def held_now(self) -> bool:
        return self.valid(boottime_s())

    def described(self) -> HeldLock:
        pid = self.pids[0] if self.pids else 0
        return HeldLock(self.ino, self.token, self.path, pid, command_of(pid) if pid else "")


class LockTable:
    """`acquire` and `release` for the file system. `start` begins to give locks back, `close` gives all back."""

    def __init__(self, session: Session, lease: LockLease, wait_s: float, waiting_max: int = WAITING_OPENS_MAX):
        self._session, self._lease, self._wait_s = session, lease, wait_s
        self._waiting, self._patience = WaitingOpens(waiting_max), Patience(session.timeout_s)
        self._changed = threading.Condition()
        self._held: dict[int, Lock] = {}
        self._returning: dict[int, Lock] = {}
        self._under_way: set[int] = set()
        self._reserved: list[Lock] = []
        self._asking: set[int] = set()
        self._stopping = threading.Event()
        self._returner = threading.Thread(target=self._return_for_ever, name="return-locks", daemon=True)
        lease.join(self)
        session.on_new_session(self._all_lost)

    def start(self) -> None:
        self._returner.start()

    def close(self) -> None:
        self._stopping.set()
        with self._changed:
            self._returning.update(self._held)
            self._returning.update((lock.ino, lock) for lock in self._reserved)
            self._held.clear()
            self._reserved.clear()
            self._changed.notify_all()
        if self._returner.is_alive():
            self._returner.join()
        self._give_back(self.take_returning())

    # -- for the file system

    def acquire(self, ino: int, path: bytes, pid: int, wait: bool = True, interrupted: Interrupted = never) -> Lock:
        """The lock, ours until `release`. Raises Busy after the wait, WouldBlock at once if not `wait`, Interrupted."""
        deadline = time.monotonic() + (self._wait_s if wait else 0.0)
        try:
            with Opening(self._waiting, interrupted) as opening:
                joined = self._join_or_ask(ino, pid, deadline, opening)
                return joined or self._ask_alone(ino, path, pid, deadline, opening)
        except (errors.Busy, errors.WouldBlock) as error:
            # Whether it was a program here or elsewhere that was in the way, and whether the wait was over before the
            # service was asked: what the caller is told depends on what it has asked for.
            raise (errors.Busy if wait else errors.WouldBlock)(str(error)) from None

    def _ask_alone(self, ino: int, path: bytes, pid: int, deadline: float, opening: Opening) -> Lock:
        """As the one thread that asks the service for this inode."""
        try:
            return self._ask(ino, path, pid, max(0.0, deadline - time.monotonic()), opening)
        finally:
            with self._changed:
                self._asking.discard(ino)
                self._changed.notify_all()

    def held(self, ino: int) -> Lock | None:
        """The lock, if this client has it for an open file."""
        lock = self._held.get(ino)
        return lock if lock is not None and lock.held_now() else None

    def reserve(self, path: bytes, pid: int, interrupted: Interrupted = never) -> Lock:
        """The lock of a new inode number of this session, for a file that is about to be made. Nobody else knows the
        inode, so it waits for nobody but a service that does not answer, as `acquire` does then; and as RESERVE of them
        are taken at a time, it seldom costs a request."""
        lock = self._take_reserved(path, pid)
        if lock is not None:
            return lock
        with Opening(self._waiting, interrupted) as opening:
            while lock is None:
                self._ask_reserve(opening)
                lock = self._take_reserved(path, pid)
            return lock

    def _take_reserved(self, path: bytes, pid: int) -> Lock | None:
        with self._changed:
            while self._reserved:
                lock = self._reserved.pop()
                if lock.valid(boottime_s()):
                    lock.pids, lock.path = [pid], path
                    self._held[lock.ino] = lock
                    return lock
        return None

    def _ask_reserve(self, opening: Opening) -> None:
        inos = [self._session.new_inode() for _ in range(RESERVE)]
        tickets = self._lease.new_tickets(RESERVE)
        try:
            tokens, lease_s, sent_s = self._receive_reserved(inos, tickets[0], opening.interrupted)
            until_s = self._lease.granted_until_s(sent_s, lease_s)
            with self._changed:
                fresh = [Lock(ino, token, until_s, 0, b"") for ino, token in zip(inos, tokens, strict=True)]
                self._reserved += [lock for lock in fresh if lock.token]
        finally:
            self._lease.over(tickets)

    def _receive_reserved(
        self, inos: list[int], first: int, interrupted: Interrupted
    ) -> tuple[list[int], float, float]:
        """(tokens, lease in s, when it was asked for). Busy while the lock service grants nothing."""
        request, sent_s = Reserve(session=self._session.id, inos=inos, ticket=first), 0.0

        def attempt(left_s: float) -> Reserved:
            nonlocal sent_s
            sent_s = boottime_s()
            reply: Reserved = self._session.rpc.call(
                self._lease.url(), "reserve", request, Reserved, left_s, interrupted
            )
            if not any(reply.tokens):
                raise errors.Starting("the lock service waits for its sessions after a restart")
            return reply

        try:
            patience_s = max(self._wait_s + self._lease.answer_s(), self._session.timeout_s)
            reply = self._patience.until_answered(attempt, patience_s, interrupted)
        except errors.Starting as error:
            raise errors.Busy(str(error)) from None
        return reply.tokens, reply.lease_s, sent_s

    def release(self, lock: Lock, pid: int) -> None:
        """One local open ends; the last one gives the lock back."""
        with self._changed:
            if pid in lock.pids:
                lock.pids.remove(pid)
            if lock.pids:
                return
            if self._held.get(lock.ino) is not lock:
                return
            del self._held[lock.ino]
            self._returning[lock.ino] = lock
            self._changed.notify_all()

    def _join_or_ask(self, ino: int, pid: int, deadline: float, opening: Opening) -> Lock | None:
        """A held lock joined; or None, and this thread is the one that asks the service for this inode."""
        with self._changed:
            while True:
                lock = self._held.get(ino) or self._take_back(ino)
                if lock is not None and self._may_join(lock, pid):
                    lock.pids.append(pid)
                    return lock
                if ino in self._under_way:
                    opening.check()
                    self._changed.wait(POLL_S)
                elif ino in self._asking:
                    self._wait_here(deadline, opening)
                else:
                    self._asking.add(ino)
                    return None

    def _take_back(self, ino: int) -> Lock | None:
        lock = self._returning.get(ino)
        if lock is None or lock.wanted or not lock.valid(boottime_s()):
            return None
        self._held[ino] = self._returning.pop(ino)
        return lock

    def _may_join(self, lock: Lock, pid: int) -> bool:
        return lock.valid(boottime_s()) and (not lock.wanted or pid in lock.pids)

    def _wait_here(self, deadline: float, opening: Opening) -> None:
        if time.monotonic() >= deadline:
            raise errors.Busy("another program on this machine waits for the same write lock")
        opening.waits()
        opening.check()
        self._changed.wait(min(POLL_S, max(0.0, deadline - time.monotonic())))

    # -- the lock service

    def _ask(self, ino: int, path: bytes, pid: int, wait_s: float, opening: Opening) -> Lock:
        """The first attempt does not wait at the service, so its answer tells at once that the returns have arrived
        which went along with it."""
        patience_s = self._session.timeout_s if wait_s > 0 else self._lease.answer_s()
        try:
            return self._ask_once(ino, path, pid, 0.0, self.take_returning(), opening, patience_s)
        except errors.WouldBlock:
            if wait_s <= 0:
                raise
        opening.waits()
        # The service counts a wait from when it grants anything, which after its restart may take a lease.
        return self._ask_once(ino, path, pid, wait_s, [], opening, wait_s + LEASE_S + self._lease.answer_s())

    def _ask_once(
        self,
        ino: int,
        path: bytes,
        pid: int,
        wait_s: float,
        returned: list[HeldLock],
        opening: Opening,
        patience_s: float,
    ) -> Lock:
        session, tickets = self._session, self._lease.new_tickets(queue="locks" if wait_s else None)
        try:
            request = Acquire(
                session=session.id,
                ino=ino,
                ticket=tickets[0],
                wait_s=wait_s,
                returned=returned,
                path=path,
                host=session.identity.host,
                pid=pid,
                command=command_of(pid),
            )
            return self._receive(request, patience_s, opening.interrupted)
        finally:
            self._lease.over(tickets)
            self.arrived(returned)

    def _receive(self, request: Acquire, patience_s: float, interrupted: Interrupted) -> Lock:
        sent_s, asked = boottime_s(), False

        def attempt(left_s: float) -> Granted:
            nonlocal asked
            request.waited_s, asked = boottime_s() - sent_s if asked else 0.0, True
            return self._session.rpc.call(self._lease.url(), "acquire", request, Granted, left_s, interrupted)

        granted: Granted = self._patience.until_answered(attempt, patience_s, interrupted)
        until_s = self._lease.granted_until_s(sent_s, granted.lease_s)
        lock = Lock(request.ino, granted.token, until_s, request.pid, request.path)
        with self._changed:
            self._held[request.ino] = lock
        return lock

    def _return_for_ever(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                while not self._returning and not self._stopping.is_set():
                    self._changed.wait()
            self._stopping.wait(RETURN_AFTER_S)
            self._give_back(self.take_returning())

    def take_returning(self) -> list[HeldLock]:
        """What is to be given back, for a request to take along; `arrived` is told when that has been answered."""
        with self._changed:
            returning, self._returning = self._returning, {}
            self._under_way.update(returning)
        return [HeldLock(lock.ino, lock.token) for lock in returning.values()]

    def arrived(self, returned: list[HeldLock]) -> None:
        """Or nobody knows, and the next renewal frees them."""
        if returned:
            with self._changed:
                self._under_way.difference_update(lock.ino for lock in returned)
                self._changed.notify_all()

    def _give_back(self, held: list[HeldLock]) -> None:
        if not held:
            return
        try:
            request = ReleaseLocks(self._session.id, held)
            self._session.rpc.call(self._lease.url(), "release", request, Nothing, self._lease.answer_s())
        except errors.DfsError as error:
            log.warning("%d write locks could not be given back, the next renewal frees them: %s", len(held), error)
        finally:
            self.arrived(held)

    # -- the lease

    def list_held(self, request: RenewLocks) -> None:
        with self._changed:
            mine = [*self._held.values(), *self._returning.values(), *self._reserved]
            request.held = [lock.described() for lock in mine]

    def take_over(self, request: RenewLocks, reply: RenewedLocks, until_s: float) -> None:
        asked = {(row.ino, row.token) for row in request.held}
        lost = {(row.ino, row.token) for row in reply.lost}
        wanted = {row.ino for row in reply.wanted if row.waited_s >= JOIN_S_MAX}
        with self._changed:
            for lock in [*self._held.values(), *self._returning.values(), *self._reserved]:
                lock.wanted = lock.ino in wanted
                if (lock.ino, lock.token) in lost:
                    self._lose(lock)
                elif (lock.ino, lock.token) in asked:
                    lock.until_s = until_s
            self._changed.notify_all()

    def _lose(self, lock: Lock) -> None:
        # Of one that is only reserved nobody has heard.
        if lock.pids:
            log.warning("the write lock of %s is lost", os.fsdecode(lock.path) or f"inode {lock.ino}")
        lock.lost = True
        if self._held.get(lock.ino) is lock:
            del self._held[lock.ino]
        self._reserved = [reserved for reserved in self._reserved if reserved is not lock]

    def _all_lost(self) -> None:
        with self._changed:
            for lock in [*self._held.values(), *self._reserved]:
                self._lose(lock)
            self._changed.notify_all()
