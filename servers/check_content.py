"""Are contents as they must be: manifests, segments, what is kept beside them, and references? Pure over a snapshot."""

from collections import Counter
from collections.abc import Iterator

from dfsfuse import chunks
from dfsfuse.chunks import NAME_BYTES
from dfsfuse.messages.checks import Problem
from servers import open_rows, records, references, short_rows, versions
from servers.records import Inode
from servers.references import ONLY_GROUP
from servers.store import Reader

_HOLDERS_MAX = 512
_KEY_TARGET = 4
"""Where in a reference's key the chunk or segment begins."""

Found = Iterator[Problem | None]


def of_inode(tx: Reader, ino: int, inode: Inode) -> Found:
    if not inode.is_file:
        return
    if inode.entries and inode.segments or bool(inode.version) != bool(inode.history):
        what = f"version {inode.version}, {len(inode.history)} commit ids, {len(inode.entries)} entries and "
        yield Problem(kind="manifest", ino=ino, what=what + f"{len(inode.segments)} segments do not fit")
    lost = [segment for segment in inode.segments if segment and records.get_segment(tx, segment) is None]
    if lost:
        what = f"{len(lost)} of its {len(inode.segments)} segments, of 4 GiB each, are gone: restore it from a backup"
        yield Problem(kind="segment_missing", ino=ino, what=what)
    elif inode.stored_bytes >= 0 and inode.stored_bytes != (stored := stored_bytes(tx, inode)):
        what = f"it counts {inode.stored_bytes} bytes that are no holes, and has {stored}"
        yield Problem(kind="stored_bytes", ino=ino, what=what, mend=f"it counts {stored}")
    holder = references.inode_holder(ino)
    for target in sorted(versions.needed(tx, ino, inode)):
        yield None
        if tx.get(references.key(ONLY_GROUP, target, holder)) is None:
            yield _unheld(ino, target)


def stored_bytes(tx: Reader, inode: Inode) -> int:
    parts = [inode.entries, *(records.get_segment(tx, segment) or [] for segment in inode.segments if segment)]
    return min(sum(map(chunks.stored_bytes, parts)), inode.size)


def _unheld(ino: int, target: bytes, name: bytes = b"") -> Problem:
    what = f"it needs {_text(target)}, which counts as garbage"
    return Problem(kind="unheld", ino=ino, what=what, mend="it does not, any more", name=name or target)


def _text(target: bytes) -> str:
    return f"{'chunk' if len(target) == NAME_BYTES else 'segment'} {target.hex()}"


def problems(tx: Reader) -> Found:
    """What is not looked at from its inode."""
    yield from _of_segments(tx)
    yield from _of_kept(tx)
    yield from _of_references(tx)
    yield from _of_short_rows(tx)


def _of_segments(tx: Reader) -> Found:
    for key, row in records.rows(tx, b"g"):
        yield None
        segment_id = key[1:]
        if not references.is_held(tx, ONLY_GROUP, segment_id) and tx.get(b"y" + segment_id) is None:
            what = f"{_text(segment_id)} belongs to nothing"
            yield Problem(kind="segment_stray", what=what, mend="it becomes garbage", name=segment_id)
        elif tx.get(b"y" + segment_id) is None:
            for chunk in sorted(chunks.chunks_of(records.decode_entries(row))):
                yield None
                if tx.get(references.key(ONLY_GROUP, chunk, b"s" + segment_id)) is None:
                    yield _unheld(0, chunk, segment_id + chunk)


def _of_kept(tx: Reader) -> Found:
    """Rows of contents beside the newest one."""
    for prefix, what in (
        (b"d", "a content before its newest one is kept"),
        (b"h", "an older content is kept that nobody has open"),
        (b"u", "a segment is kept for a commit that will not come"),
    ):
        for key, _ in records.rows(tx, prefix):
            yield None
            ino = records.as_number(key[1:9])
            inode = records.get_inode(tx, ino)
            if inode is not None and not inode.beside and prefix != b"d":
                said = "it says that nothing is kept beside it, and there is something"
                yield Problem(kind="beside", ino=ino, what=said, mend="it says so")
            if not is_kept_rightly(tx, key):
                yield Problem(kind="kept_stray", ino=ino, what=f"{what}, of nothing", mend="it is let go", name=key)


