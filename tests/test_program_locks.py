"""Locks between programs in the client, over a real lock service: what is asked of it, what it is told, and when.

The file system below is not there: what it is asked to do for a lock is written down.
"""

import contextlib
import fcntl
import itertools
import math
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from file_group import free_port
from support import served, wait_until
from test_lock_service import TOKEN

from dfsfuse import errors, program_locks
from dfsfuse.lock_lease import LockLease
from dfsfuse.locks import LockTable
from dfsfuse.program_locks import ProgramLocks
from dfsfuse.range_locks import FileLock, RangeLockTable
from dfsfuse.rpc import Rpc
from dfsfuse.waiting import never
from servers import lock_service
from servers.locks import Locks
from servers.range_locks import RangeLocks

INO = 7
SHARED, EXCLUSIVE, UNLOCKED = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
_numbers = itertools.count(1)


class Service:
    """A lock service on a port of its own, which can be stopped and started anew."""

    def __init__(self, stack: contextlib.ExitStack):
        self._stack, self.port, self.starts = stack, free_port(), 0
        self.start()

    def start(self, sessions: tuple[int, ...] = ()) -> None:
        self.starts += 1
        self.ranges, core, now = RangeLocks(), Locks(), lock_service.boot_time_s()
        core.begin(self.starts, sessions, now)
        self.ranges.begin(sessions, now)
        self._running = self._stack.enter_context(contextlib.ExitStack())
        self._running.enter_context(served(lock_service.build(core, TOKEN, ranges=self.ranges), self.port))

    def stop(self) -> None:
        self._running.close()

    def held(self) -> dict[tuple[int, int], list]:
        """By session and process."""
        rows = self.ranges.rows(100, lock_service.boot_time_s())
        return {(holder.session, holder.pid): holder.ranges for row in rows for holder in row.holders}

    def waiting(self) -> int:
        return sum(len(row.waiters) for row in self.ranges.rows(100, lock_service.boot_time_s()))


class Below:
    """Stands for sharing.py: `done` is what it was asked for."""

    def __init__(self, ranges: RangeLockTable):
        self._ranges, self.done, self.failing = ranges, list[str](), None
        self.lost: set[Any] = set()
        self.unseen: list[str] = []
        ranges.on_lost(self.lost.update)

    def begin_locking(self, descriptor: Any) -> Any:
        if descriptor.share is None:
            descriptor.share = SimpleNamespace(ino=INO)
            self._ranges.begin_use(INO)
        return descriptor.share

    def settle(self, content: Any) -> None:
        self.done.append("settle")
        if self.failing is not None:
            raise self.failing

    def may_write(self, descriptor: Any) -> None:
        self.unseen.append(f"may write after {self.done[-1]}")

    def unlocked(self, descriptor: Any) -> None:
        held = self._ranges.is_locked(INO)
        self.unseen.append(f"unlocked, {'something' if held else 'nothing'} is held")

    def refresh(self, descriptor: Any, granted: Any) -> None:
        self.done.append("refresh")
        if self.failing is not None:
            raise self.failing


class Client:
    """One session's part, whose renewals are the test's to make."""

    def __init__(self, number: int, service: Service):
        self.rpc = Rpc(TOKEN)
        where = SimpleNamespace(locks=SimpleNamespace(url=f"http://127.0.0.1:{service.port}"))
        session: Any = SimpleNamespace(
            id=number, rpc=self.rpc, cluster=where, timeout_s=20.0, identity=SimpleNamespace(host="here"),
            on_new_session=lambda tell: None, heard_s=math.inf,
        )  # fmt: skip
        self.session, self.lease = session, LockLease(session)
        self.ranges = RangeLockTable(session, self.lease, LockTable(session, self.lease, 5.0))
        self.below: Any = Below(self.ranges)
        self.locks = ProgramLocks(session, self.ranges, self.below, None)

    def set(self, descriptor: Any, kind: int, wait: bool = False, **what: Any) -> None:
        self.locks.set(descriptor, lock_of(kind, **what), wait)

    def ranges_of(self, owner: int) -> list:
        return self.ranges.ranges(INO, FileLock(owner, UNLOCKED))


