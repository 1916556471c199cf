"""A file server: chunks over HTTP, copies to the other servers of its group, heartbeats to the directory.

    PUT  /v1/chunks/<64 hex>[?role=acting|copy][&sync]   -> Stored
    GET  /v1/chunks/<64 hex>  [Range: bytes=a-b]  -> 200 whole, or 206
    POST /v1/confirm, sync, status, ping

Memory stays bounded whatever clients do. A body of more than SMALL_BYTES is received into one of BUFFERS buffers, lent
for as long as the upload lasts; who comes when all are lent waits, and the connection's flow control with him. Copies
have buffers of their own: an upload holds one here while it waits for one there, and two servers that both act as
primary must not wait for each other. A large chunk that is wanted whole is read into one of READ_BUFFERS, verified and
sent from there. Who stalls loses the buffer within STALL_S. While all are lent, and where ranges are wanted, a chunk is
sent in pieces of READ_BYTES, each read when the one before it has left, so a slow reader costs one piece.

Threads: the event loop, `_disk` (stores and checks of large chunks: what is small is quicker than the way to another
thread and back), `_syncer` (one sync at a time) and `_upkeep` (verifying, deleting, and storing what was fetched). The
store guards itself; all else belongs to the event loop.
"""

import asyncio
import functools
import logging
import os
import pathlib
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from dfsfuse import errors, messages
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.messages import Nothing, Registered, Server
from servers import garbage, scrub
from servers.arriving import Arriving
from servers.buffers import Buffers
from servers.chunk_files import READ_BYTES
from servers.chunkstore import ChunkStore, check_range
from servers.exchange import Exchange
from servers.fetching import FETCHES, Fetching
from servers.garbage import Collector
from servers.http import App, Operation, Raw, respond, serve
from servers.inspection import Inspection
from servers.packs import PACK_BYTES_MAX
from servers.peers import Peers
from servers.registration import first_registration, heartbeat, reachable_url
from servers.regular_syncs import sync_regularly
from servers.repair import Repairs
from servers.replication import ACTING, COPY, PRIMARY, Replication
from servers.scrub import Scrub

log = logging.getLogger(__name__)

SMALL_BYTES = 64 << 10
INLINE_BYTES = PACK_BYTES_MAX
BUFFERS = 4
READ_BUFFERS = 3
STALL_S = 10.0
CONFIRM_MAX = 16384
"""Chunks in one confirmation: 64 GiB of content."""
CONFIRM_S = 1.0
"""Then it is answered with what is confirmed by then."""

_CONTENT_TYPE, _RANGES = b"application/octet-stream", [(b"accept-ranges", b"bytes")]
_ROLES = {b"": PRIMARY, b"role=acting": ACTING, b"role=copy": COPY}
_SYNC = b"sync"
_NAME = re.compile("[0-9a-f]{64}")
_RANGE = re.compile(rb"bytes=(\d{1,18})-(\d{0,18})")


class Pace(NamedTuple):
    """How often, and how quickly, what goes on beside the requests."""

    scrub_bytes_s: float = scrub.BYTES_S
    scrub_every_s: float = scrub.EVERY_S
    collect_every_s: float = garbage.EVERY_S
    walk_every_s: float = garbage.WALK_EVERY_S


_GENTLE = Pace()


