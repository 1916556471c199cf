"""Which versions of which inodes sessions have open. Pure over a transaction.

    o ino:8 session:8 version:8     the number of the session's latest open of this version (opening:8), and b"w" where
                                    it was opened for writing

A row keeps an inode that has lost its name, and a version that was replaced. One for writing outlives its session, as
its client's cache may have content that is based on this version and was not sent (attendance.py).
"""

from typing import NamedTuple

from servers import records
from servers.store import Reader, Transaction

_WRITING = b"w"
_VERSIONS_MAX = 100_000


class OpenRow(NamedTuple):
    """As a session has it. `opening`: the number of its latest open of this version."""

    ino: int
    version: int
    opening: int
    writing: bool


def key(ino: int, session: int, version: int) -> bytes:
    return b"o" + records.number(ino) + records.number(session) + records.number(version)


def session_of(row_key: bytes) -> int:
    return records.as_number(row_key[9:17])


def parse(row_key: bytes, row: bytes) -> OpenRow:
    return OpenRow(
        records.as_number(row_key[1:9]),
        records.as_number(row_key[17:25]),
        records.as_number(row[:8]),
        row[8:] == _WRITING,
    )


def _value(row: OpenRow) -> bytes:
    return records.number(row.opening) + (_WRITING if row.writing else b"")


def get(tx: Reader, ino: int, session: int, version: int) -> OpenRow | None:
    row_key = key(ino, session, version)
    row = tx.get(row_key)
    return None if row is None else parse(row_key, row)


def put(tx: Transaction, ino: int, session: int, version: int, opening: int, writing: bool = False) -> None:
    """Unless the open has no number, or no session whose end would delete the row. A repeated request may come after a
    later one, so the larger number stays; and a session that still has the row asks with its number, so nothing is to
    be written. What was opened for writing once may have something that is not sent."""
    if not opening or not session:
        return
    known, row = get(tx, ino, session, version), OpenRow(ino, version, opening, writing)
    if known is not None:
        row = row._replace(opening=max(opening, known.opening), writing=writing or known.writing)
    if row != known:
        tx.put(key(ino, session, version), _value(row))


def only_for_reading(tx: Transaction, ino: int, session: int, row: OpenRow) -> None:
    """The session has sent all that was written."""
    if row.writing:
        tx.put(key(ino, session, row.version), _value(row._replace(writing=False)))


def move(tx: Transaction, ino: int, session: int, version: int, opening: int) -> None:
    """The session has made the next version of this one, and has that open instead."""
    known = get(tx, ino, session, version)
    tx.delete(key(ino, session, version))
    put(tx, ino, session, version + 1, opening, known is not None and known.writing)


def of(tx: Reader, ino: int, session: int) -> list[OpenRow]:
    """What a session has open of an inode."""
    prefix = b"o" + records.number(ino) + records.number(session)
    return [parse(row_key, row) for row_key, row in tx.range(*records.within(prefix), _VERSIONS_MAX)]


def of_session(tx: Reader, session: int) -> list[OpenRow]:
    """Sessions end rarely, so the rows of all are read."""
    return [parse(row_key, row) for row_key, row in records.rows(tx, b"o") if session_of(row_key) == session]


def give_up_writing(tx: Transaction, ino: int, session: int) -> None:
    """The session has taken the inode's last name: nobody wants back what it has not sent of it."""
    for row in of(tx, ino, session):
        only_for_reading(tx, ino, session, row)


def has_any(tx: Reader, ino: int) -> bool:
    return bool(tx.range(*records.within(b"o" + records.number(ino)), 1))


def versions(tx: Reader, ino: int) -> set[int]:
    """Those that somebody has open."""
    rows = tx.range(*records.within(b"o" + records.number(ino)), _VERSIONS_MAX)
    return {records.as_number(row_key[17:]) for row_key, _ in rows}


def is_open(tx: Reader, ino: int, version: int) -> bool:
    return version in versions(tx, ino)
