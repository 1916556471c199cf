"""open: what its flags ask for, and what it refuses."""

import errno
import fcntl
import mmap
import os
from pathlib import Path

from support import error

from posix_rules.calls import AT_FDCWD, AT_SYMLINK_FOLLOW, linkat
from posix_rules.files import CREATE, bits, ino, made, made_folder, missing, opened
from posix_rules.processes import USER, as_user, needs_root

# -- what is there, and what is not


def open_of_a_missing_name_is_refused(folder: Path) -> None:
    """Without O_CREAT a name must exist: ENOENT. (POSIX open)"""
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_PATH):
        with error(errno.ENOENT):
            os.open(folder / "none", flags)


def o_creat_makes_an_empty_file(folder: Path) -> None:
    """O_CREAT makes a regular file of size 0 with one link, owned by who calls. (POSIX open)"""
    with opened(folder / "file", os.O_WRONLY | os.O_CREAT):
        there = os.stat(folder / "file")
    assert (there.st_size, there.st_nlink, there.st_uid) == (0, 1, os.geteuid())


def o_creat_leaves_what_exists(folder: Path) -> None:
    """O_CREAT of an existing file changes neither its content nor its mode. (POSIX open)"""
    made(folder / "file", b"content").chmod(0o640)
    with opened(folder / "file", CREATE, 0o777) as fd:
        assert os.read(fd, 100) == b"content"
    assert bits(folder / "file") == 0o640


def o_creat_needs_the_folder(folder: Path) -> None:
    """A missing folder of the path is ENOENT, also with O_CREAT. (POSIX open)"""
    with error(errno.ENOENT):
        os.open(folder / "none" / "file", CREATE)


def o_creat_works_with_read_only_access(folder: Path) -> None:
    """O_CREAT | O_RDONLY makes a file that can be read through the descriptor. (POSIX open)"""
    with opened(folder / "file", os.O_RDONLY | os.O_CREAT) as fd:
        assert os.read(fd, 1) == b""
    assert (folder / "file").is_file()


def mode_of_a_new_file_binds_later_opens_only(folder: Path) -> None:
    """The mode given to O_CREAT has no part in this open: mode 0 with O_RDWR reads and writes. (POSIX open)"""
    with opened(folder / "file", CREATE | os.O_EXCL, 0) as fd:
        os.write(fd, b"content")
        assert os.pread(fd, 100, 0) == b"content"
    assert bits(folder / "file") == 0


@needs_root
def mode_of_a_new_file_binds_its_owner_later(folder: Path) -> None:
    """A user may create a file with mode 0 for writing and write to it, and not open it again. (POSIX open)"""
    folder.chmod(0o777)

    def create_and_write() -> None:
        with opened(folder / "file", CREATE | os.O_EXCL, 0) as fd:
            os.write(fd, b"content")
        with error(errno.EACCES):
            os.open(folder / "file", os.O_RDONLY)

    as_user(create_and_write)
    assert (folder / "file").read_bytes() == b"content"


# -- O_EXCL


def o_excl_makes_a_new_file(folder: Path) -> None:
    """O_CREAT | O_EXCL makes a name that is free. (POSIX open)"""
    with opened(folder / "file", CREATE | os.O_EXCL):
        assert (folder / "file").is_file()


def o_excl_refuses_a_file(folder: Path) -> None:
    """O_CREAT | O_EXCL of an existing file is EEXIST, and leaves it. (POSIX open)"""
    made(folder / "file", b"content")
    with error(errno.EEXIST):
        os.open(folder / "file", CREATE | os.O_EXCL | os.O_TRUNC)
    assert (folder / "file").read_bytes() == b"content"


def o_excl_refuses_a_folder(folder: Path) -> None:
    """O_CREAT | O_EXCL of an existing folder is EEXIST. (POSIX open)"""
    (folder / "sub").mkdir()
    with error(errno.EEXIST):
        os.open(folder / "sub", CREATE | os.O_EXCL)


def o_excl_does_not_follow_a_symlink(folder: Path) -> None:
    """O_CREAT | O_EXCL of a symlink is EEXIST, whatever it points to; nothing is made there. (POSIX open)"""
    os.symlink("target", folder / "dangling")
    with error(errno.EEXIST):
        os.open(folder / "dangling", CREATE | os.O_EXCL)
    assert missing(folder / "target")


