"""Messages about servers and sessions, and those of the file servers."""

from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.messages.base import Message
from dfsfuse.messages.content import ChunkReceipts, Receipt
from dfsfuse.messages.upkeep import LostFile, ServerCondition


class Server(Message, kw_only=True):
    """A server as the directory knows it. `up`: it has sent a heartbeat lately. `syncing`, which the directory says: it
    may lack chunks, so it takes copies and is neither read from nor the primary, unless no other is there.

    A file server tells of its disk `store`, a random id made with its home, and of its receipts the first number of
    this start, the next one, and the one up to which everything is on its disk.
    """

    kind: str
    name: str
    url: str
    up: bool = True
    chunks: int = 0
    stored_bytes: int = 0
    free_bytes: int = 0
    total_bytes: int = 0
    pid: int = 0
    syncing: bool = False
    store: str = ""
    first_number: int = 0
    next_number: int = 0
    synced_number: int = 0
    broken_chunks: int = 0
    repaired_chunks: int = 0
    scrubbed_ago_s: float = -1.0

    @property
    def is_full(self) -> bool:
        """Has a file server no room for the largest chunk?"""
        return self.free_bytes < ENTRY_BYTES


class Cluster(Message, kw_only=True):
    """The servers of a volume. `files` is the placement group in order: the first is the primary."""

    volume: str
    copies: int
    copies_min: int
    files: list[Server] = []
    locks: Server | None = None


class Register(Message, kw_only=True):
    """A server tells that it is there; repeated as its heartbeat. `start`: it has just started (a lock service's
    first call; it is answered with a new start number)."""

    server: Server
    start: bool = False


class Registered(Message, kw_only=True):
    """`start_number` is larger at each start; `sessions` are those a lock service must wait for after a start.
    `repair`: there are chunks that this file server should look for; `collect`: there are some that it may delete;
    `numbers_from`: where not 0, its receipts count from this number on, as its disk is new: that of the disk before had
    given those below."""

    cluster: Cluster
    start_number: int = 0
    sessions: list[int] = []
    repair: bool = False
    collect: bool = False
    numbers_from: int = 0


class SessionRow(Message, kw_only=True):
    """One mounted client. `unsent_files` are those whose upload has failed so far. `gone`: silent for so long that it
    counts as ended, but of `kept_files` files that it had open for writing the versions that they had are kept for its
    next mount, for `kept_s` more seconds."""

    session: int
    host: str
    pid: int
    mountpoint: str
    user: str = ""
    live: bool = True
    unsent_files: int = 0
    gone: bool = False
    kept_files: int = 0
    kept_s: float = 0.0


class StatusReply(Message, kw_only=True):
    """What the directory knows of the cluster."""

    cluster: Cluster
    directory: Server
    sessions: list[SessionRow] = []
    inodes: int = 0
    used_bytes: int = 0
    short_chunks: int = 0
    conditions: list[ServerCondition] = []
    lost_files: list[LostFile] = []


class Begin(Message, kw_only=True):
    """A client begins a session. `key` is random: a repeated request finds the session it has made. `watches`: it will
    use what it is promised, so after a start of the directory changes wait for it."""

    key: bytes
    watches: bool = False
    host: str = ""
    pid: int = 0
    mountpoint: str = ""
    user: str = ""


class InodeRange(Message):
    """Inode numbers [first, first + count) that only this session gives out."""

    first: int
    count: int


class Serving(Message):
    """Which of several servers serves: its URL; empty where nobody does just now."""

    url: str


class Begun(Message, kw_only=True):
    """`lease_s` is the promise lease."""

    session: int
    lease_s: float
    cluster: Cluster
    inodes: InodeRange


class Closed(Message):
    """The last local handle on this version of an inode is closed; `opening` is the number of its latest open. `kept`:
    the row stays, for who opens the file to read it, as the version is promised to be the newest."""

    ino: int
    version: int
    opening: int
    kept: bool = False


class ReadAt(Message):
    """A file was read at `atime_ns`, when its ctime was `ctime_ns`: that becomes its atime where relatime has it so,
    unless the file has changed since."""

    ino: int
    atime_ns: int
    ctime_ns: int


class Renew(Message, kw_only=True):
    """The session is alive. `read`: what its programs have read without asking."""

    session: int
    closed: list[Closed] = []
    read: list[ReadAt] = []
    unsent_files: int = 0


class Renewed(Message, kw_only=True):
    """`revived`: the lease had ended meanwhile. `rows_kept`: the directory could not write, so what was closed is to be
    told again. Space is of the volume, all copies of a byte counted as one, and within its quota."""

    cluster: Cluster
    revived: bool = False
    rows_kept: bool = False
    total_bytes: int = 0
    free_bytes: int = 0
    inodes: int = 0
    inodes_free: int = 0


class Quota(Message, kw_only=True):
    """Limit what the volume may hold; None leaves a limit as it is, 0 is no limit."""

    bytes_max: int | None = None
    inodes_max: int | None = None


class QuotaReply(Message, kw_only=True):
    """The limits (0: none), and what is used: bytes that files have stored, holes not counted."""

    bytes_max: int
    inodes_max: int
    used_bytes: int
    used_inodes: int


class End(Message):
    """The session ends; its open rows go. With `keeps` those for writing stay until another session takes them over:
    not all that was written is sent."""

    session: int
    keeps: bool = False


class Base(Message):
    """A version of an inode, on which content that is not sent is based."""

    ino: int
    version: int


class TakeOver(Message, kw_only=True):
    """The session takes over the open rows for writing that `formers`, earlier sessions of the same client's cache,
    have of the inodes of these bases; they end with that. Where a base is the newest version, it gets a row in any
    case. `opening` is the number that the rows have from now on."""

    session: int
    formers: list[int]
    bases: list[Base]
    opening: int


class TakenOver(Message):
    """The open rows that the session has of these inodes now."""

    rows: list[Closed]


class AllocateInodes(Message):
    """Another range of inode numbers for this session."""

    session: int
    count: int = 1024


class Stored(Message):
    """Receipts of all servers that have the chunk now."""

    receipts: list[Receipt]


class Confirm(Message):
    """Which of these chunks does this server have?"""

    chunks: list[bytes]


class Confirmed(Message):
    """Receipts for those it has. It has not looked for what is `left`, as it reads for about a second: ask again."""

    receipts: list[ChunkReceipts]
    left: list[bytes] = []


class Sync(Message):
    """Bring everything stored so far to the disk; the primary asks its replicas too unless `alone`."""

    alone: bool = False


class Synced(Message):
    """Servers whose disk has everything they had received when asked."""

    servers: list[str]


class FilesStatus(Message, kw_only=True):
    name: str
    chunks: int
    stored_bytes: int
    free_bytes: int
    total_bytes: int
    served_chunks: int
    received_chunks: int
    pid: int
