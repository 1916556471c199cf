"""The rest of a file that programs read comes to the cache in the background, as long as they have it open: once all of
it is here it is opened in passthrough, and reads ask no server.

It is one entry at a time, the next one behind what was read last first, and of the file of which something was missed
last. So those who wait for an entry have most of the way for themselves (fetching.py carries several for them). What
fails is left to who reads it; his next miss begins again.

Threads: any; one brings what is wanted, while there is anything. `_mutex` guards the table.
"""

import logging
import os
import threading

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.content import Content
from dfsfuse.fetching import Fetching
from dfsfuse.full_disk import Need

log = logging.getLogger(__name__)

_LOOK_ENTRIES = 256


class Completing:
    """Of files that take `bytes_max` together, as long as they are open, as nothing of these can be evicted: others are
    left. What is wanted stays in use."""

    def __init__(self, fetching: Fetching, bytes_max: int):
        self._fetching, self._bytes_max = fetching, bytes_max
        self._mutex, self._closed = threading.Lock(), False
        self._wanted: dict[Content, None] = {}
        self._begun: dict[Content, int] = {}
        self._thread: threading.Thread | None = None

    def missed(self, content: Content) -> None:
        """A program reads what is not here. Does not wait."""
        if content.size <= ENTRY_BYTES:
            return
        with content.mutex:
            takes = content.stored_bytes
        with self._mutex:
            if content in self._wanted:
                self._wanted[content] = self._wanted.pop(content)
                return
            if self._closed or not self._has_room(content, takes):
                return
            self._fetching.use(content)
            self._begun[content], self._wanted[content] = takes, None
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="completing", daemon=True)
                self._thread.start()

    def _has_room(self, content: Content, takes: int) -> bool:
        self._begun = {each: taken for each, taken in self._begun.items() if each.handles and each is not content}
        return sum(self._begun.values()) + takes <= self._bytes_max

    def close(self) -> None:
        """The client ends: what is on its way is the last."""
        with self._mutex:
            self._closed, thread = True, self._thread
        if thread is not None:
            thread.join()
        for content in list(self._wanted):
            self._give_up(content)

    def _work(self) -> None:
        while (content := self._next()) is not None:
            index = _next_missing(content) if content.handles else None
            if index is None or not self._bring(content, index):
                self._give_up(content)

    def _next(self) -> Content | None:
        """The one that was missed last; None: this thread ends."""
        with self._mutex:
            if self._wanted and not self._closed:
                return next(reversed(self._wanted))
            self._thread = None
            return None

    def _give_up(self, content: Content) -> None:
        with self._mutex:
            del self._wanted[content]
        self._fetching.release(content)

    def _bring(self, content: Content, index: int) -> bool:
        start = index * ENTRY_BYTES
        try:
            self._fetching.bring(content, lambda c: c.missing(start, start + 1), Need.READ)
        except errors.DfsError as error:
            log.info("%s is not fetched in advance: %s", os.fsdecode(content.where), error)
            return False
        except Exception:
            log.exception("%s is not fetched in advance", os.fsdecode(content.where))
            return False
        return True


def _next_missing(content: Content) -> int | None:
    """The first entry that is not here behind what was read last, else of all."""
    size, behind = content.size, max(0, content.reads_on_at) * ENTRY_BYTES
    for start, end in ((behind, size), (0, behind)):
        for at in range(start, end, _LOOK_ENTRIES * ENTRY_BYTES):
            missing = content.missing(at, min(end, at + _LOOK_ENTRIES * ENTRY_BYTES))
            if missing:
                return missing[0]
    return None
