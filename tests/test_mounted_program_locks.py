"""Locks between programs on real mounts: fcntl, open file descriptions and flock, on one mount and on two."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_files import opened
from dfs_command import Dfs
from lockers import Program, programs
from support import Mount, MountedCluster, alive, error, python, wait_until

pytestmark = pytest.mark.mounted

LEASE_S = 8.0


@pytest.fixture(params=["one mount", "two mounts"])
def sides(request, two_mounts: tuple[Path, Path]) -> tuple[Path, Path]:
    """The test's folder, as the first program sees it and as the second does."""
    one, other = two_mounts
    return (one, one) if request.param == "one mount" else (one, other)


@pytest.fixture
def pair(sides) -> Iterator[tuple[Program, Program]]:
    """Two programs that have the same file of 1,000 bytes open as `fd`, and use locks on it."""
    (sides[0] / "file").write_bytes(bytes(1000))
    with programs(2) as (first, second):
        begin(first, sides[0] / "file")
        begin(second, sides[1] / "file")
        yield first, second


def begin(program: Program, file: Path) -> None:
    """Open it for writing as `fd`. Before its first lock a program keeps others from opening it, as any writer does."""
    program.open(file)
    program.lock("r")
    program.lock("u")


def ranges_of(cluster: MountedCluster, name: str) -> list[dict]:
    """The lock service's rows for files of this name."""
    return [row for row in cluster.ask("locks", "locks")["ranges"] if row["path"].endswith("/" + name)]


def wait_for_waiters(cluster: MountedCluster, name: str, count: int) -> None:
    wait_until(lambda: sum(len(row["waiters"]) for row in ranges_of(cluster, name)) == count, f"{count} wait")


# -- who excludes whom


@pytest.mark.drivers("linux", "fusepy")
@pytest.mark.parametrize("how", ["SETLK", "OFD_SETLK"])
def test_ranges(pair, how):
    """Goal: readers share, writers exclude, ranges apart do not touch each other, and unlocking frees at once."""
    first, second = pair
    first.lock("w", 10, 10, how)
    for kind in "rw":
        with error(errno.EAGAIN):
            second.lock(kind, 19, 5, how)
    second.lock("w", 20, 5, how)
    first.lock("u", 15, 5, how)
    second.lock("w", 15, 5, how)
    first.lock("r", 10, 5, how)
    second.lock("r", 12, 3, how)
    with error(errno.EAGAIN):
        first.lock("w", 12, 1, how)
    second.lock("u", how=how)
    first.lock("w", how=how)


def test_a_process_and_a_description_exclude_each_other(pair):
    """Goal: fcntl locks of both kinds are of one family."""
    first, second = pair
    first.lock("w", 0, 10)
    with error(errno.EAGAIN):
        second.lock("w", 5, 10, "OFD_SETLK")
    second.lock("w", 10, 10, "OFD_SETLK")
    with error(errno.EAGAIN):
        first.lock("r", 15, 1)


@pytest.mark.drivers("linux", "fusepy")
def test_flock(pair):
    """Goal: shared and exclusive; apart from fcntl; converted as on Linux: what cannot be converted is lost."""
    first, second = pair
    first.do("flock(fd, fcntl.LOCK_SH)")
    second.do("flock(fd, fcntl.LOCK_SH)")
    second.lock("w")
    second.lock("u")
    with error(errno.EAGAIN):
        first.do("flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)")
    second.do("flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)")
    with error(errno.EAGAIN):
        first.do("flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)")
    second.do("flock(fd, fcntl.LOCK_SH)")
    first.do("flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)")
    second.do("flock(fd, fcntl.LOCK_UN)")
    first.do("flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)")


def test_two_that_share_a_flock_and_both_want_it_alone(pair):
    """Goal: each gives up its share before it waits, so one after the other gets it."""
    first, second = pair
    for program in pair:
        program.do("flock(fd, fcntl.LOCK_SH)")
    first.begin("flock(fd, fcntl.LOCK_EX)")
    assert first.is_waiting()
    second.begin("flock(fd, fcntl.LOCK_EX)")
    assert first.result() is None
    assert second.is_waiting()
    first.do("flock(fd, fcntl.LOCK_UN)")
    assert second.result() is None


def test_getlk(pair):
    """Goal: where, of which type and by which process; nothing where the lock would be granted."""
    first, second = pair
    assert second.lock("w", how="GETLK")[0] == "u"
    first.lock("r", 100, 50)
    assert second.lock("w", 120, 0, "GETLK") == ("r", 100, 50, first.pid)
    assert second.lock("r", 120, 0, "GETLK")[0] == "u"
    first.lock("w", 500)
    assert second.lock("r", 200, 0, "GETLK") == ("w", 500, 0, first.pid)
    assert first.lock("w", how="GETLK")[0] == "u"


