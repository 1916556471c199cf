"""What has changed in a content since a moment: bytes that were written, and holes that were punched. Pure.

    written   byte ranges whose content is in the cache's file, and is to be sent
    punched   byte ranges, whole blocks of HOLE_BYTES, that are zeros and are to be stored nowhere
    ahead     of `written`, what is being sent before it is asked for, and has not changed since

No byte is in both of the first two. What is in neither is as it was.

Where content begins and ends is known to the block, as on a local disk: a write of one byte makes its block content.
"""

from collections.abc import Iterable
from typing import NamedTuple

from dfsfuse.chunks import HOLE, Entry, Ranges, by_entry, spans

HOLE_BYTES = 4096
"""The block in which holes are known."""


class EntryChanges(NamedTuple):
    """The changes of one manifest entry, in its offsets."""

    written: list[tuple[int, int]]
    punched: list[tuple[int, int]]


class Changes:
    """Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self.written, self.punched, self.ahead = Ranges(), Ranges(), Ranges()

    def __bool__(self) -> bool:
        return bool(self.written) or bool(self.punched)

    def write(self, start: int, end: int) -> None:
        """A block that was punched and is written in part is content as a whole: zeros, and what was written."""
        self.written.add(start, end)
        if self.ahead:
            self.ahead.remove(start, end)
        if self.punched and start < end:
            first, last = whole_blocks(start, end)
            for filled in self.punched.within(first, last):
                self.written.add(*filled)
            self.punched.remove(first, last)

    def punch(self, start: int, end: int) -> None:
        """Both at borders of blocks, or `end` at the end of the content."""
        self.punched.add(start, end)
        self.written.remove(start, end)
        self.ahead.remove(start, end)

    def cut(self, size: int) -> None:
        self.written.cut(size)
        self.punched.cut(size)
        self.ahead.cut(size)

    def followed_by(self, later: "Changes") -> "Changes":
        """Both as one: what came later counts."""
        both = Changes()
        for step in (self, later):
            for start, end in step.punched:
                both.punch(start, end)
            for start, end in step.written:
                both.write(start, end)
        return both

    def by_entry(self) -> dict[int, EntryChanges]:
        found: dict[int, EntryChanges] = {}
        for kind, ranges in enumerate((self.written, self.punched)):
            for start, end in ranges:
                for index, first, last in by_entry(start, end):
                    found.setdefault(index, EntryChanges([], []))[kind].append((first, last))
        return found

    def of_entry(self, start: int, end: int) -> EntryChanges:
        """Those of the entry that is [start, end) of the content."""
        written, punched = (
            [(first - start, last - start) for first, last in ranges.within(start, end)]
            for ranges in (self.written, self.punched)
        )
        return EntryChanges(written, punched)


def data_of(entry: Entry, steps: Iterable[EntryChanges], length: int) -> Ranges:
    """Where an entry of `length` bytes is no hole, to the block, after these changes, one upon the other."""
    data = Ranges((span.offset, span.offset + span.length) for span in spans(entry) if span.chunk != HOLE)
    for step in steps:
        for first, last in step.punched:
            data.remove(first, last)
        for first, last in step.written:
            data.add(first, last)
    return Ranges(whole_blocks(first, last, length) for first, last in data)


def whole_blocks(start: int, end: int, length: int = 1 << 63) -> tuple[int, int]:
    """The range with the rest of its first and last block, up to `length`."""
    return start // HOLE_BYTES * HOLE_BYTES, min(-(-end // HOLE_BYTES) * HOLE_BYTES, length)


def blocks_within(start: int, end: int, size: int) -> tuple[int, int]:
    """The whole blocks within a range; the last one of the content ends with it. Empty where the first is not less."""
    return -(-start // HOLE_BYTES) * HOLE_BYTES, end if end >= size else end // HOLE_BYTES * HOLE_BYTES