def descriptor() -> Any:
    content = SimpleNamespace(where=b"/file")
    return Descriptor(number=next(_numbers), content=content, share=None, failed=None)


class Descriptor(SimpleNamespace):
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def lock_of(kind: int, owner: int = 1, start: int = 0, end: int = 1 << 63, flock: bool = False) -> FileLock:
    return FileLock(owner, kind, start, end - 1, owner, flock)


@pytest.fixture
def service() -> Iterator[Service]:
    with contextlib.ExitStack() as stack:
        yield Service(stack)


@pytest.fixture
def two(service: Service) -> Iterator[tuple[Client, Client]]:
    clients = Client(1, service), Client(2, service)
    yield clients
    for client in clients:
        client.rpc.close()


# -- what is done around a lock


def test_the_newest_content_comes_before_a_lock_and_goes_before_an_unlock(two, service):
    """Goal: refreshed after each grant; committed before an unlock, and before a lock becomes weaker, never before one
    that becomes stronger."""
    client, _ = two
    file = descriptor()
    client.set(file, SHARED)
    client.set(file, EXCLUSIVE)
    assert client.below.done == ["refresh", "refresh"]
    client.set(file, SHARED, start=5, end=9)
    client.set(file, UNLOCKED, start=5, end=6)
    assert client.below.done[2:] == ["settle", "refresh", "settle"]
    assert service.held() == {(1, 1): [(0, 5, True), (6, 9, False), (9, 1 << 63, True)]}
    assert client.ranges_of(1) == service.held()[1, 1]


def test_what_is_written_unseen_under_a_lock(two):
    """Goal: who may write under a lock has the newest content, and the write lock, before he is told; when the lock has
    gone others may have it."""
    client, _ = two
    file = descriptor()
    client.set(file, SHARED)
    client.set(file, EXCLUSIVE)
    client.set(file, UNLOCKED)
    assert client.below.unseen == ["may write after refresh", "unlocked, nothing is held"]


def test_unlocking_what_is_not_locked_asks_nobody(two, service):
    """Goal: each close of a file unlocks; it costs nothing where there were no locks."""
    client, _ = two
    service.stop()
    file = descriptor()
    client.set(file, UNLOCKED)
    client.locks.flushed(file, 1, True)
    with client.locks.closing(file):
        pass
    assert client.below.done == []


def test_an_unlock_whose_content_cannot_be_sent(two, service):
    """Goal: the error is the unlock's, and the lock stays, so that nobody reads what is older."""
    client, _ = two
    file = descriptor()
    client.set(file, EXCLUSIVE)
    client.below.failing = errors.TimedOut("the directory is away")
    with pytest.raises(errors.TimedOut):
        client.set(file, UNLOCKED)
    assert service.held()
    client.below.failing = None
    client.set(file, UNLOCKED)
    assert not service.held()


def test_an_unlock_whose_content_can_never_be_sent(two, service):
    """Goal: it has become a copy beside the file; the lock goes."""
    client, _ = two
    file = descriptor()
    client.set(file, EXCLUSIVE)
    client.below.failing = errors.LockLost("a newer holder")
    with pytest.raises(errors.LockLost):
        client.set(file, UNLOCKED)
    assert not service.held()


def test_a_lock_without_the_newest_content_is_none(two, service):
    """Goal: where it cannot be brought, the lock is given back."""
    client, _ = two
    client.below.failing = errors.TimedOut("the directory is away")
    with pytest.raises(errors.TimedOut):
        client.set(descriptor(), EXCLUSIVE)
    assert not service.held()


def test_a_process_that_closes_before_its_content_is_sent(two, service):
    """Goal: its locks go all the same."""
    client, _ = two
    file = descriptor()
    client.set(file, EXCLUSIVE)
    client.below.failing = errors.TimedOut("the directory is away")
    client.locks.flushed(file, 1, False)
    assert not service.held()


