"""Chunks that nobody needs: listed, deleted, and their room given back, without ever taking one that somebody needs."""

import os
import random
import threading
import time
from pathlib import Path

import pytest
from chunk_homes import damage, kept

from dfsfuse import errors
from dfsfuse.chunks import chunk_name
from servers import chunkstore, packs
from servers.chunkstore import ChunkStore
from servers.packs import PACK_BYTES_MAX
from servers.receipts import COUNTER_BITS

SMALL = [b"%d " % number * 500 for number in range(30)]
LARGE = [b"%d " % number * 200_000 for number in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    return ChunkStore(tmp_path)


def stored(store: ChunkStore, chunks: list[bytes]) -> list[bytes]:
    """Their names."""
    for data in chunks:
        store.store(chunk_name(data), data)
    return [chunk_name(data) for data in chunks]


def test_the_inventory_in_pages(store: ChunkStore):
    """Goal: every chunk on the disk is listed once, in order, whatever the page's size, files and packs mixed."""
    names = stored(store, SMALL + LARGE)
    store.sync()
    for limit in (1, 7, 1000):
        listed, after = [], b""
        while page := store.inventory(after, limit):
            assert len(page) <= limit
            listed, after = listed + page, page[-1]
        assert listed == sorted(names)


@pytest.mark.parametrize("synced", [True, False])
@pytest.mark.parametrize("data", [SMALL[0], LARGE[0]], ids=["pack", "file"])
def test_deleted_is_gone(store: ChunkStore, tmp_path: Path, data: bytes, synced: bool):
    """Goal: a deleted chunk is missing for every call, counted nowhere, and can be stored anew; others stay."""
    others = stored(store, SMALL[1:] + LARGE[1:])
    (name,) = stored(store, [data])
    if synced:
        store.sync()
    assert store.read(name) == data
    assert store.delete([name, chunk_name(b"never here")], store.receipts.next) == [name, chunk_name(b"never here")]
    assert (store.has(name), store.confirm([name])) == (False, {})
    for again in (0, 5):
        with pytest.raises(errors.ChunkMissing):
            store.read(name, again)
    assert name not in store.inventory()
    store.sync()
    for each in (store, ChunkStore(tmp_path)):
        assert (each.chunks, each.stored_bytes) == (
            len(others),
            sum(map(len, SMALL[1:] + LARGE[1:])),
        )
    store.store(name, data)
    assert store.read(name) == data
    assert store.chunks == len(others) + 1


def test_what_has_a_newer_receipt_stays(store: ChunkStore):
    """Goal: what was stored or confirmed again since the directory was asked is not deleted."""
    names = stored(store, SMALL)
    below = store.receipts.next
    store.store(names[3], SMALL[3])
    store.confirm([names[7]])
    assert sorted(store.delete(names, below)) == sorted({*names} - {names[3], names[7]})
    assert store.read(names[3]) + store.read(names[7]) == SMALL[3] + SMALL[7]


def test_deletions_meet_stores_and_confirmations(store: ChunkStore):
    """Goal: with chunks deleted, stored and confirmed at once by many threads: who got a receipt from the limit on
    finds the chunk there, always."""
    chunks = SMALL[:5] + LARGE[:2]
    end, wrong = time.monotonic() + 3, []
    raised = threading.Lock()

    def delete() -> None:
        while time.monotonic() < end:
            with raised:
                below = store.receipts.next
            store.delete([chunk_name(data) for data in chunks], below)

    def use(seed: int) -> None:
        choice = random.Random(seed)
        while time.monotonic() < end:
            data = choice.choice(chunks)
            # While `raised` is held no limit is set above the receipt, as none is while a commit relies on it.
            with raised:
                confirmed = choice.random() < 0.5
                there = bool(store.confirm([chunk_name(data)]) if confirmed else store.store(chunk_name(data), data))
                if there and not store.has(chunk_name(data)):
                    wrong.append(data[:10])

    threads = [threading.Thread(target=delete)] + [threading.Thread(target=use, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_an_index_that_has_no_room_keeps_what_is_to_be_deleted(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: a chunk whose row cannot be removed is not told of as deleted, and is whole; later it is deleted."""
    names = stored(store, SMALL)
    store.sync()

    def full(*_: object) -> None:
        raise errors.NoSpace("the disk has no room for the index of packs")

    with monkeypatch.context() as patch:
        patch.setattr(store._packs._index, "remove", full)
        assert store.delete(names, store.receipts.next) == []
    assert [store.read(name) for name in names] == SMALL
    assert store.delete(names, store.receipts.next) == names


def test_a_file_that_the_disk_does_not_let_go(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: a chunk file that cannot be removed is not told of as deleted, and is still counted."""
    names = stored(store, LARGE)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        assert store.delete(names, store.receipts.next) == []
    assert (store.chunks, store.stored_bytes) == (len(LARGE), sum(map(len, LARGE)))


def test_a_store_has_an_id(tmp_path: Path):
    """Goal: a home keeps its id across restarts; an emptied one gets another."""
    first = ChunkStore(tmp_path / "a").id
    assert len(first) == 32
    assert ChunkStore(tmp_path / "a").id == first
    assert ChunkStore(tmp_path / "b").id != first


def test_a_new_disk_numbers_from_where_it_is_told(tmp_path: Path):
    """Goal: receipts go on from the number that the directory tells, and those of the next start are above them."""
    store = ChunkStore(tmp_path)
    early = store.store(chunk_name(SMALL[0]), SMALL[0])
    store.number_from((41 << COUNTER_BITS) + 5)
    assert early < store.store(chunk_name(SMALL[0]), SMALL[0]) == (41 << COUNTER_BITS) + 5
    assert ChunkStore(tmp_path).receipts.first == (42 << COUNTER_BITS) + 1


def test_numbers_up_to_which_all_is_on_the_disk(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: `synced` is the last receipt before a sync that succeeded."""
    assert store.receipts.synced == 0
    stored(store, SMALL)
    number = store.receipts.next - 1
    store.sync()
    assert store.receipts.synced == number
    stored(store, LARGE)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(errors.Internal):
            store.sync()
    store.sync()
    assert store.receipts.synced == number, "what the disk did not take is missing"
    lost = store.broken.waiting(100)
    assert set(lost) <= {chunk_name(data) for data in LARGE}
    stored(store, LARGE)
    store.broken.settle(lost, [])
    assert (store.sync(), len(store.broken)) == (store.receipts.synced, 0)
    assert store.receipts.synced == store.receipts.next - 1


def test_what_was_set_aside_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a disk that breaks chunk after chunk is not filled with what humans are to see; all are replaced."""
    monkeypatch.setattr(chunkstore, "ASIDE_MAX", 2)
    store = ChunkStore(tmp_path)
    names = stored(store, LARGE)
    for name in names:
        damage(tmp_path, name)
        with pytest.raises(errors.ChunkCorrupt):
            store.read(name)
    again = ChunkStore(tmp_path)
    assert len(list((tmp_path / "corrupt").iterdir())) == 2
    assert set(again.broken.waiting(100)) == set(names)


def test_a_day_of_commits_stays_within_bounds(store: ChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: chunks that come and go, a few of which live, for many times what packs hold: the packs have at most twice
    what is live, and what two of them hold."""
    monkeypatch.setattr(packs, "PACK_BYTES", 200_000)
    live: list[bytes] = []
    choice = random.Random(5)
    written = 0
    for round_ in range(150):
        new = [choice.randbytes(choice.randrange(1, 8000)) for _ in range(20)]
        written += sum(map(len, new))
        live += [data for data, name in zip(new, stored(store, new), strict=True) if name]
        choice.shuffle(live)
        dead, live = live[30:], live[:30]
        store.delete([chunk_name(data) for data in dead], store.receipts.next)
        store.sync()
        while store.compact():
            pass
        size = sum(file.stat().st_size for file in (tmp_path / "packs").glob("0*"))
        assert size <= 2 * (sum(map(len, live)) + 48 * len(live)) + 2 * 220_000, round_
    assert written > 50 * 200_000
    for each in (store, ChunkStore(tmp_path)):
        assert [each.read(chunk_name(data)) for data in live] == live
        assert (each.chunks, each.stored_bytes) == (len(live), sum(map(len, live)))
    assert len(kept(tmp_path)) < 300
    assert max(map(len, live)) < PACK_BYTES_MAX
