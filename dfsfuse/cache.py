"""Contents on the local disk: the right one for each open, the least recently used ones evicted.

Every content has a file (content_files.py) and a row in the index. There is at most one *current* content of an inode,
which new opens share; one that is superseded while programs have it open goes when they close it.

Threads: `_mutex` guards the tables and the counts of users; network requests never happen under it.
"""

import contextlib
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from dfsfuse import errors, superseding
from dfsfuse.cache_index import CacheIndex, State, boot_id
from dfsfuse.cache_sizes import Sizes
from dfsfuse.content import Content
from dfsfuse.content_file import close_file, usable
from dfsfuse.content_files import ContentFiles
from dfsfuse.full_disk import FullDisk, Need, Reserve, with_reserve
from dfsfuse.lending import is_left
from dfsfuse.manifests import Entries, SegmentIds
from dfsfuse.messages import Attributes
from dfsfuse.open_rows import OpenRow, OpenRows

EVICTABLE_MAX = 100_000
"""Contents that nobody uses: each takes some 300 bytes of memory, however small it is."""
_IDLE_CONTENTS_MAX = 2000
_SETTLED_MAX = 128
_GONE_AT_ONCE = 64


class Cache:
    """One client's, in the folder `home`, kept at about `bytes_max` bytes. `current(ino)` is the content of an inode if
    it is in memory, as everything is that is open or unsent."""

    def __init__(self, home: Path, bytes_max: int):
        self._files, self.home = ContentFiles(home), home
        self.path_of = self._files.path_of
        self.bytes_max = bytes_max
        self._mutex = threading.RLock()
        self.index = with_reserve(home / "reserve", lambda: CacheIndex(home / "index.db", boot_id()))
        self.unsent = self.index.unsent
        self._current: OrderedDict[int, Content] = OrderedDict()
        self.current = self._current.get
        self._in_use: dict[int, Content] = {}
        self._open_rows, self._sizes = OpenRows(), Sizes()
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._settled: dict[int, Content] = {}
        self._gone: list[int] = []
        reserve = Reserve(home / "reserve")
        self._full = FullDisk(self._mutex, self.evict_all, self.in_use, self.index.forget_present, reserve)
        self._keep_reserve, self.with_room = reserve.keep, self._full.with_room
        self._numbers = itertools.count(max(self._take_stock(), default=0) + 1)
        for row in self.index.bases():
            self._open_rows.inherited(*row)

    def _take_stock(self) -> set[int]:
        """Sizes of all files, and the order in which they were used, which their atimes tell; the numbers of all rows.
        A row without a file is what an eviction on a full disk left behind."""
        known = self.index.all_rows()
        found = self._files.take_stock(known)
        for number in found:
            self._sizes.note(number, found[number].st_blocks * 512)
        for number in known - found.keys():
            with contextlib.suppress(errors.NoSpace):
                self.index.delete(number)
        clean = sorted(self.index.clean_rows() & found.keys(), key=lambda number: found[number].st_atime_ns)
        self._evictable.update((number, None) for number in clean)
        return known

    def close(self) -> None:
        """Where the client ends while programs have files open, these are closed too."""
        with self._mutex:
            for content in self._in_use.values():
                with content.mutex:
                    close_file(content)
            self._files.close_all()
            self._save_settled()
            self._remove_gone(len(self._gone))
            self.index.close()

    def maintain(self) -> None:
        """Done now and then by a thread that can wait for the disk."""
        with self._mutex:
            self._save_settled()
        for content in self.in_use():
            self._save_committed(content)
        while self._gone:
            with self._mutex:
                self._remove_gone(_GONE_AT_ONCE)
        self._keep_reserve()
        self.index.checkpoint()

    # -- opening and closing

    def peek(self, ino: int) -> Content | None:
        """The current content of an inode, if there is one; not to be read or written."""
        with self._mutex:
            return self._current.get(ino) or self._load(ino)

    def _load(self, ino: int) -> Content | None:
        """From an earlier client. What is not evictable is not for sharing: an older version that is still open, or
        what that client left unsent, which is not the version that its row names."""
        content = self.index.load(ino, self.path_of)
        if content is None or content.row not in self._evictable:
            return None
        self._remember(content)
        return content

    def open(
        self,
        attributes: Attributes,
        entries: Entries,
        segments: SegmentIds,
        path: bytes,
        opening: int = 0,
        asked_s: float = math.inf,
    ) -> Content:
        """The content for an open that the directory, asked at `asked_s`, has answered with these; until `close_one`.
        Raises Overtaken."""

        def begin() -> Content:
            content = self.peek(attributes.ino)
            if content is not None and not usable(content, attributes, asked_s):
                content = self._supersede(content, attributes, entries, segments)
            if content is None:
                content = self._add(attributes, entries, segments, path)
            return self._use(content)

        with self._mutex:
            content = self.with_room(begin, Need.INDEX)
            self._open_rows.opened(content, attributes.ino, attributes.version, opening)
            return content

    def open_known(self, attributes: Attributes, opening: int) -> Content | None:
        """The content for an open of which the directory is not asked, as this is promised to be the newest; `opening`
        numbers an open row, 0 where only another user can have one. None: it is not here, or has no row."""
        row = attributes.ino, attributes.version
        with self._mutex:
            content = self.peek(attributes.ino) if opening or self._open_rows.has(*row) else None
            if content is None or (content.version, content.commit_id) != (row[1], attributes.commit_id):
                return None
            self._open_rows.opened(self._use(content), *row, opening)
            return content

    def create(self, ino: int, path: bytes, mtime_ns: int, opening: int = 0) -> Content:
        """The empty content of a file that this client has just made, open for writing."""

        def begin() -> Content:
            number = next(self._numbers)
            self.index.add(number, ino, State.OPEN, path)
            content = Content(number, ino, self.path_of(number), 0, Entries())
            content.mtime_ns, content.where, content.measured = mtime_ns, path, False
            self._remember(content)
            return self._use(content, new=True)

        with self._mutex:
            content = self.with_room(begin, Need.INDEX)
            self._open_rows.opened(content, ino, 0, opening)
            return content

    def opening_begins(self, new_number: Callable[[], int]) -> int:
        """The number of an open that the directory is about to be asked for; until `opening_ends`."""
        with self._mutex:
            opening = new_number()
            self._open_rows.begins(opening)
            return opening

    def opening_ends(self, opening: int) -> list[OpenRow]:
        """The open is known here by now, or has failed; the rows to close."""
        with self._mutex:
            return self._open_rows.ends(opening)

    def opened_again(self, content: Content, version: int, opening: int) -> list[OpenRow]:
        """A new session has a row for a content that was in use; the rows to close, as it may be closed by now."""
        with self._mutex:
            self._open_rows.opened(content, content.ino, version, opening)
            return [] if content.users else self._open_rows.closed(content)

    @contextlib.contextmanager
    def open_rows(self) -> Iterator[OpenRows]:
        """The directory's open rows for what is here, for a moment."""
        with self._mutex:
            yield self._open_rows

    def _add(self, attributes: Attributes, entries: Entries, segments: SegmentIds, path: bytes) -> Content:
        number = next(self._numbers)
        self.index.add(number, attributes.ino, State.CLEAN, path)
        content = Content(number, attributes.ino, self.path_of(number), attributes.size, entries)
        content.version, content.commit_id, content.segments = attributes.version, attributes.commit_id, segments
        content.mtime_ns, content.where = attributes.mtime_ns, path
        self._remember(content)
        return content

    def _supersede(
        self, content: Content, attributes: Attributes, entries: Entries, segments: SegmentIds
    ) -> Content | None:
        """The same file turned into the newer version; None where its present content is still needed."""
        if content.users or content.row not in self._evictable:
            self._current.pop(content.ino, None)
            return None
        if is_left(content):
            # Programs have it mapped.
            self.delete(content)
            return None
        try:
            size_bytes = superseding.become(content, attributes, entries, segments, self.index)
        except BaseException:
            # Its row might go on telling of the former version what is the newer one's.
            self.delete(content)
            raise
        self._sizes.note(content.row, size_bytes)
        self._settled.pop(content.row, None)
        return content

    def _remember(self, content: Content) -> None:
        self._current[content.ino] = content
        self._current.move_to_end(content.ino)
        while len(self._current) > _IDLE_CONTENTS_MAX:
            oldest = next(iter(self._current.values()))
            if oldest.users or oldest.changed:
                self._current.move_to_end(oldest.ino)
                break
            if oldest.row in self._settled:
                self._save_settled()
            del self._current[oldest.ino]

    def _use(self, content: Content, new: bool = False) -> Content:
        if content.users == 0:
            self._evictable.pop(content.row, None)
            self._settled.pop(content.row, None)
            try:
                self._files.open(content, self.index.forget_present, new)
            except BaseException:
                self._settle(content)
                raise
            self._in_use[content.row] = content
        content.users += 1
        return content

    def in_use(self) -> list[Content]:
        """All that is open, also what is not current any more."""
        with self._mutex:
            return list(self._in_use.values())

    def use(self, content: Content) -> None:
        """One more user of a content that is known already; until `close_one`."""
        with self._mutex:
            self.with_room(lambda: self._use(content), Need.INDEX)

    def adopt(self, content: Content) -> None:
        """A content that an earlier client left unsent is the current one of its inode."""
        with self._mutex:
            self._remember(content)

    def close_one(self, content: Content) -> list[OpenRow]:
        """One user less; the directory's open rows that nobody here needs any more. What is not sent needs its own."""
        with self._mutex:
            content.users -= 1
            if content.users:
                return []
            del self._in_use[content.row]
            for closed, size_bytes in self._files.close(content):
                self._sizes.note(closed.row, size_bytes)
            self._settle(content)
            self.make_room()
            return [] if content.changed else self._open_rows.closed(content)

    def _settle(self, content: Content) -> None:
        """What becomes of a content that nobody uses any more."""
        if content.changed or content.unseen.left:
            return
        if self._current.get(content.ino) is not content:
            self.delete(content)
            return
        self._evictable[content.row] = None
        if not content.row_current:
            self._settled[content.row] = content
            if len(self._settled) >= _SETTLED_MAX or content.unseen.passes:
                self._save_settled()

    def _save_settled(self) -> None:
        """Tell the index what has become clean. It can wait where after a crash the commit id tells the same."""
        try:
            self.index.save_clean(self._settled.values())
        except errors.NoSpace:
            return
        for content in self._settled.values():
            content.row_current, content.row_stale = True, False
        self._settled.clear()

    def _save_committed(self, content: Content) -> None:
        """Tell the index of a commit of a file that stays open: if the file is gone by the time this client is killed,
        nobody can tell any more that it has happened."""
        if content.row_stale and content.committing.acquire(blocking=False):
            try:
                if not content.changed:
                    self.mark_open(content)
            finally:
                content.committing.release()

    # -- what is not on the servers yet

    def mark_open(self, content: Content) -> None:
        """On disk before an open for writing is answered, and whenever what the servers have is first overwritten or
        cut: a crash finds what may have been written, and what it was based on."""
        content.measured = False
        self.with_room(lambda: self.index.save_written(content), Need.INDEX)

    def mark_closed(self, content: Content, commit_id: bytes) -> None:
        """The content has reached close() or fsync(); the next mount would send it."""
        content.promised, content.row_current = True, False
        if content.row_stale:
            self.mark_open(content)
        self.with_room(lambda: self.index.set_pending(content, commit_id), Need.INDEX)

    def detach(self, content: Content) -> None:
        """New opens get another content; this one goes on being a conflict copy's."""
        with self._mutex:
            if self._current.get(content.ino) is content:
                del self._current[content.ino]

    def delete(self, content: Content) -> None:
        """The content goes, with its file and row."""
        with self._mutex:
            self.detach(content)
            self._delete(content.row)

    def drop(self, content: Content) -> list[OpenRow]:
        """As `delete`, of a content that nobody has in use and that need not be sent; the rows to close."""
        with self._mutex:
            self.delete(content)
            return self._open_rows.closed(content)

    def discard(self, ino: int) -> None:
        """The content of an inode that nobody uses any more, if the servers have it: its file when there is time, a row
        that does not tell so yet at once, as it would bring the content back after a crash, as a conflict copy."""
        with self._mutex:
            content = self._current.get(ino)
            number = content.row if content is not None else self.index.number_of(ino)
            if number in self._evictable:
                self._current.pop(ino, None)
                if self._settled.pop(number, None) is not None:
                    with contextlib.suppress(errors.NoSpace):
                        self.index.delete(number)
                del self._evictable[number]
                self._gone.append(number)

    def _remove_gone(self, count: int) -> None:
        gone, self._gone = self._gone[:count], self._gone[count:]
        for number in gone:
            self._delete(number)

    def _delete(self, number: int) -> None:
        """The row first: a file without a row is removed at the next start, but a row without its file would promise
        content that is not there. Only where the disk has no room for the index, the row stays until the next start;
        nobody uses it meanwhile, as it is not evictable any more."""
        with contextlib.suppress(errors.NoSpace):
            self.index.delete(number)
        self._files.remove(number)
        self._sizes.forget(number)
        self._evictable.pop(number, None)
        self._settled.pop(number, None)

    # -- room

    def note_growth(self, content: Content, fetched_bytes: int) -> None:
        with self._mutex:
            self._sizes.grow(content.row, fetched_bytes)
            self.make_room()

    def evict_all(self) -> int:
        """All that nobody uses; the number evicted."""
        with self._mutex:
            gone = len(self._gone)
            self._remove_gone(gone)
            return gone + self._evict_while(lambda: True)

    def make_room(self) -> int:
        """Evict the least recently used clean contents beyond `bytes_max`, or EVICTABLE_MAX; the number evicted."""
        return self._evict_while(
            lambda: self._sizes.used_bytes > self.bytes_max or len(self._evictable) > EVICTABLE_MAX
        )

    def _evict_while(self, crowded: Callable[[], bool]) -> int:
        evicted = 0
        with self._mutex:
            while self._evictable and crowded():
                number = next(iter(self._evictable))
                ino = self.index.ino_of(number)
                current = self._current.get(ino)
                if current is not None and current.row == number:
                    del self._current[ino]
                self._delete(number)
                evicted += 1
        return evicted
