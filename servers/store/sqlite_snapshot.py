"""The embedded engine as it was at one moment: a connection of its own, in a transaction that only reads.

In write-ahead-log mode readers and the writer do not wait for each other. What a reader costs is that the log cannot
begin anew while it lasts (https://sqlite.org/wal.html#avoiding_excessively_large_wal_files).
"""

import sqlite3
import threading
from collections.abc import Callable

from dfsfuse.errors import ServerError


class SqliteSnapshot:
    """Threads: any; `_mutex` lets one in at a time, so `end`, which the store calls, waits for a read at most."""

    def __init__(self, connection: sqlite3.Connection, on_close: Callable[["SqliteSnapshot"], None]):
        self._mutex, self._on_close = threading.Lock(), on_close
        self._connection: sqlite3.Connection | None = connection
        connection.execute("BEGIN")
        # A transaction has its moment with its first read.
        connection.execute("SELECT key FROM pairs LIMIT 1").fetchone()

    def get(self, key: bytes) -> bytes | None:
        rows = self._all("SELECT value FROM pairs WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def range(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        query = "SELECT key, value FROM pairs WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        return self._all(query, (start, end, limit))

    def _all(self, query: str, values: tuple) -> list[tuple]:
        with self._mutex:
            if self._connection is None:
                raise ServerError("the directory's disk is full or fails, which has ended this; begin it again")
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise ServerError(f"the directory's store cannot be read: {error}") from error

    def end(self) -> None:
        """From now on it cannot be read."""
        with self._mutex:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._on_close(self)

    close = end
