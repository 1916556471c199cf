"""The engine for tests and simulation: a sorted list in memory. Nothing survives the process."""

from bisect import bisect_left, insort
from collections.abc import Callable
from itertools import islice

from servers.store import Result, Transaction


class MemoryTransaction:
    """Writes wait in `changes` (None: deleted) until the store applies them."""

    def __init__(self, store: "MemoryStore"):
        self._store = store
        self.changes: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.changes[key] if key in self.changes else self._store.values.get(key)

    def range(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        keys, limit = self._store.keys, max(0, limit)
        changed = [key for key in self.changes if start <= key < end]
        first = bisect_left(keys, start)
        # As many of these may be deleted as are changed.
        last = min(len(keys), first + limit + len(changed))
        stored = keys[first : bisect_left(keys, end, first, last)] if first < last and keys[first] < end else []
        if not changed:
            return [(key, self._store.values[key]) for key in stored]
        pairs = ((key, self.get(key)) for key in sorted({*stored, *changed}))
        return list(islice((pair for pair in pairs if pair[1] is not None), limit))

    def put(self, key: bytes, value: bytes) -> None:
        self.changes[key] = value

    def delete(self, key: bytes) -> None:
        self.changes[key] = None


class MemorySnapshot:
    """A copy of everything: values are bytes, which never change."""

    def __init__(self, keys: list[bytes], values: dict[bytes, bytes]):
        self._keys, self._values = keys, values

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def range(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        first = bisect_left(self._keys, start)
        after = min(bisect_left(self._keys, end), first + max(0, limit))
        return [(key, self._values[key]) for key in self._keys[first:after]]

    def close(self) -> None:
        pass


class MemoryStore:
    """Threads: one; a simulation runs everything in its own."""

    answers_need_sync = False

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: dict[bytes, bytes] = {}

    def transact(self, operation: Callable[[Transaction], Result]) -> Result:
        transaction = MemoryTransaction(self)
        result = operation(transaction)
        for key, value in transaction.changes.items():
            self._apply(key, value)
        return result

    def read(self, operation: Callable[[Transaction], Result]) -> Result:
        return operation(MemoryTransaction(self))

    def snapshot(self) -> "MemorySnapshot":
        return MemorySnapshot(self.keys.copy(), self.values.copy())

    def _apply(self, key: bytes, value: bytes | None) -> None:
        known = key in self.values
        if value is None:
            if known:
                del self.values[key]
                del self.keys[bisect_left(self.keys, key)]
            return
        if not known:
            insort(self.keys, key)
        self.values[key] = value

    def sync(self) -> None:
        pass

    @property
    def is_synced(self) -> bool:
        return True

    def close(self) -> None:
        pass
