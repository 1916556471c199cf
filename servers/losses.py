"""Chunks that no server of their group has any more, and the files that had them. Pure over a transaction.

    l ino:8 version:8    LostFile: the content with this version is lost

A copy of which a client could not find everything (dfsfuse/salvage.py) is among them too.

A server that has looked for a chunk in vain says so: its short row (short_rows.py) tells that then. Once all servers of
the group have said so, the chunk is lost. A file whose newest content had it goes back to the newest one before it that
is whole (undurable.py), if there is one; as a version of its own, so that no cache takes one for the other.
"""

import msgspec

from dfsfuse.chunks import chunks_of
from dfsfuse.messages import LostFile, id_after_loss
from servers import records, references, short_rows, undurable, versions
from servers.records import Inode
from servers.short_rows import LOOKED_FOR
from servers.store import Transaction
from servers.tree import path_to
from servers.undurable import Content, Undurable

FILES_MAX = 10_000
"""Of one chunk, and of what is told."""


def lacks(tx: Transaction, server: str, chunk: bytes, group: list[str], now_ns: int) -> None:
    """This server has looked for the chunk in vain."""
    short_rows.put(tx, [(server, chunk)], LOOKED_FOR)
    if not _is_lost(tx, chunk, group):
        return
    for ino in references.inodes_with(tx, references.ONLY_GROUP, chunk, FILES_MAX):
        inode = records.get_inode(tx, ino)
        known = records.get_record(tx, _key(ino, inode.version), LostFile)
        if (known is None or known.gaps) and _lists(tx, inode, chunk):
            _lose(tx, ino, inode, chunk, group, now_ns)


def _is_lost(tx: Transaction, chunk: bytes, group: list[str]) -> bool:
    return all(short_rows.get(tx, name, chunk) == LOOKED_FOR for name in group)


def _lists(tx: Transaction, content: Content | Inode, chunk: bytes) -> bool:
    """Is the chunk in this content? Segments are asked for by the chunk, as a content can have very many."""
    if not content.segments:
        return chunk in chunks_of(content.entries)
    holders = references.holders(tx, references.ONLY_GROUP, chunk, FILES_MAX)
    return not {holder[1:] for holder in holders if holder[:1] == b"s"}.isdisjoint(content.segments)


def has(tx: Transaction, server: str, chunk: bytes, group: list[str]) -> bool:
    """This server has the chunk. Had it looked for it in vain before? Then others may find it now, and no file is lost
    for it any more."""
    known = short_rows.get(tx, server, chunk)
    short_rows.delete(tx, [(server, chunk)])
    if known != LOOKED_FOR:
        return False
    short_rows.put(tx, [(name, chunk) for name in group if short_rows.get(tx, name, chunk) == LOOKED_FOR])
    _found(tx, chunk)
    return True


def _lose(tx: Transaction, ino: int, inode: Inode, chunk: bytes, group: list[str], now_ns: int) -> None:
    row = undurable.get(tx, ino)
    number = None if row is None else _newest_intact(tx, row, chunk, group)
    path, version = path_to(tx, ino)[0], inode.version
    if number is not None:
        versions.revert(tx, ino, inode, row, number, id_after_loss(inode.commit_id))
        inode.mtime_ns = now_ns
        records.touch(inode, now_ns)
    inode.beside = True
    records.put_inode(tx, ino, inode)
    lost = LostFile(ino=ino, path=path, version=version, lost_ns=now_ns, reverted=number is not None)
    if number is None or tx.get(_key(ino, version - 1)) is None:
        # The one that is lost now has come from going back, and that was told.
        records.put_record(tx, _key(ino, version), lost)


def note_gaps(tx: Transaction, ino: int, inode: Inode, gaps: list[tuple[int, int]], now_ns: int) -> None:
    """The newest content of the inode has zeros there, as nobody has what belongs there. The caller puts the inode."""
    inode.beside = True
    path, version = path_to(tx, ino)[0], inode.version
    lost = LostFile(ino=ino, path=path, version=version, lost_ns=now_ns, reverted=False, gaps=gaps)
    records.put_record(tx, _key(ino, version), lost)


def _newest_intact(tx: Transaction, row: Undurable, chunk: bytes, group: list[str]) -> int | None:
    """Of the contents between, the newest one of which nothing is known to be lost; -1: the one before them. What is
    found to be lost of it later makes the file go back once more."""
    for number in range(len(row.between) - 1, -1, -1):
        content = row.between[number].content
        parts = undurable.parts(content)
        new = (name for part in parts for name in undurable.new_in_part(tx, content, part, row.before))
        if not _lists(tx, content, chunk) and not any(_is_lost(tx, name, group) for name in new):
            return number
    return None if _lists(tx, row.before, chunk) else -1


def _found(tx: Transaction, chunk: bytes) -> None:
    """Files that have kept their newest content are not lost with this chunk any more; with others they are again."""
    for ino in references.inodes_with(tx, references.ONLY_GROUP, chunk, FILES_MAX):
        key = _key(ino, records.get_inode(tx, ino).version)
        lost = records.get_record(tx, key, LostFile)
        if lost is not None and not lost.gaps:
            tx.delete(key)


def _key(ino: int, version: int) -> bytes:
    return b"l" + records.number(ino) + records.number(version)


def told(tx: Transaction) -> list[LostFile]:
    rows = tx.range(*records.within(b"l"), FILES_MAX)
    return [msgspec.msgpack.decode(row, type=LostFile) for _, row in rows]
