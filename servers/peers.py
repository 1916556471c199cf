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
from dfsfuse.keepalive import give_up_when_cut
from dfsfuse.messages import BODY_BYTES_MAX, Message, Stored, from_msgpack, to_msgpack
from servers.arriving import FORWARD_BYTES, Arriving
from servers.serving_server import ServingServer

CONNECT_S_MAX = 2.0
IDLE_MAX = 32
"""Connections to one server that are kept when nothing is sent over them."""

Body = bytes | bytearray | memoryview | Arriving
Address = tuple[str, int]


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
        self._arriving: Arriving | None = None
        self._sent = 0

    def start(self, head: bytes, body: Body) -> "asyncio.Future[Reply]":
        """The request is on its way, and its reply will be here. The future fails with _ClosedEarly, or with
        Unreachable when the connection ended within the reply."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._begun = False
        if self._transport is None:
            self._waiting.set_exception(_ClosedEarly())
        elif isinstance(body, Arriving):
            self._arriving, self._sent = body, 0
            body.follow(functools.partial(self._send_on, head, body))
            self._send_on(head, body)
        else:
            self._transport.writelines((head, body))
        return self._waiting

    def _send_on(self, head: bytes, body: Arriving) -> None:
        """What has come of a body since, behind the head; nothing once the other side has answered or is gone."""
        if self._arriving is not body or self._waiting.done() or self._transport.is_closing():
            return
        if body.whole or body.filled - self._sent >= FORWARD_BYTES:
            piece = body.view[self._sent : body.filled]
            self._transport.writelines((piece,) if self._sent else (head, piece))
            self._sent = body.filled
        if body.whole:
            self._arriving = None

    async def exchange(self, head: bytes, body: Body) -> Reply:
        """`start`, and its reply. Raises what its future fails with."""
        try:
            return await self.start(head, body)
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
        if transport is None or transport.is_closing() or self._arriving is not None:
            return False
        return not transport.get_write_buffer_size()

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        give_up_when_cut(transport.get_extra_info("socket"))

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
        self._transport = self._parser = self._arriving = None
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
        self._idle: dict[Address, list[_Connection]] = {}
        self._serving = ServingServer(self.call)

    async def call(self, url: str, operation: str, request: Message, reply_kind: type, timeout_s: float) -> Any:
        """POST an operation. Raises what the other side answered, Unreachable, or TimedOut.

        `url` may be those of several servers, of which one serves: `http://a:1,http://b:1`."""
        if "," in url:
            return await self._serving.call(url, operation, request, reply_kind, timeout_s)
        head, body = "POST /v1/" + operation, to_msgpack(request)
        return from_msgpack(await self._request(url, head, body, timeout_s), reply_kind)

    async def get_chunk(self, url: str, name: bytes, timeout_s: float) -> bytes:
        """GET a whole chunk, not yet verified. Raises as `call` does."""
        return await self._request(url, f"GET /v1/chunks/{name.hex()}", b"", timeout_s)

    def put_chunk(
        self, url: str, name: bytes, body: Body, timeout_s: float, query: str = ""
    ) -> "asyncio.Future[Stored]":
        """PUT a chunk. It is on its way when this returns, if a connection is free; the future fails as `call` does.
        Cancelling it gives the request up. `query` is without its question mark."""
        line = f"PUT /v1/chunks/{name.hex()}{'?' * bool(query)}{query}"
        if self._idle.get(_address(url)):
            return _Put(self, url, line, body, timeout_s).stored
        return asyncio.ensure_future(self.put_chunk_slowly(url, line, body, timeout_s))

    async def put_chunk_slowly(self, url: str, line: str, body: Body, timeout_s: float) -> Stored:
        """Over a connection that is made for it, if none is free; when all of the body is here."""
        if isinstance(body, Arriving):
            await asyncio.shield(body.over)
            body = body.view
        return from_msgpack(await self._request(url, line, body, timeout_s), Stored)

    async def close(self) -> None:
        """End all idle connections; requests under way end with their own callers."""
        for idle in self._idle.values():
            for connection in idle[:]:
                connection.abort()

    async def _request(self, url: str, line: str, body: Body, timeout_s: float) -> bytes:
        """The body of a 200 reply."""
        address = _address(url)
        head = self.head(address, line, len(body))
        reply = await _within(timeout_s, self._exchange(address, head, body), f"{url}: {line}")
        if reply.status != 200:
            raise _error_in(reply, url)
        return reply.body

    def head(self, address: Address, line: str, length: int) -> bytes:
        return (
            f"{line} HTTP/1.1\r\nhost: {address[0]}:{address[1]}\r\nauthorization: Bearer {self._token}\r\n"
            f"content-type: application/msgpack\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    def take_idle(self, address: Address) -> _Connection:
        return self._idle[address].pop()

    def give_back(self, connection: _Connection) -> None:
        if connection.reusable and len(connection._idle) < IDLE_MAX:
            connection._idle.append(connection)
        else:
            connection.abort()

    async def _exchange(self, address: Address, head: bytes, body: Body) -> Reply:
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
        self.give_back(connection)
        return reply

    async def _connect(self, address: Address, idle: list[_Connection]) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, connection = await loop.create_connection(lambda: _Connection(idle), *address)
        except TimeoutError:
            raise errors.TimedOut(f"no connection within {CONNECT_S_MAX:g} s") from None
        except OSError as error:
            raise errors.Unreachable(error.strerror or str(error)) from None
        return connection


class _Put:
    """A chunk on its way over a connection that was free: by callbacks, as a task and a time-out of asyncio's cost more
    than all the rest. Where the other side had closed that connection, it begins anew, as a task.
    """

    def __init__(self, peers: Peers, url: str, line: str, body: Body, timeout_s: float):
        self._peers, self._url, self._line, self._body, self._timeout_s = peers, url, line, body, timeout_s
        loop, address = asyncio.get_running_loop(), _address(url)
        self.stored: asyncio.Future[Stored] = loop.create_future()
        self._connection = peers.take_idle(address)
        self._timer: asyncio.TimerHandle | None = None
        if isinstance(body, Arriving):
            body.over.add_done_callback(self._arrived)
        else:
            self._timer = loop.call_later(timeout_s, self._late)
        self.stored.add_done_callback(self._given_up)
        self._connection.start(peers.head(address, line, len(body)), body).add_done_callback(self._answered)

    def _arrived(self, over: "asyncio.Future[None]") -> None:
        """From now on it is the other server's time."""
        if over.exception() is not None:
            self._end(over.exception())
            self._connection.abort()
        elif not self.stored.done():
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._late)

    def _late(self) -> None:
        self._end(errors.TimedOut(f"{self._url}: {self._line}: no answer within {self._timeout_s:g} s"))
        self._connection.abort()

    def _given_up(self, stored: "asyncio.Future[Stored]") -> None:
        self._stop_timer()
        if stored.cancelled():
            self._connection.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _answered(self, reply: "asyncio.Future[Reply]") -> None:
        self._stop_timer()
        error = None if reply.cancelled() else reply.exception()
        if self.stored.done():
            return
        if isinstance(error, _ClosedEarly):
            self._again()
        elif error is not None:
            self._end(errors.Unreachable(f"{self._url}: {self._line}: {error}"))
        else:
            self._peers.give_back(self._connection)
            self._decode(reply.result())

    def _decode(self, reply: Reply) -> None:
        if reply.status != 200:
            self._end(_error_in(reply, self._url))
            return
        try:
            self.stored.set_result(from_msgpack(reply.body, Stored))
        except errors.DfsError as error:
            self._end(error)

    def _end(self, error: errors.DfsError) -> None:
        if not self.stored.done():
            self.stored.set_exception(error)

    def _again(self) -> None:
        again = asyncio.ensure_future(self._peers.put_chunk_slowly(self._url, self._line, self._body, self._timeout_s))
        again.add_done_callback(self._copy)
        self.stored.add_done_callback(lambda stored: stored.cancelled() and again.cancel())

    def _copy(self, again: "asyncio.Future[Stored]") -> None:
        if self.stored.done() or again.cancelled():
            return
        error = again.exception()
        if error is None:
            self.stored.set_result(again.result())
        else:
            self.stored.set_exception(error)


@functools.lru_cache(maxsize=256)
def _address(url: str) -> Address:
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
        raise type(error)(f"{what}: {error}") from None


def _error_in(reply: Reply, url: str) -> errors.DfsError:
    """The error that a reply other than 200 carries."""
    try:
        return errors.from_wire(**msgspec.msgpack.decode(reply.body, type=dict[str, str]))
    except (msgspec.MsgspecError, TypeError):
        return errors.Internal(f"{url}: HTTP status {reply.status}: {reply.body[:200]!r}")
