"""Folders in which programs open what they look up, one file after the other: as who copies a tree, compiles, or waits
for files to appear. There the next look at a small file may as well be its open (refreshing.py).

Told from what programs did last: some of the files that were looked up there have been opened, and hardly any has not.

Threads: any; one mutex, held for a moment.
"""

import threading
from collections import OrderedDict

from dfsfuse.places import Place

_OPENS_MIN = 2
_UNOPENED_MAX = 2
_FOLDERS_MAX, _FILES_MAX = 64, 256
_NOWHERE: Place = (0, ())


class _Folder:
    """`opens`: files there that were opened after a look; `unopened`: looks that no open has followed yet."""

    __slots__ = ("opens", "unopened")

    def __init__(self) -> None:
        self.opens = self.unopened = 0


class Following:
    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._folders: OrderedDict[Place, _Folder] = OrderedDict()
        self._looked: OrderedDict[int, Place] = OrderedDict()

    def looked(self, folder: Place, ino: int) -> None:
        """A program has looked a file up that was not known here."""
        with self._mutex:
            known = self._folders.setdefault(folder, _Folder())
            self._folders.move_to_end(folder)
            known.unopened += 1
            if known.unopened > _UNOPENED_MAX:
                known.opens = known.unopened = 0
            self._looked[ino] = folder
            _shrink(self._folders, _FOLDERS_MAX)
            _shrink(self._looked, _FILES_MAX)

    def opened(self, ino: int) -> None:
        """A program opens a file."""
        if ino not in self._looked:
            return
        with self._mutex:
            known = self._folders.get(self._looked.pop(ino, _NOWHERE))
            if known is not None:
                known.opens += 1
                known.unopened = max(0, known.unopened - 1)

    def expects(self, folder: Place) -> bool:
        """Is what a program looks up there likely to be opened next?"""
        known = self._folders.get(folder)
        return known is not None and known.opens >= _OPENS_MIN


def _shrink(table: OrderedDict, items_max: int) -> None:
    if len(table) > items_max:
        table.popitem(last=False)
