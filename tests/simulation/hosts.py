"""The hosts of a simulated cluster: servers and clients, started, killed and left without power.

A server is the product's own `run` of its service, over the simulated network and disks. A client is the product's own
`connect`, with its cache in a folder of this machine's memory: who takes the folder after a kill finds it as it was.
"""

import pathlib
import random
from collections.abc import Callable
from typing import Any

from simulation import disks, threads, transport
from simulation.loop import Life, SimulatedLoop
from simulation.network import Network

FILE_SERVERS = ("a", "b", "c")
SERVERS = ("directory", "locks", *FILE_SERVERS)
DIRECTORY_URL = "http://directory:1"
TIMEOUT_S = 6.0
LOCK_WAIT_S = 3.0
PACE = {"scrub_bytes_s": 16e6, "scrub_every_s": 6.0, "walk_every_s": 3.0}
COLLECT_EVERY_S, NEVER_S = 0.9, 1e6
"""What goes on beside the requests of file servers comes several times in a run."""


class Servers:
    """All servers of the cluster; `lives` has those that run. `collects`: file servers look for garbage."""

    def __init__(self, loop: SimulatedLoop, network: Network, source: random.Random, collects: bool):
        self._loop, self._network, self.random = loop, network, source
        self.directory_disk = disks.DirectoryDisk()
        self.chunk_disks = {name: disks.ChunkDisk(source) for name in FILE_SERVERS}
        self.lives: dict[str, Life] = {}
        self._runs: dict[str, list[tuple[float, Life]]] = {name: [] for name in SERVERS}
        self._ends: dict[Life, float] = {}
        self._pace = {**PACE, "collect_every_s": COLLECT_EVERY_S if collects else NEVER_S}
        self._wire()

    def _wire(self) -> None:
        """The seams: what the services' `run` takes for its network and disk."""
        from servers import directory_service, file_service, lock_service

        transport.way.network = self._network
        peers, serve = transport.peers_class(), transport.server()
        for module in (directory_service, file_service, lock_service):
            module.serve = serve
        for module in (file_service, lock_service):
            module.Peers = peers
        directory_service.open_store = lambda kind, home: self.directory_disk.store
        file_service.ChunkStore = lambda home: disks.chunk_store(self.chunk_disks[home.name])

    def start(self, name: str) -> None:
        if name in self.lives:
            return
        life = self.lives[name] = Life(name, self.random.uniform(0, 1e6))
        self._runs[name].append((self._loop.now, life))
        self._network.dark.discard(name)
        self._loop.within(life, lambda: self._loop.create_task(self._service(name)))

    def _service(self, name: str) -> Any:
        from servers import directory_service, file_service, lock_service

        at = (pathlib.Path("/simulated") / name, name, 1, transport.TOKEN)
        if name == "directory":
            return directory_service.run(*at)
        if name == "locks":
            return lock_service.run(*at, DIRECTORY_URL)
        return file_service.run(name, *at, DIRECTORY_URL, file_service.Pace(**self._pace))

    def kill(self, name: str) -> None:
        """The process ends; what it had written is in the kernel's memory."""
        life = self.lives.pop(name, None)
        if life is not None:
            life.alive, self._ends[life] = False, self._loop.now
            self._network.died(name)
            self._network.caller_died(life)

    def needed(self) -> set[bytes]:
        """All chunks that the directory has references to."""
        from servers import references

        read = self.directory_disk.store.read
        return set(read(lambda tx: references.chunks_after(tx, references.ONLY_GROUP, b"", 100_000))[0])

    def ran_s_ago(self, name: str, seconds: float) -> float:
        """Since when it has run for so long in one go: only who runs brings anything to the disk, and a new start
        begins to count anew."""
        for began, life in reversed(self._runs[name]):
            since = life.ran_s_ago(seconds, self._ends.get(life, self._loop.now))
            if since > began:
                return since
        return 0.0

    def read_by_files(self) -> set[bytes]:
        """The chunks of all files' newest contents."""
        from dfsfuse import chunks
        from servers import records

        def run(tx: Any) -> set[bytes]:
            found: set[bytes] = set()
            for _, inode in records.inodes(tx):
                segments = [records.get_segment(tx, segment_id) or [] for segment_id in inode.segments if segment_id]
                found |= chunks.chunks_of([*inode.entries, *(entry for segment in segments for entry in segment)])
            return found

        return self.directory_disk.store.read(run)

    def has_another(self, name: str, chunk: bytes) -> bool:
        """Whether the chunk is whole on the disk of another file server."""
        return any(disk.is_whole(chunk) for other, disk in self.chunk_disks.items() if other != name)

    def can_be_spared(self, name: str) -> bool:
        """Whether what is needed is on other disks too: two that lose the same have lost it for good."""
        return all(self.has_another(name, chunk) for chunk in self.needed())

    def lose_disk(self, name: str) -> None:
        """The host loses power, and gets another disk."""
        self.lose_power(name)
        self.chunk_disks[name].empty()

    def lose_power(self, name: str) -> None:
        """The host is silent until it starts again, and its disk has lost what was not synced."""
        life = self.lives.pop(name, None)
        if life is not None:
            life.alive, self._ends[life] = False, self._loop.now
        self._network.lost_power(name)
        if name == "directory":
            self.directory_disk.lose_power()
        elif name in self.chunk_disks:
            self.chunk_disks[name].lose_power()


class Client:
    """One mount, on a host of its own. `filesystem` is None while none runs."""

    def __init__(self, name: str, loop: SimulatedLoop, network: Network, home: pathlib.Path, source: random.Random):
        self.name, self._loop, self._network, self._home, self._random = name, loop, network, home, source
        self.life: Life | None = None
        self.filesystem: Any = None
        self.starts = 0

    def start(self, then: Callable[[], None]) -> None:
        """Connect in a thread of its own, again and again until it works, and then call `then` in it."""
        self.life = Life(self.name, self._random.uniform(0, 1e6))
        self.starts += 1
        self._network.dark.discard(self.name)
        self._loop.within(self.life, lambda: threads.spawn(lambda: self._connect(then)))

    def _connect(self, then: Callable[[], None]) -> None:
        from dfsfuse import client, errors
        from dfsfuse.options import ClientOptions

        options = ClientOptions(
            url=DIRECTORY_URL, token=transport.TOKEN, home=self._home, mountpoint=f"/{self.name}",
            lock_wait_s=LOCK_WAIT_S, timeout_s=TIMEOUT_S, volume="simulated",
        )  # fmt: skip
        while True:
            try:
                self.filesystem = client.connect(options)
                break
            except errors.DfsError:
                threads.sleep(0.5)
        then()

    def kill(self) -> None:
        """All of its threads stay where they are, for ever."""
        if self.life is None:
            return
        self.life.alive = False
        self._network.caller_died(self.life)
        if self.filesystem is not None:
            index = self.parts("_cache").index
            index._db.close()
            index._checkpointer.close()
        self.life = self.filesystem = None

    def parts(self, name: str) -> Any:
        """A part of the running client: `_cache`, `_locks`, `_unsent` and others of its open files."""
        return getattr(self.filesystem.files, name)


def wire_clients() -> None:
    """The seams of the client: its sockets, and what it knows of its host."""
    from dfsfuse import client
    from dfsfuse.session import Identity

    client.Rpc = transport.rpc_class()

    def identity(mountpoint: str) -> Any:
        return Identity(host=mountpoint[1:], pid=1, mountpoint=mountpoint, user="simulated")

    client.identity = identity
