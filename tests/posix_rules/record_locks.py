"""fcntl's record locks as POSIX has them: they belong to a process."""

import errno
import os
import signal
from pathlib import Path

from support import error

from posix_rules.files import made, opened
from posix_rules.locking import (
    NONE,
    READ,
    SETLKW,
    WRITE,
    blocker,
    held_by_another,
    is_refused,
    lock,
    refused_to_another,
    waiting,
)
from posix_rules.processes import Peer, child, in_child


def a_write_lock_keeps_others_out(folder: Path) -> None:
    """Neither a read nor a write lock is granted to another process. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE)
        assert refused_to_another(folder / "file", READ)
        assert refused_to_another(folder / "file", WRITE)


def read_locks_are_shared(folder: Path) -> None:
    """Several processes may hold read locks; a write lock is then refused. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, READ)
        assert not refused_to_another(folder / "file", READ)
        assert refused_to_another(folder / "file", WRITE)


def locks_are_for_ranges(folder: Path) -> None:
    """Ranges that do not overlap do not concern each other; the file need not reach so far. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE, 10, 10)
        for start, length, refused in ((0, 10, False), (20, 5, False), (0, 11, True), (19, 1, True), (15, 0, True)):
            assert refused_to_another(folder / "file", WRITE, start, length) == refused


def a_length_of_nothing_is_to_the_end(folder: Path) -> None:
    """Length 0 reaches to the end, wherever that will be. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE, 100, 0)
        os.ftruncate(fd, 1 << 30)
        assert refused_to_another(folder / "file", WRITE, 1 << 40, 1)
        assert not refused_to_another(folder / "file", WRITE, 0, 100)


def ranges_may_count_from_place_and_end(folder: Path) -> None:
    """l_whence is SEEK_SET, SEEK_CUR or SEEK_END. (POSIX fcntl)"""
    with opened(made(folder / "file", b"x" * 100), os.O_RDWR) as fd:
        os.lseek(fd, 50, os.SEEK_SET)
        lock(fd, WRITE, 5, 5, whence=os.SEEK_CUR)
        lock(fd, WRITE, -10, 10, whence=os.SEEK_END)
        for start, refused in ((54, False), (55, True), (60, False), (89, False), (90, True), (100, False)):
            assert refused_to_another(folder / "file", WRITE, start, 1) == refused


def unlocking_a_part_splits_a_lock(folder: Path) -> None:
    """What is left on both sides stays locked. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE, 0, 30)
        lock(fd, NONE, 10, 10)
        for start, refused in ((0, True), (9, True), (10, False), (19, False), (20, True), (29, True), (30, False)):
            assert refused_to_another(folder / "file", WRITE, start, 1) == refused


def locking_again_changes_the_type(folder: Path) -> None:
    """A process's own locks never stand in its way: from write to read, in part, and back. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE, 0, 20)
        lock(fd, READ, 0, 10)
        assert not refused_to_another(folder / "file", READ, 0, 10)
        assert refused_to_another(folder / "file", READ, 10, 10)
        lock(fd, WRITE, 0, 10)
        assert refused_to_another(folder / "file", READ, 0, 10)


def f_getlk_tells_who_is_in_the_way(folder: Path) -> None:
    """Type, range and process of the lock, or F_UNLCK. (POSIX fcntl)"""
    made(folder / "file")
    with held_by_another(folder / "file", WRITE, 10, 20) as holder, opened(folder / "file", os.O_RDWR) as fd:
        assert blocker(fd, READ, 0, 100) == (WRITE, 10, 20, holder.pid)
        assert blocker(fd, WRITE, 0, 10) is None
        assert blocker(fd, WRITE, 30, 0) is None


def f_getlk_does_not_tell_of_own_locks(folder: Path) -> None:
    """A process's own locks are not in its way. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE)
        assert blocker(fd, WRITE) is None


def a_waiting_lock_is_granted_at_unlock(folder: Path) -> None:
    """F_SETLKW waits until the lock in its way is gone. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE)
        with waiting(folder / "file", SETLKW) as waiter:
            lock(fd, NONE)
            assert waiter.hear() == "granted"


def a_waiting_lock_is_granted_when_the_holder_dies(folder: Path) -> None:
    """A process that is killed lets its locks go. (POSIX fcntl)"""
    made(folder / "file")
    with held_by_another(folder / "file", WRITE) as holder, waiting(folder / "file", SETLKW) as waiter:
        holder.kill()
        assert waiter.hear() == "granted"


