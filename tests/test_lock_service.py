"""The lock service over real HTTP: waiting inside the request, closed connections, bad input, the directory's part."""

import asyncio
import contextlib
import itertools
import json
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import requests
from file_group import free_port
from support import served

from dfsfuse import errors
from dfsfuse.messages import (
    Acquire,
    Cluster,
    End,
    Granted,
    HeldLock,
    LockList,
    LockRow,
    Message,
    Nothing,
    Register,
    Registered,
    ReleaseLocks,
    RenewedLocks,
    RenewLocks,
    Server,
    WantedLocks,
    WatchLocks,
    from_json,
    from_msgpack,
    to_json,
    to_msgpack,
)
from servers import lock_service, queues
from servers.http import App, ErrorReply, Operation
from servers.lock_service import LockService, description_of, stay_registered
from servers.locks import LOCK_LEASE_S, Locks
from servers.peers import Peers
from servers.registration import FORMING_S

TOKEN = "a-token-of-this-test"
DEADLINE_S = 20.0
INO = 7


def until(condition, what: str):
    """The first true value of `condition`, asked again until the deadline."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


class Client:
    """One program that talks to the lock service, in msgpack or in JSON. `core` is the service's own, to look at."""

    def __init__(self, url: str, as_json: bool = False, core: Locks | None = None):
        self.url, self.as_json, self.core = url, as_json, core
        self.pool = ThreadPoolExecutor(16)

    def call(self, operation: str, request: Message, kind: type = Nothing):
        """Raises what the service answered."""
        body = (to_json if self.as_json else to_msgpack)(request)
        reply = self.raw("POST", operation, body)
        decode = from_json if self.as_json else from_msgpack
        if reply.status_code == 200:
            return decode(reply.content, kind)
        error = decode(reply.content, ErrorReply)
        assert reply.status_code == errors.BY_CODE[error.code].status
        raise errors.from_wire(error.code, error.message, error.detail)

    def raw(self, method: str, operation: str, body: bytes = b"", **headers: str) -> requests.Response:
        kind = "application/json" if self.as_json else "application/msgpack"
        headers = {"content-type": kind, "authorization": f"Bearer {TOKEN}", **headers}
        with requests.Session() as http:
            http.trust_env = False
            return http.request(method, f"{self.url}/v1/{operation}", data=body, headers=headers, timeout=DEADLINE_S)

    def acquire(self, session: int, ticket: int = 1, wait_s: float = DEADLINE_S, **what) -> Granted:
        request = Acquire(**{"session": session, "ino": INO, "ticket": ticket, "wait_s": wait_s, **what})
        return self.call("acquire", request, Granted)

    def acquire_later(self, session: int, ticket: int = 1, wait_s: float = DEADLINE_S) -> Future[Granted]:
        """Returns once the request stands in the queue."""
        places = len(self.waiters())
        future = self.pool.submit(self.acquire, session, ticket, wait_s)
        until(lambda: len(self.waiters()) > places, f"session {session} waits")
        return future

    def release(self, session: int, token: int) -> None:
        self.call("release", ReleaseLocks(session, [HeldLock(INO, token)]))

    def renew(self, session: int, *tokens: int, waiting=(), last_ticket: int = 1) -> RenewedLocks:
        held = [HeldLock(INO, token) for token in tokens]
        request = RenewLocks(session=session, held=held, waiting=list(waiting), last_ticket=last_ticket)
        return self.call("renew", request, RenewedLocks)

    def row(self) -> LockRow | None:
        return next((row for row in self.call("locks", Nothing(), LockList).locks if row.ino == INO), None)

    def waiters(self) -> list[int]:
        row = self.row()
        return [waiter.session for waiter in row.waiters] if row else []


