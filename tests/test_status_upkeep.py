"""What `dfs status` tells of copies: what is short, what is left and for how long, what was broken, what is lost."""

import shutil
from collections.abc import Iterator

import pytest
from dfs_command import Dfs, running
from support import wait_until

from dfsfuse.commands import upkeep
from dfsfuse.messages import Cluster, LostFile, Server, ServerCondition, StatusReply


def told(**what: object) -> ServerCondition:
    return ServerCondition(name="B", **what)


@pytest.mark.parametrize(
    ("before", "now", "left_s"),
    [
        (told(), told(), -1),
        (told(short=100), told(short=75), 3),
        (told(short=100), told(short=100), -1),
        (told(short=100), told(), 0),
        (told(caught_up=0.25), told(caught_up=0.5), 2),
        (told(caught_up=0.5, short=9), told(caught_up=0.5, short=3), -1),
        (told(short=5), None, -1),
    ],
)
def test_how_long_it_takes(before: ServerCondition, now: ServerCondition | None, left_s: float):
    """Goal: what is left divided by what was done within a second; nothing is told where nothing was done."""
    assert upkeep.left_s(before, now) == left_s


def reply(*servers: tuple[Server, ServerCondition], lost: list[LostFile] | None = None) -> StatusReply:
    files = [server for server, _ in servers]
    return StatusReply(
        cluster=Cluster(volume="", copies=3, copies_min=2, files=files),
        directory=Server(kind="directory", name="directory", url=""),
        conditions=[condition for _, condition in servers],
        lost_files=lost or [],
    )


def test_what_people_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Goal: each state a server can be in, in words; and what was lost, with what became of it."""
    monkeypatch.setattr(upkeep.time, "sleep", lambda _: None)

    def server(name: str, **what: object) -> Server:
        return Server(kind="files", name=name, url="", **what)

    def after(short: int, caught_up: float) -> StatusReply:
        return reply(
            (server("A", scrubbed_ago_s=3 * 3600.0, broken_chunks=2, repaired_chunks=1), ServerCondition(name="A")),
            (server("B", syncing=True), told(caught_up=caught_up)),
            (server("C"), ServerCondition(name="C", short=short)),
            (server("D", up=False), ServerCondition(name="D", short=10_000, garbage=3)),
            lost=[
                LostFile(ino=5, path=b"/a", version=7, lost_ns=0, reverted=True),
                LostFile(ino=6, path=b"/b", version=1, lost_ns=0, reverted=False, gaps=[(0, 10), (20, 30)]),
            ],
        )

    whole = after(120, 0.2)
    upkeep.write(upkeep.conditions(whole, lambda: after(60, 0.3)), whole.lost_files)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[2:6] == [
        "A serves 0 0 2 1 3 h 0 min ago",
        "B syncing, 20 % done, 7.0 s left 0 0 0 0 not yet",
        "C serves, repairing, 1.0 s left 120 0 0 0 not yet",
        "D away 10000 or more 3 0 0 not yet",
    ]
    assert lines[-2].endswith(" 7 /a the content before it, as a version of its own")
    assert " 1 /b a copy of what there is; bytes 0 to 9, 20 to 29 are zeros in it, as no file server has " in lines[-1]


def test_nothing_is_measured_where_nothing_is_under_way():
    """Goal: with all servers whole the directory is asked once."""

    def never() -> StatusReply:
        raise AssertionError("asked again")

    found = upkeep.conditions(reply((Server(kind="files", name="B", url=""), told())), never)
    assert [condition.left_s for condition in found] == [-1]


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
