"""The chunk store on a real folder: what is stored is whole, what is served was verified, receipts only rise.

Nearly all of it holds for chunks in packs as for those that are files; `data` is one of each.
"""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from chunk_homes import damage, everything, kept
from support import is_in_pages

from dfsfuse import direct_io, errors
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from servers import chunkstore
from servers.chunk_files import READ_BYTES
from servers.chunkstore import ChunkStore
from servers.packs import PACK_BYTES_MAX
from servers.receipts import COUNTER_BITS

SMALL = b"some content " * 1000
LARGE = b"more content " * 30_000
NAME = chunk_name(SMALL)
LARGE_NAME = chunk_name(LARGE)


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    return ChunkStore(tmp_path)


@pytest.fixture(params=[SMALL, LARGE], ids=["pack", "file"])
def data(request: pytest.FixtureRequest) -> bytes:
    return request.param


@pytest.fixture
def name(data: bytes) -> bytes:
    return chunk_name(data)


def fail(number: int):
    """Stands for a system call that the disk fails."""

    def call(*_):
        raise OSError(number, os.strerror(number))

    return call


def path_of(home: Path, name: bytes) -> Path:
    """Of a chunk that is a file."""
    return home / "chunks" / name.hex()[:2] / name.hex()


def make_old_file(home: Path, content: bytes, name: bytes) -> None:
    """As versions without packs have stored small chunks too."""
    path_of(home, name).parent.mkdir(parents=True, exist_ok=True)
    path_of(home, name).write_bytes(content)


def test_what_is_stored_is_read_again(store: ChunkStore):
    """Goal: whole and in ranges, a chunk reads as it was stored, at each size where the way of keeping it changes."""
    chunks = [os.urandom(size) for size in (1, 4096, PACK_BYTES_MAX - 1, PACK_BYTES_MAX, 3 * READ_BYTES + 17)]
    for data in chunks:
        store.store(chunk_name(data), data)
        assert store.length(chunk_name(data)) == len(data)
        assert store.read(chunk_name(data)) == data
        assert store.read(chunk_name(data), len(data) // 2) == data[len(data) // 2 :]
        assert store.read(chunk_name(data), 0, 1) == data[:1]
    assert (store.chunks, store.stored_bytes) == (5, sum(map(len, chunks)))
    assert (store.received_chunks, store.served_chunks) == (5, 15)


def test_what_is_stored_is_there_after_a_restart(store: ChunkStore, tmp_path: Path, name: bytes, data: bytes):
    """Goal: with and without a sync before, the next process reads it and counts it."""
    for _ in range(2):
        store.store(name, data)
        again = ChunkStore(tmp_path)
        assert again.read(name) == data
        assert (again.chunks, again.stored_bytes) == (1, len(data))
        store.sync()


def test_small_chunks_share_a_file(store: ChunkStore, tmp_path: Path):
    """Goal: where a chunk goes depends on its size alone."""
    for size in (1, PACK_BYTES_MAX - 1, PACK_BYTES_MAX):
        store.store(chunk_name(bytes(size)), bytes(size))
    where = {length: path.parent.parent.name for path, _, length in kept(tmp_path).values()}
    assert where == {1: tmp_path.name, PACK_BYTES_MAX - 1: tmp_path.name, PACK_BYTES_MAX: "chunks"}


def test_files_and_folders_are_private(store: ChunkStore, tmp_path: Path, name: bytes, data: bytes):
    """Goal: nobody else on the machine reads chunks."""
    store.store(name, data)
    path = kept(tmp_path)[name.hex()].path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("wanted", "content", "error"),
    [
        (chunk_name(b"other"), SMALL, errors.BadHash),
        (chunk_name(b"other"), LARGE, errors.BadHash),
        (b"short name", SMALL, errors.BadHash),
        (chunk_name(b""), b"", errors.BadRequest),
        (chunk_name(b"\0" * (ENTRY_BYTES + 1)), b"\0" * (ENTRY_BYTES + 1), errors.BodyTooLarge),
    ],
)
def test_what_is_no_chunk_is_refused(store: ChunkStore, tmp_path: Path, wanted: bytes, content: bytes, error: type):
    """Goal: a wrong hash, a wrong name, nothing at all and too much are refused and leave nothing."""
    with pytest.raises(error):
        store.store(wanted, content)
    assert everything(tmp_path) == {}
    assert store.chunks == 0


