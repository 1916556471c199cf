"""Recalls: one request waits at the lock service all the time for what other clients want of this one's locks.

What no program uses is given back with the next request; of what programs use this is said, and it goes with their last
close. Should this fail, each renewal of the lease tells the same.

Threads: one of its own (long_poll.py).
"""

from collections.abc import Callable

from dfsfuse.lock_lease import LockLease
from dfsfuse.locks import LockTable
from dfsfuse.long_poll import LongPoll
from dfsfuse.messages import HeldLock, WantedLocks, WatchLocks
from dfsfuse.session import Session

_ANSWER_S = 8.0
"""The lock service answers within 5 s."""
_SILENCE = "the lock service cannot call back; it is heard with renewals meanwhile"


class Recalling:
    """`start` begins, `stop` ends it. `tell({inode: 0})` hears of wanted locks that programs use; it must not wait."""

    def __init__(self, session: Session, lease: LockLease, locks: LockTable, tell: Callable[[dict[int, float]], None]):
        self._session, self._lease, self._locks, self._tell = session, lease, locks, tell
        self._returned: list[HeldLock] = []
        self._used: list[HeldLock] = []
        poll = LongPoll("recalls", self.watch, _SILENCE)
        self._poll, self.stop, self.join = poll, poll.stop, poll.join

    def start(self) -> None:
        self._locks.keep_unused()
        self._poll.start()

    def watch(self) -> None:
        """Answer what was asked for, and wait once for more."""
        request = WatchLocks(session=self._session.id, returned=self._returned, used=self._used)
        self._returned, self._used = [], []
        try:
            reply: WantedLocks = self._lease.ask("watch", request, WantedLocks, _ANSWER_S, patient=True)
        finally:
            self._locks.arrived(request.returned)
        self._returned, self._used = self._locks.wanted_back(reply.locks)
        if self._used:
            self._tell({lock.ino: 0.0 for lock in self._used})
