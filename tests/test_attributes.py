"""What the client may say without asking, with a clock of the test's own."""

import threading

import msgspec
import pytest

from dfsfuse.attributes import AttributeTable
from dfsfuse.known_names import ABSENT
from dfsfuse.lapsing import Lapsing
from dfsfuse.messages import EVERYTHING, RENAME_EXCHANGE, ROOT_INO, Attributes, Doubt, Renamed

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
    table.put_changed(NEW, table.now())
    table.put(PLACE, OLD, asked_at)
    assert table.get(PLACE) == NEW
    clock.now_s += 0.8
    assert table.get(PLACE) is None


def test_answers_of_two_changes_that_arrive_in_another_order(table):
    """Goal: S14. The answer to a commit that comes after that of a later chmod does not bring the former mode back."""
    table.put(PLACE, OLD, table.now())
    table.put_changed(NEW, table.now())
    table.put_changed(OLD, table.now())
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


def test_a_removal_brings_its_folder(table, clock):
    """Goal: the same for a name that goes; and what else is known stays."""
    folder, asked_at = msgspec.structs.replace(OLD, ino=ROOT_INO), table.now()
    table.put((ROOT_INO, (b"other",)), msgspec.structs.replace(OLD, ino=9), table.now())
    table.put(PLACE, OLD, table.now())
    clock.now_s += 0.1
    table.name_changed(PLACE, folder, asked_at + 0.05, ABSENT)
    table.forget_ino(OLD.ino)
    assert table.get((ROOT_INO, ())) == folder
    assert table.get(PLACE) is None
    assert table.get((OLD.ino, ())) is None
    assert table.get((9, ())) is not None


@pytest.mark.parametrize("dies", [0.001, 1.0])
def test_no_more_is_remembered_than_memory_is_for(clock, dies):
    """Goal: whatever is entered, also only that something is not known any more, the tables stay small; what is dropped
    is told to who uses it, comes to be asked for again, and no answer from before it counts."""
    table, told = AttributeTable(0.7, clock, items_max=50), []
    table.on_broken(lambda ino, name: told.append(ino))
    asked_at = table.now()
    clock.now_s += 0.1
    enter = [
        lambda ino, place: table.put(place, msgspec.structs.replace(OLD, ino=ino), table.now()),
        lambda ino, place: table.put_changed(msgspec.structs.replace(OLD, ino=ino), table.now()),
        lambda ino, place: table.name_changed(place, msgspec.structs.replace(OLD, ino=ino), table.now()),
    ]
    for act in enter:
        table.put_changed(NEW, table.now())
        for ino in range(100, 400):
            act(ino, (ROOT_INO, (b"%d" % ino,)))
            clock.now_s += dies / 100
            table.drop_heard(table.dropped())
        assert len(table) <= 51
        assert len(told) >= 100
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


# -- promises

PROMISED = msgspec.structs.replace(OLD, promised=True)
FOLDER = msgspec.structs.replace(OLD, ino=ROOT_INO, mode=0o40755, promised=True)


@pytest.fixture
def promised(table, clock) -> AttributeTable:
    """A table whose lease holds for ten seconds, with what was promised of a file."""
    table.lease(clock.now_s + 10)
    clock.now_s += 0.1
    table.put(PLACE, PROMISED, table.now())
    clock.now_s += 5
    return table


def test_what_is_promised_is_used_until_it_is_broken(promised):
    """Goal: S14. A promise outlives the hold, by name and by inode, and ends when the directory says so."""
    assert promised.get(PLACE) == promised.get((OLD.ino, ())) == PROMISED
    promised.broken(OLD.ino, b"")
    assert promised.get(PLACE) is None
    assert promised.get((OLD.ino, ())) is None


def test_an_answer_from_before_the_break_is_no_promise(promised, clock):
    """Goal: S2. What was asked for before the event, and arrives after it, brings no promise back; what was asked for
    later does."""
    asked_at = promised.now()
    clock.now_s += 0.1
    promised.broken(OLD.ino, b"")
    promised.put(PLACE, PROMISED, asked_at)
    assert promised.get((OLD.ino, ())) is None
    clock.now_s += 0.1
    promised.put(PLACE, PROMISED, promised.now())
    clock.now_s += 1
    assert promised.get(PLACE) == PROMISED


