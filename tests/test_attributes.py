"""What the client may say without asking, with a clock of the test's own."""

import msgspec
import pytest

from dfsfuse import attributes
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


def test_a_change_brings_its_folder(table, clock):
    """Goal: S14. The folder that the reply to a change brings is known from then on, and what was asked before is void;
    but where something else was learnt of it since the change was asked for, it is asked for again."""
    folder, later = msgspec.structs.replace(OLD, ino=3), msgspec.structs.replace(OLD, ino=3, ctime_ns=2)
    first, second = table.now(), table.now() + 0.01
    clock.now_s += 0.1
    table.name_changed((3, (b"two",)), later, second)
    assert table.get((3, ())) == later
    table.put((3, ()), folder, second)
    assert table.get((3, ())) == later
    table.name_changed((3, (b"one",)), folder, first)
    assert table.get((3, ())) is None


@pytest.mark.parametrize("named", [True, False])
def test_a_removal_brings_its_folder(table, clock, named):
    """Goal: the same for a name that goes. What it led to may have other names, so without it nothing is known."""
    folder, asked_at = msgspec.structs.replace(OLD, ino=ROOT_INO), table.now()
    clock.now_s += 0.1
    table.put((ROOT_INO, (b"other",)), msgspec.structs.replace(OLD, ino=9), table.now())
    if named:
        table.put(PLACE, OLD, table.now())
    table.name_removed(PLACE, folder, asked_at)
    assert table.get((ROOT_INO, ())) == folder
    assert table.get(PLACE) is None
    assert table.get((OLD.ino, ())) is None
    assert (table.get((9, ())) is None) == (not named)


@pytest.mark.parametrize("dies", [0.0, 1.0])
def test_no_more_is_remembered_than_memory_is_for(table, clock, monkeypatch, dies):
    """Goal: whatever is entered, also only that something is not known any more, the tables stay small; what is dropped
    comes to be asked for again, and no answer from before it counts."""
    monkeypatch.setattr(attributes, "_ITEMS_MAX", 50)
    asked_at = table.now()
    clock.now_s += 0.1
    enter = [
        lambda ino, place: table.put(place, msgspec.structs.replace(OLD, ino=ino), table.now()),
        lambda ino, place: table.put_changed(msgspec.structs.replace(OLD, ino=ino)),
        lambda ino, place: table.name_changed(place, msgspec.structs.replace(OLD, ino=ino), table.now()),
        lambda ino, place: table.name_removed(place, msgspec.structs.replace(OLD, ino=ino), table.now()),
        lambda ino, place: table.forget_place(place),
        lambda ino, place: table.forget_removed(place),
        lambda ino, place: table.forget_ino(ino),
    ]
    for act in enter:
        table.put_changed(NEW)
        for ino in range(100, 400):
            act(ino, (ROOT_INO, (b"%d" % ino,)))
            clock.now_s += dies / 100
        assert max(len(table._inos), len(table._attributes)) <= 51
        table.put(PLACE, OLD, asked_at)
        assert table.get(PLACE) != OLD


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
