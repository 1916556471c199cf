"""What a client has committed is known to have happened, whatever others have done to the file when it is killed."""

import errno
import os
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import cache_index, done_commits
from dfsfuse.cache_index import CacheIndex, Copy
from dfsfuse.done_commits import PLACES, DoneCommits, done_in
from dfsfuse.places import place_of
from servers.store.memory import MemoryStore


@pytest.fixture
def machine(volume: Volume, tmp_path: Path) -> Machine:
    return Machine(volume, Servers(), tmp_path / "one")


@pytest.fixture
def other(volume: Volume, machine: Machine, tmp_path: Path) -> Machine:
    return Machine(volume, machine.servers, tmp_path / "two", 0.0)


def commit_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_a_later_client_knows_the_latest(tmp_path: Path) -> None:
    """Goal: nothing is closed, as in a killed client; the oldest make room, and a later client begins anew."""
    killed = DoneCommits(tmp_path / "done")
    for number in range(PLACES + 3):
        killed.note(commit_id(1 + number))
    assert done_in(tmp_path / "done") == set(map(commit_id, range(4, PLACES + 4)))
    later = DoneCommits(tmp_path / "done")
    later.note(commit_id(9999))
    assert commit_id(4) in later.before
    assert commit_id(9999) in done_in(tmp_path / "done")
    assert (tmp_path / "done").stat().st_size == PLACES * 16


def test_a_full_disk_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the commit has happened, whether it can be noted or not."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    done = DoneCommits(tmp_path / "done")
    monkeypatch.setattr(done_commits.os, "pwrite", full)
    done.note(commit_id(1))
    assert done_in(tmp_path / "done") == set()


@pytest.mark.parametrize("stays_open", [False, True])
@pytest.mark.parametrize("how", ["removed", "replaced", "written often"])
def test_what_another_client_does_to_a_committed_file_stands(
    machine: Machine, other: Machine, how: str, stays_open: bool
) -> None:
    """Goal: S15. Another client removes or replaces a file in the moment after its commit, or commits more versions
    than the directory remembers; the client that had committed is killed: it leaves no copy, of a conflict that there
    never was. `dfs status` knows that too."""
    handle = machine.create("/f")
    machine.put(handle, b"content")
    machine.files.files.flush(handle)
    if not stays_open:
        machine.close(handle)
    if how == "removed":
        other.files.remove(place_of("/f"), folder=False)
    elif how == "replaced":
        other.write("/g", b"other's")
        other.files.rename(place_of("/g"), place_of("/f"))
    else:
        for number in range(12):
            other.write("/f", b"%d" % number)
    (row,) = machine.cache.index.unsent()
    assert row.pending, "the index does not know yet"
    assert cache_index.unsent_in(machine.home / "index.db") == []
    before = other.names()
    machine.kill()
    assert machine.names() == before
    assert machine.cache.index.unsent() == []


def test_a_commit_that_a_power_cut_has_taken_back_is_sent_again(tmp_path: Path) -> None:
    """Goal: the directory has lost the last second; what it had acknowledged in it is still here when the client is
    killed too."""
    volume, servers = Volume(MemoryStore()), Servers()
    machine = Machine(volume, servers, tmp_path / "one")
    machine.write("/f", b"first")
    machine.cache.maintain()
    before = list(volume.store.keys), dict(volume.store.values)
    machine.write("/f", b"acknowledged")
    volume.store.keys, volume.store.values = before
    volume.restart()
    machine.kill()
    assert machine.read("/f") == b"acknowledged"


def test_what_is_written_after_the_commit_is_kept(machine: Machine, other: Machine) -> None:
    """Goal: that a commit has happened says nothing of what was written since: it comes back as a copy."""
    handle = machine.create("/f.txt")
    machine.put(handle, b"content")
    machine.files.files.flush(handle)
    machine.put(handle, b"CON")
    other.files.remove(place_of("/f.txt"), folder=False)
    machine.kill()
    (kept,) = machine.names()
    assert machine.read("/" + os.fsdecode(kept)) == b"CONtent"


def test_the_newest_copy_is_listed_whatever_the_clock_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: of more copies than are listed the newest stays, also when the clock was set back by an hour before."""
    monkeypatch.setattr(cache_index, "_COPIES_MAX", 3)
    index = CacheIndex(tmp_path / "index.db", "boot")
    for number, made_ns in enumerate((10, 20, 30, 40, 5), 1):
        index.note_copy(Copy(number, b"/copy", b"/f", "conflict", made_ns))
    assert [made.ino for made in index.copies()] == [5, 3, 4]
    index.close()
