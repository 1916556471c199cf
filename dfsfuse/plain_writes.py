"""Changes through descriptors that have the file's write lock themselves, as they have it from open to close.

A program's first lock on a file (sharing.py) takes it from them. A change that is under way then would end without a
write lock, so nobody would send it when the program unlocks or closes. So the first lock waits for those that are under
way, and those that come meanwhile wait for it.

Threads: any; one mutex, nothing else is taken under it. Who has begun may wait for `Content.committing`, so `stopped`
is entered without it.
"""

import contextlib
import threading
from collections.abc import Iterator

from dfsfuse import errors
from dfsfuse.content import Content
from dfsfuse.handles import Handle
from dfsfuse.waiting import POLL_S, Interrupted


class PlainWrites:
    """By content."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._under_way: dict[Content, int] = {}
        self._stopped: dict[Content, int] = {}

    def begin(self, handle: Handle, interrupted: Interrupted) -> "PlainWrite | None":
        """A block in which the descriptor keeps its write lock; None where it has none. Raises Interrupted."""
        content = handle.content
        with self._mutex:
            while handle.lock is not None:
                if content not in self._stopped:
                    self._under_way[content] = self._under_way.get(content, 0) + 1
                    return PlainWrite(self, content)
                if interrupted():
                    raise errors.Interrupted("interrupted while another program of this mount locks the file")
                self._changed.wait(POLL_S)
        return None

    def end(self, content: Content) -> None:
        with self._mutex:
            if not _one_less(self._under_way, content) and content in self._stopped:
                self._changed.notify_all()

    @contextlib.contextmanager
    def stopped(self, content: Content) -> Iterator[None]:
        """Within the block none is under way."""
        with self._changed:
            self._stopped[content] = self._stopped.get(content, 0) + 1
            while content in self._under_way:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                _one_less(self._stopped, content)
                self._changed.notify_all()


class PlainWrite:
    """One of them; it has begun, and ends with the block."""

    __slots__ = ("_all", "_content")

    def __init__(self, all_of_them: PlainWrites, content: Content):
        self._all, self._content = all_of_them, content

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._all.end(self._content)


def _one_less(counts: dict[Content, int], content: Content) -> int:
    """How many are left."""
    left = counts.pop(content) - 1
    if left:
        counts[content] = left
    return left
