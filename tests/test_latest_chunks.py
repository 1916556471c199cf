"""Chunks that came last, in memory: fetched once, given to all who ask, and never overwritten while somebody reads."""

import contextlib
import random
import threading
from collections.abc import Iterator

import pytest

from dfsfuse.buffers import SPARE_MAX, Buffers
from dfsfuse.latest_chunks import KEPT_MAX, LatestChunks


def content(name: bytes) -> bytes:
    return name * 1000


class Counting(Buffers):
    """How many are lent, and how many were ever made."""

    def __init__(self) -> None:
        super().__init__()
        self.lent = self.made = 0

    def take(self) -> memoryview:
        self.made += not self._spare
        self.lent += 1
        return super().take()

    def give(self, buffer: memoryview) -> None:
        self.lent -= 1
        buffer[:4000] = b"over" * 1000
        super().give(buffer)


class World:
    def __init__(self) -> None:
        self.buffers, self.asked = Counting(), list[bytes]()
        self.latest = LatestChunks(self.bring, self.buffers)

    def bring(self, name: bytes, buffer: memoryview) -> int:
        self.asked.append(name)
        data = content(name)
        buffer[: len(data)] = data
        return len(data)

    def get(self, name: bytes) -> bytes:
        with self.latest.lend(name) as data:
            return bytes(data)

    def part(self, name: bytes, start: int, length: int) -> bytes | None:
        part = memoryview(bytearray(length))
        return bytes(part) if self.latest.copy(name, start, part) else None


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert made.buffers.lent <= KEPT_MAX


def test_what_came_last_is_not_asked_for_again(world: World) -> None:
    """Goal: KEPT_MAX chunks stay, those that came last, also where one that came before is read meanwhile; a part of
    one is copied from memory, or not at all."""
    names = [b"%04d" % number for number in range(KEPT_MAX)]
    for name in names * 3:
        assert world.get(name) == content(name)
    assert world.asked == names
    assert world.part(names[0], 4, 8) == names[0] * 2
    assert world.part(b"else", 0, 4) is None
    world.get(b"more")
    assert world.part(names[0], 0, 4) is None
    assert world.part(names[1], 0, 4) == names[1]
    assert world.buffers.made == KEPT_MAX + 1


def test_a_chunk_that_does_not_come(world: World) -> None:
    """Goal: its buffer is given back, and the next one who asks is answered."""

    def fails(name: bytes, buffer: memoryview) -> int:
        raise OSError("away")

    latest = LatestChunks(fails, world.buffers)
    with pytest.raises(OSError, match="away"), latest.lend(b"name"):
        pass
    assert world.buffers.lent == 0


def test_what_somebody_reads_stays(world: World) -> None:
    """Goal: a lent chunk is the same until the end of the block, whatever comes meanwhile; then its buffer is free."""
    with contextlib.ExitStack() as lent:
        read = {name: lent.enter_context(world.latest.lend(name)) for name in (b"%04d" % n for n in range(10))}
        for number in range(10, 30):
            world.get(b"%04d" % number)
        assert all(data == content(name) for name, data in read.items())
    assert world.buffers.lent <= KEPT_MAX
    assert len(world.buffers._spare) <= SPARE_MAX


def test_two_ask_for_the_same_at_once(world: World) -> None:
    """Goal: each gets it whole, though it is kept once."""
    with world.latest.lend(b"same") as first:
        world.latest._kept.clear()  # As if the second one had not found it: both have asked.
        with world.latest.lend(b"same") as second:
            assert first == second == content(b"same")
        assert first == content(b"same")
    assert world.part(b"same", 0, 4) == b"same"
    assert world.buffers.lent == 1


def test_many_threads(world: World) -> None:
    """Goal: whoever is lent a chunk, or copies a part of one, never sees another's bytes."""
    wrong = []

    def read(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(300):
            name = b"%04d" % choose.randrange(8)
            with world.latest.lend(name) as data:
                if data != content(name) or world.part(name, 0, 8) not in (None, name * 2):
                    wrong.append(name)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
