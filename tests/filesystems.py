"""A client's whole file system without a mount and without a network: every part but sockets is the real one.

The session asks the directory's core directly, each message written and read on the way; locks are granted at once,
with rising tokens; chunks are kept in a dictionary (clients.Servers). Several Machines of one Volume are several
mounts.
"""

import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clients import NoLocks, Servers
from volumes import Volume

from dfsfuse import errors, messages
from dfsfuse.allocation import Allocation
from dfsfuse.attributes import HOLD_S, AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.closed_rows import ClosedRows
from dfsfuse.commits import Committer
from dfsfuse.copies import Copies
from dfsfuse.filesystem import FileSystem
from dfsfuse.locks import Lock, never
from dfsfuse.messages import Attributes, Message, Renew, from_msgpack, to_msgpack
from dfsfuse.openfiles import Handle, OpenFiles
from dfsfuse.openings import Openings
from dfsfuse.places import Place, place_of
from dfsfuse.program_locks import ProgramLocks
from dfsfuse.read_times import ReadTimes
from dfsfuse.recovery import Recovery
from dfsfuse.restoring import Restoring
from dfsfuse.sending import Sending
from dfsfuse.session import Identity
from dfsfuse.sharing import Sharing
from dfsfuse.succession import Succession
from dfsfuse.unsent import Unsent
from dfsfuse.watching import Watching
from servers import durability
from servers.callbacks import promisable

_tokens = itertools.count(1)
_watchers: dict[int, dict[int, Watching]] = {}


def carried(message: Message) -> Any:
    """As it arrives on the other side."""
    return from_msgpack(to_msgpack(message), type(message))


