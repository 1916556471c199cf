"""Writing through passthrough on real mounts: the kernel writes large cached files itself, and nobody tells the client.
Each program, on each mount, sees what it would see without it, and nothing is lost."""

import contextlib
import errno
import fcntl
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_files import opened, whole
from passthrough import MARKS, MIB, SIZE, bring, mapping_of, noise, stopped
from random_file import RandomFile, walk
from support import Mount, error, run_mount, wait_until

from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES

pytestmark = MARKS

WRITE_S = 3
SEEDS = range(200 if os.environ.get("DFS_LONG") else 3)
ROUNDS = 200 if os.environ.get("DFS_LONG") else 30


def writes_without_client(handle: int, mount: Mount, data: bytes = b"x", offset: int = 0) -> bool:
    """Can another process write to it while the client is stopped? If not it writes when the client goes on. The first
    write asks whether the file has capabilities."""
    with contextlib.suppress(OSError):
        os.pwrite(handle, data, offset)
    # Its end would wait for the client: each close of a descriptor that may write is told.
    program = f"import os; os.pwrite({handle}, {data!r}, {offset}); print(flush=True)"
    with stopped(mount):
        writer = subprocess.Popen([sys.executable, "-c", program], pass_fds=[handle], stdout=subprocess.PIPE)
        written = bool(select.select([writer.stdout], [], [], WRITE_S)[0])
    writer.communicate()
    return written


@pytest.fixture
def two(two_mounts: tuple[Path, Path]) -> tuple[Path, Path]:
    """(here, there): the same file, in the cache here and in memory."""
    here, there = (mount / "file" for mount in two_mounts)
    here.write_bytes(noise(1))
    bring(here)
    return here, there


@contextlib.contextmanager
def writer_of(file: Path, mount: Mount) -> Iterator[int]:
    """A descriptor whose writes the kernel makes itself."""
    with opened(file, os.O_RDWR) as handle:
        assert writes_without_client(handle, mount, os.pread(handle, 1, 0))
        yield handle


# -- what is given


def test_large_cached_files_are_written_without_the_client(first, two):
    """Goal: writes and stores to what is in the cache need nobody but the kernel; close() sends them, and fsync()."""
    here, there = two
    with opened(here, os.O_RDWR) as handle:
        assert writes_without_client(handle, first, b"one", 0)
        with mmap.mmap(handle, 0) as mapping, stopped(first):
            mapping[10:13] = b"two"
            assert os.pread(handle, 13, 0) == b"one" + noise(1)[3:10] + b"two"
        os.fsync(handle)
        assert there.read_bytes()[:13] == b"one" + noise(1)[3:10] + b"two"
        assert writes_without_client(handle, first, b"end", 2 * MIB)
        assert os.fstat(handle).st_size == os.stat(here).st_size == 2 * MIB + 3
    assert there.read_bytes() == whole_of(here)
    assert there.read_bytes()[SIZE:] == bytes(2 * MIB - SIZE) + b"end"


def whole_of(file: Path) -> bytes:
    with opened(file) as handle:
        return whole(handle)


def test_what_is_written_through_the_client(first, two):
    """Goal: appends, O_DIRECT, small files, what is to be cut, what has set-id bits, and what is not in the cache."""
    here, there = two
    for flags in (os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_DIRECT):
        with opened(here, flags) as handle:
            assert not writes_without_client(handle, first)
    here.with_name("small").write_bytes(b"small")
    with opened(here.with_name("small"), os.O_RDWR) as handle:
        assert not writes_without_client(handle, first)
    os.chmod(here, 0o4755)
    with opened(here, os.O_RDWR) as handle:
        assert not writes_without_client(handle, first)
    there.with_name("other").write_bytes(noise(2))
    with opened(here.with_name("other"), os.O_RDWR) as handle:
        assert not writes_without_client(handle, first)


def test_sizes_that_are_hashed(fresh):
    """Goal: --passthrough-writes says up to which size."""
    mount = fresh.mount("--passthrough-writes", "2M")
    for name, size, expected in (("f", 2 * MIB, True), ("g", 2 * MIB + 1, False)):
        (mount.point / name).write_bytes(noise(1, size))
        bring(mount.point / name)
        with opened(mount.point / name, os.O_RDWR) as handle:
            assert writes_without_client(handle, mount) is expected


