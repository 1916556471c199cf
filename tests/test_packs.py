"""Packs of small chunks: what a kill, a power cut, a bad disk and a lost index leave, and that nothing else is lost."""

import errno
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from chunk_homes import damage, kept, records
from support import ROOT, after_a_power_cut, small_disk, wait_until

from dfsfuse import errors
from dfsfuse.chunks import chunk_name
from servers import pack_file, pack_recovery, packs
from servers.chunkstore import ChunkStore
from servers.name_filter import NameFilter
from servers.pack_file import HEADER_BYTES, Place, header
from servers.pack_index import IndexBroken
from servers.packs import Packs

CHUNKS = [bytes([number]) * (10 + number) for number in range(40)]
NAMES = [chunk_name(data) for data in CHUNKS]


def opened(home: Path) -> Packs:
    for folder in ("packs", "corrupt"):
        (home / folder).mkdir(exist_ok=True)
    return Packs(home)


def put_all(home: Path, sync: bool = True) -> Packs:
    made = opened(home)
    for name, data in zip(NAMES, CHUNKS, strict=True):
        made.put(name, data)
    assert not sync or made.sync() == []
    return made


def read(made: Packs, name: bytes) -> bytes | None:
    place = made.find(name)
    return place and made.read(name, place, 0, place.length)


def check(made: Packs, missing: tuple[int, ...] = ()) -> None:
    """All of CHUNKS but these are there, and counted."""
    for number, (name, data) in enumerate(zip(NAMES, CHUNKS, strict=True)):
        assert read(made, name) == (None if number in missing else data), number
    there = [data for number, data in enumerate(CHUNKS) if number not in missing]
    assert (made.chunks, made.stored_bytes) == (len(there), sum(map(len, there)))


def pack_of(home: Path, number: int = 1) -> Path:
    return home / "packs" / f"{number:08d}"


def index_of(home: Path) -> Path:
    return home / "packs" / "index.db"


def drop_index(home: Path) -> None:
    for file in (home / "packs").glob("index.db*"):
        file.unlink()


def rows_of(home: Path) -> dict[bytes, Place]:
    """What the index says, as SQLite has it on the disk."""
    connection = sqlite3.connect(index_of(home))
    rows = connection.execute("SELECT name, pack, offset, length FROM chunks").fetchall()
    assert connection.execute("SELECT total(chunks), total(bytes) FROM packs").fetchone() == (
        len(rows),
        sum(row[3] for row in rows),
    )
    connection.close()
    return {name: Place(*place) for name, *place in rows}


def broken(*_: object) -> None:
    """Stands for a call that the disk fails."""
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that CHUNKS fill several."""
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)


# -- what a kill leaves


def test_the_form_of_a_pack(tmp_path: Path):
    """Goal: what is on disks stays readable: the form of a record is this, byte for byte."""
    opened(tmp_path).put(NAMES[0], CHUNKS[0])
    start = b"\x89DFSpck1" + (10).to_bytes(4, "big") + NAMES[0]
    expected = start + b"\x1c\x2c\x28\x4e" + CHUNKS[0]
    assert pack_of(tmp_path).read_bytes() == expected


def test_a_torn_tail_at_every_byte(tmp_path: Path):
    """Goal: the last record cut anywhere is gone, all before it stay, and appending goes on: seen by this process and
    by the next, whether its beginning was indexed or not."""
    source = tmp_path / "source"
    source.mkdir()
    put_all(source)
    more = opened(source)
    more.put(chunk_name(b"the last one"), b"the last one")
    whole = pack_of(source).read_bytes()
    for cut in range(HEADER_BYTES + len(b"the last one")):
        home = tmp_path / "home"
        shutil.copytree(source, home)
        if cut % 2:
            drop_index(home)
        os.truncate(pack_of(home), len(whole) - len(b"the last one") - HEADER_BYTES + cut)
        made = opened(home)
        check(made)
        assert made.find(chunk_name(b"the last one")) is None
        assert pack_of(home).stat().st_size == len(whole) - len(b"the last one") - HEADER_BYTES
        made.put(chunk_name(b"another"), b"another")
        made.sync()
        drop_index(home)
        assert read(opened(home), chunk_name(b"another")) == b"another"
        assert [record.sound for record in records(home, 1)] == [True] * (len(CHUNKS) + 1)
        shutil.rmtree(home)


@pytest.mark.parametrize("tail", [bytes(5000), b"\xff" * 100, header(NAMES[0], 3000) + bytes(3000), bytes(20)])
def test_a_tail_that_a_power_cut_has_spoiled(tmp_path: Path, tail: bytes):
    """Goal: zeros, garbage, and a header without its bytes at the end cost none of the records before and after."""
    put_all(tmp_path)
    with pack_of(tmp_path).open("ab") as file:
        file.write(tail)
    made = opened(tmp_path)
    check(made)
    made.put(chunk_name(b"another"), b"another")
    for _ in range(2):
        again = opened(tmp_path)
        assert read(again, chunk_name(b"another")) == b"another"
        drop_index(tmp_path)


_STORER = """
import os, pathlib, sys
from servers.chunkstore import ChunkStore
from dfsfuse.chunks import chunk_name
store = ChunkStore(pathlib.Path(sys.argv[1]))
for number in range(10 ** 9):
    data = b"%s %d" % (sys.argv[2].encode(), number) * (1 + number * 7919 % 5000)
    store.store(chunk_name(data), data)
    os.write(1, b"%d\\n" % number)
    if number % 100 == 50:
        store.sync()
