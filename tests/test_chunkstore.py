"""The chunk store on a real folder: what is stored is whole, what is served was verified, receipts only rise."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from servers import chunkstore
from servers.chunkstore import COUNTER_BITS, READ_BYTES, ChunkStore

DATA = b"some content " * 1000
NAME = chunk_name(DATA)


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    return ChunkStore(tmp_path)


def path_of(home: Path, name: bytes) -> Path:
    return home / "chunks" / name.hex()[:2] / name.hex()


def damage(home: Path, name: bytes) -> None:
    """Flip one bit in the middle, as a bad disk does: the length stays."""
    path = path_of(home, name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files_below(home: Path) -> list[str]:
    return [name for folder in ("chunks", "tmp", "corrupt") for *_, names in os.walk(home / folder) for name in names]


def test_what_is_stored_is_read_again(store: ChunkStore):
    """Goal: whole and in ranges, a chunk reads as it was stored, also one of many pieces."""
    large = os.urandom(3 * READ_BYTES + 17)
    for data in (b"x", DATA, large):
        store.store(chunk_name(data), data)
        assert store.read(chunk_name(data)) == data
        assert store.read(chunk_name(data), len(data) // 2) == data[len(data) // 2 :]
        assert store.read(chunk_name(data), 0, 1) == data[:1]
    assert (store.chunks, store.stored_bytes) == (3, 1 + len(DATA) + len(large))
    assert (store.received_chunks, store.served_chunks) == (3, 9)


def test_files_and_folders_are_private(store: ChunkStore, tmp_path: Path):
    """Goal: nobody else on the machine reads chunks."""
    store.store(NAME, DATA)
    assert stat.S_IMODE(path_of(tmp_path, NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "chunks" / NAME.hex()[:2]).stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        (chunk_name(b"other"), DATA, errors.BadHash),
        (b"short name", DATA, errors.BadHash),
        (chunk_name(b""), b"", errors.BadRequest),
        (chunk_name(b"\0" * (ENTRY_BYTES + 1)), b"\0" * (ENTRY_BYTES + 1), errors.BodyTooLarge),
    ],
)
def test_what_is_no_chunk_is_refused(store: ChunkStore, tmp_path: Path, name: bytes, data: bytes, error: type):
    """Goal: a wrong hash, a wrong name, nothing at all and too much are refused and leave no file."""
    with pytest.raises(error):
        store.store(name, data)
    assert files_below(tmp_path) == []
    assert store.chunks == 0


def test_a_range_beyond_the_chunk_is_refused(store: ChunkStore):
    """Goal: BadRange for every range that is not within the chunk; the chunk stays."""
    store.store(NAME, DATA)
    for offset, length in ((len(DATA), 1), (0, len(DATA) + 1), (-1, 2), (5, 0), (5, -1)):
        with pytest.raises(errors.BadRange):
            store.read(NAME, offset, length)
    assert store.read(NAME) == DATA


def test_a_missing_chunk(store: ChunkStore):
    """Goal: what was never stored is missing, for reads and for confirmations."""
    with pytest.raises(errors.ChunkMissing):
        store.read(NAME)
    assert not store.has(NAME)
    assert store.confirm([NAME]) == {}


def test_storing_again_is_a_success(store: ChunkStore):
    """Goal: a repeated upload gets a new receipt and is counted once."""
    assert store.store(NAME, DATA) < store.store(NAME, memoryview(DATA))
    assert (store.chunks, store.stored_bytes) == (1, len(DATA))


def test_a_chunk_of_another_length_is_replaced(store: ChunkStore, tmp_path: Path):
    """Goal: an upload repairs a file that a power cut has shortened."""
    store.store(NAME, DATA)
    os.truncate(path_of(tmp_path, NAME), 10)
    store.store(NAME, DATA)
    assert store.read(NAME) == DATA


def test_receipts_rise_across_restarts(tmp_path: Path):
    """Goal: every number is larger than all before it, uploads and confirmations alike, also after a restart."""
    numbers = []
    for start in (1, 2, 3):
        store = ChunkStore(tmp_path)
        numbers += [store.store(NAME, DATA), store.confirm([NAME])[NAME], store.store(NAME, DATA)]
        assert numbers[-1] >> COUNTER_BITS == start
    assert numbers == sorted(set(numbers))


def test_leftovers_of_a_kill_are_removed(store: ChunkStore, tmp_path: Path):
    """Goal: a chunk torn by SIGKILL lies in tmp/ alone and is gone after the next start; an empty file goes too."""
    store.store(NAME, DATA)
    (tmp_path / "tmp" / "7").write_bytes(DATA[:100])
    empty = chunk_name(b"lost by a power cut")
    path_of(tmp_path, empty).touch()
    again = ChunkStore(tmp_path)
    assert files_below(tmp_path) == [NAME.hex()]
    assert (again.chunks, again.stored_bytes) == (1, len(DATA))
    assert not again.has(empty)


@pytest.mark.parametrize("wanted", [(), (3, 5)])
def test_a_corrupt_chunk_is_set_aside(store: ChunkStore, tmp_path: Path, wanted: tuple[int, ...]):
    """Goal: after a restart a broken chunk is found by any read, never served, missing, and uploaded anew."""
    store.store(NAME, DATA)
    damage(tmp_path, NAME)
    again = ChunkStore(tmp_path)
    with pytest.raises(errors.ChunkCorrupt, match=NAME.hex()):
        again.read(NAME, *wanted)
    with pytest.raises(errors.ChunkMissing):
        again.read(NAME, *wanted)
    assert (tmp_path / "corrupt" / NAME.hex()).exists()
    assert (again.chunks, again.stored_bytes, again.confirm([NAME])) == (0, 0, {})
    again.store(NAME, DATA)
    assert again.read(NAME, *wanted) in (DATA, DATA[3:8])


def test_a_whole_read_verifies_each_time(store: ChunkStore, tmp_path: Path):
    """Goal: a chunk that breaks after it was stored and read is found by the next whole read."""
    store.store(NAME, DATA)
    store.read(NAME)
    damage(tmp_path, NAME)
    with pytest.raises(errors.ChunkCorrupt):
        store.read(NAME)


def test_a_disk_that_cannot_read(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: EIO is treated like a wrong hash: the chunk is set aside, so that it is repaired."""
    store.store(NAME, DATA)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", fail)
        with pytest.raises(errors.ChunkCorrupt, match="cannot read"):
            store.read(NAME)
    assert not store.has(NAME)


