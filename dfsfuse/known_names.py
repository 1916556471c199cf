"""What is known of the names in folders: where each leads, or that it leads nowhere, and since when that is promised.

A name is known as of the moment at which it was asked for. It counts for as long as the folder is promised, if it was
promised with the answer; without a promise for a short hold, which is the caller's to judge. A folder that is promised
also has names that are not: while another client's change of one is under way, that one is told of no more.

Once all entries of a promised folder have been listed, a name that is not here is not there. What changes afterwards is
entered by its name, be it that nobody knows where it leads.

Where there is no more room names go, and the promise of their folder stays: of those that go the kernel may know, and
the directory still tells of them. A folder with more names than half of the room has for all loses its own, those that
came first; else they go with the folders that were not used of late.

Threads: those of attributes.py, which calls this under its mutex.
"""

import math
from collections.abc import Callable
from itertools import islice

import msgspec

ABSENT, UNKNOWN = 0, -1
"""In place of an inode number."""
_ABSENT_MAX = 1000
_NAMES, _INODE = 1, 2


class Known(msgspec.Struct, gc=False):
    """Where a name leads, as of when that was asked for; `promised`: it is so until the directory says otherwise."""

    ino: int
    asked_at: float
    promised: bool


_NOTHING = Known(UNKNOWN, 0.0, False)


class Folder:
    """Nothing that was asked for before `floor` is entered any more. `used`: since room was last made for
    _NAMES, and for its _INODE, which must not go while names are entered."""

    __slots__ = ("names", "promised_since", "complete", "floor", "absent", "used")

    def __init__(self, floor: float):
        self.names: dict[bytes, Known] = {}
        self.promised_since = math.inf
        self.complete = False
        self.floor = floor
        self.absent = self.used = 0

    def get(self, name: bytes) -> Known:
        self.used = _NAMES | _INODE
        known = self.names.get(name)
        if known is None:
            return Known(ABSENT, self.floor, True) if self.complete else _NOTHING
        if known.promised and known.asked_at < self.promised_since:
            return Known(known.ino, known.asked_at, False)
        return known

    def put(self, name: bytes, ino: int, asked_at: float, promised: bool) -> bool:
        """False: something newer is known of it."""
        if asked_at < max(self.floor, self.names.get(name, _NOTHING).asked_at):
            return False
        self._enter(name, asked_at, ino, promised)
        return True

    def changed(self, name: bytes, ino: int, asked_at: float, now: float) -> None:
        """A change of this client's that was asked for at `asked_at` has made it lead there, which is promised. If
        anything was learnt of it since, nobody knows which of the two is the newer."""
        learnt_at = max(self.floor, self.names.get(name, _NOTHING).asked_at)
        self._enter(name, now, ino if learnt_at < asked_at else UNKNOWN, True)

    def _enter(self, name: bytes, at: float, ino: int, promised: bool) -> None:
        self.absent += ino == ABSENT
        self.names[name] = Known(ino, at, promised)
        if self.absent > _ABSENT_MAX:
            self._forget_absent(at)

    def _forget_absent(self, now: float) -> None:
        """In a complete folder they are absent all the same; but they also said that older answers are void."""
        self.names = {name: known for name, known in self.names.items() if known.ino != ABSENT}
        self.floor, self.absent = now, 0

    def cut(self, count: int) -> None:
        """So many names go, those that came first. They also said that older answers are void."""
        for name in list(islice(self.names, count)):
            known = self.names.pop(name)
            self.floor = max(self.floor, known.asked_at)
            self.absent -= known.ino == ABSENT
            self.complete = False


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
        known.used |= _INODE
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
        """All its entries have been put since then, and each answer was promised; unless names went meanwhile."""
        known = self._folders.get(folder)
        if known is not None and max(floor, known.floor) < asked_at and known.promised_since <= asked_at:
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

    # -- room

    def was_used(self, folder: int) -> bool:
        """Since this was asked last."""
        known = self._folders.get(folder)
        if known is None or not known.used & _INODE:
            return False
        known.used &= ~_INODE
        return True

    def make_room(self, most: int, stays: Callable[[int], bool]) -> list[int]:
        """Where there are more names than `most` a tenth of the room is freed. Folders of which nothing else is known
        do not stay: they are returned."""
        gone: list[int] = []
        if self.count <= most:
            return gone
        aim = most * 9 // 10
        largest = max(self._folders.values(), key=lambda folder: len(folder.names))
        if len(largest.names) > most // 2:
            self._cut(largest, self.count - aim)
        for ino in [*self._folders, *self._folders] if self.count > aim else ():
            if self.count <= aim:
                break
            if ino in self._folders and self._is_left(ino):
                if stays(ino):
                    self._cut(self._folders[ino], self.count)
                else:
                    gone.append(ino)
                    self.forget(ino)
        return gone

    def _is_left(self, ino: int) -> bool:
        """Nobody has used it since room was made last; the others come last the next time."""
        folder = self._folders[ino]
        if not folder.used & _NAMES:
            return True
        folder.used &= ~_NAMES
        self._folders[ino] = self._folders.pop(ino)
        return False

    def _cut(self, folder: Folder, count: int) -> None:
        before = len(folder.names)
        folder.cut(count)
        self.count -= before - len(folder.names)

    def clear(self) -> None:
        self._folders.clear()
        self.count = 0
