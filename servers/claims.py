"""What the lock service's core is made of: sessions, their claims, and what callers are told. Pure.

A claim is one acquire: a session's ticket for an inode. It lives as follows; any other step raises Internal.

    acquire, not free ----> WAITING --- its turn ---> HELD --- release, end, lapse, unlisted ---> OVER
                             |   ^                      ^
            connection closed|   |same ticket again     +-- acquire, free; re-asserted after a restart
                             v   |
                            AWAY ---- TICKET_RETURN_S, deadline, end, lapse, given up ----> OVER (so does WAITING)

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

import enum
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple, TypeVar

from dfsfuse import errors
from dfsfuse.messages import Acquire, Granted, HeldLock, LockRow, LockWaiter, RenewLocks, bytes_as_text

LOCK_LEASE_S = 8.0
TICKET_RETURN_S = 2.0
WAIT_S_MAX = 86_400.0
REMEMBERED_MAX = 10_000
"""Ended sessions, so that a late duplicate of a request does not bring one back; and latest tokens of inodes."""
CLAIMS_MAX = 100_000
"""Locks and waiters of one session: what a renewal can list within one body."""
PATH_BYTES_MAX = 4096
TEXT_MAX = 255
NUMBER_MAX = (1 << 63) - 1

Value = TypeVar("Value")


class Phase(enum.Enum):
    """STARTING: no start number yet. RETURNING: waits for the sessions of before. GRANTING: normal operation."""

    STARTING = "starting"
    RETURNING = "returning"
    GRANTING = "granting"


class State(enum.Enum):
    WAITING = "waiting"
    AWAY = "away"
    HELD = "held"
    OVER = "over"


_ALLOWED = {
    State.WAITING: (State.HELD, State.AWAY, State.OVER),
    State.AWAY: (State.WAITING, State.OVER),
    State.HELD: (State.OVER,),
    State.OVER: (),
}


class Grant(NamedTuple):
    """Tell the callers that wait with this ticket: the lock is theirs."""

    session: int
    ticket: int
    granted: Granted


class Refusal(NamedTuple):
    """Tell the callers that wait with this ticket: they need not wait any longer."""

    session: int
    ticket: int
    error: errors.DfsError


Event = Grant | Refusal


class Session:
    """A client that renews. `returned`: it has renewed since this service started; `renewal`: the number of its latest
    renewal.

    `settled`: each ticket up to it is over unless it is in `expected` or `claims`; the last renewal has said so.
    """

    __slots__ = ("number", "lapses_at", "claims", "held", "returned", "renewal", "settled", "expected")

    def __init__(self, number: int):
        self.number = number
        self.lapses_at = math.inf
        self.claims: dict[int, Claim] = {}
        self.held: dict[int, Claim] = {}
        self.returned, self.renewal = False, 0
        self.settled = 0
        self.expected: frozenset[int] = frozenset()

    def check_latest(self, request: RenewLocks) -> None:
        """OutOfSequence for a renewal that a later one has overtaken: it does not list what has been granted since."""
        if 0 < request.number < self.renewal:
            raise errors.OutOfSequence(
                f"renewal {request.number} of session {self.number} was overtaken by a later one"
            )
        self.renewal = max(self.renewal, request.number)

    def check_may_claim(self, ticket: int) -> None:
        """Raises OutOfSequence for a ticket that was given up, Busy beyond CLAIMS_MAX."""
        if ticket <= self.settled and ticket not in self.expected:
            raise errors.OutOfSequence(f"ticket {ticket} was given up already; nothing was executed")
        if len(self.claims) + len(self.held) >= CLAIMS_MAX:
            raise errors.Busy(f"session {self.number} has {CLAIMS_MAX} locks already")


class Claim:
    """`since` is when it came to its place in the queue, and once HELD when it was granted.

    A re-asserted lock has ticket 0 and is held since then. A `reserved` one, and one that was re-asserted without
    saying for which program, is not shown. `kept`: no program used it when the session renewed last. `used`: it goes
    back when no program uses it any more, as another session wants it. Names are shown to people and decide nothing, so
    longer ones are cut.
    """

    __slots__ = (
        "session",
        "ticket",
        "ino",
        "path",
        "host",
        "pid",
        "command",
        "wait_s",
        "since",
        "returns_by",
        "state",
        "token",
        "connections",
        "reserved",
        "kept",
        "used",
    )

    def __init__(self, session: Session, request: Acquire, now: float):
        self.session, self.ticket, self.ino = session, request.ticket, request.ino
        self.path, self.host = request.path[:PATH_BYTES_MAX], request.host[:TEXT_MAX]
        self.pid, self.command = request.pid, request.command[:TEXT_MAX]
        self.wait_s, self.since = request.wait_s, now - request.waited_s
        self.returns_by = math.inf
        self.state, self.token, self.connections = State.WAITING, 0, 1
        self.reserved, self.kept, self.used = request.ticket == 0, False, False

    def told(self, pair: HeldLock, host: str, now: float) -> None:
        """What a renewal tells of it: whether it is used, and by whom where that is said. A reserved lock, and one that
        was kept, counts from when programs have begun to use it."""
        self.since = now - pair.used_s if self.kept and not pair.kept else self.since
        self.kept = pair.kept
        if not pair.path:
            return
        self.since = now - pair.used_s if self.reserved else self.since
        self.path, self.host = pair.path[:PATH_BYTES_MAX], host[:TEXT_MAX]
        self.pid, self.command = max(0, pair.pid), pair.command[:TEXT_MAX]
        self.reserved = False

    def move(self, state: State) -> None:
        """The only way to another state."""
        if state not in _ALLOWED[self.state]:
            raise errors.Internal(f"a claim that is {self.state.value} cannot become {state.value}")
        self.state = state

    def granted(self, lease_s: float) -> Granted:
        return Granted(self.token, lease_s, self.used)

    @property
    def queued(self) -> bool:
        return self.state is State.WAITING or self.state is State.AWAY

    def why_taken(self, now: float) -> str:
        """For those whom this holder keeps waiting."""
        what = bytes_as_text(self.path) if self.path else f"inode {self.ino}"
        who = f"{self.command or 'session ' + str(self.session.number)} (pid {self.pid or 'unknown'})"
        where = self.host or "an unknown host"
        if self.kept:
            return f"{what} was written by {who} on {where}, whose client does not give the write lock back"
        return f"{what} is open for writing by {who} on {where} for {now - self.since:.1f} s"


def remember(table: OrderedDict[int, Value], number: int, value: Value) -> None:
    """The latest REMEMBERED_MAX stay."""
    table[number] = value
    table.move_to_end(number)
    if len(table) > REMEMBERED_MAX:
        table.popitem(last=False)


def lock_rows(
    inos: list[int],
    holders: Mapping[int, Claim],
    queues: Mapping[int, Iterable[Claim]],
    waiters_max: int,
    now: float,
) -> list[LockRow]:
    """For each inode; at most so many waiters in all."""
    rows: list[LockRow] = []
    for ino in inos:
        rows.append(lock_row(ino, holders.get(ino), queues.get(ino, ()), waiters_max, now))
        waiters_max -= len(rows[-1].waiters)
    return rows


def lock_row(ino: int, holder: Claim | None, queue: Iterable[Claim], waiters_max: int, now: float) -> LockRow:
    """A lock as people see it. Without a holder it is shown by what the first waiter calls it."""
    shown = holder or next(iter(queue))
    row = LockRow(ino=ino, path=shown.path, waiters=[_waiter(claim, now) for claim in islice(queue, waiters_max)])
    if holder is not None:
        row.token, row.session, row.held_s = holder.token, holder.session.number, now - holder.since
        row.host, row.pid, row.command, row.kept = holder.host, holder.pid, holder.command, holder.kept
    return row


def _waiter(claim: Claim, now: float) -> LockWaiter:
    return LockWaiter(
        session=claim.session.number,
        path=claim.path,
        host=claim.host,
        pid=claim.pid,
        command=claim.command,
        waited_s=now - claim.since,
    )


# -- what requests may carry


def check_acquire(request: Acquire) -> None:
    check_numbers(session=request.session, inode=request.ino, ticket=request.ticket)
    if not 0 <= request.wait_s <= WAIT_S_MAX:
        raise errors.InvalidArgument(f"wait_s {request.wait_s}: from 0 to {WAIT_S_MAX:g} seconds")
    check_waited(request.waited_s)
    if not 0 <= request.pid <= NUMBER_MAX:
        raise errors.InvalidArgument(f"pid {request.pid}: from 0 to {NUMBER_MAX}")


def check_waited(waited_s: float) -> None:
    if not 0 <= waited_s <= WAIT_S_MAX:
        raise errors.InvalidArgument(f"waited_s {waited_s}: from 0 to {WAIT_S_MAX:g} seconds")


def check_renewal(request: RenewLocks) -> None:
    check_numbers(session=request.session)
    for pair in request.held:
        # There may be thousands, each second.
        if not (0 < pair.ino <= NUMBER_MAX and 0 < pair.token <= NUMBER_MAX):
            check_numbers(inode=pair.ino, token=pair.token)
        if not 0.0 <= pair.used_s < math.inf:
            raise errors.InvalidArgument(f"used_s {pair.used_s}: from 0 seconds")
    if max(len(request.queued), len(request.queued_ranges), len(request.held) + len(request.waiting)) > CLAIMS_MAX:
        raise errors.InvalidArgument(f"a renewal of more than {CLAIMS_MAX} locks and waiters")


def check_numbers(**numbers: int) -> None:
    """Raises InvalidArgument naming what is not within 1 and NUMBER_MAX: it could not be written as msgpack again."""
    for name, number in numbers.items():
        if not 0 < number <= NUMBER_MAX:
            raise errors.InvalidArgument(f"{name} {number}: from 1 to {NUMBER_MAX}")
