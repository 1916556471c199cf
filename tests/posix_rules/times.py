"""Time stamps: setting them, and which call moves which."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from support import error

from posix_rules.calls import AT_SYMLINK_NOFOLLOW, NANO, UTIME_NOW, UTIME_OMIT, fallocate, utimensat
from posix_rules.files import CREATE, made, moved, opened, tick
from posix_rules.processes import in_child

DAY = 86_400 * NANO


def _times(path: Path) -> tuple[int, int]:
    there = os.lstat(path)
    return there.st_atime_ns, there.st_mtime_ns


# -- setting


def times_are_kept_to_the_nanosecond(folder: Path) -> None:
    """utimensat() sets atime and mtime, on files and folders. (POSIX utimensat)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    for name in ("file", "sub"):
        os.utime(folder / name, ns=(1_234_567_890_123_456_789, 987_654_321_012_345_678))
        assert _times(folder / name) == (1_234_567_890_123_456_789, 987_654_321_012_345_678)


def futimens_sets_the_open_files_times(folder: Path) -> None:
    """By a descriptor for reading too. (POSIX futimens)"""
    with opened(made(folder / "file"), os.O_RDONLY) as fd:
        os.utime(fd, ns=(1, 2))
        assert (os.fstat(fd).st_atime_ns, os.fstat(fd).st_mtime_ns) == _times(folder / "file") == (1, 2)


def utime_omit_leaves_a_time(folder: Path) -> None:
    """UTIME_OMIT for one leaves it and sets the other; for both nothing changes. (POSIX utimensat)"""
    os.utime(made(folder / "file"), ns=(5, 6))
    utimensat(folder / "file", (0, UTIME_OMIT), (7, 8))
    assert _times(folder / "file") == (5, 7 * NANO + 8)
    utimensat(folder / "file", (9, 10), (0, UTIME_OMIT))
    assert _times(folder / "file") == (9 * NANO + 10, 7 * NANO + 8)
    assert moved(folder / "file", lambda: utimensat(folder / "file", (0, UTIME_OMIT), (0, UTIME_OMIT))) == set()


def utime_now_is_the_clock(folder: Path) -> None:
    """UTIME_NOW for one sets it to now and the other to what is given. (POSIX utimensat)"""
    made(folder / "file")
    before = tick()
    utimensat(folder / "file", (1, 2), (0, UTIME_NOW))
    atime, mtime = _times(folder / "file")
    assert atime == NANO + 2
    assert before <= mtime <= time.time_ns()


def no_times_are_now(folder: Path) -> None:
    """Without times both are now, and equal. (POSIX utimensat)"""
    os.utime(made(folder / "file"), ns=(1, 2))
    before = tick()
    os.utime(folder / "file")
    atime, mtime = _times(folder / "file")
    assert atime == mtime
    assert before <= mtime <= time.time_ns()


def times_may_lie_in_the_future(folder: Path) -> None:
    """Beyond 2038, and up to 2446, where ext4 ends. (POSIX utimensat)"""
    made(folder / "file")
    for seconds in ((1 << 31) - 1, 1 << 31, 1 << 32, 15_000_000_000):
        os.utime(folder / "file", ns=(seconds * NANO + 1, seconds * NANO + 999_999_999))
        assert _times(folder / "file") == (seconds * NANO + 1, seconds * NANO + 999_999_999)


def times_may_lie_before_1970(folder: Path) -> None:
    """Negative seconds, back to 1901. (POSIX utimensat)"""
    made(folder / "file")
    for nanoseconds in (-1, -NANO, -1_500_000_000, -(1 << 31) * NANO):
        os.utime(folder / "file", ns=(nanoseconds, nanoseconds))
        assert _times(folder / "file") == (nanoseconds, nanoseconds)


def the_epoch_is_a_time(folder: Path) -> None:
    """0 is 1970, not "no time". (POSIX utimensat)"""
    os.utime(made(folder / "file"), ns=(0, 0))
    assert _times(folder / "file") == (0, 0)


