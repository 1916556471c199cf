"""The open rows that the directory keeps for this client, and the contents that need each.

A row is (inode, version) with the number of the session's latest open of it. It keeps an unlinked inode alive until it
is closed, and the version on which a content is based that is not sent yet. So it is closed with the last content that
needs it, and with the latest number: an open that has come since
has a larger one, and keeps the row. An open with a smaller number may have been answered with the same version, and not
be known here yet: while one is under way, the row is held back, and taken up again if that open needs it.

Threads: the cache's, which calls this under its mutex.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from dfsfuse.content import Content


class OpenRow(NamedTuple):
    """As `Session.closed` takes it."""

    ino: int
    version: int
    opening: int


Key = tuple[int, int]
"""(inode number, version)."""


class OpenRows:
    """Contents are known by their number in the index, a row by (inode number, version)."""

    def __init__(self):
        self._latest: dict[Key, int] = {}
        self._needed_by: dict[Key, set[int]] = defaultdict(set)
        self._needs: dict[int, set[Key]] = defaultdict(set)
        self._under_way: set[int] = set()
        self._held_back: dict[Key, int] = {}

    def begins(self, opening: int) -> None:
        """The directory is about to be asked for an open with this number."""
        self._under_way.add(opening)

    def ends(self, opening: int) -> list[OpenRow]:
        """It is known here, or has failed; the rows that were held back for it."""
        self._under_way.discard(opening)
        if not self._held_back:
            return []
        rows = [OpenRow(*key, latest) for key, latest in self._held_back.items() if not self._older_than(latest)]
        for row in rows:
            del self._held_back[row.ino, row.version]
        return rows

    def _older_than(self, opening: int) -> bool:
        return min(self._under_way, default=opening) < opening

    def inherited(self, number: int, ino: int, version: int) -> None:
        """An earlier client has left a content that is not sent, based on this version."""
        self._opened(number, (ino, version), 0)

    def needed(self) -> list[Key]:
        return list(self._latest)

    def taken_over(self, rows: Iterable[OpenRow]) -> list[OpenRow]:
        """The session has these rows now, of inodes of which it needed some; what is to be closed now."""
        numbers: dict[int, set[int]] = defaultdict(set)
        for (ino, _), needed_by in self._needed_by.items():
            numbers[ino] |= needed_by
        closed: list[OpenRow] = []
        for row in rows:
            for number in numbers[row.ino]:
                self._opened(number, (row.ino, row.version), row.opening)
            closed += [] if numbers[row.ino] else self._close((row.ino, row.version), row.opening)
        return closed

    def has(self, ino: int, version: int) -> bool:
        """Does somebody here need the row?"""
        return (ino, version) in self._latest

    def opened(self, content: Content, ino: int, version: int, opening: int) -> None:
        """The directory has answered an open of this version, for this content."""
        self._opened(content.row, (ino, version), opening)

    def _opened(self, number: int, key: Key, opening: int) -> None:
        self._latest[key] = max(opening, self._latest.get(key, 0), self._held_back.pop(key, 0))
        self._needed_by[key].add(number)
        self._needs[number].add(key)

    def committed(self, content: Content, base: int, version: int, opening: int) -> None:
        """A commit has moved the content's row from the version that it was based on to the one that it has made."""
        key = content.ino, base
        if key in self._needs[content.row]:
            self._needs[content.row].remove(key)
            self._not_needed(key, content)
        self.opened(content, content.ino, version, opening)

    def overtaken(self, content: Content, former: int, version: int, opening: int) -> list[OpenRow]:
        """The content has become the version that an open was answered with. What is to be closed now."""
        key, latest = (content.ino, former), None
        if key in self._needs[content.row]:
            self._needs[content.row].remove(key)
            latest = self._not_needed(key, content)
        self.opened(content, content.ino, version, opening)
        return [] if latest is None else self._close(key, latest)

    def failed(self, ino: int, version: int, opening: int) -> list[OpenRow]:
        """The open that the directory has answered has failed here. What is to be closed now: nothing, where others
        have the same version open; then it is closed with theirs."""
        key = ino, version
        if key not in self._latest:
            return self._close(key, opening)
        self._latest[key] = max(opening, self._latest[key])
        return []

    def closed(self, content: Content) -> list[OpenRow]:
        """Nobody has the content open any more, and all of it is sent: the rows that nobody needs now."""
        rows: list[OpenRow] = []
        for key in self._needs.pop(content.row, ()):
            latest = self._not_needed(key, content)
            rows += [] if latest is None else self._close(key, latest)
        return rows

    def _not_needed(self, key: Key, content: Content) -> int | None:
        """The number with which the row is to be closed; None while others need it."""
        self._needed_by[key].discard(content.row)
        if self._needed_by[key]:
            return None
        del self._needed_by[key]
        return self._latest.pop(key)

    def _close(self, key: Key, latest: int) -> list[OpenRow]:
        latest = max(latest, self._held_back.pop(key, 0))
        if self._older_than(latest):
            self._held_back[key] = latest
            return []
        return [OpenRow(*key, latest)]
