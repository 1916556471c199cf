"""The directory over HTTP, on its store: `python -m servers directory`.

Every operation runs to its end in the event loop, so operations are serial by construction. What must be on disk before
it is answered waits for a sync in another thread; those that come meanwhile share the next one.
"""

import asyncio
import functools
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable
from pathlib import Path
from typing import Any

import msgspec

from dfsfuse import errors, messages
from dfsfuse.messages import Message, Nothing, Server
from servers import check, content, dump, durability, tracing
from servers.callbacks import Callbacks
from servers.certainty import when_certain
from servers.directory import Directory
from servers.http import App, Operation, serve
from servers.regular_syncs import sync_regularly
from servers.store import Store
from servers.store.memory import MemoryStore
from servers.store.sqlite import SqliteStore
from servers.surveys import Surveys

log = logging.getLogger(__name__)

SETTLE_EVERY_S = 0.5
_TIDY_EVERY_S = 5.0
_NOTED_AT_ONCE, _ASKED_AT_ONCE = 10, 50
"""Rows to close or times of reading, and chunks to look for, in one turn of the event loop: below a millisecond."""


class GroupSync:
    """`await wait()` returns once everything transacted before the call is on disk.

    A sync that is already running may have begun too early; so each call waits for the next one to begin.
    """

    def __init__(self, store: Store):
        self._store = store
        self._next: asyncio.Task | None = None
        self._running: asyncio.Task | None = None

    async def wait(self) -> None:
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running))
        await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        await asyncio.to_thread(self._store.sync)