@pytest.mark.drivers("linux", "fusepy")
def test_the_map_of_a_process(pair):
    """Goal: splitting, replacing and merging, as the other program can find it out."""
    first, second = pair
    first.lock("w", 0, 100)
    first.lock("r", 20, 10)
    first.lock("u", 40, 10)
    found, at = [], 0
    while (row := second.lock("w", at, 0, "GETLK"))[0] != "u":
        found.append(row[:3])
        at = row[1] + row[2]
    assert found == [("w", 0, 20), ("r", 20, 10), ("w", 30, 10), ("w", 50, 50)]
    first.lock("w", 0, 60)
    assert second.lock("w", 0, 0, "GETLK")[:3] == ("w", 0, 100)


# -- waiting


@pytest.mark.parametrize(("lock", "unlock"), [
    ("lock(fd, 'w', 0, 10, 'SETLKW')", "lock(fd, 'u', 0, 10)"),
    ("lock(fd, 'w', 0, 10, 'OFD_SETLKW')", "lock(fd, 'u', 0, 10, 'OFD_SETLK')"),
    ("flock(fd, fcntl.LOCK_EX)", "flock(fd, fcntl.LOCK_UN)"),
])  # fmt: skip
def test_who_waits_is_granted_by_the_unlock(pair, lock, unlock):
    """Goal: soon after, and not before."""
    first, second = pair
    first.do(lock)
    second.begin(lock)
    assert second.is_waiting()
    first.do(unlock)
    second.result(5)


@pytest.mark.drivers("linux", "fusepy")
def test_ctrl_c_ends_a_wait(pair):
    """Goal: EINTR, promptly; the place is given up, and what was held before is still held."""
    first, second = pair
    first.lock("w", 0, 10)
    second.lock("w", 50, 10)
    second.begin("lock(fd, 'w', 0, 100, 'SETLKW')")
    assert second.is_waiting()
    assert second.interrupt() < 2
    first.lock("u")
    with error(errno.EAGAIN):
        first.lock("w", 55, 1)
    first.lock("w", 0, 50)


@pytest.mark.drivers("linux")
@pytest.mark.parametrize("call", [
    "fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(5000))",
    "ftruncate(fd, ctypes.c_int64(10))",
    "copy_file_range(other, None, fd, None, ctypes.c_int64(100), 0)",
])  # fmt: skip
def test_ctrl_c_ends_a_wait_for_the_write_lock(two_mounts, call):
    """Goal: S13. Whatever changes a file on which programs use locks can be interrupted while it waits for a program of
    another mount that writes without any, and not only write(); nothing has happened then."""
    for name in ("file", "other"):
        (two_mounts[0] / name).write_bytes(bytes(1000))
    with programs(2) as (first, second):
        begin(first, two_mounts[0] / "file")
        first.open(two_mounts[0] / "other", "O_RDONLY", "other")
        second.open(two_mounts[1] / "file")
        second.do("os.pwrite(fd, b'x', 0)")
        first.begin(f"checked(_libc.{call})")
        assert first.is_waiting()
        assert first.interrupt() < 2
        second.do("os.close(fd)")
    assert (two_mounts[0] / "file").read_bytes() == b"x" + bytes(999)


def test_a_killed_waiter_leaves_no_place(shared, pair):
    """Goal: SIGKILL ends it at once; the next one is granted what it waited for."""
    first, second = pair
    first.lock("w")
    second.begin("lock(fd, 'w', 0, 0, 'SETLKW')")
    wait_for_waiters(shared, "file", 1)
    second.kill()
    wait_for_waiters(shared, "file", 0)


def test_deadlock(pair):
    """Goal: EDEADLK for who closes the circle; the other one goes on once he gives way."""
    first, second = pair
    first.lock("w", 0, 1)
    second.lock("w", 1, 1)
    first.begin("lock(fd, 'w', 1, 1, 'SETLKW')")
    assert first.is_waiting()
    with error(errno.EDEADLK):
        second.lock("w", 0, 1, "SETLKW")
    second.lock("u")
    first.result(5)


def test_waiters_in_their_order(shared, two_mounts):
    """Goal: first come, first served, over both mounts; readers that come after a writer do not pass him."""
    (two_mounts[0] / "order").write_bytes(b"")
    with programs(6) as every:
        for number, program in enumerate(every):
            begin(program, two_mounts[number % 2] / "order")
        every[0].lock("w")
        for number, program in enumerate(every[1:], 1):
            program.begin(f"lock(fd, {'r' if number in (3, 4) else 'w'!r}, 0, 0, 'SETLKW')")
            wait_for_waiters(shared, "order", number)
        for group in ([1], [2], [3, 4], [5]):
            for leaver in every[: group[0]]:
                leaver.lock("u")
            for number in group:
                every[number].result(5)
            assert all(program.is_waiting(0.05) for program in every[group[-1] + 1 :])


