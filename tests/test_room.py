"""Room on the cache's disk for what programs write past the client."""

import threading
from pathlib import Path

import pytest
from support import wait_until

from dfsfuse import room
from dfsfuse.room import Room


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(room, "LOOK_S", 0.001)


def test_room_is_made_while_programs_write(tmp_path: Path, monkeypatch) -> None:
    """Goal: what nobody uses is evicted before the disk is full, as long as somebody may be writing, and no longer."""
    needed, evicted = threading.Event(), threading.Semaphore(0)
    needed.set()
    monkeypatch.setattr(room, "AMPLE_BYTES", 1 << 60)
    made = Room(tmp_path, lambda: evicted.release() or 1, needed.is_set)
    assert not made.is_ample()
    made.keep()
    made.keep()
    for _ in range(3):
        assert evicted.acquire(timeout=5)
    needed.clear()
    wait_until(lambda: not made._looking, "nobody looks any more")
    assert [thread.name for thread in threading.enumerate()].count("room") <= 1
    while evicted.acquire(blocking=False):
        pass
    needed.set()
    made.keep()
    assert evicted.acquire(timeout=5)
    needed.clear()
    wait_until(lambda: not made._looking, "nobody looks any more")


def test_nothing_is_evicted_where_there_is_room(tmp_path: Path, monkeypatch) -> None:
    """Goal: a look costs nothing else."""
    looks = iter([True, True, True, False])
    monkeypatch.setattr(room, "AMPLE_BYTES", 0)
    evicted: list[int] = []
    made = Room(tmp_path, lambda: evicted.append(1) or 1, lambda: next(looks))
    assert made.is_ample()
    made.keep()
    wait_until(lambda: not made._looking, "nobody looks any more")
    assert evicted == []