def wrong_nanoseconds_are_refused(folder: Path) -> None:
    """10^9 and more, or less than 0, is EINVAL. (POSIX utimensat)"""
    made(folder / "file")
    for nanoseconds in (NANO, -1):
        with error(errno.EINVAL):
            utimensat(folder / "file", (1, nanoseconds), (1, 0))


def utimensat_of_a_missing_name_is_refused(folder: Path) -> None:
    """ENOENT, of a dangling symlink too, unless the symlink itself is meant. (POSIX utimensat)"""
    os.symlink("none", folder / "link")
    for name in ("none", "link"):
        with error(errno.ENOENT):
            os.utime(folder / name, ns=(1, 2))
    utimensat(folder / "link", (1, 0), (2, 0), AT_SYMLINK_NOFOLLOW)
    assert _times(folder / "link")[1] == 2 * NANO


def times_that_were_set_outlive_close(folder: Path) -> None:
    """Times set after the last write stay, though the file is closed later: cp -p, tar, rsync. (POSIX close)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        tick()
        os.utime(fd, ns=(10**18 + 1, 10**18 + 2))
    assert _times(folder / "file") == (10**18 + 1, 10**18 + 2)
    with opened(folder / "file", os.O_RDWR) as fd:
        os.write(fd, b"C")
        os.fsync(fd)
        os.utime(folder / "file", ns=(3, 4))
    assert _times(folder / "file") == (3, 4)


def a_write_after_times_were_set_moves_mtime(folder: Path) -> None:
    """Times that were set hold until the next change. (POSIX write)"""
    with opened(folder / "file") as fd:
        os.utime(fd, ns=(1, 2))
        os.write(fd, b"content")
        assert os.fstat(fd).st_mtime_ns > 10**18
    assert _times(folder / "file")[1] > 10**18


# -- what moves mtime and ctime of a file


def creation_sets_all_times(folder: Path) -> None:
    """A new file's three times are now. (POSIX open)"""
    before = tick()
    with opened(folder / "file", CREATE | os.O_EXCL):
        there = os.stat(folder / "file")
    for stamp in (there.st_atime_ns, there.st_mtime_ns, there.st_ctime_ns):
        assert before <= stamp <= time.time_ns()


def creation_of_a_folder_sets_all_times(folder: Path) -> None:
    """The same of folders and symlinks. (POSIX mkdir)"""
    before = tick()
    os.mkdir(folder / "sub")
    os.symlink("target", folder / "link")
    for there in (os.lstat(folder / "sub"), os.lstat(folder / "link")):
        for stamp in (there.st_atime_ns, there.st_mtime_ns, there.st_ctime_ns):
            assert before <= stamp <= time.time_ns()


def write_moves_mtime_and_ctime(folder: Path) -> None:
    """Each write that changes anything. (POSIX write)"""
    with opened(folder / "file") as fd:
        for write in (lambda: os.write(fd, b"x"), lambda: os.pwrite(fd, b"x", 0), lambda: os.writev(fd, [b"x"])):
            assert moved(folder / "file", write) == {"mtime", "ctime"}


def write_of_nothing_moves_no_time(folder: Path) -> None:
    """A length of 0 is no change. (POSIX write)"""
    with opened(made(folder / "file", b"content"), os.O_WRONLY) as fd:
        assert moved(folder / "file", lambda: os.write(fd, b"")) == set()


def open_and_close_move_no_time(folder: Path) -> None:
    """Opening for writing and closing without a change is none. (POSIX close)"""
    made(folder / "file", b"content")
    for flags in (os.O_WRONLY, os.O_RDWR | os.O_APPEND, CREATE):
        assert moved(folder / "file", lambda flags=flags: os.close(os.open(folder / "file", flags))) == set()


