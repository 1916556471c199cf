"""Two clients that use what they are promised, on the real core of the directory; who is called back hears at once."""

import contextlib
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import absences, errors, read_times
from dfsfuse.messages import RENAME_EXCHANGE, RENAME_NOREPLACE, ROOT_INO, Attributes, Lookup
from dfsfuse.places import place_of
from servers import open_rows
from servers.store.memory import MemoryStore


@pytest.fixture
def volume() -> Volume:
    return Volume(MemoryStore())


@pytest.fixture
def here(volume: Volume, tmp_path: Path) -> Machine:
    """What is not promised it asks for each time."""
    return Machine(volume, Servers(), tmp_path / "here", 0.0, watches=True)


@pytest.fixture
def there(here: Machine, tmp_path: Path) -> Machine:
    return Machine(here.volume, here.servers, tmp_path / "there", 0.0, watches=True)


def read(machine: Machine, path: str) -> bytes | None:
    try:
        return machine.read(path)
    except errors.NotFound:
        return None


def remove(machine: Machine, path: str) -> None:
    machine.files.remove(place_of(path), folder=False)


def rename(machine: Machine, old: str, new: str, flags: int = 0) -> None:
    machine.files.rename(place_of(old), place_of(new), flags)


def requests(machine: Machine) -> int:
    return machine.session.asked.total()


def test_what_is_promised_costs_no_request(here: Machine) -> None:
    """Goal: opens of a cached file, attributes, names that are there and names that are not: all without a request."""
    here.make("/folder")
    here.write("/folder/file", b"content")
    assert read(here, "/folder/file") == b"content"
    before = requests(here)
    for _ in range(3):
        assert read(here, "/folder/file") == b"content"
        assert here.stat("/folder/file").size == 7
        with pytest.raises(errors.NotFound):
            here.stat("/folder/none")
    assert requests(here) == before


def seen(machine: Machine) -> dict[str, object]:
    """All that a client tells of the volume, but when files were read."""
    found: dict[str, Attributes | None] = {}
    for name in ("/", "/file", "/new", "/other", "/none"):
        try:
            found[name] = msgspec.structs.replace(machine.stat(name), promised=False, atime_ns=0)
        except errors.NotFound:
            found[name] = None
    files = (name for name, there in found.items() if there is not None and stat.S_ISREG(there.mode))
    return found | {f"content of {name}": read(machine, name) for name in list(files)}


@pytest.mark.parametrize(
    "change",
    [
        lambda here: rename(here, "/new", "/file"),
        lambda here: rename(here, "/new", "/none"),
        lambda here: rename(here, "/new", "/file", RENAME_EXCHANGE),
        lambda here: remove(here, "/file"),
        lambda here: here.files.link(place_of("/new"), place_of("/none")),
        lambda here: here.make("/none", stat.S_IFIFO | 0o600),
        lambda here: here.close(here.create("/none")),
        lambda here: here.files.set_attributes(place_of("/file"), mode=0o600),
        lambda here: here.files.setxattr(place_of("/file"), b"user.name", b"value"),
    ],
    ids=["replaced", "moved", "exchanged", "removed", "linked", "made", "created", "mode", "extended attribute"],
)
def test_a_change_that_is_made_and_not_answered(
    here: Machine, there: Machine, change: Callable[[Machine], None]
) -> None:
    """Goal: S1, S2. From when a change of this client's is made, which it is not called back about, until the answer is
    there, other programs of it see nothing that is over elsewhere: not by the name, nor by another one of the file."""
    for name in ("/file", "/new"):
        here.write(name, name.encode())
    here.files.link(place_of("/file"), place_of("/other"))
    for _ in range(5):
        seen(here)
    before, asked = seen(here), here.session.asked.copy()
    assert seen(here) == before
    assert here.session.asked == asked, "all of it is known under promise"
    under_way: list[tuple[dict, dict]] = []
    answered = here.session.change

    def made(*arguments: object, **more: object) -> object:
        answer = answered(*arguments, **more)
        under_way.append((seen(there), seen(here)))
        return answer

    here.session.change = made
    change(here)
    assert under_way[0][0] != before
    for elsewhere, own in under_way:
        assert own == elsewhere
    assert seen(here) == seen(there)


