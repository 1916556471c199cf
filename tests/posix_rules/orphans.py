"""Files and folders that lose their name while they are open: everything goes on through the descriptor."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from support import error

from posix_rules.calls import AT_FDCWD, AT_SYMLINK_FOLLOW, linkat
from posix_rules.files import CREATE, MIB, ino, made, opened, tick
from posix_rules.memory import PAGE, Mapping
from posix_rules.processes import USER, in_child, needs_root


@contextlib.contextmanager
def _orphan(folder: Path, content: bytes = b"content") -> Iterator[int]:
    """A descriptor of a file that was unlinked."""
    with opened(made(folder / "orphan", content), os.O_RDWR) as fd:
        (folder / "orphan").unlink()
        yield fd


def an_orphan_is_not_listed(folder: Path) -> None:
    """After unlink there is no name, neither the former one nor another. (POSIX unlink)"""
    with _orphan(folder):
        assert os.listdir(folder) == []
    assert os.listdir(folder) == []


def an_orphans_folder_can_be_removed(folder: Path) -> None:
    """A folder whose files are all unlinked is empty, also while they are open. (POSIX rmdir)"""
    (folder / "sub").mkdir()
    with _orphan(folder / "sub") as fd:
        (folder / "sub").rmdir()
        assert os.pread(fd, 100, 0) == b"content"


def an_orphan_is_read_and_written(folder: Path) -> None:
    """read() and write() go on. (POSIX unlink)"""
    with _orphan(folder) as fd:
        assert os.pread(fd, 100, 0) == b"content"
        os.pwrite(fd, b"C", 0)
        os.pwrite(fd, b"end", 2 * MIB)
        assert os.pread(fd, 8, 0) == b"Content\0"
        assert os.pread(fd, 100, 2 * MIB - 1) == b"\0end"


def an_orphan_has_no_link(folder: Path) -> None:
    """fstat() tells nlink 0, and otherwise the same file. (POSIX fstat)"""
    before = ino(made(folder / "file", b"content"))
    with opened(folder / "file", os.O_RDONLY) as fd:
        (folder / "file").unlink()
        there = os.fstat(fd)
    assert (there.st_nlink, there.st_ino, there.st_size) == (0, before, 7)


def an_orphans_ctime_tells_of_the_unlink(folder: Path) -> None:
    """unlink marks ctime of the file, seen through its descriptor. (POSIX unlink)"""
    with opened(made(folder / "file"), os.O_RDONLY) as fd:
        before = os.fstat(fd).st_ctime_ns
        tick()
        (folder / "file").unlink()
        assert os.fstat(fd).st_ctime_ns > before


def an_orphan_can_be_cut_and_grown(folder: Path) -> None:
    """ftruncate() works, and fstat() tells. (POSIX ftruncate)"""
    with _orphan(folder) as fd:
        os.ftruncate(fd, 3)
        assert os.fstat(fd).st_size == 3
        os.ftruncate(fd, 5)
        assert os.pread(fd, 100, 0) == b"con\0\0"


def an_orphan_can_be_synced(folder: Path) -> None:
    """fsync() and fdatasync() succeed. (POSIX fsync)"""
    with _orphan(folder) as fd:
        os.write(fd, b"C")
        os.fsync(fd)
        os.fdatasync(fd)


def an_orphans_mode_can_be_changed(folder: Path) -> None:
    """fchmod() works, and fstat() tells. (POSIX fchmod)"""
    with _orphan(folder) as fd:
        os.fchmod(fd, 0o640)
        assert os.fstat(fd).st_mode & 0o7777 == 0o640


@needs_root
def an_orphans_owner_can_be_changed(folder: Path) -> None:
    """fchown() works, and fstat() tells. (POSIX fchown)"""
    with _orphan(folder) as fd:
        os.fchown(fd, USER, -1)
        assert os.fstat(fd).st_uid == USER


def an_orphans_times_can_be_set(folder: Path) -> None:
    """futimens() works, and fstat() tells. (POSIX futimens)"""
    with _orphan(folder) as fd:
        os.utime(fd, ns=(10**18 + 1, 10**18 + 2))
        assert (os.fstat(fd).st_atime_ns, os.fstat(fd).st_mtime_ns) == (10**18 + 1, 10**18 + 2)


def an_orphan_can_be_mapped(folder: Path) -> None:
    """mmap() works, and stores are read. (POSIX mmap)"""
    with _orphan(folder) as fd, Mapping(fd, PAGE) as memory:
        memory.store(0, b"C")
        assert os.pread(fd, 100, 0) == b"Content"


def an_orphan_can_be_opened_through_proc(folder: Path) -> None:
    """open() of /proc/self/fd/N opens the same file again, for reading and writing. (proc(5))"""
    with _orphan(folder) as fd, opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
        os.write(again, b"C")
        assert os.fstat(again).st_ino == os.fstat(fd).st_ino
        assert os.pread(fd, 100, 0) == b"Content"


def an_orphan_gets_no_name_again(folder: Path) -> None:
    """linkat() of /proc/self/fd/N is ENOENT when the last name is gone. (linkat(2))"""
    with _orphan(folder) as fd, error(errno.ENOENT):
        linkat(AT_FDCWD, f"/proc/self/fd/{fd}", folder / "again", AT_SYMLINK_FOLLOW)


def an_orphan_is_inherited(folder: Path) -> None:
    """A child reads and writes it through the inherited descriptor. (POSIX fork)"""
    with _orphan(folder) as fd:
        in_child(os.pwrite, fd, b"C", 0)
        assert os.pread(fd, 100, 0) == b"Content"


def an_orphan_of_another_process_goes_on(folder: Path) -> None:
    """It does not matter who has unlinked it. (POSIX unlink)"""
    with opened(made(folder / "file", b"content"), os.O_RDWR) as fd:
        in_child((folder / "file").unlink)
        os.pwrite(fd, b"C", 0)
        assert os.pread(fd, 100, 0) == b"Content"
        assert os.fstat(fd).st_nlink == 0


def an_orphan_and_its_namesake_are_two_files(folder: Path) -> None:
    """The name may be used at once; the files have nothing in common. (POSIX unlink)"""
    with _orphan(folder) as fd, opened(folder / "orphan", CREATE | os.O_EXCL) as other:
        os.write(other, b"another file")
        os.pwrite(fd, b"C", 0)
        assert os.fstat(fd).st_ino != os.fstat(other).st_ino
        assert os.pread(fd, 100, 0) == b"Content"
    assert (folder / "orphan").read_bytes() == b"another file"


def an_orphan_goes_with_its_last_descriptor(folder: Path) -> None:
    """Each of two descriptors keeps it, whichever is closed first. (POSIX close)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as one:
        with opened(folder / "file", os.O_RDWR) as other:
            (folder / "file").unlink()
            os.pwrite(other, b"C", 0)
        assert os.pread(one, 100, 0) == b"Content"


