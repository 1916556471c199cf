"""SEEK_DATA, SEEK_HOLE and fallocate: where a file has content, and how room is made and given back."""

import errno
import os
from pathlib import Path

from support import error

from posix_rules.calls import (
    FALLOC_COLLAPSE_RANGE,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    fallocate,
)
from posix_rules.files import MIB, made, moved, opened

PUNCH = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE

# -- SEEK_DATA and SEEK_HOLE


def seek_data_on_data_stays(folder: Path) -> None:
    """SEEK_DATA of an offset within content returns that offset, and moves there. (lseek(2))"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.lseek(fd, 4, os.SEEK_DATA) == 4
        assert os.read(fd, 2) == b"45"


def seek_hole_without_holes_is_the_end(folder: Path) -> None:
    """Every file has a hole at its end. (lseek(2))"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.lseek(fd, 4, os.SEEK_HOLE) == 10


def seek_data_and_seek_hole_stop_at_the_end(folder: Path) -> None:
    """From the end on both are ENXIO, also of an empty file. (lseek(2))"""
    made(folder / "file", b"0123456789")
    made(folder / "empty")
    for name, offset in (("file", 10), ("file", 11), ("empty", 0)):
        with opened(folder / name, os.O_RDONLY) as fd:
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                with error(errno.ENXIO):
                    os.lseek(fd, offset, whence)


def seek_data_skips_a_hole(folder: Path) -> None:
    """SEEK_DATA within a hole goes to the content behind it. (lseek(2))"""
    with opened(folder / "file") as fd:
        os.pwrite(fd, b"x" * MIB, 8 * MIB)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 8 * MIB
        assert os.lseek(fd, 3 * MIB, os.SEEK_DATA) == 8 * MIB


def seek_hole_finds_a_hole(folder: Path) -> None:
    """SEEK_HOLE within content goes to the hole behind it, within a hole it stays. (lseek(2))"""
    with opened(folder / "file") as fd:
        os.pwrite(fd, b"x" * MIB, 0)
        os.pwrite(fd, b"x" * MIB, 8 * MIB)
        assert os.lseek(fd, 1000, os.SEEK_HOLE) == MIB
        assert os.lseek(fd, 3 * MIB, os.SEEK_HOLE) == 3 * MIB


def seek_data_in_the_last_hole_is_refused(folder: Path) -> None:
    """SEEK_DATA with no content behind is ENXIO. (lseek(2))"""
    with opened(folder / "file") as fd:
        os.pwrite(fd, b"x" * MIB, 0)
        os.ftruncate(fd, 8 * MIB)
        with error(errno.ENXIO):
            os.lseek(fd, 4 * MIB, os.SEEK_DATA)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == MIB


def holes_are_found_after_close(folder: Path) -> None:
    """What was a hole when the file was written is one when it is opened again. (lseek(2))"""
    with opened(folder / "file") as fd:
        os.pwrite(fd, b"x" * MIB, 4 * MIB)
        os.ftruncate(fd, 16 * MIB)
    with opened(folder / "file", os.O_RDONLY) as fd:
        found = os.lseek(fd, 0, os.SEEK_DATA)
        assert (found, os.lseek(fd, found, os.SEEK_HOLE)) == (4 * MIB, 5 * MIB)


def zeros_that_were_written_are_content(folder: Path) -> None:
    """Reading cannot tell zeros from a hole, and content is what both hold together. (lseek(2))"""
    made(folder / "file", bytes(MIB))
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.lseek(fd, 0, os.SEEK_HOLE) == MIB


# -- making room


def fallocate_grows_with_zeros(folder: Path) -> None:
    """Mode 0 beyond the end makes the file longer. (fallocate(2))"""
    made(folder / "file", b"begin")
    with opened(folder / "file", os.O_RDWR) as fd:
        fallocate(fd, 0, 0, 10_000)
        assert os.fstat(fd).st_size == 10_000
    assert (folder / "file").read_bytes() == b"begin" + bytes(9_995)


def fallocate_takes_room(folder: Path) -> None:
    """What was allocated counts as blocks. (fallocate(2))"""
    with opened(folder / "file") as fd:
        fallocate(fd, 0, 0, MIB)
        assert os.fstat(fd).st_blocks * 512 >= MIB


def fallocate_within_the_file_changes_nothing(folder: Path) -> None:
    """Mode 0 within the size keeps content and size. (fallocate(2))"""
    made(folder / "file", b"x" * 10_000)
    with opened(folder / "file", os.O_RDWR) as fd:
        fallocate(fd, 0, 1000, 2000)
    assert (folder / "file").read_bytes() == b"x" * 10_000


def fallocate_keep_size_keeps_the_size(folder: Path) -> None:
    """FALLOC_FL_KEEP_SIZE makes room and leaves st_size. (fallocate(2))"""
    made(folder / "file", b"begin")
    with opened(folder / "file", os.O_RDWR) as fd:
        fallocate(fd, FALLOC_KEEP_SIZE, 0, MIB)
        assert os.fstat(fd).st_size == 5
    assert (folder / "file").read_bytes() == b"begin"


def posix_fallocate_grows(folder: Path) -> None:
    """posix_fallocate makes the file as long as the range, and never shorter. (POSIX posix_fallocate)"""
    with opened(folder / "file") as fd:
        os.posix_fallocate(fd, 1000, 2000)
        os.posix_fallocate(fd, 0, 10)
        assert os.fstat(fd).st_size == 3000


