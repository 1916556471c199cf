"""FIFOs, sockets and device nodes: names that lead to something else than content."""

import errno
import os
import socket
import stat
from pathlib import Path

from support import error

from posix_rules.files import bits, ino, made, missing, moved, opened, umask
from posix_rules.processes import GROUP, USER, Peer, as_user, child, in_child, needs_root

ZERO = os.makedev(1, 5)
"""The numbers of /dev/zero."""

# -- FIFOs


def mkfifo_makes_a_fifo(folder: Path) -> None:
    """Its type and mode are told; it has no size. (POSIX mkfifo)"""
    os.mkfifo(folder / "fifo", 0o640)
    there = os.stat(folder / "fifo")
    assert stat.S_ISFIFO(there.st_mode)
    assert (bits(folder / "fifo"), there.st_size, there.st_nlink) == (0o640, 0, 1)


def mkfifo_refuses_a_name_that_exists(folder: Path) -> None:
    """EEXIST for a file, a folder and a dangling symlink; ENOENT without its folder. (POSIX mkfifo)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    os.symlink("none", folder / "link")
    for name in ("file", "sub", "link"):
        with error(errno.EEXIST):
            os.mkfifo(folder / name)
    with error(errno.ENOENT):
        os.mkfifo(folder / "none" / "fifo")


def a_fifo_joins_two_processes(folder: Path) -> None:
    """What one writes the other reads, then the end. (POSIX fifo)"""
    os.mkfifo(folder / "fifo")
    with child(lambda _: made(folder / "fifo", b"through the fifo") and None) as writer:
        assert (folder / "fifo").read_bytes() == b"through the fifo"
        writer.result()
    assert os.stat(folder / "fifo").st_size == 0


def opening_a_fifo_waits_for_the_other_end(folder: Path) -> None:
    """O_RDONLY blocks until somebody opens it for writing. (POSIX open)"""
    os.mkfifo(folder / "fifo")

    def read(parent: Peer) -> bytes:
        parent.say("opening")
        return (folder / "fifo").read_bytes()

    with child(read) as reader:
        assert reader.hear() == "opening"
        reader.wait_asleep()
        assert reader.silent()
        with opened(folder / "fifo", os.O_WRONLY) as fd:
            os.write(fd, b"content")
        assert reader.result() == b"content"


def opening_a_fifo_without_waiting(folder: Path) -> None:
    """O_NONBLOCK: for reading it opens at once, for writing without a reader it is ENXIO. (POSIX open)"""
    os.mkfifo(folder / "fifo")
    with error(errno.ENXIO):
        os.open(folder / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with opened(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reading:
        with opened(folder / "fifo", os.O_WRONLY | os.O_NONBLOCK) as writing:
            os.write(writing, b"content")
            assert os.read(reading, 100) == b"content"


def a_fifo_cannot_be_sought(folder: Path) -> None:
    """lseek() is ESPIPE, ftruncate() and truncate() EINVAL. (POSIX lseek)"""
    os.mkfifo(folder / "fifo")
    with opened(folder / "fifo", os.O_RDWR) as fd:
        with error(errno.ESPIPE):
            os.lseek(fd, 0, os.SEEK_SET)
        with error(errno.EINVAL):
            os.ftruncate(fd, 0)
    with error(errno.EINVAL):
        os.truncate(folder / "fifo", 0)


def a_fifo_can_be_renamed_and_removed(folder: Path) -> None:
    """Its name is a name as any other. (POSIX rename)"""
    os.mkfifo(folder / "fifo")
    before = ino(folder / "fifo")
    os.rename(folder / "fifo", folder / "other")
    os.chmod(folder / "other", 0o600)
    assert (ino(folder / "other"), bits(folder / "other")) == (before, 0o600)
    os.unlink(folder / "other")
    assert os.listdir(folder) == []


def umask_limits_new_fifos(folder: Path) -> None:
    """FIFOs are made with mode & ~umask. (POSIX mkfifo)"""
    with umask(0o027):
        os.mkfifo(folder / "fifo", 0o666)
    assert bits(folder / "fifo") == 0o640


@needs_root
def new_fifos_belong_to_who_makes_them(folder: Path) -> None:
    """Owner and group are the process's effective ones. (POSIX mkfifo)"""
    folder.chmod(0o777)
    as_user(os.mkfifo, folder / "fifo")
    assert (os.stat(folder / "fifo").st_uid, os.stat(folder / "fifo").st_gid) == (USER, GROUP)


