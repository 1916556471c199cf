"""Sparse lists, against plain ones; and how the cache's index keeps them."""

import random

import pytest

from dfsfuse.cache_index_forms import decoded, encoded
from dfsfuse.chunks import Ranges
from dfsfuse.manifests import Entries, SegmentIds, segments_to_put
from dfsfuse.messages import SEGMENT_ENTRIES
from dfsfuse.sparse_list import indexes_of

HUGE = 4 << 20


class Both:
    """A sparse list, and the plain one that it should be."""

    def __init__(self, seed: int):
        self.choose = random.Random(seed)
        self.plain: list[bytes] = []
        self.sparse = SegmentIds()

    def item(self) -> bytes:
        return self.choose.choice((b"", b"", b"a", b"b"))

    def index(self) -> int:
        return self.choose.randrange(len(self.plain) + 1)

    def set(self) -> None:
        if self.plain:
            index, item = self.index() % len(self.plain), self.item()
            self.sparse[index] = self.plain[index] = item

    def fit(self) -> None:
        count = self.choose.randrange(20)
        self.plain = self.plain[:count] + [b""] * (count - len(self.plain))
        self.sparse.fit(count)

    def extend(self) -> None:
        more = [self.item() for _ in range(self.choose.randrange(4))]
        self.plain += more
        self.sparse.extend(more)

    def copy(self) -> None:
        former, self.sparse = self.sparse, self.sparse.copy()
        former.extend([b"other"])
        former.fit(3)
        former[1] = b"other"

    def step(self) -> None:
        self.choose.choices((self.set, self.fit, self.extend, self.copy), (12, 2, 2, 1))[0]()

    def check(self) -> None:
        sparse, plain = self.sparse, self.plain
        held = [(index, item) for index, item in enumerate(plain) if item]
        assert (len(sparse), bool(sparse)) == (len(plain), bool(plain))
        assert [sparse[index] for index in range(len(plain))] == plain
        assert list(sparse.items()) == held
        assert list(sparse.values()) == [item for _, item in held]
        assert indexes_of(sparse) == [index for index, _ in held]
        assert [index for first, last in sparse.holes() for index in range(first, last)] == [
            index for index, item in enumerate(plain) if not item
        ]
        for first in range(len(plain) + 1):
            assert sparse.following(first) == next((index for index, _ in held if index >= first), len(plain))
        self.check_form()
        self.check_part(*sorted((self.index(), self.index())))
        assert sparse == SegmentIds(plain)
        assert SegmentIds.of_runs(sparse.runs()).fit(len(plain)) == sparse

    def check_form(self) -> None:
        """Runs are in order and apart, and have no holes: so equal lists have equal runs."""
        runs = self.sparse.runs()
        assert all(run and all(run) for _, run in runs)
        assert all(first + len(run) < after for (first, run), (after, _) in zip(runs, runs[1:], strict=False))

    def check_part(self, first: int, last: int) -> None:
        part, items = self.plain[first:last], list(self.sparse.items(first, last))
        assert items == [(first + number, item) for number, item in enumerate(part) if item]
        assert self.sparse.part(first, last) == part[: items[-1][0] - first + 1 if items else 0]


@pytest.mark.parametrize("seed", range(50))
def test_it_does_what_a_plain_list_does(seed: int) -> None:
    """Goal: in any sequence of changes, everything that is asked of a sparse list is as of the plain one."""
    both = Both(seed)
    for _ in range(80):
        both.step()
        both.check()


def test_what_is_no_index() -> None:
    """Goal: beyond the ends is an error, as for plain lists, and nothing is made there."""
    ids = SegmentIds([b"a", b""])
    for index in (-1, 2):
        with pytest.raises(IndexError):
            ids[index]
        with pytest.raises(IndexError):
            ids[index] = b"x"
    assert ids == SegmentIds([b"a"], count=2)
    assert ids != SegmentIds([b"a"])
    assert ids != [b"a", b""]
    with pytest.raises(TypeError):
        iter(ids)


def test_its_length_costs_nothing() -> None:
    """Goal: of four million holes and three items there are three runs, however it was made."""
    ids = SegmentIds(count=HUGE)
    for index in (HUGE - 1, 0, HUGE // 2):
        ids[index] = b"id"
    assert [first for first, _ in ids.runs()] == [0, HUGE // 2, HUGE - 1]
    assert ids.following(1) == HUGE // 2
    assert ids.part(HUGE // 2 - 1, HUGE // 2 + 9) == [b"", b"id"]
    assert list(ids.fit(HUGE // 2).holes()) == [(1, HUGE // 2)]


@pytest.mark.parametrize("seed", range(50))
def test_the_index_keeps_what_they_hold(seed: int) -> None:
    """Goal: what the index reads back is what was put into it, in some bytes for each run."""
    choose, count = random.Random(seed), random.Random(seed).choice((0, 1, 20, HUGE))
    ids, here = SegmentIds(count=count), Ranges()
    for _ in range(min(count, 10)):
        ids[choose.randrange(count)] = b"id"
        start = choose.randrange(count)
        here.add(start, start + choose.randrange(100))
    stored = encoded(Entries(count=count), ids, here)
    entries, read, present = decoded(*stored)
    assert (list(entries.items()), read.fit(count), present) == ([], ids, here)
    assert sum(map(len, stored)) < 400


@pytest.mark.parametrize("seed", range(50))
def test_segments_that_are_to_be_put(seed: int) -> None:
    """Goal: those with a change, and those without an id that hold anything; what lies between is not looked at."""
    choose = random.Random(seed)
    entries = Entries(count=choose.choice((17, 3 * SEGMENT_ENTRIES, HUGE)))
    filled = {choose.randrange(len(entries)) for _ in range(choose.randrange(6))}
    for index in filled:
        entries[index] = [choose]
    known, changed = choose.randrange(4), set(choose.sample(sorted(filled), choose.randrange(len(filled) + 1)))
    wanted = {index // SEGMENT_ENTRIES for index in changed}
    wanted |= {part for part in (index // SEGMENT_ENTRIES for index in filled) if part >= known}
    assert segments_to_put(entries, known, changed) == sorted(wanted)


@pytest.mark.parametrize("seed", range(50))
def test_numbers_in_ranges(seed: int) -> None:
    """Goal: a set of numbers, whatever is added and taken away, tells which are in it and which comes next."""
    choose, ranges, numbers = random.Random(seed), Ranges(), set[int]()
    for _ in range(40):
        start, end = sorted((choose.randrange(25), choose.randrange(25)))
        if choose.getrandbits(1):
            ranges.add(start, end)
            numbers |= set(range(start, end))
        else:
            ranges.remove(start, end)
            numbers -= set(range(start, end))
        assert {number for number in range(-1, 27) if number in ranges} == numbers
        assert ranges.covers(start, end) == (set(range(start, end)) <= numbers)
        assert ranges.following(start) == min((number for number in numbers if number >= start), default=None)
        assert ranges == Ranges(list(ranges))
        assert (ranges == Ranges([*ranges, (26, 27)])) is False
