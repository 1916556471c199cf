"""Range locks over real HTTP: every operation in both encodings, waiting inside the request, closed connections."""

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from support import served
from test_lock_service import DEADLINE_S, INO, TOKEN, Client, Clock, until

from dfsfuse import errors
from dfsfuse.messages import (
    RANGE_END,
    Acquire,
    End,
    FileUsers,
    Granted,
    HeldLock,
    HeldRanges,
    LockList,
    LockRange,
    LostRanges,
    Nothing,
    ProbeRange,
    RangeConflict,
    RangeGranted,
    RangeRow,
    RenewedLocks,
    RenewLocks,
    UnlockRange,
    UseFile,
    to_msgpack,
)
from servers import lock_service
from servers.locks import Locks
from servers.range_locks import RangeLocks


class Programs(Client):
    """Programs of several sessions, each session with one owner. `cores` are the service's own, to look at."""

    def __init__(self, url: str, as_json: bool, cores: tuple[Locks, RangeLocks]):
        super().__init__(url, as_json)
        self.cores, self.ticket = cores, 0

    def next_ticket(self) -> int:
        self.ticket += 1
        return self.ticket

    def lock(self, session: int, start: int = 0, end: int = RANGE_END, **what: Any) -> RangeGranted:
        what = {"owner": session, "ino": INO, "ticket": what.get("ticket") or self.next_ticket(), **what}
        return self.call("lock_range", LockRange(session=session, start=start, end=end, **what), RangeGranted)

    def lock_later(self, session: int, start: int = 0, end: int = RANGE_END, **what: Any) -> Future[RangeGranted]:
        """Returns once the request stands in the queue."""
        places = len(self.queue())
        future = self.pool.submit(self.lock, session, start, end, **{"wait_s": DEADLINE_S, **what})
        until(lambda: len(self.queue()) > places, f"session {session} waits")
        return future

    def unlock(self, session: int, start: int = 0, end: int = RANGE_END, **what: Any) -> None:
        what = {"owner": session, "ino": INO, "ticket": self.next_ticket(), **what}
        self.call("unlock_range", UnlockRange(session=session, start=start, end=end, **what))

    def range_row(self) -> RangeRow:
        rows = self.call("locks", Nothing(), LockList).ranges
        return next((row for row in rows if row.ino == INO), RangeRow(ino=INO, path=b""))

    def queue(self) -> list[int]:
        return [waiter.session for waiter in self.range_row().waiters]

    def held(self) -> dict[int, list]:
        return {holder.session: holder.ranges for holder in self.range_row().holders}

    def renew_ranges(self, session: int, *rows: HeldRanges, **what: Any) -> RenewedLocks:
        request = RenewLocks(session=session, ranges=list(rows), **{"last_ticket": self.ticket, **what})
        return self.call("renew", request, RenewedLocks)


@contextlib.contextmanager
def range_server(
    lease_s: float = 60.0,
    as_json: bool = False,
    begun: bool = True,
    clock: Callable[[], float] = lock_service.boot_time_s,
):
    core, ranges = Locks(lease_s), RangeLocks(lease_s)
    if begun:
        core.begin(1, [], clock())
        ranges.begin([], clock())
    with served(lock_service.build(core, TOKEN, ranges=ranges, clock=clock)) as port:
        client = Programs(f"http://127.0.0.1:{port}", as_json, (core, ranges))
        yield client
        client.pool.shutdown(wait=True)


@pytest.fixture(params=[False, True], ids=["msgpack", "json"])
def programs(request):
    with range_server(as_json=request.param) as client:
        yield client


def test_every_operation(programs):
    """Goal: one round in both encodings, with numbers as large as they come."""
    largest = (1 << 64) - 1
    granted = programs.lock(1, 5, owner=largest, path=b"/db", host="mars", pid=7, command="sqlite")
    assert granted == RangeGranted(60.0, False)
    assert programs.lock(2, 0, 5) == RangeGranted(60.0, True)
    found = programs.call("probe_range", ProbeRange(session=3, ino=INO, owner=1), RangeConflict)
    assert (found.taken, found.session, found.start, found.end, found.write) == (True, 2, 0, 5, True)
    with pytest.raises(errors.WouldBlock, match=r"/db: sqlite \(pid 7\) on mars has bytes from 5 on"):
        programs.lock(3, 7, 9)
    assert programs.call("use_file", UseFile(session=3, ino=INO, ticket=programs.next_ticket()), FileUsers).elsewhere
    assert programs.held() == {1: [(5, RANGE_END, True)], 2: [(0, 5, True)]}
    listed = HeldRanges(ino=INO, owner=largest, ranges=[(5, RANGE_END, True)])
    assert programs.renew_ranges(1, listed).lost_ranges == []
    programs.unlock(1, 5, 10, owner=largest)
    assert programs.held()[1] == [(10, RANGE_END, True)]
    assert programs.renew_ranges(1, listed).lost_ranges == [LostRanges(INO, largest, "posix")]
    programs.call("end", End(2))
    assert programs.held() == {}


def test_a_lock_waits_inside_the_request(programs):
    """Goal: granted by the unlock, in the order of arrival."""
    programs.lock(1)
    second, third = programs.lock_later(2, 0, 10), programs.lock_later(3, 0, 10)
    other = programs.lock_later(4, 50, 60)
    programs.unlock(1)
    assert second.result(DEADLINE_S)
    assert other.result(DEADLINE_S)
    assert not third.done()
    programs.unlock(2)
    assert third.result(DEADLINE_S)