"""


def test_sigkill_loses_nothing_that_was_stored(tmp_path: Path):
    """Goal: a process that is killed among many stores and syncs, again and again on one home: each chunk that it had
    told of is there, whole; at the end also when the index is lost."""
    home, told = tmp_path / "home", []
    random.seed(7)
    for turn in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", _STORER, home, str(turn)], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            lines = [process.stdout.readline() for _ in range(random.randrange(1, 700))]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines()
        told += [b"%d %d" % (turn, int(line)) * (1 + int(line) * 7919 % 5000) for line in lines]
    for _ in range(2):
        store = ChunkStore(home)
        assert [data[:20] for data in told if store.read(chunk_name(data)) != data] == []
        assert len(told) <= store.chunks <= len(told) + 6
        drop_index(home)


def test_sigkill_at_each_kind_of_call(tmp_path: Path):
    """Goal: killed at the n-th write to a pack, sync of a pack or write of the index: nothing told of is lost."""
    if not shutil.which("strace"):
        pytest.skip("NOT RUN: strace is not here")
    write = "pwritev,pwritev2"
    for call, when in [(write, 3), (write, 140), ("fdatasync", 3), ("fdatasync", 4), ("pwrite64", 30)]:
        home = tmp_path / f"{call}{when}"
        inject = f"--inject={call}:signal=SIGKILL:when={when}"
        command = ["strace", "-f", "-qq", "-o", "/dev/null", f"--trace={call}", inject, sys.executable, "-c", _STORER]
        done = subprocess.run([*command, home, "x"], cwd=ROOT, stdout=subprocess.PIPE, check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
        store = ChunkStore(home)
        for line in done.stdout.splitlines():
            data = b"x %d" % int(line) * (1 + int(line) * 7919 % 5000)
            assert store.read(chunk_name(data)) == data


# -- the index


def test_rows_point_to_what_was_synced(tmp_path: Path):
    """Goal: no row before sync; after it one for each chunk, at its place in the pack."""
    made = put_all(tmp_path, sync=False)
    assert rows_of(tmp_path) == {}
    check(made)
    made.sync()
    assert rows_of(tmp_path) == {name: place for name, place, _ in records(tmp_path, 1)}
    assert made.unsynced == 0
    check(made)


def test_the_index_comes_after_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: when fdatasync is called there is no row yet of what it is called for."""
    made = put_all(tmp_path, sync=False)
    rows, real = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda handle: (rows.append(len(rows_of(tmp_path))), real(handle)))
    made.sync()
    assert rows == [0]
    assert len(rows_of(tmp_path)) == len(CHUNKS)


