"""Locks between programs: byte ranges (fcntl) and whole files (flock), over all sessions. Pure: input in, events out.

An owner, which is a process or an open file description of a session, excludes other owners, never itself: a lock takes
the place of what the owner has locked there. A request that is not free waits in the queue of its file.

Who is granted: whoever listens and has nobody's lock in the way, in the order of arrival. Who comes later and would
exclude somebody who waits, waits behind him. But a process that has other locks already passes: he may be waiting for
one of those, directly or through others, and then both would wait for ever. Requests that do not wait heed nobody who
waits, as with local locks, unless they are `fair`. Who is away when his turn comes is passed over, for nobody would
hear of the grant.

POSIX wants EDEADLK where processes would wait for each other. A circle can close when somebody begins to wait, and when
a lock is granted to an owner who waits for another one (a process with threads); whoever closes it is refused.

After a start no lock is granted until each session of before has renewed, and thereby re-asserted what it holds, or one
lease has passed. Requests that wait queue meanwhile, in the order of before (servers/returns.py); others are answered
Starting.

A renewal lists all that the session's programs have locked. What it could not know of yet, by its tickets, is left
alone. For the rest the client is right about having less than is known here, as it has given up waiting for an answer;
about having more it is wrong, and has lost that.

Time is `now`, and moves through `tick` alone, as in servers/locks.py. What raises changes nothing.

Threads: none; all state belongs to the one thread (event loop) that calls. No call blocks.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable

from dfsfuse import errors
from dfsfuse.messages import (
    HeldRanges,
    LockRange,
    LostRanges,
    ProbeRange,
    Range,
    RangeConflict,
    RangeGranted,
    RangeRow,
    RenewLocks,
    UnlockRange,
    UseFile,
    conflict,
    covers,
    with_lock,
)
from servers.circles import Circles
from servers.claims import LOCK_LEASE_S, TICKET_RETURN_S, Phase, check_numbers
from servers.deadlines import Deadlines
from servers.file_users import FileUsers
from servers.leases import Leases
from servers.range_claims import (
    FILE_WAITERS_MAX,
    Holding,
    LockedFile,
    Place,
    RangeEvent,
    RangeSession,
    Waiter,
    Who,
    check_listed,
    check_lock,
    check_range,
    key_of,
    place_of,
    why_taken,
)
from servers.returns import take_place

Outcome = tuple[RangeGranted | None, list[RangeEvent]]


class RangeLocks:
    """All range locks of a volume. `begin` must be called once before anything is granted."""

    def __init__(self, lease_s: float = LOCK_LEASE_S):
        self._leases = Leases(RangeSession, lease_s)
        self._files: dict[Place, LockedFile] = {}
        self._users = FileUsers()
        self._circles = Circles(self._in_the_way)
        self._to_serve: dict[Place, None] = {}
        # The times to return are equally long: the first is the next to end.
        self._away: OrderedDict[Waiter, None] = OrderedDict()
        self._ends = Deadlines(self._waits)

    def begin(self, sessions: Iterable[int], now: float) -> list[RangeEvent]:
        """The service may grant once these sessions have returned, in a lease at most."""
        self._leases.begin(sessions, now)
        return self._resume(now)

    @property
    def _granting(self) -> bool:
        return self._leases.phase is Phase.GRANTING

    # -- what clients ask for

    def lock(self, request: LockRange, now: float) -> Outcome:
        """The grant; or None: the request is in the queue, and an event will tell its caller.

        Raises WouldBlock if it is not free and `wait_s` is 0, Deadlock, NoLocks, Starting, OutOfSequence, SessionEnded.
        """
        check_lock(request)
        session, reply = self._known(request, now)
        if reply is not None:
            return reply, []
        waiter = session.waiters.get(request.ticket)
        if waiter is not None:
            return self._return_to_place(waiter, request, now)
        waiter = Waiter(session, request, now)
        if not request.wait_s:
            self._leases.check_granting()
        if not self._granting:
            return self._queue(waiter, now)
        file = self._files.setdefault(waiter.place, LockedFile())
        try:
            if file.is_blocked(waiter, [*file.queue]):
                self._check_may_wait(file, waiter, now)
                return self._queue(waiter, now)
            events: list[RangeEvent] = []
            reply = self._take(waiter, now, events)
            self._serve(waiter.place, now, events)
            return reply, events
        finally:
            self._forget_unused(waiter.place)

    def unlock(self, request: UnlockRange, now: float) -> list[RangeEvent]:
        """Raises SessionEnded, OutOfSequence."""
        check_range(request)
        check_numbers(ticket=request.ticket)
        session, reply = self._known(request, now)
        events: list[RangeEvent] = []
        if reply is None:
            self._executed(session, request)
            holding = session.holdings.get(key_of(request))
            if holding is not None:
                ranges = with_lock(holding.ranges, request.start, request.end, None)
                self._reduce(holding, ranges, now, events)
        return events

    def probe(self, request: ProbeRange, now: float) -> RangeConflict:
        """A lock that is in the way, the first by its place in the file. Raises Starting."""
        check_range(request)
        self._leases.check_granting()
        return self._files.get(place_of(request), LockedFile()).probe(request)

    def use(self, request: UseFile, now: float) -> bool:
        """Whether other sessions use locks on the file too. Raises Starting, SessionEnded, OutOfSequence."""
        check_numbers(session=request.session, inode=request.ino, ticket=request.ticket)
        session, _ = self._known(request, now)
        self._leases.check_granting()
        return self._users.elsewhere(session, request.ino)

    def withdraw(self, session: int, ticket: int, now: float) -> list[RangeEvent]:
        """A connection that waited with this ticket has closed. What was granted meanwhile stays, until a renewal."""
        known, events = self._leases.get(session), list[RangeEvent]()
        waiter = known.waiters.get(ticket) if known is not None else None
        if waiter is not None and waiter.connections:
            waiter.connections -= 1
            if not waiter.connections:
                waiter.returns_by = now + TICKET_RETURN_S
                self._away[waiter] = None
                self._serve(waiter.place, now, events)
        return events

    def renew(self, request: RenewLocks, now: float, fresh: bool = True) -> tuple[list[LostRanges], list[RangeEvent]]:
        """The lease begins anew, and what is held becomes what is listed; if it is `fresh`, the session is back after a
        start. Raises SessionEnded."""
        check_listed(request)
        session, events = self._leases.renewed(request.session, now), []
        session.settle(request)
        listed = {key_of(row): row for row in request.ranges if key_of(row) not in session.touched}
        lost = {key: row for key, row in listed.items() if not self._holds(session, row, request.host, now)}
        for holding in [*session.holdings.values()]:
            if holding.key not in session.touched:
                known = holding.key in listed and holding.key not in lost
                self._reduce(holding, listed[holding.key].ranges if known else [], now, events)
        self._drop_given_up(session, now, events)
        self._users.list_all(session, set(request.using))
        if fresh and not session.touched:
            self._leases.returned(session, set(request.queued_ranges) - session.waiters.keys(), now)
        events += self._resume(now)
        return [LostRanges(row.ino, row.owner, row.kind) for row in lost.values()], events

    def end(self, session: int, now: float) -> list[RangeEvent]:
        """The session is over; every later request of it is refused."""
        events: list[RangeEvent] = []
        ended = self._leases.end(session)
        if ended is not None:
            self._remove([ended], errors.SessionEnded(f"session {session} has ended"), now, events)
        return events + self._resume(now)

    def rows(self, rows_max: int, now: float) -> list[RangeRow]:
        """Files with locks, those that are waited for first."""
        places = sorted(self._files, key=lambda place: not self._files[place].queue)[:rows_max]
        return [self._files[place].row(place[0], rows_max, now) for place in places]

    # -- time

    def extend(self, until: float) -> None:
        """No session lapses before that, and no ticket that may return is dropped."""
        self._leases.extend(until)
        for waiter in self._away:
            waiter.returns_by = max(waiter.returns_by, until)

    def next_deadline(self) -> float:
        """When `tick` has something to do, if nothing else happens before; infinity: never."""
        return min(
            self._leases.next_deadline(),
            next(iter(self._away)).returns_by if self._away else math.inf,
            self._ends.next(),
        )

    def tick(self, now: float) -> list[RangeEvent]:
        """Do everything that is due: leases, tickets of connections that did not come back, restart, deadlines."""
        events: list[RangeEvent] = []
        silent = errors.Busy(
            f"the place in the queue is lost: the session did not renew for {self._leases.lease_s:g} s"
        )
        self._remove(self._leases.take_lapsed(now), silent, now, events)
        while self._away and (waiter := next(iter(self._away))).returns_by <= now:
            self._leave(waiter)
            self._serve(waiter.place, now, events)
        events += self._resume(now)
        for waiter in self._ends.due(now):
            self._refuse(waiter, errors.WouldBlock(f"not free within {waiter.request.wait_s:.3g} s"), events)
            self._serve(waiter.place, now, events)
        return events

    def _resume(self, now: float) -> list[RangeEvent]:
        events: list[RangeEvent] = []
        if self._leases.resumes(now):
            waiting = [waiter for file in self._files.values() for waiter in file.queue]
            for waiter in waiting:
                self._ends.add(now + waiter.request.wait_s, waiter)
                self._serve(waiter.place, now, events)
            for waiter in waiting:
                if self._waits(waiter) and self._circles.closed_by(waiter):
                    self._refuse(waiter, errors.Deadlock("waiting would last for ever: the holder waits too"), events)
                    self._serve(waiter.place, now, events)
        return events

    # -- requests

    def _known(
        self, request: LockRange | UnlockRange | UseFile, now: float
    ) -> tuple[RangeSession, RangeGranted | None]:
        """The session with a new lease; and what this very request was answered before."""
        session = self._leases.get(request.session)
        if session is not None:
            session.check_ticket(request.ticket)
        session = self._leases.renewed(request.session, now)
        self._users.add(session, request.ino, request.ticket)
        return session, session.answered.get(request.ticket)

    def _executed(self, session: RangeSession, request: LockRange | UnlockRange) -> RangeGranted:
        reply = RangeGranted(self._leases.lease_s, self._users.elsewhere(session, request.ino))
        session.touched[key_of(request)], session.answered[request.ticket] = request.ticket, reply
        return reply

    def _check_may_wait(self, file: LockedFile, waiter: Waiter, now: float) -> None:
        holdings = self._in_the_way(waiter)
        why = why_taken(holdings[0], waiter.request, now) if holdings else "others wait for it"
        if waiter.request.wait_s == 0:
            raise errors.WouldBlock(f"not free: {why}")
        if len(file.queue) >= FILE_WAITERS_MAX:
            raise errors.NoLocks(f"{FILE_WAITERS_MAX} wait for locks on inode {waiter.request.ino} already")
        if self._circles.closed_by(waiter):
            raise errors.Deadlock(f"waiting would last for ever: {why}")

    def _queue(self, waiter: Waiter, now: float) -> Outcome:
        waiter.session.waiters[waiter.request.ticket] = waiter
        take_place(self._files.setdefault(waiter.place, LockedFile()).queue, waiter)
        self._leases.returns.place_back(waiter.session.number, waiter.request.ticket, now)
        self._circles.add(waiter)
        if self._granting:
            self._ends.add(now + waiter.request.wait_s, waiter)
        return None, []

    def _return_to_place(self, waiter: Waiter, request: LockRange, now: float) -> Outcome:
        """What it waits for may have become free while it was away."""
        if waiter.key != key_of(request):
            raise errors.InvalidArgument(f"ticket {request.ticket} is for another owner or file")
        waiter.connections += 1
        self._away.pop(waiter, None)
        events: list[RangeEvent] = []
        self._serve(waiter.place, now, events)
        mine = (waiter.session.number, waiter.request.ticket)
        reply = next((event.outcome for event in events if event[:2] == mine), None)
        if isinstance(reply, errors.DfsError):
            raise reply
        return reply, events

    # -- granting

    def _serve(self, place: Place, now: float, events: list[RangeEvent]) -> None:
        """Grant to those who wait what is free for them; a grant may make more places worth a look."""
        self._to_serve[place] = None
        while self._to_serve:
            place, _ = self._to_serve.popitem()
            file, ahead = self._files.get(place), list[Waiter]()
            for waiter in [*file.queue] if file is not None and self._granting else ():
                if not waiter.connections or waiter not in file.queue:
                    continue
                if file.is_blocked(waiter, ahead):
                    ahead.append(waiter)
                else:
                    self._grant(waiter, now, events)
            self._forget_unused(place)

    def _forget_unused(self, place: Place) -> None:
        file = self._files.get(place)
        if file is not None and not file.holdings and not file.queue:
            del self._files[place]

    def _grant(self, waiter: Waiter, now: float, events: list[RangeEvent]) -> None:
        self._leave(waiter)
        consequences: list[RangeEvent] = []
        outcome: RangeGranted | errors.DfsError
        try:
            outcome = self._take(waiter, now, consequences)
        except errors.NoLocks as error:
            outcome = error
        events += [RangeEvent(waiter.session.number, waiter.request.ticket, outcome), *consequences]

    def _take(self, waiter: Waiter, now: float, events: list[RangeEvent]) -> RangeGranted:
        """Raises NoLocks."""
        session, request = waiter.session, waiter.request
        holding = session.holdings.get(waiter.key) or Holding(session, waiter.key, request.kind, waiter.who, now)
        ranges = with_lock(holding.ranges, request.start, request.end, request.write)
        # It may have had more of the file before; and its process need not stay behind others any more.
        touched = [other.place for other in session.waiters.values() if other.process == waiter.process]
        self._to_serve.update(dict.fromkeys([*touched, waiter.place] if holding.ranges else touched))
        self._files.setdefault(waiter.place, LockedFile()).check_room(holding, len(ranges) - len(holding.ranges))
        self._store(holding, ranges)
        while other := self._circles.closed_by_grant(holding, self._files[waiter.place].queue):
            self._to_serve[other.place] = None
            self._refuse(other, errors.Deadlock("waiting would last for ever: the holder waits too"), events)
        return self._executed(session, request)

    def _store(self, holding: Holding, ranges: list[Range]) -> None:
        self._files.setdefault(holding.key[:2], LockedFile()).store(holding, ranges)

    def _reduce(self, holding: Holding, ranges: list[Range], now: float, events: list[RangeEvent]) -> None:
        """Less than before, so others may have what they wait for."""
        if ranges != holding.ranges:
            self._store(holding, ranges)
            self._serve(holding.key[:2], now, events)

    def _holds(self, session: RangeSession, row: HeldRanges, host: str, now: float) -> bool:
        """Whether the session has what it lists, or has re-asserted it by this."""
        key, who = key_of(row), Who(row.path, host, row.pid, row.command)
        holding = session.holdings.get(key)
        if holding is not None and covers(holding.ranges, row.ranges):
            return True
        file = self._files.get(key[:2], LockedFile())
        others = [other for owner, other in file.holdings.items() if owner != (session.number, row.owner)]
        if self._granting or any(conflict(other.ranges, *one) for other in others for one in row.ranges):
            return False
        self._store(holding or Holding(session, key, row.kind, who, now), row.ranges)
        return True

    # -- who waits

    def _in_the_way(self, waiter: Waiter) -> list[Holding]:
        file = self._files.get(waiter.place)
        return file.in_the_way(waiter.request, waiter.owner) if file is not None else []

    def _waits(self, waiter: Waiter) -> bool:
        return waiter.session.waiters.get(waiter.request.ticket) is waiter

    def _leave(self, waiter: Waiter) -> None:
        del self._files[waiter.place].queue[waiter], waiter.session.waiters[waiter.request.ticket]
        self._away.pop(waiter, None)
        self._circles.remove(waiter)

    def _refuse(self, waiter: Waiter, error: errors.DfsError, events: list[RangeEvent]) -> None:
        self._leave(waiter)
        events.append(RangeEvent(waiter.session.number, waiter.request.ticket, error))

    def _drop_given_up(self, session: RangeSession, now: float, events: list[RangeEvent]) -> None:
        for ticket, waiter in [*session.waiters.items()]:
            if session.is_settled(ticket) and self._waits(waiter):
                self._refuse(waiter, errors.Interrupted(f"ticket {ticket} was given up"), events)
                self._serve(waiter.place, now, events)

    def _remove(
        self, sessions: list[RangeSession], error: errors.DfsError, now: float, events: list[RangeEvent]
    ) -> None:
        """All of them go before anybody is served: nothing is handed to a session that is going too."""
        places: dict[Place, None] = {}
        for session in sessions:
            for waiter in [*session.waiters.values()]:
                places[waiter.place] = self._refuse(waiter, error, events)
            for holding in [*session.holdings.values()]:
                places[holding.key[:2]] = self._store(holding, [])
            self._users.remove_all(session)
        for place in places:
            self._serve(place, now, events)
