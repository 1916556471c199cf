"""The cache's index: one row for each content file, in SQLite beside the files.

    state     CLEAN   the servers have it; may be evicted
              OPEN    opened for writing; programs may have written to it, no close() or fsync() has promised anything
              CLOSED  reached close() or fsync(), and is not on the servers yet
    version, commit_id, entries, segments   what the servers have of it: the base of the next commit
    present   which entries are on this disk (how these three are stored: cache_index_forms.py)
    pending   the commit id that is being tried: if it is among those that have happened (done_commits.py), or the
              directory's history has it, there is nothing else here, as a write that comes after it clears this first
    boot      the boot in which `present` was true; after another one every entry is hashed before use
    resized   1 if it was cut or grown since `version`; what was written is found by its hash, but not this; and 2 if
              programs may have written to it through the kernel, so that `pending` need not be all there is
    path      where the file was when it was opened, for messages and for conflict copies; empty: it never had a name
    failure   why the last upload failed

A second table has the copies that were made beside files, for `dfs status`, and a third one the ranges of these that
nobody has any more (gaps.py): whoever finishes a copy tells of them.

Losing this file loses what was not sent, so it is written ahead (WAL): a killed client finds each row as it was left.

Threads: every method takes `_mutex` and is short and local, but `checkpoint`, which one thread at a time may call. A
row's values are taken under `_mutex` too, so what is stored last is what was last: it comes before `Content.mutex`.
"""

import contextlib
import enum
import sqlite3
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from dfsfuse import cache_index_forms as forms
from dfsfuse import errors
from dfsfuse.content import Content
from dfsfuse.done_commits import DoneCommits, done_in
from dfsfuse.gaps import Gap

_encode = msgspec.msgpack.Encoder().encode
_decode_gaps = msgspec.msgpack.Decoder(list[Gap]).decode

