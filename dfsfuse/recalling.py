"""Recalls: one request waits at the lock service all the time for what other clients want of this one's locks.

What no program uses is given back with the next request; of what programs use this is said, and it goes with their last
close. Should this fail, each renewal of the lease tells the same.

Threads: one of its own.
"""

import logging
import threading
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.lock_lease import LockLease
from dfsfuse.locks import LockTable
from dfsfuse.messages import HeldLock, WantedLocks, WatchLocks
from dfsfuse.session import Session

log = logging.getLogger(__name__)

_ANSWER_S = 8.0
"""The lock service answers within 5 s."""
_PAUSE_S = 0.05
_JOIN_S = 0.5


class Recalling:
    """`start` begins, `stop` ends it; the end of the session ends the request that waits. `tell({inode: 0})` hears of
    wanted locks that programs use; it must not wait."""

    def __init__(self, session: Session, lease: LockLease, locks: LockTable, tell: Callable[[dict[int, float]], None]):
        self._session, self._lease, self._locks, self._tell = session, lease, locks, tell
        self._returned: list[HeldLock] = []
        self._used: list[HeldLock] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch_for_ever, name="recalls", daemon=True)

    def start(self) -> None:
        self._locks.keep_unused()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def watch(self) -> None:
        """Answer what was asked for, and wait once for more."""
        request = WatchLocks(session=self._session.id, returned=self._returned, used=self._used)
        self._returned, self._used = [], []
        try:
            reply: WantedLocks = self._session.rpc.call(self._lease.url(), "watch", request, WantedLocks, _ANSWER_S)
        finally:
            self._locks.arrived(request.returned)
        self._returned, self._used = self._locks.wanted_back(reply.locks)
        if self._used:
            self._tell({lock.ino: 0.0 for lock in self._used})

    def _watch_for_ever(self) -> None:
        silent = False
        while not self._stopping.is_set():
            try:
                self.watch()
                silent = False
            except errors.DfsError as error:
                if not silent and not self._stopping.is_set():
                    log.info("the lock service cannot call back; it is heard with renewals meanwhile: %s", error)
                silent = True
                self._stopping.wait(_PAUSE_S)
            except Exception:
                log.exception("watching for recalls failed")
                self._stopping.wait(_PAUSE_S)
