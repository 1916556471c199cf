"""The lease on all that this client holds at the lock service: one renewal a second that lists it, and the tickets.

The lease counts from when the last answered renewal was SENT. Requests carry tickets, which are one row of numbers; a
renewal names those that are under way, so that the service can tell a grant that was never received from one that this
client did not know of yet. For that a ticket is over only after its outcome is in the table that it belongs to, and a
renewal looks at the tickets first and at the tables then.

Threads: `_mutex` guards the tickets; it is never held across a request, nor while a part is asked. One thread renews;
`_renewed` (a condition) guards how often. `_renewed_s`, when the latest answered renewal was sent, is a simple value.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Literal, Protocol

from dfsfuse import errors
from dfsfuse.messages import Message, RenewedLocks, RenewLocks
from dfsfuse.rpc import unless_moved
from dfsfuse.session import Session, boottime_s
from dfsfuse.waiting import Interrupted, never

log = logging.getLogger(__name__)

LEASE_S = 8.0
RENEW_EVERY_S = 1.0
HEARD_S = 50.0
"""Without an answer of the directory for so long no lock is kept, nor taken. The directory, which tells a lock service
that starts whom it has to wait for, takes locks for gone after 60 s."""
_ANSWER_S = 5.0
_SOON_S = 0.05
_NOW_S = 0.5

Queue = Literal["locks", "ranges"]


class Part(Protocol):
    """A table of what is held."""

    def list_held(self, request: RenewLocks) -> None:
        """Add all that is held."""

    def take_over(self, request: RenewLocks, reply: RenewedLocks, until_s: float) -> None:
        """The answer; what it confirms is held until then."""


class LockLease:
    """`start` begins the renewals, `close` ends them."""

    def __init__(self, session: Session):
        self._session = session
        self._mutex = threading.Lock()
        self._under_way: set[int] = set()
        self._queued: dict[Queue, set[int]] = {"locks": set(), "ranges": set()}
        self._last_ticket = self._renewals = self._start_number = 0
        self._parts: list[Part] = []
        self._on_wanted: list[Callable[[dict[int, float]], None]] = []
        self._renewed = threading.Condition()
        self._begun = self._answered = 0
        self._renewed_s = -LEASE_S
        self._stopping, self._due = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._renew_for_ever, name="renew-locks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join()

    def join(self, part: Part) -> None:
        self._parts.append(part)

    def on_wanted(self, tell: Callable[[dict[int, float]], None]) -> None:
        """`tell({inode: for how many seconds another client has waited})` after each renewal; it must not wait."""
        self._on_wanted.append(tell)

    # -- for the tables

    def ask(
        self,
        operation: str,
        request: Message,
        reply: type,
        timeout_s: float,
        interrupted: Interrupted = never,
        patient: bool = False,
    ) -> Any:
        """Of the lock service. Raises what `Rpc.call` does; Unreachable also once the service is elsewhere, which is
        then to be asked."""
        locks = self._session.cluster.locks
        if locks is None:
            raise errors.Unreachable("the cluster has no lock service yet")
        call, url = self._session.rpc.call, locks.url
        return unless_moved(
            lambda given_up: call(url, operation, request, reply, timeout_s, given_up, patient=patient),
            lambda: self._is_elsewhere(url),
            interrupted,
        )

    def ask_for_lock(
        self, operation: str, request: Message, reply: type, timeout_s: float, interrupted: Interrupted = never
    ) -> Any:
        """The same for what takes a lock. Raises Unreachable as long as none would be kept, as the directory does not
        answer: whoever asks waits for it as for the lock service itself."""
        self._check_heard()
        return self.ask(operation, request, reply, timeout_s, interrupted)

    def _is_elsewhere(self, url: str) -> bool:
        """Then it waits for what this client holds: nobody else is granted anything before."""
        locks = self._session.cluster.locks
        if locks is None or locks.url == url:
            return False
        self._due.set()
        return True

    def answer_s(self) -> float:
        """How long the service may take to answer what it answers at once."""
        return min(_ANSWER_S, self._session.timeout_s)

    def granted_until_s(self, sent_s: float, lease_s: float) -> float:
        """How long a grant holds that was asked for at `sent_s`: the lease runs from the renewals during the wait, if
        there were any; where this machine slept meanwhile, or nobody answered, it may be over."""
        self._check_heard()
        return max(sent_s, self._renewed_s) + lease_s

    def _check_heard(self) -> None:
        silent_s = boottime_s() - self._session.heard_s
        if silent_s > HEARD_S:
            raise errors.Unreachable(f"the directory has not answered for {silent_s:.0f} s: no locks without it")

    def new_tickets(self, count: int = 1, queue: Queue | None = None) -> range:
        """`queue`: they wait there for their turn."""
        with self._mutex:
            tickets = range(self._last_ticket + 1, self._last_ticket + 1 + count)
            self._last_ticket += count
            self._under_way.update(tickets)
            if queue is not None:
                self._queued[queue].update(tickets)
            return tickets

    def over(self, tickets: range) -> None:
        with self._mutex:
            for known in (self._under_way, *self._queued.values()):
                known.difference_update(tickets)

    # -- renewals

    def renew_soon(self) -> None:
        """Something was given up that the service need not keep for a second."""
        self._due.set()

    def renew_now(self) -> None:
        """The service knows what has been given up until now when this returns, if it answers within _NOW_S."""
        with self._renewed:
            wanted = self._begun + 1
            self._due.set()
            if self._thread.is_alive():
                self._renewed.wait_for(lambda: self._answered >= wanted, _NOW_S)

    def renew(self) -> None:
        self._check_heard()
        with self._mutex:
            self._renewals += 1
            # In this order: nothing that is asked for in a later session is held by this renewal.
            sent_s, session, queued = boottime_s(), self._session, self._queued
            request = RenewLocks(
                session=session.id, number=self._renewals, start_number=self._start_number,
                host=session.identity.host, waiting=sorted(self._under_way),
                last_ticket=self._last_ticket, queued=sorted(queued["locks"]), queued_ranges=sorted(queued["ranges"]),
            )  # fmt: skip
        for part in self._parts:
            part.list_held(request)
        reply: RenewedLocks = self.ask("renew", request, RenewedLocks, _ANSWER_S)
        for part in self._parts:
            part.take_over(request, reply, sent_s + LEASE_S)
        self._renewed_s = sent_s
        if reply.start_number != self._start_number:
            # It has started, and waits for a renewal that is no older than that.
            self._start_number = reply.start_number
            self._due.set()
        wanted = {row.ino: row.waited_s for row in reply.wanted}
        for tell in self._on_wanted if wanted else ():
            tell(wanted)

    def _renew_for_ever(self) -> None:
        silent = False
        while not self._stopping.is_set():
            if self._due.wait(RENEW_EVERY_S):
                # What else is given up in the same moment goes along.
                self._stopping.wait(_SOON_S)
            self._due.clear()
            if self._stopping.is_set():
                return
            try:
                with self._renewed:
                    self._begun += 1
                self.renew()
                silent = False
                with self._renewed:
                    self._answered = self._begun
                    self._renewed.notify_all()
            except errors.DfsError as error:
                if not silent:
                    log.warning("locks cannot be renewed: %s", error)
                silent = True
            except Exception:
                log.exception("renewing locks failed")
