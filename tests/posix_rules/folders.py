"""mkdir, rmdir, unlink of folders, link counts, and working folders."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from support import error

from posix_rules.files import bits, ino, made, made_folder, missing, moved, opened, umask
from posix_rules.processes import in_child

# -- mkdir


def mkdir_makes_an_empty_folder(folder: Path) -> None:
    """The new folder is empty, and belongs to who made it. (POSIX mkdir)"""
    os.mkdir(folder / "sub")
    there = os.stat(folder / "sub")
    assert stat.S_ISDIR(there.st_mode)
    assert (there.st_uid, os.listdir(folder / "sub"), os.listdir(folder)) == (os.geteuid(), [], ["sub"])


def mkdir_takes_a_mode(folder: Path) -> None:
    """Permissions and the sticky bit are taken from the mode, less the umask. (mkdir(2))"""
    with umask(0o022):
        os.mkdir(folder / "plain", 0o777)
        os.mkdir(folder / "narrow", 0o700)
        os.mkdir(folder / "sticky", 0o1777)
    assert [bits(folder / name) for name in ("plain", "narrow", "sticky")] == [0o755, 0o700, 0o1755]


def mkdir_refuses_a_name_that_exists(folder: Path) -> None:
    """EEXIST for a file and a folder. (POSIX mkdir)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    for name in ("file", "sub", "."):
        with error(errno.EEXIST):
            os.mkdir(folder / name)


def mkdir_needs_the_folder_above(folder: Path) -> None:
    """A missing one is ENOENT, a file in its place ENOTDIR. (POSIX mkdir)"""
    made(folder / "file")
    for name, number in (("none/sub", errno.ENOENT), ("file/sub", errno.ENOTDIR)):
        with error(number):
            os.mkdir(folder / name)


def mkdir_takes_a_trailing_slash(folder: Path) -> None:
    """mkdir("sub/") makes sub. (POSIX path resolution)"""
    os.mkdir(f"{folder}/sub/")
    assert os.listdir(folder) == ["sub"]


def mkdir_moves_mtime_of_the_folder_above(folder: Path) -> None:
    """A new folder is a change of the one above. (POSIX mkdir)"""
    assert moved(folder, lambda: os.mkdir(folder / "sub")) == {"mtime", "ctime"}


def folders_may_be_deep(folder: Path) -> None:
    """Fifty levels, made and removed one by one. (POSIX mkdir)"""
    paths = [folder / "/".join(["d"] * depth) for depth in range(1, 51)]
    for path in paths:
        os.mkdir(path)
    made(paths[-1] / "file", b"content")
    assert (paths[-1] / "file").read_bytes() == b"content"
    (paths[-1] / "file").unlink()
    for path in reversed(paths):
        os.rmdir(path)
    assert os.listdir(folder) == []


# -- rmdir


def rmdir_removes_an_empty_folder(folder: Path) -> None:
    """Its name is free afterwards, also for a file. (POSIX rmdir)"""
    (folder / "sub").mkdir()
    os.rmdir(folder / "sub")
    assert missing(folder / "sub")
    made(folder / "sub", b"content")
    assert (folder / "sub").read_bytes() == b"content"


def rmdir_refuses_a_full_folder(folder: Path) -> None:
    """ENOTEMPTY with a file, a folder, a dangling symlink or a hidden file within. (rmdir(2))"""
    for name in ("file", ".hidden"):
        made(made_folder(folder / f"with {name}") / name)
    (folder / "with folder" / "folder").mkdir(parents=True)
    os.symlink("none", made_folder(folder / "with link") / "link")
    for name in os.listdir(folder):
        with error(errno.ENOTEMPTY):
            os.rmdir(folder / name)
    assert len(os.listdir(folder)) == 4


