"""Who of several candidates serves: the one whose key is there, for as long as its lease lives.

    KEY -> what others are told of it (its URL)     made with a lease, where it is not there

A term is known by the revision at which its key was made. Whatever the one who serves changes in etcd is bound to that
revision, so nothing of it takes effect once the key is gone; and it knows by its own clock that its lease may be over,
before anybody else can be elected: the lease counts from when its latest answered renewal was sent (the clock goes on
while the machine sleeps). So of two candidates never both think that they serve.

Threads: `Term` renews itself in a thread of its own; the rest is one thread's.
"""

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors
from servers.etcd.client import EtcdClient
from servers.etcd.messages import Change, Compare, Pair, Put, RangeRequest

log = logging.getLogger(__name__)

TERM_S = 3
"""The shortest lease: an election within it is not called off where one of three members of etcd has died."""
_RENEW_EVERY_S = 0.5
_MARGIN_S = 0.25
"""For what the clocks of two machines run apart in a term, and for an answer to get under way."""


class Holder(NamedTuple):
    """Who serves, as etcd has it: what it has told of itself, and the revision that its term is known by."""

    value: bytes
    revision: int


class Term:
    """While `is_on`, nobody else is elected. `on_end()` is told once, in the term's own thread, when it is not."""

    def __init__(
        self, client: EtcdClient, key: bytes, lease: int, revision: int, sent_s: float, clock: Callable[[], float]
    ):
        self._client, self.key, self._lease, self.revision = client, key, lease, revision
        self._clock, self._until_s = clock, sent_s + TERM_S - _MARGIN_S
        self._ending, self._mutex = threading.Event(), threading.Lock()
        self._on_end: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._renew_on, name="term", daemon=True)
        self._thread.start()

    @property
    def is_on(self) -> bool:
        return not self._ending.is_set() and self._clock() < self._until_s

    @property
    def left_s(self) -> float:
        return 0.0 if self._ending.is_set() else max(0.0, self._until_s - self._clock())

    def holds(self) -> Compare:
        """What each change is bound to."""
        return Compare(self.key, create_revision=self.revision)

    def on_end(self, tell: Callable[[], None]) -> None:
        """Told at once where it is over already."""
        with self._mutex:
            over = self._ending.is_set()
            if not over:
                self._on_end.append(tell)
        if over:
            tell()

    def end(self) -> None:
        """Others may serve at once."""
        self._over()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        try:
            self._client.revoke(self._lease, 1.0)
        except errors.DfsError as error:
            log.warning("the term could not be ended, it runs out by itself: %s", error)

    def _over(self) -> None:
        with self._mutex:
            self._ending.set()
            told, self._on_end = self._on_end, []
        for tell in told:
            tell()

    def _renew_on(self) -> None:
        try:
            while not self._ending.wait(min(_RENEW_EVERY_S, self.left_s)):
                if not self.is_on or not self._renew():
                    break
        except Exception:
            log.exception("the term ends, as its renewal failed")
        finally:
            self._over()

    def _renew(self) -> bool:
        sent_s = self._clock()
        try:
            if not self._client.keep_alive(self._lease, max(0.05, self.left_s)):
                log.warning("the term is over: etcd has ended its lease")
                return False
        except errors.DfsError as error:
            log.warning("the term cannot be renewed: %s", error)
            return True
        self._until_s = sent_s + TERM_S - _MARGIN_S
        return True


class Election:
    """For the key `key`; `value` is what others are told of this candidate. `clock` counts seconds, also those in which
    the machine sleeps."""

    def __init__(self, client: EtcdClient, key: bytes, value: bytes, clock: Callable[[], float]):
        self._client, self.key, self._value, self._clock = client, key, value, clock
        self._lease = 0

    def holder(self) -> Holder | None:
        """Who else serves now."""
        pair = self._client.get(self.key)
        return Holder(pair.value, pair.create_revision) if pair is not None and not self._is_mine(pair) else None

    def _is_mine(self, pair: Pair) -> bool:
        """It came of an earlier try, whose answer was lost."""
        return self._lease != 0 and pair.lease == self._lease

    def try_once(self) -> Term | Holder:
        """This candidate's term where nobody serves; else who does. Raises Unreachable."""
        sent_s = self._clock()
        if not self._lease or not self._client.keep_alive(self._lease):
            sent_s = self._clock()
            self._lease = self._client.grant(TERM_S)
        free = Compare(self.key, create_revision=0)
        put = Change(request_put=Put(self.key, self._value, self._lease))
        reply = self._client.transact([free], [put], [Change(request_range=RangeRequest(self.key))])
        if reply.succeeded:
            return self._term(reply.header.revision, sent_s)
        (pair,) = reply.responses[0].response_range.kvs
        if self._is_mine(pair):
            return self._term(pair.create_revision, sent_s)
        return Holder(pair.value, pair.create_revision)

    def _term(self, revision: int, sent_s: float) -> Term:
        lease, self._lease = self._lease, 0
        return Term(self._client, self.key, lease, revision, sent_s, self._clock)


def holder_of(client: EtcdClient, volume: str) -> str:
    """What the server that serves the volume's directory has told of itself; empty where none does."""
    pair = client.get(client.address.below("volume", volume) + b"serving")
    return pair.value.decode() if pair is not None else ""