def a_waiting_lock_can_be_interrupted(folder: Path) -> None:
    """A signal ends F_SETLKW with EINTR, and nothing is locked. (POSIX fcntl)"""

    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    def wait(parent: Peer) -> str:
        signal.signal(signal.SIGUSR1, ring)
        with opened(folder / "file", os.O_RDWR) as fd:
            parent.say("waiting")
            try:
                lock(fd, WRITE, command=SETLKW)
            except Rung:
                return "interrupted"
            return "granted"

    with opened(folder / "file") as fd:
        lock(fd, WRITE)
        with child(wait) as waiter:
            waiter.hear()
            waiter.wait_asleep()
            os.kill(waiter.pid, signal.SIGUSR1)
            assert waiter.result() == "interrupted"
        lock(fd, NONE)
        assert not refused_to_another(folder / "file", WRITE)


def two_that_wait_for_each_other_are_told(folder: Path) -> None:
    """The one that would close the circle gets EDEADLK, and the other one waits until it can be granted. Which of the
    two comes last nobody knows. (POSIX fcntl)"""
    made(folder / "file")

    def wait_for(fd: int, start: int) -> str:
        try:
            lock(fd, WRITE, start, 1, SETLKW)
        except OSError as refused:
            return "refused" if refused.errno == errno.EDEADLK else str(refused)
        return "granted"

    def hold_and_wait(parent: Peer) -> None:
        with opened(folder / "file", os.O_RDWR) as fd:
            lock(fd, WRITE, 0, 1)
            parent.say("held")
            outcome = wait_for(fd, 1)
            lock(fd, NONE)
            parent.say(outcome)

    with opened(folder / "file", os.O_RDWR) as fd:
        lock(fd, WRITE, 1, 1)
        with child(hold_and_wait) as other:
            assert other.hear() == "held"
            outcome = wait_for(fd, 0)
            lock(fd, NONE)
            assert sorted([outcome, other.hear()]) == ["granted", "refused"]


def closing_any_descriptor_lets_all_locks_go(folder: Path) -> None:
    """A process loses its record locks of a file with the first descriptor of it that it closes. (POSIX close)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE)
        with opened(folder / "file", os.O_RDONLY):
            assert refused_to_another(folder / "file", WRITE)
        assert not refused_to_another(folder / "file", WRITE)


def a_child_does_not_inherit_record_locks(folder: Path) -> None:
    """After fork() the parent's locks stand in the child's way, on the same descriptor. (POSIX fork)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE)
        assert in_child(is_refused, fd, WRITE)
        assert refused_to_another(folder / "file", WRITE)


def a_record_lock_needs_its_access_mode(folder: Path) -> None:
    """A write lock through O_RDONLY, a read lock through O_WRONLY: EBADF. (POSIX fcntl)"""
    made(folder / "file")
    for flags, kind in ((os.O_RDONLY, WRITE), (os.O_WRONLY, READ)):
        with opened(folder / "file", flags) as fd, error(errno.EBADF):
            lock(fd, kind)


def a_lock_of_a_senseless_range_is_refused(folder: Path) -> None:
    """A range that begins before 0 is EINVAL. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        for start, length in ((-1, 1), (5, -6)):
            with error(errno.EINVAL):
                lock(fd, WRITE, start, length)


def lockf_locks_from_the_offset(folder: Path) -> None:
    """lockf() is F_SETLK from the present offset on. (POSIX lockf)"""
    with opened(made(folder / "file", b"x" * 100), os.O_RDWR) as fd:
        os.lseek(fd, 50, os.SEEK_SET)
        os.lockf(fd, os.F_TLOCK, 10)
        assert refused_to_another(folder / "file", WRITE, 55, 1)
        assert not refused_to_another(folder / "file", WRITE, 45, 1)
        os.lockf(fd, os.F_ULOCK, 10)
        assert not refused_to_another(folder / "file", WRITE, 55, 1)


def record_locks_do_not_bind_reading_and_writing(folder: Path) -> None:
    """Locks are advisory: another process reads and writes all the same. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE)
        in_child(made, folder / "file", b"content")
        assert os.pread(fd, 100, 0) == b"content"


def record_locks_follow_the_inode(folder: Path) -> None:
    """rename leaves them; another file under the former name has none. (POSIX fcntl)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE)
        os.rename(folder / "file", folder / "moved")
        made(folder / "file")
        assert refused_to_another(folder / "moved", WRITE)
        assert not refused_to_another(folder / "file", WRITE)
