"""copy_file_range, sendfile and splice: content that moves within the kernel; poll on what is always ready."""

import errno
import os
import select
import socket
from pathlib import Path

from support import error

from posix_rules.files import CREATE, MIB, made, opened

# -- copy_file_range


def copy_file_range_copies(folder: Path) -> None:
    """It copies from one offset to the other, and moves both. (copy_file_range(2))"""
    made(folder / "from", b"0123456789")
    with opened(folder / "from", os.O_RDONLY) as source, opened(folder / "to") as target:
        assert _copied(source, target, 4) == 4
        assert os.lseek(source, 0, os.SEEK_CUR) == os.lseek(target, 0, os.SEEK_CUR) == 4
    assert (folder / "to").read_bytes() == b"0123"


def copy_file_range_with_offsets_moves_none(folder: Path) -> None:
    """With offsets given, those of the descriptors stay; the gap before is zeros. (copy_file_range(2))"""
    made(folder / "from", b"0123456789")
    with opened(folder / "from", os.O_RDONLY) as source, opened(folder / "to") as target:
        assert os.copy_file_range(source, target, 3, 5, 2) == 3
        assert os.lseek(source, 0, os.SEEK_CUR) == os.lseek(target, 0, os.SEEK_CUR) == 0
    assert (folder / "to").read_bytes() == bytes(2) + b"567"


def copy_file_range_stops_at_the_end(folder: Path) -> None:
    """What lies behind the source's end is not copied; from there on it returns 0. (copy_file_range(2))"""
    made(folder / "from", b"0123456789")
    with opened(folder / "from", os.O_RDONLY) as source, opened(folder / "to") as target:
        assert _copied(source, target, 100) == 10
        assert os.copy_file_range(source, target, 100) == 0
    assert (folder / "to").read_bytes() == b"0123456789"


def copy_file_range_copies_megabytes(folder: Path) -> None:
    """Several MiB arrive whole. (copy_file_range(2))"""
    content = os.urandom(4096) * 768 + b"odd"
    made(folder / "from", content)
    with opened(folder / "from", os.O_RDONLY) as source, opened(folder / "to") as target:
        assert _copied(source, target, len(content)) == len(content)
    assert (folder / "to").read_bytes() == content


def copy_file_range_within_a_file(folder: Path) -> None:
    """Source and target may be one file, if the ranges do not overlap. (copy_file_range(2))"""
    made(folder / "file", b"0123456789")
    with opened(folder / "file", os.O_RDWR) as fd:
        assert os.copy_file_range(fd, fd, 3, 0, 5) == 3
        with error(errno.EINVAL):
            os.copy_file_range(fd, fd, 5, 0, 3)
    assert (folder / "file").read_bytes() == b"0123401289"


def copy_file_range_sees_what_was_just_written(folder: Path) -> None:
    """The source's unsynced content is copied, and the target's descriptors see it. (copy_file_range(2))"""
    with opened(folder / "from") as source, opened(folder / "to") as target:
        os.write(source, b"content")
        assert os.copy_file_range(source, target, 7, 0) == 7
        assert os.pread(target, 100, 0) == b"content"


def copy_file_range_needs_reading_and_writing(folder: Path) -> None:
    """A source that is not open for reading, or a target not for writing or with O_APPEND, is EBADF.
    (copy_file_range(2))"""
    made(folder / "from", b"content")
    made(folder / "to")
    cases = ((os.O_WRONLY, os.O_WRONLY), (os.O_RDONLY, os.O_RDONLY), (os.O_RDONLY, os.O_WRONLY | os.O_APPEND))
    for reading, writing in cases:
        with opened(folder / "from", reading) as source, opened(folder / "to", writing) as target:
            with error(errno.EBADF):
                os.copy_file_range(source, target, 7)


def copy_file_range_refuses_folders(folder: Path) -> None:
    """A folder is EISDIR. (copy_file_range(2))"""
    with opened(folder, os.O_RDONLY) as source, opened(folder / "to") as target:
        with error(errno.EISDIR):
            os.copy_file_range(source, target, 7)


def _copied(source: int, target: int, count: int) -> int:
    """How many bytes arrive; a call may copy less than it was asked for."""
    total = 0
    while total < count and (copied := os.copy_file_range(source, target, count - total)):
        total += copied
    return total


# -- sendfile and splice


def sendfile_copies_to_a_file(folder: Path) -> None:
    """sendfile from a file to another, from an offset, without moving the source's. (sendfile(2))"""
    made(folder / "from", b"0123456789")
    with opened(folder / "from", os.O_RDONLY) as source, opened(folder / "to") as target:
        assert os.sendfile(target, source, 2, 5) == 5
        assert os.lseek(source, 0, os.SEEK_CUR) == 0
        assert os.sendfile(target, source, 10, 5) == 0
    assert (folder / "to").read_bytes() == b"23456"


def sendfile_copies_to_a_socket(folder: Path) -> None:
    """sendfile to a socket, as web servers do. (sendfile(2))"""
    content = os.urandom(60_000)
    made(folder / "from", content)
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(folder / "from", os.O_RDONLY) as source:
        assert os.sendfile(ours.fileno(), source, 0, len(content)) == len(content)
        assert theirs.recv(len(content), socket.MSG_WAITALL) == content


def splice_passes_a_file_through_a_pipe(folder: Path) -> None:
    """splice from a file into a pipe, and from the pipe into another file. (splice(2))"""
    content = os.urandom(30_000)
    made(folder / "from", content)
    reading, writing = os.pipe()
    try:
        with opened(folder / "from", os.O_RDONLY) as source, opened(folder / "to") as target:
            assert os.splice(source, writing, len(content)) == len(content)
            assert os.splice(reading, target, len(content), offset_dst=10) == len(content)
    finally:
        os.close(reading)
        os.close(writing)
    assert (folder / "to").read_bytes() == bytes(10) + content


# -- poll


def poll_says_ready_on_a_regular_file(folder: Path) -> None:
    """A regular file is always ready for reading and writing, also at its end. (POSIX poll)"""
    with opened(folder / "file") as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT)
        assert poll.poll(5000) == [(fd, select.POLLIN | select.POLLOUT)]


def select_says_ready_on_a_regular_file(folder: Path) -> None:
    """The same of select. (POSIX select)"""
    with opened(folder / "file") as fd:
        assert select.select([fd], [fd], [], 5.0) == ([fd], [fd], [])


def epoll_never_waits_for_a_regular_file(folder: Path) -> None:
    """epoll refuses a regular file with EPERM, on which event loops fall back, or says ready at once. (epoll_ctl(2))"""
    with opened(folder / "file", CREATE) as fd, select.epoll() as epoll:
        try:
            epoll.register(fd, select.EPOLLIN)
        except PermissionError:
            return
        assert epoll.poll(5.0) == [(fd, select.EPOLLIN)]


def posix_fadvise_is_accepted(folder: Path) -> None:
    """Advice changes nothing of what is read. (POSIX posix_fadvise)"""
    made(folder / "file", b"x" * MIB)
    with opened(folder / "file", os.O_RDONLY) as fd:
        for advice in (os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_WILLNEED, os.POSIX_FADV_DONTNEED):
            os.posix_fadvise(fd, 0, 0, advice)
            assert os.pread(fd, MIB, 0) == b"x" * MIB
