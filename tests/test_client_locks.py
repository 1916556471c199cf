"""The client's lock table over a lock service that answers as slowly as a test wants."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from support import wait_until

from dfsfuse import errors
from dfsfuse.lock_lease import HEARD_S, LockLease
from dfsfuse.locks import Lock, LockTable
from dfsfuse.messages import (
    Acquire,
    Granted,
    Message,
    Nothing,
    ReleaseLocks,
    RenewedLocks,
    RenewLocks,
    Reserve,
    Reserved,
)
from dfsfuse.session import boottime_s

PATH = b"/file"


class Service:
    """What LockTable needs of a session, and the lock service behind it. `silent`: acquires are not answered. While
    `arrives` is not set, releases are under way."""

    def __init__(self) -> None:
        self.id, self.timeout_s, self.identity = 1, 5.0, SimpleNamespace(host="here")
        self.cluster = SimpleNamespace(locks=SimpleNamespace(url=""))
        self.rpc = self
        self.held: set[int] = set()
        self.silent = False
        self.heard_s = math.inf
        self.asked = 0
        self._inos = itertools.count(100)
        self.releasing, self.arrives = threading.Event(), threading.Event()
        self.arrives.set()

    def on_new_session(self, tell: Callable[[], None]) -> None: ...

    def call(
        self, url: str, operation: str, request: Message, reply: type, timeout_s: float,
        interrupted: Callable[[], bool] | None = None, patient: bool = False,
    ) -> Any:  # fmt: skip
        if isinstance(request, Acquire):
            return self._acquire(request, time.monotonic() + timeout_s, interrupted)
        if isinstance(request, Reserve):
            self._answer(time.monotonic() + timeout_s, interrupted)
            return Reserved([1] * len(request.inos), 60.0)
        if isinstance(request, RenewLocks):
            return RenewedLocks(start_number=1)
        assert isinstance(request, ReleaseLocks)
        self.releasing.set()
        assert self.arrives.wait(10)
        self.held -= {lock.ino for lock in request.held}
        return Nothing()

    def new_inode(self) -> int:
        return next(self._inos)

    def _answer(self, deadline: float, interrupted: Callable[[], bool] | None) -> None:
        while self.silent:
            if interrupted is not None and interrupted():
                raise errors.Interrupted("interrupted")
            if time.monotonic() > deadline:
                raise errors.TimedOut("no answer")
            time.sleep(0.01)

    def _acquire(self, request: Acquire, deadline: float, interrupted: Callable[[], bool] | None) -> Granted:
        self.asked += 1
        self._answer(deadline, interrupted)
        self.held -= {lock.ino for lock in request.returned}
        if request.ino in self.held:
            raise errors.WouldBlock("held")
        self.held.add(request.ino)
        return Granted(1, 60.0)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def test_a_lock_whose_return_is_under_way_is_asked_for_after_it(service, pool):
    """Goal: S5. An open with O_NONBLOCK, of a file that nobody else has open, is not told that it is busy because the
    question overtakes the return of the former lock."""
    table = LockTable(service, LockLease(service), 10.0)
    table.start()
    table.release(table.acquire(7, PATH, 1), 1)
    service.arrives.clear()
    try:
        assert service.releasing.wait(10)
        opening: Future[Lock] = pool.submit(table.acquire, 7, PATH, 1, wait=False)
        with pytest.raises(TimeoutError):
            opening.result(0.2)
        assert service.asked == 1
    finally:
        service.arrives.set()
    assert opening.result(10).ino == 7
    table.close()


@pytest.mark.parametrize("wait", [True, False])
def test_a_return_that_is_not_answered_is_waited_for_as_long_as_a_server(service, pool, monkeypatch, wait):
    """Goal: S13. While the lock service is cut off, an open of a file that was closed a moment ago ends as any other
    that has to ask it: soon where it does not wait."""
    monkeypatch.setattr("dfsfuse.lock_lease._ANSWER_S", 0.1)
    service.timeout_s = 1.0
    table = LockTable(service, LockLease(service), 10.0)
    table.start()
    table.release(table.acquire(7, PATH, 1), 1)
    service.arrives.clear()
    try:
        assert service.releasing.wait(10)
        began = time.monotonic()
        opening: Future[Lock] = pool.submit(table.acquire, 7, PATH, 1, wait=wait)
        with pytest.raises(errors.TimedOut):
            opening.result(5)
        assert (time.monotonic() - began > 0.9) == wait
    finally:
        service.arrives.set()
    table.close()


def test_a_wait_for_who_keeps_the_lock_is_part_of_the_wait(service, monkeypatch):
    """Goal: S5. Where the first answer takes its time, as the service asks a client that does not answer, the open
    waits for so much less."""
    asked, call = list[float](), service.call

    def answer(url: str, operation: str, request: Message, *more: Any, **options: Any) -> Any:
        if isinstance(request, Acquire):
            asked.append(request.wait_s)
            threading.Event().wait(0.3)
        return call(url, operation, request, *more, **options)

    service.call, service.held = answer, {7, 8}
    with pytest.raises(errors.Busy):
        LockTable(service, LockLease(service), 10.0).acquire(7, PATH, 1)
    assert asked[0] == 0.0
    assert 9.0 < asked[1] < 9.71
    with pytest.raises(errors.Busy):
        LockTable(service, LockLease(service), 0.2).acquire(8, PATH, 1)
    assert asked[2:] == [0.0]


def test_opens_that_are_not_answered_are_bounded_and_interruptible(service, pool):
    """Goal: while the lock service is silent, opens beyond the bound are refused at once, so that driver threads stay
    free for others; and those that wait end when their programs are interrupted."""
    table, interrupted = LockTable(service, LockLease(service), 10.0, waiting_max=2), threading.Event()
    service.silent = True
    openings = [pool.submit(table.acquire, ino, PATH, 1, interrupted=interrupted.is_set) for ino in range(8)]
    wait_until(lambda: sum(opening.done() for opening in openings) == 6, "six are refused", 2)
    assert all(isinstance(opening.exception(), errors.Busy) for opening in openings if opening.done())
    interrupted.set()
    wait_until(lambda: all(opening.done() for opening in openings), "the others are interrupted", 2)
    assert sum(isinstance(opening.exception(), errors.Interrupted) for opening in openings) == 2
    service.silent = False
    assert table.acquire(1, PATH, 1).ino == 1


@pytest.mark.parametrize("ask", ["acquire", "reserve"])
def test_an_open_waits_for_a_service_that_nobody_reaches(service, pool, monkeypatch, ask):
    """Goal: S9, S13. An open for writing waits for the lock service for as long as any call waits for a server, not
    only as long as an answer takes; one that is not to wait gives up."""
    monkeypatch.setattr("dfsfuse.lock_lease._ANSWER_S", 0.1)
    table = LockTable(service, LockLease(service), 0.1)
    service.silent, service.timeout_s = True, 1.0
    opening = pool.submit(*((table.acquire, 7, PATH, 1) if ask == "acquire" else (table.reserve, PATH, 1)))
    with pytest.raises(errors.TimedOut):
        table.acquire(8, PATH, 1, wait=False)
    with pytest.raises(TimeoutError):
        opening.result(0.5)
    service.silent = False
    assert opening.result(10).held_now()


def test_creates_that_are_not_answered_are_bounded_and_interruptible(service, pool):
    """Goal: the same where a new file's lock has to be asked for."""
    table, interrupted = LockTable(service, LockLease(service), 10.0, waiting_max=2), threading.Event()
    service.silent = True
    creates = [pool.submit(table.reserve, PATH, 1, interrupted.is_set) for _ in range(8)]
    wait_until(lambda: sum(create.done() for create in creates) == 6, "six are refused", 2)
    assert all(isinstance(create.exception(), errors.Busy) for create in creates if create.done())
    interrupted.set()
    wait_until(lambda: all(create.done() for create in creates), "the others are interrupted", 2)
    assert sum(isinstance(create.exception(), errors.Interrupted) for create in creates) == 2
    service.silent = False
    assert table.reserve(PATH, 1).held_now()


