"""One HTTP/1.1 connection of a server: bytes -> exchanges -> replies.

An `Exchange` is a request and its reply. The application says, once the head is known, whether it wants the body whole
(small messages) or will take it itself into a buffer of its own (chunks): then the kernel writes straight into that
buffer, past the parser, which never sees the body and is replaced by a fresh one for the next request.

Exchanges of one connection are run one after another, in the order of their requests. While one runs, at most one
buffer of further bytes is taken in; then reading pauses. An operation that answers at once is run within the call that
brought its last byte: no task, no wake-up. (uvicorn costs twice as much: docs/PERFORMANCE.md.)

A request that is refused before its body has come is answered at once. What still comes of the body is thrown away: up
to DRAIN_BYTES_MAX, and the connection goes on; beyond that, or where its end cannot be known any more, the connection
is closed, after LINGER_S for the other side to read the answer.

Threads: none; everything belongs to the event loop. All connections share one buffer for what they read: event loops
ask for it and fill it in one go.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import httptools

from dfsfuse import errors
from servers.exchange import Application, Exchange

log = logging.getLogger(__name__)

HEAD_BYTES_MAX = 64 << 10
LINGER_S = 2.0
_READ_BYTES = 64 << 10

_scratch = memoryview(bytearray(_READ_BYTES))
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.BufferedProtocol):
    """`everyone` is the set of all open connections of the server."""

    def __init__(self, application: Application, everyone: "set[Connection]"):
        self._application, self._everyone = application, everyone
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        self._reading: Exchange | None = None
        self._head_bytes = 0
        self._queue: deque[Exchange] = deque()
        self.active: Exchange | None = None
        self._advancing = self._paused = self._closing = False
        self.lost = False
        self._body: memoryview | None = None
        self._filled = 0
        self._more: Callable[[int], None] = lambda filled: None
        self._through: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self.last_used = self._loop.time()

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._everyone.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _scratch if self._body is None else self._body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.last_used = self._loop.time()
        if self._body is not None:
            self._filled += nbytes
            self._more(self._filled)
            if self._filled == len(self._body):
                self._body_received()
        elif not self._closing:
            self._parse(_scratch[:nbytes])

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self._closing = True
        self._everyone.discard(self)
        for exchange in (self.active, *self._queue):
            if exchange is not None:
                exchange.was_lost()
        self._queue.clear()
        if self._through is not None and not self._through.done():
            self._through.set_exception(errors.BadRequest("the connection was closed within the body"))
        self.resume_writing()

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- reading

    def _parse(self, data: memoryview) -> None:
        busy = self.active is not None
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._break("this server speaks no other protocol than HTTP/1.1")
        except httptools.HttpParserCallbackError:
            log.exception("reading a request")
            self._break("this request cannot be read; see the server's log")
        except httptools.HttpParserError as error:
            self._break(f"this is not HTTP/1.1: {error}")
        if self._head_bytes > HEAD_BYTES_MAX and (self._reading is None or not self._reading.method):
            self._break(f"the head has more than {HEAD_BYTES_MAX} bytes")
        if not busy:
            self._advance()
        elif not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _break(self, message: str) -> None:
        """What comes from here on cannot be understood."""
        exchange = self._reading = self._reading or Exchange(self)
        if exchange.replied:
            self.transport.close()
            return
        exchange.keep_alive, exchange.complete, exchange.error = False, True, errors.BadRequest(message)
        if exchange not in self._queue and exchange is not self.active:
            self._queue.append(exchange)

    def on_message_begin(self) -> None:
        self._reading = Exchange(self)

    def on_url(self, url: bytes) -> None:
        path, _, self._reading.query = url.partition(b"?")
        self._reading.path = path.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reading.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        exchange, headers = self._reading, self._reading.headers
        exchange.method = self._parser.get_method().decode("latin-1")
        exchange.keep_alive = self._parser.should_keep_alive()
        # The parser has refused lengths that are no numbers.
        exchange.length = None if b"transfer-encoding" in headers else int(headers.get(b"content-length", b"0"))
        try:
            exchange.bytes_max = self._application.admit(exchange)
        except errors.DfsError as error:
            self._refuse(exchange, error)
            return
        if exchange.bytes_max < 0:
            self._queue.append(exchange)
        elif exchange.length is not None and exchange.length > exchange.bytes_max:
            self._refuse(exchange, _too_large(exchange))
        elif b"expect" in headers:
            self.transport.write(_CONTINUE)

    def _refuse(self, exchange: Exchange, error: errors.DfsError) -> None:
        """Answered at once; what comes of the body is thrown away."""
        exchange.error, exchange.parts = error, []
        self._queue.append(exchange)

    def on_body(self, data: bytes) -> None:
        exchange = self._reading
        exchange.size += len(data)
        if exchange.error is not None or exchange.replied:
            return
        if exchange.size > exchange.bytes_max >= 0:
            self._refuse(exchange, _too_large(exchange))
        else:
            exchange.parts.append(data)

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        self._head_bytes, exchange.complete = 0, True
        if exchange.bytes_max >= 0 and exchange.error is None:
            exchange.body = exchange.parts[0] if len(exchange.parts) == 1 else b"".join(exchange.parts)
            self._queue.append(exchange)

    # -- bodies that are taken past the parser

    async def receive_into(
        self, exchange: Exchange, body: memoryview, stall_s: float, more: Callable[[int], None]
    ) -> memoryview:
        filled = 0
        for part in exchange.parts:
            body[filled : filled + len(part)] = part
            filled += len(part)
        exchange.parts = []
        more(filled)
        if filled < len(body):
            if b"expect" in exchange.headers:
                self.transport.write(_CONTINUE)
            self._body, self._filled, self._more = body, filled, more
            self._through = self._loop.create_future()
            self._resume()
            try:
                await self._all_received(stall_s)
            finally:
                if self._body is not None:
                    # The rest would be read as a request.
                    self._body, self._closing, exchange.keep_alive = None, True, False
        return body

    async def _all_received(self, stall_s: float) -> None:
        seen = -1
        while not self._through.done():
            if self.lost:
                raise errors.BadRequest("the connection was closed within the body")
            if seen == self._filled:
                raise errors.TimedOut(f"no more of the body came within {stall_s:g} s")
            seen = self._filled
            await asyncio.wait([self._through], timeout=stall_s)
        self._through.result()

    def _body_received(self) -> None:
        """The next byte is the next request's: a parser that has not seen this body must not wait for it."""
        self._reading.complete, self._reading, self._body = True, None, None
        self._parser, self._head_bytes = httptools.HttpRequestParser(self), 0
        if not self._through.done():
            self._through.set_result(None)

    # -- running and replying

    def _advance(self) -> None:
        """Run what has come, until something takes longer."""
        self._advancing = True
        while self._queue and self.active is None and not self.lost:
            exchange = self.active = self._queue.popleft()
            if exchange.error is not None:
                self._application.refuse(exchange, exchange.error)
            else:
                self._application.run(exchange)
        self._advancing = False
        if self.active is None:
            self._resume()

    def _resume(self) -> None:
        if self._paused and not self.lost:
            self._paused = False
            self.transport.resume_reading()

    def replied(self, exchange: Exchange) -> None:
        exchange.replied, self.active = True, None
        if not exchange.keep_alive:
            self._close(exchange)
        elif not self._advancing:
            self._advance()

    def _close(self, exchange: Exchange) -> None:
        self._queue.clear()
        self._closing = True
        if exchange.complete:
            self.transport.close()
        elif not self.lost:
            # Closing now would reset the connection, and the other side might lose the answer.
            self._resume()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._loop.call_later(LINGER_S, self.transport.abort)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    async def write_whole(self, head: bytes, body: memoryview, stall_s: float) -> bool:
        """Head and body by one system call, if the other side takes them. When this returns or raises nothing of `body`
        is used any more. False: the connection has ended."""
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits(0)
            self.transport.writelines((head, body))
        try:
            while (drained := self._drained) is not None:
                left = self.transport.get_write_buffer_size()
                await asyncio.wait([drained], timeout=stall_s)
                if not drained.done() and self.transport.get_write_buffer_size() == left:
                    self.transport.abort()
        except BaseException:
            self.transport.abort()
            raise
        return not self.lost

    async def writable(self) -> None:
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def close(self) -> None:
        self.transport.close()


def _too_large(exchange: Exchange) -> errors.BodyTooLarge:
    has = exchange.length or f"more than {exchange.bytes_max}"
    return errors.BodyTooLarge(f"the body has {has} bytes; at most {exchange.bytes_max} are taken")
