"""What the directory must amount to: an oracle that checks a store, and a small model of a tree.

`check_tree` reads every row and holds it against the invariants of `servers.tree`; tests of the directory end with it.
`Tree` does what POSIX says with nothing but dictionaries. It knows inodes by names of its own and tells outcomes by the
class of the error, so a random run can be compared with it step by step.
"""

import stat
from collections import Counter

from model_references import check_references

from dfsfuse import chunks, errors
from dfsfuse.messages import ROOT_INO, SEGMENT_ENTRIES
from servers import records
from servers.store import Store, Transaction

_ALL = 1_000_000


def rows_of(tx: Transaction, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """(key without its prefix, value) of all rows under a prefix."""
    return [(key[len(prefix) :], value) for key, value in tx.range(*records.within(prefix), _ALL)]


def check_tree(store: Store) -> None:
    """AssertionError for the first row that breaks an invariant of the directory."""
    store.read(_check)


def _check(tx: Transaction) -> None:
    inodes = {records.as_number(key): records.decode_inode(row) for key, row in rows_of(tx, b"i")}
    entries = {(records.as_number(key[:8]), key[8:]): records.unpack_entry(row) for key, row in rows_of(tx, b"e")}
    parents = [(records.as_number(key[:8]), records.as_number(key[8:16]), key[16:]) for key, _ in rows_of(tx, b"p")]
    open_rows = [(records.as_number(key[:8]), records.as_number(key[8:16])) for key, _ in rows_of(tx, b"o")]
    leading_back = sorted((ino, *place) for place, (ino, _) in entries.items())
    assert leading_back == sorted(parents), "an entry without its parent row, or reverse"
    _check_entries(inodes, entries)
    _check_links(inodes, entries, {ino for ino, _ in open_rows})
    sessions = {records.as_number(key) for key, _ in rows_of(tx, b"s")}
    assert {session for _, session in open_rows} <= sessions, "an open row of no session"
    assert all(ino in inodes for ino, _ in open_rows), "an open row of no inode"
    assert max(inodes) < records.get_counter(tx, b"next_inode", ROOT_INO + 1), "an inode number not handed out"
    used = records.usage(tx)
    sizes = sum(inode.size for inode in inodes.values() if inode.is_file)
    allocated = sum(inode.allocated_bytes for inode in inodes.values())
    assert used == records.Usage(len(inodes), sizes, allocated), "the usage row is wrong"
    _check_content(tx, inodes)
    check_references(tx, inodes)
    _check_xattrs(tx, inodes)


def _check_xattrs(tx: Transaction, inodes: dict) -> None:
    found: Counter[int] = Counter()
    for key, value in rows_of(tx, b"x"):
        found[records.as_number(key[:8])] += len(key) - 8 + len(value)
    assert set(found) <= set(inodes), "an extended attribute of no inode"
    for ino, inode in inodes.items():
        assert inode.xattr_bytes == found[ino], f"inode {ino} counts {inode.xattr_bytes} bytes of attributes"


def _check_entries(inodes: dict, entries: dict) -> None:
    for (parent, name), (ino, kind) in entries.items():
        assert parent in inodes, f"{name!r} is in no folder"
        assert inodes[parent].is_folder, f"{name!r} is in what is no folder"
        assert ino in inodes, f"{name!r} leads to no inode"
        assert stat.S_IFMT(inodes[ino].mode) == kind, f"the entry {name!r} has another type than its inode"
        assert 0 < len(name) <= 255, f"{name!r} has an impossible length"
        assert not {b"/", b"\0"} & {name[i : i + 1] for i in range(len(name))}, f"{name!r} cannot be a name"
        assert name not in (b".", b"..")


def _check_links(inodes: dict, entries: dict, opened: set[int]) -> None:
    names = Counter(ino for ino, _ in entries.values())
    subfolders = Counter(parent for (parent, _), (ino, kind) in entries.items() if kind == stat.S_IFDIR)
    for ino, inode in inodes.items():
        if inode.is_folder:
            assert inode.nlink == 2 + subfolders[ino], f"folder {ino}: nlink {inode.nlink}"
            assert names[ino] == (ino != ROOT_INO), f"folder {ino} has {names[ino]} names"
        else:
            assert inode.nlink == names[ino], f"inode {ino}: nlink {inode.nlink}, {names[ino]} names"
            assert names[ino] or ino in opened, f"inode {ino} has neither a name nor an open row"
    above = {ino: parent for (parent, _), (ino, kind) in entries.items() if kind == stat.S_IFDIR}
    for ino in above:
        seen = set()
        while ino != ROOT_INO:
            assert ino not in seen, "folders contain each other"
            seen.add(ino)
            ino = above[ino]


def _check_content(tx: Transaction, inodes: dict) -> None:
    for ino, inode in inodes.items():
        assert not (inode.entries and inode.segments), f"inode {ino} has entries and segments"
        assert bool(inode.version) == bool(inode.history), f"inode {ino}: version {inode.version} and its history"
        assert len(inode.segments) * SEGMENT_ENTRIES * (4 << 20) < inode.size + SEGMENT_ENTRIES * (4 << 20)
        for segment in filter(None, inode.segments):
            assert tx.get(b"g" + segment) is not None, f"inode {ino} lacks a segment"
        if inode.stored_bytes >= 0:
            parts = [inode.entries, *(records.get_segment(tx, segment) for segment in inode.segments if segment)]
            stored = sum(map(chunks.stored_bytes, parts))
            assert inode.stored_bytes == min(stored, inode.size), f"inode {ino} stores {stored} bytes"


# -- the model


class Node:
    """A file (no `names`), or a folder. `links`: names that lead to it."""

    def __init__(self, folder: bool):
        self.names: dict[bytes, Node] | None = {} if folder else None
        self.size = self.links = 0
        self.xattrs: dict[bytes, bytes] = {}
        self.linkable = False


class Tree:
    """`at(path)` and the operations raise the classes of errors that the directory must raise. Who has what open is a
    list of (client, node), of which operations name one by its place."""

    def __init__(self) -> None:
        self.root = Node(True)
        self.opened: list[tuple[int, Node]] = []

    def at(self, path: list[bytes]) -> Node:
        node = self.root
        for name in path:
            if node.names is None:
                raise errors.NotADirectory
            if name not in node.names:
                raise errors.NotFound
            node = node.names[name]
        return node

    def folder_at(self, path: list[bytes]) -> Node:
        node = self.at(path)
        if node.names is None:
            raise errors.NotADirectory
        return node

    def _free(self, path: list[bytes]) -> Node:
        """The folder in which the last name of the path is free."""
        parent = self.folder_at(path[:-1])
        if path[-1] in parent.names:
            raise errors.AlreadyExists
        return parent

    def _add(self, parent: Node, name: bytes, node: Node) -> None:
        parent.names[name] = node
        node.links += 1

    def _drop(self, parent: Node, name: bytes) -> None:
        parent.names.pop(name).links -= 1

    # -- names

    def create(self, path: list[bytes], folder: bool) -> None:
        self._add(self._free(path), path[-1], Node(folder))

    def link(self, old: list[bytes], new: list[bytes]) -> None:
        self._link(self.at(old), new)

    def _link(self, node: Node, new: list[bytes]) -> None:
        parent = self._free(new)
        if node.names is not None:
            raise errors.NotPermitted
        if not node.links and not node.linkable:
            raise errors.NotFound
        node.linkable = False
        self._add(parent, new[-1], node)

    def remove(self, path: list[bytes], folder: bool) -> None:
        parent = self.folder_at(path[:-1])
        node = self.at(path)
        if folder != (node.names is not None):
            raise errors.NotADirectory if folder else errors.IsADirectory
        if node.names:
            raise errors.NotEmpty
        self._drop(parent, path[-1])

    def rename(self, old: list[bytes], new: list[bytes], flags: int) -> None:
        source_folder, target_folder = self.folder_at(old[:-1]), self.folder_at(new[:-1])
        source = self.at(old)
        target = target_folder.names.get(new[-1])
        if flags == 1 and target is not None:
            raise errors.AlreadyExists
        if flags == 2 and target is None:
            raise errors.NotFound
        if source is target:
            return
        if self._within(source, target_folder):
            raise errors.InvalidArgument
        if flags == 2:
            if self._within(target, source_folder):
                raise errors.InvalidArgument
            source_folder.names[old[-1]], target_folder.names[new[-1]] = target, source
            return
        self._check_replace(source, target)
        if target is not None:
            self._drop(target_folder, new[-1])
        self._drop(source_folder, old[-1])
        self._add(target_folder, new[-1], source)

    def _check_replace(self, source: Node, target: Node | None) -> None:
        if target is None:
            return
        if target.names is not None and source.names is None:
            raise errors.IsADirectory
        if target.names is None and source.names is not None:
            raise errors.NotADirectory
        if target.names:
            raise errors.NotEmpty

    def _within(self, top: Node, node: Node) -> bool:
        """Is `node` the folder `top`, or below it?"""
        return top is node or any(self._within(child, node) for child in (top.names or {}).values())

    # -- what is open, with a name or without

    def open(self, client: int, path: list[bytes]) -> None:
        node = self.at(path)
        if node.names is not None:
            raise errors.IsADirectory
        self.opened.append((client, node))

    def create_unnamed(self, client: int, path: list[bytes]) -> None:
        self.folder_at(path)
        self.opened.append((client, Node(False)))
        self.opened[-1][1].linkable = True

    def name(self, number: int, path: list[bytes]) -> None:
        """Give what is open one more name."""
        if self.opened:
            self._link(self.opened[number % len(self.opened)][1], path)

    def close(self, number: int) -> None:
        if self.opened:
            del self.opened[number % len(self.opened)]

    def die(self, client: int) -> None:
        self.opened = [held for held in self.opened if held[0] != client]

    # -- contents and attributes

    def write(self, path: list[bytes], size: int) -> None:
        node = self.at(path)
        if node.names is not None:
            raise errors.InvalidArgument
        node.size = size

    def give(self, path: list[bytes], name: bytes, flags: int) -> None:
        node = self.at(path)
        if flags == 1 and name in node.xattrs:
            raise errors.AlreadyExists
        if flags == 2 and name not in node.xattrs:
            raise errors.NoAttribute
        node.xattrs[name] = b"%d" % flags

    def take(self, path: list[bytes], name: bytes) -> None:
        node = self.at(path)
        if name not in node.xattrs:
            raise errors.NoAttribute
        del node.xattrs[name]

    # -- what there is

    def walk(self, node: Node | None = None, path: bytes = b"") -> dict[bytes, Node]:
        """path -> node of everything below the root."""
        found: dict[bytes, Node] = {}
        for name, child in (node or self.root).names.items():
            found[path + b"/" + name] = child
            if child.names is not None:
                found |= self.walk(child, path + b"/" + name)
        return found

    def alive(self) -> set[Node]:
        return {self.root, *self.walk().values(), *(node for _, node in self.opened)}


def nlink_of(node: Node) -> int:
    """As stat tells it."""
    if node.names is None:
        return node.links
    return 2 + sum(child.names is not None for child in node.names.values())
