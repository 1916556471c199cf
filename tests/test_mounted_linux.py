"""What the Linux driver passes on, on real mounts: what fusepy's cannot is in SEMANTICS.md with its errno."""

import contextlib
import ctypes
import os
import random
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from bare_files import opened
from support import python, wait_until

pytestmark = [pytest.mark.mounted, pytest.mark.drivers("linux")]

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
LARGE = 100_000 if os.environ.get("DFS_LONG") else 3_000


# -- files without a name


@pytest.mark.parametrize("way", ["unlink", "rename over it", "unlink on the other mount"])
def test_every_call_on_a_file_without_a_name(two_mounts, way):
    """Goal: S11. fstat, fchmod, fchown, futimens, ftruncate, fsync and a second open through /proc work on a descriptor
    whose file has lost its name, as on a local disk."""
    here, there = two_mounts
    (here / "file").write_bytes(b"content")
    (here / "other").write_bytes(b"other")
    with opened(here / "file", os.O_RDWR) as handle:
        if way == "unlink":
            (here / "file").unlink()
        elif way == "rename over it":
            os.rename(here / "other", here / "file")
        else:
            (there / "file").unlink()
        wait_until(lambda: os.fstat(handle).st_nlink == 0, "no name is left", 2)
        assert os.fstat(handle).st_size == 7
        os.fchmod(handle, 0o600)
        os.fchown(handle, 12, 34)
        os.utime(handle, ns=(5, 6))
        os.ftruncate(handle, 3)
        os.pwrite(handle, b"more", 3)
        os.fsync(handle)
        told = os.fstat(handle)
        assert (stat.S_IMODE(told.st_mode), told.st_uid, told.st_gid, told.st_size) == (0o600, 12, 34, 7)
        with opened(Path(f"/proc/self/fd/{handle}"), os.O_RDONLY) as second:
            assert os.pread(second, 100, 0) == b"conmore"


def test_special_files(two_mounts):
    """Goal: FIFOs, sockets and device nodes are made, seen everywhere, and connect programs of one mount."""
    here, there = two_mounts
    os.mkfifo(here / "fifo", 0o640)
    os.mknod(here / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(here / "socket"))
        server.listen(1)
        client.connect(str(here / "socket"))
    kinds = {entry.name: stat.S_IFMT(entry.stat().st_mode) for entry in os.scandir(there)}
    assert kinds == {"fifo": stat.S_IFIFO, "null": stat.S_IFCHR, "socket": stat.S_IFSOCK}
    assert os.stat(there / "null").st_rdev == os.makedev(1, 3)
    writer = subprocess.Popen(["sh", "-c", f"echo through > '{here}/fifo'"])
    assert (here / "fifo").read_text() == "through\n"
    assert writer.wait(10) == 0


# -- names that lead elsewhere now


def test_open_through_folders_that_were_replaced_elsewhere(two_mounts):
    """Goal: S2. The kernel still remembers a folder under a name that another client has given to another folder: the
    open that follows finds the new file all the same."""
    here, there = two_mounts
    for number in range(5):
        (there / "a" / "b").mkdir(parents=True)
        (there / "a" / "b" / "file").write_text(f"old {number}")
        assert (here / "a" / "b" / "file").read_text() == f"old {number}"
        os.rename(there / "a", there / f"gone-{number}")
        (there / "a" / "b").mkdir(parents=True)
        (there / "a" / "b" / "file").write_text(f"new {number}")
        assert (here / "a" / "b" / "file").read_text() == f"new {number}"
        assert (here / f"gone-{number}" / "b" / "file").read_text() == f"old {number}"
        os.rename(there / "a", there / f"moved-{number}")


