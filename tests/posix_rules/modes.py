"""chmod, chown and umask: modes and owners, set-id bits that are cleared, and groups that folders hand on."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from support import error

from posix_rules.calls import fallocate
from posix_rules.files import CREATE, bits, made, made_folder, opened, tick, umask
from posix_rules.memory import PAGE, Mapping
from posix_rules.processes import GROUP, OTHER_GROUP, OTHER_USER, USER, as_user, needs_root

# -- chmod


def chmod_sets_every_bit(folder: Path) -> None:
    """All twelve bits are kept, on files and folders. (POSIX chmod)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    for name in ("file", "sub"):
        for mode in (0, 0o1, 0o20, 0o400, 0o777, 0o1755, 0o2755, 0o4755, 0o7777):
            os.chmod(folder / name, mode)
            assert bits(folder / name) == mode


def chmod_keeps_the_type(folder: Path) -> None:
    """Type bits in the mode are not looked at. (chmod(2))"""
    made(folder / "file")
    os.chmod(folder / "file", 0o040600)
    assert os.stat(folder / "file").st_mode == 0o100600


def fchmod_changes_the_open_file(folder: Path) -> None:
    """By a descriptor for reading too; the descriptor keeps its access. (POSIX fchmod)"""
    with opened(made(folder / "file", b"content"), os.O_RDONLY) as fd:
        os.fchmod(fd, 0o200)
        assert bits(folder / "file") == os.fstat(fd).st_mode & 0o7777 == 0o200
        assert os.read(fd, 100) == b"content"


def chmod_of_a_missing_name_is_refused(folder: Path) -> None:
    """ENOENT; below a file ENOTDIR. (POSIX chmod)"""
    made(folder / "file")
    for name, number in (("none", errno.ENOENT), ("file/x", errno.ENOTDIR)):
        with error(number):
            os.chmod(folder / name, 0o600)


def chmod_while_open_for_writing_stays(folder: Path) -> None:
    """Writing and closing afterwards do not bring the former mode back. (POSIX chmod)"""
    with opened(folder / "file", CREATE, 0o644) as fd:
        os.write(fd, b"one")
        os.chmod(folder / "file", 0o600)
        os.write(fd, b"two")
    assert bits(folder / "file") == 0o600


@needs_root
def chmod_is_for_the_owner(folder: Path) -> None:
    """Others get EPERM, whatever the mode allows. (POSIX chmod)"""
    made(folder / "file").chmod(0o777)
    with error(errno.EPERM):
        as_user(os.chmod, folder / "file", 0o600)
    os.chown(folder / "file", USER, GROUP)
    as_user(os.chmod, folder / "file", 0o600)
    assert bits(folder / "file") == 0o600


@needs_root
def chmod_drops_setgid_of_a_foreign_group(folder: Path) -> None:
    """An owner who is not in the file's group cannot set S_ISGID: it is cleared without an error. (POSIX chmod)"""
    os.chown(made(folder / "file"), USER, OTHER_GROUP)
    as_user(os.chmod, folder / "file", 0o2755)
    assert bits(folder / "file") == 0o755
    as_user(os.chmod, folder / "file", 0o2755, groups=(OTHER_GROUP,))
    assert bits(folder / "file") == 0o2755


# -- chown


@needs_root
def chown_sets_owner_and_group(folder: Path) -> None:
    """Each is set, and -1 leaves one as it is. (POSIX chown)"""
    made(folder / "file")
    for owner, group, expected in ((1, 2, (1, 2)), (3, -1, (3, 2)), (-1, 4, (3, 4)), (-1, -1, (3, 4))):
        os.chown(folder / "file", owner, group)
        assert (os.stat(folder / "file").st_uid, os.stat(folder / "file").st_gid) == expected


@needs_root
def chown_takes_large_numbers(folder: Path) -> None:
    """User and group numbers have 32 bits. (POSIX chown)"""
    large = (1 << 32) - 2
    os.chown(made(folder / "file"), large, large - 1)
    assert (os.stat(folder / "file").st_uid, os.stat(folder / "file").st_gid) == (large, large - 1)


@needs_root
def fchown_changes_the_open_file(folder: Path) -> None:
    """By a descriptor for reading too. (POSIX fchown)"""
    with opened(made(folder / "file"), os.O_RDONLY) as fd:
        os.fchown(fd, USER, GROUP)
        assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == (USER, GROUP)


@needs_root
def chown_is_for_root(folder: Path) -> None:
    """An owner cannot give a file away: EPERM. (chown(2))"""
    os.chown(made(folder / "file"), USER, GROUP)
    for owner, group in ((OTHER_USER, -1), (-1, OTHER_GROUP)):
        with error(errno.EPERM):
            as_user(os.chown, folder / "file", owner, group)


