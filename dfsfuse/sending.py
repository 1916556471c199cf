"""What programs have written, sent when they close or unlock: it becomes the file's next version, or a copy beside it.

Threads: any. `Content.committing` is held meanwhile.
"""

import contextlib
import logging
import os
import time

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.commits import Committer
from dfsfuse.content import Content
from dfsfuse.copies import Copies

log = logging.getLogger(__name__)


class Sending:
    def __init__(self, attributes: AttributeTable, cache: Cache, committer: Committer, copies: Copies):
        self._attributes, self._cache, self._committer, self._copies = attributes, cache, committer, copies

    def send(self, content: Content, durable: bool = False) -> None:
        """Commit, or keep what can never be committed. Another handle may have done either while this one waited, or
        the retries may have met servers that do not answer: then they are not waited for once more."""
        since_s = time.monotonic()
        with content.committing:
            if content.failed is not None:
                raise content.failed
            if content.silent_s > since_s and content.silence is not None:
                self._promise(content)
                raise content.silence
            self._attributes.forget_ino(content.ino)
            asked_at = self._attributes.now()
            try:
                with content.silence_noted():
                    attributes = self._committer.commit(content, durable)
            except (errors.VersionConflict, errors.LockLost, errors.Stale) as error:
                if content.where:
                    self._copies.keep(content, "conflict", error)
                raise
        if attributes is not None:
            self._attributes.put_changed(attributes, asked_at)

    def give_owed(self, content: Content) -> None:
        """Attributes of a new file that were to go with its first commit (owed_attributes.py)."""
        asked_at = self._attributes.now()
        attributes = self._committer.give_owed(content)
        if attributes is not None:
            self._attributes.put_changed(attributes, asked_at)

    def _promise(self, content: Content) -> None:
        """It has reached close(): it is sent as soon as that is possible, and by the next client if this one ends."""
        # What is promised already may have a commit in doubt, which the index must go on naming.
        if not content.promised:
            self._cache.mark_closed(content, b"")

    def sync_all(self) -> None:
        """All that programs have written so far, onto the servers' disks."""
        for content in self._cache.in_use():
            if content.writers and content.changed and content.failed is None:
                self.send(content, durable=True)
            elif content.owed is not None:
                self.give_owed(content)

    def send_all(self) -> None:
        """The client ends: what programs still have open for writing is closed. What the servers do not take now is the
        next client's to send, which takes one time-out, and not one for each file."""
        written = [c for c in self._cache.in_use() if c.writers and (c.changed or c.owed is not None)]
        for content in written:
            if content.changed:
                with contextlib.suppress(errors.NoSpace):
                    self._promise(content)
        for content in written:
            try:
                (self.send if content.changed else self.give_owed)(content)
            except errors.DfsError as error:
                log.error("%s is not on the servers yet: %s", os.fsdecode(content.where), error)
                if isinstance(error, errors.Unreachable):
                    return