def a_fifo_moves_mtime_of_its_folder(folder: Path) -> None:
    """A new name is a change of the folder. (POSIX mkfifo)"""
    assert moved(folder, lambda: os.mkfifo(folder / "fifo")) == {"mtime", "ctime"}


# -- mknod


def mknod_makes_a_regular_file(folder: Path) -> None:
    """S_IFREG, or no type, is an empty file. (mknod(2))"""
    os.mknod(folder / "one", stat.S_IFREG | 0o640)
    os.mknod(folder / "two", 0o600)
    assert [os.stat(folder / name).st_mode for name in ("one", "two")] == [0o100640, 0o100600]
    with opened(folder / "one") as fd:
        os.write(fd, b"content")
    assert (folder / "one").read_bytes() == b"content"


def mknod_refuses_folders(folder: Path) -> None:
    """S_IFDIR is EPERM: folders are made by mkdir. (mknod(2))"""
    with error(errno.EPERM):
        os.mknod(folder / "sub", stat.S_IFDIR | 0o700)
    assert missing(folder / "sub")


def mknod_refuses_a_name_that_exists(folder: Path) -> None:
    """EEXIST. (POSIX mknod)"""
    made(folder / "file")
    with error(errno.EEXIST):
        os.mknod(folder / "file", stat.S_IFREG | 0o600)


@needs_root
def mknod_keeps_device_numbers(folder: Path) -> None:
    """Character and block devices have the numbers that were given. (POSIX mknod)"""
    large = os.makedev(259, 70_000)
    os.mknod(folder / "character", stat.S_IFCHR | 0o600, ZERO)
    os.mknod(folder / "block", stat.S_IFBLK | 0o600, large)
    character, block = os.stat(folder / "character"), os.stat(folder / "block")
    assert (stat.S_ISCHR(character.st_mode), character.st_rdev) == (True, ZERO)
    assert (stat.S_ISBLK(block.st_mode), block.st_rdev) == (True, large)


@needs_root
def a_device_node_is_the_device(folder: Path) -> None:
    """Opening a node with the numbers of /dev/zero opens that. (POSIX mknod)"""
    os.mknod(folder / "zero", stat.S_IFCHR | 0o600, ZERO)
    with opened(folder / "zero", os.O_RDWR) as fd:
        assert os.read(fd, 10) == bytes(10)
        assert os.write(fd, b"gone") == 4


@needs_root
def mknod_of_devices_is_for_root(folder: Path) -> None:
    """Others get EPERM. (POSIX mknod)"""
    folder.chmod(0o777)
    with error(errno.EPERM):
        as_user(os.mknod, folder / "zero", stat.S_IFCHR | 0o600, ZERO)


# -- sockets


def bind_makes_a_socket(folder: Path) -> None:
    """The name is there, of its own type. (POSIX bind)"""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        assert stat.S_ISSOCK(os.stat(folder / "socket").st_mode)
    assert os.listdir(folder) == ["socket"]


def a_socket_joins_two_processes(folder: Path) -> None:
    """Who connects to the name reaches who listens there. (POSIX connect)"""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        listener.settimeout(5)

        def connect() -> None:
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(folder / "socket"))
                caller.sendall(b"through the socket")

        in_child(connect)
        with listener.accept()[0] as peer:
            peer.settimeout(5)
            assert peer.recv(100) == b"through the socket"


def bind_refuses_a_name_that_exists(folder: Path) -> None:
    """EADDRINUSE, also when nobody listens any more. (POSIX bind)"""
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as listener:
            if missing(folder / "socket"):
                listener.bind(str(folder / "socket"))
            with error(errno.EADDRINUSE), socket.socket(socket.AF_UNIX) as other:
                other.bind(str(folder / "socket"))


def a_socket_that_nobody_listens_on_refuses(folder: Path) -> None:
    """connect() is ECONNREFUSED, open() ENXIO. (POSIX connect)"""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    with error(errno.ECONNREFUSED), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(folder / "socket"))
    with error(errno.ENXIO):
        os.open(folder / "socket", os.O_RDWR)