def test_reading_what_was_just_written_costs_no_request(here: Machine, there: Machine) -> None:
    """Goal: the first open after a close() moves atime, as with relatime, and asks nobody for that: this client has the
    new one at once, the directory with the next renewal."""
    here.write("/file", b"content")
    before, asked = here.stat("/file"), requests(here)
    handle = here.open("/file")
    assert here.stat("/file").atime_ns > before.mtime_ns >= before.atime_ns
    assert here.volume.at("/file").atime_ns == before.atime_ns
    here.close(handle)
    assert requests(here) == asked
    assert here.volume.at("/file").atime_ns == here.stat("/file").atime_ns == there.stat("/file").atime_ns
    here.files.set_attributes(place_of("/file"), atime_ns=7)
    here.close(here.open("/file", os.O_RDONLY | os.O_NOATIME))
    assert here.volume.at("/file").atime_ns == here.stat("/file").atime_ns == 7


def test_an_answer_without_the_latest_atime(here: Machine) -> None:
    """Goal: what the directory is not told yet is not undone by what it tells."""
    here.write("/file", b"content")
    handle = here.open("/file")
    read_ns = here.stat("/file").atime_ns
    list(here.files.list_folder((ROOT_INO, ())))
    assert here.stat("/file").atime_ns == read_ns > here.volume.at("/file").atime_ns
    here.close(handle)
    assert here.volume.at("/file").atime_ns == read_ns


@pytest.mark.parametrize("change", [{"atime_ns": 5}, {"mode": 0o600}])
def test_a_file_that_was_changed_since_it_was_read(here: Machine, there: Machine, change: dict[str, int]) -> None:
    """Goal: a time that a program has set after another one has read the file is not overwritten."""
    here.write("/file", b"content")
    former = here.stat("/file").atime_ns
    handle = here.open("/file")
    there.files.set_attributes(place_of("/file"), **change)
    here.close(handle)
    wanted = change.get("atime_ns", former)
    assert here.volume.at("/file").atime_ns == here.stat("/file").atime_ns == wanted


