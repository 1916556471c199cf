"""Open files: opening, reading, writing, and what close() means.

Opening for writing takes the file's write lock first, then opens at the directory with the lock's token: that raises
the fence and brings the newest version, so a former holder can no longer commit. Reading needs no lock. `flush`
commits what was written and returns the outcome; `release` gives the lock back, also when an upload is still owed:
then `unsent` has it.

Threads: a Handle belongs to any thread; its content has the locks. Nothing here is held across a request but
`Content.committing` and `Content.fetching`.
"""

import logging
import os
import time
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable, Place
from dfsfuse.cache import Cache
from dfsfuse.chunks import Entry, Ranges, entry_count
from dfsfuse.commits import Committer
from dfsfuse.content import Base, Content
from dfsfuse.copies import Copies
from dfsfuse.locks import Lock, LockTable, never
from dfsfuse.messages import (
    SEGMENT_ENTRIES,
    Attributes,
    Create,
    GetSegments,
    Lookup,
    Manifest,
    Open,
    Opened,
    Segments,
)
from dfsfuse.session import Session
from dfsfuse.transfer import Transfer
from dfsfuse.unsent import Unsent

log = logging.getLogger(__name__)

FILE_BYTES_MAX = 16 << 40
_ATTEMPTS_MAX = 5
_SEGMENTS_A_REQUEST = 16


_OPEN_AGAIN_S = 2.0
_NO_BASE = Base(0, b"", [], [])


class Handle:
    """One open file; its content says when what was written can no longer become the file's next version. `owes`: the
    latest close() or fsync() failed."""

    def __init__(self, content: Content, place: Place, flags: int, pid: int, lock: Lock | None):
        self.content, self.place, self.flags, self.pid, self.lock = content, place, flags, pid, lock
        self.append = bool(flags & os.O_APPEND)
        self.owes = False

    @property
    def writable(self) -> bool:
        return self.lock is not None