def test_a_lock_that_was_granted_to_a_session_that_has_ended_meanwhile(two, service, monkeypatch):
    """Goal: S7. Nobody renews it, so the program has not got it."""
    client, other = two
    session, call = client.session, client.rpc.call

    def answer_late(*request: Any, **options: Any) -> Any:
        answer = call(*request, **options)
        session.id = 3
        return answer

    monkeypatch.setattr(client.rpc, "call", answer_late)
    file = descriptor()
    with pytest.raises(errors.WouldBlock):
        client.set(file, EXCLUSIVE)
    assert client.ranges_of(1) == []
    assert service.held() == {(1, 1): [(0, 1 << 63, True)]}


# -- owners and descriptors


def test_a_lock_through_a_number_that_the_kernel_uses_again(two, service):
    """Goal: the descriptor of the former owner is still being closed; the lock comes after that, and stays."""
    client, other = two
    former, later = descriptor(), descriptor()
    client.set(former, EXCLUSIVE, owner=5)
    closing, closed = threading.Event(), threading.Event()

    def close() -> None:
        with client.locks.closing(former):
            closing.set()
            closed.wait(20)

    thread = threading.Thread(target=close)
    thread.start()
    closing.wait(20)
    locking = threading.Thread(target=lambda: client.set(later, EXCLUSIVE, owner=5))
    locking.start()
    locking.join(0.3)
    assert locking.is_alive(), "it waits for the close"
    closed.set()
    for each in (thread, locking):
        each.join(20)
    assert service.held() == {(1, 5): [(0, 1 << 63, True)]}
    with pytest.raises(errors.WouldBlock):
        other.set(descriptor(), SHARED)


def test_flocks_of_one_owner_number_are_each_descriptors_own(two, service):
    """Goal: as before, but at once: what one descriptor's end frees is never another's flock."""
    client, _ = two
    former, later = descriptor(), descriptor()
    client.set(former, SHARED, owner=5, flock=True)
    client.set(later, SHARED, owner=5, flock=True)
    with client.locks.closing(former):
        pass
    assert len(service.held()) == 1
    with client.locks.closing(later):
        pass
    assert not service.held()


def test_who_does_not_wait_meets_a_descriptor_that_is_being_closed(two):
    """Goal: he gets the lock once it is closed, as if the kernel had told of the close before it returned."""
    client, _ = two
    former, later = descriptor(), descriptor()
    client.set(former, EXCLUSIVE, owner=1, flock=True)
    with client.locks.closing(former):
        locking = threading.Thread(target=lambda: client.set(later, EXCLUSIVE, owner=2, flock=True))
        locking.start()
        locking.join(0.3)
        assert locking.is_alive()
    locking.join(20)
    with pytest.raises(errors.WouldBlock):
        client.set(descriptor(), SHARED, owner=3, flock=True)


def test_a_flock_is_converted_through_nothing(two, service):
    """Goal: what is held goes first, so two that share it and both want it alone do not wait for each other."""
    one, other = two
    files = descriptor(), descriptor()
    for client, file in zip(two, files, strict=True):
        client.set(file, SHARED, flock=True)
    with pytest.raises(errors.WouldBlock):
        one.set(files[0], EXCLUSIVE, flock=True)
    other.set(files[1], EXCLUSIVE, flock=True)
    assert [session for session, _ in service.held()] == [2]


# -- waiting in the background


