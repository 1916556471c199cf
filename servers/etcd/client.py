"""Requests to an etcd cluster, over HTTP through its JSON gateway.

Of etcd's libraries for Python those over gRPC have not been kept up, or need grpcio (7 MB); etcd3gw goes over
`requests`, where a get takes 0.8 to 1.2 ms and here 0.5 to 0.8, with less than half of the processor's time. So this is
urllib3, which keeps connections, speaks TLS and is there for `requests` already, and msgspec, which knows JSON's forms
of bytes and of numbers in text.

A member that does not answer is passed over, and stays so until the others fail. Whatever is asked here may be
asked twice: what must not happen twice is bound to a revision.

Threads: any; urllib3's pool has a connection for each.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import urllib3

from dfsfuse import errors
from dfsfuse.etcd_address import EtcdAddress
from servers.etcd import messages
from servers.etcd.messages import (
    Change,
    Compare,
    LeaseReply,
    Pair,
    RangeReply,
    RangeRequest,
    TxnReply,
    TxnRequest,
    WatchReply,
)

Reply = TypeVar("Reply")

TIMEOUT_S = 5.0
_ATTEMPT_S = 1.0
"""A member that was cut off is passed over after this: within a term there is time for another one. Where all are slow
each round gives them twice the time."""
_CONNECTIONS = 8
_RETRY_S = 0.05
_UNAUTHENTICATED, _EXHAUSTED, _UNAVAILABLE, _DEADLINE, _UNKNOWN = 16, 8, 14, 4, 2
_AGAIN = {_UNAVAILABLE, _DEADLINE}


class Compacted(Exception):
    """What was asked for was so long ago that etcd has forgotten it."""


class EtcdClient:
    """Raises Unreachable where no member answers in time, NoSpace where etcd is full, else ServerError with etcd's own
    words."""

    def __init__(self, address: EtcdAddress, clock: Callable[[], float] = time.monotonic):
        self.address, self._clock = address, clock
        self._at, self._token = 0, ""
        self._pool = urllib3.PoolManager(
            num_pools=len(address.endpoints),
            maxsize=_CONNECTIONS,
            retries=False,
            ca_certs=address.ca or None,
            cert_file=address.cert or None,
            key_file=address.key or None,
        )

    def close(self) -> None:
        self._pool.clear()

    # -- keys

    def range(
        self, start: bytes, end: bytes = b"", limit: int = 0, revision: int = 0, attempt_s: float = _ATTEMPT_S
    ) -> RangeReply:
        """Pairs with start <= key < end; without an end, the one of this key."""
        request = RangeRequest(start, end, limit, revision)
        return self._ask("kv/range", request, RangeReply, max(TIMEOUT_S, attempt_s), attempt_s)

    def get(self, key: bytes) -> Pair | None:
        found = self.range(key).kvs
        return found[0] if found else None

    def transact(
        self, compare: list[Compare], changes: list[Change], otherwise: list[Change] = (), timeout_s: float = TIMEOUT_S
    ) -> TxnReply:
        """All of the changes, if all comparisons hold; else what is asked for `otherwise`."""
        request = TxnRequest(compare, changes, list(otherwise))
        return self._ask("kv/txn", request, TxnReply, timeout_s)

    def compact(self, revision: int) -> None:
        """What was before this revision is forgotten."""
        self._ask("kv/compaction", messages.CompactRequest(revision), messages.Nothing)

    def revision(self) -> int:
        """Of the whole store, now."""
        return self.range(self.address.prefix, limit=1).header.revision

    def used_bytes(self) -> int:
        return self._ask("maintenance/status", messages.Nothing(), messages.StatusReply).dbSizeInUse

    # -- leases

    def grant(self, seconds: int, timeout_s: float = TIMEOUT_S) -> int:
        return self._ask("lease/grant", messages.LeaseRequest(seconds), LeaseReply, timeout_s).ID

    def keep_alive(self, lease: int, timeout_s: float = TIMEOUT_S) -> bool:
        """False: it has ended. Several members are asked within the time."""
        request = messages.LeaseNumber(lease)
        reply = self._ask("lease/keepalive", request, messages.LeaseStreamed, timeout_s, timeout_s / 3)
        if reply.error is not None:
            raise self._meaning(messages.Failure(reply.error.grpc_code, reply.error.message))
        return reply.result.TTL > 0

    def revoke(self, lease: int, timeout_s: float = TIMEOUT_S) -> None:
        with contextlib.suppress(errors.ServerError):
            self._ask("lease/revoke", messages.LeaseNumber(lease), messages.Nothing, timeout_s)

    # -- what changes

    def watch(self, start: bytes, end: bytes, revision: int, silence_s: float) -> Iterator[WatchReply]:
        """What changes from `revision` on, in order. Ends with Unreachable where the member is silent for `silence_s`
        (it tells how far it is, where nothing changes, only each ten minutes), and with Compacted. One that does not
        even begin is passed over."""
        created, at = messages.WatchCreate(messages.WatchRequest(start, end, revision, fragment=True)), self._at
        try:
            response = self._open("watch", created, urllib3.Timeout(connect=_ATTEMPT_S, read=silence_s))
        except errors.Unreachable:
            self._pass_over(at)
            raise
        try:
            yield from self._replies(response)
        finally:
            response.close()

    def _replies(self, response: urllib3.BaseHTTPResponse) -> Iterator[WatchReply]:
        lines = _lines_of(response)
        while True:
            try:
                line = next(lines, None)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise errors.Unreachable(f"etcd at {self._endpoint}: {error}") from None
            if line is None:
                raise errors.Unreachable(f"etcd at {self._endpoint} has ended what it was telling")
            streamed = _decoded(line, messages.WatchStreamed)
            if streamed.error is not None:
                raise self._meaning(messages.Failure(streamed.error.grpc_code, streamed.error.message))
            reply = streamed.result
            if reply.compact_revision:
                raise Compacted(f"etcd has forgotten what was before revision {reply.compact_revision}")
            if reply.canceled:
                raise errors.ServerError(f"etcd at {self._endpoint}: {reply.cancel_reason}")
            yield reply

    # -- requests

    @property
    def _endpoint(self) -> str:
        return self.address.endpoints[self._at % len(self.address.endpoints)]

    def _ask(
        self,
        operation: str,
        request: Any,
        reply: type[Reply],
        timeout_s: float = TIMEOUT_S,
        attempt_s: float = _ATTEMPT_S,
    ) -> Reply:
        deadline = self._clock() + timeout_s
        failed, members = 0, len(self.address.endpoints)
        while True:
            left_s, at = deadline - self._clock(), self._at
            try:
                longest_s = attempt_s * 2 ** (failed // members)
                return self._attempt(operation, request, reply, max(0.01, min(left_s, longest_s)))
            except errors.Unreachable:
                self._pass_over(at)
                failed += 1
                if left_s <= 0:
                    raise
            if failed % members == 0:
                time.sleep(min(_RETRY_S, max(0.0, deadline - self._clock())))

    def _pass_over(self, at: int) -> None:
        """Once, however many threads have waited for it."""
        if self._at == at:
            self._at = at + 1

    def _attempt(self, operation: str, request: Any, reply: type[Reply], timeout_s: float) -> Reply:
        response = self._open(operation, request, urllib3.Timeout(total=timeout_s))
        try:
            return _decoded(response.data, reply)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise errors.Unreachable(f"etcd at {self._endpoint}: {error}") from None

    def _open(self, operation: str, request: Any, timeout: urllib3.Timeout) -> urllib3.BaseHTTPResponse:
        """A reply that has begun."""
        for last in (False, True):
            response = self._send(operation, request, timeout)
            if response.status == 200:
                return response
            failure = _decoded(response.data, messages.Failure).plain
            if failure.code != _UNAUTHENTICATED or not self.address.user or last:
                raise self._meaning(failure)
            self._token = ""
        raise AssertionError("not reached")

    def _send(self, operation: str, request: Any, timeout: urllib3.Timeout) -> urllib3.BaseHTTPResponse:
        headers = {"content-type": "application/json"}
        if self.address.user and operation != "auth/authenticate":
            headers["authorization"] = self._token or self._authenticate(timeout)
        try:
            return self._pool.request(
                "POST",
                f"{self._endpoint}/v3/{operation}",
                body=msgspec.json.encode(request),
                headers=headers,
                timeout=timeout,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise errors.Unreachable(f"etcd at {self._endpoint}: {error}") from None

    def _authenticate(self, timeout: urllib3.Timeout) -> str:
        request = messages.AuthRequest(self.address.user, self.address.password)
        response = self._send("auth/authenticate", request, timeout)
        if response.status != 200:
            raise self._meaning(_decoded(response.data, messages.Failure).plain)
        self._token = _decoded(response.data, messages.AuthReply).token
        return self._token

    def _meaning(self, failure: messages.Failure) -> errors.DfsError:
        said = f"etcd at {self._endpoint}: {failure.message}"
        if failure.code in _AGAIN or "no leader" in said or "leader changed" in said:
            return errors.Unreachable(said)
        if failure.code == _EXHAUSTED and "space exceeded" in said:
            return errors.NoSpace(f"{said}; give etcd more (--quota-backend-bytes), compact, and disarm its alarm")
        if "has been compacted" in said:
            return Compacted(said)
        return errors.ServerError(said)


def _lines_of(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """One JSON value a line, as each arrives."""
    parts: list[bytes] = []
    while part := response.read1(1 << 20):
        first, *more = part.split(b"\n")
        parts.append(first)
        if more:
            *lines, rest = (b"".join(parts), *more)
            parts = [rest]
            yield from filter(None, lines)


def _decoded(data: bytes, kind: type[Reply]) -> Reply:
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except msgspec.MsgspecError as error:
        raise errors.ServerError(f"etcd says what is not understood: {error}: {data[:200]!r}") from None
