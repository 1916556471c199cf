"""Requests from one server to another: pooled keep-alive HTTP/1.1 connections in the server's own event loop.

A connection carries one request at a time; how many there are follows from how many requests are under way. Bodies are
handed to the transport as they are, never joined with the head nor copied; whoever passes a body that it will reuse may
do so as soon as the call has ended, however it ended: a connection whose request was given up is aborted, and an
aborted connection sends nothing more.

All requests between servers are idempotent. So a request that went over a pooled connection is repeated once, on a
fresh one, when the other side had closed the pooled one before the first byte of a reply: it has then restarted, or has
closed an idle connection at the same moment.

Threads: none; everything belongs to the event loop that runs it.
"""

import asyncio
import functools
from collections.abc import Awaitable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httptools
import msgspec

from dfsfuse import errors
from dfsfuse.messages import BODY_BYTES_MAX, Message, Stored, from_msgpack, to_msgpack

IDLE_MAX = 32
"""Connections to one server that are kept when nothing is sent over them."""

Body = bytes | bytearray | memoryview


class Reply(NamedTuple):
    status: int
    body: bytes


class _ClosedEarly(Exception):
    """The other side closed the connection before the first byte of its reply."""


class _Connection(asyncio.Protocol):
    """One connection; `exchange` is called again only after it has returned.

    Head and body leave by one system call (uvloop's writelines): two would wake the other side twice. Event loops
    switch TCP_NODELAY on by themselves.
    """

    def __init__(self, idle: "list[_Connection]"):
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._begun = False

    async def exchange(self, head: bytes, body: Body) -> Reply:
        """Raises _ClosedEarly, or Unreachable when the connection ended within the reply."""
        if self._transport is None:
            raise _ClosedEarly
        self._begun = False
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        try:
            return await self._waiting
        except BaseException:
            self.abort()
            raise
        finally:
            self._waiting = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def reusable(self) -> bool:
        """Whether it can carry another request: a reply that came before the whole body was sent rules that out."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(errors.Unreachable(f"the reply is not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(
            errors.Unreachable(f"closed within the reply: {error or 'end of stream'}")
            if self._begun
            else _ClosedEarly()
        )
        self._transport = self._parser = None
        if self in self._idle:
            self._idle.remove(self)

    # -- httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        self._parts, self._size = [], 0

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._size += len(body)
        if self._size > BODY_BYTES_MAX:
            self._fail(errors.Internal(f"the reply has more than {BODY_BYTES_MAX} bytes"))

    def on_message_complete(self) -> None:
        reply = Reply(self._parser.get_status_code(), b"".join(self._parts))
        if not self._parser.should_keep_alive():
            self._transport.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(reply)


class Peers:
    """The way to other servers. `token` is the cluster's. Every method raises errors of dfsfuse.errors only."""

    def __init__(self, token: str):
        self._token = token
        self._idle: dict[tuple[str, int], list[_Connection]] = {}

    async def call(self, url: str, operation: str, request: Message, reply_kind: type, timeout_s: float) -> Any:
        """POST an operation. Raises what the other side answered, Unreachable, or TimedOut."""
        head, body = "POST /v1/" + operation, to_msgpack(request)
        return from_msgpack(await self._request(url, head, body, timeout_s), reply_kind)

    async def put_chunk(self, url: str, name: bytes, body: Body, timeout_s: float, query: str = "") -> Stored:
        """PUT a chunk, as `call` does. `query` is without its question mark."""
        head = f"PUT /v1/chunks/{name.hex()}{'?' * bool(query)}{query}"
        return from_msgpack(await self._request(url, head, body, timeout_s), Stored)

    async def close(self) -> None:
        """End all idle connections; requests under way end with their own callers."""
        for idle in self._idle.values():
            for connection in idle[:]:
                connection.abort()

    async def _request(self, url: str, line: str, body: Body, timeout_s: float) -> bytes:
        """The body of a 200 reply."""
        address = _address(url)
        head = (
            f"{line} HTTP/1.1\r\nhost: {address[0]}:{address[1]}\r\nauthorization: Bearer {self._token}\r\n"
            f"content-type: application/msgpack\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        reply = await _within(timeout_s, self._exchange(address, head, body), f"{url}: {line}")
        if reply.status != 200:
            raise _error_in(reply, url)
        return reply.body

    async def _exchange(self, address: tuple[str, int], head: bytes, body: Body) -> Reply:
        idle = self._idle.setdefault(address, [])
        if idle:
            try:
                return await self._over(idle.pop(), head, body)
            except _ClosedEarly:
                pass
        try:
            return await self._over(await self._connect(address, idle), head, body)
        except _ClosedEarly:
            raise errors.Unreachable("closed before the reply") from None

    async def _over(self, connection: _Connection, head: bytes, body: Body) -> Reply:
        reply = await connection.exchange(head, body)
        if connection.reusable and len(connection._idle) < IDLE_MAX:
            connection._idle.append(connection)
        else:
            connection.abort()
        return reply

    async def _connect(self, address: tuple[str, int], idle: list[_Connection]) -> _Connection:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(lambda: _Connection(idle), *address)
        except OSError as error:
            raise errors.Unreachable(error.strerror or str(error)) from None
        return connection


@functools.lru_cache(maxsize=256)
def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise errors.InvalidArgument(f"{url!r}: a server's address is http://host:port")
    return parts.hostname, parts.port or 80


async def _within(timeout_s: float, work: Awaitable[Reply], what: str) -> Reply:
    """The result of `work`; every failure says what was being asked of whom."""
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        raise errors.TimedOut(f"{what}: no answer within {timeout_s:g} s") from None
    except errors.Unreachable as error:
        raise errors.Unreachable(f"{what}: {error}") from None


def _error_in(reply: Reply, url: str) -> errors.DfsError:
    """The error that a reply other than 200 carries."""
    try:
        return errors.from_wire(**msgspec.msgpack.decode(reply.body, type=dict[str, str]))
    except (msgspec.MsgspecError, TypeError):
        return errors.Internal(f"{url}: HTTP status {reply.status}: {reply.body[:200]!r}")
