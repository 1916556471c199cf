"""A folder that is being listed: entries by offset, page by page.

Offsets are those of telldir(3): 1 is after ".", 2 after "..", and the n-th entry is followed by n + 2. They hold while
others add and remove entries, as a listing goes on after a name, not at a number: an entry that is there all the time
comes once. The latest entries are remembered, so that the kernel may go on within what it has been given. Of those
before them every MARK-th name is: who goes back further, in a folder that has changed, may miss as many entries as
have gone.

Threads: the kernel lists through one open folder in one thread at a time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator

from dfsfuse.messages import FolderEntry

DOTS = 2
ENTRIES_A_REPLY_MAX = 1000
MARK = 1000
_REMEMBERED = 2 * ENTRIES_A_REPLY_MAX


class Listing:
    """`list_after` gives the entries whose names sort after one, `first` all of them; they are asked for as they are
    taken. The first one of `first`, if that is given, is asked for at once: so this fails if the folder cannot be
    listed. What was asked for then is used if it is taken within `hold_s`."""

    def __init__(
        self,
        first: Iterator[FolderEntry] | None,
        list_after: Callable[[bytes], Iterator[FolderEntry]],
        hold_s: float,
    ):
        self._list_after = list_after
        self._begin()
        self._begun_until = 0.0
        if first is not None:
            self._more = first
            self._entry(0)
            self._begun_until = time.monotonic() + hold_s

    def _begin(self) -> None:
        self._marks = [b""]
        self._go_on(0)

    def _go_on(self, mark: int) -> None:
        del self._marks[mark + 1 :]
        self._entries: deque[FolderEntry] = deque()
        self._first = mark * MARK
        self._more = self._list_after(self._marks[mark])

    def entries_from(self, offset: int) -> Iterator[tuple[int, FolderEntry]]:
        """(offset of what follows, entry), at most ENTRIES_A_REPLY_MAX of them; `offset` is that of an entry."""
        number = max(0, offset - DOTS)
        if number == 0:
            if time.monotonic() > self._begun_until:
                self._begin()
            self._begun_until = 0.0
        elif not self._first <= number <= self._first + len(self._entries):
            self._go_on(min(number // MARK, len(self._marks) - 1))
        last = number + ENTRIES_A_REPLY_MAX
        while number < last and (entry := self._entry(number)) is not None:
            number += 1
            yield number + DOTS, entry

    def _entry(self, number: int) -> FolderEntry | None:
        while number >= self._first + len(self._entries):
            entry = self._next()
            if entry is None:
                return None
            self._remember(entry)
        return self._entries[number - self._first]

    def _next(self) -> FolderEntry | None:
        try:
            return next(self._more, None)
        except Exception:
            # What has failed once gives nothing more: who asks again goes on after the last name, and not at the end.
            self._more = self._list_after(self._entries[-1].name if self._entries else self._marks[-1])
            raise

    def _remember(self, entry: FolderEntry) -> None:
        self._entries.append(entry)
        end = self._first + len(self._entries)
        if end % MARK == 0 and end // MARK == len(self._marks):
            self._marks.append(entry.name)
        if len(self._entries) > _REMEMBERED:
            self._entries.popleft()
            self._first += 1
