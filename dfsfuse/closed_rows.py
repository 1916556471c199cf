"""Open rows that nobody here needs any more, until the directory is told, which is done with the next renewal.

A file that is opened again before that takes its row back: it asks with the row's number, and the directory has nothing
to write. While such an open is under way it has an older number than others that come meanwhile, so what these leave is
held back until it is known here (open_rows.py). A row of which the directory was told without answering is not taken
back: it may hear that after the open, and the row would go with the file still in use.

Threads: `_mutex`; nothing is asked under it.
"""

import threading

from dfsfuse.messages import Closed

_TOLD_AT_ONCE = 5000

Key = tuple[int, int]
"""(inode number, version)."""


class ClosedRows:
    """`_rows`: the number of the latest open that has left each row. `_claimed`: which row was taken back with a
    number. `_telling`: which rows the directory is being told of, and nobody has needed since. `_unheard`: as `_rows`,
    of what it may or may not have heard."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._rows: dict[Key, int] = {}
        self._claimed: dict[int, Key] = {}
        self._telling: set[Key] = set()
        self._unheard: dict[Key, int] = {}

    def add(self, ino: int, version: int, opening: int) -> None:
        with self._mutex:
            _note(self._rows, (ino, version), opening)

    def claim(self, ino: int, version: int) -> int:
        """The number of a row that is needed again, until `settle`; 0 where it is not here."""
        with self._mutex:
            opening = self._rows.pop((ino, version), 0)
            if opening:
                self._claimed[opening] = ino, version
            return opening

    def settle(self, opening: int, now: Key | None) -> None:
        """The open with this number, claimed or new, has the row `now`; None: it has failed. A claimed row that it does
        not have is given up again. What was closed of the row before has a smaller number, and is not told any more."""
        with self._mutex:
            claimed = self._claimed.pop(opening, None)
            if claimed is not None and claimed != now:
                _note(self._rows, claimed, opening)
            if now is not None:
                self._rows.pop(now, None)
                self._unheard.pop(now, None)
                self._telling.discard(now)

    def take(self) -> list[Closed]:
        """What to tell the directory now. One thread does, and calls `put_back` where it was not heard."""
        with self._mutex:
            while self._unheard:
                _note(self._rows, *self._unheard.popitem())
            keys = list(self._rows)[:_TOLD_AT_ONCE]
            self._telling = set(keys)
            return [Closed(*key, self._rows.pop(key)) for key in keys]

    def put_back(self, closed: list[Closed]) -> None:
        """The directory may not have heard it. What has been opened anew meanwhile is needed again."""
        with self._mutex:
            for row in closed:
                if (row.ino, row.version) in self._telling:
                    _note(self._unheard, (row.ino, row.version), row.opening)

    def forget(self) -> None:
        """The session has ended, and all its rows with it."""
        with self._mutex:
            self._rows.clear()
            self._unheard.clear()
            self._telling.clear()


def _note(rows: dict[Key, int], key: Key, opening: int) -> None:
    """The larger number counts."""
    rows[key] = max(opening, rows.get(key, 0))
