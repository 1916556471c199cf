"""The arithmetic of locked byte ranges, against one letter for each byte."""

import random

import pytest

from dfsfuse.messages import RANGE_END, Range, conflict, covers, with_lock

BYTES = 24


def letters(ranges: list[Range]) -> str:
    """One letter for each byte: what is locked on it."""
    text = ["."] * BYTES
    for start, end, write in ranges:
        text[start:end] = ["w" if write else "r"] * (end - start)
    return "".join(text)


def check_form(ranges: list[Range]) -> None:
    """In order, apart, none empty, and merged where the type is the same."""
    assert all(start < end for start, end, _ in ranges)
    for (_, end, write), (start, _, other) in zip(ranges, ranges[1:], strict=False):
        assert end < start or (end == start and write != other), ranges


@pytest.mark.parametrize("seed", range(200))
def test_locking_and_unlocking_is_what_it_is_byte_by_byte(seed: int) -> None:
    """Goal: split, replaced and merged as POSIX says, in any sequence; and what is asked of it is right."""
    choose = random.Random(seed)
    ranges: list[Range] = []
    for _ in range(60):
        start, end = sorted(choose.sample(range(BYTES + 1), 2))
        write = choose.choice((True, False, None))
        wanted = letters(ranges)
        wanted = wanted[:start] + {True: "w", False: "r", None: "."}[write] * (end - start) + wanted[end:]
        before, ranges = ranges, with_lock(ranges, start, end, write)
        assert letters(ranges) == wanted
        check_form(ranges)
        check_conflict(ranges, *sorted(choose.sample(range(BYTES + 1), 2)), bool(choose.getrandbits(1)))
        stronger = all(new >= old for new, old in zip(strengths(ranges), strengths(before), strict=True))
        assert covers(ranges, before) == stronger


def check_conflict(ranges: list[Range], start: int, end: int, write: bool) -> None:
    bad = "rw" if write else "w"
    first = next((at for at in range(start, end) if letters(ranges)[at] in bad), None)
    found = conflict(ranges, start, end, write)
    assert found == next((one for one in ranges if first is not None and one[0] <= first < one[1]), None)


def strengths(ranges: list[Range]) -> list[int]:
    return [".rw".index(letter) for letter in letters(ranges)]


def test_ends_of_the_file():
    """Goal: the largest range and its last byte are handled like others."""
    whole = with_lock([], 0, RANGE_END, True)
    assert with_lock(whole, RANGE_END - 1, RANGE_END, None) == [(0, RANGE_END - 1, True)]
    assert with_lock(whole, 0, RANGE_END, None) == []
    assert with_lock(with_lock([], 0, 5, True), 5, RANGE_END, True) == whole
    assert conflict(whole, RANGE_END - 1, RANGE_END, False) == (0, RANGE_END, True)
    assert conflict([(0, 5, True)], 5, RANGE_END, True) is None
