"""Simulated disks: what is written and not synced is lost when the power fails.

The directory's store is the engine for tests and simulation with a note of what each transaction has replaced since
the last sync. A file server's disk is a shelf of chunks in memory, with the interface of its packs; what decides, from
receipts to verification, is the product's ChunkStore above it.
"""

import errno
import functools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@functools.cache
def _directory_store() -> type:
    """The class: the product's, as it is when the first run begins."""
    from dfsfuse import errors
    from servers.store.memory import MemoryStore, MemoryTransaction

    class Store(MemoryStore):
        def __init__(self, disk: "DirectoryDisk"):
            super().__init__()
            self._disk = disk

        def transact(self, operation: Any) -> Any:
            transaction = MemoryTransaction(self)
            result = operation(transaction)
            if transaction.changes and self._disk.full:
                raise errors.NoSpace("the directory's disk is full; nothing was changed")
            for key, value in transaction.changes.items():
                self._disk.replaced.append((key, self.values.get(key)))
                self._apply(key, value)
            return result

        def sync(self) -> None:
            self._disk.replaced.clear()

        @property
        def is_synced(self) -> bool:
            return not self._disk.replaced

    return Store


class DirectoryDisk:
    """The directory's store; survives its server."""

    def __init__(self) -> None:
        self.full = False
        self.replaced: list[tuple[bytes, bytes | None]] = []
        self.store = _directory_store()(self)

    def lose_power(self) -> None:
        while self.replaced:
            self.store._apply(*self.replaced.pop())


class ChunkDisk:
    """One file server's disk. `harmed` has the chunks that a modelled fault has taken from it, or broken. `id` names
    it, `start` counts the starts of its server."""

    def __init__(self, source: random.Random):
        self._random = source
        self.harmed: set[bytes] = set()
        self.chunks: dict[bytes, bytes] = {}
        self.full = False
        self.empty()

    def is_whole(self, name: bytes) -> bool:
        return name in self.chunks and name not in self.harmed

    def empty(self) -> None:
        """Another disk, with nothing on it."""
        self.harmed.update(self.chunks)
        self.chunks.clear()
        self.unsynced: set[bytes] = set()
        self.deleted: dict[bytes, bytes] = {}
        self.corrupt: set[bytes] = set()
        self.id, self.start = self._random.randbytes(16).hex(), 0

    def lose_power(self) -> None:
        """What was not synced is gone, and what was deleted since is there again."""
        for name in self.unsynced:
            self.chunks.pop(name, None)
            self.harmed.add(name)
        self.chunks.update(self.deleted)
        self.harmed.difference_update(self.deleted)
        self.synced()

    def synced(self) -> None:
        self.unsynced.clear()
        self.deleted.clear()

    def flip_bit(self, names: Iterable[bytes]) -> None:
        """Of one of these chunks."""
        if names := sorted(name for name in names if name in self.chunks):
            name = self._random.choice(names)
            data = bytearray(self.chunks[name])
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
            self.chunks[name] = bytes(data)
            self.harmed.add(name)

    def raise_start(self, at_least: int = 0) -> int:
        self.start = max(self.start, at_least) if at_least else self.start + 1
        return self.start


class Home:
    """The folder of a file server, or one in it, as far as ChunkStore makes anything of it."""

    def __init__(self, disk: ChunkDisk, name: str = ""):
        self.disk, self.name = disk, name

    def __truediv__(self, name: str) -> "Home":
        return Home(self.disk, name)

    def __str__(self) -> str:
        return f"/simulated/{self.name}"

    def mkdir(self, **_: Any) -> None: ...

    def iterdir(self) -> Iterator["Home"]:
        names = self.disk.corrupt if self.name == "corrupt" else ()
        return (Home(self.disk, name.hex()) for name in sorted(names))


class Shelf:
    """servers.packs.Packs as far as ChunkStore uses it."""

    is_learning = False

    def __init__(self, home: Home, on_broken: Callable[[bytes], None]):
        from servers.pack_file import Place

        self.disk, self._on_broken, self._place = home.disk, on_broken, Place

    @property
    def chunks(self) -> int:
        return len(self.disk.chunks)

    @property
    def stored_bytes(self) -> int:
        return sum(map(len, self.disk.chunks.values()))

    @property
    def unsynced(self) -> int:
        return len(self.disk.unsynced)

    def put(self, name: bytes, data: Any) -> bool:
        if self.disk.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        known = self.disk.chunks.get(name)
        if known is not None and len(known) == len(data):
            return False
        self.disk.chunks[name] = bytes(data)
        self.disk.harmed.discard(name)
        self.disk.unsynced.add(name)
        return True

    def may_have(self, name: bytes) -> bool:
        return name in self.disk.chunks

    def find(self, name: bytes) -> Any:
        data = self.disk.chunks.get(name)
        return None if data is None else self._place(1, 0, len(data))

    def read(self, name: bytes, place: Any, offset: int, length: int) -> bytes:
        return self.disk.chunks[name][offset : offset + length]

    def pieces(self, name: bytes, place: Any) -> Iterator[memoryview]:
        yield memoryview(self.disk.chunks[name])

    def drop_pages(self, name: bytes, place: Any) -> None: ...

    def look_for_packs(self) -> None: ...

    def set_aside(self, name: bytes, place: Any) -> None:
        if self.disk.chunks.pop(name, None) is not None:
            self.disk.corrupt.add(name)
            self._on_broken(name)
        self.disk.unsynced.discard(name)

    def delete(self, names: Iterable[bytes]) -> None:
        for name in names:
            data = self.disk.chunks.pop(name, None)
            if data is not None and name not in self.disk.unsynced:
                self.disk.deleted[name] = data
            self.disk.unsynced.discard(name)

    def names(self, after: bytes, limit: int) -> list[bytes]:
        return sorted(name for name in self.disk.chunks if name > after)[:limit]

    def save_room(self) -> None: ...

    def compact(self) -> int:
        return 0

    def sync(self, indexed: bool = True) -> list[OSError]:
        self.disk.synced()
        return []

    def close(self) -> None: ...


class NoFiles(Shelf):
    """servers.chunk_files.ChunkFiles: every chunk of a simulation is small."""

    shortest = 1 << 30

    def __init__(self, home: Home, on_broken: Callable[[bytes], None]):
        super().__init__(Home(ChunkDisk(random.Random(0))), on_broken)


def chunk_store(disk: ChunkDisk) -> Any:
    """The product's ChunkStore over the disk."""
    return _chunk_store()(Home(disk))


@functools.cache
def _chunk_store() -> type:
    """What its module takes from the file system is replaced, once."""
    from servers import chunkstore

    def raise_start(home: Home, at_least: int = 0) -> int:
        return home.disk.raise_start(at_least)

    def capacity(self: Any) -> tuple[int, int]:
        return (0 if self._home.disk.full else 1 << 30), 1 << 31

    chunkstore.Packs, chunkstore.ChunkFiles = Shelf, NoFiles
    chunkstore.store_id, chunkstore.raise_start_number = lambda home: home.disk.id, raise_start
    chunkstore.ChunkStore.capacity = capacity
    return chunkstore.ChunkStore
