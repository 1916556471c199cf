"""The directory: which operation is which function, once-only execution, sessions' leases, and the servers it knows.

Time and randomness are arguments. Stored is what must survive a restart; leases and heartbeats are not: after a start
every stored session has one lease from now.

Threads: one. `sync` of the store may run in another.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import msgspec

from dfsfuse import errors, messages
from dfsfuse.messages import (
    Begin,
    Begun,
    Change,
    Cluster,
    End,
    InodeRange,
    Message,
    Nothing,
    Register,
    Registered,
    Renew,
    Renewed,
    Server,
    StatusReply,
    moves_atime,
)
from servers import content, quota, records, rename, sessions, short_rows, tree, upgrade, xattrs
from servers.attendance import PROMISE_LEASE_S, Attendance
from servers.group import Group
from servers.promises import Promises, Touch
from servers.records import ServerRecord
from servers.store import Store, Transaction
from servers.touched import beside, touched
from servers.upkeep import Upkeep

HEARTBEAT_S_MAX = 3.0
CLUSTER_S = 0.2
_NUMBERS = (
    "chunks", "stored_bytes", "free_bytes", "total_bytes", "pid", "first_number", "next_number", "synced_number",
    "broken_chunks", "repaired_chunks",
)  # fmt: skip
_SERVER_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

_CHANGES: dict[type[Message], Callable[[Transaction, Any, int], Message]] = {
    messages.Create: tree.create,
    messages.Link: tree.link,
    messages.Remove: tree.remove,
    messages.Rename: rename.rename,
    messages.SetAttributes: tree.set_attributes,
    messages.SetXattr: xattrs.set_value,
    messages.RemoveXattr: xattrs.remove,
}
_QUERIES: dict[type[Message], Callable[[Transaction, Any, int], Message]] = {
    messages.Lookup: tree.lookup,
    messages.ListFolder: tree.list_folder,
    messages.PathOf: tree.path_of,
    messages.GetXattr: xattrs.get,
    messages.ListXattrs: xattrs.list_names,
    messages.GetSegments: content.get_segments,
}


_REPLIES: dict[type[Message], type[Message]] = {
    messages.Create: messages.Made,
    messages.Link: messages.Made,
    messages.Remove: messages.Removed,
    messages.Rename: messages.Renamed,
}
"""The kinds of reply that are not Attributes."""


class _Remembered(msgspec.Struct, array_like=True):
    """What a slot row keeps: the packed reply, or an error's code, message and detail."""

    reply: bytes = b""
    error: tuple[str, str, str] | None = None


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Remembered).decode