def test_no_name_that_is_here_passes_for_new():
    """Goal: the filter never denies a name that it was given, and denies most others."""
    names = [chunk_name(b"%d" % number) for number in range(2000)]
    known = NameFilter()
    for name in names[:1000]:
        known.add(name)
    assert all(known.may_have(name) for name in names[:1000])
    assert sum(known.may_have(name) for name in names[1000:]) < 10


def test_what_is_here_is_not_stored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a chunk from before the start is known, whether the names in the index have been learnt already or not, and
    they all are after some syncs; a new one is looked for in memory alone."""
    put_all(tmp_path).close()
    monkeypatch.setattr(packs, "_NAMES_A_STEP", 2)
    made = opened(tmp_path)
    assert made.may_have(chunk_name(b"new")), "names are missing yet"
    assert not any(made.put(name, data) for name, data in zip(NAMES, CHUNKS, strict=True))
    for _ in range(len(NAMES)):
        made.sync()
    assert not made.may_have(chunk_name(b"new"))
    assert all(map(made.may_have, NAMES))
    assert not any(made.put(name, data) for name, data in zip(NAMES, CHUNKS, strict=True))
    assert made.chunks == len(set(NAMES))
    made.close()


@pytest.mark.usefixtures("small_packs")
def test_a_lost_index_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Goal: without index.db everything is found, from several packs; one line in the log says so, and none at the next
    start."""
    put_all(tmp_path)
    before = rows_of(tmp_path)
    drop_index(tmp_path)
    with caplog.at_level(logging.WARNING):
        check(opened(tmp_path))
    assert len(caplog.records) == 1
    assert "is missing" in caplog.text
    assert rows_of(tmp_path) == before
    caplog.clear()
    check(opened(tmp_path))
    assert caplog.text == ""


@pytest.mark.usefixtures("small_packs")
def test_an_index_that_is_behind(tmp_path: Path):
    """Goal: with the index of any earlier moment, and with that of a new home, everything is found."""
    made = opened(tmp_path)
    for number, (name, data) in enumerate(zip(NAMES, CHUNKS, strict=True)):
        if number % 8 == 5:
            made.sync()
            shutil.copytree(tmp_path / "packs", tmp_path / f"{number}")
        made.put(name, data)
    for number in (5, 13, 21, 37):
        drop_index(tmp_path)
        for file in (tmp_path / f"{number}").glob("index.db*"):
            shutil.copy(file, tmp_path / "packs")
        check(opened(tmp_path))


def spoil_bytes(home: Path) -> None:
    checkpoint(home)
    index_of(home).write_bytes(b"this is no database " * 500)


def spoil_length(home: Path) -> None:
    checkpoint(home)
    os.truncate(index_of(home), 4096 + 100)


def spoil_to_nothing(home: Path) -> None:
    checkpoint(home)
    os.truncate(index_of(home), 0)


def spoil_tree(home: Path) -> None:
    """The root page of the chunks' tree; the rest is in order."""
    checkpoint(home)
    connection = sqlite3.connect(index_of(home))
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'chunks'")
    ((size,),) = connection.execute("PRAGMA page_size")
    connection.close()
    with index_of(home).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def spoil_form(home: Path) -> None:
    connection = sqlite3.connect(index_of(home))
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def checkpoint(home: Path) -> None:
    """Everything is in index.db, and nothing in its log."""
    connection = sqlite3.connect(index_of(home))
    assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    connection.close()


@pytest.mark.parametrize("spoil", [spoil_bytes, spoil_length, spoil_to_nothing, spoil_tree, spoil_form])
@pytest.mark.parametrize("behind", [False, True])
def test_a_broken_index_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil, behind: bool):
    """Goal: whatever is in index.db, nothing is lost, one line says so, and the next start finds it in order."""
    put_all(tmp_path).close()
    spoil(tmp_path)
    if behind:
        with pack_of(tmp_path).open("ab") as file:
            file.write(header(chunk_name(b"behind"), 6) + b"behind")
    made = opened(tmp_path)
    if behind:
        assert read(made, chunk_name(b"behind")) == b"behind"
        made.set_aside(chunk_name(b"behind"), made.find(chunk_name(b"behind")))
    check(made)
    assert caplog.text.count("made again") == 1
    caplog.clear()
    check(opened(tmp_path))
    assert caplog.text == ""


