"""That this server keeps no chunk that nobody needs: the directory says which these are, and they are deleted here.

    round    next_number = the next receipt; from the directory's answer on no commit rests on a lower one
             the garbage log, page by page --> deleted; what has a newer receipt is asked about in the next round
             a part of the inventory       --> asked about: uploads that were never committed are in no log
             packs that are mostly dead    --> rewritten

A round voids the receipts of what is being uploaded just then, which costs these clients a confirmation. So there is
one at most each EVERY_S, however many pages it has; sooner only where the disk is full. The inventory is gone through
after each start, as a power cut may have brought deleted chunks back, and then now and then.

Threads: none; coroutines of the server's event loop, and an executor for the store.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.messages import Collect, Garbage, Registered
from servers.chunkstore import ChunkStore
from servers.fetching import Run
from servers.peers import Peers

log = logging.getLogger(__name__)

EVERY_S, FULL_S = 10.0, 2.0
WALK_EVERY_S = 24 * 3600.0
PAGE = 500
WALK_PAGES = 20
"""Of the inventory, in one round."""
KEPT_MAX = 100_000
TIMEOUT_S = 10.0


class Collector:
    """`every_s` and `walk_every_s`: pauses between rounds, and between walks through the inventory."""

    def __init__(
        self,
        name: str,
        store: ChunkStore,
        peers: Peers,
        directory_url: str,
        run: Run,
        every_s: float = EVERY_S,
        walk_every_s: float = WALK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name, self._store, self._peers, self._url, self._run = name, store, peers, directory_url, run
        self._every_s, self._walk_every_s, self._clock = every_s, walk_every_s, clock
        self._wanted = self._failing = False
        self._place = 0
        self._kept: dict[bytes, None] = {}
        self._walk_after, self._walk_at = b"", clock()
        self._round_before = store.receipts.first

    def heard(self, reply: Registered) -> None:
        """What the directory answers to a heartbeat."""
        self._wanted = self._wanted or reply.collect

    async def work(self) -> None:
        """For ever."""
        while True:
            full = not self._store.capacity()[0]
            await asyncio.sleep(min(FULL_S, self._every_s) if full else self._every_s)
            try:
                if self._wanted or self._kept or self._clock() >= self._walk_at:
                    await self._round()
                await self._compact()
            except (errors.DfsError, OSError) as error:
                if not self._failing:
                    log.warning("what nobody needs is not deleted for now: %s", error)
                self._failing = True
            else:
                self._failing = False

    async def _round(self) -> None:
        self._wanted = False
        number = self._store.receipts.next
        deleted = await self._ask_again(number) + await self._work_off_log(number)
        if self._clock() >= self._walk_at:
            deleted += await self._walk(number)
        self._round_before = number
        if deleted:
            log.info("%d chunks that nobody needs are deleted; %d are asked about again", deleted, len(self._kept))

    async def _work_off_log(self, number: int) -> int:
        deleted, more = 0, True
        while more:
            reply = await self._collect(number, [], self._place)
            deleted += await self._delete(reply.chunks, number)
            # It is told even where there is no more: then the log can be cut.
            more, self._place = reply.last != self._place, reply.last
        return deleted

    async def _ask_again(self, number: int) -> int:
        """What had a newer receipt in an earlier round: somebody needs it by now, or nobody does."""
        kept, self._kept, deleted = list(self._kept), {}, 0
        try:
            while kept:
                deleted += await self._ask_about(kept[:PAGE], number)
                del kept[:PAGE]
        finally:
            self._keep(kept)
        return deleted

    async def _walk(self, number: int) -> int:
        """Go on through the inventory. What was stored or confirmed since the round before may be on its way."""
        deleted = 0
        for _ in range(WALK_PAGES):
            names = await self._run(self._store.inventory, self._walk_after, PAGE)
            old = [name for name in names if not self._store.receipts.is_known_from(name, self._round_before)]
            deleted += await self._ask_about(old, number)
            self._walk_after = names[-1] if len(names) == PAGE else b""
            if not self._walk_after:
                self._walk_at = self._clock() + self._walk_every_s
                break
        return deleted

    async def _ask_about(self, names: list[bytes], number: int) -> int:
        """Which of these are garbage? Rows of the log that come along are read again when it is their turn."""
        if not names:
            return 0
        asked = {*names}
        reply = await self._collect(number, names, 0)
        return await self._delete([name for name in reply.chunks if name in asked], number)

    async def _collect(self, number: int, names: list[bytes], after: int) -> Garbage:
        request = Collect(server=self._name, next_number=number, names=names, after=after, limit=PAGE)
        return await self._peers.call(self._url, "collect", request, Garbage, TIMEOUT_S)

    async def _delete(self, names: list[bytes], number: int) -> int:
        gone = await self._run(self._store.delete, names, number) if names else []
        self._keep([name for name in names if name not in {*gone}])
        return len(gone)

    def _keep(self, names: list[bytes]) -> None:
        """Too many are left to the walk through the inventory."""
        self._kept.update(dict.fromkeys(names[: KEPT_MAX - len(self._kept)]))

    async def _compact(self) -> None:
        while await self._run(self._store.compact):
            pass
