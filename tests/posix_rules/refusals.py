"""What every call on a path refuses, and that what is refused changes nothing: each rule is tried with all of them."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from support import error

from posix_rules.calls import PATH_CALLS, RENAME_EXCHANGE, call_with_nowhere, renameat2
from posix_rules.files import CREATE, bits, made, made_folder, missing, moved, opened
from posix_rules.processes import GROUP, OTHER_GROUP, OTHER_USER, USER, as_user, in_child, needs_root

_XATTR = "user.name", b"value"


def _calls(path: Path, other: Path) -> dict[str, Callable[[], object]]:
    """Each call by name on `path`; `other` is a path that is right."""
    return {
        "open": lambda: os.open(path, os.O_RDONLY),
        "open to write": lambda: os.open(path, os.O_WRONLY),
        "open to create": lambda: os.open(path, CREATE),
        "stat": lambda: os.stat(path),
        "chmod": lambda: os.chmod(path, 0o600),
        "chown": lambda: os.chown(path, os.geteuid(), os.getegid()),
        "truncate": lambda: os.truncate(path, 5),
        "utime": lambda: os.utime(path),
        "chdir": lambda: in_child(os.chdir, path),
        "listdir": lambda: os.listdir(path),
        "setxattr": lambda: os.setxattr(path, *_XATTR),
        "getxattr": lambda: os.getxattr(path, _XATTR[0]),
        "statvfs": lambda: os.statvfs(path),
        **_calls_on_names(path, other),
    }


def _calls_on_names(path: Path, other: Path) -> dict[str, Callable[[], object]]:
    """Those that do not follow a symlink at the end."""
    return {
        "lstat": lambda: os.lstat(path),
        "lchown": lambda: os.lchown(path, os.geteuid(), os.getegid()),
        "mkdir": lambda: os.mkdir(path),
        "mkfifo": lambda: os.mkfifo(path),
        "mknod": lambda: os.mknod(path, stat.S_IFREG | 0o600),
        "symlink": lambda: os.symlink("target", path),
        "readlink": lambda: os.readlink(path),
        "link from": lambda: os.link(path, other.with_name("linked")),
        "link to": lambda: os.link(other, path),
        "rename from": lambda: os.rename(path, other.with_name("renamed")),
        "rename to": lambda: os.rename(other, path),
        "unlink": lambda: os.unlink(path),
        "rmdir": lambda: os.rmdir(path),
    }


def _all_refuse(calls: dict[str, Callable[[], object]], number: int) -> None:
    for name, call in calls.items():
        try:
            with error(number):
                call()
        except BaseException as failure:
            raise AssertionError(f"{name}: {failure}") from failure


def a_file_on_the_way_is_refused_by_all(folder: Path) -> None:
    """A component of the path that is no folder is ENOTDIR. (POSIX errors)"""
    made(folder / "file")
    other = made(folder / "other")
    _all_refuse(_calls(folder / "file" / "name", other), errno.ENOTDIR)
    assert sorted(os.listdir(folder)) == ["file", "other"]


def a_missing_folder_on_the_way_is_refused_by_all(folder: Path) -> None:
    """A component of the path that is not there is ENOENT. (POSIX errors)"""
    other = made(folder / "other")
    _all_refuse(_calls(folder / "none" / "name", other), errno.ENOENT)
    assert os.listdir(folder) == ["other"]


def a_long_name_is_refused_by_all(folder: Path) -> None:
    """A component of more than 255 bytes is ENAMETOOLONG, as the last one and on the way. (POSIX errors)"""
    other = made(folder / "other")
    for path in (folder / ("n" * 256), folder / ("n" * 256) / "name"):
        _all_refuse(_calls(path, other), errno.ENAMETOOLONG)
    assert os.listdir(folder) == ["other"]


def a_long_path_is_refused_by_all(folder: Path) -> None:
    """A path of PATH_MAX bytes is ENAMETOOLONG, whatever is in it. (POSIX errors)"""
    other = made(folder / "other")
    _all_refuse(_calls(Path(f"{folder}/{'d/' * 2048}name"), other), errno.ENAMETOOLONG)
    assert os.listdir(folder) == ["other"]


def a_loop_on_the_way_is_refused_by_all(folder: Path) -> None:
    """Symlinks that lead to each other are ELOOP. (POSIX errors)"""
    os.symlink("two", folder / "one")
    os.symlink("one", folder / "two")
    other = made(folder / "other")
    _all_refuse(_calls(folder / "one" / "name", other), errno.ELOOP)
    following = _calls(folder / "one", other)
    _all_refuse({name: following[name] for name in following.keys() - _calls_on_names(other, other)}, errno.ELOOP)
    assert sorted(os.listdir(folder)) == ["one", "other", "two"]


@needs_root
def a_closed_folder_on_the_way_is_refused_by_all(folder: Path) -> None:
    """Without search permission of a folder on the way every call is EACCES. (POSIX errors)"""
    folder.chmod(0o777)
    closed = made_folder(folder / "closed", 0o755)
    made(closed / "name").chmod(0o666)
    other = made(folder / "other")
    os.chown(other, USER, GROUP)
    closed.chmod(0o666)
    for name, call in _calls(closed / "name", other).items():
        try:
            with error(errno.EACCES):
                as_user(call)
        except BaseException as failure:
            raise AssertionError(f"{name}: {failure}") from failure


def a_path_at_no_address_is_refused_by_all(folder: Path) -> None:
    """A path at an address that is not the program's is EFAULT. (POSIX errors)"""

    def work() -> None:
        os.chdir(folder)
        made(Path("other"))
        for name in PATH_CALLS:
            with error(errno.EFAULT):
                call_with_nowhere(name)

    in_child(work)
    assert os.listdir(folder) == ["other"]


