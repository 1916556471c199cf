"""Entries that come from the servers: each once, whoever waits for it, and some of them beforehand."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients import Client, Servers
from support import wait_until
from volumes import Volume

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.completing import Completing
from dfsfuse.content import Content
from dfsfuse.fetching import Fetching
from dfsfuse.full_disk import Need
from servers.store.memory import MemoryStore

ENTRIES = 4


class World:
    """A file of ENTRIES entries, open at a client that has nothing of it. Each work of the pool is a thread; downloads
    wait while `held` is not set. `asked` counts them."""

    def __init__(self, folder: Path):
        self.servers = Servers()
        volume = Volume(MemoryStore())
        writer, self.client = Client(volume, self.servers, folder / "one"), Client(volume, self.servers, folder / "two")
        content = writer.create("f")
        for index in range(ENTRIES):
            writer.write(content, bytes([index + 1]) * ENTRY_BYTES, index * ENTRY_BYTES)
        writer.commit(content)
        writer.close(content, write=True)
        self.content, self.asked, self.threads = self.client.open("f"), 0, list[threading.Thread]()
        self.go_on, self.download, self.given_up = threading.Event(), self.servers.download, list[Callable]()
        self.go_on.set()
        self.servers.download, self.servers.begin = self._download, self._begin
        self.fetching = Fetching(self.client.cache, self.servers, self.client.cache.close_one)

    def _download(self, name: bytes) -> bytes:
        self.asked += 1
        assert self.go_on.wait(10)
        return self.download(name)

    def _begin(self, work: Callable[[], None], given_up: Callable[[], None]) -> None:
        self.given_up.append(given_up)
        self.in_thread(work)

    def in_thread(self, work: Callable[[], None]) -> None:
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()

    def bring(self, need: Need = Need.READ) -> None:
        """The whole file."""
        self.fetching.bring(self.content, lambda c: c.missing(0, c.size), need)

    def is_right(self) -> bool:
        data = self.client.read(self.content, 0, self.content.size)
        return data == b"".join(bytes([index + 1]) * ENTRY_BYTES for index in range(ENTRIES))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.go_on.set()
    for thread in made.threads:
        thread.join()
    assert made.content.users == 1, "what was coming has let go of the content"
    assert not made.fetching._coming


def test_several_come_at_once(world: World) -> None:
    """Goal: all that is wanted is under way together, the first of it without a hand-over."""
    world.go_on.clear()
    world.in_thread(world.bring)
    wait_until(lambda: world.asked == ENTRIES, "all are under way")
    assert len(world.threads) == ENTRIES
    world.go_on.set()
    world.threads[0].join()
    assert world.is_right()


def test_what_is_coming_is_not_asked_for_again(world: World) -> None:
    """Goal: whoever wants what is coming waits for it, whether it comes beforehand or for another one; who brings it
    beforehand does not wait."""
    world.go_on.clear()
    world.fetching.begin(world.content, [1, 2])
    world.fetching.begin(world.content, [2, 3])
    for _ in range(3):
        world.in_thread(world.bring)
    wait_until(lambda: world.asked == ENTRIES, "all are under way")
    world.go_on.set()
    for thread in world.threads:
        thread.join()
    assert world.asked == ENTRIES
    assert world.is_right()


def test_what_waits_for_the_pool_is_not_waited_for(world: World) -> None:
    """Goal: whoever wants what is to come beforehand, and what the pool has not begun yet, fetches it himself; the pool
    finds it done."""
    waiting = list[Callable]()
    world.servers.begin = lambda work, given_up: waiting.append(work)
    world.fetching.begin(world.content, list(range(ENTRIES)))
    try:
        world.in_thread(world.bring)
        wait_until(lambda: not world.content.missing(0, world.content.size), "all of it is here")
    finally:
        for work in waiting:
            work()
    assert world.is_right()
    assert world.asked == ENTRIES


def test_what_failed_beforehand_is_tried_again(world: World) -> None:
    """Goal: a failure of what nobody waited for reaches nobody: who reads asks anew, and hears of his own failure."""

    def unreachable(name: bytes) -> bytes:
        world.asked += 1
        assert world.go_on.wait(10)
        raise errors.Unreachable("away")

    failures = list[errors.DfsError]()

    def read() -> None:
        try:
            world.fetching.bring(world.content, lambda c: c.missing(0, 1))
        except errors.DfsError as error:
            failures.append(error)

    world.servers.download = unreachable
    world.go_on.clear()
    world.fetching.begin(world.content, [0])
    world.in_thread(read)
    world.go_on.set()
    for thread in world.threads:
        thread.join()
    assert world.asked == 2
    assert [str(failure) for failure in failures] == ["away"]
    world.servers.download = world.download
    world.bring()
    assert world.is_right()


def test_a_disk_that_is_full_for_reading_may_have_room_for_writing(world: World, monkeypatch) -> None:
    """Goal: who may free more than the one who has begun tries it himself."""
    needs = []
    with_room = world.client.cache.with_room

    def full(work: Callable, need: Need = Need.WRITE) -> object:
        if need is Need.INDEX:
            return with_room(work, need)
        needs.append(need)
        if need is Need.READ:
            assert world.go_on.wait(10)
            raise errors.NoSpace("full")
        return with_room(work, need)

    monkeypatch.setattr(world.client.cache, "with_room", full)
    world.go_on.clear()
    world.fetching.begin(world.content, [0])
    wait_until(lambda: needs == [Need.READ], "it is under way")
    world.in_thread(lambda: world.bring(Need.WRITE))
    world.go_on.set()
    for thread in world.threads:
        thread.join()
    assert needs.count(Need.WRITE) == ENTRIES
    assert world.is_right()


def test_the_client_ends(world: World) -> None:
    """Goal: what had not begun by then lets go of the content."""
    world.servers.begin = lambda work, given_up: world.given_up.append(given_up)
    world.fetching.begin(world.content, [2, 3])
    assert world.content.users == 3
    for given_up in world.given_up:
        given_up()
    assert not world.content.here(2)


def test_of_many_that_fail_the_rest_is_not_tried(world: World) -> None:
    """Goal: where servers are away it takes one time-out, and not one for each entry."""
    begun = list[Callable]()

    def unreachable(name: bytes) -> bytes:
        world.asked += 1
        raise errors.Unreachable("away")

    world.servers.download, world.servers.begin = unreachable, lambda work, given_up: begun.append(work)
    with pytest.raises(errors.Unreachable, match="away"):
        world.bring()
    for work in begun:
        work()
    assert world.asked == 1


def test_a_content_that_is_closed_meanwhile(world: World) -> None:
    """Goal: what comes for a content that the last program has closed has a file to go to."""
    world.go_on.clear()
    world.fetching.begin(world.content, [0])
    wait_until(lambda: world.asked == 1, "it is under way")
    world.client.cache.close_one(world.content)
    world.go_on.set()
    world.threads[0].join()
    content: Content = world.client.open("f")
    assert content is world.content
    assert content.here(0)


# -- in the background


class Whole:
    """A program that reads the world's file; `asked` entries are under way or have come, `missing` are not here."""

    def __init__(self, world: World, bytes_max: int = 1 << 40):
        self.world, self.content = world, world.content
        self.completing = Completing(world.fetching, bytes_max)
        self.content.handles[self] = None

    def missing(self) -> list[int]:
        return self.content.missing(0, self.content.size)

    def is_over(self) -> bool:
        return self.content.users == 1


