"""What is known of inodes: their attributes, as of when they were asked for, and until when what was asked for is void.

Threads: those of attributes.py, which calls this under its mutex.
"""

import itertools
from typing import NamedTuple

import msgspec

from dfsfuse.messages import Attributes
from dfsfuse.read_times import ReadTimes

_BROKEN_MAX = 10_000


class Known(NamedTuple):
    """Attributes, None where they are not known, as of when they were asked for. What was asked for before `learnt_at`
    is void: for the answer to a change that is later than when the change was asked for."""

    learnt_at: float
    asked_at: float
    attributes: Attributes | None


_NOTHING = Known(0.0, 0.0, None)


class Inodes:
    """`reads`: what was read here, and the directory does not know yet. `void_before`: nothing that was asked for
    earlier counts, of any inode."""

    def __init__(self, reads: ReadTimes):
        self._reads = reads
        self._known: dict[int, Known] = {}
        self._broken: dict[int, float] = {}
        self.void_before = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, ino: int) -> Known:
        return self._known.get(ino, _NOTHING)

    # -- answers

    def put(self, attributes: Attributes, asked_at: float, floor: float) -> None:
        """Of what was asked for until `floor` nothing counts."""
        ino = attributes.ino
        if asked_at > floor and asked_at >= self.get(ino).learnt_at:
            self._known[ino] = Known(asked_at, asked_at, self._reads.applied(attributes))

    def changed(self, attributes: Attributes, asked_at: float, now: float, floor: float) -> None:
        """What a change by this client has answered, as `AttributeTable.put_changed`."""
        known = self.get(attributes.ino).attributes
        newest = known is None or _age(attributes) >= _age(known)
        if attributes.promised and asked_at <= floor:
            attributes = msgspec.structs.replace(attributes, promised=False)
        self._known[attributes.ino] = Known(now, asked_at, self._reads.applied(attributes) if newest else None)

    def changed_with(self, attributes: Attributes, asked_at: float, now: float, floor: float) -> None:
        """What a change of something else has made of it. Where anything was learnt since, nobody knows which of the
        two is the newer."""
        unchanged = max(floor, self.get(attributes.ino).learnt_at) < asked_at
        self._known[attributes.ino] = Known(now, asked_at, attributes if unchanged else None)

    def read_at(self, attributes: Attributes, atime_ns: int) -> Attributes:
        """With that atime, which is known from now on if `attributes` are what is."""
        moved = msgspec.structs.replace(attributes, atime_ns=atime_ns)
        known = self.get(attributes.ino)
        if known.attributes is attributes:
            self._known[attributes.ino] = known._replace(attributes=moved)
        return moved

    # -- forgetting

    def forget(self, ino: int, now: float) -> None:
        """What was asked for before is void."""
        self._known[ino] = Known(now, now, None)

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
