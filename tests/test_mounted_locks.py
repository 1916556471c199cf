"""Write locks as programs meet them: who waits, for how long, in which order, and who does not wait."""

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import Mount, MountedCluster, error, python, wait_until

from dfsfuse.waiting import WAITING_OPENS_MAX

pytestmark = pytest.mark.mounted

WAIT_S = 4.0
OPEN = """
import os, sys, time
started = time.monotonic()
try:
    handle = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
except OSError as error:
    print(error.errno, round(time.monotonic() - started, 2), flush=True)
else:
    os.write(handle, sys.argv[2].encode())
    print('opened', flush=True)
    os.close(handle)
"""


@pytest.fixture(scope="module")
def three(shared: MountedCluster) -> list[Mount]:
    """Three clients whose opens wait WAIT_S."""
    return [shared.mount("--lock-wait", WAIT_S) for _ in range(3)]


@pytest.fixture(scope="module")
def first(three: list[Mount]) -> Mount:
    return three[0]


@pytest.fixture
def folders(three: list[Mount], mount: Path) -> Iterator[list[Path]]:
    """The test's folder on each of the three mounts."""
    return [each.point / mount.name for each in three]


def locks_of(cluster: MountedCluster, name: str) -> list[dict]:
    """The lock service's rows for files of this name that programs have open, or wait for."""
    rows = cluster.ask("locks", "locks")["locks"]
    return [row for row in rows if row["path"].endswith("/" + name) and (row["waiters"] or not row["kept"])]


def wait_for_waiters(cluster: MountedCluster, name: str, count: int) -> None:
    wait_until(lambda: sum(len(row["waiters"]) for row in locks_of(cluster, name)) == count, f"{count} wait for {name}")


def opener(folder: Path, name: str = "file", text: str = "") -> subprocess.Popen:
    """A process that opens the file for writing, and appends."""
    return python(OPEN, folder / name, text)


# -- one writer


def test_waiting_writers_are_served_first_come_first_served(shared, folders):
    """Goal: S5. While one mount writes, two writers on each of two others wait; the mounts get the file in the order in
    which they came, the programs of a mount share it, and nothing is lost."""
    (folders[0] / "file").write_text("start ")
    waiting = []
    with (folders[0] / "file").open("r+") as holder:
        for place, side in enumerate((1, 2, 1, 2)):
            waiting.append(opener(folders[side], text=f"{place} "))
            # A mount asks the service once for all its programs: the later ones wait behind the first, on the mount.
            wait_for_waiters(shared, "file", min(place + 1, 2))
            wait_until(lambda: is_in_request(waiting[-1].pid), "it waits for its open")
        holder.seek(0, os.SEEK_END)
        holder.write("holder ")
    outcomes = [process.communicate(timeout=20)[0].strip() for process in waiting]
    assert outcomes == ["opened"] * 4
    words = (folders[0] / "file").read_text().split()
    assert words[:2] == ["start", "holder"]
    assert sorted(words[2:4]) == ["0", "2"]
    assert sorted(words[4:]) == ["1", "3"]


def is_in_request(pid: int) -> bool:
    """The kernel waits for the driver's answer to a call of this process."""
    return "request_wait_answer" in Path(f"/proc/{pid}/wchan").read_text()


def test_three_waiting_mounts_in_order(shared, folders):
    """Goal: S5. One waiter on each of three mounts, in the order of their coming, over several rounds."""
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        name = "".join(map(str, order))
        fourth = shared.mount()
        try:
            (folders[0] / name).write_text("")
            with (fourth.point / folders[0].name / name).open("r+"):
                waiting = []
                for count, side in enumerate(order, 1):
                    waiting.append(opener(folders[side], name, f"{side} "))
                    wait_for_waiters(shared, name, count)
            for process in waiting:
                assert process.communicate(timeout=20)[0].strip() == "opened"
            assert (folders[0] / name).read_text().split() == [str(side) for side in order]
        finally:
            fourth.unmount()


def test_busy_after_the_wait(shared, folders):
    """Goal: S5. EBUSY after --lock-wait, neither earlier nor much later."""
    (folders[0] / "file").write_text("")
    with (folders[0] / "file").open("r+"):
        number, took_s = opener(folders[1]).communicate(timeout=20)[0].split()
    assert int(number) == errno.EBUSY
    assert WAIT_S - 0.2 < float(took_s) < WAIT_S + 2