class Clock:
    """A service's clock that stands still until the test moves it: no lease ends because this machine is slow."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@contextlib.contextmanager
def lock_server(lease_s: float = 60.0, as_json: bool = False, clock: Callable[[], float] = lock_service.boot_time_s):
    core = Locks(lease_s)
    core.begin(1, [], clock())
    with served(lock_service.build(core, TOKEN, clock=clock)) as port:
        url = f"http://127.0.0.1:{port}"
        client = Client(url, as_json, core)
        yield client
        client.pool.shutdown(wait=True)


@pytest.fixture(scope="module")
def shared():
    """One service for many tests, each of which leaves no lock behind."""
    with lock_server() as client:
        yield client


@pytest.fixture(params=[False, True], ids=["msgpack", "json"])
def client(request):
    with lock_server(as_json=request.param) as client:
        yield client


# -- locks


def test_acquire_list_release_and_status(client):
    """Goal: one round of every operation, in both encodings; the listing shows who holds what."""
    grant = client.acquire(1, path=b"/notes.txt", host="mars", pid=4711, command="vim")
    assert (grant.token >> 32, grant.lease_s) == (1, 60.0)
    row = client.row()
    assert (row.token, row.session, row.path, row.host) == (grant.token, 1, b"/notes.txt", "mars")
    assert (row.pid, row.command) == (4711, "vim")
    assert client.renew(1, grant.token) == RenewedLocks(start_number=1)
    with pytest.raises(errors.WouldBlock, match=r"notes\.txt.*vim.*4711.*mars"):
        client.acquire(2, wait_s=0)
    client.release(1, grant.token)
    assert client.row() is None
    assert client.renew(1, grant.token).lost == [HeldLock(INO, grant.token)]
    assert client.call("status", Nothing(), Server).kind == "locks"


def test_the_request_waits_until_the_release(client, record_property):
    """Goal: the grant comes as the answer of the waiting request, long before its wait ends, without asking again."""
    first = client.acquire(1)
    waiting = client.acquire_later(2)
    released_at = time.monotonic()
    client.release(1, first.token)
    assert waiting.result(DEADLINE_S).token > first.token
    waited_s = time.monotonic() - released_at
    record_property("granted_after_ms", round(1e3 * waited_s, 1))
    assert waited_s < DEADLINE_S / 4
    assert client.row().session == 2


def test_s5_three_waiters_are_served_in_order(client):
    """Goal: FIFO over HTTP."""
    token = client.acquire(1).token
    waiting = [client.acquire_later(session) for session in (4, 2, 3)]
    assert client.waiters() == [4, 2, 3]
    holder = 1
    for session, future in zip((4, 2, 3), waiting, strict=True):
        assert not future.done()
        client.release(holder, token)
        holder, token = session, future.result(DEADLINE_S).token


def test_s5_a_wait_ends_with_busy(client):
    """Goal: the service's own timer ends a wait, while nothing else happens."""
    client.acquire(1, command="vim")
    with pytest.raises(errors.Busy, match="vim"):
        client.acquire(2, wait_s=0.05)
    assert client.waiters() == []


def test_s7_a_silent_client_loses_its_lock():
    """Goal: leases end by the service's timer, while nothing else happens; the waiter, which has renewed, is served,
    the former holder learns it."""
    clock = Clock()
    with lock_server(lease_s=0.3, clock=clock) as client:
        first = client.acquire(1)
        waiting = client.acquire_later(2)
        clock.now_s += 0.2
        client.renew(2, waiting=[1])
        clock.now_s += 0.2
        assert waiting.result(DEADLINE_S).token > first.token
        assert client.renew(1, first.token).lost == [HeldLock(INO, first.token)]


def test_a_lock_that_is_kept_goes_to_who_asks(client):
    """Goal: S5. The request that waits is answered as soon as another session wants a lock; an answer is taken at once,
    and does not wait for more."""
    token = client.acquire(1).token
    for watch in (WatchLocks(session=1, returned=[HeldLock(8, 1)]), WatchLocks(session=1, used=[HeldLock(8, 1)])):
        assert client.call("watch", watch, WantedLocks).locks == []
    waits = client.pool.submit(client.call, "watch", WatchLocks(session=1), WantedLocks)
    impatient = client.pool.submit(client.acquire, 2, wait_s=0)
    assert waits.result(DEADLINE_S).locks == [HeldLock(INO, token)]
    answer = WatchLocks(session=1, returned=[HeldLock(INO, token)])
    assert client.call("watch", answer, WantedLocks).locks == []
    assert impatient.result(DEADLINE_S).token > token


