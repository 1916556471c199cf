"""File servers without a network or a disk: what they tell the directory, and what they do with what it tells them."""

from collections.abc import Iterable

from volumes import ROOM, Volume

from dfsfuse import messages
from dfsfuse.chunks import chunk_name
from dfsfuse.messages import ChunkReceipts, Receipt, Registered


class DiskServer:
    """`chunks`: the newest receipt number of each chunk that is here. What is in `unsynced` a power cut takes."""

    def __init__(self, name: str):
        self.name, self.disks, self.starts = name, 0, 0
        self.up, self.free_bytes = False, ROOM
        self.empty_disk()

    def empty_disk(self) -> None:
        self.disks += 1
        self.chunks: dict[bytes, int] = {}
        self.unsynced: set[bytes] = set()
        self.starts = 0
        self.start()

    def start(self, power_cut: bool = False) -> None:
        if power_cut:
            for chunk in self.unsynced:
                del self.chunks[chunk]
        self.starts += 1
        self.up = True
        self.first = self.number = (self.starts << 40) + 1
        self.synced = 0
        self.place = 0
        self.left: list[bytes] = []
        if power_cut:
            self.unsynced = set()

    def sync(self) -> None:
        self.unsynced.clear()
        self.synced = self.number - 1

    def store(self, chunk: bytes) -> Receipt:
        if chunk not in self.chunks:
            self.unsynced.add(chunk)
        self.chunks[chunk] = self.number
        self.number += 1
        return Receipt(self.name, self.chunks[chunk])

    def lose(self, chunk: bytes) -> None:
        self.chunks.pop(chunk, None)
        self.unsynced.discard(chunk)


class Servers:
    """The group A, B, C of a volume. `register` is a heartbeat, and does nothing else; `upkeep` does what it asked for,
    to the end."""

    def __init__(self, volume: Volume, names: str = "ABC"):
        self.volume = volume
        self.of = {name: DiskServer(name) for name in names}
        for name in names:
            self.register(name)

    def register(self, name: str) -> Registered:
        server = self.of[name]
        told = {"store": f"disk {name} {server.disks}", "first_number": server.first, "next_number": server.number}
        request = self.volume.heartbeat(name, synced_number=server.synced, free_bytes=server.free_bytes, **told)
        reply = self.volume.core.register(request, self.volume.now_s)
        if reply.numbers_from:
            server.number = reply.numbers_from
            server.starts = server.number >> 40
            return self.register(name)
        return reply

    def beat(self) -> None:
        """Everybody who is up syncs, and says so."""
        for name, server in self.of.items():
            if server.up:
                server.sync()
                self.register(name)

    def store(self, data: bytes, names: str = "ABC") -> ChunkReceipts:
        """Upload a chunk to those of these servers that are up."""
        chunk = chunk_name(data)
        return ChunkReceipts(chunk, [self.of[n].store(chunk) for n in names if self.of[n].up])

    def upkeep(self, name: str, limit: int = 3) -> None:
        reply = self.register(name)
        if reply.repair:
            self.repair(name, limit)
        if reply.collect:
            self.collect(name, limit)

    def repair(self, name: str, limit: int = 3) -> list[bytes]:
        """One pass; all that it was told to look for."""
        work, asked = messages.RepairWork(), []
        for _ in range(10_000):
            work = self.repair_step(name, work, limit)
            asked += work.chunks
            if work.complete:
                return asked
        raise AssertionError("a repair pass without an end")

    def repair_step(self, name: str, work: messages.RepairWork, limit: int = 3) -> messages.RepairWork:
        server = self.of[name]
        have = [chunk for chunk in work.chunks if self._fetch(server, chunk)]
        server.sync()
        lacks = [chunk for chunk in work.chunks if chunk not in server.chunks]
        request = messages.Repair(
            server=name, first_number=server.first, have=have, lacks=lacks, after=work.after, limit=limit
        )
        return self.volume.core.repair(request, self.volume.now_ns, self.volume.now_s)

    def _fetch(self, server: DiskServer, chunk: bytes) -> bool:
        if chunk not in server.chunks and any(chunk in other.chunks for other in self._others(server)):
            server.store(chunk)
        return chunk in server.chunks

    def _others(self, server: DiskServer) -> Iterable[DiskServer]:
        return (other for other in self.of.values() if other is not server and other.up)

    def collect(self, name: str, limit: int = 3, inventory: bool = False) -> None:
        """Work through the garbage log; with `inventory` ask about everything that is here as well."""
        names = list(self.of[name].chunks) if inventory else []
        while self.collect_step(name, limit, names):
            names = []

    def collect_step(self, name: str, limit: int = 3, names: Iterable[bytes] = ()) -> bool:
        server = self.of[name]
        bound = server.number
        request = messages.Collect(
            server=name, next_number=bound, names=[*names, *server.left], after=server.place, limit=limit
        )
        reply = self.volume.collect(request)
        return self.delete(name, reply, bound)

    def delete(self, name: str, reply: messages.Garbage, bound: int) -> bool:
        """Is there more, be it to tell how far it has come?"""
        server = self.of[name]
        server.left = [chunk for chunk in reply.chunks if server.chunks.get(chunk, 0) >= bound]
        for chunk in set(reply.chunks) - set(server.left):
            server.lose(chunk)
        moved, server.place = server.place != reply.last, reply.last
        return reply.more or moved

    def settle(self) -> None:
        """Until nothing is left to be done, with everybody up."""
        for _ in range(50):
            self.beat()
            for name in self.of:
                self.upkeep(name)
            while self.volume.core.settle(self.volume.now_s):
                pass
            if not any(r.repair or r.collect for r in map(self.register, self.of)):
                return
        raise AssertionError("the volume does not come to rest")
