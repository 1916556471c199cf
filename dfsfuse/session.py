"""The client's session with the directory: requests that are retried, changes that are executed once, renewals.

A change takes a free slot and the slot's next sequence number; it is repeated with the same numbers until the directory
has answered, so it is executed once. A slot whose outcome stayed unknown is never used again: its next number would be
refused if the change was not executed. What is refused for its number was not executed, and goes through another slot.

Threads: `_mutex` guards slots, the inode range and open numbers; it is never held across a request. One thread of its
own renews the lease.
"""

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from dfsfuse import errors, messages
from dfsfuse.closed_rows import ClosedRows
from dfsfuse.messages import (
    Base,
    Begin,
    Begun,
    Change,
    Closed,
    Cluster,
    End,
    InodeRange,
    Message,
    Nothing,
    Renew,
    Renewed,
    TakenOver,
    TakeOver,
)
from dfsfuse.read_times import ReadTimes
from dfsfuse.rpc import Rpc
from dfsfuse.serving_directory import ServingDirectory

log = logging.getLogger(__name__)

RENEW_EVERY_S = 1.0
_RENEW_PAUSE_S = 0.05
_LOOK_EVERY_S = 0.5
"""Where another directory may serve soon."""
_RENEW_TIMEOUT_S = 3.0
_END_TIMEOUT_S = 2.0
_LOW_INODES = 256

_SLOT_IN_DOUBT = (
    errors.Unreachable,
    errors.Interrupted,
    errors.OutOfSequence,
    errors.SessionEnded,
    errors.ServerError,
    errors.BadRequest,
    errors.Unauthorized,
    errors.NoSuchOperation,
    errors.MethodNotAllowed,
)
"""After these the directory may or may not have moved the slot on, so it is not used again."""

OPERATIONS: dict[type[Message], str] = {
    messages.Lookup: "lookup",
    messages.ListFolder: "list",
    messages.PathOf: "path",
    messages.Open: "open",
    messages.PutSegments: "put_segments",
    messages.GetSegments: "get_segments",
    messages.Create: "create",
    messages.Link: "link",
    messages.Remove: "remove",
    messages.Rename: "rename",
    messages.SetAttributes: "set_attributes",
    messages.Commit: "commit",
    messages.Durable: "durable",
    messages.ListMappings: "mappings",
    messages.Quota: "quota",
    messages.GetXattr: "get_xattr",
    messages.ListXattrs: "list_xattrs",
    messages.SetXattr: "set_xattr",
    messages.RemoveXattr: "remove_xattr",
}


class Identity(messages.Message):
    """Who this client is, for people who look at locks and sessions."""

    host: str
    pid: int
    mountpoint: str
    user: str


