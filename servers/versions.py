"""Contents that are kept beside a file's newest one, and what keeps them. Pure over a transaction.

    d ino:8                         Undurable: the newest content is not known to be on enough disks yet
    h ino:8 version:8               Content: an older version that somebody has open
    u ino:8 session:8 segment:16    Needs: a segment that was put, and is not committed yet

A file server syncs each second, so a power cut of all of them takes what came last. Until copies_min servers have
synced past the receipts of a commit, the directory keeps the content before it: if the newest one is lost (losses.py),
the file goes back to that. Several commits in that time have one row: it keeps the content before the first of them,
and needs what all of them need.

References (references.py) follow the contents: `keeping` compares what is needed before and after a change.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from dfsfuse import chunks
from dfsfuse.chunks import Entry
from servers import records, references
from servers.records import Inode
from servers.server_states import ServerState
from servers.store import Reader, Transaction

_PAGE = 500
States = dict[str, ServerState]


class Content(msgspec.Struct, array_like=True):
    """What `Inode` has of a content. Version 0 is the empty one."""

    version: int = 0
    size: int = 0
    stored_bytes: int = 0
    entries: list[Entry] = []
    segments: list[bytes] = []


class Needs(msgspec.Struct, array_like=True):
    """For each server the receipt number past which it must have synced (0: it has the chunks on its disk); those that
    lack a chunk; and those whose receipts are unsure: of a start of which it is not known what it has synced."""

    numbers: dict[str, int] = {}
    lacking: list[str] = []
    unsure: list[str] = []

    def joined(self, later: "Needs", states: States) -> "Needs":
        """What both need. Receipts of an earlier start are unsure beside later ones."""
        unsure = {name for name, number in self.numbers.items() if name in states and states[name].is_unsure(number)}
        numbers = {name: max(number, later.numbers.get(name, 0)) for name, number in self.numbers.items()}
        return Needs(
            {**later.numbers, **numbers},
            sorted({*self.lacking, *later.lacking}),
            sorted({*self.unsure, *later.unsure, *unsure}),
        )

    def on_disk(self, name: str, states: States, synced: dict[str, int]) -> bool:
        """Has this server all of it on its disk? One that tells nothing of its disk is believed."""
        if name in self.lacking or name in self.unsure or name not in self.numbers:
            return False
        return name not in states or states[name].is_on_disk(self.numbers[name], synced.get(name, 0))


class Undurable(msgspec.Struct, array_like=True):
    """`before`: the newest content of which it is known that it is on enough disks."""

    before: Content
    needs: Needs


def content_of(inode: Inode) -> Content:
    return Content(inode.version, inode.size, inode.stored_bytes, inode.entries, inode.segments)


def targets_of(content: Content | Inode) -> set[bytes]:
    """What a content lists itself: chunks, or segments."""
    return chunks.chunks_of(content.entries) | set(content.segments) - {b""}


# -- rows


_encode = msgspec.msgpack.Encoder().encode
decode_content = msgspec.msgpack.Decoder(Content).decode
_decode_undurable = msgspec.msgpack.Decoder(Undurable).decode
_decode_needs = msgspec.msgpack.Decoder(Needs).decode


def _held_key(ino: int, version: int) -> bytes:
    return b"h" + records.number(ino) + records.number(version)


def _upload_key(ino: int, session: int, segment_id: bytes) -> bytes:
    return b"u" + records.number(ino) + records.number(session) + segment_id


def undurable(tx: Reader, ino: int) -> Undurable | None:
    row = tx.get(b"d" + records.number(ino))
    return None if row is None else _decode_undurable(row)


def put_undurable(tx: Transaction, ino: int, row: Undurable) -> None:
    tx.put(b"d" + records.number(ino), _encode(row))


def undurable_rows(tx: Transaction, after: int, limit: int) -> list[tuple[int, Undurable]]:
    """(ino, row) of up to `limit` files behind inode `after`."""
    rows = tx.range(b"d" + records.number(after + 1), records.within(b"d")[1], limit)
    return [(records.as_number(key[1:]), _decode_undurable(row)) for key, row in rows]


def _held(tx: Reader, ino: int, inode: Inode) -> list[Content]:
    if not inode.beside:
        return []
    rows = tx.range(*records.within(b"h" + records.number(ino)), 100_000)
    return [decode_content(row) for _, row in rows]


# -- what is needed


@contextlib.contextmanager
def keeping(tx: Transaction, ino: int, inode: Inode) -> Iterator[None]:
    """Bring the references in line with what changes within: the inode's content, and the rows above."""
    before = needed(tx, ino, inode)
    yield
    after, holder = needed(tx, ino, inode), references.inode_holder(ino)
    references.hold(tx, inode.group, after - before, holder)
    references.drop(tx, inode.group, before - after, holder)