def close_moves_no_time(folder: Path) -> None:
    """mtime after close is that of the last write. (POSIX close)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        written = _times(folder / "file")[1]
        tick()
    assert _times(folder / "file")[1] == written


def ctime_after_close_is_that_of_the_last_change(folder: Path) -> None:
    """Neither close nor reading moves it: programs tell by it whether a file has changed. (POSIX close)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        changed = os.stat(folder / "file").st_ctime_ns
        tick()
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.read(fd, 100) == b"content"
        assert os.fstat(fd).st_ctime_ns == os.stat(folder / "file").st_ctime_ns == changed


def fsync_moves_no_time(folder: Path) -> None:
    """Bringing content to disk is no change of it. (POSIX fsync)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        assert moved(folder / "file", lambda: os.fsync(fd)) == set()


def truncate_moves_mtime_and_ctime(folder: Path) -> None:
    """By path and by descriptor, to less and to more. (POSIX truncate)"""
    made(folder / "file", b"content")
    assert moved(folder / "file", lambda: os.truncate(folder / "file", 3)) == {"mtime", "ctime"}
    with opened(folder / "file", os.O_WRONLY) as fd:
        assert moved(folder / "file", lambda: os.ftruncate(fd, 10)) == {"mtime", "ctime"}


def ftruncate_to_the_same_size_moves_times(folder: Path) -> None:
    """On Linux ftruncate() marks the file also when its size stays. (POSIX ftruncate)"""
    with opened(made(folder / "file", b"content"), os.O_WRONLY) as fd:
        assert moved(folder / "file", lambda: os.ftruncate(fd, 7)) == {"mtime", "ctime"}


def truncate_to_the_same_size_moves_times(folder: Path) -> None:
    """So does truncate(), by the file's path. (POSIX truncate)"""
    made(folder / "file", b"content")
    assert moved(folder / "file", lambda: os.truncate(folder / "file", 7)) == {"mtime", "ctime"}


def o_trunc_moves_mtime_and_ctime(folder: Path) -> None:
    """Also of a file that is empty already. (POSIX open)"""
    made(folder / "file", b"content")
    for _ in range(2):
        act = lambda: os.close(os.open(folder / "file", os.O_WRONLY | os.O_TRUNC))  # noqa: E731
        assert moved(folder / "file", act) == {"mtime", "ctime"}


def fallocate_that_grows_moves_mtime_and_ctime(folder: Path) -> None:
    """A larger size is a change. (fallocate(2))"""
    with opened(made(folder / "file", b"content"), os.O_WRONLY) as fd:
        assert moved(folder / "file", lambda: fallocate(fd, 0, 0, 100)) == {"mtime", "ctime"}


def copy_file_range_moves_the_targets_times(folder: Path) -> None:
    """mtime and ctime of the target, not of the source. (copy_file_range(2))"""
    made(folder / "from", b"content")
    with opened(folder / "from", os.O_RDONLY) as source, opened(folder / "to") as target:
        before = os.stat(folder / "from")
        assert moved(folder / "to", lambda: os.copy_file_range(source, target, 7)) == {"mtime", "ctime"}
        assert os.stat(folder / "from").st_mtime_ns == before.st_mtime_ns


def _moves_ctime_alone(path: Path, *acts: Callable[[], object]) -> None:
    for act in acts:
        assert moved(path, act) == {"ctime"}


def chmod_moves_ctime(folder: Path) -> None:
    """By path and by descriptor, also to the mode that it has, on files and folders. (POSIX chmod)"""
    (folder / "sub").mkdir()
    _moves_ctime_alone(folder / "sub", lambda: os.chmod(folder / "sub", 0o700), lambda: os.chmod(folder / "sub", 0o700))
    with opened(folder / "file") as fd:
        _moves_ctime_alone(folder / "file", lambda: os.chmod(folder / "file", 0o600), lambda: os.fchmod(fd, 0o640))


def chown_moves_ctime(folder: Path) -> None:
    """Also to the owner that it has. (POSIX chown)"""
    made(folder / "file")
    _moves_ctime_alone(folder / "file", lambda: os.chown(folder / "file", os.geteuid(), os.getegid()))


