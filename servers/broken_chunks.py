"""Chunks that this server had and has no more: broken ones that were set aside, and those that a disk did not take.

They wait here until they have been replaced, or the directory has been told that they are not here. As long as some
wait no receipt counts as being on the disk that did not before.

Threads: all methods may be called from any thread; `_lock` guards everything, and is held for memory work alone.
"""

import threading
from collections.abc import Callable, Iterable


class BrokenChunks:
    """`found` and `replaced` count those of this start. `on_found` is called with the lock free, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[bytes, None] = {}
        self.found = self.replaced = 0
        self.on_found: Callable[[], None] = lambda: None

    def note(self, name: bytes) -> None:
        with self._lock:
            self.found += name not in self._waiting
            self._waiting[name] = None
        self.on_found()

    def settle(self, replaced: Iterable[bytes], told: Iterable[bytes]) -> None:
        """These are here again; and the directory knows that those are not."""
        with self._lock:
            for name in replaced:
                self.replaced += name in self._waiting
                self._waiting.pop(name, None)
            for name in told:
                self._waiting.pop(name, None)

    def waiting(self, limit: int) -> list[bytes]:
        with self._lock:
            return list(self._waiting)[:limit]

    def __len__(self) -> int:
        return len(self._waiting)
