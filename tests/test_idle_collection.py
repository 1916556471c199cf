"""When Python's full search for garbage is made: while nothing happens, and never in the middle of work."""

import gc
import threading
from collections.abc import Iterator

import pytest

from dfsfuse.idle_collection import IDLE_S, WORK_S, WORK_S_MAX, IdleCollection


class Process:
    """How much it has worked so far, and at what amounts of work there was a search, which takes 30 ms, and memory was
    given back."""

    def __init__(self) -> None:
        self.spent_s, self.searches, self.given_back = 0.0, list[float](), list[float]()
        self.collection = IdleCollection(lambda: self.spent_s, self._search, self._give_back)

    def _give_back(self) -> None:
        self.given_back.append(self.spent_s)

    def _search(self) -> None:
        self.searches.append(self.spent_s)
        self.spent_s += 0.03

    def second(self, work_s: float) -> None:
        self.spent_s += work_s
        self.collection.look()


@pytest.fixture
def process() -> Process:
    return Process()


def test_the_first_idle_second_after_work(process: Process) -> None:
    """Goal: no search while there is work; one as soon as there is none, and no second one for the same work."""
    for _ in range(10):
        process.second(1.0)
    assert process.searches == []
    for _ in range(10):
        process.second(IDLE_S / 2)
    assert process.searches == [10.0 + IDLE_S / 2]


def test_who_does_little_is_left_alone(process: Process) -> None:
    """Goal: an idle process is searched once for each WORK_S that its idling has taken."""
    seconds = 10_000
    for _ in range(seconds):
        process.second(IDLE_S / 2)
    assert len(process.searches) == pytest.approx(seconds * IDLE_S / 2 / WORK_S, abs=1)


def test_work_without_a_pause(process: Process) -> None:
    """Goal: circles are found in the end, also where there is never an idle second."""
    for _ in range(1000):
        process.second(0.9)
    assert len(process.searches) == pytest.approx(900 / WORK_S_MAX, abs=1)


def test_memory_is_given_back_while_there_is_work(process: Process) -> None:
    """Goal: what was freed goes back each WORK_S, also where there is never an idle second; an idle process does so as
    rarely as it is searched."""
    for _ in range(1000):
        process.second(0.9)
    assert len(process.given_back) == pytest.approx(900 / WORK_S, rel=0.25)
    before = len(process.given_back)
    for _ in range(1000):
        process.second(IDLE_S / 2)
    assert len(process.given_back) - before == pytest.approx(1000 * IDLE_S / 2 / WORK_S, abs=1)


@pytest.fixture
def collector() -> Iterator[None]:
    """Python's, left as it was."""
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


def test_full_searches_do_not_begin_by_themselves(collector: None) -> None:
    """Goal: however many objects come to be, only the young ones are searched."""
    generations = list[int]()
    IdleCollection().begin()
    gc.callbacks.append(lambda phase, info: generations.append(info["generation"]))
    try:
        kept = [[number] for number in range(300_000)]
    finally:
        gc.callbacks.pop()
    assert len(kept) == 300_000
    assert set(generations) == {0, 1}
    assert gc.get_freeze_count() > 0
    assert "collect" in {thread.name for thread in threading.enumerate()}
