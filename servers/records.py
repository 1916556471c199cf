"""The directory's rows: what each key means, and how rows are written. Numbers in keys are big-endian, so they sort.

key                             value
i ino:8                         Inode
e ino:8 name                    entry: ino:8 of what the name points to, its type:4 (S_IFMT bits)
p ino:8 parent:8 name           parent row, empty value: a name that leads to `ino`
x ino:8 name                    the value of an extended attribute
g segment-id                    Segment entries of a large manifest
r session:8 slot:4              slot row: sequence:8 and the reply, or error, to it
s session:8                     SessionRecord
k key                           session:8 that was begun under this client-made key
v name                          ServerRecord
m name                          a single value: next_inode, next_session, start_number, volume, usage, quota

Open rows (o), rows of kept contents (d, h, u), references (c, y), garbage (n), short rows (q), lost files (l) and file
servers' states (w) are told where they are written: open_rows.py, versions.py, references.py, garbage_log.py,
short_rows.py, losses.py, server_states.py; so are further single values.
"""

import stat
from collections.abc import Iterator

import msgspec

from dfsfuse import errors
from dfsfuse.chunks import Entry
from dfsfuse.messages import ROOT_INO, Attributes, Manifest
from servers.store import Reader, Transaction, after_prefix

HISTORY_MAX = 8
_PAGE = 500


class Inode(msgspec.Struct, array_like=True, gc=False, kw_only=True):
    """Attributes, and the newest content. `fence`: the highest token seen. `group`: the placement group of its chunks.

    `nlink` 0: without a name, alive for its open rows alone. `history`: the latest commit ids, newest first.
    `linkable`: made without a name, and may be given one. `xattr_bytes`: names and values of all x rows.
    `stored_bytes`: what of the content is no hole; -1 in rows of earlier versions, which did not count it.
    `locking`: programs have used locks on it. `beside`: it may have rows beside these (h, l, u of versions.py and
    losses.py); of other inodes nobody looks for any.
    """

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int = 0
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    version: int = 0
    target: bytes = b""
    rdev: int = 0
    fence: int = 0
    group: int = 1
    entries: list[Entry] = []
    segments: list[bytes] = []
    history: list[bytes] = []
    linkable: bool = False
    xattr_bytes: int = 0
    stored_bytes: int = -1
    locking: bool = False
    beside: bool = False

    @property
    def commit_id(self) -> bytes:
        return self.history[0] if self.history else b""

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def allocated_bytes(self) -> int:
        """What of the content is no hole, or the size where that was not counted."""
        if not self.is_file:
            return 0
        return self.stored_bytes if self.stored_bytes >= 0 else self.size


class SessionRecord(msgspec.Struct, array_like=True):
    """`lapsed`: it was silent for longer than its locks live, so nobody waits for it after a restart. `gone`: it has
    ended, but for its open rows for writing, which are of `kept_files` files; since `gone_s` seconds, in which the
    directory ran. `watches`: it uses what it is promised."""

    key: bytes
    host: str
    pid: int
    mountpoint: str
    user: str
    lapsed: bool = False
    gone: bool = False
    gone_s: float = 0.0
    kept_files: int = 0
    watches: bool = False


class ServerRecord(msgspec.Struct, array_like=True):
    kind: str
    url: str


class Usage(msgspec.Struct, array_like=True):
    """Sums over the volume: inodes, the bytes of all files' sizes, and those that are no holes (-1: written by an
    earlier version, which did not count them)."""

    inodes: int = 0
    size_bytes: int = 0
    allocated_bytes: int = -1


class Limits(msgspec.Struct, array_like=True):
    """The quota of the volume; 0: no limit."""

    inodes: int = 0
    size_bytes: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode_inode = msgspec.msgpack.Decoder(Inode).decode
_decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode


def number(value: int, length: int = 8) -> bytes:
    """Also what callers sent comes this way: InvalidArgument for what cannot be such a number."""
    try:
        return value.to_bytes(length, "big")
    except OverflowError:
        raise errors.InvalidArgument(f"{value} is not from 0 to 2^{8 * length} - 1") from None


def as_number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def inode_key(ino: int) -> bytes:
    return b"i" + number(ino)


def entry_key(parent: int, name: bytes) -> bytes:
    return b"e" + number(parent) + name


def parent_key(ino: int, parent: int, name: bytes) -> bytes:
    return b"p" + number(ino) + number(parent) + name


def xattr_key(ino: int, name: bytes) -> bytes:
    return b"x" + number(ino) + name


def slot_key(session: int, slot: int) -> bytes:
    return b"r" + number(session) + number(slot, 4)


def session_key(session: int) -> bytes:
    return b"s" + number(session)


def within(prefix: bytes) -> tuple[bytes, bytes]:
    """The range of all keys that begin with `prefix`."""
    end = prefix.rstrip(b"\xff")
    return prefix, after_prefix(end)


def get_inode(tx: Reader, ino: int) -> Inode | None:
    row = tx.get(inode_key(ino))
    return None if row is None else _decode_inode(row)


def put_inode(tx: Transaction, ino: int, inode: Inode) -> None:
    """InvalidArgument where a number that a caller sent, such as a time, does not fit 64 bits."""
    try:
        row = _encode(inode)
    except OverflowError:
        raise errors.InvalidArgument("a number that does not fit 64 bits") from None
    tx.put(inode_key(ino), row)


def delete_inode(tx: Transaction, ino: int, inode: Inode) -> None:
    """The inode's row, and those that belong to it alone."""
    tx.delete(inode_key(ino))
    while inode.xattr_bytes and (rows := tx.range(*within(xattr_key(ino, b"")), 100)):
        for key, _ in rows:
            tx.delete(key)


