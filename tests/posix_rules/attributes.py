"""stat, lstat, fstat, statx and statfs: what they tell, and that they tell the same."""

import errno
import os
import stat
from pathlib import Path

from support import error

from posix_rules.calls import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, STATX_BTIME, statx
from posix_rules.files import MIB, ino, made, made_folder, opened, tick
from posix_rules.processes import as_user, in_child, needs_root

# -- stat


def stat_tells_the_type(folder: Path) -> None:
    """Regular files, folders, symlinks and FIFOs are told apart. (POSIX sys/stat.h)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    os.symlink("file", folder / "link")
    types = {name: stat.S_IFMT(os.lstat(folder / name).st_mode) for name in os.listdir(folder)}
    assert types == {"file": stat.S_IFREG, "sub": stat.S_IFDIR, "link": stat.S_IFLNK}


def stat_tells_the_size(folder: Path) -> None:
    """st_size is the number of bytes, after each write, through path and descriptor. (POSIX stat)"""
    with opened(folder / "file") as fd:
        for size in (1, 4096, 10_000, MIB + 1):
            os.write(fd, b"x" * (size - os.fstat(fd).st_size))
            assert os.fstat(fd).st_size == os.stat(folder / "file").st_size == size
    assert os.stat(folder / "file").st_size == MIB + 1


def stat_and_fstat_tell_the_same(folder: Path) -> None:
    """Both calls look at one inode: all fields agree, while it is written and when it is read. (POSIX fstat)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        assert _told(os.fstat(fd)) == _told(os.stat(folder / "file"))
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert _told(os.fstat(fd)) == _told(os.stat(folder / "file"))


def stat_of_a_folder_and_fstat_tell_the_same(folder: Path) -> None:
    """The same of a folder, and of its own `.`. (POSIX fstat)"""
    made(made_folder(folder / "sub") / "file")
    with opened(folder / "sub", os.O_RDONLY | os.O_DIRECTORY) as fd:
        assert _told(os.fstat(fd)) == _told(os.stat(folder / "sub")) == _told(os.stat(f"{folder}/sub/."))


def _told(there: os.stat_result) -> tuple[int, ...]:
    """All but atime, which looking may move."""
    which = (there.st_dev, there.st_ino, there.st_mode, there.st_nlink)
    return (*which, there.st_uid, there.st_gid, there.st_size, there.st_mtime_ns, there.st_ctime_ns)


def stat_follows_symlinks_and_lstat_does_not(folder: Path) -> None:
    """stat() of a symlink is its target, lstat() the symlink. (POSIX lstat)"""
    made(folder / "file", b"content")
    os.symlink("file", folder / "link")
    assert os.stat(folder / "link").st_ino == ino(folder / "file")
    assert os.lstat(folder / "link").st_ino not in (0, ino(folder / "file"))


def stat_of_what_is_missing_is_refused(folder: Path) -> None:
    """ENOENT for a name, and for a folder of the path; ENOTDIR below a file. (POSIX stat)"""
    made(folder / "file")
    for name, number in (("none", errno.ENOENT), ("none/file", errno.ENOENT), ("file/x", errno.ENOTDIR)):
        with error(number):
            os.stat(folder / name)


def a_missing_name_is_found_once_it_is_made(folder: Path) -> None:
    """That a name was missing is forgotten as soon as anybody makes it. (POSIX stat)"""
    for make in (lambda path: made(path), os.mkdir, lambda path: os.symlink(".", path)):
        path = folder / f"name{len(os.listdir(folder))}"
        with error(errno.ENOENT):
            os.stat(path)
        in_child(make, path)
        os.stat(path)


def inode_numbers_are_unique(folder: Path) -> None:
    """Two files that exist at once never share st_ino. (POSIX sys/stat.h)"""
    for number in range(15):
        made(folder / str(number))
        (folder / f"sub{number}").mkdir()
        os.symlink("x", folder / f"link{number}")
    numbers = [ino(folder / name) for name in os.listdir(folder)]
    assert len(set(numbers)) == 45
    assert 0 not in numbers


def inode_numbers_stay(folder: Path) -> None:
    """st_ino is the same after writing, chmod, rename, and for every process. (POSIX sys/stat.h)"""
    first = ino(made(folder / "file"))
    made(folder / "file", b"content").chmod(0o600)
    os.rename(folder / "file", folder / "other")
    assert ino(folder / "other") == in_child(ino, folder / "other") == first


