"""Opens that wait for a write lock: how many, and whether their programs still want it.

Each occupies one of the driver's threads, so there are WAITING_OPENS_MAX of them at most, and the others find a thread.

Threads: one mutex around the count.
"""

import threading
import time
from collections.abc import Callable

from dfsfuse import errors

WAITING_OPENS_MAX = 96
"""Of a driver's 256 threads. `make -j` opens more than a few files at once, which wait together where the lock service
stands still for a moment; and threads that wait for locks between programs (program_locks.py) are 128 at most."""
POLL_S = 0.05

Interrupted = Callable[[], bool]


def never() -> bool:
    """Who asks is never interrupted."""
    return False


class WaitingOpens:
    """All of one client."""

    def __init__(self, most: int = WAITING_OPENS_MAX):
        self._most, self._count = most, 0
        self._mutex = threading.Lock()

    def add(self) -> None:
        with self._mutex:
            if self._count >= self._most:
                raise errors.Busy(f"{self._count} programs on this machine wait for write locks already")
            self._count += 1

    def remove(self) -> None:
        with self._mutex:
            self._count -= 1


class Opening:
    """One open, within a `with` block. It waits from `waits` on, or when it has taken POLL_S, as a server does not
    answer. From then on it counts, and its program is asked whether it was interrupted. `wait_s`: how long it waits for
    who has the lock. `asked_at`: when the lock service was asked last, as time.monotonic."""

    def __init__(self, all_waiting: WaitingOpens, interrupted: Interrupted, wait_s: float = 0.0):
        self._all, self._interrupted = all_waiting, interrupted
        self._since, self._waits = time.monotonic(), False
        self._until, self.asked_at = self._since + wait_s, self._since

    def __enter__(self) -> "Opening":
        return self

    def __exit__(self, *_: object) -> None:
        if self._waits:
            self._all.remove()

    def left_s(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def taken_s(self) -> float:
        return time.monotonic() - self._since

    def waits(self) -> None:
        """Raises Busy beyond the bound."""
        if not self._waits:
            self._all.add()
            self._waits = True

    def interrupted(self) -> bool:
        if time.monotonic() >= self._since + POLL_S:
            self.waits()
        return self._waits and self._interrupted()

    def check(self) -> None:
        if self.interrupted():
            raise errors.Interrupted("interrupted while waiting for the write lock")
