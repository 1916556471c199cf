"""Bad days on real mounts: killed servers and clients, full disks, servers that do not answer, signals, many mounts."""

import contextlib
import errno
import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from dfs_command import Dfs
from support import (
    Mount,
    MountedCluster,
    alive,
    error,
    fill_disk,
    processes_of,
    python,
    run_mount,
    small_disk,
    wait_until,
)
from volume_checks import assert_whole

from dfsfuse import home as homes

pytestmark = pytest.mark.mounted

ROUNDS = 50 if os.environ.get("DFS_LONG") else 5
NO_ANSWER = (errno.ETIMEDOUT, errno.EHOSTUNREACH)


# -- killed servers


class Work:
    """Threads that write on one mount and read on another until `end`; what was acknowledged is remembered."""

    def __init__(self, writer: Path, reader: Path):
        self._writer, self._reader, self._ended = writer, reader, threading.Event()
        self.acknowledged: dict[str, bytes] = {}
        self.reads, self.writes, self.errors = 0, 0, []
        self._threads = [threading.Thread(target=self._repeat, args=(work,)) for work in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def _repeat(self, work) -> None:
        while not self._ended.is_set():
            try:
                work()
            except (OSError, AssertionError) as failure:
                self.errors.append(f"{work.__name__}: {failure}")
            time.sleep(0.005)

    def _write(self) -> None:
        name, content = f"{self.writes % 40}", os.urandom(random.choice((10, 5000, 200_000)))
        self.acknowledged.pop(name, None)
        (self._writer / name).write_bytes(content)
        self.acknowledged[name] = content
        self.writes += 1

    def _read(self) -> None:
        for name, content in random.sample(sorted(self.acknowledged.items()), min(3, len(self.acknowledged))):
            found = (self._reader / name).read_bytes()
            # The writer may have replaced it meanwhile, or be about to.
            assert found == content or self.acknowledged.get(name) is not content, f"{name} has lost its content"
            self.reads += 1

    def goes_on(self) -> None:
        """Both make progress from here on."""
        reads, writes = self.reads, self.writes
        more = lambda: self.reads > reads + 10 and self.writes > writes + 10  # noqa: E731
        wait_until(more, f"reading and writing go on; {self.errors[-3:]}")

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def test_each_server_is_killed_while_people_work(fresh):
    """Goal: S9. Directory, lock service, A, B and C are killed in turn while one mount writes and another reads: both
    go on without an error, nothing acknowledged is lost, also when looked at by a third client afterwards."""
    writer, reader = fresh.mount(), fresh.mount()
    work = Work(writer.point, reader.point)
    try:
        work.goes_on()
        for name in ("A", "B", "C", "locks", "directory"):
            pid = fresh.servers()[name].pid
            fresh.kill(name)
            fresh.wait_for(name, other_than=pid)
            work.goes_on()
    finally:
        work.end()
    assert work.errors == []
    third = fresh.mount()
    for name, content in work.acknowledged.items():
        assert (third.point / name).read_bytes() == content


def test_supervisor_is_killed(fresh):
    """Goal: with the supervisor its servers end; a client that goes on working brings the cluster back."""
    mount = fresh.mount()
    (mount.point / "file").write_bytes(b"content")
    pid = homes.read_cluster(fresh.home).supervisor_pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the supervisor is gone")

    def restarted() -> bool:
        running = homes.read_cluster(fresh.home)
        return running is not None and running.supervisor_pid != pid

    wait_until(restarted, "the client has started the cluster again")
    (mount.point / "other").write_bytes(b"more")
    assert (mount.point / "file").read_bytes() == b"content"


# -- killed clients


def remounted(mount: Mount) -> str:
    """mount.py on the folder on which a killed client has left its mount; what it says on standard error."""
    outcome = run_mount(mount.point, "--home", mount.home, "--driver", mount.cluster.driver)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stderr


def test_killed_client_loses_nothing(fresh):
    """Goal: S4, S15. close() fails while no file server answers, and says so; the client is killed; the next mount on
    the same folder removes the dead one, says so, and brings what was unsent to everybody."""
    victim, other = fresh.mount("--timeout", 2), fresh.mount()
    (victim.point / "closed").write_bytes(b"closed")
    (victim.point / "changed").write_bytes(b"old")
    content = os.urandom(300_000)
    with fresh.frozen("A", "B", "C"):
        for name in ("new", "changed"):
            started = time.monotonic()
            with pytest.raises(OSError) as failed:  # noqa: PT011 - compared below
                (victim.point / name).write_bytes(content)
            assert failed.value.errno in NO_ANSWER
            assert time.monotonic() - started < 2 + 4
        victim.kill()
        known = Dfs(fresh).json("status")
        assert sorted(upload["path"] for upload in known["uploads"]) == ["/changed", "/new"]
        counted = {row["mountpoint"]: row["unsent_files"] for row in known["sessions"]}
        assert counted == {str(victim.point): 2, str(other.point): 0}, "the counts are those of the list"
    told = remounted(victim)
    assert "its client was killed; the dead mount has been unmounted lazily" in told
    # What takes longer than the mount waits for is told as not sent yet.
    assert sum(map(int, re.findall(r": (\d) of its files", told))) == 2
    for name in ("new", "changed"):
        for mount in (victim, other):
            arrived = lambda file=mount.point / name: file.exists() and file.read_bytes() == content  # noqa: E731
            wait_until(arrived, f"{name} arrives", 20)
    assert sorted(os.listdir(other.point)) == ["changed", "closed", "new"]
    assert (other.point / "closed").read_bytes() == b"closed"


def test_killed_client_keeps_what_was_not_closed(fresh):
    """Goal: S15. What a program had written and not closed when its client was killed does not become the file's
    content, and is not lost: it is a recovery copy beside it."""
    victim, other = fresh.mount(), fresh.mount()
    (victim.point / "file.txt").write_bytes(b"closed")
    writer = python(
        "import os, sys, time\nh = os.open(sys.argv[1], os.O_RDWR)\nos.write(h, b'half')\n"
        "print('written', flush=True)\nsys.stdin.read()",
        victim.point / "file.txt",
        stdin=subprocess.PIPE,
    )
    assert writer.stdout.readline() == "written\n"
    victim.kill()
    writer.communicate("")
    (upload,) = Dfs(fresh).json("status")["uploads"]
    assert upload["reason"] == f"not closed when its client ended; kept as a copy by the next mount on {victim.point}"
    told = remounted(victim)
    assert (other.point / "file.txt").read_bytes() == b"closed"
    copies = lambda: [name for name in os.listdir(other.point) if name != "file.txt"]  # noqa: E731
    wait_until(copies, "the recovery copy", 20)
    (copy,) = copies()
    assert copy.startswith("file (recovered ")
    assert copy.endswith(").txt")
    wait_until(lambda: (other.point / copy).read_bytes() == b"halfed", "the copy has its content", 5)
    assert f"/file.txt: a client was killed before it was closed; kept as /{copy}" in told
    (made,) = Dfs(fresh).json("status")["copies_made"]
    assert (made["path"], made["original"], made["kind"]) == (f"/{copy}", "/file.txt", "recovered")
    assert f"/{copy}" in Dfs(fresh)("status").decode()
    os.rename(other.point / copy, other.point / "merged")
    assert Dfs(fresh).json("status")["copies_made"] == [], "somebody has dealt with it"
    for mount in (victim, other):
        mount.unmount()
    wait_until(lambda: not processes_of(fresh.home), "the cluster ends")
    assert b"whether they are still there is told when the directory answers" in Dfs(fresh).run("status").stdout


def test_unsent_content_that_lost_its_base_becomes_a_copy(fresh):
    """Goal: S4, S6. What could not be sent is overtaken by another client's version: both are there afterwards."""
    late, other = fresh.mount("--timeout", 1), fresh.mount("--lock-wait", 20)
    (late.point / "file.txt").write_bytes(b"base")
    with fresh.frozen("A", "B", "C"):
        with pytest.raises(OSError):  # noqa: PT011
            (late.point / "file.txt").write_bytes(b"late")
        late.kill()
    (other.point / "file.txt").write_bytes(b"other's")
    remounted(late)
    copies = lambda: [name for name in os.listdir(other.point) if name != "file.txt"]  # noqa: E731
    wait_until(copies, "the conflict copy", 20)
    assert (other.point / "file.txt").read_bytes() == b"other's"
    (copy,) = copies()
    assert copy.startswith("file (conflict ")
    wait_until(lambda: (other.point / copy).read_bytes() == b"late", "the copy has its content", 5)


def test_failed_close_is_made_good_while_mounted(fresh):
    """Goal: S4. What close() could not send is sent as soon as the servers answer again, without another mount; until
    then it is what programs on this mount read."""
    mount, other = fresh.mount("--timeout", 1), fresh.mount()
    with fresh.frozen("A", "B", "C"):
        with pytest.raises(OSError):  # noqa: PT011
            (mount.point / "file").write_bytes(b"content")
        assert (mount.point / "file").read_bytes() == b"content"
    wait_until(lambda: (other.point / "file").read_bytes() == b"content", "it arrives", 20)


def test_failed_close_is_made_good_while_a_reader_stays(fresh):
    """Goal: S4. What close() could not send is sent as soon as the servers answer, also while another program on that
    mount has the file open."""
    mount, other = fresh.mount("--timeout", 1), fresh.mount()
    (mount.point / "file").write_bytes(b"before")
    with open(mount.point / "file", "rb", buffering=0):
        with fresh.frozen("A", "B", "C"):
            with pytest.raises(OSError):  # noqa: PT011
                (mount.point / "file").write_bytes(b"content")
        wait_until(lambda: (other.point / "file").read_bytes() == b"content", "it arrives", 20)


# -- full disks


def write_until_full(file: Path) -> None:
    """Raises what the writer is told: at write() or at close()."""
    with file.open("wb", buffering=0) as handle:
        for _ in range(200):
            handle.write(os.urandom(1 << 20))


def test_cache_disk_is_full(fresh):
    """Goal: the disk of a client's cache is full: the writer gets ENOSPC, all that was there stays intact, and after a
    removal there is room again; clean content makes room by itself."""
    other = fresh.mount()
    with small_disk(fresh.folder / "disk", 48):
        status = fresh.ask("directory")
        point = fresh.folder / "small"
        point.mkdir()
        url, token = status["directory"]["url"], homes.read_token(fresh.home)
        outcome = run_mount(point, "--home", fresh.folder / "disk", "--cluster", url, DFS_TOKEN=token)
        assert outcome.returncode == 0, outcome.stderr
        small = Mount(fresh, point, fresh.folder / "disk")
        kept = os.urandom(10 << 20)
        for name in ("one", "two", "three", "four", "five"):
            # More than the disk holds, but not at once: what is clean is evicted.
            (point / name).write_bytes(kept)
        with error(errno.ENOSPC):
            write_until_full(point / "big")
        assert (point / "one").read_bytes() == kept
        assert (other.point / "five").read_bytes() == kept
        (point / "big").unlink()
        (point / "after").write_bytes(kept)
        assert (other.point / "after").read_bytes() == kept
        small.unmount()


def test_cache_disk_is_full_of_what_can_be_evicted(fresh):
    """Goal: while others fill the cache's disk, files are read and written all the same: what can be evicted goes."""
    first = fresh.mount()
    for number in range(20):
        (first.point / f"cached{number}").write_bytes(os.urandom(1 << 20))
    for number in range(100):
        (first.point / f"small{number}").write_bytes(b"x" * 10)
    with small_disk(fresh.folder / "disk", 48):
        point = fresh.folder / "small"
        point.mkdir()
        url, token = fresh.servers()["directory"].url, homes.read_token(fresh.home)
        outcome = run_mount(point, "--home", fresh.folder / "disk", "--cluster", url, DFS_TOKEN=token)
        assert outcome.returncode == 0, outcome.stderr
        small = Mount(fresh, point, fresh.folder / "disk")
        for number in range(20):
            assert len((point / f"cached{number}").read_bytes()) == 1 << 20
        fill_disk(fresh.folder / "disk" / "others")
        for number in range(100):
            assert (point / f"small{number}").read_bytes() == b"x" * 10
            (point / f"new{number}").write_bytes(b"new")
        assert (first.point / "new99").read_bytes() == b"new"
        small.unmount()


def test_file_servers_disk_is_full(fresh):
    """Goal: a full disk on the file servers is ENOSPC for the writer; what was there stays intact and readable."""
    with contextlib.ExitStack() as disks:
        for name in "ABC":
            disks.enter_context(small_disk(fresh.home / name, 40))
        mount, other = fresh.mount("--timeout", 5), fresh.mount()
        kept = os.urandom(6 << 20)
        (mount.point / "kept").write_bytes(kept)
        with error(errno.ENOSPC):
            write_until_full(mount.point / "big")
        assert (other.point / "kept").read_bytes() == kept
        (mount.point / "small").write_bytes(b"s")
        assert (other.point / "small").read_bytes() == b"s"
        assert_whole(fresh.home)
        for each in (mount, other):
            each.unmount()
        wait_until(lambda: not processes_of(fresh.home), "the cluster ends")
    # What was on these disks is gone with them.
    fresh.stays_whole = False


# -- servers that do not answer


def test_nothing_hangs_while_the_directory_stands_still(fresh):
    """Goal: S13. Every call ends with an errno within --timeout, statfs at once, what is open goes on, umount works."""
    mount = fresh.mount("--timeout", 1)
    for name in ("file", "other"):
        (mount.point / name).write_bytes(b"content")
    with (mount.point / "file").open("rb") as handle, fresh.frozen("directory"):
        calls = [lambda: os.stat(mount.point / "none"), lambda: os.mkdir(mount.point / "folder")]
        calls += [lambda: (mount.point / "other").write_bytes(b"x"), lambda: os.listdir(mount.point)]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(OSError) as failed:  # noqa: PT011 - compared below
                call()
            assert failed.value.errno in NO_ANSWER
            # The kernel looks a name up a second time when the first look-up failed. The rest is for a machine that has
            # other things to do: without the time-out of this mount it would be half a minute.
            assert time.monotonic() - started < 2 * 1 + 8
        assert min(statvfs_s(mount.point) for _ in range(3)) < 0.5, (
            "each would take that long if the directory were asked"
        )
        assert handle.read() == b"content"
        handle.close()
        mount.unmount()


def statvfs_s(point: Path) -> float:
    """How long it takes."""
    started = time.monotonic()
    assert os.statvfs(point).f_namemax == 255
    return time.monotonic() - started


def test_statfs_and_umount_with_everything_dead(fresh):
    """Goal: S13. With all servers standing still df answers at once, and umount and the client's end take seconds."""
    mount = fresh.mount("--timeout", 3)
    (mount.point / "file").write_bytes(b"content")
    with fresh.frozen("directory", "locks", "A", "B", "C"):
        started = time.monotonic()
        listed = subprocess.run(["df", mount.point], capture_output=True, text=True, timeout=20)
        assert str(mount.point) in listed.stdout
        assert time.monotonic() - started < 2.0
        started = time.monotonic()
        mount.unmount()
        assert time.monotonic() - started < 15


# -- ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_unmounts_a_client_cleanly(shared, number):
    """Goal: the client unmounts and ends, without a traceback, its session with it."""
    mount = shared.mount()
    (mount.point / f"file{number}").write_bytes(b"content")
    pid = mount.pid
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), "the client ends")
    assert os.listdir(mount.point) == []
    assert "Traceback" not in mount.log
    # The client waits for 2 s for the directory to say so, which may take longer; it would lapse after ten minutes.
    mounted = lambda: [row["mountpoint"] for row in shared.ask("directory")["sessions"]]  # noqa: E731
    wait_until(lambda: str(mount.point) not in mounted(), "its session has ended")