@needs_root
def chown_to_an_own_group_is_for_the_owner(folder: Path) -> None:
    """An owner may choose any group that it is in, also a supplementary one. (POSIX chown)"""
    os.chown(made(folder / "file"), USER, GROUP)
    as_user(os.chown, folder / "file", -1, OTHER_GROUP, groups=(OTHER_GROUP,))
    assert os.stat(folder / "file").st_gid == OTHER_GROUP


# -- set-id bits that are cleared


@needs_root
def chown_by_the_owner_clears_set_ids(folder: Path) -> None:
    """S_ISUID and S_ISGID of an executable file go when its owner changes the group. (POSIX chown)"""
    os.chown(made(folder / "file"), USER, GROUP)
    os.chmod(folder / "file", 0o6755)
    as_user(os.chown, folder / "file", -1, OTHER_GROUP, groups=(OTHER_GROUP,))
    assert bits(folder / "file") == 0o755


@needs_root
def chown_by_root_clears_set_ids(folder: Path) -> None:
    """The same when root changes the owner. (chown(2))"""
    made(folder / "file").chmod(0o6755)
    os.chown(folder / "file", USER, GROUP)
    assert bits(folder / "file") == 0o755


@needs_root
def chown_of_nothing_clears_set_ids(folder: Path) -> None:
    """chown(-1, -1) is a chown: it takes the set-id bits of a file and moves its ctime. A folder keeps its bits.
    (chown(2))"""
    folder.chmod(0o777)
    path, sub = made(folder / "file"), made_folder(folder / "sub", 0o6775)
    os.chown(path, USER, GROUP)
    for chown in (lambda: as_user(os.chown, path, -1, -1), lambda: os.chown(path, -1, -1)):
        path.chmod(0o6755)
        before = path.stat().st_ctime_ns
        tick()
        chown()
        assert bits(path) == 0o755
        assert path.stat().st_ctime_ns > before
    os.chown(sub, -1, -1)
    assert bits(sub) == 0o6775


@needs_root
def chown_of_nothing_by_another_user(folder: Path) -> None:
    """chown(-1, -1) by somebody else changes no owner, and moves ctime; where it would take set-id bits it is EPERM.
    (chown(2))"""
    folder.chmod(0o777)
    path, sub = made(folder / "file"), made_folder(folder / "sub", 0o6775)
    for there, mode in ((path, 0o644), (path, 0o1666), (sub, 0o6775)):
        there.chmod(mode)
        before = there.stat().st_ctime_ns
        tick()
        as_user(os.chown, there, -1, -1)
        assert bits(there) == mode
        assert there.stat().st_ctime_ns > before
    for mode in (0o4644, 0o4755, 0o2755, 0o6755):
        path.chmod(mode)
        with error(errno.EPERM):
            as_user(os.chown, path, -1, -1)
        assert bits(path) == mode


@needs_root
def chown_keeps_setgid_without_group_execution(folder: Path) -> None:
    """S_ISGID without S_IXGRP asks for mandatory locking and stays. (chown(2))"""
    made(folder / "file").chmod(0o2644)
    os.chown(folder / "file", USER, GROUP)
    assert bits(folder / "file") == 0o2644


@needs_root
def chown_of_a_folder_keeps_its_bits(folder: Path) -> None:
    """Folders keep S_ISUID and S_ISGID. (chown(2))"""
    made_folder(folder / "sub", 0o6775)
    os.chown(folder / "sub", USER, GROUP)
    assert bits(folder / "sub") == 0o6775


def _written_by_a_user(folder: Path, mode: int, act: Callable[[int], object], groups: tuple[int, ...] = ()) -> int:
    """The mode of a file with `mode` after another user, who may write it, has called act(descriptor)."""
    os.chown(made(folder / "file", b"content"), OTHER_USER, OTHER_GROUP)
    os.chmod(folder / "file", mode)

    def work() -> None:
        with opened(folder / "file", os.O_RDWR) as fd:
            act(fd)

    as_user(work, groups=groups)
    return bits(folder / "file")


@needs_root
def write_clears_set_ids(folder: Path) -> None:
    """A write by an unprivileged process clears S_ISUID and S_ISGID. (POSIX write)"""
    assert _written_by_a_user(folder, 0o6777, lambda fd: os.write(fd, b"x")) == 0o777


@needs_root
def ftruncate_clears_set_ids(folder: Path) -> None:
    """So does a change of the size. (POSIX ftruncate)"""
    assert _written_by_a_user(folder, 0o6777, lambda fd: os.ftruncate(fd, 3)) == 0o777


@needs_root
def truncate_clears_set_ids(folder: Path) -> None:
    """So does truncate(), also to the size that the file has. (POSIX truncate)"""
    path = folder / "file"
    for size in (3, 7):
        assert _written_by_a_user(folder, 0o6777, lambda fd: os.truncate(path, size)) == 0o777  # noqa: B023