class Directory:
    """The core over one store. `now_ns` is wall-clock time, `now_s` a monotonic one. `repeated`: what `open`, `change`
    or `commit` has answered last was answered before, and need not be so any more."""

    def __init__(self, store: Store, *, copies: int, volume: bytes, uid: int, gid: int, now_ns: int, now_s: float):
        self._store = store
        self.repeated = False
        self.copies = copies
        self.copies_min = copies // 2 + 1
        self._heartbeats: dict[str, tuple[float, Server]] = {}
        self._cluster: tuple[float, Cluster | None] = (now_s, None)
        store.transact(lambda tx: records.create_volume(tx, volume, uid, gid, now_ns))
        upgrade.build_references(store)
        upgrade.count_short_rows(store)
        self.upkeep = Upkeep(store, self.copies_min)
        self._volume, self._known = store.read(_volume_and_servers)
        self.attendance = Attendance(store, now_s)
        watched = store.read(sessions.watching_sessions)
        self.promises = Promises(PROMISE_LEASE_S, now_ns, watched, now_s, self._beside)

    # -- the tree and its content

    def list_folder(self, request: messages.ListFolder, now_ns: int) -> messages.Listing:
        """Writes where it moves the folder's atime, and there is room for that."""
        listing = self.query(request, now_ns)
        if moves_atime(listing.folder, request.atime_ns):
            ino = listing.folder.ino
            with contextlib.suppress(errors.NoSpace):
                listing.folder = self._store.transact(lambda tx: tree.read_folder(tx, ino, request.atime_ns))
        return listing

    def query(self, request: Message, now_ns: int) -> Message:
        """What changes nothing."""
        operation = _QUERIES[type(request)]
        return self._store.read(lambda tx: operation(tx, request, now_ns))

    def open(self, request: messages.Open) -> messages.Opened:
        self.repeated = False
        self._check_session(request.session)
        return self._store.transact(lambda tx: content.open_file(tx, request))

    def put_segments(self, request: messages.PutSegments, now_s: float) -> Nothing:
        group = self.group(now_s)
        self._check_session(request.session)
        reply = self._store.transact(lambda tx: content.put_segments(tx, request, group))
        self.upkeep.committed(group.lacking(request.receipts))
        return reply

    def change(self, request: Change, now_ns: int) -> Message:
        operation = _CHANGES[type(request)]
        return self._once(request, lambda tx: operation(tx, request, now_ns), _reply_kind(request))

    def commit(self, request: messages.Commit, now_ns: int, now_s: float) -> Message:
        group = self.group(now_s)
        reply = self._once(request, lambda tx: content.commit(tx, request, group, now_ns), messages.Attributes)
        self.upkeep.committed(group.lacking(request.receipts))
        return reply

    def _once(self, request: Change, operation: Callable[[Transaction], Message], kind: type) -> Message:
        """Execute a change and remember its outcome in the same transaction; a repetition gets that outcome."""
        self.repeated = False
        if request.session == 0:
            return self._store.transact(operation)

        def run(tx: Transaction) -> Message:
            known = sessions.remembered(tx, request)
            if known is not None:
                self.repeated = True
                return _outcome(known, kind)
            self.attendance.check_wanted(request)
            reply = operation(tx)
            sessions.remember(tx, request, _pack(_Remembered(messages.to_msgpack(reply))))
            return reply

        try:
            return self._store.transact(run)
        except (errors.SessionEnded, errors.OutOfSequence, errors.ServerError):
            raise
        except errors.DfsError as error:
            self._remember_error(request, error)
            raise

    def _remember_error(self, request: Change, error: errors.DfsError) -> None:
        """The failed operation left nothing behind; its slot must move on all the same."""
        row = _pack(_Remembered(error=(error.code, str(error), error.detail)))

        def run(tx: Transaction) -> None:
            if sessions.remembered(tx, request) is None:
                sessions.remember(tx, request, row)

        self._store.transact(run)

    def _beside(self, touch: Touch) -> list[int]:
        return self._store.read(lambda tx: beside(tx, touch))

    def touched(self, request: Message) -> list[Touch]:
        return self._store.read(lambda tx: touched(tx, request))

    def quota(self, request: messages.Quota) -> messages.QuotaReply:
        return self._store.transact(lambda tx: quota.set_and_tell(tx, request))

    # -- sessions

    def begin(self, request: Begin, now_s: float) -> Begun:
        _check_numbers(request, "pid")
        session = self.attendance.begin(request, now_s)
        count = sessions.INODES_PER_RANGE
        first = self._store.transact(lambda tx: records.allocate_inodes(tx, count))
        return Begun(
            session=session, lease_s=PROMISE_LEASE_S, cluster=self.cluster(now_s), inodes=InodeRange(first, count)
        )

    def renew(self, request: Renew, now_s: float) -> Renewed:
        """A store that cannot be written, such as on a full disk, ends no lease."""
        _check_numbers(request, "unsent_files")
        revived, noted = self.attendance.heard(request, now_s), self.note(request)
        cluster = self.cluster(now_s)
        total, free, inodes, inodes_free = self._store.read(lambda tx: quota.space(tx, *_space(cluster)))
        return Renewed(
            cluster=cluster,
            revived=revived,
            rows_kept=not noted,
            total_bytes=total,
            free_bytes=free,
            inodes=inodes,
            inodes_free=inodes_free,
        )

    def note(self, request: Renew) -> bool:
        """What of a renewal is stored; False if the rows are to be told once more."""
        if request.read:
            with contextlib.suppress(errors.NoSpace):
                self._store.transact(lambda tx: tree.note_reads(tx, request.read))
        return self.attendance.note(request)

    def take_owed(self, request: messages.Watch, now_ns: int) -> list[int]:
        """What the session owes inodes that others are about to change; those that have changed by it."""
        self.attendance.check(request.session)
        return self._store.transact(lambda tx: tree.give_owed(tx, request.owed, now_ns))

    def watch(self, request: messages.Watch, now_s: float) -> messages.Watched | None:
        """None: there is nothing to tell yet."""
        self.attendance.watched(request, now_s)
        return self.promises.watch(request, now_s)

    def end(self, request: End) -> Nothing:
        self.attendance.end(request)
        return Nothing()

    def _check_session(self, session: int) -> None:
        """0 stands for none."""
        if session:
            self.attendance.check(session)

    # -- servers

    def register(self, request: Register, now_s: float) -> Registered:
        server = request.server
        if server.kind not in ("files", "locks") or not _SERVER_NAME.fullmatch(server.name) or not server.url:
            raise errors.BadRequest("a server has the kind files or locks, a URL, and a name of letters and digits")
        _check_numbers(server, *_NUMBERS)
        returned = not self._is_up(server.name, now_s)
        record = ServerRecord(server.kind, server.url)
        if self._known.get(server.name) != record:
            self._store.transact(lambda tx: records.put_record(tx, b"v" + server.name.encode(), record))
            self._known[server.name] = record
        if server.kind == "files":
            self.upkeep.heard(server, returned, now_s)
        # Where the store fails it has not been heard: what it may lack since would not be known.
        self._heartbeats[server.name] = (now_s, server)
        self._cluster = (now_s, None)
        start = self._store.transact(_next_start) if request.start else 0
        live = self.attendance.with_locks(now_s) if request.start else []
        return Registered(
            cluster=self.cluster(now_s),
            start_number=start,
            sessions=live,
            repair=self.upkeep.repairs(server.name),
            collect=self.upkeep.collects(server.name),
            numbers_from=self.upkeep.numbers_from(server),
        )

    def repair(self, request: messages.Repair, now_ns: int, now_s: float) -> messages.RepairWork:
        reply = self.upkeep.repair(request, self.group(now_s).names, now_ns, now_s)
        if reply.complete:
            self._cluster = (now_s, None)
        return reply

    def settle(self, now_s: float) -> bool:
        """A bounded part of what goes on by itself. Is there more to do at once?"""
        return self.upkeep.settle(self.group(now_s).names, now_s)

    def group(self, now_s: float) -> Group:
        """As it is now, and stays, whatever becomes of its servers."""
        return Group(self.cluster(now_s), self.upkeep.states.copy())

    def cluster(self, now_s: float) -> Cluster:
        """The cluster as it was at most CLUSTER_S ago."""
        made_s, cluster = self._cluster
        if cluster is None or now_s - made_s > CLUSTER_S:
            cluster = self._describe_cluster(now_s)
            self._cluster = (now_s, cluster)
        return cluster

    def _describe_cluster(self, now_s: float) -> Cluster:
        """The placement group is the first `copies` file servers by name; the first of them is the primary."""
        servers = [self._server(name, now_s) for name in sorted(self._known)]
        files = [server for server in servers if server.kind == "files"][: self.copies]
        locks = next((server for server in servers if server.kind == "locks"), None)
        return Cluster(
            volume=self._volume.hex(), copies=self.copies, copies_min=self.copies_min, files=files, locks=locks
        )

    def _server(self, name: str, now_s: float) -> Server:
        record = self._known[name]
        seen_s, latest = self._heartbeats.get(name, (-HEARTBEAT_S_MAX, None))
        if latest is None:
            return Server(kind=record.kind, name=name, url=record.url, up=False)
        syncing = self.upkeep.is_syncing(name)
        return msgspec.structs.replace(latest, up=now_s - seen_s < HEARTBEAT_S_MAX, syncing=syncing)

    def _is_up(self, name: str, now_s: float) -> bool:
        seen_s, _ = self._heartbeats.get(name, (-HEARTBEAT_S_MAX, None))
        return now_s - seen_s < HEARTBEAT_S_MAX

    def status(self, directory: Server, now_s: float) -> StatusReply:
        used = self._store.read(records.usage)
        short = self._store.read(lambda tx: sum(short_rows.count(tx, name) for name in short_rows.short_servers(tx)))
        return StatusReply(
            cluster=self.cluster(now_s),
            directory=directory,
            sessions=self.attendance.rows(now_s),
            inodes=used.inodes,
            used_bytes=used.size_bytes,
            short_chunks=short,
            conditions=self.upkeep.conditions(self.group(now_s).names),
            lost_files=self.upkeep.lost_files(),
        )


