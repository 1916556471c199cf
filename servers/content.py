"""Versions of files' content: opening, committing, and where the copies are. Pure over a transaction.

A commit swaps a file's manifest for another in one transaction, if the file still has the content that the commit is
based on, if no newer holder of the write lock has opened the file (its fence), and if enough servers have every chunk
that the base did not have. A commit whose commit id is in the file's history has happened already and answers success.
"""

import stat
from collections import Counter
from collections.abc import Iterator

from dfsfuse import chunks, errors
from dfsfuse.chunks import Entry
from dfsfuse.messages import (
    COMMIT_ID_BYTES,
    INLINE_ENTRIES,
    PUT_PIECES_MAX,
    SEGMENT_ENTRIES,
    XATTR_CAPABILITY,
    Attributes,
    Commit,
    GetSegments,
    ListMappings,
    Lookup,
    Manifest,
    Mappings,
    Nothing,
    Open,
    Opened,
    PutSegments,
    Segment,
    Segments,
    Whereabouts,
    WhereReply,
    moves_atime,
    without_set_ids,
)
from servers import losses, open_rows, quota, records, references, undurable, versions
from servers.group import Group
from servers.records import HISTORY_MAX, Inode, attributes_of, manifest_of, put_inode
from servers.store import Reader, Transaction
from servers.tree import at_place, existing, give, paths_to
from servers.undurable import ROUND_NS, Needs, Undurable

FILE_BYTES_MAX = 16 << 40
_SEGMENTS_PER_REQUEST = 64
_PIECES_PER_REPLY = 16 * SEGMENT_ENTRIES
_CHUNKS_PER_PAGE = 20_000
_GAPS_MAX = 1000
_SEGMENTS_MAX = chunks.entry_count(FILE_BYTES_MAX) // SEGMENT_ENTRIES


def open_file(tx: Transaction, request: Open) -> Opened:
    """The newest content of a file; with a token, its fence is raised first."""
    ino, inode = at_place(tx, request.base, request.names)
    _check_openable(ino, inode, request)
    if request.token and request.token < inode.fence:
        raise errors.LockLost("a newer holder of the write lock has opened the file")
    notes = request.locking and not inode.locking
    if request.token > inode.fence or notes or moves_atime(inode, request.atime_ns):
        inode.fence, inode.locking = max(request.token, inode.fence), inode.locking or notes
        inode.atime_ns = request.atime_ns or inode.atime_ns
        put_inode(tx, ino, inode)
    # A file without a name goes with its program, also where that is killed.
    writing = request.token > 0 and inode.nlink > 0
    open_rows.put(tx, ino, request.session, inode.version, request.opening, writing)
    known = (request.have_version, request.have_commit_id) == (inode.version, inode.commit_id)
    known = known and request.have_version > 0
    manifest = None if known else manifest_of(inode)
    return Opened(attributes=attributes_of(ino, inode), manifest=manifest, locking=inode.locking)


def _check_openable(ino: int, inode: Inode, request: Open) -> None:
    if request.ino and request.ino != ino:
        raise errors.Stale("the name leads to another file now")
    if inode.is_folder:
        raise errors.IsADirectory("a folder has no content")
    _check_file(inode)


def put_segments(tx: Transaction, request: PutSegments, group: Group) -> Nothing:
    """Segments for a later commit; an id is random, so writing one again writes the same."""
    inode = existing(tx, request.ino)
    _check_file(inode)
    _check_base(inode, request)
    _check_segments(tx, request.segments)
    new = [_new_in(tx, inode, segment) for segment in request.segments]
    receipts = group.checked(set().union(*new), request.receipts)
    for segment in request.segments:
        references.put_segment(tx, inode.group, segment.id, segment.entries, segment.first)
    needs = [group.needs(chunk_names, receipts) for chunk_names in new]
    versions.note_segments(tx, request.ino, inode.group, request.session, request.segments, needs)
    group.note_short(tx, receipts, set().union(*(chunks.chunks_of(segment.entries) for segment in request.segments)))
    inode.beside = True
    put_inode(tx, request.ino, inode)
    return Nothing()


