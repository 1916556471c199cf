"""The kernel's second look at the names that lead to a folder.

What it knows of these may be old. So the first answer in a folder that is gone, or has moved, is ESTALE: the kernel
looks all names on the way up once more, and a second ESTALE would reach the program, which no local disk lets see it.
By then the kernel has come back to the same folder, as a program is in it or has it open; or to one that it has looked
up for that very call, which another client has removed or moved since. Both are what a local disk would have found: in
a folder that is gone there is nothing (ENOENT), and one that has moved is still that folder.

A thread's next call may go by what the kernel has known since the call before, and is to be told ESTALE again. Where
one call ends and the next one begins the kernel does not say, unless it does something to what it has found. So only
the folder that a thread has looked up last counts; and once a name was not there, what counts is a change of names in
that folder, which follows in the same call.

Threads: the driver's. `_told` is a dictionary whose single operations are atomic.
"""

import errno
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from dfsfuse.drivers.fuse_node import Node

AGAIN_S = 1.0
"""How long after ESTALE the second look comes at most."""
_THREADS_MAX = 1000


class _Told(NamedTuple):
    """A thread was told ESTALE for one of the nodes `numbers`. What was looked up since `since` (monotonic) is looked
    up anew. `looked`: it has looked for the name, too, and may only change it."""

    numbers: tuple[int, ...]
    since: float
    until: float
    looked: bool = False


class SecondLooks:
    def __init__(self) -> None:
        self._told: dict[int, _Told] = {}

    def __bool__(self) -> bool:
        return bool(self._told)

    def is_second(self, thread: int, folder: Node, looks: bool = False) -> bool:
        """Has the thread come to the folder by names that were looked up because it was told ESTALE? `looks`: it looks
        a name up."""
        told = self._told.get(thread)
        if told is None or time.monotonic() > told.until or looks and told.looked:
            return False
        return folder.id in told.numbers or folder.looked_at >= told.since

    def errno_of(self, thread: int, folders: Sequence[Node], looks: bool) -> int:
        """Of a name in a folder that is gone, or of a rename between folders of which one is."""
        if not any(self.is_second(thread, folder, looks) for folder in folders):
            self._tell(thread, folders)
            return errno.ESTALE
        if looks:
            self.not_found(thread, folders[0])
        return errno.ENOENT

    def _tell(self, thread: int, folders: Sequence[Node]) -> None:
        if len(self._told) >= _THREADS_MAX:
            self._told.clear()
        now = time.monotonic()
        self._told[thread] = _Told(tuple(folder.id for folder in folders), now, now + AGAIN_S)

    def found(self, thread: int, begun_at: float) -> None:
        """A look-up of the thread's, begun at `begun_at`, has found something: all before it was there by then."""
        told = self._told.get(thread)
        if told is not None and begun_at > told.since:
            self._told[thread] = told._replace(since=begun_at)

    def not_found(self, thread: int, folder: Node) -> None:
        """The thread has looked a name up, which is not there."""
        told = self._told.get(thread)
        if told is not None:
            self._told[thread] = _Told((folder.id,), math.inf, told.until, looked=True)

    def over(self, thread: int) -> None:
        """Its call ends: before the answer, as its next call may come, and be told ESTALE, as soon as it has that."""
        self._told.pop(thread, None)
