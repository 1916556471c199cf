"""The metadata of a volume as lines of text: what there is to be written down, and how (docs/DUMP.md). Pure.

Left out is what follows from the rest (parent rows, sums, references), and what ends with the directory: sessions, what
they have open and were answered, and with that inodes without a name and contents beside the newest ones; garbage, and
what file servers have told of their disks, which are asked for everything after a load.
"""

from collections.abc import Iterator
from itertools import chain

from blake3 import blake3

from dfsfuse.messages import ROOT_INO, to_json_line
from dfsfuse.messages.dumps import (
    DUMP_FORMAT,
    DumpEnd,
    DumpInode,
    DumpLine,
    DumpName,
    DumpPage,
    DumpSegment,
    DumpShort,
    DumpVolume,
    DumpXattr,
)
from servers import records, short_rows
from servers.records import Inode
from servers.store import Reader

PAGE_BYTES = 256 << 10
SAME = (
    "mode", "uid", "gid", "nlink", "size", "mtime_ns", "ctime_ns", "atime_ns", "version", "target", "rdev", "fence",
    "group", "entries", "segments", "stored_bytes", "locking",
)  # fmt: skip
"""Fields of an inode that a dump has as they are."""


def pages(tx: Reader, copies: int, now_ns: int) -> Iterator[DumpPage]:
    """All lines, some at a time; the last one has the checksum."""
    lines, length, count, hasher = [], 0, 0, blake3()
    for line in _lines(tx, copies, now_ns):
        hasher.update(line)
        count += 1
        lines.append(line[:-1])
        length += len(line)
        if length >= PAGE_BYTES:
            yield DumpPage(lines, True)
            lines, length = [], 0
    lines.append(to_json_line(DumpLine(end=DumpEnd(count, hasher.digest())))[:-1])
    yield DumpPage(lines)


def _lines(tx: Reader, copies: int, now_ns: int) -> Iterator[bytes]:
    volume = DumpLine(volume=_volume(tx, copies, now_ns))
    return map(to_json_line, chain([volume], _inodes(tx), _names(tx), _shorts(tx)))


def _volume(tx: Reader, copies: int, now_ns: int) -> DumpVolume:
    limits = records.quota(tx)
    return DumpVolume(
        format=DUMP_FORMAT,
        volume=tx.get(b"mvolume"),
        made_ns=now_ns,
        copies=copies,
        next_inode=records.get_counter(tx, b"next_inode", ROOT_INO + 1),
        next_session=records.get_counter(tx, b"next_session", 1),
        start_number=records.get_counter(tx, b"start_number"),
        bytes_max=limits.size_bytes,
        inodes_max=limits.inodes,
    )


def _inodes(tx: Reader) -> Iterator[DumpLine]:
    """Each with its extended attributes; its segments follow it."""
    for ino, inode in records.inodes(tx):
        if ino != ROOT_INO and not tx.range(*records.within(b"p" + records.number(ino)), 1):
            continue
        yield DumpLine(inode=_inode(tx, ino, inode))
        for segment_id in dict.fromkeys(filter(None, inode.segments)):
            entries = records.get_segment(tx, segment_id)
            if entries is not None:
                yield DumpLine(segment=DumpSegment(segment_id, entries))


def _inode(tx: Reader, ino: int, inode: Inode) -> DumpInode:
    rows = records.rows(tx, b"x" + records.number(ino)) if inode.xattr_bytes else ()
    xattrs = [DumpXattr(key[9:], value) for key, value in rows]
    same = {name: getattr(inode, name) for name in SAME}
    return DumpInode(ino=ino, commits=inode.history, xattrs=xattrs, **same)


def _names(tx: Reader) -> Iterator[DumpLine]:
    for key, row in records.rows(tx, b"e"):
        yield DumpLine(name=DumpName(records.as_number(key[1:9]), key[9:], records.unpack_entry(row)[0]))


def _shorts(tx: Reader) -> Iterator[DumpLine]:
    for key, _ in records.rows(tx, b"q"):
        yield DumpLine(short=DumpShort(*short_rows.of_key(key)))
