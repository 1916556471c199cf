"""Reading past the cache, where its disk has no room: from the servers through memory, in which the chunks that were
read last are kept.

Threads: `_mutex` guards the table; nothing is asked under it.
"""

import os
import threading
import time
from collections import OrderedDict

from dfsfuse.chunks import ENTRY_BYTES, HOLE, by_entry, spans
from dfsfuse.content import Content, Download

CHUNKS_KEPT = 4
"""Of 4 MiB each, at most. A program that reads on in small steps needs each chunk once."""
_AGAIN_S = 2.0


class Passing:
    def __init__(self, download: Download):
        self._download = download
        self._mutex = threading.Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._until_s = 0.0

    def begin(self) -> None:
        """The disk is full: for some seconds it is not tried again, as each try costs what it would have kept."""
        self._until_s = time.monotonic() + _AGAIN_S

    def goes_on(self) -> bool:
        if time.monotonic() < self._until_s:
            return True
        if self._kept:
            with self._mutex:
                self._kept.clear()
        return False

    def read_into(self, content: Content, buffer: memoryview, offset: int) -> int:
        """As `Content.read_into`, of entries that need not be here."""
        length = max(0, min(len(buffer), content.size - offset))
        done = 0
        for index, first, last in by_entry(offset, offset + length):
            self._read_part(content, index, first, buffer[done : done + last - first])
            done += last - first
        return length

    def _read_part(self, content: Content, index: int, first: int, part: memoryview) -> None:
        with content.mutex:
            if content.here(index):
                os.preadv(content.fd, [part], index * ENTRY_BYTES + first)
                return
            entry = content.entries[index]
        part[:] = bytes(len(part))
        for span in spans(entry):
            start, end = max(span.offset, first), min(span.offset + span.length, first + len(part))
            if start < end and span.chunk != HOLE:
                at = span.start + start - span.offset
                part[start - first : end - first] = memoryview(self._chunk(span.chunk))[at : at + end - start]

    def _chunk(self, name: bytes) -> bytes:
        with self._mutex:
            data = self._kept.get(name)
            if data is not None:
                self._kept.move_to_end(name)
                return data
        data = self._download(name)
        with self._mutex:
            self._kept[name] = data
            while len(self._kept) > CHUNKS_KEPT:
                self._kept.popitem(last=False)
        return data
