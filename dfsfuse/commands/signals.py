"""Signals that end a command, postponed while it does what must be undone or known before it ends.

Threads: for the main thread, which is the one that Python interrupts.
"""

import contextlib
import signal
from collections.abc import Iterator

ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Postponed:
    """The signal that came first, if any has."""

    def __init__(self):
        self.number = 0


@contextlib.contextmanager
def postponed() -> Iterator[Postponed]:
    """The first signal takes effect at the end of the block; who insists is heard at once."""
    came = Postponed()
    former = {number: signal.getsignal(number) for number in ENDING}

    def note(number: int, frame: object) -> None:
        came.number = number
        restore()

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    for number, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield came
    finally:
        restore()
    if came.number:
        signal.raise_signal(came.number)
