"""Requests of the client, over real sockets, to a server that does what each test wants: connections are used again,
replies come in any parts, and what does not come ends the waiting."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from file_group import TOKEN
from support import served

from dfsfuse import errors
from dfsfuse.http_connection import PATIENT_S, Wait
from dfsfuse.meanwhile import Meanwhile
from dfsfuse.messages import Message, Nothing
from dfsfuse.rpc import Rpc
from servers.exchange import Exchange
from servers.http import App, Operation, Raw

TIMEOUT_S = 20.0
BODY = bytes(range(256)) * 2000


class Word(Message):
    word: str = ""


class Server:
    """Accepts connections one after another and handles each in a thread by `script(connection, its number)`."""

    def __init__(self, script: Callable[[socket.socket, int], None]):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._script, self.accepted = script, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count():
                connection, _ = self._listening.accept()
                self.accepted += 1
                threading.Thread(target=self._handle, args=(connection, number), daemon=True).start()

    def _handle(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            self._script(connection, number)

    def close(self) -> None:
        """Shutting it down first ends the waiting `accept`, which would keep the port."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextlib.contextmanager
def server(script: Callable[[socket.socket, int], None]) -> Iterator[Server]:
    made = Server(script)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def rpc() -> Iterator[Rpc]:
    made = Rpc(TOKEN)
    yield made
    made.close()


