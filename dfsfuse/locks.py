"""The write locks that this client holds, and those it waits for.

The client holds a file's lock once for all its local opens. A local open joins a lock that is held; when another
client has waited for it for JOIN_S_MAX, only a process that has a writing handle already may still join, and others
queue at the lock service like everybody else: so a stream of local opens does not starve other clients.

    free -> asking -> held <-> kept -> returning -> under way -> free
              |         ^ |               | ^
              |         | +---------------|-+   it was recalled, or is not to be kept
              |         +-----------------+     a local open within RETURN_AFTER_S takes it back
              +-> free                          refused, interrupted, or the service does not answer

A lock that no program uses any more is kept, if it may be, until another client wants it (recalling.py), until it is
surplus, or was not used for long (kept_locks.py). Who wants it stands in the service's queue: so a lock that was asked
for while programs used it goes back with their last close, and the next open here stands behind who waits.

Locks that are given back wait RETURN_AFTER_S for a request to go along with, so that closing many files costs few; but
nobody waits for that. While a lock is under way to the service nobody here asks for it: the question could overtake it.

A lock whose lease (lock_lease.py) has run out is lost.

Threads: `_changed` (a condition) guards all tables; it is never held across a request. One thread gives locks back; it
waits for `_to_return`, of the same mutex, as each wake-up holds up who has just closed a file.
"""

import logging
import os
import threading
import time

from dfsfuse import errors
from dfsfuse.kept_locks import KEPT_MAX, KeptLocks, Lock
from dfsfuse.lock_lease import LEASE_S, LockLease
from dfsfuse.messages import (
    Acquire,
    Granted,
    HeldLock,
    Nothing,
    ReleaseLocks,
    RenewedLocks,
    RenewLocks,
)
from dfsfuse.patience import Patience
from dfsfuse.processes import command_of
from dfsfuse.reservations import Reservations
from dfsfuse.session import Session, boottime_s
from dfsfuse.waiting import POLL_S, WAITING_OPENS_MAX, Interrupted, Opening, WaitingOpens, never

log = logging.getLogger(__name__)

JOIN_S_MAX = 2.0
RETURN_AFTER_S = 0.01