WAITERS = """
import fcntl, os, sys, threading
def wait(fd):
    try: fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error: os._exit(error.errno)
    os.close(fd)
threads = [threading.Thread(target=wait, args=[os.open(sys.argv[1], os.O_RDWR)]) for _ in range(int(sys.argv[2]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
"""Opens a file so many times, and waits for its flock through each descriptor."""


def test_a_hundred_waiters_leave_others_quick(shared, two_mounts):
    """Goal: waiting locks take no thread that others need; each is granted in the end."""
    (two_mounts[0] / "many").write_bytes(b"")
    with programs(1) as (holder,):
        holder.open(two_mounts[0] / "many")
        holder.do("flock(fd, fcntl.LOCK_EX)")
        waiting = [python(WAITERS, mount / "many", 50) for mount in two_mounts]

        def all_wait() -> bool:
            assert [process.poll() for process in waiting] == [None] * 2
            return sum(len(row["waiters"]) for row in ranges_of(shared, "many")) == 100

        try:
            wait_until(all_wait, "100 wait")
            took_s = []
            for _ in range(20):
                started = time.monotonic()
                os.stat(two_mounts[0] / "many")
                os.listdir(two_mounts[0])
                took_s.append(time.monotonic() - started)
            assert sorted(took_s)[10] < 0.2
            assert all_wait()
            holder.do("flock(fd, fcntl.LOCK_UN)")
            assert [process.communicate(timeout=60) for process in waiting] == [("", "")] * 2
            assert [process.returncode for process in waiting] == [0] * 2
        finally:
            for process in waiting:
                process.kill()
                process.communicate()


_MANY = """
import threading
def wait_for_it(path):
    fd = os.open(path, os.O_RDWR)
    flock(fd, fcntl.LOCK_EX)
    os.close(fd)
def begin(path):
    global threads
    threads = [threading.Thread(target=wait_for_it, args=(path,)) for _ in range(200)]
    for thread in threads:
        thread.start()
def join():
    for thread in threads:
        thread.join()
"""


def test_two_hundred_waiters_hold_no_worker(shared, first: Mount, mount: Path):
    """Goal: what waits is answered by who hears of the grant: the driver has no more threads for it, and goes on."""
    (mount / "many").write_bytes(b"")
    with programs(2) as (holder, waiter):
        holder.open(mount / "many")
        holder.do("flock(fd, fcntl.LOCK_EX)")
        before = len(os.listdir(f"/proc/{first.pid}/task"))
        waiter.do(f"exec({_MANY!r}, globals())")
        waiter.do(f"begin({str(mount / 'many')!r})")
        wait_for_waiters(shared, "many", 200)
        assert len(os.listdir(f"/proc/{first.pid}/task")) < before + 200 + 50
        started = time.monotonic()
        for number in range(20):
            assert not (mount / f"none {number}").exists()
        assert time.monotonic() - started < 2
        holder.do("flock(fd, fcntl.LOCK_UN)")
        waiter.do("join()")


# -- how locks end


def test_the_close_of_any_descriptor_ends_a_processs_locks(pair, sides):
    """Goal: as POSIX says, also through another descriptor of the file, one that only reads, or a duplicate."""
    first, second = pair
    for flags in ("O_RDWR", "O_RDONLY"):
        first.lock("w", 0, 10)
        first.open(sides[0] / "file", flags, "other")
        with error(errno.EAGAIN):
            second.lock("w", 0, 10)
        first.do("os.close(other)")
        second.lock("w", 0, 10)
        second.lock("u")
    first.lock("w", 0, 10)
    first.do("copy = os.dup(fd)")
    first.do("os.close(copy)")
    second.lock("w", 0, 10)


def test_a_reading_descriptor_that_a_child_has_too(pair, sides):
    """Goal: the parent's locks end with its close, though the child has the same descriptor open; they are not the
    child's."""
    first, second = pair
    first.open(sides[0] / "file", "O_RDONLY", "reading")
    first.lock("r", 0, 10, name="reading")
    first.do("import subprocess; child = subprocess.Popen(['sleep', '100'], pass_fds=[reading])")
    try:
        with error(errno.EAGAIN):
            second.lock("w", 0, 10)
        first.do("os.close(reading)")
        second.lock("w", 0, 10)
    finally:
        first.do("child.kill(); child.wait()")


@pytest.mark.parametrize(("lock", "free"), [
    ("lock(fd, 'w', 0, 10, 'OFD_SETLK')", "lock(fd, 'w', 0, 10)"),
    ("flock(fd, fcntl.LOCK_EX)", "flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)"),
])  # fmt: skip
def test_the_last_close_ends_a_descriptions_locks(pair, sides, lock, free):
    """Goal: not the close of a duplicate, nor of another descriptor of the file; and right after close() has returned,
    who does not wait gets it."""
    first, second = pair
    first.do(lock)
    first.do("copy = os.dup(fd)")
    first.open(sides[0] / "file", name="other")
    first.do("os.close(fd), os.close(other)")
    with error(errno.EAGAIN):
        second.do(free)
    first.do("os.close(copy)")
    if sides[0] == sides[1]:
        second.do(free)
    else:
        wait_until(lambda: not errno_of(second, free), "the other mount has heard of it", 5)


def errno_of(program: Program, line: str) -> int:
    """0 where it succeeds."""
    try:
        program.do(line)
    except OSError as failed:
        return failed.errno
    return 0


