"""Sessions: clients, what they have open, and the replies that they may ask for again. Pure over a transaction.

A changing request carries (session, slot, sequence). A slot row keeps the latest sequence number of its slot with the
reply (or the error), written in the transaction of the operation itself: so a repeated request is answered and never
executed again, and one that is not the next is refused. (As the session slots of NFSv4.1, RFC 8881 section 2.10.6.)
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from dfsfuse import errors
from dfsfuse.messages import AllocateInodes, Begin, Change, Closed, InodeRange, SessionRow
from servers import records, references, versions
from servers.records import SessionRecord
from servers.store import Transaction
from servers.tree import forget_unnamed

INODES_PER_RANGE = 1024
_INODES_PER_RANGE_MAX = 1 << 20
_PAGE = 500

Reply = TypeVar("Reply")


def begin(tx: Transaction, request: Begin) -> int:
    """The session's number; the same one for a repeated request."""
    known = tx.get(b"k" + request.key)
    if known is not None:
        return records.as_number(known)
    if not 16 <= len(request.key) <= 64:
        raise errors.BadRequest("a session's key is 16 to 64 random bytes")
    session = records.get_counter(tx, b"next_session", 1)
    records.put_counter(tx, b"next_session", session + 1)
    tx.put(b"k" + request.key, records.number(session))
    record = SessionRecord(request.key, request.host, request.pid, request.mountpoint, request.user)
    records.put_record(tx, records.session_key(session), record)
    return session


def check(tx: Transaction, session: int) -> SessionRecord:
    record = records.get_record(tx, records.session_key(session), SessionRecord)
    if record is None:
        raise errors.SessionEnded(f"session {session} has ended; begin a new one")
    return record


def set_lapsed(tx: Transaction, session: int, lapsed: bool) -> None:
    record = check(tx, session)
    record.lapsed = lapsed
    records.put_record(tx, records.session_key(session), record)


def lapsed_sessions(tx: Transaction) -> set[int]:
    rows = tx.range(*records.within(b"s"), 100_000)
    return {records.as_number(key[1:]) for key, row in rows if msgspec.msgpack.decode(row, type=SessionRecord).lapsed}


def allocate(tx: Transaction, request: AllocateInodes) -> InodeRange:
    check(tx, request.session)
    count = max(1, min(request.count, _INODES_PER_RANGE_MAX))
    return InodeRange(records.allocate_inodes(tx, count), count)


def all_sessions(tx: Transaction) -> list[SessionRow]:
    rows = tx.range(*records.within(b"s"), 100_000)
    found = [(records.as_number(key[1:]), msgspec.msgpack.decode(row, type=SessionRecord)) for key, row in rows]
    return [
        SessionRow(session=session, host=row.host, pid=row.pid, mountpoint=row.mountpoint, user=row.user)
        for session, row in found
    ]


# -- once, however often asked


def remembered(tx: Transaction, request: Change) -> bytes | None:
    """The reply that this very request got before; None if it is the next of its slot."""
    check(tx, request.session)
    row = tx.get(records.slot_key(request.session, request.slot))
    latest = records.as_number(row[:8]) if row else 0
    if request.sequence == latest and row:
        return row[8:]
    if request.sequence != latest + 1:
        raise errors.OutOfSequence(
            f"slot {request.slot} is at {latest}; {request.sequence} is not the next, and was not executed"
        )
    return None


def remember(tx: Transaction, request: Change, reply: bytes) -> None:
    tx.put(records.slot_key(request.session, request.slot), records.number(request.sequence) + reply)


# -- open rows


def close_rows(tx: Transaction, session: int, closed: list[Closed]) -> None:
    """Delete open rows, unless the session has opened the same version again since."""
    for row in closed:
        key = records.open_key(row.ino, session, row.version)
        latest = tx.get(key)
        if latest is not None and records.as_number(latest) <= row.opening:
            tx.delete(key)
            _closed(tx, row.ino, row.version)


def _closed(tx: Transaction, ino: int, version: int) -> None:
    inode = records.get_inode(tx, ino)
    if inode is not None:
        versions.closed(tx, ino, inode, version)
        forget_unnamed(tx, ino, inode)


def end(tx: Transaction, session: int) -> None:
    """Everything of the session goes: open rows, slots, and itself."""
    record = records.get_record(tx, records.session_key(session), SessionRecord)
    if record is None:
        return
    for ino, version in _open_rows(tx, session):
        tx.delete(records.open_key(ino, session, version))
        _closed(tx, ino, version)
    for ino in versions.uploads_of(tx, session):
        versions.end_uploads(tx, ino, references.ONLY_GROUP, session)
    _each(tx, b"r" + records.number(session), lambda key, row: tx.delete(key))
    tx.delete(b"k" + record.key)
    tx.delete(records.session_key(session))


def _open_rows(tx: Transaction, session: int) -> list[tuple[int, int]]:
    """(ino, version) of all open rows of a session. Sessions end rarely, so all open rows are read."""
    found: list[tuple[int, int]] = []
    wanted = records.number(session)

    def look(key: bytes, row: bytes) -> None:
        if key[9:17] == wanted:
            found.append((records.as_number(key[1:9]), records.as_number(key[17:25])))

    _each(tx, b"o", look)
    return found


def _each(tx: Transaction, prefix: bytes, visit: Callable[[bytes, bytes], None]) -> None:
    start, stop = records.within(prefix)
    page = tx.range(start, stop, _PAGE)
    while page:
        for key, row in page:
            visit(key, row)
        page = tx.range(page[-1][0] + b"\0", stop, _PAGE)
