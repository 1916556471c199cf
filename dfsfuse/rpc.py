"""Requests to servers over HTTP: pooled connections, deadlines, interruption, repetition.

A connection is used by one request at a time. Threads that FUSE makes are new to Python at each call, so thread-local
storage is always empty there: connections are pooled explicitly, the latest used first.

Every request has a deadline. A reply is decoded or becomes an error of `dfsfuse.errors`; no answer is Unreachable. All
requests may be repeated (changes carry their number), so one that met a connection which the server had closed
meanwhile, or the kernel as the network was cut, is sent again over a fresh one.

Threads: the pools are lists whose append and pop are atomic, and so are the changes of `_silent_since`.
"""

import functools
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dfsfuse import errors
from dfsfuse.http_connection import Body, ClosedEarly, HttpConnection, Wait
from dfsfuse.messages import Message, Stored, from_msgpack, to_msgpack

_IDLE_MAX = 64
_CONNECT_S_MAX = 2.0
"""Tried anew so often: the kernel's own attempts come later and later."""
_STALL_S = 3.0
"""A download of a chunk without a byte for so long is given up: other servers have the chunk too."""
_AWAY_S = 2.0
"""A server that failed requests for so long, and then answers one, has returned. One that fails some of them, such as
those that are long, has not been away."""

Address = tuple[str, int]


class _ErrorReply(msgspec.Struct):
    code: str = "internal"
    message: str = ""
    detail: str = ""


_decode_error = msgspec.msgpack.Decoder(_ErrorReply).decode


class Rpc:
    """All requests of one client. `token` is the cluster's."""

    def __init__(self, token: str):
        self._authorization = f"authorization: Bearer {token}\r\ncontent-type: application/msgpack\r\ncontent-length: "
        self._idle: dict[Address, list[HttpConnection]] = {}
        self._silent_since: dict[Address, float] = {}
        self._on_return: list[Callable[[], None]] = []
        self.received_bytes = 0

    def on_return(self, tell: Callable[[], None]) -> None:
        """`tell()` when a server answers that was away; it must not wait."""
        self._on_return.append(tell)

    def call(
        self,
        url: str,
        operation: str,
        request: Message,
        reply: type,
        timeout_s: float,
        interrupted: Callable[[], bool] | None = None,
        meanwhile: Callable[[], None] | None = None,
        patient: bool = False,
    ) -> Any:
        """POST one operation; the decoded reply. Raises what the server raised, Unreachable, TimedOut or
        Interrupted. `meanwhile` is called while the server is at work, and again where the request is repeated.
        `patient`: as `Wait` has it."""
        wait = Wait(time.monotonic() + timeout_s, None, interrupted, meanwhile, patient=patient)
        return from_msgpack(self._ask(url, f"POST /v1/{operation}", to_msgpack(request), wait, timeout_s), reply)

    def put_chunk(
        self,
        url: str,
        name: bytes,
        data: Body,
        role: str,
        timeout_s: float,
        interrupted: Callable[[], bool] | None = None,
        synced: bool = False,
    ) -> Stored:
        """Upload one chunk; the receipts of all servers that have it, with `synced` on their disks. `role` is "" or
        "acting"."""
        wanted = "&".join([f"role={role}"] * bool(role) + ["sync"] * synced)
        query = f"?{wanted}" if wanted else ""
        wait = Wait(time.monotonic() + timeout_s, None, interrupted)
        return from_msgpack(self._ask(url, f"PUT /v1/chunks/{name.hex()}{query}", data, wait, timeout_s), Stored)

    def get_chunk(
        self,
        url: str,
        name: bytes,
        buffer: memoryview,
        timeout_s: float,
        interrupted: Callable[[], bool] | None = None,
    ) -> int:
        """One whole chunk into `buffer`, not yet verified; its length."""
        wait = Wait(time.monotonic() + timeout_s, _STALL_S, interrupted, into=buffer)
        body = self._ask(url, f"GET /v1/chunks/{name.hex()}", b"", wait, timeout_s)
        if len(body) > len(buffer):
            raise errors.ChunkCorrupt(f"{url} has sent {len(body)} bytes as chunk {name.hex()}")
        if not isinstance(body, memoryview):
            buffer[: len(body)] = body
        self.received_bytes += len(body)
        return len(body)

    def close(self) -> None:
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _ask(self, url: str, line: str, body: Body, wait: Wait, timeout_s: float) -> bytes | memoryview:
        address = _address(url)
        head = f"{line} HTTP/1.1\r\nhost: {address[0]}:{address[1]}\r\n{self._authorization}{len(body)}\r\n\r\n"
        try:
            status, reply = self._exchange(address, head.encode(), body, wait)
        except (OSError, errors.Unreachable) as error:
            self._silent_since.setdefault(address, time.monotonic())
            raise _silence(url, error, timeout_s) from None
        if self._silent_since:
            self._note_answer(address)
        if status >= 300:
            raise _refusal(reply, status, f"{url}: {line}")
        return reply

    def _note_answer(self, address: Address) -> None:
        since = self._silent_since.pop(address, None)
        if since is not None and time.monotonic() - since >= _AWAY_S:
            for tell in self._on_return:
                tell()

    def _exchange(self, address: Address, head: bytes, body: Body, wait: Wait) -> tuple[int, bytes | memoryview]:
        idle = self._idle.setdefault(address, [])
        while idle:
            try:
                return self._over(idle.pop(), idle, head, body, wait)
            except (ClosedEarly, IndexError):
                continue
        try:
            return self._over(_connected(address, wait), idle, head, body, wait)
        except ClosedEarly:
            raise errors.Unreachable("closed before the reply") from None

    def _over(
        self, connection: HttpConnection, idle: list[HttpConnection], head: bytes, body: Body, wait: Wait
    ) -> tuple[int, bytes | memoryview]:
        try:
            return connection.exchange(head, body, wait)
        finally:
            if connection.reusable and len(idle) < _IDLE_MAX:
                idle.append(connection)
            else:
                connection.close()