def test_opens_that_are_answered_at_once_are_not_counted(service, pool):
    """Goal: the bound is for those that wait: any number may ask at the same time."""
    table, gate = LockTable(service, LockLease(service), 10.0, waiting_max=0), threading.Barrier(8)

    def open_with_the_others(ino: int) -> Lock:
        gate.wait(10)
        return table.acquire(ino, PATH, 1)

    assert sorted(lock.ino for lock in pool.map(open_with_the_others, range(8))) == list(range(8))


@pytest.mark.parametrize("renewed", [True, False])
def test_a_grant_that_arrives_after_a_lease_holds_only_if_it_was_renewed(service, pool, monkeypatch, renewed):
    """Goal: S5. A laptop that sleeps while its lock is granted does not take the lock for its own when it wakes: by
    then the lease is over and another client may have it. Who waits for longer than a lease, and renews, has it."""
    now_s = time.monotonic()
    for module in ("locks", "lock_lease", "kept_locks"):
        monkeypatch.setattr(f"dfsfuse.{module}.boottime_s", lambda: now_s)
    lease = LockLease(service)
    table = LockTable(service, lease, 10.0)
    service.silent = True
    opening: Future[Lock] = pool.submit(table.acquire, 7, PATH, 1)
    wait_until(lambda: service.asked == 1, "it is asked for", 10)
    now_s += 100.0
    if renewed:
        lease.renew()
    service.silent = False
    assert opening.result(10).held_now() == renewed
    assert (table.held(7) is not None) == renewed


