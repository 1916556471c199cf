"""Messages by which file servers and the directory keep every chunk on every server of its group, and no other."""

from dfsfuse.messages.base import Message


class Repair(Message, kw_only=True):
    """What should file server `server` have that it is not known to have? It has started with receipt `first_number`.

    It looks for each chunk that it is told, fetches it from another server where it is not here, and asks for the next
    ones. `have`: those of the reply before that it has, verified, and on its disk; `lacks`: those that are not here and
    that no other server could give. `after` is that of the reply before; b"" begins a pass.
    """

    server: str
    first_number: int
    have: list[bytes] = []
    lacks: list[bytes] = []
    after: bytes = b""
    limit: int = 500


class RepairWork(Message, kw_only=True):
    """Chunks to look for; none of them does not mean that the pass has ended. `complete` does: the server counts as
    serving. `left`: chunks that it still lacks, as far as known."""

    chunks: list[bytes] = []
    after: bytes = b""
    left: int = 0
    complete: bool = False


class Collect(Message, kw_only=True):
    """Which chunks does nobody need? From now on no commit rests on a receipt of this server below `next_number`.

    `after`: the `last` of the reply before, once all of it was deleted or is remembered, to be asked about as `names`;
    so are chunks of its inventory. 0 tells nothing: the directory knows the place.
    """

    server: str
    next_number: int
    names: list[bytes] = []
    after: int = 0
    limit: int = 500


class Garbage(Message, kw_only=True):
    """Chunks without a reference. The server deletes those for which it has given no receipt from `next_number` on.
    `more`: there are others behind `last`."""

    chunks: list[bytes] = []
    last: int = 0
    more: bool = False


class Audit(Message):
    """Chunks that are referenced, and sort after `after`."""

    after: bytes = b""
    limit: int = 1000


class Audited(Message):
    """In order of names. Not `more`: these are the last ones."""

    chunks: list[bytes]
    more: bool = False


class ServerCondition(Message, kw_only=True):
    """What is to be done at one file server: how many chunks it lacks, and has that nobody needs any more; how much of
    all chunks it has gone through, from 0 to 1, where its disk is new; and about how long it takes until it lacks
    nothing, at the pace of now (-1: that cannot be told)."""

    name: str
    short: int = 0
    garbage: int = 0
    caught_up: float = 1.0
    left_s: float = -1.0


class LostFile(Message, kw_only=True):
    """A file whose newest content no server has any more. `version` is the one that was lost; `reverted`: the content
    before it, which was on disks, is the newest again, as a version of its own. `gaps`: it is a copy that could not be
    made whole, and has zeros in these ranges [start, end)."""

    ino: int
    path: bytes
    version: int
    lost_ns: int
    reverted: bool
    gaps: list[tuple[int, int]] = []