def needed(tx: Reader, ino: int, inode: Inode) -> set[bytes]:
    """Chunks and segments that an inode needs for all that it keeps."""
    found = targets_of(inode)
    row = undurable(tx, ino)
    if row is not None:
        found |= targets_of(row.before)
    for content in _held(tx, ino, inode):
        found |= targets_of(content)
    return found


def committed(tx: Transaction, ino: int, inode: Inode, before: Content, needs: Needs, states: States) -> None:
    """Within `keeping`: the content `before` has been replaced by what the inode has now. Who has it open keeps it; and
    until the new one is on enough disks, so does the file. What the new one has of `before` needs what that did."""
    if before.version and _is_open(tx, ino, before.version):
        _hold(tx, ino, inode, before)
    earlier = undurable(tx, ino)
    if earlier is not None:
        needs = earlier.needs.joined(needs, states) if _rests_on(inode, before, earlier.before) else needs
        before = earlier.before
    if needs.numbers or needs.lacking:
        put_undurable(tx, ino, Undurable(before, needs))
    elif earlier is not None:
        tx.delete(b"d" + records.number(ino))


def _rests_on(inode: Inode, before: Content, durable: Content) -> bool:
    """May the inode's content have a chunk of `before`, which is none of the durable one? Segments are not read."""
    if inode.segments or before.segments:
        return True
    return bool(targets_of(inode) & targets_of(before) - targets_of(durable))


def _hold(tx: Transaction, ino: int, inode: Inode, content: Content) -> None:
    """The caller puts the inode."""
    tx.put(_held_key(ino, content.version), _encode(content))
    inode.beside = True


def _is_open(tx: Transaction, ino: int, version: int) -> bool:
    rows = tx.range(*records.within(b"o" + records.number(ino)), 100_000)
    return any(key[17:] == records.number(version) for key, _ in rows)


def closed(tx: Transaction, ino: int, inode: Inode, version: int) -> None:
    """An open row of this version is gone."""
    if inode.beside and tx.get(_held_key(ino, version)) is not None and not _is_open(tx, ino, version):
        with keeping(tx, ino, inode):
            tx.delete(_held_key(ino, version))


def forget(tx: Transaction, ino: int, inode: Inode) -> None:
    """The inode goes, and with it all that it keeps."""
    with keeping(tx, ino, inode):
        inode.entries, inode.segments = [], []
        if undurable(tx, ino) is not None:
            tx.delete(b"d" + records.number(ino))
        for prefix in (b"h", b"l") if inode.beside else ():
            for key, _ in tx.range(*records.within(prefix + records.number(ino)), 100_000):
                tx.delete(key)
    for session in {session for session, _, _ in _uploads(tx, ino)} if inode.beside else ():
        end_uploads(tx, ino, inode.group, session)


def revert(tx: Transaction, ino: int, inode: Inode, before: Content, commit_id: bytes) -> None:
    """The content `before` is the newest one again, as a version of its own. The commits after it are not in the
    history any more, so a repetition of one is refused. The caller puts the inode."""
    with keeping(tx, ino, inode):
        lost = content_of(inode)
        if _is_open(tx, ino, lost.version):
            _hold(tx, ino, inode, lost)
        allocated = inode.allocated_bytes
        inode.history = [commit_id, *inode.history[lost.version - before.version :]][: records.HISTORY_MAX]
        inode.version = lost.version + 1
        inode.size, inode.stored_bytes = before.size, before.stored_bytes
        inode.entries, inode.segments = before.entries, before.segments
        tx.delete(b"d" + records.number(ino))
    records.add_usage(tx, 0, before.size - lost.size, inode.allocated_bytes - allocated)


# -- segments that are not committed yet


def note_segment(tx: Transaction, ino: int, group: int, session: int, segment_id: bytes, needs: Needs) -> None:
    """The caller sees to it that the inode is `beside`."""
    references.hold(tx, group, [segment_id], references.upload_holder(ino, session))
    tx.put(_upload_key(ino, session, segment_id), _encode(needs))


