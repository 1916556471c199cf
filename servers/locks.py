"""The write locks: one FIFO queue per inode over all sessions, leases and tokens. Pure: input in, what to do out.

Who is granted: the first claim of the queue that is WAITING (the states of a claim: servers/claims.py). A claim that is
AWAY when its turn comes is passed over, for nobody would hear of the grant, and a lock that nobody knows to hold would
block the others for a lease; it keeps its place among those who still wait. The session that holds an inode may wait
for it again like any other. A session that watches may keep a lock that it does not use: it is asked for it as soon as
another session wants it (servers/recalls.py), and until it has answered who does not wait is in the queue too.

After a start no lock is granted until each session of before has renewed, and thereby re-asserted what it holds, or one
lease has passed: until then a lock that looks free may be held. A renewal that was sent before the start counts not:
each says which start has answered the one before. Acquires queue meanwhile, their deadlines not running, in the order
in which they waited before (servers/returns.py).
Among re-asserted locks of one inode the highest token wins; the others are told by `lost` in their next renewal.

Time is `now`, seconds on a monotonic clock, and moves through `tick` alone: a caller ticks what is due before each
operation, and again at `next_deadline()`. A late tick leaves locks held for longer, which is safe. Operations return
events, which tell other callers that wait. What raises (CallerError, Busy, WouldBlock, SessionEnded, OutOfSequence)
changes nothing.

Threads: none; all state belongs to the one thread (event loop) that calls. No call blocks.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable

from dfsfuse import errors
from dfsfuse.messages import (
    LIST_PAGE_MAX,
    Acquire,
    Granted,
    HeldLock,
    LockList,
    ReleaseLocks,
    RenewedLocks,
    RenewLocks,
    Reserve,
    Reserved,
    Wanted,
    WatchLocks,
)
from servers.claims import (
    LOCK_LEASE_S,
    Claim,
    Event,
    Grant,
    Phase,
    Refusal,
    Session,
    State,
    check_acquire,
    check_numbers,
    check_renewal,
    lock_rows,
    remember,
)
from servers.queues import Queues
from servers.recalls import ANSWER_S, Recalls
from servers.returns import Returns
from servers.tokens import Tokens

QUEUE_MAX = 10_000
"""Waiters for one inode."""


class Locks:
    """All locks of a volume. `begin` must be called once before anything is granted."""

    def __init__(self, lease_s: float = LOCK_LEASE_S):
        self.lease_s = lease_s
        self.phase = Phase.STARTING
        self.tokens = Tokens()
        self._returns = Returns()
        self._latest: OrderedDict[int, int] = OrderedDict()
        self._holders: dict[int, Claim] = {}
        self._queues = Queues()
        # Leases are equally long: the first is the next to end.
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._recalls = Recalls()
        self.take_news = self._recalls.take_news

    def begin(self, start_number: int, sessions: Iterable[int], now: float) -> list[Event]:
        """The directory has given a start number, larger than any before; wait for these sessions, a lease at most."""
        if self.phase is not Phase.STARTING or start_number <= 0:
            raise errors.InvalidArgument(f"start {start_number} while {self.phase.value}")
        self.phase, self.tokens.start_number = Phase.RETURNING, start_number
        returned = {number for number, session in self._sessions.items() if session.returned}
        self._returns.begin(set(sessions) - returned - self._ended.keys(), now, self.lease_s)
        return self._resume_if_all_returned(now)

    # -- what clients ask for

    def acquire(self, request: Acquire, now: float) -> Granted | None:
        """The grant; or None: the claim is in the queue, and an event will tell the caller.

        Raises WouldBlock if it cannot become free at once and `wait_s` is 0, Busy if too many wait, OutOfSequence if a
        renewal has told that the ticket was given up, SessionEnded.
        """
        check_acquire(request)
        self._refuse_ended(request.session)
        session = self._sessions.get(request.session)
        claim = session.claims.get(request.ticket) if session else None
        if session is None or claim is None:
            return self._first_acquire(request, session, now)
        if claim.ino != request.ino:
            raise errors.InvalidArgument(f"ticket {request.ticket} is for inode {claim.ino}, not {request.ino}")
        self._renew_lease(session, now)
        return claim.granted(self.lease_s) if claim.state is State.HELD else self._return_to_place(claim, now)

    def reserve(self, request: Reserve, now: float) -> Reserved:
        """Locks of inodes that nobody else knows; what is not free is passed over. Raises SessionEnded."""
        if len(request.inos) > LIST_PAGE_MAX:
            raise errors.InvalidArgument(f"at most {LIST_PAGE_MAX} locks can be reserved at a time")
        return Reserved([self._reserve(request, n, ino, now) for n, ino in enumerate(request.inos)], self.lease_s)

    def _reserve(self, request: Reserve, number: int, ino: int, now: float) -> int:
        asked = Acquire(session=request.session, ino=ino, ticket=request.ticket + number, wait_s=0.0)
        holder = self._holders.get(ino)
        if holder is not None and holder.session.number != request.session:
            return 0
        try:
            granted = self.acquire(asked, now)
        except errors.WouldBlock:
            return 0
        self._holders[ino].reserved = not self._holders[ino].path
        return granted.token

    def withdraw(self, session: int, ticket: int, now: float) -> None:
        """A connection that waited with this ticket has closed. A lock granted meanwhile stays, until a renewal."""
        claim = self._sessions[session].claims.get(ticket) if session in self._sessions else None
        if claim is None or claim.state is not State.WAITING:
            return
        claim.connections -= 1
        if claim.connections == 0:
            self._queues.goes_away(claim, now)

    def release(self, request: ReleaseLocks, now: float) -> list[Event]:
        """Free what the session holds of the list."""
        events: list[Event] = []
        for pair in request.held:
            claim = self._holders.get(pair.ino)
            if claim is not None and (claim.session.number, claim.token) == (request.session, pair.token):
                remember(self._latest, pair.ino, pair.token)
                self._free(claim, now, events)
        return events

    def renew(self, request: RenewLocks, now: float) -> tuple[RenewedLocks, list[Event]]:
        """The lease begins anew, and what the session neither holds nor waits for is freed. Raises SessionEnded, and
        OutOfSequence for a renewal that was overtaken by a later one."""
        check_renewal(request)
        self._refuse_ended(request.session)
        session = self._session(request.session, now)
        session.check_latest(request)
        lost = [pair for pair in request.held if not self._holds(session, pair, now)]
        if request.watches:
            self._recalls.watches(request.session)
        for pair in request.held:
            if pair.ino in session.held:
                session.held[pair.ino].told(pair, request.host, now)
        events: list[Event] = []
        self._drop_unlisted(session, request, now, events)
        if request.last_ticket >= session.settled:
            session.settled, session.expected = request.last_ticket, frozenset(request.waiting)
        fresh = self.tokens.is_of_this_start(request.start_number)
        session.returned = session.returned or fresh
        if fresh and self.phase is not Phase.GRANTING:
            self._returns.session_back(session.number, set(request.queued) - session.claims.keys(), now)
        events += self._resume_if_all_returned(now)
        return RenewedLocks(start_number=self.tokens.start_number, lost=lost, wanted=self._wanted(session, now)), events

    def watch(self, request: WatchLocks, now: float) -> tuple[list[HeldLock], list[Event]]:
        """The locks that the session is asked for and has not answered yet. Raises SessionEnded."""
        self._refuse_ended(request.session)
        self._recalls.watches(request.session)
        events: list[Event] = []
        for claim in self._recalls.answered_used(request.session, request.used):
            self._refuse_who_does_not_wait(claim.ino, now, events)
        return self._recalls.of(request.session), events

    def end(self, session: int, now: float) -> list[Event]:
        """The session is over; every later request of it is refused."""
        check_numbers(session=session)
        remember(self._ended, session, None)
        self._recalls.end(session)
        events: list[Event] = []
        if session in self._sessions:
            error = errors.SessionEnded(f"session {session} has ended")
            self._remove_sessions([self._sessions[session]], error, now, events)
        self._returns.gone(session)
        return events + self._resume_if_all_returned(now)

    def list_locks(self, now: float) -> LockList:
        """Those that are waited for come first, those that nobody uses last. At most LIST_PAGE_MAX locks, and as many
        waiters in all."""
        others = [claim for ino, claim in self._holders.items() if ino not in self._queues and not claim.reserved]
        inos = [*self._queues, *(claim.ino for claim in sorted(others, key=lambda c: c.kept))][:LIST_PAGE_MAX]
        return LockList(lock_rows(inos, self._holders, self._queues.by_ino(), LIST_PAGE_MAX, now))

    def latest_token(self, ino: int) -> int:
        """The last one given for an inode, if its holder has given it back and nobody has the lock now. Else 0."""
        return self._latest.get(ino, 0)

    # -- time

    def extend(self, until: float) -> None:
        """No session lapses before that, and no ticket that may return is dropped."""
        for session in self._sessions.values():
            session.lapses_at = max(session.lapses_at, until)
        self._queues.extend(until)

    def next_deadline(self) -> float:
        """When `tick` has something to do, if nothing else happens before; infinity: never."""
        return min(
            self._returns.resumes_at,
            next(iter(self._sessions.values())).lapses_at if self._sessions else math.inf,
            self._queues.next_deadline(),
        )

    def tick(self, now: float) -> list[Event]:
        """Do everything that is due: leases, tickets of connections that did not come back, restart, deadlines."""
        events: list[Event] = []
        lapsed = []
        for session in self._sessions.values():
            if session.lapses_at > now:
                break
            lapsed.append(session)
        error = errors.Busy(f"the place in the queue is lost: the session did not renew for {self.lease_s:g} s")
        self._remove_sessions(lapsed, error, now, events)
        self._queues.drop_away(now)
        events += self._resume_if_all_returned(now)
        for claim in self._queues.waits.due(now):
            kind = errors.Busy if claim.wait_s else errors.WouldBlock
            error = kind(f"not free within {claim.wait_s:.3g} s; {self._why_not_free(claim.ino, now)}")
            self._refuse(claim, error, events)
        return events

    # -- claims

    def _first_acquire(self, request: Acquire, session: Session | None, now: float) -> Granted | None:
        free = self.phase is Phase.GRANTING and request.ino not in self._holders
        if session is not None:
            session.check_may_claim(request.ticket)
        if not free:
            self._check_may_wait(request, now)
        token = self.tokens.next() if free else 0
        session = self._session(request.session, now)
        claim = session.claims[request.ticket] = Claim(session, request, now)
        if free:
            return self._hold(claim, token, now)
        self._queues.place(claim)
        self._returns.place_back(request.session, request.ticket, now)
        if self.phase is Phase.GRANTING:
            self._queues.waits.add(now + (claim.wait_s or ANSWER_S), claim)
            self._ask_back(request.ino)
        return None

    def _check_may_wait(self, request: Acquire, now: float) -> None:
        if request.wait_s == 0 and not self._may_come_at_once(request):
            raise errors.WouldBlock(self._why_not_free(request.ino, now))
        if self._queues.length(request.ino) >= QUEUE_MAX:
            raise errors.Busy(f"{QUEUE_MAX} wait already; {self._why_not_free(request.ino, now)}")

    def _may_come_at_once(self, request: Acquire) -> bool:
        holder = self._holders.get(request.ino)
        if self.phase is not Phase.GRANTING or holder is None:
            return False
        return not self._queues.who_waits(request.ino) and self._recalls.may_be_kept(holder, request.session)

    def _ask_back(self, ino: int) -> None:
        holder = self._holders[ino]
        if self._queues.has_others(ino, holder.session):
            self._recalls.ask(holder)

    def _refuse_who_does_not_wait(self, ino: int, now: float, events: list[Event]) -> None:
        for claim in self._queues.who_does_not_wait(ino):
            self._refuse(claim, errors.WouldBlock(self._why_not_free(ino, now)), events)

    def _return_to_place(self, claim: Claim, now: float) -> Granted | None:
        """The lock may have become free while the claim was AWAY; then all before it in the queue are AWAY too."""
        claim.connections += 1
        if claim.state is State.AWAY:
            self._queues.comes_back(claim)
        if self.phase is not Phase.GRANTING:
            return None
        if claim.ino in self._holders:
            self._ask_back(claim.ino)
            return None
        self._queues.leave(claim)
        return self._hold(claim, self.tokens.next(), now)

    def _hold(self, claim: Claim, token: int, now: float) -> Granted:
        claim.move(State.HELD)
        claim.token, claim.since = token, now
        claim.used = claim.ticket > 0 and self._queues.others_wait(claim.ino, claim.session)
        self._holders[claim.ino] = claim.session.held[claim.ino] = claim
        self._latest.pop(claim.ino, None)
        return claim.granted(self.lease_s)

    def _free(self, claim: Claim, now: float, events: list[Event]) -> None:
        claim.move(State.OVER)
        self._recalls.over(claim)
        del self._holders[claim.ino], claim.session.held[claim.ino]
        claim.session.claims.pop(claim.ticket, None)
        self._serve(claim.ino, now, events)

    def _serve(self, ino: int, now: float, events: list[Event]) -> None:
        """Grant a free lock to the first whose caller would hear of it."""
        claim = self._queues.first_waiting(ino)
        if claim is not None and self.phase is Phase.GRANTING:
            token = self.tokens.next()
            self._queues.leave(claim)
            events.append(Grant(claim.session.number, claim.ticket, self._hold(claim, token, now)))
            self._refuse_who_does_not_wait(ino, now, events)

    def _refuse(self, claim: Claim, error: errors.DfsError, events: list[Event]) -> None:
        self._queues.drop(claim)
        events.append(Refusal(claim.session.number, claim.ticket, error))

    # -- sessions

    def _session(self, number: int, now: float) -> Session:
        """The session with a new lease. One that is not known is new, or has lapsed and holds nothing."""
        session = self._sessions.get(number)
        if session is None:
            session = self._sessions[number] = Session(number)
        self._renew_lease(session, now)
        return session

    def _refuse_ended(self, number: int) -> None:
        if number in self._ended:
            raise errors.SessionEnded(f"session {number} has ended")

    def _renew_lease(self, session: Session, now: float) -> None:
        session.lapses_at = now + self.lease_s
        self._sessions.move_to_end(session.number)

    def _holds(self, session: Session, pair: HeldLock, now: float) -> bool:
        """Whether the session holds it, or has re-asserted it by this."""
        holder = self._holders.get(pair.ino)
        if holder is not None and holder.token >= pair.token:
            return holder.session is session and holder.token == pair.token
        if self.phase is Phase.GRANTING or not self.tokens.may_be_of_before(pair.token):
            return False
        if holder is not None:
            self._free(holder, now, [])
        self._hold(Claim(session, Acquire(session=session.number, ino=pair.ino, ticket=0), now), pair.token, now)
        return True

    def _drop_unlisted(self, session: Session, request: RenewLocks, now: float, events: list[Event]) -> None:
        """Grants that were never received, and waiters whose programs were interrupted."""
        held = {(pair.ino, pair.token) for pair in request.held}
        waiting = frozenset(request.waiting)
        for claim in [*session.held.values()]:
            listed = (claim.ino, claim.token) in held or claim.ticket in waiting
            if not listed and claim.ticket <= request.last_ticket:
                self._free(claim, now, events)
        for claim in [*session.claims.values()]:
            given_up = claim.ticket not in waiting and claim.ticket <= request.last_ticket
            if given_up and claim.state is not State.HELD:
                self._refuse(claim, errors.Interrupted(f"ticket {claim.ticket} was given up"), events)

    def _wanted(self, session: Session, now: float) -> list[Wanted]:
        firsts = ((ino, self._queues.first_of_others(ino, session)) for ino in session.held if ino in self._queues)
        return [Wanted(ino, now - claim.since) for ino, claim in firsts if claim is not None]

    def _remove_sessions(
        self, sessions: list[Session], error: errors.DfsError, now: float, events: list[Event]
    ) -> None:
        """First all their waiters, then their locks: no lock is handed to a session that is going too."""
        for session in sessions:
            del self._sessions[session.number]
            for claim in [claim for claim in session.claims.values() if claim.state is not State.HELD]:
                self._refuse(claim, error, events)
        for session in sessions:
            for claim in [*session.held.values()]:
                self._free(claim, now, events)

    def _resume_if_all_returned(self, now: float) -> list[Event]:
        events: list[Event] = []
        if self.phase is not Phase.RETURNING or not self._returns.are_complete(now):
            return events
        self.phase = Phase.GRANTING
        self._returns.end()
        for ino in self._queues:
            for claim in self._queues.of(ino):
                self._queues.waits.add(now + claim.wait_s, claim)
            if ino in self._holders:
                self._ask_back(ino)
            else:
                self._serve(ino, now, events)
        return events

    def _why_not_free(self, ino: int, now: float) -> str:
        holder = self._holders.get(ino)
        if holder is not None:
            return holder.why_taken(now)
        return f"inode {ino}: the lock service has just started and waits for its sessions"