def o_creat_follows_a_dangling_symlink(folder: Path) -> None:
    """O_CREAT without O_EXCL makes the file that a dangling symlink points to. (POSIX open)"""
    os.symlink("target", folder / "link")
    with opened(folder / "link") as fd:
        os.write(fd, b"content")
    assert (folder / "target").read_bytes() == b"content"
    assert (folder / "link").is_symlink()


def o_creat_through_a_symlink_into_nowhere_is_refused(folder: Path) -> None:
    """O_CREAT through a symlink whose target lies in a missing folder is ENOENT. (POSIX open)"""
    os.symlink("none/target", folder / "link")
    with error(errno.ENOENT):
        os.open(folder / "link", CREATE)


# -- O_TRUNC


def o_trunc_empties_a_file(folder: Path) -> None:
    """O_TRUNC cuts an existing file to 0 and keeps the inode and the mode. (POSIX open)"""
    made(folder / "file", b"content").chmod(0o600)
    before = ino(folder / "file")
    with opened(folder / "file", os.O_WRONLY | os.O_TRUNC):
        assert os.stat(folder / "file").st_size == 0
    assert (ino(folder / "file"), bits(folder / "file")) == (before, 0o600)


def o_trunc_is_seen_through_other_descriptors(folder: Path) -> None:
    """Who has the file open already finds it empty at once. (POSIX open)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as other:
        with opened(folder / "file", os.O_WRONLY | os.O_TRUNC):
            assert os.fstat(other).st_size == 0
            assert os.read(other, 100) == b""


def o_trunc_then_writes_begin_at_zero(folder: Path) -> None:
    """After O_TRUNC nothing of the former content comes back when the file grows. (POSIX open)"""
    made(folder / "file", b"x" * 10_000)
    with opened(folder / "file", os.O_WRONLY | os.O_TRUNC) as fd:
        os.pwrite(fd, b"end", 5_000)
    assert (folder / "file").read_bytes() == bytes(5_000) + b"end"


# -- folders


def a_folder_cannot_be_opened_for_writing(folder: Path) -> None:
    """O_WRONLY or O_RDWR of a folder is EISDIR. (POSIX open)"""
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        with error(errno.EISDIR):
            os.open(folder, flags)


def o_creat_of_a_folder_is_refused(folder: Path) -> None:
    """O_CREAT of an existing folder is EISDIR on Linux, also with O_RDONLY. (open(2))"""
    (folder / "sub").mkdir()
    with error(errno.EISDIR):
        os.open(folder / "sub", os.O_RDONLY | os.O_CREAT)


def a_folder_can_be_opened_for_reading(folder: Path) -> None:
    """O_RDONLY of a folder works; read() of it is EISDIR. (POSIX read)"""
    with opened(folder, os.O_RDONLY) as fd:
        assert os.fstat(fd).st_ino == ino(folder)
        with error(errno.EISDIR):
            os.read(fd, 10)


def o_directory_opens_a_folder(folder: Path) -> None:
    """O_DIRECTORY opens folders, also through a symlink. (POSIX open)"""
    (folder / "sub").mkdir()
    os.symlink("sub", folder / "link")
    for name in ("sub", "link"):
        with opened(folder / name, os.O_RDONLY | os.O_DIRECTORY) as fd:
            assert os.fstat(fd).st_ino == ino(folder / "sub")


def o_directory_refuses_a_file(folder: Path) -> None:
    """O_DIRECTORY of anything but a folder is ENOTDIR. (POSIX open)"""
    made(folder / "file")
    with error(errno.ENOTDIR):
        os.open(folder / "file", os.O_RDONLY | os.O_DIRECTORY)


# -- O_NOFOLLOW


def o_nofollow_refuses_a_symlink(folder: Path) -> None:
    """O_NOFOLLOW of a symlink is ELOOP, for reading and for writing. (POSIX open)"""
    made(folder / "file")
    os.symlink("file", folder / "link")
    for flags in (os.O_RDONLY, os.O_WRONLY, CREATE):
        with error(errno.ELOOP):
            os.open(folder / "link", flags | os.O_NOFOLLOW)


def o_nofollow_follows_within_the_path(folder: Path) -> None:
    """O_NOFOLLOW is about the last name alone. (open(2))"""
    made(made_folder(folder / "sub") / "file", b"content")
    os.symlink("sub", folder / "link")
    with opened(folder / "link" / "file", os.O_RDONLY | os.O_NOFOLLOW) as fd:
        assert os.read(fd, 100) == b"content"


def o_nofollow_with_o_directory_of_a_symlink_is_refused(folder: Path) -> None:
    """O_DIRECTORY | O_NOFOLLOW of a symlink to a folder is ENOTDIR: the symlink is no folder. (open(2))"""
    (folder / "sub").mkdir()
    os.symlink("sub", folder / "link")
    with error(errno.ENOTDIR):
        os.open(folder / "link", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


# -- access modes and flags of descriptors


def a_read_only_descriptor_refuses_writing(folder: Path) -> None:
    """write() through O_RDONLY is EBADF. (POSIX write)"""
    made(folder / "file")
    with opened(folder / "file", os.O_RDONLY) as fd:
        for write in (lambda: os.write(fd, b"x"), lambda: os.pwrite(fd, b"x", 0)):
            with error(errno.EBADF):
                write()


def a_write_only_descriptor_refuses_reading(folder: Path) -> None:
    """read() through O_WRONLY is EBADF. (POSIX read)"""
    with opened(folder / "file", os.O_WRONLY | os.O_CREAT) as fd:
        for read in (lambda: os.read(fd, 1), lambda: os.pread(fd, 1, 0)):
            with error(errno.EBADF):
                read()


def f_getfl_tells_how_the_file_was_opened(folder: Path) -> None:
    """F_GETFL has the access mode and the status flags, and no creation flags. (POSIX fcntl)"""
    with opened(folder / "file", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NONBLOCK) as fd:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    assert flags & os.O_ACCMODE == os.O_WRONLY
    assert flags & (os.O_APPEND | os.O_NONBLOCK) == os.O_APPEND | os.O_NONBLOCK
    assert not flags & (os.O_CREAT | os.O_TRUNC)


def o_cloexec_is_as_asked_for(folder: Path) -> None:
    """Python asks for O_CLOEXEC; FD_CLOEXEC can be cleared and is then not set. (POSIX open)"""
    with opened(folder / "file", CREATE | os.O_CLOEXEC) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        fcntl.fcntl(fd, fcntl.F_SETFD, 0)
        assert not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def o_nonblock_changes_nothing_on_a_regular_file(folder: Path) -> None:
    """O_NONBLOCK has no effect on opening, reading and writing a regular file. (POSIX open)"""
    with opened(folder / "file", CREATE | os.O_NONBLOCK) as fd:
        assert os.write(fd, b"x" * 100_000) == 100_000
        assert len(os.pread(fd, 200_000, 0)) == 100_000


def each_open_has_its_own_offset(folder: Path) -> None:
    """Two opens of one file, for reading and for writing, do not share their offset. (POSIX open)"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDONLY) as one, opened(folder / "file", os.O_RDWR) as other:
        assert os.read(one, 4) == b"0123"
        assert os.read(other, 2) == b"01"
        assert os.read(one, 4) == b"4567"