def another_file_system_is_refused(folder: Path) -> None:
    """rename and link to another file system are EXDEV, on which mv copies. (POSIX rename)"""
    path = made(folder / "file", b"content")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        for call in (os.rename, os.link):
            with error(errno.EXDEV):
                call(path, f"{elsewhere}/file")
            made(Path(elsewhere) / "theirs")
            with error(errno.EXDEV):
                call(f"{elsewhere}/theirs", folder / "theirs")
        assert os.listdir(elsewhere) == ["theirs"]
    assert os.listdir(folder) == ["file"]


# -- what is refused changes nothing


@needs_root
def a_refused_change_moves_no_time(folder: Path) -> None:
    """chmod, chown, truncate, utime and link that are refused leave all times. (POSIX chmod)"""
    folder.chmod(0o755)
    path = made(folder / "file", b"content")
    path.chmod(0o644)
    attempts = (
        (errno.EPERM, lambda: os.chmod(path, 0o777)),
        (errno.EPERM, lambda: os.chown(path, OTHER_USER, -1)),
        (errno.EACCES, lambda: os.truncate(path, 0)),
        (errno.EACCES, lambda: os.utime(path)),
        (errno.EPERM, lambda: os.utime(path, ns=(1, 2))),
        (errno.EACCES, lambda: os.unlink(path)),
        (errno.EACCES, lambda: os.rename(path, folder / "other")),
        (errno.EACCES, lambda: os.setxattr(path, "user.a", b"1")),
    )

    def attempt(number: int, call: Callable[[], object]) -> None:
        with error(number):
            as_user(call)

    for number, call in attempts:
        assert moved(path, lambda number=number, call=call: attempt(number, call)) == set()
        assert moved(folder, lambda number=number, call=call: attempt(number, call)) == set()


def a_refused_rename_moves_no_time(folder: Path) -> None:
    """Neither of the folders nor of what was to be moved. (POSIX rename)"""
    full = made_folder(folder / "full")
    made(full / "file")
    sub = made_folder(folder / "sub")

    def attempt() -> None:
        with error(errno.ENOTEMPTY):
            os.rename(sub, full)
        with error(errno.EINVAL):
            os.rename(folder / "sub", folder / "sub" / "below")
        with error(errno.ENOTDIR):
            os.rename(sub, full / "file")

    for path in (folder, full, sub):
        assert moved(path, attempt) == set()


# -- owners


@needs_root
def chown_of_nothing_is_allowed(folder: Path) -> None:
    """chown(-1, -1) of an own file succeeds, and changes no owner. (chown(2))"""
    folder.chmod(0o777)
    path = made(folder / "file")
    os.chown(path, USER, GROUP)
    as_user(os.chown, path, -1, -1)
    assert (path.stat().st_uid, path.stat().st_gid) == (USER, GROUP)


@needs_root
def chown_to_a_supplementary_group(folder: Path) -> None:
    """The owner may give a file to each group that it is in, and to no other. (POSIX chown)"""
    folder.chmod(0o777)
    path = made(folder / "file")
    os.chown(path, USER, GROUP)
    as_user(os.chown, path, -1, OTHER_GROUP, groups=(OTHER_GROUP,))
    assert path.stat().st_gid == OTHER_GROUP
    as_user(os.chown, path, USER, GROUP)
    with error(errno.EPERM):
        as_user(os.chown, path, -1, OTHER_GROUP)
    with error(errno.EPERM):
        as_user(os.chown, path, OTHER_USER, -1)


