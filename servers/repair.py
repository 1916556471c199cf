"""That this server has every chunk that it should have: the directory says which it may lack, the others give them.

    directory: there is something to look for --> repair, page by page: look, verify, fetch, sync, tell
    a chunk was found broken here             --> fetch it; what nobody can give is told to the directory

A pass is repeated for as long as something could not be had, at growing intervals; sooner when the directory asks for
it, as when another server has returned.

Threads: none; coroutines of the server's event loop. `note_broken` may be called from any thread.
"""

import asyncio
import logging

from dfsfuse import errors
from dfsfuse.messages import Registered, Repair, RepairWork
from servers.chunkstore import ChunkStore
from servers.fetching import Fetching, Run
from servers.peers import Peers

log = logging.getLogger(__name__)

PAGE = 100
"""Chunks that are looked for between two syncs."""
TIMEOUT_S = 10.0
FAILED_S = 1.0
AGAIN_FIRST_S, AGAIN_MAX_S = 30.0, 3600.0


class Repairs:
    """`sync` brings what was stored to the disk; `run` calls the store in a thread for long work."""

    def __init__(
        self, name: str, store: ChunkStore, peers: Peers, directory_url: str, fetching: Fetching, sync: Run, run: Run
    ):
        self._name, self._store, self._peers, self._url = name, store, peers, directory_url
        self._fetching, self._sync, self._run = fetching, sync, run
        self._loop: asyncio.AbstractEventLoop | None = None
        self._something = asyncio.Event()
        self._asked = self._failing = False
        self._again_s = AGAIN_FIRST_S
        self._another: asyncio.TimerHandle | None = None
        self._others: set[tuple[str, int, bool]] = set()

    def heard(self, reply: Registered) -> None:
        """What the directory answers to a heartbeat. What could not be had is looked for again when another server has
        returned or started."""
        others = {(server.name, server.first_number, server.up) for server in reply.cluster.files}
        if reply.repair or (self._another and others != self._others):
            self._ask()
        self._others = others

    def note_broken(self) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._something.set)

    def _ask(self) -> None:
        self._asked = True
        self._something.set()

    async def work(self) -> None:
        """For ever."""
        self._loop = asyncio.get_running_loop()
        if self._store.broken:
            self._something.set()
        while True:
            await self._something.wait()
            self._something.clear()
            try:
                lacking = await self._replace_broken()
                if self._asked or lacking:
                    await self._pass(lacking)
            except (errors.DfsError, OSError) as error:
                await self._has_failed(error)
            else:
                self._failing = False

    async def _has_failed(self, error: Exception) -> None:
        if not self._failing:
            log.warning("repair is interrupted, and tried again: %s", error)
        self._failing = True
        await asyncio.sleep(FAILED_S)
        self._something.set()

    # -- broken chunks

    async def _replace_broken(self) -> list[bytes]:
        """Those that nobody could give; they are settled once the directory knows."""
        lacking: list[bytes] = []
        broken = self._store.broken.waiting(PAGE)
        if not broken:
            return lacking
        here = await self._have(broken)
        self._store.broken.settle(here, ())
        lacking = [name for name in broken if name not in here]
        log.warning("%d chunks that were broken are replaced; %d cannot be had", len(here), len(lacking))
        if len(self._store.broken) > len(lacking):
            self._something.set()
        return lacking

    # -- a pass

    async def _pass(self, lacks: list[bytes]) -> None:
        """`lacks` are broken chunks that the directory is to be told of."""
        told, have, after, looked_for, in_vain = lacks, [], b"", 0, 0
        while True:
            work = await self._tell(have, lacks, after)
            self._store.broken.settle((), told)
            told = []
            if work.complete:
                break
            have = sorted(await self._have(work.chunks))
            lacks = [name for name in work.chunks if name not in {*have}]
            after = work.after
            looked_for, in_vain = looked_for + len(work.chunks), in_vain + len(lacks)
        # What heartbeats have asked for meanwhile was asked for by an earlier state of the directory.
        self._asked = False
        log.info("repair: looked for %d chunks; %d of them cannot be had", looked_for, in_vain)
        self._plan_another(in_vain)

    def _plan_another(self, in_vain: int) -> None:
        if self._another:
            self._another.cancel()
            self._another = None
        if not in_vain:
            self._again_s = AGAIN_FIRST_S
            return
        self._another = asyncio.get_running_loop().call_later(self._again_s, self._ask)
        self._again_s = min(2 * self._again_s, AGAIN_MAX_S)

    async def _tell(self, have: list[bytes], lacks: list[bytes], after: bytes) -> RepairWork:
        first = self._store.receipts.first
        request = Repair(server=self._name, first_number=first, have=have, lacks=lacks, after=after, limit=PAGE)
        return await self._peers.call(self._url, "repair", request, RepairWork, TIMEOUT_S)

    async def _have(self, names: list[bytes]) -> set[bytes]:
        """Those that are here, sound, and on the disk, once what was not here has been looked for elsewhere."""
        # By a receipt: what the garbage loop was told to delete before stays, as somebody needs it by now.
        sound = set(await self._run(self._store.confirm, names))
        fetched = await self._fetching.fetch(name for name in names if name not in sound)
        if not sound and not fetched:
            return set()
        await self._sync()
        # What the disk did not take is not here any more.
        return {name for name in sound | fetched if self._store.has(name)}