class FileService:
    """The operations of the file server `name`."""

    def __init__(self, name: str, url: str, home: pathlib.Path, peers: Peers, directory_url: str, pace: Pace = _GENTLE):
        self._name, self._url, self._store, self._peers = name, url, ChunkStore(home), peers
        self._directory_url = directory_url
        self._replication = Replication(name, peers)
        self._uploads, self._copies, self._downloads = Buffers(BUFFERS), Buffers(BUFFERS), Buffers(READ_BUFFERS)
        self._disk = ThreadPoolExecutor(BUFFERS, "disk")
        self._syncer = ThreadPoolExecutor(1, "sync")
        self._upkeep = ThreadPoolExecutor(FETCHES + 2, "upkeep")
        at, run = (self._store, peers, directory_url), functools.partial(self._in, self._upkeep)
        fetching = Fetching(self._store, peers, self._replication.givers, run)
        self._repairs = Repairs(name, *at, fetching, functools.partial(self._in, self._syncer, self._store.sync), run)
        self._store.broken.on_found = self._repairs.note_broken
        self._collector = Collector(name, *at, run, pace.collect_every_s, pace.walk_every_s)
        self._scrub = Scrub(home, *at, run, pace.scrub_bytes_s, pace.scrub_every_s)

    def operations(self) -> dict[str, Operation]:
        return {
            "confirm": Operation(messages.Confirm, self._confirm),
            "sync": Operation(messages.Sync, self._sync),
            "status": Operation(Nothing, self._status),
            "ping": Operation(Nothing, lambda _: Nothing()),
            **Inspection(self._store, functools.partial(self._in, self._disk)).operations(),
        }

    def close(self) -> None:
        """Wait for what the executors are doing, and let go of the store."""
        self._disk.shutdown()
        self._syncer.shutdown()
        self._upkeep.shutdown()
        self._store.close()

    # -- beside the requests

    def beside(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on for ever."""
        return [
            self._stay_registered(),
            sync_regularly(lambda: self._store.is_synced, functools.partial(self._in, self._syncer, self._store.sync)),
            self._replication.watch(),
            self._repairs.work(),
            self._collector.work(),
            self._scrub.work(),
        ]

    async def _stay_registered(self) -> None:
        url = self._directory_url
        self._heard(await first_registration(self._peers, url, self._describe(), start=True))
        await heartbeat(self._peers, url, self._describe, self._heard)

    def _heard(self, reply: Registered) -> None:
        self._replication.update(reply.cluster)
        if reply.numbers_from:
            self._store.number_from(reply.numbers_from)
        mine = (server for server in reply.cluster.files if server.name == self._name)
        self._scrub.is_syncing = any(server.syncing for server in mine)
        self._repairs.heard(reply)
        self._collector.heard(reply)

    # -- operations

    async def _confirm(self, request: messages.Confirm) -> messages.Confirmed:
        self._replication.check_started()
        if len(request.chunks) > CONFIRM_MAX:
            raise errors.BadRequest(f"{len(request.chunks)} chunks; at most {CONFIRM_MAX} are confirmed at once")
        return await self._in(self._disk, self._confirm_some, request.chunks)

    def _confirm_some(self, names: list[bytes]) -> messages.Confirmed:
        """The first of them, at least one. After a start each is read and hashed, which can take hours for all."""
        until, looked = time.monotonic() + CONFIRM_S, 0
        rows: list[messages.ChunkReceipts] = []
        while looked < len(names) and (not looked or time.monotonic() < until):
            numbers = self._store.confirm([names[looked]])
            rows += (messages.ChunkReceipts(name, [messages.Receipt(self._name, n)]) for name, n in numbers.items())
            looked += 1
        return messages.Confirmed(rows, names[looked:])

    async def _sync(self, request: messages.Sync) -> messages.Synced:
        # The directory knows of this start then, and that what was not synced before it may be gone.
        self._replication.check_started()
        own = functools.partial(self._in, self._syncer, self._store.sync)
        if request.alone:
            await own()
            return messages.Synced([self._name])
        return await self._replication.sync(own)

    def _status(self, _: Nothing) -> messages.FilesStatus:
        free, total = self._store.capacity()
        return messages.FilesStatus(
            name=self._name,
            chunks=self._store.chunks,
            stored_bytes=self._store.stored_bytes,
            free_bytes=free,
            total_bytes=total,
            served_chunks=self._store.served_chunks,
            received_chunks=self._store.received_chunks,
            pid=os.getpid(),
        )

    def _describe(self) -> Server:
        free, total = self._store.capacity()
        return Server(
            kind="files",
            name=self._name,
            url=self._url,
            chunks=self._store.chunks,
            stored_bytes=self._store.stored_bytes,
            free_bytes=free,
            total_bytes=total,
            pid=os.getpid(),
            store=self._store.id,
            first_number=self._store.receipts.first,
            next_number=self._store.receipts.next,
            synced_number=self._store.receipts.synced,
            broken_chunks=self._store.broken.found,
            repaired_chunks=self._store.broken.replaced,
            scrubbed_ago_s=self._scrub.ended_ago_s,
        )

    def _in(self, executor: ThreadPoolExecutor, work: Callable, *arguments: Any) -> asyncio.Future:
        return asyncio.get_running_loop().run_in_executor(executor, work, *arguments)

    # -- chunks

    def chunks(self, exchange: Exchange, rest: str) -> Awaitable[None] | None:
        """The raw route: bodies are chunks. A small copy is stored and answered at once."""
        name = _chunk_name(rest)
        if exchange.method == "GET":
            return self._get(name, exchange)
        if exchange.method != "PUT":
            raise errors.MethodNotAllowed(f"chunks: use PUT or GET, not {exchange.method}")
        role, synced = _role(exchange.query)
        self._replication.check_role(role)
        _check_length(exchange.length)
        if exchange.length > SMALL_BYTES:
            return self._put_large(name, role, synced, exchange)
        if role != COPY:
            return self._put(name, synced, exchange)
        if synced:
            return self._put_copy(name, exchange, exchange.body, synced)
        respond(exchange, 200, self._stored(self._store.store(name, exchange.body)))
        return None

    async def _put_copy(self, name: bytes, exchange: Exchange, body: bytes | memoryview, synced: bool) -> None:
        respond(exchange, 200, self._stored(await self._store_chunk(name, body, synced)))

    async def _put_large(self, name: bytes, role: str, synced: bool, exchange: Exchange) -> None:
        async with (self._copies if role == COPY else self._uploads).lend() as buffer:
            if role == COPY:
                await self._put_copy(name, exchange, await exchange.receive_into(buffer, STALL_S), synced)
            else:
                await self._put_arriving(name, synced, exchange, Arriving(buffer[: exchange.length]))

    async def _put_arriving(self, name: bytes, synced: bool, exchange: Exchange, body: Arriving) -> None:
        async def own() -> int:
            try:
                await exchange.receive_into(body.view, STALL_S, body.has)
            except errors.DfsError as error:
                body.fail(error)
                raise
            return await self._store_chunk(name, body.view, synced)

        respond(exchange, 200, messages.Stored(await self._replication.copy(name, body, own, synced)))

    async def _put(self, name: bytes, synced: bool, exchange: Exchange) -> None:
        own = functools.partial(self._store_chunk, name, exchange.body, synced)
        respond(exchange, 200, messages.Stored(await self._replication.copy(name, exchange.body, own, synced)))

    def _stored(self, number: int) -> messages.Stored:
        return messages.Stored([messages.Receipt(self._name, number)])

    async def _store_chunk(self, name: bytes, body: bytes | memoryview, synced: bool) -> int:
        """The number of its receipt, once it is on the disk if it is to be `synced`."""
        if len(body) < INLINE_BYTES:
            number = self._store.store(name, body)
        else:
            number = await self._in(self._disk, self._store.store, name, body)
        if synced:
            await self._in(self._syncer, self._store.sync, False)
        return number

    async def _get(self, name: bytes, exchange: Exchange) -> None:
        wanted = exchange.headers.get(b"range")
        if wanted is None and self._downloads.free and self._store.length(name) >= INLINE_BYTES:
            await self._get_large(name, exchange)
        else:
            await self._get_pieces(name, wanted, exchange)

    async def _get_large(self, name: bytes, exchange: Exchange) -> None:
        async with self._downloads.lend() as buffer:
            length = await self._in(self._disk, self._store.load, name, buffer)
            await exchange.send_whole(buffer[:length], _CONTENT_TYPE, _RANGES, STALL_S)

    async def _get_pieces(self, name: bytes, wanted: bytes | None, exchange: Exchange) -> None:
        size = await self._check(name, wanted is None)
        start, end = _parse_range(wanted, size) if wanted else (0, size)
        more = [*_RANGES, (b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size))] if wanted else _RANGES
        piece = self._store.piece(name, start, min(READ_BYTES, end - start))
        exchange.begin(206 if wanted else 200, end - start, _CONTENT_TYPE, more)
        exchange.end(await self._send(name, piece, start, end, exchange))

    async def _check(self, name: bytes, again: bool) -> int:
        if self._store.length(name) < INLINE_BYTES:
            return self._store.check(name, again)
        return await self._in(self._disk, self._store.check, name, again)

    async def _send(self, name: bytes, piece: bytes, start: int, end: int, exchange: Exchange) -> bool:
        """Send [start, end), of which `piece` is the beginning, as quickly as the other side takes it; all of it?"""
        await exchange.send(piece)
        while (start := start + len(piece)) < end:
            try:
                piece = self._store.piece(name, start, min(READ_BYTES, end - start))
            except errors.DfsError as error:
                log.error("%s; the reply has begun, so its connection is closed", error)
                return False
            await exchange.send(piece)
        return True


def _chunk_name(text: str) -> bytes:
    if not _NAME.fullmatch(text):
        raise errors.BadHash(f"{text[:80]!r}: a chunk's name has 64 hexadecimal digits in lower case")
    return bytes.fromhex(text)


def _role(query: bytes) -> tuple[str, bool]:
    """The role, and whether it is answered when the chunk is on the disks."""
    synced = query == _SYNC or query.endswith(b"&" + _SYNC)
    role = query[: -len(_SYNC)].removesuffix(b"&") if synced else query
    if role not in _ROLES:
        raise errors.BadRequest(f"?{query[:80].decode('latin-1')}: there are role=acting, role=copy and sync")
    return _ROLES[role], synced


def _parse_range(wanted: bytes, size: int) -> tuple[int, int]:
    """[start, end) of `Range: bytes=a-b` or `bytes=a-`. Raises BadRange."""
    match = _RANGE.fullmatch(wanted)
    if not match:
        raise errors.BadRange(f"{wanted[:80]!r}: a range is bytes=<first>-<last>", str(size))
    start, end = int(match[1]), int(match[2]) + 1 if match[2] else size
    check_range(start, end - start, size)
    return start, end


def _check_length(announced: int) -> None:
    """Raises BodyTooLarge, BadRequest (empty)."""
    if not announced:
        raise errors.BadRequest("a chunk is never empty")
    if announced > ENTRY_BYTES:
        raise errors.BodyTooLarge(f"the body has {announced} bytes; a chunk has at most {ENTRY_BYTES}")


async def run(
    name: str, home: pathlib.Path, host: str, port: int, token: str, directory_url: str, pace: Pace = _GENTLE
) -> None:
    """Serve as the file server `name` until a signal ends it. The directory need not be there yet."""
    peers = Peers(token)
    service = FileService(name, reachable_url(host, port, directory_url), home, peers, directory_url, pace)
    app = App(token, service.operations(), {"chunks": Raw(service.chunks, SMALL_BYTES)})
    try:
        await serve(app, host, port, *service.beside())
    finally:
        await peers.close()
        service.close()
