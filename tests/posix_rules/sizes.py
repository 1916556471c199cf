"""truncate and ftruncate, sparse and very large files, and what stat says of their size."""

import errno
import os
from pathlib import Path

from support import error

from posix_rules.files import CREATE, MIB, ino, made, opened

TIB = 1 << 40


def truncate_cuts(folder: Path) -> None:
    """truncate() to less keeps the beginning. (POSIX truncate)"""
    os.truncate(made(folder / "file", b"0123456789"), 4)
    assert (folder / "file").read_bytes() == b"0123"


def truncate_grows_with_zeros(folder: Path) -> None:
    """truncate() to more adds zeros. (POSIX truncate)"""
    os.truncate(made(folder / "file", b"0123"), 10_000)
    assert (folder / "file").read_bytes() == b"0123" + bytes(9_996)


def truncate_to_nothing_and_back_leaves_zeros(folder: Path) -> None:
    """What was cut off never comes back. (POSIX truncate)"""
    made(folder / "file", b"x" * 10_000)
    os.truncate(folder / "file", 0)
    os.truncate(folder / "file", 10_000)
    assert (folder / "file").read_bytes() == bytes(10_000)


def truncate_within_a_page_clears_its_rest(folder: Path) -> None:
    """Cut in the middle of a page and grown again: zeros behind the cut, also in that page. (POSIX ftruncate)"""
    made(folder / "file", b"x" * 8192)
    with opened(folder / "file", os.O_RDWR) as fd:
        os.ftruncate(fd, 5000)
        os.ftruncate(fd, 8192)
        assert os.pread(fd, 8192, 0) == b"x" * 5000 + bytes(3192)
    assert (folder / "file").read_bytes() == b"x" * 5000 + bytes(3192)


def truncate_to_the_same_size_keeps_the_content(folder: Path) -> None:
    """truncate() to the present size keeps all of it. (POSIX truncate)"""
    os.truncate(made(folder / "file", b"content"), 7)
    assert (folder / "file").read_bytes() == b"content"


def truncate_follows_symlinks(folder: Path) -> None:
    """truncate() of a symlink cuts its target; of a dangling one it is ENOENT. (POSIX truncate)"""
    made(folder / "file", b"content")
    os.symlink("file", folder / "link")
    os.symlink("none", folder / "dangling")
    os.truncate(folder / "link", 3)
    assert (folder / "file").read_bytes() == b"con"
    with error(errno.ENOENT):
        os.truncate(folder / "dangling", 3)


def truncate_refuses_what_is_no_file(folder: Path) -> None:
    """A folder is EISDIR, a missing name ENOENT, a file in the path ENOTDIR. (POSIX truncate)"""
    made(folder / "file")
    cases = ((".", errno.EISDIR), ("none", errno.ENOENT), ("file/below", errno.ENOTDIR))
    for name, number in cases:
        with error(number):
            os.truncate(f"{folder}/{name}", 0)


def truncate_to_a_negative_size_is_refused(folder: Path) -> None:
    """A length below 0 is EINVAL, by path and by descriptor. (POSIX truncate)"""
    made(folder / "file", b"content")
    with error(errno.EINVAL):
        os.truncate(folder / "file", -1)
    with opened(folder / "file") as fd, error(errno.EINVAL):
        os.ftruncate(fd, -1)
    assert (folder / "file").read_bytes() == b"content"


def truncate_keeps_the_inode(folder: Path) -> None:
    """truncate() changes the file, it does not make another. (POSIX truncate)"""
    before = ino(made(folder / "file", b"content"))
    os.truncate(folder / "file", 0)
    assert ino(folder / "file") == before


def ftruncate_needs_a_descriptor_for_writing(folder: Path) -> None:
    """ftruncate() through O_RDONLY is EINVAL, also when the file may be written. (POSIX ftruncate)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd, error(errno.EINVAL):
        os.ftruncate(fd, 0)


def ftruncate_leaves_the_offset(folder: Path) -> None:
    """The offset stays, also beyond the new end; the next write leaves zeros before it. (POSIX ftruncate)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"0123456789")
        os.ftruncate(fd, 2)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 10
        os.write(fd, b"x")
    assert (folder / "file").read_bytes() == b"01" + bytes(8) + b"x"


def ftruncate_is_seen_by_others_at_once(folder: Path) -> None:
    """The new size is that of every descriptor and of stat(). (POSIX ftruncate)"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDWR) as fd, opened(folder / "file", os.O_RDONLY) as other:
        for size in (4, 20, 0):
            os.ftruncate(fd, size)
            assert os.fstat(other).st_size == os.stat(folder / "file").st_size == size


def ftruncate_works_without_permission_to_write(folder: Path) -> None:
    """What counts is how the descriptor was opened, not the mode that the file has now. (POSIX ftruncate)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        os.fchmod(fd, 0o444)
        os.ftruncate(fd, 3)
    assert (folder / "file").read_bytes() == b"con"


