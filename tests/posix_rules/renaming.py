"""rename in all its cases, with the flags of renameat2."""

import errno
import os
import stat
from pathlib import Path

from support import error

from posix_rules.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from posix_rules.files import CREATE, bits, ino, made, made_folder, missing, moved, opened, tick
from posix_rules.processes import child, in_child

# -- files


def rename_gives_another_name(folder: Path) -> None:
    """The file keeps its inode and content; the former name is gone. (POSIX rename)"""
    before = ino(made(folder / "old", b"content"))
    os.rename(folder / "old", folder / "new")
    assert (ino(folder / "new"), (folder / "new").read_bytes()) == (before, b"content")
    assert os.listdir(folder) == ["new"]


def rename_replaces_a_file(folder: Path) -> None:
    """The target's name leads to the renamed file, with its inode, mode and content. (POSIX rename)"""
    before = ino(made(folder / "old", b"content"))
    (folder / "old").chmod(0o640)
    made(folder / "new", b"something longer").chmod(0o600)
    os.rename(folder / "old", folder / "new")
    assert (ino(folder / "new"), bits(folder / "new")) == (before, 0o640)
    assert (folder / "new").read_bytes() == b"content"


def rename_to_itself_does_nothing(folder: Path) -> None:
    """The same path twice succeeds. (POSIX rename)"""
    made(folder / "file", b"content")
    os.rename(folder / "file", folder / "file")
    assert (folder / "file").read_bytes() == b"content"


def rename_works_across_folders(folder: Path) -> None:
    """The name moves from one folder to the other. (POSIX rename)"""
    made(made_folder(folder / "a") / "file", b"content")
    (folder / "b").mkdir()
    os.rename(folder / "a" / "file", folder / "b" / "other")
    assert (os.listdir(folder / "a"), os.listdir(folder / "b")) == ([], ["other"])
    assert (folder / "b" / "other").read_bytes() == b"content"


def rename_of_a_missing_name_is_refused(folder: Path) -> None:
    """A missing source, or a missing folder of either path, is ENOENT. (POSIX rename)"""
    made(folder / "file")
    for old, new in (("none", "new"), ("none/file", "new"), ("file", "none/new"), ("none", "file")):
        with error(errno.ENOENT):
            os.rename(folder / old, folder / new)
    assert os.listdir(folder) == ["file"]


def rename_through_a_file_is_refused(folder: Path) -> None:
    """A file where a folder of the path should be is ENOTDIR. (POSIX rename)"""
    made(folder / "file")
    made(folder / "other")
    for old, new in (("file/x", "new"), ("other", "file/x")):
        with error(errno.ENOTDIR):
            os.rename(folder / old, folder / new)


def rename_replaces_a_file_without_permissions(folder: Path) -> None:
    """What counts are the folders' modes. (POSIX rename)"""
    made(folder / "old", b"content").chmod(0)
    made(folder / "new").chmod(0)
    os.rename(folder / "old", folder / "new")
    (folder / "new").chmod(0o600)
    assert (folder / "new").read_bytes() == b"content"


def rename_never_leaves_the_target_without_a_name(folder: Path) -> None:
    """Whoever opens the target while it is being replaced finds the old or the new file, whole. (POSIX rename)"""
    made(folder / "file", b"a" * 1000)

    def replace() -> None:
        for number in range(20):
            made(folder / "temporary", bytes([97 + number % 2]) * 1000)
            os.rename(folder / "temporary", folder / "file")

    with child(lambda _: replace()) as process:
        while process.silent():
            assert (folder / "file").read_bytes() in (b"a" * 1000, b"b" * 1000)
        process.result()


# -- folders


def rename_of_a_folder_takes_its_entries_along(folder: Path) -> None:
    """Everything below has the new path, at once. (POSIX rename)"""
    (folder / "old" / "sub").mkdir(parents=True)
    made(folder / "old" / "sub" / "file", b"content")
    os.rename(folder / "old", folder / "new")
    assert (folder / "new" / "sub" / "file").read_bytes() == b"content"
    assert missing(folder / "old" / "sub" / "file")


def rename_replaces_an_empty_folder(folder: Path) -> None:
    """A folder may be renamed over an empty one. (POSIX rename)"""
    made(made_folder(folder / "old") / "file", b"content")
    (folder / "new").mkdir()
    os.rename(folder / "old", folder / "new")
    assert os.listdir(folder) == ["new"]
    assert (folder / "new" / "file").read_bytes() == b"content"


def rename_over_a_full_folder_is_refused(folder: Path) -> None:
    """ENOTEMPTY, and both stay. (rename(2))"""
    (folder / "old").mkdir()
    made(made_folder(folder / "new") / "file")
    with error(errno.ENOTEMPTY):
        os.rename(folder / "old", folder / "new")
    assert sorted(os.listdir(folder)) == ["new", "old"]


