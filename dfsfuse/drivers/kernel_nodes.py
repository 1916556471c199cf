"""What the kernel has been told of each path, for a driver that knows paths alone: which pages it may keep, and when it
must be told to look again.

The kernel has one node for a path, with one page cache. Its pages are those of one content; they may be kept over opens
while that content changes by writes through this node alone: never where the file has several names, and so several
nodes. While a program has an older content open, a newer one is
opened with direct I/O, past the pages, and the node goes on reporting the older one's size: two versions never mix.

One content may come through several nodes, as other clients rename files. What is written through one of them is not
in the pages of the others, so these are not kept once the content was opened through another node.

Threads: one mutex; no request is made under it.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakKeyDictionary

import msgspec

from dfsfuse.content import Content
from dfsfuse.messages import Attributes

_CLOSED_NODES_MAX = 10_000

Told = tuple[int, int, int]
"""(inode number, size, mtime in ns): what makes the kernel's idea of a file right or wrong."""


class KernelNode:
    """`pages` names the content whose pages the kernel may keep. `content` is the one that is open while `users` > 0,
    the opens through the pages; opens with direct I/O do not count. `told`: what was told through a handle, and
    when. `path` is None once the file has no name any more."""

    def __init__(self, path: str) -> None:
        self.path: str | None = path
        self.users = 0
        self.content: Content | None = None
        self.pages: tuple[int, int] | None = None
        self.told: tuple[float, Told] | None = None


class KernelNodes:
    """`attribute_s`: for how long the kernel uses attributes; what it was told earlier is forgotten. `is_shared`: do
    programs share an inode by locks? Then who locks must be told the newest size."""

    def __init__(self, attribute_s: float, is_shared: Callable[[int], bool] = lambda ino: False):
        self._attribute_s, self._is_shared = attribute_s, is_shared
        self._mutex = threading.Lock()
        self._nodes: OrderedDict[str, KernelNode] = OrderedDict()
        self._opens: WeakKeyDictionary[Content, dict[KernelNode, int]] = WeakKeyDictionary()
        """How many opens a content has through each node; 0 where the node may still have its pages."""
        self._told: dict[str, Told] = {}
        self._told_before: dict[str, Told] = {}
        self._turned_at = time.monotonic()
        self._renamed_at = -attribute_s

    # -- attributes

    def tell(self, path: str, attributes: Attributes) -> Attributes:
        """The attributes to report for a path: those of the older content while one is open."""
        with self._mutex:
            node = self._nodes.get(path)
            if node is not None:
                attributes = self._as_opened(attributes, node)
            self._turn()
            self._told[path] = _told(attributes)
        return attributes

    def tell_open(self, node: KernelNode, attributes: Attributes) -> Attributes:
        """The same through a handle, for which libfuse names no path."""
        with self._mutex:
            attributes = self._as_opened(attributes, node)
            node.told = time.monotonic(), _told(attributes)
        return attributes

    def _as_opened(self, attributes: Attributes, node: KernelNode) -> Attributes:
        """The size is that of the content whose pages the kernel has."""
        content = node.content
        if content is None or attributes.size == content.size or self._is_shared(attributes.ino):
            return attributes
        return msgspec.structs.replace(attributes, size=content.size)

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._turned_at > self._attribute_s:
            self._told_before, self._told = self._told, {}
            self._turned_at = now

    def _knows_other(self, path: str, node: KernelNode, attributes: Attributes) -> bool:
        """Does the kernel perhaps go on using other attributes than these?"""
        now, right = time.monotonic(), _told(attributes)
        if now - self._renamed_at < 2 * self._attribute_s:
            return True
        if node.told is not None and now - node.told[0] < 2 * self._attribute_s and node.told[1] != right:
            return True
        told = self._told.get(path) or self._told_before.get(path)
        return told is not None and told != right

    def asks_again(self, node: KernelNode) -> None:
        """The kernel is about to be told that nothing of what it was told counts any more."""
        with self._mutex:
            node.told = None
            for told in (self._told, self._told_before):
                told.pop(node.path or "", None)

    # -- opens

    def open(
        self, path: str, content: Content, attributes: Attributes, past_pages: bool = False
    ) -> tuple[KernelNode, bool, bool, bool]:
        """(node, keep pages, direct I/O, the kernel must ask for the attributes again). `past_pages` asks for direct
        I/O, though the pages would be right."""
        with self._mutex:
            node = self._nodes.setdefault(path, KernelNode(path))
            self._nodes.move_to_end(path)
            alone = self._open_through(node, content)
            if node.users and node.content is not content:
                return node, False, True, False
            if past_pages:
                node.pages = None
                return node, False, True, self._knows_other(path, node, attributes)
            several = attributes.nlink > 1
            if several:
                content.read_elsewhere()
            pages = (content.row, content.lineage)
            keep = node.pages == pages
            kept = pages if alone and not several else None
            node.users, node.content, node.pages = node.users + 1, content, kept
            self._forget_closed()
            return node, keep, False, self._knows_other(path, node, attributes)

    def _open_through(self, node: KernelNode, content: Content) -> bool:
        """Count an open of this content. What other nodes have of it in their pages is void, as it may be written
        through this one from now on. True: it is open through no other node."""
        opens = self._opens.setdefault(content, {})
        for other in [other for other in opens if other is not node]:
            other.pages = None
            if not opens[other]:
                del opens[other]
        opens[node] = opens.get(node, 0) + 1
        return len(opens) == 1

    def close(self, node: KernelNode, content: Content, direct: bool) -> None:
        """As `open` has answered."""
        with self._mutex:
            self._opens[content][node] -= 1
            node.users -= not direct
            if node.users == 0:
                node.content = None

    def _forget_closed(self) -> None:
        for path in list(self._nodes) if len(self._nodes) > 2 * _CLOSED_NODES_MAX else ():
            if len(self._nodes) <= _CLOSED_NODES_MAX:
                break
            if self._nodes[path].users == 0:
                del self._nodes[path]

    # -- names

    def removed(self, path: str) -> None:
        with self._mutex:
            node = self._nodes.pop(path, None)
            if node is not None:
                node.path = None

    def renamed(self, old: str, new: str, exchanged: bool) -> None:
        """The kernel's node moves to its new path, and a folder's nodes with it; what was at the new path is gone, or
        goes the other way. What the kernel was told of all these goes with them too."""
        with self._mutex:
            at_new, at_old = self._take_below(new), self._take_below(old)
            self._put(at_old, old, new)
            if exchanged:
                self._put(at_new, new, old)
            self._renamed_at = time.monotonic()

    def _take_below(self, top: str) -> dict[str, KernelNode]:
        below = {path: self._nodes[path] for path in self._nodes if path == top or path.startswith(top + "/")}
        for path, node in below.items():
            del self._nodes[path]
            node.path = None
        return below

    def _put(self, nodes: dict[str, KernelNode], old: str, new: str) -> None:
        for path, node in nodes.items():
            node.path = new + path[len(old) :]
            self._nodes[node.path] = node


def _told(attributes: Attributes) -> Told:
    return attributes.ino, attributes.size, attributes.mtime_ns
