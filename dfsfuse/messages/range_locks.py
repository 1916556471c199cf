"""Messages of the lock service about byte ranges that programs lock."""

from dfsfuse.messages.base import Message
from dfsfuse.messages.locks import HeldLock
from dfsfuse.messages.ranges import RANGE_END, Kind


class LockRange(Message, kw_only=True):
    """Lock [start, end) of a file for `owner`, in place of what it has locked there, waiting up to `wait_s`.

    `owner` is the session's number for who holds the lock: a process or an open file description. `ticket` numbers the
    requests of a session; repeating it is answered and never executed again, or returns to the same place in the queue,
    with `waited_s` as in Acquire.
    `fair`: with `wait_s` 0, not to be granted before those who wait. `returned` are write locks given back first. The
    rest tells other users who holds or waits.
    """

    session: int
    ino: int
    owner: int
    ticket: int
    kind: Kind = "posix"
    start: int = 0
    end: int = RANGE_END
    write: bool = True
    wait_s: float = 0.0
    waited_s: float = 0.0
    fair: bool = False
    returned: list[HeldLock] = []
    path: bytes = b""
    host: str = ""
    pid: int = 0
    command: str = ""


class RangeGranted(Message):
    """Locked while the session renews within every `lease_s`. `elsewhere`: other sessions use locks on the file too.

    `writer` is the latest token of the file's write lock, where nobody has it now: nothing newer can have been written
    before this grant. 0: that is not known.
    """

    lease_s: float
    elsewhere: bool = False
    writer: int = 0


class UnlockRange(Message, kw_only=True):
    """Unlock [start, end) of a file for `owner`; what is not locked is passed over. `ticket` and `returned` as in
    LockRange."""

    session: int
    ino: int
    owner: int
    ticket: int
    kind: Kind = "posix"
    start: int = 0
    end: int = RANGE_END
    returned: list[HeldLock] = []


class ProbeRange(Message, kw_only=True):
    """Could `owner` lock this at once?"""

    session: int
    ino: int
    owner: int
    kind: Kind = "posix"
    start: int = 0
    end: int = RANGE_END
    write: bool = True


class RangeConflict(Message, kw_only=True):
    """A lock that is in the way, or (`taken` false) none."""

    taken: bool = False
    session: int = 0
    kind: Kind = "posix"
    start: int = 0
    end: int = 0
    write: bool = False
    host: str = ""
    pid: int = 0


class UseFile(Message, kw_only=True):
    """The programs of this session may use locks on a file from now on, until a renewal does not list it."""

    session: int
    ino: int
    ticket: int


class FileUsers(Message):
    """`elsewhere`: other sessions use locks on the file too."""

    elsewhere: bool
