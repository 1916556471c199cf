"""Open rows that nobody here needs any more, until the directory is told, which is done with the next renewal.

A row of a content that is promised to be the newest is kept until that promise is broken: so a file that is opened
again under promise has a row already, and the directory need not be asked. While the file's write lock is here, it
stays one for writing, for who opens the file to write it (writing_rows.py).

A file that is opened again before that takes its row back: it asks with the row's number, and the directory has nothing
to write. While such an open is under way it has an older number than others that come meanwhile, so what these leave is
held back until it is known here (open_rows.py). A row of which the directory was told without answering is not taken
back: it may hear that after the open, and the row would go with the file still in use.

Threads: `_mutex`; nothing is asked under it.
"""

import threading
from collections.abc import Callable
from itertools import islice

from dfsfuse.messages import EVERYTHING, Closed
from dfsfuse.writing_rows import WritingRows

_TOLD_AT_ONCE = 5000
_MANY = 16
"""Rows of which the directory should hear before the next renewal is due."""

Key = tuple[int, int]
"""(inode number, version)."""


class ClosedRows:
    """`_rows`: the number of the latest open that has left each row. `_kept`: inode number -> (version, the same);
    `_idle`: those of them of which the directory is to hear that nobody writes any more. `_claimed`: which row was
    taken back with a number. `_telling`: which rows the directory is being told of, and nobody has needed since.
    `_unheard`: as `_rows`, of what it may or may not have heard. `_for_reading`: which rows it is being told to be for
    reading, and `_late`: which it may hear late to be that."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._rows: dict[Key, int] = {}
        self._kept: dict[int, tuple[int, int]] = {}
        self._idle: dict[int, None] = {}
        self._promised_version: Callable[[int], int] = lambda ino: 0
        self._locks_here: Callable[[], set[int]] = set
        self.for_writing = WritingRows()
        self._claimed: dict[int, Key] = {}
        self._telling: set[Key] = set()
        self._unheard: dict[Key, int] = {}
        self._for_reading, self._late = set[Key](), set[Key]()
        self._hurry = threading.Event()

    def keep_while(self, promised_version: Callable[[int], int]) -> None:
        """Rows are kept while `promised_version(inode number)` is theirs; that it has ended is told to
        `promise_ended`."""
        self._promised_version = promised_version

    def write_while(self, locks_here: Callable[[], set[int]]) -> None:
        """Kept rows stay for writing while their inodes are among `locks_here()`."""
        self._locks_here = locks_here

    def wait(self, stopping: threading.Event, least_s: float, most_s: float) -> bool:
        """Until there are so many that the directory should hear of them soon, as each version of a file that is open
        anywhere costs it something with each commit of that file; at least and at most for so long. False: it is
        `stopping`, which `hurry` follows."""
        if not stopping.wait(least_s) and least_s < most_s:
            self._hurry.wait(most_s - least_s)
        self._hurry.clear()
        return not stopping.is_set()

    def hurry(self) -> None:
        self._hurry.set()

    def promise_ended(self, ino: int) -> None:
        """Of an inode, or EVERYTHING."""
        self.for_writing.promise_ended(ino)
        with self._mutex:
            for each in list(self._kept) if ino == EVERYTHING else [ino]:
                version, opening = self._kept.pop(each, (0, 0))
                if opening:
                    self._close((each, version), opening)

    def add(self, ino: int, version: int, opening: int) -> None:
        with self._mutex:
            if version and self._promised_version(ino) == version:
                self._keep(ino, version, opening)
            else:
                self._close((ino, version), opening)

    def _close(self, key: Key, opening: int) -> None:
        self.for_writing.end(*key)
        _note(self._rows, key, opening)
        if len(self._rows) >= _MANY:
            self._hurry.set()

    def _keep(self, ino: int, version: int, opening: int) -> None:
        former, latest = self._kept.get(ino, (version, 0))
        if former != version:
            self._close((ino, former), latest)
            latest = 0
        self._kept[ino] = version, max(opening, latest)
        self._idle[ino] = None

    def claim(self, ino: int, version: int, kept: bool = True, writing: bool = False) -> int:
        """The number of a row that is needed again, until `settle`; 0 where it is not here. With `kept` also of one
        that is kept, and without only of one that is to be for writing; with `writing` only of one that is so."""
        with self._mutex:
            if writing and not self.for_writing.has(ino, version):
                return 0
            if not kept and ((ino, version) in self._for_reading or (ino, version) in self._late):
                return 0
            opening = self._rows.pop((ino, version), 0) or (self._take_kept(ino, version) if kept else 0)
            if opening:
                self._claimed[opening] = ino, version
            return opening

    def settle(self, opening: int, now: Key | None) -> None:
        """The open with this number, claimed or new, has the row `now`; None: it has failed. A claimed row that it does
        not have is given up again. What was closed of the row before has a smaller number, and is not told any more."""
        with self._mutex:
            claimed = self._claimed.pop(opening, None)
            if claimed is not None and claimed != now:
                self._close(claimed, opening)
            if now is not None:
                self._rows.pop(now, None)
                self._take_kept(*now)
                self._unheard.pop(now, None)
                self._telling.discard(now)

    def _take_kept(self, ino: int, version: int) -> int:
        """The number of the kept row; 0 where there is none of this version."""
        kept, opening = self._kept.get(ino, (0, 0))
        if not opening or kept != version:
            return 0
        del self._kept[ino]
        return opening

    def take(self) -> list[Closed]:
        """What to tell the directory now. One thread does, and calls `put_back` where it was not heard."""
        locks_here = self._locks_here()
        with self._mutex:
            # First what it may be hearing still: what waits for its turn can be claimed.
            keys = list(islice(dict.fromkeys([*self._unheard, *self._rows]), _TOLD_AT_ONCE))
            self._telling = set(keys)
            told = [Closed(*key, max(self._unheard.pop(key, 0), self._rows.pop(key, 0))) for key in keys]
            idle = self._take_idle(locks_here)
            self._for_reading, self._late = self._late.union((row.ino, row.version) for row in idle), set()
            return told + idle

    def _take_idle(self, locks_here: set[int]) -> list[Closed]:
        """Kept rows that may be for writing at the directory still."""
        idle = (ino for ino in self._idle if ino not in locks_here or not self._is_for_writing(ino))
        told = list(islice(idle, _TOLD_AT_ONCE))
        for ino in told:
            del self._idle[ino]
            self.for_writing.end(ino, self._kept.get(ino, (-1, 0))[0])
        if not self._idle:
            # A dictionary does not become smaller.
            self._idle = {}
        return [Closed(ino, *self._kept[ino], True) for ino in told if ino in self._kept]

    def _is_for_writing(self, ino: int) -> bool:
        return ino in self._kept and self.for_writing.has(ino, self._kept[ino][0])

    def put_back(self, closed: list[Closed]) -> None:
        """The directory may not have heard it. What has been opened anew meanwhile is needed again."""
        with self._mutex:
            self._idle.update((row.ino, None) for row in closed if row.kept)
            self._late.update((row.ino, row.version) for row in closed if row.kept)
            for row in closed:
                if (row.ino, row.version) in self._telling:
                    _note(self._unheard, (row.ino, row.version), row.opening)

    def forget(self) -> None:
        """The session has ended, and all its rows with it."""
        with self._mutex:
            self._rows.clear()
            self._kept.clear()
            self._unheard.clear()
            self._telling.clear()
            self._for_reading, self._late = set(), set()
        self.for_writing.forget()


def _note(rows: dict[Key, int], key: Key, opening: int) -> None:
    """The larger number counts."""
    rows[key] = max(opening, rows.get(key, 0))