@pytest.mark.parametrize("spoil", [spoil_tree, drop_index])
def test_an_index_that_breaks_while_it_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil):
    """Goal: broken or removed under a running store, with chunks that are not in it yet: it is made again, once, and
    nothing is lost or counted twice."""
    put_all(tmp_path)
    made = opened(tmp_path)
    made.put(chunk_name(b"fresh"), b"fresh")
    spoil(tmp_path)
    for data in (b"fresher", b"fresh"):
        made.put(chunk_name(data), data)
    made.sync()
    for each in (made, opened(tmp_path)):
        for data in (b"fresh", b"fresher"):
            assert read(each, chunk_name(data)) == data
            place = each.find(chunk_name(data))
        assert all(read(each, name) == data for name, data in zip(NAMES, CHUNKS, strict=True))
        assert (each.chunks, each.stored_bytes) == (42, sum(map(len, CHUNKS)) + 12)
    assert place.pack == 1
    assert caplog.text.count("made again") == 1
    assert len(records(tmp_path, 1)) == 42


def test_threads_that_meet_a_broken_index(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Goal: many threads have met it before one makes it again: it is made once, and all are answered right."""
    put_all(tmp_path)
    made = opened(tmp_path)
    spoil_tree(tmp_path)
    met, real, answers = threading.Barrier(8), made._index.find, []

    def find(name: bytes) -> Place | None:
        try:
            return real(name)
        except IndexBroken:
            met.wait(30)
            raise

    made._index.find = find
    threads = [threading.Thread(target=lambda: answers.append([read(made, name) for name in NAMES])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [CHUNKS] * 8
    assert caplog.text.count("made again") == 1


def full(*_: object) -> None:
    """Stands for an index that has no room."""
    raise errors.NoSpace("no room")


def test_an_index_that_breaks_while_it_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: what is on the disk but was waiting for the index is found by the scan, and then no longer waits: it is
    neither lost nor counted twice."""
    made = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(made._index, "add", full)
        for name, data in zip(NAMES[:39], CHUNKS, strict=False):
            made.put(name, data)
        assert made.sync() == []
    made.put(NAMES[39], CHUNKS[39])
    assert made.unsynced == 40
    spoil_tree(tmp_path)
    assert made.find(chunk_name(b"never there")) is None
    assert made.unsynced == 1
    check(made)
    made.sync()
    check(made)
    check(opened(tmp_path))


@pytest.mark.parametrize("state", ["fresh", "pending", "indexed"])
def test_what_is_set_aside_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str):
    """Goal: a chunk is forgotten wherever it is noted; one that has been stored anew meanwhile is left alone."""
    made = put_all(tmp_path, sync=False)
    with monkeypatch.context() as patch:
        if state == "pending":
            patch.setattr(made._index, "add", full)
        if state != "fresh":
            made.sync()
    place = made.find(NAMES[17])
    made.set_aside(NAMES[17], place)
    check(made, (17,))
    assert (tmp_path / "corrupt" / NAMES[17].hex()).read_bytes() == CHUNKS[17]
    made.put(NAMES[17], CHUNKS[17])
    made.set_aside(NAMES[17], place)
    check(made)
    made.sync()
    made.set_aside(NAMES[17], place)
    check(made)
    check(opened(tmp_path))


@pytest.mark.parametrize("column", ["length", "offset", "pack"])
def test_a_row_that_is_wrong(tmp_path: Path, column: str):
    """Goal: a row that points elsewhere serves nothing wrong; an upload, or a read and an upload, make it right."""
    store = ChunkStore(tmp_path)
    for name, data in zip(NAMES, CHUNKS, strict=True):
        store.store(name, data)
    store.sync()
    store.close()
    connection = sqlite3.connect(index_of(tmp_path))
    connection.execute(f"UPDATE chunks SET {column} = {column} + 1 WHERE name = ?", (NAMES[17],))
    connection.commit()
    connection.close()
    store = ChunkStore(tmp_path)
    if column != "length":
        with pytest.raises(errors.ChunkCorrupt):
            store.read(NAMES[17])
    store.store(NAMES[17], CHUNKS[17])
    store.sync()
    for each in (store, ChunkStore(tmp_path)):
        assert [each.read(name) for name in NAMES] == CHUNKS


