"""The checks of a run of faults find what they look for: the same loads on a local disk, then damage; and logs."""

import ast
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from faults import checks, rounds, run
from faults.faults import NO_ROOM, NONE, Errors, a_dozen, lost_locks
from faults.git import Git
from faults.journal import DONE, WRONG, Journal, Reader
from faults.loads import FOLDERS, KINDS, Load, content
from faults.running import LOADS
from support import ROOT

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


def logged() -> list[str]:
    """All that servers and clients can write into their logs, with 7 for whatever is filled in."""
    files = [*ROOT.glob("dfsfuse/**/*.py"), *ROOT.glob("servers/**/*.py")]
    calls = [node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    said = [call.args[0] for call in calls if re.fullmatch(r"log\.(debug|info|warning|error)", ast.unparse(call.func))]
    return [re.sub(r"%[\d.]*[a-z]", "7", text.value) for text in said if isinstance(text, ast.Constant)]


@pytest.mark.parametrize("what", run.TAKEN_FOR_DEAD)
def test_what_tells_of_a_death_is_logged(what: str) -> None:
    """Goal: what the run over slow links looks for in logs is what the product writes there, word by word: else it
    would look in vain for ever."""
    assert any(re.search(what, line) for line in logged())


@pytest.mark.parametrize(("allowed", "load", "error"), [
    (NONE, "counters", "[Errno 28] No space left on device"),
    (NO_ROOM, "counters", "[Errno 5] Input/output error"),
    (NO_ROOM, "sqlite-m1", "SQLITE_CORRUPT database disk image is malformed"),
    (lost_locks("m1"), "counters", "[Errno 5] Input/output error"),
    (lost_locks("m1"), "sqlite-m2", "SQLITE_IOERR_READ disk I/O error"),
])  # fmt: skip
def test_an_error_that_is_not_promised_ends_a_run(allowed: Errors, load: str, error: str) -> None:
    """Goal: a step that ends with an error for which its fault gives no reason is a failure of the run."""
    failing = SimpleNamespace(name=load, new_failures=lambda: [error])
    with pytest.raises(AssertionError, match=load):
        rounds.judge([failing], allowed, "in a test")


def test_an_error_that_is_promised_is_counted() -> None:
    """Goal: ENOSPC on a full disk is told, and no failure."""
    failing = SimpleNamespace(name="counters", new_failures=lambda: ["[Errno 28] No space left on device"])
    fine = SimpleNamespace(name="mover", new_failures=list)
    assert rounds.judge([failing, fine], NO_ROOM, "in a test") == {"counters": ["[Errno 28] No space left on device"]}


def test_the_dozen() -> None:
    """Goal: what CI runs has a primary that nobody reaches, that a client does not reach, and that the directory does
    not reach; and no fault in it is one that programs may be told of."""
    names = [fault.name for fault in a_dozen()]
    assert len(set(names)) == 12
    assert {"cut A from all", "cut m1 - A", "cut A - directory"} <= {*names}
    assert {fault.errors for fault in a_dozen()} == {NONE}
