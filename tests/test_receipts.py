"""Receipts: numbers rise, and no chunk is deleted that somebody has been given a receipt for, or is being given one."""

import threading

import pytest

from dfsfuse.chunks import chunk_name
from servers import receipts
from servers.receipts import COUNTER_BITS, Receipts

ONE, TWO = chunk_name(b"one"), chunk_name(b"two")


def given(made: Receipts, name: bytes) -> int:
    made.begin(name)
    try:
        return made.give(name)
    finally:
        made.end(name)


def may_delete(made: Receipts, name: bytes, below: int) -> bool:
    with made.deleting([name], below) as free:
        return bool(free)


def test_the_newest_receipt_of_a_chunk():
    """Goal: for each chunk the number of its latest receipt is known; of another one only that it is from before."""
    made = Receipts(3)
    assert made.first == made.next == (3 << COUNTER_BITS) + 1
    first, other, second = given(made, ONE), given(made, TWO), given(made, ONE)
    assert (first, other, second, made.next) == (made.first, made.first + 1, made.first + 2, made.first + 3)
    assert (made.newest(ONE), made.newest(TWO)) == (second, other)
    assert made.newest(chunk_name(b"three")) < made.first


def test_what_has_a_newer_receipt_is_not_deleted():
    """Goal: the number from which on receipts count is the limit, exactly."""
    made = Receipts(1)
    number = given(made, ONE)
    assert may_delete(made, TWO, made.first)
    assert not may_delete(made, ONE, number)
    assert may_delete(made, ONE, number + 1)


def test_what_is_in_hand_is_not_deleted():
    """Goal: while one of two is still about to give a receipt the chunk stays, whatever the limit."""
    made = Receipts(1)
    made.begin(ONE)
    made.begin(ONE)
    for _ in range(2):
        assert not may_delete(made, ONE, made.next + 100)
        made.end(ONE)
    assert may_delete(made, ONE, made.next + 100)


def test_who_gives_a_receipt_waits_for_a_deletion():
    """Goal: no receipt is given within a deletion; a second deletion of the same chunk is not begun."""
    made = Receipts(1)
    numbers: list[int] = []
    with made.deleting([ONE, ONE], made.next) as free:
        assert free == [ONE]
        assert not may_delete(made, ONE, made.next)
        waiting = threading.Thread(target=lambda: numbers.append(given(made, ONE)))
        waiting.start()
        given(made, TWO)
        waiting.join(0.1)
        assert numbers == []
    waiting.join(30)
    assert numbers == [made.next - 1]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """Goal: with more chunks than are remembered nothing that has a newer receipt may be deleted; only some that could
    be are kept, until a limit that is higher than all that was forgotten."""
    monkeypatch.setattr(receipts, "NEWEST_MAX", 5)
    made = Receipts(1)
    names = [chunk_name(b"%d" % number) for number in range(100)]
    truth = {}
    for name in names:
        truth[name] = given(made, name)
        assert len(made._newest) <= 5
        for known, number in truth.items():
            assert made.newest(known) >= number
            assert not may_delete(made, known, number)
    assert all(may_delete(made, name, made.next) for name in names)


def test_numbers_go_on_from_another_one():
    """Goal: numbers go on where they are told to, never back; nothing that was given before keeps a chunk."""
    made = Receipts(1)
    given(made, ONE)
    made.go_on_from(7 << COUNTER_BITS)
    assert made.next == 7 << COUNTER_BITS
    assert made.first == (1 << COUNTER_BITS) + 1
    assert may_delete(made, ONE, made.next)
    assert given(made, ONE) == 7 << COUNTER_BITS
    made.go_on_from(3)
    assert given(made, ONE) == (7 << COUNTER_BITS) + 1