class Decision:
    """What `decided` was told."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self.outcome: Any = None

    def __call__(self, outcome: errors.DfsError | None) -> None:
        assert not self._told.is_set(), "told twice"
        self.outcome = outcome
        self._told.set()

    def wait(self) -> Any:
        assert self._told.wait(20), "not decided"
        return self.outcome

    @property
    def told(self) -> bool:
        return self._told.is_set()


def test_what_is_free_is_granted_without_a_wait(two):
    """Goal: no thread, no callback."""
    client, _ = two
    decision = Decision()
    before = threading.active_count()
    assert client.locks.begin(descriptor(), lock_of(EXCLUSIVE), lambda: decision, never)
    assert threading.active_count() == before
    assert not decision.told


def test_a_wait_in_the_background(two, service):
    """Goal: told once, when it is granted, with the newest content there."""
    holder, waiter = two
    file, other = descriptor(), descriptor()
    holder.set(file, EXCLUSIVE)
    decision = Decision()
    assert not waiter.locks.begin(other, lock_of(SHARED), lambda: decision, never)
    wait_until(lambda: service.waiting() == 1, "it waits")
    assert not decision.told
    holder.set(file, UNLOCKED)
    assert decision.wait() is None
    assert waiter.below.done[-1] == "refresh"
    assert waiter.ranges_of(1)


def test_an_interrupted_wait(two, service):
    """Goal: told Interrupted, soon; and the place is given up with the next renewal."""
    holder, waiter = two
    holder.set(descriptor(), EXCLUSIVE)
    decision = Decision()
    interrupted = threading.Event()
    waiter.locks.begin(descriptor(), lock_of(SHARED), lambda: decision, interrupted.is_set)
    wait_until(lambda: service.waiting() == 1, "it waits")
    started = time.monotonic()
    interrupted.set()
    assert isinstance(decision.wait(), errors.Interrupted)
    assert time.monotonic() - started < 1
    waiter.lease.renew()
    assert service.waiting() == 0


def test_a_circle_is_told_to_who_closes_it(two, service):
    """Goal: EDEADLK from the background too."""
    one, other = two
    files = descriptor(), descriptor()
    one.set(files[0], EXCLUSIVE, start=0, end=1)
    other.set(files[1], EXCLUSIVE, start=1, end=2)
    first, second = Decision(), Decision()
    one.locks.begin(files[0], lock_of(EXCLUSIVE, start=1, end=2), lambda: first, never)
    wait_until(lambda: service.waiting() == 1, "it waits")
    other.locks.begin(files[1], lock_of(EXCLUSIVE, start=0, end=1), lambda: second, never)
    assert isinstance(second.wait(), errors.Deadlock)
    other.set(files[1], UNLOCKED)
    assert first.wait() is None


def test_too_many_wait(two, monkeypatch):
    """Goal: NoLocks rather than threads without end; threads of the caller are fewer."""
    monkeypatch.setattr(program_locks, "WAITING_MAX", 2)
    monkeypatch.setattr(program_locks, "CALLERS_WAITING_MAX", 1)
    holder, waiter = two
    file = descriptor()
    holder.set(file, EXCLUSIVE)
    decisions = [Decision() for _ in range(3)]
    for decision in decisions:
        waiter.locks.begin(descriptor(), lock_of(SHARED, owner=next(_numbers)), lambda told=decision: told, never)
    refused = wait_until(lambda: [decision for decision in decisions if decision.told], "one is refused")
    assert [type(decision.outcome) for decision in refused] == [errors.NoLocks]
    with pytest.raises(errors.NoLocks):
        waiter.set(descriptor(), SHARED, wait=True, owner=next(_numbers))
    holder.set(file, UNLOCKED)
    assert sorted(type(decision.wait()).__name__ for decision in decisions) == ["NoLocks", "NoneType", "NoneType"]


# -- the service goes, and comes back


def test_a_wait_outlives_a_restart_of_the_service(two, service):
    """Goal: the holder re-asserts, the waiter waits on, and is granted by the unlock."""
    holder, waiter = two
    file, decision = descriptor(), Decision()
    holder.set(file, EXCLUSIVE)
    waiter.locks.begin(descriptor(), lock_of(SHARED), lambda: decision, never)
    wait_until(lambda: service.waiting() == 1, "it waits")
    service.stop()
    service.start(sessions=(1, 2))
    wait_until(lambda: service.waiting() == 1, "it waits again")
    waiter.lease.renew()
    assert not decision.told
    holder.lease.renew()
    assert service.held() == {(1, 1): [(0, 1 << 63, True)]}
    assert not decision.told
    holder.set(file, UNLOCKED)
    assert decision.wait() is None


def test_who_does_not_wait_comes_while_sessions_return(two, service):
    """Goal: neither refused nor granted before it is known who holds what."""
    holder, other = two
    holder.set(descriptor(), EXCLUSIVE)
    service.stop()
    service.start(sessions=(1, 2))
    outcome: list[Any] = []

    def ask() -> None:
        with contextlib.suppress(errors.WouldBlock):
            other.set(descriptor(), SHARED)
            outcome.append("granted")
        outcome.append("decided")

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(0.3)
    assert asking.is_alive()
    for client in two:
        client.lease.renew()
    asking.join(20)
    assert outcome == ["decided"]


def test_a_lost_lease(two, service):
    """Goal: each descriptor through which something was locked is named, once; and nothing is held any more."""
    client, _ = two
    files = descriptor(), descriptor(), descriptor()
    client.set(files[0], SHARED)
    client.set(files[1], SHARED, start=5, end=6)
    client.set(files[2], SHARED, owner=9, flock=True)
    client.lease.renew()
    assert client.below.lost == set()
    service.ranges._leases._sessions.clear()
    service.ranges._files.clear()
    client.lease.renew()
    assert client.below.lost == set(files)
    assert client.ranges_of(1) == []


def test_a_client_that_slept_notices_before_it_locks_or_renews(two, monkeypatch):
    """Goal: the clock of this machine tells, without a request."""
    client, _ = two
    file = descriptor()
    client.set(file, SHARED)
    monkeypatch.setattr("dfsfuse.range_locks.boottime_s", lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + 9)
    client.ranges.check_lease()
    assert client.below.lost == {file}


def test_who_looks_while_a_loss_is_told(two, monkeypatch):
    """Goal: S7. Another thread has just found that the locks are lost, and is telling: who looks meanwhile does not go
    on as if nothing had been lost."""
    client, _ = two
    client.set(descriptor(), SHARED)
    looking, alive = threading.Thread(target=client.ranges.check_lease), []

    def tell(_: object) -> None:
        looking.start()
        looking.join(0.1)
        alive.append(looking.is_alive())

    client.ranges.on_lost(tell)
    monkeypatch.setattr("dfsfuse.range_locks.boottime_s", lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + 9)
    client.ranges.check_lease()
    looking.join()
    assert alive == [True]


@pytest.mark.parametrize("sent_s", [7.5, 0.5])
def test_a_grant_that_arrives_after_the_lease_revives_nothing(two, monkeypatch, sent_s):
    """Goal: S7. A client that was cut off while it asked for another lock has lost those that it had by then, as others
    may have had them meanwhile: its program is told before it reads or writes anything, not only with a renewal."""
    client, _ = two
    file, ahead_s = descriptor(), [0.0]
    monkeypatch.setattr("dfsfuse.range_locks.boottime_s", lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + ahead_s[0])
    client.set(file, SHARED)
    ahead_s[0] = sent_s
    call = client.rpc.call

    def late(*arguments: Any, **options: Any) -> Any:
        reply = call(*arguments, **options)
        ahead_s[0] = 9.0
        return reply

    client.rpc.call = late
    client.set(file, EXCLUSIVE)
    assert client.below.lost == {file}


def test_a_renewal_lists_what_is_held(two, service):
    """Goal: and a grant of which this client knows nothing is freed."""
    client, other = two
    client.set(descriptor(), EXCLUSIVE, start=0, end=10)
    client.ranges._held.clear()
    client.lease.renew()
    assert not service.held()
    other.set(descriptor(), EXCLUSIVE, owner=3, start=5, end=9)
    other.lease.renew()
    assert service.held() == {(2, 3): [(5, 9, True)]}