def _check_segments(tx: Transaction, segments: list[Segment]) -> None:
    pieces = sum(len(entry) for segment in segments for entry in segment.entries)
    if pieces > PUT_PIECES_MAX or len(segments) > _SEGMENTS_PER_REQUEST:
        raise errors.BadRequest(f"at most {PUT_PIECES_MAX} pieces and {_SEGMENTS_PER_REQUEST} segments a request")
    for segment in segments:
        _check_segment(tx, segment)


def _check_segment(tx: Transaction, segment: Segment) -> None:
    first, last = segment.first, segment.first + len(segment.entries)
    if len(segment.id) != COMMIT_ID_BYTES or not 0 <= first <= last <= SEGMENT_ENTRIES:
        raise errors.BadRequest("a segment has an id of 16 bytes and at most 1,024 entries")
    if not 0 <= segment.part < _SEGMENTS_MAX:
        raise errors.BadRequest(f"a file has no part {segment.part}")
    _check_entries(segment.entries)
    known = records.get_segment(tx, segment.id) or []
    if first > len(known):
        raise errors.ReceiptsVoid(f"segment {segment.id.hex()} has {len(known)} entries; put it from entry 0 on")
    if known[first:last] != segment.entries[: len(known) - first]:
        raise errors.BadRequest(f"segment {segment.id.hex()} exists, and segments never change")


def _new_in(tx: Transaction, inode: Inode, segment: Segment) -> set[bytes]:
    """Chunks that the same part of the base has not. A segment of the base is not read: what it lists it holds."""
    names = chunks.chunks_of(segment.entries)
    if inode.entries:
        return names - chunks.chunks_of(_part(tx, manifest_of(inode), segment.part))
    base = inode.segments[segment.part] if segment.part < len(inode.segments) else b""
    holder = references.segment_holder(base)
    return {name for name in names if tx.get(references.key(inode.group, name, holder)) is None} if base else names


def get_segments(tx: Transaction, request: GetSegments, now_ns: int) -> Segments:
    if len(request.ids) > _SEGMENTS_PER_REQUEST:
        raise errors.BadRequest(f"at most {_SEGMENTS_PER_REQUEST} segments a request")
    found: list[Segment] = []
    pieces = 0
    for segment_id in request.ids:
        found.append(Segment(segment_id, 0, references.segment(tx, segment_id)))
        pieces += sum(map(len, found[-1].entries))
        if pieces >= _PIECES_PER_REPLY:
            break
    return Segments(found)