@needs_root
def who_does_not_own_changes_no_mode(folder: Path) -> None:
    """chmod and chown of another's file are EPERM, also for its group and with all permissions. (POSIX chmod)"""
    folder.chmod(0o777)
    path = made(folder / "file")
    os.chown(path, OTHER_USER, GROUP)
    path.chmod(0o777)
    with error(errno.EPERM):
        as_user(os.chmod, path, 0o600)
    with error(errno.EPERM):
        as_user(os.chown, path, -1, GROUP)
    assert bits(path) == 0o777


@needs_root
def set_ids_are_set_by_the_owner(folder: Path) -> None:
    """The owner sets both bits of a file of an own group; a sticky bit on a file is kept too. (POSIX chmod)"""
    folder.chmod(0o777)
    path = made(folder / "file")
    os.chown(path, USER, GROUP)
    as_user(os.chmod, path, 0o7755)
    assert bits(path) == 0o7755


# -- sticky folders


def _entry(place: Path, kind: str, uid: int) -> Path:
    path = place / kind
    made_folder(path) if kind == "folder" else made(path)
    os.chown(path, uid, uid)
    return path


@needs_root
def in_a_sticky_folder_who_may_depends_on_both_owners(folder: Path) -> None:
    """Whoever owns the folder or the entry may rename and remove it, files and folders alike; others get EPERM.
    (rename(2))"""
    folder.chmod(0o777)
    for number, (of_folder, of_entry) in enumerate(((0, 0), (USER, 0), (0, USER), (USER, OTHER_USER))):
        place = made_folder(folder / f"{number}", 0o1777)
        os.chown(place, of_folder, 0)
        allowed = USER in (of_folder, of_entry)
        for kind, remove in (("file", os.unlink), ("folder", os.rmdir)):
            path = _entry(place, kind, of_entry)
            if kind == "folder" and of_entry != USER:
                path.chmod(0o777)
            _as_user_if(allowed, os.rename, path, place / "renamed")
            _as_user_if(allowed, remove, place / "renamed" if allowed else path)
            assert missing(path) == allowed


@needs_root
def in_a_sticky_folder_exchange_needs_both(folder: Path) -> None:
    """RENAME_EXCHANGE moves both entries, so both must be the caller's. (renameat2(2))"""
    place = made_folder(folder / "tmp", 0o1777)
    folder.chmod(0o755)
    mine, theirs = _entry(place, "file", USER), made(place / "theirs")
    with error(errno.EPERM):
        as_user(renameat2, mine, theirs, RENAME_EXCHANGE)
    os.chown(theirs, USER, USER)
    as_user(renameat2, mine, theirs, RENAME_EXCHANGE)


def _as_user_if(allowed: bool, call: Callable[..., object], *arguments: Path) -> None:
    if allowed:
        as_user(call, *arguments)
        return
    with error(errno.EPERM):
        as_user(call, *arguments)


# -- what cannot be opened so


def a_socket_cannot_be_opened_in_any_way(folder: Path) -> None:
    """ENXIO for reading, writing and both. (open(2))"""
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_NONBLOCK):
        with error(errno.ENXIO):
            os.open(folder / "socket", flags)


def allocating_is_for_regular_files(folder: Path) -> None:
    """posix_fallocate of a FIFO is ESPIPE, of a folder EBADF, as it is not open for writing. (POSIX posix_fallocate)"""
    os.mkfifo(folder / "fifo")
    with opened(folder / "fifo", os.O_RDWR) as fd, error(errno.ESPIPE):
        os.posix_fallocate(fd, 0, 10)
    with opened(folder, os.O_RDONLY) as fd, error(errno.EBADF):
        os.posix_fallocate(fd, 0, 10)


def an_empty_name_is_refused_by_all(folder: Path) -> None:
    """The empty path is ENOENT for every call. (POSIX errors)"""

    def work() -> None:
        os.chdir(folder)
        made(Path("other"))
        _all_refuse(_empty_calls(), errno.ENOENT)

    in_child(work)
    assert os.listdir(folder) == ["other"]


def _empty_calls() -> dict[str, Callable[[], object]]:
    return {
        "open": lambda: os.open("", CREATE), "stat": lambda: os.stat(""), "mkdir": lambda: os.mkdir(""),
        "rmdir": lambda: os.rmdir(""), "unlink": lambda: os.unlink(""), "chmod": lambda: os.chmod("", 0o600),
        "chown": lambda: os.chown("", 0, 0), "truncate": lambda: os.truncate("", 0), "utime": lambda: os.utime(""),
        "rename from": lambda: os.rename("", "new"), "rename to": lambda: os.rename("other", ""),
        "link": lambda: os.link("other", ""), "symlink": lambda: os.symlink("other", ""),
        "mkfifo": lambda: os.mkfifo(""),
    }  # fmt: skip
