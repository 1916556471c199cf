"""Byte ranges that programs lock (fcntl and flock): what they are, their arithmetic, and who has them. Pure.

A range is [start, end). What one owner has locked of a file is a list of ranges in order, apart, and merged where two
of the same type touch, as POSIX says. A flock covers the whole file.
"""

from bisect import bisect_left, bisect_right
from typing import Literal

from dfsfuse.messages.base import Message

RANGE_END = 1 << 63
"""The end of a range without an end."""

Kind = Literal["posix", "ofd", "flock"]
"""fcntl locks of a process, fcntl locks of an open file description, and flock. The first two exclude each other; flock
knows nothing of them, nor they of it. Only waits of POSIX locks are searched for circles."""

Range = tuple[int, int, bool]
"""(start, end, whether for writing)."""


class HeldRanges(Message, kw_only=True):
    """All that one owner has locked of one file. The rest tells other users who it is."""

    ino: int
    owner: int
    kind: Kind = "posix"
    ranges: list[Range] = []
    path: bytes = b""
    pid: int = 0
    command: str = ""


class RangeHolder(Message, kw_only=True):
    """Who has locked ranges of a file, and since when."""

    session: int
    kind: Kind
    ranges: list[Range]
    host: str
    pid: int
    command: str
    held_s: float


class RangeWaiter(Message, kw_only=True):
    """Who waits for a range of a file, and for how long already."""

    session: int
    kind: Kind
    range: Range
    host: str
    pid: int
    command: str
    waited_s: float


class RangeRow(Message, kw_only=True):
    """A file of which ranges are locked; those who wait are in the order in which they came."""

    ino: int
    path: bytes
    holders: list[RangeHolder] = []
    waiters: list[RangeWaiter] = []


def with_lock(ranges: list[Range], start: int, end: int, write: bool | None) -> list[Range]:
    """The ranges after [start, end) was locked, or with `write` None unlocked."""
    first = bisect_right(ranges, start, key=_end)
    after = bisect_left(ranges, end, key=_start)
    middle: list[Range] = [] if write is None else [(start, end, write)]
    if first < after:
        left, right = ranges[first], ranges[after - 1]
        middle = [*_part(left[0], start, left[2]), *middle, *_part(end, right[1], right[2])]
    return _merged([*ranges[:first], *middle, *ranges[after:]], max(first - 1, 0), first + len(middle) + 1)


def _part(start: int, end: int, write: bool) -> list[Range]:
    return [(start, end, write)] if start < end else []


def _merged(ranges: list[Range], first: int, after: int) -> list[Range]:
    """Neighbours of the same type that touch become one; only ranges[first:after] can have come to touch."""
    merged: list[Range] = []
    for start, end, write in ranges[first:after]:
        if merged and merged[-1][1] == start and merged[-1][2] == write:
            start = merged.pop()[0]
        merged.append((start, end, write))
    return [*ranges[:first], *merged, *ranges[after:]]


def conflict(ranges: list[Range], start: int, end: int, write: bool) -> Range | None:
    """The first of another owner's ranges that does not allow this lock."""
    for index in range(bisect_right(ranges, start, key=_end), bisect_left(ranges, end, key=_start)):
        if write or ranges[index][2]:
            return ranges[index]
    return None


def covers(ranges: list[Range], others: list[Range]) -> bool:
    """Whether `ranges` has locked all of `others`, and for writing what these have for writing."""
    left = others
    for start, end, write in ranges:
        for other in [other for other in left if write or not other[2]]:
            left = with_lock(left, max(start, other[0]), max(start, other[0], min(end, other[1])), None)
    return not left


def _start(one: Range) -> int:
    return one[0]


def _end(one: Range) -> int:
    return one[1]