def o_sync_and_o_dsync_write(folder: Path) -> None:
    """O_SYNC and O_DSYNC write as without; another open has the content before this one is closed. (POSIX open)"""
    for number, flag in enumerate((os.O_SYNC, os.O_DSYNC)):
        with opened(folder / f"file{number}", CREATE | flag) as fd:
            assert os.write(fd, b"content") == 7
            assert (folder / f"file{number}").read_bytes() == b"content"
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & flag == flag


def o_direct_reads_and_writes_aligned_blocks(folder: Path) -> None:
    """O_DIRECT passes whole aligned blocks, and others see them. (open(2))"""
    block = mmap.mmap(-1, 4096)
    block.write(b"x" * 4096)
    with opened(folder / "file", CREATE | os.O_DIRECT) as fd:
        assert os.pwrite(fd, block, 4096) == 4096
        assert (folder / "file").read_bytes() == bytes(4096) + b"x" * 4096
        assert os.preadv(fd, [block], 0) == 4096
    assert block[:] == bytes(4096)


@needs_root
def o_noatime_is_for_the_owner(folder: Path) -> None:
    """O_NOATIME works for the owner and root; for others it is EPERM. (open(2))"""
    made(folder / "file")
    os.close(os.open(folder / "file", os.O_RDONLY | os.O_NOATIME))
    with error(errno.EPERM):
        as_user(os.open, folder / "file", os.O_RDONLY | os.O_NOATIME)
    os.chown(folder / "file", USER, -1)
    as_user(os.open, folder / "file", os.O_RDONLY | os.O_NOATIME)