def request_of(connection: socket.socket) -> bytes:
    """The next request, head and body; ConnectionError at the end of the stream."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1) or _ended()
    length = int(data.partition(b"content-length: ")[2].partition(b"\r")[0])
    while length:
        data += (part := connection.recv(length) or _ended())
        length -= len(part)
    return data


def _ended() -> bytes:
    raise ConnectionError


def answer(body: bytes = b"\x80", status: str = "200 OK", *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


def ping(rpc: Rpc, url: str, timeout_s: float = TIMEOUT_S, interrupted: Callable[[], bool] | None = None) -> Nothing:
    return rpc.call(url, "ping", Nothing(), Nothing, timeout_s, interrupted)


def get(rpc: Rpc, url: str) -> bytes:
    buffer = memoryview(bytearray(2 * len(BODY)))
    return bytes(buffer[: rpc.get_chunk(url, bytes(32), buffer, TIMEOUT_S)])


def test_one_connection_serves_request_after_request(rpc: Rpc) -> None:
    """Goal: operations, uploads, downloads and errors all leave the connection usable; nothing connects anew."""

    def script(connection: socket.socket, number: int) -> None:
        replies = {b"POST": answer(), b"PUT ": answer(b"\x81\xa8receipts\x90"), b"GET ": answer(BODY)}
        for count in itertools.count():
            method = request_of(connection)[:4]
            refused = answer(b"\x81\xa4code\xa9not_found", "404 Not Found")
            connection.sendall(refused if method == b"POST" and count % 2 else replies[method])

    with server(script) as there:
        for _ in range(10):
            ping(rpc, there.url)
            with pytest.raises(errors.NotFound):
                ping(rpc, there.url)
            assert rpc.put_chunk(there.url, bytes(32), BODY, "", TIMEOUT_S).receipts == []
            assert get(rpc, there.url) == BODY
        assert there.accepted == 1


def test_with_a_real_server_too(rpc: Rpc) -> None:
    """Goal: the same between this client and our own server: one connection for everything."""
    seen: set[int] = set()

    async def chunk(exchange: Exchange, rest: str) -> None:
        seen.add(id(exchange._connection))
        exchange.begin(200, len(BODY), b"text/plain")
        await exchange.send(BODY[:70_000])
        await exchange.send(BODY[70_000:])
        exchange.end()

    app = App(TOKEN, {"ping": Operation(Nothing, lambda request: request)}, {"chunks": Raw(chunk, 0)})
    with served(app) as port:
        url = f"http://127.0.0.1:{port}"
        for _ in range(20):
            ping(rpc, url)
            assert get(rpc, url) == BODY
    assert len(seen) == 1


def test_a_reply_in_small_parts(rpc: Rpc) -> None:
    """Goal: it does not matter how a reply is cut on its way, nor that its length is not announced."""
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (BODY[:3], BODY[3:])) + b"0\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + parts
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" + answer(BODY)

    def script(connection: socket.socket, number: int) -> None:
        for reply in (answer(BODY), chunked, interim):
            request_of(connection)
            for start in range(0, len(reply), 4999):
                connection.sendall(reply[start : start + (1 if start < 200 else 4999)])
                if start < 200:
                    connection.sendall(reply[start + 1 : start + 4999])

    with server(script) as there:
        for _ in range(3):
            assert get(rpc, there.url) == BODY
        assert there.accepted == 1


def test_a_connection_that_was_closed_meanwhile(rpc: Rpc) -> None:
    """Goal: a request that meets a connection which the server has closed is sent again over a fresh one."""
    may_close = threading.Event()
    closed = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        request_of(connection)
        connection.sendall(answer())
        may_close.wait(TIMEOUT_S)
        connection.close()
        closed.set()

    with server(script) as there:
        ping(rpc, there.url)
        may_close.set()
        assert closed.wait(TIMEOUT_S)
        ping(rpc, there.url)
        assert there.accepted == 2


def test_a_server_that_breaks_off(rpc: Rpc) -> None:
    """Goal: Unreachable, naming the server, when a fresh connection ends without a reply, or within one."""
    for reply in (b"", b"HTTP/1.1 200", answer(BODY)[:1000], b"SSH-2.0-OpenSSH\r\n"):
        with server(lambda connection, _, reply=reply: (request_of(connection), connection.sendall(reply))) as there:
            with pytest.raises(errors.Unreachable, match=there.url):
                ping(rpc, there.url)
    with pytest.raises(errors.Unreachable, match="refuses connections"):
        ping(rpc, there.url)


def test_an_error_that_comes_before_the_body_has_left(rpc: Rpc) -> None:
    """Goal: a server that refuses an upload and closes is heard, though its refusal breaks the sending off."""

    def script(connection: socket.socket, number: int) -> None:
        connection.recv(100)
        connection.sendall(answer(b"\x81\xa4code\xabnot_primary", "421 Misdirected", "connection: close"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    with server(script) as there, pytest.raises(errors.NotPrimary):
        rpc.put_chunk(there.url, bytes(32), bytes(4 << 20), "", TIMEOUT_S)


def test_silence_ends_at_the_deadline(rpc: Rpc) -> None:
    """Goal: TimedOut after the time-out, whether nothing comes or bytes trickle; a later request is not answered with
    what comes too late."""
    release = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        request_of(connection)
        if number == 0:
            release.wait(TIMEOUT_S)
        if number == 1:
            connection.sendall(b"HTTP/1.1 200 OK\r\nfield: ")
        while number == 1:
            connection.sendall(b"x")
            time.sleep(0.01)
        connection.sendall(answer())

    with server(script) as there:
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(errors.TimedOut):
                ping(rpc, there.url, 0.2)
            assert 0.2 <= time.monotonic() - begun < TIMEOUT_S
            release.set()
        ping(rpc, there.url)


def test_who_is_patient_wakes_up_rarely(rpc: Rpc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a request that waits at a server all the time costs a wake-up each half second; what is asked next over the
    same connection ends at its deadline all the same."""
    release, checks = threading.Event(), list[float]()
    check = Wait.check

    def counted(wait: Wait, since: float) -> None:
        checks.append(time.monotonic())
        check(wait, since)

    def script(connection: socket.socket, number: int) -> None:
        if number == 0:
            request_of(connection)
            connection.sendall(answer())
        request_of(connection)
        release.wait(TIMEOUT_S)

    monkeypatch.setattr(Wait, "check", counted)
    with server(script) as there:
        rpc.call(there.url, "ping", Nothing(), Nothing, TIMEOUT_S, patient=True)
        begun = time.monotonic()
        with pytest.raises(errors.TimedOut):
            ping(rpc, there.url, 0.2)
        assert time.monotonic() - begun < PATIENT_S
        checks.clear()
        with pytest.raises(errors.TimedOut):
            rpc.call(there.url, "ping", Nothing(), Nothing, 2 * PATIENT_S, patient=True)
        release.set()
    assert len(checks) <= 3


