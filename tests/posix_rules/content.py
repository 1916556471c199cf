"""read, write and lseek, with their variants: offsets, ends and buffers."""

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from support import error

from posix_rules.calls import read_to_nowhere, write_from_nowhere
from posix_rules.files import CREATE, MIB, made, opened
from posix_rules.processes import child, in_child

# -- reading


def read_stops_at_the_end(folder: Path) -> None:
    """read() returns what is left, then nothing. (POSIX read)"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert [os.read(fd, 6), os.read(fd, 6), os.read(fd, 6)] == [b"012345", b"6789", b""]


def read_at_the_end_sees_what_is_added(folder: Path) -> None:
    """A reader that has reached the end goes on when the file grows. (POSIX read)"""
    with opened(folder / "file") as writer, opened(folder / "file", os.O_RDONLY) as reader:
        for piece in (b"one", b"two"):
            assert os.read(reader, 10) == b""
            os.write(writer, piece)
            assert os.read(reader, 10) == piece


def pread_leaves_the_offset(folder: Path) -> None:
    """pread() neither uses nor moves the offset. (POSIX pread)"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.pread(fd, 3, 5) == b"567"
        assert os.read(fd, 3) == b"012"


def pread_beyond_the_end_is_empty(folder: Path) -> None:
    """From the end on there is nothing, and no error. (POSIX pread)"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert [os.pread(fd, 5, offset) for offset in (8, 10, 1 << 40)] == [b"89", b"", b""]


def pread_before_the_beginning_is_refused(folder: Path) -> None:
    """A negative offset is EINVAL, for reading and writing. (POSIX pread)"""
    with opened(folder / "file") as fd:
        with error(errno.EINVAL):
            os.pread(fd, 1, -1)
        with error(errno.EINVAL):
            os.pwrite(fd, b"x", -1)


def readv_fills_its_buffers_in_turn(folder: Path) -> None:
    """readv() fills each buffer before the next, and stops at the end of the file. (POSIX readv)"""
    made(folder / "file", b"0123456789")
    buffers = [bytearray(4), bytearray(4), bytearray(4)]
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.readv(fd, buffers) == 10
        assert os.lseek(fd, 0, os.SEEK_CUR) == 10
    assert buffers == [b"0123", b"4567", b"89\0\0"]


def preadv_reads_at_an_offset(folder: Path) -> None:
    """preadv() reads from its offset and leaves the descriptor's. (preadv(2))"""
    made(folder / "file", b"0123456789")
    buffers = [bytearray(2), bytearray(3)]
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.preadv(fd, buffers, 3) == 5
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    assert buffers == [b"34", b"567"]


def read_of_nothing_returns_nothing(folder: Path) -> None:
    """A length of 0 reads nothing and moves nothing. (POSIX read)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd:
        assert os.read(fd, 0) == b""
        assert os.readv(fd, [bytearray(0)]) == 0
        assert os.read(fd, 3) == b"con"


def read_to_a_bad_address_is_refused(folder: Path) -> None:
    """A buffer outside the program's memory is EFAULT, and the offset stays. (read(2))"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDONLY) as fd:
        with error(errno.EFAULT):
            read_to_nowhere(fd, 7)
        assert os.read(fd, 7) == b"content"


# -- writing


def write_moves_the_offset(folder: Path) -> None:
    """write() goes on where the last one ended. (POSIX write)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"one ")
        os.write(fd, b"two")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    assert (folder / "file").read_bytes() == b"one two"


def write_replaces_and_keeps_the_rest(folder: Path) -> None:
    """Bytes beside the written ones stay. (POSIX write)"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_WRONLY) as fd:
        os.lseek(fd, 3, os.SEEK_SET)
        os.write(fd, b"abc")
    assert (folder / "file").read_bytes() == b"012abc6789"


def write_is_seen_by_others_at_once(folder: Path) -> None:
    """What write() has returned for is what any later read() sees, through any descriptor. (POSIX write)"""
    with opened(folder / "file") as writer, opened(folder / "file", os.O_RDONLY) as reader:
        os.write(writer, b"content")
        assert os.pread(reader, 100, 0) == b"content"
        assert os.fstat(reader).st_size == os.stat(folder / "file").st_size == 7


