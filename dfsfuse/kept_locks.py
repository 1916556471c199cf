"""One write lock that this client has, and those of them that no program uses any more: they are kept until another
client wants them, so that who writes a file again and again pays no request for its lock.

Threads: those of locks.py, which calls this under its condition.
"""

from collections import OrderedDict
from collections.abc import Iterator

from dfsfuse.messages import HeldLock
from dfsfuse.processes import command_of
from dfsfuse.session import boottime_s

KEPT_MAX = 2048
"""A renewal lists them all, each second."""
KEPT_S = 60.0
"""Others wait for a lease where a client is killed that keeps what they want."""

_NOT_TOLD = -1


class Lock:
    """One lock held by this client, in this session of it. `lost` once it is known that it is no longer ours.
    `wanted`: another client has waited for it for long; `recalled`: for any time, so it is not kept. `opened`: the
    directory has opened the file with this token. `told`: the start of the lock service that knows whose it is.
    `used_since_s`: when programs began to use it."""

    __slots__ = (
        "ino", "token", "until_s", "pids", "path", "session", "wanted", "recalled", "opened", "lost", "told",
        "unused_since_s", "used_since_s",
    )  # fmt: skip

    def __init__(self, ino: int, token: int, until_s: float, pid: int, path: bytes, session: int = 0):
        self.ino, self.token, self.until_s, self.session = ino, token, until_s, session
        self.pids, self.path = [pid], path
        self.wanted = self.recalled = self.opened = self.lost = False
        self.told, self.unused_since_s, self.used_since_s = _NOT_TOLD, 0.0, boottime_s()

    def used_as(self, path: bytes) -> None:
        """A program begins to use it, or does again, by this path."""
        self.path, self.told, self.used_since_s = path, _NOT_TOLD, boottime_s()

    def valid(self, now_s: float) -> bool:
        return not self.lost and now_s < self.until_s

    def held_now(self) -> bool:
        return self.valid(boottime_s())

    def described(self) -> HeldLock:
        pid = self.pids[0] if self.pids else 0
        command, used_s = command_of(pid) if pid else "", boottime_s() - self.used_since_s
        return HeldLock(self.ino, self.token, self.path, pid, command, used_s=max(0.0, used_s) if pid else 0.0)

    def described_unused(self, start: int) -> HeldLock:
        """Its path is told once to each start of the lock service."""
        return HeldLock(self.ino, self.token, b"" if self.told == start else self.path, kept=True)


class KeptLocks:
    """`most` are kept, the least recently used go first. `on`: whether any are."""

    def __init__(self, most: int = KEPT_MAX):
        self._most, self.on = most, False
        self._locks: OrderedDict[int, Lock] = OrderedDict()

    def __contains__(self, ino: int) -> bool:
        return ino in self._locks

    def __iter__(self) -> Iterator[Lock]:
        return iter(list(self._locks.values()))

    def get(self, ino: int) -> Lock | None:
        return self._locks.get(ino)

    def accepts(self, lock: Lock) -> bool:
        return self.on and not (lock.recalled or lock.wanted) and lock.held_now()

    def add(self, lock: Lock) -> list[Lock]:
        """Those that are to be given back for it, many at a time."""
        lock.unused_since_s = boottime_s()
        self._locks[lock.ino] = lock
        surplus = len(self._locks) > self._most
        return [self._locks.popitem(last=False)[1] for _ in range(self._most // 16 + 1)] if surplus else []

    def pop(self, ino: int) -> Lock | None:
        return self._locks.pop(ino, None)

    def take_unused(self, now_s: float) -> list[Lock]:
        """Those that nobody has used for long."""
        found = []
        while self._locks and next(iter(self._locks.values())).unused_since_s <= now_s - KEPT_S:
            found.append(self._locks.popitem(last=False)[1])
        return found

    def take_all(self) -> list[Lock]:
        found = [*self._locks.values()]
        self._locks.clear()
        return found
