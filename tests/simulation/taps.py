"""What is looked at within the product while it runs, besides what programs see: S5, S6, S8. Changes nothing.

The product's methods are replaced once in a process: Python forgets what it has learned of a class that is changed.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.history import Violation
from simulation.threads import Scheduler

if TYPE_CHECKING:
    from simulation.world import World


class _Watched:
    world: "World"


_watched = _Watched()


def watch(world: "World") -> None:
    """This one from now on."""
    _install()
    _watched.world = world


@functools.cache
def _install() -> None:
    for watch_it in (_watch_locks, _watch_grants, _watch_fences, _watch_returns, _watch_deletions):
        watch_it()


def _replace(owner: type, name: str, make: Callable[[Callable], Callable]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def _watch_locks() -> None:
    """S5: whenever a client comes to hold a lock, no other one holds it by its own clock."""
    from dfsfuse.locks import LockTable

    def watched(receive: Callable) -> Callable:
        def run(self: Any, *arguments: Any) -> Any:
            lock = receive(self, *arguments)
            _check_alone(_watched.world, self, lock)
            return lock

        return run

    _replace(LockTable, "_receive", watched)


def _check_alone(world: "World", table: Any, lock: Any) -> None:
    if not lock.held_now():
        return
    world.note(Scheduler.loop.life.name, f"holds the lock of inode {lock.ino}, token {lock.token:#x}")
    if world.on_grant is not None:
        world.on_grant(Scheduler.loop.life.name, lock.ino)
    for client in world.clients:
        if client.filesystem is None or client.filesystem.locks is table:
            continue
        if Scheduler.loop.within(client.life, lambda c=client: c.filesystem.locks.has(lock.ino)):
            mine = Scheduler.loop.life.name
            world.broken(
                Violation(f"S5: {mine} and {client.name} both have the write lock of inode {lock.ino}, "
                          f"{mine} with token {lock.token:#x}")
            )  # fmt: skip


def _watch_grants() -> None:
    """S7: a lock is granted to those alone who are there to hear of it."""
    from servers.claims import Grant
    from servers.lock_service import LockService

    def watched(tell: Callable) -> Callable:
        def run(self: Any, events: Any, now: float) -> None:
            for event in events:
                if isinstance(event, Grant) and (event.session, event.ticket) not in self._callers:
                    text = f"S7: session {event.session} was granted a lock and does not wait any more"
                    _watched.world.broken(Violation(text))
            tell(self, events, now)

        return run

    _replace(LockService, "_tell", watched)


def _watch_fences() -> None:
    """S6: once somebody has opened a file under a lock, nobody commits it with an older one."""
    from servers.directory import Directory

    def watched_open(open_file: Callable) -> Callable:
        def run(self: Any, request: Any) -> Any:
            reply = open_file(self, request)
            if request.token:
                ino, fences = reply.attributes.ino, _watched.world.fences
                fences[ino] = max(request.token, fences.get(ino, 0))
            return reply

        return run

    def watched_commit(commit: Callable) -> Callable:
        def run(self: Any, request: Any, *arguments: Any) -> Any:
            reply, world = commit(self, request, *arguments), _watched.world
            world.note("directory", f"commit of inode {request.ino}: version {reply.version} on {request.base_version}")
            world.committed[request.ino] = world.now
            if request.commit_id not in world.commit_ids:
                world.commit_ids.add(request.commit_id)
                _check_commit(world, request)
            return reply

        return run

    _replace(Directory, "open", watched_open)
    _replace(Directory, "commit", watched_commit)


def _check_commit(world: "World", request: Any) -> None:
    _check_receipts(world, request.receipts)
    fence = world.fences.get(request.ino, 0)
    if request.token < fence:
        world.broken(
            Violation(f"S6: inode {request.ino} was committed under token {request.token:#x}, and had been opened "
                      f"under {fence:#x}")
        )  # fmt: skip


def _check_receipts(world: "World", receipts: Any) -> None:
    """S8: what a commit was accepted for is on the servers whose receipts have counted."""
    for row in receipts:
        for receipt in row.receipts:
            disk = world.servers.chunk_disks[receipt.server]
            if row.chunk not in disk.chunks and row.chunk not in disk.harmed:
                _is_known_to_lack(world, receipt.server, row.chunk)


def _is_known_to_lack(world: "World", server: str, chunk: bytes) -> None:
    """The directory has a row of each needed chunk that a server lacks."""
    from servers import short_rows

    row = world.servers.directory_disk.store.read(lambda tx: short_rows.get(tx, server, chunk))
    if row is None:
        world.broken(Violation(f"S8: {server} does not have chunk {chunk.hex()[:8]}, which the directory counts on"))


def _watch_returns() -> None:
    """S8: who was silent has looked for what it lacked when it was heard again before it serves."""
    from servers.directory import HEARTBEAT_S_MAX, Directory

    def watched_register(register: Callable) -> Callable:
        def run(self: Any, request: Any, now_s: float) -> Any:
            world, name = _watched.world, request.server.name
            heard_s = world.heard.get((self, name), now_s - HEARTBEAT_S_MAX)
            world.heard[self, name] = now_s
            if now_s - heard_s >= HEARTBEAT_S_MAX:
                world.missed[name] = _lacking(world, name)
            reply = register(self, request, now_s)
            _check_serving(world, self, reply.cluster)
            return reply

        return run

    def watched_repair(repair: Callable) -> Callable:
        def run(self: Any, request: Any, *arguments: Any) -> Any:
            reply, missed = repair(self, request, *arguments), _watched.world.missed.get(request.server)
            if missed:
                missed.difference_update(request.have, request.lacks)
            return reply

        return run

    _replace(Directory, "register", watched_register)
    _replace(Directory, "repair", watched_repair)


def _lacking(world: "World", server: str) -> set[bytes]:
    from servers import short_rows

    return set(world.servers.directory_disk.store.read(lambda tx: short_rows.chunks_after(tx, server, b"", 1000)))


def _check_serving(world: "World", directory: Any, cluster: Any) -> None:
    for server in cluster.files:
        missed = world.missed.get(server.name)
        if missed and server.up and not server.syncing and (directory, server.name) in world.heard:
            missed &= _lacking(world, server.name)
            if missed:
                text = f"S8: {server.name} was silent, and serves without {[chunk.hex()[:8] for chunk in missed]}"
                world.broken(Violation(text))


def _watch_deletions() -> None:
    """S8: nothing is deleted that a file needs, unless the directory knows that it is lacking there."""
    from servers.chunkstore import ChunkStore

    def watched(delete: Callable) -> Callable:
        def run(self: Any, names: Any, below: int) -> Any:
            gone, world = delete(self, names, below), _watched.world
            for chunk in world.servers.needed().intersection(gone) if gone else ():
                _is_known_to_lack(world, Scheduler.loop.life.name, chunk)
            return gone

        return run

    _replace(ChunkStore, "delete", watched)


def check_copies(world: "World", ino: int) -> None:
    """S8: what the directory has as the file's content is on copies_min disks, or was until a modelled fault."""
    from dfsfuse import chunks
    from servers import records

    def names(tx: Any) -> set[bytes]:
        inode = records.get_inode(tx, ino)
        if inode is None:
            return set()
        entries = list(inode.entries)
        for segment_id in filter(None, inode.segments):
            entries += records.get_segment(tx, segment_id) or []
        return chunks.chunks_of(entries)

    disks = world.servers.chunk_disks
    for name in world.servers.directory_disk.store.read(names):
        on = [server for server, disk in disks.items() if name in disk.chunks or name in disk.harmed]
        if len(on) < 2:
            world.broken(Violation(f"S8: chunk {name.hex()[:8]} of inode {ino} is on {on or 'no server'} alone"))
