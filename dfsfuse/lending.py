"""The file of a content is given to the kernel, which reads it itself (passthrough).

What the kernel has of it, programs may have mapped, also after they have closed it, and nobody tells when that is over:
so the system is asked who has the file (`is_alone`) before anything is done to it that they must not see: nothing is
dropped from it, it does not become another version, and it is not used for another content. Removing it is always
right. What programs write here is another matter: who has a file open or mapped sees that, as on a local disk.

Threads: any; `Content.mutex` is taken by all that is asked or said of a content.
"""

import errno
import fcntl
import os
import signal
import threading

from dfsfuse.content import Content

_READ_AND_WRITTEN = fcntl.F_WRLCK
"""The kind of lease that is granted where nobody else has the file."""

_PARTS = 4
_given = threading.Event()
"""This process has given something to the kernel."""


def lend(content: Content, least_bytes: int) -> bool:
    """The kernel may read the file, until `take_back`; False: it is smaller, not all of it is here, or somebody writes
    to it. The content is in use."""
    with content.mutex:
        fit = content.size >= least_bytes and not content.shared and not content.writers
        if not fit or not _is_whole(content):
            return False
        _given.set()
        content.lent = True
        content.pins += 1
        return True


def _is_whole(content: Content) -> bool:
    return 0 not in content.present or all(content.here(index) for index in range(len(content.entries)))


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


def ask_for_lease(fd: int) -> None:
    """Raises OSError with EAGAIN where anybody else has the file, and with another errno where the system, or the file
    system below, does not know who has it.

    Who opens the file in this moment waits for its end, of which the system tells this process by a signal: one that is
    ignored, as the usual one would end it."""
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, _READ_AND_WRITTEN)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
