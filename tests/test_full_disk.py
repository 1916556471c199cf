"""A client whose cache's disk is full: reading goes on, writers are told, and nothing that they were told is lost."""

import contextlib
import os
import random
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Client, Servers, uploaded
from filesystems import Machine
from support import MountedCluster, clean_up, error, wait_until
from test_cache import recovered, send
from test_cache_index_forms import as_before, stored
from volumes import Volume

from dfsfuse import cache_index_forms as forms
from dfsfuse import errors, full_disk, mountpoint
from dfsfuse.cache_index import State
from dfsfuse.chunks import Ranges
from dfsfuse.latest_chunks import KEPT_MAX
from servers.store.memory import MemoryStore

MIB = 1 << 20
DISK_BYTES, STEP = 12 * MIB, 128 * 1024
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can mount a small disk")


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def small_disk(folder: Path) -> None:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], check=True)


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    small_disk(folder / "disk")
    yield folder / "disk"
    subprocess.run(["umount", "--lazy", folder / "disk"], check=True)


@pytest.fixture
def machines(disk: Path, folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """One whose cache is on the small disk, and another one."""
    volume, servers = Volume(MemoryStore()), Servers()
    here, there = Machine(volume, servers, disk / "cache"), Machine(volume, servers, folder / "cache")
    yield here, there
    here.cache.close()


def fill(disk: Path) -> None:
    """Somebody else takes all the room that there is."""
    with (disk / "filler").open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def in_steps(machine: Machine, path: str) -> bytes:
    handle = machine.open(path)
    try:
        return b"".join(
            machine.files.files.read(handle, STEP, at) for at in range(0, handle.content.size, STEP)
        )  # fmt: skip
    finally:
        machine.close(handle)


# -- reading


def test_a_file_that_is_larger_than_the_disk_is_read(machines):
    """Goal: every byte is right, each chunk travels about once, little of it is kept in memory, and other files are
    read, also small ones that need a place in the cache."""
    here, there = machines
    contents = {f"/{number}": noise(size, number) for number, size in enumerate((40 * MIB, 3 * MIB, 100, 5 * MIB, 1))}
    for path, data in contents.items():
        there.write(path, data)
    for path, data in [*contents.items(), *contents.items()]:
        assert in_steps(here, path) == data
    assert len(here.servers.latest._kept) <= KEPT_MAX


def test_nothing_at_all_is_left(machines, disk):
    """Goal: where others have filled the disk, and nothing of the cache can go, files are opened and read all the
    same."""
    here, there = machines
    contents = {f"/{number}": noise(MIB, number) for number in range(20)}
    for path, data in contents.items():
        there.write(path, data)
    here.cache.maintain()
    fill(disk)
    for path, data in contents.items():
        assert in_steps(here, path) == data


def test_the_cache_is_used_again(machines, disk, monkeypatch):
    """Goal: when there is room again, what is read is kept."""
    here, there = machines
    there.write("/file", noise(MIB))
    fill(disk)
    assert in_steps(here, "/file") == noise(MIB)
    (disk / "filler").unlink()
    reading = here.files.files.read_into.__self__
    monkeypatch.setattr(reading._passing, "_until_s", 0.0)
    assert in_steps(here, "/file") == noise(MIB)
    here.servers.latest._kept.clear()
    before = here.servers.received_bytes
    assert in_steps(here, "/file") == noise(MIB)
    assert here.servers.received_bytes == before
    assert here.cache.peek(here.stat("/file").ino).present == Ranges([(0, 1)])


# -- writing


def test_writers_are_told_and_lose_nothing(machines):
    """Goal: ENOSPC from write(), once nothing more can be evicted; what was written before is sent by the close, and
    then there is room for the next file."""
    here, there = machines
    here.write("/older", noise(4 * MIB, 3))
    for name in ("/first", "/second"):
        handle, written = here.create(name), b""
        with contextlib.suppress(errors.NoSpace):
            while True:
                here.put(handle, noise(MIB, len(written)), len(written))
                written += noise(MIB, len(written))
        assert len(written) > DISK_BYTES // 2
        here.close(handle)
        assert there.read(name)[: len(written)] == written
    assert in_steps(here, "/older") == noise(4 * MIB, 3)


def test_close_sends_though_the_disk_is_full(machines, disk):
    """Goal: the index has a reserve, so what is written does not wait for others to make room."""
    here, there = machines
    handle = here.create("/file")
    here.put(handle, noise(MIB))
    fill(disk)
    here.close(handle)
    assert there.read("/file") == noise(MIB)


def test_what_is_only_read_makes_room(machines):
    """Goal: a program that reads a large file keeps nobody from writing, and reads on what it would have read."""
    here, there = machines
    there.write("/large", noise(30 * MIB))
    reader = here.open("/large")
    assert here.files.files.read(reader, 11 * MIB, 0) == noise(30 * MIB)[: 11 * MIB]
    here.write("/new", noise(7 * MIB, 2))
    assert there.read("/new") == noise(7 * MIB, 2)
    assert reader.content.drops == 1
    for at in range(0, 30 * MIB, MIB):
        assert here.files.files.read(reader, MIB, at) == noise(30 * MIB)[at : at + MIB]
    here.close(reader)


def test_what_was_dropped_is_not_taken_for_zeros_after_a_kill(machines):
    """Goal: the next client of the cache fetches it again."""
    here, there = machines
    there.write("/file", noise(9 * MIB))
    assert in_steps(here, "/file") == noise(9 * MIB)
    here.cache.maintain()
    reader = here.open("/file")
    here.write("/new", noise(6 * MIB, 2))
    assert reader.content.drops == 1
    here.cache.close()
    here.kill()
    assert in_steps(here, "/file") == noise(9 * MIB)


def test_a_copy_has_no_zeros_of_what_was_dropped(machines):
    """Goal: copy_file_range copies what is there, or says that there is no room."""
    here, there = machines
    there.write("/file", noise(8 * MIB))
    source, target, done = here.open("/file"), here.create("/copy"), 0
    with contextlib.suppress(errors.NoSpace):
        while done < 8 * MIB:
            done += here.files.copy_range(source, done, target, done, MIB)
    assert 0 < done < 8 * MIB
    here.close(source)
    here.close(target)
    assert there.read("/copy")[:done] == noise(8 * MIB)[:done]


def test_what_is_dropped_while_it_is_read(machines, monkeypatch):
    """Goal: who has found that something is here, and reads it when it is here no longer, does not take the hole for
    the file."""
    here, there = machines
    there.write("/file", noise(5 * MIB))
    reader = here.open("/file")
    read_into, times = reader.content.read_into, iter([True, False])

    def late(buffer: memoryview, offset: int) -> int:
        if next(times, False):
            assert here.cache._full._drop_read()
        return read_into(buffer, offset)

    monkeypatch.setattr(reader.content, "read_into", late)
    assert here.files.files.read(reader, 5 * MIB, 0) == noise(5 * MIB)


def test_readers_beside_writers(machines):
    """Goal: whatever is dropped and evicted meanwhile, no read sees anything else than the file."""
    here, there = machines
    contents = {f"/{number}": noise(5 * MIB, number) for number in range(3)}
    for path, data in contents.items():
        there.write(path, data)
    over, wrong = threading.Event(), []

    def read(seed: int) -> None:
        choose = random.Random(seed)
        handles = {path: here.open(path) for path in contents}
        while not over.is_set():
            path, at = choose.choice(list(contents)), choose.randrange(5 * MIB)
            if here.files.files.read(handles[path], STEP, at) != contents[path][at : at + STEP]:
                wrong.append((path, at))
                return

    readers = [threading.Thread(target=read, args=(seed,), daemon=True) for seed in range(3)]
    for thread in readers:
        thread.start()
    try:
        for number in range(12):
            here.write(f"/new{number}", noise(4 * MIB, number))
    finally:
        over.set()
        for thread in readers:
            thread.join(60)
    assert wrong == []
    for number in range(12):
        assert there.read(f"/new{number}") == noise(4 * MIB, number)


# -- the reserve


def test_the_reserve(disk):
    """Goal: it is there from the beginning, is given once, and comes again when there is room."""
    reserve = full_disk.Reserve(disk / "reserve")
    assert (disk / "reserve").stat().st_blocks * 512 >= full_disk.RESERVE_BYTES
    fill(disk)
    assert reserve.give()
    assert not reserve.give()
    (disk / "more").write_bytes(bytes(full_disk.RESERVE_BYTES))
    reserve.keep()
    assert not reserve.give()
    (disk / "more").unlink()
    reserve.keep()
    assert reserve.give()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("form", [forms.EARLIER_FORM, forms.FORM])
def test_a_client_starts_in_the_reserve(disk, form: int, killed: bool):
    """Goal: where others have filled the disk while no client ran, the next one opens the index, also one that the
    version before has made, and has what it needs to send what was closed."""
    client = Client(Volume(MemoryStore()), Servers(), disk / "cache")
    late = client.create("late")
    client.write(late, noise(MIB, 2), 0)
    client.cache.mark_closed(late, b"p" * 16)
    client.cache.maintain()
    as_before(client) if form == forms.EARLIER_FORM else client.cache.index.close()
    with contextlib.closing(sqlite3.connect(client.home / "index.db")) as holds_log:
        # What a killed client leaves of the log is there as long as somebody has the index open.
        assert not killed or holds_log.execute("SELECT count(*) FROM contents").fetchone() == (1,)
        fill(disk)
        ((content, state, pending),) = recovered(client)
    assert (state, pending, stored(client)[0]) == (State.CLOSED, b"p" * 16, forms.FORM)
    send(client, content)
    assert uploaded(client.volume, client.servers, "late") == noise(MIB, 2)


# -- on a mount


@pytest.mark.mounted
@pytest.mark.skipif(not mountpoint.FUSE_DEVICE.exists(), reason="NOT RUN: needs /dev/fuse")
def test_programs_on_a_mount(folder: Path):
    """Goal: the same through the kernel: a large file is read, a writer gets ENOSPC, what it has written is there on
    another mount."""
    clients = folder / "home" / "clients"
    small_disk(clients)
    try:
        cluster = MountedCluster(folder)
        here = cluster.mount()
        there = cluster.mount("--cache-bytes", "1M")
        (there.point / "large").write_bytes(noise(8 * MIB))
        for number in range(3):
            wait_until(lambda: (here.point / "large").read_bytes() == noise(8 * MIB), f"reading {number}")
        with (here.point / "new").open("wb", 0) as file, error(28):
            while True:
                file.write(noise(MIB, file.tell()))
        data = (there.point / "new").read_bytes()
        assert len(data) > MIB
        for at in range(0, len(data) // MIB * MIB, MIB):
            assert data[at : at + MIB] == noise(MIB, at)
    finally:
        clean_up(folder)