def test_a_download_that_stalls(rpc: Rpc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a chunk that stops coming is given up long before its deadline, as other servers have it too."""
    monkeypatch.setattr("dfsfuse.rpc._STALL_S", 0.2)
    ended = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        request_of(connection)
        connection.sendall(answer(BODY)[:100_000])
        ended.wait(TIMEOUT_S)

    with server(script) as there:
        begun = time.monotonic()
        with pytest.raises(errors.TimedOut):
            get(rpc, there.url)
        assert time.monotonic() - begun < TIMEOUT_S / 2
        ended.set()


def test_who_is_interrupted_waits_no_longer(rpc: Rpc) -> None:
    """Goal: Interrupted soon after the program was, and the server sees the connection closed."""
    gone = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        request_of(connection)
        if not connection.recv(1):
            gone.set()

    with server(script) as there:
        asked = itertools.count()
        with pytest.raises(errors.Interrupted):
            ping(rpc, there.url, TIMEOUT_S, lambda: next(asked) >= 3)
        assert gone.wait(TIMEOUT_S)


def test_a_reply_that_is_too_large(rpc: Rpc) -> None:
    """Goal: a length that no reply has is refused before anything is allocated for it."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n"
    with server(lambda connection, _: (request_of(connection), connection.sendall(head))) as there:
        with pytest.raises(errors.Unreachable, match="at most"):
            ping(rpc, there.url)


def test_what_is_done_meanwhile(rpc: Rpc) -> None:
    """Goal: it is done once the request has been sent and before its reply has come, and its error is the caller's
    when he asks for the result, not the request's."""
    received, go_on = threading.Event(), threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        connection.recv(1 << 16)
        received.set()
        go_on.wait(TIMEOUT_S)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\x80")

    def work() -> str:
        assert received.wait(TIMEOUT_S)
        go_on.set()
        raise errors.NoSpace("full")

    with server(script) as there:
        meanwhile = Meanwhile(work)
        assert rpc.call(there.url, "ping", Nothing(), Nothing, TIMEOUT_S, meanwhile=meanwhile) == Nothing()
        assert meanwhile.value is None
        with pytest.raises(errors.NoSpace):
            meanwhile.result()


def test_many_threads_at_once(rpc: Rpc) -> None:
    """Goal: each gets its own answer, over as many connections as there are requests at a time, and no more."""
    app = App(TOKEN, {"same": Operation(Word, lambda request: request)})
    wrong: list[str] = []

    def ask(url: str, name: str) -> None:
        for count in range(200):
            word = f"{name} {count}"
            if rpc.call(url, "same", Word(word), Word, TIMEOUT_S).word != word:
                wrong.append(word)

    with served(app) as port:
        url = f"http://127.0.0.1:{port}"
        threads = [threading.Thread(target=ask, args=(url, f"{n}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert not wrong
        assert len(rpc._idle[("127.0.0.1", port)]) <= 8


def test_a_server_that_was_away_returns(rpc: Rpc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: who waits for a server hears of its first answer after it was away, once; one that fails a request now and
    then, as on a slow line, has not been away."""
    returns: list[int] = []
    rpc.on_return(lambda: returns.append(1))

    def script(connection: socket.socket, number: int) -> None:
        if number % 2:
            request_of(connection)
            connection.sendall(answer())

    with server(script) as away:
        for returned in (0, 1):
            monkeypatch.setattr("dfsfuse.rpc._AWAY_S", 0.0 if returned else 1000.0)
            with pytest.raises(errors.Unreachable):
                ping(rpc, away.url)
            assert ping(rpc, away.url) == Nothing()
            assert len(returns) == returned


def test_a_connection_that_nobody_accepts_is_interrupted() -> None:
    """Goal: whoever waits for a connection, as the other side is cut off, is asked as often as for a reply."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            # What nobody accepts fills the queue; from then on the kernel answers nobody.
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url, began = f"http://127.0.0.1:{full.getsockname()[1]}", time.monotonic()
        with pytest.raises(errors.Interrupted):
            Rpc(TOKEN).call(url, "word", Nothing(), Word, TIMEOUT_S, lambda: time.monotonic() > began + 0.2)
        assert time.monotonic() - began < 1
