"""Looking: the attributes of what is there, asked of the directory, and as programs here have just written them.

Answers are used while they are promised, and for HOLD_S (attributes.py). A file that is open for writing here, or not
sent yet, has the size and the times of its local content (written.py). Who has a file open, and df, go on with what was
last known while the directory is silent.

Threads: `_root` and `_silent_until` are simple values whose races do no harm.
"""

import time
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.absences import Absences
from dfsfuse.attributes import AttributeTable
from dfsfuse.messages import ROOT_INO, Attributes, Lookup, shown_name
from dfsfuse.openfiles import OpenFiles
from dfsfuse.places import Place
from dfsfuse.session import Session
from dfsfuse.written import as_written

_LOOKS_MAX = 4
_ROOT = ROOT_INO, ()
_BRIEFLY_S = 0.5
_SILENT_S = 2.0


class Looks:
    def __init__(self, session: Session, attributes: AttributeTable, files: OpenFiles):
        self._session, self._attributes, self._files = session, attributes, files
        self._absences = Absences(session, attributes)
        self._silent_until = 0.0
        self._root: Attributes | None = None

    def lookup(self, place: Place, shown: Callable[[], bytes] | None = None) -> Attributes:
        """Attributes of what is at a place: promised, or at most HOLD_S old, or as a program here has just written
        them. `shown` tells its path for people, where the place does not."""
        if place != _ROOT:
            return self._look_up(place, shown=shown)
        self._root = self.last(ROOT_INO, self._root)
        return self._root

    def _look_up(
        self, place: Place, timeout_s: float | None = None, shown: Callable[[], bytes] | None = None
    ) -> Attributes:
        for _ in range(_LOOKS_MAX):
            known = self._attributes.get(place)
            if known is None:
                if self._attributes.is_absent(place):
                    raise errors.NotFound(f"no file or folder {shown_name(place[1][-1])}")
                known = self._ask(place, shown) if timeout_s is None else self.ask(place, timeout_s)
            found = self.as_written(known)
            # A program here may have committed meanwhile: nobody here sees the file older than its close() left it.
            if self._attributes.is_newest(known):
                break
        return found

    def _ask(self, place: Place, shown: Callable[[], bytes] | None) -> Attributes:
        try:
            brought = self._files.refreshing.look(place, shown)
        except errors.NotFound:
            self._absences.missed(place)
            raise
        if brought is not None:
            return brought
        known = self.ask(place)
        self._files.refreshing.asked(place, known)
        return known

    def ask(self, place: Place, timeout_s: float | None = None) -> Attributes:
        """What the directory says now."""
        asked_at = self._attributes.now()
        request = Lookup(place[0], list(place[1]), self._session.id)
        try:
            known: Attributes = self._session.query(request, Attributes, timeout_s=timeout_s)
        except errors.NotFound:
            self._absences.missed(place)
            raise
        self._attributes.put(place, known, asked_at)
        return known

    def last(self, ino: int, last: Attributes | None = None) -> Attributes:
        """While the directory is silent, what was last known: who has a file open goes on, and so does df, which asks
        for the attributes of the root."""
        last = self._attributes.last(ino) or last
        if last is None:
            return self._look_up((ino, ()))
        if time.monotonic() < self._silent_until:
            return self.as_written(last)
        try:
            return self._look_up((ino, ()), _BRIEFLY_S)
        except errors.Unreachable:
            self._silent_until = time.monotonic() + _SILENT_S
            return self.as_written(last)

    def as_written(self, attributes: Attributes) -> Attributes:
        return as_written(attributes, self._files.of_inode(attributes.ino))
