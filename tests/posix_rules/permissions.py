"""Permission checks: what another user may do, by owner, group, supplementary groups and others; sticky folders."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from support import error

from posix_rules.files import CREATE, made, made_folder, missing, opened
from posix_rules.processes import GROUP, OTHER_GROUP, OTHER_USER, USER, as_user, in_child, needs_root


def _owned(path: Path, mode: int, uid: int = 0, gid: int = 0) -> Path:
    """A file or folder with this owner and mode."""
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    return path


def _may(path: Path, **user: object) -> str:
    """Which of r, w, x a user may, by open() and access()."""
    allowed = ""
    for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY)):
        with contextlib.suppress(PermissionError):
            as_user(lambda flags=flags: os.close(os.open(path, flags)), **user)
            allowed += letter
    return allowed + ("x" if as_user(os.access, path, os.X_OK, **user) else "")


# -- files


@needs_root
def others_may_what_the_last_digit_says(folder: Path) -> None:
    """Who is neither owner nor in the group. (POSIX file access permissions)"""
    for mode, allowed in ((0o770, ""), (0o774, "r"), (0o772, "w"), (0o776, "rw"), (0o775, "rx")):
        assert _may(_owned(made(folder / f"{mode:o}"), mode)) == allowed


@needs_root
def the_group_may_what_the_middle_digit_says(folder: Path) -> None:
    """Who is in the file's group by its effective group. (POSIX file access permissions)"""
    for mode, allowed in ((0o707, ""), (0o747, "r"), (0o727, "w"), (0o757, "rx")):
        assert _may(_owned(made(folder / f"{mode:o}"), mode, gid=GROUP)) == allowed


@needs_root
def supplementary_groups_count(folder: Path) -> None:
    """Who is in the file's group by a supplementary group, of many. (POSIX file access permissions)"""
    path = _owned(made(folder / "file"), 0o760, gid=OTHER_GROUP)
    assert _may(path) == ""
    assert _may(path, groups=(OTHER_GROUP,)) == "rw"
    assert _may(path, groups=(*range(60000, 60040), OTHER_GROUP)) == "rw"


@needs_root
def the_owner_may_what_the_first_digit_says(folder: Path) -> None:
    """Also when group and others may more. (POSIX file access permissions)"""
    for mode, allowed in ((0o077, ""), (0o477, "r"), (0o277, "w"), (0o777, "rwx")):
        assert _may(_owned(made(folder / f"{mode:o}"), mode, uid=USER, gid=GROUP)) == allowed


@needs_root
def root_may_everything(folder: Path) -> None:
    """Root reads and writes files with mode 0, and executes where anybody may. (POSIX file access permissions)"""
    path = _owned(made(folder / "file", b"content"), 0, uid=USER)
    assert path.read_bytes() == b"content"
    assert not os.access(path, os.X_OK)
    os.chmod(path, 0o100)
    assert os.access(path, os.R_OK | os.W_OK | os.X_OK)


@needs_root
def permissions_count_when_the_file_is_opened(folder: Path) -> None:
    """A descriptor goes on after the mode is taken away. (POSIX open)"""
    _owned(made(folder / "file", b"content"), 0o600, uid=USER)

    def work() -> bytes:
        with opened(folder / "file", os.O_RDWR) as fd:
            os.chmod(folder / "file", 0)
            os.write(fd, b"C")
            with error(errno.EACCES):
                os.open(folder / "file", os.O_RDONLY)
            return os.pread(fd, 100, 0)

    assert as_user(work) == b"Content"


@needs_root
def a_change_of_mode_counts_at_once(folder: Path) -> None:
    """What chmod has allowed or taken away holds for the next open of any process. (POSIX chmod)"""
    path = _owned(made(folder / "file"), 0o600)
    for mode, allowed in ((0o606, "rw"), (0o604, "r"), (0o600, ""), (0o602, "w")):
        os.chmod(path, mode)
        assert _may(path) == allowed


@needs_root
def o_trunc_needs_write_permission(folder: Path) -> None:
    """O_TRUNC with O_RDONLY too, and truncate(): EACCES, and the content stays. (open(2))"""
    _owned(made(folder / "file", b"content"), 0o644)
    for cut in (lambda: os.open(folder / "file", os.O_RDONLY | os.O_TRUNC), lambda: os.truncate(folder / "file", 0)):
        with error(errno.EACCES):
            as_user(cut)
    assert (folder / "file").read_bytes() == b"content"


