"""What the cache has of a file that loses its last name here: it goes with it, as the blocks of a local file would.

Without this, content that close() could not send would come back as a copy beside a name that its user has removed.
What another client removes is not concerned: who did that did not know of the content here.

Threads: no state of its own.
"""

import contextlib
from collections.abc import Callable, Iterator

from dfsfuse import errors
from dfsfuse.content import Content
from dfsfuse.messages import Attributes, Lookup
from dfsfuse.openfiles import OpenFiles
from dfsfuse.places import Place
from dfsfuse.session import Session


class Removals:
    """`lookup` gives the attributes of what is at a place, as the directory has them."""

    def __init__(self, session: Session, files: OpenFiles, lookup: Callable[[Place], Attributes]):
        self._session, self._files, self._lookup = session, files, lookup

    @contextlib.contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """The block removes or replaces what is at the place."""
        content = self._written_at(place)
        yield
        if content is not None and self._has_no_name(content.ino):
            self._files.discard_unnamed(content)

    def _written_at(self, place: Place) -> Content | None:
        """What the servers may not have; the directory is asked only where a file here has any such content."""
        if not self._files.any_written():
            return None
        try:
            return self._files.of_inode(self._lookup(place).ino)
        except errors.DfsError:
            return None

    def _has_no_name(self, ino: int) -> bool:
        try:
            attributes: Attributes = self._session.query(Lookup(ino), Attributes)
        except errors.Unreachable:
            return False
        except errors.DfsError:
            return True
        return attributes.nlink == 0