def test_a_request_that_waits_for_recalls_ends(client, monkeypatch):
    """Goal: after a while without any, and with its session."""
    monkeypatch.setattr(lock_service, "WATCH_S", 0.05)
    assert client.call("watch", WatchLocks(session=1), WantedLocks).locks == []
    monkeypatch.setattr(lock_service, "WATCH_S", DEADLINE_S)
    waits = client.pool.submit(client.call, "watch", WatchLocks(session=1), WantedLocks)
    until(lambda: not waits.done(), "it waits")
    client.call("end", End(1))
    with pytest.raises(errors.SessionEnded):
        waits.result(DEADLINE_S / 2)


def test_the_end_of_a_session_frees_its_locks_and_answers_its_waiters(client):
    """Goal: unmounting is seen at once, also by the session's own waiting requests."""
    client.acquire(1)
    own, other = client.acquire_later(1, ticket=2), client.acquire_later(2)
    client.call("end", End(1))
    assert other.result(DEADLINE_S)
    with pytest.raises(errors.SessionEnded):
        own.result(DEADLINE_S)
    with pytest.raises(errors.SessionEnded):
        client.renew(1)


def test_a_renewal_answers_who_was_given_up(client):
    """Goal: the request of an interrupted program ends although its connection is still open."""
    client.acquire(1)
    waiting = client.acquire_later(2, ticket=5)
    client.renew(2, last_ticket=5)
    with pytest.raises(errors.Interrupted):
        waiting.result(DEADLINE_S)


def test_a_service_that_stood_still_takes_nobody_for_silent():
    """Goal: renewals that came while the service did not run are heard before it decides that a session is silent; the
    holder keeps its lock and the waiter its place. Without them they lapse a little later."""
    now = [100.0]

    async def scenario() -> None:
        core = Locks()
        core.begin(1, [], now[0])
        service = lock_service.LockService(core, Server(kind="locks", name="locks", url=""), lambda: now[0])
        gone = asyncio.get_running_loop().create_future()
        token = service.acquire(Acquire(session=1, ino=INO, ticket=1), gone).token
        waiting = asyncio.ensure_future(service.acquire(Acquire(session=2, ino=INO, ticket=1, wait_s=100.0), gone))
        now[0] += 3600.0
        assert service.renew(RenewLocks(session=2, waiting=[1], last_ticket=1)).lost == []
        assert service.renew(RenewLocks(session=1, held=[HeldLock(INO, token)], last_ticket=1)).lost == []
        assert [row.token for row in service.locks(Nothing()).locks] == [token]
        now[0] += LOCK_LEASE_S + 0.1
        assert service.locks(Nothing()).locks == []
        with pytest.raises(errors.Busy):
            await waiting

    asyncio.run(scenario())


# -- connections


def waiting_connection(client: Client, session: int, ticket: int = 1) -> socket.socket:
    """A socket over which an acquire has been sent that now waits."""
    places = len(client.waiters())
    body = to_msgpack(Acquire(session=session, ino=INO, ticket=ticket, wait_s=DEADLINE_S))
    connection = socket.create_connection(("127.0.0.1", int(client.url.rpartition(":")[2])), DEADLINE_S)
    head = f"POST /v1/acquire HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    until(lambda: len(client.waiters()) > places, f"session {session} waits")
    return connection


def test_closing_the_connection_withdraws_the_claim(client, monkeypatch):
    """Goal: the place of a caller that has gone is free after a while, by the service's timer."""
    monkeypatch.setattr(queues, "TICKET_RETURN_S", 0.1)
    client.acquire(1)
    waiting_connection(client, 2).close()
    until(lambda: client.waiters() == [], "the ticket of session 2 is dropped")