def test_a_file_that_outgrows_passthrough(fresh):
    """Goal: what has come to be larger than --passthrough-writes is written through the client once all have closed it;
    until then those who open it share it as before."""
    mount, other = fresh.mount("--passthrough-writes", "2M"), fresh.mount()
    here, there = mount.point / "file", other.point / "file"
    here.write_bytes(noise(1))
    bring(here)
    with writer_of(here, mount) as handle:
        os.pwrite(handle, b"end", 3 * MIB)
        os.fsync(handle)
        with opened(here, os.O_RDWR) as joining:
            os.pwrite(joining, b"join", 0)
        assert there.read_bytes() == b"join" + noise(1)[4:] + bytes(3 * MIB - SIZE) + b"end"
    bring(here)
    with opened(here, os.O_RDWR) as handle:
        assert not writes_without_client(handle, mount, b"next", 0)
    assert there.read_bytes()[:4] == b"next"


def test_little_is_written_to_a_large_file(first, two_mounts):
    """Goal: what is hashed at each close in vain, or for one block, costs more than the client would: from the next
    open on it sees the writes."""
    file = two_mounts[0] / "file"
    file.write_bytes(noise(1, 8 * MIB))
    bring(file)
    with writer_of(file, first):
        pass

    def is_given() -> bool:
        with opened(file, os.O_RDWR) as handle:
            return writes_without_client(handle, first, b"x", 0)

    wait_until(lambda: not is_given(), "the client sees the writes", 60)
    for _ in range(20):
        with opened(file, os.O_RDWR) as handle:
            os.pwrite(handle, b"y", 5)
    assert whole_of(two_mounts[1] / "file")[:6] == b"x" + noise(1, 8 * MIB)[1:5] + b"y"


def test_who_reads_it_already(first, two):
    """Goal: a program has it open and mapped to read in passthrough: a writer shares the file with it, and another one
    who appends, whom the client serves."""
    here, there = two
    with opened(here) as reader, mapping_of(reader) as mapping, writer_of(here, first) as writer:
        os.pwrite(writer, b"new", 5)
        assert (os.pread(reader, 3, 5), mapping[5:8]) == (b"new", b"new")
        with opened(here, os.O_RDWR | os.O_APPEND) as appender:
            os.pwrite(writer, b"w", SIZE)
            os.write(appender, b"a")
            os.pwrite(writer, b"W", SIZE + 2)
            os.write(appender, b"A")
            assert os.pread(appender, 9, SIZE) == os.pread(reader, 9, SIZE) == os.pread(writer, 9, SIZE) == b"waWA"
            with mmap.mmap(appender, 0) as stores:
                stores[7] = ord("!")
        os.ftruncate(writer, SIZE + 3)
        assert os.fstat(reader).st_size == SIZE + 3
    expected = bytearray(noise(1) + b"waW")
    expected[5:8] = b"ne!"
    assert there.read_bytes() == expected


def test_appends_at_once(first, two):
    """Goal: S12. Programs append while another one of the mount writes in the middle: no record is lost or torn."""
    here, there = two
    with writer_of(here, first) as writer:
        program = f"""
import os
fd = os.open({str(here)!r}, os.O_WRONLY | os.O_APPEND)
for number in range(200):
    os.write(fd, (str(number) + " " * 100)[:99].encode() + b"\\n")
"""
        programs = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
        while any(each.poll() is None for each in programs):
            os.pwrite(writer, noise(3, 5000), random.randrange(SIZE - 5000))
        assert [each.returncode for each in programs] == [0] * 3
    records = there.read_bytes()[SIZE:].splitlines()
    assert sorted(int(record) for record in records) == sorted(list(range(200)) * 3)
    assert {len(record) for record in records} == {99}


def test_truncation_by_another_program(first, two):
    """Goal: O_TRUNC and truncate() of what a program writes in passthrough are seen by it, and it goes on."""
    here, there = two
    with writer_of(here, first) as writer:
        os.truncate(here, 1000)
        assert os.fstat(writer).st_size == 1000
        os.pwrite(writer, b"x" * MIB, 0)
        with opened(here, os.O_WRONLY | os.O_TRUNC) as other:
            assert os.fstat(writer).st_size == 0
            os.write(other, b"new")
        assert os.pread(writer, 9, 0) == b"new"
        os.pwrite(writer, b"y", 5)
    assert there.read_bytes() == b"new\0\0y"


# -- what is synced