def rmdir_refuses_what_is_no_folder(folder: Path) -> None:
    """A file is ENOTDIR, a missing name ENOENT. (POSIX rmdir)"""
    made(folder / "file")
    for name, number in (("file", errno.ENOTDIR), ("none", errno.ENOENT), ("file/sub", errno.ENOTDIR)):
        with error(number):
            os.rmdir(folder / name)


def rmdir_refuses_dots(folder: Path) -> None:
    """A path that ends in `.` is EINVAL, in `..` ENOTEMPTY. (rmdir(2))"""
    (folder / "sub" / "below").mkdir(parents=True)
    with error(errno.EINVAL):
        os.rmdir(f"{folder}/sub/below/.")
    with error(errno.ENOTEMPTY):
        os.rmdir(f"{folder}/sub/below/..")


def rmdir_takes_a_trailing_slash(folder: Path) -> None:
    """rmdir("sub/") removes sub. (POSIX path resolution)"""
    (folder / "sub").mkdir()
    os.rmdir(f"{folder}/sub/")
    assert os.listdir(folder) == []


def rmdir_after_its_entries_are_gone(folder: Path) -> None:
    """A folder that was emptied, by unlink, rmdir and rename, can be removed. (POSIX rmdir)"""
    made(made_folder(folder / "sub") / "one")
    made(folder / "sub" / "two")
    (folder / "sub" / "three").mkdir()
    (folder / "sub" / "one").unlink()
    os.rename(folder / "sub" / "two", folder / "two")
    (folder / "sub" / "three").rmdir()
    os.rmdir(folder / "sub")
    assert os.listdir(folder) == ["two"]


def rmdir_moves_mtime_of_the_folder_above(folder: Path) -> None:
    """A folder less is a change of the one above. (POSIX rmdir)"""
    (folder / "sub").mkdir()
    assert moved(folder, (folder / "sub").rmdir) == {"mtime", "ctime"}


def a_name_made_again_is_another_folder(folder: Path) -> None:
    """What was in the removed one is not in the new one. (POSIX mkdir)"""
    made(made_folder(folder / "sub") / "file")
    (folder / "sub" / "file").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").mkdir()
    assert os.listdir(folder / "sub") == []
    assert missing(folder / "sub" / "file")


# -- unlink


def unlink_removes_a_file(folder: Path) -> None:
    """The name is gone for stat, open and listing. (POSIX unlink)"""
    made(folder / "file").unlink()
    assert os.listdir(folder) == []
    for call in (os.stat, os.unlink, lambda path: os.open(path, os.O_RDONLY)):
        with error(errno.ENOENT):
            call(folder / "file")


def unlink_refuses_a_folder(folder: Path) -> None:
    """EISDIR on Linux, with or without a trailing slash. (unlink(2))"""
    (folder / "sub").mkdir()
    for path in (f"{folder}/sub", f"{folder}/sub/"):
        with error(errno.EISDIR):
            os.unlink(path)


def unlink_refuses_what_is_not_there(folder: Path) -> None:
    """A missing name is ENOENT, a file in the path or a slash after one ENOTDIR. (POSIX unlink)"""
    made(folder / "file")
    for name, number in (("none", errno.ENOENT), ("file/x", errno.ENOTDIR), ("file/", errno.ENOTDIR)):
        with error(number):
            os.unlink(f"{folder}/{name}")


def unlink_moves_mtime_of_the_folder(folder: Path) -> None:
    """A name less is a change of its folder. (POSIX unlink)"""
    made(folder / "file")
    assert moved(folder, (folder / "file").unlink) == {"mtime", "ctime"}


def unlink_works_on_a_file_without_permissions(folder: Path) -> None:
    """What counts is the folder's mode, not the file's. (POSIX unlink)"""
    made(folder / "file").chmod(0)
    (folder / "file").unlink()
    assert os.listdir(folder) == []


# -- link counts


def a_folder_has_two_links(folder: Path) -> None:
    """Its name and its own `.`. (POSIX sys/stat.h)"""
    (folder / "sub").mkdir()
    made(folder / "sub" / "file")
    assert os.stat(folder / "sub").st_nlink == 2