def test_listing_of_a_folder_that_was_replaced_elsewhere(two_mounts):
    """Goal: the same for opendir(): the new folder's names, at once, and neither an error nor an empty folder."""
    here, there = two_mounts
    for number in range(5):
        (there / "a").mkdir()
        (there / "a" / f"old-{number}").touch()
        assert os.listdir(here / "a") == [f"old-{number}"]
        (there / "a" / f"old-{number}").unlink()
        (there / "a").rmdir()
        (there / "b").mkdir()
        (there / "b" / f"new-{number}").touch()
        os.rename(there / "b", there / "a")
        assert os.listdir(here / "a") == [f"new-{number}"]
        os.rename(there / "a", there / f"moved-{number}")


def test_folder_that_is_open_is_that_folder_wherever_it_is(two_mounts):
    """Goal: openat() below a folder's descriptor reaches that folder, also after another client has moved it and put
    another one in its place."""
    here, there = two_mounts
    (here / "a").mkdir()
    (here / "a" / "file").write_text("old")
    folder = os.open(here / "a", os.O_RDONLY)
    try:
        os.rename(there / "a", there / "moved")
        (there / "a").mkdir()
        (there / "a" / "file").write_text("new")
        for _ in range(3):
            handle = os.open("file", os.O_RDONLY, dir_fd=folder)
            assert os.read(handle, 10) == b"old"
            os.close(handle)
        os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        assert (there / "moved" / "made").exists()
        assert not (there / "a" / "made").exists()
    finally:
        os.close(folder)


def test_open_right_after_a_rename(mount: Path):
    """Goal: what an editor does: a new file renamed over the old one is opened under its new name at once."""
    for number in range(20):
        (mount / "new").write_text(str(number))
        os.rename(mount / "new", mount / "file")
        with opened(mount / "file", os.O_RDWR) as handle:
            assert os.read(handle, 10) == str(number).encode()


IN_A_FOLDER = """
import errno, os, sys
os.chdir(sys.argv[1])
print('in', flush=True)
sys.stdin.readline()
def call(name, *arguments):
    try: print(name, getattr(os, name)(*arguments))
    except OSError as error: print(name, errno.errorcode[error.errno])
call('listdir')
for name in ('stat', 'unlink', 'rmdir', 'mkdir', 'mkfifo'): call(name, 'x')
for name in ('rename', 'link'): call(name, 'x', 'y')
call('symlink', 'target', 'x')
for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL): call('open', 'x', flags)
"""


