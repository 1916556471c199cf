"""The body of an upload while it arrives: sent on to other servers before all of it is here.

Threads: none; everything belongs to the event loop.
"""

import asyncio
from collections.abc import Callable

from dfsfuse import errors

FORWARD_BYTES = 512 << 10
"""What has arrived is sent on in pieces of at least so much: each wakes a process."""


class Arriving:
    """A body that goes to `view`, whose first `filled` bytes are here. `over` is done when all of it is, and fails with
    what has ended it before."""

    def __init__(self, view: memoryview):
        self.view, self.filled = view, 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._followers: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self.view)

    @property
    def whole(self) -> bool:
        return self.filled == len(self.view)

    def follow(self, more: Callable[[], None]) -> None:
        """`more` is called whenever more has come."""
        self._followers.append(more)

    def has(self, filled: int) -> None:
        self.filled = filled
        for more in self._followers:
            more()
        if self.whole and not self.over.done():
            self.over.set_result(None)

    def fail(self, error: errors.DfsError) -> None:
        """No more will come."""
        if not self.over.done():
            self.over.set_exception(error)
            # Nobody may be sending it on.
            self.over.exception()
