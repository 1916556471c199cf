"""What programs here read, and others change: it is brought along with the first look at it afterwards.

A program that opens a file has the kernel look at it first. Where the file has changed since programs here have read
it, and was small, the directory is asked to open it instead: its answer has the attributes too. So the content is on
its way while the kernel comes back with the open, for which nobody has to be asked any more.

Each time programs have read a file, this is done once: what nobody opens costs the next look nothing. It only ever
adds: where it fails, the look asks as always; so it does of a file on which programs use locks.

Threads: any; races of `Content.wanted` do no harm.
"""

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.chunks import BLOCK_BYTES
from dfsfuse.content import Content
from dfsfuse.fetching import Fetching
from dfsfuse.messages import Attributes
from dfsfuse.openings import Openings
from dfsfuse.places import Place

SMALL_BYTES = BLOCK_BYTES
_COMING_MAX = 8


class Refreshing:
    def __init__(self, attributes: AttributeTable, cache: Cache, openings: Openings, fetching: Fetching):
        self._attributes, self._cache, self._openings, self._fetching = attributes, cache, openings, fetching

    def look(self, place: Place) -> Attributes | None:
        """What the directory says of a place now; None: it has not been asked."""
        ino = self._attributes.last_ino(place)
        content = self._cache.current(ino)
        if content is None or not _is_read(content) or self._openings.is_locking(ino):
            return None
        if self._fetching.coming >= _COMING_MAX:
            return None
        content.wanted = False
        try:
            return self._open(place, ino, content.where)
        except errors.DfsError:
            return None

    def _open(self, place: Place, ino: int, shown: bytes) -> Attributes:
        newest, content = self._openings.open(place, ino, 0, shown, looks=True)
        try:
            if content.size <= SMALL_BYTES:
                self._fetching.begin(content, content.missing(0, content.size))
            return newest.attributes
        finally:
            self._openings.close(content)


def _is_read(content: Content) -> bool:
    """Is it a small file that programs have read since it was looked at, and nobody uses just now?"""
    idle = not (content.users or content.changed or content.failed)
    return content.wanted and idle and content.version > 0 and content.size <= SMALL_BYTES
