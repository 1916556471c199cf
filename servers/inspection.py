"""What a file server has, told to who checks the volume (dfsfuse/commands/check.py).

Threads: coroutines of the event loop; the store is asked in an executor.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from dfsfuse import errors
from dfsfuse.messages import Inventoried, Inventory, Verified, Verify
from servers.chunkstore import ChunkStore
from servers.http import Operation

NAMES_MAX = 1000
READ_BYTES_MAX = 64 << 20

Run = Callable[..., Awaitable[Any]]


class Inspection:
    """`run(function, *arguments)` calls it in an executor."""

    def __init__(self, store: ChunkStore, run: Run):
        self._store, self._run = store, run

    def operations(self) -> dict[str, Operation]:
        return {
            "inventory": Operation(Inventory, lambda request: self._run(self._inventory, request)),
            "verify": Operation(Verify, lambda request: self._run(self._verify, request)),
        }

    def _inventory(self, request: Inventory) -> Inventoried:
        limit = max(1, min(request.limit, NAMES_MAX))
        names = self._store.inventory(request.after, limit)
        return Inventoried(names, len(names) == limit)

    def _verify(self, request: Verify) -> Verified:
        if len(request.chunks) > NAMES_MAX:
            raise errors.BadRequest(f"{len(request.chunks)} chunks; at most {NAMES_MAX} are verified at once")
        verified, read = Verified([], []), 0
        for name in request.chunks:
            length = self._length(name, request.read)
            (verified.sound if length else verified.lacking).append(name)
            read += length if request.read else 0
            if read >= READ_BYTES_MAX:
                break
        return verified

    def _length(self, name: bytes, read: bool) -> int:
        """0: it is not here, or not what its name says."""
        if not read:
            return self._store.length(name)
        try:
            return self._store.check(name, again=True)
        except (errors.ChunkMissing, errors.ChunkCorrupt):
            return 0
