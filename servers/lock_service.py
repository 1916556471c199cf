"""The lock service: the cores of servers/locks.py and servers/range_locks.py over HTTP.

`acquire` and `lock_range` answer at once where the lock is free; else their request stays open until an event of the
core decides it, or until the caller closes the connection. Everything else is answered at once. A session's tickets are
one row of numbers for both cores, so a caller that waits is known by its ticket.

The cores' time is the machine's time since boot, suspended time included: a lease that ended while this machine slept
has ended. One timer of the event loop wakes them at their next deadline; as such timers do not run while the machine
sleeps, each request does what is due first. Who finds a deadline long past has stood still, and has not heard of those
who renewed meanwhile: they get a little time before they count as silent.

Threads: none; everything runs in the event loop of the server, so each operation of a core is undivided.
"""

import asyncio
import logging
import math
import os
import pathlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from dfsfuse import errors
from dfsfuse.messages import (
    LIST_PAGE_MAX,
    Acquire,
    End,
    FileUsers,
    Granted,
    HeldLock,
    LockList,
    LockRange,
    Nothing,
    ProbeRange,
    RangeConflict,
    RangeGranted,
    Registered,
    ReleaseLocks,
    RenewedLocks,
    RenewLocks,
    Reserve,
    Reserved,
    Server,
    UnlockRange,
    UseFile,
    WantedLocks,
    WatchLocks,
)
from servers.claims import Event, Grant
from servers.http import App, Operation, serve
from servers.locks import Locks
from servers.peers import Peers
from servers.range_claims import RangeEvent
from servers.range_locks import RangeLocks
from servers.registration import first_registration, heartbeat, reachable_url
from servers.watchers import Watchers

log = logging.getLogger(__name__)

TOKENS_RESERVE = 1 << 20
TIMER_S_MIN = 0.001
"""uvloop counts in milliseconds: a shorter timer would fire early, find nothing due, and be set again at once."""

LATE_S = 0.5
WATCH_S = 5.0
"""How long a request that waits for recalls stays unanswered where there are none."""
AFTER_STANDSTILL_S = 3.0
"""A client whose renewal was not answered sends another one a second after it has given that up."""

Key = tuple[int, int]
Outcome = Granted | RangeGranted | errors.DfsError


