"""Bodies received into a buffer, under a real uvicorn: what belongs to a body, and what to the next request."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from file_group import DEADLINE_S, TOKEN, free_port, wait_until

from servers import bodies
from servers.http import App, Receive, Scope, Send, respond

SIZE = 300_000
STALL_S = 0.3


async def echo(scope: Scope, rest: str, receive: Receive, send: Send) -> None:
    """Answers with the body; `rest` other than "announced" takes the way for bodies of unknown length."""
    length = int(dict(scope["headers"])[b"content-length"]) if rest == "announced" else None
    await respond(send, 200, bytes(await bodies.receive_into(memoryview(bytearray(SIZE)), length, receive, STALL_S)))


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    port = free_port()
    app = App(TOKEN, {}, {"echo": echo})
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off", loop=request.param))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server listens")
        yield port
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)


@pytest.fixture
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        yield connection


def head(length: int, way: str = "announced") -> bytes:
    fields = f"host: test\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {length}\r\n"
    return f"PUT /v1/echo/{way} HTTP/1.1\r\n{fields}\r\n".encode()


def reply(connection: socket.socket) -> tuple[bytes, bytes]:
    """(status line, body) of the next reply."""
    fields = b""
    while b"\r\n\r\n" not in fields:
        fields += connection.recv(1) or pytest.fail("closed within the head")
    length = int(fields.partition(b"content-length: ")[2].partition(b"\r")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body)) or pytest.fail("closed within the body")
    return fields.partition(b"\r\n")[0], body


@pytest.mark.parametrize("way", ["announced", "unknown"])
def test_bodies_one_after_another(connection: socket.socket, way: str):
    """Goal: many bodies over one connection, each whole, of all sizes that fit."""
    for size in (1, SIZE, 70_000, SIZE - 1, 2):
        data = os.urandom(size)
        connection.sendall(head(size, way) + data)
        assert reply(connection)[1] == data


def test_the_next_request_is_left_alone(connection: socket.socket):
    """Goal: requests sent without waiting for replies are told apart to the byte."""
    chunks = [os.urandom(size) for size in (100_000, 5, SIZE, 65_537)]
    sender = threading.Thread(target=connection.sendall, args=(b"".join(head(len(data)) + data for data in chunks),))
    sender.start()
    assert [reply(connection)[1] for _ in chunks] == chunks
    sender.join(DEADLINE_S)


def test_a_body_in_small_parts(connection: socket.socket):
    """Goal: it does not matter how the bytes are cut on their way, the head's last byte included."""
    data = os.urandom(3000)
    message = head(len(data)) + data
    for start in range(0, len(message), 97):
        connection.sendall(message[start : start + 97])
    assert reply(connection)[1] == data


@pytest.mark.parametrize("way", ["announced", "unknown"])
def test_a_sender_that_stalls(connection: socket.socket, way: str):
    """Goal: it is answered with TimedOut, and what it sends later is no request."""
    connection.sendall(head(SIZE, way) + b"x" * 1000)
    status, body = reply(connection)
    assert b" 504 " in status
    assert b"timed_out" in body


def test_a_body_larger_than_the_buffer(connection: socket.socket):
    """Goal: BodyTooLarge as soon as a body of unknown length has outgrown the buffer."""
    connection.sendall(head(SIZE + 1, "unknown") + b"x" * (SIZE + 1))
    status, body = reply(connection)
    assert b" 413 " in status
    assert b"body_too_large" in body