def test_a_broken_connection_returns_to_its_place(client):
    """Goal: the same ticket over a new connection is the old place, before those who came meanwhile."""
    token = client.acquire(1).token
    first = waiting_connection(client, 2)
    later = client.acquire_later(3)
    first.close()
    until(lambda: client.core._queues.away, "the service has noticed")
    again = client.pool.submit(client.acquire, 2)
    until(lambda: not client.core._queues.away, "session 2 is back")
    assert client.waiters() == [2, 3]
    client.release(1, token)
    token = again.result(DEADLINE_S).token
    assert not later.done()
    client.release(2, token)
    assert later.result(DEADLINE_S)


def test_a_caller_that_has_gone_is_passed_over(client, monkeypatch):
    """Goal: the next one that listens gets the lock, though the place of the absent one is still kept."""
    monkeypatch.setattr(queues, "TICKET_RETURN_S", DEADLINE_S)
    token = client.acquire(1).token
    gone = waiting_connection(client, 2)
    waiting = client.acquire_later(3)
    gone.close()
    until(lambda: client.core._queues.away, "the service has noticed")
    client.release(1, token)
    assert waiting.result(DEADLINE_S)
    assert (client.row().session, client.waiters()) == (3, [2])


# -- what is not of the form


@pytest.mark.parametrize(
    ("method", "operation", "body", "headers", "status"),
    [
        ("POST", "no-such-thing", b"", {}, 404),
        ("POST", "acquire/more", b"", {}, 404),
        ("GET", "acquire", b"", {}, 405),
        ("POST", "acquire", b"", {"authorization": ""}, 401),
        ("POST", "acquire", b"", {"authorization": "Bearer another"}, 401),
        ("POST", "acquire", b"\xc1", {}, 400),
        ("POST", "acquire", b"{", {"content-type": "application/json"}, 400),
        ("POST", "acquire", b"[]", {"content-type": "application/json"}, 400),
        ("POST", "acquire", b'{"session": "one", "ino": 1, "ticket": 1}', {"content-type": "application/json"}, 400),
        ("POST", "acquire", b'{"session": 1, "ino": 1}', {"content-type": "application/json"}, 400),
        ("POST", "acquire", b'{"session": 1, "ino": -1, "ticket": 1}', {"content-type": "application/json"}, 400),
        ("POST", "renew", b'{"session": 1, "held": [1]}', {"content-type": "application/json"}, 400),
        ("POST", "release", b'{"session": 1}', {"content-type": "application/json"}, 400),
        ("POST", "end", to_msgpack(End(0)), {}, 400),
    ],
)
def test_bad_input_is_refused_and_the_service_goes_on(shared, method, operation, body, headers, status):
    """Goal: each mistake has its status and a message; locks and waiters are as before."""
    token = shared.acquire(1).token
    waiting = shared.acquire_later(2)
    reply = shared.raw(method, operation, body, **headers)
    assert reply.status_code == status
    assert reply.content
    assert (shared.row().token, shared.waiters()) == (token, [2])
    shared.release(1, token)
    shared.release(2, waiting.result(DEADLINE_S).token)


def test_errors_in_json_can_be_read():
    """Goal: who tries an operation with curl is told what is wrong, in the encoding of the request."""
    with lock_server(as_json=True) as client:
        reply = json.loads(
            client.raw("POST", "acquire", b'{"session": 1, "ino": 1, "ticket": 1, "wait_s": -1}').content
        )
        assert (reply["code"], "wait_s" in reply["message"]) == ("invalid_argument", True)


# -- the directory's part


@contextlib.contextmanager
def directory(sessions: list[int], heartbeats: list[Server], port: int):
    """As much of a directory service as a lock service sees."""
    starts = itertools.count(5)

    def register(request: Register) -> Registered:
        heartbeats.append(request.server)
        cluster = Cluster(volume="v", copies=1, copies_min=1)
        return Registered(cluster=cluster, start_number=next(starts) if request.start else 0, sessions=sessions)

    with served(App(TOKEN, {"register": Operation(Register, register)}), port):
        yield


