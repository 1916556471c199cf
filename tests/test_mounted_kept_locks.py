"""Write locks that a mount keeps after the last close, as other mounts meet them."""

import errno
import os
import signal
import statistics
import time
from pathlib import Path

import pytest
from support import Mount, MountedCluster, error, python, wait_until

from servers.locks import LOCK_LEASE_S

pytestmark = [pytest.mark.mounted, pytest.mark.drivers("linux", "fusepy")]

MANY = """
import os, sys
for _ in range(150):
    handle = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
    os.write(handle, sys.argv[2].encode())
    os.close(handle)
"""


def append(path: Path, text: str, flags: int = 0) -> float:
    """How many seconds the open has taken."""
    started = time.monotonic()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | flags)
    took_s = time.monotonic() - started
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)
    return took_s


@pytest.fixture(scope="module")
def two(shared: MountedCluster) -> list[Mount]:
    return [shared.mount() for _ in range(2)]


@pytest.fixture
def folders(two: list[Mount], mount: Path) -> list[Path]:
    return [each.point / mount.name for each in two]


def rows_of(cluster: MountedCluster, name: str) -> list[dict]:
    """The lock service's rows for files of this name."""
    return [row for row in cluster.ask("locks", "locks")["locks"] if row["path"].endswith("/" + name)]


def wait_until_kept(cluster: MountedCluster, name: str) -> None:
    wait_until(lambda: any(row["kept"] for row in rows_of(cluster, name)), f"the lock of {name} is kept", 5)


def test_a_kept_lock_is_shown_as_kept(shared, folders):
    """Goal: after the last close the mount keeps the lock, and it does not look like a program's."""
    with (folders[0] / "file").open("w"):
        wait_until(lambda: [row["kept"] for row in rows_of(shared, "file")] == [False], "it is used", 5)
    wait_until_kept(shared, "file")
    (folders[0] / "file").unlink()
    wait_until(lambda: not rows_of(shared, "file"), "the lock of what is gone is given back", 5)


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_another_mount_gets_it_at_once(shared, folders, record_property, flags):
    """Goal: S5. An open under a lock that another mount keeps waits for two messages, and is not refused under
    O_NONBLOCK."""
    (folders[0] / "file").write_text("")
    took_s = []
    for number in range(6):
        wait_until_kept(shared, "file")
        took_s.append(append(folders[1 - number % 2] / "file", f"{number}", flags))
    assert (folders[0] / "file").read_text() == (folders[1] / "file").read_text() == "012345"
    record_property("open_ms", 1000 * statistics.median(took_s))
    assert statistics.median(took_s) < 0.1


def test_two_mounts_append_in_turns(folders):
    """Goal: S5. Two mounts that open, write and close one file as fast as they can both go on, and nothing is lost."""
    (folders[0] / "file").write_text("")
    programs = [python(MANY, folder / "file", str(side)) for side, folder in enumerate(folders)]
    for program in programs:
        assert program.communicate(timeout=60)[1] == ""
    text = (folders[0] / "file").read_text()
    assert (text.count("0"), text.count("1")) == (150, 150)


def test_a_killed_mount_keeps_its_locks_for_a_lease(shared, folders):
    """Goal: S7. Who waits gets the lock when the lease is over; who does not wait is refused."""
    victim = shared.mount()
    there = victim.point / folders[0].name / "file"
    there.write_text("closed ")
    append(there, "again ")
    wait_until_kept(shared, "file")
    victim.kill()
    started = time.monotonic()
    with error(errno.EAGAIN):
        append(folders[0] / "file", "too early", os.O_NONBLOCK)
    assert time.monotonic() - started < 3
    append(folders[0] / "file", "later")
    assert time.monotonic() - started < LOCK_LEASE_S + 3
    assert (folders[1] / "file").read_text() == "closed again later"


def test_a_stopped_mount_asks_anew(shared, folders):
    """Goal: S6, S7. A mount that was stopped for longer than its lease has lost what it kept: it opens the newest
    version, and nothing becomes a copy."""
    stopped = shared.mount()
    there = stopped.point / folders[0].name / "file"
    there.write_text("first ")
    append(there, "second ")
    wait_until_kept(shared, "file")
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        append(folders[0] / "file", "third ")
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    append(there, "fourth")
    assert (folders[0] / "file").read_text() == "first second third fourth"
    assert os.listdir(folders[0]) == ["file"]
    stopped.unmount()


def test_a_wait_for_a_mount_that_does_not_answer_is_no_longer_than_others(shared, folders):
    """Goal: S5. A wait ends with EBUSY after `lock_wait_s`, what the service asks the mount that keeps the lock for
    included."""
    stopped, waiting = shared.mount(), shared.mount("--lock-wait", "2")
    (stopped.point / folders[0].name / "awaited").write_text("kept")
    wait_until_kept(shared, "awaited")
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with error(errno.EBUSY):
            append(waiting.point / folders[0].name / "awaited", "more")
        assert 1.9 < time.monotonic() - started < 2.8
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    for mount in (stopped, waiting):
        mount.unmount()


def test_kept_locks_over_a_restart_of_the_lock_service(shared, folders):
    """Goal: S5. They are re-asserted like those that programs use, and asked for."""
    for name in ("a", "b"):
        (folders[0] / name).write_text("")
        wait_until_kept(shared, name)
    former = shared.servers()["locks"].pid
    shared.kill("locks")
    shared.wait_for("locks", other_than=former)
    append(folders[0] / "a", "here")
    append(folders[1] / "a", " there")
    append(folders[1] / "b", "there")
    assert [(folders[0] / name).read_text() for name in ("a", "b")] == ["here there", "there"]


def test_locks_are_given_back_at_unmount(shared, folders):
    """Goal: none is left of a mount that has ended."""
    other = shared.mount()
    names = [f"kept-{number}" for number in range(20)]
    for name in names:
        (other.point / folders[0].name / name).write_text("")
    wait_until_kept(shared, names[-1])
    other.unmount()
    assert not any(rows_of(shared, name) for name in names)
