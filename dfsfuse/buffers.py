"""Buffers for chunks that travel, used again and again: a fresh one costs more than what is done with it.

Threads: any; a list whose append and pop are atomic is all that there is.
"""

import contextlib
from collections.abc import Iterator

from dfsfuse import direct_io
from dfsfuse.chunks import ENTRY_BYTES

SPARE_MAX = 4
"""Those that nobody uses and that are kept."""


class Buffers:
    """Each of the largest chunk's size, and fit for direct I/O."""

    def __init__(self) -> None:
        self._spare: list[memoryview] = []

    @contextlib.contextmanager
    def lend(self) -> Iterator[memoryview]:
        """One for the block."""
        buffer = self.take()
        try:
            yield buffer
        finally:
            self.give(buffer)

    def take(self) -> memoryview:
        """One until it is given back. What was in it before is still there."""
        try:
            return self._spare.pop()
        except IndexError:
            return direct_io.memory(ENTRY_BYTES)

    def give(self, buffer: memoryview) -> None:
        if len(self._spare) < SPARE_MAX:
            self._spare.append(buffer)
