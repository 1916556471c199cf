"""The content of one file in the local cache: what is here, what was written, what is to be sent.

A Content is one version of one inode in one file of the local disk, sparse where nothing was fetched. `entries` is the
manifest of what the servers have of it; `present` tells which entries are on the local disk; `changes` are the byte
ranges that were written or punched here since. A commit makes a Content the next version; a newer version that another
client committed is another Content. Holes are made and found in holes.py.

    size    of the content as programs here see it; the file on disk has this size
    entries one for each 4 MiB of `size`, clipped to it; entries that are changed are always present
    present numbers of entries; what is no content need not be among them

Threads: `mutex` guards every field and is held only for memory work and single reads and writes of the local file,
never across a request. `committing` is held for a whole upload; it comes before `mutex`, and a thread that holds
`mutex` never waits for it.
"""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

from dfsfuse import chunks, disk_io, errors
from dfsfuse.ancestors import Ancestors
from dfsfuse.attempts import Attempts
from dfsfuse.changes import Changes
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Ranges
from dfsfuse.gaps import Gap
from dfsfuse.in_doubt import InDoubt
from dfsfuse.manifests import Entries, SegmentIds, cut
from dfsfuse.messages import ChunkReceipts, OwedAttributes
from dfsfuse.sparse_files import holds_data
from dfsfuse.unseen import Unseen

READ_AHEAD_ENTRIES = 3
_lineages = itertools.count(1)

Download = Callable[[bytes], bytes]


class Base(NamedTuple):
    """A version that the servers have, and its manifest."""

    version: int
    commit_id: bytes
    entries: Entries
    segments: SegmentIds


