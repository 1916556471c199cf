"""Newest contents that are not known to be on enough disks yet, and the contents before them. Pure over a transaction.

    d ino:8    Undurable

A file server syncs each second, so a power cut of all of them takes what came last. Until copies_min servers have
synced past the receipts of a commit, the directory keeps what was before it: `before`, the newest content that is on
enough disks, and of those `between` the last one of each round of ROUND_NS, and the last that was fsynced. So
whatever a power cut takes, there is a content that is little older (losses.py); and each that turns out to be on enough
disks takes the place of all that are older (versions.py).
"""

import msgspec

from dfsfuse import chunks
from dfsfuse.chunks import Entry
from servers import records
from servers.records import Inode
from servers.server_states import ServerState
from servers.store import Reader, Transaction

ROUND_NS = 250_000_000
BETWEEN_MAX, _LATEST = 16, 8
"""How many contents are kept between; and how many of the latest, of two seconds, when older ones are thinned out."""
States = dict[str, ServerState]


class Content(msgspec.Struct, array_like=True):
    """What `Inode` has of a content. Version 0 is the empty one. `commit_id` is b"" where the file has lost it, and in
    rows of earlier versions."""

    version: int = 0
    size: int = 0
    stored_bytes: int = 0
    entries: list[Entry] = []
    segments: list[bytes] = []
    commit_id: bytes = b""


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


class Step(msgspec.Struct, array_like=True):
    """A content that is not known to be on enough disks, and what it needs for that. `durable`: its chunks were synced
    before it was committed, or while it was the newest one. `round`: when it was committed."""

    content: Content
    needs: Needs
    durable: bool = False
    round: int = 0


class Undurable(msgspec.Struct, array_like=True):
    """`before`: the newest content of which it is known that it is on enough disks; then those between, older ones
    first. The rest is about the newest one, which is the inode's."""

    before: Content
    needs: Needs
    between: list[Step] = []
    durable: bool = False
    round: int = 0

    @property
    def all_needs(self) -> list[Needs]:
        return [*(step.needs for step in self.between), self.needs]

    def followed(self, newest: Content) -> list[Step]:
        """`between`, when another content takes the place of the newest one."""
        latest, steps = Step(newest, self.needs, self.durable, self.round), [*self.between]
        while steps and steps[-1].round == latest.round and (latest.durable or not steps[-1].durable):
            steps.pop()
        steps.append(latest)
        if len(steps) <= BETWEEN_MAX:
            return steps
        older, newer = steps[:-_LATEST], steps[-_LATEST:]
        fsynced = max((at for at, step in enumerate(older) if step.durable), default=0)
        return [*(step for at, step in enumerate(older) if at == fsynced or at % 2 == 0), *newer]


def content_of(inode: Inode) -> Content:
    return Content(inode.version, inode.size, inode.stored_bytes, inode.entries, inode.segments, inode.commit_id)


def targets_of(content: Content | Inode) -> set[bytes]:
    """What a content lists itself: chunks, or segments."""
    return chunks.chunks_of(content.entries) | set(content.segments) - {b""}


# -- rows


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Undurable).decode


def get(tx: Reader, ino: int) -> Undurable | None:
    row = tx.get(b"d" + records.number(ino))
    return None if row is None else _decode(row)


def put(tx: Transaction, ino: int, row: Undurable) -> None:
    tx.put(b"d" + records.number(ino), _encode(row))


def rows_after(tx: Transaction, after: int, limit: int) -> list[tuple[int, Undurable]]:
    """(ino, row) of up to `limit` files behind inode `after`."""
    rows = tx.range(b"d" + records.number(after + 1), records.within(b"d")[1], limit)
    return [(records.as_number(key[1:]), _decode(row)) for key, row in rows]


def delete(tx: Transaction, ino: int) -> None:
    tx.delete(b"d" + records.number(ino))


# -- parts


def parts(content: Content | Inode) -> range:
    """The numbers of its parts: its entries, or its segments."""
    return range(max(1, len(content.segments)))


def not_on_disks(inode: Inode, row: Undurable) -> list[Content | Inode]:
    """Those between and the newest one, as in `all_needs`."""
    return [*(step.content for step in row.between), inode]


def parts_of_all(inode: Inode, row: Undurable) -> range:
    return range(max(len(parts(content)) for content in not_on_disks(inode, row)))


def chunks_of_part(tx: Transaction, content: Content | Inode, part: int) -> set[bytes]:
    if part not in parts(content):
        return set()
    if not content.segments:
        return chunks.chunks_of(content.entries)
    segment_id = content.segments[part]
    return chunks.chunks_of(records.get_segment(tx, segment_id) or []) if segment_id else set()


def new_in_part(tx: Transaction, content: Content | Inode, part: int, before: Content) -> set[bytes]:
    """What this part has and the same part of `before` has not."""
    if content.segments and content.segments[part : part + 1] == before.segments[part : part + 1]:
        return set()
    return chunks_of_part(tx, content, part) - chunks_of_part(tx, before, part)


def new_in_all(tx: Transaction, inode: Inode, part: int, row: Undurable) -> set[bytes]:
    """What of this part is not known to be on enough disks, in the newest content and those between."""
    return set().union(*(new_in_part(tx, content, part, row.before) for content in not_on_disks(inode, row)))