def test_what_is_no_name_is_refused(store: ChunkStore):
    """Goal: a name of another length never reaches the disk."""
    with pytest.raises(errors.BadHash):
        store.length(b"short name")
    with pytest.raises(errors.BadHash):
        store.confirm([NAME, b"short name"])


def test_a_range_beyond_the_chunk_is_refused(store: ChunkStore, name: bytes, data: bytes):
    """Goal: BadRange for every range that is not within the chunk, also where a pack goes on; the chunk stays."""
    store.store(name, data)
    store.store(chunk_name(b"the next"), b"the next")
    for offset, length in ((len(data), 1), (0, len(data) + 1), (-1, 2), (5, 0), (5, -1)):
        with pytest.raises(errors.BadRange):
            store.read(name, offset, length)
    assert store.read(name) == data


def test_a_missing_chunk(store: ChunkStore):
    """Goal: what was never stored is missing, for reads and for confirmations."""
    with pytest.raises(errors.ChunkMissing):
        store.read(NAME)
    with pytest.raises(errors.ChunkMissing):
        store.piece(NAME, 0, 1)
    assert not store.has(NAME)
    assert store.confirm([NAME]) == {}


def test_storing_again_is_a_success(store: ChunkStore, tmp_path: Path, name: bytes, data: bytes):
    """Goal: a repeated upload gets a new receipt, is counted once and kept once: before and after a sync, and after a
    restart."""
    first = store.store(name, data)
    size = sum(path.stat().st_size for path in {where.path for where in kept(tmp_path).values()})
    assert first < store.store(name, memoryview(data))
    store.sync()
    store.store(name, data)
    assert (store.chunks, store.stored_bytes) == (1, len(data))
    again = ChunkStore(tmp_path)
    again.store(name, data)
    assert (again.chunks, again.stored_bytes) == (1, len(data))
    assert sum(path.stat().st_size for path in {where.path for where in kept(tmp_path).values()}) == size


def test_a_chunk_of_another_length_is_replaced(store: ChunkStore, tmp_path: Path):
    """Goal: an upload repairs a file that a power cut has shortened."""
    store.store(LARGE_NAME, LARGE)
    os.truncate(path_of(tmp_path, LARGE_NAME), 10)
    store.store(LARGE_NAME, LARGE)
    assert store.read(LARGE_NAME) == LARGE


def test_receipts_rise_across_restarts(tmp_path: Path, name: bytes, data: bytes):
    """Goal: every number is larger than all before it, uploads and confirmations alike, also after a restart."""
    numbers = []
    for start in (1, 2, 3):
        store = ChunkStore(tmp_path)
        numbers += [store.store(name, data), store.confirm([name])[name], store.store(name, data)]
        assert numbers[-1] >> COUNTER_BITS == start
    assert numbers == sorted(set(numbers))


def test_leftovers_of_a_kill_are_removed(store: ChunkStore, tmp_path: Path):
    """Goal: a file torn by SIGKILL lies in tmp/ alone and is gone after the next start; an empty file goes too."""
    store.store(LARGE_NAME, LARGE)
    (tmp_path / "tmp" / "7").write_bytes(LARGE[:100])
    empty = chunk_name(b"lost by a power cut")
    path_of(tmp_path, empty).touch()
    again = ChunkStore(tmp_path)
    assert set(everything(tmp_path)) == {LARGE_NAME.hex()}
    assert (again.chunks, again.stored_bytes) == (1, len(LARGE))
    assert not again.has(empty)