def test_one_program_after_the_other_with_flock_n(two_mounts):
    """Goal: `flock -n` never fails because of a program that has ended before."""
    (two_mounts[0] / "lock").write_bytes(b"")
    for _ in range(30):
        subprocess.run(["flock", "-n", two_mounts[0] / "lock", "true"], check=True, timeout=30)


@pytest.mark.parametrize("lock", ["lock(fd, 'w')", "lock(fd, 'w', 0, 10, 'OFD_SETLK')", "flock(fd, fcntl.LOCK_EX)"])
def test_a_killed_program_leaves_no_locks(pair, lock):
    """Goal: SIGKILL of the holder; who waits is granted at once."""
    first, second = pair
    first.do(lock)
    waiting = lock.replace("SETLK", "SETLKW").replace("'w')", "'w', 0, 0, 'SETLKW')")
    second.begin(waiting)
    assert second.is_waiting()
    first.kill()
    second.result(5)


def test_locks_of_an_unlinked_file(sides):
    """Goal: programs that have it open exclude each other as before."""
    file = sides[0] / "gone"
    file.write_bytes(bytes(10))
    with programs(2) as (first, second):
        begin(first, file)
        begin(second, sides[1] / "gone")
        first.lock("w", 0, 5)
        file.unlink()
        with error(errno.EAGAIN):
            second.lock("w", 4, 1)
        first.do("os.pwrite(fd, b'hello', 0)")
        first.lock("u")
        second.lock("w", 4, 1)


@pytest.mark.drivers("linux")
def test_the_first_lock_of_a_file_ends_with_its_descriptor(sides):
    """Goal: what SEMANTICS says of a lock that nobody could foresee, through a descriptor that only reads: it stays
    until a child that has the descriptor ends, whatever its process closes; later ones end with their process."""
    (sides[0] / "file").write_bytes(bytes(1000))
    program = """
import fcntl, os, sys
fd, other = (os.open(sys.argv[1], os.O_RDONLY) for _ in range(2))
fcntl.lockf(fd, fcntl.LOCK_SH, 10)
if sys.argv[2] == "closes another":
    os.close(other)
if not os.fork():
    os.read(0, 1)
"""
    for what in ("closes another", "ends"):
        command = [sys.executable, "-c", program, sides[0] / "file", what]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as holder, opened(sides[1] / "file", os.O_RDWR) as fd:
            assert holder.wait(20) == 0
            assert can_lock(fd) is (what == "ends")
            holder.stdin.close()
            wait_until(lambda fd=fd: can_lock(fd), "the lock is free")


def can_lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# -- what programs see under their locks


@pytest.mark.drivers("linux", "fusepy")
def test_who_locks_sees_what_was_written_before(pair):
    """Goal: S3. Content and size, through descriptors that stay open, turn by turn; neither closes anything."""
    first, second = pair
    for turn in range(6):
        writer, reader = (first, second) if turn % 2 else (second, first)
        for how, unlock in (("lock(fd, 'w')", "lock(fd, 'u')"), ("flock(fd, 2)", "flock(fd, 8)")):
            text = f"{turn} {how} " * (turn + 1) * 300
            writer.do(how)
            writer.do(f"os.ftruncate(fd, 0), os.pwrite(fd, {text.encode()!r}, 0)")
            writer.do(unlock)
            reader.do(how.replace("'w'", "'r'").replace("2", "1"))
            assert reader.do("os.fstat(fd).st_size") == len(text)
            assert reader.do("os.pread(fd, 1 << 20, 0)") == text.encode()
            reader.do(unlock)


def test_a_reading_descriptor_sees_the_newest_version_once_it_locks(pair, sides):
    """Goal: S3. Before it keeps to the version that it opened, where that is another mount's."""
    first, second = pair
    second.open(sides[1] / "file", "O_RDONLY", "reading")
    first.lock("w", 0, 10)
    first.do("os.pwrite(fd, b'newest', 0)")
    first.lock("u")
    if sides[0] != sides[1]:
        assert second.do("os.pread(reading, 6, 0)") == bytes(6)
    second.lock("r", 0, 10, name="reading")
    assert second.do("os.pread(reading, 6, 0)") == b"newest"


@pytest.mark.parametrize("locked_before", [False, True])
def test_a_reader_that_has_an_older_version_open(two_mounts, locked_before):
    """Goal: programs that lock are told the newest size and content, though another program of their mount reads on in
    a version from before; also through descriptors that only read, opened at different times."""
    one, other = two_mounts
    (one / "file").write_bytes(b"old" * 100)
    with programs(4) as (reader, early, late, writer):
        if locked_before:
            writer.open(one / "file")
            writer.lock("w")
            writer.do("os.close(fd)")
        reader.open(one / "file", "O_RDONLY")
        early.open(one / "file", "O_RDONLY")
        assert reader.do("os.read(fd, 3)") == b"old"
        for size in (50, 5000, 20):
            begin(writer, other / "file")
            writer.do("flock(fd, fcntl.LOCK_EX)")
            writer.do(f"os.ftruncate(fd, 0), os.pwrite(fd, b'n' * {size}, 0)")
            writer.do("os.close(fd)")
            late.open(one / "file")
            for program in (late, early):
                program.do("flock(fd, fcntl.LOCK_SH)")
                assert program.do("os.fstat(fd).st_size, os.lseek(fd, 0, 2)") == (size, size)
                assert program.do("os.pread(fd, 10000, 0)") == b"n" * size
                program.do("flock(fd, fcntl.LOCK_UN)")
            late.do("os.close(fd)")