def test_no_locks_without_the_directory(service):
    """Goal: S5. A directory that has not heard of a client for a minute tells a lock service that starts not to wait
    for it: by then the client has no locks any more, as it neither renews nor takes any."""
    lease = LockLease(service)
    service.timeout_s = 0.1
    table = LockTable(service, lease, 0.1)
    lock = table.acquire(7, PATH, 1)
    service.heard_s = boottime_s()
    lease.renew()
    until_s, service.heard_s = lock.until_s, boottime_s() - HEARD_S - 1
    for ask in (lease.renew, lambda: table.acquire(8, PATH, 1), lambda: table.reserve(PATH, 1)):
        with pytest.raises(errors.Unreachable, match="the directory has not answered for 51 s"):
            ask()
    assert lock.until_s == until_s
    assert table.held(8) is None
    service.heard_s = boottime_s()
    lease.renew()
    assert lock.until_s > until_s


@pytest.mark.parametrize("ask", [lambda table: table.acquire(8, PATH, 1), lambda table: table.reserve(PATH, 1)])
def test_a_directory_that_answers_again_is_waited_for(service, ask):
    """Goal: S13. Who opens for writing when a long cut is over, and the directory has not been heard yet, waits for it
    as for any server, and gets no error at once."""
    table = LockTable(service, LockLease(service), 10.0)
    service.heard_s = boottime_s() - HEARD_S - 1
    threading.Timer(0.3, setattr, (service, "heard_s", math.inf)).start()
    assert ask(table).valid(boottime_s())


def test_a_service_that_has_started_is_told_once_more(service):
    """Goal: S5. The first renewal that a start answers may have been made before; so another one follows at once."""
    asked: list[RenewLocks] = []
    call = service.call

    def answer(url: str, operation: str, request: Message, *more: Any, **options: Any) -> Any:
        asked.append(request)
        return call(url, operation, request, *more, **options)

    service.call = answer
    lease = LockLease(service)
    lease.start()
    try:
        wait_until(lambda: len(asked) >= 2, "it has renewed twice", 5)
    finally:
        lease.close()
    assert [request.start_number for request in asked[:2]] == [0, 1]