def is_kept_rightly(tx: Reader, key: bytes) -> bool:
    ino = records.as_number(key[1:9])
    if records.get_inode(tx, ino) is None:
        return False
    if key[:1] == b"h":
        return open_rows.is_open(tx, ino, records.as_number(key[9:17]))
    return key[:1] == b"d" or _may_be_session(tx, records.as_number(key[9:17]))


def _may_be_session(tx: Reader, session: int) -> bool:
    """Session 0 is for trying operations by hand."""
    return session == 0 or tx.get(records.session_key(session)) is not None


def _of_references(tx: Reader) -> Found:
    holding = _Holding(tx)
    for key, _ in records.rows(tx, b"c"):
        yield None
        target, holder = split(key)
        if target not in holding.of(holder):
            what = f"{_text(target)} is needed by what does not need it"
            ino = records.as_number(holder[1:9]) if holder[:1] in b"iu" else 0
            yield Problem(kind="held_stray", ino=ino, what=what, mend="it is not, any more", name=key)


def _of_short_rows(tx: Reader) -> Found:
    lacking: Counter[str] = Counter()
    for key, _ in records.rows(tx, b"q"):
        yield None
        server, chunk = short_rows.of_key(key)
        if references.is_held(tx, ONLY_GROUP, chunk):
            lacking[server] += 1
        else:
            what = f"server {server} is to look for {_text(chunk)}, which nobody needs"
            yield Problem(
                kind="short_stray", path=b"/", what=what, mend="it is not, any more", name=chunk, server=server
            )
    for server in sorted({*lacking, *short_rows.short_servers(tx)}):
        known, found = short_rows.count(tx, server), lacking[server]
        if known != found:
            what = f"server {server} counts as lacking {known} chunks, and lacks {found}"
            amounts = [records.get_counter(tx, count_mended(server)), found - known]
            mend = f"it counts {found}"
            yield Problem(kind="short_count", path=b"/", what=what, mend=mend, server=server, amounts=amounts)


def count_mended(server: str) -> bytes:
    """The name of the counter of how often the number of this server's short rows was repaired."""
    return b"short_mended\0" + server.encode()


def split(key: bytes) -> tuple[bytes, bytes]:
    """(chunk or segment, holder) of a reference's key."""
    length = NAME_BYTES if key[_KEY_TARGET - 1 : _KEY_TARGET] == b"c" else 16
    return key[_KEY_TARGET : _KEY_TARGET + length], key[_KEY_TARGET + length :]


def held_by(tx: Reader, holder: bytes) -> set[bytes]:
    """What a holder needs; segments that are being taken apart need what is still there."""
    if holder[:1] == b"s":
        return chunks.chunks_of(records.get_segment(tx, holder[1:]) or [])
    ino = records.as_number(holder[1:9])
    if holder[:1] == b"u":
        rows = records.rows(tx, b"u" + holder[1:])
        return {key[17:] for key, _ in rows}
    inode = records.get_inode(tx, ino)
    return set() if inode is None else versions.needed(tx, ino, inode)


class _Holding:
    """What holders need; the latest ones are remembered."""

    def __init__(self, tx: Reader):
        self._tx = tx
        self._known: dict[bytes, set[bytes]] = {}

    def of(self, holder: bytes) -> set[bytes]:
        known = self._known.get(holder)
        if known is None:
            if len(self._known) >= _HOLDERS_MAX:
                self._known.clear()
            known = self._known[holder] = held_by(self._tx, holder)
        return known