def test_a_file_that_shrank_and_grew(pair):
    """Goal: nothing of what was cut off comes back; appended bytes are at the end that others have made."""
    first, second = pair
    first.do("flock(fd, fcntl.LOCK_EX)")
    first.do("os.pwrite(fd, b'x' * 1000, 0), os.ftruncate(fd, 10), os.ftruncate(fd, 500)")
    first.do("flock(fd, fcntl.LOCK_UN)")
    second.do("flock(fd, fcntl.LOCK_EX)")
    assert second.do("os.pread(fd, 2000, 0)") == b"x" * 10 + bytes(490)
    second.do("os.lseek(fd, 0, os.SEEK_END), os.write(fd, b'end')")
    second.do("flock(fd, fcntl.LOCK_UN)")
    first.do("flock(fd, fcntl.LOCK_SH)")
    assert first.do("os.pread(fd, 2000, 0)") == b"x" * 10 + bytes(490) + b"end"


@pytest.mark.parametrize("held", ["lock(fd, 'w', 0, 10)", "flock(fd, fcntl.LOCK_EX)", "lock(fd, 'r')", "None"])
def test_a_file_that_is_locked_can_be_opened_for_writing_elsewhere(two_mounts, held):
    """Goal: no EBUSY, and no long wait, where programs use locks: before a lock, with a lock, with something written
    under it, and between two."""
    (two_mounts[0] / "file").write_bytes(bytes(100))
    with programs(2) as (first, second):
        first.open(two_mounts[0] / "file")
        first.lock("w")
        first.lock("u")
        first.do(held)
        for written in (False, True):
            if written:
                first.do("os.pwrite(fd, b'written', 50)")
            started = time.monotonic()
            second.open(two_mounts[1] / "file")
            assert time.monotonic() - started < 4
            second.do("os.close(fd)")
        assert (two_mounts[1] / "file").read_bytes()[50:57] == b"written"


def test_a_file_on_which_locks_were_used_before(two_mounts):
    """Goal: both may open it for writing, though none has used a lock yet; what one writes without locks is its own
    until it closes."""
    file = two_mounts[0] / "file"
    file.write_bytes(bytes(100))
    with programs(3) as (before, first, second):
        before.open(file)
        before.lock("w")
        before.kill()
        first.open(file)
        second.open(two_mounts[1] / "file")
        first.do("os.pwrite(fd, b'first', 0)")
        second.begin("os.pwrite(fd, b'second', 20)")
        assert second.is_waiting(1.5)
        first.do("os.close(fd)")
        second.result(5)
        second.do("os.close(fd)")
        assert file.read_bytes()[:30] == b"first" + bytes(15) + b"second" + bytes(4)


def test_counters_of_many_programs(two_mounts):
    """Goal: three programs on each of two mounts lock a record, read it, add one, write it, unlock it: none is lost."""
    code = """
import fcntl, os, random, struct, sys
fd, choose = os.open(sys.argv[1], os.O_RDWR), random.Random(int(sys.argv[2]))
for _ in range(40):
    at = 5000 * choose.randrange(6)
    fcntl.lockf(fd, fcntl.LOCK_EX, 8, at)
    (value,) = struct.unpack('q', os.pread(fd, 8, at))
    os.pwrite(fd, struct.pack('q', value + 1), at)
    fcntl.lockf(fd, fcntl.LOCK_UN, 8, at)
"""
    (two_mounts[0] / "counters").write_bytes(bytes(40_000))
    adding = [python(code, two_mounts[number % 2] / "counters", number) for number in range(6)]
    for process in adding:
        assert process.communicate(timeout=90)[1] == ""
        assert process.returncode == 0
    for side in two_mounts:
        data = (side / "counters").read_bytes()
        assert sum(int.from_bytes(data[at : at + 8], "little") for at in range(0, 30_000, 5000)) == 6 * 40


def test_what_is_read_while_a_write_waits_is_not_kept(two_mounts):
    """Goal: S1, S3. The kernel puts what a program writes into its page, and sends it; where it is told to forget its
    pages meanwhile, a read-ahead brings the page back as it was before. The writer must not find that, nor who locks
    the record next."""
    file = two_mounts[0] / "file"
    file.write_bytes(bytes(40_000))
    with programs(3) as (writer, reader, elsewhere):
        for program in (writer, reader):
            program.open(file)
            program.do("os.pread(fd, 40_000, 0)")
        for program in (writer, reader):
            program.lock("r", 39_000, 1)
            program.lock("u", 39_000, 1)
        elsewhere.open(two_mounts[1] / "file")
        elsewhere.do("os.pwrite(fd, b'elsewhere', 0)")
        writer.lock("w", 20_000, 8)
        writer.begin("os.pwrite(fd, b'written!', 20_000)")
        assert writer.is_waiting(1.0)
        elsewhere.do("os.fsync(fd)")
        reader.lock("w", 0, 9)
        assert reader.do("os.pread(fd, 40_000, 0)")[:9] == b"elsewhere"
        elsewhere.do("os.close(fd)")
        writer.result()
        assert writer.do("os.pread(fd, 8, 20_000)") == b"written!"
        writer.lock("u", 20_000, 8)
        reader.lock("w", 20_000, 8)
        assert reader.do("os.pread(fd, 8, 20_000)") == b"written!"