def uploaded_needs(tx: Transaction, ino: int, session: int, segment_ids: Iterable[bytes], states: States) -> Needs:
    """What the segments need that this session has put for a commit that is to have them."""
    needs = Needs()
    for segment_id in segment_ids:
        row = tx.get(_upload_key(ino, session, segment_id))
        if row is not None:
            needs = needs.joined(_decode_needs(row), states)
    return needs


def end_uploads(tx: Transaction, ino: int, group: int, session: int) -> None:
    """The session needs none of what it has put for this file, or the file itself has it by now."""
    for owner, segment_id, key in _uploads(tx, ino):
        if owner == session:
            tx.delete(key)
            references.drop(tx, group, [segment_id], references.upload_holder(ino, session))


def _uploads(tx: Transaction, ino: int) -> list[tuple[int, bytes, bytes]]:
    """(session, segment, key) of all segments that were put for a file."""
    rows = tx.range(*records.within(b"u" + records.number(ino)), 100_000)
    return [(records.as_number(key[9:17]), key[17:], key) for key, _ in rows]


def uploads_of(tx: Transaction, session: int) -> set[int]:
    """The files for which the session has put segments. Sessions end rarely, so all rows are read."""
    found: set[int] = set()
    start, stop = records.within(b"u")
    while rows := tx.range(start, stop, _PAGE):
        found |= {records.as_number(key[1:9]) for key, _ in rows if key[9:17] == records.number(session)}
        start = rows[-1][0] + b"\0"
    return found


# -- becoming durable


class Settled(NamedTuple):
    """Servers that lack a chunk of a content that stays; and those that were not waited for."""

    lacking: set[str]
    late: set[str]


def settle(tx: Transaction, after: int, limit: int, late: Callable[[Needs], set[str] | None]) -> tuple[int, Settled]:
    """Let go what was kept for newest contents that are on enough disks: of `limit` files behind inode `after`; the
    last of them, or 0 if there are no more. `late`: None if the content is to stay; else the servers that are not
    waited for. As nobody would know any more that they may not have it on their disks, they are to look for it.
    """
    rows, settled = undurable_rows(tx, after, limit), Settled(set(), set())
    for ino, row in rows:
        names = late(row.needs)
        if names is None:
            settled.lacking.update(row.needs.lacking)
        else:
            settled.late.update(names)
            _let_go(tx, ino, row, names)
    return rows[-1][0] if len(rows) == limit else 0, settled


def _let_go(tx: Transaction, ino: int, row: Undurable, late: set[str]) -> None:
    inode = records.get_inode(tx, ino)
    for part in parts(inode) if late else ():
        for chunk in new_in_part(tx, inode, part, row.before):
            for key in (records.short_key(name, chunk) for name in late):
                tx.put(key, tx.get(key) or b"")
    with keeping(tx, ino, inode):
        tx.delete(b"d" + records.number(ino))


def build_references(tx: Transaction) -> None:
    """References of a volume that was made before there were any; once."""
    if records.get_counter(tx, b"references"):
        return
    note_references(tx)
    for ino, inode in records.inodes(tx):
        references.hold(tx, inode.group, targets_of(inode), references.inode_holder(ino))
        for segment_id in filter(None, inode.segments):
            references.put_segment(tx, inode.group, segment_id, records.get_segment(tx, segment_id) or [])


def note_references(tx: Transaction) -> None:
    """The volume has them."""
    records.put_counter(tx, b"references", 1)


# -- parts


def parts(content: Content | Inode) -> range:
    """The numbers of its parts: its entries, or its segments."""
    return range(max(1, len(content.segments)))


def chunks_of_part(tx: Transaction, content: Content | Inode, part: int) -> set[bytes]:
    if not content.segments:
        return chunks.chunks_of(content.entries)
    segment_id = content.segments[part]
    return chunks.chunks_of(records.get_segment(tx, segment_id) or []) if segment_id else set()


def new_in_part(tx: Transaction, content: Inode, part: int, before: Content) -> set[bytes]:
    """What this part has and the same part of `before` has not."""
    if content.segments and content.segments[part : part + 1] == before.segments[part : part + 1]:
        return set()
    known = chunks_of_part(tx, before, part) if part in parts(before) else set()
    return chunks_of_part(tx, content, part) - known
