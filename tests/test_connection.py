"""Connections of a server, over real sockets: what belongs to a body and what to the next request; order; refusals;
what ends a connection and what does not."""

import asyncio
import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvloop
from file_group import DEADLINE_S, TOKEN
from support import served, wait_until

from dfsfuse.messages import BODY_BYTES_MAX, Message, Nothing
from servers import connection as connections
from servers import exchange as exchanges
from servers.exchange import Exchange
from servers.http import App, Operation, Raw

SIZE = 300_000
SMALL = 70_000
STALL_S = 0.3
GONE: list[str] = []
OVERWRITTEN: list[int] = []


class Word(Message):
    word: str = ""


async def echo(exchange: Exchange, rest: str) -> None:
    """Answers with the body."""
    body = exchange.body
    if exchange.length > SMALL:
        body = bytes(await exchange.receive_into(memoryview(bytearray(SIZE)), STALL_S))
    exchange.reply(200, body, b"text/plain")


async def pieces(exchange: Exchange, rest: str) -> None:
    """A reply of so many bytes, piece by piece; "broken": it breaks off after the first."""
    size, _, broken = rest.partition("/")
    exchange.begin(200, int(size), b"text/plain")
    for start in range(0, int(size), 65536):
        await exchange.send(bytes(min(65536, int(size) - start)))
        if broken:
            break
    exchange.end(not broken)


async def whole(exchange: Exchange, rest: str) -> None:
    """A reply of so many bytes from a buffer, which is overwritten as soon as it may be."""
    buffer = memoryview(bytearray(b"x" * int(rest)))
    try:
        await exchange.send_whole(buffer, b"text/plain", (), STALL_S)
    finally:
        buffer[:] = bytes(len(buffer))
        OVERWRITTEN.append(len(buffer))


async def slowly(request: Word) -> Word:
    await asyncio.sleep(0.05)
    return request


def fails(request: Nothing) -> Nothing:
    raise RuntimeError("on purpose")


async def waits(request: Word, gone: asyncio.Future) -> Word:
    await gone
    GONE.append(request.word)
    return request


OPERATIONS = {
    "same": Operation(Word, lambda request: request), "slowly": Operation(Word, slowly),
    "fails": Operation(Nothing, fails), "waits": Operation(Word, waits, waits=True),
}  # fmt: skip


@pytest.fixture(scope="module", params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    app = App(TOKEN, OPERATIONS, {"echo": Raw(echo, SMALL), "pieces": Raw(pieces, SMALL), "whole": Raw(whole, SMALL)})
    with served(app, loop_factory=request.param) as port:
        yield port


@pytest.fixture
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        yield connection


def head(length: int, line: str = "PUT /v1/echo/x", *more: str) -> bytes:
    fields = ["host: test", f"authorization: Bearer {TOKEN}", f"content-length: {length}", *more]
    return "\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode()


def post(operation: str, word: str) -> bytes:
    body = json.dumps({"word": word}).encode()
    return head(len(body), f"POST /v1/{operation}", "content-type: application/json") + body


def reply(connection: socket.socket) -> tuple[bytes, bytes]:
    """(head, body) of the next reply."""
    fields = b""
    while b"\r\n\r\n" not in fields:
        fields += connection.recv(1) or pytest.fail(f"closed within the head {fields!r}")
    length = int(fields.partition(b"content-length: ")[2].partition(b"\r")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body)) or pytest.fail("closed within the body")
    return fields, body


