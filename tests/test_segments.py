"""Segments are cut for requests: nothing is left out, nothing comes twice, and each request is bounded."""

import random

import pytest

from dfsfuse import segments
from dfsfuse.chunks import PIECES_MAX, Entry, Piece
from dfsfuse.messages import Segment

ROOM = 20


def entry(pieces: int) -> Entry:
    return [Piece(b"c" * 32, at, 1) for at in range(pieces)]


@pytest.mark.parametrize("seed", range(20))
def test_requests_carry_all_of_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: put together again in the order in which they come, the runs are the segments; each run goes on where the
    one before it has ended."""
    monkeypatch.setattr(segments, "PUT_PIECES_MAX", ROOM)
    choose = random.Random(seed)

    def made(number: int) -> Segment:
        count = choose.choice((0, 1, 5, 60))
        return Segment(bytes([number]) * 16, number, [entry(choose.randrange(PIECES_MAX + 1)) for _ in range(count)])

    whole = [made(number) for number in range(choose.randrange(30))]
    found = {segment.id: [] for segment in whole}
    for request in segments.in_requests(whole):
        assert sum(len(entry) for run in request for entry in run.entries) <= ROOM
        assert len(request) <= segments._SEGMENTS_A_REQUEST
        for run in request:
            assert run.first == len(found[run.id])
            assert run.part == run.id[0]
            found[run.id] += run.entries
    assert found == {segment.id: segment.entries for segment in whole}
