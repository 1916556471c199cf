"""What programs have open: handles, and what those of a file share on which programs use locks.

Threads: a Handle belongs to any thread. `Content.committing` guards a Share, but where sharing.py says otherwise.
"""

import itertools
import os
import threading

from dfsfuse import errors
from dfsfuse.content import Content
from dfsfuse.locks import Lock
from dfsfuse.places import Place

_numbers = itertools.count(1)


class Share:
    """A content on whose file programs use locks. `locking`: some here have, since it was opened. `lock` is the write
    lock, held for process `pid`. `noted`: the directory knows. `elsewhere`: programs of other clients use locks too.
    `token` is that of the write lock under which the content was last known to be the newest version.

    `pages_old`: the kernel may have pages of an older version. `telling` is held while it is told.
    """

    def __init__(self, content: Content):
        # A content that is kept as a copy becomes another inode's.
        self.content, self.ino, self.users = content, content.ino, 0
        self.lock: Lock | None = None
        self.pid, self.token = 0, content.token
        self.locking = self.noted = self.elsewhere = self.pages_old = False
        self.telling = threading.Lock()


class Handle:
    """One open file; its content says when what was written can no longer become the file's next version. `lock` is
    the write lock, if it is this handle's until it is closed. `owes`: the latest close() or fsync() failed.
    `privileged`: opened by who may keep set-id bits when writing (CAP_FSETID).

    `appends`: it was opened to append alone, and all that was written through it went to the end. That is past the
    kernel's pages, as what others append moves the end, of which the kernel hears later.

    `unseen`: the kernel has the file for it, so what it writes is found (unseen_writes.py); it was `locked` through it.

    `share`: programs use locks on the file. `past_pages`: those of other clients do too, so the kernel should keep no
    pages of it, and maps none of it shared. `failed`: why it is of no use any more. `number` is no other's.
    """

    def __init__(
        self, content: Content, place: Place, flags: int, pid: int, lock: Lock | None, privileged: bool = False
    ):
        self.content, self.place, self.flags, self.pid, self.lock = content, place, flags, pid, lock
        self.privileged, self.writable = privileged, lock is not None
        self.owes = self.unseen = self.locked = False
        self.appends = self.past_pages = flags & (os.O_ACCMODE | os.O_APPEND) == os.O_WRONLY | os.O_APPEND
        self.number = next(_numbers)
        self.share: Share | None = None
        self.failed: errors.DfsError | None = None
        content.handles[self], content.wanted = None, True


def writers_of(content: Content) -> list[Handle]:
    """Those through which programs here may write it."""
    return [each for each in list(content.handles) if each.writable]


def is_only_appended_to(content: Content) -> bool:
    """Programs here have it open for writing, and all of them to append."""
    writers = writers_of(content)
    return bool(writers) and all(each.appends for each in writers)
