"""What the core of the range locks is made of: sessions, what their programs hold and wait for, events. Pure.

A waiter is one request that could not be granted at once; it is in the queue of its file until it is over.

    lock_range, not free ---> listening --- its turn ---> granted: what the owner has of the file is changed
                               |    ^
              connection closed|    |same ticket again
                               v    |
                              away ---- TICKET_RETURN_S, end, lapse, given up ----> over (so does listening)

Threads: none; all state belongs to the one thread (event loop) that calls.
"""

import math
from collections import Counter
from typing import NamedTuple

from dfsfuse import errors
from dfsfuse.messages import (
    RANGE_END,
    HeldRanges,
    Kind,
    LockRange,
    ProbeRange,
    Range,
    RangeConflict,
    RangeGranted,
    RangeHolder,
    RangeRow,
    RangeWaiter,
    RenewLocks,
    UnlockRange,
    bytes_as_text,
    conflict,
)
from servers.claims import NUMBER_MAX, PATH_BYTES_MAX, TEXT_MAX, WAIT_S_MAX, check_numbers, check_waited

OWNER_MAX = (1 << 64) - 1
RANGES_MAX = 10_000
"""Ranges of one session: all of them are listed in each renewal."""
FILE_RANGES_MAX = 10_000
FILE_WAITERS_MAX = 1_000

Place = tuple[int, bool]
"""An inode, and whether it is about flocks: they and fcntl locks know nothing of each other."""
Key = tuple[int, bool, int]
"""What a session's owner has of a file: (inode, flock, owner)."""

OwnerId = tuple[int, int]
"""(session, its number for the owner)."""
Process = tuple[str, int]
"""Within its session."""


class RangeEvent(NamedTuple):
    """Tell the callers that wait with this ticket what became of it."""

    session: int
    ticket: int
    outcome: RangeGranted | errors.DfsError


class RangeSession:
    """A client that renews. `touched`: which ticket has last changed what an owner has; `answered`: tickets that were
    executed; `using`: which ticket has said that the file is used. All three up to what a renewal has settled: a
    ticket up to `settled` is over unless it is in `expected`. `busy`: how many holdings each process has."""

    def __init__(self, number: int):
        self.number, self.lapses_at, self.returned = number, math.inf, False
        self.holdings: dict[Key, Holding] = {}
        self.waiters: dict[int, Waiter] = {}
        self.touched: dict[Key, int] = {}
        self.answered: dict[int, RangeGranted | None] = {}
        self.using: dict[int, int] = {}
        self.busy: Counter[Process] = Counter()
        self.ranges = 0
        self.settled, self.expected = 0, frozenset[int]()

    def is_settled(self, ticket: int) -> bool:
        return ticket <= self.settled and ticket not in self.expected

    def check_ticket(self, ticket: int) -> None:
        if self.is_settled(ticket):
            raise errors.OutOfSequence(f"ticket {ticket} was given up already; nothing was executed")

    def settle(self, request: RenewLocks) -> None:
        """What the client did not know when it sent this stays remembered."""
        if request.last_ticket >= self.settled:
            self.settled, self.expected = request.last_ticket, frozenset(request.waiting)
        self.touched = {key: ticket for key, ticket in self.touched.items() if not self.is_settled(ticket)}
        self.answered = {ticket: reply for ticket, reply in self.answered.items() if not self.is_settled(ticket)}


class Who:
    """An owner for people. Names decide nothing, so longer ones are cut."""

    def __init__(self, path: bytes, host: str, pid: int, command: str):
        self.path, self.host = path[:PATH_BYTES_MAX], host[:TEXT_MAX]
        self.pid, self.command = max(0, pid), command[:TEXT_MAX]

    def process(self, owner: int) -> Process:
        """What waits, or not, as one, within its session: a process may have several owners."""
        return ("pid", self.pid) if self.pid else ("owner", owner)


class Holding:
    """What one owner has locked of one file, since when. `process` is who took the first of it."""

    def __init__(self, session: RangeSession, key: Key, kind: Kind, who: Who, since: float):
        self.session, self.key, self.kind, self.who, self.since = session, key, kind, who, since
        self.owner, self.process = (session.number, key[2]), who.process(key[2])
        self.ranges: list[Range] = []

    def row(self, now: float) -> RangeHolder:
        who = self.who
        return RangeHolder(
            session=self.session.number, kind=self.kind, ranges=self.ranges, host=who.host, pid=who.pid,
            command=who.command, held_s=now - self.since,
        )  # fmt: skip


class Waiter:
    """A request in the queue of its file. `connections` 0: it is away."""

    def __init__(self, session: RangeSession, request: LockRange, now: float):
        self.session, self.request, self.since = session, request, now - request.waited_s
        self.who = Who(request.path, request.host, request.pid, request.command)
        self.place, self.key = place_of(request), key_of(request)
        self.owner, self.process = (session.number, request.owner), self.who.process(request.owner)
        self.connections, self.returns_by, self.ends_at = 1, math.inf, math.inf

    def excludes(self, other: LockRange) -> bool:
        """Whether both requests could not be granted."""
        mine = self.request
        return (mine.write or other.write) and mine.start < other.end and other.start < mine.end

    def row(self, now: float) -> RangeWaiter:
        request, who = self.request, self.who
        return RangeWaiter(
            session=self.session.number, kind=request.kind, range=(request.start, request.end, request.write),
            host=who.host, pid=who.pid, command=who.command, waited_s=now - self.since,
        )  # fmt: skip


