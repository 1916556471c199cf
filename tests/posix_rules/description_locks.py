"""Locks that belong to an open file description: fcntl's OFD locks and flock."""

import errno
import fcntl
import os
from pathlib import Path

from support import error

from posix_rules.files import CREATE, made, opened
from posix_rules.locking import (
    NONE,
    OFD_GETLK,
    OFD_SETLK,
    OFD_SETLKW,
    READ,
    SETLK,
    WRITE,
    blocker,
    is_refused,
    lock,
    refused_to_another,
    waiting,
)
from posix_rules.processes import Peer, child, in_child

# -- record locks of open file descriptions


def ofd_locks_keep_other_opens_out(folder: Path) -> None:
    """Two opens in one process are in each other's way. (fcntl(2) open file description locks)"""
    with opened(folder / "file") as one, opened(folder / "file") as other:
        lock(one, WRITE, 0, 10, OFD_SETLK)
        assert is_refused(other, READ, 5, 1, OFD_SETLK)
        lock(other, WRITE, 10, 10, OFD_SETLK)
        assert blocker(other, WRITE, 0, 10, OFD_GETLK) == (WRITE, 0, 10, -1)


def ofd_locks_outlive_other_closes(folder: Path) -> None:
    """Closing another descriptor of the file does not let them go; the last of their own does.
    (fcntl(2) open file description locks)"""
    with opened(folder / "file") as other:
        with opened(folder / "file") as fd:
            lock(fd, WRITE, command=OFD_SETLK)
            os.close(os.open(folder / "file", os.O_RDONLY))
            os.close(os.dup(fd))
            assert is_refused(other, WRITE, command=OFD_SETLK)
        assert not is_refused(other, WRITE, command=OFD_SETLK)


def ofd_locks_are_inherited(folder: Path) -> None:
    """A child shares the description and its locks: it may lock again, and unlock for both.
    (fcntl(2) open file description locks)"""
    with opened(folder / "file") as fd, opened(folder / "file") as other:
        lock(fd, WRITE, command=OFD_SETLK)
        assert not in_child(is_refused, fd, WRITE, 0, 0, OFD_SETLK)
        assert is_refused(other, WRITE, command=OFD_SETLK)
        in_child(lock, fd, NONE, 0, 0, OFD_SETLK)
        assert not is_refused(other, WRITE, command=OFD_SETLK)


def ofd_and_process_locks_respect_each_other(folder: Path) -> None:
    """Each keeps the other out, also within one process. (fcntl(2) open file description locks)"""
    with opened(folder / "file") as fd, opened(folder / "file") as other:
        lock(fd, WRITE, 0, 1, OFD_SETLK)
        lock(fd, WRITE, 1, 1, SETLK)
        assert is_refused(other, WRITE, 0, 1, SETLK)
        assert is_refused(other, WRITE, 1, 1, OFD_SETLK)


def a_waiting_ofd_lock_is_granted_at_unlock(folder: Path) -> None:
    """F_OFD_SETLKW waits until the lock in its way is gone. (fcntl(2) open file description locks)"""
    with opened(folder / "file") as fd:
        lock(fd, WRITE, command=OFD_SETLK)
        with waiting(folder / "file", OFD_SETLKW) as waiter:
            lock(fd, NONE, command=OFD_SETLK)
            assert waiter.hear() == "granted"


# -- flock


def flock_keeps_others_out(folder: Path) -> None:
    """LOCK_EX of one open file refuses LOCK_SH and LOCK_EX of another: EWOULDBLOCK. (flock(2))"""
    with opened(folder / "file") as one, opened(folder / "file") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
            with error(errno.EWOULDBLOCK):
                fcntl.flock(other, kind | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flock_is_shared_among_readers(folder: Path) -> None:
    """LOCK_SH is granted to many, and refuses LOCK_EX. (flock(2))"""
    with opened(folder / "file") as one, opened(folder / "file") as other:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with error(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flock_needs_no_access_mode(folder: Path) -> None:
    """LOCK_EX through O_RDONLY is granted. (flock(2))"""
    made(folder / "file")
    with opened(folder / "file", os.O_RDONLY) as fd, opened(folder / "file", os.O_RDONLY) as other:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with error(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def flock_belongs_to_the_open_file(folder: Path) -> None:
    """Duplicates share it: closing one does not let it go, the last does. (flock(2))"""
    with opened(folder / "file") as other:
        with opened(folder / "file") as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.close(os.dup(fd))
            with error(errno.EWOULDBLOCK):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flock_is_inherited(folder: Path) -> None:
    """A child that inherits the descriptor may let it go for both. (flock(2))"""
    with opened(folder / "file") as fd, opened(folder / "file") as other:
        fcntl.flock(fd, fcntl.LOCK_EX)
        in_child(fcntl.flock, fd, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flock_waits(folder: Path) -> None:
    """LOCK_EX without LOCK_NB waits until it is granted. (flock(2))"""

    def wait(parent: Peer) -> None:
        with opened(folder / "file", os.O_RDWR) as fd:
            parent.say("waiting")
            fcntl.flock(fd, fcntl.LOCK_EX)
            parent.say("granted")

    with opened(folder / "file") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with child(wait) as waiter:
            waiter.hear()
            waiter.wait_asleep()
            assert waiter.silent()
            fcntl.flock(fd, fcntl.LOCK_UN)
            assert waiter.hear() == "granted"


def flock_goes_with_a_killed_process(folder: Path) -> None:
    """kill -9 lets it go. (flock(2))"""

    def hold(parent: Peer) -> None:
        with opened(folder / "file") as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            parent.say("held")
            parent.hear()

    with child(hold) as holder, opened(folder / "file") as fd:
        holder.hear()
        with error(errno.EWOULDBLOCK):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flock_works_on_folders(folder: Path) -> None:
    """A folder that is open can be locked. (flock(2))"""
    with opened(folder, os.O_RDONLY) as one, opened(folder, os.O_RDONLY) as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with error(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flock_and_record_locks_do_not_concern_each_other(folder: Path) -> None:
    """On a local file system these are two kinds of lock. (flock(2))"""
    with opened(folder / "file", CREATE) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert not refused_to_another(folder / "file", WRITE)
