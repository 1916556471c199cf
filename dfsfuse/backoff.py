"""How long things that have failed are left alone: FIRST_S, then twice as long each time, at most LONGEST_S.

Threads: none of its own; who uses it guards it.
"""

import time
from collections.abc import Callable, Hashable

FIRST_S, LONGEST_S = 2.0, 60.0


class Backoff:
    """Of what has not failed, `is_due` is true."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._due_s: dict[Hashable, float] = {}
        self._pauses_s: dict[Hashable, float] = {}

    def is_due(self, what: Hashable) -> bool:
        return self._clock() >= self._due_s.get(what, 0.0)

    def failed(self, what: Hashable) -> None:
        pause_s = self._pauses_s[what] = min(2 * self._pauses_s.get(what, FIRST_S / 2), LONGEST_S)
        self._due_s[what] = self._clock() + pause_s

    def waits(self, what: Hashable) -> None:
        """It costs next to nothing to try again, so the next pause is short."""
        self._due_s[what] = self._clock() + FIRST_S

    def forget(self, what: Hashable) -> None:
        self._due_s.pop(what, None)
        self._pauses_s.pop(what, None)

    def forget_all(self) -> None:
        """What they failed for may be over: all are due, and their pauses begin anew."""
        self._due_s.clear()
        self._pauses_s.clear()
