"""How quickly a file server reads what it has, to verify it: beside its other work, and by a clock of this test."""

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dfsfuse.messages import Audited
from servers import scrub
from servers.scrub import BYTES_S, EVERY_S, SEEK_BYTES, Scrub

CHUNK_BYTES_MAX = 4 << 20


class EndOfPass(Exception):
    """The scrub begins to wait for its next pass."""


class Disk:
    """A store of chunks that have these lengths. Reading them takes no time, so all that passes is waited for; `read`:
    when each was read, and what that costs a disk."""

    def __init__(self, lengths: list[int]):
        self.lengths = {number.to_bytes(32, "big"): length for number, length in enumerate(lengths, 1)}
        self.now_s, self.paused_s = 0.0, 0.0
        self.read: list[tuple[float, int]] = []

    def begin_scrub(self) -> None: ...

    def inventory(self, after: bytes, limit: int) -> list[bytes]:
        return [name for name in self.lengths if name > after][:limit]

    def scrub(self, name: bytes) -> int:
        self.read.append((self.now_s, self.lengths[name] + SEEK_BYTES))
        return self.lengths[name]

    async def sleep(self, seconds: float) -> None:
        if seconds > EVERY_S / 2:
            self.paused_s = seconds
            raise EndOfPass
        self.now_s += seconds

    def most_within(self, window_s: float) -> int:
        """The most that was read within any such time."""
        return max(
            sum(cost for at_s, cost in self.read if start_s <= at_s < start_s + window_s) for start_s, _ in self.read
        )


async def at_once(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


async def nothing_is_needed(*_: Any) -> Audited:
    return Audited([])


def test_verifying_is_gentle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S16. A pass reads BYTES_S each second and no more, a chunk that has been begun aside, whether chunks are
    large or small; it takes no longer than that needs; and the next one begins EVERY_S later."""
    lengths = [CHUNK_BYTES_MAX] * 20 + [10] * 400 + [20_000] * 400
    random.Random(1).shuffle(lengths)
    disk = Disk(lengths)
    monkeypatch.setattr(scrub, "asyncio", SimpleNamespace(sleep=disk.sleep))
    work = Scrub(tmp_path, disk, SimpleNamespace(call=nothing_is_needed), "http://directory", at_once)
    work.is_syncing = False
    with pytest.raises(EndOfPass):
        asyncio.run(work.work())
    cost = sum(lengths) + len(lengths) * SEEK_BYTES
    assert len(disk.read) == len(lengths)
    assert disk.most_within(1.0) <= BYTES_S + CHUNK_BYTES_MAX + SEEK_BYTES
    assert disk.now_s == pytest.approx(cost / BYTES_S)
    assert disk.paused_s == pytest.approx(EVERY_S, abs=60)
