"""The kernel's nodes: which inode each stands for, how often the kernel has looked it up, by which name, and what it
was told of it.

A node is what the kernel has one page cache for. Its number is the inode's, but where another node of that inode has
it; those that come later have numbers from FURTHER on. Neither is used again, so the generation is always 0.

Look-ups are counted: each reply that names a node adds one, FORGET takes them back, and a node without any is gone.

The pages of a node are those of one content. They may be kept over opens while that content changes by writes through
this node alone. The kernel drops what it had before when it takes the answer to an open that says so, which another
program's open may overtake: until it has asked for something through the former, all opens say so. While a program has
an older content open, a newer one is opened with direct I/O, past the pages, and the node goes on reporting the older
one's size: two versions never mix. Only where programs share the file by locks the size is the newest's, as who locks
must be told the right one; and the kernel asks for it each time, so that it need not be told that it has changed
(fuse_forgetting.py).

In passthrough the kernel reads the file of one content itself, as long as anything is open through the node, and
writes it for programs that may (fuse_lending.py). Nothing else can be opened through it then: not another content, and
nothing for writing by whoever may not. For these the node is *superseded*: it serves what is open, and who looks the
name up finds another node of the same inode, which is not in passthrough for CALM_S. ESTALE makes the kernel look
again, once in each open(2); hence the calm. While an inode has several nodes the kernel keeps attributes of none, as
what changes through one of them is not told to the others.

A name is what the latest look-up found the node under. Other clients may have moved it since, so an open says both the
path and the inode that it expects there.

Threads: one mutex; no request is made under it.
"""

import errno
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from dfsfuse.content import Content
from dfsfuse.drivers.fuse_node import Lend, Name, Node, Way, held_from, told
from dfsfuse.drivers.fuse_protocol import FUSE_ROOT_ID
from dfsfuse.errors import NotADirectory, NotFound, Stale
from dfsfuse.messages import ROOT_INO, Attributes
from dfsfuse.places import Place

KNOWN_FILES_A_NODE = 4
"""Beyond so many nodes the kernel is asked to forget some (fuse_pruning.py): what is told again from the table of names
costs little, and a node takes some 400 bytes here and a kilobyte in the kernel."""
FURTHER = 1 << 63
"""Beyond all inode numbers."""
CALM_S = 5.0
"""For so long a node that has come in the place of another one is not in passthrough."""
_DEPTH_MAX = 256
_KEEPS, _LOOKS_AGAIN = Way(True, False, False), Way(True, False, True)
_TYPES, _FOLDER = 0o170000, 0o040000

Result = TypeVar("Result")


