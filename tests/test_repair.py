"""Copies that are missing or broken are made again, by real servers: what a file needs is on every one of them."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chunk_homes import damage, kept
from file_group import wait_until
from kept_group import QUICK, RESTING, KeptGroup, kept_group, noise
from support import small_disk

from dfsfuse import errors, messages
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from servers.chunkstore import ChunkStore
from servers.fetching import Fetching
from servers.packs import PACK_BYTES_MAX
from servers.peers import Peers
from servers.registration import HEARTBEAT_S
from servers.repair import Repairs


@pytest.fixture
def group(folder: Path) -> Iterator[KeptGroup]:
    with kept_group(folder) as made:
        yield made


def test_a_server_that_was_away_gets_what_it_missed(group: KeptGroup):
    """Goal: S8. What was committed while C was away is on C soon after it is back, and C serves then; nothing that it
    has is fetched again."""
    group.store("before", noise(5))
    group.wait_whole()
    group.kill("C")
    group.store("missed", [*noise(30), os.urandom(PACK_BYTES_MAX), os.urandom(ENTRY_BYTES)])
    assert group.status().short_chunks == 32
    group.start("C")
    group.wait_whole()
    assert group.has("C") == group.expected()
    assert group.servers["C"].status().received_chunks == 32


def test_a_server_that_stood_still_catches_up_before_it_serves(group: KeptGroup):
    """Goal: S8. A server that was stopped for longer than the directory waits for heartbeats, and goes on with the same
    process, is syncing until it has what was committed meanwhile."""
    group.wait_whole()
    group.servers["A"].signal(signal.SIGSTOP)
    group.store("missed", noise(3), through="B")
    wait_until(lambda: not group.server("A").up, "A is not heard")
    for name in "BC":
        group.servers[name].signal(signal.SIGSTOP)
    group.servers["A"].signal(signal.SIGCONT)
    wait_until(lambda: group.server("A").up, "A is heard")
    assert group.server("A").syncing, "nobody gives it what it lacks"
    for name in "BC":
        group.servers[name].signal(signal.SIGCONT)
    group.wait_whole()
    assert group.has("A") == group.expected()


@pytest.mark.parametrize("name", ["A", "B"])
def test_an_emptied_disk_is_filled_again(group: KeptGroup, name: str):
    """Goal: a server whose disk was emptied gets everything from the others, is syncing until then, and its receipts
    count afterwards: with it and one more server commits go on."""
    for number in range(3):
        group.store(f"f{number}", noise(60, 3000) if number else [os.urandom(ENTRY_BYTES) for _ in range(4)])
    group.kill(name)
    group.empty_disk(name)
    group.start(name)
    group.wait_whole()
    assert group.has(name) == group.expected()
    group.wait_acquainted()
    group.kill("C")
    group.store("more", noise(3), through="A")
    group.kill("B" if name == "A" else "A")
    for data in group.files["more"]:
        assert group.servers[name].get(chunk_name(data)) == data


def test_a_disk_that_was_full_is_filled_up_when_there_is_room(group: KeptGroup):
    """Goal: what a server could not store as its disk was full it has soon after there is room, also where it has tried
    in vain, and nothing else happens meanwhile."""
    group.kill("C")
    group.empty_disk("C")
    with small_disk(group.folder / "C", 48):
        group.start("C")
        group.wait_whole()
        filler = group.folder / "C" / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(group.folder / "C").free - (1 << 20)))
        group.store("f", noise(5))
        assert group.status().short_chunks == 5
        wait_until(lambda: "lacking here" in group.log("C"), "it tries in vain")
        wait_until(lambda: not kept_contents(group), "the directory does not wait for it any more")
        since = time.monotonic()
        wait_until(lambda: time.monotonic() > since + 4 * HEARTBEAT_S, "it has been told the last time")
        filler.unlink()
        group.wait_whole()
        assert group.has("C") == group.expected()
        group.kill("C")


def kept_contents(group: KeptGroup) -> int:
    """How many contents the directory keeps because their successors are not on enough disks."""
    with contextlib.closing(sqlite3.connect(group.folder / "directory" / "directory.db")) as database:
        (count,) = database.execute("SELECT count(*) FROM pairs WHERE key >= x'64' AND key < x'65'").fetchone()
    return count


def test_a_kill_in_the_middle_of_catching_up(group: KeptGroup):
    """Goal: repair that is killed again and again comes to its end, and what it has is whole."""
    group.store("many", noise(700, 5000))
    group.kill("C")
    group.empty_disk("C")
    for _ in range(4):
        group.start("C")
        wait_until(lambda: len(list((group.folder / "C").glob("packs/0*"))) > 0, "some chunks are there")
        group.kill("C")
    group.start("C")
    group.wait_whole()
    assert group.has("C") == group.expected()


def test_the_directory_goes_away_meanwhile(group: KeptGroup):
    """Goal: a pass that is interrupted by the directory's restart is made again."""
    group.kill("C")
    group.store("many", noise(400, 5000))
    group.start("C")
    group.directory.kill()
    group.directory.wait()
    group.start_directory()
    group.wait_whole()
    assert group.has("C") == group.expected()