@pytest.mark.parametrize("wanted", [(), (3, 5)])
def test_a_corrupt_chunk_is_set_aside(tmp_path: Path, name: bytes, data: bytes, wanted: tuple[int, ...]):
    """Goal: after a restart a broken chunk is found by any read, never served, missing, its bytes kept for a human,
    and uploaded anew; the next process finds it whole."""
    store = ChunkStore(tmp_path)
    store.store(name, data)
    store.sync()
    damage(tmp_path, name)
    broken = kept(tmp_path)[name.hex()].read()
    again = ChunkStore(tmp_path)
    with pytest.raises(errors.ChunkCorrupt, match=name.hex()):
        again.read(name, *wanted)
    with pytest.raises(errors.ChunkMissing):
        again.read(name, *wanted)
    assert (tmp_path / "corrupt" / name.hex()).read_bytes() == broken
    assert (again.chunks, again.stored_bytes, again.confirm([name])) == (0, 0, {})
    again.store(name, data)
    assert again.read(name, *wanted) in (data, data[3:8])
    last = ChunkStore(tmp_path)
    assert last.read(name) == data
    assert (last.chunks, last.stored_bytes) == (1, len(data))


def test_a_whole_read_verifies_each_time(store: ChunkStore, tmp_path: Path, name: bytes, data: bytes):
    """Goal: a chunk that breaks after it was stored and read, not synced yet, is found by the next whole read."""
    store.store(name, data)
    store.read(name)
    damage(tmp_path, name)
    with pytest.raises(errors.ChunkCorrupt):
        store.read(name)
    assert (store.chunks, store.stored_bytes) == (0, 0)
    store.sync()
    assert not store.has(name)


def test_a_chunk_is_loaded_whole(store: ChunkStore, tmp_path: Path, name: bytes, data: bytes):
    """Goal: a chunk is read into a buffer and verified there, each time, however often it is read; what is broken is
    set aside, and what is not there is missing."""
    buffer = direct_io.memory(ENTRY_BYTES)
    store.store(name, data)
    for _ in range(3):
        buffer[: len(data)] = bytes(len(data))
        assert store.load(name, buffer) == len(data)
        assert buffer[: len(data)] == data
    damage(tmp_path, name)
    with pytest.raises(errors.ChunkCorrupt):
        store.load(name, buffer)
    with pytest.raises(errors.ChunkMissing):
        store.load(name, buffer)
    assert store.served_chunks == 4


def test_a_large_chunk_takes_no_pages(store: ChunkStore, tmp_path: Path):
    """Goal: a chunk goes to the disk past the kernel's memory, and so does the first read of it: what one client has
    read is in its cache. The second finds it worth keeping."""
    data = direct_io.memory(ENTRY_BYTES)
    data[:] = os.urandom(ENTRY_BYTES)
    name, buffer = chunk_name(data), direct_io.memory(ENTRY_BYTES)
    store.store(name, data)
    with open(path_of(tmp_path, name), "rb") as file:
        if is_in_pages(file.fileno()):
            pytest.skip("the file system of the temporary folder has no direct I/O")
        store.load(name, buffer)
        assert not is_in_pages(file.fileno())
        store.load(name, buffer)
        assert is_in_pages(file.fileno())
        assert buffer == data


def test_a_disk_that_cannot_read(store: ChunkStore, monkeypatch: pytest.MonkeyPatch, name: bytes, data: bytes):
    """Goal: EIO is treated like a wrong hash: the chunk is set aside, so that it is repaired."""
    store.store(name, data)
    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", fail(errno.EIO))
        patch.setattr(os, "pread", fail(errno.EIO))
        with pytest.raises(errors.ChunkCorrupt, match="cannot read"):
            store.read(name)
    assert not store.has(name)
    store.store(name, data)
    assert store.read(name) == data


def test_a_full_disk_leaves_nothing_partial(
    store: ChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes, data: bytes
):
    """Goal: a disk that fills within a write gives NoSpace, nothing half, unchanged counters; later stores succeed."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _half_then_full(os.write))
        patch.setattr(os, "pwritev", lambda handle, parts, offset: os.pwrite(handle, parts[1][:100], offset))
        patch.setattr(os, "pwrite", _half_then_full(os.pwrite))
        with pytest.raises(errors.NoSpace, match=name.hex()):
            store.store(name, data)
    assert everything(tmp_path) == {}
    assert all(file.stat().st_size == 0 for file in (tmp_path / "packs").glob("0*"))
    assert (store.chunks, store.stored_bytes, store.received_chunks) == (0, 0, 0)
    store.store(name, data)
    assert store.read(name) == data


def _half_then_full(real):
    """A write that takes half of what it is given, and then nothing more."""
    calls = iter((True,))

    def write(handle: int, data: bytes, *offset: int) -> int:
        if not next(calls, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, memoryview(data)[: len(data) // 2], *offset)

    return write


def test_sync_covers_what_was_stored(store: ChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: sync brings each new file and its folder to the disk once, and reports the last receipt's number."""
    store.sync()
    synced = []
    for sync in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, sync, lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    number = store.store(LARGE_NAME, LARGE)
    assert store.sync() == number
    path = path_of(tmp_path, LARGE_NAME)
    assert synced == [str(path), str(path.parent)]
    store.sync()
    assert len(synced) == 2