@pytest.mark.parametrize("by", ["this mount", "the other mount"])
def test_names_in_a_folder_that_was_removed(two_mounts, by):
    """Goal: a program that is in it finds it empty, and can make nothing there (ENOENT), as on a local disk, whoever
    has removed it."""
    here, there = two_mounts
    (here / "d").mkdir()
    process = python(IN_A_FOLDER, here / "d", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "in\n"
    ((here if by == "this mount" else there) / "d").rmdir()
    said, wrong = process.communicate("go on\n", timeout=30)
    assert wrong == ""
    first, *others = [line.split() for line in said.splitlines()]
    assert first == ["listdir", "[]"]
    assert len(others) == 11
    assert others == [[name, "ENOENT"] for name, _ in others]


# -- listings


def test_listing_a_large_folder_while_others_change_it(two_mounts):
    """Goal: what is there all the time comes exactly once; the client's memory stays what it was."""
    here, there = two_mounts
    stays = {f"{number:06}" for number in range(0, LARGE, 2)}
    for number in range(0, LARGE, 2):
        os.symlink("x", there / f"{number:06}")
    code = """
import os, random, sys
random.seed(1)
print('started', flush=True)
while True:
    name = sys.argv[1] + '/%06d' % (random.randrange(int(sys.argv[2]) // 2) * 2 + 1)
    try: os.symlink('x', name)
    except FileExistsError: os.unlink(name)
"""
    changer = python(code, there, LARGE)
    try:
        assert changer.stdout.readline() == "started\n"
        for _ in range(3):
            names = [entry.name for entry in os.scandir(here)]
            assert len(names) == len(set(names))
            assert stays <= set(names)
            # With attributes of each entry, and so another kind of request.
            assert stays <= set(_with_attributes(here))
    finally:
        changer.kill()
        changer.communicate()


def _with_attributes(folder: Path) -> list[str]:
    """What has gone since it was listed is left out, as on a local disk."""
    found = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            assert entry.stat(follow_symlinks=False).st_size == 1
            found.append(entry.name)
    return found


class _Dirent(ctypes.Structure):
    _fields_ = [
        ("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("length", ctypes.c_uint16), ("kind", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    ]  # fmt: skip


def test_telldir_and_seekdir(mount: Path):
    """Goal: every position leads back to the entry that stood there; rewinddir reads anew."""
    for number in range(300):
        os.symlink("x", mount / f"{number:03}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.POINTER(_Dirent)
    libc.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(libc.opendir(os.fsencode(mount)))

    def following() -> bytes | None:
        entry = libc.readdir(stream)
        return entry.contents.name if entry else None

    positions = []
    while True:
        position = libc.telldir(stream)
        if (name := following()) is None:
            break
        positions.append((position, name))
    assert len(positions) == 302
    random.Random(2).shuffle(positions)
    for position, name in positions:
        libc.seekdir(stream, ctypes.c_long(position))
        assert following() == name
    (mount / "new").mkdir()
    libc.rewinddir(stream)
    assert sum(1 for _ in iter(following, None)) == 303
    libc.closedir(stream)


def test_attributes_come_with_a_listing(two_mounts):
    """Goal: `ls -l` of a folder that this client has never seen tells what was made elsewhere."""
    here, there = two_mounts
    for number in range(300):
        os.symlink("x" * number or "y", there / f"{number:03}")
    sizes = [entry.stat(follow_symlinks=False).st_size for entry in sorted(os.scandir(here), key=lambda e: e.name)]
    assert sizes == [number or 1 for number in range(300)]


@pytest.mark.parametrize("how", ["remove", "move", "replace"])
def test_a_listing_does_not_bring_back_what_has_changed_meanwhile(mount: Path, how):
    """Goal: S14. A name that was removed, moved or replaced while its folder is listed is that also after the listing
    has come to it, and a folder that has moved is reached at its new place alone."""
    names = [f"{number:04}" for number in range(900)]
    (mount / "list").mkdir()
    (mount / "other").mkdir()
    for name in names:
        (mount / "list" / name).mkdir()
    last = mount / "list" / names[-1]
    was = last.stat().st_ino
    with os.scandir(mount / "list") as entries:
        listed = [next(entries).name]
        if how == "remove":
            last.rmdir()
        else:
            last.rename(mount / "other" / "moved")
        if how == "replace":
            last.mkdir()
        for entry in entries:
            listed.append(entry.name)
            if entry.name != last.name:
                # The kernel asks for attributes with the names where somebody looks at those that it has been given.
                assert entry.stat().st_ino == entry.inode()
    assert sorted(listed)[:-1] == names[:-1]
    assert last.exists() == (how == "replace")
    if how != "remove":
        assert (mount / "other" / "moved").stat().st_ino == was
        (mount / "other" / "moved" / "inside").mkdir()
        assert not (last / "inside").exists()


def test_size_in_a_listing_is_what_was_just_written(mount: Path):
    """Goal: S14. On the mount that writes, a listing with attributes is not older than the last write or close."""
    with (mount / "file").open("wb", buffering=0) as handle:
        for size in range(1, 30):
            handle.write(b"x")
            if size % 3 == 0:
                os.close(os.dup(handle.fileno()))
            assert [entry.stat().st_size for entry in os.scandir(mount)] == [size]
    assert [entry.stat().st_size for entry in os.scandir(mount)] == [29]


# -- many at once


CROWD = """
import errno, os, random, sys, time
choose, base, until = random.Random(int(sys.argv[1])), sys.argv[2], time.monotonic() + 3
usual = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL}
def folder(): return base + '/' + choose.choice(('.', 'd0', 'd1', 'd1/d0'))
def name(): return folder() + '/n%d' % choose.randrange(9)
def write():
    with open(name(), choose.choice(('wb', 'ab'))) as file: file.write(b'x' * choose.randrange(9000))
def hold():
    handle = os.open(name(), os.O_RDWR)
    os.pwrite(handle, b'held', 3), os.fstat(handle), os.ftruncate(handle, 50), os.fchmod(handle, 0o644)
    os.close(handle)
calls = [
    write, hold, lambda: open(name(), 'rb').read(), lambda: os.stat(name()), lambda: os.rename(name(), name()),
    lambda: [entry.stat(follow_symlinks=False) for entry in os.scandir(folder())], lambda: os.unlink(name()),
    lambda: os.mkdir(folder() + '/d%d' % choose.randrange(2)), lambda: os.truncate(name(), 100),
    lambda: os.rename(folder() + '/d0', folder() + '/d1'), lambda: os.rmdir(folder() + '/d0'),
]
while time.monotonic() < until:
    try: choose.choice(calls)()
    except OSError as error:
        if error.errno not in usual: print(errno.errorcode[error.errno], error)
"""


def test_many_programs_at_once(two_mounts):
    """Goal: eight programs make, rename, write, cut, list and remove the same names for a while: no call fails but for
    a reason that it has on a local disk, and both mounts have the same tree afterwards."""
    here, there = two_mounts
    crowd = [python(CROWD, number, here) for number in range(8)]
    assert [process.communicate(timeout=60) for process in crowd] == [("", "")] * 8

    def tree(folder: Path) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")
        }

    wait_until(lambda: tree(here) == tree(there), "both mounts agree", 5)


# -- what the kernel leaves to the driver


def test_writing_takes_set_id_bits_away(mount: Path):
    """Goal: who may write a program's file does not get its owner's rights: set-user-id and set-group-id go when
    another user writes, cuts or opens with O_TRUNC, and at each change of owner; they stay when root writes."""

    def program(mode: int) -> Path:
        (mount / "program").write_bytes(b"#!/bin/true\n")
        (mount / "program").chmod(mode)
        return mount / "program"

    def mode() -> int:
        return stat.S_IMODE((mount / "program").stat().st_mode)

    with program(0o6777).open("ab") as handle:
        handle.write(b"by root")
    assert mode() == 0o6777
    for script in ("echo x >> program", "echo x > program", "truncate -s 1 program"):
        program(0o6777)
        subprocess.run([*NOBODY, "sh", "-c", script], cwd=mount, check=True)
        assert mode() == 0o777, script
    os.chown(program(0o6755), 0, 12)
    assert mode() == 0o755
    os.chown(program(0o2644), 0, 12)
    assert mode() == 0o2644


def test_interrupted_truncate(two_mounts):
    """Goal: S5, S13. truncate(2) waits for another mount's writer as an open does, and Ctrl-C ends it at once."""
    here, there = two_mounts
    (here / "file").write_text("content")
    with (here / "file").open("r+"):
        waiter = python("import os, sys; print('x', flush=True); os.truncate(sys.argv[1], 1)", there / "file")
        assert waiter.stdout.readline() == "x\n"
        time.sleep(0.3)
        assert waiter.poll() is None
        started = time.monotonic()
        waiter.send_signal(signal.SIGINT)
        waiter.communicate(timeout=10)
        assert time.monotonic() - started < 1.0
    assert (there / "file").read_text() == "content"


def test_memory_of_the_client(first, mount: Path):
    """Goal: a thousand files that come and go leave nothing behind in the client."""

    def resident_kb() -> int:
        status = Path(f"/proc/{first.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def come_and_go() -> None:
        for number in range(1000):
            os.symlink("x", mount / f"{number}")
            os.unlink(mount / f"{number}")

    come_and_go()
    before = resident_kb()
    come_and_go()
    assert resident_kb() - before < 2000
