"""The quicker of the real programs (tests/programs) on two mounts, compared with the same on a local disk."""

from pathlib import Path

import pytest
from programs import Program, databases, files, suites

pytestmark = pytest.mark.mounted


def cpython_io(here: Path, there: Path) -> object:
    """Those of Python's tests that touch files most."""
    return suites.cpython(here, there, ["test_shutil", "test_glob", "test_fileio", "test_mmap", "test_fcntl"])


def sqlite_in_turn(here: Path, there: Path) -> object:
    """A part of 200 transactions, which takes some 15 s."""
    return databases.sqlite(here, there, turns=4)


@pytest.mark.parametrize(
    "program",
    [files.git, files.tar, files.rsync, files.make, cpython_io, sqlite_in_turn],
    ids=lambda program: program.__name__,
)
def test_program(program: Program, two_mounts: tuple[Path, Path], tmp_path: Path) -> None:
    """Goal: the program ends as on a local disk, and what it made is the same through another mount."""
    assert program(*two_mounts) == program(tmp_path, tmp_path)
