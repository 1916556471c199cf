"""A file's manifest in memory: its entries and its segments' ids, in which holes take no room. Pure."""

from collections.abc import Iterable

from dfsfuse import chunks
from dfsfuse.chunks import Entry
from dfsfuse.messages import SEGMENT_ENTRIES
from dfsfuse.sparse_list import SparseList


class Entries(SparseList[Entry]):
    """One for each 4 MiB. Entries are replaced and never changed."""

    __slots__ = ()
    hole: Entry = []  # noqa: RUF012, never changed


class SegmentIds(SparseList[bytes]):
    """One for each SEGMENT_ENTRIES entries, b"" where these are holes; none where a manifest needs no segments."""

    __slots__ = ()
    hole = b""


def cut(entries: Entries, segments: SegmentIds, size: int) -> None:
    """Entries, and the segments that still hold, of a content that is cut to `size`."""
    count = chunks.entry_count(size)
    if len(entries) < count:
        return
    entries.fit(count)
    # The segment of the last entry goes too: the entry is clipped now.
    segments.fit(min(len(segments), max(count - 1, 0) // SEGMENT_ENTRIES))
    if count:
        entries[count - 1] = chunks.clip(entries[count - 1], chunks.entry_length(count - 1, size))


def segments_to_put(entries: Entries, known: int, changed: Iterable[int]) -> list[int]:
    """Which parts of the entries, SEGMENT_ENTRIES each, may be no holes and have no segment yet: of `known` parts those
    with an entry that has `changed`, and all beyond."""
    parts = {index // SEGMENT_ENTRIES for index in changed}
    index = entries.following(known * SEGMENT_ENTRIES)
    while index < len(entries):
        parts.add(index // SEGMENT_ENTRIES)
        index = entries.following((index // SEGMENT_ENTRIES + 1) * SEGMENT_ENTRIES)
    return sorted(parts)
