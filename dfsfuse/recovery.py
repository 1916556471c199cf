"""What a killed client left in its cache: found by its content, then sent, kept as a copy, or forgotten.

The index names the version that each content is based on, and the commit that was being tried. While a commit id
stands in the row, the content on disk is what that commit was to make: whoever writes after it clears the id first.
So a commit that has happened leaves nothing to do; otherwise what differs from the base is sent if a program had
closed it, and kept as a recovered copy if not. Only what programs may have written through the kernel may be something
else: it is compared with what the commit has made. And such programs may still be there, and write on: they keep the
file, and what is recovered is a copy of it.

Threads: used by one; `run` before the file system serves.
"""

import logging
import os
import time
from collections.abc import Callable

from dfsfuse import chunks, errors, gaps, holes
from dfsfuse.cache import Cache
from dfsfuse.cache_index import State
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Entry, Piece, Ranges, chunk_name
from dfsfuse.content import Content
from dfsfuse.copies import WHY
from dfsfuse.lending import is_written_at
from dfsfuse.manifests import cut
from dfsfuse.messages import Attributes, Commit, Lookup, Manifest, bytes_as_text
from dfsfuse.openings import Version
from dfsfuse.session import Session
from dfsfuse.sparse_files import copy_file
from dfsfuse.transfer import Transfer
from dfsfuse.unsent import Unsent

log = logging.getLogger(__name__)

_LOOK_S = 0.02
_PARTED = "parted"
_COPIES_TOLD = 10
_LEFT_CLOSED = "left by a client that ended before it was sent; it is sent now"
_LEFT_OPEN = "left by a client that ended before it was closed; it is kept as a copy now"
"""What `dfs status` says until that is done, or has failed."""

Download = Callable[[bytes], bytes]


class Recovery:
    """`newest(ino)` is what the directory has of a file."""

    def __init__(
        self, session: Session, cache: Cache, transfer: Transfer, unsent: Unsent, newest: Callable[[int], Version]
    ):
        self._session, self._cache, self._transfer, self._unsent = session, cache, transfer, unsent
        self._newest = newest
        self._taken: list[Content] = []
        self._copies_before = {copy.ino for copy in cache.index.copies()}

    def run(self) -> None:
        """Take up everything that an earlier client of this cache left; what cannot be done yet is retried."""
        for content, state, pending in self._cache.index.load_unsent(self._cache.path_of):
            try:
                self._recover(content, state, pending)
            except FileNotFoundError:
                self._forget(content)
            except errors.DfsError as error:
                log.error("%s cannot be recovered yet: %s", os.fsdecode(content.where), error)
                self._take_up(content, state)

    def outcome(self, wait_s: float) -> list[str]:
        """What has become of it, in lines for people; asked for while the retries run, after `wait_s` at most."""
        deadline = time.monotonic() + wait_s
        while any(content.changed for content in self._taken) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        waiting = sum(content.changed for content in self._taken)
        copies = [copy for copy in self._cache.index.copies() if copy.ino not in self._copies_before]
        sent = max(0, len(self._taken) - waiting - len(copies))
        lines = [f"sent now, as the client before could not: {sent} of its files"] if sent else []
        for copy in copies[:_COPIES_TOLD]:
            told = f"{bytes_as_text(copy.original)}: {WHY[copy.kind]}; kept as {bytes_as_text(copy.path)}"
            lines.append(told + gaps.as_text(copy.gaps))
        if len(copies) > _COPIES_TOLD:
            lines.append(f"{len(copies)} such copies were made in all; `dfs status` lists them")
        if waiting:
            lines.append(f"not sent yet, of what the client before left: {waiting} of its files; see `dfs status`")
        return lines

    def _recover(self, content: Content, state: State, pending: bytes) -> None:
        if not content.where:
            # It never had a name, and goes with its program, as on a local disk.
            self._forget(content)
            return
        # A commit that the row knows of is what the content is based on: what differs was written after it.
        unsettled = pending if pending != content.commit_id else b""
        if content.unseen.passes and is_written_at(content.path):
            self._part(content)
        find_changes(content, self._transfer.download)
        if not content.changed:
            self._forget(content)
        elif unsettled and self._has_happened(content, unsettled):
            self._after_commit(content, unsettled)
        else:
            self._take_up(content, state)

    def _part(self, content: Content) -> None:
        """Programs of the client before have the file open for writing, and keep it."""
        try:
            copy_file(content.path, str(self._cache.home / _PARTED))
            os.rename(self._cache.home / _PARTED, content.path)
        except OSError as error:
            log.error("%s is being written to, and cannot be copied: %s", os.fsdecode(content.where), error)

    def _after_commit(self, content: Content, pending: bytes) -> None:
        """The commit has happened. What was written through the kernel after it nobody had closed."""
        if not content.unseen.passes:
            self._forget(content)
            return
        try:
            newest = self._newest(content.ino)
        except errors.Stale:
            # It goes with its name, as nothing can tell what it has from what was committed.
            self._forget(content)
            return
        if newest.attributes.commit_id == pending:
            _base_on(content, newest)
            find_changes(content, self._transfer.download, surely=True)
            if not content.changed:
                self._forget(content)
                return
        self._take_up(content, State.OPEN)
        self._cache.mark_open(content)

    def _forget(self, content: Content) -> None:
        for row in self._cache.drop(content):
            self._session.closed(*row)

    def _take_up(self, content: Content, state: State) -> None:
        """Programs see at once what one of them had closed; what was half written they never see under this name."""
        # After a power cut the disk may lack what was never synced: that must not become the newest version.
        content.promised = state is State.CLOSED and content.verified
        # Nobody knows any more who has written it.
        content.clears_set_ids = content.clears_capability = True
        content.attempts.failed = True
        content.gaps = self._cache.index.gaps_of(content.ino)
        if content.promised:
            self._cache.adopt(content)
        self._cache.index.set_failure(content.row, _LEFT_CLOSED if content.promised else _LEFT_OPEN)
        self._taken.append(content)
        self._unsent.add(content)

    def _has_happened(self, content: Content, pending: bytes) -> bool:
        """Is the commit in the file's history? Asked with a commit that nothing can be based on."""
        nothing = Commit(
            ino=content.ino,
            token=1 << 62,
            base_version=-1,
            base_commit_id=b"",
            commit_id=pending,
            size=0,
            mtime_ns=None,
            manifest=Manifest(),
        )
        try:
            self._session.change(nothing, Attributes)
            return True
        except (errors.VersionConflict, errors.Stale):
            return self._cache.index.has_happened(pending) and not self._has_its_base(content)

    def _has_its_base(self, content: Content) -> bool:
        """A power cut at the directory has taken the commit back, if it was there: it is to be sent again."""
        try:
            now: Attributes = self._session.query(Lookup(content.ino), Attributes)
        except errors.Stale:
            return False
        return (now.version, now.commit_id) == (content.version, content.commit_id)


