"""Contents that are kept beside a file's newest one, and what keeps them. Pure over a transaction.

    h ino:8 version:8               Content: an older version that somebody has open
    u ino:8 session:8 segment:16    Upload: a segment that was put, and is not committed yet

And those that a power cut may bring back (undurable.py).

References (references.py) follow the contents: `keeping` compares what is needed before and after a change.
"""

import contextlib
from collections.abc import Iterable, Iterator

import msgspec

from dfsfuse.messages import Segment
from servers import open_rows, records, references, undurable
from servers.group import Group
from servers.records import Inode
from servers.store import Reader, Transaction
from servers.undurable import Content, Needs, States, Undurable, targets_of

_PAGE = 500


class Upload(msgspec.Struct, array_like=True):
    """What its chunks need. `part`: its place in the manifest. `following`: what those chunks need that came in further
    requests, by the number of their first entry."""

    needs: Needs
    part: int = -1
    following: dict[int, Needs] = {}


# -- rows


_encode = msgspec.msgpack.Encoder().encode
decode_content = msgspec.msgpack.Decoder(Content).decode
_decode_upload = msgspec.msgpack.Decoder(Upload).decode


def _held_key(ino: int, version: int) -> bytes:
    return b"h" + records.number(ino) + records.number(version)


def _upload_key(ino: int, session: int, segment_id: bytes) -> bytes:
    return b"u" + records.number(ino) + records.number(session) + segment_id


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
    row = undurable.get(tx, ino)
    if row is not None:
        found |= targets_of(row.before).union(*(targets_of(step.content) for step in row.between))
    for content in _held(tx, ino, inode):
        found |= targets_of(content)
    return found


def committed(tx: Transaction, ino: int, inode: Inode, before: Content, commit: Undurable, group: Group) -> None:
    """Within `keeping`: the content `before` has been replaced by what the inode has now. Who has it open keeps it; and
    until the new one is on enough disks, so does the file. What the new one has of `before` needs what that did; it
    must not be lost already (Starting)."""
    if before.version and open_rows.is_open(tx, ino, before.version):
        _hold(tx, ino, inode, before)
    earlier = undurable.get(tx, ino)
    if earlier is not None:
        if _rests_on(inode, before, earlier.before):
            group.check_sure(earlier.needs)
            commit.needs = earlier.needs.joined(commit.needs, group.states)
        commit.before, commit.between = earlier.before, earlier.followed(before)
    if commit.needs.numbers or commit.needs.lacking:
        undurable.put(tx, ino, commit)
    elif earlier is not None:
        undurable.delete(tx, ino)


def _rests_on(inode: Inode, before: Content, durable: Content) -> bool:
    """May the inode's content have a chunk of `before`, which is none of the durable one? Segments are not read."""
    if inode.segments or before.segments:
        return True
    return bool(targets_of(inode) & targets_of(before) - targets_of(durable))


def _hold(tx: Transaction, ino: int, inode: Inode, content: Content) -> None:
    """The caller puts the inode."""
    tx.put(_held_key(ino, content.version), _encode(content))
    inode.beside = True


def closed(tx: Transaction, ino: int, inode: Inode, numbers: list[int]) -> None:
    """Open rows of these versions are gone. Together, as each look at what is still needed is at all that is kept."""
    if not inode.beside:
        return
    still = open_rows.versions(tx, ino)
    gone = [key for key in (_held_key(ino, version) for version in {*numbers} - still) if tx.get(key) is not None]
    if gone:
        with keeping(tx, ino, inode):
            for key in gone:
                tx.delete(key)


def forget(tx: Transaction, ino: int, inode: Inode) -> None:
    """The inode goes, and with it all that it keeps."""
    with keeping(tx, ino, inode):
        inode.entries, inode.segments = [], []
        if undurable.get(tx, ino) is not None:
            undurable.delete(tx, ino)
        for prefix in (b"h", b"l") if inode.beside else ():
            for key, _ in tx.range(*records.within(prefix + records.number(ino)), 100_000):
                tx.delete(key)
    for session in {session for session, _, _ in _uploads(tx, ino)} if inode.beside else ():
        end_uploads(tx, ino, inode.group, session)