def truncate_by_path_is_seen_by_a_writer(folder: Path) -> None:
    """truncate() of a file that is open for writing changes what its descriptor reads and writes. (POSIX truncate)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"0123456789")
        os.truncate(folder / "file", 4)
        assert os.pread(fd, 100, 0) == b"0123"
        os.pwrite(fd, b"end", 6)
    assert (folder / "file").read_bytes() == b"0123\0\0end"


def size_is_that_of_the_furthest_byte(folder: Path) -> None:
    """st_size is one more than the offset of the last byte written, whatever the order. (POSIX write)"""
    with opened(folder / "file") as fd:
        for offset, size in ((100, 101), (10, 101), (5000, 5001)):
            os.pwrite(fd, b"x", offset)
            assert os.fstat(fd).st_size == size
    assert os.stat(folder / "file").st_size == 5001


# -- sparse and large


def a_hole_reads_as_zeros(folder: Path) -> None:
    """What nobody has written is zeros, before and after close. (POSIX lseek)"""
    with opened(folder / "file") as fd:
        os.pwrite(fd, b"end", 8 * MIB)
        assert os.pread(fd, MIB, 3 * MIB) == bytes(MIB)
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.pread(fd, MIB, 3 * MIB) == bytes(MIB)
        assert os.pread(fd, 10, 8 * MIB - 2) == b"\0\0end"


def a_hole_takes_no_blocks(folder: Path) -> None:
    """st_blocks counts what is stored, not holes: du tells the truth. (stat(2))"""
    with opened(folder / "file") as fd:
        os.pwrite(fd, b"x" * MIB, 64 * MIB)
        os.fsync(fd)
        assert MIB <= os.fstat(fd).st_blocks * 512 < 3 * MIB
    assert MIB <= os.stat(folder / "file").st_blocks * 512 < 3 * MIB


def a_grown_file_takes_no_blocks(folder: Path) -> None:
    """ftruncate to more adds a hole. (stat(2))"""
    with opened(folder / "file") as fd:
        os.ftruncate(fd, 64 * MIB)
        os.fsync(fd)
    assert os.stat(folder / "file").st_blocks * 512 < MIB


def st_blocks_grow_with_what_is_written(folder: Path) -> None:
    """st_blocks covers the content of a file without holes, and falls when it is cut. (POSIX sys/stat.h)"""
    made(folder / "file", os.urandom(MIB))
    assert os.stat(folder / "file").st_blocks * 512 >= MIB
    os.truncate(folder / "file", 0)
    assert os.stat(folder / "file").st_blocks * 512 < MIB


def a_hole_is_filled_in_the_middle(folder: Path) -> None:
    """A write into a hole leaves zeros on both of its sides. (POSIX write)"""
    with opened(folder / "file") as fd:
        os.ftruncate(fd, 9 * MIB)
        os.pwrite(fd, b"middle", 5 * MIB - 3)
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.pread(fd, 12, 5 * MIB - 6) == b"\0\0\0middle\0\0\0"
        assert os.fstat(fd).st_size == 9 * MIB


def offsets_beyond_32_bits_work(folder: Path) -> None:
    """Bytes just below, across and above 2 GiB and 4 GiB are where they were put. (POSIX lseek)"""
    places = ((1 << 31) - 2, (1 << 32) - 2, (1 << 32) + 10)
    with opened(folder / "file") as fd:
        for offset in places:
            os.pwrite(fd, b"abcd", offset)
        assert os.fstat(fd).st_size == (1 << 32) + 14
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert [os.pread(fd, 6, offset - 1) for offset in places[:2]] == [b"\0abcd\0"] * 2
        assert os.pread(fd, 10, places[2]) == b"abcd"


def a_file_may_have_one_tebibyte(folder: Path) -> None:
    """A sparse file of 1 TiB: its size, its end and a byte in the middle are right. (POSIX lseek)"""
    _sparse(folder / "file", TIB)


def a_file_may_have_nearly_16_tebibytes(folder: Path) -> None:
    """The same just below 16 TiB, which is where ext4 ends. (POSIX lseek)"""
    _sparse(folder / "file", 16 * TIB - 8192)


def _sparse(path: Path, size: int) -> None:
    with opened(path) as fd:
        os.pwrite(fd, b"middle", size // 2)
        os.pwrite(fd, b"end", size - 3)
    with opened(path, os.O_RDONLY) as fd:
        assert os.fstat(fd).st_size == os.lseek(fd, 0, os.SEEK_END) == size
        assert (os.pread(fd, 10, size - 4), os.pread(fd, 7, size // 2)) == (b"\0end", b"middle\0")
        assert os.pread(fd, 4096, size // 4) == bytes(4096)


def a_huge_file_can_be_cut(folder: Path) -> None:
    """A sparse file of 1 TiB can be cut to its first bytes. (POSIX truncate)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"begin")
        os.ftruncate(fd, TIB)
        assert os.fstat(fd).st_size == TIB
        os.ftruncate(fd, 3)
    assert (folder / "file").read_bytes() == b"beg"


def a_size_beyond_all_bounds_is_refused(folder: Path) -> None:
    """A length that the file system cannot hold is EFBIG, and changes nothing. (POSIX truncate)"""
    made(folder / "file", b"content")
    with error(errno.EFBIG):
        os.truncate(folder / "file", 1 << 62)
    with opened(folder / "file") as fd, error(errno.EFBIG):
        os.ftruncate(fd, (1 << 63) - 1)
    assert (folder / "file").read_bytes() == b"content"


def a_write_beyond_all_bounds_is_refused(folder: Path) -> None:
    """A byte at an offset that the file system cannot hold is EFBIG. (POSIX pwrite)"""
    with opened(folder / "file", CREATE) as fd:
        with error(errno.EFBIG):
            os.pwrite(fd, b"x", 1 << 62)
        assert os.fstat(fd).st_size == 0
