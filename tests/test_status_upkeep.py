"""What `dfs status` tells of copies: what is short, what is left and for how long, what was broken, what is lost."""

import shutil
from collections.abc import Iterator

import pytest
from dfs_command import Dfs, running
from support import wait_until

from dfsfuse.commands import upkeep
from dfsfuse.messages import Cluster, LostFile, Server, ServerCondition, StatusReply


def reply(*servers: tuple[Server, ServerCondition], lost: list[LostFile] | None = None) -> StatusReply:
    files = [server for server, _ in servers]
    return StatusReply(
        cluster=Cluster(volume="", copies=3, copies_min=2, files=files),
        directory=Server(kind="directory", name="directory", url=""),
        conditions=[condition for _, condition in servers],
        lost_files=lost or [],
    )


def test_what_people_read(capsys: pytest.CaptureFixture):
    """Goal: each state a server can be in, in words; how much it lacks, however much that is, and about when it will
    have everything; and what was lost, with what became of it."""

    def server(name: str, free_bytes: int = 1 << 30, **what: object) -> Server:
        return Server(kind="files", name=name, url="", free_bytes=free_bytes, **what)

    def told(name: str, **what: object) -> ServerCondition:
        return ServerCondition(name=name, **what)

    whole = reply(
        (server("A", scrubbed_ago_s=3 * 3600.0, broken_chunks=2, repaired_chunks=1), told("A", left_s=9.0)),
        (server("B", syncing=True), told("B", caught_up=0.2, left_s=7.0)),
        (server("C"), told("C", short=120, left_s=1.0)),
        (server("D", up=False), told("D", short=1_234_567, garbage=2_000_000, left_s=7.0)),
        (server("E", syncing=True), told("E", short=1_234_567, left_s=93_784.0)),
        (server("F", syncing=True, free_bytes=5000), told("F", short=3)),
        lost=[
            LostFile(ino=5, path=b"/a", version=7, lost_ns=0, reverted=True),
            LostFile(ino=6, path=b"/b", version=1, lost_ns=0, reverted=False, gaps=[(0, 10), (20, 30)]),
        ],
    )
    upkeep.write(upkeep.conditions(whole), whole.lost_files)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[2:8] == [
        "A serves 0 0 2 1 3 h 0 min ago",
        "B syncing, 20 % done, about 7.0 s left 0 0 0 0 not yet",
        "C serves, repairing, about 1.0 s left 120 0 0 0 not yet",
        "D away 1234567 2000000 0 0 not yet",
        "E syncing, about 26 h 3 min left 1234567 0 0 0 not yet",
        "F syncing, its disk is full 3 0 0 0 not yet",
    ]
    assert lines[-2].endswith(" 7 /a the content before it, as a version of its own")
    assert " 1 /b a copy of what there is; bytes 0 to 9, 20 to 29 are zeros in it, as no file server has " in lines[-1]


@pytest.fixture
def dfs() -> Iterator[Dfs]:
    with running() as command:
        yield command


def test_a_disk_that_was_emptied(dfs: Dfs):
    """Goal: with a real cluster: an emptied server is shown until it has everything again."""
    dfs("write", "/f", given=b"some content" * 1000)
    pid = dfs.cluster.servers()["B"].pid
    shutil.rmtree(dfs.cluster.home / "B" / "packs")
    for file in ("store_id", "start"):
        (dfs.cluster.home / "B" / file).unlink()
    dfs.cluster.kill("B")
    dfs.cluster.wait_for("B", pid)

    def is_whole() -> bool:
        known = dfs.json("status")
        states = {row["name"]: row for row in known["conditions"]}
        chunks = {row["name"]: row["chunks"] for row in known["services"]}
        whole = not states["B"]["syncing"] and states["B"]["short_chunks"] == 0
        return whole and chunks["B"] == chunks["A"]

    wait_until(is_whole, "B has everything")
    assert dfs.json("status")["lost_files"] == []
