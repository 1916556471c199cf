"""A dump (docs/DUMP.md) as rows of an empty store, and what follows from it. Pure over a store.

What the directory has given out since the dump was made is not known: inode numbers, sessions, and tokens of locks,
which begin with the start numbers of lock services. Each of these goes on far behind the dump's (`leap`), so that no
number means two things. Versions of files may repeat; commit ids, by which contents are compared, do not.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from blake3 import blake3

from dfsfuse import errors
from dfsfuse.messages import from_json
from dfsfuse.messages.dumps import DUMP_FORMAT, DumpEnd, DumpInode, DumpLine, DumpName, DumpShort, DumpVolume
from servers import records, references, short_rows, undurable
from servers.dump import SAME
from servers.records import Inode, Usage
from servers.references import ONLY_GROUP
from servers.store import Store, Transaction
from servers.upgrade import note_all

LEAPS = 1 << 20
_BATCH = 1000
_BATCHES_PER_SYNC = 20


class Loaded(NamedTuple):
    """Which volume it is, of which moment, and how much."""

    volume: bytes
    made_ns: int
    inodes: int


def load(store: Store, lines: Iterable[bytes], leap: int) -> Loaded:
    """`leap` is a random number from 1 to LEAPS. Raises BadRequest for what is no whole dump; the store is of no use
    then."""
    reading = _Reading(lines)
    first = next(reading.rows, DumpLine()).volume
    if first is None:
        raise errors.BadRequest("this is no dump of a volume: its first line does not tell of one")
    if first.format != DUMP_FORMAT:
        raise errors.BadRequest(f"the dump has format {first.format}; this version reads format {DUMP_FORMAT}")
    used, more, batches = Usage(0, 0, 0), True, 0
    while more:
        more = store.transact(lambda tx: _load_some(tx, reading, used))
        batches += 1
        if batches % _BATCHES_PER_SYNC == 0:
            store.sync()
    store.transact(lambda tx: _finish(tx, first, used, leap))
    return Loaded(first.volume, first.made_ns, used.inodes)


class _Reading:
    """The lines before the last one, decoded; the last one is held against them."""

    def __init__(self, lines: Iterable[bytes]):
        self._lines, self.number, self._hasher = iter(lines), 0, blake3()
        self.rows = self._rows()

    def _rows(self) -> Iterator[DumpLine]:
        for line in self._lines:
            row = self._decode(line)
            if row.end is not None:
                return self._check_end(row.end)
            self.number += 1
            self._hasher.update(line)
            yield row
        raise errors.BadRequest(f"the dump is cut off: it has {self.number} lines, and none of them is its last one")

    def _decode(self, line: bytes) -> DumpLine:
        try:
            return from_json(line, DumpLine)
        except errors.BadRequest as error:
            raise errors.BadRequest(f"line {self.number + 1} is no line of a dump: {error}") from None

    def _check_end(self, end: DumpEnd) -> None:
        if end.lines != self.number:
            raise errors.BadRequest(f"the dump had {end.lines} lines, and has {self.number}: some are missing")
        if end.blake3 != self._hasher.digest():
            raise errors.BadRequest("the dump is not what was written: its checksum is another one")
        if next(self._lines, None) is not None:
            raise errors.BadRequest("the dump goes on after its last line")


def _load_some(tx: Transaction, reading: _Reading, used: Usage) -> bool:
    """Some lines, with _BATCH rows or little more; are there others?"""
    left = _BATCH
    while left > 0:
        row = next(reading.rows, None)
        if row is None:
            return False
        _load_row(tx, row, reading.number, used)
        left -= 1 if row.segment is None else sum(map(len, row.segment.entries))
    return True


def _load_row(tx: Transaction, row: DumpLine, number: int, used: Usage) -> None:
    if row.inode is not None:
        _load_inode(tx, row.inode, used)
    elif row.segment is not None:
        references.put_segment(tx, ONLY_GROUP, row.segment.id, row.segment.entries)
    elif row.name is not None:
        _load_name(tx, row.name, number)
    elif row.short is not None:
        _load_short(tx, row.short)
    else:
        raise errors.BadRequest(f"line {number} is no line of a dump")


def _load_inode(tx: Transaction, row: DumpInode, used: Usage) -> None:
    inode = Inode(history=row.commits, **{name: getattr(row, name) for name in SAME})
    for xattr in row.xattrs:
        records.put_xattr(tx, row.ino, inode, xattr.name, xattr.value)
    records.put_inode(tx, row.ino, inode)
    references.hold(tx, ONLY_GROUP, undurable.targets_of(inode), references.inode_holder(row.ino))
    used.inodes += 1
    used.size_bytes += inode.size if inode.is_file else 0
    used.allocated_bytes += inode.allocated_bytes


def _load_name(tx: Transaction, row: DumpName, number: int) -> None:
    inode = records.get_inode(tx, row.ino)
    if inode is None:
        raise errors.BadRequest(f"line {number} names inode {row.ino}, which the dump does not have")
    tx.put(records.entry_key(row.folder, row.name), records.pack_entry(row.ino, inode.mode))
    tx.put(records.parent_key(row.ino, row.folder, row.name), b"")


def _load_short(tx: Transaction, row: DumpShort) -> None:
    """What was kept beside the newest contents is not among what is loaded, and nobody needs it."""
    if references.is_held(tx, ONLY_GROUP, row.chunk):
        short_rows.note(tx, [(row.server, row.chunk)])


def _finish(tx: Transaction, volume: DumpVolume, used: Usage, leap: int) -> None:
    tx.put(b"mvolume", volume.volume)
    records.put_counter(tx, b"next_inode", volume.next_inode + (leap << 32))
    records.put_counter(tx, b"next_session", volume.next_session + (leap << 32))
    records.put_counter(tx, b"start_number", volume.start_number + leap)
    note_all(tx)
    records.put_record(tx, b"musage", used)
    records.put_record(tx, b"mquota", records.Limits(volume.inodes_max, volume.bytes_max))
