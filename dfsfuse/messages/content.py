"""Messages about the content of files: manifests, opening, committing, and where the copies are."""

from dfsfuse.chunks import Entry, chunk_name
from dfsfuse.messages.base import COMMIT_ID_BYTES, ROOT_INO, Change, Message
from dfsfuse.messages.tree import Attributes, OwedAttributes


class Manifest(Message):
    """A file's content: up to INLINE_ENTRIES entries, or beyond that the ids of segments of SEGMENT_ENTRIES entries.

    A segment id of b"" is a segment of holes. Missing entries at the end are holes.
    """

    entries: list[Entry] = []
    segments: list[bytes] = []


class Segment(Message):
    """The `part`-th SEGMENT_ENTRIES entries of a large manifest; immutable, written before the commit that refers to
    it. One with many pieces is put in several requests: `entries` are those from the `first` on, in order."""

    id: bytes
    part: int
    entries: list[Entry]
    first: int = 0


class Receipt(Message):
    """A file server's word that it has a chunk. Numbers of one server rise, also across its restarts."""

    server: str
    number: int


class ChunkReceipts(Message):
    """All receipts for one chunk."""

    chunk: bytes
    receipts: list[Receipt]


class Open(Message, kw_only=True):
    """Open what is at a place; repeating it does no harm. `have_*` is the content that the client holds in its cache.

    With `token` the file is opened for writing: its fence is raised, and `ino` must be what the lock was taken for.
    `opening` numbers the opens of a session; an open row lasts until Closed with that number or a later one.
    `atime_ns`, if not 0, is when the file is read: it becomes its atime where relatime has it so. `locking` notes for
    ever that programs use locks on the file.
    """

    session: int
    opening: int = 0
    base: int = ROOT_INO
    names: list[bytes] = []
    ino: int = 0
    token: int = 0
    have_version: int = 0
    have_commit_id: bytes = b""
    atime_ns: int = 0
    locking: bool = False


class Opened(Message, kw_only=True):
    """The newest content. `manifest` is None where the client has it already. `capability` is reserved. `locking`:
    programs have used locks on the file, so who opens it probably will."""

    attributes: Attributes
    manifest: Manifest | None = None
    capability: str = ""
    locking: bool = False


class PutSegments(Message, kw_only=True):
    """Store segments for a commit that will be based on (`base_version`, `base_commit_id`) of `ino`: PUT_PIECES_MAX
    pieces at most.

    `receipts` covers each chunk of the segments that the base does not have. Repeating it does no harm.
    """

    session: int
    ino: int
    base_version: int
    base_commit_id: bytes
    segments: list[Segment]
    receipts: list[ChunkReceipts] = []


class GetSegments(Message):
    ids: list[bytes]


class Segments(Message):
    """The first of those that were asked for: at least one, and not more than are little work together."""

    segments: list[Segment]


class Commit(Change, kw_only=True):
    """Make `manifest` the next version of a file; refused unless its content is (`base_version`, `base_commit_id`).

    `receipts` covers each chunk of `manifest.entries` that the base manifest does not have; those of segments came with
    PutSegments. `durable`: answer when it is on disk.
    `mtime_ns` is None where the content's times were set after the last write. `ctime_ns`: when it was last changed;
    ctime never moves back; 0: now. `clears_set_ids`: a program without the
    right to keep set-id bits has written since the mode was set. `clears_capability`: something was written since
    security.capability was set. `gaps`: ranges [start, end) that are zeros as no file server has what was there.
    `attributes`: what was set meanwhile of a file whose first content this is.
    """

    ino: int
    token: int
    base_version: int
    base_commit_id: bytes
    commit_id: bytes
    size: int
    mtime_ns: int | None
    ctime_ns: int = 0
    manifest: Manifest
    receipts: list[ChunkReceipts] = []
    durable: bool = False
    opening: int = 0
    clears_set_ids: bool = False
    clears_capability: bool = False
    gaps: list[tuple[int, int]] = []
    attributes: OwedAttributes | None = None


def id_after_loss(commit_id: bytes) -> bytes:
    """The commit id with which a file goes back to a content before this commit's, whose chunks all servers have
    lost."""
    return chunk_name(commit_id + b" is lost")[:COMMIT_ID_BYTES]


class Whereabouts(Message, kw_only=True):
    """One copy of a file. `whole`: the server has every chunk, as far as the directory knows."""

    server: str
    url: str
    role: str
    whole: bool
    missing_chunks: int = 0


class WhereReply(Message, kw_only=True):
    """`paths`: one for each name of the file, 1,000 at most; `path` is the first, b"" where it has none any more."""

    path: bytes
    attributes: Attributes
    chunks: int
    copies: list[Whereabouts]
    paths: list[bytes] = []


class ListMappings(Message):
    """`Where` for all files, in order of inode numbers after `after_ino`."""

    after_ino: int = 0
    limit: int = 200


class Mappings(Message):
    rows: list[WhereReply]
    more: bool = False


class Durable(Message, kw_only=True):
    """Is this content on disks? It is that of a file, or the file has had it before it got what it has now; what it has
    now is on the disks of copies_min of the servers that have `synced` just now. Answered when the directory's disk has
    all of that too."""

    ino: int
    version: int
    commit_id: bytes
    synced: list[str] = []


class PathOf(Message):
    """A path that leads to an inode (one of them, where it has several)."""

    ino: int


class PathReply(Message):
    """`parent_ino` is the folder of the last name; 0 for the root and for an inode without a name."""

    path: bytes
    parent_ino: int = 0