class Content:
    """`fd` is open while the content is in use. `row` is its number in the cache's index. `where` is the path by
    which it was opened. `noted` are the entries of which the index knows that they are here and may have been written.
    `lineage` changes when the content becomes a version that was not made here: what was read before is then no longer
    right. `resized`: cut or grown since the last commit was begun; `resizing`: before that, and it is not done yet.
    `sending`: a commit has taken what was changed (`taken`) and is not done: it is not on the servers yet. `token`: the
    newest with which the content was opened for writing; the lock is the mount's, so every handle's commit has it.

    `clears_set_ids`: a program without the right to keep set-id bits has written since the mode was set here, and
    `clears_capability`: any program since the capability was; `clearing` has both for the commit that is under way.

    `synced`: this version is on the disks; `attributes_synced`: so is what was set here of mode, owner, times and
    extended attributes. `ancestors`: ancestors.py.

    `handles` are what programs have open of it. `shared`: they use locks on it, so it may become another version while
    it is read; it is read under `mutex`. `drops` counts how often what was here was dropped for want of room, and
    there are no drops while there are `pins`: what was read without `mutex` is right if nothing was dropped meanwhile.

    `lent`: the kernel was given the file, and programs may have it mapped (lending.py). `unseen`: unseen.py.

    `gaps`: what of a copy nobody has any more, until the directory knows.

    `trying` is the commit id of a commit that is under way: the directory may name it before this client has heard.

    `row_current`: the index has it as it is. `row_stale`: the index has the base of a commit that has succeeded
    since; a crash finds that out by the commit id, unless something is written again: then the index is told first.
    `past_pages`: what was written last has gone to the disk past the kernel's pages. `reads_on_at`: the entry in which
    whoever reads on is expected next.

    `missed`: a program has read what was not here.

    `wanted`: programs have opened it since it was last brought for a look (refreshing.py).

    `measured`: the cache knows how much room its file takes. `ahead`: sent before close(), by entry (ahead.py).
    `committed_s`: when this client has heard that its latest commit of it has happened. `owed`: owed_attributes.py.
    """

    def __init__(self, row: int, ino: int, path: str, size: int, entries: Entries):
        self.row, self.ino, self.path = row, ino, path
        self.version = 0
        self.commit_id = b""
        self.size = size
        self.entries = entries.copy().fit(chunks.entry_count(size))
        self.segments, self.present = SegmentIds(), Ranges()
        self.changes, self.taken = Changes(), Changes()
        self.resized = self.resizing = self.sending = False
        self.token = 0
        self.in_doubt: InDoubt | None = None
        self.promised = False
        self.trying = b""
        self.attempts = Attempts()
        self.gaps: list[Gap] = []
        self.row_current = self.row_stale = False
        self.measured, self.past_pages, self.reads_on_at = True, False, -1
        self.wanted = self.missed = False
        self.committed_s = 0.0
        self.synced = False
        self.attributes_synced, self.ancestors = True, Ancestors()
        self.owed: OwedAttributes | None = None
        self.failed: errors.DfsError | None = None
        self.silence: errors.Unreachable | None = None
        self.silent_s = 0.0
        self.where = b""
        self.noted: set[int] = set()
        self.mtime_ns = self.changed_ns = 0
        self.mtime_set = False
        self.clears_set_ids = self.clears_capability = False
        self.clearing = (False, False)
        self.fd = -1
        self.lineage = next(_lineages)
        self.ahead: dict[int, Future[ChunkReceipts]] = {}
        self.users = self.pins = self.drops = 0
        self.writers, self.shared, self.lent, self.unseen = 0, False, False, Unseen()
        self.handles: dict[Any, None] = {}
        self.verified = True
        self.mutex = threading.RLock()
        self.committing = threading.RLock()

    # -- state

    @property
    def entries(self) -> Entries:
        return self._entries

    @entries.setter
    def entries(self, entries: Entries) -> None:
        self._entries, self._stored_bytes = entries, -1

    @property
    def stored_bytes(self) -> int:
        """What of `entries` comes from chunks."""
        if self._stored_bytes < 0:
            self._stored_bytes = chunks.stored_bytes(self._entries.values())
        return self._stored_bytes

    @property
    def dirty(self) -> Ranges:
        """What was written since the last commit was begun."""
        return self.changes.written

    @property
    def changed(self) -> bool:
        """Not all of it is on the servers: something was written, cut or grown since the last commit, or is being sent,
        or its commit is in doubt."""
        return bool(self.changes) or self.resized or self.sending

    def base(self) -> Base | None:
        """What this content is as the servers have it; None while it differs from that."""
        with self.mutex:
            if self.changed or self.writers:
                return None
            return Base(self.version, self.commit_id, self.entries.copy(), self.segments.copy())

    def here(self, index: int) -> bool:
        return index in self.present or not self.entries[index]

    # -- reading

    def missing(self, start: int, end: int) -> list[int]:
        """Indexes of entries in [start, end) that must be fetched before they are read."""
        with self.mutex:
            return self._not_here(start, min(end, self.size))

    def _not_here(self, start: int, end: int) -> list[int]:
        first, last = chunks.entries_in(start, end)
        if self.present.covers(first, last):
            return []
        return [index for index, _ in self.entries.items(first, last) if index not in self.present]

    def missing_ahead(self, end: int, missing: list[int]) -> list[int]:
        """As `missing`, of what is read next where reading up to `end` goes on: at the start, behind what is here, and
        from one entry to the next."""
        last = (min(end, self.size) - 1) // ENTRY_BYTES
        with self.mutex:
            begins = bool(missing) and (missing[0] == 0 or self.here(missing[0] - 1))
            if not begins and last != self.reads_on_at:
                return []
            self.reads_on_at = last + 1
            ahead = range(last + 1, min(last + 1 + READ_AHEAD_ENTRIES, len(self.entries)))
            return [index for index in ahead if not self.here(index)]

    def chunk_at(self, offset: int, length: int) -> tuple[bytes, int] | None:
        """The chunk that these bytes are a part of, and where in it they begin; None if they are not, or may not be as
        the servers have them."""
        index, first = divmod(offset, ENTRY_BYTES)
        with self.mutex:
            if length <= 0 or self.changed or self.unseen.writers or len(self.entries[index]) != 1:
                return None
            piece = self.entries[index][0]
            within = piece.offset <= first and first + length <= piece.end
            return (piece.chunk, first - piece.offset) if within and piece.chunk != HOLE else None

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Bytes of entries that are here; how many."""
        length = min(len(buffer), self.size - offset)
        return os.preadv(self.fd, [buffer[:length]], offset) if length > 0 else 0

    def end(self) -> tuple[int, bytes]:
        """(size, the last byte); b"" where it is not here."""
        with self.mutex:
            if self.fd < 0 or not self.size or not self.here(len(self.entries) - 1):
                return self.size, b""
            return self.size, os.pread(self.fd, 1, self.size - 1)

    # -- writing

    def unready(self, start: int, end: int) -> list[int]:
        """Entries that a write to [start, end) changes in part, so they must be here first."""
        with self.mutex:
            return [
                index
                for index in self._not_here(start, end)
                if index * ENTRY_BYTES < start or min((index + 1) * ENTRY_BYTES, self.size) > end
            ]

    def write(
        self, data: bytes | memoryview, offset: int, now_ns: int, append: bool = False, privileged: bool = True
    ) -> bool:
        """Write; True if the index must be told that entries which the servers have are written here from now on.

        With `append` the place is the end of the content, whatever `offset` says. `privileged`: by a program that may
        keep set-id bits.
        """
        with self.mutex:
            offset = self.size if append else offset
            written, self.past_pages = 0, len(data) >= disk_io.LARGE_BYTES and not self.lent
            try:
                for count in disk_io.written(self.fd, data, offset, self.past_pages):
                    written += count
            finally:
                # Also what a full disk has taken of it: it is on this disk, so it is to be sent.
                news = self.account(offset, offset + written) if written else False
                self.touch(now_ns, privileged)
            return news

    def account(self, start: int, end: int) -> bool:
        """These bytes are in the file and to be sent; True if the index must be told."""
        self.grow(end)
        self.changes.write(start, end)
        return self.note(start, end)

    def touch(self, now_ns: int, privileged: bool) -> None:
        """A program has changed it: what goes with that."""
        self.mtime_ns = self.changed_ns = now_ns
        self.mtime_set = False
        self.clears_capability = True
        self.clears_set_ids = self.clears_set_ids or not privileged

    def note(self, start: int, end: int) -> bool:
        """The entries are no longer what the servers have; True if the index does not know that yet."""
        stale, self.row_stale = self.row_stale, False
        known = len(self.noted)
        first, last = chunks.entries_in(start, end)
        if not self.present.covers(first, last):
            self.present.add(first, last)
        self.noted.update([index for index in range(first, last) if self.entries[index]])
        return len(self.noted) > known or stale

    def grow(self, size: int) -> None:
        if size <= self.size:
            return
        self.size, self.resized = size, True
        self.entries.fit(chunks.entry_count(size))

    def attributes_set(self, mode: int | None, mtime_ns: int | None) -> None:
        """What was set after the last write stays as it was set."""
        with self.mutex:
            if mode is not None:
                self.clears_set_ids, self.clearing = False, (False, self.clearing[1])
            if mtime_ns is not None:
                self.mtime_ns, self.mtime_set = mtime_ns, True
                self.unseen.mtime_ns = os.fstat(self.fd).st_mtime_ns if self.unseen.writers else -1

    def capability_set(self) -> None:
        """As `attributes_set`."""
        with self.mutex:
            self.clears_capability, self.clearing = False, (self.clearing[0], False)

    def resize(self, size: int, now_ns: int, privileged: bool = True) -> None:
        """Cut or grow to `size`; the caller holds `committing`, so no upload sees the entries change."""
        with self.mutex:
            os.ftruncate(self.fd, size)
            if size < self.size:
                self._cut(size)
            self.grow(size)
            self.resized = True
            self.touch(now_ns, privileged)

    def _cut(self, size: int) -> None:
        """Also of what a commit in doubt was to send: if that has happened, the servers have what is cut here."""
        self.size = size
        cut(self.entries, self.segments, size)
        self.present.cut(len(self.entries))
        self._stored_bytes = -1
        self.changes.cut(size)
        self.taken.cut(size)
        if self.in_doubt is not None:
            self.in_doubt.cut(size)

    # -- sending

    def take_changes(self) -> tuple[Changes, int]:
        """(what was changed, size) of one moment; nothing is changed afterwards."""
        with self.mutex:
            self.taken, self.changes = self.changes, Changes()
            self.resized, self.resizing, self.sending = False, self.resized, True
            self.clearing, self.unseen.stirred = (self.clears_set_ids, self.clears_capability), False
            self.clears_set_ids = self.clears_capability = False
            return self.taken, self.size

    def put_back(self) -> None:
        """An upload failed or a commit was refused: what it was to send is still to be sent."""
        with self.mutex:
            self.changes, self.taken = self.taken.followed_by(self.changes), Changes()
            self.resized, self.resizing, self.sending, self.in_doubt = True, False, False, None
            self.clears_set_ids = self.clears_set_ids or self.clearing[0]
            self.clears_capability = self.clears_capability or self.clearing[1]

    @contextlib.contextmanager
    def silence_noted(self) -> Iterator[None]:
        """That servers do not answer is noted, with the time: who has waited for this attempt need not make one. The
        caller holds `committing`."""
        try:
            yield
        except errors.Unreachable as error:
            self.silence, self.silent_s = error, time.monotonic()
            raise

    def give_up(self) -> None:
        """Nothing of what was written since the last commit is to be sent. The caller holds `committing`."""
        with self.mutex:
            self.changes, self.taken, self.in_doubt = Changes(), Changes(), None
            self.resized = self.resizing = self.sending = False

    def is_blank(self, index: int, first: int, last: int) -> bool:
        """The bytes [first, last) of entry `index` are zeros of which the disk knows that they are."""
        return not holds_data(self.fd, index * ENTRY_BYTES + first, last - first)

    def committed(self, version: int, commit_id: bytes, entries: Entries, segments: SegmentIds, durable: bool) -> None:
        """The servers have this now, on disk if `durable`. What was written during the upload stays dirty; the content
        may have grown."""
        with self.mutex:
            if durable:
                self.ancestors.forget()
            self.entries = entries.fit(max(len(entries), len(self.entries)))
            self.version, self.commit_id, self.segments = version, commit_id, segments
            self.taken, self.in_doubt, self.resizing, self.sending = Changes(), None, False, False
            self.promised, self.synced = False, durable
            self.trying, self.attempts, self.gaps = b"", Attempts(), []
            self.ahead.clear()
            self.committed_s = time.monotonic()
            self.row_stale = True
            self.noted.clear()

    def read_elsewhere(self) -> None:
        """It may be written through other pages of the kernel than those that it is read through: none are right when
        it is opened again."""
        with self.mutex:
            self.lineage = next(_lineages)
