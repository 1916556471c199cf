"""Sessions: clients, what they have open, and the replies that they may ask for again. Pure over a transaction.

A changing request carries (session, slot, sequence). A slot row keeps the latest sequence number of its slot with the
reply (or the error), written in the transaction of the operation itself: so a repeated request is answered and never
executed again, and one that is not the next is refused. (As the session slots of NFSv4.1, RFC 8881 section 2.10.6.)
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from dfsfuse import errors
from dfsfuse.messages import AllocateInodes, Begin, Change, Closed, InodeRange, TakenOver, TakeOver
from servers import open_rows, records, references, versions
from servers.open_rows import OpenRow
from servers.records import SessionRecord
from servers.store import Reader, Transaction
from servers.tree import forget_unnamed

INODES_PER_RANGE = 1024
_INODES_PER_RANGE_MAX = 1 << 20

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
    who = request.key, request.host, request.pid, request.mountpoint, request.user
    record = SessionRecord(*who, watches=request.watches)
    records.put_record(tx, records.session_key(session), record)
    return session


def check(tx: Transaction, session: int) -> SessionRecord:
    record = records.get_record(tx, records.session_key(session), SessionRecord)
    if record is None or record.gone:
        raise errors.SessionEnded(f"session {session} has ended; begin a new one")
    return record


def set_lapsed(tx: Transaction, session: int, lapsed: bool) -> None:
    record = check(tx, session)
    record.lapsed = lapsed
    records.put_record(tx, records.session_key(session), record)


def all_records(tx: Reader) -> dict[int, SessionRecord]:
    rows = records.rows(tx, b"s")
    return {records.as_number(key[1:]): msgspec.msgpack.decode(row, type=SessionRecord) for key, row in rows}


def watching_sessions(tx: Reader) -> set[int]:
    """Those that may be using what they were promised before a start of the directory."""
    found = all_records(tx).items()
    return {session for session, record in found if record.watches and not (record.lapsed or record.gone)}


def allocate(tx: Transaction, request: AllocateInodes) -> InodeRange:
    check(tx, request.session)
    count = max(1, min(request.count, _INODES_PER_RANGE_MAX))
    return InodeRange(records.allocate_inodes(tx, count), count)


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
    """Delete open rows, or keep them for reading, unless the session has opened the same version again since."""
    gone = []
    for row in closed:
        latest = open_rows.get(tx, row.ino, session, row.version)
        if latest is None or latest.opening > row.opening:
            continue
        if row.kept:
            open_rows.only_for_reading(tx, row.ino, session, latest)
        else:
            gone.append(latest)
    _close(tx, session, gone)


def _close(tx: Transaction, session: int, rows: list[OpenRow]) -> None:
    closed: dict[int, list[int]] = {}
    for row in rows:
        tx.delete(open_rows.key(row.ino, session, row.version))
        closed.setdefault(row.ino, []).append(row.version)
    for ino, numbers in closed.items():
        inode = records.get_inode(tx, ino)
        if inode is not None:
            versions.closed(tx, ino, inode, numbers)
            forget_unnamed(tx, ino, inode)


# -- the end


def end(tx: Transaction, session: int) -> None:
    """Everything of the session goes: open rows, slots, and itself."""
    _end(tx, session, lambda row: False)


def leave(tx: Transaction, session: int) -> SessionRecord | None:
    """It ends, but for its open rows for writing, which wait for a session that takes them over; None: there are none,
    and nothing of it is left. What nobody has committed yet is no base."""
    return _end(tx, session, lambda row: row.writing and row.version > 0)


def _end(tx: Transaction, session: int, stays: Callable[[OpenRow], bool]) -> SessionRecord | None:
    record = records.get_record(tx, records.session_key(session), SessionRecord)
    if record is None:
        return None
    rows = open_rows.of_session(tx, session)
    kept = {row.ino for row in rows if stays(row)}
    _close(tx, session, [row for row in rows if not stays(row)])
    _forget_replies(tx, session, record)
    if kept:
        record.gone, record.kept_files = True, len(kept)
        records.put_record(tx, records.session_key(session), record)
        return record
    tx.delete(records.session_key(session))
    return None


def _forget_replies(tx: Transaction, session: int, record: SessionRecord) -> None:
    """Nothing that the session has asked for, or put, is asked for again."""
    for ino in versions.uploads_of(tx, session):
        versions.end_uploads(tx, ino, references.ONLY_GROUP, session)
    for key, _ in list(records.rows(tx, b"r" + records.number(session))):
        tx.delete(key)
    tx.delete(b"k" + record.key)


def take_over(tx: Transaction, request: TakeOver) -> TakenOver:
    """Repeated, it finds what it has done. A version has a row at each moment, so it is kept throughout."""
    check(tx, request.session)
    inos = {base.ino: None for base in request.bases}
    kept = [row for former in request.formers for row in open_rows.of_session(tx, former)]
    for row in kept:
        if row.writing and row.ino in inos:
            open_rows.put(tx, row.ino, request.session, row.version, request.opening, writing=True)
    for base in request.bases:
        inode = records.get_inode(tx, base.ino)
        if inode is not None and inode.version == base.version:
            open_rows.put(tx, base.ino, request.session, base.version, request.opening, writing=True)
    for former in request.formers:
        end(tx, former)
    rows = (row for ino in inos for row in open_rows.of(tx, ino, request.session))
    return TakenOver([Closed(row.ino, row.version, row.opening) for row in rows])


def count_gone(tx: Transaction, sessions: Iterable[int], seconds: float) -> dict[int, SessionRecord]:
    """They are gone for so much longer; their records now."""
    found: dict[int, SessionRecord] = {}
    for session in sessions:
        record = records.get_record(tx, records.session_key(session), SessionRecord)
        if record is not None:
            record.gone_s += seconds
            records.put_record(tx, records.session_key(session), record)
            found[session] = record
    return found
