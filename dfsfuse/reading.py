"""Reading open files: what is missing is fetched into the cache first; where its disk has no room, reading goes past
it.

Threads: any; see openfiles.py.
"""

from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.cache import Cache
from dfsfuse.content import Content
from dfsfuse.fetching import fetch
from dfsfuse.full_disk import Need
from dfsfuse.handles import Handle
from dfsfuse.passing import Passing
from dfsfuse.transfer import Transfer


class Reading:
    def __init__(self, cache: Cache, transfer: Transfer):
        self._cache, self._transfer, self._latest = cache, transfer, transfer.latest
        self._passing = Passing(transfer.latest)

    def read_into(self, handle: Handle, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` on; the number of bytes, fewer only at the end of the file."""
        content = handle.content
        if not content.shared:
            count = self._read(content, buffer, offset)
            # It may have come to be shared meanwhile.
            if not content.shared:
                return count
        return self._read_shared(handle, buffer, offset)

    def _read(self, content: Content, buffer: memoryview, offset: int) -> int:
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
        if not content.missing(start, end):
            return True
        if self._passing.goes_on():
            return False
        try:
            self.bring(content, lambda c: c.missing(start, end), Need.READ)
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

    def bring(self, content: Content, wanted: Callable[[Content], list[int]], need: Need = Need.WRITE) -> None:
        """Fetch the entries that `wanted` names until it names none. Raises NoSpace."""
        while wanted(content):
            with content.fetching:
                indexes = wanted(content)
                fetched = sum(self._transfer.each(lambda i: self._fetch(content, i, need), indexes))
            self._cache.note_growth(content, fetched)

    def _fetch(self, content: Content, index: int, need: Need) -> int:
        return self._cache.with_room(lambda: fetch(content, index, self._latest.lend), need)