def flip(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        (byte,) = os.pread(file.fileno(), 1, offset + length // 2)
        os.pwrite(file.fileno(), bytes([byte ^ 1]), offset + length // 2)


def cut(path: Path, offset: int, length: int) -> None:
    os.truncate(path, offset + length - 1)


def drop(path: Path, offset: int, length: int) -> None:
    path.unlink()


def is_told(server: messages.Server) -> bool:
    return 0 < server.broken_chunks == server.repaired_chunks


@pytest.mark.parametrize("spoil", [flip, cut, drop])
@pytest.mark.parametrize("size", [20_000, PACK_BYTES_MAX], ids=["pack", "file"])
def test_spoiled_chunks_are_found_and_replaced(group: KeptGroup, spoil, size: int):
    """Goal: S16. A flipped bit, a file that was cut and one that is gone are found by nobody's reading, replaced from
    another server, and told: in the log, and to the directory."""
    group.store("f", noise(6, size))
    group.wait_everything_everywhere()
    spoil(*random.Random(3).choice(list(kept(group.folder / "B").values())))
    wait_until(lambda: group.has("B") == group.expected(), "B has everything again")
    wait_until(lambda: is_told(group.server("B")), "the directory knows")
    assert "are replaced" in group.log("B")
    wait_until(lambda: group.server("B").scrubbed_ago_s >= 0, "a whole pass")


def test_a_broken_chunk_that_is_read_is_replaced_at_once(folder: Path):
    """Goal: S16. Without any scrubbing: who reads a broken chunk gets an error, never its bytes; and then it is there
    again."""
    with kept_group(folder, RESTING) as group:
        for size in (20_000, PACK_BYTES_MAX):
            (data,) = chunks = noise(1, size)
            group.store(f"f{size}", chunks)
            group.wait_everything_everywhere()
            damage(folder / "B", chunk_name(data))
            status, _, body = group.servers["B"].ask("GET", f"/v1/chunks/{chunk_name(data).hex()}")
            assert (status, messages.from_msgpack(body, dict)["code"]) == (500, errors.ChunkCorrupt.code)
            wait_until(lambda: group.expected() <= group.has("B"), "it is there again")
            assert group.servers["B"].get(chunk_name(data)) == data


def test_what_was_set_aside_before_a_kill_is_replaced_after_it(folder: Path):
    """Goal: a chunk that was set aside, and not replaced when the server was killed, is replaced after its start."""
    with kept_group(folder, RESTING) as group:
        (data,) = chunks = noise(1, PACK_BYTES_MAX)
        group.store("f", chunks)
        group.wait_everything_everywhere()
        group.kill("B")
        name = chunk_name(data).hex()
        shutil.move(folder / "B" / "chunks" / name[:2] / name, folder / "B" / "corrupt" / name)
        group.start("B")
        wait_until(lambda: name in group.has("B"), "it is there again")


def test_what_nobody_can_give_is_told_and_fetched_later(folder: Path):
    """Goal: a broken chunk whose other copies cannot be reached is short, and had from the first that returns."""
    with kept_group(folder, RESTING) as group:
        (data,) = chunks = noise(1)
        group.store("f", chunks)
        group.wait_everything_everywhere()
        group.kill("A")
        group.kill("C")
        damage(folder / "B", chunk_name(data))
        group.servers["B"].ask("GET", f"/v1/chunks/{chunk_name(data).hex()}")
        wait_until(lambda: group.status().short_chunks == 1, "it is short")
        assert group.status().lost_files == []
        group.start("C")
        wait_until(lambda: group.has("B") == group.expected(), "B has it again")
        group.start("A")
        group.wait_whole()


def test_scrubbing_goes_on_where_it_was(folder: Path):
    """Goal: a restart repeats little of a pass; a pass that has ended is not begun again before its time."""
    with kept_group(folder, QUICK._replace(scrub_every_s=1e6)) as group:
        group.store("f", noise(3))
        for name in "ABC":
            wait_until(lambda n=name: group.server(n).scrubbed_ago_s >= 0, "a whole pass")
        group.kill("A")
        group.start("A")
        wait_until(lambda: group.server("A").scrubbed_ago_s > 0.5, "the pass of before counts")


def test_what_is_told_to_be_here_is_not_deleted_any_more(tmp_path: Path):
    """Goal: S8. A chunk that was garbage when the directory was asked, and that a file needs again when a pass finds it
    here, stays: the directory is told that this server has it."""
    store = ChunkStore(tmp_path)
    (data,) = noise(1)
    name = chunk_name(data)
    store.store(name, data)
    bound = store.receipts.next

    async def run(work: Callable, *arguments: object) -> object:
        return work(*arguments)

    async def sync() -> None:
        store.sync()

    peers = Peers("token")
    repairs = Repairs("A", store, peers, "http://directory", Fetching(store, peers, list, run), sync, run)
    assert asyncio.run(repairs._have([name])) == {name}
    assert store.delete([name], bound) == []
    assert store.read(name) == data
