"""Small files that programs here read and others change: brought with the first look, once for each reading."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import errors
from dfsfuse.fetching import Fetching
from dfsfuse.handles import Handle
from dfsfuse.messages import Attributes, Open, Opened
from dfsfuse.places import Place, place_of
from dfsfuse.refreshing import SMALL_BYTES
from servers import open_rows
from servers.store.memory import MemoryStore


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(Volume(MemoryStore()), Servers(), tmp_path / "here", 0.0, watches=True)


@pytest.fixture
def there(here: Machine, tmp_path: Path) -> Machine:
    """Has written /file, which `here` has read."""
    made = Machine(here.volume, here.servers, tmp_path / "there", 0.0, watches=True)
    made.write("/file", b"first")
    assert here.read("/file") == b"first"
    return made


def rewrite(machine: Machine, data: bytes) -> None:
    handle = machine.open("/file", os.O_WRONLY | os.O_TRUNC)
    machine.put(handle, data)
    machine.close(handle)


def asked_for(machine: Machine, *names: str) -> list[int]:
    """How many requests of these kinds there were so far; and of all others."""
    counts = [machine.session.asked[name] for name in names]
    return [*counts, machine.session.asked.total() - sum(counts)]


def test_a_look_brings_what_is_opened_next(here: Machine, there: Machine) -> None:
    """Goal: after another client's commit one request answers the look, the open and the attributes after it; the
    content has come with it, and is the newest one."""
    rewrite(there, b"second")
    before, received = asked_for(here, "Open"), here.servers.received_bytes
    assert here.stat("/file").size == len(b"second")
    assert asked_for(here, "Open") == [before[0] + 1, before[1]]
    assert here.servers.received_bytes == received + len(b"second")
    assert here.read("/file") == b"second"
    assert here.stat("/file").size == len(b"second")
    assert asked_for(here, "Open") == [before[0] + 1, before[1]]
    assert here.servers.received_bytes == received + len(b"second")


def test_once_for_each_reading(here: Machine, there: Machine) -> None:
    """Goal: who only looks is brought nothing after the first time, until programs read the file again."""
    for number in range(4):
        rewrite(there, b"%d" % number)
        received = here.servers.received_bytes
        here.stat("/file")
        assert (here.servers.received_bytes > received) == (number == 0)
    assert here.read("/file") == b"3"
    rewrite(there, b"4")
    received = here.servers.received_bytes
    here.stat("/file")
    assert here.servers.received_bytes > received


def rows(machine: Machine) -> set[int]:
    """The versions of /file that the directory knows to be open at this client."""
    ino = machine.volume.at("file").ino
    found = machine.volume.store.read(lambda tx: open_rows.of(tx, ino, machine.session.id))
    return {row.version for row in found}


def test_its_row_is_kept_while_it_is_promised(here: Machine, there: Machine) -> None:
    """Goal: the directory knows of the open that has brought it, as of any open; and hears of its end once it is
    replaced."""
    rewrite(there, b"second")
    here.stat("/file")
    here.session.renew()
    assert rows(here) == {here.volume.at("file").version}
    handle = here.open("/file")
    rewrite(there, b"third")
    here.session.renew()
    assert rows(here) == {here.volume.at("file").version - 1}
    here.close(handle)
    assert rows(here) == set()


def test_its_room_counts_once(here: Machine, there: Machine) -> None:
    """Goal: what is read after each of many changes takes no more of the cache than it has on the disk, so nothing else
    is evicted for it."""
    there.write("/other", b"other")
    assert here.read("/other") == b"other"
    here.cache.bytes_max = 10 * SMALL_BYTES
    for number in range(20):
        rewrite(there, bytes([number]) * SMALL_BYTES)
        assert here.read("/file") == bytes([number]) * SMALL_BYTES
    received = here.servers.received_bytes
    assert here.read("/other") == b"other"
    assert here.servers.received_bytes == received


@pytest.mark.parametrize("size", [SMALL_BYTES + 1, 0])
def test_what_has_become_large_is_left_to_who_reads_it(here: Machine, there: Machine, size: int) -> None:
    """Goal: a look costs at most a small file; an empty one has nothing to come."""
    rewrite(there, bytes([7]) * size)
    received = here.servers.received_bytes
    assert here.stat("/file").size == size
    assert here.servers.received_bytes == received
    assert here.read("/file") == bytes([7]) * size


def test_what_is_open_is_left_alone(here: Machine, there: Machine) -> None:
    """Goal: who has the file open goes on with his version, and the look asks as always."""
    handle = here.open("/file")
    rewrite(there, b"second")
    before = asked_for(here, "Open")
    assert here.stat("/file").size == len(b"second")
    assert asked_for(here, "Open")[0] == before[0]
    assert here.files.files.read(handle, 99, 0) == b"first"
    here.close(handle)


def use_locks(machine: Machine) -> None:
    """A program there is about to lock the file."""
    asked = Open(session=machine.session.id, base=machine.volume.at("file").ino, locking=True)
    machine.session.query(asked, Opened)


def test_what_comes_to_be_shared_by_locks_meanwhile(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: S3, S14. A look brings nothing of a file on which programs use locks: who has opened it while the directory
    was asked, and locks nothing, goes on with his version; and looks tell what others commit, also after that."""
    query, opened = here.session.query, list[Handle]()

    def late(request: object, *arguments: object, **more: object) -> object:
        if isinstance(request, Open) and not opened:
            opened.append(None)
            opened[0] = here.open("/file")
            use_locks(there)
            rewrite(there, b"and third")
        return query(request, *arguments, **more)

    rewrite(there, b"second")
    monkeypatch.setattr(here.session, "query", late)
    assert here.stat("/file").size == len(b"and third")
    assert here.files.files.read(opened[0], 99, 0) == b"second"
    here.close(opened[0])
    for data in (b"the fourth", b"and the fifth"):
        rewrite(there, data)
        assert here.stat("/file").size == len(data)
    assert here.read("/file") == b"and the fifth"
    rewrite(there, b"and so on")
    before = asked_for(here, "Lookup")
    here.stat("/file")
    assert asked_for(here, "Lookup") == [before[0] + 1, before[1]]


