"""Packs that are mostly dead space are rewritten: nothing that is live is lost by it, whatever comes between."""

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chunk_homes import kept, records
from support import small_disk, wait_until

from dfsfuse import errors
from dfsfuse.chunks import chunk_name
from servers import pack_compaction, packs
from servers.chunkstore import ChunkStore
from servers.pack_file import HEADER_BYTES, PackFile

CHUNKS = [b"%d " % number * (20 + number) for number in range(60)]
NAMES = [chunk_name(data) for data in CHUNKS]
LIVE = list(range(0, 60, 3))
PACK_BYTES = 1500


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", PACK_BYTES)
    monkeypatch.setattr(pack_compaction, "AT_ONCE", 3)


def two_thirds_dead(home: Path) -> ChunkStore:
    """CHUNKS in several packs, of which those in LIVE are left."""
    store = ChunkStore(home)
    for name, data in zip(NAMES, CHUNKS, strict=True):
        store.store(name, data)
    store.sync()
    store.delete([name for at, name in enumerate(NAMES) if at not in LIVE], store.receipts.next)
    return store


def check(store: ChunkStore) -> None:
    assert [at for at in LIVE if store.read(NAMES[at]) != CHUNKS[at]] == []


def check_only_live(store: ChunkStore) -> None:
    check(store)
    assert (store.chunks, store.stored_bytes) == (len(LIVE), sum(len(CHUNKS[at]) for at in LIVE))


def sizes(home: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in (home / "packs").glob("0*")}


def compact_all(store: ChunkStore) -> int:
    freed = 0
    while more := store.compact():
        freed += more
    return freed


def test_the_room_of_what_was_deleted_is_free(tmp_path: Path):
    """Goal: packs of which more than half is dead are gone, what is live of them is there, and in the index; the last
    pack, to which chunks are appended, is left."""
    store = two_thirds_dead(tmp_path)
    before = sum(sizes(tmp_path).values())
    assert store.compact() > 0
    freed = compact_all(store)
    assert freed > 0
    check_only_live(store)
    live = sum(len(CHUNKS[at]) + HEADER_BYTES for at in LIVE)
    assert sum(sizes(tmp_path).values()) < min(before / 2, live + 2 * PACK_BYTES)
    assert store.compact() == 0
    check_only_live(ChunkStore(tmp_path))
    for file in (tmp_path / "packs").glob("index.db*"):
        file.unlink()
    check(ChunkStore(tmp_path))


def test_a_pack_that_is_half_live_stays(tmp_path: Path):
    """Goal: what is more than half live is not rewritten."""
    store = ChunkStore(tmp_path)
    chunks = [bytes([number]) * 400 for number in range(8)]
    for data in chunks:
        store.store(chunk_name(data), data)
    store.sync()
    store.delete([chunk_name(chunks[0])], store.receipts.next)
    assert store.compact() == 0
    store.delete([chunk_name(chunks[1]), chunk_name(chunks[2])], store.receipts.next)
    assert store.compact() > 0