def test_a_change_that_crosses_a_break_is_no_promise(promised, clock):
    """Goal: S2. This client's own change is answered with a promise that another client's change breaks before the
    answer arrives: it is used for the hold alone."""
    asked_at = promised.now()
    clock.now_s += 0.1
    promised.broken(OLD.ino, b"")
    promised.put_changed(msgspec.structs.replace(NEW, promised=True), asked_at)
    clock.now_s += 1
    assert promised.get((OLD.ino, ())) is None


@pytest.mark.parametrize("how", ["lapse", "void", "doubt", "everything"])
def test_promises_end_with_their_lease(promised, clock, how):
    """Goal: S14. After the lease has lapsed, was voided, or while it is not known whether a change of one's own will
    still be made, nothing is promised; and the next lease does not bring it back."""
    told = []
    promised.on_broken(lambda *event: told.append(event))
    doubt = Doubt(1, 2, 3)
    if how == "lapse":
        clock.now_s += 6
    elif how == "void":
        promised.end_lease()
    elif how == "doubt":
        promised.in_doubt(doubt)
        promised.lease(clock.now_s + 10)
        assert promised.doubts() == [doubt]
    else:
        promised.broken(EVERYTHING, b"")
    assert promised.get(PLACE) is None
    promised.lease(clock.now_s + 10, [doubt])
    assert promised.get(PLACE) is None
    assert told[0] == (EVERYTHING, b"")
    clock.now_s += 0.1
    promised.put(PLACE, PROMISED, promised.now())
    clock.now_s += 1
    assert promised.get(PLACE) == PROMISED


@pytest.mark.parametrize("how", ["by itself", "in doubt"])
def test_the_end_of_the_lease_is_told(promised, clock, how):
    """Goal: S14. The lease ends while nobody can be reached: who was told of promises hears it all the same, once; and
    again after the next one."""
    told = []
    promised.on_broken(lambda *event: told.append(event))
    assert promised.lapse() == pytest.approx(4.9)
    assert promised.lease_counts()
    if how == "by itself":
        clock.now_s += 5
    else:
        promised.in_doubt(Doubt(1, 2, 3))
    assert not promised.lease_counts()
    assert promised.lapse() == promised.lapse() == 0.0
    assert told == [(EVERYTHING, b"")]
    promised.lease(clock.now_s + 1, [Doubt(1, 2, 3)])
    clock.now_s += 2
    told.clear()
    promised.lapse()
    assert told == [(EVERYTHING, b"")]


def test_the_end_of_the_lease_is_told_by_a_thread(clock):
    """Goal: S14. Nothing but time has to pass for it; where the lease is renewed it is not told."""
    table, told = AttributeTable(), threading.Event()
    table.on_broken(lambda ino, name: told.set())
    table.lease(table.now() + 60)
    told.clear()
    lapsing = Lapsing(table)
    lapsing.start()
    try:
        assert not told.is_set()
        table.lease(table.now() + 0.05)
        assert told.wait(30)
    finally:
        lapsing.stop()


def test_an_entry_is_told_by_its_name(promised, clock):
    """Goal: another client changes one name of a folder: that name is asked for again, and the others are not."""
    other = ROOT_INO, (b"other",)
    promised.put(other, msgspec.structs.replace(PROMISED, ino=9), promised.now())
    promised.put((ROOT_INO, ()), FOLDER, promised.now())
    clock.now_s += 1
    promised.broken(ROOT_INO, b"file")
    assert promised.get(PLACE) is None
    assert promised.get((ROOT_INO, ())) is None
    assert promised.get(other).ino == 9


def test_nothing_is_where_nothing_was_listed(promised, clock):
    """Goal: after a whole listing of a promised folder, a name that it did not have is known to be absent; one that
    has changed since is not; and a folder that was just made is empty."""
    asked_at = promised.now()
    promised.put(PLACE, PROMISED, asked_at)
    promised.listed(ROOT_INO, asked_at)
    clock.now_s += 1
    assert promised.is_absent((ROOT_INO, (b"other",)))
    assert not promised.is_absent(PLACE)
    promised.broken(ROOT_INO, b"other")
    assert not promised.is_absent((ROOT_INO, (b"other",)))
    clock.now_s += 0.1
    promised.folder_made(12, promised.now())
    assert promised.is_absent((12, (b"any",)))
    promised.broken(12, b"")
    assert not promised.is_absent((12, (b"any",)))


