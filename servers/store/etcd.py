"""The engine for clusters: every key is in etcd, and all of them in a copy on the local disk of who serves.

One process serves at a time (servers/etcd/election.py), so its copy is right, and reads and transactions cost what they
cost in SQLite. What a transaction has changed waits for `sync`, which sends all that waits, whole transactions, in as
few requests as there is room for: those that come meanwhile share the next one. Each request is bound to the term: once
another process may serve, etcd takes no more. Until a sync has ended nothing of what it brings may be told to anybody,
neither as a reply nor as what a reply rests on (`answers_need_sync`); so a transaction counts when etcd's members have
it on their disks, and only then.

What cannot be sent stays, in its order, and is sent again (servers/etcd/sender.py). When the term is over all that was
not sent is gone with the copy.

Threads: `transact`, `read` and `snapshot` belong to the thread that made the store; `sync` may be called from any, one
at a time. `_mutex` guards what waits.
"""

import threading
from collections.abc import Callable

from dfsfuse import errors
from servers.etcd import writes
from servers.etcd.messages import Change
from servers.etcd.room import Room
from servers.etcd.sender import Sender
from servers.etcd.writes import Redo, Writes
from servers.store import Result, Snapshot, Store, Transaction


class EtcdTransaction:
    """Notes what is written on the way to the copy, and by how many bytes that grows."""

    def __init__(self, local: Transaction):
        self._local = local
        self.get, self.range = local.get, local.range
        self.writes: Writes = {}
        self.grows_bytes = 0

    def put(self, key: bytes, value: bytes) -> None:
        writes.check(key, value)
        self._count(key, len(key) + len(value))
        self._local.put(key, value)
        self.writes[key] = value

    def delete(self, key: bytes) -> None:
        self._count(key, 0)
        self._local.delete(key)
        self.writes[key] = None

    def _count(self, key: bytes, now: int) -> None:
        before = self._local.get(key)
        self.grows_bytes += now - (len(key) + len(before) if before is not None else 0)


class EtcdStore:
    """`local` is the copy, as etcd has the keys below `data`. `room`: whether etcd has any. Raises NotServing once the
    term is over, and NoSpace for what would take more room where etcd has none."""

    answers_need_sync = True

    def __init__(self, sender: Sender, local: Store, data: bytes, redo: bytes, room: Room):
        self._sender, self._local, self._room = sender, local, room
        self._data, self._redo = data, Redo(data, redo)
        self._mutex, self._syncing = threading.Lock(), threading.Lock()
        self._waiting: list[Writes] = []
        self._sending: list[list[Change]] = []
        self._closed = False

    # -- transactions

    def transact(self, operation: Callable[[Transaction], Result]) -> Result:
        self._sender.check()

        def run(local: Transaction) -> tuple[Result, Writes]:
            transaction = EtcdTransaction(local)
            result = operation(transaction)
            if transaction.grows_bytes > 0:
                self._room.check()
            return result, transaction.writes

        result, written = self._local.transact(run)
        if written:
            with self._mutex:
                self._waiting.append(written)
        return result

    def read(self, operation: Callable[[Transaction], Result]) -> Result:
        self._sender.check()
        return self._local.read(operation)

    def snapshot(self) -> Snapshot:
        self._sender.check()
        return self._local.snapshot()

    # -- to etcd

    def sync(self) -> None:
        """Raises NotServing: then nothing that was not sent is there."""
        with self._syncing:
            if self._closed:
                raise errors.NotServing("this server does not serve any more: another one may")
            self._take_waiting()
            while self._sending:
                self._sender.send(self._sending[0])
                with self._mutex:
                    del self._sending[0]
            self._sender.check()
            self._local.relieve()

    def _take_waiting(self) -> None:
        with self._mutex:
            self._sending += [request for each in writes.packed(self._waiting) for request in self._of(each)]
            self._waiting = []

    def _of(self, written: Writes) -> list[list[Change]]:
        if writes.fits(written):
            return [writes.changes_of(written.items(), self._data)]
        return list(self._redo.requests(written))

    @property
    def is_synced(self) -> bool:
        """Not once the term is over: then no answer is certain."""
        with self._mutex:
            return not self._waiting and not self._sending and self._sender.is_on

    def close(self) -> None:
        """After the term."""
        with self._syncing:
            self._closed = True
            self._local.close()