# -- giving room back


def punch_hole_reads_as_zeros(folder: Path) -> None:
    """FALLOC_FL_PUNCH_HOLE clears the range, to the byte, and keeps the size. (fallocate(2))"""
    made(folder / "file", b"x" * 100_000)
    with opened(folder / "file", os.O_RDWR) as fd:
        fallocate(fd, PUNCH, 1001, 70_000)
        assert os.pread(fd, 100_000, 0) == b"x" * 1001 + bytes(70_000) + b"x" * 28_999
    assert (folder / "file").read_bytes() == b"x" * 1001 + bytes(70_000) + b"x" * 28_999


def punch_hole_frees_room(folder: Path) -> None:
    """The room of the range is given back, and SEEK_HOLE finds it. (fallocate(2))"""
    made(folder / "file", os.urandom(4 * MIB))
    with opened(folder / "file", os.O_RDWR) as fd:
        os.fsync(fd)
        before = os.fstat(fd).st_blocks
        fallocate(fd, PUNCH, MIB, 2 * MIB)
        os.fsync(fd)
        assert before - os.fstat(fd).st_blocks >= MIB // 512
        assert os.lseek(fd, 0, os.SEEK_HOLE) == MIB
        assert os.lseek(fd, MIB, os.SEEK_DATA) == 3 * MIB


def punch_hole_beyond_the_end_changes_nothing(folder: Path) -> None:
    """A range behind the end keeps size and content; one that crosses it clears what is within. (fallocate(2))"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDWR) as fd:
        fallocate(fd, PUNCH, 1000, 1000)
        fallocate(fd, PUNCH, 8, 1000)
    assert (folder / "file").read_bytes() == b"01234567\0\0"


def punch_hole_needs_keep_size(folder: Path) -> None:
    """FALLOC_FL_PUNCH_HOLE alone is EOPNOTSUPP. (fallocate(2))"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR) as fd, error(errno.EOPNOTSUPP):
        fallocate(fd, FALLOC_PUNCH_HOLE, 0, 3)
    assert (folder / "file").read_bytes() == b"content"


def punch_hole_moves_mtime_and_ctime(folder: Path) -> None:
    """Clearing a range is a change of the content. (fallocate(2))"""
    made(folder / "file", b"x" * 10_000)
    with opened(folder / "file", os.O_RDWR) as fd:
        assert moved(folder / "file", lambda: fallocate(fd, PUNCH, 0, 5000)) == {"mtime", "ctime"}


def zero_range_clears(folder: Path) -> None:
    """FALLOC_FL_ZERO_RANGE makes the range zeros, to the byte. (fallocate(2))"""
    made(folder / "file", b"x" * 10_000)
    with opened(folder / "file", os.O_RDWR) as fd:
        fallocate(fd, FALLOC_ZERO_RANGE, 99, 5000)
    assert (folder / "file").read_bytes() == b"x" * 99 + bytes(5000) + b"x" * 4901


def zero_range_beyond_the_end_grows(folder: Path) -> None:
    """A range across the end makes the file longer, and with FALLOC_FL_KEEP_SIZE does not. (fallocate(2))"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDWR) as fd:
        fallocate(fd, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 8, 100)
        assert os.fstat(fd).st_size == 10
        fallocate(fd, FALLOC_ZERO_RANGE, 5, 100)
    assert (folder / "file").read_bytes() == b"01234" + bytes(100)


def collapse_range_removes_or_is_refused(folder: Path) -> None:
    """Where FALLOC_FL_COLLAPSE_RANGE is not supported it is EOPNOTSUPP and changes nothing. (fallocate(2))"""
    content = b"a" * 65536 + b"b" * 65536 + b"c" * 65536
    made(folder / "file", content)
    with opened(folder / "file", os.O_RDWR) as fd:
        try:
            fallocate(fd, FALLOC_COLLAPSE_RANGE, 65536, 65536)
            content = b"a" * 65536 + b"c" * 65536
        except OSError as refused:
            if refused.errno != errno.EOPNOTSUPP:
                raise
    assert (folder / "file").read_bytes() == content


# -- what fallocate refuses


def fallocate_refuses_empty_and_negative_ranges(folder: Path) -> None:
    """A length of 0 or less, or an offset below 0, is EINVAL. (fallocate(2))"""
    with opened(folder / "file") as fd:
        for offset, length in ((0, 0), (0, -1), (-1, 10)):
            with error(errno.EINVAL):
                fallocate(fd, 0, offset, length)


def fallocate_needs_a_descriptor_for_writing(folder: Path) -> None:
    """O_RDONLY is EBADF. (fallocate(2))"""
    made(folder / "file")
    with opened(folder / "file", os.O_RDONLY) as fd, error(errno.EBADF):
        fallocate(fd, 0, 0, 10)


def fallocate_refuses_unknown_modes(folder: Path) -> None:
    """A mode that nobody knows is EOPNOTSUPP. (fallocate(2))"""
    with opened(folder / "file") as fd, error(errno.EOPNOTSUPP):
        fallocate(fd, 0x4000, 0, 10)


def fallocate_beyond_all_bounds_is_refused(folder: Path) -> None:
    """A range that the file system cannot hold is EFBIG. (fallocate(2))"""
    with opened(folder / "file") as fd:
        for offset in (1 << 62, (1 << 63) - 20):
            with error(errno.EFBIG):
                fallocate(fd, 0, offset, 100)
        assert os.fstat(fd).st_size == 0
