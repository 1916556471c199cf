"""When a file server asks what it should have."""

import asyncio
import pathlib
from typing import Any

from dfsfuse.messages import Audited
from servers.chunkstore import ChunkStore
from servers.scrub import Scrub


class Directory:
    """Names one chunk that is needed."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def call(self, *_: Any) -> Audited:
        self.asked.set()
        return Audited([b"n" * 32])


def test_a_server_that_is_syncing_misses_nothing_yet(tmp_path: pathlib.Path) -> None:
    """Goal: what a new disk does not have yet is repair's to fetch, and not told as missing; what is not there
    afterwards is."""

    async def run() -> None:
        store, directory = ChunkStore(tmp_path), Directory()

        async def at_once(function: Any, *arguments: Any) -> Any:
            return function(*arguments)

        scrub = Scrub(tmp_path, store, directory, "http://directory", at_once)
        work = asyncio.create_task(scrub.work())
        done, _ = await asyncio.wait([work, asyncio.create_task(directory.asked.wait())], timeout=0.3)
        assert not done
        assert not len(store.broken)
        scrub.is_syncing = False
        await asyncio.wait_for(directory.asked.wait(), 10)
        while not len(store.broken):
            await asyncio.sleep(0.01)
        work.cancel()
        store.close()

    asyncio.run(asyncio.wait_for(run(), 20))