def _connected(address: Address, wait: Wait) -> HttpConnection:
    within_s = max(0.001, min(_CONNECT_S_MAX, wait.deadline - time.monotonic()))
    try:
        return HttpConnection(*address, within_s, wait)
    except TimeoutError:
        raise errors.TimedOut(f"no connection within {within_s:.1f} s") from None


@functools.lru_cache(maxsize=256)
def _address(url: str) -> Address:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise errors.InvalidArgument(f"{url!r}: a server's address is http://host:port")
    return parts.hostname, parts.port or 80


def _silence(url: str, error: Exception, timeout_s: float) -> errors.Unreachable:
    if isinstance(error, TimeoutError):
        return errors.TimedOut(f"{url} did not answer within {timeout_s:.1f} s")
    if isinstance(error, errors.TimedOut):
        return errors.TimedOut(f"{url} cannot be reached: {error}")
    if isinstance(error, ConnectionRefusedError):
        return errors.Unreachable(f"{url} refuses connections")
    if isinstance(error, OSError):
        return errors.Unreachable(f"{url} cannot be reached: {error.strerror or error}")
    return errors.Unreachable(f"{url} broke off: {error}")


def _refusal(body: bytes | memoryview, status: int, asked: str) -> errors.DfsError:
    try:
        reply = _decode_error(body)
    except msgspec.MsgspecError:
        return errors.Internal(f"{asked}: HTTP status {status}, without saying why")
    return errors.from_wire(reply.code, reply.message, reply.detail)


def unless_moved(
    ask: Callable[[Callable[[], bool]], Any], moved: Callable[[], bool], interrupted: Callable[[], bool]
) -> Any:
    """`ask(given_up)`, which raises Interrupted once `given_up()`. Unreachable if that is because another server serves
    by now (`moved`): who stands still is not waited for any more."""
    try:
        return ask(lambda: moved() or interrupted())
    except errors.Interrupted:
        if interrupted() or not moved():
            raise
        raise errors.Unreachable("the server that was asked does not serve any more") from None


def pause_s(attempt: int) -> float:
    """How long to wait before the next attempt: 20 ms, doubling to half a second."""
    return min(0.02 * 2**attempt, 0.5)


def until_answered(
    attempt: Callable[[float], Any],
    timeout_s: float,
    interrupted: Callable[[], bool] | None = None,
    on_silence: Callable[[], None] | None = None,
) -> Any:
    """Call `attempt(seconds left)` until it is answered, or raise its last Unreachable after `timeout_s`.

    Only for requests that may be repeated. `on_silence` is called after each failed attempt that another may follow.
    """
    deadline = time.monotonic() + timeout_s
    for count in range(10_000):
        try:
            return attempt(max(0.001, deadline - time.monotonic()))
        except (errors.Unreachable, errors.Starting):
            if time.monotonic() >= deadline:
                raise
            if on_silence is not None:
                on_silence()
            if time.monotonic() + pause_s(count) >= deadline:
                raise
        if interrupted is not None and interrupted():
            raise errors.Interrupted("interrupted while a server did not answer")
        time.sleep(pause_s(count))
    raise errors.TimedOut(f"no answer within {timeout_s:.0f} s")