class DirectoryService:
    """Operations by name; clocks are read here and nowhere below."""

    def __init__(self, store: Store, copies: int, url: str):
        self._store = store
        self._sync = GroupSync(store)
        self._surveys = Surveys(store)
        self._me = Server(kind="directory", name="directory", url=url, pid=os.getpid())
        self.core = Directory(
            store,
            copies=copies,
            volume=secrets.token_bytes(16),
            uid=os.getuid(),
            gid=os.getgid(),
            now_ns=time.time_ns(),
            now_s=boottime_s(),
        )
        self._callbacks = Callbacks(self.core.watch, self.core.promises, boottime_s)

    def operations(self) -> dict[str, Operation]:
        core = self.core
        timed = {
            "open": (messages.Open, self._open),
            "put_segments": (messages.PutSegments, lambda r: core.put_segments(r, boottime_s())),
            "commit": (messages.Commit, self._commit),
            "lookup": (messages.Lookup, self._lookup),
            "list": (messages.ListFolder, self._list),
            "where": (messages.Lookup, lambda r: self._look(content.where, r)),
            "durable": (messages.Durable, self._durable),
            "mappings": (messages.ListMappings, lambda r: self._look(content.mappings, r)),
            "begin": (messages.Begin, self._begin),
            "renew": (messages.Renew, self._renew),
            "end": (messages.End, self._end),
            "take_over": (messages.TakeOver, self._take_over),
            "allocate": (messages.AllocateInodes, self._durably(core.attendance.allocate)),
            "quota": (messages.Quota, self._durably(core.quota)),
            "register": (messages.Register, self._register),
            "repair": (messages.Repair, self._repair),
            "collect": (messages.Collect, self._collect),
            "audit": (messages.Audit, core.upkeep.audit),
            "dump": (messages.Dump, self._dump),
            "trace": (messages.Trace, lambda r: self._look(tracing.trace, r)),
            "check": (messages.Check, self._check),
            "mend": (messages.Mend, self._mend),
            "cluster": (Nothing, lambda r: core.cluster(boottime_s())),
            "status": (Nothing, lambda r: core.status(self._me, boottime_s())),
            "sync": (Nothing, self._durably(lambda r: r)),
            "ping": (Nothing, lambda r: r),
        }
        told = functools.partial(when_certain, self._store, self._sync.wait)
        served = {name: Operation(kind, told(handler)) for name, (kind, handler) in {**self._plain(), **timed}.items()}
        return served | {"watch": Operation(messages.Watch, told(self._watch), waits=True)}

    def _plain(self) -> dict[str, tuple[type[Message], Callable[[Any], Any]]]:
        query = self.core.query
        queries = {
            "path": messages.PathOf,
            "get_segments": messages.GetSegments, "get_xattr": messages.GetXattr, "list_xattrs": messages.ListXattrs,
        }  # fmt: skip
        changes = {
            "create": messages.Create, "link": messages.Link, "remove": messages.Remove, "rename": messages.Rename,
            "set_attributes": messages.SetAttributes, "set_xattr": messages.SetXattr,
            "remove_xattr": messages.RemoveXattr,
        }  # fmt: skip
        return {
            **{name: (kind, lambda r: query(r, time.time_ns())) for name, kind in queries.items()},
            **{name: (kind, self._change) for name, kind in changes.items()},
        }

    # -- what is promised, and what breaks promises

    def _watch(self, request: messages.Watch, gone: asyncio.Future[None]) -> Any:
        """What is owed counts as set before what waits for this session to hear."""
        if request.owed:
            self._callbacks.changed(self.core.take_owed(request, time.time_ns()))
        return self._callbacks.watch(request, gone)

    def _lookup(self, request: messages.Lookup) -> Message:
        return self._promised(request, self.core.query(request, time.time_ns()))

    def _list(self, request: messages.ListFolder) -> Message:
        return self._promised(request, self.core.list_folder(request, time.time_ns()))

    def _promised(self, request: Any, reply: Message) -> Message:
        return self._callbacks.promise(request.session, reply, (request.base, request.names))

    def _touching(self, request: Any, place: tuple[int, list[bytes]], apply: Callable[[], Message]) -> Any:
        """Made once those have heard of it whom it concerns."""

        def promised() -> Message:
            reply = apply()
            return self._callbacks.promise(0 if self.core.repeated else request.session, reply, place)

        return self._callbacks.change(request.session, lambda: self.core.touched(request), promised)

    def _change(self, request: Any) -> Any:
        place = (request.base, request.names)
        return self._touching(request, place, lambda: self.core.change(request, time.time_ns()))

    def _open(self, request: messages.Open) -> Any:
        return self._touching(request, (request.base, request.names), lambda: self._opened(request))

    def _opened(self, request: messages.Open) -> messages.Opened:
        try:
            return self.core.open(request)
        except errors.NoSpace as error:
            if request.token:
                raise
            log.warning(
                "inode %d is opened for reading without a row that would outlive its name: %s", request.base, error
            )
            return self.core.open(msgspec.structs.replace(request, opening=0, atime_ns=0))

    def _commit(self, request: messages.Commit) -> Any:
        committed = self._touching(
            request, (request.ino, []), lambda: self.core.commit(request, time.time_ns(), boottime_s())
        )
        return self._after_sync(committed) if request.durable else committed

    def _repair(self, request: messages.Repair) -> Message:
        """What a server has looked for in vain may be lost: then files go back to the content before."""
        files = self.core.upkeep.files_with(request.lacks) if request.lacks else []
        work = self.core.repair(request, time.time_ns(), boottime_s())
        self._callbacks.changed(files)
        return work

    def _take_over(self, request: messages.TakeOver) -> Any:
        taken = self.core.attendance.take_over(request)
        for former in request.formers:
            self._callbacks.end(former)
        return self._after_sync(taken) if taken.rows else taken

    def _end(self, request: messages.End) -> Message:
        ended = self.core.end(request)
        self._callbacks.end(request.session)
        return ended

    async def _renew(self, request: messages.Renew) -> Message:
        """What it has to note by parts, so that others are answered meanwhile."""
        parts = _parts_of(request)
        reply = self.core.renew(parts[0], boottime_s())
        for part in parts[1:]:
            await _let_others()
            reply.rows_kept = not self.core.note(part) or reply.rows_kept
        return reply

    async def _begin(self, request: messages.Begin) -> Message:
        return await self._after_sync(self.core.begin(request, boottime_s()))

    def _register(self, request: messages.Register) -> Any:
        reply = self.core.register(request, boottime_s())
        return self._after_sync(reply) if request.start else reply

    def _look(self, look: Callable[..., Any], request: Message) -> Any:
        """A file can have millions of chunks, and what many chunks are needed for is many rows."""
        group = self.core.group(boottime_s())
        return self._surveys.once(lambda tx: look(tx, request, group))

    async def _durable(self, request: messages.Durable) -> Message:
        """A power cut that comes after it was looked at takes the answer too."""
        group = self.core.group(boottime_s())
        found = self._store.read(lambda tx: durability.known(tx, request, group))
        if found is None:
            found = await self._look(durability.check, request)
        self._store.transact(lambda tx: durability.note(tx, request.ino, found))
        return await self._after_sync(Nothing())

    def _dump(self, request: messages.Dump) -> Any:
        copies, now_ns = self.core.copies, time.time_ns()
        pages = functools.partial(dump.pages, copies=copies, now_ns=now_ns)
        return self._surveys.page(request.key, request.page, pages, boottime_s())

    async def _collect(self, request: messages.Collect) -> Message:
        """By parts, so that others are answered meanwhile. What is to be deleted is named once it is on disk that no
        commit can need it any more."""
        reply, asked = self.core.upkeep.begin_collecting(request)
        for at in range(0, len(asked), _ASKED_AT_ONCE):
            await _let_others()
            reply.chunks += self.core.upkeep.needless(asked[at : at + _ASKED_AT_ONCE])
        return await self._after_sync(reply) if reply.chunks else reply

    def _check(self, request: messages.Check) -> Any:
        return self._surveys.page(request.key, request.page, check.pages, boottime_s())

    async def _mend(self, request: messages.Mend) -> Message:
        """One after the other, so that others are answered meanwhile."""
        changed: list[bool] = []
        for problem in request.problems:
            changed += self.core.upkeep.mend(messages.Mend([problem]), time.time_ns()).changed
            self._callbacks.changed_all()
            await asyncio.sleep(0)
        return await self._after_sync(messages.Mended(changed))

    def _durably(self, handler: Callable[[Any], Message]) -> Callable[[Any], Any]:
        return lambda request: self._after_sync(handler(request))

    async def _after_sync(self, reply: Message | Awaitable[Message]) -> Message:
        """Numbers that must never be given out twice, and durable commits, are on disk before they are answered."""
        done = await reply if isawaitable(reply) else reply
        await self._sync.wait()
        return done

    async def sync_for_ever(self) -> None:
        """A disk that fails is told to those who ask for durability, and is tried again for all others."""
        await sync_regularly(lambda: self._store.is_synced, self._sync.wait)

    async def settle_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            try:
                while self.core.settle(boottime_s()):
                    await asyncio.sleep(0)
            except errors.DfsError as error:
                log.error("what newer contents have replaced could not be let go: %s", error)

    async def tidy_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            self._surveys.end_idle(boottime_s())
            try:
                for session in self.core.attendance.end_lapsed(boottime_s()):
                    self._callbacks.end(session)
            except errors.DfsError as error:
                log.error("sessions that have lapsed could not be noted: %s", error)

    def beside(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside the operations, for ever."""
        return [self.sync_for_ever(), self.tidy_for_ever(), self.settle_for_ever()]

    def close(self) -> None:
        self._surveys.close()


async def _let_others() -> None:
    """In the first turn of the loop their requests are received, and in the second they are answered."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def _parts_of(request: messages.Renew) -> list[messages.Renew]:
    """The same in several, _NOTED_AT_ONCE of each at most; at least one."""
    count = max(len(request.closed), len(request.read), 1)
    cuts = (slice(at, at + _NOTED_AT_ONCE) for at in range(0, count, _NOTED_AT_ONCE))
    return [msgspec.structs.replace(request, closed=request.closed[cut], read=request.read[cut]) for cut in cuts]


def boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def open_store(kind: str, home: Path) -> Store:
    return MemoryStore() if kind == "memory" else SqliteStore(home / "directory.db")


async def run(home: Path, host: str, port: int, token: str, copies: int = 3, store: str = "sqlite") -> None:
    """Serve the directory of the volume in `home` until SIGTERM."""
    engine = open_store(store, home)
    service = DirectoryService(engine, copies, f"http://{host}:{port}")
    try:
        app = App(token, service.operations())
        await serve(app, host, port, *service.beside())
        engine.sync()
    finally:
        service.close()
        engine.close()