def revert(tx: Transaction, ino: int, inode: Inode, row: Undurable, number: int, commit_id: bytes) -> None:
    """The content between with this number, or the one before all of them (-1), is the newest one again, as a version
    of its own. The commits after it are not in the history any more, so a repetition of one is refused. The caller puts
    the inode."""
    before = row.between[number].content if number >= 0 else row.before
    with keeping(tx, ino, inode):
        lost = undurable.content_of(inode)
        if open_rows.is_open(tx, ino, lost.version):
            _hold(tx, ino, inode, lost)
        for content in _held(tx, ino, inode):
            if content.version > before.version:
                _hold(tx, ino, inode, msgspec.structs.replace(content, commit_id=b""))
        allocated = inode.allocated_bytes
        inode.history = [commit_id, *inode.history[lost.version - before.version :]][: records.HISTORY_MAX]
        inode.version = lost.version + 1
        inode.size, inode.stored_bytes = before.size, before.stored_bytes
        inode.entries, inode.segments = before.entries, before.segments
        if number >= 0:
            step = row.between[number]
            undurable.put(tx, ino, Undurable(row.before, step.needs, row.between[:number], step.durable, step.round))
        else:
            undurable.delete(tx, ino)
    records.add_usage(tx, 0, before.size - lost.size, inode.allocated_bytes - allocated)


def has_had(tx: Reader, ino: int, inode: Inode, version: int, commit_id: bytes) -> bool:
    """Is this the file's content, or was what it has now made after it, by commits that no power cut has taken? What is
    open is kept, so that it is known of each content that somebody has, however many came after it."""
    if not version or commit_id in inode.history:
        return True
    row = undurable.get(tx, ino)
    former = _held(tx, ino, inode)
    former += [row.before, *(step.content for step in row.between)] if row is not None else []
    return any((content.version, content.commit_id) == (version, commit_id) for content in former)


# -- segments that are not committed yet


def note_segments(
    tx: Transaction, ino: int, group: int, session: int, segments: list[Segment], needs: list[Needs]
) -> None:
    """What each of them needs. They take the place of what the session has put for their parts before. The caller sees
    to it that the inode is `beside`."""
    holder, ids = references.upload_holder(ino, session), {segment.part: segment.id for segment in segments}
    for owner, other, row in _uploads(tx, ino):
        if owner == session and ids.get(row.part, other) != other:
            _end_upload(tx, ino, group, session, other)
    for segment, needed_now in zip(segments, needs, strict=True):
        references.hold(tx, group, [segment.id], holder)
        _put_upload(tx, _upload_key(ino, session, segment.id), segment, needed_now)


def _put_upload(tx: Transaction, key: bytes, segment: Segment, needs: Needs) -> None:
    row = tx.get(key)
    upload = Upload(Needs(), segment.part) if row is None else _decode_upload(row)
    if segment.first:
        upload.following[segment.first] = needs
    else:
        upload.needs = needs
    tx.put(key, _encode(upload))


def uploaded_needs(tx: Transaction, ino: int, session: int, segment_ids: Iterable[bytes], states: States) -> Needs:
    """What the segments need that this session has put for a commit that is to have them. No server has looked for
    chunks of a segment that no file has: so what it had before it started is unsure, however often it has started."""
    needs = Needs()
    for segment_id in segment_ids:
        row = tx.get(_upload_key(ino, session, segment_id))
        upload = Upload(Needs()) if row is None else _decode_upload(row)
        for more in (upload.needs, *upload.following.values()):
            needs = needs.joined(more, states)
    earlier = {name for name, number in needs.numbers.items() if name in states and number < states[name].since}
    return msgspec.structs.replace(needs, unsure=sorted(earlier.union(needs.unsure)))


def end_uploads(tx: Transaction, ino: int, group: int, session: int) -> None:
    """The session needs none of what it has put for this file, or the file itself has it by now."""
    for owner, segment_id, _ in _uploads(tx, ino):
        if owner == session:
            _end_upload(tx, ino, group, session, segment_id)


def _end_upload(tx: Transaction, ino: int, group: int, session: int, segment_id: bytes) -> None:
    tx.delete(_upload_key(ino, session, segment_id))
    references.drop(tx, group, [segment_id], references.upload_holder(ino, session))


def _uploads(tx: Transaction, ino: int) -> list[tuple[int, bytes, Upload]]:
    """(session, segment, row) of all segments that were put for a file."""
    rows = tx.range(*records.within(b"u" + records.number(ino)), 100_000)
    return [(records.as_number(key[9:17]), key[17:], _decode_upload(row)) for key, row in rows]


def uploads_of(tx: Transaction, session: int) -> set[int]:
    """The files for which the session has put segments. Sessions end rarely, so all rows are read."""
    found: set[int] = set()
    start, stop = records.within(b"u")
    while rows := tx.range(start, stop, _PAGE):
        found |= {records.as_number(key[1:9]) for key, _ in rows if key[9:17] == records.number(session)}
        start = rows[-1][0] + b"\0"
    return found
