"""What goes wrong in file systems like this one, each seen in an experiment or in another system: one page cache for
two versions, sizes that the kernel remembers, closes that come more than once or too early."""

import contextlib
import fcntl
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bare_files import opened, whole
from support import wait_until

pytestmark = [pytest.mark.mounted, pytest.mark.drivers("linux", "fusepy")]

PAGE = 4096


# -- sizes that the kernel remembers


@pytest.mark.parametrize("look", [os.stat, os.listdir, lambda file: file.read_bytes()], ids=["stat", "list", "read"])
def test_file_that_grew_elsewhere(two_mounts, look):
    """Goal: the kernel knows the old size and may use it for a while; after open, all that is there is read, at
    once."""
    here, there = two_mounts
    size = 10
    (here / "file").write_bytes(b"x" * size)
    for _ in range(15):
        look(here if look is os.listdir else here / "file")
        with (there / "file").open("ab") as handle:
            handle.write(b"y" * 7000)
        size += 7000
        with opened(here / "file") as handle:
            assert os.fstat(handle).st_size == size
            assert len(os.read(handle, 1 << 20)) == size


def test_file_that_shrank_elsewhere(two_mounts):
    """Goal: nothing is read beyond the new end, and no zeros, after open."""
    here, there = two_mounts
    content = os.urandom(60_000)
    (here / "file").write_bytes(content)
    for size in (50_000, 4096, 4095, 100, 0):
        assert len((here / "file").read_bytes()) >= size
        os.stat(here / "file")
        os.truncate(there / "file", size)
        with opened(here / "file") as handle:
            assert os.fstat(handle).st_size == size
            assert os.read(handle, 1 << 20) == content[:size]


@pytest.mark.parametrize("way", ["ftruncate", "fchmod", "create", "futimens", "truncate"])
def test_size_told_on_other_ways(two_mounts, way):
    """Goal: the same where the kernel learnt the size by another call than stat: each answer counts as told."""
    here, there = two_mounts
    file = here / "file"
    if way == "create":
        with opened(file, os.O_CREAT | os.O_RDWR):
            pass
    else:
        file.write_bytes(b"x" * 100)
        with opened(file, os.O_RDWR) as handle:
            calls = {
                "ftruncate": lambda: os.ftruncate(handle, 50),
                "fchmod": lambda: os.fchmod(handle, 0o600),
                "futimens": lambda: os.utime(handle, ns=(1, 2)),
                "truncate": lambda: os.truncate(file, 40),
            }
            calls[way]()
    content = os.urandom(9000)
    (there / "file").write_bytes(content)
    with opened(file) as handle:
        assert os.fstat(handle).st_size == len(content)
        assert os.read(handle, 1 << 20) == content


def test_reader_that_stays_open_never_sees_the_other_size(two_mounts):
    """Goal: S3. A descriptor of the old version ends where that version ends, also after stat has told of the new one;
    and it does not end early when the new one is shorter."""
    here, there = two_mounts
    old = os.urandom(3 * PAGE + 5)
    for new in (os.urandom(10 * PAGE), b"short"):
        (here / "file").write_bytes(old)
        with opened(there / "file") as handle:
            assert os.pread(handle, 10, 0) == old[:10]
            (here / "file").write_bytes(new)
            for _ in range(2):
                assert whole(handle) == old
                os.stat(there / "file")
                with opened(there / "file") as second:
                    assert whole(second) == new
                assert whole(handle) == old
                # Longer than the kernel keeps attributes.
                wait_until(lambda new=new: os.stat(here / "file").st_size == len(new), "the new size", 1.5)


# -- two versions open at once on one mount


