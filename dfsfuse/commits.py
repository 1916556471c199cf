"""Making local content the next version of a file: changed chunks up, then one commit.

The order is what makes it safe: chunks first, with receipts of copies_min servers; then segments, which nobody sees;
then the commit, which is refused unless the file still has the version that the content is based on. A commit that
was not answered may have happened: it is asked again, with its commit id, before anything else is sent.

Threads: `Content.committing` is held for a whole commit, so the commits of one content follow each other.
"""

import secrets
from collections.abc import Iterator
from typing import NamedTuple

from dfsfuse import chunks, errors
from dfsfuse.ahead import sent_ahead
from dfsfuse.cache import Cache
from dfsfuse.changes import EntryChanges
from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES, Piece
from dfsfuse.content import Content
from dfsfuse.disk_io import read_into
from dfsfuse.in_doubt import InDoubt
from dfsfuse.manifests import Entries, segments_to_put
from dfsfuse.messages import (
    COMMIT_ID_BYTES,
    INLINE_ENTRIES,
    SEGMENT_ENTRIES,
    Attributes,
    ChunkReceipts,
    Commit,
    Manifest,
    Nothing,
    PutSegments,
    Segment,
    SetAttributes,
)
from dfsfuse.owed_attributes import taken_along
from dfsfuse.pieces import plan
from dfsfuse.segments import in_requests
from dfsfuse.session import Session
from dfsfuse.transfer import Confirmed, Transfer
from dfsfuse.unseen import hashes

_UNKNOWN_OUTCOMES = (errors.Unreachable, errors.Internal)
"""After these a commit may have happened: the directory did not answer, or failed when the transaction was through."""
_ATTEMPTS = 8
"""Each that fails has met a server that started again or deleted chunks just then."""

Changed = dict[int, EntryChanges]
"""By entry."""


class _Part(NamedTuple):
    """A range [first, last) of entry `index` that is sent as one chunk."""

    index: int
    first: int
    last: int


