"""The engine for clusters: every key is in etcd, and all of them in a copy on the local disk of who serves.

One process serves at a time (servers/etcd/election.py), so its copy is right, and reads and transactions cost what they
cost in SQLite. What a transaction has changed waits for `sync`, which sends all that waits, whole transactions, in as
few requests as there is room for: those that come meanwhile share the next one. Each request is bound to the term: once
another process may serve, etcd takes no more. Until a sync has ended nothing of what it brings may be told to anybody,
neither as a reply nor as what a reply rests on (`answers_need_sync`); so a transaction counts when etcd's members have
it on their disks, and only then.

What cannot be sent stays, in its order, and is sent again: the same request twice changes nothing more. When the term
is over all that was not sent is gone with the copy.

Threads: `transact`, `read` and `snapshot` belong to the thread that made the store; `sync` may be called from any, one
at a time. `_mutex` guards what waits.
"""

import threading
import time
from collections.abc import Callable

from dfsfuse import errors
from servers.etcd import writes
from servers.etcd.client import EtcdClient
from servers.etcd.election import Term
from servers.etcd.messages import Change
from servers.etcd.writes import Redo, Writes
from servers.store import Result, Snapshot, Store, Transaction

_PAUSE_S = 0.05


class EtcdTransaction:
    """Notes what is written on the way to the copy."""

    def __init__(self, local: Transaction):
        self._local = local
        self.get, self.range = local.get, local.range
        self.writes: Writes = {}

    def put(self, key: bytes, value: bytes) -> None:
        writes.check(key, value)
        self._local.put(key, value)
        self.writes[key] = value

    def delete(self, key: bytes) -> None:
        self._local.delete(key)
        self.writes[key] = None


class EtcdStore:
    """`local` is the copy, as etcd has the keys below `data`. Raises NotServing once the term is over."""

    answers_need_sync = True

    def __init__(self, client: EtcdClient, term: Term, local: Store, data: bytes, redo: bytes):
        self._client, self._term, self._local = client, term, local
        self._data, self._redo = data, Redo(data, redo)
        self._mutex, self._syncing = threading.Lock(), threading.Lock()
        self._waiting: list[Writes] = []
        self._sending: list[list[Change]] = []

    # -- transactions

    def transact(self, operation: Callable[[Transaction], Result]) -> Result:
        self._check_term()

        def run(local: Transaction) -> tuple[Result, Writes]:
            transaction = EtcdTransaction(local)
            return operation(transaction), transaction.writes

        result, written = self._local.transact(run)
        if written:
            with self._mutex:
                self._waiting.append(written)
        return result

    def read(self, operation: Callable[[Transaction], Result]) -> Result:
        self._check_term()
        return self._local.read(operation)

    def snapshot(self) -> Snapshot:
        return self._local.snapshot()

    def _check_term(self) -> None:
        if not self._term.is_on:
            raise errors.NotServing("this directory server does not serve any more: another one may")

    # -- to etcd

    def sync(self) -> None:
        """Raises Unreachable while etcd is, NotServing, and NoSpace: what is not sent yet is sent by the next one."""
        with self._syncing:
            self._take_waiting()
            while self._sending:
                self._send(self._sending[0])
                with self._mutex:
                    del self._sending[0]
            self._local.relieve()
        self._check_term()

    def _take_waiting(self) -> None:
        with self._mutex:
            waiting, self._waiting = self._waiting, []
            self._sending += [request for each in writes.packed(waiting) for request in self._of(each)]

    def _of(self, written: Writes) -> list[list[Change]]:
        if writes.fits(written):
            return [writes.changes_of(written.items(), self._data)]
        return list(self._redo.requests(written))

    def _send(self, changes: list[Change]) -> None:
        """Asked again as long as the term lasts: nobody else can have answered it meanwhile."""
        while True:
            self._check_term()
            try:
                reply = self._client.transact([self._term.holds()], changes, timeout_s=max(0.05, self._term.left_s))
            except errors.Unreachable:
                time.sleep(_PAUSE_S)
                continue
            if not reply.succeeded:
                self._term.end()
                self._check_term()
            return

    @property
    def is_synced(self) -> bool:
        with self._mutex:
            return not self._waiting and not self._sending

    def close(self) -> None:
        self._local.close()