class LockedFile:
    """Who has locked ranges of a file, or has a flock on it, and who waits, in the order of arrival."""

    def __init__(self) -> None:
        self.holdings: dict[OwnerId, Holding] = {}
        self.queue: dict[Waiter, None] = {}
        self.ranges = 0

    def in_the_way(self, request: LockRange | ProbeRange, owner: OwnerId) -> list[Holding]:
        """Those whose locks do not allow this one to `owner`."""
        start, end, write = request.start, request.end, request.write
        others = (holding for number, holding in self.holdings.items() if number != owner)
        return [holding for holding in others if conflict(holding.ranges, start, end, write)]

    def probe(self, request: ProbeRange) -> RangeConflict:
        """The first by its place in the file of those that are in the way."""
        holdings = self.in_the_way(request, (request.session, request.owner))
        found = [(conflict(h.ranges, request.start, request.end, request.write), h) for h in holdings]
        if not found:
            return RangeConflict()
        (start, end, write), holding = min(found, key=lambda one: one[0])
        return RangeConflict(
            taken=True, session=holding.session.number, kind=holding.kind, start=start, end=end, write=write,
            host=holding.who.host, pid=holding.who.pid,
        )  # fmt: skip

    def store(self, holding: Holding, ranges: list[Range]) -> None:
        """What a holding has from now on; with nothing, it goes."""
        session = holding.session
        if holding.key not in session.holdings:
            session.holdings[holding.key] = self.holdings[holding.owner] = holding
            session.busy[holding.process] += 1
        more = len(ranges) - len(holding.ranges)
        session.ranges, self.ranges, holding.ranges = session.ranges + more, self.ranges + more, ranges
        if not ranges:
            del session.holdings[holding.key], self.holdings[holding.owner]
            session.busy[holding.process] -= 1
            if not session.busy[holding.process]:
                del session.busy[holding.process]

    def check_room(self, holding: Holding, more: int) -> None:
        """Raises NoLocks where a holding may not have so many ranges more."""
        session = holding.session
        if more > 0 and session.ranges + more > RANGES_MAX:
            raise errors.NoLocks(f"session {session.number} has locked {RANGES_MAX} ranges already")
        if more > 0 and self.ranges + more > FILE_RANGES_MAX:
            raise errors.NoLocks(f"inode {holding.key[0]} has {FILE_RANGES_MAX} locked ranges already")

    def is_blocked(self, waiter: Waiter, ahead: list[Waiter]) -> bool:
        """Whether somebody's lock is in the way, or it has to stay behind those who wait already."""
        request = waiter.request
        if self.in_the_way(request, waiter.owner):
            return True
        if not (request.wait_s or request.fair) or waiter.session.busy[waiter.process]:
            return False
        return any(other.connections and other.owner != waiter.owner and other.excludes(request) for other in ahead)

    def row(self, ino: int, rows_max: int, now: float) -> RangeRow:
        holders, waiters = [*self.holdings.values()], [*self.queue]
        path = next((one.who.path for one in (*holders, *waiters) if one.who.path), b"")
        return RangeRow(
            ino=ino, path=path, holders=[holding.row(now) for holding in holders[:rows_max]],
            waiters=[waiter.row(now) for waiter in waiters[:rows_max]],
        )  # fmt: skip


def place_of(request: LockRange | UnlockRange | ProbeRange | HeldRanges) -> Place:
    return request.ino, request.kind == "flock"


def key_of(request: LockRange | UnlockRange | ProbeRange | HeldRanges) -> Key:
    return request.ino, request.kind == "flock", request.owner


def why_taken(holding: Holding, request: LockRange, now: float) -> str:
    """For those whom this holder keeps waiting."""
    who = holding.who
    what = bytes_as_text(who.path) if who.path else f"inode {holding.key[0]}"
    by = f"{who.command or 'session ' + str(holding.session.number)} (pid {who.pid or 'unknown'})"
    found = conflict(holding.ranges, request.start, request.end, request.write) or (0, 0, True)
    how = "a flock" if request.kind == "flock" else f"bytes from {found[0]} on locked"
    return f"{what}: {by} on {who.host or 'an unknown host'} has {how} for {now - holding.since:.1f} s"


# -- what requests may carry


def check_lock(request: LockRange) -> None:
    check_range(request)
    check_numbers(ticket=request.ticket)
    if not 0 <= request.wait_s <= WAIT_S_MAX:
        raise errors.InvalidArgument(f"wait_s {request.wait_s}: from 0 to {WAIT_S_MAX:g} seconds")
    check_waited(request.waited_s)
    if not 0 <= request.pid <= NUMBER_MAX:
        raise errors.InvalidArgument(f"pid {request.pid}: from 0 to {NUMBER_MAX}")


def check_range(request: LockRange | UnlockRange | ProbeRange) -> None:
    check_numbers(session=request.session, inode=request.ino)
    if not 0 <= request.start < request.end <= RANGE_END:
        raise errors.InvalidArgument(f"from byte {request.start} to {request.end} is no range")
    if not 0 <= request.owner <= OWNER_MAX:
        raise errors.InvalidArgument(f"owner {request.owner}: from 0 to {OWNER_MAX}")


def check_listed(request: RenewLocks) -> None:
    check_numbers(session=request.session)
    for row in request.ranges:
        check_numbers(inode=row.ino)
        if not 0 <= row.owner <= OWNER_MAX or not _in_order(row.ranges):
            raise errors.InvalidArgument(f"inode {row.ino}, owner {row.owner}: not a list of locked ranges")
    if sum(len(row.ranges) for row in request.ranges) > 2 * RANGES_MAX:
        raise errors.InvalidArgument(f"a renewal of more than {2 * RANGES_MAX} ranges")


def _in_order(ranges: list[Range]) -> bool:
    last = 0
    for start, end, _ in ranges:
        if not last <= start < end <= RANGE_END:
            return False
        last = end
    return bool(ranges)
