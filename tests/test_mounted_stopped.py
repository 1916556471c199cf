"""Clients that stand still for longer than their lease, and go on: what they had is a copy, and everybody is told."""

import contextlib
import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dfs_command import Dfs
from support import Mount, MountedCluster, error, wait_until

from dfsfuse import cache_index
from dfsfuse.cache_index import State

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


def test_whoever_took_the_lock_need_not_have_written(fresh):
    """Goal: S6. Another client has opened the file for writing, and has not written yet when the stopped one goes on:
    what the stopped one had is a copy, and the other one's close makes the next version."""
    sleeper, other = fresh.mount(), fresh.mount("--lock-wait", 20)
    (sleeper.point / "file.txt").write_bytes(b"base")
    with written(sleeper.point / "file.txt", b" lost") as (handle, ino):
        with contextlib.ExitStack() as closing:
            with stopped(sleeper, ino):
                file = closing.enter_context((other.point / "file.txt").open("ab"))
            with error(errno.EIO):
                os.fsync(handle)
            file.write(b" kept")
    assert (sleeper.point / "file.txt").read_bytes() == b"base kept"
    (copy,) = set(os.listdir(other.point)) - {"file.txt"}
    assert (other.point / copy).read_bytes() == b"base lost"
    assert_told(fresh, sleeper, f"/{copy}", "/file.txt")


def test_whoever_took_the_lock_may_have_given_it_back(fresh):
    """Goal: S6. Another client has opened the file for writing, and closed it without a change: the version is still
    the one that the stopped client's content is based on, and yet it is a copy, as a newer holder has been there."""
    sleeper, other = fresh.mount(), fresh.mount("--lock-wait", 20)
    (sleeper.point / "file.txt").write_bytes(b"base")
    with written(sleeper.point / "file.txt", b" lost") as (handle, ino):
        with stopped(sleeper, ino):
            (other.point / "file.txt").open("ab").close()
            wait_until(lambda: all(row["kept"] for row in fresh.ask("locks", "locks")["locks"]), "nobody uses the lock")
        with error(errno.EIO):
            os.fsync(handle)
    assert (sleeper.point / "file.txt").read_bytes() == b"base"
    (copy,) = set(os.listdir(other.point)) - {"file.txt"}
    assert (other.point / copy).read_bytes() == b"base lost"


def test_stopped_during_an_fsync(fresh):
    """Goal: S6. The client is stopped while it sends what a program syncs: fsync() returns the error."""
    sleeper, other, outcome = fresh.mount(), fresh.mount("--lock-wait", 20), []
    (sleeper.point / "file.txt").write_bytes(b"base")
    with written(sleeper.point / "file.txt", b" lost") as (handle, ino):
        syncing = threading.Thread(target=lambda: outcome.append(errno_of(lambda: os.fsync(handle))))
        with contextlib.ExitStack() as standing_still:
            with fresh.frozen("A", "B", "C"):
                syncing.start()
                # No new process asks: it would close its copy of the descriptor first, which waits for the fsync.
                wait_until(lambda: closed_in(sleeper), "it is on its way")
                standing_still.enter_context(stopped(sleeper, ino))
            with (other.point / "file.txt").open("ab") as file:
                file.write(b" kept")
        syncing.join(ENDED_S)
    assert outcome == [errno.EIO]
    assert (sleeper.point / "file.txt").read_bytes() == b"base kept"
    (copy,) = set(os.listdir(other.point)) - {"file.txt"}
    assert (other.point / copy).read_bytes() == b"base lost"


def closed_in(client: Mount) -> bool:
    return any(row.state is State.CLOSED for row in cache_index.unsent_in(client.folder / "index.db"))


def errno_of(work: Callable[[], object]) -> int:
    try:
        work()
    except OSError as failure:
        return failure.errno
    return 0


def test_nobody_else_took_the_lock(fresh):
    """Goal: S6. Nobody has written meanwhile, as with a laptop that was asleep: what the client had is based on the
    newest version, and becomes the next one; there is no copy."""
    sleeper, other = fresh.mount(), fresh.mount()
    (sleeper.point / "file.txt").write_bytes(b"base")
    with written(sleeper.point / "file.txt", b" goes") as (handle, ino):
        with stopped(sleeper, ino):
            pass
        os.fsync(handle)
        os.write(handle, b" on")
    assert (other.point / "file.txt").read_bytes() == b"base goes on"
    assert os.listdir(other.point) == ["file.txt"]
