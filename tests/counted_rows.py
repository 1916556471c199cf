"""A store that counts the rows which are read and written: what an operation costs, without a clock."""

from collections.abc import Callable

from servers.store import Result, Snapshot, Store, Transaction


class _Counted:
    """A transaction that counts its rows."""

    def __init__(self, tx: Transaction):
        self._tx, self.rows = tx, 0

    def get(self, key: bytes) -> bytes | None:
        self.rows += 1
        return self._tx.get(key)

    def range(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        found = self._tx.range(start, end, limit)
        self.rows += 1 + len(found)
        return found

    def put(self, key: bytes, value: bytes) -> None:
        self.rows += 1
        self._tx.put(key, value)

    def delete(self, key: bytes) -> None:
        self.rows += 1
        self._tx.delete(key)


class CountingStore:
    """`rows`: of all transactions on `store` so far; `most`: of the one that had most. Snapshots are not counted: they
    are read in threads of their own."""

    answers_need_sync = False

    def __init__(self, store: Store):
        self._store = store
        self.rows = self.most = 0

    def transact(self, operation: Callable[[Transaction], Result]) -> Result:
        return self._store.transact(lambda tx: self._run(operation, tx))

    def read(self, operation: Callable[[Transaction], Result]) -> Result:
        return self._store.read(lambda tx: self._run(operation, tx))

    def _run(self, operation: Callable[[Transaction], Result], tx: Transaction) -> Result:
        counted = _Counted(tx)
        try:
            return operation(counted)
        finally:
            self.rows += counted.rows
            self.most = max(self.most, counted.rows)

    def snapshot(self) -> Snapshot:
        return self._store.snapshot()

    def sync(self) -> None:
        self._store.sync()

    def close(self) -> None:
        self._store.close()