def rename_of_a_file_over_a_folder_is_refused(folder: Path) -> None:
    """EISDIR, also when the folder is empty. (POSIX rename)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    with error(errno.EISDIR):
        os.rename(folder / "file", folder / "sub")


def rename_of_a_folder_over_a_file_is_refused(folder: Path) -> None:
    """ENOTDIR for a file and for a symlink to a folder. (POSIX rename)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    (folder / "other").mkdir()
    os.symlink("other", folder / "link")
    for name in ("file", "link"):
        with error(errno.ENOTDIR):
            os.rename(folder / "sub", folder / name)


def rename_into_itself_is_refused(folder: Path) -> None:
    """A folder cannot move below itself: EINVAL, at any depth. (POSIX rename)"""
    (folder / "a" / "b" / "c").mkdir(parents=True)
    for new in ("a/x", "a/b/x", "a/b/c/x"):
        with error(errno.EINVAL):
            os.rename(folder / "a", folder / new)


def rename_over_the_folder_above_is_refused(folder: Path) -> None:
    """A folder cannot replace one that it is in: ENOTEMPTY. (rename(2))"""
    (folder / "a" / "b" / "c").mkdir(parents=True)
    made(folder / "a" / "file")
    for old in ("a/b", "a/b/c"):
        with error(errno.ENOTEMPTY):
            os.rename(folder / old, folder / "a")


def rename_of_dots_is_refused(folder: Path) -> None:
    """`.` and `..` as the last part are EBUSY on Linux. (rename(2))"""
    (folder / "sub").mkdir()
    for old, new in (("sub/.", "new"), ("sub/..", "new"), ("sub", "sub/.")):
        with error(errno.EBUSY):
            os.rename(f"{folder}/{old}", f"{folder}/{new}")


def rename_with_a_trailing_slash_is_for_folders(folder: Path) -> None:
    """A slash after a folder's new name is taken; after a file's it is ENOTDIR. (POSIX rename)"""
    made(folder / "file")
    (folder / "sub").mkdir()
    os.rename(f"{folder}/sub/", f"{folder}/moved/")
    for old, new in (("file", "new/"), ("file/", "new")):
        with error(errno.ENOTDIR):
            os.rename(f"{folder}/{old}", f"{folder}/{new}")
    assert sorted(os.listdir(folder)) == ["file", "moved"]


# -- while open


def rename_while_open_for_writing(folder: Path) -> None:
    """The descriptor follows the file. (POSIX rename)"""
    (folder / "sub").mkdir()
    with opened(folder / "old") as fd:
        os.write(fd, b"one ")
        os.rename(folder / "old", folder / "sub" / "new")
        os.write(fd, b"two")
        assert os.fstat(fd).st_ino == ino(folder / "sub" / "new")
    assert (folder / "sub" / "new").read_bytes() == b"one two"


def rename_while_open_keeps_the_descriptors_attributes(folder: Path) -> None:
    """fchmod() and ftruncate() change the file under its new name, not what has the former one. (POSIX rename)"""
    with opened(folder / "old", CREATE, 0o644) as fd:
        os.write(fd, b"content")
        os.rename(folder / "old", folder / "new")
        made(folder / "old", b"another")
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 3)
    assert (bits(folder / "new"), (folder / "new").read_bytes()) == (0o600, b"con")
    assert (bits(folder / "old"), (folder / "old").read_bytes()) == (0o644, b"another")


def rename_of_a_folder_while_a_file_in_it_is_open(folder: Path) -> None:
    """The descriptor goes on when a folder of its path is renamed. (POSIX rename)"""
    (folder / "old").mkdir()
    with opened(folder / "old" / "file") as fd:
        os.write(fd, b"one ")
        os.rename(folder / "old", folder / "new")
        os.write(fd, b"two")
        os.fchmod(fd, 0o600)
    assert (folder / "new" / "file").read_bytes() == b"one two"
    assert bits(folder / "new" / "file") == 0o600


