"""What is known of the names in folders: where each leads, or that it leads nowhere, and since when that is promised.

A name is known as of the moment at which it was asked for. It counts for as long as the folder is promised, if it was
promised with the answer; without a promise for a short hold, which is the caller's to judge. A folder that is promised
also has names that are not: while another client's change of one is under way, that one is told of no more.

Once all entries of a promised folder have been listed, a name that is not here is not there. What changes afterwards is
entered by its name, be it that nobody knows where it leads.

Threads: those of attributes.py, which calls this under its mutex.
"""

import math
from typing import NamedTuple

ABSENT, UNKNOWN = 0, -1
"""In place of an inode number."""
_ABSENT_MAX = 1000


class Known(NamedTuple):
    """Where a name leads, as of when that was asked for; `promised`: it is so until the directory says otherwise."""

    ino: int
    asked_at: float
    promised: bool


_NOTHING = Known(UNKNOWN, 0.0, False)
_NEVER = 0.0, UNKNOWN, False


class Folder:
    """`names`: name -> (asked at, inode number, promised). Nothing that was asked for before `floor` is entered any
    more."""

    __slots__ = ("names", "promised_since", "complete", "floor", "absent")

    def __init__(self, floor: float):
        self.names: dict[bytes, tuple[float, int, bool]] = {}
        self.promised_since = math.inf
        self.complete = False
        self.floor = floor
        self.absent = 0

    def get(self, name: bytes) -> Known:
        asked_at, ino, promised = self.names.get(name, _NEVER)
        if not asked_at:
            return Known(ABSENT, self.floor, True) if self.complete else _NOTHING
        return Known(ino, asked_at, promised and asked_at >= self.promised_since)

    def put(self, name: bytes, ino: int, asked_at: float, promised: bool) -> bool:
        """False: something newer is known of it."""
        if asked_at < max(self.floor, self.names.get(name, _NEVER)[0]):
            return False
        self._enter(name, asked_at, ino, promised)
        return True

    def changed(self, name: bytes, ino: int, asked_at: float, now: float) -> None:
        """A change of this client's that was asked for at `asked_at` has made it lead there, which is promised. If
        anything was learnt of it since, nobody knows which of the two is the newer."""
        learnt_at = max(self.floor, self.names.get(name, _NEVER)[0])
        self._enter(name, now, ino if learnt_at < asked_at else UNKNOWN, True)

    def _enter(self, name: bytes, at: float, ino: int, promised: bool) -> None:
        self.absent += ino == ABSENT
        self.names[name] = at, ino, promised
        if self.absent > _ABSENT_MAX:
            self._forget_absent(at)

    def _forget_absent(self, now: float) -> None:
        """In a complete folder they are absent all the same; but they also said that older answers are void."""
        self.names = {name: known for name, known in self.names.items() if known[1] != ABSENT}
        self.floor, self.absent = now, 0


class Names:
    """All folders. What was asked for at or before the floor that the caller gives is void."""

    def __init__(self) -> None:
        self._folders: dict[int, Folder] = {}
        self.count = 0

    def get(self, folder: int, name: bytes) -> Known:
        known = self._folders.get(folder)
        return known.get(name) if known is not None else _NOTHING

    def put(self, folder: int, name: bytes, ino: int, asked_at: float, floor: float, promised: bool) -> bool:
        """False: something newer is known."""
        if asked_at <= floor:
            return False
        known = self._folder(folder, floor)
        before = len(known.names)
        entered = known.put(name, ino, asked_at, promised)
        self.count += len(known.names) - before
        return entered

    def changed(self, folder: int, name: bytes, ino: int, asked_at: float, now: float, promised: bool) -> None:
        """As `Folder.changed`. Without a promise another client may have changed it since: the next one to ask wants no
        older answer."""
        known = self._folder(folder, 0.0)
        before = len(known.names)
        known.changed(name, ino if promised and known.promised_since < math.inf else UNKNOWN, asked_at, now)
        self.count += len(known.names) - before

    def promised(self, folder: int, asked_at: float, floor: float) -> None:
        if asked_at > floor:
            known = self._folder(folder, floor)
            known.promised_since = min(known.promised_since, asked_at)

    def listed(self, folder: int, asked_at: float, floor: float) -> None:
        """All its entries have been put since then, and each answer was promised."""
        known = self._folders.get(folder)
        if known is not None and floor < asked_at and known.promised_since <= asked_at:
            known.complete = True

    def made(self, folder: int, asked_at: float, floor: float) -> None:
        """It is new, promised, and empty."""
        if asked_at > floor:
            known = self._folder(folder, floor)
            known.promised_since, known.complete = asked_at, True

    def _folder(self, ino: int, floor: float) -> Folder:
        known = self._folders.get(ino)
        if known is None:
            known = self._folders[ino] = Folder(floor)
        return known

    def forget(self, folder: int) -> None:
        known = self._folders.pop(folder, None)
        self.count -= len(known.names) if known is not None else 0

    def surplus(self, most: int) -> list[int]:
        """The folders that were known first, so many that a tenth of the room is free without them; none where there is
        room."""
        gone, left = [], self.count
        for ino, folder in self._folders.items() if left > most else ():
            gone.append(ino)
            left -= len(folder.names)
            if left <= most * 9 // 10:
                break
        return gone

    def clear(self) -> None:
        self._folders.clear()
        self.count = 0