@needs_root
def o_trunc_clears_set_ids(folder: Path) -> None:
    """So does O_TRUNC. (POSIX open)"""
    path = folder / "file"
    assert _written_by_a_user(folder, 0o6777, lambda fd: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))) == 0o777


@needs_root
def fallocate_clears_set_ids(folder: Path) -> None:
    """So does fallocate(). (fallocate(2))"""
    assert _written_by_a_user(folder, 0o6777, lambda fd: fallocate(fd, 0, 0, 100)) == 0o777


@needs_root
def write_keeps_setgid_without_group_execution(folder: Path) -> None:
    """S_ISUID goes; S_ISGID without S_IXGRP stays, where a member of the group writes. (inode(7))"""
    mode = _written_by_a_user(folder, 0o6767, lambda fd: os.write(fd, b"x"), groups=(OTHER_GROUP,))
    assert mode == 0o2767


@needs_root
def write_of_nothing_keeps_set_ids(folder: Path) -> None:
    """What does not change the file does not clear them. (POSIX write)"""
    assert _written_by_a_user(folder, 0o6777, lambda fd: (os.write(fd, b""), os.read(fd, 7))) == 0o6777


@needs_root
def write_by_root_keeps_set_ids(folder: Path) -> None:
    """A privileged process (CAP_FSETID) keeps them. (write(2))"""
    made(folder / "file").chmod(0o6777)
    with opened(folder / "file", os.O_RDWR) as fd:
        os.write(fd, b"content")
        with Mapping(fd, PAGE) as memory:
            memory.store(0, b"C")
    assert bits(folder / "file") == 0o6777


# -- new names


def umask_limits_new_names(folder: Path) -> None:
    """Files and folders are made with mode & ~umask. (POSIX umask)"""
    with umask(0o027):
        with opened(folder / "file", CREATE, 0o666):
            os.mkdir(folder / "sub", 0o777)
    assert [bits(folder / name) for name in ("file", "sub")] == [0o640, 0o750]


def umask_of_nothing_limits_nothing(folder: Path) -> None:
    """With umask 0 the mode is as asked for. (POSIX umask)"""
    with umask(0):
        with opened(folder / "file", CREATE, 0o666), opened(folder / "other", CREATE, 0o4777):
            os.mkdir(folder / "sub", 0o777)
    assert [bits(folder / name) for name in ("file", "other", "sub")] == [0o666, 0o4777, 0o777]


@needs_root
def new_names_belong_to_who_makes_them(folder: Path) -> None:
    """Owner and group are the process's effective ones: files, folders and symlinks. (POSIX open)"""
    folder.chmod(0o777)

    def make() -> None:
        made(folder / "file")
        os.mkdir(folder / "sub")
        os.symlink("target", folder / "link")

    as_user(make)
    owners = {(os.lstat(folder / name).st_uid, os.lstat(folder / name).st_gid) for name in os.listdir(folder)}
    assert owners == {(USER, GROUP)}


@needs_root
def setgid_folders_hand_on_their_group(folder: Path) -> None:
    """Below a folder with S_ISGID new names have its group, and new folders the bit as well. (inode(7))"""
    made_folder(folder / "shared")
    os.chown(folder / "shared", -1, OTHER_GROUP)
    os.chmod(folder / "shared", 0o2777)

    def make() -> None:
        made(folder / "shared" / "file")
        os.mkdir(folder / "shared" / "sub")
        os.symlink("target", folder / "shared" / "link")

    as_user(make)
    assert {os.lstat(folder / "shared" / name).st_gid for name in ("file", "sub", "link")} == {OTHER_GROUP}
    assert bits(folder / "shared" / "sub") & 0o2000
    assert not bits(folder / "shared" / "file") & 0o2000


@needs_root
def setgid_folders_hand_on_through_levels(folder: Path) -> None:
    """Folders below folders go on handing the group on; names that are moved there keep theirs. (inode(7))"""
    made_folder(folder / "shared")
    os.chown(folder / "shared", -1, OTHER_GROUP)
    os.chmod(folder / "shared", 0o2777)
    (folder / "shared" / "a" / "b").mkdir(parents=True)
    made(folder / "shared" / "a" / "b" / "file")
    made(folder / "moved")
    os.rename(folder / "moved", folder / "shared" / "moved")
    assert os.stat(folder / "shared" / "a" / "b" / "file").st_gid == OTHER_GROUP
    assert os.stat(folder / "shared" / "moved").st_gid == os.getegid()


@needs_root
def setgid_for_a_foreign_group_is_not_created(folder: Path) -> None:
    """A user who makes an executable file with S_ISGID in a folder that hands on a foreign group does not get the
    bit. (inode(7))"""
    made_folder(folder / "shared")
    os.chown(folder / "shared", -1, OTHER_GROUP)
    os.chmod(folder / "shared", 0o2777)
    as_user(lambda: os.close(os.open(folder / "shared" / "file", CREATE, 0o2775)))
    assert not bits(folder / "shared" / "file") & 0o2000