def test_a_wrong_row_in_an_index_that_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a chunk whose wrong row cannot be removed is refused: its right one could not be written either."""
    made = put_all(tmp_path)
    wrong = made.find(NAMES[17])._replace(length=3)
    made._index.remove({NAMES[17]: wrong})
    made._index.add({NAMES[17]: wrong}, {})
    with monkeypatch.context() as patch:
        patch.setattr(made._index, "remove", full)
        with pytest.raises(errors.Internal, match="wrong row"):
            made.put(NAMES[17], CHUNKS[17])
    made.put(NAMES[17], CHUNKS[17])
    assert read(made, NAMES[17]) == CHUNKS[17]


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("number", [1, 2])
def test_packs_that_have_less_than_the_index(tmp_path: Path, number: int):
    """Goal: a pack that somebody removed, or cut, takes its own chunks alone: they are missing and can be stored."""
    put_all(tmp_path)
    lost = {name for name, _, _ in records(tmp_path, number)}
    if number == 1:
        pack_of(tmp_path, number).unlink()
    else:
        os.truncate(pack_of(tmp_path, number), 0)
    made = opened(tmp_path)
    check(made, tuple(at for at, name in enumerate(NAMES) if name in lost))
    for name, data in zip(NAMES, CHUNKS, strict=True):
        made.put(name, data)
    made.sync()
    check(opened(tmp_path))


def test_an_index_that_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Goal: when SQLite has no room, sync still succeeds, as the chunks are safe; they are found, up to a limit; the
    log says so once; and they are in the index when there is room again."""
    made = opened(tmp_path)
    monkeypatch.setattr(packs, "RECENT_MAX", 20)

    with monkeypatch.context() as patch:
        patch.setattr(made._index, "add", full)
        for name, data in zip(NAMES[:20], CHUNKS, strict=False):
            assert made.put(name, data)
            assert made.sync() == []
        with pytest.raises(errors.NoSpace, match="too many"):
            made.put(NAMES[20], CHUNKS[20])
        check(made, tuple(range(20, 40)))
        check(opened(tmp_path), tuple(range(20, 40)))
    assert caplog.text.count("no room") == 1
    made.sync()
    assert made.unsynced == 0
    for name, data in zip(NAMES, CHUNKS, strict=True):
        made.put(name, data)
        made.sync()
    check(made)
    check(opened(tmp_path))


def test_an_index_that_cannot_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: half an index never says that a chunk is missing: asking it fails until it has been made."""
    put_all(tmp_path)
    made = opened(tmp_path)
    spoil_tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(made._index, "add", full)
        for _ in range(2):
            with pytest.raises(errors.NoSpace):
                made.find(NAMES[0])
    with monkeypatch.context() as patch:
        patch.setattr(pack_recovery, "sync_folder", broken)
        with pytest.raises(errors.Internal):
            made.find(NAMES[0])
    check(made)


# -- bad disks


def test_a_flipped_bit_in_any_byte_of_a_header(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Goal: the chunk is served while the index knows where it is; without the index its neighbours are found all the
    same, it is missing, and its bytes stay in the pack."""
    put_all(tmp_path)
    place = kept(tmp_path)[NAMES[17].hex()]
    for byte in range(-HEADER_BYTES, 0):
        place.flip(byte)
        check(opened(tmp_path))
        drop_index(tmp_path)
        check(opened(tmp_path), (17,))
        assert place.read() == CHUNKS[17]
        place.flip(byte)
        drop_index(tmp_path)
        check(opened(tmp_path))
    assert caplog.text.count("passed over") == HEADER_BYTES


@pytest.mark.parametrize("number", [0, 17, 39])
def test_a_flipped_bit_in_the_data_and_no_index(tmp_path: Path, number: int):
    """Goal: a scan sets the rotten chunk aside, wherever it stands, and enters all others; it can be stored again, and
    the next scan finds the good one."""
    put_all(tmp_path)
    damage(tmp_path, NAMES[number])
    drop_index(tmp_path)
    made = opened(tmp_path)
    check(made, (number,))
    assert len((tmp_path / "corrupt" / NAMES[number].hex()).read_bytes()) == len(CHUNKS[number])
    made.put(NAMES[number], CHUNKS[number])
    check(made)
    drop_index(tmp_path)
    check(opened(tmp_path))