class LockTable:
    """`acquire` and `release` for the file system. `start` begins to give locks back, `close` gives all back."""

    def __init__(
        self,
        session: Session,
        lease: LockLease,
        wait_s: float,
        waiting_max: int = WAITING_OPENS_MAX,
        kept_max: int = KEPT_MAX,
    ):
        self._session, self._lease, self._wait_s = session, lease, wait_s
        self._waiting, self._patience = WaitingOpens(waiting_max), Patience(session.timeout_s)
        mutex = threading.RLock()
        self._changed, self._to_return = threading.Condition(mutex), threading.Condition(mutex)
        self._held: dict[int, Lock] = {}
        self._kept = KeptLocks(kept_max)
        self._returning: dict[int, Lock] = {}
        self._under_way: dict[int, int] = {}
        self._reservations = Reservations(session, lease, self._patience, wait_s)
        self._asking: set[int] = set()
        self._recalled_early: dict[int, int] = {}
        self._start_number = 0
        self._stopping = threading.Event()
        self._returner = threading.Thread(target=self._return_for_ever, name="return-locks", daemon=True)
        lease.join(self)
        session.on_new_session(self._all_lost)

    def start(self) -> None:
        self._returner.start()

    def keep_unused(self) -> None:
        """From now on: this client hears what others want."""
        self._kept.on = True

    def close(self) -> None:
        self._stopping.set()
        with self._changed:
            self._kept.on = False
            unused = [*self._kept.take_all(), *self._reservations.locks]
            self._return([*self._held.values(), *unused])
            self._held.clear()
            self._reservations.locks.clear()
            self._to_return.notify()
        if self._returner.is_alive():
            self._returner.join()
        self._give_back(self.take_returning())

    # -- for the file system

    def acquire(self, ino: int, path: bytes, pid: int, wait: bool = True, interrupted: Interrupted = never) -> Lock:
        """The lock, ours until `release`. Raises Busy after the wait, WouldBlock at once if not `wait`, Interrupted."""
        try:
            with Opening(self._waiting, interrupted, self._wait_s if wait else 0.0) as opening:
                silent_s = self._session.timeout_s if wait else self._lease.answer_s()
                joined = self._join_or_ask(ino, path, pid, silent_s, opening)
                return joined or self._ask_alone(ino, path, pid, silent_s, opening)
        except (errors.Busy, errors.WouldBlock, errors.Starting) as error:
            # Whether it was a program here or elsewhere that was in the way, and whether the wait was over before the
            # service was asked: what the caller is told depends on what it has asked for.
            raise (errors.Busy if wait else errors.WouldBlock)(str(error)) from None

    def _ask_alone(self, ino: int, path: bytes, pid: int, silent_s: float, opening: Opening) -> Lock:
        """As the one thread that asks the service for this inode."""
        session = self._session
        request = Acquire(
            session=session.id, ino=ino, ticket=0, path=path, host=session.identity.host, pid=pid,
            command=command_of(pid),
        )  # fmt: skip
        try:
            return self._ask(request, silent_s, opening)
        finally:
            with self._changed:
                self._asking.discard(ino)
                self._recalled_early.pop(ino, None)
                self._changed.notify_all()

    def held(self, ino: int) -> Lock | None:
        """The lock, if this client has it for an open file."""
        lock = self._held.get(ino)
        return lock if lock is not None and lock.held_now() else None

    def here(self) -> set[int]:
        """The inodes whose locks this client has, used or kept."""
        with self._changed:
            return {*self._held, *(lock.ino for lock in self._kept)}

    def has(self, ino: int) -> bool:
        """Whether this client has the lock, used or kept. For who looks on: it waits for nothing, and misses one that
        is just going from one table to the other."""
        lock = self._held.get(ino) or self._kept.get(ino)
        return lock is not None and lock.held_now()

    def reserve(self, path: bytes, pid: int, interrupted: Interrupted = never) -> Lock:
        """The lock of a new inode number, for a file that is about to be made. Nobody else knows it, so it waits for
        nothing but a service that does not answer; many are taken at a time, so it seldom costs a request."""
        lock = self._take_reserved(path, pid)
        if lock is not None:
            return lock
        with Opening(self._waiting, interrupted) as opening:
            while lock is None:
                self._reservations.ask(self._add_reserved, opening.interrupted)
                lock = self._take_reserved(path, pid)
            return lock

    def _take_reserved(self, path: bytes, pid: int) -> Lock | None:
        with self._changed:
            lock = self._reservations.take(path, pid)
            if lock is not None:
                self._held[lock.ino] = lock
            return lock

    def _add_reserved(self, fresh: list[Lock]) -> None:
        with self._changed:
            # Of a session that has ended meanwhile, nobody renews them.
            self._reservations.locks += [lock for lock in fresh if lock.session == self._session.id]

    def release(self, lock: Lock, pid: int, keep: bool = False) -> None:
        """One local open ends; with the last one the lock is kept, if it may be, or given back."""
        with self._changed:
            if pid in lock.pids:
                lock.pids.remove(pid)
            if lock.pids or self._held.get(lock.ino) is not lock:
                return
            del self._held[lock.ino]
            self._return(self._kept.add(lock) if keep and self._kept.accepts(lock) else [lock])

    def _return(self, locks: list[Lock]) -> None:
        self._returning.update((lock.ino, lock) for lock in locks)
        if self._returning:
            self._to_return.notify()
        self._changed.notify_all()

    def give_up(self, ino: int) -> None:
        """Nobody opens the file any more."""
        with self._changed:
            lock = self._kept.pop(ino)
            self._return([lock] if lock is not None else [])

    def _join_or_ask(self, ino: int, path: bytes, pid: int, silent_s: float, opening: Opening) -> Lock | None:
        """A held lock joined; or None, and this thread is the one that asks the service for this inode."""
        with self._changed:
            while True:
                lock = self._held.get(ino) or self._take_back(ino, path)
                if lock is not None and self._may_join(lock, pid):
                    lock.pids.append(pid)
                    return lock
                if ino in self._under_way:
                    self._wait_for_service(silent_s, opening)
                elif ino in self._asking:
                    self._wait_here(opening)
                else:
                    self._asking.add(ino)
                    return None

    def _take_back(self, ino: int, path: bytes) -> Lock | None:
        kept = self._kept.pop(ino)
        if kept is not None:
            kept.used_as(path)
            self._returning[ino] = kept
        lock = self._returning.get(ino)
        if lock is None or lock.wanted or lock.recalled or not lock.valid(boottime_s()):
            if lock is not None:
                self._to_return.notify()
            return None
        self._held[ino] = self._returning.pop(ino)
        return lock

    def _may_join(self, lock: Lock, pid: int) -> bool:
        return lock.valid(boottime_s()) and (not lock.wanted or pid in lock.pids)

    def _wait_for_service(self, silent_s: float, opening: Opening) -> None:
        if opening.taken_s() >= silent_s:
            raise errors.TimedOut(f"the lock service has not answered for {silent_s:.3g} s what was given back")
        opening.check()
        self._changed.wait(POLL_S)

    def _wait_here(self, opening: Opening) -> None:
        left_s = opening.left_s()
        if left_s <= 0:
            raise errors.Busy("another program on this machine waits for the same write lock")
        opening.waits()
        opening.check()
        self._changed.wait(min(POLL_S, left_s))

    # -- the lock service

    def _ask(self, request: Acquire, silent_s: float, opening: Opening) -> Lock:
        """The first attempt does not wait at the service, so its answer tells at once that the returns have arrived
        which went along with it. Where it has to wait for who keeps the lock, that is a part of the wait."""
        wait_s, request.wait_s = opening.left_s(), 0.0
        if wait_s <= 0:
            silent_s = max(POLL_S, silent_s - opening.taken_s())
        try:
            return self._ask_once(request, self.take_returning(), opening, silent_s)
        except errors.WouldBlock:
            request.wait_s = wait_s - (time.monotonic() - opening.asked_at)
            if request.wait_s <= 0:
                raise
        opening.waits()
        # The service counts a wait from when it grants anything, which after its restart may take a lease.
        return self._ask_once(request, [], opening, request.wait_s + LEASE_S + self._lease.answer_s())

    def _ask_once(self, request: Acquire, returned: list[HeldLock], opening: Opening, patience_s: float) -> Lock:
        tickets = self._lease.new_tickets(queue="locks" if request.wait_s else None)
        request.ticket, request.returned = tickets[0], returned
        try:
            return self._receive(request, patience_s, opening)
        finally:
            self._lease.over(tickets)
            self.arrived(returned)

    def _receive(self, request: Acquire, patience_s: float, opening: Opening) -> Lock:
        # What the first attempt has waited for a service that broke off counts on.
        sent_s, waited_s, asked = boottime_s(), request.waited_s, False

        def attempt(left_s: float) -> Granted:
            nonlocal asked
            request.waited_s, asked = waited_s + (boottime_s() - sent_s if asked else 0.0), True
            request.session, opening.asked_at = self._session.id, time.monotonic()
            granted: Granted = self._lease.ask_for_lock("acquire", request, Granted, left_s, opening.interrupted)
            self._check_session(request.session)
            return granted

        granted: Granted = self._patience.until_answered(attempt, patience_s, opening.interrupted)
        until_s = self._lease.granted_until_s(sent_s, granted.lease_s)
        lock = Lock(request.ino, granted.token, until_s, request.pid, request.path, request.session)
        with self._changed:
            self._check_session(lock.session)
            lock.recalled = granted.wanted or self._recalled_early.get(lock.ino) == lock.token
            self._held[request.ino] = lock
        return lock

    def _check_session(self, session: int) -> None:
        """What was granted to a session that has ended meanwhile is asked for again: nobody renews it."""
        if session != self._session.id:
            raise errors.Starting(f"session {session} has ended, and another has begun")

    def _return_for_ever(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                while not self._returning and not self._stopping.is_set():
                    self._to_return.wait()
                urgent = any(lock.recalled for lock in self._returning.values())
            if not urgent:
                self._stopping.wait(RETURN_AFTER_S)
            self._give_back(self.take_returning())

    def take_returning(self) -> list[HeldLock]:
        """What is to be given back, for a request to take along; `arrived` is told when that has been answered."""
        with self._changed:
            returning, self._returning = self._returning, {}
            self._under_way.update((lock.ino, lock.token) for lock in returning.values())
        return [HeldLock(lock.ino, lock.token) for lock in returning.values()]

    def arrived(self, returned: list[HeldLock]) -> None:
        """Or nobody knows, and the next renewal frees them."""
        if returned:
            with self._changed:
                for lock in returned:
                    if self._under_way.get(lock.ino) == lock.token:
                        del self._under_way[lock.ino]
                self._changed.notify_all()

    def _give_back(self, held: list[HeldLock]) -> None:
        if not held:
            return
        try:
            request = ReleaseLocks(self._session.id, held)
            self._lease.ask("release", request, Nothing, self._lease.answer_s())
        except errors.DfsError as error:
            log.warning("%d write locks could not be given back, the next renewal frees them: %s", len(held), error)
        finally:
            self.arrived(held)

    def wanted_back(self, wanted: list[HeldLock]) -> tuple[list[HeldLock], list[HeldLock]]:
        """Others want these: (what goes back, of which `arrived` is told; what programs use, and goes back then)."""
        returned, used = [], []
        with self._changed:
            for lock in wanted:
                (used if self._is_used(lock) else returned).append(HeldLock(lock.ino, lock.token))
            for lock in returned:
                self._under_way[lock.ino] = lock.token
        return returned, used

    def _is_used(self, wanted: HeldLock) -> bool:
        """If not, it is in no table any more. One whose grant is under way is about to be used."""
        for table in (self._kept, self._returning):
            lock = table.get(wanted.ino)
            if lock is not None and lock.token == wanted.token:
                table.pop(wanted.ino)
                return False
        held = self._held.get(wanted.ino)
        if held is not None and held.token == wanted.token:
            held.recalled = True
            return True
        if wanted.ino in self._asking:
            self._recalled_early[wanted.ino] = wanted.token
            return True
        return any(lock.ino == wanted.ino for lock in self._reservations.locks)

    # -- the lease

    def list_held(self, request: RenewLocks) -> None:
        with self._changed:
            mine = [*self._held.values(), *self._returning.values(), *self._reservations.locks]
            kept = [lock.described_unused(self._start_number) for lock in self._kept]
            request.held = [lock.described() for lock in mine] + kept
            request.watches = self._kept.on

    def take_over(self, request: RenewLocks, reply: RenewedLocks, until_s: float) -> None:
        asked = {(row.ino, row.token): bool(row.path) for row in request.held}
        lost = {(row.ino, row.token) for row in reply.lost}
        wanted = {row.ino: row.waited_s for row in reply.wanted}
        with self._changed:
            self._start_number = reply.start_number
            mine = [*self._held.values(), *self._returning.values(), *self._reservations.locks, *self._kept]
            for lock in mine:
                lock.wanted = wanted.get(lock.ino, 0.0) >= JOIN_S_MAX
                lock.recalled = lock.recalled or lock.ino in wanted
                if (lock.ino, lock.token) in lost:
                    self._lose(lock)
                elif (lock.ino, lock.token) in asked:
                    lock.until_s = until_s
                    lock.told = reply.start_number if asked[lock.ino, lock.token] else lock.told
            unused = [self._kept.pop(lock.ino) for lock in self._kept if lock.recalled]
            self._return([*filter(None, unused), *self._kept.take_unused(boottime_s())])

    def _lose(self, lock: Lock) -> None:
        # Of one that is only reserved nobody has heard.
        if lock.pids:
            log.warning("the write lock of %s is lost", os.fsdecode(lock.path) or f"inode {lock.ino}")
        lock.lost = True
        if self._held.get(lock.ino) is lock:
            del self._held[lock.ino]
        if self._kept.get(lock.ino) is lock:
            self._kept.pop(lock.ino)
        self._reservations.locks = [reserved for reserved in self._reservations.locks if reserved is not lock]

    def _all_lost(self) -> None:
        with self._changed:
            for lock in [*self._held.values(), *self._returning.values(), *self._kept, *self._reservations.locks]:
                if lock.session != self._session.id:
                    self._lose(lock)
            self._returning = {ino: lock for ino, lock in self._returning.items() if not lock.lost}
            self._changed.notify_all()
