"""Names, folders and attributes: the directory's operations on the tree. Pure over a transaction.

An operation is a function (transaction, request, now_ns) -> reply; `now_ns` is wall-clock time and becomes ctime. It
checks before it writes, and raises errors of `dfsfuse.errors`.

Invariants: a name has an entry row and a parent row, both or neither; `nlink` of a file is the number of its names,
of a folder 2 and the number of its subfolders; a folder has one name; an inode without a name lives while it has open
rows; what belongs to an inode alone (extended attributes) goes with it.

No operation reads a whole folder, and none reads more of a large folder than of a small one.
"""

import stat

from dfsfuse import errors
from dfsfuse.messages import (
    LINKS_MAX,
    LIST_PAGE_MAX,
    NAME_BYTES_MAX,
    XATTR_CAPABILITY,
    Attributes,
    Create,
    FolderEntry,
    Link,
    ListFolder,
    Listing,
    Lookup,
    Made,
    NewAttributes,
    Owed,
    PathOf,
    PathReply,
    ReadAt,
    Remove,
    Removed,
    SetAttributes,
    moves_atime,
    shown_name,
    without_set_ids,
)
from servers import access, modes, open_rows, quota, records, versions
from servers.records import Inode, attributes_of, entry_key, get_inode, parent_key, put_inode, touch
from servers.store import Transaction

PATHS_MAX = 1000
_TARGET_BYTES_MAX = 4095


# -- finding


def resolve(tx: Transaction, base: int, names: list[bytes]) -> int:
    """The inode number at a place. Symlinks are not followed: that is the client's kernel's part."""
    ino = base
    for name in names:
        ino = child(tx, ino, name)[0]
    return ino


def child(tx: Transaction, parent: int, name: bytes) -> tuple[int, int]:
    """(ino, type) behind a name; NotFound, NotADirectory, or Stale where the folder itself is gone."""
    row = tx.get(entry_key(parent, name))
    if row is not None:
        return records.unpack_entry(row)
    check_name(name)
    folder = get_inode(tx, parent)
    if folder is None:
        raise errors.Stale(f"inode {parent} is gone; look its name up again")
    if not folder.is_folder:
        raise errors.NotADirectory(f"what contains {shown_name(name)} is not a folder")
    raise errors.NotFound(f"no file or folder {shown_name(name)}")


def check_name(name: bytes) -> None:
    if len(name) > NAME_BYTES_MAX:
        raise errors.NameTooLong(f"a name of {len(name)} bytes; at most {NAME_BYTES_MAX} are possible")
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise errors.BadRequest(f"{shown_name(name)} cannot be a name")


def existing(tx: Transaction, ino: int) -> Inode:
    inode = get_inode(tx, ino)
    if inode is None:
        raise errors.Stale(f"inode {ino} is gone")
    return inode


def at_place(tx: Transaction, base: int, names: list[bytes]) -> tuple[int, Inode]:
    ino = resolve(tx, base, names)
    return ino, existing(tx, ino)


def lookup(tx: Transaction, request: Lookup, now_ns: int) -> Attributes:
    return attributes_of(*at_place(tx, request.base, request.names))


def list_folder(tx: Transaction, request: ListFolder, now_ns: int) -> Listing:
    ino, folder = at_place(tx, request.base, request.names)
    if not folder.is_folder:
        raise errors.NotADirectory("only a folder can be listed")
    limit = max(1, min(request.limit, LIST_PAGE_MAX))
    first, end = records.within(b"e" + records.number(ino))
    start = first + request.after + b"\0" if request.after else first
    rows = tx.range(start, end, limit + 1)
    entries = [FolderEntry(key[9:], _attributes(tx, row)) for key, row in rows[:limit]]
    return Listing(attributes_of(ino, folder), entries, len(rows) > limit)


def read_folder(tx: Transaction, ino: int, atime_ns: int) -> Attributes:
    """It was listed at that time."""
    folder = existing(tx, ino)
    folder.atime_ns = atime_ns
    put_inode(tx, ino, folder)
    return attributes_of(ino, folder)


