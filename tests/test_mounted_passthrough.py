"""Passthrough on real mounts: the kernel reads large cached files itself. Each program sees what it would see without
it: the version that it has opened, what programs here write, and the newest one with the next open."""

import contextlib
import errno
import fcntl
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bare_files import opened, whole
from passthrough import MARKS, MIB, SIZE, bring, mapping_of, noise, stopped
from support import Mount, alive, error, run_mount, wait_until

from dfsfuse.chunks import ENTRY_BYTES

pytestmark = MARKS

READ_S = 3
ROUNDS = 500 if os.environ.get("DFS_LONG") else 60


def reads_without_client(handle: int, mount: Mount) -> bytes | None:
    """What another process reads of it while the client is stopped; None where it waits for the client."""
    program = f"import os, sys; sys.stdout.buffer.write(os.pread({handle}, {SIZE}, 7))"
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    with stopped(mount):
        reader = subprocess.Popen([sys.executable, "-c", program], pass_fds=[handle], stdout=subprocess.PIPE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return reader.communicate(timeout=READ_S)[0]
    reader.communicate()
    return None


def is_passthrough(file: Path, mount: Mount) -> bool:
    with opened(file) as handle:
        return reads_without_client(handle, mount) is not None


@pytest.fixture
def two(two_mounts: tuple[Path, Path]) -> tuple[Path, Path]:
    """(here, there): the same file, in both caches."""
    here, there = (mount / "file" for mount in two_mounts)
    here.write_bytes(noise(1))
    bring(here)
    bring(there)
    return here, there


def test_large_cached_files_are_read_without_the_client(first, two):
    """Goal: reads and mappings of what is in the cache need nobody but the kernel, wherever in the file; what is small,
    or not in the cache, is read through the client."""
    assert "passthrough: cached files" in first.log
    with opened(two[0]) as handle:
        assert reads_without_client(handle, first) == noise(1)[7:]
        assert whole(handle) == noise(1)
        assert os.fstat(handle).st_size == SIZE
        assert os.lseek(handle, 0, os.SEEK_END) == SIZE
        with mapping_of(handle) as shared, mapping_of(handle, mmap.MAP_PRIVATE) as private, stopped(first):
            assert (shared[:], private[:]) == (noise(1), noise(1))
    small = two[0].with_name("small")
    small.write_bytes(b"small")
    with opened(small) as handle, mapping_of(handle) as mapping:
        assert mapping[:] == b"small"
    two[1].with_name("other").write_bytes(noise(2, 2 * MIB))
    with opened(two[0].with_name("other")) as handle:
        assert reads_without_client(handle, first) is None
    bring(two[0].with_name("other"))
    assert is_passthrough(two[0].with_name("other"), first)


def cached_bytes(mount: Mount, size: int) -> int:
    """What the local disk has of the file in the mount's cache that has this size."""
    sizes = [path.stat() for path in mount.folder.rglob("*") if path.is_file()]
    return max((each.st_blocks * 512 for each in sizes if each.st_size == size), default=0)


def test_file_that_is_open_comes_as_a_whole(first, two_mounts):
    """Goal: who has read a few bytes of a file that is not in the cache, and keeps it open, has all of it there soon,
    and opens it in passthrough then."""
    here, there = (mount / "file" for mount in two_mounts)
    size = 9 * ENTRY_BYTES + 4321
    there.write_bytes(noise(3, size))
    with opened(here) as handle:
        assert os.pread(handle, 10, 5 * ENTRY_BYTES) == noise(3, size)[5 * ENTRY_BYTES :][:10]
        wait_until(lambda: cached_bytes(first, size) >= size, "all of it is in the cache")
    with opened(here) as handle:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        assert whole(handle) == noise(3, size)
    assert is_passthrough(here, first)


def test_option_off(fresh):
    """Goal: --passthrough off leaves all reads to the client, and the log says so."""
    mount = fresh.mount("--passthrough", "off")
    (mount.point / "file").write_bytes(noise(1))
    bring(mount.point / "file")
    assert "no passthrough (it is not wanted)" in mount.log
    assert not is_passthrough(mount.point / "file", mount)


def test_cache_on_a_file_system_that_is_stacked_on_others(fresh):
    """Goal: a cache on overlayfs cannot be given to the kernel: one line in the log, and all works as without."""
    under = fresh.folder / "overlay"
    parts = {name: under / name for name in ("lower", "upper", "work", "home")}
    for part in parts.values():
        part.mkdir(parents=True)
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["home"])]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no overlayfs here")
    try:
        mount = fresh.mount(home=parts["home"] / "h", point=_made(fresh.folder / "over"))
        assert mount.log.count("no passthrough (") == 1
        (mount.point / "file").write_bytes(noise(1))
        assert (mount.point / "file").read_bytes() == noise(1)
        mount.unmount()
    finally:
        subprocess.run(["umount", "-l", str(parts["home"])], check=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# -- versions


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE, 5, 0])
def test_each_open_has_its_version(two, size):
    """Goal: S2 and S3. While programs here have a version open and mapped, another mount makes a newer one of another
    size: who opens it here sees that, each descriptor and mapping goes on with its own, and so does what stat tells."""
    here, there = two
    with opened(here) as old, mapping_of(old) as mapping:
        there.write_bytes(noise(2, size))
        with opened(here) as new:
            assert whole(new) == noise(2, size)
            assert os.fstat(new).st_size == os.stat(here).st_size == size
            assert whole(old) == mapping[:] == noise(1)
            assert os.fstat(old).st_size == SIZE
            assert os.fstat(old).st_ino == os.fstat(new).st_ino == os.stat(here).st_ino