@needs_root
def o_path_open_again_asks_for_permission(folder: Path) -> None:
    """O_PATH needs none; opening /proc/self/fd/N for reading does. (open(2))"""
    _owned(made(folder / "file"), 0o600)

    def work() -> None:
        with opened(folder / "file", os.O_PATH) as fd, error(errno.EACCES):
            os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)

    as_user(work)


# -- access


def access_tells_what_exists(folder: Path) -> None:
    """F_OK is whether the path leads somewhere. (POSIX access)"""
    made(folder / "file")
    os.symlink("none", folder / "dangling")
    assert os.access(folder / "file", os.F_OK)
    assert not [name for name in ("none", "dangling", "file/x") if os.access(folder / name, os.F_OK)]


@needs_root
def access_tells_what_the_mode_allows(folder: Path) -> None:
    """R_OK, W_OK and X_OK, alone and together. (POSIX access)"""
    path = _owned(made(folder / "file"), 0o705)
    asked = (os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.X_OK, os.R_OK | os.W_OK)
    assert as_user(lambda: [os.access(path, mode) for mode in asked]) == [True, False, True, True, False]


@needs_root
def access_asks_for_the_real_user(folder: Path) -> None:
    """access() is by the real user, AT_EACCESS and open() by the effective one. (POSIX access)"""
    path = _owned(made(folder / "file"), 0o600, uid=USER)

    def work() -> list[bool]:
        os.setresuid(USER, OTHER_USER, 0)
        return [os.access(path, os.R_OK), os.access(path, os.R_OK, effective_ids=True)]

    assert in_child(work) == [True, False]


# -- folders


@needs_root
def passing_through_a_folder_needs_x(folder: Path) -> None:
    """Without x nothing below is reached, whatever its mode: EACCES. (POSIX path resolution)"""
    made(made_folder(folder / "sub") / "file").chmod(0o666)
    (folder / "sub").chmod(0o766)
    for call in (os.stat, lambda path: os.open(path, os.O_RDONLY), os.unlink):
        with error(errno.EACCES):
            as_user(call, folder / "sub" / "file")
    (folder / "sub").chmod(0o711)
    assert as_user(os.stat, folder / "sub" / "file").st_size == 0


@needs_root
def listing_a_folder_needs_r(folder: Path) -> None:
    """With x alone what one knows can be opened and nothing be listed; with r alone the reverse. (POSIX opendir)"""
    made(made_folder(folder / "sub", 0o711) / "file")
    with error(errno.EACCES):
        as_user(os.listdir, folder / "sub")
    (folder / "sub").chmod(0o744)
    assert as_user(os.listdir, folder / "sub") == ["file"]
    with error(errno.EACCES):
        as_user(os.chdir, folder / "sub")


_CREATIONS: list[Callable[[Path], object]] = [
    lambda path: os.open(path, CREATE),
    os.mkdir,
    lambda path: os.symlink("target", path),
    os.mkfifo,
    lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
]


@needs_root
def making_a_name_needs_w_and_x_of_the_folder(folder: Path) -> None:
    """Files, folders, symlinks, FIFOs and sockets: EACCES, and nothing is made. (POSIX open)"""
    for mode in (0o755, 0o756):
        place = made_folder(folder / f"{mode:o}", mode)
        for create in _CREATIONS:
            with error(errno.EACCES):
                as_user(create, place / "new")
        assert os.listdir(place) == []


@needs_root
def removing_a_name_needs_w_of_the_folder(folder: Path) -> None:
    """The owner of a file in another's folder cannot remove it: EACCES. (POSIX unlink)"""
    _owned(made(folder / "file"), 0o777, uid=USER)
    _owned(made_folder(folder / "sub"), 0o777, uid=USER)
    with error(errno.EACCES):
        as_user(os.unlink, folder / "file")
    with error(errno.EACCES):
        as_user(os.rmdir, folder / "sub")


@needs_root
def removing_a_name_needs_nothing_of_the_file(folder: Path) -> None:
    """Who may write a folder removes others' files in it. (POSIX unlink)"""
    folder.chmod(0o777)
    made(folder / "file").chmod(0)
    as_user(os.unlink, folder / "file")
    assert missing(folder / "file")


@needs_root
def renaming_needs_w_of_both_folders(folder: Path) -> None:
    """EACCES where either may not be written. (POSIX rename)"""
    made(made_folder(folder / "own", 0o777) / "file")
    made(made_folder(folder / "others", 0o755) / "file")
    for old, new in (("own/file", "others/new"), ("others/file", "own/new")):
        with error(errno.EACCES):
            as_user(os.rename, folder / old, folder / new)