def note_reads(tx: Transaction, reads: list[ReadAt]) -> None:
    """Files were read whose opens were not told. Since then ctime has moved with whatever may have set their atime."""
    for read in reads:
        inode = get_inode(tx, read.ino)
        if inode is not None and inode.ctime_ns == read.ctime_ns and moves_atime(inode, read.atime_ns):
            inode.atime_ns = read.atime_ns
            put_inode(tx, read.ino, inode)


def _attributes(tx: Transaction, entry_row: bytes) -> Attributes:
    ino = records.unpack_entry(entry_row)[0]
    return attributes_of(ino, existing(tx, ino))


def path_of(tx: Transaction, request: PathOf, now_ns: int) -> PathReply:
    existing(tx, request.ino)
    path, parent = path_to(tx, request.ino)
    return PathReply(path, parent)


def paths_to(tx: Transaction, ino: int) -> list[bytes]:
    """A path for each name of a file, PATHS_MAX of them at most; the first is that of `path_to`."""
    rows = tx.range(*records.within(b"p" + records.number(ino)), PATHS_MAX)
    folders = ((path_to(tx, records.as_number(key[9:17]))[0].rstrip(b"/"), key[17:]) for key, _ in rows)
    return [folder + b"/" + name for folder, name in folders]


def path_to(tx: Transaction, ino: int) -> tuple[bytes, int]:
    """(one path to an inode, the folder of its last name). Without a name: (b"", 0)."""
    names: list[bytes] = []
    parent = first_parent = 0
    while ino != records.ROOT_INO:
        rows = tx.range(*records.within(b"p" + records.number(ino)), 1)
        if not rows:
            return b"", 0
        parent, name = records.as_number(rows[0][0][9:17]), rows[0][0][17:]
        first_parent = first_parent or parent
        names.append(name)
        ino = parent
    return b"/" + b"/".join(reversed(names)), first_parent


# -- changing


def create(tx: Transaction, request: Create, now_ns: int) -> Made:
    """A new inode under a name; AlreadyExists where the name is taken."""
    if request.unnamed:
        return _create_unnamed(tx, request, now_ns)
    parent, folder, name = free_place(tx, request.base, request.names)
    quota.check_inode(tx)
    ino = _unused_inode(tx, request.ino)
    inode = _new_inode(request, folder, now_ns)
    access.inherit(tx, parent, folder, ino, inode, request.umask)
    add_name(tx, parent, folder, name, ino, inode, now_ns)
    _count_new(tx, ino, request)
    return Made(attributes_of(ino, inode), attributes_of(parent, folder))


def _create_unnamed(tx: Transaction, request: Create, now_ns: int) -> Made:
    """O_TMPFILE: a file that lives by its open row until `link` gives it a name. `names` lead to its folder."""
    if not stat.S_ISREG(request.mode) or not (request.session and request.opening):
        raise errors.InvalidArgument("without a name there are regular files alone, and only while they are open")
    parent, folder = at_place(tx, request.base, request.names)
    if not folder.is_folder:
        raise errors.NotADirectory("a file without a name is made in a folder, and this is none")
    quota.check_inode(tx)
    ino = _unused_inode(tx, request.ino)
    inode = _new_inode(request, folder, now_ns)
    inode.linkable = request.linkable
    access.inherit(tx, parent, folder, ino, inode, request.umask)
    put_inode(tx, ino, inode)
    _count_new(tx, ino, request)
    return Made(attributes_of(ino, inode), attributes_of(parent, folder))


def _count_new(tx: Transaction, ino: int, request: Create) -> None:
    records.add_usage(tx, 1, 0, 0)
    open_rows.put(tx, ino, request.session, 0, request.opening, request.token > 0 and not request.unnamed)