def test_many_versions_at_once(two):
    """Goal: S3. Programs here have each version open that another mount has made, and read what they have opened."""
    here, there = two
    with contextlib.ExitStack() as open_here:
        seen = []
        for number in range(1, 9):
            there.write_bytes(noise(number, SIZE + number))
            seen.append((open_here.enter_context(opened(here)), noise(number, SIZE + number)))
            for handle, expected in seen:
                assert whole(handle) == expected


def test_mapping_that_outlives_its_descriptor(two, first):
    """Goal: the cache does nothing to a file that a program has mapped, though it is closed, superseded by a newer
    version, removed, and its room is wanted for other files."""
    here, there = two
    with opened(here) as handle:
        mapping = mapping_of(handle)
    with mapping:
        there.write_bytes(noise(2))
        assert here.read_bytes() == noise(2)
        assert mapping[:] == noise(1)
        here.unlink()
        for number in range(20):
            here.with_name(f"new{number}").write_bytes(noise(number + 10))
        assert mapping[:] == noise(1)


def test_small_changes_elsewhere(two):
    """Goal: a newer version that shares most with the older one does not come in its place while that is open."""
    here, there = two
    with opened(here) as old:
        for number in range(10):
            with opened(there, os.O_RDWR) as writer:
                os.pwrite(writer, b"%d" % number, 50_000 * number)
            with opened(here) as handle:
                assert os.pread(handle, 1, 50_000 * number) == b"%d" % number
            assert whole(old) == noise(1)


def test_newest_version_round_after_round(two):
    """Goal: S2, with a descriptor of the version before always open: not one old byte, not one refused open."""
    here, there = two
    before = os.open(here, os.O_RDONLY)
    for number in range(ROUNDS):
        expected = bytes([number % 256]) * SIZE
        there.write_bytes(expected)
        handle = os.open(here, os.O_RDONLY)
        with opened(here) as again:
            assert os.pread(handle, SIZE, 0) == os.pread(again, SIZE, 0) == expected
        os.close(before)
        before = handle
    os.close(before)


def test_readers_and_writers_of_two_mounts(two):
    """Goal: programs that open, map and close a file without a pause, while programs of both mounts replace it, see
    whole versions, none older than before. Only a newer version beside one that has pages of the kernel cannot be
    mapped."""
    here, there = two
    here.write_bytes(bytes(SIZE))
    done, trouble, newest = threading.Event(), [], [0]

    def read(latest: int = 0) -> None:
        while not done.is_set():
            least = newest[0]
            with opened(here) as handle:
                with contextlib.suppress(OSError), mapping_of(handle) as mapping:
                    assert len(set(mapping[:])) == 1, "a torn version"
                (value,) = set(whole(handle))
            assert value >= max(least, latest), f"{value} after {max(least, latest)}"
            latest = value

    def guarded() -> None:
        try:
            read()
        except BaseException as error:
            trouble.append(error)

    readers = [threading.Thread(target=guarded) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 40):
        file = here if number % 3 == 0 else there
        if number % 2:
            file.with_name("new").write_bytes(bytes([number]) * SIZE)
            os.rename(file.with_name("new"), file)
        else:
            # Programs of the same mount would see each part of it at once.
            with opened(there, os.O_WRONLY) as writer:
                os.pwrite(writer, bytes([number]) * SIZE, 0)
        newest[0] = number
    done.set()
    for reader in readers:
        reader.join()
    assert trouble == []


# -- locks