def test_a_full_disk_leaves_nothing_partial(store: ChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a disk that fills within a write gives NoSpace, no file, unchanged counters; later stores succeed."""
    real = os.write

    def write_half(handle: int, data: bytes) -> int:
        if len(data) < len(DATA):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, memoryview(data)[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_half)
        with pytest.raises(errors.NoSpace, match=NAME.hex()):
            store.store(NAME, DATA)
    assert files_below(tmp_path) == []
    assert (store.chunks, store.stored_bytes, store.received_chunks) == (0, 0, 0)
    store.store(NAME, DATA)
    assert store.read(NAME) == DATA


def test_sync_covers_what_was_stored(store: ChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: sync brings each new chunk and its folder to the disk once, and reports the last receipt's number."""
    store.sync()
    synced = []
    monkeypatch.setattr(chunkstore, "_sync_path", lambda path, sync: synced.append(path))
    number = store.store(NAME, DATA)
    assert store.sync() == number
    path = path_of(tmp_path, NAME)
    assert synced == [str(path), str(path.parent)]
    store.sync()
    assert len(synced) == 2


def test_the_first_sync_covers_what_an_earlier_process_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: chunks of a killed process, whose names nobody knows any more, are on disk after the next one's sync."""
    ChunkStore(tmp_path).store(NAME, DATA)
    calls = []
    monkeypatch.setattr(os, "sync", lambda: calls.append("all"))
    again = ChunkStore(tmp_path)
    again.sync()
    again.sync()
    assert calls == ["all"]


def test_a_chunk_that_cannot_be_synced_is_set_aside(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: after a failed fdatasync the chunk counts as missing, and the next sync does not claim to have it."""
    store.store(NAME, DATA)

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(errors.Internal, match="1 chunks"):
            store.sync()
    assert not store.has(NAME)
    store.sync()


def test_the_names_to_sync_are_bounded(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: the store that fills the list of unsynced names syncs, so memory stays bounded."""
    monkeypatch.setattr(chunkstore, "UNSYNCED_MAX", 10)
    for number in range(35):
        data = b"%d" % number
        store.store(chunk_name(data), data)
        assert len(store._unsynced) < 11


def test_many_threads_store_the_same_chunks(store: ChunkStore, tmp_path: Path):
    """Goal: concurrent stores of the same chunks give distinct receipts, right counters and whole files."""
    chunks = [os.urandom(1000) for _ in range(50)]
    numbers: list[int] = []

    def work() -> None:
        numbers.extend([store.store(chunk_name(data), data) for data in chunks])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(numbers)) == 200
    assert (store.chunks, store.stored_bytes) == (50, 50_000)
    assert all(store.read(chunk_name(data)) == data for data in chunks)
    assert not os.listdir(tmp_path / "tmp")
