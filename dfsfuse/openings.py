"""Opens at the directory: the newest version of a file as a content of the cache, and the open rows that come of it.

The directory is asked at each open, unless it has promised that nothing has changed, and answers with the manifest only
where the cache has another version. Whatever becomes of an open here, the row that it has left at the directory is
closed. What programs use locks on is also asked for while it is open (`catch_up`), and becomes another version in
place.

Threads: any; what is shared is the cache's.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.chunks import Entry, entry_count
from dfsfuse.content import Base, Content
from dfsfuse.content_file import Overtaken
from dfsfuse.following import Following
from dfsfuse.manifests import Entries, SegmentIds
from dfsfuse.meanwhile import Meanwhile
from dfsfuse.messages import (
    SEGMENT_ENTRIES,
    Attributes,
    Create,
    GetSegments,
    Made,
    Manifest,
    Open,
    Opened,
    Remove,
    Removed,
    Segments,
    moves_atime,
)
from dfsfuse.open_rows import OpenRow
from dfsfuse.places import Place
from dfsfuse.session import Session

log = logging.getLogger(__name__)

_SEGMENTS_A_REQUEST = 16
_OPEN_AGAIN_S = 2.0
_ANSWERS_MAX = 10
_NO_BASE = Base(0, b"", Entries(), SegmentIds())


class Version(NamedTuple):
    """The newest one of a file, as of `asked_at` (attributes.py). `opening` numbers the open row at the directory that
    keeps it; `locking`: programs use locks on the file."""

    attributes: Attributes
    entries: Entries
    segments: SegmentIds
    opening: int
    locking: bool
    asked_at: float


class Openings:
    def __init__(self, session: Session, attributes: AttributeTable, cache: Cache):
        self._session, self._attributes, self._cache = session, attributes, cache
        self._on_locking: Callable[[Version], None] = lambda newest: None
        self._locking: set[int] = set()
        self.following = Following()
        session.on_new_session(self._open_again)

    def on_locking(self, tell: Callable[[Version], None]) -> None:
        """`tell(newest)` comes before a content is used for an open of a file on which programs use locks."""
        self._on_locking = tell

    def is_locking(self, ino: int) -> bool:
        """Whether programs use locks on the file, as far as this client was told."""
        return ino in self._locking

    def open(
        self,
        place: Place,
        ino: int,
        token: int,
        shown: bytes,
        atime_ns: int = 0,
        fenced: bool = False,
        looks: bool = False,
    ) -> tuple[Version, Content]:
        """What is at the place now, until `close`; `token` is for writing, and `fenced` where the file was opened with
        it before. Stale where that is another inode than `ino`. `shown` is its path for people, `atime_ns` when it was
        opened for reading, for relatime. `looks`: no program opens it. Stale then where programs use locks on it, as
        who has it open would see what is newer."""
        for _ in range(_ANSWERS_MAX):
            try:
                newest, content = self._open_newest(place, ino, token, shown, atime_ns, fenced, looks)
            except Overtaken:
                continue
            if not looks:
                self.following.opened(content.ino)
            return newest, content
        raise errors.Stale("programs here commit the file each time it is opened")

    def _open_newest(
        self, place: Place, ino: int, token: int, shown: bytes, atime_ns: int, fenced: bool, looks: bool
    ) -> tuple[Version, Content]:
        known = self._attributes.get(place)
        if known is not None and known.promised and (fenced or not token):
            held = self._open_promised(known, ino, token > 0, atime_ns)
            if held is not None:
                return held
        expected = ino or (known.ino if known is not None else 0)
        held = self._base_of(expected)
        request = Open(
            session=self._session.id,
            base=place[0],
            names=list(place[1]),
            ino=ino,
            token=token,
            have_version=held.version,
            have_commit_id=held.commit_id,
            atime_ns=atime_ns,
        )
        request.opening = self._cache.opening_begins(lambda: self._opening_of(expected, held.version, token > 0))
        try:
            return self._open(request, held, place, shown, looks)
        finally:
            self._end(request.opening)

    def _open_promised(
        self, known: Attributes, ino: int, writing: bool, atime_ns: int
    ) -> tuple[Version, Content] | None:
        """The content of the cache, without asking, where the directory has promised that it is the newest and has an
        open row of it, for writing where it is to be written. None where it must be asked, for one of many reasons."""
        if ino not in (0, known.ino) or known.ino in self._locking:
            return None
        newest = self._attributes.read_at(known, atime_ns) if moves_atime(known, atime_ns) else known
        if newest is None:
            return None
        rows, row = self._session.closed_rows, None
        opening = self._cache.opening_begins(lambda: rows.claim(known.ino, known.version, writing=writing))
        try:
            if writing and not (known.nlink and rows.for_writing.has(known.ino, known.version)):
                return None
            content = self._cache.open_known(known, opening)
            if content is None:
                return None
            row = known.ino, known.version
            return Version(newest, content.entries, content.segments, opening, False, 0.0), content
        finally:
            rows.settle(opening, row)
            self._end(opening)

    def _opening_of(self, ino: int, version: int, writing: bool) -> int:
        """The number of a row that the directory has of an earlier open, or a new one. A row that is kept for reading
        is none for writing."""
        return self._session.closed_rows.claim(ino, version, kept=not writing) or self._session.new_opening()

    def _open(self, request: Open, held: Base, place: Place, shown: bytes, looks: bool) -> tuple[Version, Content]:
        asked_at, asked_s = self._attributes.now(), time.monotonic()
        opened = self._ask(request)
        try:
            newest = self._version(opened, held, request.opening, asked_at)
            if looks and newest.locking:
                raise errors.Stale("programs use locks on the file")
            content = self._content_of(newest, shown, asked_s)
        except BaseException:
            self._close_failed(opened.attributes.ino, opened.attributes.version, request.opening)
            raise
        self._attributes.put(place, opened.attributes, asked_at)
        return newest, content

    def _ask(self, request: Open) -> Opened:
        rows, row = self._session.closed_rows, None
        begun = rows.for_writing.begins()
        try:
            opened: Opened = self._session.query(request, Opened)
            row = opened.attributes.ino, opened.attributes.version
            if request.token and opened.attributes.nlink:
                rows.for_writing.opened(begun, *row)
            return opened
        finally:
            rows.settle(request.opening, row)

    def create(self, request: Create, shown: bytes) -> tuple[Made, Content]:
        """A new file, open for writing. Its content is made while the directory is at work: if that refuses, it goes
        again, as it would at the next start of a client that is killed meanwhile."""
        request.opening = self._cache.opening_begins(self._session.new_opening)
        try:
            return self._create(request, shown)
        finally:
            self._end(request.opening)

    def _create(self, request: Create, shown: bytes) -> tuple[Made, Content]:
        content = Meanwhile(lambda: self._cache.create(request.ino, shown, request.mtime_ns, request.opening))
        rows = self._session.closed_rows.for_writing
        begun = rows.begins()
        try:
            made: Made = self._session.change(request, Made, content)
            if not request.unnamed:
                rows.opened(begun, request.ino, 0)
        except BaseException:
            self._drop(content, request)
            raise
        try:
            return made, content.result()
        except BaseException as error:
            self._remove(request)
            self._close_failed(request.ino, 0, request.opening)
            if isinstance(error, OSError):
                raise errors.from_os_error(error, "making a file in the local cache") from None
            raise

    def _remove(self, made: Create) -> None:
        """The cache has no room for a file that the directory has made: as on a local disk, none is left."""
        if made.unnamed:
            return
        try:
            self._session.change(Remove(base=made.base, names=made.names, ino=made.ino), Removed)
        except errors.DfsError as error:
            log.warning("%s is left empty: %s", os.fsdecode(b"/".join(made.names)), error)

    def _drop(self, made: Meanwhile[Content], request: Create) -> None:
        """The directory may have made the file all the same, and have a row for it."""
        if made.value is not None:
            self._cache.detach(made.value)
            self.close(made.value)

    def _version(self, opened: Opened, held: Base, opening: int, asked_at: float) -> Version:
        (self._locking.add if opened.locking else self._locking.discard)(opened.attributes.ino)
        if opened.manifest is None:
            entries, segments = held.entries, held.segments
        else:
            entries, segments = self._expand(opened.manifest, opened.attributes, held)
        return Version(opened.attributes, entries, segments, opening, opened.locking, asked_at)

    def _content_of(self, newest: Version, shown: bytes, asked_s: float) -> Content:
        if newest.locking:
            self._on_locking(newest)
        return self._cache.open(newest.attributes, newest.entries, newest.segments, shown, newest.opening, asked_s)

    def newest(self, ino: int) -> Version:
        """What the directory has of a file, which nobody opens for that."""
        opening = self._cache.opening_begins(self._session.new_opening)
        try:
            asked_at = self._attributes.now()
            opened = self._ask(Open(session=self._session.id, opening=opening, base=ino))
            try:
                return self._version(opened, _NO_BASE, opening, asked_at)
            finally:
                self._close_failed(ino, opened.attributes.version, opening)
        finally:
            self._end(opening)

    # -- files on which programs use locks

    def catch_up(self, content: Content, token: int, become: Callable[[Version], bool], locking: bool = True) -> None:
        """An open content becomes the newest version, if it is not that: `become` makes it so, or returns False. With a
        token for writing: LockLost where a newer holder of the write lock has opened the file. `locking`: programs use
        locks on it."""
        opening = self._cache.opening_begins(self._session.new_opening)
        try:
            newest = self._newest(content, token, opening, locking)
            if newest is None:
                return
            former = content.version
            try:
                became = become(newest)
            except BaseException:
                self._close_failed(content.ino, newest.attributes.version, opening)
                raise
            if became:
                self.overtaken(content, former, newest)
            else:
                self._close_failed(content.ino, newest.attributes.version, opening)
        finally:
            self._end(opening)

    def _newest(self, content: Content, token: int, opening: int, locking: bool) -> Version | None:
        """None: it is that, and has one more open row."""
        with content.mutex:
            held = Base(content.version, content.commit_id, content.entries.copy(), content.segments.copy())
        request = Open(
            session=self._session.id,
            opening=opening,
            base=content.ino,
            token=token,
            have_version=held.version,
            have_commit_id=held.commit_id,
            locking=locking,
        )
        asked_at = self._attributes.now()
        opened = self._ask(request)
        version, commit_id = opened.attributes.version, opened.attributes.commit_id
        if (version, commit_id) == (held.version, held.commit_id):
            self._close_rows(self._cache.opened_again(content, version, opening))
            return None
        try:
            return self._version(opened, held, opening, asked_at)
        except BaseException:
            self._close_failed(content.ino, version, opening)
            raise

    def overtaken(self, content: Content, former: int, newest: Version) -> None:
        """The content was version `former` and is the newest one now."""
        with self._cache.open_rows() as rows:
            closed = rows.overtaken(content, former, newest.attributes.version, newest.opening)
        self._close_rows(closed)

    # -- rows

    def _close_failed(self, ino: int, version: int, opening: int) -> None:
        """The directory has a row of an open that has failed here."""
        with self._cache.open_rows() as rows:
            closed = rows.failed(ino, version, opening)
        self._close_rows(closed)

    def _close_rows(self, rows: list[OpenRow]) -> None:
        for row in rows:
            self._session.closed(*row)

    def _end(self, opening: int) -> None:
        self._close_rows(self._cache.opening_ends(opening))

    def close(self, content: Content) -> None:
        """One user of the content less."""
        self._close_rows(self._cache.close_one(content))

    def _open_again(self) -> None:
        """The former session has ended, and its open rows with it: unlinked files that are open here need new ones."""
        for content in self._cache.in_use():
            opening = self._cache.opening_begins(self._session.new_opening)
            request = Open(session=self._session.id, opening=opening, base=content.ino)
            try:
                opened: Opened = self._session.query(request, Opened, timeout_s=_OPEN_AGAIN_S)
                self._close_rows(self._cache.opened_again(content, opened.attributes.version, opening))
            except errors.DfsError as error:
                log.warning("%s is open here and unknown to the directory: %s", os.fsdecode(content.where), error)
            finally:
                self._end(opening)

    def _base_of(self, ino: int) -> Base:
        content = self._cache.peek(ino) if ino else None
        return (content.base() if content is not None else None) or _NO_BASE

    # -- manifests

    def _expand(self, manifest: Manifest, attributes: Attributes, held: Base) -> tuple[Entries, SegmentIds]:
        """All entries of a manifest, one for each 4 MiB of the size; segments that the cache knows are not fetched."""
        entries, segments = Entries(manifest.entries), SegmentIds(manifest.segments)
        if segments:
            entries = self._expand_segments(segments, held if held.segments else self._base_of(attributes.ino))
        return entries.fit(entry_count(attributes.size)), segments

    def _expand_segments(self, segments: SegmentIds, held: Base) -> Entries:
        known: dict[bytes, list[Entry]] = {}
        for part, segment_id in held.segments.items():
            known[segment_id] = held.entries.part(part * SEGMENT_ENTRIES, (part + 1) * SEGMENT_ENTRIES)
        missing = list(dict.fromkeys(segment_id for segment_id in segments.values() if segment_id not in known))
        while missing:
            reply: Segments = self._session.query(GetSegments(missing[:_SEGMENTS_A_REQUEST]), Segments)
            known.update((segment.id, segment.entries) for segment in reply.segments)
            del missing[: len(reply.segments)]
        entries = Entries()
        for part, segment_id in segments.items():
            entries.fit(part * SEGMENT_ENTRIES).extend(known[segment_id])
        return entries