@needs_root
def a_folder_that_moves_must_be_writable_itself(folder: Path) -> None:
    """Moving another's folder to another parent changes its `..`: EACCES without w on it. (rename(2))"""
    made_folder(made_folder(folder / "from", 0o777) / "sub", 0o755)
    made_folder(folder / "to", 0o777)
    with error(errno.EACCES):
        as_user(os.rename, folder / "from" / "sub", folder / "to" / "sub")
    as_user(os.rename, folder / "from" / "sub", folder / "from" / "other")


@needs_root
def group_permission_on_a_folder_counts(folder: Path) -> None:
    """A supplementary group lets its members make names in a folder of mode 0770. (POSIX file access permissions)"""
    _owned(made_folder(folder / "team"), 0o770, gid=OTHER_GROUP)
    with error(errno.EACCES):
        as_user(made, folder / "team" / "file")
    as_user(made, folder / "team" / "file", b"content", groups=(OTHER_GROUP,))
    assert (folder / "team" / "file").read_bytes() == b"content"


# -- sticky folders


def _sticky(folder: Path) -> Path:
    """A folder as /tmp is, with a file of USER's."""
    place = made_folder(folder / "tmp", 0o1777)
    _owned(made(place / "file"), 0o666, uid=USER)
    return place


@needs_root
def in_a_sticky_folder_others_cannot_remove(folder: Path) -> None:
    """Neither unlink nor rename of another's file: EPERM. (POSIX unlink)"""
    place = _sticky(folder)
    with error(errno.EPERM):
        as_user(os.unlink, place / "file", uid=OTHER_USER)
    with error(errno.EPERM):
        as_user(os.rename, place / "file", place / "other", uid=OTHER_USER)


@needs_root
def in_a_sticky_folder_others_cannot_replace(folder: Path) -> None:
    """Renaming an own file over another's is EPERM. (POSIX rename)"""
    place = _sticky(folder)
    _owned(made(place / "own"), 0o666, uid=OTHER_USER)
    with error(errno.EPERM):
        as_user(os.rename, place / "own", place / "file", uid=OTHER_USER)


@needs_root
def in_a_sticky_folder_others_cannot_remove_folders(folder: Path) -> None:
    """rmdir of another's empty folder is EPERM. (POSIX rmdir)"""
    place = _sticky(folder)
    _owned(made_folder(place / "sub"), 0o777, uid=USER)
    with error(errno.EPERM):
        as_user(os.rmdir, place / "sub", uid=OTHER_USER)
    as_user(os.rmdir, place / "sub", uid=USER)


@needs_root
def in_a_sticky_folder_the_owner_of_the_file_may(folder: Path) -> None:
    """Who owns the file renames and removes it. (POSIX unlink)"""
    place = _sticky(folder)
    as_user(os.rename, place / "file", place / "other")
    as_user(os.unlink, place / "other")
    assert os.listdir(place) == []


@needs_root
def in_a_sticky_folder_the_owner_of_the_folder_may(folder: Path) -> None:
    """Who owns the folder removes others' files. (POSIX unlink)"""
    place = _sticky(folder)
    os.chown(place, OTHER_USER, -1)
    as_user(os.unlink, place / "file", uid=OTHER_USER)
    assert os.listdir(place) == []


# -- times


@needs_root
def setting_times_is_for_the_owner(folder: Path) -> None:
    """Given times are EPERM for others, also where they may write. (POSIX utimensat)"""
    _owned(made(folder / "file"), 0o666, uid=OTHER_USER)
    with error(errno.EPERM):
        as_user(os.utime, folder / "file", (1, 2))
    as_user(os.utime, folder / "file", (1, 2), uid=OTHER_USER)
    assert os.stat(folder / "file").st_mtime == 2


@needs_root
def touching_needs_write_permission(folder: Path) -> None:
    """Now as both times needs the right to write; without it EACCES. (POSIX utimensat)"""
    _owned(made(folder / "file"), 0o666, uid=OTHER_USER)
    os.utime(folder / "file", (1, 2))
    as_user(os.utime, folder / "file")
    assert os.stat(folder / "file").st_mtime > 10**9
    os.chmod(folder / "file", 0o644)
    with error(errno.EACCES):
        as_user(os.utime, folder / "file")
