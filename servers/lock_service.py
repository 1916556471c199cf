"""The lock service: the core of servers/locks.py over HTTP.

`acquire` answers at once where the lock is free; else its request stays open until an event of the core decides it, or
until the caller closes the connection. Everything else is answered at once. The core's time is the machine's time since
boot, suspended time included: a lease that ended while this machine slept has ended. One timer of the event loop wakes
the core at its next deadline; as such timers do not run while the machine sleeps, each request does what is due first.

Threads: none; everything runs in the event loop of the server, so each operation of the core is undivided.
"""

import asyncio
import logging
import math
import os
import pathlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from dfsfuse import errors
from dfsfuse.messages import (
    Acquire,
    End,
    Granted,
    LockList,
    Nothing,
    Registered,
    ReleaseLocks,
    RenewedLocks,
    RenewLocks,
    Reserve,
    Reserved,
    Server,
)
from servers.claims import Event, Grant
from servers.http import App, Operation, serve
from servers.locks import Locks
from servers.peers import Peers
from servers.registration import first_registration, heartbeat, reachable_url

log = logging.getLogger(__name__)

TOKENS_RESERVE = 1 << 20
TIMER_S_MIN = 0.001
"""uvloop counts in milliseconds: a shorter timer would fire early, find nothing due, and be set again at once."""

Key = tuple[int, int]


def boot_time_s() -> float:
    """Seconds since boot, suspended time included where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LockService:
    """The operations. `description` is this server as others are told of it; `clock` is what the core calls now."""

    def __init__(self, core: Locks, description: Server, clock: Callable[[], float] = boot_time_s):
        self.description = description
        self._core = core
        self._clock = clock
        self._callers: dict[Key, list[asyncio.Future[Event]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def app(self, token: str) -> App:
        operations = {
            "acquire": Operation(Acquire, self.acquire, waits=True),
            "reserve": Operation(Reserve, self.reserve),
            "release": Operation(ReleaseLocks, self.release),
            "renew": Operation(RenewLocks, self.renew),
            "end": Operation(End, self.end),
            "locks": Operation(Nothing, self.locks),
            "status": Operation(Nothing, self.status),
        }
        return App(token, operations)

    def begin(self, registered: Registered) -> None:
        """The directory has answered the first registration."""
        now = self._now()
        self._tell(self._core.begin(registered.start_number, registered.sessions, now), now)
        log.info("start %d; waiting for %d sessions", registered.start_number, len(registered.sessions))

    # -- operations

    def acquire(self, request: Acquire, gone: asyncio.Future[None]) -> Granted | Awaitable[Granted]:
        if request.returned:
            self.release(ReleaseLocks(request.session, request.returned))
        now = self._now()
        try:
            granted = self._core.acquire(request, now)
        finally:
            self._set_timer(now)
        return granted or self._wait((request.session, request.ticket), gone)

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

    def renew(self, request: RenewLocks) -> RenewedLocks:
        now = self._now()
        reply, events = self._core.renew(request, now)
        self._tell(events, now)
        return reply

    def end(self, request: End) -> Nothing:
        now = self._now()
        self._tell(self._core.end(request.session, now), now)
        return Nothing()

    def locks(self, request: Nothing) -> LockList:
        return self._core.list_locks(self._now())

    def status(self, request: Nothing) -> Server:
        return self.description

    # -- waiting

    def _wait(self, key: Key, gone: asyncio.Future[None]) -> Coroutine[Any, Any, Granted]:
        """The future exists before the next event can arrive: events are made by later runs of the event loop."""
        decided: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._callers.setdefault(key, []).append(decided)
        return self._decided_or_gone(key, decided, gone)

    async def _decided_or_gone(self, key: Key, decided: asyncio.Future[Event], gone: asyncio.Future[None]) -> Granted:
        try:
            await asyncio.wait((decided, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not decided.done():
                self._withdraw(key, decided)
        if decided.cancelled():
            raise errors.Interrupted("the caller has closed the connection")
        event = decided.result()
        if isinstance(event, Grant):
            return event.granted
        raise event.error

    def _withdraw(self, key: Key, decided: asyncio.Future[Event]) -> None:
        """Comes before what is due: that may be a grant, and this caller would not hear of it."""
        decided.cancel()
        self._callers[key].remove(decided)
        if not self._callers[key]:
            del self._callers[key]
        self._core.withdraw(*key, self._clock())
        self._set_timer(self._now())

    def _tell(self, events: list[Event], now: float) -> None:
        for event in events:
            for decided in self._callers.pop((event.session, event.ticket), ()):
                decided.set_result(event)
        self._set_timer(now)

    # -- time

    def _now(self) -> float:
        """What is due by now is done when this returns."""
        now = self._clock()
        if self._core.next_deadline() <= now:
            self._tell(self._core.tick(now), now)
        return now

    def _set_timer(self, now: float) -> None:
        """A timer that is set for an earlier moment stays: it will find nothing due, and look again."""
        due = self._core.next_deadline()
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


def build(core: Locks, token: str, url: str = "http://127.0.0.1") -> App:
    """The application alone, without a directory: `core.begin` is the caller's."""
    return LockService(core, _description(url)).app(token)


async def run(home: pathlib.Path, host: str, port: int, token: str, directory_url: str) -> None:
    """Serve until SIGTERM. Locks are granted once the directory has given a start number; nothing is kept in `home`."""
    core, peers = Locks(), Peers(token)
    service = LockService(core, _description(reachable_url(host, port, directory_url)))
    try:
        await serve(service.app(token), host, port, _stay_registered(service, core, peers, directory_url))
    finally:
        await peers.close()


async def _stay_registered(service: LockService, core: Locks, peers: Peers, directory_url: str) -> None:
    server = service.description
    service.begin(await first_registration(peers, directory_url, server, start=True))
    await heartbeat(peers, directory_url, lambda: server, lambda registered: _check_tokens(core))


def _check_tokens(core: Locks) -> None:
    """Ends this process, whose supervisor starts it anew with a new start number; holders then re-assert."""
    if core.tokens_left < TOKENS_RESERVE:
        raise errors.Internal(f"start number {core.start_number} has few tokens left")


def _description(url: str) -> Server:
    return Server(kind="locks", name="locks", url=url, pid=os.getpid())
