"""Repairing names, and what has lost its own: entries, parent rows, links. Pure over a transaction.

A folder's links are counted anew where they are what is wrong, once. Repairs of its names add and take off what they
change: so a count that was right stays right, and repairing all names of a folder takes as many steps as it has names.
"""

import stat

from dfsfuse.messages import ROOT_INO
from dfsfuse.messages.checks import Problem
from servers import check, open_rows, records, tree
from servers.records import Inode, entry_key, get_inode, parent_key, put_inode
from servers.store import Transaction

LOST_AND_FOUND = b"lost+found"


def drop_stray_name(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    key = parent_key(problem.ino, problem.other, problem.name)
    if tx.get(key) is None or _leads(tx, problem.other, problem.name) == problem.ino:
        return False
    tx.delete(key)
    return True


def _leads(tx: Transaction, folder: int, name: bytes) -> int:
    """What the name leads to; 0: it is none."""
    row = tx.get(entry_key(folder, name))
    return 0 if row is None else records.unpack_entry(row)[0]


def add_missing_name(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    key = parent_key(problem.other, problem.ino, problem.name)
    if tx.get(key) is not None or _leads(tx, problem.ino, problem.name) != problem.other:
        return False
    tx.put(key, b"")
    _count_name(tx, problem.other)
    return True


def _count_name(tx: Transaction, ino: int) -> None:
    """It has one name more. Whether its count had that already is not known here: one that is too large keeps the
    inode, and the next check finds it."""
    inode = get_inode(tx, ino)
    if inode is not None:
        inode.nlink = max(2, inode.nlink) if inode.is_folder else inode.nlink + 1
        put_inode(tx, ino, inode)


def end_dangling_entry(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """A folder that has entries is made again."""
    ino = _leads(tx, problem.ino, problem.name)
    if not ino or get_inode(tx, ino) is not None:
        return False
    if not tree.has_entries(tx, ino):
        _unlink(tx, problem.ino, problem.name, ino)
        return True
    put_inode(tx, ino, _new_folder(now_ns))
    records.add_usage(tx, 1, 0, 0)
    _put_entry(tx, problem.ino, problem.name, records.pack_entry(ino, stat.S_IFDIR))
    tx.put(parent_key(ino, problem.ino, problem.name), b"")
    _count_links(tx, ino)
    return True


def _unlink(tx: Transaction, folder: int, name: bytes, ino: int) -> None:
    _put_entry(tx, folder, name, None)
    tx.delete(parent_key(ino, folder, name))


def _put_entry(tx: Transaction, folder: int, name: bytes, row: bytes | None) -> bool:
    """Another row for an entry, or none; does that differ? The folder counts those of its entries that are folders."""
    key = entry_key(folder, name)
    before = tx.get(key)
    inode = get_inode(tx, folder) if _is_subfolder(row) != _is_subfolder(before) else None
    if inode is not None:
        inode.nlink += 1 if _is_subfolder(row) else -1
        put_inode(tx, folder, inode)
    tx.delete(key) if row is None else tx.put(key, row)
    return row != before


def _is_subfolder(row: bytes | None) -> bool:
    return row is not None and records.unpack_entry(row)[1] == stat.S_IFDIR


def set_entry_type(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    ino = _leads(tx, problem.ino, problem.name)
    inode = get_inode(tx, ino) if ino else None
    if inode is None:
        return False
    return _put_entry(tx, problem.ino, problem.name, records.pack_entry(ino, inode.mode))


def keep_first_name(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    inode = get_inode(tx, problem.ino)
    places = _places(tx, problem.ino) if inode is not None and inode.is_folder else []
    for folder, name in places[1:]:
        _unlink(tx, folder, name, problem.ino)
    return len(places) > 1


def _places(tx: Transaction, ino: int) -> list[tuple[int, bytes]]:
    """(folder, name) of the names that lead to it."""
    keys = [key for key, _ in records.rows(tx, b"p" + records.number(ino))]
    places = [(records.as_number(key[9:17]), key[17:]) for key in keys]
    return [(folder, name) for folder, name in places if _leads(tx, folder, name) == ino]


def recount(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    return _count_links(tx, problem.ino)


def _count_links(tx: Transaction, ino: int) -> bool:
    inode = get_inode(tx, ino)
    if inode is None:
        return False
    before, names = inode.nlink, len(_places(tx, ino))
    inode.nlink = names
    if inode.is_folder:
        rows = records.rows(tx, b"e" + records.number(ino))
        subfolders = sum(_is_subfolder(row) for _, row in rows)
        inode.nlink = 2 + subfolders if names or ino == ROOT_INO else min(before, 1)
    if inode.nlink == before:
        return False
    put_inode(tx, ino, inode)
    return True


# -- what has no name


def adopt_unnamed(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    inode = get_inode(tx, problem.ino)
    if inode is None or problem.ino == ROOT_INO or open_rows.has_any(tx, problem.ino) or _places(tx, problem.ino):
        return False
    _adopt(tx, problem.ino, inode, now_ns)
    return True


def cut_circle(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    inode = get_inode(tx, problem.ino)
    if inode is None or check.is_below_root(tx, problem.ino):
        return False
    for folder, name in _places(tx, problem.ino):
        _unlink(tx, folder, name, problem.ino)
    _adopt(tx, problem.ino, inode, now_ns)
    return True


def make_folder_again(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    if get_inode(tx, problem.ino) is not None or not tree.has_entries(tx, problem.ino):
        return False
    _adopt(tx, problem.ino, _new_folder(now_ns), now_ns)
    records.add_usage(tx, 1, 0, 0)
    return True


def _new_folder(now_ns: int) -> Inode:
    times = {"mtime_ns": now_ns, "ctime_ns": now_ns, "atime_ns": now_ns}
    return Inode(mode=stat.S_IFDIR | 0o700, uid=0, gid=0, nlink=0, **times)


def _adopt(tx: Transaction, ino: int, inode: Inode, now_ns: int) -> None:
    """It gets a name of its own in /lost+found."""
    place = _lost_and_found(tx, now_ns)
    for key, _ in records.rows(tx, b"p" + records.number(ino)):
        tx.delete(key)
    inode.nlink = 0
    tree.add_name(tx, place, get_inode(tx, place), _free_name(tx, place, b"#%d" % ino), ino, inode, now_ns)
    if inode.is_folder:
        _count_links(tx, ino)


def _lost_and_found(tx: Transaction, now_ns: int) -> int:
    found = _leads(tx, ROOT_INO, LOST_AND_FOUND)
    inode = get_inode(tx, found) if found else None
    if inode is not None and inode.is_folder:
        return found
    ino = records.allocate_inodes(tx, 1)
    name = _free_name(tx, ROOT_INO, LOST_AND_FOUND)
    tree.add_name(tx, ROOT_INO, get_inode(tx, ROOT_INO), name, ino, _new_folder(now_ns), now_ns)
    records.add_usage(tx, 1, 0, 0)
    return ino


def _free_name(tx: Transaction, folder: int, name: bytes) -> bytes:
    free, number = name, 1
    while tx.get(entry_key(folder, free)) is not None:
        number += 1
        free = b"%s (%d)" % (name, number)
    return free
