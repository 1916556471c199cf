"""The kernel's nodes: which inode each stands for, how often the kernel has looked it up, by which name, and what it
was told of it.

A node is what the kernel has one page cache for. Its number is the inode's for now; a node keeps both, as another
version of an open file may get a node of its own. Inode numbers are never used again, so the generation is always 0.

Look-ups are counted: each reply that names a node adds one, FORGET takes them back, and a node without any is gone.

The pages of a node are those of one content. They may be kept over opens while that content changes by writes through
this node alone. While a program has an older content open, a newer one is opened with direct I/O, past the pages, and
the node goes on reporting the older one's size: two versions never mix. Only where programs share the file by locks the
size is the newest's, as who locks must be told the right one; and the kernel asks for it each time, so that it need not
be told that it has changed (fuse_forgetting.py).

A name is what the latest look-up found the node under. Other clients may have moved it since, so an open says both the
path and the inode that it expects there.

Threads: one mutex; no request is made under it.
"""

import errno
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from dfsfuse.attributes import Place
from dfsfuse.content import Content
from dfsfuse.drivers.fuse_protocol import FUSE_ROOT_ID
from dfsfuse.errors import NotADirectory, NotFound, Stale
from dfsfuse.messages import ROOT_INO, Attributes

GENERATION = 0
NODES_MAX = 25_000
"""Beyond them the kernel is asked to forget some (fuse_pruning.py): a node takes some 400 bytes."""
_DEPTH_MAX = 256
_TYPES, _FOLDER = 0o170000, 0o040000

Result = TypeVar("Result")

Name = tuple[int, bytes]
"""(the folder's inode number, the name in it)."""


class Node:
    """`opens` are the files that the kernel has open through the node, `users` those of them that go through its pages;
    `content` is theirs while there are any. `pages` names the content that the pages are of. `told` is what the kernel
    was told last, and `told_at` when; 0.0: it asks again anyway. `asks`: it was told to use that once. `holds`: it may
    have been told something for longer since it was last told that all is over. `folder`: of a folder, all that it was
    told: programs go on with it when it is removed. `again`: it was looked up again since `Nodes.surplus` has last come
    by."""

    __slots__ = (
        "id", "ino", "lookups", "name", "opens", "users", "content", "pages", "told", "told_at", "asks", "holds",
        "folder", "again",
    )  # fmt: skip

    def __init__(self, number: int, ino: int):
        self.id, self.ino = number, ino
        self.lookups = self.opens = self.users = 0
        self.name: Name | None = None
        self.content: Content | None = None
        self.pages: tuple[int, int] | None = None
        self.told = 0
        self.told_at = 0.0
        self.asks = self.holds = False
        self.folder: Attributes | None = None
        self.again = False

    def removed_folder(self) -> Attributes | None:
        """What is left of a folder that is gone; None where it was no folder."""
        return None if self.folder is None else msgspec.structs.replace(self.folder, nlink=0)