def boot_time_s() -> float:
    """Seconds since boot, suspended time included where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LockService:
    """The operations. `description` is this server as others are told of it; `clock` is what the cores call now."""

    def __init__(
        self,
        core: Locks,
        description: Server,
        clock: Callable[[], float] = boot_time_s,
        ranges: RangeLocks | None = None,
    ):
        self.description = description
        self._core, self._ranges = core, ranges or RangeLocks()
        self._clock = clock
        self._callers: dict[Key, list[asyncio.Future[Outcome]]] = {}
        self._watchers = Watchers()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def operations(self) -> dict[str, Operation]:
        return {
            "acquire": Operation(Acquire, self.acquire, waits=True),
            "reserve": Operation(Reserve, self.reserve),
            "release": Operation(ReleaseLocks, self.release),
            "watch": Operation(WatchLocks, self.watch, waits=True),
            "lock_range": Operation(LockRange, self.lock_range, waits=True),
            "unlock_range": Operation(UnlockRange, self.unlock_range),
            "probe_range": Operation(ProbeRange, self.probe_range),
            "use_file": Operation(UseFile, self.use_file),
            "renew": Operation(RenewLocks, self.renew),
            "end": Operation(End, self.end),
            "locks": Operation(Nothing, self.locks),
            "status": Operation(Nothing, self.status),
        }

    def begin(self, registered: Registered) -> None:
        """The directory has answered the first registration."""
        now = self._now()
        self._tell(self._core.begin(registered.start_number, registered.sessions, now), now)
        self._tell(self._ranges.begin(registered.sessions, now), now)
        log.info("start %d; waiting for %d sessions", registered.start_number, len(registered.sessions))

    def give_up(self, error: errors.DfsError) -> None:
        """Nothing is granted here any more; those who wait are told why."""
        callers, self._callers = self._callers, {}
        for decided in (each for waiting in callers.values() for each in waiting):
            if not decided.done():
                decided.set_result(error)
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = -math.inf
        self._watchers.wake_all()

    # -- operations

    def acquire(self, request: Acquire, gone: asyncio.Future[None]) -> Granted | Awaitable[Granted]:
        self._take_back(request.session, request.returned)
        now = self._now()
        try:
            granted = self._core.acquire(request, now)
        finally:
            self._after(now)
        return granted or self._wait((request.session, request.ticket), gone, self._core.withdraw)

    def reserve(self, request: Reserve) -> Reserved:
        now = self._now()
        try:
            return self._core.reserve(request, now)
        finally:
            self._set_timer(now)

    def release(self, request: ReleaseLocks) -> Nothing:
        now = self._now()
        self._tell(self._core.release(request, now), now)
        return Nothing()

    def watch(self, request: WatchLocks, gone: asyncio.Future[None]) -> WantedLocks | Awaitable[WantedLocks]:
        self._take_back(request.session, request.returned)
        now = self._now()
        wanted, events = self._core.watch(request, now)
        self._tell(events, now)
        if wanted or request.returned or request.used:
            return WantedLocks(wanted)
        return self._wanted_of(request.session, self._watchers.wait(request.session, gone, WATCH_S))

    async def _wanted_of(self, session: int, woken: Awaitable[None]) -> WantedLocks:
        await woken
        return WantedLocks(self._core.watch(WatchLocks(session=session), self._clock())[0])

    def _take_back(self, session: int, returned: list[HeldLock]) -> None:
        if returned:
            self.release(ReleaseLocks(session, returned))

    def lock_range(self, request: LockRange, gone: asyncio.Future[None]) -> RangeGranted | Awaitable[RangeGranted]:
        self._take_back(request.session, request.returned)
        now = self._now()
        events: list[RangeEvent] = []
        try:
            granted, events = self._ranges.lock(request, now)
        finally:
            self._tell(events, now)
        if granted is None:
            return self._range_waited_for(request, gone)
        return self._with_writer(granted, request.ino)

    def _range_waited_for(self, request: LockRange, gone: asyncio.Future[None]) -> Awaitable[RangeGranted]:
        waiting = self._wait((request.session, request.ticket), gone, self._ranges.withdraw)

        async def granted() -> RangeGranted:
            return self._with_writer(await waiting, request.ino)

        return granted()

    def _with_writer(self, granted: RangeGranted, ino: int) -> RangeGranted:
        return RangeGranted(granted.lease_s, granted.elsewhere, self._core.latest_token(ino))

    def unlock_range(self, request: UnlockRange) -> Nothing:
        self._take_back(request.session, request.returned)
        now = self._now()
        self._tell(self._ranges.unlock(request, now), now)
        return Nothing()

    def probe_range(self, request: ProbeRange) -> RangeConflict:
        return self._ranges.probe(request, self._now())

    def use_file(self, request: UseFile) -> FileUsers:
        now = self._now()
        try:
            return FileUsers(self._ranges.use(request, now))
        finally:
            self._set_timer(now)

    def renew(self, request: RenewLocks) -> RenewedLocks:
        now = self._now()
        reply, events = self._core.renew(request, now)
        self._tell(events, now)
        fresh = self._core.tokens.is_of_this_start(request.start_number)
        reply.lost_ranges, range_events = self._ranges.renew(request, now, fresh)
        self._tell(range_events, now)
        return reply

    def end(self, request: End) -> Nothing:
        now = self._now()
        self._tell(self._core.end(request.session, now), now)
        self._tell(self._ranges.end(request.session, now), now)
        return Nothing()

    def locks(self, request: Nothing) -> LockList:
        now = self._now()
        found = self._core.list_locks(now)
        found.ranges = self._ranges.rows(LIST_PAGE_MAX, now)
        return found

    def status(self, request: Nothing) -> Server:
        return self.description

    # -- waiting

    def _wait(
        self, key: Key, gone: asyncio.Future[None], withdraw: Callable[[int, int, float], list[RangeEvent] | None]
    ) -> Coroutine[Any, Any, Any]:
        """The future exists before the next event can arrive: events are made by later runs of the event loop."""
        decided: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._callers.setdefault(key, []).append(decided)
        return self._decided_or_gone(key, decided, gone, withdraw)

    async def _decided_or_gone(
        self,
        key: Key,
        decided: asyncio.Future[Outcome],
        gone: asyncio.Future[None],
        withdraw: Callable[[int, int, float], list[RangeEvent] | None],
    ) -> Granted | RangeGranted:
        try:
            await asyncio.wait((decided, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not decided.done():
                self._forget_caller(key, decided)
                # Comes before what is due: that may be a grant, and this caller would not hear of it.
                self._tell(withdraw(*key, self._clock()) or [], self._clock())
                self._set_timer(self._now())
        if decided.cancelled():
            raise errors.Interrupted("the caller has closed the connection")
        outcome = decided.result()
        if isinstance(outcome, errors.DfsError):
            raise outcome
        return outcome

    def _forget_caller(self, key: Key, decided: asyncio.Future[Outcome]) -> None:
        decided.cancel()
        self._callers[key].remove(decided)
        if not self._callers[key]:
            del self._callers[key]

    def _tell(self, events: Sequence[Event | RangeEvent], now: float) -> None:
        for event in events:
            for decided in self._callers.pop((event.session, event.ticket), ()):
                decided.set_result(_outcome(event))
        self._after(now)

    def _after(self, now: float) -> None:
        """What an operation has left to do: who is asked for locks hears it, and the timer is set."""
        for session in self._core.take_news():
            self._watchers.wake(session)
        self._set_timer(now)

    # -- time

    def _now(self) -> float:
        """What is due by now is done when this returns."""
        now = self._clock()
        self._bear_with_clients(now)
        if self._core.next_deadline() <= now:
            self._tell(self._core.tick(now), now)
        if self._ranges.next_deadline() <= now:
            self._tell(self._ranges.tick(now), now)
        return now

    def _bear_with_clients(self, now: float) -> None:
        """Where this service stood still, renewals came that it has not read yet: nobody is silent before it has."""
        late_s = now - min(self._core.next_deadline(), self._ranges.next_deadline())
        if late_s > LATE_S:
            log.warning("stood still for %.1f s or longer; sessions have %g s more", late_s, AFTER_STANDSTILL_S)
            self._core.extend(now + AFTER_STANDSTILL_S)
            self._ranges.extend(now + AFTER_STANDSTILL_S)

    def _set_timer(self, now: float) -> None:
        """A timer that is set for an earlier moment stays: it will find nothing due, and look again."""
        due = min(self._core.next_deadline(), self._ranges.next_deadline())
        if due >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer_at = due
        self._timer = loop.call_at(loop.time() + max(due - now, TIMER_S_MIN), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._set_timer(self._now())


def _outcome(event: Event | RangeEvent) -> Outcome:
    if isinstance(event, RangeEvent):
        return event.outcome
    return event.granted if isinstance(event, Grant) else event.error


def build(
    core: Locks,
    token: str,
    url: str = "http://127.0.0.1",
    ranges: RangeLocks | None = None,
    clock: Callable[[], float] = boot_time_s,
) -> App:
    """The application alone, without a directory: `begin` of the cores is the caller's."""
    return App(token, LockService(core, description_of(url), clock, ranges).operations())


