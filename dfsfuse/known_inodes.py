"""What is known of inodes: their attributes, as of when they were asked for, and until when what was asked for is void.

Threads: those of attributes.py, which calls this under its mutex.
"""

import itertools

import msgspec

from dfsfuse.messages import Attributes
from dfsfuse.read_times import ReadTimes

_BROKEN_MAX = 10_000


class Inodes:
    """inode number -> (asked at, attributes), None where they are not known. `reads`: what was read here, and the
    directory does not know yet. `void_before`: nothing that was asked for earlier counts, of any inode."""

    def __init__(self, reads: ReadTimes):
        self._reads = reads
        self._known: dict[int, tuple[float, Attributes | None]] = {}
        self._broken: dict[int, float] = {}
        self.void_before = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, ino: int) -> tuple[float, Attributes | None]:
        return self._known.get(ino, (0.0, None))

    # -- answers

    def put(self, attributes: Attributes, asked_at: float, floor: float) -> None:
        """Of what was asked for until `floor` nothing counts."""
        ino = attributes.ino
        if asked_at > floor and asked_at >= self.get(ino)[0]:
            self._known[ino] = asked_at, self._reads.applied(attributes)

    def changed(self, attributes: Attributes, asked_at: float, now: float, floor: float) -> None:
        """What a change by this client has answered, as `AttributeTable.put_changed`."""
        known = self.get(attributes.ino)[1]
        newest = known is None or _age(attributes) >= _age(known)
        if attributes.promised and asked_at <= floor:
            attributes = msgspec.structs.replace(attributes, promised=False)
        self._known[attributes.ino] = now, self._reads.applied(attributes) if newest else None

    def changed_with(self, attributes: Attributes, asked_at: float, now: float, floor: float) -> None:
        """What a change of something else has made of it. Where anything was learnt since, nobody knows which of the
        two is the newer."""
        unchanged = max(floor, self.get(attributes.ino)[0]) < asked_at
        self._known[attributes.ino] = now, attributes if unchanged else None

    def read_at(self, attributes: Attributes, atime_ns: int) -> Attributes:
        """With that atime, which is known from now on if `attributes` are what is."""
        moved = msgspec.structs.replace(attributes, atime_ns=atime_ns)
        asked_at, known = self.get(attributes.ino)
        if known is attributes:
            self._known[attributes.ino] = asked_at, moved
        return moved

    # -- forgetting

    def forget(self, ino: int, now: float) -> None:
        """What was asked for before is void."""
        self._known[ino] = now, None

    def broken(self, ino: int, now: float) -> None:
        """No answer of before promises anything, of the inode or of what is in it."""
        self._broken[ino] = now
        if len(self._broken) > _BROKEN_MAX:
            self._broken.clear()
            self.void_before = now

    def floor(self, ino: int) -> float:
        return max(self.void_before, self._broken.get(ino, 0.0))

    def oldest(self, count: int) -> list[int]:
        """Those that were entered first."""
        return list(itertools.islice(self._known, count))

    def pop(self, ino: int) -> None:
        self._known.pop(ino, None)

    def clear(self, now: float) -> None:
        self.void_before = now
        self._known.clear()
        self._broken.clear()


def _age(attributes: Attributes) -> tuple[int, int]:
    """A commit of what was written before another change does not move ctime."""
    return attributes.ctime_ns, attributes.version