def put_xattr(tx: Transaction, ino: int, inode: Inode, name: bytes, value: bytes) -> None:
    """A new value; the caller puts the inode."""
    delete_xattr(tx, ino, inode, name)
    tx.put(xattr_key(ino, name), value)
    inode.xattr_bytes += len(name) + len(value)


def delete_xattr(tx: Transaction, ino: int, inode: Inode, name: bytes) -> bool:
    """Was it there? The caller puts the inode."""
    value = tx.get(xattr_key(ino, name)) if inode.xattr_bytes else None
    if value is None:
        return False
    tx.delete(xattr_key(ino, name))
    inode.xattr_bytes -= len(name) + len(value)
    return True


def decode_inode(row: bytes) -> Inode:
    return _decode_inode(row)


def pack_entry(ino: int, mode: int) -> bytes:
    return number(ino) + stat.S_IFMT(mode).to_bytes(4, "big")


def unpack_entry(row: bytes) -> tuple[int, int]:
    """(ino, type)."""
    return as_number(row[:8]), as_number(row[8:])


def get_segment(tx: Reader, segment_id: bytes) -> list[Entry] | None:
    row = tx.get(b"g" + segment_id)
    return None if row is None else _decode_entries(row)


def decode_entries(row: bytes) -> list[Entry]:
    return _decode_entries(row)


def put_segment(tx: Transaction, segment_id: bytes, entries: list[Entry]) -> None:
    tx.put(b"g" + segment_id, _encode(entries))


def get_record(tx: Reader, key: bytes, kind: type) -> object | None:
    row = tx.get(key)
    return None if row is None else msgspec.msgpack.decode(row, type=kind)


def put_record(tx: Transaction, key: bytes, record: msgspec.Struct) -> None:
    tx.put(key, _encode(record))


def file_servers(tx: Reader) -> list[str]:
    """Their names."""
    known = ((key, msgspec.msgpack.decode(row, type=ServerRecord)) for key, row in rows(tx, b"v"))
    return [key[1:].decode() for key, record in known if record.kind == "files"]


def get_counter(tx: Reader, name: bytes, default: int = 0) -> int:
    row = tx.get(b"m" + name)
    return default if row is None else as_number(row)


def put_counter(tx: Transaction, name: bytes, value: int) -> None:
    tx.put(b"m" + name, number(value))


def allocate_inodes(tx: Transaction, count: int) -> int:
    """The first of `count` inode numbers that were never given out before."""
    first = get_counter(tx, b"next_inode", ROOT_INO + 1)
    put_counter(tx, b"next_inode", first + count)
    return first


def usage(tx: Reader) -> Usage:
    return get_record(tx, b"musage", Usage) or Usage(0, 0, 0)


def add_usage(tx: Transaction, inodes: int, size_bytes: int, allocated_bytes: int) -> None:
    if inodes or size_bytes or allocated_bytes:
        now = usage(tx)
        sums = now.inodes + inodes, now.size_bytes + size_bytes, now.allocated_bytes + allocated_bytes
        put_record(tx, b"musage", Usage(*sums))


def quota(tx: Reader) -> Limits:
    return get_record(tx, b"mquota", Limits) or Limits()


def rows(tx: Reader, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """All rows whose keys begin with `prefix`, from the key `start` on, in order; read a page at a time."""
    first, end = within(prefix)
    page = tx.range(max(first, start), end, _PAGE)
    while page:
        yield from page
        page = tx.range(page[-1][0] + b"\0", end, _PAGE) if len(page) == _PAGE else []


def inodes(tx: Reader, start: bytes = b"i") -> Iterator[tuple[int, Inode]]:
    """All inodes from a key on, in order of their numbers."""
    for key, row in rows(tx, b"i", start):
        yield as_number(key[1:]), _decode_inode(row)


def touch(inode: Inode, now_ns: int) -> None:
    """A change: ctime moves, and never back, also where the clock does, or a client's is ahead of it."""
    inode.ctime_ns = now_ns if now_ns >= inode.ctime_ns else inode.ctime_ns + 1


def attributes_of(ino: int, inode: Inode) -> Attributes:
    return Attributes(
        ino=ino,
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        nlink=inode.nlink,
        size=inode.size,
        mtime_ns=inode.mtime_ns,
        ctime_ns=inode.ctime_ns,
        atime_ns=inode.atime_ns,
        version=inode.version,
        commit_id=inode.commit_id,
        target=inode.target,
        rdev=inode.rdev,
        has_xattrs=inode.xattr_bytes > 0,
        allocated_bytes=inode.allocated_bytes,
    )


def manifest_of(inode: Inode) -> Manifest:
    return Manifest(inode.entries, inode.segments)


def create_volume(tx: Transaction, volume: bytes, uid: int, gid: int, now_ns: int) -> None:
    """The root folder and the volume's name. On a volume that exists, only what an earlier version did not count."""
    if tx.get(b"mvolume") is not None:
        _count_allocated(tx)
        return
    tx.put(b"mvolume", volume)
    root = Inode(
        mode=stat.S_IFDIR | 0o755, uid=uid, gid=gid, nlink=2, mtime_ns=now_ns, ctime_ns=now_ns, atime_ns=now_ns
    )
    put_inode(tx, ROOT_INO, root)
    add_usage(tx, 1, 0, 0)


def _count_allocated(tx: Transaction) -> None:
    known = usage(tx)
    if known.allocated_bytes < 0:
        known.allocated_bytes = sum(inode.allocated_bytes for _, inode in inodes(tx))
        put_record(tx, b"musage", known)
