"""Content as chunks: names, pieces, and the arithmetic between file offsets and manifest entries. Pure.

A file's content is a list of manifest entries; entry `i` covers the bytes [i * ENTRY_BYTES, (i + 1) * ENTRY_BYTES) of
the file. An entry is a list of pieces, later over earlier; bytes that no piece covers are zero. A piece lays the first
`length` bytes of a chunk at `offset` of its entry; the piece with chunk HOLE lays zeros. Fresh content is one piece.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

import msgspec
from blake3 import blake3

ENTRY_BYTES = 4 << 20
"""Bytes of a file that one manifest entry covers; also the largest chunk."""
BLOCK_BYTES = 64 << 10
"""The unit in which a change is widened before it is uploaded."""
PIECES_MAX = 16
"""An entry with more pieces than this is written again as one chunk."""
NAME_BYTES = 32
HOLE = b""
"""The reserved chunk name for zeros; never stored, never fetched."""


class Piece(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`length` bytes from the start of `chunk`, laid at `offset` of the entry."""

    chunk: bytes
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


Entry = list[Piece]
"""One manifest entry: 0 to PIECES_MAX pieces."""


class Span(msgspec.Struct, frozen=True, gc=False):
    """What is visible at [offset, offset + length) of an entry: bytes of `chunk` from `start`, or zeros for HOLE."""

    chunk: bytes
    start: int
    offset: int
    length: int


def chunk_name(data: bytes | bytearray | memoryview) -> bytes:
    """The 32-byte BLAKE3 name of a chunk."""
    return blake3(data).digest()


