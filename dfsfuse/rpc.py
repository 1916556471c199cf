"""Requests to servers over HTTP: the only sockets of the client. Pooled curl handles, deadlines, interruption.

A handle keeps its connections alive and is used by one request at a time. Threads that FUSE makes are new to Python at
each call, so thread-local storage is always empty there: handles are pooled explicitly, the latest used first.

Every request has a deadline. A reply is decoded or becomes an error of `dfsfuse.errors`; no answer is Unreachable.

Threads: `_idle` is a list whose append and pop are atomic; nothing else is shared.
"""

import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import msgspec
import pycurl

from dfsfuse import errors
from dfsfuse.messages import Message, Stored, from_msgpack, to_msgpack

_IDLE_MAX = 64
_CONNECT_S_MAX = 2.0
_STALL_S = 3
"""A download of a chunk without a byte for so long is given up: other servers have the chunk too."""
_INTERRUPT_POLL_S = 0.05

_REFUSED = {pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_HOST}


class _ErrorReply(msgspec.Struct):
    code: str = "internal"
    message: str = ""
    detail: str = ""


_decode_error = msgspec.msgpack.Decoder(_ErrorReply).decode


class _Handle:
    """One curl handle with its reply buffer."""

    def __init__(self, headers: list[str]):
        self.curl = curl = pycurl.Curl()
        self.body = BytesIO()
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
        curl.setopt(pycurl.TCP_NODELAY, 1)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.MAXCONNECTS, 8)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(_CONNECT_S_MAX * 1000))
        curl.setopt(pycurl.HTTPHEADER, headers)
        curl.setopt(pycurl.BUFFERSIZE, 256 << 10)
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, 1 << 20)
        curl.setopt(pycurl.WRITEFUNCTION, self.body.write)


class Rpc:
    """All requests of one client. `token` is the cluster's."""

    def __init__(self, token: str):
        self._headers = [f"Authorization: Bearer {token}", "Expect:", "Content-Type: application/msgpack"]
        self._idle: list[_Handle] = []
        self.received_bytes = 0

    def call(
        self,
        url: str,
        operation: str,
        request: Message,
        reply: type,
        timeout_s: float,
        interrupted: Callable[[], bool] | None = None,
    ) -> Any:
        """POST one operation; the decoded reply. Raises what the server raised, Unreachable, TimedOut or
        Interrupted."""
        packed = to_msgpack(request)
        handle = self._take()
        curl = handle.curl
        curl.setopt(pycurl.CUSTOMREQUEST, "POST")
        curl.setopt(pycurl.LOW_SPEED_TIME, 0)
        curl.setopt(pycurl.POSTFIELDS, packed)
        body = self._perform(handle, f"{url}/v1/{operation}", timeout_s, interrupted)
        return from_msgpack(body, reply)

    def put_chunk(
        self, url: str, name: bytes, data: bytes | bytearray | memoryview, role: str, timeout_s: float
    ) -> Stored:
        """Upload one chunk; the receipts of all servers that have it. `role` is "" or "acting"."""
        handle = self._take()
        handle.curl.setopt(pycurl.CUSTOMREQUEST, "PUT")
        handle.curl.setopt(pycurl.LOW_SPEED_TIME, 0)
        handle.curl.setopt(pycurl.POSTFIELDS, data)
        query = f"?role={role}" if role else ""
        body = self._perform(handle, f"{url}/v1/chunks/{name.hex()}{query}", timeout_s)
        return from_msgpack(body, Stored)

    def get_chunk(self, url: str, name: bytes, timeout_s: float) -> bytes:
        """One whole chunk, not yet verified."""
        handle = self._take()
        handle.curl.setopt(pycurl.CUSTOMREQUEST, "GET")
        handle.curl.setopt(pycurl.LOW_SPEED_TIME, _STALL_S)
        handle.curl.setopt(pycurl.POSTFIELDS, b"")
        body = self._perform(handle, f"{url}/v1/chunks/{name.hex()}", timeout_s)
        self.received_bytes += len(body)
        return body

    def close(self) -> None:
        while self._idle:
            self._idle.pop().curl.close()

    def _take(self) -> _Handle:
        try:
            return self._idle.pop()
        except IndexError:
            return _Handle(self._headers)

    def _perform(
        self, handle: _Handle, url: str, timeout_s: float, interrupted: Callable[[], bool] | None = None
    ) -> bytes:
        curl = handle.curl
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(timeout_s * 1000)))
        try:
            if interrupted is None:
                curl.perform()
            else:
                _perform_interruptibly(curl, interrupted)
        except pycurl.error as error:
            curl.close()
            raise _no_answer(error, url, timeout_s) from None
        except BaseException:
            curl.close()
            raise
        status, body = curl.getinfo(pycurl.RESPONSE_CODE), handle.body.getvalue()
        self._give_back(handle)
        if status >= 300:
            raise _refusal(body, status, url)
        return body

    def _give_back(self, handle: _Handle) -> None:
        handle.body.seek(0)
        handle.body.truncate()
        if len(self._idle) < _IDLE_MAX:
            # A handle would keep the body that it has sent.
            handle.curl.setopt(pycurl.POSTFIELDS, b"")
            self._idle.append(handle)
        else:
            handle.curl.close()


def _perform_interruptibly(curl: pycurl.Curl, interrupted: Callable[[], bool]) -> None:
    """As `curl.perform()`, but asks every 50 ms whether the caller still wants the answer; closing the connection
    tells the server."""
    multi = pycurl.CurlMulti()
    multi.add_handle(curl)
    try:
        while True:
            _, active = multi.perform()
            if not active:
                break
            if interrupted():
                raise errors.Interrupted("interrupted while waiting")
            multi.select(_INTERRUPT_POLL_S)
        for failed in multi.info_read()[2]:
            raise pycurl.error(failed[1], failed[2])
    finally:
        multi.remove_handle(curl)
        multi.close()


def _no_answer(error: pycurl.error, url: str, timeout_s: float) -> errors.DfsError:
    code, text = error.args[0], error.args[1] if len(error.args) > 1 else ""
    server = url.split("/v1/")[0]
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return errors.TimedOut(f"{server} did not answer within {timeout_s:.1f} s")
    refused = "refuses connections" if code in _REFUSED else f"broke off: {text}"
    return errors.Unreachable(f"{server} {refused}")


def _refusal(body: bytes, status: int, url: str) -> errors.DfsError:
    try:
        reply = _decode_error(body)
    except msgspec.MsgspecError:
        return errors.Internal(f"{url} answered {status} without saying why")
    return errors.from_wire(reply.code, reply.message, reply.detail)


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

    Only for requests that may be repeated. `on_silence` is called after each failed attempt.
    """
    deadline = time.monotonic() + timeout_s
    for count in range(10_000):
        try:
            return attempt(max(0.001, deadline - time.monotonic()))
        except (errors.Unreachable, errors.Starting):
            if on_silence is not None:
                on_silence()
            if time.monotonic() + pause_s(count) >= deadline:
                raise
        if interrupted is not None and interrupted():
            raise errors.Interrupted("interrupted while a server did not answer")
        time.sleep(pause_s(count))
    raise errors.TimedOut(f"no answer within {timeout_s:.0f} s")
