"""Small files that are about to be opened are brought along with the look before that.

A program that opens a file has the kernel look at it first. Where the file has changed since programs here have read
it, and was small, or is new here in a folder in which programs open what they look up (following.py), the directory is
asked to open it instead: its answer has the attributes too. So the content is on its way while the kernel comes back
with the open, for which nobody has to be asked any more.

Each time programs have read a file, this is done once: what nobody opens costs the next look nothing. It only ever
adds: where it fails, the look asks as always; so it does of a file on which programs use locks.

Threads: any; races of `Content.wanted` do no harm.
"""

import stat
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.chunks import BLOCK_BYTES
from dfsfuse.content import Content
from dfsfuse.fetching import Fetching
from dfsfuse.messages import Attributes
from dfsfuse.openings import Openings
from dfsfuse.places import Place, as_path

SMALL_BYTES = BLOCK_BYTES
_COMING_MAX = 8
_NONE, _NO_NAME = -1, (b"/",)


class Refreshing:
    def __init__(self, attributes: AttributeTable, cache: Cache, openings: Openings, fetching: Fetching):
        self._attributes, self._cache, self._openings, self._fetching = attributes, cache, openings, fetching

    def look(self, place: Place, shown: Callable[[], bytes] | None = None) -> Attributes | None:
        """What the directory says of a place now; None: it has not been asked. `shown` tells its path for people.
        Raises NotFound."""
        if self._fetching.coming >= _COMING_MAX:
            return None
        ino = self._attributes.last_ino(place)
        content = self._cache.current(ino)
        if content is None:
            return self._first(place, ino, shown)
        if not _is_read(content) or self._openings.is_locking(ino):
            return None
        content.wanted = False
        try:
            return self._open(place, ino, content.where)
        except errors.DfsError:
            return None

    def _first(self, place: Place, ino: int, shown: Callable[[], bytes] | None) -> Attributes | None:
        """Of a file that is new here. Raises NotFound."""
        if not self._openings.following.expects(_folder_of(place)) or not self._may_be_small(ino):
            return None
        try:
            attributes = self._open(place, 0, shown() if shown is not None else as_path(place))
        except errors.NotFound:
            raise
        except errors.DfsError:
            self._openings.following.looked(_folder_of(place), _NONE)
            return None
        self._openings.following.looked(_folder_of(place), attributes.ino)
        return attributes

    def _may_be_small(self, ino: int) -> bool:
        """Of what was last known there, if anything was."""
        last = self._attributes.last(ino) if ino > 0 else None
        return last is None or stat.S_ISREG(last.mode) and last.size <= SMALL_BYTES

    def asked(self, place: Place, attributes: Attributes) -> None:
        """The directory was asked for the attributes alone."""
        if place[1] and stat.S_ISREG(attributes.mode) and 0 < attributes.size <= SMALL_BYTES:
            self._openings.following.looked(_folder_of(place), attributes.ino)

    def _open(self, place: Place, ino: int, shown: bytes) -> Attributes:
        newest, content = self._openings.open(place, ino, 0, shown, looks=True)
        try:
            if content.size <= SMALL_BYTES:
                self._fetching.begin(content, content.missing(0, content.size))
            return newest.attributes
        finally:
            self._openings.close(content)


def _folder_of(place: Place) -> Place:
    """No folder where the place has no name."""
    return place[0], place[1][:-1] if place[1] else _NO_NAME


def _is_read(content: Content) -> bool:
    """Is it a small file that programs have read since it was looked at, and nobody uses just now?"""
    idle = not (content.users or content.changed or content.failed)
    return content.wanted and idle and content.version > 0 and content.size <= SMALL_BYTES
