"""A copy of all keys of a store in etcd, which follows them.

All keys as they were at one revision, page by page, and from then on what changes, in order. What was told already may
be told again: then the copy becomes what it was, and what it is.

Threads: one.
"""

import logging
from collections.abc import Callable

from dfsfuse import errors
from servers.etcd.client import EtcdClient
from servers.etcd.keys import Keys
from servers.etcd.messages import Event, Pair, RangeReply
from servers.store import Transaction, after_prefix
from servers.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

_FIRST_PAGE, _PAGE_MAX = 100, 5000
_PAGE_BYTES = 4 << 20
_PAGE_S = 10.0
_SILENCE_S, _SILENCE_S_MAX = 1.0, 60.0
"""For how long nothing of etcd is taken for nothing new. One who is told much at once waits for it longer."""


class Copy:
    """`load` comes first. `revision`: the copy is as etcd was then. `stopping()` ends what takes long, with
    Unreachable. Raises Unreachable, Compacted."""

    def __init__(self, client: EtcdClient, keys: Keys, store: SqliteStore, stopping: Callable[[], bool]):
        self._client, self._keys, self.store, self._stopping = client, keys, store, stopping
        self.revision = self._seen = self._sent = 0
        self._silence_s = _SILENCE_S

    # -- all keys

    def load(self) -> None:
        start, revision, limit = self._keys.data, 0, _FIRST_PAGE
        while True:
            page, limit = self._page(start, limit, revision)
            revision = revision or page.header.revision
            self.store.transact(lambda tx: [tx.put(self._name_of(pair), pair.value) for pair in page.kvs])  # noqa: B023
            self.store.relieve()
            if not page.more:
                break
            start = page.kvs[-1].key + b"\0"
        self.revision = self._seen = revision
        (sent,) = self._client.range(self._keys.sent, revision=revision).kvs or [Pair()]
        self._sent = sent.mod_revision

    def _page(self, start: bytes, limit: int, revision: int) -> tuple[RangeReply, int]:
        """Pairs from `start` on, and how many to ask for next: rows are of any size."""
        while True:
            if self._stopping():
                raise errors.Unreachable("it is not waited for any more")
            try:
                page = self._client.range(start, after_prefix(self._keys.data), limit, revision, _PAGE_S)
            except errors.Unreachable:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            taken = sum(len(pair.key) + len(pair.value) for pair in page.kvs)
            return page, max(1, min(_PAGE_MAX, 2 * limit, limit * _PAGE_BYTES // max(taken, 1)))

    def _name_of(self, pair: Pair) -> bytes:
        return pair.key[len(self._keys.data) :]

    # -- what changes

    def follow(self, until: int = 0) -> None:
        """Until the copy has this revision; 0: until there is nothing new for a while, or nobody serves."""
        base, before = self._keys.base, self._seen
        try:
            for told in self._client.watch(base, after_prefix(base), self.revision + 1, self._silence_s):
                if self._stopping():
                    return
                vacant = self._apply(told.events)
                # What is told at first has the revision of now, and not that of the events before it.
                self._seen = max([self._seen, *(event.kv.mod_revision for event in told.events)])
                if not told.fragment:
                    self.revision = self._seen
                if (until and self.revision >= until) or (vacant and not until):
                    return
        except errors.Unreachable:
            self._silent(self._seen > before)

    def _silent(self, told_something: bool) -> None:
        """Nothing came. What is not told of yet shows in the number of the latest request, which comes along with each
        change; if there is none, the copy is as new as that answer, whatever else has changed in etcd."""
        reply = self._client.range(self._keys.sent)
        (sent,) = reply.kvs or [Pair()]
        if sent.mod_revision == self._sent:
            self.revision = self._seen = max(self.revision, reply.header.revision)
            self._silence_s = _SILENCE_S
        elif not told_something:
            self._silence_s = min(2 * self._silence_s, _SILENCE_S_MAX)

    def _apply(self, events: list[Event]) -> bool:
        """Has whoever serves gone?"""
        data = [event for event in events if event.kv.key.startswith(self._keys.data)]
        if data:
            self.store.transact(lambda tx: [self._put(tx, event) for event in data])
            self.store.relieve()
        sent = [event.kv.mod_revision for event in events if event.kv.key == self._keys.sent]
        self._sent = max([self._sent, *sent])
        serving = [event for event in events if event.kv.key == self._keys.serving]
        return bool(serving) and serving[-1].type == "DELETE"

    def _put(self, tx: Transaction, event: Event) -> None:
        if event.type == "DELETE":
            tx.delete(self._name_of(event.kv))
        else:
            tx.put(self._name_of(event.kv), event.kv.value)

    def close(self) -> None:
        self.store.close()
