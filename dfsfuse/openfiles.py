"""Open files: opening, reading, writing, and what close() means.

Opening for writing takes the file's write lock first, then opens at the directory with the lock's token: that raises
the fence and brings the newest version, so a former holder can no longer commit. Reading needs no lock. `flush`
commits what was written and returns the outcome; `release` gives the lock back, also when an upload is still owed:
then `unsent` has it. Files on which programs use locks are another matter (sharing.py): their handles have the write
lock only while they write.

Threads: any; a handle's content has the locks. Nothing here is held across a request but `Content.committing`.
"""

import logging
import os
import time
from collections.abc import Callable

from dfsfuse import errors, lending, owed_attributes, unseen_writes
from dfsfuse.ahead import Ahead
from dfsfuse.attributes import AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.content import Content
from dfsfuse.fetching import Fetching
from dfsfuse.handles import Handle
from dfsfuse.kernel_files import KernelFiles
from dfsfuse.locks import Lock, LockTable
from dfsfuse.messages import Attributes, Create, Lookup, Made, OwedAttributes
from dfsfuse.openings import Openings, Version
from dfsfuse.places import Place, as_path
from dfsfuse.processes import process_of
from dfsfuse.reading import Reading
from dfsfuse.refreshing import Refreshing
from dfsfuse.sending import Sending
from dfsfuse.session import Session
from dfsfuse.sharing import Sharing
from dfsfuse.syncing import Syncing
from dfsfuse.transfer import Transfer
from dfsfuse.unsent import Unsent
from dfsfuse.waiting import Interrupted, never

log = logging.getLogger(__name__)

FILE_BYTES_MAX, _ATTEMPTS_MAX = 16 << 40, 5

Data = bytes | memoryview


