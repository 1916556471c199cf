"""What the kernel has of a content that has become another version while programs have it open: it is told to forget
that.

Threads: any; see sharing.py.
"""

from collections.abc import Callable

from dfsfuse.content import Content
from dfsfuse.errands import Errands
from dfsfuse.handles import Handle, Share
from dfsfuse.range_locks import RangeLockTable

Tell = Callable[[Content, int], None]


class OldPages:
    def __init__(self, ranges: RangeLockTable, errands: Errands):
        self._ranges, self._errands = ranges, errands
        self.tell: Tell = lambda content, ino: None

    def on_changed(self, tell: Tell) -> None:
        """`tell(content, ino)` must make the kernel forget the pages and attributes that it has of the inode, as which
        programs have the content open, before it returns. It is called with no lock held that reading or writing needs.
        """
        self.tell = tell

    def tell_if_old(self, share: Share) -> None:
        with share.telling:
            old, share.pages_old = share.pages_old, False
            if old:
                self.tell(share.content, share.ino)

    def misplaced(self, handle: Handle) -> None:
        """What was appended has another place than the kernel thought, as another client has appended before: its pages
        are wrong there. It cannot be told while it waits for the answer to this very write. While a program here has a
        lock it is not told either, as its question for the size must not be overtaken (fuse_forgetting.py): an answer
        with another size makes it forget its pages. It is told before the lock goes."""
        share = handle.share
        if share is not None:
            share.pages_old = True
            if not self._ranges.is_locked(share.ino):
                self._errands.put(lambda: self.tell_if_old(share))
