"""Open rows that wait to be told as closed, and are claimed again: pure."""

import threading

import pytest

from dfsfuse import closed_rows
from dfsfuse.closed_rows import ClosedRows
from dfsfuse.messages import EVERYTHING, Closed

FILE = 7


@pytest.fixture
def rows() -> ClosedRows:
    made = ClosedRows()
    made.add(FILE, 1, 10)
    return made


def test_what_is_closed_is_told_once(rows: ClosedRows) -> None:
    """Goal: the largest number of each row, once."""
    rows.add(FILE, 1, 9)
    rows.add(FILE, 2, 11)
    assert rows.take() == [Closed(FILE, 1, 10), Closed(FILE, 2, 11)]
    assert rows.take() == []


def test_a_row_is_claimed_once(rows: ClosedRows) -> None:
    """Goal: S11. What is needed again is not told, and nobody else gets it."""
    assert (rows.claim(FILE, 2), rows.claim(8, 1)) == (0, 0)
    assert rows.claim(FILE, 1) == 10
    assert rows.claim(FILE, 1) == 0
    rows.settle(10, (FILE, 1))
    assert rows.take() == []


@pytest.mark.parametrize("now", [None, (FILE, 2), (8, 1)])
def test_a_row_that_was_claimed_in_vain(rows: ClosedRows, now: tuple[int, int] | None) -> None:
    """Goal: an open that fails, or finds another version or file, gives the row up again."""
    assert rows.claim(FILE, 1) == 10
    rows.settle(10, now)
    assert rows.take() == [Closed(FILE, 1, 10)]


def test_an_open_with_a_new_number_makes_the_row_its_own(rows: ClosedRows) -> None:
    """Goal: S11. The former number says nothing any more, and nobody may claim it."""
    rows.settle(11, (FILE, 1))
    assert rows.claim(FILE, 1) == 0
    assert rows.take() == []


def test_what_the_directory_may_not_have_heard(rows: ClosedRows) -> None:
    """Goal: it is told again, but where the file has been opened anew meanwhile."""
    rows.add(8, 1, 11)
    told = rows.take()
    rows.settle(12, (FILE, 1))
    rows.put_back(told)
    assert rows.claim(FILE, 1) == 0
    assert rows.take() == [Closed(8, 1, 11)]


def test_what_the_directory_may_hear_late_is_not_claimed(rows: ClosedRows) -> None:
    """Goal: S11. A renewal that was not answered may arrive after the open: it must not close what that has opened."""
    rows.put_back(rows.take())
    assert rows.claim(FILE, 1) == 0
    rows.settle(11, (FILE, 1))
    rows.add(FILE, 1, 11)
    assert rows.claim(FILE, 1) == 11
    rows.settle(11, None)
    assert rows.take() == [Closed(FILE, 1, 11)]


def test_what_the_directory_may_hear_late_is_told_first(rows: ClosedRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S11. Where there is more to tell than goes into one request, what it may be hearing still, or hear late, is
    not claimed as it waits for its turn."""
    monkeypatch.setattr(closed_rows, "_TOLD_AT_ONCE", 1)
    rows.put_back(rows.take())
    rows.add(FILE, 2, 11)
    assert rows.take() == [Closed(FILE, 1, 10)]
    assert rows.claim(FILE, 1) == 0
    rows.put_back([Closed(FILE, 1, 10)])
    rows.add(FILE, 1, 12)
    assert rows.take() == [Closed(FILE, 1, 12)]
    assert rows.take() == [Closed(FILE, 2, 11)]
    assert rows.take() == []


def test_a_new_session_has_no_rows(rows: ClosedRows) -> None:
    """Goal: numbers of a session that has ended say nothing."""
    told = rows.take()
    rows.add(FILE, 2, 12)
    rows.forget()
    rows.put_back(told)
    assert rows.take() == []


# -- rows for writing


@pytest.fixture
def kept() -> ClosedRows:
    """The file's version 3 is promised, and its row, which is for writing, was left by its last user; its lock is
    here."""
    made = ClosedRows()
    made.keep_while(lambda ino: 3)
    made.write_while(lambda: {FILE})
    made.for_writing.opened(made.for_writing.begins(), FILE, 2)
    made.for_writing.committed(FILE, 2, 3)
    made.add(FILE, 3, 10)
    return made


def test_a_row_stays_for_writing_while_the_lock_is_here(kept: ClosedRows) -> None:
    """Goal: S15. It is claimed for writing without asking; once the lock is gone the directory hears that it is for
    reading, and it is claimed for that alone."""
    assert kept.take() == []
    assert kept.claim(FILE, 3, writing=True) == 10
    kept.settle(10, (FILE, 3))
    kept.add(FILE, 3, 10)
    kept.write_while(set)
    assert kept.take() == [Closed(FILE, 3, 10, True)]
    assert kept.claim(FILE, 3, writing=True) == 0
    assert kept.claim(FILE, 3) == 10


@pytest.mark.parametrize("is_late", [False, True])
def test_a_row_that_is_told_to_be_for_reading_is_not_claimed_for_writing(kept: ClosedRows, is_late: bool) -> None:
    """Goal: S15. The directory may hear that after an open with the row's number, and would take the row of what is
    written then for one for reading, which does not outlive a killed client."""
    kept.write_while(set)
    told = kept.take()
    assert told == [Closed(FILE, 3, 10, True)]
    if is_late:
        kept.put_back(told)
    kept.promise_ended(FILE)
    assert kept.claim(FILE, 3, kept=False) == 0
    assert kept.claim(FILE, 3) == 10
    kept.settle(10, None)
    assert kept.take() == [Closed(FILE, 3, 10)]


def test_a_row_that_is_not_surely_for_writing_is_told(kept: ClosedRows) -> None:
    """Goal: what may be for writing at the directory does not stay so for nothing."""
    kept.for_writing.end(FILE, 3)
    assert kept.claim(FILE, 3, writing=True) == 0
    assert kept.take() == [Closed(FILE, 3, 10, True)]


@pytest.mark.parametrize("ino", [FILE, EVERYTHING])
def test_the_end_of_a_promise_ends_writing_too(kept: ClosedRows, ino: int) -> None:
    """Goal: S15. The row is told as closed then; and an answer of before that is late says nothing any more."""
    begun = kept.for_writing.begins()
    kept.promise_ended(ino)
    kept.for_writing.opened(begun, FILE, 3)
    assert kept.claim(FILE, 3, writing=True) == 0
    assert kept.take() == [Closed(FILE, 3, 10)]


def test_a_commit_on_another_base_moves_nothing(kept: ClosedRows) -> None:
    """Goal: the row that a commit moves is that of its base."""
    kept.for_writing.committed(FILE, 2, 4)
    assert kept.for_writing.has(FILE, 3)
    kept.forget()
    assert not kept.for_writing.has(FILE, 3)


def test_many_are_told_soon() -> None:
    """Goal: a client that reads what others change leaves the directory few versions that nobody needs; where there are
    few it is waited for, and who stops is not."""
    rows, stopping, never = ClosedRows(), threading.Event(), 60.0
    for version in range(1, closed_rows._MANY):
        rows.add(5, version, version)
    assert rows.wait(stopping, 0.0, 0.01)
    rows.add(5, 99, 99)
    assert rows.wait(stopping, 0.0, never)
    assert len(rows.take()) == closed_rows._MANY
    rows.add(5, 100, 100)
    assert rows.wait(stopping, 0.0, 0.01)
    stopping.set()
    rows.hurry()
    assert not rows.wait(stopping, 0.0, never)
