"""Volumes of earlier versions get what they lack when the directory starts, by steps that a kill may come between."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from counted_rows import CountingStore
from test_directory_content import large, put
from volumes import ENGINES, Volume, volume_on

from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from dfsfuse.messages import Manifest, Segment
from servers import short_rows, upgrade
from servers.store import Result, Store, Transaction

ROWS = 10


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    """With small files, and one whose manifest is in segments."""
    with volume_on(request.param, tmp_path) as made:
        for number in range(20):
            made.commit(made.make(f"f{number}").ino, b"content %d" % number)
        ino = made.make("large").ino
        parts = [Segment(bytes([part]) * 16, part, large(*(b"%d %d" % (part, n) for n in range(8)))) for part in (0, 1)]
        put(made, ino, *parts)
        made.commit(ino, size=2 * 1024 * ENTRY_BYTES, manifest=Manifest([], [part.id for part in parts]))
        while made.core.settle(made.now_s):
            pass
        yield made


class Killed(Exception):
    pass


class KilledStore(CountingStore):
    """Its process is killed after each step."""

    steps = 0

    def transact(self, operation: Callable[[Transaction], Result]) -> Result:
        done = super().transact(operation)
        self.steps += 1
        if done:
            raise Killed
        return done


def references_of(store: Store) -> list[tuple[bytes, bytes]]:
    return store.read(lambda tx: tx.range(b"c", b"d", 10_000))


def forget(tx: Transaction) -> None:
    for key, _ in tx.range(b"c", b"d", 10_000):
        tx.delete(key)
    tx.delete(b"mreferences")


def test_references_are_made_by_steps(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a volume that was made before there were references has all of them after many small steps, with a kill
    after each."""
    monkeypatch.setattr(upgrade, "ROWS", ROWS)
    before = references_of(volume.store)
    volume.store.transact(forget)
    store = KilledStore(volume.store)
    for _ in range(100):
        try:
            upgrade.build_references(store)
            break
        except Killed:
            continue
    assert references_of(volume.store) == before
    assert store.steps > len(before) / ROWS
    volume.restart()
    assert references_of(volume.store) == before


def test_short_rows_are_counted_by_steps(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: in a volume that was made when nobody counted them they are counted, once, and those of what nobody needs
    any more go; with a kill after each step, and again when the directory starts."""
    monkeypatch.setattr(upgrade, "ROWS", ROWS)
    needed = [chunk_name(b"content %d" % number) for number in range(20)]
    rows = [("A", chunk) for chunk in needed] + [("C", chunk) for chunk in needed[:3]]
    needless = [(server, chunk_name(b"gone %d" % number)) for server in "ABC" for number in range(20)]

    def uncounted(tx: Transaction) -> None:
        for row in rows + needless:
            tx.put(short_rows.key(*row), b"")
        tx.delete(b"mshort_counted")

    volume.store.transact(uncounted)
    store = KilledStore(volume.store)
    for _ in range(100):
        try:
            upgrade.count_short_rows(store)
            break
        except Killed:
            continue
    volume.restart()
    assert volume.store.read(lambda tx: [short_rows.count(tx, name) for name in "ABC"]) == [20, 0, 3]
    assert store.steps > len(rows + needless) / ROWS