def test_what_nobody_hears_of_needs_an_fsync(first, two):
    """Goal: msync() and RWF_DSYNC are for this machine's disk alone; fsync() of any descriptor of the file, close()
    and the end of a mapping after that bring it to the other mount."""
    here, there = two
    with writer_of(here, first) as handle, opened(here) as reader:
        with mmap.mmap(handle, 0) as mapping:
            mapping[:4] = b"msyn"
            mapping.flush()
            os.pwritev(handle, [b"dsyn"], 4, os.RWF_DSYNC)
            assert whole_of(here)[:8] == b"msyndsyn"
            assert there.read_bytes()[:8] == noise(1)[:8]
            os.fsync(reader)
            assert there.read_bytes()[:8] == b"msyndsyn"
            mapping[:4] = b"dupl"
            mapping.flush()
            os.close(os.dup(handle))
            assert there.read_bytes()[:4] == b"dupl"
        mapping = mmap.mmap(handle, 0)
    mapping[:4] = b"last"
    mapping.flush()
    mapping.close()
    wait_until(lambda: there.read_bytes()[:4] == b"last", "what was stored is committed")


def test_msync_where_the_kernel_writes_no_files(fresh):
    """Goal: with --passthrough-writes 0 msync() brings what was stored to the other mount, of a large file too, also
    while others read it in passthrough."""
    mount, other = fresh.mount("--passthrough-writes", "0"), fresh.mount()
    here, there = mount.point / "file", other.point / "file"
    here.write_bytes(noise(1))
    bring(here)
    with opened(here) as reader, opened(here, os.O_RDWR) as handle, mmap.mmap(handle, 0) as mapping:
        for number in range(3):
            mapping[:1] = b"%d" % number
            mapping.flush()
            assert there.read_bytes()[:1] == b"%d" % number
        assert os.pread(reader, SIZE, 1) == noise(1)[1:]


# -- closing


def test_close_before_store_before_munmap(first, two):
    """Goal: RELEASE does not wait for mappings: what is stored after close() is on the other mount after munmap, and
    until then nobody else may write; the next writer here sees it, and so does a reader."""
    here, there = two
    with writer_of(here, first) as handle:
        mapping = mmap.mmap(handle, 0)
    mapping[0:4] = b"late"
    with error(errno.EAGAIN):
        os.open(there, os.O_WRONLY | os.O_NONBLOCK)
    assert whole_of(here)[:4] == b"late"
    with opened(here, os.O_RDWR) as handle:
        assert os.pread(handle, 4, 0) == b"late"
        mapping[4:8] = b"more"
        os.pwrite(handle, b"both", 8)
    assert there.read_bytes()[:12] == b"latemoreboth"
    mapping[0:4] = b"last"
    mapping.close()
    wait_until(lambda: there.read_bytes()[:4] == b"last", "what was stored is committed")
    with opened(there, os.O_WRONLY) as writer:
        os.write(writer, b"free")
    assert whole_of(here)[:12] == b"freemoreboth"


def test_a_reader_that_stays_keeps_no_lock(first, two):
    """Goal: only who can write is waited for."""
    here, there = two
    with opened(here) as reader, mapping_of(reader) as mapping:
        with writer_of(here, first) as handle:
            os.pwrite(handle, b"new", 0)
        wait_until(lambda: can_write(there), "the lock is free")
        assert mapping[:3] == b"new"


def can_write(file: Path) -> bool:
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
    except BlockingIOError:
        return False
    return True


def test_duplicates_and_children(first, two):
    """Goal: S3. Each close() of a duplicated or inherited descriptor commits what was written so far."""
    here, there = two
    with writer_of(here, first) as handle:
        for number in range(3):
            os.pwrite(handle, b"%d" % number, 100)
            os.close(os.dup(handle))
            assert there.read_bytes()[100:101] == b"%d" % number
        subprocess.run(
            [sys.executable, "-c", f"import os; os.pwrite({handle}, b'c', 7)"], pass_fds=[handle], check=True
        )
        assert there.read_bytes()[7:8] == b"c"


def test_newest_version_round_after_round(first, two):
    """Goal: S2. Small changes through passthrough, in turns on both mounts: never an old byte, nothing is lost."""
    expected = bytearray(noise(1))
    for file in two:
        bring(file)
    for number in range(ROUNDS):
        with opened(two[number % 2], os.O_RDWR) as handle:
            assert whole(handle) == expected
            at = random.randrange(SIZE - 10)
            os.pwrite(handle, b"%09d" % number, at)
            expected[at : at + 9] = b"%09d" % number
        assert whole_of(two[(number + 1) % 2]) == expected