def test_more_is_read_than_the_directory_is_told_at_once(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: beyond that each open asks, which moves the time as well; none is lost."""
    monkeypatch.setattr(read_times, "NOTED_MAX", 2)
    for number in range(4):
        here.write(f"/{number}", b"content")
    asked = requests(here)
    handles = [here.open(f"/{number}") for number in range(4)]
    assert requests(here) == asked + 2
    for handle in handles:
        here.close(handle)
    for number in range(4):
        known = here.volume.at(f"/{number}")
        assert known.atime_ns == here.stat(f"/{number}").atime_ns > known.mtime_ns


def test_a_whole_listing_is_remembered(here: Machine, there: Machine) -> None:
    """Goal: after a listing each entry and each name that is not there is known; and a name that comes is heard of."""
    there.write("/one", b"1")
    list(here.files.list_folder((ROOT_INO, ())))
    before = requests(here)
    assert here.stat("/one").size == 1
    with pytest.raises(errors.NotFound):
        here.stat("/two")
    assert requests(here) == before
    there.write("/two", b"22")
    assert here.stat("/two").size == 2


@pytest.mark.parametrize("entries", [3, 200])
def test_names_that_are_not_there_cost_few_requests(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """Goal: whoever makes many files in a folder looks each name up before: after a few of them the folder is listed,
    unless it is large, and nobody is asked any more. A name that another client makes is there at once."""
    monkeypatch.setattr(absences, "_ENTRIES_MAX", 100)
    there.make("/folder")
    for number in range(entries):
        there.make(f"/folder/{number}", stat.S_IFIFO | 0o644)
    folder = here.stat("/folder").ino
    before = requests(here)
    for number in range(50):
        with pytest.raises(errors.NotFound):
            here.files.lookup((folder, (b"none%d" % number,)))
    assert (requests(here) - before < 10) == (entries < 100)
    there.make("/folder/none7", stat.S_IFIFO | 0o644)
    assert here.files.lookup((folder, (b"none7",))).ino


@pytest.mark.parametrize("how", ["commit", "replace", "remove", "chmod", "exchange"])
def test_a_change_elsewhere_is_heard(here: Machine, there: Machine, how: str) -> None:
    """Goal: S2, S14. Whatever another client does to a file that is promised here, the next open and stat know."""
    here.write("/file", b"old")
    assert read(here, "/file") == b"old"
    if how == "commit":
        there.write("/file", b"newer")
    elif how == "remove":
        remove(there, "/file")
    elif how == "chmod":
        there.files.set_attributes(place_of("/file"), mode=0o600)
    else:
        there.write("/other", b"newer")
        rename(there, "/other", "/file", 2 if how == "exchange" else 0)
    assert read(here, "/file") == {"remove": None, "chmod": b"old"}.get(how, b"newer")
    if how == "chmod":
        assert here.stat("/file").mode & 0o777 == 0o600


@pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE, RENAME_EXCHANGE])
def test_a_rename_costs_one_request(here: Machine, there: Machine, flags: int) -> None:
    """Goal: what has moved and the folders are known afterwards, as the directory knows them: neither attributes nor
    opens cost another one."""
    old, new = (here.make(f"/{name}").ino for name in "ab")
    for path in ["/a/f"] if flags == RENAME_NOREPLACE else ["/a/f", "/b/f"]:
        here.write(path, path.encode())
    for ino in (old, new):
        list(here.files.list_folder((ino, ())))
    assert there.read("/a/f") == b"/a/f"
    places = [(old, (b"f",)), (new, (b"f",))]
    asked = requests(here)
    here.files.rename(*places, flags)
    for place in [(old, ()), (new, ()), *places[0 if flags == RENAME_EXCHANGE else 1 :]]:
        assert unpromised(here.files.lookup(place)) == unpromised(here.volume.ask(Lookup(place[0], list(place[1]))))
    here.close(here.open(places[1]))
    with pytest.raises(errors.NotFound) if flags != RENAME_EXCHANGE else contextlib.nullcontext():
        here.files.lookup(places[0])
    assert requests(here) == asked + 1
    assert read(there, "/b/f") == b"/a/f"
    assert read(there, "/a/f") == (b"/b/f" if flags == RENAME_EXCHANGE else None)


def unpromised(attributes: Attributes) -> Attributes:
    return msgspec.structs.replace(attributes, promised=False)


def test_a_folder_on_the_way_moves(here: Machine, there: Machine) -> None:
    """Goal: S2. A path that led to a file leads to another one when a folder on the way is replaced elsewhere."""
    for folder in ("/a", "/b"):
        here.make(folder)
        here.write(folder + "/file", folder.encode())
    assert read(here, "/a/file") == b"/a"
    rename(there, "/a", "/c")
    rename(there, "/b", "/a")
    assert read(here, "/a/file") == b"/b"


def test_a_kept_row_goes_when_the_promise_is_broken(here: Machine, there: Machine) -> None:
    """Goal: S11. A file that was closed here keeps its open row for the next open; once it is removed, here or
    elsewhere, the row goes, and the file's room with it."""
    for remover in (here, there):
        here.write("/file", b"content")
        assert read(here, "/file") == b"content"
        remove(remover, "/file")
        here.session.renew()
        there.session.renew()
        assert here.volume.core.status(here.volume.heartbeat("D").server, 0.0).inodes == 1


@pytest.mark.parametrize("seed", range(60))
def test_two_clients_see_one_volume(here: Machine, there: Machine, seed: int) -> None:
    """Goal: S1, S2, S14. Whatever two clients do in turns, each sees what a dictionary would hold."""
    draw, model = random.Random(seed), {}
    names = ["/a", "/b", "/c", "/d"]
    for step in range(120):
        machine, name, other = draw.choice((here, there)), draw.choice(names), draw.choice(names)
        act = draw.choice(("write", "remove", "rename", "list", "look", "look", "look"))
        if act == "write":
            machine.write(name, data := b"%d" % step)
            model[name] = data
        elif act == "remove" and name in model:
            remove(machine, name)
            del model[name]
        elif act == "rename" and name in model and name != other:
            rename(machine, name, other)
            model[other] = model.pop(name)
        elif act == "list":
            listed = {"/" + os.fsdecode(entry.name) for entry in machine.files.list_folder((ROOT_INO, ()))}
            assert listed == model.keys()
        assert read(machine, name) == model.get(name)
        if name in model:
            assert machine.stat(name).size == len(model[name])


def test_a_conflict_copy_is_seen_where_it_was_made(here: Machine, there: Machine) -> None:
    """Goal: S6. What this client makes of its own accord is no change of a program's, and nobody is called back about
    it; in a folder that is known to its last name it is there all the same."""
    here.write("/file", b"old")
    handle = here.open("/file", os.O_RDWR)
    here.put(handle, b"written here")
    there.write("/file", b"written there")
    list(here.files.list_folder((ROOT_INO, ())))
    with pytest.raises(errors.LockLost):
        here.close(handle)
    names = [os.fsdecode(name) for name in there.names() if b"conflict" in name]
    assert [here.stat("/" + name).size for name in names] == [len(b"written here")]


# -- files that are written again and again


def write_again(machine: Machine, data: bytes) -> dict[str, int]:
    """What the directory was asked, renewals apart."""
    before = machine.session.asked.copy()
    handle = machine.open("/file", os.O_WRONLY | os.O_TRUNC)
    machine.put(handle, data)
    machine.close(handle)
    asked = machine.session.asked - before
    del asked["Renew"]
    return asked


def rows(machine: Machine) -> list[tuple[int, bool]]:
    """(version, whether it is for writing) of the open rows that the directory has for this client's file."""
    ino = machine.volume.at("/file").ino
    found = machine.volume.store.read(lambda tx: open_rows.of(tx, ino, machine.session.id))
    return [(row.version, row.writing) for row in found]


def test_writing_again_costs_a_commit_alone(here: Machine, there: Machine) -> None:
    """Goal: under a promise and the write lock that is kept, a file is opened for writing without a request; other
    clients see each version."""
    here.write("/file", b"0")
    for number in range(1, 4):
        assert write_again(here, b"%d" % number) == {"Commit": 1}
        assert read(there, "/file") == b"%d" % number


def test_what_a_killed_client_was_writing_has_its_base(here: Machine, there: Machine) -> None:
    """Goal: S15. The open row is one for writing as long as the lock is here, and only then."""
    here.write("/file", b"1")
    write_again(here, b"2")
    assert rows(here) == [(2, True)]
    handle = here.open("/file", os.O_WRONLY)
    assert rows(here) == [(2, True)]
    here.close(handle)
    here.locks.give_up(here.stat("/file").ino)
    here.session.renew()
    assert rows(here) == [(2, False)]
    before = here.session.asked["Open"]
    handle = here.open("/file", os.O_WRONLY)
    assert here.session.asked["Open"] == before + 1
    assert rows(here) == [(2, True)]
    here.close(handle)
    assert read(here, "/file") == b"2"
    assert rows(here) == [(2, True)]


def test_whoever_had_the_lock_meanwhile_is_fenced_off(here: Machine, there: Machine) -> None:
    """Goal: S6. A lock that is not the one with which the file was opened raises the fence, though nothing else has
    changed."""
    here.write("/file", b"0")
    write_again(here, b"1")
    there.close(there.open("/file", os.O_WRONLY))
    asked = write_again(here, b"2")
    assert asked == {"Open": 1, "Commit": 1}
    assert write_again(here, b"3") == {"Commit": 1}


def test_who_has_written_meanwhile_is_not_overwritten(here: Machine, there: Machine) -> None:
    """Goal: S4. After another client's commit the newest content is the base."""
    here.write("/file", b"0")
    write_again(there, b"111")
    handle = here.open("/file", os.O_WRONLY)
    here.put(handle, b"2", 1)
    here.close(handle)
    assert read(there, "/file") == read(here, "/file") == b"121"


def test_a_promise_that_has_ended_takes_the_row_along(here: Machine, there: Machine) -> None:
    """Goal: S15. After another client has changed the attributes the directory is asked, and has a row for writing."""
    here.write("/file", b"0")
    there.files.set_attributes(place_of("/file"), mode=0o600)
    here.session.renew()
    assert rows(here) == []
    here.stat("/file")
    reader = here.open("/file")
    assert rows(here) == [(1, False)]
    writer = here.open("/file", os.O_WRONLY)
    assert rows(here) == [(1, True)]
    here.close(writer)
    here.close(reader)


def test_a_session_that_has_ended_has_no_rows(here: Machine) -> None:
    """Goal: S15. The next session has them anew."""
    here.write("/file", b"0")
    here.session.begin_anew()
    here.session.renew()
    handle = here.open("/file", os.O_WRONLY)
    assert rows(here) == [(1, True)]
    here.close(handle)


def test_a_file_that_is_removed(here: Machine) -> None:
    """Goal: S11. With its last name everything of it goes, also what was kept for the next write."""
    here.write("/file", b"0")
    ino = here.stat("/file").ino
    remove(here, "/file")
    here.session.renew()
    assert here.locks.here() == set()
    assert here.volume.store.read(lambda tx: open_rows.has_any(tx, ino)) is False