class Committer:
    def __init__(self, session: Session, transfer: Transfer, cache: Cache):
        self._session, self._transfer, self._cache = session, transfer, cache

    def commit(self, content: Content, durable: bool = False) -> Attributes | None:
        """The file's attributes after the commit; None if there was nothing to commit. The content is in use.

        On an error nothing is lost: the content stays changed, and in the cache. VersionConflict and LockLost say that
        it can never become the file's next version.
        """
        with content.committing:
            attributes = self._settle_doubt(content)
            if not content.changed:
                return attributes
            commit_id = secrets.token_bytes(COMMIT_ID_BYTES)
            self._cache.mark_closed(content, commit_id)
            changes, size = content.take_changes()
            try:
                return self._send(content, commit_id, changes.by_entry(), size, durable)
            except BaseException as error:
                content.attempts.failed = True
                if content.in_doubt is None:
                    content.put_back()
                self._cache.index.set_failure(content.row, str(error))
                raise

    def _settle_doubt(self, content: Content) -> Attributes | None:
        doubt = content.in_doubt
        if doubt is None:
            return None
        doubt.request.token = content.token
        try:
            return self._finish(content, doubt)
        except _UNKNOWN_OUTCOMES:
            raise
        except errors.ReceiptsVoid:
            # It has not happened, and the same can be tried again from the beginning.
            content.put_back()
            return None
        except errors.DfsError:
            content.put_back()
            raise

    def _send(self, content: Content, commit_id: bytes, changes: Changed, size: int, durable: bool) -> Attributes:
        """Servers that have started again, or deleted what nobody needed, take their receipts back: then what is still
        there is confirmed, and the rest sent again."""
        confirmed: Confirmed = {}
        for attempt in range(1, _ATTEMPTS + 1):
            entries, receipts, synced = self._upload(content, changes, size, confirmed, durable)
            try:
                return self._commit(content, commit_id, changes, size, durable, entries, receipts, synced)
            except errors.ReceiptsVoid:
                if attempt == _ATTEMPTS:
                    raise
                confirmed = self._transfer.confirm([row.chunk for row in receipts])
        raise AssertionError("not reached")

    def _commit(
        self,
        content: Content,
        commit_id: bytes,
        changes: Changed,
        size: int,
        durable: bool,
        entries: Entries,
        receipts: list[ChunkReceipts],
        synced: bool,
    ) -> Attributes:
        manifest = self._manifest(content, entries, changes, receipts)
        request = Commit(
            ino=content.ino,
            token=content.token,
            base_version=content.version,
            base_commit_id=content.commit_id,
            commit_id=commit_id,
            size=size,
            mtime_ns=None if content.mtime_set else content.mtime_ns,
            ctime_ns=content.changed_ns,
            manifest=manifest,
            receipts=[] if manifest.segments else receipts,
            durable=durable,
            opening=self._session.new_opening(),
            clears_set_ids=content.clearing[0],
            clears_capability=content.clearing[1],
            gaps=content.gaps,
            attributes=taken_along(content),
        )
        return self._finish(content, InDoubt(request, entries, synced))

    def _finish(self, content: Content, doubt: InDoubt) -> Attributes:
        request = doubt.request
        content.trying = request.commit_id
        try:
            attributes: Attributes = self._session.change(request, Attributes)
        except _UNKNOWN_OUTCOMES:
            content.in_doubt = doubt
            raise
        except errors.DfsError:
            content.trying = b""
            raise
        self._cache.index.commit_happened(request.commit_id)
        with self._cache.open_rows() as rows:
            rows.committed(content, request.base_version, attributes.version, request.opening)
        self._session.committed(content.ino, request.base_version, attributes.version)
        # What was synced is what was sent; what the base had is another matter.
        durable = request.durable and doubt.synced and (content.synced or not request.base_version)
        content.owed = None
        with content.mutex:
            content.ancestors.add(content.version, content.commit_id, request.session)
        content.unseen.blocks.committed(content.entries, doubt.entries, request.size)
        content.committed(attributes.version, request.commit_id, doubt.entries, doubt.segments, durable)
        if content.changed or content.unseen.writers:
            self._cache.mark_open(content)
        return attributes

    def give_owed(self, content: Content) -> Attributes | None:
        """What a new file is owed of attributes, without its content; its attributes then, None if that is nothing, or
        goes with a commit in doubt."""
        with content.committing:
            with content.mutex:
                owed, given = content.owed, taken_along(content)
            if given is None or content.in_doubt is not None:
                return None
            request = SetAttributes(base=content.ino, owed=given)
            attributes: Attributes = self._session.change(request, Attributes)
            with content.mutex:
                content.attributes_synced = False
                # A program may have set more meanwhile.
                content.owed = None if content.owed is owed else content.owed
            return attributes

    # -- chunks

    def _upload(
        self, content: Content, changes: Changed, size: int, confirmed: Confirmed, durable: bool
    ) -> tuple[Entries, list[ChunkReceipts], bool]:
        """The manifest's entries with the changed ones replaced, receipts for what was sent, or was confirmed, and with
        `durable`, where that is on disks, whether all who gave receipts have it there. A small change is brought there
        by the request that sends it."""
        entries, parts = content.entries.copy().fit(chunks.entry_count(size)), []
        for index, change in sorted(changes.items()):
            entries[index], to_send = plan(entries[index], change, index, chunks.entry_length(index, size))
            parts += [_Part(index, first, last) for first, last in to_send]
        content.unseen.blocks.sending(parts, {index for index, change in changes.items() if change.punched})
        synced = durable and len(parts) == 1 and parts[0].last - parts[0].first < ENTRY_BYTES
        zeros = self._upload_zeros(content, parts, confirmed, synced)
        others = [part for part in parts if part not in zeros]
        sent = zeros | dict(zip(others, self._send_parts(content, others, confirmed, synced), strict=True))
        for part in parts:
            piece = Piece(sent[part].chunk, part.first, part.last - part.first)
            entries[part.index] = chunks.lay(entries[part.index], piece)
        receipts = list({row.chunk: row for row in sent.values()}.values())
        if durable and not synced:
            on_disk = self._transfer.sync(receipts)
            synced = all(receipt.server in on_disk for row in receipts for receipt in row.receipts)
        return entries, receipts, synced

    def _send_parts(
        self, content: Content, parts: list[_Part], confirmed: Confirmed, synced: bool
    ) -> Iterator[ChunkReceipts]:
        return self._transfer.each(lambda part: self._upload_part(content, part, confirmed, synced), parts)

    def _upload_part(self, content: Content, part: _Part, confirmed: Confirmed, synced: bool) -> ChunkReceipts:
        """What was sent ahead is sent again only if its receipts have become void."""
        if part.last - part.first == ENTRY_BYTES and (sent := sent_ahead(content, part.index)) is not None:
            return sent
        with self._transfer.buffers.lend() as buffer:
            return self._upload_data(content, [part], _cut_out(content, part, buffer), confirmed, synced)

    def _upload_zeros(
        self, content: Content, parts: list[_Part], confirmed: Confirmed, synced: bool
    ) -> dict[_Part, ChunkReceipts]:
        """Room that was allocated and not written: one chunk of zeros for all parts of a length. The file is not read
        for it: what is written there from now on goes with the next commit."""
        by_length: dict[int, list[_Part]] = {}
        for part in parts:
            if part.last - part.first >= BLOCK_BYTES and content.is_blank(*part):
                by_length.setdefault(part.last - part.first, []).append(part)
        sent: dict[_Part, ChunkReceipts] = {}
        for length, alike in by_length.items():
            row = self._upload_data(content, alike, memoryview(bytes(length)), confirmed, synced)
            sent |= dict.fromkeys(alike, row)
        return sent

    def _upload_data(
        self, content: Content, parts: list[_Part], data: memoryview, confirmed: Confirmed, synced: bool
    ) -> ChunkReceipts:
        """`data` is what each of the parts has."""
        if content.unseen.writers:
            content.unseen.blocks.found |= dict.fromkeys(parts, hashes(data))
        return self._transfer.upload(data, confirmed, ask=content.attempts.failed, synced=synced)

    # -- the manifest

    def _manifest(
        self, content: Content, entries: Entries, changes: Changed, receipts: list[ChunkReceipts]
    ) -> Manifest:
        if len(entries) <= INLINE_ENTRIES:
            return Manifest(entries.part(0, len(entries)))
        known = len(content.segments)
        ids = content.segments.copy().fit(-(-len(entries) // SEGMENT_ENTRIES))
        put = [content.attempts.segment(part, entries) for part in segments_to_put(entries, known, changes)]
        for segment in put:
            ids[segment.part] = segment.id
        self._put_segments(content, [segment for segment in put if segment.id], {row.chunk: row for row in receipts})
        return Manifest([], ids.part(0, len(ids)))

    def _put_segments(self, content: Content, fresh: list[Segment], receipts: dict[bytes, ChunkReceipts]) -> None:
        for batch in in_requests(fresh):
            names = chunks.chunks_of(entry for segment in batch for entry in segment.entries)
            request = PutSegments(
                session=self._session.id,
                ino=content.ino,
                base_version=content.version,
                base_commit_id=content.commit_id,
                segments=batch,
                receipts=[receipts[name] for name in names if name in receipts],
            )
            self._session.query(request, Nothing)


def _cut_out(content: Content, part: _Part, buffer: memoryview) -> memoryview:
    """The part, with zeros where the file has been cut meanwhile."""
    data = buffer[: part.last - part.first]
    count = read_into(content.fd, data, part.index * ENTRY_BYTES + part.first, content.past_pages)
    data[count:] = bytes(len(data) - count)
    return data
