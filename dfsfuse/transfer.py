"""Chunks up to the primary, chunks down from the replicas.

Up: to the primary; when it cannot be reached, the next server of the group is asked to act for it. Down: from the
replicas by turns, from the primary when no replica can serve; what does not hash to its name is asked for elsewhere.
Servers that failed lately, or may lack chunks, come last (health.py).

Threads: `_turn` is a simple value whose races do no harm. A pool of threads carries several chunks of one file at a
time."""

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dfsfuse import errors
from dfsfuse.buffers import Buffers
from dfsfuse.chunks import chunk_name
from dfsfuse.health import Health
from dfsfuse.latest_chunks import LatestChunks
from dfsfuse.messages import ChunkReceipts, Confirm, FilesStatus, Message, Server, Stored, Sync, Synced
from dfsfuse.messages import Confirmed as ConfirmReply
from dfsfuse.patience import Patience
from dfsfuse.session import Session

log = logging.getLogger(__name__)

IN_FLIGHT = 3
_CHUNK_S = 10.0
_CONFIRM_AT_ONCE = 1024

Confirmed = dict[bytes, ChunkReceipts]
"""Chunks that are on enough servers: by name."""

Check = Callable[[set[str], float], None]
"""Is given the servers that have synced, and how long it may take (seconds); raises NotEnoughCopies."""

Body = bytes | bytearray | memoryview
Item = TypeVar("Item")
Result = TypeVar("Result")


