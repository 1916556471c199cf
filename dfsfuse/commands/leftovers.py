"""What the caches of a home have that the servers do not, and the copies that were made of such contents.

Read from the indexes of all clients of the home, running or not, without disturbing them.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dfsfuse import cache_index, errors, tables
from dfsfuse import home as homes
from dfsfuse.cache_index import Copy, State, Unsent
from dfsfuse.messages import Attributes, Lookup, PathOf, PathReply
from dfsfuse.rpc import Rpc

ASK_S = 2.0


class Upload(NamedTuple):
    """Content in a cache of this home that the servers do not have."""

    path: bytes
    size: int
    reason: str
    cache: str


class Ask:
    """The directory of a volume, where it answers; `url` is None where it does not."""

    def __init__(self, rpc: Rpc, url: str | None, volume: str = ""):
        self._rpc, self._url, self._volume = rpc, url, volume

    def about(self, cache: Path) -> "Ask":
        """Of the cache of another volume's client this directory knows nothing."""
        return self if cache.parent.name == self._volume else Ask(self._rpc, None)

    def is_newest(self, ino: int, commit_id: bytes) -> bool:
        """Has the file the version that this commit has made?"""
        newest: Attributes | None = self._answer("lookup", Lookup(ino), Attributes)
        return newest is not None and newest.commit_id == commit_id

    def path_now(self, copy: Copy) -> bytes | None:
        """Where a copy is; None where it was removed, or has another name, so somebody has dealt with it."""
        if self._url is None:
            return copy.path
        reply: PathReply | None = self._answer("path", PathOf(copy.ino), PathReply)
        same = reply is not None and reply.path.rpartition(b"/")[2] == copy.path.rpartition(b"/")[2]
        return reply.path if reply is not None and same else None

    def _answer(self, operation: str, request, kind: type):
        if self._url is None:
            return None
        try:
            return self._rpc.call(self._url, operation, request, kind, ASK_S)
        except errors.DfsError:
            return None


def uploads_in(home: Path, ask: Ask) -> list[Upload]:
    return [upload for index in _indexes(home) for upload in uploads_of(index.parent, ask)]


def uploads_of(cache: Path, ask: Ask) -> list[Upload]:
    """Those of one client. A commit that was not answered may have happened, so the directory is asked."""
    ended, ask = has_ended(cache), ask.about(cache)
    rows = [(row, _why_unsent(row, ended, cache, ask)) for row in _read(cache / "index.db", cache_index.unsent_in)]
    return [Upload(row.path, row.size, reason, str(cache)) for row, reason in rows if reason]


def copies_in(home: Path, ask: Ask) -> list[Copy]:
    """Copies that nobody has removed or renamed yet, the oldest first."""
    made = [(copy, ask.about(index.parent)) for index in _indexes(home) for copy in _read(index, cache_index.copies_in)]
    now = [(copy, its.path_now(copy)) for copy, its in sorted(made, key=lambda row: row[0].made_ns)]
    return [copy._replace(path=path) for copy, path in now if path is not None]


def caches_by_session(home: Path, volume: str) -> dict[int, str]:
    """The caches of this home by the sessions of their latest clients."""
    found = {}
    for cache in (home / homes.CLIENTS / volume).glob("*"):
        found.update((session, str(cache)) for session in homes.sessions_in(cache)[-1:])
    return found


def _indexes(home: Path) -> list[Path]:
    return sorted((home / homes.CLIENTS).glob("*/*/index.db"))


def _read(index: Path, read: Callable[[Path], list]) -> list:
    try:
        return read(index)
    except sqlite3.Error as error:
        tables.complain(f"{index} cannot be read: {error}")
        return []


def _why_unsent(row: Unsent, ended: bool, cache: Path, ask: Ask) -> str:
    """ "" for what a program has open, and for what the servers have by now."""
    if row.failure:
        return row.failure
    if row.state != State.CLOSED:
        return f"not closed when its client ended; kept as a copy by {_next_client(cache)}" if ended else ""
    if ask.is_newest(row.ino, row.pending):
        return ""
    return f"its client ended before it was sent; {_next_client(cache)} sends it" if ended else "on its way"


def _next_client(cache: Path) -> str:
    is_of_commands = cache.name.startswith("dfs-")
    return "the next dfs command" if is_of_commands else f"the next mount on {homes.mountpoint_of(cache)}"


def has_ended(cache: Path) -> bool:
    """Nobody has claimed the cache."""
    try:
        lock = os.open(cache / homes.CLIENT_LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return homes.try_lock(lock, exclusive=False)
    finally:
        os.close(lock)
