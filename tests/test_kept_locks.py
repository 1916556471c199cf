"""The client keeps locks that no program uses: over a lock service that is the real core, without a network."""

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dfsfuse import errors
from dfsfuse.kept_locks import KEPT_S
from dfsfuse.lock_lease import LEASE_S, LockLease
from dfsfuse.locks import LockTable
from dfsfuse.messages import (
    Acquire,
    Granted,
    HeldLock,
    Message,
    Nothing,
    ReleaseLocks,
    RenewLocks,
    Reserve,
    Reserved,
    WantedLocks,
    WatchLocks,
)
from dfsfuse.recalling import Recalling
from servers.locks import Locks

INO, PATH, PID, OTHER, NEXT = 7, b"/file", 1, 2, 3


class Service:
    """What LockTable needs of a session, and the lock service's core. `asked` are the operations that were called;
    `now_s` is everybody's clock. `meanwhile` is called once, when an acquire was granted and not answered yet."""

    def __init__(self) -> None:
        self.id, self.timeout_s, self.identity = 1, 5.0, SimpleNamespace(host="here")
        self.cluster = SimpleNamespace(locks=SimpleNamespace(url=""))
        self.rpc, self.heard_s, self.now_s = self, math.inf, 1000.0
        self.core, self.asked = Locks(), []
        self.core.begin(1, [], self.now_s)
        self.meanwhile = lambda: None
        self._tables: list[Callable[[], None]] = []
        self._inos, self._tickets = itertools.count(100), itertools.count(1)

    def on_new_session(self, tell: Callable[[], None]) -> None:
        self._tables.append(tell)

    def begin_session(self) -> None:
        """The directory has ended the former one, of which the lock service has not heard."""
        self.id = NEXT
        for tell in self._tables:
            tell()

    def new_inode(self) -> int:
        return next(self._inos)

    def call(self, url: str, operation: str, request: Message, reply: type, *_: Any, **more: Any) -> Any:
        self.asked.append(operation)
        self.core.tick(self.now_s)
        match request:
            case Acquire():
                return self._acquire(request)
            case Reserve():
                return self._reserve(request)
            case ReleaseLocks():
                self.core.release(request, self.now_s)
                return Nothing()
            case RenewLocks():
                return self.core.renew(request, self.now_s)[0]
        assert isinstance(request, WatchLocks)
        self.core.release(ReleaseLocks(request.session, request.returned), self.now_s)
        return WantedLocks(self.core.watch(request, self.now_s)[0])

    def _reserve(self, request: Reserve) -> Reserved:
        reserved = self.core.reserve(request, self.now_s)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return reserved

    def _acquire(self, request: Acquire) -> Granted:
        self.core.release(ReleaseLocks(request.session, request.returned), self.now_s)
        granted = self.core.acquire(request, self.now_s)
        if granted is None:
            raise errors.Busy("somebody else has it")
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return granted

    def other_asks(self, ino: int = INO, wait_s: float = 10.0) -> Granted | None:
        """Another client does."""
        self.core.tick(self.now_s)
        ticket = next(self._tickets)
        return self.core.acquire(Acquire(session=OTHER, ino=ino, ticket=ticket, wait_s=wait_s), self.now_s)

    def holder(self, ino: int = INO) -> int:
        """The session that has the lock; 0: nobody."""
        rows = {row.ino: row for row in self.core.list_locks(self.now_s).locks}
        return rows[ino].session if ino in rows else 0


class Client:
    """Opens and closes one file for writing. `told`: which locks that are used others were heard to want."""

    def __init__(self, service: Service, kept_max: int = 32):
        self.service = service
        self.lease = LockLease(service)
        self.table = LockTable(service, self.lease, 10.0, kept_max=kept_max)
        self.told: list[dict[int, float]] = []
        self.recalling = Recalling(service, self.lease, self.table, self.told.append)
        self.table.keep_unused()
        self.recalling.watch()
        service.asked.clear()

    def write(self, ino: int = INO) -> None:
        self.close(self.open(ino))

    def open(self, ino: int = INO):
        return self.table.acquire(ino, PATH, PID)

    def close(self, lock) -> None:
        self.table.release(lock, PID, keep=True)

    def give_back(self) -> list[HeldLock]:
        """What the next request would take along."""
        returned = self.table.take_returning()
        self.service.core.release(ReleaseLocks(1, returned), self.service.now_s)
        self.table.arrived(returned)
        return returned

    def hear(self) -> None:
        """Of all that others want, and answer."""
        self.recalling.watch()
        self.recalling.watch()