def test_damage_across_many_records(tmp_path: Path):
    """Goal: a stretch of zeros, of some records' length, costs those and no others; also one larger than the window in
    which the next header is looked for."""
    put_all(tmp_path)
    large = [os.urandom(150_000) for _ in range(3)]
    made = opened(tmp_path)
    for data in large:
        made.put(chunk_name(data), data)
    made.put(chunk_name(b"the last"), b"the last")
    first, last = kept(tmp_path)[NAMES[10].hex()], kept(tmp_path)[NAMES[14].hex()]
    spoilt = kept(tmp_path)[chunk_name(large[1]).hex()]
    with pack_of(tmp_path).open("r+b") as file:
        os.pwrite(file.fileno(), bytes(last.offset - first.offset), first.offset - 20)
        os.pwrite(file.fileno(), bytes(HEADER_BYTES), spoilt.offset - HEADER_BYTES)
    drop_index(tmp_path)
    made = opened(tmp_path)
    missing = [number for number, name in enumerate(NAMES) if made.find(name) is None]
    assert missing == [10, 11, 12, 13, 14]
    assert [read(made, chunk_name(data)) == data for data in (*large, b"the last")] == [True, False, True, True]


def test_a_pack_within_a_pack(tmp_path: Path):
    """Goal: a chunk whose bytes are records is one chunk; when its own header is broken, what a scan finds within it is
    at least true."""
    put_all(tmp_path)
    inner = header(chunk_name(b"inner"), 5) + b"inner" + header(chunk_name(b"lie"), 3) + b"LIE"
    opened(tmp_path).put(chunk_name(inner), inner)
    drop_index(tmp_path)
    made = opened(tmp_path)
    assert read(made, chunk_name(inner)) == inner
    assert made.find(chunk_name(b"inner")) is None
    kept(tmp_path)[chunk_name(inner).hex()].flip(-1)
    drop_index(tmp_path)
    made = opened(tmp_path)
    assert all(read(made, name) == data for name, data in zip(NAMES, CHUNKS, strict=True))
    assert read(made, chunk_name(b"inner")) == b"inner"
    assert made.find(chunk_name(b"lie")) is None


def test_a_sector_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a scan that meets EIO in one chunk goes on with the next; the store starts."""
    put_all(tmp_path)
    bad = kept(tmp_path)[NAMES[17].hex()].offset
    drop_index(tmp_path)
    real = os.pread

    def pread(handle: int, length: int, offset: int) -> bytes:
        if offset == bad:
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, length, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        made = opened(tmp_path)
    check(made, (17,))


def test_a_failed_sync_forgets_what_came_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: after EIO at fdatasync all chunks since the last sync are gone, those too that were appended while it
    lasted; older ones stay, the pack is cut and not appended to again, and the same chunks can be stored anew."""
    made = opened(tmp_path)
    for name, data in zip(NAMES[:10], CHUNKS, strict=False):
        made.put(name, data)
    made.sync()
    size = pack_of(tmp_path).stat().st_size
    for name, data in zip(NAMES[10:20], CHUNKS[10:], strict=False):
        made.put(name, data)

    def fail(_: int) -> None:
        made.put(NAMES[20], CHUNKS[20])
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        assert [error.errno for error in made.sync()] == [errno.EIO] * 11
    for each in (made, opened(tmp_path)):
        check(each, tuple(range(10, 40)))
    assert pack_of(tmp_path).stat().st_size == size
    assert made.sync() == []
    for name, data in zip(NAMES, CHUNKS, strict=True):
        made.put(name, data)
    assert made.sync() == []
    assert {place.pack for name, place in rows_of(tmp_path).items() if name in NAMES[10:]} == {2}
    check(opened(tmp_path))


