"""Replies to the kernel, made of the file system's attributes. Pure."""

import os
import stat

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_node import GENERATION, Node
from dfsfuse.messages import NAME_BYTES_MAX, Attributes
from dfsfuse.space import BLOCK_BYTES, Space

KERNEL_HOLD_S = 0.25
"""For how long the kernel uses names and attributes without asking again."""
PROMISED_HOLD_S = 3600
"""The same of what is promised: until it is told otherwise (fuse_forgetting.py)."""
_HOLD_NS = int(KERNEL_HOLD_S * 10**9)
_NANO = 10**9
_SECTOR = 512
_UINT32 = 0xFFFFFFFF
_HELD, _PROMISED, _ASKED = (0, _HOLD_NS), (PROMISED_HOLD_S, 0), (0, 0)
NO_ENTRY = bytes(fuse.fuse_entry_out.size)
"""In a READDIRPLUS reply: the kernel is to look the name up itself."""


def attr_fields(attributes: Attributes) -> tuple[int, ...]:
    """The fields of a fuse_attr."""
    atime, atime_ns = divmod(attributes.atime_ns, _NANO)
    mtime, mtime_ns = divmod(attributes.mtime_ns, _NANO)
    ctime, ctime_ns = divmod(attributes.ctime_ns, _NANO)
    sectors = -(-attributes.allocated_bytes // _SECTOR)
    return (
        attributes.ino, attributes.size, sectors, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
        attributes.mode, attributes.nlink, attributes.uid, attributes.gid, attributes.rdev & _UINT32, BLOCK_BYTES, 0,
    )  # fmt: skip


def _hold(node: Node, attributes: Attributes) -> tuple[int, int]:
    """For how long the attributes are used: (seconds, nanoseconds)."""
    if node.asks:
        return _ASKED
    return _PROMISED if attributes.promised else _HELD


def attr_out(node: Node, attributes: Attributes) -> bytes:
    return fuse.fuse_attr_out.pack(*_hold(node, attributes), 0, *attr_fields(attributes))


def entry_out(node: Node, attributes: Attributes) -> bytes:
    (name_s, name_ns), (hold_s, hold_ns) = _PROMISED if attributes.promised else _HELD, _hold(node, attributes)
    return fuse.fuse_entry_out.pack(node.id, GENERATION, name_s, hold_s, name_ns, hold_ns, *attr_fields(attributes))


def create_out(node: Node, attributes: Attributes, fh: int, flags: int, backing: int = 0) -> bytes:
    """The name may be promised; the attributes of what is open for writing are this client's."""
    name_s, name_ns = _PROMISED if attributes.promised else _HELD
    return fuse.fuse_create_out.pack(
        node.id, GENERATION, name_s, 0, name_ns, _HOLD_NS, *attr_fields(attributes), fh, flags, backing
    )


def open_out(fh: int, flags: int, backing: int = 0) -> bytes:
    return fuse.fuse_open_out.pack(fh, flags, backing)


def statx_out(node: Node, attributes: Attributes) -> bytes:
    """The basic fields: when a file was made is not kept."""
    atime, atime_ns = divmod(attributes.atime_ns, _NANO)
    mtime, mtime_ns = divmod(attributes.mtime_ns, _NANO)
    ctime, ctime_ns = divmod(attributes.ctime_ns, _NANO)
    return fuse.fuse_statx_out.pack(
        *_hold(node, attributes), 0,
        fuse.STATX_BASIC_STATS, BLOCK_BYTES, 0, attributes.nlink, attributes.uid, attributes.gid, attributes.mode, 0,
        attributes.ino, attributes.size, -(-attributes.allocated_bytes // _SECTOR), 0,
        atime, atime_ns, 0, 0, 0, 0, ctime, ctime_ns, 0, mtime, mtime_ns, 0,
        os.major(attributes.rdev), os.minor(attributes.rdev), 0, 0,
    )  # fmt: skip


def statfs_out(space: Space) -> bytes:
    free = space.free_bytes // BLOCK_BYTES
    inodes = space.inodes + space.inodes_free
    return fuse.fuse_statfs_out.pack(
        space.total_bytes // BLOCK_BYTES, free, free, inodes, space.inodes_free, BLOCK_BYTES, NAME_BYTES_MAX,
        BLOCK_BYTES, 0,
    )  # fmt: skip


# -- entries of a listing


def dirent(name: bytes, ino: int, following: int, mode: int) -> bytes:
    """`following`: the offset from which the listing goes on after this entry. In READDIRPLUS an `entry_out` or
    NO_ENTRY stands before it."""
    head = fuse.fuse_dirent.pack(ino, following, len(name), stat.S_IFMT(mode) >> 12)
    return head + name.ljust(fuse.fuse_dirent_align(len(name)), b"\0")
