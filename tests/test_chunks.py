"""The arithmetic of chunks, held against bytearrays and sets by Hypothesis."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfsfuse import chunks
from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES, HOLE, Piece, Ranges, Span

LENGTH = 40
"""Entries in these tests are as short as this; nothing in the arithmetic depends on it."""


def pieces() -> st.SearchStrategy[Piece]:
    """Pieces of at least one byte within LENGTH; chunks are called by a letter, or are a hole."""
    offsets = st.integers(0, LENGTH - 1)
    return offsets.flatmap(
        lambda offset: st.builds(
            Piece, st.sampled_from([HOLE, b"a", b"b", b"c", b"d"]), st.just(offset), st.integers(1, LENGTH - offset)
        )
    )


def content_of(name: bytes) -> bytes:
    """Each chunk's bytes are its own: byte i of chunk "a" is 1 + i, of "b" 51 + i ..."""
    return bytes(1 + 50 * (name[0] - 97) + i for i in range(LENGTH)) if name else bytes(LENGTH)


def laid(entry: list[Piece]) -> bytearray:
    """What an entry amounts to: its pieces written one after the other."""
    data = bytearray(LENGTH)
    for piece in entry:
        data[piece.offset : piece.end] = content_of(piece.chunk)[: piece.length]
    return data


def seen(spans: list[Span]) -> bytearray:
    data = bytearray(LENGTH)
    for span in spans:
        data[span.offset : span.offset + span.length] = content_of(span.chunk)[span.start : span.start + span.length]
    return data


ENTRIES = st.lists(pieces(), max_size=8)


@given(ENTRIES)
def test_spans_show_what_the_pieces_amount_to(entry: list[Piece]) -> None:
    """Goal: spans are in order, apart, not empty, and together are the pieces written one after the other."""
    spans = chunks.spans(entry)
    assert seen(spans) == laid(entry)
    assert all(span.length > 0 for span in spans)
    assert all(one.offset + one.length <= two.offset for one, two in zip(spans, spans[1:], strict=False))


@given(ENTRIES, pieces())
def test_lay_writes_a_piece_over_an_entry(entry: list[Piece], piece: Piece) -> None:
    """Goal: the same as writing it; what it hides whole is not kept, and the entry given stays as it was."""
    before = list(entry)
    after = chunks.lay(entry, piece)
    assert laid(after) == laid([*entry, piece])
    assert entry == before
    assert len(after) <= len(entry) + 1
    assert not any(piece.offset <= p.offset and p.end <= piece.end for p in after[:-1])


@given(ENTRIES, st.integers(0, LENGTH + 5))
def test_clip_cuts_an_entry(entry: list[Piece], length: int) -> None:
    """Goal: bytes before the cut stay, those after it are zero, and no piece reaches beyond it or is empty."""
    after = chunks.clip(entry, length)
    data = laid(entry)
    data[length:] = bytes(max(0, LENGTH - length))
    assert laid(after) == data
    assert all(piece.length > 0 and piece.end <= length for piece in after)


@given(st.integers(0, 3 * ENTRY_BYTES), st.integers(0, 3 * ENTRY_BYTES))
def test_by_entry_cuts_a_range_at_borders(start: int, end: int) -> None:
    """Goal: the parts are in order, without gaps, each within one entry."""
    parts = list(chunks.by_entry(start, end))
    position = start
    for index, first, last in parts:
        assert 0 <= first < last <= ENTRY_BYTES
        assert index * ENTRY_BYTES + first == position
        position = index * ENTRY_BYTES + last
    assert position == max(start, end) if parts else start >= end


@given(st.integers(0, 5 * ENTRY_BYTES))
def test_entry_lengths_add_up_to_the_size(size: int) -> None:
    """Goal: entry_count and entry_length cut a size without rest; beyond the end the length is 0."""
    count = chunks.entry_count(size)
    lengths = [chunks.entry_length(index, size) for index in range(count)]
    assert sum(lengths) == size
    assert all(0 < length <= ENTRY_BYTES for length in lengths)
    assert chunks.entry_length(count, size) == chunks.entry_length(count + 9, size) == 0


@given(st.data(), st.integers(1, ENTRY_BYTES))
def test_widen_keeps_uploads_small(data: st.DataObject, length: int) -> None:
    """Goal: the widened range holds the range, stays within the entry, and a change within a block costs no more than
    the block; a change of up to a block that crosses a border costs no more than itself."""
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, min(length, start + 3 * BLOCK_BYTES)))
    first, last = chunks.widen(start, end, length)
    assert first <= start < end <= last <= length
    if (end - 1) // BLOCK_BYTES == start // BLOCK_BYTES:
        block = start // BLOCK_BYTES * BLOCK_BYTES
        assert (first, last) == (block, min(block + BLOCK_BYTES, length))
    else:
        assert (first, last) == (start, end)


def test_appends_within_a_block_replace_each_other() -> None:
    """Goal: many small appends do not pile up pieces: each one's block hides the one before."""
    entry: list[chunks.Piece] = []
    length = 0
    for _ in range(3000):
        start, length = length, length + 100
        first, last = chunks.widen(start, length, length)
        entry = chunks.lay(entry, Piece(b"x", first, last - first))
    assert len(entry) <= 2 * (length // BLOCK_BYTES + 1)


@given(ENTRIES)
def test_chunks_of_names_what_is_stored(entry: list[Piece]) -> None:
    """Goal: every chunk but the hole, once."""
    assert chunks.chunks_of([entry, [], entry]) == {piece.chunk for piece in entry} - {HOLE}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_name_of_a_chunk(kind: type) -> None:
    """Goal: BLAKE3-256 of the bytes, whatever they are held in (the test vector of its specification)."""
    assert chunks.chunk_name(kind(b"")).hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
    assert len(chunks.chunk_name(kind(b"x"))) == chunks.NAME_BYTES


# -- ranges

RANGE_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 60), st.integers(0, 60)),
        st.tuples(st.just("cut"), st.integers(0, 60), st.just(0)),
    ),
    max_size=20,
)


@settings(max_examples=300)
@given(RANGE_STEPS)
def test_ranges_are_a_set_of_numbers(steps: list[tuple[str, int, int]]) -> None:
    """Goal: add and cut do what they do to a set; the ranges are sorted, not empty, and never touch."""
    ranges, model = Ranges(), set()
    for what, start, end in steps:
        if what == "add":
            ranges.add(start, end)
            model |= set(range(start, end))
        else:
            ranges.cut(start)
            model = {number for number in model if number < start}
        found = list(ranges)
        assert {number for first, last in found for number in range(first, last)} == model
        assert all(first < last for first, last in found)
        assert all(one[1] < two[0] for one, two in zip(found, found[1:], strict=False))
        assert (ranges.total(), bool(ranges)) == (len(model), bool(model))
    assert list(Ranges(ranges)) == list(ranges)


def test_ranges_show_themselves() -> None:
    """Goal: what a failed test prints."""
    assert repr(Ranges([(5, 7), (1, 2)])) == "Ranges([(1, 2), (5, 7)])"
