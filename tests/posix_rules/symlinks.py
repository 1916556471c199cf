"""symlink, readlink, and where paths lead through them."""

import errno
import os
import stat
from pathlib import Path

from support import error

from posix_rules import calls
from posix_rules.files import bits, ino, made, made_folder, missing, moved, opened
from posix_rules.processes import USER, needs_root

# -- the symlink itself


def symlink_keeps_its_target(folder: Path) -> None:
    """readlink() returns what was given, byte by byte, whether it exists or not. (POSIX symlink)"""
    targets = [b"file", b"/absolute/path", b"../up", b"a/./b//c/", b"\xff\xfe\n", "Grüße".encode(), b" "]
    for number, target in enumerate(targets):
        path = os.fsencode(folder / str(number))
        os.symlink(target, path)
        assert os.readlink(path) == target


def lstat_of_a_symlink_is_its_own(folder: Path) -> None:
    """Its type, mode 0777, one link, and the length of its target as size. (POSIX lstat)"""
    os.symlink("some/target", folder / "link")
    there = os.lstat(folder / "link")
    assert stat.S_ISLNK(there.st_mode)
    assert (there.st_mode & 0o7777, there.st_nlink, there.st_size) == (0o777, 1, 11)


def symlink_takes_targets_up_to_path_max(folder: Path) -> None:
    """A target has 4095 bytes at most; one more is ENAMETOOLONG. (POSIX symlink)"""
    for length in (255, 1000, 4095):
        os.symlink("x" * length, folder / str(length))
        assert os.readlink(folder / str(length)) == "x" * length
    with error(errno.ENAMETOOLONG):
        os.symlink("x" * 4096, folder / "4096")


def symlink_refuses_an_empty_target(folder: Path) -> None:
    """An empty target is ENOENT. (symlink(2))"""
    with error(errno.ENOENT):
        os.symlink("", folder / "link")


def symlink_refuses_a_name_that_exists(folder: Path) -> None:
    """EEXIST for a file, a folder and another symlink. (POSIX symlink)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    os.symlink("none", folder / "link")
    for name in ("file", "sub", "link"):
        with error(errno.EEXIST):
            os.symlink("target", folder / name)


def symlink_needs_its_folder(folder: Path) -> None:
    """A missing folder is ENOENT, a file in its place ENOTDIR. (POSIX symlink)"""
    made(folder / "file")
    for name, number in (("none/link", errno.ENOENT), ("file/link", errno.ENOTDIR)):
        with error(number):
            os.symlink("target", folder / name)


def readlink_of_something_else_is_refused(folder: Path) -> None:
    """EINVAL for files and folders, ENOENT for what is missing. (POSIX readlink)"""
    made(folder / "file")
    for name, number in (("file", errno.EINVAL), (".", errno.EINVAL), ("none", errno.ENOENT)):
        with error(number):
            os.readlink(folder / name)


def readlink_fills_a_short_buffer(folder: Path) -> None:
    """A buffer that is too short gets the beginning, and no error. (POSIX readlink)"""
    os.symlink("0123456789", folder / "link")
    assert calls.readlink(folder / "link", 4) == b"0123"
    assert calls.readlink(folder / "link", 100) == b"0123456789"


def unlink_of_a_symlink_leaves_its_target(folder: Path) -> None:
    """unlink() removes the symlink. (POSIX unlink)"""
    made(folder / "file", b"content")
    os.symlink("file", folder / "link")
    (folder / "link").unlink()
    assert missing(folder / "link")
    assert (folder / "file").read_bytes() == b"content"


def rename_of_a_symlink_moves_the_symlink(folder: Path) -> None:
    """rename() moves the symlink, and replaces one rather than its target. (POSIX rename)"""
    made(folder / "file", b"content")
    os.symlink("file", folder / "link")
    os.rename(folder / "link", folder / "moved")
    assert os.readlink(folder / "moved") == "file"
    made(folder / "new", b"new")
    os.rename(folder / "new", folder / "moved")
    assert not (folder / "moved").is_symlink()
    assert (folder / "file").read_bytes() == b"content"


@needs_root
def lchown_changes_the_symlink(folder: Path) -> None:
    """lchown() changes the symlink, chown() its target. (POSIX lchown)"""
    made(folder / "file")
    os.symlink("file", folder / "link")
    os.lchown(folder / "link", USER, -1)
    assert (os.lstat(folder / "link").st_uid, os.stat(folder / "file").st_uid) == (USER, 0)
    os.chown(folder / "link", USER + 1, -1)
    assert (os.lstat(folder / "link").st_uid, os.stat(folder / "file").st_uid) == (USER, USER + 1)


def chmod_changes_the_target(folder: Path) -> None:
    """chmod() follows symlinks. (POSIX chmod)"""
    made(folder / "file").chmod(0o644)
    os.symlink("file", folder / "link")
    os.chmod(folder / "link", 0o600)
    assert (bits(folder / "file"), bits(folder / "link")) == (0o600, 0o777)


def times_of_a_symlink_are_its_own(folder: Path) -> None:
    """utimensat() with AT_SYMLINK_NOFOLLOW sets the symlink's times and leaves the target's. (POSIX utimensat)"""
    made(folder / "file")
    os.symlink("file", folder / "link")
    before = os.stat(folder / "file").st_mtime_ns
    os.utime(folder / "link", ns=(3, 4), follow_symlinks=False)
    assert os.lstat(folder / "link").st_mtime_ns == 4
    assert os.stat(folder / "file").st_mtime_ns == before


def symlink_moves_mtime_of_the_folder(folder: Path) -> None:
    """A new symlink is a change of its folder. (POSIX symlink)"""
    assert moved(folder, lambda: os.symlink("target", folder / "link")) == {"mtime", "ctime"}


# -- where they lead


def paths_lead_through_symlinks(folder: Path) -> None:
    """Relative targets count from the symlink's folder, absolute ones from the root. (POSIX path resolution)"""
    made(made_folder(folder / "sub") / "file", b"content")
    os.symlink("sub", folder / "relative")
    os.symlink(folder / "sub", folder / "absolute")
    os.symlink("../sub/file", folder / "sub" / "up")
    for path in ("relative/file", "absolute/file", "sub/up", "relative/up"):
        assert (folder / path).read_bytes() == b"content"