def ends(connection: socket.socket) -> bool:
    """The other side closes it, having sent no more."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def word(connection: socket.socket) -> str:
    return json.loads(reply(connection)[1])["word"]


def test_bodies_one_after_another(connection: socket.socket):
    """Goal: many bodies over one connection, each whole, of all sizes that fit."""
    for size in (1, SIZE, SMALL, SMALL + 1, SIZE - 1, 2, 0):
        data = os.urandom(size)
        connection.sendall(head(size) + data)
        assert reply(connection)[1] == data


def test_the_next_request_is_left_alone(connection: socket.socket):
    """Goal: requests sent without waiting for replies are told apart to the byte, and answered in their order."""
    chunks = [os.urandom(size) for size in (100_000, 5, SIZE, 65_537, 65_536, 1, 1, 1)] * 3
    sender = threading.Thread(target=connection.sendall, args=(b"".join(head(len(data)) + data for data in chunks),))
    sender.start()
    assert [reply(connection)[1] for _ in chunks] == chunks
    sender.join(DEADLINE_S)


def test_replies_come_in_the_order_of_the_requests(connection: socket.socket):
    """Goal: what is answered at once waits for what was asked before it; a thousand requests in one write are no
    more to the server's stack than one."""
    asked = ["slowly", "same", "slowly"] + ["same"] * 1000
    connection.sendall(b"".join(post(operation, f"{n}") for n, operation in enumerate(asked)))
    assert [word(connection) for _ in asked] == [str(n) for n in range(len(asked))]


def test_a_request_in_small_parts(connection: socket.socket):
    """Goal: it does not matter how the bytes are cut on their way, the head's last byte included."""
    data = os.urandom(3000)
    message = head(len(data)) + data
    for start in range(0, len(message), 97):
        connection.sendall(message[start : start + 97])
    assert reply(connection)[1] == data


def test_a_sender_that_stalls(connection: socket.socket):
    """Goal: it is answered with TimedOut, and what it sends later is no request."""
    connection.sendall(head(SIZE) + b"x" * 1000)
    fields, body = reply(connection)
    assert b" 504 " in fields
    assert b"connection: close" in fields
    assert b"timed_out" in body
    assert ends(connection)


def test_a_body_without_a_length(connection: socket.socket):
    """Goal: operations take bodies in parts; chunks must announce their length, and the connection goes on."""
    body = json.dumps({"word": "in parts"}).encode()
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:3], body[3:])) + b"0\r\n\r\n"
    for line, code in (("POST /v1/same", 200), ("PUT /v1/echo/x", 400), ("POST /v1/same", 200)):
        fields = f"host: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{line} HTTP/1.1\r\n{fields}transfer-encoding: chunked\r\n\r\n".encode() + parts)
        fields, answer = reply(connection)
        assert fields.startswith(b"HTTP/1.1 %d " % code), answer


def test_a_refused_body_is_thrown_away(connection: socket.socket):
    """Goal: who is refused before the body has come reads the answer, and the connection goes on."""
    data = b"x" * SIZE
    connection.sendall(head(SIZE).replace(TOKEN.encode(), b"wrong") + data)
    assert reply(connection)[0].startswith(b"HTTP/1.1 401 ")
    connection.sendall(post("same", "afterwards"))
    assert word(connection) == "afterwards"


def test_a_body_that_is_too_large(connection: socket.socket):
    """Goal: the answer comes before the body; a body that is not worth reading ends the connection."""
    connection.sendall(head(1 << 40, "POST /v1/same"))
    fields, body = reply(connection)
    assert fields.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in fields
    assert str(BODY_BYTES_MAX).encode() in body


def test_who_expects_to_be_told_to_go_on(connection: socket.socket):
    """Goal: `expect: 100-continue` (curl sends it before large bodies) is answered first, for operations and chunks; a
    refusal comes instead of it, and then nobody waits for the body."""
    for size, line in ((SIZE, "PUT /v1/echo/x"), (100, "PUT /v1/echo/x")):
        connection.sendall(head(size, line, "expect: 100-continue"))
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(go_on), socket.MSG_WAITALL) == go_on
        connection.sendall(b"y" * size)
        assert reply(connection)[1] == b"y" * size
    connection.sendall(head(SIZE, "PUT /v1/echo/x", "expect: 100-continue").replace(TOKEN.encode(), b"wrong"))
    fields, _ = reply(connection)
    assert fields.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in fields
    assert ends(connection)