def test_what_stat_tells(first, two):
    """Goal: size, room and times while it is written are those of the file; times that were set stay, on each mount."""
    here, there = two
    os.utime(here, ns=(5, 5))
    with writer_of(here, first) as handle:
        os.pwrite(handle, b"x" * MIB, 4 * MIB)
        found = os.fstat(handle)
        assert (found.st_size, found.st_mtime_ns > 5) == (5 * MIB, True)
        assert found.st_blocks * 512 in range(SIZE + MIB - 4096, SIZE + MIB + 8192)
        os.utime(handle, ns=(7 * 10**9, 7 * 10**9))
        assert os.fstat(handle).st_mtime_ns == 7 * 10**9
    wait_until(lambda: os.stat(there).st_size == 5 * MIB, "the other mount knows")
    assert os.stat(there).st_mtime_ns == os.stat(here).st_mtime_ns == 7 * 10**9
    with opened(here, os.O_RDWR) as handle:
        os.pwrite(handle, b"later", 0)
    assert os.stat(here).st_mtime_ns > 7 * 10**9


def test_holes_and_room(first, two):
    """Goal: fallocate, lseek and copy_file_range go by what the kernel has written."""
    here, there = two
    with writer_of(here, first) as handle:
        os.ftruncate(handle, 3 * ENTRY_BYTES)
        os.pwrite(handle, b"x" * 4096, 2 * ENTRY_BYTES)
        assert os.lseek(handle, ENTRY_BYTES, os.SEEK_DATA) == 2 * ENTRY_BYTES
        assert os.lseek(handle, 2 * ENTRY_BYTES, os.SEEK_HOLE) == 2 * ENTRY_BYTES + 4096
        os.posix_fallocate(handle, ENTRY_BYTES, BLOCK_BYTES)
        with opened(here.with_name("copy"), os.O_RDWR | os.O_CREAT) as copy:
            assert os.copy_file_range(handle, copy, 3 * ENTRY_BYTES, 0, 0) == 3 * ENTRY_BYTES
            assert whole(copy) == whole(handle)
    assert there.read_bytes() == there.with_name("copy").read_bytes() == whole_of(here)
    assert os.stat(there).st_blocks * 512 < SIZE + BLOCK_BYTES + 3 * 4096