def test_a_listing_that_a_change_crosses(promised, clock):
    """Goal: a file that this client makes while a listing is under way is there, though the listing lacks it."""
    asked_at = promised.now()
    clock.now_s += 0.1
    made = ROOT_INO, (b"made",)
    promised.name_changed(made, FOLDER, promised.now(), 9)
    promised.put_changed(msgspec.structs.replace(PROMISED, ino=9), promised.now())
    promised.listed(ROOT_INO, asked_at)
    assert promised.get(made).ino == 9


def test_a_path_is_promised_by_each_name_on_the_way(promised, clock):
    """Goal: a path needs no question while each folder on the way is promised, and needs one as soon as one is not."""
    folder = msgspec.structs.replace(PROMISED, ino=20, mode=0o40755)
    promised.put((ROOT_INO, (b"folder",)), folder, promised.now())
    promised.put((20, (b"below",)), msgspec.structs.replace(PROMISED, ino=21), promised.now())
    clock.now_s += 1
    path = ROOT_INO, (b"folder", b"below")
    assert promised.get(path).ino == 21
    promised.broken(ROOT_INO, b"folder")
    assert promised.get(path) is None


@pytest.mark.parametrize("promised_way", [True, False])
def test_a_path_that_is_made_again(promised, clock, promised_way):
    """Goal: S14. A name below a path, known to be absent, is asked for again once this client has made it: a link that
    followed a removal was not there for the fusepy driver."""
    folder = msgspec.structs.replace(OLD, ino=3, mode=0o40755, promised=True)
    promised.put((ROOT_INO, (b"folder",)), folder, promised.now())
    promised.name_changed((ROOT_INO, (b"folder", b"name")), folder, promised.now(), ABSENT)
    assert promised.is_absent((ROOT_INO, (b"folder", b"name")))
    if not promised_way:
        promised.broken(ROOT_INO, b"folder")
    clock.now_s += 0.1
    promised.forget_place((ROOT_INO, (b"folder", b"name")))
    promised.put((ROOT_INO, (b"folder",)), folder, promised.now())
    assert not promised.is_absent((ROOT_INO, (b"folder", b"name")))


@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE])
def test_a_rename_moves_what_is_known(promised, clock, flags):
    """Goal: after a rename by this client both names are known, and the attributes of what has moved are asked for
    again, as their ctime has changed."""
    new, other = (ROOT_INO, (b"new",)), 8 if flags else 0
    asked_at = promised.now()
    clock.now_s += 0.1
    promised.renamed(PLACE, new, Renamed(0, OLD.ino, other, promised=True), bool(flags), asked_at)
    assert promised.get((OLD.ino, ())) is None
    clock.now_s += 1
    promised.put((OLD.ino, ()), PROMISED, promised.now())
    assert promised.get(new).ino == OLD.ino
    assert promised.is_absent(PLACE) == (not flags)


@pytest.mark.parametrize("how", ["looked up", "made", "moved"])
def test_a_name_that_is_not_promised_in_a_folder_that_is(promised, clock, how):
    """Goal: S2. While another client's change of a name is under way, which was told and will not be again, what is
    learnt of that name is not promised, though its folder is, and later the inode too: programs opened a file by a name
    that had long led to another one."""
    promised.put((ROOT_INO, ()), FOLDER, promised.now())
    clock.now_s += 0.1
    promised.broken(ROOT_INO, b"file")
    clock.now_s += 0.1
    if how == "looked up":
        promised.put(PLACE, OLD, promised.now())
    elif how == "made":
        promised.name_changed(PLACE, msgspec.structs.replace(FOLDER, promised=False), promised.now(), OLD.ino)
    else:
        other = ROOT_INO, (b"other",)
        promised.renamed(
            other, PLACE, Renamed(0, OLD.ino, 0, ROOT_INO, ROOT_INO), exchanged=False, asked_at=promised.now()
        )
    clock.now_s += 0.1
    promised.put((OLD.ino, ()), PROMISED, promised.now())
    known = promised.get(PLACE)
    assert known is None or not known.promised
    clock.now_s += 1
    assert promised.get(PLACE) is None