def test_nonblocking_open_answers_at_once(folders):
    """Goal: S5. EAGAIN under O_NONBLOCK, promptly; and success when the file is free."""
    (folders[0] / "file").write_text("")
    with (folders[0] / "file").open("r+"):
        took_s = []
        for _ in range(5):
            started = time.monotonic()
            with error(errno.EAGAIN):
                os.open(folders[1] / "file", os.O_WRONLY | os.O_NONBLOCK)
            took_s.append(time.monotonic() - started)
        assert sorted(took_s)[2] < 0.1

    def opens() -> bool:
        # RELEASE, and with it the lock's return, comes after close() has returned.
        with contextlib.suppress(BlockingIOError):
            os.close(os.open(folders[1] / "file", os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    wait_until(opens, "the file is free", 2)


def test_truncate_by_path_takes_the_lock(folders):
    """Goal: truncate(2) on another mount waits as writing does; on the writer's own mount it is a write to its file."""
    (folders[0] / "file").write_text("content")
    with (folders[0] / "file").open("r+"):
        os.truncate(folders[0] / "file", 3)
        with error(errno.EBUSY):
            os.truncate(folders[1] / "file", 1)
    assert (folders[1] / "file").read_text() == "con"
    os.truncate(folders[1] / "file", 1)
    assert (folders[0] / "file").read_text() == "c"


def test_programs_on_one_mount_share_its_lock(folders):
    """Goal: as on a local disk, any number of programs on one mount write a file at the same time."""
    with (folders[0] / "file").open("w+b") as one, (folders[0] / "file").open("r+b") as two:
        os.pwrite(one.fileno(), b"aaaa", 0)
        os.pwrite(two.fileno(), b"bb", 1)
        assert os.pread(one.fileno(), 10, 0) == os.pread(two.fileno(), 10, 0) == b"abba"
    assert (folders[1] / "file").read_bytes() == b"abba"


# -- a wait that ends early


@pytest.mark.drivers("linux", "fusepy")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_ends_a_waiting_open(shared, folders, number):
    """Goal: S5, S13. Ctrl-C, kill and kill -9 end a waiting open at once, and its place in the queue is given up."""
    (folders[0] / "file").write_text("")
    with (folders[0] / "file").open("r+"):
        waiter = opener(folders[1])
        wait_for_waiters(shared, "file", 1)
        started = time.monotonic()
        waiter.send_signal(number)
        waiter.communicate(timeout=10)
        took_s = time.monotonic() - started
        assert waiter.returncode in (-number, 1)
        assert took_s < 1.0
        wait_for_waiters(shared, "file", 0)
    assert opener(folders[1]).communicate(timeout=10)[0].strip() == "opened"


def test_signal_ends_a_local_wait(folders):
    """Goal: the same for a program that waits behind another one of its own mount."""
    (folders[0] / "file").write_text("")
    with (folders[0] / "file").open("r+"):
        ahead, behind = opener(folders[1]), opener(folders[1])
        time.sleep(0.5)
        started = time.monotonic()
        behind.kill()
        behind.communicate(timeout=10)
        assert time.monotonic() - started < 1.0
    assert ahead.communicate(timeout=10)[0].strip() == "opened"


@pytest.mark.drivers("linux", "fusepy")
def test_waiting_open_does_not_block_its_folder(shared, folders):
    """Goal: while an open waits, everything else in the same folder of that mount goes on at once: also O_CREAT of the
    name that is waited for, which waits itself, outside the folder's lock."""
    (folders[0] / "file").write_text("")
    with (folders[0] / "file").open("r+"):
        creator = python("import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)", folders[1] / "file")
        waiter = opener(folders[1])
        wait_for_waiters(shared, "file", 1)
        started = time.monotonic()
        (folders[1] / "other").write_text("x")
        os.rename(folders[1] / "other", folders[1] / "renamed")
        assert sorted(os.listdir(folders[1])) == ["file", "renamed"]
        (folders[1] / "renamed").unlink()
        assert (folders[1] / "file").read_text() == ""
        assert time.monotonic() - started < 1.0
        assert waiter.poll() is None
        assert creator.poll() is None
    assert waiter.communicate(timeout=10)[0].strip() == "opened"
    assert creator.wait(timeout=10) == 0


def test_readers_never_wait(folders):
    """Goal: with a writer on another mount and more waiting, reading is as quick as ever and sees the last close."""
    (folders[0] / "file").write_text("closed")
    with (folders[0] / "file").open("r+") as writer:
        # Before the write: the new process closes the descriptor that it inherits, and each close() commits.
        waiter = opener(folders[2])
        writer.write("not yet")
        writer.flush()
        for _ in range(10):
            started = time.monotonic()
            assert (folders[1] / "file").read_text() == "closed"
            assert time.monotonic() - started < 1.0
        assert (folders[0] / "file").read_text() == "not yet"
    waiter.communicate(timeout=10)


# -- many


MANY = """
import errno, os, sys, threading, time
threading.stack_size(256 << 10)
path, count, files, ended = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), []
def wait(number):
    try:
        os.close(os.open(f'{path}/{number % files}', os.O_WRONLY))
        ended.append('opened')
    except OSError as error:
        ended.append(errno.errorcode[error.errno])
threads = [threading.Thread(target=wait, args=(number,)) for number in range(count)]
for thread in threads: thread.start()
print('started', flush=True)
for thread in threads: thread.join()
print(*ended, flush=True)
"""


@pytest.mark.drivers("linux", "fusepy")
def test_two_hundred_waiting_opens_leave_stat_quick(folders):
    """Goal: waiting opens are bounded below the driver's threads: those beyond get EBUSY at once, and stat stays
    quick."""
    handles = []
    try:
        for number in range(5):
            handles.append((folders[0] / f"{number}").open("w"))
        crowd = python(MANY, folders[1], 200, 5)
        assert crowd.stdout.readline() == "started\n"
        took_s = []
        for number in range(20):
            # A name that nobody has asked for: neither the kernel nor the client knows the answer.
            started = time.monotonic()
            with pytest.raises(FileNotFoundError):
                os.stat(folders[1] / f"none-{number}")
            took_s.append(time.monotonic() - started)
            time.sleep(0.02)
        assert sorted(took_s)[10] < 0.05
        outcomes = crowd.communicate(timeout=30)[0].split()
    finally:
        for handle in handles:
            handle.close()
    assert len(outcomes) == 200
    assert set(outcomes) == {"EBUSY"}
    # All but the bounded number were refused at once, so that the rest fits into one wait.


def test_opens_of_three_hundred_files_leave_stat_quick_while_the_lock_service_is_silent(shared, folders):
    """Goal: opens that the lock service does not answer are bounded like those that wait in its queue."""
    for number in range(300):
        (folders[1] / f"{number}").touch()
    with shared.frozen("locks"):
        crowd = python(MANY, folders[0], 300, 300)
        assert crowd.stdout.readline() == "started\n"
        took_s = []
        for number in range(20):
            started = time.monotonic()
            with pytest.raises(FileNotFoundError):
                os.stat(folders[0] / f"none-{number}")
            took_s.append(time.monotonic() - started)
        assert max(took_s) < 1.0
        assert sorted(took_s)[10] < 0.05
        outcomes = crowd.communicate(timeout=30)[0].split()
    assert len(outcomes) == 300
    assert outcomes.count("EBUSY") >= 300 - WAITING_OPENS_MAX


def test_stream_of_local_opens_does_not_starve_another_mount(folders):
    """Goal: programs that open and close the same file all the time, always one or more at once, let another mount
    in."""
    (folders[0] / "file").write_text("")
    code = """
import os, signal, sys, time
def work():
    while True:
        try: handle = os.open(sys.argv[1], os.O_WRONLY)
        except OSError: continue
        time.sleep(0.03)
        os.close(handle)
programs = []
for _ in range(3):
    programs.append(os.fork())
    if not programs[-1]: work()
print('started', flush=True)
sys.stdin.read()
for program in programs: os.kill(program, signal.SIGKILL)
for program in programs: os.waitpid(program, 0)
"""
    stream = python(code, folders[0] / "file", stdin=subprocess.PIPE)
    try:
        assert stream.stdout.readline() == "started\n"
        time.sleep(0.2)
        assert opener(folders[1], text="x").communicate(timeout=20)[0].strip() == "opened"
    finally:
        stream.communicate("", timeout=20)


def test_process_that_writes_may_open_again_from_any_thread(shared, folders):
    """Goal: S5. While another mount waits and is let in before others here, a process that has the file open opens it
    once more; the kernel names threads, and the lock service shows the process."""
    (folders[0] / "file").write_text("")
    patient = shared.mount("--lock-wait", 20)

    def open_in_a_thread(flags: int = os.O_WRONLY) -> int:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(os.open, folders[0] / "file", flags).result()

    def other_program_must_wait() -> bool:
        code = "import os, sys; os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)"
        return "BlockingIOError" in python(code, folders[0] / "file").communicate(timeout=10)[1]

    handles = [open_in_a_thread()]
    waiter = opener(patient.point / folders[0].name)
    try:
        wait_for_waiters(shared, "file", 1)
        wait_until(other_program_must_wait, "the waiting mount comes first", 10)
        handles.append(open_in_a_thread(os.O_WRONLY | os.O_NONBLOCK))
        assert locks_of(shared, "file")[0]["pid"] == os.getpid()
    finally:
        for handle in handles:
            os.close(handle)
        assert waiter.communicate(timeout=20)[0].strip() == "opened"
        patient.unmount()


# -- who holds


def test_the_lock_service_tells_who_holds(shared, folders):
    """Goal: POST /v1/locks has path, host, pid and command of the holder and of who waits."""
    holding = "import os, sys; f = open(sys.argv[1], 'w'); print('held', flush=True); sys.stdin.read()"
    holder = python(holding, folders[0] / "held", stdin=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == "held\n"
        waiter = opener(folders[1], "held")
        wait_for_waiters(shared, "held", 1)
        (row,) = locks_of(shared, "held")
        assert row["path"] == f"/{folders[0].name}/held"
        assert (row["pid"], row["command"]) == (holder.pid, Path(f"/proc/{holder.pid}/comm").read_text().strip())
        assert row["host"] == os.uname().nodename
        assert row["waiters"][0]["pid"] == waiter.pid
    finally:
        holder.communicate("", timeout=10)
    waiter.communicate(timeout=10)
    wait_until(lambda: not locks_of(shared, "held"), "the lock is free")


def test_lock_is_free_once_everybody_has_closed(shared, folders):
    """Goal: no lock outlives its last writer; a reader never appears."""
    with (folders[0] / "file").open("w"), (folders[1] / "other").open("w"):
        # The lock of a new file was taken beforehand; its path comes with the next renewal.
        wait_until(lambda: len(locks_of(shared, "file")) == 1, "the lock is listed", 3)
        with (folders[1] / "file").open():
            assert len(locks_of(shared, "file")) == 1
    wait_until(lambda: not locks_of(shared, "file") and not locks_of(shared, "other"), "all locks are free", 3)


def test_killed_clients_lock_is_free_after_a_lease(shared, folders):
    """Goal: S7. A client is killed while it writes; the waiting writer of another mount gets the lock after one lease
    at most, and what had been closed before is there."""
    victim, waiting = shared.mount(), shared.mount("--lock-wait", 20)
    there = victim.point / folders[0].name / "file"
    there.write_text("closed ")
    writer = python("import sys; f = open(sys.argv[1], 'r+'); print('held', flush=True); sys.stdin.read()", there,
                    stdin=subprocess.PIPE)  # fmt: skip
    try:
        assert writer.stdout.readline() == "held\n"
        victim.kill()
        started = time.monotonic()
        waiter = opener(waiting.point / folders[0].name, text="next")
        assert waiter.communicate(timeout=20)[0].strip() == "opened"
        assert time.monotonic() - started < 8 + 2
    finally:
        writer.communicate("", timeout=10)
        subprocess.run(["umount", "--lazy", victim.point], check=True)
        waiting.unmount()
    assert (folders[0] / "file").read_text() == "closed next"


def test_stopped_client_cannot_commit_after_its_lease(shared, folders):
    """Goal: S6. A client that stands still longer than its lease has lost its lock: another mount writes, and what the
    former holder had is kept as a conflict copy, its program getting an error."""
    sleeper = shared.mount()
    folder = sleeper.point / folders[0].name
    (folder / "file.txt").write_text("base")
    handle = os.open(folder / "file.txt", os.O_WRONLY | os.O_APPEND)
    pid = sleeper.pid
    try:
        os.write(handle, b" lost")
        wait_until(lambda: locks_of(shared, "file.txt"), "the lock is listed", 3)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: not [row for row in locks_of(shared, "file.txt") if row["token"]], "the lease ends", 15)
        with (folders[1] / "file.txt").open("a") as other:
            other.write(" kept")
        os.kill(pid, signal.SIGCONT)
        with error(errno.EIO):
            os.close(handle)
        handle = -1
    finally:
        os.kill(pid, signal.SIGCONT)
        if handle >= 0:
            os.close(handle)
    assert (folders[1] / "file.txt").read_text() == "base kept"
    (copy,) = [name for name in os.listdir(folders[1]) if name != "file.txt"]
    assert copy.startswith("file (conflict ")
    assert copy.endswith(").txt")
    assert (folders[1] / copy).read_text() == "base lost"
    sleeper.unmount()
