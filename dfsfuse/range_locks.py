"""What programs of this client have locked (fcntl, flock), and their requests to the lock service.

Every lock is granted by the service, none here; this table follows what the service has answered. Each renewal lists
it, and after a restart of the service that is how locks come back. What is lost (the lease ran out, the session ended)
is told to `on_lost`, with the descriptors through which it was locked.

Threads: `_mutex` guards the tables; it is never held across a request. Requests that wait belong to their callers.
"""

import fcntl
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from dfsfuse import errors
from dfsfuse.lock_lease import LEASE_S, LockLease, Queue
from dfsfuse.locks import LockTable
from dfsfuse.messages import (
    RANGE_END,
    FileUsers,
    HeldRanges,
    LockRange,
    Message,
    Nothing,
    ProbeRange,
    Range,
    RangeConflict,
    RangeGranted,
    RenewedLocks,
    RenewLocks,
    UnlockRange,
    UseFile,
    with_lock,
)
from dfsfuse.processes import command_of
from dfsfuse.rpc import pause_s, until_answered
from dfsfuse.session import Session, boottime_s
from dfsfuse.waiting import Interrupted

log = logging.getLogger(__name__)

WAIT_S = 3600.0
"""A wait that takes longer is asked for again, and loses its place."""

Key = tuple[int, bool, int]
"""(inode, whether a flock, owner)."""


class FileLock(NamedTuple):
    """A lock as programs ask for it. `kind` is F_RDLCK, F_WRLCK or F_UNLCK of the bytes from `start` to `last`; a flock
    is of the whole file. `owner` is the kernel's number for who holds it."""

    owner: int
    kind: int
    start: int = 0
    last: int = RANGE_END - 1
    pid: int = 0
    flock: bool = False

    @property
    def end(self) -> int:
        return self.last + 1

    @property
    def write(self) -> bool:
        return self.kind == fcntl.F_WRLCK


class Owner(NamedTuple):
    """Who had locked something: the kernel's number, and the process."""

    number: int
    pid: int


class Held:
    """What one owner has locked of a file, and through which descriptors."""

    def __init__(self, pid: int, path: bytes):
        self.pid, self.path = pid, path
        self.ranges: list[Range] = []
        self.through: set[Any] = set()

    def listed(self, key: Key) -> HeldRanges:
        ino, flock, owner = key
        kind = "flock" if flock else "posix"
        return HeldRanges(
            ino=ino, owner=owner, kind=kind, ranges=self.ranges, path=self.path, pid=self.pid,
            command=command_of(self.pid) if self.pid else "",
        )  # fmt: skip


