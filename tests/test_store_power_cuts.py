"""Power cuts of the directory: its store's disk as it is at any moment, what was in the kernel's memory alone lost."""

import ctypes
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from support import after_a_power_cut, small_disk

from servers.store import Transaction, sqlite
from servers.store.sqlite import SqliteStore

ROUNDS = 10
KEPT = 30
CHECKPOINT_BYTES = 2_500_000
"""So small that the log is brought into the database a few times."""
ALL = (b"", b"\xff" * 20)
_WRITE_ALL = 7
"""The flags of sync_file_range: wait for what is being written, write, and wait for that."""


def value_of(number: int, part: int) -> bytes:
    return b"%d %d " % (number, part) * (1 + (number * 7919 + part * 104_729) % 300)


def change(number: int) -> Callable[[Transaction], None]:
    """Transaction `number`: three new rows, one that is changed each time, and three old ones removed."""

    def run(tx: Transaction) -> None:
        for part in range(3):
            tx.put(b"%08d %d" % (number, part), value_of(number, part))
            tx.delete(b"%08d %d" % (number - KEPT, part))
        tx.put(b"latest", b"%d" % number)

    return run


def rows_after(number: int) -> dict[bytes, bytes]:
    """What there is after the transactions up to this one."""
    there = range(max(1, number - KEPT + 1), number + 1)
    rows = {b"%08d %d" % (each, part): value_of(each, part) for each in there for part in range(3)}
    return rows | ({b"latest": b"%d" % number} if number else {})


class Power:
    """A store on a disk of its own. `done` transactions were answered, `synced` of them before a sync that was."""

    def __init__(self, folder: Path, seed: int):
        self._folder, self._random = folder, random.Random(seed)
        self._path = folder / "disk" / "directory.db"
        self.store = SqliteStore(self._path)
        self.store.sync()
        self.done = self.synced = self.cuts = 0
        self.found: list[int] = []

    def transact(self, count: int) -> None:
        for _ in range(count):
            self.store.transact(change(self.done + 1))
            self.done += 1

    def sync(self) -> None:
        self.store.sync()
        self.synced = self.done

    def write_some(self) -> None:
        """As the kernel does by itself: any parts of what is in memory, in any order."""
        for file in self._random.sample([self._path, Path(f"{self._path}-wal")], self._random.randrange(3)):
            with file.open("rb") as opened:
                for _ in range(self._random.randrange(1, 6)):
                    start = self._random.randrange(max(1, file.stat().st_size)) & ~4095
                    _write_range(opened.fileno(), start, self._random.choice((4096, 16_384, 200_000)))

    def cut(self) -> None:
        """Look at what the disk would have if the power went now."""
        self.cuts += 1
        with after_a_power_cut(self._folder / "disk.img", self._folder / f"cut{self.cuts}") as point:
            store = SqliteStore(point / "directory.db")
            rows = dict(store.read(lambda tx: tx.range(*ALL, 10_000)))
            latest = int(rows.get(b"latest", b"0"))
            assert self.synced <= latest <= self.done, f"{self.synced} were synced, and {latest} are there"
            assert rows == rows_after(latest), "half of a transaction"
            store.transact(change(latest + 1))
            store.close()
            with sqlite3.connect(point / "directory.db") as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            connection.close()
            self.found.append(latest)


def _write_range(file: int, start: int, length: int) -> None:
    c = ctypes.CDLL(None, use_errno=True)
    failed = c.sync_file_range(ctypes.c_int(file), ctypes.c_int64(start), ctypes.c_int64(length), _WRITE_ALL)
    assert not failed, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize("seed", [1, 2])
def test_a_power_cut(folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Goal: S10. Whenever the power goes, what was synced is there, of what was not the first part may be, nothing is
    there by half, and the store goes on: before, in and after a sync, also when the kernel has written parts of the
    database and its log by itself, and when the log has been brought into the database and begun anew."""
    limit = next(pragma for pragma in sqlite._PRAGMAS if pragma.startswith("journal_size_limit"))
    smaller = f"journal_size_limit={CHECKPOINT_BYTES // 2}"
    monkeypatch.setattr(sqlite, "_CHECKPOINT_BYTES", CHECKPOINT_BYTES)
    monkeypatch.setattr(sqlite, "_PRAGMAS", [smaller if each == limit else each for each in sqlite._PRAGMAS])
    real = os.fdatasync
    with small_disk(folder / "disk", 32):
        power = Power(folder, seed)

        def fdatasync(file: int) -> None:
            power.cut()
            real(file)

        choose = random.Random(seed)
        for _ in range(ROUNDS):
            power.transact(choose.randrange(1, 80))
            if choose.random() < 0.5:
                power.write_some()
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", fdatasync)
                power.sync()
            power.cut()
            power.transact(choose.randrange(0, 20))
            power.write_some()
            power.cut()
        power.store.close()
    assert len(set(power.found)) > ROUNDS