def an_orphan_that_was_just_made_goes_on(folder: Path) -> None:
    """create, unlink, write: temporary files are made so. (POSIX unlink)"""
    with opened(folder / "file", CREATE | os.O_EXCL) as fd:
        (folder / "file").unlink()
        os.write(fd, b"x" * MIB)
        assert os.pread(fd, 2 * MIB, 0) == b"x" * MIB
        assert os.fstat(fd).st_size == MIB


def an_orphan_keeps_its_appending(folder: Path) -> None:
    """O_APPEND goes on appending: log files are rotated so. (POSIX unlink)"""
    made(folder / "file", b"one ")
    with opened(folder / "file", os.O_RDWR | os.O_APPEND) as fd:
        (folder / "file").unlink()
        os.write(fd, b"two ")
        os.write(fd, b"three")
        assert os.pread(fd, 100, 0) == b"one two three"


def an_orphan_can_be_locked(folder: Path) -> None:
    """flock() works on a file without a name. (flock(2))"""
    with _orphan(folder) as fd, opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with error(errno.EAGAIN):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def an_orphan_keeps_its_extended_attributes(folder: Path) -> None:
    """fgetxattr() and fsetxattr() work on a file without a name. (fsetxattr(2))"""
    with _orphan(folder) as fd:
        os.setxattr(fd, "user.name", b"value")
        assert os.getxattr(fd, "user.name") == b"value"


