"""Folders in which programs look for names that are not there, as each create does: such a folder is listed once,
unless it is large, and then it is known what is not in it.

Threads: `_misses` is a dictionary whose single operations are atomic; a count that is lost does no harm.
"""

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable
from dfsfuse.listings import list_folder
from dfsfuse.places import Place
from dfsfuse.session import Session

_MISSES = 4
_LATER = -100
"""Where a listing did not help: after how many more it is tried again."""
_ENTRIES_MAX, _FOLDERS_MAX = 4000, 10_000


class Absences:
    def __init__(self, session: Session, attributes: AttributeTable):
        self._session, self._attributes = session, attributes
        self._misses: dict[int, int] = {}

    def missed(self, place: Place) -> None:
        """The directory was asked, and nothing is at the place."""
        folder, names = place
        if len(names) != 1:
            return
        count = self._misses.pop(folder, 0) + 1
        if count == _MISSES:
            count = _LATER
            self._list(folder)
        self._misses[folder] = count
        if len(self._misses) > _FOLDERS_MAX:
            self._misses.pop(next(iter(self._misses)), None)

    def _list(self, folder: int) -> None:
        try:
            for number, _ in enumerate(list_folder(self._session, self._attributes, (folder, ()), b"", 0, None)):
                if number >= _ENTRIES_MAX:
                    return
        except errors.DfsError:
            return
