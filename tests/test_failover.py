"""Which file server a client asks: who is silent, fails, or may lack chunks is passed over, and quickly."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support import ROOT, wait_until

from dfsfuse import errors, health
from dfsfuse.chunks import chunk_name
from dfsfuse.health import Health
from dfsfuse.messages import (
    ChunkReceipts,
    Cluster,
    Confirmed,
    FilesStatus,
    Nothing,
    Receipt,
    Server,
    Stored,
    Synced,
)
from dfsfuse.transfer import Transfer


class Group:
    """A session with file servers; what each does with a request is in `does`: an error, or the answer. `silent` ones
    answer nothing, which their callers find out by asking `interrupted`."""

    timeout_s = 0.2

    def __init__(self, **does: errors.DfsError | None):
        self.does, self.rpc, self.asked, self.silent, self.signs = does, self, [], set(), 0
        files = [Server(kind="files", name=name, url=name) for name in "ABC"]
        self.cluster = Cluster(volume="", copies=3, copies_min=2, files=files)

    def server(self, name: str) -> Server:
        return next(server for server in self.cluster.files if server.name == name)

    def _answer(self, url: str, interrupted: Callable[[], bool] | None, answer: object) -> object:
        self.asked.append(url)
        if url in self.silent and interrupted:
            wait_until(interrupted, "it is found silent")
            raise errors.Interrupted("interrupted while waiting")
        if self.does.get(url):
            raise self.does[url]
        return answer

    def put_chunk(
        self, url: str, name: bytes, data: bytes, role: str, timeout_s: float, interrupted=None, synced=False
    ) -> Stored:
        assert role == ("" if url == "A" else "acting")
        return self._answer(url, interrupted, Stored([Receipt(url, 1)]))

    def get_chunk(self, url: str, name: bytes, buffer: memoryview, timeout_s: float, interrupted=None) -> int:
        buffer[:12] = b"some content"
        return self._answer(url, interrupted, 12)

    def call(
        self, url: str, operation: str, request: object, reply: type, timeout_s: float, interrupted=None
    ) -> object:
        if operation == "ping":
            self.signs += 1
            if url in self.silent:
                raise errors.TimedOut("no sign")
            return Nothing()
        answers = {Synced: Synced(["A", "B", "C"]), Confirmed: Confirmed([ChunkReceipts(NAME, [Receipt(url, 1)])])}
        return self._answer(url, interrupted, answers.get(reply, FilesStatus))


NAME = chunk_name(b"some content")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "OVERDUE_S", 0.02)
    monkeypatch.setattr(health, "LOOK_S", 0.02)


@pytest.fixture(scope="module")
def closes() -> Callable[[float, float], list[dict]]:
    """`closes(for how long the primary stands still, round trip)`: closes in simulated time, at several moments."""

    def run(stands_s: float, round_trip_s: float) -> list[dict]:
        command = [sys.executable, "-m", "simulation.standstill", str(stands_s), str(round_trip_s)]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=ROOT / "tests", env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.parametrize(("round_trip_s", "took_s_max"), [(0.0, 2.1), (0.2, 3.0)])
def test_a_close_passes_over_a_primary_that_stands_still(closes, round_trip_s: float, took_s_max: float):
    """Goal: S9. To the first close of a client a standstill of the primary is 2 s and five round trips, whenever it
    begins: OVERDUE_S, SIGN_S and DOUBTED_S, and nothing besides. Time is simulated, so this is exact."""
    found = closes(1e6, round_trip_s)
    assert len(found) == 12
    # Who was through with the primary before it stood still has not waited.
    assert all(close["acted"] or close["took_s"] < 0.05 for close in found)
    assert sum(close["acted"] for close in found) >= 9
    assert max(close["took_s"] for close in found) < took_s_max


@pytest.mark.parametrize(("stands_s", "round_trip_s"), [(0.0, 0.2), (1.5, 0.0), (1.4, 0.2)])
def test_a_stall_is_no_standstill(closes, stands_s: float, round_trip_s: float):
    """Goal: a primary that goes on within 1.5 s keeps its part, and so does one behind a slow link."""
    found = closes(stands_s, round_trip_s)
    assert len(found) == 12
    assert not any(close["acted"] for close in found)


def upload(transfer: Transfer) -> list[str]:
    return [receipt.server for receipt in transfer.upload(b"some content", {}).receipts]


def test_a_silent_primary_is_passed_over():
    """Goal: who gives no sign of life while its answer is overdue is not waited for, nor asked again at once; the next
    one acts."""
    group = Group()
    group.silent.add("A")
    transfer = Transfer(group)
    for _ in range(3):
        assert upload(transfer) == ["B"]
    assert group.asked == ["A", "B", "B", "B"]


def test_a_server_that_is_slow_is_waited_for():
    """Goal: one that gives signs of life is asked for them as often as an answer is overdue, and not given up."""
    silent = Health(Group(), list).is_silent(Group().server("A"), 1.0)
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        assert not silent()


def test_an_upload_over_a_slow_link_has_its_time():
    """Goal: as a silent server is found out by its silence, an upload is given up for no other reason within its share
    of the time-out, however small it is: over a link of 200 ms a new connection takes seconds for a megabyte."""
    group, given_s = Group(), []
    group.timeout_s = 30.0
    group.put_chunk = lambda url, name, data, role, timeout_s, interrupted, synced: (
        given_s.append(timeout_s) or Stored([Receipt(url, 1)])
    )
    transfer = Transfer(group)
    assert upload(transfer) == ["A"]
    transfer.try_upload(b"some content")
    assert min(given_s) > 9


def test_who_was_passed_over_is_asked_for_a_sign_first():
    """Goal: a server that is still silent costs nobody anything, and one that has returned is used."""
    group = Group()
    group.silent.add("A")
    transfer = Transfer(group)
    assert [upload(transfer), upload(transfer)] == [["B"], ["B"]]
    wait_until(lambda: group.signs > 3, "it is asked for a sign")
    began = time.monotonic()
    assert upload(transfer) == ["B"]
    assert time.monotonic() - began < 0.1
    assert group.asked == ["A", "B", "B", "B"]
    group.silent.clear()
    wait_until(lambda: upload(transfer) == ["A"], "A is used again")


def test_who_was_passed_over_is_not_asked_to_confirm():
    """Goal: confirming chunks costs no second wait for a silent server where the others have them."""
    group = Group()
    group.silent.add("A")
    transfer = Transfer(group)
    upload(transfer)
    group.asked.clear()
    assert [receipt.server for receipt in transfer.confirm([NAME])[NAME].receipts] == ["B", "C"]
    assert group.asked == ["B", "C"]
    group.does["C"] = errors.Unreachable("away")
    assert transfer.confirm([NAME]) == {}
    assert group.asked == ["B", "C", "B", "C", "A"]


@pytest.mark.parametrize("error", [errors.Internal, errors.Starting, errors.NoSpace, errors.Unreachable])
def test_a_server_that_fails_is_passed_over_at_once(error: type[errors.DfsError]):
    """Goal: whatever the primary fails with, the next server takes the chunk; a sync likewise."""
    group = Group(A=error("it fails"))
    transfer = Transfer(group)
    began = time.monotonic()
    assert upload(transfer) == ["B"]
    transfer.sync([])
    assert time.monotonic() - began < 0.2


def test_a_group_that_is_forming_is_waited_for():
    """Goal: a server that knows of a primary of which this client has not heard yet is asked again until it has; after
    the time-out nobody was reached, which is no EIO."""
    group = Group(A=errors.NotPrimary("uploads go to X"))
    group.cluster.files[1:] = []
    transfer = Transfer(group)
    with pytest.raises(errors.Unreachable, match="uploads go to X") as told:
        upload(transfer)
    assert told.value.errno == errno.EHOSTUNREACH
    group.timeout_s = 10.0
    threading.Timer(0.3, lambda: group.does.pop("A")).start()
    assert upload(Transfer(group)) == ["A"]


def test_what_all_servers_say_is_told():
    """Goal: full disks of all are ENOSPC."""
    full = errors.NoSpace("full")
    with pytest.raises(errors.NoSpace):
        upload(Transfer(Group(A=full, B=full, C=full)))


def test_who_may_lack_chunks_comes_later():
    """Goal: a server that is syncing is neither the primary nor read from, unless the others are away."""
    group = Group()
    for name in "AB":
        group.server(name).syncing = True
    transfer = Transfer(group)
    assert upload(transfer) == ["C"]
    assert {Transfer(group).download(NAME) for _ in range(3)} == {b"some content"}
    assert set(group.asked) == {"C"}
    group.does["C"] = errors.Unreachable("away")
    assert upload(transfer) == ["A"]
    assert transfer.download(NAME) == b"some content"


def test_what_the_directory_does_not_hear_comes_last():
    """Goal: a server that is down for the directory is asked when all others have failed."""
    group = Group(C=errors.Unreachable("away"), B=errors.Unreachable("away"))
    group.server("A").up = False
    assert upload(Transfer(group)) == ["A"]
    assert group.asked == ["B", "C", "A"]


def test_signs_are_asked_for_over_another_connection(monkeypatch: pytest.MonkeyPatch):
    """Goal: no sign is asked for before an answer is overdue."""
    monkeypatch.setattr(health, "OVERDUE_S", 1e6)
    asked = []
    rpc = SimpleNamespace(call=lambda *_: asked.append(os.getpid()))
    silent = Health(rpc, list).is_silent(Group().server("A"), 1.0)
    assert not silent()
    assert asked == []


@pytest.mark.parametrize("missing", [errors.ChunkMissing, errors.ChunkCorrupt])
def test_a_chunk_is_gone_when_no_server_has_it(missing: type[errors.DfsError]):
    """Goal: what all servers say that they do not have is given up; what one that is away may have is not."""
    lost = missing("not here")
    with pytest.raises(errors.ChunkGone):
        Transfer(Group(A=lost, B=errors.ChunkMissing("not here"), C=lost)).download(NAME)
    two = Group(A=lost, B=lost)
    two.cluster.files.pop()
    for group in (Group(A=lost, B=lost, C=errors.TimedOut("no answer")), two):
        with pytest.raises(errors.DfsError) as caught:
            Transfer(group).download(NAME)
        assert not isinstance(caught.value, errors.ChunkGone)
