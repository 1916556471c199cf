"""That what is on this server's disk is what it was: every chunk is read and hashed now and then, at a gentle pace.

    pass    the inventory, in order: read from the disk, hashed; what is broken is set aside, and replaced (repair.py)
            the audit: chunks that somebody needs, which this server should have; those that are not here are fetched

How far a pass has come is noted in home/scrub each NOTE_S, so a restart repeats some seconds of it. A pass begins
EVERY_S after the one before has ended.

Threads: none; coroutines of the server's event loop, and an executor for the store.
"""

import asyncio
import logging
import pathlib
import time

import msgspec

from dfsfuse import errors
from dfsfuse.messages import Audit, Audited
from servers.chunkstore import ChunkStore
from servers.fetching import Run
from servers.peers import Peers

log = logging.getLogger(__name__)

BYTES_S = 8 << 20
SEEK_BYTES = 64 << 10
"""What finding a chunk on the disk counts for."""
EVERY_S = 6 * 3600.0
NOTE_S = 10.0
SYNCING_S = 0.5
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")
PAGE = 100
RETRY_S = 30.0
TIMEOUT_S = 10.0


class Progress(msgspec.Struct):
    """As it is on the disk. `ended`: when the latest whole pass ended, in seconds since this `boot`; 0: there was none,
    or it was in another one."""

    after: str = ""
    ended: float = 0.0
    boot: str = ""
    auditing: bool = False


class Scrub:
    """`bytes_s`: how much is read each second, 0: nothing is. `every_s`: between two passes. `is_syncing`: repair is
    about to fetch what is not here, as on a new disk: that is not to be told as missing."""

    def __init__(
        self,
        home: pathlib.Path,
        store: ChunkStore,
        peers: Peers,
        directory_url: str,
        run: Run,
        bytes_s: float = BYTES_S,
        every_s: float = EVERY_S,
    ):
        self._path, self._store, self._peers, self._url, self._run = home / "scrub", store, peers, directory_url, run
        self._bytes_s, self._every_s = bytes_s, every_s
        self.is_syncing = True
        self._boot = _BOOT_ID.read_text().strip()
        self._progress, self._noted_at = self._noted(), time.monotonic()

    @property
    def ended_ago_s(self) -> float:
        """Since the latest whole pass; -1 if there was none."""
        return _now_s() - self._progress.ended if self._progress.ended else -1.0

    async def work(self) -> None:
        """For ever."""
        while self._bytes_s:
            await asyncio.sleep(self._pause_s())
            try:
                await self._read_all()
                await self._audit()
            except (errors.DfsError, OSError) as error:
                log.warning("verifying what is here is interrupted: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            self._progress = Progress(ended=_now_s(), boot=self._boot)
            self._note()

    def _pause_s(self) -> float:
        """Until the next pass; one that has begun goes on."""
        progress = self._progress
        if progress.after or progress.auditing or not progress.ended:
            return 0.0
        return max(0.0, progress.ended + self._every_s - _now_s())

    async def _read_all(self) -> None:
        await self._run(self._store.begin_scrub)
        while not self._progress.auditing:
            names = await self._run(self._store.inventory, bytes.fromhex(self._progress.after), PAGE)
            for name in names:
                length = await self._run(self._store.scrub, name)
                self._progress.after = name.hex()
                await asyncio.sleep((length + SEEK_BYTES) / self._bytes_s)
                if time.monotonic() - self._noted_at > NOTE_S:
                    self._note()
            if len(names) < PAGE:
                self._progress.after, self._progress.auditing = "", True

    async def _audit(self) -> None:
        """What is not here at all is not in the inventory."""
        after, more = b"", True
        while more:
            while self.is_syncing:
                await asyncio.sleep(SYNCING_S)
            reply: Audited = await self._peers.call(self._url, "audit", Audit(after=after), Audited, TIMEOUT_S)
            for name in await self._run(self._missing, reply.chunks):
                log.warning("chunk %s should be here, and is not", name.hex())
                self._store.broken.note(name)
            after, more = reply.chunks[-1] if reply.chunks else b"", reply.more
            await asyncio.sleep(len(reply.chunks) / 10_000)

    def _missing(self, names: list[bytes]) -> list[bytes]:
        return [name for name in names if not self._store.has(name)]

    # -- what is noted

    def _noted(self) -> Progress:
        try:
            noted = msgspec.json.decode(self._path.read_bytes(), type=Progress)
        except (OSError, msgspec.MsgspecError):
            return Progress()
        return noted if noted.boot == self._boot else msgspec.structs.replace(noted, ended=0.0, boot=self._boot)

    def _note(self) -> None:
        """Lost in a power cut it costs a part of a pass, so it need not reach the disk."""
        self._noted_at = time.monotonic()
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(self._progress))
            new.rename(self._path)
        except OSError as error:
            log.warning("how far verifying has come cannot be noted: %s", error.strerror)


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
