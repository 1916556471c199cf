"""Open files without a network: the real OpenFiles, cache, committer and retries over the real directory core.

Write locks are given to whoever asks, with a token that rises whenever the lock was lost; chunks are in a dictionary.
"""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clients import NoLocks, Servers
from volumes import FILE, Volume

from dfsfuse import errors, messages
from dfsfuse.attributes import AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.closed_rows import ClosedRows
from dfsfuse.commits import Committer
from dfsfuse.content import Content
from dfsfuse.copies import Copies
from dfsfuse.locks import Lock
from dfsfuse.openfiles import Handle, OpenFiles
from dfsfuse.openings import Openings
from dfsfuse.places import Place
from dfsfuse.restoring import Restoring
from dfsfuse.sending import Sending
from dfsfuse.session import Identity
from dfsfuse.sharing import Sharing
from dfsfuse.unsent import Unsent
from servers import durability, records
from servers.store.memory import MemoryStore

OTHERS_TOKEN = 1 << 60
SILENT = errors.TimedOut("the servers do not answer")


class Directory:
    """A session with the directory core. While `refusal` is set, every commit gets it. The answers to the next
    `lost` creates do not arrive."""

    def __init__(self, volume: Volume):
        self.volume, self.identity = volume, Identity("host", 1, "/mnt", "user")
        self.id = volume.begin()
        self.refusal: errors.DfsError | None = None
        self.unsent_files = self._sequence = self.lost = 0
        self._openings, self.closed_rows = itertools.count(1), ClosedRows()
        self._one_at_a_time = threading.RLock()
        self._on_new_session = []

    def new_opening(self) -> int:
        return next(self._openings)

    def query(self, request: messages.Message, reply: type, timeout_s: float | None = None) -> Any:
        with self._one_at_a_time:
            core, volume = self.volume.core, self.volume
            if isinstance(request, messages.Open):
                return core.open(request)
            if isinstance(request, messages.PutSegments):
                return core.put_segments(request, volume.now_s)
            if isinstance(request, messages.Durable):
                return volume.look(durability.check, request)
            return core.query(request, volume.now_ns)

    def change(self, request: messages.Change, reply: type, meanwhile: Callable[[], None] = lambda: None) -> Any:
        meanwhile()
        with self._one_at_a_time:
            if isinstance(request, messages.Commit) and self.refusal is not None:
                raise self.refusal
            self._sequence += 1
            request.session, request.slot, request.sequence = self.id, 1, self._sequence
            if isinstance(request, messages.Commit):
                return self.volume.core.commit(request, self.volume.tick(), self.volume.now_s)
            answer = self.volume.core.change(request, self.volume.tick())
            if isinstance(request, messages.Create) and self.lost:
                self.lost -= 1
                raise SILENT
            return answer

    def closed(self, ino: int, version: int, opening: int) -> None:
        self.closed_rows.add(ino, version, opening)

    def committed(self, ino: int, base: int, version: int) -> None:
        self.closed_rows.for_writing.committed(ino, base, version)

    def renew(self) -> None:
        """What was closed is told."""
        closed = self.closed_rows.take()
        self.volume.core.renew(messages.Renew(session=self.id, closed=closed), self.volume.now_s)

    def lapse(self) -> None:
        """The session has ended, and another is begun."""
        self.volume.core.end(messages.End(self.id))
        self.id, self._sequence = self.volume.begin(), 0
        for tell in self._on_new_session:
            tell()

    def on_new_session(self, tell) -> None:
        self._on_new_session.append(tell)

    def report_unsent(self, files: int) -> None:
        self.unsent_files = files

    def changed(self, ino: int, name: bytes = b"") -> None: ...

    def sync(self) -> None: ...


class Locks:
    """Every lock is free."""

    def __init__(self, volume: Volume):
        self._volume, self._tokens, self._held = volume, itertools.count(1), {}

    def acquire(self, ino: int, path: bytes, pid: int, wait: bool = True, interrupted=None) -> Lock:
        if ino not in self._held:
            self._held[ino] = Lock(ino, next(self._tokens), 1e18, pid, path)
        return self._held[ino]

    def reserve(self, path: bytes, pid: int, interrupted: object = None) -> Lock:
        return self.acquire(self._volume.store.transact(lambda tx: records.allocate_inodes(tx, 1)), path, pid)

    def give_up(self, ino: int) -> None: ...
    def release(self, lock: Lock, pid: int, keep: bool = False) -> None: ...

    def lose(self, ino: int) -> None:
        del self._held[ino]


class OneClient:
    """One client with its open files, and the volume that others change behind its back."""

    def __init__(self, folder: Path):
        self.volume, self.servers = Volume(MemoryStore()), Servers()
        self.session, self.locks = Directory(self.volume), Locks(self.volume)
        self.home, self.cache = folder, Cache(folder, 1 << 40)
        self.committer = Committer(self.session, self.servers, self.cache)
        self.copies = Copies(self.session, self.locks, self.cache, self.servers, self.committer)
        attributes = AttributeTable()
        openings = Openings(self.session, attributes, self.cache)
        restoring = Restoring(self.session, openings, self.cache, self.servers, self.committer)
        self.unsent = Unsent(self.session, self.locks, self.cache, restoring, self.copies)
        sending = Sending(attributes, self.cache, restoring, self.copies)
        sharing = Sharing(
            self.locks, NoLocks(), self.cache, openings, attributes, self.copies, sending, self.servers.download
        )
        self.files = OpenFiles(
            self.session, self.locks, attributes, self.cache, openings, self.servers, sending, self.unsent, sharing
        )

    def create(self, name: str, data: bytes = b"") -> Handle:
        """A new file, committed with `data`, and still open."""
        handle, _ = self.files.create(place(name), FILE, 0, 0, os.O_RDWR, 1)
        self.files.write(handle, data, 0)
        self.files.flush(handle)
        return handle

    def open(self, name: str, flags: int = os.O_RDWR, pid: int = 1) -> Handle:
        return self.files.open(place(name), flags, pid)[0]

    def write(self, handle: Handle, data: bytes) -> None:
        self.files.write(handle, data, 0)

    def others_commit(self, name: str, data: bytes) -> None:
        """Another client, which has got the write lock, has committed."""
        self.volume.commit(self.volume.at(name).ino, data, token=OTHERS_TOKEN)

    def close(self, handle: Handle) -> errors.DfsError | None:
        """close() of the last descriptor; what it returns."""
        outcome = self.flush(handle)
        self.files.release(handle)
        return outcome

    def flush(self, handle: Handle, durable: bool = False) -> errors.DfsError | None:
        """The outcome of close() or fsync()."""
        try:
            self.files.flush(handle, durable)
            return None
        except errors.DfsError as error:
            return error

    def open_rows(self) -> int:
        self.session.renew()
        return len(self.volume.store.read(lambda tx: tx.range(b"o", b"p", 100)))


def place(name: str) -> Place:
    return 1, (name.encode(),)


def failed_to_close(client: OneClient, name: str, data: bytes = b"unsent") -> Content:
    """The content of a file whose close() failed."""
    handle = client.open(name) if name in [path[1:] for path in client.volume.paths()] else client.create(name)
    client.write(handle, data)
    client.session.refusal = SILENT
    assert client.close(handle) is SILENT
    client.session.refusal = None
    return handle.content
