"""What the directory keeps for a session that has ended goes over to the next one of the same cache.

A client that is killed leaves its session, with open rows for writing: they keep the versions that its unsent content
is based on. The next client of the folder, or this one where its session has ended, takes them over, and lets each go
when its content has been dealt with.

Threads: `begin` comes before all others; then the one that renews the session.
"""

import logging
from pathlib import Path

from dfsfuse import home
from dfsfuse.cache import Cache
from dfsfuse.messages import Base
from dfsfuse.open_rows import OpenRow
from dfsfuse.session import Session

log = logging.getLogger(__name__)


class Succession:
    """`begin` takes over what earlier clients of the cache have left; `close` leaves to the next one what is unsent."""

    def __init__(self, session: Session, cache: Cache, folder: Path):
        self._session, self._cache, self._folder = session, cache, folder
        self._formers = home.sessions_in(folder)
        self._latest = 0

    def begin(self) -> None:
        """Their owners are dead, as their folder could be claimed: their locks need not wait for the end of a lease."""
        for former in self._formers:
            self._session.end_locks(former)
        self._take_over()
        self._session.on_new_session(self._take_over)

    def close(self) -> None:
        self._session.leaves_unsent = bool(self._bases())

    def _bases(self) -> list[Base]:
        """Of what is open, and of what is not sent."""
        with self._cache.open_rows() as rows:
            return [Base(*key) for key in rows.needed()]

    def _take_over(self) -> None:
        """Called again where it has failed."""
        if self._latest not in (0, self._session.id):
            self._formers.append(self._latest)
        self._latest = self._session.id
        self._write()
        if self._formers:
            self._take_over_rows()
            self._formers = []
            self._write()

    def _take_over_rows(self) -> None:
        """A row that a content needs no more by then is closed."""
        opening = self._cache.opening_begins(self._session.new_opening)
        closes = []
        try:
            taken = self._session.take_over(self._formers, self._bases(), opening)
            with self._cache.open_rows() as rows:
                closes = rows.taken_over([OpenRow(row.ino, row.version, row.opening) for row in taken])
        finally:
            for row in [*closes, *self._cache.opening_ends(opening)]:
                self._session.closed(*row)

    def _write(self) -> None:
        """Where it cannot be written the next client finds no session to take over from; what that keeps goes when it
        has been gone for long enough."""
        try:
            home.write_sessions(self._folder, [*self._formers, self._latest])
        except OSError as error:
            log.warning("%s: the number of the session cannot be written: %s", self._folder, error)