def dots_after_a_symlink_go_up_from_its_target(folder: Path) -> None:
    """link/.. is the parent of the target, not of the symlink. (POSIX path resolution)"""
    (folder / "a" / "b").mkdir(parents=True)
    made(folder / "a" / "file", b"content")
    os.symlink("a/b", folder / "link")
    with open(f"{folder}/link/../file", "rb") as file:
        assert file.read() == b"content"


def stat_of_a_dangling_symlink_is_refused(folder: Path) -> None:
    """What is followed must exist: ENOENT; the symlink itself is there. (POSIX stat)"""
    os.symlink("none", folder / "link")
    for call in (os.stat, os.listdir, os.chdir, lambda path: os.chmod(path, 0o600), lambda path: os.utime(path)):
        with error(errno.ENOENT):
            call(folder / "link")
    assert os.listdir(folder) == ["link"]


def a_dangling_symlink_leads_on_once_its_target_exists(folder: Path) -> None:
    """A target that is made later is found at once. (POSIX path resolution)"""
    os.symlink("file", folder / "link")
    with error(errno.ENOENT):
        os.stat(folder / "link")
    made(folder / "file", b"content")
    assert (folder / "link").read_bytes() == b"content"


def a_symlink_follows_what_is_renamed_to_its_target(folder: Path) -> None:
    """It leads to a name, whatever has that name by now. (POSIX path resolution)"""
    made(folder / "one", b"one")
    os.symlink("name", folder / "link")
    os.rename(folder / "one", folder / "name")
    assert (folder / "link").read_bytes() == b"one"
    made(folder / "two", b"two")
    os.rename(folder / "two", folder / "name")
    assert (folder / "link").read_bytes() == b"two"


def a_loop_of_symlinks_is_refused(folder: Path) -> None:
    """A symlink to itself, and two that lead to each other, are ELOOP for whatever follows. (POSIX path resolution)"""
    os.symlink("self", folder / "self")
    os.symlink("b", folder / "a")
    os.symlink("a", folder / "b")
    for path in ("self", "a", "b", "self/file", "a/file"):
        for call in (os.stat, lambda p: os.open(p, os.O_RDONLY), lambda p: os.truncate(p, 0)):
            with error(errno.ELOOP):
                call(folder / path)


def forty_symlinks_are_followed(folder: Path) -> None:
    """Linux follows 40 symlinks in one path; the 41st is ELOOP. (path_resolution(7))"""
    made(folder / "0", b"content")
    for number in range(1, 42):
        os.symlink(str(number - 1), folder / str(number))
    assert (folder / "40").read_bytes() == b"content"
    with error(errno.ELOOP):
        os.stat(folder / "41")


def a_slash_after_a_symlink_follows_it(folder: Path) -> None:
    """link/ is the folder that it leads to, also for lstat; ENOTDIR if it is none. (POSIX path resolution)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    os.symlink("sub", folder / "link")
    os.symlink("file", folder / "other")
    assert os.lstat(f"{folder}/link/").st_ino == ino(folder / "sub")
    with error(errno.ENOTDIR):
        os.lstat(f"{folder}/other/")


def rmdir_of_a_symlink_is_refused(folder: Path) -> None:
    """rmdir() of a symlink to a folder is ENOTDIR; a slash does not help. (POSIX rmdir)"""
    (folder / "sub").mkdir()
    os.symlink("sub", folder / "link")
    for path in (f"{folder}/link", f"{folder}/link/"):
        with error(errno.ENOTDIR):
            os.rmdir(path)
    assert (folder / "sub").is_dir()


def mkdir_of_a_symlink_is_refused(folder: Path) -> None:
    """mkdir() does not follow: EEXIST, also of a dangling one. (POSIX mkdir)"""
    os.symlink("none", folder / "link")
    with error(errno.EEXIST):
        os.mkdir(folder / "link")
    assert missing(folder / "none")


def a_symlink_may_lead_out_of_the_file_system(folder: Path) -> None:
    """An absolute target elsewhere is followed. (POSIX path resolution)"""
    os.symlink("/proc/self/status", folder / "link")
    with opened(folder / "link", os.O_RDONLY) as fd:
        assert os.read(fd, 5) == b"Name:"
