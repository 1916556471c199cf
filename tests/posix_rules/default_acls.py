"""Default access control lists of folders, and what is made below them."""

import os
from pathlib import Path

from posix_rules.calls import linkat
from posix_rules.files import bits, made, made_folder, opened, umask
from posix_rules.lists import ACCESS, DEFAULT, acl, list_of
from posix_rules.processes import USER

_HERE, _FOLLOW = -100, 0x400
"""AT_FDCWD, AT_SYMLINK_FOLLOW"""


def a_default_list_is_kept(folder: Path) -> None:
    """Also one of three entries; it moves no bit of the folder's mode. (acl(5))"""
    made_folder(folder / "sub", 0o750)
    for wanted in (acl(7, 0, 7), acl(7, 5, 0, users={USER: 7}, mask=7)):
        os.setxattr(folder / "sub", DEFAULT, wanted)
        assert (list_of(folder / "sub", DEFAULT), list_of(folder / "sub"), bits(folder / "sub")) == (
            wanted,
            None,
            0o750,
        )
    os.chmod(folder / "sub", 0o777)
    assert list_of(folder / "sub", DEFAULT) == wanted


def a_file_inherits_a_default_list(folder: Path) -> None:
    """As its access list, without what its mode lacks; the umask does not count. (acl(5))"""
    os.setxattr(folder, DEFAULT, acl(7, 5, 4, users={USER: 7}, mask=7))
    with umask(0o077), opened(folder / "file", mode=0o664):
        assert bits(folder / "file") == 0o664
    assert list_of(folder / "file") == acl(6, 5, 4, users={USER: 7}, mask=6)
    assert list_of(folder / "file", DEFAULT) is None


def a_folder_inherits_both_lists(folder: Path) -> None:
    """As its access list, and as it stands as its default list; so on below. (acl(5))"""
    default = acl(7, 5, 4, users={USER: 7}, mask=7)
    os.setxattr(folder, DEFAULT, default)
    with umask(0o077):
        (folder / "sub" / "deeper").mkdir(0o770, parents=True)
    assert list_of(folder / "sub") == acl(7, 5, 4, users={USER: 7}, mask=7)
    assert bits(folder / "sub") == 0o774
    for path in (folder / "sub", folder / "sub" / "deeper"):
        assert list_of(path, DEFAULT) == default
    assert list_of(folder / "sub" / "deeper") == acl(7, 5, 0, users={USER: 7}, mask=7)


def a_minimal_default_list_gives_a_mode(folder: Path) -> None:
    """What is made has no list, and the mode that both allow. (acl(5))"""
    os.setxattr(folder, DEFAULT, acl(6, 5, 0))
    with umask(0o777), opened(folder / "file", mode=0o777):
        assert (bits(folder / "file"), list_of(folder / "file")) == (0o650, None)
    (folder / "sub").mkdir(0o755)
    assert (bits(folder / "sub"), list_of(folder / "sub")) == (0o650, None)
    assert list_of(folder / "sub", DEFAULT) == acl(6, 5, 0)


def fifos_inherit_a_default_list(folder: Path) -> None:
    """What mknod() makes too. (acl(5))"""
    os.setxattr(folder, DEFAULT, acl(7, 5, 4, users={USER: 2}, mask=7))
    with umask(0o077):
        os.mkfifo(folder / "fifo", 0o666)
    assert list_of(folder / "fifo") == acl(6, 5, 4, users={USER: 2}, mask=6)


def symlinks_inherit_nothing(folder: Path) -> None:
    """Their mode is 0777. (acl(5))"""
    os.setxattr(folder, DEFAULT, acl(7, 0, 0, users={USER: 2}, mask=7))
    os.symlink("nowhere", folder / "link")
    assert bits(folder / "link") == 0o777


def nameless_files_inherit_a_default_list(folder: Path) -> None:
    """O_TMPFILE makes a file in a folder too, and the name that it gets later brings no other. (open(2))"""
    os.setxattr(folder, DEFAULT, acl(7, 5, 4, users={USER: 7}, mask=7))
    other = made_folder(folder / "other")
    os.setxattr(other, DEFAULT, acl(7, 0, 0))
    with umask(0o077), opened(folder, os.O_TMPFILE | os.O_RDWR, 0o660) as fd:
        assert list_of(fd) == acl(6, 5, 0, users={USER: 7}, mask=6)
        linkat(_HERE, f"/proc/self/fd/{fd}", other / "named", _FOLLOW)
    assert list_of(other / "named") == acl(6, 5, 0, users={USER: 7}, mask=6)


def what_is_moved_in_inherits_nothing(folder: Path) -> None:
    """rename() and link() keep what the inode has. (acl(5))"""
    sub = made_folder(folder / "sub")
    os.setxattr(sub, DEFAULT, acl(7, 0, 0, users={USER: 7}, mask=7))
    made(folder / "file").chmod(0o644)
    os.link(folder / "file", sub / "linked")
    os.rename(folder / "file", sub / "moved")
    for path in (sub / "linked", sub / "moved"):
        assert (bits(path), list_of(path)) == (0o644, None)


def without_a_default_list_the_umask_counts(folder: Path) -> None:
    """An access list of the folder, and one that was removed, change nothing. (acl(5))"""
    sub = made_folder(folder / "sub")
    os.setxattr(sub, ACCESS, acl(7, 7, 7, users={USER: 7}, mask=7))
    os.setxattr(sub, DEFAULT, acl(7, 7, 7))
    os.removexattr(sub, DEFAULT)
    with umask(0o027), opened(sub / "file", mode=0o666):
        assert (bits(sub / "file"), list_of(sub / "file")) == (0o640, None)


def a_default_list_lets_nobody_in(folder: Path) -> None:
    """It is for what is made below alone. (acl(5))"""
    folder.chmod(0o711)
    os.setxattr(made_folder(folder / "sub", 0o700), DEFAULT, acl(7, 7, 7))
    assert bits(folder / "sub") == 0o700


def setgid_and_a_default_list_go_together(folder: Path) -> None:
    """A folder hands on its group, the bit to folders, and its default list. (acl(5))"""
    sub = made_folder(folder / "sub")
    os.setxattr(sub, DEFAULT, acl(7, 5, 0, users={USER: 7}, mask=7))
    os.chmod(sub, 0o2755)
    (sub / "deeper").mkdir(0o777)
    assert bits(sub / "deeper") == 0o2770
    assert list_of(sub / "deeper") == acl(7, 5, 0, users={USER: 7}, mask=7)
