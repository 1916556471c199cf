"""Repairing what a check has found (check.py), as far as it is still there. Pure over a transaction.

Nothing is deleted that anybody could want: what has lost its name gets one in /lost+found (mend_names.py), and what
follows from other rows is made to follow from them. Each repair looks at the rows of now, so doing it twice changes
nothing.
"""

from collections.abc import Callable

from dfsfuse.chunks import NAME_BYTES
from dfsfuse.messages import ROOT_INO
from dfsfuse.messages.checks import Problem
from servers import check_content, mend_names, records, references, short_rows, tracing, tree, versions
from servers.records import get_inode, put_inode
from servers.references import ONLY_GROUP
from servers.store import Transaction

Repair = Callable[[Transaction, Problem, int], bool]


def mend(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """Was something changed?"""
    repair = _REPAIRS.get(problem.kind)
    return repair is not None and repair(tx, problem, now_ns)


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
        versions.closed(tx, problem.ino, inode, [records.as_number(problem.name)])
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
    """Servers may have deleted a chunk as garbage: each looks for it. A segment may be about to be taken apart."""
    target, holder = problem.name, references.inode_holder(problem.ino)
    if not problem.ino:
        target, holder = problem.name[16:], b"s" + problem.name[:16]
    known = tx.get(references.key(ONLY_GROUP, target, holder))
    if known is not None or target not in check_content.held_by(tx, holder):
        return False
    references.hold(tx, ONLY_GROUP, [target], holder)
    if len(target) == NAME_BYTES:
        short_rows.put(tx, [(server, target) for server in records.file_servers(tx)])
    else:
        references.keep_whole(tx, target)
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


def _look_no_more(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """It was not counted."""
    key = short_rows.key(problem.server, problem.name)
    if tx.get(key) is None or references.is_held(tx, ONLY_GROUP, problem.name):
        return False
    tx.delete(key)
    return True


def _add_to_short(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    """Once, as with the sums of the volume."""
    mended = check_content.count_mended(problem.server)
    if len(problem.amounts) != 2 or records.get_counter(tx, mended) != problem.amounts[0]:
        return False
    records.put_counter(tx, mended, problem.amounts[0] + 1)
    short_rows.add_to_count(tx, problem.server, problem.amounts[1])
    return True


def _note_missing(tx: Transaction, problem: Problem, now_ns: int) -> bool:
    return tracing.note_missing(tx, problem.server, problem.name)


_REPAIRS: dict[str, Repair] = {
    "name_stray": mend_names.drop_stray_name,
    "name_missing": mend_names.add_missing_name,
    "entry_dangling": mend_names.end_dangling_entry,
    "entry_type": mend_names.set_entry_type,
    "folder_names": mend_names.keep_first_name,
    "nlink": mend_names.recount,
    "unnamed": mend_names.adopt_unnamed,
    "cycle": mend_names.cut_circle,
    "entries_stray": mend_names.make_folder_again,
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
    "short_stray": _look_no_more,
    "short_count": _add_to_short,
    "copy_missing": _note_missing,
}
