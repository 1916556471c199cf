"""How long servers are waited for: their time-out once, and then, while they stay silent, only briefly.

The kernel asks again where it got an error: a name that it knew it looks up anew, and of a read-ahead that failed it
reads the page alone. A program waits for both, and must not wait for two time-outs.

Threads: `_silent_until` is a simple value whose races do no harm.
"""

import time
from collections.abc import Callable
from typing import Any

from dfsfuse import errors
from dfsfuse.rpc import until_answered

SILENT_S = 2.0
BRIEFLY_S = 0.5


class Patience:
    """With a server, or with a group of them."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic):
        self._timeout_s, self._clock = timeout_s, clock
        self._silent_until = 0.0

    def wait_s(self, timeout_s: float | None = None) -> float:
        """How long to wait now, where `timeout_s` is asked for instead of the usual time-out."""
        longest = timeout_s or self._timeout_s
        return min(longest, BRIEFLY_S) if self._is_silent() else longest

    def _is_silent(self) -> bool:
        return self._clock() < self._silent_until

    def until_answered(
        self,
        attempt: Callable[[float], Any],
        timeout_s: float | None = None,
        interrupted: Callable[[], bool] | None = None,
        on_silence: Callable[[], None] | None = None,
    ) -> Any:
        """As in rpc.py. Who was waited for in vain for the whole time-out is silent for SILENT_S, and as long as that
        is found again, or until the next answer. A server that starts again is quicker than that."""
        wait_s, was_silent = self.wait_s(timeout_s), self._is_silent()
        try:
            answer = until_answered(attempt, wait_s, interrupted, on_silence)
        except errors.Unreachable:
            if was_silent or wait_s >= self._timeout_s:
                self._silent_until = self._clock() + SILENT_S
            raise
        except errors.DfsError:
            self._silent_until = 0.0
            raise
        self._silent_until = 0.0
        return answer
