"""An oracle for references: what must be held follows from inodes, kept contents, segments and uploads, and no more;
and short rows are of what is held, and counted."""

from collections import Counter

from dfsfuse.chunks import NAME_BYTES, chunks_of
from servers import records, references, undurable, versions
from servers.records import Inode
from servers.store import Transaction

_ALL = 1_000_000


def _rows(tx: Transaction, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return [(key[1:], value) for key, value in tx.range(*records.within(prefix), _ALL)]


def check_references(tx: Transaction, inodes: dict[int, Inode]) -> None:
    """AssertionError where a reference is missing, or one is of nobody."""
    expected = _of_inodes(tx, inodes) | _of_uploads(tx, inodes)
    partly = _of_segments(tx, expected)
    found = {key for key, _ in _rows(tx, b"c")}
    assert expected <= found, "something that is needed has no reference"
    assert found <= expected | partly, "a reference of nobody"
    _check_short_rows(tx)


def _check_short_rows(tx: Transaction) -> None:
    rows = [key.partition(b"\0") for key, _ in _rows(tx, b"q")]
    assert {chunk for _, _, chunk in rows} <= referenced(tx), "a server is to look for what nobody needs"
    counted = {key[6:]: records.as_number(value) for key, value in _rows(tx, b"mshort\0")}
    assert counted == Counter(server for server, _, _ in rows)


def _of_inodes(tx: Transaction, inodes: dict[int, Inode]) -> set[bytes]:
    needed = {ino: undurable.targets_of(inode) for ino, inode in inodes.items()}
    for ino, row in undurable.rows_after(tx, 0, _ALL):
        contents = [row.before, *(step.content for step in row.between)]
        numbers = [*(content.version for content in contents), inodes[ino].version]
        assert numbers == sorted(set(numbers)), f"inode {ino} keeps versions {numbers}"
        needed[ino] = needed[ino].union(*map(undurable.targets_of, contents))
    opened = {(key[:8], key[16:]) for key, _ in _rows(tx, b"o")}
    for prefix in (b"h", b"l", b"u"):
        assert all(inodes[records.as_number(key[:8])].beside for key, _ in _rows(tx, prefix)), "rows nobody looks for"
    for key, row in _rows(tx, b"h"):
        assert (key[:8], key[8:]) in opened, "a version is kept that nobody has open"
        needed[records.as_number(key[:8])] |= undurable.targets_of(versions.decode_content(row))
    return {_key(t, references.inode_holder(ino)) for ino, targets in needed.items() for t in targets}


def _of_uploads(tx: Transaction, inodes: dict[int, Inode]) -> set[bytes]:
    expected = set()
    for key, _ in _rows(tx, b"u"):
        ino, session = records.as_number(key[:8]), records.as_number(key[8:16])
        assert ino in inodes, "a segment was put for no inode"
        expected.add(_key(key[16:], references.upload_holder(ino, session)))
    return expected


def _of_segments(tx: Transaction, expected: set[bytes]) -> set[bytes]:
    """Adds what segments need that somebody holds; returns what those may still have that are taken apart."""
    held = {key[3:19] for key in expected if key[2:3] == b"g"}
    apart = {key for key, _ in _rows(tx, b"y")}
    partly = set()
    for segment_id, _ in _rows(tx, b"g"):
        assert (segment_id in held) != (segment_id in apart), "a segment of nobody, or of somebody and taken apart"
        target = expected if segment_id in held else partly
        target |= {_key(c, b"s" + segment_id) for c in chunks_of(records.get_segment(tx, segment_id))}
    return partly


def _key(target: bytes, holder: bytes) -> bytes:
    return b"\0\1" + (b"c" if len(target) == NAME_BYTES else b"g") + target + holder


def referenced(tx: Transaction) -> set[bytes]:
    """All chunks that somebody needs."""
    return {key[3 : 3 + NAME_BYTES] for key, _ in _rows(tx, b"c") if key[2:3] == b"c"}
