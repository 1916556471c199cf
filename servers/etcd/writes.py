"""The changes of transactions on their way to etcd: packed into requests, each of whole transactions.

etcd takes 128 operations and 1.5 MiB in one request (--max-txn-ops, --max-request-bytes). What a transaction has beyond
that is brought in parts first, below `redo`, and counts from the request on that names their number there; whoever
serves next finishes what counts, and forgets what does not. Pure but for `Redo.left`.

    redo/part/NUMBER:4   msgpack of [[key, value or nil], ...], in order
    redo/count           how many parts are to be done
"""

from collections.abc import Iterable, Iterator

import msgspec

from dfsfuse import errors
from servers.etcd.client import EtcdClient
from servers.etcd.messages import Change, DeleteRange, Put

OPERATIONS_MAX = 100
REQUEST_BYTES_MAX = 1 << 20
VALUE_BYTES_MAX = 768 << 10
"""A request has base64 of it, and must stay below etcd's limit."""

Writes = dict[bytes, bytes | None]
"""By key; None deletes."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]]).decode


def check(key: bytes, value: bytes) -> None:
    if len(key) + len(value) > VALUE_BYTES_MAX:
        raise errors.ServerError(f"a value of {len(value)} bytes does not fit into a request to etcd")


def packed(transactions: Iterable[Writes]) -> Iterator[Writes]:
    """Transactions that follow each other joined, as long as they fit into one request; one that does not by itself
    stays alone."""
    joined: Writes = {}
    bytes_joined = 0
    for writes in transactions:
        more = bytes_of(writes)
        if joined and (len(joined) + len(writes) > OPERATIONS_MAX or bytes_joined + more > REQUEST_BYTES_MAX):
            yield joined
            joined, bytes_joined = {}, 0
        joined = joined | writes if joined else writes
        bytes_joined += more
    if joined:
        yield joined


def bytes_of(writes: Writes) -> int:
    return sum(len(key) + len(value or b"") for key, value in writes.items())


def fits(writes: Writes) -> bool:
    return len(writes) <= OPERATIONS_MAX and bytes_of(writes) <= REQUEST_BYTES_MAX


def changes_of(writes: Iterable[tuple[bytes, bytes | None]], prefix: bytes) -> list[Change]:
    return [_change(prefix + key, value) for key, value in writes]


def _change(key: bytes, value: bytes | None) -> Change:
    if value is None:
        return Change(request_delete_range=DeleteRange(key))
    return Change(request_put=Put(key, value))


def pieces(writes: Writes) -> Iterator[list[tuple[bytes, bytes | None]]]:
    """A large transaction in parts that each fit into a request."""
    part: list[tuple[bytes, bytes | None]] = []
    part_bytes = 0
    for key, value in writes.items():
        more = len(key) + len(value or b"")
        if part and (len(part) == OPERATIONS_MAX or part_bytes + more > REQUEST_BYTES_MAX):
            yield part
            part, part_bytes = [], 0
        part.append((key, value))
        part_bytes += more
    if part:
        yield part


class Redo:
    """Brings what does not fit into one request to the keys below `data`, by way of those below `redo`."""

    def __init__(self, data: bytes, redo: bytes):
        self._data, self._parts, self._count = data, redo + b"part/", redo + b"count"
        self._whole = DeleteRange(redo, redo[:-1] + bytes([redo[-1] + 1]))

    def requests(self, writes: Writes) -> Iterator[list[Change]]:
        """What is to be sent, one request after the other."""
        parts = list(pieces(writes))
        for number, part in enumerate(parts):
            yield [Change(request_put=Put(self._part(number), _encode(part)))]
        yield [Change(request_put=Put(self._count, b"%d" % len(parts)))]
        yield from self._done(parts)

    def left(self, client: EtcdClient) -> Iterator[list[Change]]:
        """What whoever served before has begun: the rest of it, or its end. The last of these requests changes
        something."""
        count = client.get(self._count)
        numbers = range(int(count.value)) if count is not None else ()
        found = [client.get(self._part(number)) for number in numbers]
        if client.range(self._whole.key, self._whole.range_end, 1).kvs:
            yield from self._done([_decode(pair.value) for pair in found if pair is not None])

    def _done(self, parts: list[list[tuple[bytes, bytes | None]]]) -> Iterator[list[Change]]:
        for part in parts:
            yield changes_of(part, self._data)
        yield [Change(request_delete_range=self._whole)]

    def _part(self, number: int) -> bytes:
        return self._parts + number.to_bytes(4, "big")
