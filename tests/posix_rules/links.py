"""link: one file under several names."""

import errno
import os
import stat
from pathlib import Path

from support import error

from posix_rules.calls import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, linkat
from posix_rules.files import CREATE, bits, ino, made, made_folder, missing, moved, opened
from posix_rules.processes import as_user, needs_root


def link_gives_a_second_name(folder: Path) -> None:
    """Both names lead to one inode, with one content. (POSIX link)"""
    made(folder / "one", b"content")
    os.link(folder / "one", folder / "two")
    assert ino(folder / "one") == ino(folder / "two")
    assert (folder / "two").read_bytes() == b"content"
    assert sorted(os.listdir(folder)) == ["one", "two"]


def link_counts_the_names(folder: Path) -> None:
    """nlink is the number of names, seen through each. (POSIX link)"""
    made(folder / "one")
    for number, name in enumerate(("two", "three"), 2):
        os.link(folder / "one", folder / name)
        assert os.stat(folder / "one").st_nlink == os.stat(folder / name).st_nlink == number


def link_works_across_folders(folder: Path) -> None:
    """The second name may be in another folder. (POSIX link)"""
    made(folder / "one", b"content")
    (folder / "sub").mkdir()
    os.link(folder / "one", folder / "sub" / "two")
    assert (folder / "sub" / "two").read_bytes() == b"content"
    assert ino(folder / "sub" / "two") == ino(folder / "one")


def unlink_of_one_name_leaves_the_other(folder: Path) -> None:
    """The file goes with its last name, whichever came first. (POSIX unlink)"""
    made(folder / "one", b"content")
    os.link(folder / "one", folder / "two")
    (folder / "one").unlink()
    assert missing(folder / "one")
    assert (folder / "two").read_bytes() == b"content"
    assert os.stat(folder / "two").st_nlink == 1


def writes_through_one_name_are_read_through_the_other(folder: Path) -> None:
    """Content and size are the file's, not the name's. (POSIX link)"""
    made(folder / "one", b"content")
    os.link(folder / "one", folder / "two")
    with opened(folder / "one", os.O_WRONLY) as fd:
        os.write(fd, b"C")
        os.pwrite(fd, b"s", 7)
        assert (folder / "two").read_bytes() == b"Contents"
    assert os.stat(folder / "two").st_size == 8


def attributes_are_those_of_all_names(folder: Path) -> None:
    """chmod and utime through one name are seen through the other. (POSIX link)"""
    made(folder / "one")
    os.link(folder / "one", folder / "two")
    os.chmod(folder / "two", 0o640)
    os.utime(folder / "two", ns=(1, 2))
    assert (bits(folder / "one"), os.stat(folder / "one").st_mtime_ns) == (0o640, 2)


def link_while_open(folder: Path) -> None:
    """An open file can be linked; what is written later is read through the new name. (POSIX link)"""
    with opened(folder / "one") as fd:
        os.write(fd, b"one ")
        os.link(folder / "one", folder / "two")
        os.write(fd, b"two")
        assert os.fstat(fd).st_nlink == 2
    assert (folder / "two").read_bytes() == b"one two"


def link_keeps_an_open_file_that_loses_a_name(folder: Path) -> None:
    """An open file that loses one of its names is no orphan. (POSIX unlink)"""
    made(folder / "one", b"content")
    os.link(folder / "one", folder / "two")
    with opened(folder / "one", os.O_RDWR) as fd:
        (folder / "one").unlink()
        assert os.fstat(fd).st_nlink == 1
        os.write(fd, b"C")
    assert (folder / "two").read_bytes() == b"Content"


def link_refuses_a_name_that_exists(folder: Path) -> None:
    """EEXIST for a file, a folder and a dangling symlink. (POSIX link)"""
    made(folder / "one")
    made(folder / "file")
    (folder / "sub").mkdir()
    os.symlink("none", folder / "dangling")
    for name in ("one", "file", "sub", "dangling"):
        with error(errno.EEXIST):
            os.link(folder / "one", folder / name)


def link_refuses_folders(folder: Path) -> None:
    """A folder cannot be linked: EPERM. (POSIX link)"""
    (folder / "sub").mkdir()
    with error(errno.EPERM):
        os.link(folder / "sub", folder / "other")


def link_needs_what_it_links(folder: Path) -> None:
    """A missing file or folder is ENOENT, a file in the path ENOTDIR. (POSIX link)"""
    made(folder / "file")
    cases = (("none", "new", errno.ENOENT), ("file", "none/new", errno.ENOENT), ("file", "file/new", errno.ENOTDIR))
    for old, new, number in cases:
        with error(number):
            os.link(folder / old, folder / new)