class CoreSession:
    """What the client's parts need of a session. `asked` counts requests by the names of their classes."""

    lease_s = 1e9

    def __init__(self, volume: Volume):
        self._volume, self.id = volume, volume.begin()
        self.rpc, self.url = self, ""
        self.watching: Watching | None = None
        self.table: AttributeTable | None = None
        self._watchers = _watchers.setdefault(id(volume.core), {})
        self.identity = Identity("here", os.getpid(), "/mnt", "root")
        self.asked: Counter[str] = Counter()
        self._openings, self._slots = itertools.count(1), itertools.count(1)
        self.closed_rows, self.read_times = ClosedRows(), ReadTimes()
        self._new_session: list[Callable[[], None]] = []
        self.leaves_unsent = False
        self.renew()

    def query(self, request: Message, reply: type, interrupted: object = None, timeout_s: float | None = None) -> Any:
        self.asked[type(request).__name__] += 1
        self._call_back(request)
        return self._promised(request, self._answer(carried(request)))

    def _answer(self, request: Message) -> Any:
        core = self._volume.core
        if isinstance(request, messages.Open):
            return carried(core.open(request))
        if isinstance(request, messages.PutSegments):
            return carried(core.put_segments(request, self._volume.now_s))
        if isinstance(request, messages.Durable):
            return carried(self._volume.look(durability.check, request))
        if isinstance(request, messages.ListFolder):
            return carried(core.list_folder(request, self._volume.now_ns))
        if isinstance(request, messages.Quota):
            return carried(core.quota(request))
        return carried(self._volume.ask(request))

    def change(
        self,
        request: messages.Change,
        reply: type,
        meanwhile: Callable[[], None] = lambda: None,
        interrupted: Callable[[], bool] | None = None,
    ) -> Any:
        meanwhile()
        self.asked[type(request).__name__] += 1
        request.session, request.slot, request.sequence = self.id, next(self._slots), 1
        self._call_back(request)
        return self._promised(request, self._changed(carried(request)))

    def _changed(self, request: messages.Change) -> Any:
        if isinstance(request, messages.Commit):
            return carried(self._volume.core.commit(request, self._volume.tick(), self._volume.now_s))
        return carried(self._volume.change(request))

    # -- promises: others hear at once, in this thread

    def watch(self, attributes: AttributeTable) -> None:
        self.table = attributes
        self.watching = self._watchers[self.id] = Watching(self, attributes)
        self.closed_rows.keep_while(attributes.promised_version)
        attributes.on_broken(lambda ino, name: None if name else self.closed_rows.promise_ended(ino))
        self.watching.watch()

    def call(
        self, url: str, operation: str, request: messages.Watch, reply: type, *_: object, patient: bool
    ) -> messages.Watched:
        if request.owed:
            self._volume.core.take_owed(carried(request), self._volume.tick())
        answer = self._volume.core.promises.watch(carried(request), 0.0)
        return carried(answer or messages.Watched(epoch=request.epoch))

    def changed(self, ino: int, name: bytes = b"") -> None:
        if self.table is not None:
            self.table.broken(ino, name)

    def on_doubt(self, tell: Callable[[messages.Doubt], None]) -> None: ...

    def _call_back(self, request: Message) -> None:
        core = self._volume.core
        waits = core.promises.tell(core.touched(request), self.id, 0.0)
        while core.promises.waits_until(waits, 0.0) is not None:
            for session, _ in waits:
                self._watchers[session].watch()

    def _promised(self, request: Any, reply: Any) -> Any:
        if self.watching is not None:
            place = (getattr(request, "base", 0), getattr(request, "names", []))
            inos, told = promisable(reply, place)
            promised = self._volume.core.promises.promise(self.id, inos, 0.0)
            for part in told:
                part.promised = promised
        return reply

    def new_inode(self) -> int:
        return self._volume.core.attendance.allocate(messages.AllocateInodes(self.id, 1)).first

    def new_opening(self) -> int:
        return next(self._openings)

    def closed(self, ino: int, version: int, opening: int) -> None:
        self.closed_rows.add(ino, version, opening)

    def committed(self, ino: int, base: int, version: int) -> None:
        self.closed_rows.for_writing.committed(ino, base, version)

    def renew(self) -> None:
        closed, read = self.closed_rows.take(), self.read_times.take()
        renew = Renew(session=self.id, closed=closed, read=read)
        self.space = self._volume.core.renew(carried(renew), self._volume.now_s)
        self.read_times.told(heard=True)
        self.cluster = self.space.cluster

    def begin_anew(self) -> None:
        """The session has ended, as the next renewal finds."""
        self.closed_rows.forget()
        self.id = self._volume.begin()
        for tell in self._new_session:
            tell()

    def close(self) -> None:
        if self.leaves_unsent:
            self.renew()
        self._volume.core.end(messages.End(self.id, self.leaves_unsent))

    def take_over(self, formers: list[int], bases: list[messages.Base], opening: int) -> list[messages.Closed]:
        request = messages.TakeOver(session=self.id, formers=formers, bases=bases, opening=opening)
        return self._volume.core.attendance.take_over(request).rows

    def end_locks(self, session: int) -> None: ...

    def on_new_session(self, tell: Callable[[], None]) -> None:
        self._new_session.append(tell)

    def report_unsent(self, files: int) -> None: ...

    def sync(self) -> None:
        self.asked["Sync"] += 1


class FreeLocks:
    """Every lock is free, or shared by those who have it on this client. With `keeps` they are kept after the last
    close, until another client takes them: `all_tables` are those of the volume."""

    def __init__(self, session: CoreSession, keeps: bool, all_tables: list["FreeLocks"]):
        self._session, self._keeps, self._all_tables = session, keeps, all_tables
        self._held: dict[int, Lock] = {}
        self._kept: dict[int, Lock] = {}
        all_tables.append(self)

    def acquire(self, ino: int, path: bytes, pid: int, wait: bool = True, interrupted: object = never) -> Lock:
        if ino in self._kept:
            self._held[ino] = self._kept.pop(ino)
        if ino in self._held:
            self._held[ino].pids.append(pid)
        for table in self._all_tables:
            table.give_up(ino)
        return self._held.setdefault(ino, Lock(ino, next(_tokens), 1e12, pid, path))

    def reserve(self, path: bytes, pid: int, interrupted: object = None) -> Lock:
        return self.acquire(self._session.new_inode(), path, pid)

    def held(self, ino: int) -> Lock | None:
        return self._held.get(ino)

    def here(self) -> set[int]:
        return {*self._held, *self._kept}

    def give_up(self, ino: int) -> None:
        self._kept.pop(ino, None)

    def release(self, lock: Lock, pid: int, keep: bool = False) -> None:
        lock.pids.remove(pid)
        if not lock.pids and self._held.pop(lock.ino, None) is not None and keep and self._keeps:
            self._kept[lock.ino] = lock