def test_locking_through_one_descriptor_and_writing_through_another(two_mounts):
    """Goal: who unlocks keeps the file from nobody, whichever descriptor it has written through; both stay open."""
    (two_mounts[0] / "file").write_bytes(bytes(100))
    with programs(2) as both:
        for program, side in zip(both, two_mounts, strict=True):
            program.open(side / "file", "O_RDONLY", "locked")
            program.do("flock(locked, fcntl.LOCK_SH)")
            program.do("flock(locked, fcntl.LOCK_UN)")
            program.open(side / "file", "O_RDWR", "written")
        for turn in range(6):
            program = both[turn % 2]
            program.do("flock(locked, fcntl.LOCK_EX)", 5)
            assert program.do("os.pread(written, 1, 0)") == bytes([turn])
            program.do(f"os.pwrite(written, bytes([{turn + 1}]), 0)", 5)
            program.do("flock(locked, fcntl.LOCK_UN)", 5)


EVERYTHING = """
import fcntl, mmap, os, random, sys, time
path, shadow, seed, how = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
choose, lock = random.Random(seed), getattr(fcntl, how)

def opened():
    flags = choose.choice((os.O_RDWR, os.O_RDWR | os.O_APPEND))
    return os.open(path, flags), bool(flags & os.O_APPEND)

def check(fd):
    wanted = open(shadow, 'rb').read()
    assert os.fstat(fd).st_size == len(wanted), (os.fstat(fd).st_size, len(wanted))
    assert os.pread(fd, len(wanted) + 4096, 0) == wanted, 'another content'
    if how == 'flock' and wanted and choose.random() < 0.2:
        # Python duplicates the descriptor, and the duplicate's close would end fcntl locks.
        with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapping:
            assert mapping[:] == wanted, 'another mapping'
    return bytearray(wanted)

def change(fd, appends, content):
    data = bytes([choose.randrange(256)]) * choose.choice((1, 10, 4096, 5000, 70000))
    what = choose.random()
    if what < 0.6:
        at = len(content) if appends else choose.randrange(len(content) + 10000)
        os.write(fd, data) if appends else os.pwrite(fd, data, at)
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(data)] = data
    elif what < 0.8:
        size = choose.choice((0, 1, choose.randrange(len(content) + 5000)))
        os.ftruncate(fd, size)
        content[size:] = bytes(max(0, size - len(content)))
    elif what < 0.9:
        os.fsync(fd)
    else:
        assert os.pread(fd, 1 << 22, 0) == bytes(content), 'not what was written'

(fd, appends), reading, end = opened(), os.open(path, os.O_RDONLY), time.monotonic() + 6
while time.monotonic() < end:
    if choose.random() < 0.1:
        os.close(fd)
        fd, appends = opened()
    if choose.random() < 0.3:
        one = choose.choice((fd, reading))
        lock(one, fcntl.LOCK_SH)
        check(one)
        lock(one, fcntl.LOCK_UN)
        continue
    lock(fd, fcntl.LOCK_EX)
    content = check(fd)
    for _ in range(choose.randrange(4)):
        change(fd, appends, content)
    if len(content) > 600_000:
        os.ftruncate(fd, 1000)
        del content[1000:]
    open(shadow, 'wb').write(content)
    lock(fd, fcntl.LOCK_UN)
"""


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_everything_under_locks(two_mounts, folder, how):
    """Goal: two programs on each of two mounts write, append, cut, map and read at random, opening the file again now
    and then; under a lock the file is always, to the byte, what was written under the locks before.

    Method: a copy on a local disk, which is written under the same locks.
    """
    (two_mounts[0] / "file").touch()
    (folder / "shadow").touch()
    running = [
        python(EVERYTHING, two_mounts[number % 2] / "file", folder / "shadow", number, how) for number in range(4)
    ]
    for process in running:
        assert process.communicate(timeout=90)[1] == ""
    assert (two_mounts[1] / "file").read_bytes() == (folder / "shadow").read_bytes()


def test_room_and_copies_under_a_lock(pair):
    """Goal: what is allocated, punched and copied within the kernel's reach is written like the rest: under the write
    lock, seen by who locks next."""
    first, second = pair
    first.do("lock(fd, 'w'), os.posix_fallocate(fd, 0, 9000), os.pwrite(fd, b'first' * 1000, 0), lock(fd, 'u')")
    second.lock("w")
    assert second.do("(os.fstat(fd).st_size, os.pread(fd, 5, 4995))") == (9000, b"first")
    assert second.do("os.copy_file_range(fd, fd, 5, 0, 8995)") == 5
    second.do("_libc.fallocate64(fd, 3, ctypes.c_int64(0), ctypes.c_int64(4096))")
    second.lock("u")
    first.lock("r")
    assert first.do("(os.pread(fd, 10, 0), os.pread(fd, 6, 8994))") == (bytes(10), b"\0first")