def rename_of_an_open_folder(folder: Path) -> None:
    """A folder's descriptor follows it: what is made through it is under the new name. (POSIX rename)"""
    (folder / "old").mkdir()
    with opened(folder / "old", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rename(folder / "old", folder / "new")
        os.mkdir("below", dir_fd=fd)
        assert os.listdir(fd) == ["below"]
    assert os.listdir(folder / "new") == ["below"]


# -- times


def rename_moves_mtime_of_both_folders(folder: Path) -> None:
    """The folders that lose and get the name are marked. (POSIX rename)"""
    for name in ("a", "b"):
        (folder / name).mkdir()
    made(folder / "a" / "file")
    assert moved(folder / "a", lambda: os.rename(folder / "a" / "file", folder / "b" / "file")) == {"mtime", "ctime"}
    assert moved(folder / "b", lambda: os.rename(folder / "b" / "file", folder / "a" / "file")) == {"mtime", "ctime"}


def rename_moves_ctime_of_the_file(folder: Path) -> None:
    """On Linux the renamed file's ctime is marked; its mtime stays. (rename(2))"""
    made(folder / "old")
    before = os.stat(folder / "old")
    tick()
    os.rename(folder / "old", folder / "new")
    after = os.stat(folder / "new")
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


# -- renameat2


def rename_noreplace_refuses_to_replace(folder: Path) -> None:
    """RENAME_NOREPLACE of an existing target is EEXIST, whatever it is. (renameat2(2))"""
    made(folder / "file", b"content")
    made(folder / "other", b"other")
    (folder / "sub").mkdir()
    os.symlink("none", folder / "dangling")
    for name in ("other", "sub", "dangling", "file"):
        with error(errno.EEXIST):
            renameat2(folder / "file", folder / name, RENAME_NOREPLACE)
    assert (folder / "other").read_bytes() == b"other"


def rename_noreplace_renames(folder: Path) -> None:
    """RENAME_NOREPLACE to a free name is rename. (renameat2(2))"""
    made(made_folder(folder / "sub") / "file", b"content")
    renameat2(folder / "sub", folder / "moved", RENAME_NOREPLACE)
    assert (folder / "moved" / "file").read_bytes() == b"content"
    assert os.listdir(folder) == ["moved"]


def rename_exchange_exchanges_files(folder: Path) -> None:
    """RENAME_EXCHANGE gives each the other's name. (renameat2(2))"""
    one, two = ino(made(folder / "one", b"1")), ino(made(folder / "two", b"22"))
    renameat2(folder / "one", folder / "two", RENAME_EXCHANGE)
    assert (ino(folder / "one"), ino(folder / "two")) == (two, one)
    assert ((folder / "one").read_bytes(), (folder / "two").read_bytes()) == (b"22", b"1")


def rename_exchange_exchanges_a_file_and_a_full_folder(folder: Path) -> None:
    """Types may differ, and folders may be full; link counts of the folders above follow. (renameat2(2))"""
    made(made_folder(folder / "a") / "file", b"content")
    made(made_folder(made_folder(folder / "b") / "sub") / "below", b"below")
    renameat2(folder / "a" / "file", folder / "b" / "sub", RENAME_EXCHANGE)
    assert (folder / "a" / "file" / "below").read_bytes() == b"below"
    assert (folder / "b" / "sub").read_bytes() == b"content"
    assert (os.stat(folder / "a").st_nlink, os.stat(folder / "b").st_nlink) == (3, 2)


def rename_exchange_needs_both(folder: Path) -> None:
    """RENAME_EXCHANGE with a missing name is ENOENT. (renameat2(2))"""
    made(folder / "file")
    for old, new in (("file", "none"), ("none", "file")):
        with error(errno.ENOENT):
            renameat2(folder / old, folder / new, RENAME_EXCHANGE)
    assert os.listdir(folder) == ["file"]


def rename_exchange_into_itself_is_refused(folder: Path) -> None:
    """A folder cannot change places with what is below it: EINVAL. (renameat2(2))"""
    (folder / "a" / "b").mkdir(parents=True)
    for old, new in (("a", "a/b"), ("a/b", "a")):
        with error(errno.EINVAL):
            renameat2(folder / old, folder / new, RENAME_EXCHANGE)


def rename_flags_that_contradict_are_refused(folder: Path) -> None:
    """RENAME_NOREPLACE with RENAME_EXCHANGE, and unknown flags, are EINVAL. (renameat2(2))"""
    made(folder / "a")
    made(folder / "b")
    for flags in (RENAME_NOREPLACE | RENAME_EXCHANGE, 0x100):
        with error(errno.EINVAL):
            renameat2(folder / "a", folder / "b", flags)


# -- special files and processes


def rename_replaces_special_files(folder: Path) -> None:
    """A FIFO can be renamed, replaced and replace. (POSIX rename)"""
    os.mkfifo(folder / "fifo")
    made(folder / "file", b"content")
    os.rename(folder / "fifo", folder / "file")
    assert stat.S_ISFIFO(os.stat(folder / "file").st_mode)
    made(folder / "new", b"content")
    os.rename(folder / "new", folder / "file")
    assert (folder / "file").read_bytes() == b"content"


def rename_by_another_process_is_seen_at_once(folder: Path) -> None:
    """Names that another process has moved are found under the new path, and not under the old. (POSIX rename)"""
    made(made_folder(folder / "old") / "file", b"content")
    assert (folder / "old" / "file").exists()
    in_child(os.rename, folder / "old", folder / "new")
    assert missing(folder / "old")
    assert (folder / "new" / "file").read_bytes() == b"content"
