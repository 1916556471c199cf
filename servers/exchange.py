"""A request and its reply, as the application of a server sees them.

Threads: none; everything belongs to the event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from dfsfuse import errors

DRAIN_BYTES_MAX = 8 << 20
_PHRASES = {status.value: status.phrase for status in HTTPStatus}

Headers = Sequence[tuple[bytes, bytes]]


class Application(Protocol):
    """What runs the exchanges of connections."""

    def admit(self, exchange: "Exchange") -> int:
        """The head is known: how many bytes of body are taken in before `run`; -1 if the body will be received by
        `Exchange.receive_into`. Raises DfsError to refuse the request."""

    def run(self, exchange: "Exchange") -> None:
        """Called once; `exchange.reply` may come at once or later."""

    def refuse(self, exchange: "Exchange", error: errors.DfsError) -> None:
        """Reply with `error`."""


class Exchange:
    """A request and its reply. `length` is the announced length of the body, None if it comes in parts; `body` is the
    whole body if the application takes it whole. `gone` is done when the caller has closed the connection.
    `connection` is the servers.connection.Connection that carries it."""

    __slots__ = (
        "_connection", "_gone", "body", "bytes_max", "complete", "error", "headers", "keep_alive", "length", "method",
        "parts", "path", "query", "replied", "size",
    )  # fmt: skip

    def __init__(self, connection: Any):
        self._connection = connection
        self._gone: asyncio.Future[None] | None = None
        self.method, self.path, self.query = "", "", b""
        self.headers: dict[bytes, bytes] = {}
        self.length: int | None = 0
        self.parts: list[bytes] = []
        self.body = b""
        self.size = self.bytes_max = 0
        self.keep_alive, self.complete, self.replied = True, False, False
        self.error: errors.DfsError | None = None

    # -- the request

    @property
    def gone(self) -> asyncio.Future[None]:
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
            if self._connection.lost:
                self._gone.set_result(None)
        return self._gone

    def was_lost(self) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    async def receive_into(
        self, buffer: memoryview, stall_s: float, more: Callable[[int], None] | None = None
    ) -> memoryview:
        """The part of `buffer` that the body fills, which has an announced length of at most the buffer's. `more` is
        told how much of it is here, each time that more is.

        Raises BadRequest when the connection ends within the body, and TimedOut when `stall_s` pass in which nothing
        comes.
        """
        return await self._connection.receive_into(self, buffer[: self.length], stall_s, more or _ignore)

    # -- the reply

    def reply(self, status: int, body: bytes, content_type: bytes) -> None:
        self._connection.write(self._head(status, len(body), content_type) + body)
        self._connection.replied(self)

    def begin(self, status: int, length: int, content_type: bytes, more: Headers = ()) -> None:
        """A reply whose body of `length` bytes is sent piece by piece; `end` ends it."""
        self._connection.write(self._head(status, length, content_type, more))

    async def send(self, piece: bytes) -> None:
        """Returns when the other side has taken most of what was sent before."""
        self._connection.write(piece)
        await self._connection.writable()

    async def send_whole(self, body: memoryview, content_type: bytes, more: Headers, stall_s: float) -> None:
        """A reply that leaves from `body` itself, which may be used again when this returns. When `stall_s` pass in
        which the other side takes nothing, its connection ends."""
        head = self._head(200, len(body), content_type, more)
        self.end(await self._connection.write_whole(head, body, stall_s))

    def end(self, whole: bool = True) -> None:
        """`whole`: the body is. A reply that breaks off ends its connection."""
        self.keep_alive &= whole
        self._connection.replied(self)

    def _head(self, status: int, length: int, content_type: bytes, more: Headers = ()) -> bytes:
        if not self.complete:
            self.keep_alive &= self._can_be_drained()
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (
            status, _PHRASES.get(status, "").encode(), content_type, length,
        )  # fmt: skip
        for name, value in more:
            head += b"%b: %b\r\n" % (name, value)
        return head + (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")

    def _can_be_drained(self) -> bool:
        """Who expects to be told to go on with the body, and is not, may or may not send it."""
        return b"expect" not in self.headers and self.length is not None and self.length <= DRAIN_BYTES_MAX


def _ignore(filled: int) -> None:
    pass