def one_file_system_has_one_device(folder: Path) -> None:
    """st_dev is the same for all: find -xdev and du -x rely on it. (POSIX sys/stat.h)"""
    made(made_folder(folder / "sub") / "file")
    devices = {os.stat(path).st_dev for path in (folder, folder / "sub", folder / "sub" / "file")}
    assert len(devices) == 1


def st_blksize_is_a_sensible_size(folder: Path) -> None:
    """st_blksize is a power of two from 512 bytes to 16 MiB: programs make their buffers by it. (POSIX sys/stat.h)"""
    size = os.stat(made(folder / "file")).st_blksize
    assert 512 <= size <= 16 * MIB
    assert size & (size - 1) == 0


@needs_root
def stat_needs_no_permission_of_the_file(folder: Path) -> None:
    """A file with mode 0 can be stat-ed by anybody who may pass through its folder. (POSIX stat)"""
    made(folder / "file", b"content").chmod(0)
    assert as_user(os.stat, folder / "file").st_size == 7


# -- statx


def statx_tells_what_stat_tells(folder: Path) -> None:
    """All basic fields are given, and equal. (statx(2))"""
    made(folder / "file", b"content").chmod(0o640)
    told, there = statx(folder / "file"), os.stat(folder / "file")
    assert told.mask & STATX_BASIC_STATS == STATX_BASIC_STATS
    assert (told.mode, told.nlink, told.uid, told.gid) == (there.st_mode, 1, there.st_uid, there.st_gid)
    assert (told.ino, told.size, told.blocks) == (there.st_ino, there.st_size, there.st_blocks)
    assert (told.mtime_ns, told.ctime_ns) == (there.st_mtime_ns, there.st_ctime_ns)


def statx_of_a_descriptor(folder: Path) -> None:
    """AT_EMPTY_PATH is the descriptor's file, AT_SYMLINK_NOFOLLOW the symlink. (statx(2))"""
    os.symlink("file", folder / "link")
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        assert statx("", dir_fd=fd, flags=AT_EMPTY_PATH).size == 7
    assert statx(folder / "link", flags=AT_SYMLINK_NOFOLLOW).ino == ino(folder / "link")


def birth_time_is_that_of_creation_or_missing(folder: Path) -> None:
    """stx_btime, where it is told, is when the file was made, and writing does not move it. (statx(2))"""
    before = tick()
    made(folder / "file")
    tick()
    made(folder / "file", b"content")
    told = statx(folder / "file")
    if told.mask & STATX_BTIME:
        assert before <= told.btime_ns < told.mtime_ns


# -- statfs


def statvfs_tells_of_room(folder: Path) -> None:
    """Blocks and inodes: available <= free <= all, and sizes are powers of two. (POSIX statvfs)"""
    space = os.statvfs(folder)
    assert 0 < space.f_bavail <= space.f_bfree <= space.f_blocks
    assert 0 <= space.f_favail <= space.f_ffree <= space.f_files
    assert space.f_frsize >= 512
    assert space.f_frsize & (space.f_frsize - 1) == 0


def statvfs_tells_the_longest_name(folder: Path) -> None:
    """f_namemax is 255, and pathconf says so. (POSIX statvfs)"""
    assert os.statvfs(folder).f_namemax == os.pathconf(folder, "PC_NAME_MAX") == 255


def statvfs_of_a_file_and_a_descriptor(folder: Path) -> None:
    """Any file of the file system will do, open or not. (POSIX fstatvfs)"""
    blocks = os.statvfs(folder).f_blocks
    with opened(folder / "file") as fd:
        assert os.statvfs(folder / "file").f_blocks == os.fstatvfs(fd).f_blocks == blocks


def statvfs_of_a_missing_name_is_refused(folder: Path) -> None:
    """ENOENT. (POSIX statvfs)"""
    with error(errno.ENOENT):
        os.statvfs(folder / "none")


def statvfs_says_that_it_can_be_written(folder: Path) -> None:
    """f_flag has no ST_RDONLY. (POSIX statvfs)"""
    assert not os.statvfs(folder).f_flag & os.ST_RDONLY