def commit(tx: Transaction, request: Commit, group: Group, now_ns: int) -> Attributes:
    inode = existing(tx, request.ino)
    if request.commit_id in inode.history:
        return attributes_of(request.ino, inode)
    _check_commit(tx, inode, request)
    stored_bytes = _stored_bytes(tx, inode, request)
    quota.check_growth(tx, stored_bytes - inode.allocated_bytes)
    needs = _needs(tx, inode, request, group)
    records.add_usage(tx, 0, request.size - inode.size, stored_bytes - inode.allocated_bytes)
    if request.opening:
        open_rows.move(tx, request.ino, request.session, request.base_version, request.opening)
    with versions.keeping(tx, request.ino, inode):
        before = undurable.content_of(inode)
        _take_content(inode, request, stored_bytes)
        made = Undurable(before, needs, durable=request.durable, round=now_ns // ROUND_NS)
        versions.committed(tx, request.ino, inode, before, made, group)
    if inode.beside:
        versions.end_uploads(tx, request.ino, inode.group, request.session)
    inode.ctime_ns = max(inode.ctime_ns, request.ctime_ns or now_ns)
    if request.mtime_ns is not None:
        inode.mtime_ns = request.mtime_ns
    if request.attributes is not None:
        give(tx, request.ino, inode, request.attributes.due(inode))
    _take_rights(tx, inode, request)
    if request.gaps:
        losses.note_gaps(tx, request.ino, inode, request.gaps, now_ns)
    put_inode(tx, request.ino, inode)
    return attributes_of(request.ino, inode)


def _needs(tx: Transaction, inode: Inode, request: Commit, group: Group) -> Needs:
    """What the new content needs to be durable; NotEnoughCopies or ReceiptsVoid where that is not there."""
    base = chunks.chunks_of(_part(tx, manifest_of(inode), 0))
    listed = chunks.chunks_of(request.manifest.entries)
    new = listed - base
    receipts = group.checked(new, request.receipts)
    group.note_short(tx, receipts, listed)
    segments = set(request.manifest.segments) - set(inode.segments) - {b""}
    uploaded = versions.uploaded_needs(tx, request.ino, request.session, segments, group.states)
    group.check_uploaded(uploaded)
    return uploaded.joined(group.needs(new, receipts), group.states)


def _take_content(inode: Inode, request: Commit, stored_bytes: int) -> None:
    inode.version += 1
    inode.history = [request.commit_id, *inode.history][:HISTORY_MAX]
    inode.size, inode.stored_bytes = request.size, stored_bytes
    inode.entries, inode.segments = request.manifest.entries, request.manifest.segments


def _stored_bytes(tx: Transaction, inode: Inode, request: Commit) -> int:
    """What of the new content is no hole. Segments that stay are not read again."""
    manifest = request.manifest
    total = chunks.stored_bytes(manifest.entries)
    if manifest.segments:
        counted = inode.segments if inode.stored_bytes >= 0 else []
        total += inode.stored_bytes if counted else 0
        new, old = Counter(manifest.segments), Counter(counted)
        total += sum(_bytes_of_segment(tx, segment_id) for segment_id in (new - old).elements())
        total -= sum(_bytes_of_segment(tx, segment_id) for segment_id in (old - new).elements())
    return max(0, min(total, request.size))


def _bytes_of_segment(tx: Transaction, segment_id: bytes) -> int:
    return chunks.stored_bytes(records.get_segment(tx, segment_id) or []) if segment_id else 0


def _take_rights(tx: Transaction, inode: Inode, request: Commit) -> None:
    """Who may write a program's file does not get the rights that its owner has given to the program."""
    if request.clears_set_ids:
        inode.mode = without_set_ids(inode.mode)
    if request.clears_capability:
        records.delete_xattr(tx, request.ino, inode, XATTR_CAPABILITY)


def _check_file(inode: Inode) -> None:
    if not inode.is_file:
        raise errors.InvalidArgument("only regular files have content")


def _check_commit(tx: Transaction, inode: Inode, request: Commit) -> None:
    _check_file(inode)
    if len(request.commit_id) != COMMIT_ID_BYTES:
        raise errors.BadRequest("a commit id has 16 bytes")
    if request.size < 0:
        raise errors.InvalidArgument(f"size {request.size}: a file has 0 bytes or more")
    if request.size > FILE_BYTES_MAX:
        raise errors.FileTooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
    if request.token < inode.fence:
        raise errors.LockLost("a newer holder of the write lock has opened the file")
    _check_base(inode, request)
    if request.attributes is not None and inode.version:
        raise errors.BadRequest("only a file's first commit brings attributes")
    _check_gaps(request)
    _check_manifest(request.manifest, request.size)
    _check_there(tx, inode, request.manifest.segments)


def _check_base(inode: Inode, request: Commit | PutSegments) -> None:
    if (request.base_version, request.base_commit_id) != (inode.version, inode.commit_id):
        raise errors.VersionConflict(
            f"the file has version {inode.version}; the commit is based on version {request.base_version}"
        )


def _check_gaps(request: Commit) -> None:
    if len(request.gaps) > _GAPS_MAX or not all(0 <= start < end <= request.size for start, end in request.gaps):
        raise errors.BadRequest(f"gaps are at most {_GAPS_MAX} ranges within the file")


def _check_entries(entries: list[Entry]) -> None:
    for entry in entries:
        if len(entry) > chunks.PIECES_MAX:
            raise errors.BadRequest(f"an entry has at most {chunks.PIECES_MAX} pieces")
        for piece in entry:
            if len(piece.chunk) not in (0, chunks.NAME_BYTES):
                raise errors.BadRequest("a chunk's name has 32 bytes")
            if piece.offset < 0 or piece.length < 1 or piece.end > chunks.ENTRY_BYTES:
                raise errors.BadRequest("a piece reaches beyond its entry")


def _check_manifest(manifest: Manifest, size: int) -> None:
    _check_entries(manifest.entries)
    count = chunks.entry_count(size)
    fits = len(manifest.entries) <= min(count, INLINE_ENTRIES) and not (manifest.entries and manifest.segments)
    if not fits or len(manifest.segments) > -(-count // SEGMENT_ENTRIES):
        raise errors.BadRequest("the manifest does not fit the file's size")


def _check_there(tx: Transaction, inode: Inode, ids: list[bytes]) -> None:
    """Segments that the base does not have were put, and no power cut has taken them since."""
    for segment_id in set(ids) - set(inode.segments) - {b""}:
        if not references.is_segment(tx, segment_id):
            raise errors.BadRequest(f"no segment {segment_id.hex()}; put it again, then commit")


def _part(tx: Reader, manifest: Manifest, part: int) -> list[Entry]:
    """The `part`-th 1,024 entries of a manifest."""
    if manifest.entries:
        return manifest.entries if part == 0 else []
    segment_id = manifest.segments[part] if part < len(manifest.segments) else b""
    return references.segment(tx, segment_id) if segment_id else []


def parts(tx: Reader, inode: Inode) -> Iterator[set[bytes]]:
    """The names of the chunks of the newest content, part by part."""
    manifest = manifest_of(inode)
    return (chunks.chunks_of(_part(tx, manifest, part)) for part in range(max(len(manifest.segments), 1)))


# -- where the copies are


def where(tx: Reader, request: Lookup, group: Group) -> WhereReply:
    return _whereabouts(tx, *at_place(tx, request.base, request.names), group)


def mappings(tx: Reader, request: ListMappings, group: Group) -> Mappings:
    """`where` for every regular file, in order of inode numbers; a page ends with the `limit`-th name, or earlier where
    files have very many chunks."""
    limit = max(1, min(request.limit, 1000))
    rows: list[WhereReply] = []
    names = chunks_counted = 0
    for ino, inode in records.inodes(tx, records.inode_key(request.after_ino + 1)):
        if names >= limit or chunks_counted >= _CHUNKS_PER_PAGE:
            return Mappings(rows, True)
        if inode.is_file:
            rows.append(_whereabouts(tx, ino, inode, group))
            names += max(1, len(rows[-1].paths))
            chunks_counted += rows[-1].chunks
    return Mappings(rows, False)


def _whereabouts(tx: Reader, ino: int, inode: Inode, group: Group) -> WhereReply:
    if stat.S_ISDIR(inode.mode):
        raise errors.IsADirectory("folders have no copies; name a file")
    names = set().union(*parts(tx, inode))
    copies = [_copy(tx, server.name, server.url, rank, names, group) for rank, server in enumerate(group.cluster.files)]
    paths = paths_to(tx, ino)
    return WhereReply(
        path=paths[0] if paths else b"",
        attributes=attributes_of(ino, inode),
        chunks=len(names),
        copies=copies,
        paths=paths,
    )


def _copy(tx: Reader, name: str, url: str, rank: int, chunk_names: set[bytes], group: Group) -> Whereabouts:
    missing = group.missing(tx, name, chunk_names)
    role = "replica" if rank else "primary"
    return Whereabouts(server=name, url=url, role=role, whole=missing == 0, missing_chunks=missing)