def free_place(tx: Transaction, base: int, names: list[bytes]) -> tuple[int, Inode, bytes]:
    """As `new_place`; AlreadyExists where the name is taken."""
    parent, folder, name = new_place(tx, base, names)
    if tx.get(entry_key(parent, name)) is not None:
        raise errors.AlreadyExists(f"{shown_name(name)} exists")
    return parent, folder, name


def new_place(tx: Transaction, base: int, names: list[bytes]) -> tuple[int, Inode, bytes]:
    """(folder's inode number, folder, name) for a name that may be new."""
    if not names:
        raise errors.InvalidArgument("a name is needed, and the root has none")
    check_name(names[-1])
    parent, folder = at_place(tx, base, names[:-1])
    if not folder.is_folder:
        raise errors.NotADirectory(f"what contains {shown_name(names[-1])} is not a folder")
    return parent, folder, names[-1]


def _unused_inode(tx: Transaction, ino: int) -> int:
    if ino == 0:
        return records.allocate_inodes(tx, 1)
    if ino >= records.get_counter(tx, b"next_inode", records.ROOT_INO + 1) or get_inode(tx, ino) is not None:
        raise errors.BadRequest(f"inode number {ino} was not handed out, or is in use")
    return ino


def _new_inode(request: Create, folder: Inode, now_ns: int) -> Inode:
    kind = modes.kind_of(request.mode)
    if len(request.target) > _TARGET_BYTES_MAX or bool(request.target) != (kind == stat.S_IFLNK):
        raise errors.InvalidArgument("a symlink's target is empty, too long or misplaced")
    modes.check_owner(uid=request.uid, gid=request.gid, rdev=request.rdev)
    modes.check_umask(request.umask)
    if request.token < 0:
        raise errors.InvalidArgument("a token is not negative")
    mode, gid = request.mode, request.gid
    if folder.mode & stat.S_ISGID:
        gid = folder.gid
        mode |= stat.S_ISGID if kind == stat.S_IFDIR else 0
    time_ns = request.mtime_ns or now_ns
    return Inode(
        mode=mode,
        uid=request.uid,
        gid=gid,
        nlink=0,
        size=len(request.target),
        mtime_ns=time_ns,
        ctime_ns=now_ns,
        atime_ns=time_ns,
        target=request.target,
        rdev=request.rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        fence=request.token,
    )


def link(tx: Transaction, request: Link, now_ns: int) -> Made:
    """One more name for an inode."""
    ino, inode = at_place(tx, request.base, request.names)
    parent, folder, name = free_place(tx, request.new_base, request.new_names)
    if inode.is_folder:
        raise errors.NotPermitted("a folder has one name")
    if not inode.nlink and not inode.linkable:
        raise errors.NotFound("the file has lost its last name, and gets no other")
    if inode.nlink >= LINKS_MAX:
        raise errors.TooManyLinks(f"the file has {inode.nlink} names already")
    inode.linkable = False
    add_name(tx, parent, folder, name, ino, inode, now_ns)
    return Made(attributes_of(ino, inode), attributes_of(parent, folder))


def add_name(tx: Transaction, parent: int, folder: Inode, name: bytes, ino: int, inode: Inode, now_ns: int) -> None:
    tx.put(entry_key(parent, name), records.pack_entry(ino, inode.mode))
    tx.put(parent_key(ino, parent, name), b"")
    inode.nlink += 1
    if inode.is_folder:
        inode.nlink = max(inode.nlink, 2)
        folder.nlink += 1
    folder.mtime_ns = now_ns
    touch(folder, now_ns)
    touch(inode, now_ns)
    put_inode(tx, ino, inode)
    put_inode(tx, parent, folder)


def drop_name(tx: Transaction, parent: int, folder: Inode, name: bytes, ino: int, inode: Inode, now_ns: int) -> None:
    tx.delete(entry_key(parent, name))
    tx.delete(parent_key(ino, parent, name))
    inode.nlink -= 1
    if inode.is_folder:
        folder.nlink -= 1
    folder.mtime_ns = now_ns
    touch(folder, now_ns)
    touch(inode, now_ns)
    put_inode(tx, ino, inode)
    put_inode(tx, parent, folder)


