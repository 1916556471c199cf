"""In which pack each small chunk is: an index in SQLite, so that millions of chunks take no memory.

    chunks   name -> pack, offset, length
    packs    pack -> indexed: the records before this offset have their rows; chunks, bytes: how much of it is live

Its rows point to what is on the disk. It is derived: a scan of the packs makes it again, and whatever is wrong with it
is `IndexBroken`, upon which its owner has it renewed. So it need not reach the disk at once: a commit that a power cut
took leaves the index behind, and the records after `indexed` are scanned again.

Threads: `find` may be called from any thread; `_reading` guards its connection, and makes it wait while the index is
being renewed. All else is for one thread at a time, which the owner sees to; it has the other connection, so that no
`find` waits for a batch.
"""

import contextlib
import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from dfsfuse import errors
from servers.pack_file import HEADER_BYTES, Place

_FORM = 1
_SCHEMA = """
CREATE TABLE chunks (
    name BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE packs (
    pack INTEGER PRIMARY KEY, indexed INTEGER NOT NULL, chunks INTEGER NOT NULL, bytes INTEGER NOT NULL);
"""
_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-8192", "journal_size_limit=8388608")
_FIND = "SELECT pack, offset, length FROM chunks WHERE name = ?"
_ADD = "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)"
_ADVANCE = (
    "INSERT INTO packs VALUES (?, ?, ?, ?) ON CONFLICT (pack) DO UPDATE SET indexed = max(indexed, excluded.indexed), "
    "chunks = chunks + excluded.chunks, bytes = bytes + excluded.bytes"
)
_REMOVE = "DELETE FROM chunks WHERE name = ? AND pack = ? AND offset = ?"
_LIVE = "SELECT name, offset, length FROM chunks WHERE pack = ? LIMIT ?"
_MOVE = "UPDATE chunks SET pack = ?, offset = ? WHERE name = ? AND pack = ? AND offset = ?"
_LESS = "UPDATE packs SET chunks = chunks - 1, bytes = bytes - ? WHERE pack = ?"
_WASTEFUL = f"""
SELECT pack FROM packs WHERE 2 * (bytes + {HEADER_BYTES} * chunks) < indexed ORDER BY bytes + {HEADER_BYTES} * chunks
"""

_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BROKEN_EXTENDED = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_READONLY_DBMOVED,
}


class IndexBroken(Exception):
    """The index cannot be used any more, and can be made again. The text goes on after "the index"."""