class Nodes:
    """`hold_s`: for how long the kernel uses attributes without asking again. `is_shared`: do programs share an inode
    by locks? `crowded` is set while there are more than `nodes_max`. `lasting`: the kernel can be told that what it was
    told is over, so what is promised may be told for long."""

    def __init__(self, hold_s: float, is_shared: Callable[[int], bool] = lambda ino: False, nodes_max: int = NODES_MAX):
        self._hold_s, self._is_shared, self._max = hold_s, is_shared, nodes_max
        self.crowded = threading.Event()
        self.lasting = False
        self._mutex = threading.Lock()
        self._root = Node(FUSE_ROOT_ID, ROOT_INO)
        self._nodes = {FUSE_ROOT_ID: self._root}
        self._named: dict[Name, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, nodeid: int) -> Node:
        """ESTALE, for which the kernel looks the name up again, where there is no such node."""
        node = self._nodes.get(nodeid)
        if node is None:
            raise OSError(errno.ESTALE, f"node {nodeid} is not known")
        return node

    def known(self, ino: int) -> Node | None:
        return self._nodes.get(ino)

    # -- look-ups

    def found(self, ino: int, name: Name | None) -> Node:
        """The node for an inode, which is about to be named in a reply; one look-up more."""
        with self._mutex:
            node = self._nodes.get(ino)
            if node is None:
                node = self._new(ino)
            else:
                node.again = True
            node.lookups += 1
            if name is not None and node.name != name:
                self._give_name(node, name)
            return node

    def _new(self, ino: int) -> Node:
        node = self._nodes[ino] = Node(ino, ino)
        if len(self._nodes) > self._max:
            self.crowded.set()
        return node

    def all(self) -> list[Node]:
        with self._mutex:
            return list(self._nodes.values())

    def is_folder(self, ino: int) -> bool:
        """Does the kernel know it as one?"""
        node = self._nodes.get(ino)
        return node is not None and node.folder is not None

    def surplus(self) -> list[int]:
        """Numbers of nodes to go, the oldest first, where there are too many: so many that a quarter of the room is
        free then. What is open stays, and what was looked up again stays once more."""
        chosen: list[int] = []
        with self._mutex:
            count = len(self._nodes) - self._max * 3 // 4 if len(self._nodes) > self._max else 0
            for node in self._nodes.values():
                if len(chosen) >= count:
                    break
                goes = not (node.opens or node.again or node is self._root)
                if goes:
                    chosen.append(node.id)
                # What the kernel needs, and so keeps, is not in the way of others the next time.
                node.again = goes
        return chosen

    def forget(self, nodeid: int, lookups: int) -> None:
        with self._mutex:
            node = self._nodes.get(nodeid)
            if node is None or node is self._root:
                return
            node.lookups -= lookups
            if node.lookups <= 0:
                self._take_name(node)
                del self._nodes[nodeid]
                if len(self._nodes) <= self._max and self.crowded.is_set():
                    self.crowded.clear()

    def forget_all_of(self, nodes: Sequence[Node]) -> None:
        """Look-ups of a reply that the kernel has not taken."""
        for node in nodes:
            self.forget(node.id, 1)

    # -- names

    def place_of(self, node: Node) -> tuple[Place, bytes]:
        """(by which place to reach the inode, that place as a path for people). Names that are in doubt are left
        out."""
        names: list[bytes] = []
        base = node.ino
        with self._mutex:
            at: Node | None = node
            while at is not None and at.name is not None and len(names) < _DEPTH_MAX:
                base, name = at.name
                names.append(name)
                at = self._nodes.get(base)
        names.reverse()
        return (base, tuple(names)), b"/" + b"/".join(names)

    def through_name(self, node: Node, act: Callable[[Place, bytes], Result]) -> Result:
        """`act(place, path for people)` with a node's name. Stale where the name does not lead to it any more: then the
        kernel looks the names up again, and those that nobody looks up are left out next time."""
        place, shown = self.place_of(node)
        try:
            return act(place, shown)
        except (Stale, NotFound, NotADirectory):
            self.doubt(node)
            raise Stale("the name leads to something else now") from None

    def parent_of(self, folder: Node) -> int:
        """The inode number for ".."; the folder's own where its name is in doubt."""
        return folder.name[0] if folder.name is not None else folder.ino

    def doubt(self, node: Node) -> None:
        """The names on the way to a node have not led to it: they are to be looked up again."""
        with self._mutex:
            at: Node | None = node
            while at is not None and at.name is not None:
                base = at.name[0]
                self._take_name(at)
                at = self._nodes.get(base)

    def removed(self, name: Name) -> None:
        with self._mutex:
            node = self._named.get(name)
            if node is not None:
                self._take_name(node)

    def renamed(self, old: Name, new: Name, exchanged: bool) -> None:
        with self._mutex:
            moved, other = self._named.get(old), self._named.get(new)
            for node in (moved, other):
                if node is not None:
                    self._take_name(node)
            if moved is not None:
                self._give_name(moved, new)
            if exchanged and other is not None:
                self._give_name(other, old)

    def _give_name(self, node: Node, name: Name) -> None:
        self._take_name(node)
        former = self._named.get(name)
        if former is not None:
            former.name = None
        node.name, self._named[name] = name, node

    def _take_name(self, node: Node) -> None:
        if node.name is not None:
            del self._named[node.name]
            node.name = None

    # -- attributes

    def tell(self, node: Node, attributes: Attributes) -> Attributes:
        """What to report of a node: the size is that of the content whose pages the kernel has."""
        content, shared = node.content, self._is_shared(node.ino)
        if content is not None and attributes.size != content.size and not shared:
            attributes = msgspec.structs.replace(attributes, size=content.size, promised=False)
        elif attributes.promised and not self.lasting:
            attributes = msgspec.structs.replace(attributes, promised=False)
        node.holds, node.asks = node.holds or not shared, shared
        node.told, node.told_at = _told(attributes), _held_from(shared, attributes.promised)
        if attributes.mode & _TYPES == _FOLDER:
            node.folder = attributes
        return attributes

    def may_hold(self, node: Node) -> bool:
        """May the kernel use attributes that it was told, without asking again?"""
        return node.holds or not self._is_shared(node.ino)

    def changed_by_kernel(self, node: Node) -> None:
        """The kernel has made the change itself, and asks for the attributes before it uses them again."""
        node.told_at = 0.0

    def _knows_other(self, node: Node, attributes: Attributes) -> bool:
        """Does the kernel perhaps go on using other attributes than these?"""
        if node.told == _told(attributes):
            return False
        # Its hold begins with the reply, which comes later than what it was told.
        return time.monotonic() - node.told_at < 2 * self._hold_s

    # -- opens

    def open(
        self, node: Node, content: Content, attributes: Attributes, past_pages: bool = False
    ) -> tuple[bool, bool, bool]:
        """(keep pages, direct I/O, the kernel must ask for the attributes again). `past_pages` asks for direct I/O,
        though the pages would be right."""
        with self._mutex:
            node.opens += 1
            if node.users and node.content is not content:
                return False, True, False
            if past_pages:
                node.pages = None
                return False, True, self._knows_other(node, attributes)
            pages = (content.row, content.lineage)
            keep = node.pages == pages
            node.users, node.content, node.pages = node.users + 1, content, pages
            return keep, False, self._knows_other(node, attributes)

    def close(self, node: Node, direct: bool) -> None:
        """As `open` has answered."""
        with self._mutex:
            node.opens -= 1
            node.users -= not direct
            if node.users == 0:
                node.content = None


def _held_from(asks: bool, promised: bool) -> float:
    """`Node.told_at` for what is told now."""
    if asks:
        return 0.0
    return math.inf if promised else time.monotonic()


def _told(attributes: Attributes) -> int:
    """What makes the kernel's idea of a file right or wrong, in one number: there may be a million nodes."""
    return hash((attributes.size, attributes.mtime_ns, attributes.atime_ns))