class Machine:
    """One client, with a cache in `home`. Paths are text from the root of the volume."""

    def __init__(self, volume: Volume, servers: Servers, home: Path, hold_s: float = HOLD_S, watches: bool = False):
        self.volume, self.servers, self.home, self._hold_s, self._watches = volume, servers, home, hold_s, watches
        self.start()

    def start(self) -> None:
        self.session = CoreSession(self.volume)
        self.cache = Cache(self.home, 1 << 40)
        self._succession = Succession(self.session, self.cache, self.home)
        self._succession.begin()
        all_tables: list[FreeLocks] = vars(self.volume).setdefault("lock_tables", [])
        locks, table = (
            FreeLocks(self.session, self._watches, all_tables),
            AttributeTable(self._hold_s, reads=self.session.read_times),
        )
        self.locks = locks
        self.session.closed_rows.write_while(locks.here)
        if self._watches:
            self.session.watch(table)
        committer = Committer(self.session, self.servers, self.cache)
        copies = Copies(self.session, locks, self.cache, self.servers, committer)
        openings = Openings(self.session, table, self.cache)
        restoring = Restoring(self.session, openings, self.cache, self.servers, committer)
        self.unsent = Unsent(self.session, locks, self.cache, restoring, copies)
        sending = Sending(table, self.cache, restoring, copies)
        sharing = Sharing(locks, NoLocks(), self.cache, openings, table, copies, sending, self.servers.download)
        files = OpenFiles(self.session, locks, table, self.cache, openings, self.servers, sending, self.unsent, sharing)
        if self._watches:
            self.session.watching.pay_with(files.take_owed)
        self.files = FileSystem(
            self.session, locks, table, files, Allocation(self.session, files, self.cache),
            ProgramLocks(self.session, NoLocks(), sharing, files),
        )  # fmt: skip
        Recovery(self.session, self.cache, self.servers, self.unsent, openings.newest).run()
        self.unsent.retry()

    def kill(self) -> None:
        """Another client takes the folder, and nothing was closed."""
        self.start()

    def unmount(self) -> None:
        """No program has anything open."""
        self._succession.close()
        self.cache.close()
        self.session.close()

    # -- short ways

    def make(self, path: str, mode: int = stat.S_IFDIR | 0o755, **more: Any) -> Attributes:
        return self.files.make(place_of(path), mode, more.pop("uid", 0), more.pop("gid", 0), **more)

    def create(self, path: str, mode: int = 0o644, flags: int = os.O_RDWR, **more: Any) -> Handle:
        place, uid = place_of(path), more.pop("uid", 0)
        return self.files.create(place, stat.S_IFREG | mode, uid, uid, flags, os.getpid(), **more)[0]

    def create_unnamed(self, folder: str = "/", flags: int = os.O_RDWR, **more: Any) -> Handle:
        return self.files.create_unnamed(place_of(folder), stat.S_IFREG | 0o600, 0, 0, flags, os.getpid(), **more)[0]

    def open(self, path: str | Place, flags: int = os.O_RDONLY, **more: Any) -> Handle:
        place = place_of(path) if isinstance(path, str) else path
        return self.files.open(place, flags, os.getpid(), **more)[0]

    def put(self, handle: Handle, data: bytes, offset: int = 0) -> None:
        self.files.files.write(handle, data, offset)

    def close(self, handle: Handle) -> None:
        """As the kernel does it: FLUSH, RELEASE, and the renewal that follows tells the directory."""
        try:
            self.files.files.flush(handle)
        finally:
            self.files.files.release(handle)
            self.session.renew()

    def write(self, path: str, data: bytes, **more: Any) -> None:
        """The content of a file that is there, or is made for it."""
        try:
            handle = self.create(path, **more)
        except errors.AlreadyExists:
            handle = self.open(path, os.O_WRONLY | os.O_TRUNC, **more)
        self.put(handle, data)
        self.close(handle)

    def read(self, path: str) -> bytes:
        handle = self.open(path)
        try:
            return self.files.files.read(handle, 1 << 30, 0)
        finally:
            self.close(handle)

    def stat(self, path: str) -> Attributes:
        return self.files.lookup(place_of(path))

    def names(self, path: str = "/") -> list[bytes]:
        return [entry.name for entry in self.files.list_folder(place_of(path))]
