"""Changes of this client that are under way: what each touches, and since when. Pure.

The directory does not call back about a client's own changes, and others see a change as soon as it is made. So from
when a change is asked for until it is answered, nothing that it touches is promised. It is known as of when the change
began, as it was promised until then, or as of a later answer.

What is touched is named as in `Broken`: (inode number, b"") or (folder, name); with EVERYTHING in place of the inode or
folder where nobody here knows which one that is.

Threads: those of attributes.py, which calls this under its mutex.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from dfsfuse.known_names import ABSENT
from dfsfuse.messages import EVERYTHING
from dfsfuse.places import Place

Touched = tuple[int, bytes]
InoAt = Callable[[Place], tuple[int, bool]]
"""(the inode at a place, or ABSENT or UNKNOWN; whether that is promised)."""


class UnderWay:
    def __init__(self) -> None:
        self._since: dict[Touched, float] = {}
        self._changes: Counter[Touched] = Counter()

    def begin(self, places: tuple[Place, ...], made: Place | None, ino_at: InoAt, now: float) -> list[Touched]:
        """A change of what is at these places, and of the name at `made`, where nothing is before."""
        each = [touch for place in places for touch in (*_names_at(place, ino_at), *_inode_at(place, ino_at))]
        touched = list(dict.fromkeys([*each, *(_names_at(made, ino_at) if made is not None else ())]))
        self._changes.update(touched)
        for touch in touched:
            self._since.setdefault(touch, now)
        return touched

    def end(self, touched: list[Touched]) -> list[Touched]:
        """The names that other changes touch still: nobody knows which one was made last. (Attributes have ctime.)"""
        self._changes.subtract(touched)
        for touch in touched:
            if not self._changes[touch]:
                del self._changes[touch], self._since[touch]
        return [(ino, name) for ino, name in touched if name and ino != EVERYTHING and (ino, name) in self._since]

    def since(self, ino: int, name: bytes = b"") -> float | None:
        """None: no change touches it."""
        if not self._since:
            return None
        found = [self._since[touch] for touch in ((ino, name), (EVERYTHING, name)) if touch in self._since]
        return min(found, default=None)


def _names_at(place: Place, ino_at: InoAt) -> Iterator[Touched]:
    """The name, and the folder that has it."""
    base, names = place
    if names:
        folder, promised = ino_at((base, names[:-1]))
        folder = folder if promised and folder > 0 else EVERYTHING
        yield from ((folder, names[-1]), (folder, b""))


def _inode_at(place: Place, ino_at: InoAt) -> Iterator[Touched]:
    ino, promised = ino_at(place)
    if not promised or ino != ABSENT:
        yield ino if promised and ino > 0 else EVERYTHING, b""
