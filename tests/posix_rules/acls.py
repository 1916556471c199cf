"""Access control lists: what they are with the mode, and who is let in by them."""

import errno
import os
import shutil
import stat
import struct
from pathlib import Path

from support import error

from posix_rules.files import bits, made, made_folder, moved, opened
from posix_rules.lists import ACCESS, DEFAULT, NAMED_USER, NOBODY, OWNER, acl, list_of
from posix_rules.processes import GROUP, OTHER_GROUP, OTHER_USER, USER, as_user, needs_root


def _may(path: Path, how: int, uid: int = USER, gid: int = GROUP, groups: tuple[int, ...] = ()) -> bool:
    return as_user(os.access, path, how, uid=uid, gid=gid, groups=groups)


# -- the list and the mode


def an_access_list_is_kept(folder: Path) -> None:
    """What was set is what is got, and it is listed by its name. (acl(5))"""
    wanted = acl(6, 4, 0, users={USER: 7, OTHER_USER: 0}, groups={GROUP: 5}, mask=7)
    os.setxattr(made(folder / "file"), ACCESS, wanted)
    assert list_of(folder / "file") == wanted
    assert ACCESS in os.listxattr(folder / "file")


def a_file_without_a_list_has_none(folder: Path) -> None:
    """ENODATA, and no name is listed. (getxattr(2))"""
    for path in (made(folder / "file"), made_folder(folder / "sub")):
        for name in (ACCESS, DEFAULT):
            with error(errno.ENODATA):
                os.getxattr(path, name)
        assert not {ACCESS, DEFAULT} & set(os.listxattr(path))


def a_list_sets_the_mode(folder: Path) -> None:
    """Owner and others get their entries' bits, the group bits are the mask; set-id and sticky bits stay. (acl(5))"""
    made(folder / "file").chmod(0o4777)
    os.setxattr(folder / "file", ACCESS, acl(6, 7, 1, users={USER: 7}, mask=5))
    assert bits(folder / "file") == 0o4651


def a_minimal_list_is_the_mode_alone(folder: Path) -> None:
    """A list of three entries sets the mode, and nothing else is kept. (acl(5))"""
    os.setxattr(made(folder / "file"), ACCESS, acl(7, 5, 1))
    assert bits(folder / "file") == 0o751
    assert list_of(folder / "file") is None


def a_minimal_list_takes_the_place_of_a_longer_one(folder: Path) -> None:
    """The longer one is gone. (acl(5))"""
    os.setxattr(made(folder / "file"), ACCESS, acl(7, 7, 7, users={USER: 7}, mask=7))
    os.setxattr(folder / "file", ACCESS, acl(6, 4, 0))
    assert (bits(folder / "file"), list_of(folder / "file")) == (0o640, None)


def a_mask_alone_is_kept(folder: Path) -> None:
    """A list with a mask is more than a mode, though it names nobody. (acl(5))"""
    wanted = acl(6, 6, 4, mask=4)
    os.setxattr(made(folder / "file"), ACCESS, wanted)
    assert (bits(folder / "file"), list_of(folder / "file")) == (0o644, wanted)


def removing_a_list_leaves_the_mode(folder: Path) -> None:
    """The group bits stay what the mask was. (removexattr(2))"""
    os.setxattr(made(folder / "file"), ACCESS, acl(6, 0, 0, users={USER: 7}, mask=7))
    os.removexattr(folder / "file", ACCESS)
    assert (bits(folder / "file"), list_of(folder / "file")) == (0o670, None)


def removing_a_list_that_is_not_there_succeeds(folder: Path) -> None:
    """As on every file system that keeps lists. (removexattr(2))"""
    os.removexattr(made(folder / "file"), ACCESS)
    os.removexattr(made_folder(folder / "sub"), DEFAULT)


def a_list_without_entries_is_none(folder: Path) -> None:
    """Setting one removes what is there. (setxattr(2))"""
    made_folder(folder / "sub")
    for name in (ACCESS, DEFAULT):
        for value in (b"", struct.pack("<I", 2)):
            os.setxattr(folder / "sub", name, acl(7, 5, 5, users={USER: 7}, mask=7))
            os.setxattr(folder / "sub", name, value)
            assert list_of(folder / "sub", name) is None