class Transfer:
    """All chunk traffic of one client. `tell` hears of the bytes that were sent so far, whenever there are more."""

    def __init__(self, session: Session, tell: Callable[[int], None] = lambda sent_bytes: None):
        self._session, self._patience = session, Patience(session.timeout_s)
        self._health = Health(session.rpc, self._group)
        self._turn = itertools.count()
        self.buffers = Buffers()
        self.latest = LatestChunks(self._download, self.buffers)
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="transfer")
        self.sent_bytes, self._tell = 0, tell

    def close(self) -> None:
        self._health.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def upload(self, data: Body, confirmed: Confirmed, ask: bool = False, synced: bool = False) -> ChunkReceipts:
        """Store one chunk on the group, unless it is among those confirmed; its name and receipts. What is hashed is
        what is sent. With `ask` the servers are asked first, as they may have it from an earlier attempt. With `synced`
        it is on the disks of copies_min of those named, as after `sync`, which needs no request of its own then."""
        name = chunk_name(data)
        known = confirmed.get(name) or (self._found(name) if ask else None)
        if known is None:
            stored = self._patience.until_answered(lambda left_s: self._upload_once(name, data, left_s, synced))
            return self._sent(name, data, stored)
        if not synced:
            return known
        on_disk = self.sync([known])
        return ChunkReceipts(name, [receipt for receipt in known.receipts if receipt.server in on_disk])

    def try_upload(self, data: Body) -> ChunkReceipts:
        """As `upload`, once: raises Unreachable at once where no server takes it."""
        name = chunk_name(data)
        return self._sent(name, data, self._upload_once(name, data, self._session.timeout_s))

    def _sent(self, name: bytes, data: Body, stored: Stored) -> ChunkReceipts:
        self.sent_bytes += len(data)
        self._tell(self.sent_bytes)
        return ChunkReceipts(name, stored.receipts)

    def _upload_once(self, name: bytes, data: Body, left_s: float, synced: bool = False) -> Stored:
        """The first that can takes it: the primary, or who acts for it. Where servers are there and cannot, what the
        last one said is the failure."""
        failure: errors.DfsError = errors.Unreachable("the cluster has no file servers yet")
        for share_s, rank, server in _shared(left_s, self._health.sorted(list(enumerate(self._group())))):
            role, is_silent = "acting" if rank else "", self._health.is_silent(server, share_s)
            try:
                return self._session.rpc.put_chunk(server.url, name, data, role, share_s, is_silent, synced)
            except (errors.Unreachable, errors.Interrupted) as error:
                failure = self._has_failed(server, error)
            except (errors.NotEnoughCopies, errors.NotPrimary) as error:
                # The other servers, or this client's knowledge of them, may be there a moment later.
                failure = errors.Unreachable(str(error))
            except errors.ServerError as error:
                log.warning("chunk %s: server %s: %s", name.hex(), server.name, error)
                failure = error
        raise failure

    def _has_failed(self, server: Server, error: errors.DfsError) -> errors.Unreachable:
        """One that gave no sign of life while its answer was overdue is as good as away."""
        if isinstance(error, errors.Interrupted):
            error = errors.TimedOut(f"{server.url} gives no sign of life")
        self._health.failed(server, error)
        return error

    def download(self, name: bytes) -> bytes:
        """One whole chunk, verified."""
        with self.latest.lend(name) as data:
            return bytes(data)

    def _download(self, name: bytes, buffer: memoryview) -> int:
        """Into `buffer`, verified; its length."""
        return self._patience.until_answered(lambda left_s: self._download_once(name, buffer, left_s))

    def _download_once(self, name: bytes, buffer: memoryview, left_s: float) -> int:
        lack = 0
        failure: errors.DfsError = errors.Unreachable("the cluster has no file servers yet")
        for share_s, _, server in _shared(left_s, self._health.sorted(self._readers())):
            try:
                is_silent = self._health.is_silent(server, share_s)
                length = self._session.rpc.get_chunk(server.url, name, buffer, share_s, is_silent)
            except (errors.Unreachable, errors.Interrupted) as error:
                failure = self._has_failed(server, error)
                continue
            except errors.ServerError as error:
                log.warning("chunk %s: server %s: %s", name.hex(), server.name, error)
                lack += isinstance(error, errors.ChunkMissing | errors.ChunkCorrupt)
                failure = error
                continue
            if chunk_name(buffer[:length]) == name:
                return length
            log.error("chunk %s: server %s sent other bytes; asking the next", name.hex(), server.name)
            failure = errors.ChunkCorrupt(f"no server has chunk {name.hex()} unbroken")
        if lack >= self._session.cluster.copies:
            raise errors.ChunkGone(f"no file server has chunk {name.hex()} any more")
        raise failure

    def _group(self) -> list[Server]:
        return self._session.cluster.files

    def _readers(self) -> list[tuple[int, Server]]:
        """Replicas by turns, the primary last."""
        ranked = list(enumerate(self._group()))
        replicas, primary = ranked[1:], ranked[:1]
        first = next(self._turn) % len(replicas) if replicas else 0
        return replicas[first:] + replicas[:first] + primary

    def _found(self, name: bytes) -> ChunkReceipts | None:
        """Receipts of a chunk that enough servers have; None: it is to be sent. Unreachable where that would be in
        vain: neither do enough servers answer here, nor does the directory hear enough of them."""
        copies_min, group = self._session.cluster.copies_min, self._group()
        there = [server for server in group if not self._health.is_away(server)]
        row = ChunkReceipts(name, [])
        answered = self._ask(there if len(there) >= copies_min else group, {name: row})
        if len(row.receipts) >= copies_min:
            return row
        if max(answered, sum(server.up for server in group)) < copies_min:
            raise errors.Unreachable(f"{answered} of {len(group)} file servers answer; a file needs {copies_min}")
        return None

    def confirm(self, names: list[bytes]) -> Confirmed:
        """Which of these chunks copies_min servers still have, with new receipts of all that do; those that are passed
        over are asked only where the others do not suffice."""
        found: Confirmed = {name: ChunkReceipts(name, []) for name in names}
        for _, server in self._health.sorted(list(enumerate(self._group()))):
            if self._health.is_away(server) and len(self._enough(found)) == len(found):
                break
            self._ask([server], found)
        return self._enough(found)

    def _enough(self, found: Confirmed) -> Confirmed:
        copies_min = self._session.cluster.copies_min
        return {name: row for name, row in found.items() if len(row.receipts) >= copies_min}

    def _ask(self, servers: list[Server], found: Confirmed) -> int:
        """Add their receipts for these chunks; how many servers have answered."""
        answered = 0
        for server in servers:
            try:
                self._add_receipts(server, found)
                answered += 1
            except (errors.Unreachable, errors.Interrupted) as error:
                self._has_failed(server, error)
            except errors.ServerError as error:
                log.warning("confirming chunks: server %s: %s", server.name, error)
        return answered

    def _add_receipts(self, server: Server, found: Confirmed) -> None:
        names = list(found)
        while names:
            request = Confirm(names[:_CONFIRM_AT_ONCE])
            reply: ConfirmReply = self._call(server, "confirm", request, ConfirmReply, _CHUNK_S)
            names[:_CONFIRM_AT_ONCE] = reply.left
            for row in reply.receipts:
                found[row.chunk].receipts.extend(row.receipts)

    def sync(self, receipts: Collection[ChunkReceipts]) -> set[str]:
        """What these receipts are for is on the disks of copies_min servers that have it; the names of all that have
        synced. Where others have given receipts, a commit may rest on these, if one of those has started again."""
        on_disk: set[str] = set()

        def check(synced: set[str], left_s: float) -> None:
            if _copies_on(synced, receipts) < self._session.cluster.copies_min:
                raise errors.NotEnoughCopies(f"only {', '.join(sorted(synced)) or 'no server'} could sync")
            on_disk.update(synced)

        self.sync_until(check)
        return on_disk

    def sync_until(self, check: Check) -> None:
        """The servers bring what they have to their disks, until enough have. Raises what `check` raises, but
        NotEnoughCopies, after which it is tried again until the time-out."""
        self._patience.until_answered(lambda left_s: self._sync_once(check, left_s))

    def _sync_once(self, check: Check, left_s: float) -> None:
        synced, deadline = set[str](), time.monotonic() + left_s
        failure: errors.DfsError = errors.Unreachable("the cluster has no file servers yet")
        for share_s, _, server in _shared(left_s, self._health.sorted(list(enumerate(self._group())))):
            try:
                reply: Synced = self._call(server, "sync", Sync(), Synced, share_s)
            except (errors.Unreachable, errors.Interrupted) as error:
                failure = self._has_failed(server, error)
                continue
            except errors.ServerError as error:
                failure = error
                continue
            synced.update(reply.servers)
            try:
                return check(synced, max(0.001, deadline - time.monotonic()))
            except errors.NotEnoughCopies as error:
                failure = errors.Unreachable(str(error))
        raise failure

    def status(self, server: Server) -> FilesStatus:
        return self._call(server, "status", Message(), FilesStatus, 2.0)

    def _call(self, server: Server, operation: str, request: Message, reply: type, left_s: float):
        rpc, within_s = self._session.rpc, min(left_s, _CHUNK_S)
        return rpc.call(server.url, operation, request, reply, within_s, self._health.is_silent(server, within_s))

    def begin(self, work: Callable[[], None], given_up: Callable[[], None]) -> None:
        """`work` in the pool, or `given_up` where the client ends before."""
        future = self._pool.submit(work)
        future.add_done_callback(lambda ended: given_up() if ended.cancelled() else None)

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`work(item)` for all items, IN_FLIGHT at a time, results in order; at most that many are in memory."""
        items = iter(items)
        first = next(items, None)
        if first is None:
            return
        second = next(items, None)
        if second is None:
            yield work(first)
            return
        yield from self._several(work, itertools.chain([first, second], items))

    def _several(self, work: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
        running: list[Future] = []
        try:
            for item in items:
                running.append(self._pool.submit(work, item))
                if len(running) >= IN_FLIGHT:
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
        finally:
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled():
                    future.exception()


def _copies_on(servers: set[str], receipts: Collection[ChunkReceipts]) -> int:
    """How many of these servers have each chunk."""
    return min((len(servers & {r.server for r in row.receipts}) for row in receipts), default=len(servers))


def _shared(left_s: float, servers: list[tuple[int, Server]]) -> Iterator[tuple[float, int, Server]]:
    """(seconds that it may take, rank, server) for each: one that is silent leaves time for those after it."""
    deadline = time.monotonic() + left_s
    for tried, (rank, server) in enumerate(servers):
        share_s = (deadline - time.monotonic()) / (len(servers) - tried)
        yield min(max(0.001, share_s), _CHUNK_S), rank, server
