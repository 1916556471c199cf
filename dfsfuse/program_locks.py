"""Locks between programs (fcntl and flock) with the manners of a local disk, for the file system.

Each lock is asked of the lock service (range_locks.py). What a program has written is committed before one of its locks
goes or becomes weaker, and what others have written is brought before a lock is granted (sharing.py): so who locks sees
what was written under the locks before.

A flock is converted as on Linux, with a moment at which nobody has it. A lock of a process is given back at the first
close of any of its descriptors of the file, by its owner number; one of an open file description, and a flock, with its
last handle, of which the kernel tells after close() has returned. So who does not wait, and finds a lock of a
descriptor that is being closed, asks again once it is closed.

By then the kernel may have given the owner number of that description to the next one. So flocks are owned by numbers
of our own, and who locks ranges with a number that is still that of a descriptor being closed comes after its close.

Who has lost locks removes and renames nothing until he has closed what he had locked: what he knows of names, such as
that of a journal, may long be another's, whose file he would take.

Threads: changes of `_fenced` are atomic. `_changed` (a condition) guards which descriptors are being closed. Each lock
that is waited for in the background has a thread of its own.
"""

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

from dfsfuse import errors
from dfsfuse.content import Content
from dfsfuse.handles import Handle, Share
from dfsfuse.messages import RangeGranted
from dfsfuse.openfiles import OpenFiles
from dfsfuse.processes import process_of
from dfsfuse.range_locks import FileLock, Owner, RangeLockTable
from dfsfuse.session import Session
from dfsfuse.sharing import Sharing
from dfsfuse.waiting import Interrupted, never

log = logging.getLogger(__name__)

CALLERS_WAITING_MAX = 128
"""With so many waits already, none may occupy a thread of the driver any more."""
WAITING_MAX = 1000
CLOSING_S_MAX = 5.0
_CLOSE_S = 2.0

Decided = Callable[[errors.DfsError | None], None]


