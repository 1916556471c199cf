"""Clients that stand still for longer than their lease, and go on: what they had is a copy, and everybody is told."""

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from dfs_command import Dfs
from support import Mount, MountedCluster, error, wait_until

pytestmark = pytest.mark.mounted

ENDED_S = 20.0


@contextlib.contextmanager
def stopped(client: Mount, ino: int) -> Iterator[None]:
    """The client stands still within the block, which begins when the write lock of this inode is nobody's."""
    pid, ask = client.pid, client.cluster.ask
    held = lambda: [row for row in ask("locks", "locks")["locks"] if row["ino"] == ino and row["token"]]  # noqa: E731
    wait_until(held, "the lock is listed")
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: not held(), "the lease ends", ENDED_S)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def written(file: Path, text: bytes) -> Iterator[tuple[int, int]]:
    """(descriptor, inode) of a file in which this stands, and of which no close() has told anybody."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, text)
        yield handle, os.fstat(handle).st_ino
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)


def assert_told(cluster: MountedCluster, client: Mount, path: str, original: str) -> None:
    """The log of the client and `dfs status` name the copy, and what it is of."""
    assert f"{original}: another client has committed meanwhile; what was written here is kept as {path}" in client.log
    (made,) = Dfs(cluster).json("status")["copies_made"]
    assert (made["path"], made["original"], made["kind"]) == (path, original, "conflict")
    shown = Dfs(cluster)("status").decode()
    assert path in shown
    assert f"the write lock of {original} is lost" in client.log
    assert "another client has committed meanwhile" in shown


def test_what_a_stopped_client_had_is_a_copy_beside_the_file(fresh):
    """Goal: S6. Another client has written the file meanwhile. The descriptor gets EIO at its next fsync and at writes
    after that; the copy is beside the file, on every mount; log and status say so."""
    sleeper, other = fresh.mount(), fresh.mount()
    (sleeper.point / "folder").mkdir()
    (sleeper.point / "folder" / "file.txt").write_bytes(b"base")
    with written(sleeper.point / "folder" / "file.txt", b" lost") as (handle, ino):
        with stopped(sleeper, ino), (other.point / "folder" / "file.txt").open("ab") as file:
            file.write(b" kept")
        with error(errno.EIO):
            os.fsync(handle)
        with error(errno.EIO):
            os.write(handle, b"more")
    assert (sleeper.point / "folder" / "file.txt").read_bytes() == b"base kept"
    (copy,) = set(os.listdir(other.point / "folder")) - {"file.txt"}
    assert copy.startswith(f"file (conflict {os.uname().nodename} ")
    assert copy.endswith(").txt")
    assert (other.point / "folder" / copy).read_bytes() == b"base lost"
    assert_told(fresh, sleeper, f"/folder/{copy}", "/folder/file.txt")


def test_what_a_stopped_client_had_is_in_lost_and_found(fresh):
    """Goal: S6. Another client has written the file meanwhile, and has then removed its folder."""
    sleeper, other = fresh.mount(), fresh.mount()
    (sleeper.point / "folder").mkdir()
    (sleeper.point / "folder" / "file.txt").write_bytes(b"base")
    with written(sleeper.point / "folder" / "file.txt", b" lost") as (handle, ino):
        with stopped(sleeper, ino):
            (other.point / "folder" / "file.txt").write_bytes(b"kept")
            shutil.rmtree(other.point / "folder")
        with error(errno.EIO):
            os.fsync(handle)
    assert os.listdir(other.point) == ["lost+found"]
    (copy,) = os.listdir(other.point / "lost+found")
    assert copy.startswith("file (conflict ")
    assert copy.endswith(").txt")
    assert (other.point / "lost+found" / copy).read_bytes() == b"base lost"
    assert_told(fresh, sleeper, f"/lost+found/{copy}", "/folder/file.txt")
