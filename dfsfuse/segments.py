"""Segments of large manifests, cut so that each request is little work for the directory. Pure."""

from collections.abc import Iterable, Iterator

from dfsfuse.messages import PUT_PIECES_MAX, Segment

_SEGMENTS_A_REQUEST = 16


def in_requests(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """All of these, some at a time: whole, or in runs of their entries, with PUT_PIECES_MAX pieces at most together."""
    batch: list[Segment] = []
    room = PUT_PIECES_MAX
    for segment in segments:
        for run in _runs(segment):
            size = sum(map(len, run.entries))
            if size > room or len(batch) == _SEGMENTS_A_REQUEST:
                yield batch
                batch, room = [], PUT_PIECES_MAX
            batch.append(run)
            room -= size
    if batch:
        yield batch


def _runs(segment: Segment) -> Iterator[Segment]:
    first = size = 0
    for number, entry in enumerate(segment.entries):
        if size + len(entry) > PUT_PIECES_MAX:
            yield Segment(segment.id, segment.part, segment.entries[first:number], first)
            first, size = number, 0
        size += len(entry)
    yield Segment(segment.id, segment.part, segment.entries[first:], first)