def each_subfolder_adds_a_link(folder: Path) -> None:
    """The `..` of each subfolder counts, until it is removed: find relies on it. (POSIX sys/stat.h)"""
    for number, name in enumerate(("a", "b", "c"), 3):
        (folder / name).mkdir()
        assert os.stat(folder).st_nlink == number
    (folder / "b").rmdir()
    assert os.stat(folder).st_nlink == 4


def a_renamed_folder_takes_its_link_along(folder: Path) -> None:
    """rename() of a folder into another moves the link of its `..`. (POSIX rename)"""
    for name in ("from/sub", "to"):
        (folder / name).mkdir(parents=True)
    os.rename(folder / "from" / "sub", folder / "to" / "sub")
    assert (os.stat(folder / "from").st_nlink, os.stat(folder / "to").st_nlink) == (2, 3)
    (folder / "from" / "sub").mkdir()
    os.rename(folder / "from" / "sub", folder / "to" / "sub")
    assert (os.stat(folder / "from").st_nlink, os.stat(folder / "to").st_nlink) == (2, 3)


# -- working folders


def getcwd_tells_the_path(folder: Path) -> None:
    """After chdir() and fchdir() getcwd() is the folder's path, also through a symlink. (POSIX getcwd)"""
    (folder / "sub").mkdir()
    os.symlink("sub", folder / "link")

    def work() -> list[str]:
        os.chdir(folder / "link")
        by_path = os.getcwd()
        with opened(folder, os.O_RDONLY) as fd:
            os.fchdir(fd)
        return [by_path, os.getcwd()]

    assert in_child(work) == [str(folder / "sub"), str(folder)]


def getcwd_follows_rename(folder: Path) -> None:
    """A working folder that is renamed, or whose parent is, has the new path. (POSIX getcwd)"""
    (folder / "a" / "b").mkdir(parents=True)

    def work() -> list[str]:
        os.chdir(folder / "a" / "b")
        os.rename(folder / "a" / "b", folder / "a" / "c")
        first = os.getcwd()
        os.rename(folder / "a", folder / "d")
        return [first, os.getcwd()]

    assert in_child(work) == [str(folder / "a" / "c"), str(folder / "d" / "c")]


def chdir_refuses_what_is_no_folder(folder: Path) -> None:
    """A file is ENOTDIR, a missing name ENOENT. (POSIX chdir)"""
    made(folder / "file")
    for name, number in (("file", errno.ENOTDIR), ("none", errno.ENOENT)):
        with error(number):
            os.chdir(folder / name)


def dots_lead_up(folder: Path) -> None:
    """`..` of a folder is the one above, after a rename into another one too. (POSIX path resolution)"""
    (folder / "a" / "sub").mkdir(parents=True)
    (folder / "b").mkdir()
    assert os.stat(f"{folder}/a/sub/..").st_ino == ino(folder / "a")
    os.rename(folder / "a" / "sub", folder / "b" / "sub")
    assert os.stat(f"{folder}/b/sub/..").st_ino == ino(folder / "b")
    assert os.stat(f"{folder}/b/sub/.").st_ino == ino(folder / "b" / "sub")


def a_removed_working_folder_takes_no_nameless_file(folder: Path) -> None:
    """O_TMPFILE in a folder that was removed is EPERM, as ext4 has it; a named file is ENOENT. (open(2))"""
    (folder / "sub").mkdir()

    def work() -> list[int]:
        os.chdir(folder / "sub")
        os.rmdir(folder / "sub")
        return [_errno_of(os.open, ".", os.O_RDWR | os.O_TMPFILE), _errno_of(os.open, "x", os.O_RDWR | os.O_CREAT)]

    assert in_child(work) == [errno.EPERM, errno.ENOENT]


def _errno_of(call: Callable[..., object], *arguments: object) -> int:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return 0
