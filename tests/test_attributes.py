"""What the client may say without asking, with a clock of the test's own."""

import msgspec
import pytest

from dfsfuse.attributes import AttributeTable
from dfsfuse.messages import ROOT_INO, Attributes

PLACE = (ROOT_INO, (b"file",))
OLD = Attributes(ino=7, mode=0o100644, uid=0, gid=0, nlink=1, size=1, mtime_ns=1, ctime_ns=1, atime_ns=1)
NEW = msgspec.structs.replace(OLD, mode=0o100600, ctime_ns=2)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> AttributeTable:
    return AttributeTable(0.7, clock)


def test_what_was_asked_before_a_change_is_void_after_it(table, clock):
    """Goal: S14. An answer that was under way during a change of this client's does not hide the change."""
    asked_at = table.now()
    clock.now_s += 0.1
    table.put(PLACE, OLD, table.now())
    table.put_changed(NEW)
    table.put(PLACE, OLD, asked_at)
    assert table.get(PLACE) == NEW
    clock.now_s += 0.8
    assert table.get(PLACE) is None


def test_answers_of_two_changes_that_arrive_in_another_order(table):
    """Goal: S14. The answer to a commit that comes after that of a later chmod does not bring the former mode back."""
    table.put(PLACE, OLD, table.now())
    table.put_changed(NEW)
    table.put_changed(OLD)
    assert table.get(PLACE) is None
    table.put(PLACE, NEW, table.now())
    assert table.get(PLACE) == NEW


def test_since_when_a_place_leads_to_an_inode(table, clock):
    """Goal: a listing by inode is remembered for a place as of when it was known to be there, and not where it is
    not; the root is always there."""
    asked_at = table.now()
    table.put(PLACE, OLD, asked_at)
    clock.now_s += 0.1
    assert table.learnt(PLACE, OLD.ino) == asked_at
    assert table.learnt(PLACE, 8) == 0.0
    assert table.learnt((ROOT_INO, ()), ROOT_INO) == table.now()
    table.forget_place(PLACE)
    assert table.learnt(PLACE, OLD.ino) == 0.0