def test_an_open_of_a_shared_file_that_fails(here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S14. As a program elsewhere uses locks on it by then, what another program here has open would be shared
    with it; where that open fails nobody is left to say that it no longer is, and looks tell what others commit."""

    def full(*_: object) -> None:
        raise errors.NoSpace("the local cache's disk is full")

    handle = here.open("/file")
    use_locks(there)
    with monkeypatch.context() as patch:
        patch.setattr(here.cache, "open", full)
        with pytest.raises(errors.NoSpace):
            here.open("/file")
    here.close(handle)
    for data in (b"another", b"and one more"):
        rewrite(there, data)
        assert here.stat("/file").size == len(data)


def test_where_another_file_is_there_now(here: Machine, there: Machine) -> None:
    """Goal: a name that leads elsewhere, or nowhere, is answered as ever."""
    there.write("/new", b"another file")
    there.files.rename(place_of("/new"), place_of("/file"))
    assert here.stat("/file").size == len(b"another file")
    assert here.read("/file") == b"another file"
    there.files.remove(place_of("/file"), folder=False)
    with pytest.raises(errors.NotFound):
        here.stat("/file")
    there.make("/file")
    assert here.names("/file") == []


def test_a_directory_that_refuses_the_open(here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: where the file cannot be opened, as on a full disk, the look is answered all the same."""
    query = here.session.query

    def full(request: object, *arguments: object, **more: object) -> object:
        if isinstance(request, Open):
            raise errors.NoSpace("the directory's disk is full")
        return query(request, *arguments, **more)

    rewrite(there, b"second")
    monkeypatch.setattr(here.session, "query", full)
    assert here.stat("/file").size == len(b"second")


def test_servers_that_are_away(here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: content that does not come is no error of the look; who reads asks again."""

    def away(name: bytes) -> bytes:
        raise errors.Unreachable("all file servers are away")

    rewrite(there, b"second")
    with monkeypatch.context() as patch:
        patch.setattr(here.servers, "download", away)
        assert here.stat("/file").size == len(b"second")
        with pytest.raises(errors.Unreachable):
            here.read("/file")
    assert here.read("/file") == b"second"


def test_many_looks_do_not_queue_up(here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: while much is on its way, looks ask as always: who reads a file is not behind what others looked at."""
    rewrite(there, b"second")
    monkeypatch.setattr(Fetching, "coming", 8)
    before = asked_for(here, "Lookup")
    assert here.stat("/file").size == len(b"second")
    assert asked_for(here, "Lookup") == [before[0] + 1, before[1]]


def test_a_write_that_is_not_sent_stays(here: Machine, there: Machine) -> None:
    """Goal: what programs here have written is never replaced by a look."""
    handle = here.open("/file", os.O_WRONLY)
    here.put(handle, b"mine!")
    assert here.stat("/file").size == len(b"mine!")
    here.close(handle)
    assert there.read("/file") == b"mine!"


# -- files that are new here


@pytest.fixture
def follower(here: Machine, there: Machine) -> Machine:
    """Has looked up and read two of the files that `there` has written."""
    for number in range(9):
        there.write(f"/new{number}", b"content")
    for number in range(2):
        here.stat(f"/new{number}")
        assert here.read(f"/new{number}") == b"content"
    return here


def test_the_look_is_the_open_where_files_are_opened_one_after_the_other(follower: Machine) -> None:
    """Goal: one request answers the look and the open of a file that was never seen here, and its content comes along;
    where its path for people is what the driver tells."""
    before = asked_for(follower, "Open")
    place = place_of("/new2")
    assert follower.files.lookup(place, lambda: b"/shown").size == len(b"content")
    assert follower.read("/new2") == b"content"
    assert asked_for(follower, "Open") == [before[0] + 1, before[1]]
    assert follower.cache.current(follower.volume.at("new2").ino).where == b"/shown"


def test_a_look_that_is_made_again(follower: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: where others have changed a file while its look was under way, the look is made again, as the first one."""
    attributes, refreshing, asked_with = follower.files._attributes, follower.files.files.refreshing, []
    real = attributes.is_newest

    def look(place: Place, shown: Callable[[], bytes]) -> Attributes | None:
        asked_with.append(shown)
        return None if len(asked_with) == 1 else type(refreshing).look(refreshing, place, shown)

    def is_newest(found: Attributes) -> bool:
        if len(asked_with) == 1:
            attributes.end_lease()
            return False
        return real(found)

    monkeypatch.setattr(refreshing, "look", look)
    monkeypatch.setattr(attributes, "is_newest", is_newest)
    shown = lambda: b"/shown"  # noqa: E731
    assert follower.files.lookup(place_of("/new2"), shown).size == len(b"content")
    assert asked_with == [shown, shown]


def test_who_looks_without_opening_is_soon_left_alone(follower: Machine) -> None:
    """Goal: a listing with attributes after some opens brings three files at most, and then none."""
    before = asked_for(follower, "Open")[0]
    for number in range(2, 9):
        follower.stat(f"/new{number}")
    assert asked_for(follower, "Open")[0] - before == 3


@pytest.mark.parametrize("size", [0, SMALL_BYTES + 1])
def test_what_was_listed_and_is_not_small_is_not_brought(follower: Machine, there: Machine, size: int) -> None:
    """Goal: what a listing has told counts."""
    there.write("/other", bytes(size))
    list(follower.files.list_folder(place_of("/")))
    follower.files._attributes.end_lease()
    received = follower.servers.received_bytes
    assert follower.stat("/other").size == size
    assert follower.servers.received_bytes == received


def test_a_folder_is_looked_up_as_always(follower: Machine, there: Machine) -> None:
    """Goal: what has no content is told all the same, and soon nobody tries to open such names."""
    for name in "abcd":
        there.make(f"/{name}")
    before = asked_for(follower, "Open", "Lookup")
    for name in "abcd":
        assert follower.stat(f"/{name}").ino == there.stat(f"/{name}").ino
    opens, looks, _ = asked_for(follower, "Open", "Lookup")
    assert (opens - before[0], looks - before[1]) == (3, 4)


def test_what_is_not_there_is_asked_for_once(follower: Machine) -> None:
    """Goal: the answer to the open says that nothing is there."""
    before = asked_for(follower, "Open", "Lookup")
    with pytest.raises(errors.NotFound):
        follower.stat("/missing")
    assert asked_for(follower, "Open", "Lookup") == [before[0] + 1, *before[1:]]