def test_a_new_pack_whose_name_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a pack is on the disk when its folder is, too; until then sync fails, the chunks are here, and not in the
    index, which names what is on the disk alone."""
    made = put_all(tmp_path, sync=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        assert made.sync()
    check(made)
    assert rows_of(tmp_path) == {}
    synced, real = [], pack_file.sync_folder
    monkeypatch.setattr(pack_file, "sync_folder", lambda path: (synced.append(path), real(path)))
    made.sync()
    made.put(chunk_name(b"more"), b"more")
    made.sync()
    assert synced == [str(tmp_path / "packs")]


def test_what_an_earlier_process_left_unsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    """Goal: records behind the index are brought to the disk before they are entered; where that fails they are read
    from the disk again rather than from memory, and the store starts."""
    put_all(tmp_path, sync=False)
    dropped, real = [], os.posix_fadvise

    def fail(_: int) -> None:
        assert rows_of(tmp_path) == {}
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        patch.setattr(os, "posix_fadvise", lambda *how: (dropped.append(how[3]), real(*how)))
        check(opened(tmp_path))
    assert dropped == [os.POSIX_FADV_DONTNEED]
    assert "could not be brought to the disk" in caplog.text
    assert len(rows_of(tmp_path)) == len(CHUNKS)


def test_a_pack_that_cannot_be_cut_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: when a write fails half way and the half cannot be removed, the next chunk goes into a new pack, and a
    later start cuts the old one."""
    made = opened(tmp_path)
    made.put(NAMES[0], CHUNKS[0])
    size = pack_of(tmp_path).stat().st_size
    real = os.pwritev

    def half(handle: int, parts: tuple, offset: int) -> int:
        real(handle, (parts[0], parts[1][:5]), offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", half)
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(OSError, match="No space"):
            made.put(NAMES[1], CHUNKS[1])
    for name, data in zip(NAMES, CHUNKS, strict=True):
        made.put(name, data)
    assert made.find(NAMES[1]).pack == 2
    assert pack_of(tmp_path).stat().st_size == size + HEADER_BYTES + 5
    made.sync()
    check(made)
    check(opened(tmp_path))
    assert pack_of(tmp_path).stat().st_size == size


# -- many packs, many threads


@pytest.mark.usefixtures("small_packs")
def test_packs_are_limited_in_size_and_in_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a new pack is begun when one is full, and however many there are, few are open."""
    monkeypatch.setattr(pack_file, "HANDLES_MAX", 3)
    before = len(os.listdir("/proc/self/fd"))
    made = opened(tmp_path)
    chunks = [os.urandom(700) for _ in range(60)]
    for number, data in enumerate(chunks):
        made.put(chunk_name(data), data)
        if number % 4 == 3:
            made.sync()
    made.sync()
    assert [read(made, chunk_name(data)) for data in chunks] == chunks
    sizes = [pack_of(tmp_path, number).stat().st_size for number in range(1, 31)]
    assert sizes == [2 * (700 + HEADER_BYTES)] * 30
    # Three for reading, one that is written, and those of SQLite's two connections.
    assert len(os.listdir("/proc/self/fd")) - before <= 4 + 5
    again = opened(tmp_path)
    again.put(NAMES[0], CHUNKS[0])
    assert again.find(NAMES[0]).pack == 31


def put_and_set_aside(made: Packs, seed: int) -> None:
    for number in range(400):
        data = b"%d %d" % (seed, number) * 40
        made.put(chunk_name(data), data)
        if number % 10 == 7:
            made.set_aside(chunk_name(data), made.find(chunk_name(data)))
            made.put(chunk_name(data), data)


def test_readers_writers_and_syncs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: chunks that are put, read, set aside and put again while packs are begun and synced: every read is right,
    and in the end so are the counters, here, in the index, and after a restart."""
    monkeypatch.setattr(packs, "PACK_BYTES", 20_000)
    monkeypatch.setattr(pack_file, "HANDLES_MAX", 2)
    made = opened(tmp_path)
    done, wrong = threading.Event(), []

    def look(seed: int) -> None:
        choice = random.Random(seed)
        while not done.is_set():
            data = b"%d %d" % (choice.randrange(3), choice.randrange(400)) * 40
            if read(made, chunk_name(data)) not in (None, data):
                wrong.append(data)

    def sync() -> None:
        while not done.is_set():
            wrong.extend(made.sync())

    writers = [threading.Thread(target=put_and_set_aside, args=(made, seed)) for seed in range(3)]
    others = [threading.Thread(target=look, args=(seed,)) for seed in range(2)] + [threading.Thread(target=sync)]
    for thread in writers + others:
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    for thread in others:
        thread.join(60)
    assert wrong == []
    assert made.sync() == []
    chunks = [b"%d %d" % (seed, number) * 40 for seed in range(3) for number in range(400)]
    for each in (made, opened(tmp_path)):
        assert [data for data in chunks if read(each, chunk_name(data)) != data] == []
        assert (each.chunks, each.stored_bytes) == (1200, sum(map(len, chunks)))
    assert len(rows_of(tmp_path)) == 1200


# -- small disks


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    with small_disk(folder / "disk", 16):
        yield folder / "disk"


def store_until_full(store: ChunkStore, stored: list[bytes]) -> None:
    for _ in range(4000):
        data = os.urandom(random.randrange(1, 40_000))
        store.store(chunk_name(data), data)
        stored.append(data)
        if len(stored) % 50 == 0:
            store.sync()


def test_a_full_disk(disk: Path):
    """Goal: on a real file system that is full small chunks are NoSpace, all older ones stay, sync and restart work,
    and with room again the store goes on."""
    (disk / "ballast").write_bytes(bytes(8 << 20))
    store = ChunkStore(disk / "home")
    stored: list[bytes] = []
    for full in range(3):
        with pytest.raises(errors.NoSpace):
            store_until_full(store, stored)
        assert (store.chunks, store.stored_bytes) == (len(stored), sum(map(len, stored)))
        store.sync()
        assert all(store.read(chunk_name(data)) == data for data in stored)
        if full < 2:
            os.truncate(disk / "ballast", (4 - 2 * full) << 20)
    (disk / "ballast").unlink()
    for lost_index in (False, True):
        again = ChunkStore(disk / "home")
        assert all(again.read(chunk_name(data)) == data for data in stored)
        again.store(chunk_name(b"after %d" % lost_index), b"after %d" % lost_index)
        again.sync()
        assert again.chunks == len(stored) + 1 + lost_index
        drop_index(disk / "home")


def test_a_power_cut(folder: Path):
    """Goal: the disk as it is at any moment, the kernel's memory lost: what sync had covered is there and whole, and
    nothing else is served that is not what it should be."""
    with small_disk(folder / "disk", 32):
        store = ChunkStore(folder / "disk" / "home")
        synced: list[bytes] = []
        random.seed(11)
        for moment in range(8):
            batch = [os.urandom(random.randrange(1, 20_000)) for _ in range(random.randrange(1, 60))]
            for data in batch:
                store.store(chunk_name(data), data)
            if moment % 2 == 0:
                store.sync()
                synced += batch
            with after_a_power_cut(folder / "disk.img", folder / f"cut{moment}") as point:
                check_after_the_cut(point / "home", synced)
            synced += batch if moment % 2 else []
            store.sync()


def check_after_the_cut(home: Path, synced: list[bytes]) -> None:
    for _ in range(2):
        store = ChunkStore(home)
        assert [len(data) for data in synced if store.read(chunk_name(data)) != data] == []
        drop_index(home)


def test_the_service_keeps_up_with_syncs(tmp_path: Path):
    """Goal: stores go on while a sync lasts: none waits for the disk."""
    made = opened(tmp_path)
    made.put(NAMES[0], CHUNKS[0])
    held, release = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(handle: int) -> None:
        held.set()
        assert release.wait(30)
        real(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", slow)
        syncing = threading.Thread(target=made.sync)
        syncing.start()
        try:
            wait_until(held.is_set, "fdatasync has begun")
            for name, data in zip(NAMES, CHUNKS, strict=True):
                made.put(name, data)
            check(made)
        finally:
            release.set()
            syncing.join(30)
    assert len(rows_of(tmp_path)) == 1
    made.sync()
    check(opened(tmp_path))
