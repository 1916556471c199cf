"""Messages of the lock service."""

from dfsfuse.messages.base import Message
from dfsfuse.messages.ranges import HeldRanges, Kind, RangeRow

START_UNKNOWN = -1


class Acquire(Message, kw_only=True):
    """Take the write lock of an inode, waiting up to `wait_s` in the queue.

    `ticket` numbers the acquires of a session; repeating it within TICKET_RETURN_S returns to the same place, or to
    the grant that was made meanwhile. `waited_s`, of a repetition, is how long the first one was ago: where the service
    does not know the ticket, as it has started again, the place is found by that. `returned` are locks that the session
    gives back with the same request, first. The rest tells other users who holds or waits.
    """

    session: int
    ino: int
    ticket: int
    wait_s: float = 10.0
    waited_s: float = 0.0
    returned: list["HeldLock"] = []
    path: bytes = b""
    host: str = ""
    pid: int = 0
    command: str = ""


class Granted(Message):
    """The lock is held under `token` while the session renews within every `lease_s`. `wanted`: others wait for it
    already, so it is given back as soon as it is not used any more."""

    token: int
    lease_s: float
    wanted: bool = False


class HeldLock(Message):
    """A lock by its token. The rest tells other users who holds it; a renewal may tell it later than the acquire.
    `kept`: no program uses it, and it is given back as soon as another session asks for it. `used_s`: for how long
    programs have used it."""

    ino: int
    token: int
    path: bytes = b""
    pid: int = 0
    command: str = ""
    kept: bool = False
    used_s: float = 0.0


class Reserve(Message, kw_only=True):
    """Take the locks of inodes that only this session knows yet, for files that it is about to make.

    The tickets are `ticket`, `ticket` + 1, ...: one for each inode. Nobody waits for such locks, so nothing is queued.
    """

    session: int
    inos: list[int]
    ticket: int


class Reserved(Message):
    """Their tokens in the same order; 0 where a lock could not be granted at once."""

    tokens: list[int]
    lease_s: float


class ReleaseLocks(Message):
    """Give locks back. A lock that is not held any more is passed over."""

    session: int
    held: list[HeldLock]


class RenewLocks(Message, kw_only=True):
    """All that the session holds and waits for at one moment.

    A grant that is in neither list, though its ticket is not above `last_ticket`, was never received: it is freed.
    After a restart of the service this is how holders re-assert. The same goes for `ranges`, all that programs have
    locked, and `using`, the files on which they may use locks; the tickets are of one row of numbers. `queued` and
    `queued_ranges` are those of `waiting` that wait for their turn: the service grants nothing before they are back.
    `number` rises with each renewal of a session: one that was overtaken by a later one tells nothing any more (0: they
    are taken as they come). `start_number` is that of the answer before: one that was on its way since before a start
    does not say what the session holds by then (START_UNKNOWN: it is taken for new). `watches`: it hears which locks
    others want back (WatchLocks), and may keep locks.
    """

    session: int
    number: int = 0
    start_number: int = START_UNKNOWN
    watches: bool = False
    host: str = ""
    held: list[HeldLock] = []
    waiting: list[int] = []
    last_ticket: int = 0
    ranges: list[HeldRanges] = []
    using: list[int] = []
    queued: list[int] = []
    queued_ranges: list[int] = []


class LostRanges(Message):
    """What this owner had locked of this file, it has no longer."""

    ino: int
    owner: int
    kind: Kind


class Wanted(Message):
    """Another session has waited for this inode for `waited_s`."""

    ino: int
    waited_s: float


class RenewedLocks(Message, kw_only=True):
    """`lost` are those of `held` that this session does not hold; `wanted` those that others wait for. `lost_ranges`
    are those of `ranges` of which it does not hold all."""

    start_number: int
    lost: list[HeldLock] = []
    wanted: list[Wanted] = []
    lost_ranges: list[LostRanges] = []


class WatchLocks(Message, kw_only=True):
    """Wait for locks of this session that another one wants. Each that was named is answered with the next request:
    `returned` are given back, `used` are those that programs use, which are given back when they do not any more. A
    request with answers does not wait."""

    session: int
    returned: list[HeldLock] = []
    used: list[HeldLock] = []


class WantedLocks(Message):
    """Those that are not answered yet; none, where nothing has come for a while."""

    locks: list[HeldLock] = []


class LockWaiter(Message, kw_only=True):
    session: int
    path: bytes
    host: str
    pid: int
    command: str
    waited_s: float


class LockRow(Message, kw_only=True):
    """A lock, who holds it since when, and who waits, first place first. Token 0: nobody holds it yet. `kept`: it was
    used by that program, and is by none now."""

    ino: int
    token: int = 0
    session: int = 0
    path: bytes = b""
    host: str = ""
    pid: int = 0
    command: str = ""
    held_s: float = 0.0
    kept: bool = False
    waiters: list[LockWaiter] = []


class LockList(Message):
    """The write locks, and what programs have locked."""

    locks: list[LockRow]
    ranges: list[RangeRow] = []