def write_is_seen_by_other_processes_at_once(folder: Path) -> None:
    """The same, through a descriptor that another process has opened. (POSIX write)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"content")
        assert in_child((folder / "file").read_bytes) == b"content"


def write_beyond_the_end_leaves_zeros(folder: Path) -> None:
    """The gap between the former end and the written bytes reads as zeros. (POSIX write)"""
    made(folder / "file", b"begin")
    with opened(folder / "file", os.O_WRONLY) as fd:
        os.lseek(fd, 10_000, os.SEEK_SET)
        os.write(fd, b"end")
    assert (folder / "file").read_bytes() == b"begin" + bytes(9_995) + b"end"


def pwrite_leaves_the_offset(folder: Path) -> None:
    """pwrite() neither uses nor moves the offset. (POSIX pwrite)"""
    with opened(folder / "file") as fd:
        os.write(fd, b"0123")
        os.pwrite(fd, b"abc", 6)
        os.write(fd, b"45")
    assert (folder / "file").read_bytes() == b"012345abc"


def writev_writes_its_buffers_in_turn(folder: Path) -> None:
    """writev() is one write of all buffers. (POSIX writev)"""
    with opened(folder / "file") as fd:
        assert os.writev(fd, [b"one ", b"", b"two ", b"three"]) == 13
        assert os.lseek(fd, 0, os.SEEK_CUR) == 13
    assert (folder / "file").read_bytes() == b"one two three"


def pwritev_writes_at_an_offset(folder: Path) -> None:
    """pwritev() writes from its offset, also beyond the end, and leaves the descriptor's. (pwritev(2))"""
    with opened(folder / "file") as fd:
        assert os.pwritev(fd, [b"ab", b"cd"], 4) == 4
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    assert (folder / "file").read_bytes() == b"\0\0\0\0abcd"


def write_of_nothing_changes_nothing(folder: Path) -> None:
    """A length of 0 does not grow the file, also beyond its end, and returns 0. (POSIX write)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_WRONLY) as fd:
        assert os.pwrite(fd, b"", 100) == 0
        assert os.fstat(fd).st_size == 7


def write_from_a_bad_address_is_refused(folder: Path) -> None:
    """A buffer outside the program's memory is EFAULT, and the file stays. (write(2))"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_WRONLY) as fd:
        with error(errno.EFAULT):
            write_from_nowhere(fd, 10)
    assert (folder / "file").read_bytes() == b"content"


def writes_across_pages_keep_their_bytes(folder: Path) -> None:
    """Odd offsets and lengths around the borders of pages, blocks and chunks are exact. (POSIX write)"""
    expected = bytearray(5 * MIB)
    with opened(folder / "file") as fd:
        os.ftruncate(fd, len(expected))
        for number, border in enumerate((4096, 8192, 65536, MIB, 2 * MIB, 4 * MIB), 1):
            piece = bytes([number]) * (997 * number)
            expected[border - 331 : border - 331 + len(piece)] = piece
            assert os.pwrite(fd, piece, border - 331) == len(piece)
        assert os.pread(fd, len(expected), 0) == expected
    assert (folder / "file").read_bytes() == expected


def one_large_write_is_whole(folder: Path) -> None:
    """A write of several MiB is taken as one and read back the same. (POSIX write)"""
    content = os.urandom(4096) * 768
    with opened(folder / "file") as fd:
        assert os.write(fd, content) == len(content)
    assert (folder / "file").read_bytes() == content


# -- appending


def o_append_writes_at_the_end(folder: Path) -> None:
    """Under O_APPEND each write goes to the end, wherever the offset is, and moves it there. (POSIX write)"""
    made(folder / "file", b"begin")
    with opened(folder / "file", os.O_RDWR | os.O_APPEND) as fd:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"end")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 8
    assert (folder / "file").read_bytes() == b"beginend"


def o_append_reads_from_the_offset(folder: Path) -> None:
    """O_APPEND has no part in reading: it begins at 0. (POSIX open)"""
    made(folder / "file", b"content")
    with opened(folder / "file", os.O_RDWR | os.O_APPEND) as fd:
        assert os.read(fd, 3) == b"con"


def pwrite_under_o_append_appends(folder: Path) -> None:
    """On Linux pwrite() to an O_APPEND descriptor appends, whatever its offset. (pwrite(2))"""
    made(folder / "file", b"begin")
    with opened(folder / "file", os.O_WRONLY | os.O_APPEND) as fd:
        os.pwrite(fd, b"end", 0)
    assert (folder / "file").read_bytes() == b"beginend"


def appending_descriptors_take_turns(folder: Path) -> None:
    """Two O_APPEND descriptors always write behind each other. (POSIX write)"""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with opened(folder / "file", flags) as one, opened(folder / "file", flags) as other:
        for fd, piece in ((one, b"a"), (other, b"bb"), (one, b"ccc"), (other, b"d")):
            os.write(fd, piece)
    assert (folder / "file").read_bytes() == b"abbcccd"


def appending_processes_lose_nothing(folder: Path) -> None:
    """Two processes that append at once: each write is whole, and none is lost. (POSIX write)"""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT

    def append(letter: bytes) -> None:
        with opened(folder / "file", flags) as fd:
            for _ in range(50):
                os.write(fd, letter * 99 + b"\n")

    _both(lambda: append(b"a"), lambda: append(b"b"))
    lines = (folder / "file").read_bytes().splitlines()
    assert sorted(lines) == [b"a" * 99] * 50 + [b"b" * 99] * 50


