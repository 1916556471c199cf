"""The metadata of a whole volume, page by page: what a dump is asked with, and what its lines are (docs/DUMP.md)."""

from dfsfuse.chunks import Entry
from dfsfuse.messages.base import Message

DUMP_FORMAT = 1


class Dump(Message, kw_only=True):
    """Pages 0, 1, ... of a dump that page 0 begins. `key` is random and names it; a page that did not arrive is asked
    for again by its number."""

    key: bytes
    page: int = 0


class DumpPage(Message):
    """`lines` without their ends. Not `more`: these are the last ones."""

    lines: list[bytes]
    more: bool = False


class DumpXattr(Message):
    name: bytes
    value: bytes


class DumpVolume(Message, kw_only=True):
    """The first line. `made_ns` is the directory's time; those before `next_*` were given out; limits of 0 are none."""

    format: int
    volume: bytes
    made_ns: int
    copies: int
    next_inode: int
    next_session: int
    start_number: int
    bytes_max: int = 0
    inodes_max: int = 0


class DumpInode(Message, kw_only=True):
    """An inode with at least one name, its newest content, and its latest commit ids, newest first."""

    ino: int
    mode: int
    uid: int = 0
    gid: int = 0
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
    commits: list[bytes] = []
    stored_bytes: int = -1
    locking: bool = False
    xattrs: list[DumpXattr] = []


class DumpSegment(Message):
    """A segment of the inode before it."""

    id: bytes
    entries: list[Entry]


class DumpName(Message):
    """A name in a folder, and what it leads to."""

    folder: int
    name: bytes
    ino: int


class DumpShort(Message):
    """A file server that lacks a chunk."""

    server: str
    chunk: bytes


class DumpEnd(Message):
    """The last line: how many there are before it, and the BLAKE3 hash of their bytes with their ends."""

    lines: int
    blake3: bytes


class DumpLine(Message):
    """One line has one of these."""

    volume: DumpVolume | None = None
    inode: DumpInode | None = None
    segment: DumpSegment | None = None
    name: DumpName | None = None
    short: DumpShort | None = None
    end: DumpEnd | None = None