def test_signal_closes_what_programs_have_open(shared):
    """Goal: what was written to a file that is open when a signal ends the client is the file's next version, for
    everybody, and no copy."""
    mount, other = shared.mount(), shared.mount()
    mount.point.joinpath("open").write_bytes(b"old")
    pid = mount.pid
    file = os.open(mount.point / "open", os.O_RDWR)
    os.write(file, b"written")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), "the client ends")
    with error(errno.ENOTCONN):
        os.close(file)
    assert (other.point / "open").read_bytes() == b"written"
    assert (shared.mount(point=mount.point).point / "open").read_bytes() == b"written"
    assert [name for name in os.listdir(other.point) if name.startswith("open")] == ["open"]


def test_sigterm_ends_every_server_cleanly(fresh):
    """Goal: each server ends within seconds on SIGTERM, and is started again; the supervisor ends all of them; no log
    has a traceback."""
    mount = fresh.mount()
    (mount.point / "file").write_bytes(b"content")
    for name, server in fresh.servers().items():
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda pid=server.pid: not alive(pid), f"{name} ends", 10)
        fresh.wait_for(name, other_than=server.pid)
        assert (mount.point / "file").read_bytes() == b"content"
    pids = [server.pid for server in fresh.servers().values()]
    supervisor = homes.read_cluster(fresh.home).supervisor_pid
    mount.unmount()
    with contextlib.suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGTERM)
    wait_until(lambda: not any(map(alive, [*pids, supervisor])), "all servers end", 15)
    for log in fresh.home.glob("*/server.log"):
        assert "Traceback" not in log.read_text(), log


def test_many_rounds_of_mount_and_umount(fresh):
    """Goal: mounting and unmounting without a pause succeeds each time; the data stays. DFS_LONG=1: 50 rounds."""
    keeper = fresh.mount()
    keeper.unmount()
    for round_number in range(ROUNDS):
        mount = fresh.mount(point=keeper.point)
        assert len(os.listdir(mount.point)) == round_number
        (mount.point / f"{round_number}").write_bytes(b"x")
        subprocess.run(["umount", mount.point], check=True)
    wait_until(lambda: not processes_of(fresh.folder), "client and cluster end with the last umount", 20)


def test_umount_while_a_file_is_open(shared: MountedCluster):
    """Goal: umount of a busy mount is refused by the kernel, and everything goes on."""
    mount = shared.mount()
    with (mount.point / "open").open("wb") as handle:
        assert subprocess.run(["umount", mount.point], capture_output=True).returncode != 0
        handle.write(b"goes on")
    assert (mount.point / "open").read_bytes() == b"goes on"
    mount.unmount()