def _both(one: Callable[[], None], other: Callable[[], None]) -> None:
    """The two at once, in processes of their own."""
    with child(lambda _: one()) as first, child(lambda _: other()) as second:
        first.result()
        second.result()


def append_goes_to_the_end_after_a_cut(folder: Path) -> None:
    """After ftruncate an appending write goes to the new end: log files are cut so. (POSIX write)"""
    with opened(folder / "file", CREATE | os.O_APPEND) as fd:
        os.write(fd, b"0123456789")
        os.ftruncate(fd, 3)
        os.write(fd, b"abc")
    assert (folder / "file").read_bytes() == b"012abc"


def f_setfl_switches_appending(folder: Path) -> None:
    """F_SETFL with O_APPEND takes effect from the next write on, and so does its removal. (POSIX fcntl)"""
    made(folder / "file", b"0123")
    with opened(folder / "file", os.O_WRONLY) as fd:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.write(fd, b"45")
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        os.pwrite(fd, b"a", 0)
    assert (folder / "file").read_bytes() == b"a12345"


def rwf_append_appends_once(folder: Path) -> None:
    """pwritev2 with RWF_APPEND appends without O_APPEND. (pwritev2(2))"""
    made(folder / "file", b"begin")
    with opened(folder / "file", os.O_WRONLY) as fd:
        os.pwritev(fd, [b"end"], 0, os.RWF_APPEND)
    assert (folder / "file").read_bytes() == b"beginend"


# -- lseek


def lseek_counts_from_start_place_and_end(folder: Path) -> None:
    """SEEK_SET, SEEK_CUR and SEEK_END return the resulting offset. (POSIX lseek)"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDONLY) as fd:
        steps = ((7, os.SEEK_SET), (-3, os.SEEK_CUR), (-1, os.SEEK_END), (5, os.SEEK_END))
        assert [os.lseek(fd, offset, whence) for offset, whence in steps] == [7, 4, 9, 15]


def lseek_to_the_end_follows_the_size(folder: Path) -> None:
    """SEEK_END counts from the size that the file has now, whoever has made it. (POSIX lseek)"""
    with opened(folder / "file") as fd, opened(folder / "file") as other:
        assert os.lseek(fd, 0, os.SEEK_END) == 0
        os.write(other, b"content")
        assert os.lseek(fd, 0, os.SEEK_END) == 7


def lseek_beyond_the_end_does_not_grow(folder: Path) -> None:
    """Only a write makes the file longer. (POSIX lseek)"""
    with opened(folder / "file") as fd:
        assert os.lseek(fd, 1000, os.SEEK_SET) == 1000
        assert os.fstat(fd).st_size == 0
        assert os.read(fd, 1) == b""


def lseek_before_the_beginning_is_refused(folder: Path) -> None:
    """A resulting offset below 0 is EINVAL, and the offset stays. (POSIX lseek)"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDONLY) as fd:
        os.lseek(fd, 4, os.SEEK_SET)
        for offset, whence in ((-1, os.SEEK_SET), (-5, os.SEEK_CUR), (-11, os.SEEK_END), (0, 77)):
            with error(errno.EINVAL):
                os.lseek(fd, offset, whence)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4


# -- limits


def write_beyond_the_size_limit_is_refused(folder: Path) -> None:
    """RLIMIT_FSIZE: a write is cut at the limit, and from there on EFBIG. (POSIX write)"""

    def write() -> tuple[int, int]:
        _limited(1000)
        with opened(folder / "file") as fd:
            taken = os.write(fd, b"x" * 1500)
            with error(errno.EFBIG):
                os.write(fd, b"x")
            return taken, os.fstat(fd).st_size

    assert in_child(write) == (1000, 1000)


def growing_beyond_the_size_limit_is_refused(folder: Path) -> None:
    """RLIMIT_FSIZE: ftruncate beyond it is EFBIG; cutting and growing below it work. (POSIX ftruncate)"""

    def grow() -> int:
        _limited(1000)
        with opened(folder / "file") as fd:
            os.ftruncate(fd, 1000)
            with error(errno.EFBIG):
                os.ftruncate(fd, 1001)
            return os.fstat(fd).st_size

    assert in_child(grow) == 1000


def the_size_limit_raises_sigxfsz(folder: Path) -> None:
    """A process that does not ignore SIGXFSZ is ended by it at the limit. (POSIX write)"""

    def write(_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with opened(folder / "file") as fd:
            os.write(fd, b"x")

    with child(write) as process:
        assert process.status() == -signal.SIGXFSZ


def _limited(size: int) -> None:
    """Files of this process may have this size at most; beyond is an error rather than the end of the process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