def test_what_waits_for_the_index_keeps_its_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a pack with records that have no rows yet, as the index has no room, is not taken for dead."""
    store = two_thirds_dead(tmp_path)

    def full(*_: object) -> None:
        raise errors.NoSpace("the disk has no room for the index of packs")

    more = [os.urandom(700) for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(store._packs._index, "add", full)
        for data in more:
            store.store(chunk_name(data), data)
        store.sync()
        for data in (os.urandom(1000) for _ in range(4)):
            store.store(chunk_name(data), data)
        store.sync()
        compact_all(store)
    assert [store.read(chunk_name(data)) for data in more] == more
    store.sync()
    compact_all(store)
    for each in (store, ChunkStore(tmp_path)):
        assert [each.read(chunk_name(data)) for data in more] == more


def dying(owner: object, name: str, left: Iterator[int]) -> None:
    """Kill this process before or after a call of `name`, when nothing is left of `left`."""
    real = getattr(owner, name)

    def step() -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    def call(*arguments: object) -> object:
        step()
        result = real(*arguments)
        step()
        return result

    setattr(owner, name, call)


def compact_and_die(home: Path, steps: int) -> bool:
    """In a process that is killed after so many steps; whether it came to its end before."""
    pid = os.fork()
    if not pid:
        store, left = ChunkStore(home), iter(range(steps))
        for name in ("pwritev", "fdatasync", "fsync", "unlink", "ftruncate"):
            dying(os, name, left)
        for name in ("move", "forget_packs"):
            dying(store._packs._index, name, left)
        compact_all(store)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status == 0


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: for a kill it is as good as a disk, and a hundred homes are made in no time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


def test_a_kill_at_each_step(memory: Path):
    """Goal: killed before and after each write, sync, removal and change of the index: the next process has what is
    live, no more, and compacts to the end; also without the index it has what is live."""
    two_thirds_dead(memory / "source").close()
    for steps in range(1000):
        home = memory / "home"
        shutil.copytree(memory / "source", home)
        ended = compact_and_die(home, steps)
        shutil.copytree(home / "packs", memory / "no index" / "packs", ignore=shutil.ignore_patterns("index.db*"))
        check(ChunkStore(memory / "no index"))
        store = ChunkStore(home)
        check_only_live(store)
        compact_all(store)
        check_only_live(store)
        assert sum(sizes(home).values()) < sum(len(CHUNKS[at]) + HEADER_BYTES for at in LIVE) + 3 * PACK_BYTES
        shutil.rmtree(home)
        shutil.rmtree(memory / "no index")
        if ended:
            break
    assert steps > 20


def test_a_power_cut_at_each_step(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: the disk as it is before and after each sync, removal and change of the index, the kernel's memory lost:
    all that is live is there and whole."""
    with small_disk(folder / "disk", 16):
        store = two_thirds_dead(folder / "disk" / "home")
        cuts = 0

        def cutting(owner: object, name: str) -> None:
            real = getattr(owner, name)

            def call(*arguments: object) -> object:
                nonlocal cuts
                cuts += 1
                shutil.copy(folder / "disk.img", folder / f"cut{cuts}.img")
                return real(*arguments)

            monkeypatch.setattr(owner, name, call)

        for name in ("fdatasync", "fsync", "unlink"):
            cutting(os, name)
        for name in ("move", "forget_packs"):
            cutting(store._packs._index, name)
        compact_all(store)
        monkeypatch.undo()
        check_only_live(store)
        assert cuts > 20
        for cut in range(1, cuts + 1):
            check_after_the_cut(folder, cut)


def check_after_the_cut(folder: Path, cut: int) -> None:
    point = folder / f"cut{cut}"
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", folder / f"cut{cut}.img", point], check=True)
    try:
        check(ChunkStore(point / "home"))
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)
        (folder / f"cut{cut}.img").unlink()


def fails(number: int) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(("owner", "name"), [(os, "pwritev"), (os, "fdatasync"), (PackFile, "sync_name")])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str):
    """Goal: a full or failing disk leaves the pack as it was and nothing else, however often it is tried; then it is
    rewritten."""
    store = two_thirds_dead(tmp_path)
    before = sizes(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails(errno.ENOSPC))
        for _ in range(3):
            with pytest.raises(errors.NoSpace, match="mostly dead"):
                store.compact()
    assert sizes(tmp_path) == before
    compact_all(store)
    check_only_live(store)


