"""Reading past the cache, where its disk has no room: from the servers through memory, in which the chunks that came
last are kept: a program that reads on in small steps needs each chunk once.

Threads: any.
"""

import os
import time

from dfsfuse.chunks import ENTRY_BYTES, HOLE, by_entry, spans
from dfsfuse.content import Content
from dfsfuse.latest_chunks import LatestChunks

_AGAIN_S = 2.0


class Passing:
    def __init__(self, latest: LatestChunks):
        self._latest, self._until_s = latest, 0.0

    def begin(self) -> None:
        """The disk is full: for some seconds it is not tried again, as each try costs what it would have kept."""
        self._until_s = time.monotonic() + _AGAIN_S

    def goes_on(self) -> bool:
        return time.monotonic() < self._until_s

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
                with self._latest.lend(span.chunk) as data:
                    part[start - first : end - first] = data[at : at + end - start]