# -- O_TMPFILE


def o_tmpfile_has_no_name(folder: Path) -> None:
    """O_TMPFILE makes a file with no name and no link, which can be read and written. (open(2))"""
    with opened(folder, os.O_RDWR | os.O_TMPFILE, 0o640) as fd:
        os.write(fd, b"content")
        assert os.pread(fd, 100, 0) == b"content"
        assert (os.fstat(fd).st_nlink, os.fstat(fd).st_mode & 0o7777) == (0, 0o640)
        assert os.listdir(folder) == []


def o_tmpfile_can_be_given_a_name(folder: Path) -> None:
    """linkat of /proc/self/fd/N gives it its first name, with its content. (open(2))"""
    with opened(folder, os.O_RDWR | os.O_TMPFILE) as fd:
        os.write(fd, b"content")
        linkat(AT_FDCWD, f"/proc/self/fd/{fd}", folder / "named", AT_SYMLINK_FOLLOW)
        assert os.fstat(fd).st_nlink == 1
    assert (folder / "named").read_bytes() == b"content"


def o_tmpfile_with_o_excl_stays_without_a_name(folder: Path) -> None:
    """With O_EXCL it cannot be given a name: ENOENT. (open(2))"""
    with opened(folder, os.O_RDWR | os.O_TMPFILE | os.O_EXCL) as fd:
        with error(errno.ENOENT):
            linkat(AT_FDCWD, f"/proc/self/fd/{fd}", folder / "named", AT_SYMLINK_FOLLOW)


def o_tmpfile_needs_write_access(folder: Path) -> None:
    """O_TMPFILE with O_RDONLY is EINVAL. (open(2))"""
    with error(errno.EINVAL):
        os.open(folder, os.O_RDONLY | os.O_TMPFILE)


def o_tmpfile_needs_a_folder(folder: Path) -> None:
    """O_TMPFILE of a file is ENOTDIR. (open(2))"""
    made(folder / "file")
    with error(errno.ENOTDIR):
        os.open(folder / "file", os.O_RDWR | os.O_TMPFILE)


# -- O_PATH


def o_path_gives_no_content(folder: Path) -> None:
    """Through O_PATH a file can be looked at (fstat), not read, written or changed: EBADF. (open(2))"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_PATH) as fd:
        assert os.fstat(fd).st_size == 7
        for call in (lambda: os.read(fd, 1), lambda: os.write(fd, b"x"), lambda: os.fchmod(fd, 0o600)):
            with error(errno.EBADF):
                call()


def o_path_needs_no_permission(folder: Path) -> None:
    """O_PATH opens a file that may not be read; opening it again through /proc asks for permission. (open(2))"""
    made(folder / "file").chmod(0)
    with opened(folder / "file", os.O_PATH) as fd:
        assert os.fstat(fd).st_ino == ino(folder / "file")


def o_path_with_o_nofollow_is_the_symlink(folder: Path) -> None:
    """O_PATH | O_NOFOLLOW opens a symlink itself, and readlinkat with an empty path reads it. (open(2))"""
    os.symlink("target", folder / "link")
    with opened(folder / "link", os.O_PATH | os.O_NOFOLLOW) as fd:
        assert os.fstat(fd).st_ino == ino(folder / "link")
        assert os.readlink("", dir_fd=fd) == "target"


def o_path_of_a_folder_is_a_place(folder: Path) -> None:
    """An O_PATH descriptor of a folder serves as dir_fd. (open(2))"""
    made(made_folder(folder / "sub") / "file", b"content")
    with opened(folder / "sub", os.O_PATH | os.O_DIRECTORY) as place:
        with opened("file", os.O_RDONLY, dir_fd=place) as fd:
            assert os.read(fd, 100) == b"content"
