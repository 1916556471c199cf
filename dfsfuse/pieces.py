"""Which parts of a manifest entry are uploaded as chunks, and what is kept of it. Pure.

A small change is a piece over what is there, widened to its block. Where more has changed, the entry is made anew: a
piece for each stretch of content, so what lies between stays a hole. An entry has at most PIECES_MAX pieces: where
there are more stretches than that, the shortest holes between them are sent as zeros.
"""

from typing import NamedTuple

from dfsfuse import chunks
from dfsfuse.changes import EntryChanges, data_of, whole_blocks
from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES, NAME_BYTES, PIECES_MAX, Entry, Piece, Ranges

_UNKNOWN = b"?" * NAME_BYTES
"""Stands for the name of a chunk that is yet to be made."""


class Plan(NamedTuple):
    """`parts` are to be sent as a chunk each, and to be laid over `kept`."""

    kept: Entry
    parts: list[tuple[int, int]]


def plan(entry: Entry, change: EntryChanges, index: int, length: int) -> Plan:
    """How entry `index`, of `length` bytes, becomes what it is after a change."""
    if change.written == [(0, length)]:
        return Plan([], change.written)
    kept = entry
    for first, last in change.punched:
        kept = chunks.punch(kept, first, last)
    if not change.written and len(kept) <= PIECES_MAX:
        return Plan(kept, [])
    data = data_of(kept, [change], length)
    if not _mostly(index, change, length):
        parts = _parts(index, change, length, data)
        if _fits(kept, parts):
            return Plan(kept, parts)
    return Plan([], _joined(list(data), PIECES_MAX))


def _mostly(index: int, change: EntryChanges, length: int) -> bool:
    """So much of the entry has changed, or it is so small, that it is sent whole."""
    changed = sum(last - first for first, last in change.written)
    small = length <= BLOCK_BYTES and not (index and change.written and change.written[0][0] == 0)
    return 2 * changed >= length or small


def _parts(index: int, change: EntryChanges, length: int, data: Ranges) -> list[tuple[int, int]]:
    widened = Ranges(_widened(index, first, last, length) for first, last in change.written)
    return [part for first, last in widened for part in data.within(first, min(last, length))]


def _fits(kept: Entry, parts: list[tuple[int, int]]) -> bool:
    for first, last in parts:
        kept = chunks.lay(kept, Piece(_UNKNOWN, first, last - first))
    return len(kept) <= PIECES_MAX


def _widened(index: int, first: int, last: int, length: int) -> tuple[int, int]:
    """A change that may go on in the neighbouring entry is hardly widened: in both it would be two blocks."""
    if last == ENTRY_BYTES or (index and first == 0):
        return whole_blocks(first, last, length)
    return chunks.widen(first, last, length)


def _joined(parts: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """At most `count` ranges that cover the parts, and as little else as can be."""
    if len(parts) <= count:
        return parts
    gaps = sorted(range(1, len(parts)), key=lambda i: parts[i][0] - parts[i - 1][1], reverse=True)
    borders = [0, *sorted(gaps[: count - 1]), len(parts)]
    return [(parts[i][0], parts[j - 1][1]) for i, j in zip(borders, borders[1:], strict=False)]
