"""Syncs that come by themselves, on simulated time: how long what was stored may be lost, and what an idle server
does."""

import asyncio
from collections.abc import Callable

import pytest
from simulation.loop import SimulatedLoop

from dfsfuse import errors
from servers.regular_syncs import SYNC_EVERY_S, sync_regularly


class Disk:
    """A sync of it takes `sync_s`; `syncs` has when each began and ended."""

    def __init__(self, sync_s: float, changed: Callable[[float], bool] = lambda now: True):
        self._loop, self._sync_s, self._changed = SimulatedLoop(lambda: 0.0), sync_s, changed
        self._began = self._loop.now
        self.syncs: list[tuple[float, float]] = []
        self.failing = 0

    @property
    def now(self) -> float:
        return self._loop.now - self._began

    async def sync(self) -> None:
        began = self.now
        await asyncio.sleep(self._sync_s)
        self.syncs.append((began, self.now))
        if self.failing:
            self.failing -= 1
            raise errors.Internal("the disk fails")

    def run(self, seconds: float) -> None:
        def is_synced() -> bool:
            return not self._changed(self.now)

        self._loop.create_task(sync_regularly(is_synced, self.sync))
        self._loop.run_until(self._loop.now + seconds)


@pytest.mark.parametrize(("sync_s", "at_most_s"), [(0.001, 0.501), (0.1, 0.6), (0.25, 0.75), (0.5, 1.0), (2.0, 4.0)])
def test_what_a_power_cut_takes(sync_s: float, at_most_s: float) -> None:
    """Goal: S10: whenever something is stored, it is on the disk half a second and a sync later, or two syncs where
    these are slow: less than a second, as long as a sync takes less than half of one."""
    disk = Disk(sync_s)
    disk.run(30.0)
    for at in range(2500):
        stored = at / 100
        on_disk = next(ended for began, ended in disk.syncs if began >= stored)
        assert on_disk - stored <= at_most_s + 1e-6


def test_an_idle_disk_is_left_alone() -> None:
    """Goal: no sync without anything new; and one soon after there is."""
    disk = Disk(0.01, changed=lambda now: 20.2 < now < 20.6)
    disk.run(60.0)
    assert len(disk.syncs) == 1
    assert 20.2 < disk.syncs[0][0] <= 20.2 + SYNC_EVERY_S


def test_a_disk_that_fails_is_tried_again() -> None:
    """Goal: a sync that fails ends nothing."""
    disk = Disk(0.01)
    disk.failing = 3
    disk.run(5.0)
    assert len(disk.syncs) == 9