class PackIndex:
    """The index at `path`. `generation` rises each time it has been made again."""

    def __init__(self, path: str):
        self._path = path
        self._reading = threading.Lock()
        self._whole = True
        self._writer = self._reader = None
        self.generation = 0

    def open(self) -> bool:
        """False if there was none; now there is an empty one. Raises IndexBroken."""
        with _told():
            self._writer = self._connect()
            (form,) = self._writer.execute("PRAGMA user_version").fetchone()
            (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and form != _FORM:
                raise IndexBroken(f"has form {form}, not {_FORM}")
            if not tables:
                self._writer.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORM}; COMMIT")
            self._reader = self._connect()
        return bool(tables)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def renew(self, fill: Callable[[], None]) -> None:
        """An empty index, in place of whatever is there, and then what `fill` adds. Until that has succeeded nothing
        is found: what is not in half an index may be in a pack all the same."""
        with self._reading:
            self._whole = False
            self.close()
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path + suffix)
            self.open()
            fill()
            self._whole = True
            self.generation += 1

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection:
                connection.close()

    def find(self, name: bytes) -> Place | None:
        """Raises IndexBroken, and Internal when SQLite fails otherwise."""
        with self._reading:
            if not self._whole:
                raise IndexBroken("could not be made again")
            try:
                row = self._reader.execute(_FIND, (name,)).fetchone()
            except sqlite3.DatabaseError as error:
                raise _meaning(error) from error
        return Place(*row) if row else None

    def empty_log(self) -> None:
        """What its log has is brought into the index proper, so that the log takes no room; as far as that succeeds."""
        with contextlib.suppress(sqlite3.DatabaseError):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def names(self, after: bytes, limit: int) -> list[bytes]:
        """Names of chunks that sort after `after`, in order."""
        with _told():
            rows = self._writer.execute("SELECT name FROM chunks WHERE name > ? ORDER BY name LIMIT ?", (after, limit))
            return [name for (name,) in rows]

    def ends(self) -> dict[int, int]:
        """Pack -> where the records begin that may not have rows."""
        with _told():
            return dict(self._writer.execute("SELECT pack, indexed FROM packs"))

    def totals(self) -> tuple[int, int]:
        """(chunks, bytes) of all packs."""
        with _told():
            chunks, size = self._writer.execute("SELECT total(chunks), total(bytes) FROM packs").fetchone()
        return int(chunks), int(size)

    def wasteful(self) -> list[int]:
        """Packs of which more than half is dead space, those with least to move first."""
        with _told():
            return [pack for (pack,) in self._writer.execute(_WASTEFUL)]

    def live(self, pack: int, limit: int) -> dict[bytes, Place]:
        """Chunks of this pack, `limit` at most. Goes through all rows, as hardly anybody asks."""
        with _told():
            rows = self._writer.execute(_LIVE, (pack, limit))
            return {name: Place(pack, offset, length) for name, offset, length in rows}

    def add(self, places: Mapping[bytes, Place], ends: Mapping[int, int]) -> None:
        """Rows for these chunks, but those that have one; and how far that is in each pack. All of it or nothing.

        Raises IndexBroken, NoSpace, Internal.
        """
        live: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        with self._transaction():
            for name, place in sorted(places.items()):
                if self._writer.execute(_ADD, (name, *place)).rowcount:
                    live[place.pack][0] += 1
                    live[place.pack][1] += place.length
            for pack in {*ends, *live}:
                self._writer.execute(_ADVANCE, (pack, ends.get(pack, 0), *live[pack]))

    def remove(self, places: Mapping[bytes, Place]) -> None:
        """Forget these chunks, but those that are elsewhere by now. Raises IndexBroken, NoSpace, Internal."""
        with self._transaction():
            for name, place in places.items():
                if self._writer.execute(_REMOVE, (name, place.pack, place.offset)).rowcount:
                    self._writer.execute(_LESS, (place.length, place.pack))

    def move(self, moves: Mapping[bytes, tuple[Place, Place]], pack: int, end: int) -> None:
        """Chunks that are at the first of two places are at the second from now on, which is before `end` of `pack`. It
        is on the disk when this returns: the first place may be lost. Raises IndexBroken, NoSpace, Internal."""
        with self._durably(), self._transaction():
            self._writer.execute(_ADVANCE, (pack, end, 0, 0))
            for name, (old, new) in sorted(moves.items()):
                if self._writer.execute(_MOVE, (pack, new.offset, name, old.pack, old.offset)).rowcount:
                    self._writer.execute(_LESS, (old.length, old.pack))
                    self._writer.execute(_ADVANCE, (pack, 0, 1, new.length))

    def forget_packs(self, packs: Iterable[int]) -> None:
        """These packs, in which nothing is live, are gone. Raises IndexBroken, NoSpace, Internal."""
        with self._transaction():
            self._writer.executemany("DELETE FROM packs WHERE pack = ? AND chunks = 0", [(pack,) for pack in packs])

    @contextlib.contextmanager
    def _durably(self) -> Iterator[None]:
        """What is committed within is on the disk."""
        self._writer.execute("PRAGMA synchronous=FULL")
        try:
            yield
        finally:
            self._writer.execute("PRAGMA synchronous=NORMAL")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _told():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                # A full disk has ended the transaction already.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _meaning(error) from error


def _meaning(error: sqlite3.DatabaseError) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in _BROKEN or code in _BROKEN_EXTENDED:
        return IndexBroken(f"is broken ({error})")
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return errors.NoSpace("the disk has no room for the index of packs")
    return errors.Internal(f"the index of packs fails: {error}")
