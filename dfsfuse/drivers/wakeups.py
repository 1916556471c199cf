"""A wait of the main thread that signals end, whenever they come.

A thread that waits for a lock is woken by a signal that comes while it waits. One that comes in the moment before is
handled when the thread wakes up next, which may be never: Python's handlers run between two steps of the main thread.
What the signal has written to a pipe is there to be read all the same (signal.set_wakeup_fd).

Threads: `wait` is for one, the main thread where signals count; `wake` for any, and for signal handlers.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable


class Wakeups:
    """Within its context. Afterwards `wake` does nothing."""

    def __enter__(self) -> "Wakeups":
        woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Objects, not numbers: who comes late must not write to a descriptor that has become somebody else's.
        self._woken, self._wakes = os.fdopen(woken, "rb", 0), os.fdopen(wakes, "wb", 0)
        self._former: int | None = None
        if threading.current_thread() is threading.main_thread():
            self._former = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._former is not None:
            signal.set_wakeup_fd(self._former)
        self._wakes.close()
        self._woken.close()

    def wake(self) -> None:
        """`wait` looks again."""
        # Where the pipe is full nothing is written, and it is woken as it is. ValueError: it is closed, nobody waits.
        with contextlib.suppress(ValueError):
            self._wakes.write(b"\0")

    def wait(self, done: Callable[[], bool]) -> None:
        """Until `done`, which is looked at after each wake-up."""
        woken = select.poll()
        woken.register(self._woken, select.POLLIN)
        while not done():
            woken.poll()
            self._woken.read(4096)
