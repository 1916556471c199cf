"""Contents that the servers do not have yet: retried in the background until they have them.

What a failed close() left, and what a killed client left, is sent as soon as that is possible, if the file still has
the version that it is based on. Otherwise it is kept as a copy beside the file (copies.py). What is not sent of a file
that was removed here goes.

Threads: `_mutex` guards the list; the retries are one thread's. `Content.committing` is held while one is decided on
and sent, so no program's close() comes between.
"""

import logging
import os
import threading

from dfsfuse import errors
from dfsfuse.cache import Cache
from dfsfuse.commits import Committer
from dfsfuse.content import Content
from dfsfuse.copies import Copies
from dfsfuse.locks import LockTable
from dfsfuse.messages import Open, Opened
from dfsfuse.session import Session

log = logging.getLogger(__name__)

RETRY_EVERY_S = 2.0


class Unsent:
    """`start` begins the retries."""

    def __init__(self, session: Session, locks: LockTable, cache: Cache, committer: Committer, copies: Copies):
        self._session, self._locks, self._cache = session, locks, cache
        self._committer, self._copies = committer, copies
        self._mutex = threading.Lock()
        self._waiting: list[Content] = []
        self._trouble = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._retry_for_ever, name="unsent", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What is still unsent stays in the cache for the next mount."""
        self._stopping.set()
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

    def _retry_for_ever(self) -> None:
        # What an earlier client left is tried at once.
        pause_s = 0.0 if self._waiting else RETRY_EVERY_S
        while not self._stopping.wait(pause_s):
            pause_s = RETRY_EVERY_S
            for work in (self._maintain, self.retry):
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
        """Try to send each content that waits; how many still wait."""
        for content in list(self._waiting):
            if self._stopping.is_set():
                break
            try:
                with content.committing, content.silence_noted():
                    self._send(content)
                self._done(content)
            except errors.DfsError as error:
                self._cache.index.set_failure(content.row, str(error))
            except Exception:
                log.exception("%s cannot be sent", os.fsdecode(content.where))
        return len(self._waiting)

    def _done(self, content: Content) -> None:
        """A program may have written to it again meanwhile, and failed to close it."""
        with self._mutex:
            if not content.changed:
                self._waiting = [other for other in self._waiting if other is not content]
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
                request = Open(session=self._session.id, base=content.ino, token=content.token)
                self._session.query(request, Opened)
                self._committer.commit(content)
            except (errors.VersionConflict, errors.LockLost, errors.Stale) as error:
                self._copies.keep(content, "conflict", error)
                return
        log.info("%s is on the servers now", os.fsdecode(content.where))
