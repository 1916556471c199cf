"""Request bodies that are received into a buffer of the caller's.

uvicorn copies each byte of a body five times on its way to the application, and pauses the connection every 64 KiB:
half as much work again as all that is done with a chunk (bench/http_bodies.py). So for the length of a body the
connection gets another asyncio protocol, which lets the kernel write straight into the buffer and takes exactly the
announced bytes; then uvicorn's protocol returns with a fresh parser. Where that is not possible (no announced length,
`expect: 100-continue`, a server that is not uvicorn's) the body is copied from ASGI messages.

Threads: none; everything belongs to the event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from dfsfuse import errors

Receive = Callable[[], Awaitable[dict[str, Any]]]


async def receive(receive: Receive) -> bytes:
    """The whole of a small body. Raises BadRequest when the connection ends within it."""
    return b"".join([piece async for piece in _pieces(receive)])


async def receive_into(buffer: memoryview, length: int | None, receive: Receive, stall_s: float) -> memoryview:
    """The part of `buffer` that a body of `length` bytes (None: not announced) fills.

    Raises BodyTooLarge, BadRequest when the connection ends within the body, and TimedOut when `stall_s` pass in which
    nothing comes.
    """
    cycle = getattr(receive, "__self__", None)
    if length is not None and isinstance(cycle, RequestResponseCycle) and _may_take_over(cycle):
        await _Direct(cycle, buffer[:length]).run(stall_s)
        return buffer[:length]
    return await _copy_into(buffer, receive, stall_s)


def _may_take_over(cycle: RequestResponseCycle) -> bool:
    """Only from uvicorn's own protocol, while it is reading the body of this very request."""
    former = cycle.transport.get_protocol()
    return getattr(former, "cycle", None) is cycle and cycle.more_body and not cycle.waiting_for_100_continue


class _Direct(asyncio.BufferedProtocol):
    """Stands in for uvicorn's protocol for the rest of one body."""

    def __init__(self, cycle: RequestResponseCycle, body: memoryview):
        self._cycle, self._body = cycle, body
        self._transport, self._former = cycle.transport, cycle.transport.get_protocol()
        self._filled = len(cycle.body)
        self._through = asyncio.get_running_loop().create_future()

    async def run(self, stall_s: float) -> None:
        self._body[: self._filled] = self._cycle.body
        self._cycle.body = bytearray()
        self._switch(self)
        self._cycle.flow.resume_reading()
        try:
            await self._wait(stall_s)
        finally:
            if not self._through.done():
                self._give_up()

    async def _wait(self, stall_s: float) -> None:
        seen = -1
        while not self._through.done():
            if seen == self._filled:
                raise stalled(stall_s)
            seen = self._filled
            await asyncio.wait([self._through], timeout=stall_s)
        self._through.result()

    def _switch(self, protocol: asyncio.BaseProtocol) -> None:
        """Event loops choose how to read when reading begins, so it pauses for the change."""
        self._cycle.flow.pause_reading()
        self._transport.set_protocol(protocol)

    def _finish(self) -> None:
        """The next byte is the next request's: a parser that has not seen this body must not wait for it."""
        self._switch(self._former)
        self._former.parser = httptools.HttpRequestParser(self._former)
        self._former.on_message_complete()
        self._cycle.flow.resume_reading()
        self._through.set_result(None)

    def _give_up(self) -> None:
        """The reply will be the connection's last, as the rest of the body would be read as a request."""
        self._switch(self._former)
        self._cycle.keep_alive = False

    # -- asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(self._body):
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self._former.connection_lost(error)
        if not self._through.done():
            self._through.set_exception(errors.BadRequest("the connection was closed within the body"))

    def pause_writing(self) -> None:
        self._former.pause_writing()

    def resume_writing(self) -> None:
        self._former.resume_writing()


async def _copy_into(buffer: memoryview, receive: Receive, stall_s: float) -> memoryview:
    now, filled = asyncio.get_running_loop().time, 0
    try:
        async with asyncio.timeout(stall_s) as stall:
            async for piece in _pieces(receive):
                end = filled + len(piece)
                if end > len(buffer):
                    raise errors.BodyTooLarge(f"the body has more than {len(buffer)} bytes")
                buffer[filled:end] = piece
                filled = end
                stall.reschedule(now() + stall_s)
    except TimeoutError:
        raise stalled(stall_s) from None
    return buffer[:filled]


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise errors.BadRequest("the connection was closed within the body")
        more = message["more_body"]
        yield message["body"]


def stalled(stall_s: float) -> errors.TimedOut:
    return errors.TimedOut(f"no more of the body came within {stall_s:g} s")
