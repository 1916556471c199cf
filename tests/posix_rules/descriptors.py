"""dup, fork, exec and /proc/self/fd: descriptors that share an open file; closing them."""

import array
import errno
import os
import socket
import subprocess
from pathlib import Path

from support import error

from posix_rules.files import CREATE, ino, made, opened
from posix_rules.processes import Peer, child, in_child

# -- dup and fork


def dup_shares_the_offset(folder: Path) -> None:
    """Reading and seeking through one moves the other. (POSIX dup)"""
    with opened(made(folder / "file", b"0123456789"), os.O_RDONLY) as fd:
        second = os.dup(fd)
        try:
            assert os.read(fd, 4) == b"0123"
            assert os.read(second, 3) == b"456"
            os.lseek(second, 1, os.SEEK_SET)
            assert os.read(fd, 2) == b"12"
        finally:
            os.close(second)


def dup_outlives_the_first(folder: Path) -> None:
    """A duplicate goes on when the first descriptor is closed. (POSIX close)"""
    with opened(folder / "file") as fd:
        second = os.dup(fd)
    try:
        os.write(second, b"content")
        assert os.pread(second, 100, 0) == b"content"
    finally:
        os.close(second)
    assert (folder / "file").read_bytes() == b"content"


def close_of_a_duplicate_leaves_the_file_open(folder: Path) -> None:
    """Writing goes on after a duplicate was closed, many times: shells do so. (POSIX close)"""
    with opened(folder / "file") as fd:
        for number in range(5):
            os.write(fd, str(number).encode())
            os.close(os.dup(fd))
            assert (folder / "file").read_bytes() == b"01234"[: number + 1]


def fork_shares_the_offset(folder: Path) -> None:
    """What the child reads, the parent does not read again. (POSIX fork)"""
    with opened(made(folder / "file", b"0123456789"), os.O_RDONLY) as fd:
        assert os.read(fd, 2) == b"01"
        assert in_child(os.read, fd, 3) == b"234"
        assert os.read(fd, 2) == b"56"


def fork_shares_the_offset_of_writing(folder: Path) -> None:
    """Parent and child write behind each other through an inherited descriptor. (POSIX fork)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"parent ")
        in_child(os.write, fd, b"child ")
        os.write(fd, b"parent")
    assert (folder / "file").read_bytes() == b"parent child parent"


def a_childs_end_leaves_the_parents_descriptor(folder: Path) -> None:
    """A child that exits closes its copies; the parent writes on. (POSIX _exit)"""
    with opened(folder / "file") as fd:
        in_child(os.write, fd, b"one ")
        in_child(os.fstat, fd)
        os.write(fd, b"two")
        assert os.fstat(fd).st_size == 7
    assert (folder / "file").read_bytes() == b"one two"


def a_descriptor_outlives_who_opened_it(folder: Path) -> None:
    """A descriptor that was passed on through a socket serves after its first owner has ended. (unix(7) SCM_RIGHTS)"""
    ours, theirs = socket.socketpair()

    def open_and_pass() -> None:
        fd = os.open(folder / "file", CREATE)
        os.write(fd, b"one ")
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])

    with ours, theirs:
        in_child(open_and_pass)
        _, received, _, _ = ours.recvmsg(1, socket.CMSG_LEN(4))
        (fd,) = array.array("i", received[0][2])
    try:
        os.write(fd, b"two")
    finally:
        os.close(fd)
    assert (folder / "file").read_bytes() == b"one two"


def a_killed_process_has_written_what_write_returned_for(folder: Path) -> None:
    """kill -9 loses nothing that write() had taken. (POSIX write)"""

    def write(parent: Peer) -> None:
        with opened(folder / "file") as fd:
            os.write(fd, b"content")
            parent.say("written")
            parent.hear()

    with child(write) as writer:
        assert writer.hear() == "written"
        writer.kill()
    assert (folder / "file").read_bytes() == b"content"


def a_program_inherits_descriptors(folder: Path) -> None:
    """After exec() a program reads and writes through what was left open: redirections. (POSIX exec)"""
    made(folder / "in", b"content")
    with opened(folder / "in", os.O_RDONLY) as stdin, opened(folder / "out") as stdout:
        os.read(stdin, 3)
        os.write(stdout, b"con")
        subprocess.run(["cat"], stdin=stdin, stdout=stdout, check=True, timeout=5)
    assert (folder / "out").read_bytes() == b"content"


def close_twice_is_refused(folder: Path) -> None:
    """A closed descriptor is EBADF for everything. (POSIX close)"""
    fd = os.open(folder / "file", CREATE)
    os.close(fd)
    for call in (os.close, os.fstat, os.fsync, lambda fd: os.read(fd, 1), lambda fd: os.write(fd, b"x")):
        with error(errno.EBADF):
            call(fd)


def many_descriptors_of_one_file(folder: Path) -> None:
    """A hundred at once, each with its own offset. (POSIX open)"""
    made(folder / "file", bytes(range(100)))
    fds = [os.open(folder / "file", os.O_RDONLY) for _ in range(100)]
    try:
        for number, fd in enumerate(fds):
            os.lseek(fd, number, os.SEEK_SET)
        assert b"".join(os.read(fd, 1) for fd in fds) == bytes(range(100))
    finally:
        for fd in fds:
            os.close(fd)


# -- /proc/self/fd


def proc_tells_the_path(folder: Path) -> None:
    """The link of a descriptor is its path, follows rename, and says when it was unlinked. (proc(5))"""
    with opened(folder / "file") as fd:
        link = f"/proc/self/fd/{fd}"
        assert os.readlink(link) == str(folder / "file")
        os.rename(folder / "file", folder / "moved")
        assert os.readlink(link) == str(folder / "moved")
        os.unlink(folder / "moved")
        assert os.readlink(link) == f"{folder / 'moved'} (deleted)"


def proc_opens_the_file_again(folder: Path) -> None:
    """Opening the link is a new open of the same file, with another access mode and its own offset. (proc(5))"""
    with opened(made(folder / "file", b"content"), os.O_RDONLY) as fd:
        os.read(fd, 3)
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.fstat(again).st_ino == ino(folder / "file")
            assert os.read(again, 100) == b"content"
            os.pwrite(again, b"C", 0)
        assert os.pread(fd, 100, 0) == b"Content"


def proc_leads_through_folders(folder: Path) -> None:
    """A path may go on behind the link of a folder's descriptor. (proc(5))"""
    made(folder / "file", b"content")
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        assert Path(f"/proc/self/fd/{fd}/file").read_bytes() == b"content"