class RangeLockTable:
    def __init__(self, session: Session, lease: LockLease, locks: LockTable):
        self._session, self._lease, self._locks = session, lease, locks
        self._mutex, self._losing = threading.Lock(), threading.RLock()
        self._held: dict[Key, Held] = {}
        self._uses: Counter[int] = Counter()
        self._until_s = 0.0
        self._on_lost: list[Callable[[dict[Any, Owner]], None]] = []
        lease.join(self)
        session.on_new_session(self._lose_all)

    def on_lost(self, tell: Callable[[dict[Any, Owner]], None]) -> None:
        """`tell({descriptor: owner})`: locks that were taken through them are lost. It must not wait."""
        self._on_lost.append(tell)

    # -- looking

    def has(self, ino: int, lock: FileLock) -> bool:
        """Whether its owner has locked anything of the file in this way."""
        return (ino, lock.flock, lock.owner) in self._held

    def ranges(self, ino: int, lock: FileLock) -> list[Range]:
        held = self._held.get((ino, lock.flock, lock.owner))
        return held.ranges if held is not None else []

    def through(self, ino: int, lock: FileLock) -> set[Any]:
        """The descriptors through which its owner has locked what it has of the file."""
        with self._mutex:
            held = self._held.get((ino, lock.flock, lock.owner))
            return set(held.through) if held is not None else set()

    def is_locked(self, ino: int, to_write: bool = False) -> bool:
        """Whether any program of this client has locked anything of the file, or so that nobody else has it locked."""
        with self._mutex:
            held = [held for key, held in self._held.items() if key[0] == ino]
        return bool(held) if not to_write else any(write for each in held for _, _, write in each.ranges)

    def taken_through(self, descriptor: Any) -> list[FileLock]:
        """All that its owners have, as locks to be given back."""
        with self._mutex:
            keys = [key for key, held in self._held.items() if descriptor in held.through]
        return [FileLock(owner, fcntl.F_UNLCK, flock=flock) for _, flock, owner in keys]

    # -- the lock service

    def begin_use(self, ino: int) -> None:
        """Programs of this client may use locks on the file: renewals say so, until as many `end_use`."""
        with self._mutex:
            self._uses[ino] += 1

    def end_use(self, ino: int) -> None:
        with self._mutex:
            self._uses[ino] -= 1
            if self._uses[ino]:
                return
            del self._uses[ino]
        self._lease.renew_soon()

    def ask_use(self, ino: int, timeout_s: float | None = None) -> bool:
        """Tell of a use at once; whether programs of other clients use locks on the file too."""
        tickets = self._lease.new_tickets()
        try:
            request = UseFile(session=self._session.id, ino=ino, ticket=tickets[0])
            return self._ask("use_file", request, FileUsers, timeout_s).elsewhere
        finally:
            self._lease.over(tickets)

    def lock(self, descriptor: Any, ino: int, path: bytes, lock: FileLock, fair: bool) -> RangeGranted:
        """At once. Raises WouldBlock, NoLocks; with `fair` it is not granted before those who wait."""
        return self._request(descriptor, ino, path, lock, lambda request: self._ask_at_once(request, fair))

    def wait(self, descriptor: Any, ino: int, path: bytes, lock: FileLock, interrupted: Interrupted) -> RangeGranted:
        """Once it is free. Raises Interrupted, Deadlock, NoLocks."""
        while True:
            try:
                ask = lambda request: self._wait(request, interrupted)  # noqa: E731
                return self._request(descriptor, ino, path, lock, ask, "ranges")
            except errors.WouldBlock:
                continue
            except errors.Interrupted:
                # It may have been granted at the same moment: the renewal says that nobody has heard of it. Whoever
                # comes when the program has been told of its end must not meet it any more.
                self._lease.renew_now()
                raise

    def _request(
        self,
        descriptor: Any,
        ino: int,
        path: bytes,
        lock: FileLock,
        ask: Callable[[LockRange], RangeGranted],
        queue: Queue | None = None,
    ) -> RangeGranted:
        tickets, sent_s = self._lease.new_tickets(queue=queue), boottime_s()
        request = LockRange(
            session=self._session.id, ino=ino, owner=lock.owner, ticket=tickets[0], start=lock.start, end=lock.end,
            kind="flock" if lock.flock else "posix", write=lock.write, path=path, pid=lock.pid,
            host=self._session.identity.host, command=command_of(lock.pid),
        )  # fmt: skip
        try:
            granted = ask(request)
            until_s = self._lease.granted_until_s(sent_s, granted.lease_s)
            # Where the answer took longer than the lease, others may have had what was held before: a new grant revives
            # nothing. It may itself be over, too.
            self.check_lease()
            self._note_granted(request, descriptor, lock, until_s)
            self.check_lease()
            return granted
        finally:
            self._lease.over(tickets)

    def _ask_at_once(self, request: LockRange, fair: bool) -> RangeGranted:
        request.fair, request.returned = fair, self._locks.take_returning()
        try:
            return self._ask("lock_range", request, RangeGranted)
        finally:
            self._locks.arrived(request.returned)

    def _wait(self, request: LockRange, interrupted: Interrupted) -> RangeGranted:
        """However long it takes, as long as the service is there."""
        request.wait_s = WAIT_S
        failures, silent_since, began_s = 0, 0.0, boottime_s()
        while True:
            asked_at = time.monotonic()
            request.waited_s = boottime_s() - began_s if failures else 0.0
            try:
                patience_s = WAIT_S + self._lease.answer_s() + LEASE_S
                return self._lease.ask_for_lock("lock_range", request, RangeGranted, patience_s, interrupted)
            except errors.Busy as error:
                raise errors.WouldBlock(str(error)) from None
            except (errors.Unreachable, errors.Starting):
                # What broke off after a while had waited; the silence begins then.
                failures = failures + 1 if time.monotonic() - asked_at < 1.0 else 1
                silent_since = silent_since if failures > 1 else time.monotonic()
                if time.monotonic() - silent_since > self._session.timeout_s:
                    raise
            if interrupted():
                raise errors.Interrupted("interrupted while the lock service did not answer")
            time.sleep(pause_s(failures))

    def _note_granted(self, request: LockRange, descriptor: Any, lock: FileLock, until_s: float) -> None:
        """WouldBlock where the session has ended meanwhile, to which it was granted: nobody renews it."""
        with self._mutex:
            if request.session != self._session.id:
                raise errors.WouldBlock(f"session {request.session} has ended, and another has begun")
            self._until_s = max(self._until_s, until_s)
            held = self._held.setdefault((request.ino, lock.flock, lock.owner), Held(lock.pid, request.path))
            held.ranges = with_lock(held.ranges, lock.start, lock.end, lock.write)
            held.through.add(descriptor)

    def unlock(self, ino: int, lock: FileLock, timeout_s: float | None = None) -> None:
        """Where the service does not answer, the next renewal frees what is locked here no more."""
        tickets = self._lease.new_tickets()
        request = UnlockRange(
            session=self._session.id, ino=ino, owner=lock.owner, ticket=tickets[0], start=lock.start, end=lock.end,
            kind="flock" if lock.flock else "posix", returned=self._locks.take_returning(),
        )  # fmt: skip
        try:
            self._ask("unlock_range", request, Nothing, timeout_s)
        finally:
            self._locks.arrived(request.returned)
            self._note_unlocked((ino, lock.flock, lock.owner), lock)
            self._lease.over(tickets)

    def _note_unlocked(self, key: Key, lock: FileLock) -> None:
        with self._mutex:
            held = self._held.get(key)
            if held is not None:
                held.ranges = with_lock(held.ranges, lock.start, lock.end, None)
                if not held.ranges:
                    del self._held[key]

    def probe(self, ino: int, lock: FileLock) -> RangeConflict:
        """A lock that is in the way of this one."""
        request = ProbeRange(
            session=self._session.id, ino=ino, owner=lock.owner, start=lock.start, end=lock.end, write=lock.write,
            kind="flock" if lock.flock else "posix",
        )  # fmt: skip
        return self._ask("probe_range", request, RangeConflict)

    def _ask(self, operation: str, request: Message, reply: type, timeout_s: float | None = None) -> Any:
        """As long as a restart of the service may take."""
        ask = self._lease.ask_for_lock if operation == "lock_range" else self._lease.ask
        attempt = lambda left_s: ask(operation, request, reply, left_s)  # noqa: E731
        return until_answered(attempt, timeout_s or LEASE_S + self._lease.answer_s())

    # -- the lease

    def list_held(self, request: RenewLocks) -> None:
        self.check_lease()
        with self._mutex:
            request.ranges = [held.listed(key) for key, held in self._held.items()]
            request.using = list(self._uses)

    def take_over(self, request: RenewLocks, reply: RenewedLocks, until_s: float) -> None:
        lost = [(row.ino, row.kind == "flock", row.owner) for row in reply.lost_ranges]
        with self._mutex:
            self._until_s = max(self._until_s, until_s)
        self._lose(lost)

    def check_lease(self) -> None:
        """This client may have slept, or been cut off, for longer than its locks live. When this returns, whoever has
        lost locks by now is told."""
        with self._losing:
            if self._held and boottime_s() >= self._until_s:
                self._lose_all()

    def _lose_all(self) -> None:
        with self._mutex:
            keys = list(self._held)
        self._lose(keys)

    def _lose(self, keys: list[Key]) -> None:
        with self._losing:
            with self._mutex:
                lost = {key: self._held.pop(key) for key in keys if key in self._held}
            owners: dict[Any, Owner] = {}
            for (_, _, number), held in lost.items():
                log.warning("locks of process %d on %s are lost", held.pid, held.path)
                owners.update(dict.fromkeys(held.through, Owner(number, held.pid)))
            for tell in self._on_lost if owners else ():
                tell(owners)
