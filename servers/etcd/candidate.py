"""Who waits to serve, with a copy of all keys that follows etcd, so that it can at once.

    base/serving     who serves (election.py)
    base/locking     whose locks count
    base/data/       the keys of the store
    base/redo/       a large transaction on its way (writes.py)

The copy is made anew at each start: all keys as they were at one revision, page by page, and from then on what changes,
in order. Its own election is among what changes, so when it has come to that it has all that was before.

Threads: `wait` runs in one of its own; `stop` may be called from any.
"""

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors
from servers.etcd.client import Compacted, EtcdClient
from servers.etcd.election import Election, Holder, Term
from servers.etcd.messages import Event, Pair
from servers.etcd.vacancy import Ended
from servers.etcd.writes import Redo
from servers.store import after_prefix
from servers.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

_PAGE = 2000
_SILENCE_S = 1.0
"""For how long nothing of etcd is taken for nothing new; then the one who serves is looked for."""
_PAUSE_S = 0.1


class Keys(NamedTuple):
    base: bytes

    @property
    def serving(self) -> bytes:
        return self.base + b"serving"

    @property
    def locking(self) -> bytes:
        return self.base + b"locking"

    @property
    def data(self) -> bytes:
        return self.base + b"data/"

    @property
    def redo(self) -> bytes:
        return self.base + b"redo/"


class Elected(NamedTuple):
    """The copy has all that was there when the term began."""

    term: Term
    copy: SqliteStore

    def give_up(self) -> None:
        self.term.end()
        self.copy.close()


class Candidate:
    """`make_copy()` gives an empty store. `on_holder` is told of each who is seen to serve, None: nobody."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        election: Election,
        make_copy: Callable[[], SqliteStore],
        on_holder: Callable[[Holder | None], None],
    ):
        self._client, self._keys, self._election = client, keys, election
        self._make_copy, self._on_holder = make_copy, on_holder
        self._stopping = threading.Event()
        self._copy: SqliteStore | None = None
        self._revision = 0

    def stop(self) -> None:
        self._stopping.set()

    def wait(self) -> Elected:
        """Until this one is elected. Raises Ended."""
        try:
            while True:
                try:
                    self._load()
                    return self._follow_and_run()
                except (Compacted, errors.NotServing) as error:
                    log.warning("the copy is made anew: %s", error)
        finally:
            self._drop_copy()

    # -- the copy

    def _load(self) -> None:
        self._drop_copy()
        copy = self._copy = self._make_copy()
        start, end, revision = self._keys.data, after_prefix(self._keys.data), 0
        while True:
            page = self._patiently(lambda: self._client.range(start, end, _PAGE, revision))  # noqa: B023
            revision = revision or page.header.revision
            copy.transact(lambda tx: [tx.put(self._name_of(pair), pair.value) for pair in page.kvs])  # noqa: B023
            copy.relieve()
            if not page.more:
                break
            start = page.kvs[-1].key + b"\0"
        self._revision = revision

    def _drop_copy(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.close()

    def _name_of(self, pair: Pair) -> bytes:
        return pair.key[len(self._keys.data) :]

    def _patiently(self, ask: Callable[[], object]) -> object:
        while True:
            if self._stopping.is_set():
                raise Ended
            try:
                return ask()
            except errors.Unreachable as error:
                log.warning("etcd does not answer: %s", error)
                self._stopping.wait(_PAUSE_S)

    def _follow(self, until: int) -> None:
        """Until the copy has this revision; 0: until there is nothing new for a while, or nobody serves."""
        base = self._keys.base
        try:
            for told in self._client.watch(base, after_prefix(base), self._revision + 1, _SILENCE_S):
                if self._stopping.is_set():
                    raise Ended
                vacant = self._apply(told.events)
                # What is told at first has the revision of now, and not that of the events before it.
                self._revision = max([self._revision, *(event.kv.mod_revision for event in told.events)])
                if (until and self._revision >= until) or (vacant and not until):
                    return
        except errors.Unreachable:
            if self._stopping.is_set():
                raise Ended from None

    def _apply(self, events: list[Event]) -> bool:
        """Has whoever serves gone?"""
        data = [event for event in events if event.kv.key.startswith(self._keys.data)]
        if data:
            self._copy.transact(lambda tx: [self._put(tx, event) for event in data])
            self._copy.relieve()
        serving = [event for event in events if event.kv.key == self._keys.serving]
        return bool(serving) and serving[-1].type == "DELETE"

    def _put(self, tx: object, event: Event) -> None:
        if event.type == "DELETE":
            tx.delete(self._name_of(event.kv))
        else:
            tx.put(self._name_of(event.kv), event.kv.value)

    # -- the election

    def _follow_and_run(self) -> Elected:
        while True:
            found = self._patiently(self._run)
            if isinstance(found, Term):
                return self._begin(found)
            self._on_holder(found)
            self._follow(until=0)

    def _run(self) -> Term | Holder:
        holder = self._election.holder()
        return holder if holder is not None else self._election.try_once()

    def _begin(self, term: Term) -> Elected:
        """What was there before the term, and what the one before has begun, is in the copy."""
        try:
            self._catch_up(term, term.revision)
            revision = self._redo(term)
            self._catch_up(term, revision)
            copy, self._copy = self._copy, None
            return Elected(term, copy)
        except BaseException:
            term.end()
            raise

    def _redo(self, term: Term) -> int:
        """The revision at which nothing is left to do."""
        revision = term.revision
        for changes in Redo(self._keys.data, self._keys.redo).left(self._client):
            reply = self._client.transact([term.holds()], changes)
            if not reply.succeeded:
                raise errors.NotServing("the term was over before it began")
            revision = reply.header.revision
        return revision

    def _catch_up(self, term: Term, revision: int) -> None:
        while self._revision < revision:
            if not term.is_on:
                raise errors.NotServing("the term was over before it began")
            self._follow(revision)
