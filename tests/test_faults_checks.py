"""The checks at the end of a run of faults find what they look for: the same loads on a local disk, then damage."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from faults import checks
from faults.git import Git
from faults.journal import DONE, WRONG, Journal, Reader
from faults.loads import FOLDERS, KINDS, Load, content
from faults.running import LOADS

STEPS = 4


class Disk:
    """A local folder on which each load has done some steps."""

    def __init__(self, folder: Path):
        self.folder, self.journals = folder / "m1", folder / "journals"
        self.folder.mkdir()
        self.journals.mkdir()
        (folder / "m2").symlink_to("m1")
        self.loads = [
            SimpleNamespace(name=name, mount=mount, journal=self.journals / name) for name, (_, mount) in LOADS.items()
        ]
        for load in self.loads:
            self.run(KINDS[LOADS[load.name][0]](folder / load.mount, load.journal, 1))

    def run(self, load: Load) -> None:
        load.prepare()
        for _ in range(STEPS):
            load.step()

    def check(self) -> int:
        return checks.check_client(self.folder, self.loads)

    def acknowledged(self, name: str, what: str, value: int) -> None:
        """The load of this name has one more step behind it, which is nowhere to be found."""
        Journal(self.journals / name).note(DONE, what, value)

    def some_counter(self) -> Path:
        return sorted(self.folder.glob("counter-*"))[0]

    def some_moved(self) -> tuple[Path, Path]:
        """A file, and its place in the other folder."""
        here, there = (self.folder / name for name in FOLDERS)
        file = sorted([*here.iterdir(), *there.iterdir()])[0]
        return file, (there if file.parent == here else here) / file.name

    def older(self) -> None:
        file = self.some_counter()
        file.write_bytes(content(file.name, 0, 100))

    def mixed(self) -> None:
        file = self.some_counter()
        file.write_bytes(file.read_bytes() + content(file.name, 0, 100))

    def twice(self) -> None:
        file, other = self.some_moved()
        other.write_bytes(file.read_bytes())

    def moved_back(self) -> None:
        file, other = self.some_moved()
        file.rename(other)

    def half_a_transaction(self) -> None:
        database = sqlite3.connect(self.folder / "ledger.db")
        database.execute("UPDATE total SET sum = sum - 1")
        database.commit()
        database.close()

    def spoiled_object(self) -> None:
        """Of the newest commit's tree."""
        name = Git(self.folder / "repository").run("rev-parse", "HEAD^{tree}").strip()
        file = self.folder / "repository/.git/objects" / name[:2] / name[2:]
        file.chmod(0o600)
        file.write_bytes(b"")


DAMAGE: dict[str, Callable[[Disk], object]] = {
    "a counter that is older": Disk.older,
    "a counter of two versions": Disk.mixed,
    "a counter that is missing": lambda disk: disk.some_counter().unlink(),
    "a moved file in two folders": Disk.twice,
    "a moved file that is missing": lambda disk: disk.some_moved()[0].unlink(),
    "a move that did not last": Disk.moved_back,
    "a moved file with another content": lambda disk: disk.some_moved()[0].write_bytes(b"other"),
    "a transaction that is missing": lambda disk: disk.acknowledged("sqlite-m2", "m2", 77),
    "half of a transaction": Disk.half_a_transaction,
    "a commit that is missing": lambda disk: disk.acknowledged("git", "commit", 77),
    "a repository that is damaged": Disk.spoiled_object,
}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_sound_disk_is_sound(disk: Disk) -> None:
    """Goal: on a local disk, on which nothing fails, everything that was acknowledged is found."""
    assert disk.check() > STEPS


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_lost_is_found(disk: Disk, what: str) -> None:
    """Goal: each loss is found."""
    DAMAGE[what](disk)
    with pytest.raises((AssertionError, ValueError, OSError)):
        disk.check()


def test_a_reader_tells_of_what_is_too_old(disk: Disk) -> None:
    """Goal: a reader that finds less than what was closed before its open writes it down as wrong."""
    for file in disk.folder.glob("counter-*"):
        file.write_bytes(content(file.name, 0, 100))
    readers = next(load for load in disk.loads if load.name == "readers")
    disk.run(KINDS["readers"](disk.folder, readers.journal, 1))
    found = [line for line in Reader(readers.journal).new() if line.state == WRONG]
    assert len(found) == STEPS
