"""Buffers for chunks: as many as there may be, lent and used again.

Threads: none; everything belongs to the event loop.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dfsfuse import direct_io
from dfsfuse.chunks import ENTRY_BYTES


class Buffers:
    """At most `count`, each of the largest chunk's size and fit for direct I/O."""

    def __init__(self, count: int):
        self._free = asyncio.Semaphore(count)
        self._spare: list[memoryview] = []

    @property
    def free(self) -> bool:
        """Whoever asks to be lent one now gets it at once."""
        return not self._free.locked()

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[memoryview]:
        async with self._free:
            buffer = self._spare.pop() if self._spare else direct_io.memory(ENTRY_BYTES)
            try:
                yield buffer
            finally:
                self._spare.append(buffer)