def test_an_index_that_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: where rows cannot be moved the copies are taken back."""
    store = two_thirds_dead(tmp_path)
    before = sizes(tmp_path)

    def full(*_: object) -> None:
        raise errors.NoSpace("the disk has no room for the index of packs")

    with monkeypatch.context() as patch:
        patch.setattr(store._packs._index, "move", full)
        with pytest.raises(errors.NoSpace):
            store.compact()
    assert sizes(tmp_path) == before
    check_only_live(store)
    compact_all(store)
    check_only_live(ChunkStore(tmp_path))


def test_an_index_that_breaks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: an index that has to be made again while rows are moved has deleted chunks again, and loses none that is
    live."""
    store = two_thirds_dead(tmp_path)
    real, calls = store._packs._index.move, []

    def breaking(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            connection = sqlite3.connect(tmp_path / "packs" / "index.db")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            path = tmp_path / "packs" / "index.db"
            path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
        real(*arguments)

    monkeypatch.setattr(store._packs._index, "move", breaking)
    compact_all(store)
    check(store)
    store.delete([name for at, name in enumerate(NAMES) if at not in LIVE], store.receipts.next)
    compact_all(store)
    check_only_live(store)
    check_only_live(ChunkStore(tmp_path))


def test_a_broken_record_is_not_copied(tmp_path: Path):
    """Goal: a live record that is broken is set aside and missing, not carried on under another place."""
    store = two_thirds_dead(tmp_path)
    where = kept(tmp_path)[NAMES[LIVE[1]].hex()]
    where.flip(3)
    broken = where.read()
    compact_all(store)
    assert not store.has(NAMES[LIVE[1]])
    assert (tmp_path / "corrupt" / NAMES[LIVE[1]].hex()).read_bytes() == broken
    store.store(NAMES[LIVE[1]], CHUNKS[LIVE[1]])
    check_only_live(store)
    numbers = [int(name) for name in sizes(tmp_path)]
    assert all(record.sound for number in numbers for record in records(tmp_path, number))


def test_reading_and_storing_go_on(tmp_path: Path):
    """Goal: threads that read, store and delete while packs are rewritten: what is live is read right each time."""
    store = two_thirds_dead(tmp_path)
    done, wrong = threading.Event(), []

    def guarded(work: Callable[[random.Random], None], seed: int) -> None:
        choice = random.Random(seed)
        try:
            while not done.is_set():
                work(choice)
        except Exception as error:  # noqa: BLE001 - whatever it is fails the test
            wrong.append(error)

    def look(choice: random.Random) -> None:
        at = choice.choice(LIVE)
        if store.read(NAMES[at]) != CHUNKS[at] or store.read(NAMES[at], 5, 3) != CHUNKS[at][5:8]:
            wrong.append(at)

    def churn(choice: random.Random) -> None:
        new = [choice.randbytes(choice.randrange(1, 600)) for _ in range(10)]
        for data in new:
            store.store(chunk_name(data), data)
        store.sync()
        store.delete([chunk_name(data) for data in new], store.receipts.next)

    threads = [threading.Thread(target=guarded, args=(work, at)) for at, work in enumerate((look, look, churn))]
    for thread in threads:
        thread.start()
    before = store._packs._last
    wait_until(lambda: (store.compact(), wrong or store._packs._last > before + 40)[1], "many packs come and go")
    done.set()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    compact_all(store)
    assert len(sizes(tmp_path)) < 10
    check_only_live(store)
    check(ChunkStore(tmp_path))


def store_until_full(store: ChunkStore, stored: list[bytes]) -> None:
    while True:
        data = os.urandom(random.randrange(1, 20_000))
        store.store(chunk_name(data), data)
        stored.append(data)


def test_a_full_disk_has_room_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: on a real file system that is full chunks can be deleted, and their room is there for new ones."""
    monkeypatch.setattr(packs, "PACK_BYTES", 1 << 20)
    monkeypatch.setattr(pack_compaction, "AT_ONCE", 4096)
    with small_disk(folder / "disk", 16):
        store = ChunkStore(folder / "disk" / "home")
        stored: list[bytes] = []
        for _ in range(2):
            with pytest.raises(errors.NoSpace):
                store_until_full(store, stored)
            store.sync()
            random.Random(3).shuffle(stored)
            dead, stored = stored[len(stored) // 8 :], stored[: len(stored) // 8]
            gone = store.delete([chunk_name(data) for data in dead], store.receipts.next)
            assert len(gone) == len(dead)
            compact_all(store)
            assert store.capacity()[0] > store.capacity()[1] / 2
        assert [data for data in stored if store.read(chunk_name(data)) != data] == []
