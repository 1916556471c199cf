"""Small files that programs have read and closed, kept open for the next program that opens them.

Programs open the same files again and again: headers, scripts, what a search goes over. All that an open of a cached
file comes to, where it is promised that nothing has changed, is what the close before has just put away. So that is
put off: what is kept is open as far as the rest of the client knows, and the next open asks only whether it still is
what the name leads to, and the newest.

It is closed when that is not so, when the promise for it is broken, before this client opens the file otherwise, cuts
it, removes it or puts another one in its place, and when too many are kept (reopening.py has what may be kept at all).

Threads: any. `_mutex` guards the table, and nothing is closed under it.
"""

import resource
import threading
from collections import OrderedDict
from collections.abc import Callable

from dfsfuse.drivers.fuse_backing import LEAST_BYTES
from dfsfuse.drivers.fuse_node import Node, Way
from dfsfuse.drivers.fuse_nodes import Nodes
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import EVERYTHING, ROOT_INO
from dfsfuse.openfiles import Handle

SPARES_MAX = 1024
"""Each has a descriptor, and some 4 KB of memory, which the content would also take for a while without it."""
_MISSED_BYTES_MIN, _MISSED_BYTES_MAX = LEAST_BYTES // 4, 16 << 20
_BYTES_MAX = 64 << 10
"""So what is kept is 64 MiB of the cache at most."""
_SHARE = 4
"""What is kept takes a quarter of the cache at most, and of the descriptors that this process may have."""


class Opened:
    """An open file of the kernel's, and how it was opened; `mixed`: past the pages of its node, as these are another
    version's. `taken`: nobody has to hear any more that the kernel has taken the answer to the open. `asked` counts the
    bytes that the kernel has asked for."""

    __slots__ = ("handle", "node", "way", "mixed", "taken", "asked")

    def __init__(self, handle: Handle, node: Node, way: Way):
        self.handle, self.node, self.way = handle, node, way
        self.taken, self.asked = not way.drop, 0
        self.mixed = way.direct and node.content not in (None, handle.content)

    def has_missed(self) -> bool:
        """Has the kernel asked for much that it might have kept?"""
        size = self.handle.content.size
        if size < LEAST_BYTES or self.way.direct:
            return False
        return self.asked - size * (not self.way.keep) > max(_MISSED_BYTES_MIN, min(size // 4, _MISSED_BYTES_MAX))


class Spares:
    """By inode number, those that were closed last. `close` closes one, by its number among the open files; it never
    raises. `spares_max`: where there is room for so many; 0: none are kept."""

    def __init__(
        self, filesystem: FileSystem, nodes: Nodes, close: Callable[[int], None], spares_max: int = SPARES_MAX
    ):
        self._fs, self._nodes, self._close = filesystem, nodes, close
        self._max = min(spares_max, filesystem.cache_bytes // _BYTES_MAX // _SHARE, _descriptors() // _SHARE)
        self._mutex = threading.Lock()
        self._kept: OrderedDict[int, tuple[int, Opened]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, fh: int, opened: Opened) -> bool:
        """A program has closed it. False: it is to be closed."""
        if not self._is_plain(opened):
            return False
        ino = opened.node.ino
        with self._mutex:
            former = self._kept.pop(ino, None)
            self._kept[ino] = fh, opened
            surplus = self._kept.popitem(last=False)[1] if len(self._kept) > self._max else None
        for each in (former, surplus):
            if each is not None:
                self._close(each[0])
        if not self._fs.may_stay_open(opened.handle):
            # What was broken, removed or opened for writing before this was kept is not dropped for that any more.
            self.drop(ino)
        return True

    def _is_plain(self, opened: Opened) -> bool:
        """Was it read through the kernel's pages, as most files are, and has no program locked it?"""
        handle, way = opened.handle, opened.way
        if handle.writable or handle.share is not None or handle.failed is not None or handle.past_pages:
            return False
        return not (way.direct or way.backing or handle.content.size > _BYTES_MAX)

    def take(self, node: Node, flags: int, pid: int) -> int:
        """The number of the open file that is kept of what a program opens, where it need not be opened anew; else 0,
        and none is kept any more."""
        with self._mutex:
            fh, opened = self._kept.pop(node.ino, (0, None))
        if opened is None:
            return 0
        if opened.node is not node or not self._is_newest(opened, flags):
            self._close(fh)
            return 0
        opened.asked, opened.handle.pid, opened.handle.content.wanted = 0, pid, True
        return fh

    def _is_newest(self, opened: Opened, flags: int) -> bool:
        node, handle = opened.node, opened.handle
        handle.place, _ = self._nodes.place_of(node)
        if handle.place[0] != ROOT_INO or not handle.place[1]:
            # Whether the name by which the kernel has come leads to it only the kernel can find out.
            return False
        attributes = self._fs.opened_again(handle, handle.place, flags)
        if attributes is None or self._fs.program_locks.is_shared(node.ino):
            return False
        return node.keeps_pages(handle.content) and not self._nodes.knows_other(node, attributes)

    def drop(self, ino: int) -> None:
        with self._mutex:
            fh, opened = self._kept.pop(ino, (0, None))
        if opened is not None:
            self._close(fh)

    def broken(self, ino: int, name: bytes) -> None:
        """As in an event (messages/promises.py)."""
        if ino == EVERYTHING:
            self.drop_all()
        elif not name and self._kept:
            self.drop(ino)

    def drop_all(self) -> None:
        for ino in list(self._kept):
            self.drop(ino)


def _descriptors() -> int:
    """How many files this process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit if limit >= 0 else SPARES_MAX * _SHARE