_PASSES = 2
_FULL = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE
"""The second where there is no room for the file by which connections know of the log."""
_NOTHING = "x'90'"
"""An empty list, as msgpack has it."""
_COPIES_MAX = 1000
_DONE = "done"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS contents (
    number INTEGER PRIMARY KEY, ino INTEGER NOT NULL, state INTEGER NOT NULL, version INTEGER NOT NULL,
    commit_id BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, entries BLOB NOT NULL,
    segments BLOB NOT NULL, present BLOB NOT NULL, pending BLOB NOT NULL DEFAULT x'', boot TEXT NOT NULL,
    path BLOB NOT NULL DEFAULT x'', failure TEXT NOT NULL DEFAULT '', resized INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS contents_by_ino ON contents (ino);
CREATE TABLE IF NOT EXISTS copies (
    ino INTEGER PRIMARY KEY, path BLOB NOT NULL, original BLOB NOT NULL, kind TEXT NOT NULL, made_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS gaps (ino INTEGER PRIMARY KEY, ranges BLOB NOT NULL);
"""


PathOf = Callable[[int], str]
"""Row number -> path of the content's file."""


class State(enum.IntEnum):
    CLEAN = 0
    OPEN = 1
    CLOSED = 2


class Unsent(NamedTuple):
    """A content that the servers do not have as far as the index knows: `pending` is the commit that was tried."""

    number: int
    ino: int
    state: State
    path: bytes
    size: int
    failure: str
    pending: bytes


class Copy(NamedTuple):
    """A file that was made beside another (copies.py): its paths then, and when. `gaps`: what of it nobody had."""

    ino: int
    path: bytes
    original: bytes
    kind: str
    made_ns: int
    gaps: list[Gap] = []  # noqa: RUF012, never changed


class CacheIndex:
    """`boot` names the running boot of this machine. Raises NoSpace where there is none to open it, or to bring one of
    an earlier version into the form of this one; then it is as it was."""

    def __init__(self, path: Path, boot: str):
        self._boot = boot
        self._mutex = threading.Lock()
        with _full_disk_told():
            self._db = _connect(path)
            with _closed_on_failure(self._db):
                self._check_form(path)
                self._db.executescript(_SCHEMA)
                self._checkpointer = _connect(path)
        self._done = DoneCommits(path.with_name(_DONE))
        self.commit_happened = self._done.note

    def _check_form(self, path: Path) -> None:
        """Raises NotSupported for an index that another version has made: it may name what is not sent."""
        (form,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            self._db.execute(f"PRAGMA user_version = {forms.FORM}")
        elif form == forms.EARLIER_FORM:
            forms.upgrade(self._db)
        elif form != forms.FORM:
            raise errors.NotSupported(
                f"the cache {path.parent} was made by another version of dfsfuse (form {form}, not {forms.FORM}); send "
                "what is in it with that version, then remove the folder"
            )

    def close(self) -> None:
        with self._mutex:
            self._checkpointer.close()
            self._db.close()
            self._done.close()

    def checkpoint(self) -> None:
        """Bring the log into the index, syncing both. Done now and then by a thread that can wait for the disk."""
        with _full_disk_told():
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _run(self, statement: str, values: tuple) -> sqlite3.Cursor:
        with self._mutex, _full_disk_told():
            return self._db.execute(statement, values)

    def add(self, number: int, ino: int, state: State, path: bytes) -> None:
        """A new empty row."""
        statement = (
            "INSERT INTO contents (number, ino, state, version, commit_id, size, mtime_ns, entries, segments, present, "
            f"boot, path) VALUES (?, ?, ?, 0, x'', 0, 0, {_NOTHING}, {_NOTHING}, {_NOTHING}, ?, ?)"
        )
        self._run(statement, (number, ino, state, self._boot, path))

    def save_clean(self, contents: Iterable[Content]) -> None:
        """The rows of contents that the servers have, in one transaction."""
        with self._mutex, _full_disk_told():
            self._db.execute("BEGIN")
            try:
                for content in contents:
                    self._db.execute(_UPDATE, self._values(content, State.CLEAN))
            finally:
                # A full disk has ended the transaction already.
                if self._db.in_transaction:
                    self._db.execute("COMMIT")

    def save_written(self, content: Content) -> None:
        """The row of a content that programs write to: CLOSED once anything was promised of it."""
        with self._mutex, _full_disk_told():
            # Before the values are taken, as a commit that succeeds meanwhile makes them stale again.
            content.row_current = content.row_stale = False
            try:
                self._db.execute(_UPDATE, self._values(content, State.CLOSED if content.promised else State.OPEN))
            except BaseException:
                with content.mutex:
                    content.row_stale = True
                raise

    def _values(self, content: Content, state: State) -> tuple:
        with content.mutex:
            return (
                content.ino, state, content.version, content.commit_id, content.size, content.mtime_ns,
                *forms.encoded(content.entries, content.segments, content.present),
                self._boot if content.verified else "", content.where,
                (content.resized or content.resizing) + _PASSES * content.unseen.passes, content.row,
            )  # fmt: skip

    def set_pending(self, content: Content, commit_id: bytes) -> None:
        """The content has reached close() or fsync(), and this commit is being tried. Whoever writes from now on tells
        the index that the commit is not all there is."""
        statement = "UPDATE contents SET state = ?, pending = ? WHERE number = ?"
        with self._mutex, _full_disk_told():
            with content.mutex:
                content.row_stale = True
            self._db.execute(statement, (State.CLOSED, commit_id, content.row))

    def has_happened(self, pending: bytes) -> bool:
        """The client before this one has heard that the commit has succeeded."""
        return pending in self._done.before

    def set_path(self, number: int, path: bytes) -> None:
        self._run("UPDATE contents SET path = ? WHERE number = ?", (path, number))

    def set_failure(self, number: int, failure: str) -> None:
        """For people, so not worth an error of its own where the disk is full."""
        with contextlib.suppress(errors.NoSpace):
            self._run("UPDATE contents SET failure = ? WHERE number = ?", (failure, number))

    def note_copy(self, copy: Copy) -> None:
        """For people, as `set_failure`; the latest _COPIES_MAX are kept, this one whatever the clock says."""
        with contextlib.suppress(errors.NoSpace):
            self._run("INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?, ?)", copy[:5])
            older = "SELECT ino FROM copies ORDER BY ino = ? DESC, made_ns DESC LIMIT -1 OFFSET ?"
            self._run(f"DELETE FROM copies WHERE ino IN ({older})", (copy.ino, _COPIES_MAX))
            self._run("DELETE FROM gaps WHERE ino NOT IN (SELECT ino FROM copies)", ())

    def note_gaps(self, ino: int, gaps: list[Gap]) -> None:
        """Before the copy's content becomes that of this inode: a client that is killed from then on leaves zeros of
        which the next one could not know otherwise."""
        self._run("INSERT OR REPLACE INTO gaps VALUES (?, ?)", (ino, _encode(gaps)))

    def gaps_of(self, ino: int) -> list[Gap]:
        row = self._run("SELECT ranges FROM gaps WHERE ino = ?", (ino,)).fetchone()
        return _decode_gaps(row[0]) if row else []

    def copies(self) -> list[Copy]:
        with self._mutex:
            return _copies_of(self._db)

    def forget_present(self, number: int) -> None:
        self._run(f"UPDATE contents SET present = {_NOTHING} WHERE number = ?", (number,))

    def forget_base(self, number: int) -> None:
        """The file is no version's from now on, and nothing is to be sent. The next client empties it, as the row has
        another size."""
        self._run(_FORGET_BASE, (State.CLEAN, number))

    def delete(self, number: int) -> None:
        self._run("DELETE FROM contents WHERE number = ?", (number,))

    def load(self, ino: int, path_of_number: PathOf) -> Content | None:
        """The newest content of an inode."""
        with self._mutex:
            row = self._db.execute(_SELECT + "WHERE ino = ? ORDER BY number DESC LIMIT 1", (ino,)).fetchone()
        return row and self._content(row, path_of_number)

    def load_unsent(self, path_of_number: PathOf) -> list[tuple[Content, State, bytes]]:
        """All contents that are not on the servers, or may not be: (content, state, pending commit id)."""
        with self._mutex:
            rows = self._db.execute(_SELECT + "WHERE state > 0 ORDER BY number").fetchall()
        return [(self._content(row, path_of_number), State(row[2]), row[10]) for row in rows]

    def _content(self, row: tuple, path_of_number: PathOf) -> Content:
        number, ino, _, version, commit_id, size, mtime_ns, entries, segments, present, _, boot, where, resized = row
        base, ids, here = forms.decoded(entries, segments, present)
        content = Content(number, ino, path_of_number(number), size, base)
        content.version, content.commit_id, content.segments, content.present = version, commit_id, ids, here
        content.mtime_ns, content.where, content.verified = mtime_ns, where, boot == self._boot
        content.resized, content.unseen.passes = bool(resized & 1), bool(resized & _PASSES)
        # Programs may have what an earlier client, or an earlier object for it, has lent.
        content.lent = True
        return content

    def bases(self) -> list[tuple[int, int, int]]:
        """(number, inode number, version) of all contents that may not be on the servers, of files with a name."""
        statement = "SELECT number, ino, version FROM contents WHERE state > 0 AND path != x''"
        with self._mutex:
            return self._db.execute(statement).fetchall()

    def clean_rows(self) -> set[int]:
        """Numbers of all rows that may be evicted."""
        with self._mutex:
            return {number for (number,) in self._db.execute("SELECT number FROM contents WHERE state = 0")}

    def all_rows(self) -> set[int]:
        with self._mutex:
            return {number for (number,) in self._db.execute("SELECT number FROM contents")}

    def ino_of(self, number: int) -> int:
        row = self._run("SELECT ino FROM contents WHERE number = ?", (number,)).fetchone()
        return row[0] if row else 0

    def number_of(self, ino: int) -> int:
        """The newest row of an inode; 0 where there is none."""
        row = self._run("SELECT number FROM contents WHERE ino = ? ORDER BY number DESC LIMIT 1", (ino,)).fetchone()
        return row[0] if row else 0

    def unsent(self) -> list[Unsent]:
        with self._mutex:
            rows = self._db.execute(_UNSENT, (State.CLOSED,)).fetchall()
        return [Unsent(row[0], row[1], State(row[2]), *row[3:]) for row in rows]


@contextlib.contextmanager
def _full_disk_told() -> Iterator[None]:
    """Programs get ENOSPC where it is the index for which the disk has no room."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in _FULL:
            raise errors.Internal(f"the local cache's index fails: {error}") from error
        raise errors.NoSpace("the local cache's disk is full") from None


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64, timeout=30)
    with _closed_on_failure(connection):
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=0"):
            connection.execute(f"PRAGMA {pragma}")
    return connection


@contextlib.contextmanager
def _closed_on_failure(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def unsent_in(path: Path) -> list[Unsent]:
    """What the index at `path`, of a client that may be running, says may not be on the servers: what is CLOSED, and
    what is OPEN because a program writes it, or because its client was killed; not of files without a name.

    Changes nothing. Raises sqlite3.Error where it cannot be read.
    """
    db = _read_only(path)
    try:
        rows = db.execute(f"{_UNSENT_OF} WHERE state > 0 AND path != x'' ORDER BY number").fetchall()
    finally:
        db.close()
    found, done = [Unsent(row[0], row[1], State(row[2]), *row[3:]) for row in rows], done_in(path.with_name(_DONE))
    return [row._replace(size=_size_here(path.parent, row)) for row in found if row.pending not in done]


def copies_in(path: Path) -> list[Copy]:
    """The copies that were made of what was in this cache, as `unsent_in` reads it."""
    db = _read_only(path)
    try:
        return _copies_of(db)
    finally:
        db.close()


def _copies_of(db: sqlite3.Connection) -> list[Copy]:
    """Indexes of earlier versions lack these tables."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    copies = [Copy(*row) for row in db.execute(_COPIES)] if "copies" in tables else []
    gaps = dict(db.execute("SELECT ino, ranges FROM gaps").fetchall()) if "gaps" in tables else {}
    return [copy._replace(gaps=_decode_gaps(gaps[copy.ino])) if copy.ino in gaps else copy for copy in copies]


def _read_only(path: Path) -> sqlite3.Connection:
    # Without a log beside it nothing has it open; reading it as usual would need to make one.
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    return sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?{how}", uri=True, timeout=1.0)


def _size_here(folder: Path, row: Unsent) -> int:
    """The row has the size that the servers know."""
    try:
        return (folder / "contents" / f"{row.number & 0xFF:02x}" / f"{row.number:x}").stat().st_size
    except OSError:
        return row.size


_UPDATE = (
    "UPDATE contents SET ino = ?, state = ?, version = ?, commit_id = ?, size = ?, mtime_ns = ?, entries = ?, "
    "segments = ?, present = ?, boot = ?, path = ?, resized = ?, failure = '', pending = x'' WHERE number = ?"
)
_COPIES = "SELECT ino, path, original, kind, made_ns FROM copies ORDER BY made_ns"
_FORGET_BASE = (
    f"UPDATE contents SET state = ?, version = 0, commit_id = x'', size = 0, present = {_NOTHING}, pending = x'' "
    "WHERE number = ?"
)
_UNSENT_OF = "SELECT number, ino, state, path, size, failure, pending FROM contents"
_UNSENT = f"{_UNSENT_OF} WHERE state = ? ORDER BY number"
_SELECT = (
    "SELECT number, ino, state, version, commit_id, size, mtime_ns, entries, segments, present, pending, boot, path, "
    "resized FROM contents "
)
