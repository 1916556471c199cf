"""Reading open files: what is missing is fetched into the cache first; where its disk has no room, reading goes past
it.

Threads: any; see openfiles.py.
"""

from dfsfuse import errors, unseen_writes
from dfsfuse.completing import Completing
from dfsfuse.content import Content
from dfsfuse.fetching import Fetching
from dfsfuse.full_disk import Need
from dfsfuse.handles import Handle
from dfsfuse.latest_chunks import LatestChunks
from dfsfuse.passing import Passing

_LARGE_BYTES = 1 << 20
"""What is smaller is on the disk before it could be handed to another thread."""


class Reading:
    """The rest of files comes in the background while they are open, of `whole_bytes_max` together."""

    def __init__(self, latest: LatestChunks, fetching: Fetching, whole_bytes_max: int):
        self._latest, self._passing, self._fetching = latest, Passing(latest), fetching
        self._completing = Completing(fetching, whole_bytes_max)
        self.close = self._completing.close

    def read_into(self, handle: Handle, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` on; the number of bytes, fewer only at the end of the file."""
        content = handle.content
        unseen_writes.look(content)
        lineage = content.lineage
        if not content.shared:
            count = self._read(content, buffer, offset)
            # It may have come to be shared meanwhile, and have become another version.
            if not content.shared and content.lineage == lineage:
                return count
        return self._read_shared(handle, buffer, offset)

    def _read(self, content: Content, buffer: memoryview, offset: int) -> int:
        count = self._read_first(content, buffer, offset) if not content.missed else -1
        return count if count >= 0 else self._read_brought(content, buffer, offset)

    def _read_first(self, content: Content, buffer: memoryview, offset: int) -> int:
        """What is missed first of a large file is read from memory, before it is on the disk, and before anything else
        of the file comes. -1: it is here, or is read as all else is."""
        end = offset + len(buffer)
        missing = content.missing(offset, end)
        if not missing:
            return -1
        content.missed = True
        if len(missing) > 1 or content.size < _LARGE_BYTES or self._passing.goes_on():
            return -1

        def read() -> int:
            return self._passing.read_into(content, buffer, offset)

        def then() -> None:
            if content.handles:
                self._completing.missed(content)
                self._fetching.begin(content, content.missing_ahead(end, missing))

        return self._fetching.bring_behind(content, missing[0], read, then)

    def _read_brought(self, content: Content, buffer: memoryview, offset: int) -> int:
        while True:
            drops = content.drops
            if not self._brought(content, offset, offset + len(buffer)):
                return self._passing.read_into(content, buffer, offset)
            count = self._read_here(content, buffer, offset)
            if content.drops == drops:
                return count

    def _read_here(self, content: Content, buffer: memoryview, offset: int) -> int:
        """What came last is in memory, and on the disk alone otherwise."""
        length = min(len(buffer), content.size - offset)
        chunk = content.chunk_at(offset, length)
        if chunk is not None and self._latest.copy(*chunk, buffer[:length]):
            return length
        return content.read_into(buffer, offset)

    def _brought(self, content: Content, start: int, end: int) -> bool:
        """What is missing is here now; False: the disk has no room for it."""
        missing = content.missing(start, end)
        ahead = content.missing_ahead(end, missing)
        if not missing and not ahead:
            return True
        if self._passing.goes_on():
            return not missing
        if missing:
            self._completing.missed(content)
        self._fetching.begin(content, ahead)
        try:
            self._fetching.bring(content, lambda c: c.missing(start, end), Need.READ)
        except errors.NoSpace:
            self._passing.begin()
            return False
        return True

    def _read_shared(self, handle: Handle, buffer: memoryview, offset: int) -> int:
        """It may become another version meanwhile: a part of each is not what anybody wrote."""
        if handle.failed is not None:
            raise handle.failed
        content, end = handle.content, offset + len(buffer)
        while True:
            lineage = content.lineage
            past = not self._brought(content, offset, end)
            count = self._passing.read_into(content, buffer, offset) if past else 0
            with content.mutex:
                if content.lineage == lineage and (past or not content.missing(offset, end)):
                    return count if past else content.read_into(buffer, offset)

    def read(self, handle: Handle, length: int, offset: int) -> bytes:
        buffer = bytearray(max(0, min(length, handle.content.size - offset)))
        return bytes(buffer[: self.read_into(handle, memoryview(buffer), offset)])
