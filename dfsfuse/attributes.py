"""Names and attributes that the client may use without asking: for `hold_s`, as long as there is no promise.

What is known is known as of the moment at which it was asked for. A change by this client makes all earlier knowledge
of what it touched void, also answers that are still under way.

Threads: one mutex around both tables; it is never held across a request.
"""

import threading
import time
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.messages import NAME_BYTES_MAX, Attributes

HOLD_S = 0.7
_ITEMS_MAX = 10_000

Place = tuple[int, tuple[bytes, ...]]
"""(base inode number, path below it)."""


class AttributeTable:
    """place -> (asked at, inode number) and inode number -> (asked at, attributes); 0 and None stand for "not
    known"."""

    def __init__(self, hold_s: float = HOLD_S, clock: Callable[[], float] = time.monotonic):
        self._hold_s, self._clock = hold_s, clock
        self._mutex = threading.Lock()
        self._inos: dict[Place, tuple[float, int]] = {}
        self._attributes: dict[int, tuple[float, Attributes | None]] = {}
        self._void_before = 0.0

    def now(self) -> float:
        """The time to give as `asked_at` to what is asked next."""
        return self._clock()

    def get(self, place: Place) -> Attributes | None:
        oldest = self._clock() - self._hold_s
        base, names = place
        with self._mutex:
            asked_at, ino = self._inos.get(place, (0.0, 0)) if names else (oldest, base)
            if not ino or asked_at < oldest:
                return None
            asked_at, attributes = self._attributes.get(ino, (0.0, None))
            return attributes if asked_at >= oldest else None

    def put(self, place: Place, attributes: Attributes, asked_at: float) -> None:
        """`asked_at` is when the request was sent: the answer is no younger than that."""
        with self._mutex:
            self._make_room()
            if asked_at < max(self._void_before, self._inos.get(place, (0.0, 0))[0]):
                return
            self._inos[place] = (asked_at, attributes.ino)
            self._put_inode(attributes, asked_at)

    def put_changed(self, attributes: Attributes) -> None:
        """What a change has just answered, whatever name leads to it. Who asked during the change may have been
        answered before it, so such an answer is void. So are the answers of two changes that arrive in another order
        than the directory's, where the older one comes last."""
        with self._mutex:
            self._make_room()
            known = self._attributes.get(attributes.ino, (0.0, None))[1]
            newest = known is None or _age(attributes) >= _age(known)
            self._attributes[attributes.ino] = (self._clock(), attributes if newest else None)

    def name_changed(self, place: Place, folder: Attributes, asked_at: float) -> None:
        """A change that was asked for at `asked_at` has made a name, and this is its folder since."""
        with self._mutex:
            self._make_room()
            known = self._is_unchanged(folder.ino, asked_at)
            self._forget(place)
            self._attributes[folder.ino] = (self._clock(), folder if known else None)

    def name_removed(self, place: Place, folder: Attributes, asked_at: float) -> None:
        """The same for a name that was removed. What it led to may have other names, so where that is not known,
        nothing is any more."""
        with self._mutex:
            self._make_room()
            known = self._is_unchanged(folder.ino, asked_at)
            if self._inos.get(place, (0.0, 0))[1]:
                self._forget(place)
            else:
                self._clear()
            self._attributes[folder.ino] = (self._clock(), folder if known else None)

    def _is_unchanged(self, ino: int, asked_at: float) -> bool:
        """Nothing was learnt of an inode since then. Otherwise nobody knows whether that is newer than the answer to
        what was asked then."""
        return max(self._void_before, self._attributes.get(ino, (0.0, None))[0]) < asked_at

    def learnt(self, place: Place, ino: int) -> float:
        """When it was asked for that this place leads to this inode; 0.0 where it is not known to."""
        with self._mutex:
            asked_at, known = self._inos.get(place, (0.0, 0)) if place[1] else (self._clock(), place[0])
            return asked_at if known == ino else 0.0

    def last(self, ino: int) -> Attributes | None:
        """What was last known of an inode, however long ago."""
        with self._mutex:
            return self._attributes.get(ino, (0.0, None))[1]

    def is_newest(self, attributes: Attributes) -> bool:
        """Nothing was learnt of the inode since these were put here."""
        with self._mutex:
            return self._attributes.get(attributes.ino, (0.0, None))[1] is attributes

    def _put_inode(self, attributes: Attributes, asked_at: float) -> None:
        if asked_at >= max(self._void_before, self._attributes.get(attributes.ino, (0.0, None))[0]):
            self._attributes[attributes.ino] = (asked_at, attributes)

    def forget_place(self, place: Place) -> None:
        """A name was made, removed or replaced: it and its folder's attributes are no longer known."""
        with self._mutex:
            self._make_room()
            self._forget(place)
            if place[1]:
                self._forget((place[0], place[1][:-1]))

    def forget_removed(self, place: Place) -> None:
        """A name was removed. What it led to may have other names, so where that is not known, nothing is any more."""
        with self._mutex:
            self._make_room()
            if self._inos.get(place, (0.0, 0))[1]:
                self._forget(place)
                self._forget((place[0], place[1][:-1]))
            else:
                self._clear()

    def _forget(self, place: Place) -> None:
        now = self._clock()
        ino = self._inos.get(place, (0.0, 0))[1] if place[1] else place[0]
        self._inos[place] = (now, 0) if place[1] else (now, ino)
        if ino:
            self._attributes[ino] = (now, None)

    def forget_ino(self, ino: int) -> None:
        with self._mutex:
            self._make_room()
            self._attributes[ino] = (self._clock(), None)

    def forget_all(self) -> None:
        """A folder may have moved: no place is known any more."""
        with self._mutex:
            self._clear()

    def _clear(self) -> None:
        self._void_before = self._clock()
        self._inos.clear()
        self._attributes.clear()

    def _make_room(self) -> None:
        """Before anything is entered, be it that something is not known. What is dropped is as old as what nobody may
        use any more; but it also said that older answers are void, which they go on being."""
        if max(len(self._inos), len(self._attributes)) < _ITEMS_MAX:
            return
        oldest = self._clock() - self._hold_s
        self._inos = {place: held for place, held in self._inos.items() if held[0] >= oldest}
        self._attributes = {ino: held for ino, held in self._attributes.items() if held[0] >= oldest}
        self._void_before = max(self._void_before, oldest)
        if max(len(self._inos), len(self._attributes)) >= _ITEMS_MAX:
            self._clear()


def _age(attributes: Attributes) -> tuple[int, int]:
    """A commit of what was written before another change does not move ctime."""
    return attributes.ctime_ns, attributes.version


def check_names(place: Place) -> None:
    """Raises NameTooLong."""
    for name in place[1]:
        if len(name) > NAME_BYTES_MAX:
            raise errors.NameTooLong(f"a name of {len(name)} bytes; at most {NAME_BYTES_MAX} are possible")
