"""The embedded engine: one table of keys and values in SQLite, in write-ahead-log mode.

synchronous=NORMAL: a commit is in the log file, so a killed process loses nothing; the log reaches the disk by `sync`,
which the directory calls twice a second where there is something new, and for every durable operation. So several
durable commits share one fdatasync, and none of them holds up the others (https://sqlite.org/wal.html;
docs/PERFORMANCE.md has the costs).

The kernel reports once that the log could not be written, and takes the lost pages for clean. After that no fdatasync
of the log says anything, so all of it is brought into the database, and the log begins anew.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from dfsfuse.errors import NoSpace, ServerError, from_os_error
from servers.store import Result, Transaction
from servers.store.sqlite_snapshot import SqliteSnapshot

_CHECKPOINT_BYTES = 8 << 20
_KNOWN_MAX, _KNOWN_BYTES_MAX = 20_000, 1024
"""Values kept in memory, and the largest one. Segments of manifests are larger, and are read rarely."""
_TABLE = "CREATE TABLE IF NOT EXISTS pairs (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "wal_autocheckpoint=0",
    # A log that was brought into the database is begun again from its start, but its file keeps its size unless this
    # cuts it: and then every later sync would think that it is time for a checkpoint.
    f"journal_size_limit={_CHECKPOINT_BYTES // 2}",
    "cache_size=-16384",
)


class SqliteTransaction:
    """Reads and writes of the running transaction. Values that were read or written lately are kept in memory, which is
    right because all writes come through here; what a failed transaction wrote is forgotten again."""

    def __init__(self, connection: sqlite3.Connection):
        self._execute = connection.execute
        self._known: dict[bytes, bytes | None] = {}
        self._written: list[bytes] = []

    def begin(self) -> None:
        self._written.clear()
        self.make_room()

    def make_room(self) -> None:
        if len(self._known) > _KNOWN_MAX:
            self._known.clear()

    @property
    def writes(self) -> bool:
        """Has it written anything?"""
        return bool(self._written)

    def commit(self) -> None:
        if self._written:
            self._execute("COMMIT")

    def roll_back(self) -> None:
        for key in self._written:
            self._known.pop(key, None)

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._known[key]
        except KeyError:
            row = self._execute("SELECT value FROM pairs WHERE key = ?", (key,)).fetchone()
        value = row and row[0]
        self._remember(key, value)
        return value

    def _remember(self, key: bytes, value: bytes | None) -> None:
        if value is None or len(value) <= _KNOWN_BYTES_MAX:
            self._known[key] = value
        else:
            self._known.pop(key, None)

    def range(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        query = "SELECT key, value FROM pairs WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        return self._execute(query, (start, end, limit)).fetchall()

    def _write(self, key: bytes) -> None:
        """The transaction begins with its first write: one that only reads costs the disk nothing."""
        if not self._written:
            self._execute("BEGIN IMMEDIATE")
        self._written.append(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._write(key)
        self._remember(key, value)
        self._execute("INSERT OR REPLACE INTO pairs VALUES (?, ?)", (key, value))

    def delete(self, key: bytes) -> None:
        self._write(key)
        self._known[key] = None
        self._execute("DELETE FROM pairs WHERE key = ?", (key,))


class SqliteStore:
    """Threads: `transact` belongs to the thread that made the store. `sync` may be called from any; `_syncing` lets one
    in at a time, and its checkpoint has a connection of its own, which the writer never waits for. Snapshots are read
    and closed in any thread; `_snapshots` is a list whose changes are atomic. `_commits` is counted up by the writer
    once a commit is in the log; `_synced_commits`, of how many of these the log is on the disk, by who syncs."""

    answers_need_sync = False

    def __init__(self, path: Path):
        self._path = path
        try:
            self._connection = _connect(path)
            self._connection.execute(_TABLE)
            self._checkpointer = _connect(path)
        except sqlite3.Error as error:
            raise _meaning(error, path) from error
        self._transaction = SqliteTransaction(self._connection)
        self._log_file = os.open(f"{path}-wal", os.O_RDONLY)
        self._syncing = threading.Lock()
        self._log_is_doubtful = False
        # What an earlier process has not synced counts as one.
        self._commits, self._synced_commits = 1, 0
        self._snapshots: list[SqliteSnapshot] = []

    def transact(self, operation: Callable[[Transaction], Result]) -> Result:
        try:
            self._transaction.begin()
            result = operation(self._transaction)
            self._transaction.commit()
            self._commits += self._transaction.writes
            return result
        except sqlite3.Error as error:
            self._roll_back()
            self._end_snapshots()
            raise _meaning(error, self._path) from error
        except BaseException:
            self._roll_back()
            raise

    def read(self, operation: Callable[[Transaction], Result]) -> Result:
        """All writes come from this thread, so nothing can change between two reads: no BEGIN is needed."""
        try:
            self._transaction.make_room()
            return operation(self._transaction)
        except sqlite3.Error as error:
            raise _meaning(error, self._path) from error

    def snapshot(self) -> SqliteSnapshot:
        try:
            made = SqliteSnapshot(_connect(self._path), self._snapshots.remove)
        except sqlite3.Error as error:
            raise _meaning(error, self._path) from error
        self._snapshots.append(made)
        return made

    def _end_snapshots(self) -> None:
        """While one is read, the log cannot begin anew: it grows with each transaction."""
        for snapshot in list(self._snapshots):
            snapshot.end()

    def _roll_back(self) -> None:
        self._transaction.roll_back()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def sync(self) -> None:
        """Raises NoSpace or ServerError where the disk fails."""
        try:
            with self._syncing:
                commits = self._commits
                self._sync_log()
                self._synced_commits = commits
                self._checkpoint_if_large()
        except OSError as error:
            raise from_os_error(error, "bringing the directory's log to the disk") from error
        except sqlite3.Error as error:
            raise _meaning(error, self._path) from error

    def _checkpoint_if_large(self) -> None:
        if os.fstat(self._log_file).st_size > _CHECKPOINT_BYTES:
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def relieve(self) -> None:
        """Keep the log from growing, for who never syncs. As `sync`, from any thread."""
        try:
            with self._syncing:
                self._checkpoint_if_large()
        except sqlite3.Error as error:
            raise _meaning(error, self._path) from error

    @property
    def is_synced(self) -> bool:
        return self._synced_commits == self._commits

    def _sync_log(self) -> None:
        if self._log_is_doubtful:
            self._empty_log()
        try:
            os.fdatasync(self._log_file)
        except OSError:
            self._log_is_doubtful = True
            raise

    def _empty_log(self) -> None:
        self._end_snapshots()
        (busy, _, _) = self._checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise ServerError("the directory's log could not be brought into the database; it is tried again")
        self._log_is_doubtful = False

    def close(self) -> None:
        self._end_snapshots()
        with self._syncing:
            self._checkpointer.close()
            self._connection.close()
            os.close(self._log_file)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64, timeout=30)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _meaning(error: sqlite3.Error, path: Path) -> ServerError:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return NoSpace(f"the directory's disk is full ({path.name}); nothing was changed")
    return ServerError(f"the directory's store fails ({path.name}): {error}; nothing was changed")