RUN = """
import asyncio, pathlib, sys
from servers.lock_service import run
asyncio.run(run(pathlib.Path("."), "127.0.0.1", int(sys.argv[1]), sys.argv[2], sys.argv[3]))
"""


@contextlib.contextmanager
def lock_process(port: int, directory_url: str):
    """The service as it runs on a server machine; killed at the end, as by a crash."""
    arguments = [sys.executable, "-c", RUN, str(port), TOKEN, directory_url]
    process = subprocess.Popen(arguments, cwd=pathlib.Path(__file__).parent.parent)
    client = Client(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return client.raw("POST", "status").status_code == 200
        return False

    try:
        until(answers, "the service answers")
        yield client
    finally:
        process.kill()
        process.wait()


def test_registration_restart_and_re_assertion():
    """Goal: nothing is granted before the directory answers; after a crash the holder keeps its lock, tokens rise.

    Method: the real process twice, with a directory that is late the first time.
    """
    sessions: list[int] = []
    heartbeats: list[Server] = []
    port, directory_port = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        with lock_process(port, f"http://127.0.0.1:{directory_port}") as client:
            early = client.acquire_later(1)
            stack.enter_context(directory(sessions, heartbeats, directory_port))
            token = early.result(DEADLINE_S).token
            assert token >> 32 == 5
            until(lambda: len(heartbeats) >= 3, "heartbeats arrive")
            assert (heartbeats[-1].kind, heartbeats[-1].url) == ("locks", client.url)
        sessions += [1, 2]
        with lock_process(port, f"http://127.0.0.1:{directory_port}") as client:
            waiting = client.acquire_later(2, ticket=4)
            client.renew(2, waiting=[4], last_ticket=4)
            assert client.renew(1, token).lost == []
            assert client.row().token == token
            assert not waiting.done()
            client.release(1, token)
            assert waiting.result(DEADLINE_S).token >> 32 == 6


def test_the_service_ends_before_its_tokens_do():
    """Goal: a start number that is nearly used up ends the process, for a supervisor to start it anew."""
    core = Locks()
    core.begin(1, [], 0.0)
    lock_service._check_tokens(core)
    core.tokens.given = (1 << 32) - lock_service.TOKENS_RESERVE
    with pytest.raises(errors.Internal, match="few tokens"):
        lock_service._check_tokens(core)


def test_a_cancelled_request_withdraws():
    """Goal: a request that the server itself cancels (as at its end) leaves no waiter and no unheard error behind."""

    async def scenario() -> None:
        core = Locks()
        core.begin(1, [], lock_service.boot_time_s())
        service = lock_service.LockService(core, Server(kind="locks", name="locks", url=""))
        gone = asyncio.get_running_loop().create_future()
        service.acquire(Acquire(session=1, ino=INO, ticket=1), gone)
        task = asyncio.ensure_future(service.acquire(Acquire(session=2, ino=INO, ticket=1), gone))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert service._callers == {}

    asyncio.run(scenario())


def test_who_may_not_serve_any_more_tells_the_directory_nothing():
    """Goal: S5: a lock server that stood still, and goes on when another one serves, is not taken for the one that
    serves."""
    heartbeats, serves = [], [True]

    def check() -> None:
        if not serves[0]:
            raise errors.NotServing("over")

    async def stay() -> None:
        peers, core = Peers(TOKEN), Locks()
        service = LockService(core, description_of("http://127.0.0.1:1"))
        working = asyncio.ensure_future(stay_registered(service, core, peers, f"http://127.0.0.1:{port}", check))
        while len(heartbeats) < 3:
            await asyncio.sleep(0.01)
        serves[0], told = False, len(heartbeats)
        await asyncio.sleep(3 * FORMING_S)
        assert len(heartbeats) <= told + 1
        serves[0] = True
        while len(heartbeats) < told + 3:
            await asyncio.sleep(0.01)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await peers.close()

    port = free_port()
    with directory([], heartbeats, port):
        asyncio.run(asyncio.wait_for(stay(), 20))