def _base_on(content: Content, newest: Version) -> None:
    attributes = newest.attributes
    content.give_up()
    content.version, content.commit_id, content.size = attributes.version, attributes.commit_id, attributes.size
    content.entries, content.segments = newest.entries.copy(), newest.segments
    content.present = Ranges([(0, len(content.entries))])


def find_changes(content: Content, download: Download, surely: bool = False) -> None:
    """Set what is dirty of a content whose writer is gone: what is not what the servers have.

    The file on disk has the size that the program saw. Entries that the servers have count as here only where the
    index says so; what lies beyond them was written here. `download` brings chunks to compare with, where hashing
    cannot tell, or `surely`: the hash of a chunk of which the file has the first part alone tells nothing."""
    found = os.stat(content.path)
    base_size, size, content.mtime_ns = content.size, found.st_size, found.st_mtime_ns
    content.changed_ns = content.mtime_ns
    _fit(content, size)
    content.resized = content.resized or size != base_size
    with open(content.path, "rb") as file:
        for index in holes.with_data(content.entries, file.fileno(), size):
            entry = content.entries[index]
            if index in content.present and not _unchanged(file.fileno(), index, entry, size, download, surely):
                start, end = index * ENTRY_BYTES, min((index + 1) * ENTRY_BYTES, size)
                holes.take_from_disk(content, file.fileno(), start, end)


def _fit(content: Content, size: int) -> None:
    """Entries, their flags and the segments that still hold, for the size on disk."""
    entries, count = content.entries.copy(), chunks.entry_count(size)
    if size < content.size:
        cut(entries, content.segments, size)
    content.entries, content.size = entries.fit(count), size
    content.present.cut(count)
    for hole in entries.holes():
        content.present.add(*hole)


def _unchanged(fd: int, index: int, entry: Entry, size: int, download: Download, surely: bool) -> bool:
    length = chunks.entry_length(index, size)
    data = os.pread(fd, length, index * ENTRY_BYTES)
    if len(entry) == 1 and entry[0].offset == 0 and entry[0].length == length:
        same = entry == [Piece(chunk_name(data), 0, length)]
        if same or not surely:
            return same
    try:
        return data == _assembled(entry, length, download)
    except errors.DfsError:
        # Nobody can tell now, and sending what the servers have already does no harm.
        return False


def _assembled(entry: Entry, length: int, download: Download) -> bytes:
    """The bytes of an entry as the servers have them."""
    whole = bytearray(length)
    for span in chunks.spans(entry):
        if span.chunk != HOLE:
            whole[span.offset : span.offset + span.length] = download(span.chunk)[span.start : span.start + span.length]
    return bytes(whole)