def chmod_changes_the_mask(folder: Path) -> None:
    """The group bits go to the mask, and named entries and the group's own stay. (acl(5))"""
    os.setxattr(made(folder / "file"), ACCESS, acl(6, 4, 4, users={USER: 7}, groups={GROUP: 3}, mask=7))
    os.chmod(folder / "file", 0o4712)
    assert bits(folder / "file") == 0o4712
    assert list_of(folder / "file") == acl(7, 4, 2, users={USER: 7}, groups={GROUP: 3}, mask=1)


def fchmod_changes_the_mask(folder: Path) -> None:
    """By a descriptor too. (acl(5))"""
    with opened(folder / "file") as fd:
        os.setxattr(fd, ACCESS, acl(6, 4, 4, users={USER: 7}, mask=7))
        os.fchmod(fd, 0o600)
        assert list_of(fd) == acl(6, 4, 0, users={USER: 7}, mask=0)


def chown_leaves_the_list(folder: Path) -> None:
    """Entries are for the owner, whoever that is. (chown(2))"""
    wanted = acl(6, 4, 4, users={USER: 7}, mask=7)
    os.setxattr(made(folder / "file"), ACCESS, wanted)
    os.chown(folder / "file", -1, os.getgid())
    assert list_of(folder / "file") == wanted


def a_list_moves_ctime(folder: Path) -> None:
    """Setting and removing are changes of the inode. (setxattr(2))"""
    path = made(folder / "file")
    assert moved(path, lambda: os.setxattr(path, ACCESS, acl(6, 4, 4, users={USER: 7}, mask=7))) == {"ctime"}
    assert moved(path, lambda: os.setxattr(path, ACCESS, acl(6, 4, 4))) == {"ctime"}


def a_list_goes_with_the_inode(folder: Path) -> None:
    """Other names have it, and a rename keeps it. (acl(5))"""
    wanted = acl(6, 4, 4, users={USER: 7}, mask=7)
    os.setxattr(made(folder / "file"), ACCESS, wanted)
    os.link(folder / "file", folder / "second")
    os.rename(folder / "file", folder / "first")
    assert list_of(folder / "first") == list_of(folder / "second") == wanted
    os.setxattr(folder / "first", ACCESS, acl(6, 4, 4))
    assert list_of(folder / "second") is None


def a_list_of_an_unlinked_file(folder: Path) -> None:
    """A descriptor keeps reaching it. (fsetxattr(2))"""
    wanted = acl(6, 4, 4, users={USER: 7}, mask=7)
    with opened(folder / "file") as fd:
        os.unlink(folder / "file")
        os.setxattr(fd, ACCESS, wanted)
        assert list_of(fd) == wanted
        os.fchmod(fd, 0o640)
        assert list_of(fd) == acl(6, 4, 0, users={USER: 7}, mask=4)


def special_files_have_lists(folder: Path) -> None:
    """A FIFO's rights are those of a file. (acl(5))"""
    os.mkfifo(folder / "fifo", 0o600)
    os.setxattr(folder / "fifo", ACCESS, acl(6, 0, 0, users={USER: 2}, mask=2))
    assert bits(folder / "fifo") == 0o620


def a_truncated_file_keeps_its_list(folder: Path) -> None:
    """Content and rights are apart. (truncate(2))"""
    wanted = acl(6, 4, 4, users={USER: 7}, mask=7)
    os.setxattr(made(folder / "file", b"content"), ACCESS, wanted)
    (folder / "file").write_bytes(b"other")
    os.truncate(folder / "file", 2)
    assert list_of(folder / "file") == wanted


def copies_keep_their_lists(folder: Path) -> None:
    """shutil.copy2() takes all extended attributes that it may along. (setxattr(2))"""
    wanted = acl(6, 4, 0, users={USER: 7}, mask=5)
    os.setxattr(made(folder / "file", b"content"), ACCESS, wanted)
    shutil.copy2(folder / "file", folder / "copy")
    assert (bits(folder / "copy"), list_of(folder / "copy")) == (0o650, wanted)


# -- what is refused


