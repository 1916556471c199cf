"""Renaming: one name moves, and what stood in its place is replaced or exchanged. Pure over a transaction.

The rules are those of rename(2) and renameat2(2), checked in the order in which Linux checks them, and before anything
is written.
"""

from dfsfuse import errors
from dfsfuse.messages import RENAME_EXCHANGE, RENAME_NOREPLACE, Rename, Renamed, shown_name
from servers import records
from servers.records import Inode, attributes_of, entry_key
from servers.store import Transaction
from servers.tree import add_name, child, drop_name, existing, has_entries, new_place, removed


class _Name:
    """A name in a folder, and the inode behind it (0: none)."""

    def __init__(self, parent: int, folder: Inode, name: bytes, ino: int, inode: Inode | None):
        self.parent, self.folder, self.name, self.ino, self.inode = parent, folder, name, ino, inode

    def drop(self, tx: Transaction, now_ns: int) -> None:
        drop_name(tx, self.parent, self.folder, self.name, self.ino, self.inode, now_ns)

    def add(self, tx: Transaction, ino: int, inode: Inode, now_ns: int) -> None:
        add_name(tx, self.parent, self.folder, self.name, ino, inode, now_ns)


def rename(tx: Transaction, request: Rename, now_ns: int) -> Renamed:
    if request.flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or request.flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
        raise errors.InvalidArgument(f"rename knows no flags {request.flags:#x}")
    source, target = _both(tx, request)
    if target.inode is not None and request.flags & RENAME_NOREPLACE:
        raise errors.AlreadyExists(f"{shown_name(target.name)} exists")
    if target.inode is None and request.flags & RENAME_EXCHANGE:
        raise errors.NotFound(f"no file or folder {shown_name(target.name)} to exchange with")
    if source.ino == target.ino:
        return Renamed()
    _check_loop(tx, source, target.parent)
    if request.flags & RENAME_EXCHANGE:
        _exchange(tx, source, target, now_ns)
        return _renamed(source, target)
    _check_replace(tx, source, target)
    _move(tx, source, target, request.session, now_ns)
    return _renamed(source, target)


def _renamed(source: _Name, target: _Name) -> Renamed:
    now = {source.ino: source.inode, source.parent: source.folder, target.parent: target.folder}
    replaced = target.inode
    if replaced is not None and replaced.nlink and target.ino not in now:
        now[target.ino] = replaced
    gone = replaced is not None and replaced.is_file and not replaced.nlink
    return Renamed(
        unnamed=target.ino if gone else 0, ino=source.ino, other=target.ino, folder=source.parent,
        new_folder=target.parent, since=[attributes_of(ino, inode) for ino, inode in now.items()],
    )  # fmt: skip


def _both(tx: Transaction, request: Rename) -> tuple[_Name, _Name]:
    parent, folder, name = new_place(tx, request.base, request.names)
    new_parent, new_folder, new_name = new_place(tx, request.new_base, request.new_names)
    ino = child(tx, parent, name)[0]
    source = _Name(parent, folder, name, ino, existing(tx, ino))
    new_folder = folder if new_parent == parent else new_folder
    row = tx.get(entry_key(new_parent, new_name))
    new_ino = records.unpack_entry(row)[0] if row else 0
    target = _Name(new_parent, new_folder, new_name, new_ino, existing(tx, new_ino) if new_ino else None)
    return _sharing(source, target)


def _sharing(source: _Name, target: _Name) -> tuple[_Name, _Name]:
    """One Inode object for one inode, where a folder is also what moves or is replaced: each is written once too often
    otherwise, and the later write would undo the earlier."""
    known = {source.ino: source.inode}
    if target.inode is not None:
        target.inode = known.setdefault(target.ino, target.inode)
    source.folder = known.setdefault(source.parent, source.folder)
    target.folder = known.setdefault(target.parent, target.folder)
    return source, target


def _check_loop(tx: Transaction, source: _Name, folder: int) -> None:
    """A folder never moves into itself or below itself."""
    if not source.inode.is_folder:
        return
    while True:
        if folder == source.ino:
            raise errors.InvalidArgument(f"{shown_name(source.name)} cannot move into itself")
        rows = tx.range(*records.within(b"p" + records.number(folder)), 1)
        if not rows:
            return
        folder = records.as_number(rows[0][0][9:17])


def _check_replace(tx: Transaction, source: _Name, target: _Name) -> None:
    if target.inode is None:
        return
    shown = shown_name(target.name)
    if target.inode.is_folder and not source.inode.is_folder:
        raise errors.IsADirectory(f"{shown} is a folder; a file cannot replace it")
    if source.inode.is_folder and not target.inode.is_folder:
        raise errors.NotADirectory(f"{shown} is not a folder; a folder cannot replace it")
    if target.inode.is_folder and has_entries(tx, target.ino):
        raise errors.NotEmpty(f"the folder {shown} is not empty")


def _move(tx: Transaction, source: _Name, target: _Name, session: int, now_ns: int) -> None:
    if target.inode is not None:
        target.drop(tx, now_ns)
        removed(tx, target.ino, target.inode, session)
    source.drop(tx, now_ns)
    target.add(tx, source.ino, source.inode, now_ns)


def _exchange(tx: Transaction, source: _Name, target: _Name, now_ns: int) -> None:
    backwards = _Name(source.parent, source.folder, source.name, target.ino, target.inode)
    _check_loop(tx, backwards, source.parent)
    source.drop(tx, now_ns)
    target.drop(tx, now_ns)
    target.add(tx, source.ino, source.inode, now_ns)
    backwards.add(tx, target.ino, target.inode, now_ns)