def utimensat_moves_ctime(folder: Path) -> None:
    """Setting times marks ctime, which nobody can set. (POSIX utimensat)"""
    made(folder / "file")
    before = tick()
    os.utime(folder / "file", ns=(1, 2))
    assert before <= os.stat(folder / "file").st_ctime_ns <= time.time_ns()


def setxattr_moves_ctime(folder: Path) -> None:
    """Setting and removing an extended attribute. (xattr(7))"""
    path = made(folder / "file")
    _moves_ctime_alone(
        path, lambda: os.setxattr(path, "user.name", b"value"), lambda: os.removexattr(path, "user.name")
    )


def reading_moves_neither_mtime_nor_ctime(folder: Path) -> None:
    """Neither do stat, access, open and listing. (POSIX read)"""
    made(folder / "file", b"content")
    os.symlink("file", folder / "link")

    def look() -> None:
        os.stat(folder / "file")
        os.access(folder / "file", os.R_OK)
        assert (folder / "link").read_bytes() == b"content"

    assert moved(folder / "file", look) <= {"atime"}
    assert moved(folder, lambda: os.listdir(folder)) <= {"atime"}


def writing_a_file_leaves_its_folders_times(folder: Path) -> None:
    """The folder changes with its names alone. (POSIX write)"""
    made(folder / "file")
    assert moved(folder, lambda: made(folder / "file", b"content").chmod(0o600)) == set()


def creation_moves_mtime_of_the_folder(folder: Path) -> None:
    """A new file is a change of its folder; opening one that exists is none. (POSIX open)"""
    assert moved(folder, lambda: os.close(os.open(folder / "file", CREATE))) == {"mtime", "ctime"}
    assert moved(folder, lambda: os.close(os.open(folder / "file", CREATE | os.O_TRUNC))) == set()


def times_are_the_same_for_all_processes(folder: Path) -> None:
    """What one process has marked, another sees at once. (POSIX stat)"""
    made(folder / "file")
    assert moved(folder / "file", lambda: in_child(made, folder / "file", b"content")) == {"mtime", "ctime"}


# -- atime, as Linux keeps it by default (relatime)


def _read(path: Path) -> None:
    with opened(path, os.O_RDONLY) as fd:
        assert os.read(fd, 100)


def reading_after_a_change_moves_atime(folder: Path) -> None:
    """An atime that is not later than mtime moves at the next read: mail readers rely on it. (mount(8) relatime)"""
    made(folder / "file", b"content")
    assert moved(folder / "file", lambda: _read(folder / "file")) == {"atime"}


def reading_again_leaves_atime(folder: Path) -> None:
    """An atime that is later than mtime and ctime, and younger than a day, stays. (mount(8) relatime)"""
    made(folder / "file", b"content")
    tick()
    _read(folder / "file")
    assert moved(folder / "file", lambda: _read(folder / "file")) == set()


def reading_after_a_day_moves_atime(folder: Path) -> None:
    """An atime that is older than a day moves. (mount(8) relatime)"""
    made(folder / "file", b"content")
    now = time.time_ns()
    os.utime(folder / "file", ns=(now - 2 * DAY, now - 3 * DAY))
    assert moved(folder / "file", lambda: _read(folder / "file")) == {"atime"}


def reading_with_o_noatime_leaves_atime(folder: Path) -> None:
    """O_NOATIME: backup programs leave no trace. (open(2))"""
    made(folder / "file", b"content")

    def read() -> None:
        with opened(folder / "file", os.O_RDONLY | os.O_NOATIME) as fd:
            assert os.read(fd, 100)

    assert moved(folder / "file", read) == set()


def listing_moves_atime_of_the_folder(folder: Path) -> None:
    """Listing reads a folder. (POSIX readdir)"""
    (folder / "sub").mkdir()
    assert moved(folder / "sub", lambda: os.listdir(folder / "sub")) == {"atime"}


def writing_leaves_atime(folder: Path) -> None:
    """Only reading moves it. (POSIX write)"""
    with opened(folder / "file") as fd:
        assert "atime" not in moved(folder / "file", lambda: os.write(fd, b"content"))