def remove(tx: Transaction, request: Remove, now_ns: int) -> Removed:
    parent, folder, name = new_place(tx, request.base, request.names)
    ino, kind = child(tx, parent, name)
    if request.ino and request.ino != ino:
        raise errors.Stale("the name leads to another file now")
    if request.folder and kind != stat.S_IFDIR:
        raise errors.NotADirectory(f"{shown_name(name)} is not a folder")
    if not request.folder and kind == stat.S_IFDIR:
        raise errors.IsADirectory(f"{shown_name(name)} is a folder")
    inode = existing(tx, ino)
    if inode.is_folder and has_entries(tx, ino):
        raise errors.NotEmpty(f"the folder {shown_name(name)} is not empty")
    drop_name(tx, parent, folder, name, ino, inode, now_ns)
    removed(tx, ino, inode, request.session)
    return Removed(attributes_of(parent, folder), ino if inode.is_file and not inode.nlink else 0, ino)


def removed(tx: Transaction, ino: int, inode: Inode, session: int) -> None:
    """The session has taken a name of this inode."""
    if inode.is_file and not inode.nlink:
        open_rows.give_up_writing(tx, ino, session)
    forget_unnamed(tx, ino, inode)


def has_entries(tx: Transaction, ino: int) -> bool:
    return bool(tx.range(*records.within(b"e" + records.number(ino)), 1))


def forget_unnamed(tx: Transaction, ino: int, inode: Inode) -> None:
    """Delete an inode that has neither a name nor an open row."""
    if inode.nlink > (1 if inode.is_folder else 0) or open_rows.has_any(tx, ino):
        return
    records.delete_inode(tx, ino, inode)
    records.add_usage(tx, -1, -inode.size if inode.is_file else 0, -inode.allocated_bytes)
    if inode.is_file:
        versions.forget(tx, ino, inode)


def set_attributes(tx: Transaction, request: SetAttributes, now_ns: int) -> Attributes:
    ino, inode = at_place(tx, request.base, request.names)
    give(tx, ino, inode, request if request.owed is None else request.owed.due(inode))
    touch(inode, now_ns)
    put_inode(tx, ino, inode)
    return attributes_of(ino, inode)


def give(tx: Transaction, ino: int, inode: Inode, new: SetAttributes | NewAttributes) -> None:
    """What of these is not None becomes the inode's. The caller puts it."""
    modes.check_owner(uid=new.uid, gid=new.gid)
    if new.uid is not None or new.gid is not None:
        _change_owner(tx, ino, inode, new)
    if new.mode is not None:
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(modes.possible_mode(new.mode))
        access.mode_set(tx, ino, inode)
    inode.mtime_ns = inode.mtime_ns if new.mtime_ns is None else new.mtime_ns
    inode.atime_ns = inode.atime_ns if new.atime_ns is None else new.atime_ns


def give_owed(tx: Transaction, owed: list[Owed], now_ns: int) -> list[int]:
    """The inodes that are still there, and have what they were owed."""
    given = []
    for one in owed:
        inode = get_inode(tx, one.ino)
        if inode is not None:
            give(tx, one.ino, inode, one.attributes.due(inode))
            touch(inode, now_ns)
            put_inode(tx, one.ino, inode)
            given.append(one.ino)
    return given


def _change_owner(tx: Transaction, ino: int, inode: Inode, new: SetAttributes | NewAttributes) -> None:
    """A program that had rights of its own under the former owner has none under the next one."""
    inode.uid = inode.uid if new.uid is None else new.uid
    inode.gid = inode.gid if new.gid is None else new.gid
    if not inode.is_folder:
        inode.mode = without_set_ids(inode.mode)
        records.delete_xattr(tx, ino, inode, XATTR_CAPABILITY)