def invalid_lists_are_refused(folder: Path) -> None:
    """EINVAL: entries that are missing, twice, in another order or of another kind, and no mask. (setxattr(2))"""
    path, valid = made(folder / "file"), acl(6, 4, 4, users={USER: 7}, mask=7)
    entries = [valid[start : start + 8] for start in range(4, len(valid), 8)]
    owner, user, group, mask, other = entries
    for wrong in (
        [user, group, mask, other],
        [owner, user, mask, other],
        [owner, user, group, mask],
        [owner, user, group, other],
        [owner, group, user, mask, other],
        [owner, owner, user, group, mask, other],
        [owner, user, group, mask, mask, other],
        [struct.pack("<HHI", OWNER, 8, NOBODY), group, other],
        [struct.pack("<HHI", 64, 7, NOBODY), *entries],
        [owner, struct.pack("<HHI", NAMED_USER, 7, NOBODY), group, mask, other],
    ):
        with error(errno.EINVAL):
            os.setxattr(path, ACCESS, valid[:4] + b"".join(wrong))
    for cut in (valid[:-1], valid[:3]):
        with error(errno.EINVAL):
            os.setxattr(path, ACCESS, cut)
    assert (bits(path), list_of(path)) == (0o644, None)


def another_version_is_refused(folder: Path) -> None:
    """EOPNOTSUPP for a form that Linux does not know. (setxattr(2))"""
    with error(errno.EOPNOTSUPP):
        os.setxattr(made(folder / "file"), ACCESS, struct.pack("<I", 3) + acl(6, 4, 4)[4:])


def only_folders_have_a_default_list(folder: Path) -> None:
    """EACCES for anything else; it has none to be got either. (setxattr(2))"""
    with error(errno.EACCES):
        os.setxattr(made(folder / "file"), DEFAULT, acl(6, 4, 4))
    with error(errno.ENODATA):
        os.getxattr(folder / "file", DEFAULT)


def symlinks_have_no_list(folder: Path) -> None:
    """EOPNOTSUPP, as nobody asks for a symlink's rights. (acl(5))"""
    os.symlink("nowhere", folder / "link")
    with error(errno.EOPNOTSUPP):
        os.setxattr(folder / "link", ACCESS, acl(6, 4, 4), follow_symlinks=False)
    with error(errno.EOPNOTSUPP):
        os.getxattr(folder / "link", ACCESS, follow_symlinks=False)


@needs_root
def only_the_owner_sets_a_list(folder: Path) -> None:
    """EPERM, whatever the list itself allows; root may. (setxattr(2))"""
    folder.chmod(0o777)
    os.setxattr(made(folder / "file"), ACCESS, acl(7, 7, 7, users={USER: 7}, mask=7))
    for attempt in (lambda: os.setxattr(folder / "file", ACCESS, acl(6, 6, 6)),
                    lambda: os.removexattr(folder / "file", ACCESS)):  # fmt: skip
        with error(errno.EPERM):
            as_user(attempt)
    os.chown(folder / "file", USER, GROUP)
    as_user(os.setxattr, folder / "file", ACCESS, acl(6, 6, 6))
    assert bits(folder / "file") == 0o666


@needs_root
def who_is_not_in_the_group_loses_setgid(folder: Path) -> None:
    """As chmod() takes it: setting a list is setting the mode; a default list sets none. (chmod(2))"""
    for path, kind in ((made(folder / "file"), stat.S_IFREG), (made_folder(folder / "sub"), stat.S_IFDIR)):
        os.chown(path, USER, OTHER_GROUP)
        for value in (acl(7, 7, 5), acl(7, 7, 5, users={USER: 7}, mask=7)):
            os.chmod(path, 0o2775)
            as_user(os.setxattr, path, ACCESS, value, groups=(OTHER_GROUP,))
            assert bits(path) == 0o2775
            as_user(os.setxattr, path, ACCESS, value)
            assert bits(path) == 0o775
        if kind == stat.S_IFDIR:
            os.chmod(path, 0o2775)
            as_user(os.setxattr, path, DEFAULT, acl(7, 7, 5))
            assert bits(path) == 0o2775


# -- who is let in