def entry_count(size: int) -> int:
    """How many manifest entries a file of `size` bytes has."""
    return -(-size // ENTRY_BYTES)


def entry_length(index: int, size: int) -> int:
    """How many bytes of a file of `size` bytes lie in entry `index`."""
    return max(0, min(ENTRY_BYTES, size - index * ENTRY_BYTES))


def entries_in(start: int, end: int) -> tuple[int, int]:
    """[first, last) of the entries that the file range [start, end) touches."""
    return start // ENTRY_BYTES, -(-end // ENTRY_BYTES) if start < end else start // ENTRY_BYTES


def by_entry(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The file range [start, end) cut at entry borders: (index, start in entry, end in entry)."""
    while start < end:
        index, offset = divmod(start, ENTRY_BYTES)
        stop = min(end - index * ENTRY_BYTES, ENTRY_BYTES)
        yield index, offset, stop
        start = index * ENTRY_BYTES + stop


def clip(entry: Entry, length: int) -> Entry:
    """The entry of a file that was truncated to `length` bytes of this entry."""
    kept = (Piece(p.chunk, p.offset, min(p.length, length - p.offset)) for p in entry if p.offset < length)
    return [piece for piece in kept if piece.length]


def lay(entry: Entry, piece: Piece) -> Entry:
    """The entry with `piece` over it; pieces that it hides whole are dropped."""
    kept = [p for p in entry if not (piece.offset <= p.offset and p.end <= piece.end)]
    return [*kept, piece]


def punch(entry: Entry, first: int, last: int) -> Entry:
    """The entry with zeros that are stored nowhere at [first, last)."""
    kept: Entry = []
    for piece in entry:
        if piece.offset < first < piece.end <= last:
            kept.append(Piece(piece.chunk, piece.offset, first - piece.offset))
        elif not (first <= piece.offset and piece.end <= last):
            kept.append(piece)
    if any(piece.offset < last and piece.end > first for piece in kept):
        kept.append(Piece(HOLE, first, last - first))
    return kept if any(piece.chunk != HOLE for piece in kept) else []


def spans(entry: Entry) -> list[Span]:
    """The visible parts of the entry's pieces, in order of offset; what lies between them is zero."""
    visible: list[Span] = []
    for piece in entry:
        visible = [part for span in visible for part in _outside(span, piece.offset, piece.end)]
        visible.append(Span(piece.chunk, 0, piece.offset, piece.length))
    return sorted(visible, key=lambda span: span.offset)


def _outside(span: Span, start: int, end: int) -> Iterator[Span]:
    """The parts of `span` before `start` and from `end` on."""
    stop = span.offset + span.length
    if span.offset < start:
        yield Span(span.chunk, span.start, span.offset, min(stop, start) - span.offset)
    if stop > end:
        first = max(span.offset, end)
        yield Span(span.chunk, span.start + first - span.offset, first, stop - first)


def widen(start: int, end: int, length: int) -> tuple[int, int]:
    """The dirty range [start, end) of an entry of `length` bytes widened to its block, if it lies in one.

    A range that crosses a block border stays as it is: so a change of N <= BLOCK_BYTES bytes uploads at most
    BLOCK_BYTES, and appended bytes replace the piece that held the earlier part of their block.
    """
    block = start // BLOCK_BYTES * BLOCK_BYTES
    if end - block > BLOCK_BYTES:
        return start, end
    return block, min(block + BLOCK_BYTES, max(length, end))


def chunks_of(entries: Iterable[Entry]) -> set[bytes]:
    """The names of all stored chunks that these entries use."""
    return {piece.chunk for entry in entries for piece in entry if piece.chunk != HOLE}


def stored_bytes(entries: Iterable[Entry]) -> int:
    """How many bytes of a file with these entries come from chunks; what else it has is holes."""
    return sum(_stored_bytes(entry) for entry in entries)


def is_solid(entry: Entry, length: int) -> bool:
    """Does one chunk fill the entry of `length` bytes, so that laying it down leaves nothing of what was there?"""
    return len(entry) == 1 and entry[0].offset == 0 and entry[0].length == length and entry[0].chunk != HOLE


def _stored_bytes(entry: Entry) -> int:
    if len(entry) == 1:
        return entry[0].length if entry[0].chunk != HOLE else 0
    return sum(span.length for span in spans(entry) if span.chunk != HOLE)


class Ranges:
    """A set of numbers, of bytes or of entries, as ranges [start, end), kept sorted and apart. Not thread-safe: its
    owner locks."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()):
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranges):
            return NotImplemented
        return (self._starts, self._ends) == (other._starts, other._ends)

    __hash__ = None

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"

    def add(self, start: int, end: int) -> None:
        """Add [start, end); ranges that touch become one."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        after = bisect_right(self._starts, end)
        if first < after:
            start = min(start, self._starts[first])
            end = max(end, self._ends[after - 1])
        self._starts[first:after] = [start]
        self._ends[first:after] = [end]

    def remove(self, start: int, end: int) -> None:
        """Take [start, end) away."""
        first, after = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if start >= end or first >= after:
            return
        rest = [(self._starts[first], start), (end, self._ends[after - 1])]
        rest = [(left, right) for left, right in rest if left < right]
        self._starts[first:after] = [left for left, _ in rest]
        self._ends[first:after] = [right for _, right in rest]

    def within(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of it lies in [start, end)."""
        first, after = bisect_right(self._ends, start), bisect_left(self._starts, end)
        return [(max(self._starts[i], start), min(self._ends[i], end)) for i in range(first, after)]

    def covers(self, start: int, end: int) -> bool:
        """Is all of [start, end) in it?"""
        at = bisect_right(self._starts, start) - 1
        return start >= end or (at >= 0 and end <= self._ends[at])

    def following(self, start: int) -> int | None:
        """The first number from `start` on that is in it."""
        at = bisect_right(self._ends, start)
        return max(start, self._starts[at]) if at < len(self._starts) else None

    def cut(self, length: int) -> None:
        """Forget everything from `length` on."""
        kept = [(start, min(end, length)) for start, end in self if start < length]
        self._starts = [start for start, _ in kept]
        self._ends = [end for _, end in kept]

    def total(self) -> int:
        """How many numbers are in it."""
        return sum(self._ends) - sum(self._starts)
