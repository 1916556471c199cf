"""The file of a content is given to the kernel, which reads it itself (passthrough).

What the kernel has of it, programs may have mapped, also after they have closed it, and nobody tells when that is over:
so the system is asked who has the file (`is_alone`) before anything is done to it that they must not see: nothing is
dropped from it, it does not become another version, and it is not used for another content. Removing it is always
right. What programs write here is another matter: who has a file open or mapped sees that, as on a local disk.

Who writes is given it too (`lend_to_write`). He may go on through a mapping when he has closed it, so he counts as one
who has it open for writing until the system says that nobody can write to it (`may_close`).

Threads: any; `Content.mutex` is taken by all that is asked or said of a content.
"""

import errno
import fcntl
import logging
import os
import signal
import threading

from dfsfuse import unseen_writes
from dfsfuse.content import Content
from dfsfuse.handles import Handle

_READ_AND_WRITTEN = fcntl.F_WRLCK
"""The kind of lease that is granted where nobody else has the file."""

log = logging.getLogger(__name__)

_PARTS = 4
_given = threading.Event()
"""This process has given something to the kernel."""


def lend(content: Content, least_bytes: int) -> bool:
    """The kernel may read the file, until `take_back`; False: it is smaller, not all of it is here, or somebody writes
    to it. The content is in use."""
    with content.mutex:
        fit = content.size >= least_bytes and not content.shared and not content.writers
        if not fit or not is_whole(content):
            return False
        _given.set()
        content.lent = True
        content.pins += 1
        return True


def passes(content: Content, sizes: tuple[int, int] | None) -> bool:
    """May the kernel have it for writing, if it is of a size from the one to the other?"""
    with content.mutex:
        return sizes is not None and sizes[0] <= content.size <= sizes[1] and is_whole(content)


def prepare_to_write(content: Content) -> bool:
    """Before `lend_to_write`: what is there is hashed as far as it must be. False: that cannot be now."""
    if content.unseen.writers:
        return True
    if not content.unseen.passes or not content.committing.acquire(blocking=False):
        return False
    try:
        if content.changed or not is_whole(content):
            return False
        unseen_writes.expect(content)
        return True
    finally:
        content.committing.release()


def lend_to_write(content: Content, begins: bool) -> bool:
    """A program may write to the file; what it writes is found (unseen_writes.py). `begins`: nobody has it yet; until
    `take_back`. Everything is here, and the index knows that it may be written (`Unseen.passes`). False: it is not, or
    programs use locks on it, or it is another file's by now, or some of it is to be sent, unless others write it so
    already."""
    with content.mutex:
        unseen = content.unseen
        fit = unseen.passes and not content.shared and content.failed is None
        if not fit or (not unseen.writers and (content.changed or not is_whole(content))):
            return False
        if not unseen.writers:
            unseen.mtime_ns, unseen.stirred = os.fstat(content.fd).st_mtime_ns, False
        _given.set()
        unseen.blocks.in_use = True
        content.lent, content.past_pages = True, False
        unseen.writers += 1
        content.pins += begins
        return True


def not_lent(content: Content) -> None:
    """The kernel does not take it for one who was to write it; `take_back` is another matter."""
    with content.mutex:
        content.unseen.writers -= 1
        if not content.unseen.writers:
            content.unseen.blocks.let_go()


def may_close(handle: Handle) -> bool:
    """May one of those who write it be let go? Who comes last only when nobody can write to it any more, also through
    a mapping."""
    content = handle.content
    with content.mutex:
        if content.unseen.writers > 1:
            content.unseen.writers -= 1
            handle.unseen = False
            return True
        return not is_written(content)


def let_go(handle: Handle) -> None:
    """Nobody writes to it for this handle any more: what was written is found. What cannot be read now is all taken for
    changed."""
    content = handle.content
    with content.committing:
        try:
            unseen_writes.find(content)
        except OSError as error:
            log.error("%s: its cache file cannot be read: %s", os.fsdecode(content.where), error)
            with content.mutex:
                content.account(0, content.size)
        with content.mutex:
            content.unseen.writers, handle.unseen = content.unseen.writers - 1, False
            if not content.unseen.writers:
                content.unseen.ended()


def leave(handle: Handle) -> None:
    """The client ends: it is closed, though programs may write on. The next client finds that."""
    if handle.unseen and not may_close(handle):
        handle.content.unseen.left = True


def is_written(content: Content) -> bool:
    """Has somebody else the file open for writing, or mapped what he had so? The descriptor here would count too: for a
    moment it is one for reading."""
    with content.mutex:
        again = os.open(_same(content.fd), os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(again, content.fd, inheritable=False)
        try:
            return not _has_no_writer(content.fd)
        finally:
            # Its number is free for what comes in its place.
            os.close(again)
            again = os.open(_same(content.fd), os.O_RDWR | os.O_CLOEXEC)
            os.dup2(again, content.fd, inheritable=False)
            os.close(again)


def is_written_at(path: str) -> bool:
    """As `is_written`, of a file that nobody has open here."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _has_no_writer(fd)
    finally:
        os.close(fd)


def _same(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _has_no_writer(fd: int) -> bool:
    try:
        ask_for_lease(fd, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno != errno.EAGAIN and not _given.is_set()
    return True


def is_whole(content: Content) -> bool:
    """Is all of it here?"""
    with content.mutex:
        return all(content.present.covers(first, first + len(run)) for first, run in content.entries.runs())


def is_in_memory(content: Content) -> bool:
    """Are the pages of the file's beginning, middle and end in the kernel's memory? Then reading it costs no disk."""
    byte, last = bytearray(1), max(0, content.size - 1)
    try:
        return all(os.preadv(content.fd, [byte], last * part // _PARTS, os.RWF_NOWAIT) for part in range(_PARTS + 1))
    except OSError:
        return False


def take_back(content: Content) -> None:
    """Nothing is open of it any more that the kernel reads itself. Mappings may be left."""
    with content.mutex:
        content.pins -= 1


def is_left(content: Content) -> bool:
    """Does the kernel, or a program through it, perhaps have the file? What it was given it may be about to open."""
    with content.mutex:
        if content.lent and not content.pins:
            content.lent = not (_is_alone(content.fd) if content.fd >= 0 else is_alone_at(content.path))
        return content.lent


def is_alone_at(path: str) -> bool:
    """Has nobody else the file open or mapped? True where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return _is_alone(fd)
    finally:
        os.close(fd)


def _is_alone(fd: int) -> bool:
    """Where the system cannot tell, nothing is given to the kernel; if something was all the same, this is False."""
    try:
        ask_for_lease(fd)
    except OSError as error:
        return error.errno != errno.EAGAIN and not _given.is_set()
    return True


def ask_for_lease(fd: int, kind: int = _READ_AND_WRITTEN) -> None:
    """Raises OSError with EAGAIN where anybody else has the file, with F_RDLCK for writing, and with another errno
    where the system, or the file system below, does not know who has it.

    Who opens the file in this moment waits for its end, of which the system tells this process by a signal: one that is
    ignored, as the usual one would end it."""
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
