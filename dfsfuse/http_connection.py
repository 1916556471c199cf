"""One keep-alive HTTP/1.1 connection to a server, used by one thread at a time: send a request, receive its reply.

A request and its reply cost two system calls, and little besides (docs/PERFORMANCE.md has the figures beside those of
pycurl and requests): the socket blocks, and the kernel's own time-outs (SO_RCVTIMEO, SO_SNDTIMEO) end a call after
_POLL_S, so that deadlines are looked at. Replies are read by httptools, bodies of announced length past it, straight
into the buffer that is handed on.

Threads: none of its own, no lock: whoever has a connection has it alone.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable

import httptools

from dfsfuse import errors
from dfsfuse.keepalive import give_up_when_cut

REPLY_BYTES_MAX = 64 << 20
_READ_BYTES = 64 << 10
_POLL_S = 0.05
"""How often a waiting caller is asked whether it still wants the answer, and its deadline is looked at."""
PATIENT_S = 0.5
"""The same for who waits all the time, and would wake up for nothing."""

_ENDED = (ConnectionError, TimeoutError)
"""What a socket says when its connection has ended; TimeoutError is ETIMEDOUT, after a cut of the network."""

Body = bytes | bytearray | memoryview


class ClosedEarly(Exception):
    """The connection ended before the first byte of a reply: the other side had closed it before the request came, or
    the network was cut."""


class Wait:
    """How long a reply is waited for: until `deadline` (time.monotonic), and no longer than `stall_s` without a byte.
    `interrupted` is asked every 50 ms; Interrupted is raised once it is true. `meanwhile`, which must not raise, is
    called when the request has been sent. A body that is announced, and does not come with the head, goes to `into` if
    that is large enough. `patient`: up to PATIENT_S beyond the deadline does no harm."""

    def __init__(
        self,
        deadline: float,
        stall_s: float | None = None,
        interrupted: Callable[[], bool] | None = None,
        meanwhile: Callable[[], None] | None = None,
        into: memoryview | None = None,
        patient: bool = False,
    ):
        self.deadline, self.stall_s, self.interrupted, self.meanwhile = deadline, stall_s, interrupted, meanwhile
        self.into, self.poll_s = into, PATIENT_S if patient else _POLL_S

    def check(self, since: float) -> None:
        """After a system call that brought nothing, or not all; `since` is when the last byte came. Raises
        TimeoutError, Interrupted."""
        until = self.deadline if self.stall_s is None else min(self.deadline, since + self.stall_s)
        if time.monotonic() >= until:
            raise TimeoutError
        if self.interrupted is not None and self.interrupted():
            raise errors.Interrupted("interrupted while waiting")


class HttpConnection:
    """Connects at construction, within `timeout_s`, and as long as `wait` lasts. Raises OSError, TimeoutError,
    Interrupted."""

    def __init__(self, host: str, port: int, timeout_s: float, wait: Wait):
        self._socket = _connected(host, port, time.monotonic() + timeout_s, wait)
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        give_up_when_cut(self._socket)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_POLL_S))
        self._polls_s = 0.0
        self._poll_each(_POLL_S)
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._new_parser()
        self.reusable = True

    def _poll_each(self, seconds: float) -> None:
        if seconds != self._polls_s:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
            self._polls_s = seconds

    def _new_parser(self) -> None:
        """One for all replies, until it has missed a body that was received past it."""
        self._parser = httptools.HttpResponseParser(self)
        self._new_reply()

    def _new_reply(self) -> None:
        self._parts: list[bytes] = []
        self._length = -1
        self._received = 0
        self._head_complete = self._complete = self._kept_alive = False

    def close(self) -> None:
        self._socket.close()

    def exchange(self, head: bytes, body: Body, wait: Wait) -> tuple[int, bytes | memoryview]:
        """(status, body) of the reply. Raises ClosedEarly, OSError, TimeoutError, Interrupted, Unreachable; after an
        error the connection is of no more use."""
        self.reusable = False
        self._poll_each(wait.poll_s)
        self._new_reply()
        self._send(head, body, wait)
        if wait.meanwhile is not None:
            wait.meanwhile()
        since = time.monotonic()
        while not self._complete:
            if self._head_complete and self._length > self._received:
                answer = self._answer(self._announced_body(wait))
                self._new_parser()
                return answer
            count = self._receive(self._buffer, wait, since)
            since = time.monotonic()
            self._parse(self._buffer[:count])
            if not self._complete:
                wait.check(since)
        return self._answer(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))

    def _answer(self, body: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        self.reusable = self._kept_alive
        return self._parser.get_status_code(), body

    # -- sending and receiving

    def _send(self, head: bytes, body: Body, wait: Wait) -> None:
        """What the other side answers before it has the whole body, such as an error, is read afterwards."""
        since = time.monotonic()
        parts, left = [head, body], len(head) + len(body)
        while left:
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                wait.check(since)
                continue
            except _ENDED:
                return
            left -= sent
            if left:
                since, parts = time.monotonic(), _after(parts, sent)

    def _receive(self, buffer: memoryview, wait: Wait, since: float) -> int:
        while True:
            try:
                count = self._socket.recv_into(buffer)
            except BlockingIOError:
                wait.check(since)
                continue
            except _ENDED as error:
                raise self._closed(error.strerror or str(error)) from None
            if not count:
                raise self._closed("end of stream")
            return count

    def _closed(self, why: str) -> Exception:
        begun = self._received or self._length >= 0
        return errors.Unreachable(f"closed within the reply: {why}") if begun else ClosedEarly()

    def _parse(self, data: memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, errors.Unreachable):
                raise error.__context__ from None
            raise errors.Unreachable(f"the reply is not HTTP: {error}") from None

    def _announced_body(self, wait: Wait) -> memoryview:
        """The rest of a body of known length, past the parser; the next reply gets a fresh one."""
        fits = wait.into is not None and self._length <= len(wait.into)
        whole = wait.into[: self._length] if fits else memoryview(bytearray(self._length))
        filled = 0
        for part in self._parts:
            whole[filled : filled + len(part)] = part
            filled += len(part)
        since = time.monotonic()
        while filled < len(whole):
            filled += self._receive(whole[filled:], wait, since)
            since = time.monotonic()
            wait.check(since)
        return whole

    # -- httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        if self._complete:
            # Nobody has asked for a second one.
            self._kept_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-length":
            self._length = int(value)
            self._check_size(self._length)

    def on_headers_complete(self) -> None:
        # An interim reply ("100 Continue") is not the one that is waited for.
        self._head_complete = self._parser.get_status_code() >= 200
        # Asked now: the parser no longer knows once the message is complete.
        self._kept_alive = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._received += len(data)
        self._check_size(self._received)

    def on_message_complete(self) -> None:
        self._complete = self._head_complete

    def _check_size(self, size: int) -> None:
        if size > REPLY_BYTES_MAX:
            raise errors.Unreachable(f"the reply has {size} bytes; at most {REPLY_BYTES_MAX} are taken")


def _connected(host: str, port: int, deadline: float, wait: Wait) -> socket.socket:
    """To the first of the host's addresses that answers."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            _connect(made, address, deadline, wait)
            return made
        except OSError as error:
            made.close()
            failure = error
        except errors.Interrupted:
            made.close()
            raise
    raise failure


def _connect(made: socket.socket, address: tuple, deadline: float, wait: Wait) -> None:
    made.setblocking(False)
    outcome, poll = made.connect_ex(address), select.poll()
    poll.register(made, select.POLLOUT)
    while outcome == errno.EINPROGRESS:
        if poll.poll(_POLL_S * 1000):
            outcome = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            break
        if time.monotonic() >= deadline:
            raise TimeoutError
        wait.check(time.monotonic())
    if outcome:
        raise OSError(outcome, os.strerror(outcome))


def _timeval(seconds: float) -> bytes:
    """struct timeval, as setsockopt(2) takes it."""
    return struct.pack("@ll", 0, int(seconds * 1e6))


def _after(parts: list[Body], sent: int) -> list[Body]:
    """What is left of `parts` when `sent` bytes of them are gone."""
    left: list[Body] = []
    for part in parts:
        if sent < len(part):
            left.append(memoryview(part)[sent:])
        sent = max(0, sent - len(part))
    return left