def test_the_rest_comes_while_the_file_is_open(world: World) -> None:
    """Goal: after one miss all of it is here, each entry once, and what was held is let go of."""
    whole = Whole(world)
    for _ in range(3):
        whole.completing.missed(world.content)
    wait_until(whole.is_over, "it has ended")
    assert not whole.missing()
    assert world.asked == ENTRIES
    assert world.is_right()


def test_nothing_comes_for_a_file_that_is_closed(world: World) -> None:
    """Goal: who looks at the beginning of a large file does not bring all of it."""
    whole = Whole(world)
    world.go_on.clear()
    whole.completing.missed(world.content)
    wait_until(lambda: world.asked == 1, "the first is under way")
    world.content.handles.clear()
    world.go_on.set()
    wait_until(whole.is_over, "it has ended")
    assert whole.missing() == [1, 2, 3]


def test_what_is_read_next_comes_first(world: World) -> None:
    """Goal: behind where a program reads, then what is before."""
    whole, order = Whole(world), list[int]()
    bring = world.fetching.bring

    def noted(content: Content, wanted: Callable[[Content], list[int]], need: Need) -> None:
        order.extend(wanted(content))
        bring(content, wanted, need)

    world.fetching.bring = noted
    world.content.reads_on_at = 2
    whole.completing.missed(world.content)
    wait_until(whole.is_over, "it has ended")
    assert order == [2, 3, 0, 1]


def test_files_that_are_too_large_for_the_cache_are_left(world: World) -> None:
    """Goal: nothing of what is open can be evicted, so all that comes in the background has a bound; what was closed
    makes room for others."""
    whole = Whole(world, bytes_max=world.content.stored_bytes - 1)
    whole.completing.missed(world.content)
    assert whole.is_over()
    assert world.asked == 0

    whole = Whole(world, bytes_max=world.content.stored_bytes)
    whole.completing._begun[earlier := Earlier()] = 1
    whole.completing.missed(world.content)
    assert world.asked == 0
    earlier.handles.clear()
    whole.completing.missed(world.content)
    wait_until(whole.is_over, "it has ended")
    assert not whole.missing()


class Earlier:
    """A content for which all that came before, and that is still open."""

    def __init__(self) -> None:
        self.handles = {self: None}


def test_a_failure_ends_it_and_the_next_miss_begins_again(world: World) -> None:
    """Goal: servers that are away are not asked for ever; once they are back all comes."""
    whole, download = Whole(world), world.servers.download

    def unreachable(name: bytes) -> bytes:
        world.asked += 1
        raise errors.Unreachable("away")

    world.servers.download = unreachable
    whole.completing.missed(world.content)
    wait_until(whole.is_over, "it has ended")
    assert world.asked == 1
    world.servers.download = download
    whole.completing.missed(world.content)
    wait_until(whole.is_over, "it has ended")
    assert not whole.missing()


def test_a_client_that_ends_waits_for_one_entry_at_most(world: World) -> None:
    """Goal: closing neither hangs nor leaves anything behind."""
    whole = Whole(world)
    world.go_on.clear()
    whole.completing.missed(world.content)
    wait_until(lambda: world.asked == 1, "the first is under way")
    world.in_thread(whole.completing.close)
    wait_until(lambda: whole.completing._closed, "it is closing")
    world.go_on.set()
    world.threads[-1].join(10)
    assert not world.threads[-1].is_alive()
    assert world.asked == 1
    whole.completing.missed(world.content)
    assert whole.is_over()