@pytest.mark.parametrize(
    "noise",
    [b"\x16\x03\x01\x02\x00" + bytes(100), b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", head(-1), head(7) * 2 + b"\0",
     head(0, "PUT /v1/echo/x", "content-length: 5"), b"GET /" + b"a" * 70_000,
     head(0, "PUT /v1/echo/x", "long: " + "a" * 70_000), head(0, "GET /", "connection: upgrade", "upgrade: h2c"),
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    ids=["tls", "no-target", "version", "negative", "noise-after", "two-lengths", "path", "field", "upgrade", "http2"],
)  # fmt: skip
def test_what_is_not_http(port: int, noise: bytes):
    """Goal: an answer of 400, or none, and the end of that connection; the server serves others."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(noise + b"\r\n\r\n" * 2)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while more := _received(connection):
            said += more
        assert set(re.findall(rb"HTTP/1\.1 (\d+) ", said)) <= {b"200", b"400", b"401", b"404"}
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(post("same", "others"))
        assert word(connection) == "others"


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def test_an_operation_that_fails(connection: socket.socket):
    """Goal: 500 without a traceback, and the connection goes on."""
    connection.sendall(head(0, "POST /v1/fails") + post("same", "x"))
    fields, body = reply(connection)
    assert fields.startswith(b"HTTP/1.1 500 ")
    assert b"RuntimeError" in body
    assert b"Traceback" not in body
    assert word(connection) == "x"


def test_a_long_reply(connection: socket.socket):
    """Goal: pieces arrive whole, also at a reader that takes its time; one that breaks off ends the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 << 10)
    connection.sendall(head(0, "GET /v1/pieces/5000000") + post("same", "next"))
    time.sleep(0.1)
    assert len(reply(connection)[1]) == 5_000_000
    assert word(connection) == "next"
    connection.sendall(head(0, "GET /v1/pieces/5000000/broken"))
    received = 0
    while more := connection.recv(1 << 20):
        received += len(more)
    assert 65536 <= received < 5_000_000


def test_a_reply_from_a_buffer_that_is_used_again(connection: socket.socket):
    """Goal: the buffer is free when all of it has left, and no sooner; the next reply follows on the connection."""
    size = 20 << 20
    for _ in range(2):
        OVERWRITTEN.clear()
        connection.sendall(head(0, f"GET /v1/whole/{size}"))
        assert connection.recv(1, socket.MSG_PEEK)
        assert not OVERWRITTEN
        assert reply(connection)[1] == b"x" * size
        wait_until(lambda: [size] == OVERWRITTEN, "the buffer is free")


def test_a_reader_that_stalls(port: int):
    """Goal: who takes nothing of a reply for a while loses the connection, and the buffer is free."""
    size = 21 << 20
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head(0, f"GET /v1/whole/{size}"))
        wait_until(lambda: size in OVERWRITTEN, "the buffer is free")
        connection.settimeout(DEADLINE_S)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while count := len(connection.recv(1 << 20)):
                received += count
        assert received < size


def test_who_waits_is_told_that_the_caller_is_gone(port: int):
    """Goal: closing the connection reaches an operation that waits."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(post("waits", str(port)))
    wait_until(lambda: str(port) in GONE, "the operation hears of it")


def test_http_1_0_and_connection_close(port: int):
    """Goal: who does not want the connection kept gets its end with the answer."""
    for change in ((b"HTTP/1.1", b"HTTP/1.0"), (b"host: test", b"connection: close")):
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
            connection.sendall(post("same", "x").replace(*change))
            assert word(connection) == "x"
            assert ends(connection)


def test_a_head_and_bodies_are_bounded():
    """Goal: the limits that keep a client from filling the server's memory are there."""
    assert connections.HEAD_BYTES_MAX <= 1 << 16
    assert exchanges.DRAIN_BYTES_MAX <= 8 << 20
