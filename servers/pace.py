"""When something will have come to its end, told from how it went lately. Pure.

How long a step takes depends on what is in it and on the network, by factors of thousands. So what counts is not a
time, but the latest steps, however long these took.
"""

from collections import deque

STEPS = 20


class Pace:
    """Of one thing; `left` is how much of it is left, in any unit."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, float]] = deque(maxlen=STEPS)

    def note(self, left: float, now_s: float) -> None:
        """A step has ended."""
        self._noted.append((left, now_s))

    def forget(self) -> None:
        """It does not go on, or begins anew."""
        self._noted.clear()

    def left_s(self) -> float:
        """Seconds from the latest step on; -1 where that cannot be told."""
        if not self._noted:
            return -1.0
        (before, began_s), (left, ended_s) = self._noted[0], self._noted[-1]
        return left / (before - left) * (ended_s - began_s) if before > left else -1.0
