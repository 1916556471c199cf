"""The lock service is elsewhere: what was asked of the one that stands still is given up, and asked again there."""

import fcntl
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from file_group import free_port
from support import served, wait_until
from test_lock_service import TOKEN

from dfsfuse import errors
from dfsfuse.lock_lease import LockLease
from dfsfuse.locks import LockTable
from dfsfuse.messages import HeldLock, LockList, Nothing
from dfsfuse.range_locks import FileLock, RangeLockTable
from dfsfuse.recalling import Recalling
from dfsfuse.rpc import Rpc
from dfsfuse.session import boottime_s
from dfsfuse.waiting import never
from servers import lock_service
from servers.locks import Locks
from servers.range_locks import RangeLocks

INO, PATH = 7, b"/file"
SOON_S = 2.0
"""What is not given up waits for 4 s or longer."""


class Client:
    """One session's tables, whose renewals are the test's to make."""

    def __init__(self, number: int, url: str):
        inos = itertools.count(100)
        session: Any = SimpleNamespace(
            id=number, rpc=Rpc(TOKEN), cluster=None, timeout_s=4.0, identity=SimpleNamespace(host="here"),
            on_new_session=lambda tell: None, heard_s=boottime_s(), new_inode=lambda: next(inos),
        )  # fmt: skip
        self.session, self.lease = session, LockLease(session)
        self.move(url)
        self.locks = LockTable(session, self.lease, 10.0)
        self.ranges = RangeLockTable(session, self.lease, self.locks)
        self.recalling = Recalling(session, self.lease, self.locks, lambda wanted: None)

    def move(self, url: str) -> None:
        """What the directory tells from now on."""
        self.session.cluster = SimpleNamespace(locks=SimpleNamespace(url=url))

    def lock_range(self) -> None:
        self.ranges.wait("a descriptor", INO, PATH, FileLock(1, fcntl.F_WRLCK, pid=1), never)

    def listed(self) -> LockList:
        url = self.session.cluster.locks.url
        return self.session.rpc.call(url, "locks", Nothing(), LockList, 5.0)

    def waited_s(self) -> list[float]:
        """Those who wait at the service."""
        listed = self.listed()
        return [waiter.waited_s for row in [*listed.locks, *listed.ranges] for waiter in row.waiters]


@pytest.fixture
def client_at() -> Iterator[Callable[..., Client]]:
    """`client_at(number, url)`"""
    with ExitStack() as stack:

        def make(number: int, url: str) -> Client:
            client = Client(number, url)
            stack.callback(client.session.rpc.close)
            return client

        yield make


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of who takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def two() -> Iterator[tuple[str, str]]:
    """A lock service, and the one that takes over from it: it waits for the sessions 1 and 2."""
    with ExitStack() as stack:
        yield tuple(_started(stack, start, sessions) for start, sessions in ((1, ()), (2, (1, 2))))


def _started(stack: ExitStack, start: int, sessions: tuple[int, ...]) -> str:
    core, ranges, port, now = Locks(), RangeLocks(), free_port(), lock_service.boot_time_s()
    core.begin(start, sessions, now)
    ranges.begin(sessions, now)
    stack.enter_context(served(lock_service.build(core, TOKEN, ranges=ranges), port))
    return f"http://127.0.0.1:{port}"


def _lock(client: Client) -> Callable[[], None]:
    held = client.locks.acquire(INO, PATH, 1)
    return lambda: client.locks.release(held, 1)


def _lock_range(client: Client) -> Callable[[], None]:
    client.lock_range()
    return lambda: client.ranges.unlock(INO, FileLock(1, fcntl.F_UNLCK, pid=1))


@pytest.mark.parametrize("take", [_lock, _lock_range])
def test_who_waits_goes_on_waiting_there(two, client_at, pool, take):
    """Goal: S5. Its place and for how long it has waited count on; it is granted once the holder lets go."""
    first, then = two
    holder, waiter = client_at(1, first), client_at(2, first)
    holder.locks.start()
    let_go = take(holder)
    began = time.monotonic()
    waiting = pool.submit(take, waiter)
    wait_until(lambda: waiter.waited_s() and waiter.waited_s()[0] >= 0.5, "it waits", 5)
    for client in (holder, waiter):
        client.move(then)
    wait_until(waiter.waited_s, "it waits there", SOON_S)
    assert waiter.waited_s()[0] >= 0.5
    for client in (holder, waiter, holder, waiter):
        client.lease.renew()
    assert not waiting.done()
    let_go()
    waiting.result(5)
    assert time.monotonic() - began < 8.0
    holder.locks.close()


def test_what_the_first_request_has_waited_counts(two, silent, client_at, pool):
    """Goal: S5. An open asks first without waiting; where it was that which got no answer, it has its place and its
    time all the same."""
    holder, waiter = client_at(1, two[0]), client_at(2, silent)
    holder.locks.start()
    let_go = _lock(holder)
    waiting = pool.submit(_lock, waiter)
    with pytest.raises(TimeoutError):
        waiting.result(0.6)
    waiter.move(two[0])
    wait_until(waiter.waited_s, "it waits", SOON_S)
    wait_until(lambda: [row for row in waiter.waited_s() if row >= 0.5], "its time counts", 0.3)
    let_go()
    waiting.result(5)
    holder.locks.close()


def _asks() -> dict[str, Callable[[Client], Any]]:
    """What is asked for again by its caller is expected to fail; the others find out by themselves where to ask."""
    return {
        "acquire": lambda client: client.locks.acquire(INO, PATH, 1, wait=False),
        "reserve": lambda client: client.locks.reserve(PATH, 1),
        "use_file": lambda client: client.ranges.ask_use(INO),
        "lock_range": lambda client: client.ranges.lock(
            "a descriptor", INO, PATH, FileLock(1, fcntl.F_WRLCK, pid=1), True
        ),
        "renew": lambda client: client.lease.renew(),
        "watch": lambda client: client.recalling.watch(),
        "release": lambda client: client.locks._give_back([HeldLock(INO, 1)]),
    }


@pytest.mark.parametrize("operation", _asks())
def test_who_stands_still_is_not_waited_for(two, silent, client_at, pool, operation):
    """Goal: S13. Nothing waits for the former lock service once the directory has told of another one."""
    client = client_at(1, silent)
    asked = pool.submit(_asks()[operation], client)
    with pytest.raises(TimeoutError):
        asked.result(0.3)
    client.move(two[0])
    moved_at = time.monotonic()
    again = operation in ("renew", "watch")
    assert isinstance(asked.exception(8), errors.Unreachable if again else type(None))
    assert time.monotonic() - moved_at < SOON_S


def test_the_new_service_hears_at_once_what_is_held(two, silent, client_at):
    """Goal: S5. It grants nothing to others before: so the next renewal does not wait for its second."""
    client = client_at(1, silent)
    client.lease.start()
    threading.Event().wait(1.2)
    client.move(two[1])
    wait_until(lambda: client.lease._start_number == 2, "it is renewed there", 0.6)
    client.lease.close()