class _Large(RandomFile):
    """Long enough for passthrough at most times."""

    size_max = 3 * MIB

    def open(self) -> None:
        if not self.model:
            self.model += noise(0, 3 * MIB // 2)
            self.here.write_bytes(self.model)
        bring(self.here)
        self.fds = [os.open(self.here, os.O_RDWR) for _ in range(2)]

    def truncate(self) -> None:
        if self.choose.random() < 0.3:
            super().truncate()


@pytest.mark.parametrize("seed", SEEDS)
def test_all_ways_to_a_large_file_agree(two_mounts, seed):
    """Goal: writes, mappings, cuts, holes, copies and appends of one file in passthrough: after each step it is what a
    local file would be, and after each fsync and close the other mount has it."""
    walk(_Large(*two_mounts, seed))


# -- locks between programs


def test_a_program_that_begins_to_lock(fresh):
    """Goal: S3 and S5. Programs of two mounts have the file open for writing in passthrough, and then take turns by
    locks: each sees what the other one had written, and both are sent."""
    first, other = fresh.mount(), fresh.mount()
    here, there = first.point / "file", other.point / "file"
    here.write_bytes(bytes(SIZE))
    for file in (here, there):
        bring(file)
    program = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    fcntl.lockf(fd, fcntl.LOCK_EX)
    at = int(sys.argv[3])
    count = int.from_bytes(os.pread(fd, 8, at), "little")
    os.pwrite(fd, (count + 1).to_bytes(8, "little"), at)
    fcntl.lockf(fd, fcntl.LOCK_UN)
"""
    with writer_of(here, first) as writer:
        os.pwrite(writer, b"x", SIZE - 1)
    pipe = {"stdin": subprocess.PIPE, "text": True}
    run = lambda file: subprocess.Popen([sys.executable, "-c", program, str(file), "20", "70000"], **pipe)  # noqa: E731
    ours = run(here)
    ours.communicate("\n")
    both = [run(here), run(there)]
    for each in both:
        threading.Thread(target=each.communicate, args=["\n"]).start()
    assert [each.wait(60) for each in both] == [0, 0]
    for file in (here, there):
        assert int.from_bytes(file.read_bytes()[70000:70008], "little") == 60


def test_who_locks_what_others_write(fresh):
    """Goal: S4. A program locks the file, another one of its mount writes it in passthrough and never locks: what it
    writes is not overtaken, as the write lock stays here; what was locked is sent at the unlock."""
    first, other = fresh.mount("--lock-wait", "1"), fresh.mount("--lock-wait", "1")
    here, there = first.point / "file", other.point / "file"
    here.write_bytes(noise(1))
    bring(here)
    with writer_of(here, first) as plain, opened(here, os.O_RDWR) as locking:
        fcntl.lockf(locking, fcntl.LOCK_EX)
        os.pwrite(plain, b"plain", 10)
        os.pwrite(locking, b"lock!", 20)
        fcntl.lockf(locking, fcntl.LOCK_UN)
        with opened(there, os.O_RDONLY) as reader:
            fcntl.flock(reader, fcntl.LOCK_SH)
            assert (os.pread(reader, 5, 10), os.pread(reader, 5, 20)) == (b"plain", b"lock!")
            fcntl.flock(reader, fcntl.LOCK_UN)
        with error(errno.EBUSY), opened(there, os.O_RDWR) as writer:
            os.pwrite(writer, b"other", 30)
        os.pwrite(plain, b"after", 40)
    assert there.read_bytes()[40:45] == b"after"


# -- what is lost


def test_a_client_that_slept_through_its_lease(fresh):
    """Goal: S6. Another mount has written the file while this client stood still: writes that the kernel has made are
    kept as a copy, fsync and close say EIO, and what is written after that is kept there too."""
    first, other = fresh.mount(), fresh.mount()
    here, there = first.point / "file", other.point / "file"
    here.write_bytes(noise(1))
    bring(here)
    handle = os.open(here, os.O_RDWR)
    assert writes_without_client(handle, first, b"mine", 0)
    with stopped(first):
        with opened(there, os.O_WRONLY) as writer:
            os.pwrite(writer, b"theirs", 0)
        os.pwrite(handle, b"asleep", 100)
    with error(errno.EIO):
        os.fsync(handle)
    os.pwrite(handle, b"after", 200)
    with error(errno.EIO):
        os.close(handle)
    assert whole_of(here)[:6] == there.read_bytes()[:6] == b"theirs"
    (copy,) = set(os.listdir(there.parent)) - {"file"}
    expected = bytearray(noise(1))
    expected[0:4], expected[100:106], expected[200:205] = b"mine", b"asleep", b"after"
    wait_until(lambda: (there.parent / copy).read_bytes() == expected, "all of it is in the copy")
    assert set(os.listdir(there.parent)) == {"file", copy}


def test_killed_client(fresh):
    """Goal: S15. What was closed is there; what was written after that is a copy; who outlives the client writes into
    nothing that others see, and hears so."""
    mount, other = fresh.mount(), fresh.mount()
    file = mount.point / "file"
    file.write_bytes(noise(1))
    bring(file)
    handle = os.open(file, os.O_RDWR)
    os.pwrite(handle, b"synced", 0)
    os.fsync(handle)
    os.pwrite(handle, b"not synced", 100)
    mount.kill()
    os.pwrite(handle, b"dead", 200)
    assert run_mount(mount.point, "--home", mount.home, "--driver", "linux").returncode == 0
    expected = bytearray(noise(1))
    expected[0:6] = b"synced"
    assert file.read_bytes() == (other.point / "file").read_bytes() == expected
    wait_until(lambda: len(os.listdir(other.point)) == 2, "the copy is made")
    (copy,) = set(os.listdir(other.point)) - {"file"}
    assert copy.startswith("file (recovered ")
    expected[100:110], expected[200:204] = b"not synced", b"dead"
    os.pwrite(handle, b"later", 300)
    assert (mount.point / copy).read_bytes() == (other.point / copy).read_bytes() == expected
    with error(errno.ENOTCONN):
        os.close(handle)
    assert file.read_bytes()[:6] == b"synced"


def test_a_signal_ends_the_client(fresh):
    """Goal: S15. What programs have written is committed, also through mappings that are left."""
    mount, other = fresh.mount(), fresh.mount()
    file = mount.point / "file"
    file.write_bytes(noise(1))
    bring(file)
    handle = os.open(file, os.O_RDWR)
    mapping = mmap.mmap(handle, 0)
    os.pwrite(handle, b"written", 0)
    mapping[10:16] = b"stored"
    os.kill(mount.pid, signal.SIGTERM)
    expected = b"written" + noise(1)[7:10] + b"stored"
    wait_until(lambda: (other.point / "file").read_bytes()[:16] == expected, "it is committed", 20)
    mapping[10:16] = b"orphan"
    with contextlib.suppress(OSError):
        os.close(handle)
    again = fresh.mount(point=mount.point)
    assert (again.point / "file").read_bytes()[:16] == expected
    mapping[10:16] = b"ORPHAN"
    bring(again.point / "file")
    assert whole_of(again.point / "file")[:16] == expected
    mapping.close()
