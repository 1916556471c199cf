"""Copies beside files: made once, whenever the client that makes them is killed, and listed until they are made."""

import os
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import cache_index, errors
from dfsfuse.commands.leftovers import Ask, copies_in, uploads_of
from dfsfuse.commits import Committer
from dfsfuse.rpc import Rpc
from dfsfuse.unsent import Unsent


@pytest.fixture
def machine(volume: Volume, tmp_path: Path) -> Machine:
    return Machine(volume, Servers(), tmp_path / "clients" / "v" / "one")


def half_written(machine: Machine) -> None:
    machine.write("/f.txt", b"closed")
    machine.put(machine.open("/f.txt", os.O_RDWR), b"HALF")


def copies(machine: Machine) -> dict[str, bytes]:
    names = [os.fsdecode(name) for name in machine.names()]
    return {name: machine.read(f"/{name}") for name in names if name != "f.txt"}


def test_a_copy_that_a_kill_interrupts_is_finished(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S15. The client that makes the copy of what a killed one had left is killed too, when the copy has its name
    and not its content: the next one finishes this copy, and makes no other."""
    half_written(machine)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Committer, "commit", killed)
        with pytest.raises(Killed):
            machine.kill()
    machine.kill()
    ((name, content),) = copies(machine).items()
    assert name.count(" (recovered ") == 1
    assert content == b"HALFed"
    assert machine.read("/f.txt") == b"closed"


def test_what_waits_to_be_a_copy_is_listed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what the next client has taken up is listed with the reason until it is dealt with, also before the first
    attempt has failed; then with what it has failed for."""
    half_written(machine)

    def listed() -> list[str]:
        found = uploads_of(machine.home, Ask(Rpc(""), None))
        return [f"{upload.path.decode()}: {upload.reason}" for upload in found]

    def silent(*_: object, **options: bool) -> None:
        raise errors.TimedOut("silent servers")

    monkeypatch.setattr(machine.servers, "upload", silent)
    with monkeypatch.context() as patched:
        patched.setattr(Unsent, "retry", lambda self: 0)
        machine.kill()
    assert listed() == ["/f.txt: left by a client that ended before it was closed; it is kept as a copy now"]
    assert machine.unsent.retry() == 1
    assert listed() == ["/f.txt: silent servers"]
    monkeypatch.undo()
    assert machine.unsent.retry() == 0
    assert listed() == []
    assert list(copies(machine).values()) == [b"HALFed"]
    (made,) = cache_index.copies_in(machine.home / "index.db")
    assert made.original == b"/f.txt"


def test_copies_are_looked_for_in_their_own_volume(machine: Machine) -> None:
    """Goal: a home may have clients of several volumes; a directory is asked about its own inodes alone. Those of
    another volume are other files, or none, and what is not known to have been dealt with is listed."""

    class OtherFiles:
        def call(self, *_: object) -> None:
            raise errors.Stale("no such file")

    half_written(machine)
    machine.kill()
    home = machine.home.parents[2]
    (listed,) = copies_in(home, Ask(OtherFiles(), "http://directory", "another"))
    assert listed.original == b"/f.txt"
    assert copies_in(home, Ask(OtherFiles(), "http://directory", "v")) == []
