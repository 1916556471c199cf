"""Reading what is not here: what is missed first comes to the reader before it comes to the disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wait_until
from test_fetching import ENTRIES, World

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.handles import Handle
from dfsfuse.reading import Reading

AT = 2 * ENTRY_BYTES + 1000
"""In the third entry."""


class Reader:
    """A program that has the world's file open; `pool` is what waits for a thread."""

    def __init__(self, world: World):
        self.world, self.pool = world, list[Callable[[], None]]()
        world.servers.begin = lambda work, given_up: self.pool.append(work)
        self.reading = Reading(world.servers.latest, world.fetching, 1 << 40)
        self.handle = Handle(world.content, (1, (b"f",)), 0, 1, None)

    def read(self, offset: int, length: int = 10) -> bytes:
        return self.reading.read(self.handle, length, offset)

    def work(self) -> None:
        """The pool does what there is, and what comes of it."""
        while self.pool:
            self.pool.pop(0)()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    world = World(tmp_path)
    made = Reader(world)
    yield made
    world.content.handles.clear()
    made.work()
    made.reading.close()
    for thread in world.threads:
        thread.join()
    wait_until(lambda: world.content.users == 1, "what was coming has let go of the content")


def test_the_first_byte_waits_for_no_disk(reader: Reader) -> None:
    """Goal: what is missed first is read while nothing of it is on the disk, and nothing else is under way; then it
    comes to the disk without being asked for again, and what is next with it."""
    world = reader.world
    assert reader.read(0) == b"\1" * 10
    assert (world.asked, len(reader.pool)) == (1, 1)
    assert world.content.missing(0, world.content.size) == list(range(ENTRIES))
    reader.pool.pop(0)()
    assert not world.content.missing(0, 1)
    wait_until(lambda: world.content.here(ENTRIES - 1), "the rest comes")
    reader.work()
    assert world.asked == ENTRIES
    assert world.is_right()


def test_only_what_is_missed_first(reader: Reader) -> None:
    """Goal: one miss has the way for itself; later ones are read from the disk, to which they came."""
    assert reader.read(AT) == b"\3" * 10
    waiting = len(reader.pool)
    assert reader.read(ENTRY_BYTES) == b"\2" * 10
    assert reader.world.content.here(1)
    assert len(reader.pool) == waiting


def test_who_looks_at_the_beginning_and_closes(reader: Reader) -> None:
    """Goal: what was missed comes to the disk, and nothing else of a file that nobody has open any more."""
    assert reader.read(0) == b"\1" * 10
    reader.world.content.handles.clear()
    reader.work()
    assert reader.world.content.missing(0, reader.world.content.size) == [1, 2, 3]
    assert reader.world.asked == 1


def test_who_reads_the_same_waits_for_it(reader: Reader) -> None:
    """Goal: a second read of what is on its way to the first asks nobody."""
    world, found, asked = reader.world, list[bytes](), list[bytes]()
    download = world.servers.download
    world.servers.download = lambda name: asked.append(name) or download(name)
    world.go_on.clear()
    world.in_thread(lambda: found.append(reader.read(AT)))
    wait_until(lambda: world.asked == 1, "the first is under way")
    world.in_thread(lambda: found.append(reader.read(AT + 10)))
    world.go_on.set()
    wait_until(lambda: reader.pool, "the first has it")
    reader.pool.pop(0)()
    for thread in world.threads[:2]:
        thread.join()
    assert found == [b"\3" * 10] * 2
    assert world.content.here(2)
    assert asked.count(world.content.entries[2][0].chunk) == 1


def test_what_fails_is_told_and_tried_again(reader: Reader) -> None:
    """Goal: the reader hears of it, nothing stays on its way, and the next read asks anew."""

    def away(name: bytes) -> bytes:
        raise errors.Unreachable("away")

    reader.world.servers.download = away
    with pytest.raises(errors.Unreachable, match="away"):
        reader.read(AT)
    assert not reader.world.fetching.coming
    reader.world.servers.download = reader.world.download
    assert reader.read(AT) == b"\3" * 10


def test_a_read_across_entries(reader: Reader) -> None:
    """Goal: what takes more than one entry is brought as ever."""
    assert reader.read(ENTRY_BYTES - 5) == b"\1" * 5 + b"\2" * 5
    assert reader.world.content.here(0)
    assert reader.world.content.here(1)


def test_a_disk_without_room(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what was read from memory and has no room on the disk is an error for nobody."""

    def full(*_: object) -> None:
        raise errors.NoSpace("full")

    assert reader.read(AT) == b"\3" * 10
    with monkeypatch.context() as patch:
        patch.setattr("dfsfuse.fetching.fetch", full)
        reader.pool.pop(0)()
        assert not reader.world.content.here(2)
        assert reader.read(AT) == b"\3" * 10