def test_two_versions_in_one_page_cache(two_mounts):
    """Goal: the old handle has the old bytes, those it has read before and those it has not, the new handle the new
    ones; whatever the order, also through mmap of the old one."""
    here, there = two_mounts
    old, new = b"o" * (300 * PAGE), b"n" * (300 * PAGE)
    (here / "file").write_bytes(old)
    with opened(there / "file") as first:
        assert os.pread(first, 10 * PAGE, 0) == old[: 10 * PAGE]
        (here / "file").write_bytes(new)
        with opened(there / "file") as second:
            assert os.pread(second, 20 * PAGE, 0) == new[: 20 * PAGE]
            assert whole(first) == old
            with mmap.mmap(first, len(old), prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == old
                assert whole(second) == new
                assert mapped[100 * PAGE : 101 * PAGE] == old[:PAGE]
        assert whole(first) == old
    assert (there / "file").read_bytes() == new


def test_three_versions_closed_in_any_order(two_mounts):
    """Goal: as each of three versions is closed, first or last, the others stay what they are, and the next open is of
    the newest."""
    here, there = two_mounts
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        contents = [bytes([ord("a") + version]) * (5 * PAGE + version) for version in range(3)]
        handles = []
        for content in contents:
            (here / "file").write_bytes(content)
            handles.append(os.open(there / "file", os.O_RDONLY))
        for closing in order:
            for version, handle in enumerate(handles):
                if handle >= 0:
                    assert whole(handle) == contents[version]
            assert (there / "file").read_bytes() == contents[2]
            os.close(handles[closing])
            handles[closing] = -1
        assert (there / "file").read_bytes() == contents[2]


def test_stat_after_the_old_version_is_closed(two_mounts):
    """Goal: S14. While the old version is open stat may report its size; once it is closed stat tells the newest, also
    while newer versions stay open (tail -f on a log that is replaced)."""
    here, there = two_mounts
    (here / "file").write_bytes(b"1")
    old = os.open(there / "file", os.O_RDONLY)
    os.pread(old, 10, 0)
    (here / "file").write_bytes(b"22")
    with opened(there / "file") as tail:
        os.close(old)
        assert os.pread(tail, 10, 0) == b"22"
        wait_until(lambda: os.stat(there / "file").st_size == 2, "the size of what is open now", 1.5)
        (here / "file").write_bytes(b"333")
        wait_until(lambda: os.stat(there / "file").st_size == 3, "the newest size", 1.5)
        assert (there / "file").read_bytes() == b"333"


def test_writing_the_new_version_while_the_old_is_open(two_mounts):
    """Goal: a program edits the newest version while another one on the same mount still reads the old one."""
    here, there = two_mounts
    old = b"o" * (20 * PAGE)
    (here / "file").write_bytes(old)
    with opened(there / "file") as reader:
        assert os.pread(reader, 10, 0) == b"o" * 10
        (here / "file").write_bytes(b"newer")
        with opened(there / "file", os.O_RDWR) as writer:
            assert os.pread(writer, 100, 0) == b"newer"
            os.pwrite(writer, b"EDITED", 3)
            assert os.pread(writer, 100, 0) == b"newEDITED"
            assert whole(reader) == old
        assert whole(reader) == old
        assert (here / "file").read_bytes() == b"newEDITED"
        with (there / "file").open("ab") as handle:
            handle.write(b"+")
        assert whole(reader) == old
    assert (here / "file").read_bytes() == (there / "file").read_bytes() == b"newEDITED+"


def test_renamed_elsewhere_written_here_and_named_back(two_mounts):
    """Goal: S2. The kernel has pages for each name: what was written here under another name is read under the first
    one, although version and size tell no difference from what it had."""
    here, there = two_mounts
    (here / "x").write_bytes(b"old" * 3000)
    assert (here / "x").read_bytes() == b"old" * 3000
    told_at = time.monotonic()
    os.rename(there / "x", there / "y")
    with opened(here / "y", os.O_RDWR) as handle:
        os.write(handle, b"new" * 3000)
    os.rename(there / "y", there / "x")

    def shows_the_newest() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(here / "x").st_mtime_ns == os.stat(there / "x").st_mtime_ns
        return False

    # Until then the kernel is made to look again at each open, and drops its pages with that.
    wait_until(lambda: shows_the_newest() and time.monotonic() > told_at + 1, "the kernel knows the newest times", 5)
    assert (here / "x").read_bytes() == b"new" * 3000


# -- appending


def test_append_to_a_file_that_grew_elsewhere(two_mounts):
    """Goal: O_APPEND writes at the true end, whatever size the kernel remembers, and reads it back from there."""
    here, there = two_mounts
    (here / "log").write_bytes(b"1")
    expected = b"1"
    for number in range(10):
        side, other = two_mounts if number % 2 else reversed(two_mounts)
        os.stat(side / "log")
        assert (side / "log").read_bytes() == expected
        (other / "log").open("ab").close()
        with (other / "log").open("ab") as handle:
            handle.write(b"grown %d" % number * 1000)
        expected += b"grown %d" % number * 1000
        with opened(side / "log", os.O_RDWR | os.O_APPEND) as handle:
            os.write(handle, b"appended %d" % number)
            expected += b"appended %d" % number
            assert whole(handle) == expected
            os.write(handle, b".")
            expected += b"."
            assert whole(handle) == expected
        assert (other / "log").read_bytes() == expected


def test_appending_programs_on_one_mount(mount: Path):
    """Goal: two descriptors with O_APPEND on one mount never overwrite each other."""
    with opened(mount / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) as one:
        with opened(mount / "log", os.O_WRONLY | os.O_APPEND) as two:
            for number in range(50):
                os.write(one if number % 2 else two, b"%02d\n" % number)
    assert (mount / "log").read_bytes() == b"".join(b"%02d\n" % number for number in range(50))


def test_append_that_is_set_or_cleared_after_open(mount: Path):
    """Goal: O_APPEND holds for each write as fcntl has left it, not as it was at open."""
    (mount / "file").write_bytes(b"a" * 10)
    with opened(mount / "file", os.O_RDWR | os.O_APPEND) as handle:
        fcntl.fcntl(handle, fcntl.F_SETFL, 0)
        os.pwrite(handle, b"X", 0)
        assert whole(handle) == b"X" + b"a" * 9
        fcntl.fcntl(handle, fcntl.F_SETFL, os.O_APPEND)
        os.write(handle, b"Y")
        assert whole(handle) == b"X" + b"a" * 9 + b"Y"
    assert (mount / "file").read_bytes() == b"X" + b"a" * 9 + b"Y"


# -- mappings


def test_store_through_a_mapping_of_an_append_descriptor(two_mounts):
    """Goal: the kernel writes a mapping's pages through the descriptor that was mapped; with O_APPEND too they go to
    their place, and what is appended goes to the end."""
    here, there = two_mounts
    (here / "file").write_bytes(b"a" * 2 * PAGE)
    with opened(here / "file", os.O_RDWR | os.O_APPEND) as handle, mmap.mmap(handle, 2 * PAGE) as mapped:
        mapped[:5] = b"HELLO"
        mapped.flush()
        os.write(handle, b"end")
        mapped[PAGE : PAGE + 5] = b"THERE"
    expected = bytearray(b"a" * 2 * PAGE + b"end")
    expected[:5], expected[PAGE : PAGE + 5] = b"HELLO", b"THERE"
    assert (there / "file").read_bytes() == (here / "file").read_bytes() == expected


def test_store_through_a_mapping(two_mounts):
    """Goal: what was stored through a shared mapping is there after msync and close; size and mtime cannot tell."""
    here, there = two_mounts
    (here / "file").write_bytes(bytes(10 * PAGE))
    with opened(here / "file", os.O_RDWR) as handle, mmap.mmap(handle, 10 * PAGE) as mapped:
        mapped[5 * PAGE : 5 * PAGE + 6] = b"mapped"
        mapped.flush()
    assert (there / "file").read_bytes()[5 * PAGE : 5 * PAGE + 6] == b"mapped"


def test_store_through_a_mapping_after_close(two_mounts):
    """Goal: a mapping outlives its descriptor: what is stored after close() is on the other mount after munmap."""
    here, there = two_mounts
    (here / "file").write_bytes(bytes(PAGE))
    handle = os.open(here / "file", os.O_RDWR)
    mapped = mmap.mmap(handle, PAGE)
    mapped[0:5] = b"early"
    os.close(handle)
    mapped[10:14] = b"late"
    mapped.close()
    wait_until(lambda: (there / "file").read_bytes()[:14] == b"early\0\0\0\0\0late", "both stores arrive", 5)


def test_store_through_a_mapping_of_an_appending_descriptor(two_mounts):
    """Goal: a store lands where it was made, though writes through the same descriptor go to the end."""
    here, there = two_mounts
    (here / "file").write_bytes(b"a" * 100)
    with opened(here / "file", os.O_RDWR | os.O_APPEND) as handle, mmap.mmap(handle, 100) as mapped:
        mapped[10:13] = b"xyz"
        mapped.flush()
        os.write(handle, b"end")
    assert (there / "file").read_bytes() == b"a" * 10 + b"xyz" + b"a" * 87 + b"end"


def test_program_that_is_replaced_while_it_runs(mount: Path):
    """Goal: a program that runs from the mount goes on while a new one is renamed over it; who starts it then gets the
    new one."""
    program = mount / "program"
    subprocess.run(["cp", "/bin/sleep", program], check=True)
    running = subprocess.Popen([program, "30"])
    try:
        (mount / "new").write_bytes(b"#!/bin/sh\necho new\n")
        (mount / "new").chmod(0o755)
        os.rename(mount / "new", program)
        assert subprocess.run([program], capture_output=True, check=True).stdout == b"new\n"
        assert running.poll() is None
    finally:
        running.kill()
        assert running.wait() == -9


# -- closing


def test_each_close_of_a_duplicate_commits(two_mounts):
    """Goal: S3. close() of a duplicated descriptor returns after the commit of what was written so far; what is written
    through the other one after that comes with its close."""
    here, there = two_mounts
    one = os.open(here / "file", os.O_CREAT | os.O_WRONLY)
    two = os.dup(one)
    os.write(one, b"first")
    os.close(one)
    assert (there / "file").read_bytes() == b"first"
    os.write(two, b" second")
    os.close(two)
    assert (there / "file").read_bytes() == b"first second"


def test_descriptor_that_a_child_inherits(two_mounts):
    """Goal: the child writes and ends, the parent writes on and closes: both are there, in order."""
    here, there = two_mounts
    with (here / "file").open("wb", buffering=0) as handle:
        handle.write(b"parent ")
        subprocess.run([sys.executable, "-S", "-c", "print('child', end=' ')"], stdout=handle, check=True)
        assert (there / "file").read_bytes() == b"parent child "
        handle.write(b"parent")
    assert (there / "file").read_bytes() == b"parent child parent"


def test_close_without_a_change_commits_nothing(two_mounts):
    """Goal: opening for writing and closing leaves version, times and content as they are."""
    here, there = two_mounts
    (here / "file").write_bytes(b"content")
    os.utime(here / "file", ns=(1, 2))
    ctime_ns = (here / "file").stat().st_ctime_ns
    for folder in two_mounts:
        (folder / "file").open("r+b").close()
        (folder / "file").open("ab").close()
    wait_until(lambda: (there / "file").stat().st_mtime_ns == 2, "the times", 1.5)
    assert (here / "file").stat().st_ctime_ns == ctime_ns


def test_unlinked_by_the_other_while_written(two_mounts):
    """Goal: a file that is removed elsewhere while it is being written: close() succeeds, as on a local disk, and no
    copy appears anywhere."""
    here, there = two_mounts
    with (here / "file").open("wb", buffering=0) as handle:
        handle.write(b"one")
        os.fsync(handle.fileno())
        (there / "file").unlink()
        handle.write(b"two")
        os.fsync(handle.fileno())
    assert os.listdir(there) == []
    assert not [name for name in os.listdir(there.parent) if "lost" in name]


def test_copies_of_a_newer_version_while_the_older_is_open(two_mounts):
    """Goal: cp and sendfile go through the kernel's pages, which are the older version's: they give the newer content
    all the same, and the older descriptor keeps its own."""
    here, there = two_mounts
    older, newer = b"o" * 50_000, b"n" * 80_000
    (here / "file").write_bytes(older)
    with open(there / "file", "rb", buffering=0) as held:
        assert held.read(len(older)) == older
        (here / "file").write_bytes(newer)
        subprocess.run(["cp", there / "file", there / "copied"], check=True)
        assert (there / "copied").read_bytes() == newer
        shutil.copyfile(there / "file", there / "sent")
        assert (there / "sent").read_bytes() == newer
        assert os.pread(held.fileno(), len(newer), 0) == older


def test_readers_that_open_during_a_local_commit(mount):
    """Goal: an open that meets the mount's own commit half way shares its content: what is written next is seen by
    later readers here, and other writers here build on it."""
    file = mount / "log"
    stop = threading.Event()

    def read_again_and_again() -> None:
        while not stop.is_set():
            file.read_bytes()

    with opened(file, os.O_RDWR | os.O_CREAT) as writer:
        readers = [threading.Thread(target=read_again_and_again) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for number in range(200):
                os.pwrite(writer, b"%d" % (number % 10) * 100, 0)
                os.close(os.dup(writer))
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        os.pwrite(writer, b"Z" * 500, 0)
        assert file.read_bytes() == b"Z" * 500
        with file.open("ab") as second:
            second.write(b"tail")
        os.fsync(writer)
    assert file.read_bytes() == b"Z" * 500 + b"tail"
    assert [entry.name for entry in mount.iterdir()] == ["log"]