@pytest.fixture
def service(monkeypatch) -> Service:
    made = Service()
    for module in ("locks", "lock_lease", "kept_locks", "reservations"):
        monkeypatch.setattr(f"dfsfuse.{module}.boottime_s", lambda: made.now_s)
    return made


@pytest.fixture
def client(service) -> Client:
    return Client(service)


def test_a_repeated_writer_asks_once(service, client):
    """Goal: opening a file for writing again costs no request for its lock, which is the same."""
    tokens = set()
    for _ in range(5):
        lock = client.open()
        tokens.add(lock.token)
        client.close(lock)
        service.now_s += 1
    assert service.asked == ["acquire"]
    assert len(tokens) == 1
    assert client.give_back() == []


def test_who_gives_back_is_woken_for_that_alone(service, client, monkeypatch):
    """Goal: asking for a lock, keeping it and using it again wake nobody; one that is not kept is to be given back."""
    woken = []
    monkeypatch.setattr(client.table._to_return, "notify", lambda: woken.append(True))
    for _ in range(2):
        client.write()
    assert not woken
    client.table.release(client.open(), PID)
    assert woken


def test_a_lock_that_another_client_wants_goes_at_once(service, client):
    """Goal: S5. It is given back with the answer, and the next open here stands behind who waits."""
    client.write()
    assert service.other_asks() is None
    client.hear()
    assert service.holder() == OTHER
    with pytest.raises(errors.Busy):
        client.open()


def test_a_lock_that_is_used_goes_with_the_last_close(service, client):
    """Goal: S5. It is not kept, nor taken back by an open that follows."""
    lock = client.open()
    service.other_asks()
    client.hear()
    assert service.holder() == 1
    assert client.told == [{INO: 0.0}]
    client.close(lock)
    with pytest.raises(errors.Busy):
        client.open()
    assert service.holder() == OTHER


def test_who_does_not_wait_is_told_that_it_is_used(service, client):
    """Goal: S5. And who comes after the last close gets it, though nobody has waited."""
    lock = client.open()
    service.other_asks(wait_s=0)
    client.hear()
    assert service.core.list_locks(service.now_s).locks[0].waiters == []
    client.close(lock)
    assert [held.ino for held in client.give_back()] == [INO]
    assert service.other_asks(wait_s=0) is not None


def test_a_recall_that_comes_before_the_grant(service, client):
    """Goal: S5. The answer to an acquire may arrive after the lock was asked back: it is used, and goes then."""

    def other_asks() -> None:
        service.other_asks()
        client.hear()

    service.meanwhile = other_asks
    lock = client.open()
    assert service.holder() == 1
    client.close(lock)
    client.give_back()
    assert service.holder() == OTHER


def test_a_lock_of_which_nobody_here_knows(service, client):
    """Goal: a grant that was never received is given back when it is asked for, and not a second later."""
    service.core.acquire(Acquire(session=1, ino=INO, ticket=99), service.now_s)
    service.other_asks()
    client.hear()
    assert service.holder() == OTHER


def test_renewals_tell_what_is_wanted_too(service, client):
    """Goal: S5. Where the request that waits has failed, the next renewal brings it."""
    client.write()
    lock = client.open(8)
    client.lease.renew()
    service.other_asks()
    service.other_asks(8)
    client.lease.renew()
    client.close(lock)
    assert {held.ino for held in client.give_back()} == {INO, 8}


def test_a_kept_lock_lives_as_long_as_its_lease(service, client):
    """Goal: S6, S7. Renewals keep it; without them it is asked for anew, and is another one."""
    client.write()
    for _ in range(30):
        service.now_s += 1
        client.lease.renew()
    token = client.open().token
    client.close(client.table.held(INO))
    service.asked.clear()
    service.now_s += LEASE_S
    assert client.open().token > token
    assert service.asked == ["acquire"]


def test_a_kept_lock_that_is_lost(service, client):
    """Goal: S6. A client that was stopped for longer than its lease has none of them, once it hears so."""
    client.write()
    service.now_s += LEASE_S + 1
    assert service.other_asks() is not None
    client.lease.renew()
    assert not client.table.has(INO)
    assert client.give_back() == []


