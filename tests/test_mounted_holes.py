"""Holes and room on real mounts: what one mount punches and allocates, the other finds; copies stay sparse."""

import contextlib
import errno
import filecmp
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest
from dfs_command import Dfs
from posix_rules.calls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fallocate
from support import Mount, error, wait_until

pytestmark = pytest.mark.mounted

MIB = 1 << 20


def content_of(path: Path) -> list[tuple[int, int]]:
    """The stretches of content that SEEK_DATA and SEEK_HOLE find."""
    found, offset = [], 0
    with path.open("rb") as file:
        while True:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError as none:
                if none.errno != errno.ENXIO:
                    raise
                return found
            found.append((offset, os.lseek(file.fileno(), offset, os.SEEK_HOLE)))
            offset = found[-1][1]


def test_holes_that_another_mount_finds(two_mounts: tuple[Path, Path]):
    """Goal: a punched hole is one for the other mount after the close, to the block, and du knows it; what is written
    into it there is found here."""
    here, there = two_mounts
    data = os.urandom(20 * MIB)
    (here / "f").write_bytes(data)
    with (here / "f").open("r+b") as file:
        fallocate(file.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, MIB + 1, 10 * MIB)
    expected = bytearray(data)
    expected[MIB + 1 : 11 * MIB + 1] = bytes(10 * MIB)
    assert (there / "f").read_bytes() == expected
    assert content_of(there / "f") == [(0, MIB + 4096), (11 * MIB, 20 * MIB)]
    assert (there / "f").stat().st_blocks * 512 == 10 * MIB + 4096
    with (there / "f").open("r+b") as file:
        os.pwrite(file.fileno(), b"x", 5 * MIB)
    assert content_of(here / "f") == [(0, MIB + 4096), (5 * MIB, 5 * MIB + 4096), (11 * MIB, 20 * MIB)]


def test_copies_of_sparse_files(two_mounts: tuple[Path, Path]):
    """Goal: cp, which looks for holes, and copy_file_range, which gets a range of both, make sparse copies; so does cp
    onto the local disk."""
    here, there = two_mounts
    with (here / "f").open("wb") as file:
        for offset in (0, 9 * MIB, 33 * MIB):
            os.pwrite(file.fileno(), os.urandom(MIB), offset)
    subprocess.run(["cp", here / "f", here / "copy"], check=True)
    with (here / "f").open("rb") as source, (here / "range").open("wb") as target:
        while os.copy_file_range(source.fileno(), target.fileno(), 1 << 30):
            pass
    for name in ("copy", "range"):
        assert filecmp.cmp(here / "f", there / name, shallow=False)
        assert content_of(there / name) == content_of(here / "f")
        assert (there / name).stat().st_blocks == (here / "f").stat().st_blocks == 3 * MIB // 512


def test_room_that_was_allocated_counts(two_mounts: tuple[Path, Path], first: Mount):
    """Goal: allocated room counts for du and quota on every mount and is there for who writes into it; beyond the quota
    it is refused at once."""
    here, there = two_mounts
    dfs = Dfs(first.cluster)
    used = dfs.json("quota")["used_bytes"]
    with (here / "f").open("wb") as file:
        fallocate(file.fileno(), 0, 0, 50 * MIB)
        assert os.fstat(file.fileno()).st_blocks == 50 * MIB // 512
    assert (there / "f").stat().st_blocks == 50 * MIB // 512
    try:
        dfs.json("quota", "--bytes", used + 60 * MIB)
        wait_until(lambda: os.statvfs(here).f_bavail * 4096 <= 10 * MIB, "df follows", 5)
        with (here / "g").open("wb") as file, error(errno.EDQUOT):
            fallocate(file.fileno(), 0, 0, 11 * MIB)
        with (here / "f").open("r+b") as file:
            file.write(os.urandom(50 * MIB))
    finally:
        dfs("quota", "--bytes", "none")
    assert dfs.json("quota")["used_bytes"] == used + 50 * MIB


def test_very_large_sparse_file(two_mounts: tuple[Path, Path]):
    """Goal: a file of almost 16 TiB costs its content alone: written, found and read on another mount, cut again."""
    here, there = two_mounts
    size = (16 << 40) - 4096
    with (here / "f").open("wb") as file:
        os.ftruncate(file.fileno(), size)
        os.pwrite(file.fileno(), b"middle", 8 << 40)
        os.pwrite(file.fileno(), b"end", size - 3)
    assert (there / "f").stat().st_size == size
    assert content_of(there / "f") == [(8 << 40, (8 << 40) + 4096), (size - 4096, size)]
    with (there / "f").open("rb") as file:
        assert os.pread(file.fileno(), 6, 8 << 40) == b"middle"
        assert os.pread(file.fileno(), 100, size - 3) == b"end"
    assert (there / "f").stat().st_blocks == 16
    os.truncate(there / "f", 0)
    assert (here / "f").stat().st_blocks == 0


def test_what_a_very_large_sparse_file_costs(two_mounts: tuple[Path, Path], first: Mount):
    """Goal: to open a file of almost 16 TiB for writing, write, read it on another mount, change its attributes, cut it
    and grow it again takes the client some kilobytes in its index, and no memory to speak of."""
    here, there = two_mounts
    size = (16 << 40) - 8192
    (here / "f").touch()
    before = _peak_bytes(first.pid)
    os.truncate(here / "f", size)
    for place in (size // 2, size // 4):
        with (here / "f").open("r+b") as file:
            os.pwrite(file.fileno(), b"here", place)
            os.fsync(file.fileno())
        with (there / "f").open("rb") as file:
            assert os.pread(file.fileno(), 4, place) == b"here"
    (here / "f").chmod(0o640)
    os.truncate(here / "f", size // 2 + 1)
    os.truncate(here / "f", size)
    with (here / "f").open("r+b") as file:
        os.pwrite(file.fileno(), b"here", 5)
        assert content_of(here / "f") == [
            (p // 4096 * 4096, p // 4096 * 4096 + 4096) for p in (0, size // 4, size // 2)
        ]
        assert _row_bytes(first, (here / "f").stat().st_ino) < 1000
    assert _peak_bytes(first.pid) - before < 20 * MIB


def _peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _row_bytes(mount: Mount, ino: int) -> int:
    """What the client's index says of a file's content."""
    what = "length(entries) + length(segments) + length(present)"
    with contextlib.closing(sqlite3.connect(mount.folder / "index.db")) as db:
        ((found,),) = db.execute(f"SELECT {what} FROM contents WHERE ino = ? ORDER BY number DESC LIMIT 1", (ino,))
    return found
