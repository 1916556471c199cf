"""Messages about names, folders and attributes."""

import stat
from typing import Protocol

from dfsfuse.messages.base import LIST_PAGE_MAX, ROOT_INO, Change, Message

_ATIME_EVERY_NS = 24 * 3600 * 10**9


class Times(Protocol):
    """The times of an inode, in ns since 1970."""

    mtime_ns: int
    ctime_ns: int
    atime_ns: int


class Owned(Protocol):
    """What can be set of an inode."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int


class Attributes(Message, kw_only=True):
    """What stat tells of an inode, and the version of its content. `nlink` of a folder counts its subfolders too.
    `has_xattrs`: it has extended attributes. `allocated_bytes`: what of a file's content is no hole. `promised`: the
    session that has asked will be told before they change (messages/promises.py)."""

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    version: int = 0
    commit_id: bytes = b""
    target: bytes = b""
    rdev: int = 0
    has_xattrs: bool = False
    allocated_bytes: int = 0
    promised: bool = False


class FolderEntry(Message):
    """A name in a folder and the attributes of what it points to."""

    name: bytes
    attributes: Attributes


class Lookup(Message):
    """The attributes of what is at a place. To a session that watches they are promised, and with one name the entry
    too."""

    base: int = ROOT_INO
    names: list[bytes] = []
    session: int = 0


class ListFolder(Message, kw_only=True):
    """The entries of a folder whose names sort after `after`. `atime_ns`, if not 0, is when it is listed: it becomes
    its atime where relatime has it so."""

    base: int = ROOT_INO
    names: list[bytes] = []
    after: bytes = b""
    limit: int = LIST_PAGE_MAX
    atime_ns: int = 0
    session: int = 0


class Listing(Message):
    """One page of a folder, sorted by name as bytes. `more`: there are entries after the last one. `promised`: all that
    it tells, to the session that has asked."""

    folder: Attributes
    entries: list[FolderEntry]
    more: bool = False
    promised: bool = False


class Create(Change, kw_only=True):
    """A new inode and its name. `mode` carries the type; the inode number comes from the session's range.

    With `token` (a file's write lock) and `opening` the file is opened for writing by the same transaction.

    `unnamed`: a file without a name (O_TMPFILE), which needs `session` and `opening`; `names` lead to the folder that
    it is made in. A `linkable` one may be given a name by Link.

    `umask`: bits that `mode` loses, unless the folder has a default access control list.
    """

    base: int = ROOT_INO
    names: list[bytes]
    ino: int
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    rdev: int = 0
    token: int = 0
    opening: int = 0
    unnamed: bool = False
    linkable: bool = True
    umask: int = 0


class Made(Message):
    """What was made, or got a name, and the folder that it is in since; both as of one moment."""

    attributes: Attributes
    folder: Attributes


class Link(Change, kw_only=True):
    """One more name, at the new place, for what is at the old one; folders have one name alone."""

    base: int = ROOT_INO
    names: list[bytes] = []
    new_base: int = ROOT_INO
    new_names: list[bytes]


class Remove(Change, kw_only=True):
    """Remove a name. `folder` says which is meant: rmdir or unlink. `ino`, if not 0, is what it must lead to."""

    base: int = ROOT_INO
    names: list[bytes]
    folder: bool = False
    ino: int = 0


class Removed(Message):
    """The folder that has a name less, and what the name has led to. `unnamed`: the file that has no name any more; 0
    where there is none."""

    folder: Attributes
    unnamed: int = 0
    ino: int = 0


class Rename(Change, kw_only=True):
    """Move a name; what stood at the new place is replaced, where POSIX allows it. Flags as in renameat2(2)."""

    base: int = ROOT_INO
    names: list[bytes]
    new_base: int = ROOT_INO
    new_names: list[bytes]
    flags: int = 0


class Renamed(Message):
    """What has moved, and what was replaced or exchanged for it (0: nothing). `unnamed`: the file that was replaced and
    has no name any more; 0 where there is none. `folder` and `new_folder` have the names, `promised` says what both
    names lead to now. `since`: what has moved, and the folders, as they are now."""

    unnamed: int = 0
    ino: int = 0
    other: int = 0
    folder: int = 0
    new_folder: int = 0
    promised: bool = False
    since: list[Attributes] = []


class NewAttributes(Message, kw_only=True):
    """As in SetAttributes."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None

    def given(self) -> dict[str, int]:
        """Those that are to be set."""
        return {field: value for field in self.__struct_fields__ if (value := getattr(self, field)) is not None}


class OwedAttributes(Message, kw_only=True):
    """What a client has set of a file before it tells the directory: each is a pair of what it was before, and is
    since. What somebody else has changed meanwhile stays."""

    mode: tuple[int, int] | None = None
    uid: tuple[int, int] | None = None
    gid: tuple[int, int] | None = None
    mtime_ns: tuple[int, int] | None = None
    atime_ns: tuple[int, int] | None = None

    @staticmethod
    def value(known: Owned, field: str) -> int:
        """The mode without its type."""
        return stat.S_IMODE(known.mode) if field == "mode" else getattr(known, field)

    def due(self, known: Owned) -> NewAttributes:
        """What of it is to be set on a file that is as `known`."""
        pairs = {field: pair for field in self.__struct_fields__ if (pair := getattr(self, field)) is not None}
        return NewAttributes(**{field: new for field, (old, new) in pairs.items() if self.value(known, field) == old})


class SetAttributes(Change, kw_only=True):
    """Change what is not None. `mode` carries permission bits alone; a new owner gets no set-id bits but by `mode`.
    `owed`: in place of these."""

    base: int = ROOT_INO
    names: list[bytes] = []
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None
    owed: OwedAttributes | None = None


def moves_atime(known: Times, atime_ns: int) -> bool:
    """As with relatime: once after each change, and once a day. `atime_ns` 0 moves nothing."""
    if not atime_ns:
        return False
    return known.atime_ns <= max(known.mtime_ns, known.ctime_ns) or atime_ns - known.atime_ns >= _ATIME_EVERY_NS


def without_set_ids(mode: int) -> int:
    """A mode after a change of owner or content: set-user-id goes, and set-group-id where the group may execute.

    Without group execution the bit is no right but a mark for mandatory locks, which Linux leaves too."""
    gone = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    return mode & ~gone
