"""Checking a whole volume: what is wrong in its metadata, how it is mended, and which chunks a file server has."""

from dfsfuse.messages.base import Message


class Problem(Message, kw_only=True):
    """Something that must not be. `kind` names it, `path` leads to what has it (b"": no path does), `what` tells it,
    and `mend` what repairing does ("": nothing can). The rest says where it is, to who repairs it."""

    kind: str
    ino: int = 0
    path: bytes = b""
    what: str = ""
    mend: str = ""
    other: int = 0
    name: bytes = b""
    amounts: list[int] = []
    server: str = ""


class Check(Message, kw_only=True):
    """Pages 0, 1, ... of a check of all metadata as it is when page 0 is asked for. `key` is random and names it."""

    key: bytes
    page: int = 0


class Checked(Message, kw_only=True):
    """What this page has found wrong, and how many rows it has looked at. Not `more`: this was the last one."""

    problems: list[Problem] = []
    looked: int = 0
    more: bool = False


class Mend(Message):
    """Repair these, as far as they are still there."""

    problems: list[Problem]


class Mended(Message):
    """Of each, whether something was changed: false where it has gone meanwhile, or cannot be mended."""

    changed: list[bool]


class Trace(Message):
    """Who needs these chunks?"""

    chunks: list[bytes]


class ChunkTrace(Message, kw_only=True):
    """`needed`: somebody does. `short`: servers that are known to lack it. `inos` and `paths`: some of the files."""

    chunk: bytes
    needed: bool = False
    short: list[str] = []
    inos: list[int] = []
    paths: list[bytes] = []


class Traced(Message):
    chunks: list[ChunkTrace]


class Inventory(Message):
    """Chunks that this file server has, and that sort after `after`."""

    after: bytes = b""
    limit: int = 1000


class Inventoried(Message):
    """In order of names; without some that came within the last second. Not `more`: these are the last ones."""

    chunks: list[bytes]
    more: bool = False


class Verify(Message, kw_only=True):
    """Which of these chunks does this file server have? With `read` each is read, and hashed."""

    chunks: list[bytes]
    read: bool = False


class Verified(Message):
    """Those that are here, and are what their names say; and those that are not. The rest was not looked at: no more is
    read for one request than takes about a second."""

    sound: list[bytes]
    lacking: list[bytes]