class Session:
    """Begun at construction; `start` begins the renewals, `close` ends the session; with `leaves_unsent` the directory
    keeps its open rows for writing for the next one. `heard_s`: when the directory was asked for the latest renewal
    that it has answered (boottime_s).

    `refind` returns the directory's current URL when it does not answer (an embedded cluster may have moved),
    `another` that of who serves in its place while it is silent.
    """

    def __init__(
        self,
        rpc: Rpc,
        url: str,
        identity: Identity,
        timeout_s: float,
        refind: Callable[[], str] | None = None,
        another: Callable[[], str] | None = None,
    ):
        self.rpc, self.identity, self.timeout_s = rpc, identity, timeout_s
        self._directory = ServingDirectory(rpc, url, timeout_s, refind, another)
        self._until_answered = self._directory.until_answered
        self._mutex = threading.Lock()
        self._openings = 0
        self.closed_rows, self.read_times = ClosedRows(), ReadTimes()
        self._unsent_files = 0
        self._stopping = threading.Event()
        self._on_new_session: list[Callable[[], None]] = []
        self._to_tell: list[Callable[[], None]] = []
        self.leaves_unsent = False
        self._on_closed: list[Callable[[], None]] = []
        self._on_servers_changed: list[Callable[[], None]] = []
        self._on_changed: list[Callable[[int, bytes], None]] = []
        self._on_doubt: list[Callable[[messages.Doubt], None]] = []
        self.space = Renewed(cluster=Cluster(volume="", copies=0, copies_min=0))
        self._begin()
        self._thread = threading.Thread(target=self._renew_for_ever, name="renew", daemon=True)

    @property
    def url(self) -> str:
        """The directory's, as far as is known."""
        return self._directory.url

    def _begin(self) -> None:
        identity, key = self.identity, secrets.token_bytes(16)
        request = Begin(
            key=key,
            watches=True,
            host=identity.host,
            pid=identity.pid,
            mountpoint=identity.mountpoint,
            user=identity.user,
        )
        sent_s = boottime_s()
        begun: Begun = self._until_answered("begin", request, Begun)
        self.heard_s = sent_s
        with self._mutex:
            self.id = begun.session
            self._slots: list[list[int]] = []
            self._slots_made = 0
            self._inodes = begun.inodes
        self.cluster = begun.cluster
        self.lease_s = begun.lease_s

    def start(self) -> None:
        self.renew()
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self.closed_rows.hurry()
        if self._thread.is_alive():
            self._thread.join()
        if self.leaves_unsent or self.read_times.any:
            # What was closed since the last renewal is not to be kept with the rest.
            with contextlib.suppress(errors.DfsError):
                self.renew()
        self._end_at(self.url, End(self.id, self.leaves_unsent))
        self.end_locks(self.id)
        for tell in self._on_closed:
            tell()

    def on_closed(self, tell: Callable[[], None]) -> None:
        """`tell()` once the session has ended, and what waits at the directory with it."""
        self._on_closed.append(tell)

    def end_locks(self, session: int) -> None:
        """The locks of a session whose client is gone, or of this one, are free."""
        if self.cluster.locks is not None:
            self._end_at(self.cluster.locks.url, End(session))

    def _end_at(self, url: str, request: End) -> None:
        try:
            self.rpc.call(url, "end", request, Nothing, _END_TIMEOUT_S)
        except errors.DfsError as error:
            log.warning("session %d could not be ended, it will lapse: %s", request.session, error)

    def take_over(self, formers: list[int], bases: list[Base], opening: int) -> list[Closed]:
        """The open rows of the inodes of these bases, which this session has in the place of former ones now."""
        request = TakeOver(session=self.id, formers=formers, bases=bases, opening=opening)
        taken: TakenOver = self._until_answered("take_over", request, TakenOver)
        return taken.rows

    # -- requests

    def query(
        self,
        request: Message,
        reply: type,
        interrupted: Callable[[], bool] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """A request that may be repeated without harm."""
        return self._until_answered(OPERATIONS[type(request)], request, reply, interrupted, timeout_s)

    def change(
        self,
        request: Change,
        reply: type,
        meanwhile: Callable[[], None] | None = None,
        interrupted: Callable[[], bool] | None = None,
    ) -> Any:
        """A request that is executed once, or perhaps not where it is `interrupted`. `meanwhile` as in `Rpc.call`.

        A directory that lost power may have lost the slot's latest numbers, with the changes that they were of: then it
        has executed nothing, and does so for a slot that it has never heard of.
        """
        try:
            return self._change(self._take_slot(), request, reply, interrupted, meanwhile)
        except errors.OutOfSequence:
            return self._change(self._new_slot(), request, reply, interrupted, meanwhile)

    def _change(
        self,
        slot: list[int],
        request: Change,
        reply: type,
        interrupted: Callable[[], bool] | None,
        meanwhile: Callable[[], None] | None,
    ) -> Any:
        slot[1] += 1
        request.slot, request.sequence, request.session = slot
        try:
            answer = self._until_answered(OPERATIONS[type(request)], request, reply, interrupted, meanwhile=meanwhile)
        except _SLOT_IN_DOUBT:
            for tell in self._on_doubt:
                tell(messages.Doubt(session=slot[2], slot=slot[0], sequence=slot[1]))
            raise
        except errors.DfsError:
            self._give_back(slot)
            raise
        self._give_back(slot)
        return answer

    def _take_slot(self) -> list[int]:
        """[slot number, its latest sequence number, the session that it belongs to]"""
        with self._mutex:
            if self._slots:
                return self._slots.pop()
        return self._new_slot()

    def _new_slot(self) -> list[int]:
        with self._mutex:
            self._slots_made += 1
            return [self._slots_made, 0, self.id]

    def _give_back(self, slot: list[int]) -> None:
        with self._mutex:
            if slot[2] == self.id:
                self._slots.append(slot)

    def sync(self) -> None:
        """All that the directory has acknowledged is on its disk."""
        self._until_answered("sync", Nothing(), Nothing)

    # -- numbers that this session gives out

    def new_inode(self) -> int:
        with self._mutex:
            if self._inodes.count:
                first, left = self._inodes.first, self._inodes.count - 1
                self._inodes = InodeRange(first + 1, left)
                return first
        request = messages.AllocateInodes(self.id)
        fresh: InodeRange = self._until_answered("allocate", request, InodeRange)
        with self._mutex:
            self._inodes = InodeRange(fresh.first + 1, fresh.count - 1)
        return fresh.first

    def new_opening(self) -> int:
        with self._mutex:
            self._openings += 1
            return self._openings

    def closed(self, ino: int, version: int, opening: int) -> None:
        """The last handle on this version is closed, `opening` being the number of its latest open; told with the next
        renewal."""
        self.closed_rows.add(ino, version, opening)

    def committed(self, ino: int, base: int, version: int) -> None:
        """The open row of the base is one of this version now."""
        self.closed_rows.for_writing.committed(ino, base, version)

    # -- the lease

    def renew(self) -> None:
        closed, sent_s = self.closed_rows.take(), boottime_s()
        read = self.read_times.take()
        request = Renew(session=self.id, closed=closed, read=read, unsent_files=self._unsent_files)
        try:
            before = self.space
            self.space = self._directory.ask_and_look("renew", request, Renewed, _RENEW_TIMEOUT_S)
            self.cluster, self.heard_s = self.space.cluster, sent_s
            if _usefulness(before) != _usefulness(self.space):
                for tell in self._on_servers_changed:
                    tell()
            self.read_times.told(heard=True)
            if self.space.rows_kept:
                self.closed_rows.put_back(closed)
        except errors.SessionEnded:
            log.warning("session %d has ended at the directory; beginning a new one", self.id)
            self._begin()
            self.closed_rows.forget()
            self.read_times.told(heard=False)
            self._to_tell = list(self._on_new_session)
        except errors.DfsError:
            self.closed_rows.put_back(closed)
            self.read_times.told(heard=False)
            raise
        while self._to_tell:
            self._to_tell[0]()
            del self._to_tell[0]

    def on_new_session(self, tell: Callable[[], None]) -> None:
        """`tell()` is called after the session was lost and another begun; once more with the next renewal where it
        raises."""
        self._on_new_session.append(tell)

    def on_servers_changed(self, tell: Callable[[], None]) -> None:
        """`tell()` when the directory has told that servers have come or gone, serve again, or have room again; it must
        not wait."""
        self._on_servers_changed.append(tell)

    def on_changed(self, tell: Callable[[int, bytes], None]) -> None:
        """`tell(inode number, name of an entry or b"")` after a change that no program has asked for."""
        self._on_changed.append(tell)

    def changed(self, ino: int, name: bytes = b"") -> None:
        """This client has changed something of its own accord: the directory does not call it back about that."""
        for tell in self._on_changed:
            tell(ino, name)

    def on_doubt(self, tell: Callable[[messages.Doubt], None]) -> None:
        """`tell` comes before a change fails of which nobody knows whether it is made, or will be."""
        self._on_doubt.append(tell)

    def report_unsent(self, files: int) -> None:
        self._unsent_files = files

    def _renew_for_ever(self) -> None:
        silent = False
        again_s = _LOOK_EVERY_S if self._directory.has_others else RENEW_EVERY_S
        while self.closed_rows.wait(
            self._stopping, again_s if silent else _RENEW_PAUSE_S, again_s if silent else RENEW_EVERY_S
        ):
            try:
                self.renew()
                if silent:
                    log.info("the directory answers again")
                silent = False
            except errors.DfsError as error:
                if not silent:
                    log.warning("the session cannot be renewed: %s", error)
                silent = True
                # What is not found is looked for again with the next renewal that fails.
                with contextlib.suppress(errors.DfsError):
                    self._directory.look_again()
            except Exception:
                log.exception("renewing the session failed")


def _usefulness(space: Renewed) -> object:
    """What of the servers' state decides whether something can be sent."""
    servers = [*space.cluster.files, *filter(None, [space.cluster.locks])]
    return space.free_bytes > 0, [(s.name, s.url, s.up, s.syncing, s.free_bytes > 0) for s in servers]


def boottime_s() -> float:
    """Seconds since boot, counting suspension: leases must end while a laptop sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def identity(mountpoint: str) -> Identity:
    import pwd
    import socket

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return Identity(host=socket.gethostname(), pid=os.getpid(), mountpoint=mountpoint, user=user)
