"""Chunks that no server of their group has any more, and the files that had them. Pure over a transaction.

    l ino:8 version:8    LostFile: the content with this version is lost

A server that has looked for a chunk in vain says so: its short row has the value LOOKED_FOR then. Once all servers of
the group have said so, the chunk is lost. A file whose newest content had it goes back to the content that was on
disks, if that has not lost it too; as a version of its own, so that no cache takes one for the other.
"""

import msgspec

from dfsfuse.chunks import chunk_name
from dfsfuse.messages import COMMIT_ID_BYTES, LostFile
from servers import records, references, versions
from servers.records import Inode, short_key
from servers.store import Transaction
from servers.tree import path_to

LOOKED_FOR = b"1"
FILES_MAX = 10_000
"""Of one chunk, and of what is told."""


def lacks(tx: Transaction, server: str, chunk: bytes, group: list[str], now_ns: int) -> None:
    """This server has looked for the chunk in vain."""
    tx.put(short_key(server, chunk), LOOKED_FOR)
    if all(tx.get(short_key(name, chunk)) == LOOKED_FOR for name in group):
        _lost(tx, chunk, now_ns)


def has(tx: Transaction, server: str, chunk: bytes, group: list[str]) -> bool:
    """This server has the chunk. Had it looked for it in vain before? Then others may find it now, and no file is lost
    for it any more."""
    known = tx.get(short_key(server, chunk))
    if known is None:
        return False
    tx.delete(short_key(server, chunk))
    if known != LOOKED_FOR:
        return False
    for name in group:
        if tx.get(short_key(name, chunk)) == LOOKED_FOR:
            tx.put(short_key(name, chunk), b"")
    _found(tx, chunk)
    return True


def _lost(tx: Transaction, chunk: bytes, now_ns: int) -> None:
    for ino in references.inodes_with(tx, references.ONLY_GROUP, chunk, FILES_MAX):
        inode = records.get_inode(tx, ino)
        if chunk in _chunks(tx, inode) and tx.get(_key(ino, inode.version)) is None:
            _lose(tx, ino, inode, chunk, now_ns)


def _lose(tx: Transaction, ino: int, inode: Inode, chunk: bytes, now_ns: int) -> None:
    row = versions.undurable(tx, ino)
    reverts = row is not None and chunk not in _chunks(tx, row.before)
    path, version = path_to(tx, ino)[0], inode.version
    if reverts:
        commit_id = chunk_name(inode.commit_id + b" is lost")[:COMMIT_ID_BYTES]
        versions.revert(tx, ino, inode, row.before, commit_id)
        inode.mtime_ns = now_ns
        records.touch(inode, now_ns)
    inode.beside = True
    records.put_inode(tx, ino, inode)
    lost = LostFile(ino=ino, path=path, version=version, lost_ns=now_ns, reverted=reverts)
    records.put_record(tx, _key(ino, version), lost)


def _found(tx: Transaction, chunk: bytes) -> None:
    """Files that have kept their newest content are not lost with this chunk any more; with others they are again."""
    for ino in references.inodes_with(tx, references.ONLY_GROUP, chunk, FILES_MAX):
        inode = records.get_inode(tx, ino)
        tx.delete(_key(ino, inode.version))


def _chunks(tx: Transaction, content: "versions.Content | Inode") -> set[bytes]:
    return {chunk for part in versions.parts(content) for chunk in versions.chunks_of_part(tx, content, part)}


def _key(ino: int, version: int) -> bytes:
    return b"l" + records.number(ino) + records.number(version)


def told(tx: Transaction) -> list[LostFile]:
    rows = tx.range(*records.within(b"l"), FILES_MAX)
    return [msgspec.msgpack.decode(row, type=LostFile) for _, row in rows]
