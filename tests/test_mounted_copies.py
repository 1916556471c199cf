"""Copies and their room as a mount sees them: servers that were away or lost their disk, and files that are gone."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from chunk_homes import kept
from support import MountedCluster, wait_until

from dfsfuse.chunks import chunk_name

pytestmark = pytest.mark.mounted

WHOLE_S = 90.0


def is_whole(cluster: MountedCluster) -> bool:
    status = cluster.ask("directory")
    files = status["cluster"]["files"]
    serving = [server["up"] and not server["syncing"] for server in files]
    return serving == [True] * 3 and status["short_chunks"] == 0


def wait_whole(cluster: MountedCluster) -> None:
    wait_until(lambda: is_whole(cluster), "all servers have everything", WHOLE_S)


def write_some(folder: Path, count: int) -> dict[str, bytes]:
    written = {}
    for number in range(count):
        written[f"{number}"] = os.urandom(300_000 if number % 5 == 0 else 20_000)
        (folder / f"{number}").write_bytes(written[f"{number}"])
    return written


def test_servers_come_and_go_under_writes(fresh: MountedCluster):
    """Goal: S8, S9. While a program writes file after file, each file server is killed in turn, and B loses its disk:
    no write fails, and in the end each server has every chunk."""
    mount, done, failed = fresh.mount(), threading.Event(), []
    written: dict[str, bytes] = {}

    def work() -> None:
        while not done.is_set():
            name, data = f"{len(written)}", os.urandom(20_000)
            try:
                (mount.point / name).write_bytes(data)
            except OSError as error:
                failed.append(error)
                return
            written[name] = data

    wait_whole(fresh)
    writer = threading.Thread(target=work)
    writer.start()
    try:
        for name in "ABC":
            before, pid = len(written), fresh.servers()[name].pid
            if name == "B":
                shutil.rmtree(fresh.home / "B" / "packs")
                (fresh.home / "B" / "store_id").unlink()
            fresh.kill(name)
            fresh.wait_for(name, other_than=pid)
            wait_until(lambda count=before: len(written) > count + 5 or failed, "writing goes on")
            wait_whole(fresh)
    finally:
        done.set()
        writer.join(60)
    assert failed == []
    wait_whole(fresh)
    names = {chunk_name(data).hex() for data in written.values()}
    for name in "ABC":
        wait_until(lambda n=name: names <= sound(fresh, n), f"{name} has every chunk")


def sound(cluster: MountedCluster, name: str) -> set[str]:
    """Chunks on one server's disk that are what they should be."""
    return {chunk for chunk, where in kept(cluster.home / name).items() if chunk_name(where.read()).hex() == chunk}


def test_room_of_what_was_removed(fresh: MountedCluster):
    """Goal: S11. What programs remove and replace is gone from the servers, while another file is written."""
    mount = fresh.mount()
    wait_whole(fresh)
    before = {name: fresh.stored_bytes(name) for name in "ABC"}
    write_some(mount.point, 20)
    with (mount.point / "open").open("wb") as file:
        file.write(os.urandom(5 << 20))
        for number in range(20):
            (mount.point / f"{number}").unlink()
        (mount.point / "replaced").write_bytes(os.urandom(1 << 20))
        (mount.point / "replaced").write_bytes(b"x" * 1000)
        expected = {name: before[name] + 1000 + (5 << 20) for name in "ABC"}
    for name in "ABC":
        wait_until(lambda n=name: fresh.stored_bytes(n) <= expected[n], f"{name} has room again", WHOLE_S)
        assert fresh.stored_bytes(name) == expected[name]
    assert len((mount.point / "open").read_bytes()) == 5 << 20


def test_a_broken_copy_is_made_good(fresh: MountedCluster):
    """Goal: S16. A chunk that has rotted on every replica is read from the primary, and soon right on the replicas."""
    writer, reader = fresh.mount(), fresh.mount()
    data = os.urandom(300_000)
    (writer.point / "file").write_bytes(data)
    wait_whole(fresh)
    for name in "BC":
        for where in kept(fresh.home / name).values():
            where.flip(1000)
    assert (reader.point / "file").read_bytes() == data
    for name in "BC":
        wait_until(lambda n=name: chunk_name(data).hex() in sound(fresh, n), f"{name}'s copy is right again")