@pytest.mark.parametrize("at", [SIZE, ENTRY_BYTES, 3 * ENTRY_BYTES // 2])
def test_who_locks_reads_what_has_grown(two, at):
    """Goal: S3. A program has locked what it has open in passthrough; under a lock of its own another mount's writes
    beyond the end; with the next lock the first one reads that."""
    here, there = two
    with opened(here) as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        fcntl.flock(reader, fcntl.LOCK_UN)
        write_locked(there, b"news", at)
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert os.pread(reader, 100, at) == b"news"
        assert whole(reader) == noise(1) + bytes(at - SIZE) + b"news"
        assert os.fstat(reader).st_size == at + 4


def test_who_locks_reads_what_was_a_hole(fresh):
    """Goal: as above, of what is written into a hole."""
    first, other = fresh.mount(), fresh.mount()
    here, there = first.point / "file", other.point / "file"
    with opened(here, os.O_WRONLY | os.O_CREAT) as writer:
        os.pwrite(writer, noise(1, 65536), 0)
        os.pwrite(writer, noise(2, 65536), 3 * ENTRY_BYTES)
    bring(here)
    with opened(here) as reader, mapping_of(reader) as mapping:
        fcntl.flock(reader, fcntl.LOCK_SH)
        fcntl.flock(reader, fcntl.LOCK_UN)
        write_locked(there, b"news", ENTRY_BYTES + 4096)
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert os.pread(reader, 6, ENTRY_BYTES + 4095) == b"\0news\0"
        assert mapping[ENTRY_BYTES + 4096 : ENTRY_BYTES + 4100] == b"news"
        assert whole(reader) == there.read_bytes()


def test_locks_that_are_lost(fresh):
    """Goal: S7. A client stands still for longer than its lease while a program has locked what it has open in
    passthrough: that descriptor can be used for nothing but reading, its program changes no names, and its unlock says
    what has happened. Who has opened the file since the first lock reads nothing either. The next open has what others
    have written."""
    first, other = fresh.mount(), fresh.mount()
    here, there = first.point / "file", other.point / "file"
    there.write_bytes(noise(1))
    bring(here)
    plain, early = os.open(here, os.O_RDONLY), os.open(here, os.O_RDONLY)
    fcntl.flock(early, fcntl.LOCK_SH)
    late = os.open(here, os.O_RDONLY)
    fcntl.flock(late, fcntl.LOCK_SH)
    assert os.pread(late, SIZE, 0) == os.pread(early, SIZE, 0) == noise(1)
    with stopped(first):
        write_locked(there, b"new", 0)
    for handle in (early, late):
        for what in (fcntl.LOCK_UN, fcntl.LOCK_SH):
            with error(errno.EIO):
                fcntl.flock(handle, what)
        with error(errno.EIO):
            os.fsync(handle)
    with error(errno.EIO):
        os.pread(late, 3, 0)
    with error(errno.EIO):
        os.unlink(here)
    assert os.pread(early, SIZE, 0) in (noise(1), b"new" + noise(1)[3:])
    with opened(here) as again:
        assert os.pread(again, SIZE, 0) == b"new" + noise(1)[3:]
    with error(errno.EIO):
        os.close(late)
    os.close(early)
    os.close(plain)
    wait_until(lambda: is_removed(here), "the client has heard of the close")
    assert os.listdir(other.point) == []


def is_removed(file: Path) -> bool:
    with contextlib.suppress(OSError):
        os.unlink(file)
    return file.name not in os.listdir(file.parent)


def write_locked(file: Path, data: bytes, offset: int) -> None:
    with opened(file, os.O_RDWR) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        os.pwrite(writer, data, offset)
        fcntl.flock(writer, fcntl.LOCK_UN)


# -- writing here


def test_what_is_written_here_is_seen_at_once(two):
    """Goal: a program has the file open and mapped to read, another one of this mount writes, cuts and grows it: the
    first one sees each of that, and other mounts have it after close()."""
    here, there = two
    with opened(here) as reader, mapping_of(reader) as mapping:
        with opened(here, os.O_RDWR) as writer:
            os.pwrite(writer, b"new", 100)
            assert (os.pread(reader, 3, 100), mapping[100:103]) == (b"new", b"new")
            os.pwrite(writer, b"z" * MIB, 0)
            assert (os.pread(reader, MIB, 0), mapping[:MIB]) == (b"z" * MIB, b"z" * MIB)
            os.ftruncate(writer, MIB + 1)
            assert os.fstat(reader).st_size == MIB + 1
            os.pwrite(writer, b"end", 2 * MIB)
            assert os.fstat(reader).st_size == 2 * MIB + 3
            assert os.pread(reader, 100, 2 * MIB) == b"end"
        expected = b"z" * MIB + noise(1)[MIB : MIB + 1] + bytes(MIB - 1) + b"end"
        assert whole(reader) == there.read_bytes() == here.read_bytes() == expected
    with opened(here, os.O_WRONLY | os.O_TRUNC) as writer:
        os.write(writer, b"cut")
    assert there.read_bytes() == b"cut"


def test_stores_through_a_mapping_of_a_writer(two):
    """Goal: no store is lost: what a program stores through its mapping, while others read the file, is committed by
    its close; those who read it see it from msync on."""
    here, there = two
    with opened(here) as reader:
        with opened(here, os.O_RDWR) as writer:
            with mmap.mmap(writer, 0) as stored:
                stored[5:9] = b"mine"
                stored.flush()
                assert os.pread(reader, 4, 5) == b"mine"
                stored[SIZE - 4 :] = b"last"
        wait_until(lambda: os.pread(reader, 4, SIZE - 4) == b"last", "it is written")
        expected = noise(1)[:5] + b"mine" + noise(1)[9:-4] + b"last"
        assert here.read_bytes() == expected
    wait_until(lambda: there.read_bytes() == expected, "it is committed")


def test_attributes_through_both_nodes(two):
    """Goal: what is changed of a file by its name is seen through a descriptor of an older version at once, and by its
    other name."""
    here, there = two
    other = here.with_name("other")
    os.link(here, other)
    with opened(here) as old:
        there.write_bytes(noise(2))
        with opened(here) as new:
            for mode in (0o600, 0o640):
                os.chmod(here, mode)
                assert {os.fstat(handle).st_mode & 0o777 for handle in (old, new)} == {mode}
                assert os.stat(other).st_mode & 0o777 == mode
            os.unlink(other)
            assert {os.fstat(handle).st_nlink for handle in (old, new)} == {1}
            assert whole(new) == noise(2)
        assert whole(old) == noise(1)


def test_programs_run_from_the_mount(mount):
    """Goal: a program is a mapping too, and one that runs cannot be written to, as on a local disk."""
    program = mount / "program"
    program.write_bytes(Path(sys.executable).resolve().read_bytes())
    program.chmod(0o755)
    bring(program)
    running = subprocess.Popen([program, "-S", "-c", "print(1, flush=True); input()"], stdin=-1, stdout=-1)
    assert running.stdout.readline() == b"1\n"
    with pytest.raises(OSError, match="busy"):
        os.open(program, os.O_RDWR)
    running.communicate(b"\n")
    assert running.returncode == 0


def test_second_open_through_proc(two):
    """Goal: the descriptor of another program's standard input, as /dev/stdin, opens what it has open."""
    here, _ = two
    with opened(here) as handle, opened(Path(f"/proc/self/fd/{handle}")) as again:
        assert whole(again) == noise(1)


# -- the cache


def test_eviction_while_it_is_read(fresh):
    """Goal: a cache that is much too small evicts what is read, but takes nothing away from those who read it."""
    mount, other = fresh.mount("--cache-bytes", "2M"), fresh.mount()
    for number in range(6):
        (other.point / f"f{number}").write_bytes(noise(number, 2 * MIB))
    bring(mount.point / "f0")
    with opened(mount.point / "f0") as handle:
        mapping = mapping_of(handle)
        for number in range(1, 6):
            bring(mount.point / f"f{number}")
        assert whole(handle) == noise(0, 2 * MIB)
    for number in range(1, 6):
        assert (mount.point / f"f{number}").read_bytes() == noise(number, 2 * MIB)
    assert mapping[:] == noise(0, 2 * MIB)
    mapping.close()


def test_killed_client(fresh):
    """Goal: what programs had open and mapped when the client was killed they go on reading, and the next client of
    that cache takes nothing away from them, though it has newer versions, and removes files."""
    mount, other = fresh.mount(), fresh.mount()
    file = mount.point / "file"
    file.write_bytes(noise(1))
    bring(file)
    handle = os.open(file, os.O_RDONLY)
    mapping = mapping_of(handle)
    mount.kill()
    assert mapping[:] == noise(1)
    (other.point / "file").write_bytes(noise(2))
    assert run_mount(mount.point, "--home", mount.home, "--driver", "linux").returncode == 0
    assert file.read_bytes() == noise(2)
    assert mapping[:] == whole(handle) == noise(1)
    file.unlink()
    for number in range(5):
        (mount.point / f"new{number}").write_bytes(noise(number))
    assert mapping[:] == whole(handle) == noise(1)
    mapping.close()
    os.close(handle)
    assert alive(mount.pid)