@needs_root
def a_named_user_is_let_in(folder: Path) -> None:
    """By the entry with that number, and nobody else is. (acl(5))"""
    os.setxattr(made(folder / "file"), ACCESS, acl(6, 0, 0, users={USER: 6}, mask=6))
    assert _may(folder / "file", os.R_OK | os.W_OK)
    assert not _may(folder / "file", os.X_OK)
    assert not _may(folder / "file", os.R_OK, uid=OTHER_USER)
    as_user((folder / "file").write_bytes, b"by the user")
    assert as_user((folder / "file").read_bytes) == b"by the user"


@needs_root
def a_named_user_may_have_less_than_others(folder: Path) -> None:
    """The entry counts, though others have more. (acl(5))"""
    os.setxattr(made(folder / "file"), ACCESS, acl(6, 4, 6, users={USER: 0}, mask=7))
    assert not _may(folder / "file", os.R_OK)
    assert _may(folder / "file", os.R_OK | os.W_OK, uid=OTHER_USER)


@needs_root
def the_mask_limits_named_users_and_groups(folder: Path) -> None:
    """And the owning group, but neither owner nor others. (acl(5))"""
    os.chown(made(folder / "file"), OTHER_USER, OTHER_GROUP)
    os.setxattr(folder / "file", ACCESS, acl(7, 7, 7, users={USER: 7}, groups={GROUP + 5: 7}, mask=4))
    for uid, gid in ((USER, GROUP), (USER + 5, OTHER_GROUP), (USER + 5, GROUP + 5)):
        assert _may(folder / "file", os.R_OK, uid, gid)
        assert not _may(folder / "file", os.W_OK, uid, gid)
    assert _may(folder / "file", os.W_OK, OTHER_USER, GROUP)
    assert _may(folder / "file", os.W_OK, USER + 5, GROUP)


@needs_root
def a_named_group_is_let_in(folder: Path) -> None:
    """Members by their group or a supplementary one; one entry must allow all that is asked. (acl(5))"""
    value = acl(6, 0, 0, groups={GROUP: 4, OTHER_GROUP: 2}, mask=7)
    os.setxattr(made(folder / "file"), ACCESS, value)
    assert _may(folder / "file", os.R_OK)
    assert _may(folder / "file", os.R_OK, gid=GROUP + 5, groups=(GROUP,))
    assert not _may(folder / "file", os.R_OK, gid=GROUP + 5)
    assert not _may(folder / "file", os.R_OK | os.W_OK, groups=(OTHER_GROUP,))


@needs_root
def the_mode_of_a_group_is_not_its_right(folder: Path) -> None:
    """The group bits are the mask: what the owning group may is in its entry. (acl(5))"""
    os.chown(made(folder / "file"), OTHER_USER, GROUP)
    os.setxattr(folder / "file", ACCESS, acl(6, 0, 0, users={USER + 5: 6}, mask=6))
    assert bits(folder / "file") == 0o660
    assert not _may(folder / "file", os.R_OK)


@needs_root
def a_list_counts_at_once(folder: Path) -> None:
    """Also where the kernel has just asked for the one before. (acl(5))"""
    path = made(folder / "file")
    for allowed in (6, 0, 4, 6, 0):
        os.setxattr(path, ACCESS, acl(6, 0, 0, users={USER: allowed}, mask=7))
        assert _may(path, os.W_OK) == (allowed == 6)
        assert _may(path, os.R_OK) == (allowed >= 4)
    os.setxattr(path, ACCESS, acl(6, 0, 0, users={USER: 6}, mask=6))
    assert _may(path, os.W_OK)
    os.chmod(path, 0o640)
    assert not _may(path, os.W_OK)


@needs_root
def a_list_of_a_folder_lets_in(folder: Path) -> None:
    """To look names up, to list, and to make names. (acl(5))"""
    sub = made_folder(folder / "sub", 0o700)
    made(sub / "file")
    for allowed, what in ((1, os.X_OK), (4, os.R_OK), (3, os.W_OK | os.X_OK)):
        os.setxattr(sub, ACCESS, acl(7, 0, 0, users={USER: allowed}, mask=7))
        assert _may(sub, what)
        assert _may(sub / "file", os.F_OK) == bool(allowed & 1)
    as_user((sub / "new").touch)
    assert os.lstat(sub / "new").st_uid == USER
