"""Chunks that this server lacks, fetched from the other servers of its group.

FETCHES chunks at a time: memory stays bounded, and clients are served meanwhile. What arrives is hashed by the store; a
server that sends something else is passed over, as one that does not answer is.

Threads: none; coroutines of the server's event loop, and an executor for the store.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.messages import Server
from servers.chunkstore import ChunkStore
from servers.peers import Peers

log = logging.getLogger(__name__)

FETCHES = 3
ANSWER_S = 10.0

Run = Callable[..., Awaitable[Any]]
"""Calls a function with its arguments in another thread."""


class Fetching:
    """`givers` tells the other servers, those first that are likely to answer."""

    def __init__(self, store: ChunkStore, peers: Peers, givers: Callable[[], list[Server]], run: Run):
        self._store, self._peers, self._givers, self._run = store, peers, givers, run

    async def fetch(self, names: Iterable[bytes]) -> set[bytes]:
        """Those of these chunks that are here now; none of them was. Raises NoSpace: what is lacking then can be had
        when there is room."""
        left, got = list(names), set()
        if left and self._store.capacity()[0] < ENTRY_BYTES:
            raise errors.NoSpace(f"the disk is full; {len(left)} chunks or more are lacking here")

        async def work() -> None:
            while left:
                name = left.pop()
                if await self._fetch(name):
                    got.add(name)

        try:
            await asyncio.gather(*(work() for _ in range(min(FETCHES, len(left)))))
        except errors.NoSpace:
            left.clear()
            raise
        return got

    async def _fetch(self, name: bytes) -> bool:
        for server in self._givers():
            try:
                data = await self._peers.get_chunk(server.url, name, ANSWER_S)
                await self._run(self._store.store, name, data)
            except errors.NoSpace:
                raise
            except errors.DfsError as error:
                log.info("chunk %s cannot be had from %s: %s", name.hex(), server.name, error)
            else:
                return True
        return False
