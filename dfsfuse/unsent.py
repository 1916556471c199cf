"""Contents that the servers do not have yet: retried in the background until they have them.

What a failed close() left, and what a killed client left, is sent as soon as that is possible, if the file still has
the version that it is based on. Otherwise it is kept as a copy beside the file (copies.py). What is not sent of a file
that was removed here goes.

Each is tried again after 2 s, then more and more rarely, down to once a minute, and at once when a server returns, or
comes to be of use again: what it failed for may be over. What waits for somebody's lock asks each 2 s, which is one
small request.

Threads: `_mutex` guards the list and the pauses; the retries are one thread's. `Content.committing` is held while one
is decided on and sent, so no program's close() comes between.
"""

import logging
import os
import threading
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.backoff import Backoff
from dfsfuse.cache import Cache
from dfsfuse.content import Content
from dfsfuse.copies import Copies
from dfsfuse.locks import LockTable
from dfsfuse.messages import Attributes, Open, Opened
from dfsfuse.restoring import Restoring
from dfsfuse.session import Session

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


class Unsent:
    """`start` begins the retries; `hurry` makes the next ones come at once."""

    def __init__(self, session: Session, locks: LockTable, cache: Cache, restoring: Restoring, copies: Copies):
        self._session, self._locks, self._cache = session, locks, cache
        self._restoring, self._copies = restoring, copies
        self._mutex = threading.Lock()
        self._waiting: list[Content] = []
        self._backoff = Backoff()
        self._trouble = ""
        self._stopping, self._due = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._retry_for_ever, name="unsent", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What is still unsent stays in the cache for the next mount."""
        self._stopping.set()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, content: Content) -> None:
        with self._mutex:
            if content not in self._waiting:
                self._waiting.append(content)
            self._session.report_unsent(len(self._waiting))

    def count(self) -> int:
        return len(self._waiting)

    def forget_unnamed(self, content: Content) -> None:
        """At once; where it is just being sent, when that is done."""
        if content.committing.acquire(blocking=False):
            try:
                self._give_up_unnamed(content)
            finally:
                content.committing.release()
            self._done(content)

    def _give_up_unnamed(self, content: Content) -> None:
        """As on a local disk, a file without a name goes with the last program that has it open."""
        if content.changed and not content.users:
            with self._copies.in_use(content):
                content.give_up()
                self._cache.detach(content)

    def hurry(self) -> None:
        """A server is there that was not, or may be of use again."""
        with self._mutex:
            self._backoff.forget_all()
        if self._waiting:
            self._due.set()

    def _retry_for_ever(self) -> None:
        # What an earlier client left is tried at once.
        self._due.set()
        while True:
            self._due.wait(LOOK_EVERY_S)
            self._due.clear()
            if self._stopping.is_set():
                return
            for work in (self._maintain, self._retry_due):
                try:
                    work()
                except Exception:
                    log.exception("%s failed", work.__qualname__)

    def _maintain(self) -> None:
        """A full disk is told of once, and once more when it has room again."""
        trouble = ""
        try:
            self._cache.maintain()
        except errors.DfsError as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            log.error("the cache's index cannot be brought up to date; nothing is lost, but make room: %s", trouble)
        elif self._trouble and not trouble:
            log.info("the cache's index is up to date again")
        self._trouble = trouble

    def retry(self) -> int:
        """Try to send each content that waits, now; how many still wait."""
        for content in list(self._waiting):
            self._try(content)
        return len(self._waiting)

    def _retry_due(self) -> None:
        with self._mutex:
            due = [content for content in self._waiting if not content.changed or self._backoff.is_due(content)]
        for content in due:
            self._try(content)

    def send_now(self, content: Content) -> None:
        """What a program waits for. Raises why it could not be sent: then it is tried again like all that waits."""
        self.add(content)
        error = self._try(content)
        if error is not None:
            raise error

    def _try(self, content: Content) -> errors.DfsError | None:
        """Why it could not be sent."""
        if self._stopping.is_set():
            return errors.Unreachable("the client ends")
        try:
            with content.committing, content.silence_noted():
                self._send(content)
            self._done(content)
            return None
        except errors.Busy as error:
            return self._failed(content, error, self._backoff.waits)
        except errors.DfsError as error:
            return self._failed(content, error, self._backoff.failed)
        except Exception:
            log.exception("%s cannot be sent", os.fsdecode(content.where))
            with self._mutex:
                self._backoff.failed(content)
            return errors.Internal(f"{os.fsdecode(content.where)} cannot be sent; the client's log tells why")

    def _failed(self, content: Content, error: errors.DfsError, note: Callable[[Content], None]) -> errors.DfsError:
        self._cache.index.set_failure(content.row, str(error))
        with self._mutex:
            note(content)
        return error

    def _done(self, content: Content) -> None:
        """A program may have written to it again meanwhile, and failed to close it."""
        with self._mutex:
            if not content.changed:
                self._waiting = [other for other in self._waiting if other is not content]
                self._backoff.forget(content)
            self._session.report_unsent(len(self._waiting))

    def _send(self, content: Content) -> None:
        if not content.changed:
            return
        if content.writers:
            raise errors.Busy("a program on this machine has the file open for writing")
        if not content.where and not content.users:
            self._give_up_unnamed(content)
            return
        if not content.promised and not content.users:
            self._copies.keep(content, "recovered")
            return
        try:
            lock = self._locks.acquire(content.ino, content.where, os.getpid(), wait=False)
        except (errors.Busy, errors.WouldBlock):
            raise errors.Busy("another client has the file open for writing") from None
        try:
            with content.mutex:
                content.token = max(content.token, lock.token)
            self._send_under_lock(content)
        finally:
            self._locks.release(lock, os.getpid())

    def _send_under_lock(self, content: Content) -> None:
        with self._copies.in_use(content):
            try:
                self._check_base(content)
                self._restoring.commit(content)
                self._session.changed(content.ino)
            except (errors.VersionConflict, errors.LockLost, errors.Stale) as error:
                self._copies.keep(content, "conflict", error)
                return
        log.info("%s is on the servers now", os.fsdecode(content.where))

    def _check_base(self, content: Content) -> None:
        """Raises VersionConflict or Stale before anything is sent in vain; but a commit in doubt may be the newest
        version. Another client may have removed the file, which is there for the sake of its base alone."""
        request = Open(
            session=self._session.id,
            base=content.ino,
            token=content.token,
            have_version=content.version,
            have_commit_id=content.commit_id,
        )
        newest: Attributes = self._session.query(request, Opened).attributes
        if not newest.nlink and content.users == 1:
            raise errors.Stale("the file was removed")
        same = (newest.version, newest.commit_id) == (content.version, content.commit_id)
        if not same and content.in_doubt is None and not self._restoring.rebase(content):
            raise errors.VersionConflict(
                f"the file has version {newest.version}; what was not sent is based on version {content.version}"
            )