async def run(home: pathlib.Path, host: str, port: int, token: str, directory_url: str) -> None:
    """Serve until SIGTERM. Locks are granted once the directory has given a start number; nothing is kept in `home`."""
    core, peers = Locks(), Peers(token)
    service = LockService(core, description_of(reachable_url(host, port, directory_url)))
    try:
        app = App(token, service.operations())
        await serve(app, host, port, stay_registered(service, core, peers, directory_url))
    finally:
        await peers.close()


async def stay_registered(
    service: LockService, core: Locks, peers: Peers, directory_url: str, check: Callable[[], None] = lambda: None
) -> None:
    """Begin with the number that the directory gives, and go on telling it of this server, unless `check` raises."""

    def described() -> Server:
        check()
        return service.description

    service.begin(await first_registration(peers, directory_url, described(), start=True))
    await heartbeat(peers, directory_url, described, lambda registered: _check_tokens(core))


def _check_tokens(core: Locks) -> None:
    """Ends this process, whose supervisor starts it anew with a new start number; holders then re-assert."""
    if core.tokens.left < TOKENS_RESERVE:
        raise errors.Internal(f"start number {core.tokens.start_number} has few tokens left")


def description_of(url: str) -> Server:
    return Server(kind="locks", name="locks", url=url, pid=os.getpid())