def test_sync_reports_the_last_receipt(store: ChunkStore, name: bytes, data: bytes):
    """Goal: the number that sync returns covers all receipts given before, and confirmations."""
    store.store(name, data)
    number = store.confirm([name])[name]
    assert store.sync() == number


def test_an_idle_store_is_synced(store: ChunkStore, name: bytes, data: bytes):
    """Goal: who asks whether there is anything to sync is told of what an earlier process may have left, of what was
    stored and of what was confirmed; and of nothing else."""
    assert not store.is_synced
    store.sync()
    assert store.is_synced
    store.store(name, data)
    assert not store.is_synced
    store.sync()
    store.read(name)
    store.delete([name], store.receipts.first)
    assert store.is_synced
    store.confirm([name])
    assert not store.is_synced
    store.sync()
    store.delete([name], store.receipts.next)
    assert store.is_synced


def test_the_first_sync_covers_what_an_earlier_process_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: chunks of a killed process, whose names nobody knows any more, are on disk after the next one's sync."""
    ChunkStore(tmp_path).store(LARGE_NAME, LARGE)
    calls = []
    monkeypatch.setattr(os, "sync", lambda: calls.append("all"))
    again = ChunkStore(tmp_path)
    again.sync()
    again.sync()
    assert calls == ["all"]


def test_a_chunk_that_cannot_be_synced_is_missing(
    store: ChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes, data: bytes
):
    """Goal: after a failed fdatasync the chunk counts as missing, the next sync does not claim to have it, and it can
    be uploaded anew."""
    store.store(name, data)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail(errno.EIO))
        with pytest.raises(errors.Internal, match="1 chunks"):
            store.sync()
    assert not store.has(name)
    assert (store.chunks, store.stored_bytes) == (0, 0)
    store.sync()
    assert not ChunkStore(tmp_path).has(name)
    store.store(name, data)
    store.sync()
    assert ChunkStore(tmp_path).read(name) == data


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_at_sync(store: ChunkStore, monkeypatch: pytest.MonkeyPatch, data: bytes, number: int):
    """Goal: space that is missed only when the bytes are brought to the disk is NoSpace too."""
    store.store(chunk_name(data), data)
    monkeypatch.setattr(os, "fdatasync", fail(number))
    with pytest.raises(errors.NoSpace, match="1 chunks"):
        store.sync()


