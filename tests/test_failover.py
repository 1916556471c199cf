"""Which file server a client asks: who is silent, fails, or may lack chunks is passed over, and quickly."""

import os
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support import wait_until

from dfsfuse import errors, health
from dfsfuse.chunks import chunk_name
from dfsfuse.health import Health
from dfsfuse.messages import Cluster, FilesStatus, Nothing, Receipt, Server, Stored, Synced
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

    def put_chunk(self, url: str, name: bytes, data: bytes, role: str, timeout_s: float, interrupted=None) -> Stored:
        assert role == ("" if url == "A" else "acting")
        return self._answer(url, interrupted, Stored([Receipt(url, 1)]))

    def get_chunk(self, url: str, name: bytes, timeout_s: float, interrupted=None) -> bytes:
        return self._answer(url, interrupted, b"some content")

    def call(
        self, url: str, operation: str, request: object, reply: type, timeout_s: float, interrupted=None
    ) -> object:
        if operation == "ping":
            self.signs += 1
            if url in self.silent:
                raise errors.TimedOut("no sign")
            return Nothing()
        return self._answer(url, interrupted, Synced(["A", "B", "C"]) if reply is Synced else FilesStatus)


NAME = chunk_name(b"some content")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "OVERDUE_S", 0.02)
    monkeypatch.setattr(health, "LOOK_S", 0.02)


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
    group.put_chunk = lambda url, name, data, role, timeout_s, interrupted: (
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


@pytest.mark.parametrize("error", [errors.Internal, errors.Starting, errors.NoSpace, errors.Unreachable])
def test_a_server_that_fails_is_passed_over_at_once(error: type[errors.DfsError]):
    """Goal: whatever the primary fails with, the next server takes the chunk; a sync likewise."""
    group = Group(A=error("it fails"))
    transfer = Transfer(group)
    began = time.monotonic()
    assert upload(transfer) == ["B"]
    transfer.sync([])
    assert time.monotonic() - began < 0.2


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
    assert {transfer.download(NAME) for _ in range(3)} == {b"some content"}
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