class Nodes:
    """`hold_s`: for how long the kernel uses attributes without asking again. `is_shared`: do programs share an inode
    by locks? `crowded` is set while there are more than `nodes_max`. `lasting()`: what is promised may be told for
    long, as the kernel will be told that this is over. `named`: by names. `let_go` closes what is only kept."""

    def __init__(
        self, hold_s: float, is_shared: Callable[[int], bool] = lambda ino: False, nodes_max: float = math.inf
    ):
        self._hold_s, self._is_shared, self._max = hold_s, is_shared, nodes_max
        self.crowded = threading.Event()
        self.lasting, self.let_go = lambda: False, lambda ino: None
        self._mutex = threading.Lock()
        self._root = Node(FUSE_ROOT_ID, ROOT_INO)
        self._nodes = {FUSE_ROOT_ID: self._root}
        self._several: dict[int, list[Node]] = {}
        self._numbers = itertools.count(FURTHER)
        self._superseded: list[Node] = []
        self.named: dict[Name, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, nodeid: int) -> Node:
        """ESTALE, for which the kernel looks the name up again, where there is no such node."""
        node = self._nodes.get(nodeid)
        if node is None:
            raise OSError(errno.ESTALE, f"node {nodeid} is not known")
        return node

    # -- look-ups

    def found(
        self, ino: int, name: Name | None, version: int = 0, to_open: bool = False, begun_at: float = 0.0
    ) -> Node:
        """The node for an inode, which is about to be named in a reply; one look-up more, begun at `begun_at`. One
        through which what is there now cannot be opened is superseded: as `version` is newer than what is open, or as
        who looks opens it `to_open` anything, and will not look again."""
        with self._mutex:
            node = self._current(ino)
            if node is not None and node.backing and (to_open or version > node.content.version):
                self._supersede(node)
                node = None
            if node is None:
                node = self._new(ino)
            else:
                node.again = True
            node.lookups += 1
            node.looked_at, node.found_at = max(node.looked_at, begun_at), time.monotonic()
            if name is not None and node.name != name:
                self._give_name(node, name)
            return node

    def _new(self, ino: int) -> Node:
        others = self._several.get(ino)
        node = Node(ino if others is None else next(self._numbers), ino)
        self._nodes[node.id] = node
        if others is not None:
            others.append(node)
            node.several, node.calm_until = True, time.monotonic() + CALM_S
        if len(self._nodes) > self._max:
            self.crowded.set()
        return node

    def _current(self, ino: int) -> Node | None:
        """The node that look-ups find."""
        others = self._several.get(ino)
        node = self._nodes.get(ino) if others is None else others[-1]
        return None if node is None or node.superseded else node

    def _supersede(self, node: Node) -> None:
        if not node.superseded:
            self._superseded.append(node)
        node.superseded = node.several = True
        if node not in self._several.setdefault(node.ino, []):
            self._several[node.ino].append(node)

    def take_superseded(self) -> list[Node]:
        """The nodes that were superseded since this was asked last: the kernel is to ask for their attributes again."""
        if not self._superseded:
            return []
        with self._mutex:
            taken, self._superseded = self._superseded, []
            return taken

    def nodes_of(self, ino: int) -> list[Node]:
        """All nodes of an inode."""
        with self._mutex:
            node, others = self._nodes.get(ino), self._several.get(ino)
            return list(others) if others is not None else [node] if node is not None else []

    def all(self) -> list[Node]:
        with self._mutex:
            return list(self._nodes.values())

    def is_folder(self, ino: int) -> bool:
        """Does the kernel know it as one?"""
        node = self._nodes.get(ino)
        return node is not None and node.folder is not None

    def surplus(self) -> list[int]:
        """Numbers of nodes to go, the oldest first, where there are too many, to a quarter of the room. What is open
        stays, and what was looked up again once more."""
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
                self._one_less(node)
                if len(self._nodes) <= self._max and self.crowded.is_set():
                    self.crowded.clear()

    def _one_less(self, node: Node) -> None:
        others = self._several.get(node.ino)
        if others is not None:
            others.remove(node)
            if not others:
                del self._several[node.ino]

    def forget_all_of(self, nodes: Sequence[Node]) -> None:
        """Look-ups of a reply that the kernel has not taken."""
        for node in nodes:
            self.forget(node.id, 1)

    # -- names

    def place_of(self, node: Node, doubtful: bool = False) -> tuple[Place, bytes]:
        """(by which place to reach the inode, that place as a path for people). Names that are in doubt are left
        out, but for `doubtful`."""
        names: list[bytes] = []
        base = node.ino
        with self._mutex:
            at: Node | None = node
            while at is not None and len(names) < _DEPTH_MAX and (at.name or doubtful and at.was):
                base, name = at.name or at.was
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
            if (node := self.named.get(name)) is not None:
                self._take_name(node)

    def renamed(self, old: Name, new: Name, exchanged: bool) -> None:
        with self._mutex:
            moved, other = self.named.get(old), self.named.get(new)
            for node in (moved, other):
                if node is not None:
                    self._take_name(node)
            if moved is not None:
                self._give_name(moved, new)
            if exchanged and other is not None:
                self._give_name(other, old)

    def _give_name(self, node: Node, name: Name) -> None:
        self._take_name(node)
        former = self.named.get(name)
        if former is not None:
            former.name, former.was = None, name
        node.name, self.named[name] = name, node

    def _take_name(self, node: Node) -> None:
        if node.name is not None:
            del self.named[node.name]
            node.name, node.was = None, node.name

    # -- attributes

    def tell(self, node: Node, attributes: Attributes) -> Attributes:
        """What to report of a node: the size is that of the content whose pages the kernel has."""
        content, shared = node.content, self._is_shared(node.ino)
        asks = shared or node.several
        if content is not None and attributes.size != content.size and not shared:
            self.let_go(node.ino)
            size = (node.content or attributes).size
            attributes = msgspec.structs.replace(attributes, size=size, promised=False)
        elif attributes.promised and not self.lasting():
            attributes = msgspec.structs.replace(attributes, promised=False)
        node.holds, node.asks = node.holds or not asks, asks
        node.told, node.told_at = told(attributes), held_from(asks, attributes.promised)
        if attributes.mode & _TYPES == _FOLDER:
            node.folder = attributes
        return attributes

    def may_hold(self, node: Node) -> bool:
        """May the kernel use attributes that it was told, without asking again?"""
        return node.holds or not (node.several or self._is_shared(node.ino))

    def changed_by_kernel(self, node: Node) -> None:
        """The kernel has made the change itself, and asks for the attributes before it uses them again."""
        node.told_at = 0.0

    def knows_other(self, node: Node, attributes: Attributes) -> bool:
        """Does the kernel perhaps go on using other attributes than these?"""
        if node.told == told(attributes):
            return False
        # Its hold begins with the reply, which comes later than what it was told.
        return time.monotonic() - node.told_at < 2 * self._hold_s

    # -- opens

    def open(
        self,
        node: Node,
        content: Content,
        attributes: Attributes,
        past_pages: bool = False,
        lend: Lend | None = None,
        beside: bool = False,
    ) -> Way:
        """`past_pages` asks for direct I/O, though the pages would be right, `beside` where others are in passthrough.
        `lend` is None where it is not for this open. Raises ESTALE where nothing but what the node has can be opened
        through it."""
        with self._mutex:
            way = self._way(node, content, attributes, past_pages or (beside and node.backing > 0), lend)
            node.opens += 1
            if way.backing or not way.direct:
                node.users, node.content = node.users + 1, content
            return way

    def _way(self, node: Node, content: Content, attributes: Attributes, past_pages: bool, lend: Lend | None) -> Way:
        if node.backing:
            if lend is None or node.content is not content or not lend(False, node.backing):
                raise self._elsewhere(node)
            # A read that reaches the client says when locks are lost.
            direct = past_pages or self._is_shared(node.ino)
            return Way(False, direct, self.knows_other(node, attributes), node.backing)
        if node.superseded:
            raise self._elsewhere(node)
        if node.users and node.content is not content:
            return Way(False, True, False)
        look_again = self.knows_other(node, attributes)
        if past_pages:
            node.pages = None
            return Way(False, True, look_again)
        pages = content.row, content.lineage
        node.backing = self._backing(node, pages, lend) if lend is not None else 0
        if node.backing:
            node.pages = None
            return Way(False, False, look_again, node.backing)
        return self._through_pages(node, pages, look_again)

    def _through_pages(self, node: Node, pages: tuple[int, int], look_again: bool) -> Way:
        if node.pages != pages:
            node.pages, node.drops, node.dropped = pages, node.drops + 1, False
        if node.dropped:
            return _LOOKS_AGAIN if look_again else _KEEPS
        return Way(False, False, look_again, 0, node.drops)

    def taken(self, node: Node, way: Way) -> None:
        """The kernel has taken the answer to an open that says so: what it was to drop is gone."""
        with self._mutex:
            self._taken(node, way)

    def _taken(self, node: Node, way: Way) -> None:
        if way.drop == node.drops:
            node.dropped = True

    def _backing(self, node: Node, pages: tuple[int, int], lend: Lend) -> int:
        """Passthrough begins with what is opened through the node alone."""
        if node.opens or time.monotonic() < node.calm_until:
            return 0
        return lend(node.pages == pages, 0)

    def pages_gone(self, node: Node, content: Content) -> None:
        """Most of the pages that the kernel could keep it does not have any more."""
        with self._mutex:
            if node.pages == (content.row, content.lineage):
                node.pages = None

    def _elsewhere(self, node: Node) -> OSError:
        self._supersede(node)
        return OSError(errno.ESTALE, "what is there now is opened through another node")

    def begin_writing(self, node: Node, joins: Callable[[Content], bool]) -> None:
        """It is about to be opened for writing; until `end_writing`. Raises ESTALE as `open`, before anything is done
        to the file, unless `joins` who has the content in passthrough."""
        with self._mutex:
            if node.superseded or (node.backing and not joins(node.content)):
                raise self._elsewhere(node)
            node.writing += 1

    def end_writing(self, node: Node) -> None:
        with self._mutex:
            node.writing -= 1

    def close(self, node: Node, way: Way) -> int:
        """As `open` has answered; the id of a file that the kernel does not read any more, 0: none."""
        with self._mutex:
            if way.drop:
                self._taken(node, way)
            node.opens -= 1
            node.late_reads = node.late_reads if node.opens else None
            node.users -= way.backing > 0 or not way.direct
            if node.users:
                return 0
            node.content = None
            ended, node.backing = node.backing, 0
            return ended
