"""What programs have written, sent when they close or unlock: it becomes the file's next version, or a copy beside it.

Threads: any. `Content.committing` is held meanwhile.
"""

import contextlib
import logging
import os
import time

from dfsfuse import errors, lending, unseen_writes
from dfsfuse.attributes import AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.content import Content
from dfsfuse.copies import Copies
from dfsfuse.handles import Handle
from dfsfuse.restoring import Restoring

log = logging.getLogger(__name__)


class Sending:
    def __init__(self, attributes: AttributeTable, cache: Cache, restoring: Restoring, copies: Copies):
        self._attributes, self._cache, self._restoring, self._copies = attributes, cache, restoring, copies
        self.note_lost = restoring.note_lost

    def send(self, content: Content, durable: bool = False) -> None:
        """Commit, or keep what can never be committed. Another handle may have done either while this one waited, or
        the retries may have met servers that do not answer: then they are not waited for once more."""
        since_s = time.monotonic()
        with content.committing:
            if content.failed is not None:
                raise content.failed
            if content.silent_s > since_s and content.silence is not None:
                self.promise(content)
                raise content.silence
            unseen_writes.find(content)
            if not content.changed:
                return
            self._attributes.forget_ino(content.ino)
            asked_at = self._attributes.now()
            try:
                with content.silence_noted():
                    attributes = self._restoring.commit(content, durable)
            except (errors.VersionConflict, errors.LockLost, errors.Stale) as error:
                if content.where:
                    self._copies.keep(content, "conflict", error)
                raise
        if attributes is not None:
            self._attributes.put_changed(attributes, asked_at)

    def give_owed(self, content: Content) -> None:
        """Attributes of a new file that were to go with its first commit (owed_attributes.py)."""
        asked_at = self._attributes.now()
        attributes = self._restoring.give_owed(content)
        if attributes is not None:
            self._attributes.put_changed(attributes, asked_at)

    def let_go(self, handle: Handle) -> None:
        """Nobody writes for it through the kernel any more. What was written after it had become a copy goes there."""
        content = handle.content
        lending.let_go(handle)
        if content.failed is not None and content.changed:
            with contextlib.suppress(errors.NoSpace):
                self.promise(content)

    def promise(self, content: Content) -> None:
        """It has reached close(): it is sent as soon as that is possible, and by the next client if this one ends."""
        # What is promised already may have a commit in doubt, which the index must go on naming.
        if not content.promised:
            self._cache.mark_closed(content, b"")

    def sync_all(self) -> None:
        """All that programs have written so far, onto the servers' disks."""
        for content in self._cache.in_use():
            if content.failed is None and _is_written(content):
                self.send(content, durable=True)
            elif content.owed is not None:
                self.give_owed(content)

    def send_all(self) -> None:
        """The client ends: what programs still have open for writing is closed. What the servers do not take now is the
        next client's to send, which takes one time-out, and not one for each file."""
        written = [c for c in self._cache.in_use() if _is_written(c) or (c.writers and c.owed is not None)]
        for content in filter(_is_written, written):
            with contextlib.suppress(errors.NoSpace):
                self.promise(content)
        for content in written:
            try:
                (self.send if _is_written(content) else self.give_owed)(content)
            except errors.DfsError as error:
                log.error("%s is not on the servers yet: %s", os.fsdecode(content.where), error)
                if isinstance(error, errors.Unreachable):
                    return


def _is_written(content: Content) -> bool:
    """Programs have it open for writing, and have written to it, or may have."""
    return bool(content.writers and (content.changed or content.unseen.writers))