def _reply_kind(request: Change) -> type[Message]:
    """The kind of reply to a change."""
    return _REPLIES.get(type(request), messages.Attributes)


def _outcome(row: bytes, kind: type) -> Message:
    known = _unpack(row)
    if known.error is not None:
        raise errors.from_wire(*known.error)
    return messages.from_msgpack(known.reply, kind)


def _volume_and_servers(tx: Transaction) -> tuple[bytes, dict[str, ServerRecord]]:
    rows = tx.range(*records.within(b"v"), 10_000)
    known = {key[1:].decode(): msgspec.msgpack.decode(row, type=ServerRecord) for key, row in rows}
    return tx.get(b"mvolume"), known


def _next_start(tx: Transaction) -> int:
    start = records.get_counter(tx, b"start_number") + 1
    records.put_counter(tx, b"start_number", start)
    return start


def _check_numbers(message: Message, *fields: str) -> None:
    """What others tell of themselves goes into every answer: a number that cannot be written would break them all."""
    for field in fields:
        if not 0 <= getattr(message, field) < 1 << 63:
            raise errors.InvalidArgument(f"{field}: {getattr(message, field)} is not from 0 to 2^63 - 1")


def _space(cluster: Cluster) -> tuple[int, int]:
    """(total, free) bytes of the volume: those of its fullest server, as each has a copy of everything. What else is
    on that server's disk does not count as used."""
    up = [server for server in cluster.files if server.up]
    if not up:
        return 0, 0
    fullest = min(up, key=lambda server: server.free_bytes)
    return fullest.stored_bytes + fullest.free_bytes, fullest.free_bytes