def test_a_folder_that_cannot_be_synced_is_tried_again(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: a folder's failure is told as the chunks' is, and the next sync does it again."""
    store.store(LARGE_NAME, LARGE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail(errno.EIO))
        for _ in range(2):
            with pytest.raises(errors.Internal, match="1 chunks"):
                store.sync()
    store.sync()
    assert store.read(LARGE_NAME) == LARGE


def test_the_names_to_sync_are_bounded(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: the store that fills the list of what is to be synced syncs, so memory stays bounded."""
    monkeypatch.setattr(chunkstore, "UNSYNCED_MAX", 10)
    for number in range(35):
        data = (b"%d " % number) * (200_000 if number % 2 else 1)
        store.store(chunk_name(data), data)
        assert store._packs.unsynced + store._files.unsynced < 10
    assert store._files.chunks == 17
    assert store.chunks == 35


def test_many_threads_store_the_same_chunks(store: ChunkStore, tmp_path: Path):
    """Goal: concurrent stores of the same chunks, with syncs, give distinct receipts, right counters, whole chunks, and
    no chunk twice on the disk."""
    chunks = [os.urandom(1000) for _ in range(50)] + [os.urandom(PACK_BYTES_MAX) for _ in range(5)]
    numbers: list[int] = []

    def work() -> None:
        for data in chunks:
            numbers.append(store.store(chunk_name(data), data))
            assert store.read(chunk_name(data)) == data

    threads = [threading.Thread(target=work) for _ in range(4)] + [threading.Thread(target=store.sync)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(numbers)) == 220
    for each in (store, ChunkStore(tmp_path)):
        assert (each.chunks, each.stored_bytes) == (55, 50_000 + 5 * PACK_BYTES_MAX)
        assert all(each.read(chunk_name(data)) == data for data in chunks)
    assert not os.listdir(tmp_path / "tmp")
    assert sum(file.stat().st_size for file in (tmp_path / "packs").glob("0*")) == 50 * (1000 + 48)


# -- homes of versions without packs


def test_small_files_of_earlier_versions_are_read(tmp_path: Path):
    """Goal: a home without packs goes on: its small chunks are served, confirmed, counted, and not stored twice."""
    make_old_file(tmp_path, SMALL, NAME)
    make_old_file(tmp_path, LARGE, LARGE_NAME)
    store = ChunkStore(tmp_path)
    assert store.read(NAME) == SMALL
    assert store.read(NAME, 3, 5) == SMALL[3:8]
    assert set(store.confirm([NAME, LARGE_NAME])) == {NAME, LARGE_NAME}
    store.store(NAME, SMALL)
    assert (store.chunks, store.stored_bytes) == (2, len(SMALL) + len(LARGE))
    assert kept(tmp_path)[NAME.hex()].path == path_of(tmp_path, NAME)


@pytest.mark.parametrize("content", [SMALL[:10], b"x" + SMALL[1:]])
def test_a_broken_small_file_of_an_earlier_version(tmp_path: Path, content: bytes):
    """Goal: a small file that is cut or rotten is set aside, missing, and uploaded anew: then it is in a pack."""
    make_old_file(tmp_path, content, NAME)
    store = ChunkStore(tmp_path)
    with pytest.raises(errors.ChunkCorrupt):
        store.read(NAME)
    assert (store.chunks, store.stored_bytes) == (0, 0)
    store.store(NAME, SMALL)
    assert store.read(NAME) == SMALL
    assert (store.chunks, store.stored_bytes) == (1, len(SMALL))
    assert (tmp_path / "corrupt" / NAME.hex()).read_bytes() == content


def test_a_cut_small_file_is_replaced_by_an_upload(tmp_path: Path):
    """Goal: an upload repairs a small file that a power cut has shortened, though nobody has read it."""
    make_old_file(tmp_path, SMALL[:10], NAME)
    store = ChunkStore(tmp_path)
    store.store(NAME, SMALL)
    assert store.read(NAME) == SMALL
    for each in (store, ChunkStore(tmp_path)):
        assert (each.chunks, each.stored_bytes) == (1, len(SMALL))


def test_no_receipt_for_what_is_broken(tmp_path: Path, store: ChunkStore, data: bytes, name: bytes):
    """Goal: a restarted server that finds a chunk broken says so instead of confirming it, and an upload repairs it."""
    store.store(name, data)
    store.sync()
    store.close()
    damage(tmp_path, name)
    again = ChunkStore(tmp_path)
    assert again.confirm([name]) == {}
    assert again.store(name, data)
    assert again.read(name) == data
    again.close()
    damage(tmp_path, name)
    third = ChunkStore(tmp_path)
    assert third.store(name, data)
    assert third.read(name) == data


def test_a_server_without_descriptors_loses_no_chunk(store: ChunkStore, monkeypatch: pytest.MonkeyPatch):
    """Goal: what could not even be opened to be synced is not taken for broken; a later sync finds it to do."""
    for content in (SMALL, LARGE):
        store.store(chunk_name(content), content)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail(errno.EMFILE))
        with pytest.raises(errors.Internal):
            store.sync()
    synced: list[int] = []
    fdatasync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda handle: synced.append(handle) or fdatasync(handle))
    store.sync()
    assert len(synced) >= 2
    assert store.read(NAME) == SMALL
    assert store.read(LARGE_NAME) == LARGE