class OpenFiles:
    """All files that programs on this client have open."""

    def __init__(
        self,
        session: Session,
        locks: LockTable,
        attributes: AttributeTable,
        cache: Cache,
        openings: Openings,
        transfer: Transfer,
        sending: Sending,
        unsent: Unsent,
        sharing: Sharing,
    ):
        self._session, self._locks, self._attributes = session, locks, attributes
        self._cache, self._openings, self._transfer, self.cache_bytes = cache, openings, transfer, cache.bytes_max
        self._sending, self._unsent, self.sharing, self._ahead = sending, unsent, sharing, Ahead(transfer)
        self._syncing = Syncing(session, transfer, sending, unsent, sharing)
        fetching = Fetching(cache, transfer, self._close)
        self._reading = reading = Reading(transfer.latest, fetching, cache.bytes_max // 2)
        self.bring, self.read, self.read_into = fetching.bring, reading.read, reading.read_into
        self.sync, self.give_owed, self.is_locking = sending.sync_all, sending.give_owed, openings.is_locking
        self.in_kernel, self.refreshing = KernelFiles(cache), Refreshing(attributes, cache, openings, fetching)

    # -- opening

    def create(
        self,
        place: Place,
        mode: int,
        uid: int,
        gid: int,
        flags: int,
        pid: int,
        privileged: bool = False,
        shown: bytes = b"",
        interrupted: Callable[[], bool] = never,
        umask: int = 0,
    ) -> tuple[Handle, Made]:
        """A new file, open for writing. AlreadyExists where the name is taken; never waits for another's lock. `shown`
        is its path for people.

        With O_TMPFILE in a folder, without a name, which it can be given if O_EXCL is not there too."""
        unnamed = flags & os.O_TMPFILE == os.O_TMPFILE
        where, pid = b"" if unnamed else shown or as_path(place), process_of(pid)
        lock = self._locks.reserve(where, pid, interrupted)
        request = Create(
            base=place[0], names=list(place[1]), ino=lock.ino, mode=mode, uid=uid, gid=gid, mtime_ns=time.time_ns(),
            token=lock.token, unnamed=unnamed, linkable=not flags & os.O_EXCL, umask=umask,
        )  # fmt: skip
        try:
            made, content = self._openings.create(request, where)
        except BaseException:
            self._locks.release(lock, pid)
            raise
        lock.opened = True
        with content.mutex:
            content.writers, content.token = content.writers + 1, lock.token
        return Handle(content, place, flags, pid, lock, privileged), made

    def named(self, ino: int, place: Place) -> None:
        """A file without a name that is open here has got one: what a crash leaves of it is worth keeping."""
        content = self._cache.current(ino)
        if content is not None and not content.where:
            content.where = as_path(place)
            self._cache.index.set_path(content.row, content.where)

    def open(
        self,
        place: Place,
        flags: int,
        pid: int,
        interrupted: Interrupted = never,
        privileged: bool = False,
        *,
        ino: int = 0,
        shown: bytes = b"",
    ) -> tuple[Handle, Attributes]:
        """`ino`: the inode that is expected at the place. Stale where there is another one."""
        shown = shown or as_path(place)
        writes = (flags & os.O_ACCMODE) != os.O_RDONLY or bool(flags & os.O_TRUNC)
        if not writes:
            atime_ns = 0 if flags & os.O_NOATIME else time.time_ns()
            newest, content = self._openings.open(place, ino, 0, shown, atime_ns)
            return self._opened(Handle(content, place, flags, pid, None), newest), newest.attributes
        if ino:
            return self._open_to_write(place, ino, flags, pid, interrupted, privileged, shown)
        for _ in range(_ATTEMPTS_MAX):
            try:
                return self._open_to_write(place, self._ino_at(place), flags, pid, interrupted, privileged, shown)
            except errors.Stale:
                self._attributes.forget_place(place)
        raise errors.Stale("the name leads to another file each time it is looked up")

    def _open_to_write(
        self,
        place: Place,
        ino: int,
        flags: int,
        pid: int,
        interrupted: Interrupted,
        privileged: bool,
        shown: bytes,
    ) -> tuple[Handle, Attributes]:
        """Stale where the name has come to lead to another file than the one whose lock was taken."""
        wait, pid = not flags & os.O_NONBLOCK, process_of(pid)
        lock = self._locks.acquire(ino, shown, pid, wait, interrupted)
        try:
            newest, content = self._open_newest(place, ino, flags, lock, privileged, shown)
        except BaseException:
            self._locks.release(lock, pid)
            raise
        return self._opened(Handle(content, place, flags, pid, lock, privileged), newest), newest.attributes

    def _open_newest(
        self, place: Place, ino: int, flags: int, lock: Lock, privileged: bool, shown: bytes
    ) -> tuple[Version, Content]:
        """What is at the place, ready to be written; once more where what was found has become a copy meanwhile."""
        while True:
            newest, content = self._openings.open(place, ino, lock.token, shown, fenced=lock.opened)
            lock.opened = True
            try:
                if self._begin_writing(content, flags, lock.token, privileged):
                    return newest, content
            except BaseException:
                self._close(content)
                raise
            self._close(content)

    def _opened(self, handle: Handle, newest: Version) -> Handle:
        try:
            self.sharing.opened(handle, newest.locking, bool(handle.flags & os.O_TRUNC))
        except BaseException:
            self.release(handle)
            raise
        return handle

    def _ino_at(self, place: Place) -> int:
        known = self._attributes.get(place)
        return known.ino if known is not None else self._session.query(Lookup(place[0], list(place[1])), Attributes).ino

    def _begin_writing(self, content: Content, flags: int, token: int, privileged: bool) -> bool:
        """False where it is another file's, as a copy of what was unsent was made while this waited."""
        if flags & os.O_TRUNC:
            # Also of an empty file: mtime moves, which `> stamp` in makefiles relies on.
            with content.committing:
                if content.failed is not None:
                    return False
                self._cache.mark_open(content)
                content.resize(0, time.time_ns(), privileged)
        self.in_kernel.opened_to_write(content)
        self._cache.mark_open(content)
        with content.mutex:
            # Mappings may have gone since it was lent: then what is written need not be in the kernel's pages for them.
            lending.is_left(content)
            content.writers, content.token = content.writers + 1, max(content.token, token)
        return True

    # -- writing; reading is reading.py

    def write(
        self, handle: Handle, data: Data, offset: int, append: bool = False, interrupted: Interrupted = never
    ) -> int:
        """With `append` at the end, wherever `offset` is. That is a matter of each write and not of the open: fcntl
        changes O_APPEND, and what was stored through a mapping has its place."""
        self.check_writable(handle)
        handle.appends = handle.appends and append
        with self.sharing.writing(handle, interrupted):
            return self._write(handle, data, offset, append)

    def _write(self, handle: Handle, data: Data, offset: int, append: bool) -> int:
        content = handle.content
        if offset + len(data) > FILE_BYTES_MAX:
            raise errors.FileTooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        start = content.size if append else offset
        self.bring(content, lambda c: c.unready(start, start + len(data)))
        if append and content.unseen.writers:
            self._cache.with_room(unseen_writes.appending(content, data))
        elif self._cache.with_room(lambda: content.write(data, offset, time.time_ns(), append, handle.privileged)):
            self._cache.mark_open(content)
        self._ahead.written(content, start, start + len(data))
        if start != offset:
            self.sharing.misplaced(handle)
        return len(data)

    def resize(self, handle: Handle, size: int, interrupted: Interrupted = never) -> None:
        self.check_writable(handle)
        if size > FILE_BYTES_MAX:
            raise errors.FileTooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        with self.sharing.writing(handle, interrupted):
            self.resize_within(handle, size)

    def resize_within(self, handle: Handle, size: int) -> None:
        """For one who is writing already."""
        content = handle.content
        with content.committing:
            # It may have become a copy while this waited.
            self.check_writable(handle)
            if size < content.size:
                self.bring(content, lambda c: c.unready(size, size + 1) if size % ENTRY_BYTES else [])
            content.resize(size, time.time_ns(), handle.privileged)
            self._cache.mark_open(content)

    def check_writable(self, handle: Handle) -> None:
        if not handle.writable:
            raise errors.BadHandle("the file is not open for writing")
        failed = handle.failed or handle.content.failed
        if failed is not None:
            raise failed
        unseen_writes.look(handle.content)

    # -- closing

    def flush(self, handle: Handle, durable: bool = False) -> None:
        """close() or fsync() on one descriptor: what was written so far becomes the file's next version."""
        content, sent = handle.content, False
        if handle.writable:
            self.check_writable(handle)
            sent = not (content.changed or content.unseen.writers)
            if not sent and self.sharing.may_commit(handle):
                self._commit(handle, durable)
                sent = True
            elif content.owed is not None:
                self.give_owed(content)
        elif handle.failed is not None:
            raise handle.failed
        if durable:
            self._syncing.sync(content, sent)

    def _commit(self, handle: Handle, durable: bool) -> None:
        handle.owes = True
        self._sending.send(handle.content, durable)
        handle.owes = False

    def release(self, handle: Handle) -> None:
        """The last descriptor of a handle is closed. Its errors reach nobody, so what fails here is kept and retried;
        what has just failed at close() is left to the retries at once."""
        content = handle.content
        del content.handles[handle]
        try:
            if handle.writable:
                self._end_writing(handle)
            elif handle.share is not None:
                self.sharing.closed(handle)
        finally:
            self._close(content)

    def _end_writing(self, handle: Handle) -> None:
        content = handle.content
        if handle.unseen:
            self._sending.let_go(handle)
        try:
            if content.changed and content.failed is None and not handle.owes and self.sharing.may_commit(handle):
                self._commit(handle, False)
            elif content.owed is not None and not handle.owes:
                self.give_owed(content)
        except errors.DfsError as error:
            log.error("%s is not on the servers yet: %s", os.fsdecode(content.where), error)
        finally:
            with content.mutex:
                content.writers -= 1
            self.sharing.give_up(handle)
            if handle.share is not None:
                self.sharing.closed(handle)
            if content.changed and not content.writers:
                self._unsent.add(content)

    def abandon(self, handle: Handle) -> None:
        """As `release`, but what was written since the last commit is given up: the file stays what it was.

        Only for the one who alone has the file open on this client.
        """
        content = handle.content
        with content.committing:
            content.give_up()
        self._cache.detach(content)
        self.release(handle)

    def _close(self, content: Content) -> None:
        self._openings.close(content)
        if content.changed and not content.users:
            self._unsent.add(content)

    def close(self) -> None:
        """The client ends: what programs still have open for writing is closed."""
        self._sending.send_all()
        self._ahead.close()
        self._reading.close()

    def any_written(self) -> bool:
        """Has any file here something that the servers may not have?"""
        return self._unsent.count() > 0 or any(content.writers for content in self._cache.in_use())

    def discard(self, ino: int) -> None:
        """The file is gone: nobody opens it any more."""
        self._cache.discard(ino)
        self._locks.give_up(ino)

    def discard_unnamed(self, content: Content) -> None:
        """The file has lost its last name here: what is not sent of it goes, with the last program that has it open."""
        content.where = b""
        self._cache.index.set_path(content.row, b"")
        self._unsent.forget_unnamed(content)

    @property
    def sent_bytes(self) -> int:
        """Bytes of chunks that the servers have taken from this client so far."""
        return self._transfer.sent_bytes

    def send_unsent(self) -> int:
        """Try once, now, to send what is not on the servers yet; how many contents still wait."""
        return self._unsent.retry()

    def attributes_set(self, ino: int) -> Content | None:
        """The directory has just changed what is not content: its disk has that with the next fsync. `of_inode`."""
        content = self._cache.current(ino)
        if content is not None:
            content.attributes_synced = False
        return self.of_inode(ino)

    def of_inode(self, ino: int) -> Content | None:
        """The content of an inode that is open for writing here, has something unsent, or is shared by locks."""
        content = self._cache.current(ino)
        return content if content is not None and (content.writers or content.changed or content.shared) else None

    def of_new_file(self, ino: int) -> Content | None:
        """The content of an inode that this client has made, has open for writing, and has not committed yet."""
        content = self.of_inode(ino)
        return content if content is not None and content.writers and not content.version else None

    def take_owed(self, ino: int) -> OwedAttributes | None:
        """What the directory is to be told of attributes before another client changes the inode."""
        content = self._cache.current(ino)
        return None if content is None or content.owed is None else owed_attributes.taken(content)