@pytest.mark.drivers("linux", "fusepy")
def test_appends_under_a_flock(two_mounts):
    """Goal: each line is whole and in its place; each program sees all lines before its own."""
    code = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
for number in range(40):
    fcntl.flock(fd, fcntl.LOCK_EX)
    before = os.fstat(fd).st_size
    os.write(fd, b'%s %d\\n' % (sys.argv[2].encode(), number))
    text = os.pread(fd, 1 << 20, 0)
    assert len(text) > before and text.endswith(b'%s %d\\n' % (sys.argv[2].encode(), number)), (before, text[-60:])
    fcntl.flock(fd, fcntl.LOCK_UN)
"""
    adding = [python(code, two_mounts[number % 2] / "log", f"program{number}") for number in range(4)]
    for process in adding:
        assert process.communicate(timeout=90)[1] == ""
    for side in two_mounts:
        lines = (side / "log").read_text().splitlines()
        assert sorted(lines) == sorted(f"program{who} {number}" for who in range(4) for number in range(40))


@pytest.mark.drivers("linux", "fusepy")
@pytest.mark.parametrize("lock", ["lock(fd, '{}')", "flock(fd, fcntl.LOCK_{})"])
def test_who_appends_under_a_lock_reads_it_without_looking_first(two_mounts, lock):
    """Goal: S3. The kernel appends where it takes the end to be, and the file has grown or was cut elsewhere: who reads
    at once what he has appended finds all that is there, to the byte."""
    lock, unlock = (lock.format(how) for how in (("w", "u") if lock.startswith("lock") else ("EX", "UN")))
    (two_mounts[0] / "log").write_bytes(b"begun")
    with programs(2) as both:
        for program, side in zip(both, two_mounts, strict=True):
            program.open(side / "log", "O_RDWR|O_APPEND")
            program.do(f"{lock}, {unlock}")
        wanted = b"begun"
        for number in range(60):
            more = b"%03d." % number * (1, 300, 2000)[number % 3]
            code = f"{lock}, os.write(fd, {more!r}), os.pread(fd, 1 << 20, 0)"
            wanted += more
            assert both[number % 2].do(code, 5)[2] == wanted
            if number % 10 == 9:
                both[number % 2].do("os.ftruncate(fd, 7)")
                wanted = wanted[:7]
            both[number % 2].do(unlock)


# -- for people


def test_dfs_locks_shows_them(shared, first: Mount, mount: Path):
    """Goal: which bytes, by whom, who waits; for people and for programs."""
    dfs = Dfs(shared)
    (mount / "shown").write_bytes(b"")
    with programs(2) as (holder, waiter):
        begin(holder, mount / "shown")
        begin(waiter, mount / "shown")
        holder.lock("w", 10, 90)
        holder.lock("r", 200)
        waiter.begin("lock(fd, 'w', 0, 0, 'SETLKW')")
        wait_for_waiters(shared, "shown", 1)
        (row,) = (row for row in dfs.json("locks") if row["lock"] == "fcntl")
        assert [(h["pid"], h["ranges"]) for h in row["holders"]] == [
            (holder.pid, [{"start": 10, "end": 100, "write": True}, {"start": 200, "end": None, "write": False}])
        ]
        assert [(w["place"], w["pid"], w["range"]["start"]) for w in row["waiters"]] == [(1, waiter.pid, 0)]
        holds, waits = (line for line in dfs("locks").decode().splitlines()[1:] if "/shown" in line)
        assert re.match(rf"holds +write 10-99, read 200- +\S+ +{holder.pid} +python", holds)
        assert re.match(rf"waits, 1\. +write 0- +\S+ +{waiter.pid} +python", waits)
        holder.lock("u")
        waiter.result()
        holder.do("flock(fd, fcntl.LOCK_SH)")
        assert any("flock shared" in line for line in dfs("locks").decode().splitlines())


# -- what may happen meanwhile


def test_lock_service_restarts_while_locks_are_held(fresh):
    """Goal: holders keep their locks, who waits goes on waiting and is granted by the unlock, nobody gets what another
    has."""
    one, other = fresh.mount(), fresh.mount()
    (one.point / "file").write_bytes(bytes(100))
    with programs(3) as (holder, waiter, third):
        begin(holder, one.point / "file")
        begin(waiter, other.point / "file")
        begin(third, other.point / "file")
        holder.lock("w", 0, 50)
        holder.do("flock(fd, fcntl.LOCK_EX)")
        holder.do("os.pwrite(fd, b'kept', 0)")
        waiter.begin("lock(fd, 'w', 0, 10, 'SETLKW')")
        wait_for_waiters(fresh, "file", 1)
        pid = fresh.servers()["locks"].pid
        fresh.kill("locks")
        fresh.wait_for("locks", pid)
        with error(errno.EAGAIN):
            third.lock("w", 49, 1)
        with error(errno.EAGAIN):
            third.do("flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)")
        third.lock("w", 50, 10)
        assert waiter.is_waiting()
        holder.lock("u")
        waiter.result(20)
        assert waiter.do("os.pread(fd, 4, 0)") == b"kept"
        holder.do("flock(fd, fcntl.LOCK_UN)")
        third.do("flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)")


def test_a_killed_client_loses_its_programs_locks(fresh):
    """Goal: S7. After one lease at most others have them."""
    one, other = fresh.mount(), fresh.mount()
    (one.point / "file").write_bytes(bytes(100))
    with programs(2) as (holder, waiter):
        begin(holder, one.point / "file")
        begin(waiter, other.point / "file")
        holder.lock("w")
        waiter.begin("lock(fd, 'w', 0, 0, 'SETLKW')")
        assert waiter.is_waiting()
        started = time.monotonic()
        one.kill()
        waiter.result(LEASE_S + 4)
        assert time.monotonic() - started > 1, "it was a lease that had to end"


def test_a_client_that_slept_through_its_lease(fresh):
    """Goal: its programs have lost their locks: EIO from each descriptor through which they had locked, until it is
    closed; what was written under the lock is kept beside the file and never becomes its content."""
    one, other = fresh.mount(), fresh.mount()
    (one.point / "file").write_bytes(bytes(100))
    with programs(2) as (holder, successor):
        begin(holder, one.point / "file")
        begin(successor, other.point / "file")
        holder.lock("w", 0, 50)
        holder.do("os.pwrite(fd, b'too late', 0)")
        client = one.pid
        os.kill(client, 19)
        try:
            successor.begin("lock(fd, 'w', 0, 50, 'SETLKW')")
            successor.result(LEASE_S + 4)
            successor.do("os.pwrite(fd, b'in time', 0)")
            successor.lock("u")
        finally:
            os.kill(client, 18)

        wait_until(lambda: errno_of(holder, "os.pread(fd, 10, 0)") == errno.EIO, "the descriptor is of no use")
        for line in ("os.pwrite(fd, b'x', 0)", "os.fsync(fd)", "lock(fd, 'u', 0, 50)", "lock(fd, 'w', 0, 50)"):
            with error(errno.EIO):
                holder.do(line)
        with error(errno.EIO):
            holder.do("os.close(fd)")
        holder.open(one.point / "file")
        holder.lock("w", 0, 50)
        assert holder.do("os.pread(fd, 8, 0)") == b"in time\0"
        wait_until(lambda: len(os.listdir(one.point)) == 2, "a copy beside the file")
        (copy,) = (name for name in os.listdir(one.point) if name != "file")
        assert copy.startswith("file (conflict ")
        wait_until(lambda: (one.point / copy).read_bytes()[:8] == b"too late", "the copy has its content")
        assert alive(client)


def test_who_has_lost_locks_changes_no_names(fresh):
    """Goal: S7. What a program knows of names it knows from when it had its locks. A client stands still for longer
    than its lease, and another one's program has begun a journal under the same name: who goes on removes and replaces
    neither that nor anything else, until it has closed what it had locked. Others on its mount do as they like."""
    one, other = fresh.mount(), fresh.mount()
    for name in ("db", "free"):
        (one.point / name).write_bytes(b"content")
    journal = "db-journal"
    with programs(2) as (holder, successor):
        begin(holder, one.point / "db")
        begin(successor, other.point / "db")
        holder.lock("w")
        holder.open(one.point / journal, "O_RDWR|O_CREAT", "journal")
        client = one.pid
        os.kill(client, 19)
        try:
            successor.begin("lock(fd, 'w', 0, 0, 'SETLKW')")
            successor.result(LEASE_S + 4)
            successor.do(f"os.unlink({str(other.point / journal)!r})")
            (other.point / journal).write_bytes(b"another one")
        finally:
            os.kill(client, 18)
        holder.do("os.close(journal)")
        for line in (f"os.unlink({str(one.point / journal)!r})", f"os.rename({str(one.point / 'free')!r}, 'x')"):
            with error(errno.EIO):
                holder.do(line.replace("'x'", repr(str(one.point / journal))))
        assert (one.point / journal).read_bytes() == b"another one"
        (one.point / "free").rename(one.point / "moved")
        with error(errno.EIO):
            holder.do("os.close(fd)")
        holder.do(f"os.unlink({str(one.point / journal)!r})")
        assert os.listdir(other.point) == ["db", "moved"]


def test_unmounting_ends_locks(fresh):
    """Goal: at once, without a lease."""
    one, other = fresh.mount(), fresh.mount()
    (one.point / "file").write_bytes(bytes(100))
    with programs(2) as (holder, successor):
        begin(holder, one.point / "file")
        begin(successor, other.point / "file")
        holder.lock("w")
        holder.kill()
        one.unmount()
        started = time.monotonic()
        successor.lock("w", how="SETLKW")
        assert time.monotonic() - started < 3
