"""Is everything in the metadata as it must be? Names, inodes, links and sums; contents are in check_content.py. Pure.

A check reads a snapshot, so what it finds wrong was wrong at that moment. It never holds more than a page of rows: each
row is looked at with those that must fit it. `None` among the results is a row that was looked at.
"""

import stat
from collections.abc import Iterator

from dfsfuse.messages import NAME_BYTES_MAX, ROOT_INO, shown_name
from dfsfuse.messages.checks import Checked, Problem
from servers import check_content, open_rows, records
from servers.records import Inode, Usage
from servers.store import Reader

ROWS_PER_PAGE, PROBLEMS_PER_PAGE = 2000, 200
_DEPTH_MAX = 100_000
_KNOWN_MAX = 10_000
INTO_LOST_AND_FOUND = "it gets a name in /lost+found"

Found = Iterator[Problem | None]


def pages(tx: Reader) -> Iterator[Checked]:
    """All that is wrong, some at a time."""
    page = Checked(more=True)
    for found in problems(tx):
        page.looked += 1
        if found is not None:
            found.path = found.path or path_of(tx, found.ino)
            page.problems.append(found)
        if page.looked >= ROWS_PER_PAGE or len(page.problems) >= PROBLEMS_PER_PAGE:
            yield page
            page = Checked(more=True)
    page.more = False
    yield page


def problems(tx: Reader) -> Found:
    sums, above = Usage(0, 0, 0), _Above(tx)
    for ino, inode in records.inodes(tx):
        yield None
        sums.inodes += 1
        sums.size_bytes += inode.size if inode.is_file else 0
        sums.allocated_bytes += inode.allocated_bytes
        yield from _of_inode(tx, ino, inode, above)
    yield from _of_sums(tx, sums)
    yield from _of_strays(tx)
    yield from check_content.problems(tx)


def path_of(tx: Reader, ino: int) -> bytes:
    """One path, b"" where none leads to the root: names may be wrong here."""
    names: list[bytes] = []
    for _ in range(_DEPTH_MAX):
        if ino == ROOT_INO:
            return b"/" + b"/".join(reversed(names))
        rows = tx.range(*records.within(b"p" + records.number(ino)), 1)
        if not rows:
            return b""
        ino, name = records.as_number(rows[0][0][9:17]), rows[0][0][17:]
        names.append(name)
    return b""


def _problem(kind: str, ino: int, what: str, mend: str = "", other: int = 0, name: bytes = b"") -> Problem:
    return Problem(kind=kind, ino=ino, what=what, mend=mend, other=other, name=name)


# -- inodes


class _Above:
    """Which folders are below the root; the latest ones are remembered."""

    def __init__(self, tx: Reader):
        self._tx, self._known = tx, {ROOT_INO}

    def leads_to_root(self, ino: int) -> bool:
        way: set[int] = set()
        while ino not in self._known:
            rows = self._tx.range(*records.within(b"p" + records.number(ino)), 1)
            if not rows or ino in way:
                return False
            way.add(ino)
            ino = records.as_number(rows[0][0][9:17])
        if len(self._known) > _KNOWN_MAX:
            self._known = {ROOT_INO}
        self._known |= way
        return True


def _of_inode(tx: Reader, ino: int, inode: Inode, above: _Above) -> Found:
    names = 0
    for key, _ in records.rows(tx, b"p" + records.number(ino)):
        yield None
        folder, name = records.as_number(key[9:17]), key[17:]
        row = tx.get(records.entry_key(folder, name))
        if row is not None and records.unpack_entry(row)[0] == ino:
            names += 1
        else:
            what = f"it counts {shown_name(name)} in inode {folder} among its names, which does not lead to it"
            yield _problem("name_stray", ino, what, "it counts it no more", other=folder, name=name)
    subfolders = 0
    for key, row in records.rows(tx, b"e" + records.number(ino)):
        yield from _of_entry(tx, ino, inode, key[9:], row)
        subfolders += records.unpack_entry(row)[1] == stat.S_IFDIR
    yield from _of_links(tx, ino, inode, names, subfolders)
    if inode.is_folder and names and not above.leads_to_root(ino):
        yield _problem("cycle", ino, "the folder is not below the root", INTO_LOST_AND_FOUND)
    yield from _of_xattrs(tx, ino, inode)
    yield from check_content.of_inode(tx, ino, inode)


def _of_links(tx: Reader, ino: int, inode: Inode, names: int, subfolders: int) -> Found:
    if not names and not open_rows.has_any(tx, ino) and ino != ROOT_INO:
        yield _problem("unnamed", ino, "nothing leads to it, and nobody has it open", INTO_LOST_AND_FOUND)
        return
    if inode.is_folder and names > 1:
        yield _problem("folder_names", ino, f"a folder with {names} names", "it keeps the first of them")
    right = names
    if inode.is_folder:
        right = 2 + subfolders if names or ino == ROOT_INO else min(inode.nlink, 1)
    if inode.nlink != right:
        what = f"it counts {inode.nlink} links, and has {right}"
        yield _problem("nlink", ino, what, f"it counts {right}")