class OpenFiles:
    """All files that programs on this client have open."""

    def __init__(
        self,
        session: Session,
        locks: LockTable,
        attributes: AttributeTable,
        cache: Cache,
        transfer: Transfer,
        committer: Committer,
        copies: Copies,
        unsent: Unsent,
    ):
        self._session, self._locks, self._attributes = session, locks, attributes
        self._cache, self._transfer, self._committer = cache, transfer, committer
        self._copies, self._unsent = copies, unsent
        session.on_new_session(self._open_again)

    # -- opening

    def create(
        self, place: Place, mode: int, uid: int, gid: int, flags: int, pid: int, shown: bytes = b""
    ) -> tuple[Handle, Attributes]:
        """A new file, open for writing. AlreadyExists where the name is taken; never waits for a lock."""
        shown = shown or _shown(place)
        lock = self._locks.reserve(shown, pid)
        now_ns = time.time_ns()
        request = Create(
            base=place[0], names=list(place[1]), ino=lock.ino, mode=mode, uid=uid, gid=gid, mtime_ns=now_ns,
            token=lock.token, opening=self._session.new_opening(),
        )  # fmt: skip
        try:
            attributes: Attributes = self._session.change(request, Attributes)
            content = self._cache.create(lock.ino, shown, now_ns)
        except errors.DfsError:
            self._locks.release(lock, pid)
            raise
        except OSError as error:
            self._locks.release(lock, pid)
            raise errors.from_os_error(error, "making a file in the local cache") from None
        content.writers, content.opening = 1, request.opening
        return Handle(content, place, flags, pid, lock), attributes

    def open(
        self,
        place: Place,
        flags: int,
        pid: int,
        interrupted: Callable[[], bool] = never,
        *,
        ino: int = 0,
        shown: bytes = b"",
    ) -> tuple[Handle, Attributes]:
        """`ino`: the inode that is expected at the place. Stale where there is another one."""
        shown = shown or _shown(place)
        writes = (flags & os.O_ACCMODE) != os.O_RDONLY or bool(flags & os.O_TRUNC)
        if not writes:
            opened, content = self._open_version(place, ino, 0, shown)
            return Handle(content, place, flags, pid, None), opened
        if ino:
            return self._open_to_write(place, ino, flags, pid, interrupted, shown)
        for _ in range(_ATTEMPTS_MAX):
            try:
                return self._open_to_write(place, self._ino_at(place), flags, pid, interrupted, shown)
            except errors.Stale:
                self._attributes.forget_place(place)
        raise errors.Stale("the name leads to another file each time it is looked up")

    def _open_to_write(
        self, place: Place, ino: int, flags: int, pid: int, interrupted: Callable[[], bool], shown: bytes
    ) -> tuple[Handle, Attributes]:
        """Stale where the name has come to lead to another file than the one whose lock was taken."""
        wait = not flags & os.O_NONBLOCK
        lock = self._locks.acquire(ino, shown, pid, wait, interrupted)
        try:
            attributes, content = self._open_version(place, ino, lock.token, shown)
            try:
                self._begin_writing(content, flags)
            except BaseException:
                self._close(content)
                raise
        except BaseException:
            self._locks.release(lock, pid)
            raise
        return Handle(content, place, flags, pid, lock), attributes

    def _ino_at(self, place: Place) -> int:
        known = self._attributes.get(place)
        return known.ino if known is not None else self._session.query(Lookup(place[0], list(place[1])), Attributes).ino

    def _open_version(self, place: Place, ino: int, token: int, shown: bytes) -> tuple[Attributes, Content]:
        known = None if ino else self._attributes.get(place)
        held = self._base_of(known.ino if known is not None else ino)
        request = Open(
            session=self._session.id,
            opening=self._session.new_opening(),
            base=place[0],
            names=list(place[1]),
            ino=ino,
            token=token,
            have_version=held.version,
            have_commit_id=held.commit_id,
        )
        asked_at = self._attributes.now()
        opened: Opened = self._session.query(request, Opened)
        if opened.manifest is None:
            entries, segments = held.entries, held.segments
        else:
            entries, segments = self._expand(opened.manifest, opened.attributes), opened.manifest.segments
        content = self._cache.open(opened.attributes, entries, segments, shown)
        content.opening = max(content.opening, request.opening)
        self._attributes.put(place, opened.attributes, asked_at)
        return opened.attributes, content

    def _open_again(self) -> None:
        """The former session has ended, and its open rows with it: unlinked files that are open here need new ones."""
        for content in self._cache.in_use():
            content.opening = self._session.new_opening()
            request = Open(session=self._session.id, opening=content.opening, base=content.ino)
            try:
                self._session.query(request, Opened, timeout_s=_OPEN_AGAIN_S)
            except errors.DfsError as error:
                log.warning("%s is open here and unknown to the directory: %s", os.fsdecode(content.where), error)

    def _base_of(self, ino: int) -> Base:
        content = self._cache.peek(ino) if ino else None
        return (content.base() if content is not None else None) or _NO_BASE

    def _expand(self, manifest: Manifest, attributes: Attributes) -> list[Entry]:
        """All entries of a manifest, one for each 4 MiB of the size; segments that the cache knows are not fetched."""
        entries = list(manifest.entries)
        if manifest.segments:
            entries = self._expand_segments(manifest.segments, attributes.ino)
        count = entry_count(attributes.size)
        del entries[count:]
        entries.extend([] for _ in range(count - len(entries)))
        return entries

    def _expand_segments(self, ids: list[bytes], ino: int) -> list[Entry]:
        held = self._base_of(ino)
        known: dict[bytes, list[Entry]] = {b"": []}
        for part, segment_id in enumerate(held.segments):
            known[segment_id] = held.entries[part * SEGMENT_ENTRIES : (part + 1) * SEGMENT_ENTRIES]
        missing = [segment_id for segment_id in ids if segment_id not in known]
        for start in range(0, len(missing), _SEGMENTS_A_REQUEST):
            reply: Segments = self._session.query(GetSegments(missing[start : start + _SEGMENTS_A_REQUEST]), Segments)
            known.update((segment.id, segment.entries) for segment in reply.segments)
        entries: list[Entry] = []
        for segment_id in ids:
            part = known[segment_id]
            entries += part + [[] for _ in range(SEGMENT_ENTRIES - len(part))]
        return entries

    def _begin_writing(self, content: Content, flags: int) -> None:
        if flags & os.O_TRUNC:
            # Also of an empty file: mtime moves, which `> stamp` in makefiles relies on.
            with content.committing:
                self._cache.mark_open(content)
                content.resize(0, time.time_ns())
        self._cache.mark_open(content)
        with content.mutex:
            content.writers += 1

    # -- reading and writing

    def read_into(self, handle: Handle, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` on; the number of bytes, fewer only at the end of the file."""
        content = handle.content
        if content.missing(offset, offset + len(buffer)):
            self._bring(content, lambda c: c.missing(offset, offset + len(buffer)))
        return content.read_into(buffer, offset)

    def read(self, handle: Handle, length: int, offset: int) -> bytes:
        buffer = bytearray(max(0, min(length, handle.content.size - offset)))
        return bytes(buffer[: self.read_into(handle, memoryview(buffer), offset)])

    def write(self, handle: Handle, data: bytes | memoryview, offset: int, at_offset: bool = False) -> int:
        """With O_APPEND at the end; `at_offset`: at its place all the same, as it was stored through a mapping."""
        self._check_writable(handle)
        content, append = handle.content, handle.append and not at_offset
        if offset + len(data) > FILE_BYTES_MAX:
            raise errors.FileTooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        start = content.size if append else offset
        self._bring(content, lambda c: c.unready(start, start + len(data)))
        try:
            news = content.write(data, offset, time.time_ns(), append)
        except OSError as error:
            self._cache.on_full_disk(error)
            news = self._write_again(content, data, offset, append)
        if news:
            self._cache.mark_open(content)
        return len(data)

    def _write_again(self, content: Content, data: bytes | memoryview, offset: int, append: bool) -> bool:
        try:
            return content.write(data, offset, time.time_ns(), append)
        except OSError as error:
            raise errors.from_os_error(error, "writing to the local cache") from None

    def resize(self, handle: Handle, size: int) -> None:
        self._check_writable(handle)
        if size > FILE_BYTES_MAX:
            raise errors.FileTooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        content = handle.content
        with content.committing:
            if size < content.size:
                self._bring(content, lambda c: c.unready(size, size + 1) if size % (4 << 20) else [])
            content.resize(size, time.time_ns())
            self._cache.mark_open(content)

    def _check_writable(self, handle: Handle) -> None:
        if not handle.writable:
            raise errors.BadHandle("the file is not open for writing")
        if handle.content.failed is not None:
            raise handle.content.failed

    def _bring(self, content: Content, wanted: Callable[[Content], list[int]]) -> None:
        """Fetch the entries that `wanted` names until it names none."""
        while wanted(content):
            with content.fetching:
                indexes = wanted(content)
                fetched = sum(self._transfer.each(lambda i: self._fetch(content, i), indexes))
            self._cache.note_growth(content, fetched)

    def _fetch(self, content: Content, index: int) -> int:
        try:
            return content.fetch(index, self._transfer.download)
        except OSError as error:
            self._cache.on_full_disk(error)
            return content.fetch(index, self._transfer.download)

    # -- closing

    def flush(self, handle: Handle, durable: bool = False) -> None:
        """close() or fsync() on one descriptor: what was written so far becomes the file's next version."""
        content = handle.content
        if handle.lock is not None:
            if content.failed is not None:
                raise content.failed
            if content.changed:
                self._commit(handle, durable)
        if durable and not content.synced:
            self._sync(content)

    def _sync(self, content: Content) -> None:
        """What others have committed of it, or this client without `durable`, comes to the disks."""
        version = content.version
        self._transfer.sync()
        self._session.sync()
        with content.mutex:
            content.synced = content.version == version

    def _commit(self, handle: Handle, durable: bool) -> None:
        content = handle.content
        self._attributes.forget_ino(content.ino)
        try:
            attributes = self._committer.commit(content, handle.lock.token, durable)
            if attributes is not None:
                self._attributes.put_changed(attributes)
            handle.owes = False
        except (errors.VersionConflict, errors.LockLost, errors.Stale) as error:
            self._copies.keep(content, "conflict", error)
            raise
        except errors.DfsError:
            handle.owes = True
            raise

    def release(self, handle: Handle) -> None:
        """The last descriptor of a handle is closed. Its errors reach nobody, so what fails here is kept and retried;
        what has just failed at close() is left to the retries at once."""
        content = handle.content
        try:
            if handle.lock is not None:
                self._end_writing(handle, handle.lock)
        finally:
            self._close(content)

    def _end_writing(self, handle: Handle, lock: Lock) -> None:
        content = handle.content
        try:
            if content.changed and content.failed is None and not handle.owes:
                self._commit(handle, False)
        except errors.DfsError as error:
            log.error("%s is not on the servers yet: %s", os.fsdecode(content.where), error)
        finally:
            content.writers -= 1
            self._locks.release(lock, handle.pid)
            if content.changed and not content.writers:
                self._unsent.add(content)

    def abandon(self, handle: Handle) -> None:
        """As `release`, but what was written since the last commit is given up: the file stays what it was.

        Only for the one who alone has the file open on this client.
        """
        content = handle.content
        with content.committing, content.mutex:
            content.dirty, content.resized, content.in_doubt = Ranges(), False, None
        self._cache.detach(content)
        self.release(handle)

    def _close(self, content: Content) -> None:
        if self._cache.close_one(content):
            self._session.closed(content.ino, content.version, content.opening)
            if content.changed:
                self._unsent.add(content)

    # -- for who shows progress

    @property
    def sent_bytes(self) -> int:
        """Bytes of chunks that the servers have taken from this client so far."""
        return self._transfer.sent_bytes

    def send_unsent(self) -> int:
        """Try once, now, to send what is not on the servers yet; how many contents still wait."""
        return self._unsent.retry()

    def of_inode(self, ino: int) -> Content | None:
        """The content of an inode that is open for writing here, or has something unsent."""
        content = self._cache.current(ino)
        return content if content is not None and (content.writers or content.changed) else None


def _shown(place: Place) -> bytes:
    return b"/" + b"/".join(place[1])