def test_what_is_dropped_is_promised_again_only_once_the_directory_has_heard(clock):
    """Goal: what memory has no room for is told to the directory, and no promise of before it has heard that counts, as
    the directory takes that one for dropped."""
    table = AttributeTable(0.7, clock, items_max=10)
    table.lease(clock.now_s + 100)
    for ino in range(100, 120):
        clock.now_s += 0.01
        table.put((ROOT_INO, (b"%d" % ino,)), msgspec.structs.replace(PROMISED, ino=ino), table.now())
    dropped = table.dropped()
    assert 100 in dropped
    clock.now_s += 1
    table.put((100, ()), msgspec.structs.replace(PROMISED, ino=100), table.now())
    assert table.get((100, ())) is None
    table.drop_heard(dropped)
    clock.now_s += 1
    table.put((100, ()), msgspec.structs.replace(PROMISED, ino=100), table.now())
    assert table.get((100, ())) is not None
    assert 100 not in table.dropped()


# -- changes of this client's that are under way


@pytest.mark.parametrize("place", [PLACE, (OLD.ino, ())], ids=["name", "inode"])
def test_what_a_change_under_way_touches_is_not_promised(promised, clock, place):
    """Goal: S1, S14. This client is not called back about its own change. From when that is asked for until it is
    answered what it touches counts for the hold alone, and opens ask; anything else is promised still."""
    other = ROOT_INO, (b"other",)
    promised.put(other, msgspec.structs.replace(PROMISED, ino=9), promised.now())
    clock.now_s += 1
    with promised.changing(place):
        assert promised.get(place) == OLD
        assert not promised.promises(place, OLD.ino)
        clock.now_s += 1
        assert promised.get(place) is None
        assert promised.promises(other, 9)
        promised.put(place, PROMISED, promised.now())
        assert promised.get(place) == OLD
    assert promised.promises(place, OLD.ino)


def test_a_name_that_is_being_made_is_not_absent(promised, clock):
    """Goal: S1. Others may see a new name before who makes it is answered; its folder has changed as well, and what has
    other names in it has not."""
    asked_at, made = promised.now(), (ROOT_INO, (b"made",))
    promised.put((ROOT_INO, ()), FOLDER, asked_at)
    promised.put(PLACE, PROMISED, asked_at)
    promised.listed(ROOT_INO, asked_at)
    assert promised.is_absent(made)
    with promised.changing(made=made):
        assert not promised.is_absent(made)
        assert promised.is_absent((ROOT_INO, (b"other",)))
        assert not promised.get((ROOT_INO, ())).promised
        assert promised.promises(PLACE, OLD.ino)
    assert promised.is_absent(made)


def test_a_change_of_what_is_not_known_touches_any_file(promised):
    """Goal: S1. Where this client does not know what it removes, that may be a file which it knows by another name, and
    which has a name less then."""
    with promised.changing((ROOT_INO, (b"unknown",))):
        assert not promised.get(PLACE).promised
    with promised.changing((ROOT_INO, (b"folder", b"file"))):
        assert not promised.get(PLACE).promised
    assert promised.promises(PLACE, OLD.ino)


def test_rows_are_kept_while_a_file_is_changed(promised):
    """Goal: what is promised of a file's content stands while its mode is changed here: its open row is kept."""
    promised.put(PLACE, msgspec.structs.replace(PROMISED, version=3), promised.now())
    with promised.changing(PLACE):
        assert promised.promised_version(OLD.ino) == 3


def test_changes_of_one_name_that_cross(promised, clock):
    """Goal: S1. Two programs of this client put files in one place: nobody here knows which came last, whichever answer
    arrives first."""
    with promised.changing(PLACE) as first_at:
        clock.now_s += 0.1
        with promised.changing(PLACE) as second_at:
            clock.now_s += 0.1
            promised.name_changed(PLACE, FOLDER, second_at, 8)
            promised.put_changed(msgspec.structs.replace(PROMISED, ino=8), second_at)
        assert promised.get(PLACE) is None
        promised.name_changed(PLACE, FOLDER, first_at, 9)
        promised.put_changed(msgspec.structs.replace(PROMISED, ino=9), first_at)
    assert promised.get(PLACE) is None


def test_the_answer_to_a_change_is_no_younger_than_its_request(table, clock):
    """Goal: S14. A change whose first answer was lost is answered again, much later, with what was true when it was
    made: that is told no longer than anything else that was asked for then."""
    asked_at = table.now()
    clock.now_s += 0.5
    table.put_changed(NEW, asked_at)
    table.name_changed((3, (b"name",)), msgspec.structs.replace(OLD, ino=3), asked_at)
    assert table.get((OLD.ino, ())) == NEW
    clock.now_s += 0.3
    assert table.get((OLD.ino, ())) is None
    assert table.get((3, ())) is None
