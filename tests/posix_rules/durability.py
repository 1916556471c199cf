"""fsync and its family: what succeeds, and what stays as it is. What outlives a power cut, no rule here can see."""

import errno
import os
from pathlib import Path

from support import error

from posix_rules.calls import SYNC_FILE_RANGE_ALL, sync_file_range, syncfs
from posix_rules.files import MIB, made, opened
from posix_rules.processes import in_child


def fsync_succeeds_after_writing(folder: Path) -> None:
    """Once and again, with and without a change in between; another process then reads the content. (POSIX fsync)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"x" * MIB)
        for _ in range(2):
            os.fsync(fd)
            os.fdatasync(fd)
        assert in_child((folder / "file").read_bytes) == b"x" * MIB
        os.write(fd, b"end")
        os.fsync(fd)
        assert in_child((folder / "file").read_bytes) == b"x" * MIB + b"end"


def fsync_works_through_a_read_only_descriptor(folder: Path) -> None:
    """On Linux the access mode does not matter; what others have written is synced. (fsync(2))"""
    with opened(folder / "file") as writer, opened(folder / "file", os.O_RDONLY) as reader:
        os.write(writer, b"content")
        os.fsync(reader)
        os.fdatasync(reader)
        assert os.pread(reader, 100, 0) == b"content"


def fsync_works_on_folders(folder: Path) -> None:
    """Databases sync the folder after a rename. (fsync(2))"""
    made(folder / "temporary", b"content")
    os.rename(folder / "temporary", folder / "file")
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
        os.fdatasync(fd)
    assert (folder / "file").read_bytes() == b"content"


def fsync_of_a_fifo_is_refused(folder: Path) -> None:
    """What has no content to sync is EINVAL. (POSIX fsync)"""
    os.mkfifo(folder / "fifo")
    with opened(folder / "fifo", os.O_RDWR) as fd, error(errno.EINVAL):
        os.fsync(fd)


def fsync_keeps_the_offset(folder: Path) -> None:
    """Writing goes on where it was. (POSIX fsync)"""
    with opened(folder / "file") as fd:
        for piece in (b"one ", b"two ", b"three"):
            os.write(fd, piece)
            os.fsync(fd)
    assert (folder / "file").read_bytes() == b"one two three"


def sync_file_range_succeeds(folder: Path) -> None:
    """A range, the whole, and a range behind the end. (sync_file_range(2))"""
    with opened(folder / "file") as fd:
        os.write(fd, b"x" * MIB)
        for offset, length in ((4096, 8192), (0, 0), (2 * MIB, 10)):
            sync_file_range(fd, offset, length, SYNC_FILE_RANGE_ALL)
    assert os.stat(folder / "file").st_size == MIB


def sync_file_range_refuses_senseless_ranges(folder: Path) -> None:
    """Negative offsets and unknown flags are EINVAL. (sync_file_range(2))"""
    with opened(folder / "file") as fd:
        for offset, length, flags in ((-1, 10, SYNC_FILE_RANGE_ALL), (0, 10, 0x100)):
            with error(errno.EINVAL):
                sync_file_range(fd, offset, length, flags)


def syncfs_succeeds(folder: Path) -> None:
    """By any descriptor of the file system. (syncfs(2))"""
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        syncfs(fd)
    with opened(folder, os.O_RDONLY) as fd:
        syncfs(fd)


def rwf_dsync_syncs_one_write(folder: Path) -> None:
    """pwritev2 with RWF_DSYNC and RWF_SYNC writes as without. (pwritev2(2))"""
    with opened(folder / "file") as fd:
        os.pwritev(fd, [b"one "], 0, os.RWF_DSYNC)
        os.pwritev(fd, [b"two"], 4, os.RWF_SYNC)
    assert (folder / "file").read_bytes() == b"one two"


def a_file_is_replaced_safely(folder: Path) -> None:
    """write, fsync, rename, fsync of the folder: readers see the old or the new content. (POSIX rename)"""
    made(folder / "file", b"old")
    with opened(folder / "temporary") as fd:
        os.write(fd, b"newer")
        os.fsync(fd)
    assert (folder / "file").read_bytes() == b"old"
    os.rename(folder / "temporary", folder / "file")
    with opened(folder, os.O_RDONLY) as fd:
        os.fsync(fd)
    assert (folder / "file").read_bytes() == b"newer"
    assert os.listdir(folder) == ["file"]