def link_of_a_symlink_is_the_symlink(folder: Path) -> None:
    """linkat() without flags links the symlink itself, also a dangling one. (link(2))"""
    os.symlink("none", folder / "link")
    linkat(AT_FDCWD, folder / "link", folder / "second", 0)
    assert ino(folder / "second") == ino(folder / "link")
    assert os.readlink(folder / "second") == "none"
    assert os.lstat(folder / "link").st_nlink == 2


def link_with_symlink_follow_is_the_target(folder: Path) -> None:
    """AT_SYMLINK_FOLLOW links what the symlink points to. (POSIX linkat)"""
    made(folder / "file", b"content")
    os.symlink("file", folder / "link")
    linkat(AT_FDCWD, folder / "link", folder / "second", AT_SYMLINK_FOLLOW)
    assert ino(folder / "second") == ino(folder / "file")


def link_of_an_open_file_through_proc(folder: Path) -> None:
    """linkat() of /proc/self/fd/N names the open file again. (linkat(2))"""
    with opened(made(folder / "one", b"content"), os.O_RDONLY) as fd:
        linkat(AT_FDCWD, f"/proc/self/fd/{fd}", folder / "two", AT_SYMLINK_FOLLOW)
    assert ino(folder / "one") == ino(folder / "two")


@needs_root
def link_of_a_descriptor(folder: Path) -> None:
    """AT_EMPTY_PATH links the file of a descriptor. (linkat(2))"""
    with opened(made(folder / "one", b"content"), os.O_RDONLY) as fd:
        linkat(fd, "", folder / "two", AT_EMPTY_PATH)
    assert ino(folder / "one") == ino(folder / "two")


def link_of_special_files(folder: Path) -> None:
    """A FIFO can have two names. (POSIX link)"""
    os.mkfifo(folder / "fifo")
    os.link(folder / "fifo", folder / "second")
    assert stat.S_ISFIFO(os.stat(folder / "second").st_mode)
    assert ino(folder / "fifo") == ino(folder / "second")


def link_and_unlink_move_ctime(folder: Path) -> None:
    """A change of the number of names marks the file's ctime and nothing else. (POSIX link)"""
    made(folder / "one")
    assert moved(folder / "one", lambda: os.link(folder / "one", folder / "two")) == {"ctime"}
    assert moved(folder / "one", (folder / "two").unlink) == {"ctime"}


def link_moves_mtime_of_the_folder(folder: Path) -> None:
    """The folder that gets the name is marked, not the other. (POSIX link)"""
    made(folder / "one")
    (folder / "sub").mkdir()
    assert moved(folder / "sub", lambda: os.link(folder / "one", folder / "sub" / "two")) == {"mtime", "ctime"}
    assert moved(folder, lambda: os.link(folder / "one", folder / "sub" / "three")) == set()


def rename_onto_another_name_of_the_same_file_does_nothing(folder: Path) -> None:
    """rename() of two names of one file succeeds and leaves both. (POSIX rename)"""
    made(folder / "one", b"content")
    os.link(folder / "one", folder / "two")
    os.rename(folder / "one", folder / "two")
    assert sorted(os.listdir(folder)) == ["one", "two"]
    assert os.stat(folder / "one").st_nlink == 2


def rename_over_one_of_two_names(folder: Path) -> None:
    """What rename() replaces loses one name and lives on under the other. (POSIX rename)"""
    made(folder / "one", b"content")
    os.link(folder / "one", folder / "two")
    made(folder / "new", b"newer")
    os.rename(folder / "new", folder / "one")
    assert ((folder / "one").read_bytes(), (folder / "two").read_bytes()) == (b"newer", b"content")
    assert os.stat(folder / "two").st_nlink == 1


def link_makes_a_lock_file(folder: Path) -> None:
    """Of many who link() their own file to one name, one succeeds: nlink 2 tells who. (POSIX link)"""
    for name in ("a", "b"):
        made(folder / name)
    os.link(folder / "a", folder / "lock")
    with error(errno.EEXIST):
        os.link(folder / "b", folder / "lock")
    assert (os.stat(folder / "a").st_nlink, os.stat(folder / "b").st_nlink) == (2, 1)


@needs_root
def link_needs_write_permission_of_the_folder(folder: Path) -> None:
    """EACCES where the folder may not be written. (POSIX link)"""
    made(folder / "one").chmod(0o666)
    made_folder(folder / "sub", 0o755)
    with error(errno.EACCES):
        as_user(os.link, folder / "one", folder / "sub" / "two")


def a_hundred_names(folder: Path) -> None:
    """One file may have many names, listed one by one with the same inode number. (POSIX link)"""
    with opened(folder / "0", CREATE):
        for number in range(1, 100):
            os.link(folder / "0", folder / str(number))
    with os.scandir(folder) as entries:
        assert {entry.inode() for entry in entries} == {ino(folder / "0")}
    assert os.stat(folder / "99").st_nlink == 100