class ProgramLocks:
    def __init__(self, session: Session, ranges: RangeLockTable, sharing: Sharing, files: OpenFiles):
        self._session, self._ranges, self._sharing, self._files = session, ranges, sharing, files
        self._changed = threading.Condition()
        self._closing: dict[Handle, int] = {}
        self._waiting = 0
        self._fenced: dict[Handle, Owner] = {}
        ranges.on_lost(self._fenced.update)

    def on_content_changed(self, tell: Callable[[Content, int], None]) -> None:
        """`tell(content, ino)`: programs are about to see another version through descriptors that stay open. It must
        make the kernel forget the pages and attributes that it has of the inode before it returns."""
        self._sharing.on_changed(tell)

    def is_shared(self, ino: int) -> bool:
        return self._sharing.is_shared(ino)

    # -- what programs ask for

    def get(self, handle: Handle, lock: FileLock) -> FileLock | None:
        """F_GETLK: a lock that is in the way. Its pid is 0 where its process is another machine's."""
        share = self._sharing.begin_locking(handle)
        found = self._ranges.probe(share.ino, _owned(lock, handle))
        if not found.taken:
            return None
        kind = fcntl.F_WRLCK if found.write else fcntl.F_RDLCK
        pid = found.pid if found.host == self._session.identity.host else 0
        return FileLock(0, kind, found.start, found.end - 1, pid, lock.flock)

    def set(self, handle: Handle, lock: FileLock, wait: bool = False, interrupted: Interrupted = never) -> None:
        """Lock or unlock; with `wait`, the calling thread waits. Raises WouldBlock, Interrupted, Deadlock, NoLocks."""
        lock = _owned(lock, handle)
        if lock.kind == fcntl.F_UNLCK:
            self._unlock(handle, lock)
        elif not self._locked_at_once(handle, lock, wait):
            with self._one_more_waits(CALLERS_WAITING_MAX):
                self._wait(handle, lock, interrupted)

    def begin(self, handle: Handle, lock: FileLock, later: Callable[[], Decided], interrupted: Interrupted) -> bool:
        """Lock, waiting in the background. True: it is locked. False: what `later()` returns will be called once, from
        another thread: with None when it is locked, else with the error. Raises what fails at once."""
        lock = _owned(lock, handle)
        if self._locked_at_once(handle, lock, True):
            return True
        decided = later()

        def wait() -> None:
            outcome: errors.DfsError | None = None
            try:
                with self._one_more_waits(WAITING_MAX):
                    self._wait(handle, lock, interrupted)
            except errors.DfsError as error:
                outcome = error
            except Exception as error:
                log.exception("waiting for a lock failed")
                outcome = errors.Internal(str(error))
            decided(outcome)

        threading.Thread(target=wait, name="lock-wait", daemon=True).start()
        return False

    @contextlib.contextmanager
    def _one_more_waits(self, waiting_max: int) -> Iterator[None]:
        with self._changed:
            if self._waiting >= waiting_max:
                raise errors.NoLocks(f"{self._waiting} programs of this client wait for locks already")
            self._waiting += 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1

    # -- names

    def is_fenced(self, thread: int) -> bool:
        """Whether the process of this thread has a descriptor open through which it has lost locks."""
        self._ranges.check_lease()
        return bool(self._fenced) and process_of(thread) in {owner.pid for owner in list(self._fenced.values())}

    def check_fence(self, thread: int) -> None:
        if self.is_fenced(thread):
            raise errors.LockLost(
                "this program has lost locks: it changes no names until it has closed what it had locked"
            )

    # -- closing

    def flush(self, handle: Handle, owner: int) -> None:
        """A process closes a descriptor; `owner` is the kernel's number for who holds its locks."""
        committed = False
        try:
            self._files.flush(handle)
            committed = True
        finally:
            fenced = self._fenced.get(handle)
            if fenced is not None and fenced.number == owner:
                self._fenced.pop(handle, None)
            if handle.share is not None:
                self.flushed(handle, owner, committed)

    def release(self, handle: Handle) -> None:
        """The last descriptor of a handle is closed."""
        if handle.share is None:
            self._files.release(handle)
            return
        with self.closing(handle):
            self._files.release(handle)
        self._fenced.pop(handle, None)

    def flushed(self, handle: Handle, owner: int, committed: bool) -> None:
        """None of the process's locks on the file is left. Never raises."""
        share, lock = handle.share, FileLock(owner, fcntl.F_UNLCK)
        if share is None or not self._ranges.has(share.ino, lock):
            return
        if committed:
            self._settle_quietly(handle)
        self._let_go(share.ino, lock)
        self._sharing.unlocked(handle)

    @contextlib.contextmanager
    def closing(self, handle: Handle) -> Iterator[None]:
        """Brackets the end of a descriptor: what was locked through it and is still held goes when the block ends."""
        share = handle.share
        locks = self._ranges.taken_through(handle) if share is not None else []
        if share is None or not locks:
            yield
            return
        with self._changed:
            self._closing[handle] = share.ino
        try:
            yield
        finally:
            for lock in locks:
                self._let_go(share.ino, lock)
            with self._changed:
                del self._closing[handle]
                self._changed.notify_all()

    def _let_go(self, ino: int, lock: FileLock) -> None:
        try:
            self._ranges.unlock(ino, lock, _CLOSE_S)
        except errors.DfsError as error:
            log.warning("a lock could not be given back, the next renewal frees it: %s", error)

    # -- locking and unlocking

    def _unlock(self, handle: Handle, lock: FileLock) -> None:
        """Where the content cannot be sent, the lock stays: others would read what is older. Only what can never
        become the file's content holds nobody up. Who has lost locks hears of it, as what was read since may be old."""
        self._ranges.check_lease()
        share = handle.share
        held = share is not None and self._ranges.has(share.ino, lock)
        if handle.failed is not None:
            if held:
                self._let_go(share.ino, lock)
            raise handle.failed
        if not held:
            return
        try:
            self._sharing.settle(handle.content)
        except (errors.VersionConflict, errors.LockLost, errors.Stale):
            self._let_go(share.ino, lock)
            raise
        self._ranges.unlock(share.ino, lock)
        self._sharing.unlocked(handle)

    def _locked_at_once(self, handle: Handle, lock: FileLock, wait: bool) -> bool:
        """False: it is taken, and will be waited for."""
        share = self._prepare(handle, lock)
        try:
            granted = self._ask(handle, share, lock, wait)
        except errors.DfsError as error:
            if not self._ranges.is_locked(share.ino):
                self._settle_quietly(handle)
            if wait and isinstance(error, errors.WouldBlock):
                return False
            raise
        self._granted(handle, share, lock, granted)
        return True

    def _prepare(self, handle: Handle, lock: FileLock) -> Share:
        """What the owner has now may become weaker: what it has written comes first."""
        self._ranges.check_lease()
        if handle.failed is not None:
            raise handle.failed
        share = self._sharing.begin_locking(handle)
        self._await_former_owner(share.ino, lock)
        had = {write for _, _, write in self._ranges.ranges(share.ino, lock)}
        if had and (not lock.write or lock.flock):
            self._sharing.settle(handle.content)
        if lock.flock and had == {not lock.write}:
            self._ranges.unlock(share.ino, lock)
        return share

    def _await_former_owner(self, ino: int, lock: FileLock) -> None:
        with self._changed:
            if self._closing:
                through = self._ranges.through(ino, lock)
                if not self._changed.wait_for(lambda: not through & self._closing.keys(), CLOSING_S_MAX):
                    raise errors.Busy("a descriptor with locks on the file is still being closed")

    def _ask(self, handle: Handle, share: Share, lock: FileLock, wait: bool) -> RangeGranted:
        deadline = time.monotonic() + CLOSING_S_MAX
        while True:
            try:
                return self._ranges.lock(handle, share.ino, handle.content.where, lock, fair=wait)
            except errors.WouldBlock:
                if wait or not self._closing_ends(share.ino, deadline):
                    raise

    def _closing_ends(self, ino: int, deadline: float) -> bool:
        """Whether descriptors of the file were being closed here, and are now."""
        with self._changed:
            return ino in self._closing.values() and self._changed.wait_for(
                lambda: ino not in self._closing.values(), max(0.0, deadline - time.monotonic())
            )

    def _wait(self, handle: Handle, lock: FileLock, interrupted: Interrupted) -> None:
        share = self._sharing.begin_locking(handle)
        granted = self._ranges.wait(handle, share.ino, handle.content.where, lock, interrupted)
        self._granted(handle, share, lock, granted)

    def _granted(self, handle: Handle, share: Share, lock: FileLock, granted: RangeGranted) -> None:
        """Without the newest content it is no lock."""
        try:
            self._sharing.refresh(handle, granted)
            if lock.write:
                self._sharing.may_write(handle)
        except BaseException:
            self._let_go(share.ino, lock)
            raise

    def _settle_quietly(self, handle: Handle) -> None:
        try:
            self._sharing.settle(handle.content)
        except errors.DfsError as error:
            log.error("%s is not on the servers yet: %s", os.fsdecode(handle.content.where), error)


def _owned(lock: FileLock, handle: Handle) -> FileLock:
    return lock._replace(owner=handle.number) if lock.flock else lock