def test_renewals_list_kept_locks_as_kept(service, client):
    """Goal: people see which locks programs use; the path of a kept one is told once to each start of the service."""
    client.write()
    client.lease.renew()
    (row,) = service.core.list_locks(service.now_s).locks
    assert (row.path, row.kept) == (PATH, True)
    request = RenewLocks(session=1)
    client.table.list_held(request)
    assert [(held.path, held.kept) for held in request.held] == [(b"", True)]
    service.core = Locks()
    service.core.begin(2, [1], service.now_s)
    client.lease.renew()
    client.lease.renew()
    (row,) = service.core.list_locks(service.now_s).locks
    assert (row.path, row.kept) == (PATH, True)
    client.open()
    client.lease.renew()
    assert not service.core.list_locks(service.now_s).locks[0].kept


def test_people_see_for_how_long_a_file_is_open(service, client):
    """Goal: from when it was opened, and not from the renewal that tells it: of a new file, whose lock was reserved
    before, and of one whose lock was kept."""
    client.table.reserve(PATH, PID)
    service.now_s += 3
    lock = client.table.reserve(PATH, PID)
    for _ in range(2):
        service.now_s += 0.7
        client.lease.renew()
        (age_s,) = (row.held_s for row in service.core.list_locks(service.now_s).locks if row.ino == lock.ino)
        assert age_s == pytest.approx(0.7)
        client.close(lock)
        service.now_s += 1
        client.lease.renew()
        lock = client.open(lock.ino)


def test_a_new_file_is_kept_too(service, client):
    """Goal: who appends to a file that he has made pays no request either; its path is told."""
    lock = client.table.reserve(PATH, PID)
    client.close(lock)
    client.lease.renew()
    client.write(lock.ino)
    assert service.asked == ["reserve", "renew"]
    assert [row.path for row in service.core.list_locks(service.now_s).locks] == [PATH]


def test_not_more_than_so_many_are_kept(service):
    """Goal: the least recently used go, several with one request."""
    client = Client(service, kept_max=32)
    for ino in range(1, 33):
        client.write(ino)
    client.write(1)
    assert client.give_back() == []
    client.write(33)
    assert [held.ino for held in client.give_back()] == [2, 3, 4]


def test_what_nobody_uses_for_long_is_given_back(service, client):
    """Goal: S7. A client that is killed keeps others waiting only for what it has written lately."""
    client.write()
    for _ in range(int(KEPT_S) - 1):
        service.now_s += 1
        client.lease.renew()
    client.write(8)
    assert client.give_back() == []
    service.now_s += 1
    client.lease.renew()
    assert [held.ino for held in client.give_back()] == [INO]


def test_the_lock_of_a_file_that_is_gone(service, client):
    """Goal: it is given back."""
    client.write()
    client.table.give_up(INO)
    client.table.give_up(8)
    assert [held.ino for held in client.give_back()] == [INO]


def test_the_end_gives_all_back_at_once(service, client):
    """Goal: at unmount one request frees all; what is closed then is not kept any more."""
    for ino in range(1, 6):
        client.write(ino)
    service.asked.clear()
    client.table.close()
    assert service.asked == ["release"]
    assert service.core.list_locks(service.now_s).locks == []


def test_a_client_that_does_not_hear_keeps_nothing(service):
    """Goal: S5. Nobody could ask it for them."""
    table = LockTable(service, LockLease(service), 10.0)
    table.release(table.acquire(INO, PATH, PID), PID, keep=True)
    assert [held.ino for held in table.take_returning()] == [INO]


def test_a_grant_to_a_session_that_has_ended_meanwhile(service, client):
    """Goal: S5. Nobody renews it, whatever the next session renews: the open has no lock by it, and asks again. What it
    gets then is the next session's, and stays where that was granted before the tables have heard of it."""
    service.meanwhile = service.begin_session
    with pytest.raises(errors.Busy):
        client.open()
    assert not client.table.has(INO)
    assert client.table.reserve(PATH, PID).session == NEXT
    service.now_s += LEASE_S
    lock = client.open()
    assert service.holder() == NEXT
    service.begin_session()
    assert lock.held_now()
    assert client.table.held(INO) is lock


def test_reserved_locks_of_a_session_that_has_ended_meanwhile(service, client):
    """Goal: S5. They are passed over, and others are asked for."""
    service.meanwhile = service.begin_session
    lock = client.table.reserve(PATH, PID)
    assert lock.held_now()
    assert service.asked == ["reserve", "reserve"]


def test_a_lock_that_is_returning_ends_with_its_session(service, client):
    """Goal: S5. An open does not take it back, nor is it given back once more."""
    client.table.release(client.open(), PID)
    service.begin_session()
    assert client.give_back() == []
    with pytest.raises(errors.Busy):
        client.open()
    service.now_s += LEASE_S
    assert client.open().session == NEXT
