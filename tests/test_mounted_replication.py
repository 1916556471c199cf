"""Copies as a real mount makes them: where they are after close(), and who serves them."""

import contextlib
import os
import time
from pathlib import Path

import pytest
from chunk_homes import kept
from support import Mount, MountedCluster, wait_until
from volume_checks import assert_whole

pytestmark = pytest.mark.mounted


def chunks_of(cluster: MountedCluster, name: str) -> dict[str, bytes]:
    """What one file server has on its disk: name -> bytes."""
    return {chunk: where.read() for chunk, where in kept(cluster.home / name).items()}


def all_up(cluster: MountedCluster) -> bool:
    """The directory hears all file servers, and so do their peers."""
    return all(server["up"] for server in cluster.ask("directory")["cluster"]["files"])


def arrives_everywhere(cluster: MountedCluster, mount: Mount) -> bool:
    """What is written here gets three copies now."""
    before = [cluster.ask(name)["received_chunks"] for name in "ABC"]
    (mount.point / "probe").write_bytes(os.urandom(100))
    return [cluster.ask(name)["received_chunks"] - was for name, was in zip("ABC", before, strict=True)] == [1] * 3


@pytest.fixture(scope="module", autouse=True)
def three_copies(shared: MountedCluster, first: Mount) -> None:
    """A cluster is ready when two of its three file servers are; what is written in its first second may miss the
    third, until the servers have heard of each other."""
    wait_until(lambda: arrives_everywhere(shared, first), "three copies are made")


def test_after_close_all_three_have_the_same_chunks(shared, mount: Path):
    """Goal: S8. When close() returns, every chunk of A is on B and C, byte for byte; new files, changed and appended
    ones."""
    before = {name: set(chunks_of(shared, name)) for name in "ABC"}
    (mount / "small").write_bytes(b"small")
    (mount / "large").write_bytes(os.urandom(10 << 20))
    with (mount / "large").open("r+b") as handle:
        handle.seek(5 << 20)
        handle.write(os.urandom(5000))
    with (mount / "small").open("ab") as handle:
        handle.write(os.urandom(100_000))
    new = {name: chunks_of(shared, name) for name in "ABC"}
    for name in "ABC":
        for old in before[name]:
            del new[name][old]
    assert sum(map(len, new["A"].values())) > 10 << 20
    assert new["B"] == new["A"]
    assert new["C"] == new["A"]


def test_reads_go_to_the_replicas_by_turns(shared, two_mounts):
    """Goal: B and C serve about half of the chunks each, and A none."""
    here, there = two_mounts
    content = os.urandom(40 << 20)
    (here / "file").write_bytes(content)
    before = {name: shared.served(name) for name in "ABC"}
    assert (there / "file").read_bytes() == content
    served = {name: shared.served(name) - before[name] for name in "ABC"}
    assert served == {"A": 0, "B": 5, "C": 5}


def test_writes_go_to_the_primary(shared, mount: Path):
    """Goal: each of the three receives each chunk once."""
    before = {name: shared.ask(name)["received_chunks"] for name in "ABC"}
    (mount / "file").write_bytes(os.urandom(8 << 20))
    after = {name: shared.ask(name)["received_chunks"] for name in "ABC"}
    assert [after[name] - before[name] for name in "ABC"] == [2, 2, 2]


def test_equal_content_is_stored_once(shared, mount: Path):
    """Goal: chunks are named by their content: a copy of a file takes no more space on the servers, which may delete
    what earlier tests have left meanwhile."""
    content = os.urandom(5 << 20)
    (mount / "one").write_bytes(content)
    before = shared.stored_bytes("A")
    (mount / "two").write_bytes(content)
    assert shared.stored_bytes("A") <= before


def test_one_replica_serves_while_the_other_stands_still(fresh):
    """Goal: S9. With B frozen C serves, with both frozen A does; nobody waits for long, and later B and C serve
    again."""
    writer, reader = fresh.mount(), fresh.mount()
    for number in range(3):
        (writer.point / f"{number}").write_bytes(os.urandom(5 << 20))
    before = {name: fresh.served(name) for name in "ABC"}
    with fresh.frozen("B"):
        assert len((reader.point / "0").read_bytes()) == 5 << 20
        assert (fresh.served("A"), fresh.served("C")) == (before["A"], before["C"] + 2)
        with fresh.frozen("C"):
            assert len((reader.point / "1").read_bytes()) == 5 << 20
            assert fresh.served("A") == before["A"] + 2
    assert len((reader.point / "2").read_bytes()) == 5 << 20


@pytest.mark.parametrize(("name", "took_s_max"), [("A", 3.0), ("B", 2.0)])
def test_a_close_passes_over_a_server_that_stands_still(fresh, name: str, took_s_max: float):
    """Goal: S8, S9. With the primary stopped the first close of a client takes less than 3 s, with a replica stopped
    less than 2 s: by design they are 2.0 and 1.0 s. The quickest of three counts: what else the machine does makes some
    slower, a longer wait of ours all. The file has two copies, and everybody reads it."""
    *writers, other = (fresh.mount() for _ in range(4))
    took_s = []
    for number, writer in enumerate(writers):
        (writer.point / "connected").write_bytes(b"%d" % number)
        wait_until(lambda: all_up(fresh) and arrives_everywhere(fresh, other), "all servers are used")
        data = os.urandom(300_000)
        with fresh.frozen(name):
            began = time.monotonic()
            (writer.point / f"{number}").write_bytes(data)
            took_s.append(time.monotonic() - began)
            assert (other.point / f"{number}").read_bytes() == data
        assert ("file server A is passed over" in writer.log) == (name == "A")
    assert min(took_s) < took_s_max, took_s


def test_broken_chunk_is_read_elsewhere(fresh):
    """Goal: S16. Bytes that rot on a replica's disk are never read: another server's copy is, by every reader; and it
    takes the place of the broken ones."""
    writer, readers = fresh.mount(), [fresh.mount() for _ in range(2)]
    content = {"large": os.urandom(3 << 20), "small": os.urandom(5000)}
    for file, data in content.items():
        (writer.point / file).write_bytes(data)
    for name in "BC":
        for where in kept(fresh.home / name).values():
            where.flip(1000)
    for reader in readers:
        assert {file: (reader.point / file).read_bytes() for file in content} == content
    wait_until(lambda: is_whole(fresh.home), "all copies are right again")


def is_whole(home: Path) -> bool:
    with contextlib.suppress(AssertionError):
        assert_whole(home, read=True)
        return True
    return False
