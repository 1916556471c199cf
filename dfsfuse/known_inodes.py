"""What is known of inodes: their attributes, as of when they were asked for, and until when what was asked for is void.

Where there is no more room those go that nobody has used for longest, as counted by how often room was made. What was
only listed counts as not used for some of these turns, so that it does not drive out what programs come back to.

Threads: those of attributes.py, which calls this under its mutex.
"""

from collections import defaultdict
from collections.abc import Callable

import msgspec

from dfsfuse.messages import Attributes
from dfsfuse.read_times import ReadTimes

_BROKEN_MAX = 10_000
_LISTED_TURNS = 16
"""More turns than it takes to list a folder of 1.2 times the room, at a tenth of it for each."""
_SHARED_MAX = 1000


class Known(msgspec.Struct, gc=False):
    """Attributes, None where they are not known, as of when they were asked for. What was asked for before `learnt_at`
    is void: for the answer to a change that is later than when the change was asked for. `used` as `_turn` has
    it."""

    learnt_at: float
    asked_at: float
    attributes: Attributes | None
    used: int = 0


_NOTHING = Known(0.0, 0.0, None)


class Inodes:
    """`reads`: what was read here, and the directory does not know yet. `void_before`: nothing that was asked for
    earlier counts, of any inode."""

    def __init__(self, reads: ReadTimes):
        self._reads = reads
        self._known: dict[int, Known] = {}
        self._broken: dict[int, float] = {}
        self._shared: dict[int, int] = {}
        self._listed, self._asked, self._again = _turn(0)
        self.void_before = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, ino: int) -> bool:
        return ino in self._known

    def get(self, ino: int) -> Known:
        return self._known.get(ino, _NOTHING)

    def use(self, ino: int) -> Known:
        """As `get`, for a program."""
        known = self._known.get(ino, _NOTHING)
        known.used = self._again
        return known

    # -- answers

    def put(self, attributes: Attributes, asked_at: float, floor: float, uses: bool = True) -> None:
        """Of what was asked for until `floor` nothing counts. A program `uses` it."""
        if asked_at > floor and asked_at >= self.get(attributes.ino).learnt_at:
            used = self._asked if uses else self._listed
            self._enter(attributes.ino, asked_at, asked_at, self._reads.applied(attributes), used)

    def changed(self, attributes: Attributes, asked_at: float, now: float, floor: float) -> None:
        """What a change by this client has answered, as `AttributeTable.put_changed`."""
        known = self.get(attributes.ino).attributes
        newest = known is None or _age(attributes) >= _age(known)
        if attributes.promised and asked_at <= floor:
            attributes = msgspec.structs.replace(attributes, promised=False)
        self._enter(attributes.ino, now, asked_at, self._reads.applied(attributes) if newest else None, self._asked)

    def changed_with(self, attributes: Attributes, asked_at: float, now: float, floor: float) -> None:
        """What a change of something else has made of it. Where anything was learnt since, nobody knows which of the
        two is the newer."""
        unchanged = max(floor, self.get(attributes.ino).learnt_at) < asked_at
        self._enter(attributes.ino, now, asked_at, attributes if unchanged else None, self._asked)

    def read_at(self, attributes: Attributes, atime_ns: int) -> Attributes:
        """With that atime, which is known from now on if `attributes` are what is."""
        moved = msgspec.structs.replace(attributes, atime_ns=atime_ns)
        known = self.get(attributes.ino)
        if known.attributes is attributes:
            known.attributes = moved
        return moved

    def _enter(self, ino: int, learnt_at: float, asked_at: float, attributes: Attributes | None, used: int) -> None:
        if attributes is not None:
            self._share_numbers(attributes)
        known = self._known.get(ino)
        if known is None:
            self._known[ino] = Known(learnt_at, asked_at, attributes, used)
        else:
            known.learnt_at, known.asked_at, known.attributes = learnt_at, asked_at, attributes
            known.used = max(known.used, used)

    def _share_numbers(self, attributes: Attributes) -> None:
        """Each number that is decoded takes 32 bytes, and most of them are those of other files too."""
        share = self._shared.setdefault
        attributes.mode = share(attributes.mode, attributes.mode)
        attributes.uid = share(attributes.uid, attributes.uid)
        attributes.gid = share(attributes.gid, attributes.gid)
        if attributes.allocated_bytes == attributes.size:
            attributes.allocated_bytes = attributes.size
        if attributes.ctime_ns == attributes.mtime_ns:
            attributes.ctime_ns = attributes.mtime_ns
        if attributes.atime_ns == attributes.mtime_ns:
            attributes.atime_ns = attributes.mtime_ns
        if len(self._shared) > _SHARED_MAX:
            self._shared.clear()

    # -- forgetting

    def forget(self, ino: int, now: float) -> None:
        """What was asked for before is void."""
        self._enter(ino, now, now, None, self._listed)

    def broken(self, ino: int, now: float) -> None:
        """No answer of before promises anything, of the inode or of what is in it."""
        self._broken[ino] = now
        if len(self._broken) > _BROKEN_MAX:
            self._broken.clear()
            self.void_before = now

    def floor(self, ino: int) -> float:
        return max(self.void_before, self._broken.get(ino, 0.0))

    def make_room(self, count: int, was_used: Callable[[int], bool]) -> list[int]:
        """So many go, and are returned. `was_used(ino)`: what is in it was, since this was asked last."""
        self._listed, self._asked, self._again = _turn(self._again + 1)
        by_use: defaultdict[int, list[int]] = defaultdict(list)
        for ino, known in self._known.items():
            by_use[known.used].append(ino)
        gone: list[int] = []
        for ino in (ino for used in sorted(by_use) for ino in by_use[used]):
            if len(gone) == count:
                break
            if was_used(ino):
                self._known[ino].used = self._asked
            else:
                del self._known[ino]
                gone.append(ino)
        return gone

    def pop(self, ino: int) -> None:
        self._known.pop(ino, None)

    def clear(self, now: float) -> None:
        self.void_before = now
        self._known.clear()
        self._broken.clear()


def _age(attributes: Attributes) -> tuple[int, int]:
    """A commit of what was written before another change does not move ctime."""
    return attributes.ctime_ns, attributes.version


def _turn(number: int) -> tuple[int, int, int]:
    """How recently used is what is listed in this turn, asked for, and used again. They are kept, so that all inodes
    share them."""
    return number - 2 * _LISTED_TURNS, number, number + 1