def test_a_wait_ends_by_the_services_own_timer(programs):
    """Goal: while nothing else happens."""
    programs.lock(1)
    with pytest.raises(errors.WouldBlock):
        programs.lock(2, wait_s=0.05)
    assert programs.queue() == []


def test_deadlock_is_told(programs):
    """Goal: EDEADLK travels."""
    programs.lock(1, 0, 1)
    programs.lock(2, 1, 2)
    waiting = programs.lock_later(1, 1, 2)
    with pytest.raises(errors.Deadlock):
        programs.lock(2, 0, 1, wait_s=DEADLINE_S)
    programs.unlock(2)
    assert waiting.result(DEADLINE_S)


def test_write_locks_are_given_back_with_the_request(programs):
    """Goal: one request does both, and the write lock comes first: who gets the range finds the file free."""
    tokens = [
        programs.call("acquire", Acquire(session=1, ino=ino, ticket=programs.next_ticket()), Granted).token
        for ino in (INO, 8)
    ]
    programs.lock(1, returned=[HeldLock(8, tokens[1])])
    waiting = programs.lock_later(2)
    programs.unlock(1, returned=[HeldLock(INO, tokens[0])])
    assert waiting.result(DEADLINE_S).writer == tokens[0], "nothing newer can have been written"
    assert programs.lock(2).writer == tokens[0]
    assert programs.call("locks", Nothing(), LockList).locks == []


def sent(client: Programs, request: LockRange) -> socket.socket:
    """A connection over which a request has been sent that now waits."""
    places, body = len(client.queue()), to_msgpack(request)
    connection = socket.create_connection(("127.0.0.1", int(client.url.rpartition(":")[2])), DEADLINE_S)
    head = f"POST /v1/lock_range HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    until(lambda: len(client.queue()) > places, "it waits")
    return connection


def test_a_caller_that_has_gone_is_passed_over_and_has_its_place_when_it_returns(programs):
    """Goal: nobody gets a lock that he would not hear of."""
    programs.lock(1)
    request = LockRange(session=2, ino=INO, owner=2, ticket=programs.next_ticket(), wait_s=DEADLINE_S)
    gone = sent(programs, request)
    third = programs.lock_later(3, write=False)
    gone.close()
    until(lambda: programs.cores[1]._away, "the service has noticed")
    programs.unlock(1)
    assert third.result(DEADLINE_S)
    again = programs.pool.submit(programs.call, "lock_range", request, RangeGranted)
    until(lambda: not programs.cores[1]._away, "session 2 is back")
    programs.unlock(3)
    assert again.result(DEADLINE_S)


def test_who_stands_behind_one_that_has_gone_is_served(programs):
    """Goal: the closed connection itself is what frees the way."""
    programs.lock(1, write=False)
    gone = sent(programs, LockRange(session=2, ino=INO, owner=2, ticket=programs.next_ticket(), wait_s=DEADLINE_S))
    third = programs.lock_later(3, write=False)
    gone.close()
    assert third.result(DEADLINE_S)


def test_a_silent_client_loses_its_range_locks():
    """Goal: S7, by the service's timer, while nothing else happens; the waiter, which has renewed, is served, the
    former holder learns it."""
    clock = Clock()
    with range_server(lease_s=0.3, clock=clock) as programs:
        programs.lock(1)
        ticket = programs.next_ticket()
        waiting = programs.lock_later(2, ticket=ticket)
        clock.now_s += 0.2
        programs.renew_ranges(2, waiting=[ticket])
        clock.now_s += 0.2
        assert waiting.result(DEADLINE_S)
        row = HeldRanges(ino=INO, owner=1, ranges=[(0, RANGE_END, True)])
        assert programs.renew_ranges(1, row).lost_ranges == [LostRanges(INO, 1, "posix")]


def test_a_service_that_does_not_know_its_sessions_yet():
    """Goal: who does not wait is told to ask again, who waits is granted when granting begins."""
    with range_server(begun=False) as programs:
        with pytest.raises(errors.Starting):
            programs.lock(1)
        waiting = programs.lock_later(1)
        core, ranges = programs.cores
        assert core.begin(1, [], lock_service.boot_time_s()) == []
        ranges.begin([9], lock_service.boot_time_s())
        programs.renew_ranges(9)
        assert waiting.result(DEADLINE_S)


@pytest.mark.parametrize("body", [
    b'{"session": 1, "ino": 1, "owner": 1, "ticket": 1, "kind": "mandatory"}',
    b'{"session": 1, "ino": 1, "owner": 1, "ticket": 1, "start": 5, "end": 5}',
    b'{"session": 1, "ino": 1, "ticket": 1}',
])  # fmt: skip
def test_bad_requests(programs, body):
    """Goal: refused, and nothing is locked."""
    reply = programs.raw("POST", "lock_range", body, **{"content-type": "application/json"})
    assert reply.status_code == 400
    assert programs.held() == {}


def test_many_wait_for_one_lock(programs, record_property):
    """Goal: served one after the other, without those who wait costing those who come."""
    programs.lock(1)
    count, started = 14, time.monotonic()
    waiting = [programs.lock_later(10 + number) for number in range(count)]
    record_property("queued_s", round(time.monotonic() - started, 3))
    for number in range(count):
        programs.unlock(10 + number - 1 if number else 1)
        assert waiting[number].result(DEADLINE_S)
    assert programs.held() == {10 + count - 1: [(0, RANGE_END, True)]}
