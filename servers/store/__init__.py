"""The ordered store under the directory: what an engine offers, and what a transaction can do.

Keys and values are bytes; keys sort as bytes. A transaction is serializable. An operation is a function of a
transaction that an engine may run again (a clash, in an engine that has several writers), so it must have no other
effect: what is to be told to others is its return value. If it raises, nothing of it remains.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Reader(Protocol):
    """What can be read, and nothing else."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def range(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` pairs with start <= key < end, in order of keys."""


class Transaction(Reader, Protocol):
    """Reads see the transaction's own writes."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None:
        """A key that is not there is no error."""


class Snapshot(Reader, Protocol):
    """The store as it was at one moment, whatever is written meanwhile. It may be read from any thread, by one at a
    time. A disk that fails or is full ends it: then reading it is a ServerError."""

    def close(self) -> None: ...


class Store(Protocol):
    """An engine. `transact` survives a crash of the process; `sync` makes what was transacted survive a power cut. With
    `answers_need_sync` a transaction is only there once a sync has ended: until then nobody may be told of it."""

    answers_need_sync: bool

    def transact(self, operation: Callable[[Transaction], Result]) -> Result:
        """Run `operation` in a transaction of its own and return what it returned."""

    def read(self, operation: Callable[[Transaction], Result]) -> Result:
        """As `transact`, for an operation that writes nothing."""

    def snapshot(self) -> Snapshot:
        """All that was transacted so far. Whoever has asked for it closes it."""

    def sync(self) -> None:
        """Return when all that was transacted before the call is on disk. May be called from another thread."""

    @property
    def is_synced(self) -> bool:
        """Is nothing there that `sync` would have to bring to the disk?"""

    def close(self) -> None: ...


def after_prefix(prefix: bytes) -> bytes:
    """The first key beyond all keys that begin with `prefix` (which does not end in 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