# -- replaced by rename


def a_replaced_file_goes_on(folder: Path) -> None:
    """What rename replaces is an orphan as what unlink removes: editors save so. (POSIX rename)"""
    made(folder / "old", b"old")
    made(folder / "new", b"newer")
    with opened(folder / "old", os.O_RDWR) as fd:
        os.rename(folder / "new", folder / "old")
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"O", 0)
        assert os.pread(fd, 100, 0) == b"Old"
    assert (folder / "old").read_bytes() == b"newer"
    assert os.listdir(folder) == ["old"]


def a_replaced_files_attributes_can_be_changed(folder: Path) -> None:
    """fchmod() and futimens() change the replaced file and leave the new one. (POSIX rename)"""
    made(folder / "old", b"old").chmod(0o600)
    made(folder / "new", b"newer").chmod(0o644)
    with opened(folder / "old", os.O_RDWR) as fd:
        os.rename(folder / "new", folder / "old")
        os.fchmod(fd, 0o640)
        os.utime(fd, ns=(1, 2))
        assert (os.fstat(fd).st_mode & 0o7777, os.fstat(fd).st_mtime_ns) == (0o640, 2)
    assert (folder / "old").stat().st_mode & 0o7777 == 0o644
    assert (folder / "old").stat().st_mtime_ns != 2


# -- folders


def a_removed_folder_has_no_link(folder: Path) -> None:
    """fstat() of a removed folder that is open works, with nlink 0. (POSIX rmdir)"""
    (folder / "sub").mkdir()
    with opened(folder / "sub", os.O_RDONLY | os.O_DIRECTORY) as fd:
        before = os.fstat(fd).st_ino
        (folder / "sub").rmdir()
        assert (os.fstat(fd).st_ino, os.fstat(fd).st_nlink) == (before, 0)


def a_removed_folder_is_empty(folder: Path) -> None:
    """Listing a removed folder through its descriptor gives nothing. (POSIX rmdir)"""
    (folder / "sub").mkdir()
    with opened(folder / "sub", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (folder / "sub").rmdir()
        assert os.listdir(fd) == []


def a_removed_folder_takes_no_entries(folder: Path) -> None:
    """Creating below a removed folder is ENOENT, for files, folders and symlinks. (POSIX rmdir)"""
    (folder / "sub").mkdir()
    with opened(folder / "sub", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (folder / "sub").rmdir()
        creations = (
            lambda: os.open("file", CREATE, dir_fd=fd),
            lambda: os.mkdir("folder", dir_fd=fd),
            lambda: os.symlink("target", "link", dir_fd=fd),
        )
        for create in creations:
            with error(errno.ENOENT):
                create()


def a_removed_working_folder_has_no_path(folder: Path) -> None:
    """getcwd() in a removed folder is ENOENT; creating there too; leaving it works. (POSIX getcwd)"""
    (folder / "sub").mkdir()

    def work() -> str:
        os.chdir(folder / "sub")
        (folder / "sub").rmdir()
        with error(errno.ENOENT):
            os.getcwd()
        with error(errno.ENOENT):
            os.mkdir("below")
        os.chdir(folder)
        return os.getcwd()

    assert in_child(work) == str(folder)


def a_removed_working_folder_can_be_looked_at(folder: Path) -> None:
    """`.` of a removed working folder can be stat-ed and listed. (POSIX rmdir)"""
    (folder / "sub").mkdir()

    def work() -> tuple[int, list[str]]:
        os.chdir(folder / "sub")
        (folder / "sub").rmdir()
        return os.stat(".").st_nlink, os.listdir(".")

    assert in_child(work) == (0, [])
