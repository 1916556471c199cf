"""Which chunks each file server is known to lack, and how many. Pure over a transaction.

    q server 0 chunk    short row: this file server lacks this chunk; empty, or LOOKED_FOR
    m short 0 server    how many short rows the server has; there is none where it lacks nothing

There is a short row only for what somebody needs: it goes with the last reference to its chunk (references.py), or
there would be more and more of them for as long as a server is away.
"""

from collections import Counter
from collections.abc import Iterable

from servers import records
from servers.store import Reader, Transaction

LOOKED_FOR = b"1"
"""The server has looked for the chunk in vain."""
_COUNT = b"short\0"
_SERVERS_MAX = 10_000

Row = tuple[str, bytes]
"""A file server and a chunk."""


def key(server: str, chunk: bytes) -> bytes:
    return b"q" + server.encode() + b"\0" + chunk


def of_key(row: bytes) -> Row:
    server, _, chunk = row[1:].partition(b"\0")
    return server.decode(), chunk


def get(tx: Reader, server: str, chunk: bytes) -> bytes | None:
    return tx.get(key(server, chunk))


def is_short(tx: Reader, server: str) -> bool:
    return bool(tx.range(*records.within(key(server, b"")), 1))


def chunks_after(tx: Reader, server: str, after: bytes, limit: int) -> list[bytes]:
    """Up to `limit` chunks that this server lacks and that sort after `after`; b"": all do."""
    first, end = records.within(key(server, b""))
    return [row[len(first) :] for row, _ in tx.range(first + after + b"\0" if after else first, end, limit)]


# -- changes


def put(tx: Transaction, rows: Iterable[Row], value: bytes = b"") -> None:
    """These servers lack these chunks; somebody needs them."""
    added: Counter[str] = Counter()
    for server, chunk in rows:
        added[server] += get(tx, server, chunk) is None
        tx.put(key(server, chunk), value)
    _add(tx, added)


def note(tx: Transaction, rows: Iterable[Row]) -> bool:
    """As `put`, where it is not known yet. Was anything of it new?"""
    new = [row for row in rows if get(tx, *row) is None]
    put(tx, new)
    return bool(new)


def delete(tx: Transaction, rows: Iterable[Row]) -> None:
    """These servers do not lack these chunks, as far as is known."""
    gone: Counter[str] = Counter()
    for server, chunk in rows:
        if get(tx, server, chunk) is not None:
            tx.delete(key(server, chunk))
            gone[server] -= 1
    _add(tx, gone)


def forget(tx: Transaction, chunks: Iterable[bytes]) -> None:
    """Nobody needs these any more."""
    servers = short_servers(tx)
    if servers:
        delete(tx, [(server, chunk) for chunk in chunks for server in servers])


# -- how many


def short_servers(tx: Reader) -> list[str]:
    """Those that lack something."""
    first, end = records.within(b"m" + _COUNT)
    return [row[len(first) :].decode() for row, _ in tx.range(first, end, _SERVERS_MAX)]


def count(tx: Reader, server: str) -> int:
    return records.get_counter(tx, _COUNT + server.encode())


def add_to_count(tx: Transaction, server: str, number: int) -> None:
    """Also a number below 0."""
    name, counted = _COUNT + server.encode(), count(tx, server) + number
    if counted > 0:
        records.put_counter(tx, name, counted)
    else:
        tx.delete(b"m" + name)


def _add(tx: Transaction, numbers: Counter[str]) -> None:
    for server, number in numbers.items():
        if number:
            add_to_count(tx, server, number)
