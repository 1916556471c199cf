"""What was asked for by a path as a whole: to which inode it leads, as of when that was asked for.

It counts for a short hold alone, as a folder on the way may move.

Threads: those of attributes.py, which calls this under its mutex.
"""

from dfsfuse.known_names import UNKNOWN
from dfsfuse.places import Place

_NEVER = UNKNOWN, 0.0


class Paths:
    def __init__(self) -> None:
        self._known: dict[Place, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, place: Place) -> tuple[int, float]:
        """(the inode's number or UNKNOWN, when it was asked for)."""
        return self._known.get(place, _NEVER)

    def put(self, place: Place, ino: int, asked_at: float, void_before: float) -> bool:
        """False: something newer is known."""
        if asked_at < max(void_before, self.get(place)[1]):
            return False
        self._known[place] = ino, asked_at
        return True

    def forget(self, place: Place, now: float) -> None:
        """What was asked for before is void."""
        if len(place[1]) > 1:
            self._known[place] = UNKNOWN, now

    def clear(self) -> None:
        """They also say that older answers are void, which the caller is to see to."""
        self._known.clear()
