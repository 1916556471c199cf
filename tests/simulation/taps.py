"""What is looked at within the product while it runs, besides what programs see: S5, S6, S8. Changes nothing."""

from typing import TYPE_CHECKING, Any

from simulation.history import Violation
from simulation.threads import Scheduler

if TYPE_CHECKING:
    from simulation.world import World


def install(world: "World") -> None:
    _watch_locks(world)
    _watch_grants(world)
    _watch_fences(world)
    _watch_deletions(world)


def _watch_locks(world: "World") -> None:
    """S5: whenever a client comes to hold a lock, no other one holds it by its own clock."""
    from dfsfuse.locks import LockTable

    receive = LockTable._receive

    def watched(self: Any, *arguments: Any) -> Any:
        lock = receive(self, *arguments)
        _check_alone(world, self, lock)
        return lock

    LockTable._receive = watched


def _check_alone(world: "World", table: Any, lock: Any) -> None:
    if not lock.held_now():
        return
    world.note(Scheduler.loop.life.name, f"holds the lock of inode {lock.ino}, token {lock.token:#x}")
    if world.on_grant is not None:
        world.on_grant(Scheduler.loop.life.name)
    for client in world.clients:
        if client.filesystem is None or client.filesystem.locks is table:
            continue
        other = Scheduler.loop.within(client.life, lambda c=client: c.filesystem.locks.held(lock.ino))
        if other is not None:
            mine = Scheduler.loop.life.name
            world.broken(
                Violation(f"S5: {mine} and {client.name} both hold the write lock of inode {lock.ino}: "
                          f"tokens {lock.token:#x} and {other.token:#x}")
            )  # fmt: skip


def _watch_grants(world: "World") -> None:
    """S7: a lock is granted to those alone who are there to hear of it."""
    from servers.claims import Grant
    from servers.lock_service import LockService

    tell = LockService._tell

    def watched(self: Any, events: Any, now: float) -> None:
        for event in events:
            if isinstance(event, Grant) and (event.session, event.ticket) not in self._callers:
                world.broken(Violation(f"S7: session {event.session} was granted a lock and does not wait any more"))
        tell(self, events, now)

    LockService._tell = watched


def _watch_fences(world: "World") -> None:
    """S6: once somebody has opened a file under a lock, nobody commits it with an older one."""
    from servers.directory import Directory

    open_file, commit = Directory.open, Directory.commit

    def watched_open(self: Any, request: Any) -> Any:
        reply = open_file(self, request)
        if request.token:
            ino = reply.attributes.ino
            world.fences[ino] = max(request.token, world.fences.get(ino, 0))
        return reply

    def watched_commit(self: Any, request: Any, *arguments: Any) -> Any:
        reply = commit(self, request, *arguments)
        world.note("directory", f"commit of inode {request.ino}: version {reply.version} on {request.base_version}")
        if request.commit_id not in world.commit_ids:
            world.commit_ids.add(request.commit_id)
            _check_receipts(world, request.receipts)
            if request.token < world.fences.get(request.ino, 0):
                world.broken(
                    Violation(f"S6: inode {request.ino} was committed under token {request.token:#x}, and had been "
                              f"opened under {world.fences[request.ino]:#x}")
                )  # fmt: skip
        return reply

    Directory.open, Directory.commit = watched_open, watched_commit


def _check_receipts(world: "World", receipts: Any) -> None:
    """S8: what a commit was accepted for is on the servers whose receipts have counted."""
    for row in receipts:
        for receipt in row.receipts:
            disk = world.servers.chunk_disks[receipt.server]
            if row.chunk not in disk.chunks and row.chunk not in disk.harmed:
                _is_known_to_lack(world, receipt.server, row.chunk)


def _is_known_to_lack(world: "World", server: str, chunk: bytes) -> None:
    """The directory has a row of each needed chunk that a server lacks."""
    from servers import records

    row = world.servers.directory_disk.store.read(lambda tx: tx.get(records.short_key(server, chunk)))
    if row is None:
        world.broken(Violation(f"S8: {server} does not have chunk {chunk.hex()[:8]}, which the directory counts on"))


def _watch_deletions(world: "World") -> None:
    """S8: nothing is deleted that a file needs, unless the directory knows that it is lacking there."""
    from servers.chunkstore import ChunkStore

    delete = ChunkStore.delete

    def watched(self: Any, names: Any, below: int) -> Any:
        gone = delete(self, names, below)
        for chunk in world.servers.needed().intersection(gone) if gone else ():
            _is_known_to_lack(world, Scheduler.loop.life.name, chunk)
        return gone

    ChunkStore.delete = watched


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
