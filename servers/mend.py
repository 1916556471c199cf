"""Repairing what a check has found (check.py), as far as it is still there. Pure over a transaction.

Nothing is deleted that anybody could want: what has lost its name gets one in /lost+found, and what follows from other
rows is made to follow from them. Each repair looks at the rows of now, so doing it twice changes nothing.
"""

import stat
from collections.abc import Callable

from dfsfuse.messages import ROOT_INO
from dfsfuse.messages.checks import Problem
from servers import check, check_content, records, references, tracing, tree, versions
from servers.records import Inode, entry_key, get_inode, parent_key, put_inode
from servers.references import ONLY_GROUP
from servers.store import Transaction

LOST_AND_FOUND = b"lost+found"

Repair = Callable[[Transaction, Problem, int], bool]


def mend(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """Was something changed?"""
    repair = _REPAIRS.get(problem.kind)
    return repair is not None and repair(tx, problem, now_ns)


# -- names


def _drop_stray_name(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    key = parent_key(problem.ino, problem.other, problem.name)
    if tx.get(key) is None or _leads(tx, problem.other, problem.name) == problem.ino:
        return False
    tx.delete(key)
    return True


def _leads(tx: Transaction, folder: int, name: bytes) -> int:
    """What the name leads to; 0: it is none."""
    row = tx.get(entry_key(folder, name))
    return 0 if row is None else records.unpack_entry(row)[0]


def _add_missing_name(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    key = parent_key(problem.other, problem.ino, problem.name)
    if tx.get(key) is not None or _leads(tx, problem.ino, problem.name) != problem.other:
        return False
    tx.put(key, b"")
    _count_links(tx, problem.other)
    return True


def _end_dangling_entry(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """A folder that has entries is made again."""
    ino = _leads(tx, problem.ino, problem.name)
    if not ino or get_inode(tx, ino) is not None:
        return False
    if not tree.has_entries(tx, ino):
        _unlink(tx, problem.ino, problem.name, ino)
        return True
    put_inode(tx, ino, _new_folder(now_ns))
    records.add_usage(tx, 1, 0, 0)
    tx.put(entry_key(problem.ino, problem.name), records.pack_entry(ino, stat.S_IFDIR))
    tx.put(parent_key(ino, problem.ino, problem.name), b"")
    _count_links(tx, ino)
    _count_links(tx, problem.ino)
    return True


def _unlink(tx: Transaction, folder: int, name: bytes, ino: int) -> None:
    tx.delete(entry_key(folder, name))
    tx.delete(parent_key(ino, folder, name))
    _count_links(tx, folder)


def _set_entry_type(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    ino = _leads(tx, problem.ino, problem.name)
    inode = get_inode(tx, ino) if ino else None
    if inode is None:
        return False
    key, row = entry_key(problem.ino, problem.name), records.pack_entry(ino, inode.mode)
    changed = tx.get(key) != row
    tx.put(key, row)
    return _count_links(tx, problem.ino) or changed


def _keep_first_name(tx: Transaction, problem: Problem, now_ns: int) -> bool:
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


def _recount(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    return _count_links(tx, problem.ino)


def _count_links(tx: Transaction, ino: int) -> bool:
    inode = get_inode(tx, ino)
    if inode is None:
        return False
    before, names = inode.nlink, len(_places(tx, ino))
    inode.nlink = names
    if inode.is_folder:
        rows = records.rows(tx, b"e" + records.number(ino))
        subfolders = sum(records.unpack_entry(row)[1] == stat.S_IFDIR for _, row in rows)
        inode.nlink = 2 + subfolders if names or ino == ROOT_INO else min(before, 1)
    if inode.nlink == before:
        return False
    put_inode(tx, ino, inode)
    return True


# -- what has no name


def _adopt_unnamed(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    inode = get_inode(tx, problem.ino)
    opened = tx.range(*records.within(b"o" + records.number(problem.ino)), 1)
    if inode is None or problem.ino == ROOT_INO or opened or _places(tx, problem.ino):
        return False
    _adopt(tx, problem.ino, inode, now_ns)
    return True


def _cut_circle(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    inode = get_inode(tx, problem.ino)
    if inode is None or check.is_below_root(tx, problem.ino):
        return False
    for folder, name in _places(tx, problem.ino):
        _unlink(tx, folder, name, problem.ino)
    _adopt(tx, problem.ino, inode, now_ns)
    return True


def _make_folder_again(tx: Transaction, problem: Problem, now_ns: int) -> bool:
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
    _count_links(tx, ino)
    _count_links(tx, place)


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


# -- what belongs to nothing


def _drop_rows_of_nothing(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    prefix = (b"p" if problem.kind == "names_stray" else b"x") + records.number(problem.ino)
    keys = [key for key, _ in records.rows(tx, prefix)] if get_inode(tx, problem.ino) is None else []
    for key in keys:
        tx.delete(key)
    return bool(keys)


def _close_for_nobody(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    key = b"o" + records.number(problem.ino) + records.number(problem.other) + problem.name
    inode = get_inode(tx, problem.ino)
    live = tx.get(records.session_key(problem.other)) is not None
    if tx.get(key) is None or (inode is not None and live):
        return False
    tx.delete(key)
    if inode is not None:
        versions.closed(tx, problem.ino, inode, records.as_number(problem.name))
        tree.forget_unnamed(tx, problem.ino, inode)
    return True


# -- sums


def _count_xattrs(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    inode = get_inode(tx, problem.ino)
    if inode is None:
        return False
    rows = records.rows(tx, b"x" + records.number(problem.ino))
    before, inode.xattr_bytes = inode.xattr_bytes, sum(len(key) - 9 + len(value) for key, value in rows)
    put_inode(tx, problem.ino, inode)
    return inode.xattr_bytes != before


def _count_stored(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    inode = get_inode(tx, problem.ino)
    if inode is None or not inode.is_file:
        return False
    before, inode.stored_bytes = inode.allocated_bytes, check_content.stored_bytes(tx, inode)
    put_inode(tx, problem.ino, inode)
    records.add_usage(tx, 0, 0, inode.stored_bytes - before)
    return inode.stored_bytes != before


def _add_difference(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """Once: the number of such repairs says whether another one came before."""
    if len(problem.amounts) != 4 or records.get_counter(tx, b"usage_mended") != problem.amounts[0]:
        return False
    records.put_counter(tx, b"usage_mended", problem.amounts[0] + 1)
    records.add_usage(tx, *problem.amounts[1:])
    return True


def _go_on_behind(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    if problem.ino < records.get_counter(tx, b"next_inode", ROOT_INO + 1) or get_inode(tx, problem.ino) is None:
        return False
    records.put_counter(tx, b"next_inode", problem.ino + 1)
    return True


# -- contents


def _hold(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """Servers may have deleted it as garbage: each looks for it."""
    target, holder = problem.name, references.inode_holder(problem.ino)
    if not problem.ino:
        target, holder = problem.name[16:], b"s" + problem.name[:16]
    known = tx.get(references.key(ONLY_GROUP, target, holder))
    if known is not None or target not in check_content.held_by(tx, holder):
        return False
    references.hold(tx, ONLY_GROUP, [target], holder)
    for server in records.file_servers(tx):
        tx.put(records.short_key(server, target), b"")
    return True


def _hold_no_more(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    target, holder = check_content.split(problem.name)
    if tx.get(problem.name) is None or target in check_content.held_by(tx, holder):
        return False
    references.drop(tx, ONLY_GROUP, [target], holder)
    return True


def _take_apart(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    segment_id = problem.name
    gone = not references.is_segment(tx, segment_id)
    if gone or references.is_held(tx, ONLY_GROUP, segment_id):
        return False
    references.drop(tx, ONLY_GROUP, [segment_id], b"")
    return True


def _say_beside(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """Then what is kept is needed too."""
    inode = get_inode(tx, problem.ino)
    rows = [tx.range(*records.within(prefix + records.number(problem.ino)), 1) for prefix in (b"h", b"u")]
    if inode is None or inode.beside or not any(rows):
        return False
    inode.beside = True
    put_inode(tx, problem.ino, inode)
    return True


def _keep_no_more(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    key = problem.name
    if tx.get(key) is None or check_content.is_kept_rightly(tx, key):
        return False
    ino = records.as_number(key[1:9])
    inode = get_inode(tx, ino)
    if key[:1] == b"u":
        versions.end_uploads(tx, ino, ONLY_GROUP, records.as_number(key[9:17]))
    elif inode is not None:
        inode.beside = True
        with versions.keeping(tx, ino, inode):
            tx.delete(key)
    tx.delete(key)
    return True


def _note_missing(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    return tracing.note_missing(tx, problem.server, problem.name)


_REPAIRS: dict[str, Repair] = {
    "name_stray": _drop_stray_name,
    "name_missing": _add_missing_name,
    "entry_dangling": _end_dangling_entry,
    "entry_type": _set_entry_type,
    "folder_names": _keep_first_name,
    "nlink": _recount,
    "unnamed": _adopt_unnamed,
    "cycle": _cut_circle,
    "entries_stray": _make_folder_again,
    "names_stray": _drop_rows_of_nothing,
    "xattrs_stray": _drop_rows_of_nothing,
    "open_stray": _close_for_nobody,
    "xattr_bytes": _count_xattrs,
    "stored_bytes": _count_stored,
    "usage": _add_difference,
    "next_inode": _go_on_behind,
    "unheld": _hold,
    "held_stray": _hold_no_more,
    "segment_stray": _take_apart,
    "kept_stray": _keep_no_more,
    "beside": _say_beside,
    "copy_missing": _note_missing,
}