def _of_xattrs(tx: Reader, ino: int, inode: Inode) -> Found:
    if not inode.xattr_bytes:
        return
    found = sum(len(key) - 9 + len(value) for key, value in records.rows(tx, b"x" + records.number(ino)))
    if found != inode.xattr_bytes:
        what = f"it counts {inode.xattr_bytes} bytes of extended attributes, and has {found}"
        yield _problem("xattr_bytes", ino, what, f"it counts {found}")


def _of_entry(tx: Reader, folder: int, inode: Inode, name: bytes, row: bytes) -> Found:
    yield None
    ino, kind = records.unpack_entry(row)
    target = records.get_inode(tx, ino)
    shown = f"the name {shown_name(name)} in it"
    if not inode.is_folder:
        yield _problem("entry_misplaced", folder, f"{shown}, but it is no folder", "", ino, name)
    elif not 0 < len(name) <= NAME_BYTES_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
        yield _problem("entry_name", folder, f"{shown} cannot be a name", "", ino, name)
    if target is None:
        mend = "the name is removed" if not _has_entries(tx, ino) else "the folder that it led to is made again"
        yield _problem("entry_dangling", folder, f"{shown} leads to nothing", mend, ino, name)
        return
    if stat.S_IFMT(target.mode) != kind:
        yield _problem("entry_type", folder, f"{shown} has another type than its inode", "it gets it", ino, name)
    if tx.get(records.parent_key(ino, folder, name)) is None:
        what = f"{shown} is not counted among the names of inode {ino}"
        yield _problem("name_missing", folder, what, "it is counted", ino, name)


def is_below_root(tx: Reader, ino: int) -> bool:
    return _Above(tx).leads_to_root(ino)


def _has_entries(tx: Reader, ino: int) -> bool:
    return bool(tx.range(*records.within(b"e" + records.number(ino)), 1))


# -- sums, and rows that belong to nothing


def _of_sums(tx: Reader, sums: Usage) -> Found:
    """The difference stays the same whatever is changed meanwhile: that is what is added."""
    known = records.usage(tx)
    if known != sums:
        amounts = [
            records.get_counter(tx, b"usage_mended"),
            sums.inodes - known.inodes,
            sums.size_bytes - known.size_bytes,
            sums.allocated_bytes - known.allocated_bytes,
        ]
        what = f"the volume counts {known.inodes} inodes with {known.size_bytes} bytes, {known.allocated_bytes} of them"
        what += f" stored; it has {sums.inodes}, {sums.size_bytes} and {sums.allocated_bytes}"
        yield Problem(kind="usage", path=b"/", what=what, mend="it counts what it has", amounts=amounts)
    last = _last_inode(tx)
    if last >= records.get_counter(tx, b"next_inode", ROOT_INO + 1):
        what = f"inode {last} is there, and its number is still to be given out"
        yield _problem("next_inode", last, what, "numbers go on behind it")
    if records.get_inode(tx, ROOT_INO) is None:
        yield Problem(kind="root", ino=ROOT_INO, path=b"/", what="the volume has no root; load a dump of it")


def _last_inode(tx: Reader) -> int:
    """Found by halving the numbers."""
    low, high = 0, (1 << 64) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if tx.range(records.inode_key(middle), records.within(b"i")[1], 1):
            low = middle
        else:
            high = middle - 1
    return low


def _of_strays(tx: Reader) -> Found:
    for kind, prefix, what in (
        ("entries_stray", b"e", "there are names in this folder, and it is gone"),
        ("names_stray", b"p", "it has names, and it is gone"),
        ("xattrs_stray", b"x", "it has extended attributes, and it is gone"),
    ):
        for ino in _owners(tx, prefix):
            yield None
            if records.get_inode(tx, ino) is None:
                mend = "it is made again, in /lost+found" if kind == "entries_stray" else "they are removed"
                yield _problem(kind, ino, what, mend)
            elif kind == "xattrs_stray" and not records.get_inode(tx, ino).xattr_bytes:
                what = "it counts no extended attributes, and has some"
                yield _problem("xattr_bytes", ino, what, "it counts them")
    for key, _ in records.rows(tx, b"o"):
        yield None
        ino, session = records.as_number(key[1:9]), open_rows.session_of(key)
        if tx.get(records.session_key(session)) is None or records.get_inode(tx, ino) is None:
            what = f"it is open in session {session}, and one of them is gone"
            yield _problem("open_stray", ino, what, "it is open there no more", other=session, name=key[17:])


def _owners(tx: Reader, prefix: bytes) -> Iterator[int]:
    """The inode numbers with which keys of this kind begin, each once."""
    start, end = records.within(prefix)
    while rows := tx.range(start, end, 1):
        ino = records.as_number(rows[0][0][1:9])
        yield ino
        start = prefix + records.number(ino) + b"\xff" * 300
