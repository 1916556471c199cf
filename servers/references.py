"""Who needs which chunk, and which segment. Pure over a transaction.

    c group:2 c chunk:32 holder      a chunk is needed by a holder
    c group:2 g segment:16 holder    so is a segment of a large manifest
    y segment:16                     nobody needs this segment any more: `group:2 done:4`, how many chunks are let go

A holder is `i ino:8` (a content that the inode keeps lists it), `s segment:16` (the segment lists it), or
`u ino:8 session:8` (a segment that the session has put and not committed yet).

There are rows and no counters: putting or deleting one again changes nothing, and a checker can see who holds what. A
chunk that loses its last row is garbage at once (garbage_log.py), and no server is to look for it any more
(short_rows.py). A segment can list 16,384 chunks, so it is taken apart by steps, in transactions of their own.
"""

from collections.abc import Iterable, Iterator

from dfsfuse import errors
from dfsfuse.chunks import NAME_BYTES, Entry, chunks_of
from servers import garbage_log, records, short_rows
from servers.store import Reader, Transaction

ONLY_GROUP = 1
"""The placement group, as long as there is one."""


def inode_holder(ino: int) -> bytes:
    return b"i" + records.number(ino)


def upload_holder(ino: int, session: int) -> bytes:
    return b"u" + records.number(ino) + records.number(session)


def segment_holder(segment_id: bytes) -> bytes:
    return b"s" + segment_id


def _prefix(group: int, target: bytes) -> bytes:
    kind = b"c" if len(target) == NAME_BYTES else b"g"
    return b"c" + group.to_bytes(2, "big") + kind + target


def key(group: int, target: bytes, holder: bytes) -> bytes:
    """Of the row that says that this holder needs the chunk or segment."""
    return _prefix(group, target) + holder


def hold(tx: Transaction, group: int, targets: Iterable[bytes], holder: bytes) -> None:
    for target in targets:
        tx.put(key(group, target, holder), b"")


def drop(tx: Transaction, group: int, targets: Iterable[bytes], holder: bytes) -> None:
    """What nobody holds then is garbage; a segment is taken apart by `work_off`."""
    gone: list[bytes] = []
    for target in targets:
        tx.delete(key(group, target, holder))
        if is_held(tx, group, target):
            continue
        if len(target) == NAME_BYTES:
            garbage_log.append(tx, group, target)
            gone.append(target)
        else:
            tx.put(b"y" + target, group.to_bytes(2, "big") + bytes(4))
    if gone:
        short_rows.forget(tx, gone)


def is_held(tx: Reader, group: int, target: bytes) -> bool:
    return bool(tx.range(*records.within(_prefix(group, target)), 1))


def holders(tx: Transaction, group: int, target: bytes, limit: int) -> list[bytes]:
    prefix = _prefix(group, target)
    return [key[len(prefix) :] for key, _ in tx.range(*records.within(prefix), limit)]


def inodes_with(tx: Transaction, group: int, chunk: bytes, limit: int) -> list[int]:
    """Inodes that keep a content with this chunk; `limit` of them, or a few more."""
    found: dict[int, None] = {}
    for holder in _through_segments(tx, group, chunk, limit):
        if holder[:1] == b"i":
            found[records.as_number(holder[1:])] = None
        if len(found) >= limit:
            break
    return list(found)


def _through_segments(tx: Transaction, group: int, chunk: bytes, limit: int) -> Iterator[bytes]:
    for holder in holders(tx, group, chunk, limit):
        yield from holders(tx, group, holder[1:], limit) if holder[:1] == b"s" else (holder,)


def chunks_after(tx: Transaction, group: int, after: bytes, limit: int) -> tuple[list[bytes], bool]:
    """(up to `limit` chunks that somebody needs and that sort after `after`, whether there are more)."""
    first, end = records.within(b"c" + group.to_bytes(2, "big") + b"c")
    start = _beyond(first, after) if after else first
    found: list[bytes] = []
    while rows := tx.range(start, end, limit + 1):
        for key, _ in rows:
            chunk = key[len(first) : len(first) + NAME_BYTES]
            if found and found[-1] == chunk:
                continue
            if len(found) == limit:
                return found, True
            found.append(chunk)
        start = _beyond(first, found[-1])
    return found, False


def _beyond(first: bytes, chunk: bytes) -> bytes:
    """A key beyond all rows of a chunk: no holder begins with 0xff."""
    return first + chunk + b"\xff"


# -- segments


def put_segment(tx: Transaction, group: int, segment_id: bytes, entries: list[Entry], first: int = 0) -> None:
    """The segment's row, where it goes on with these entries as number `first`, and references to what they list. What
    is there already is the same. The caller holds the segment."""
    keep_whole(tx, segment_id)
    known = records.get_segment(tx, segment_id) or []
    if not known or first + len(entries) > len(known):
        records.put_segment(tx, segment_id, known[:first] + entries)
    hold(tx, group, chunks_of(entries), segment_holder(segment_id))


def keep_whole(tx: Transaction, segment_id: bytes) -> None:
    """The segment is held again: it is not taken apart, or not any further."""
    tx.delete(b"y" + segment_id)


def is_work_left(tx: Transaction) -> bool:
    return bool(tx.range(*records.within(b"y"), 1))


def work_off(tx: Transaction, limit: int) -> bool:
    """Take segments apart that nobody needs: `limit` chunks of one of them. Is there more to do?"""
    rows = tx.range(*records.within(b"y"), 1)
    if not rows:
        return False
    segment_id, group, done = rows[0][0][1:], int.from_bytes(rows[0][1][:2], "big"), int.from_bytes(rows[0][1][2:])
    listed = sorted(chunks_of(records.get_segment(tx, segment_id) or []))
    drop(tx, group, listed[done : done + limit], segment_holder(segment_id))
    if done + limit < len(listed):
        tx.put(b"y" + segment_id, group.to_bytes(2, "big") + (done + limit).to_bytes(4, "big"))
    else:
        tx.delete(b"y" + segment_id)
        tx.delete(b"g" + segment_id)
    return is_work_left(tx)


def is_segment(tx: Transaction, segment_id: bytes) -> bool:
    """Is it there, and not about to be taken apart?"""
    return tx.get(b"g" + segment_id) is not None and tx.get(b"y" + segment_id) is None


def segment(tx: Transaction, segment_id: bytes) -> list[Entry]:
    """NotFound where there is none, or none any more."""
    if not is_segment(tx, segment_id):
        raise errors.NotFound(f"no segment {segment_id.hex()}")
    return records.get_segment(tx, segment_id)
