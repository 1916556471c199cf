"""Chunks that lost their last reference, in the order in which they did. Pure over a transaction.

    n number:8    group:2 chunk:32

Each file server works through the log by itself; its position is in its ServerState. A row may tell of a chunk that has
a reference again: whoever reads the log looks. Rows that all servers have passed are cut off; and the oldest ones where
there would be more than ROWS_MAX, as while a server is away for weeks: what it then does not hear of is surplus that it
finds when it goes through its inventory.
"""

from servers import records
from servers.store import Transaction

ROWS_MAX = 1_000_000
_CUT = 200


def append(tx: Transaction, group: int, chunk: bytes) -> None:
    last = end(tx) + 1
    records.put_counter(tx, b"garbage", last)
    tx.put(b"n" + records.number(last), group.to_bytes(2, "big") + chunk)


def end(tx: Transaction) -> int:
    """The number of the latest row; 0: there never was one."""
    return records.get_counter(tx, b"garbage")


def read(tx: Transaction, after: int, limit: int) -> list[tuple[int, int, bytes]]:
    """(number, group, chunk) of the rows behind number `after`."""
    rows = tx.range(b"n" + records.number(after + 1), records.within(b"n")[1], limit)
    return [(records.as_number(key[1:]), int.from_bytes(row[:2], "big"), row[2:]) for key, row in rows]


def is_left(tx: Transaction, passed: int) -> bool:
    """Are there rows to cut off?"""
    return bool(tx.range(b"n", _behind(tx, passed), 1))


def cut(tx: Transaction, passed: int) -> bool:
    """Delete rows up to number `passed`, some at a time. Are there more?"""
    for key, _ in tx.range(b"n", _behind(tx, passed), _CUT):
        tx.delete(key)
    return is_left(tx, passed)


def _behind(tx: Transaction, passed: int) -> bytes:
    return b"n" + records.number(max(passed, end(tx) - ROWS_MAX, 0) + 1)
