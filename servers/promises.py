"""Promises: which session is told before something of an inode changes, and who has not heard it yet. Pure.

A promise about an inode covers its attributes, the version of its content, and the entries of a folder. It is given
with an answer, while the session watches; it ends when the session has been told of a change of the inode. An entry is
told by its name, and the promise about the folder goes on, until the session has heard NAMES_MAX names of the folder
without asking for anything there: then it is told of the folder as a whole, and of what is beside that name, so that
who unpacks or removes a tree that others have once looked at does not wait for them with each file.

Nothing is promised about what a change is under way to, from when it is told until it is made: so whoever asks after an
event, and is promised something, has seen the state after the change.

A session's promises end with its lease, which its own clock counts from when the session SENT its latest Watch; here it
counts from when that arrived, so it ends later. After a start the sessions that watched before may be using promises
that are not known any more: a change waits until each has come back, which voids them, or for one lease.

(As the callbacks of AFS, Howard et al., ACM TOCS 6(1) 1988, and the delegations of NFSv4, RFC 8881 section 10.2.)

Threads: none; all state belongs to the one thread (event loop) that calls. `now_s` is a clock that counts suspension.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from dfsfuse import errors
from dfsfuse.messages import EVERYTHING, Broken, Watch, Watched

PER_SESSION_MAX = 1 << 20
NAMES_MAX = 16
_FOLDERS_MAX = 1024
GRACE_S = 0.1
"""What clocks of two hosts may drift apart during a lease."""

Touch = tuple[int, bytes]
"""(inode number, name of an entry), as `Broken` has them."""

Waits = dict[tuple[int, int], int]
"""(session, epoch) -> the number of the event that it is to hear. Epoch 0: it is to come back after a start."""


class _Watcher:
    """`told`: what it has not heard, with the event's number, in order. `inos`: what it is promised. `names`: by
    folder, how many names it was told since it has last asked for something there."""

    __slots__ = ("epoch", "until_s", "number", "heard", "told", "inos", "names")

    def __init__(self, epoch: int, until_s: float):
        self.epoch, self.until_s = epoch, until_s
        self.number = self.heard = 0
        self.told: dict[Touch, int] = {}
        self.inos: set[int] = set()
        self.names: Counter[int] = Counter()

    def is_tired_of(self, folder: int) -> bool:
        """One more name there concerns it. Has it heard so many that it rather hears no more?"""
        if len(self.names) > _FOLDERS_MAX:
            self.names.clear()
        self.names[folder] += 1
        return self.names[folder] > NAMES_MAX

    def tell(self, touch: Touch) -> None:
        """An entry once, as long as it has not been heard. An inode each time: it was promised anew since,
        to a session that may have taken the event in, and not have said so yet."""
        if touch[1] and touch in self.told:
            return
        self.told.pop(touch, None)
        self.number += 1
        self.told[touch] = self.number

    def hear(self, number: int) -> None:
        self.heard = max(number, self.heard)
        self.told = {touch: told for touch, told in self.told.items() if told > number}

    def unheard(self, ino: int) -> int:
        """The number of the latest event about an inode that it has not heard; 0 where there is none."""
        return max((number for touch, number in self.told.items() if touch[0] in (ino, EVERYTHING)), default=0)


class Promises:
    """`epoch`: larger than any of an earlier start. `watched`: the sessions that have watched before it. `beside` tells
    inodes with names after one in its folder."""

    def __init__(
        self,
        lease_s: float,
        epoch: int,
        watched: Iterable[int],
        now_s: float,
        beside: Callable[[Touch], list[int]] = lambda touch: [],
    ):
        self._lease_s, self._beside = lease_s + GRACE_S, beside
        self._epochs = count(epoch)
        self._watchers: dict[int, _Watcher] = {}
        self._latest: dict[int, int] = {}
        self._holders: dict[int, set[int]] = {}
        self._changing: Counter[int] = Counter()
        self._telling: set[int] = set()
        self._strangers = dict.fromkeys(watched, now_s + self._lease_s)

    # -- what sessions ask

    def watch(self, request: Watch, now_s: float) -> Watched | None:
        """What to answer at once; None: there is nothing to tell yet. OutOfSequence for one that a later one has
        overtaken: what it says of its epoch, and of what was dropped, is not so any more."""
        session = request.session
        self._check_latest(session, request.number)
        watcher = self._live(session, now_s)
        if watcher is None or watcher.epoch != request.epoch:
            return Watched(epoch=self._begin(session, now_s), void=True)
        self._strangers.pop(session, None)
        watcher.until_s = now_s + self._lease_s
        watcher.hear(request.heard)
        for ino in request.dropped:
            self._let_go(session, watcher, ino)
        if watcher.told or request.dropped:
            return self.news(session, watcher.epoch)
        self._telling.discard(session)
        return None

    def _check_latest(self, session: int, number: int) -> None:
        if number:
            latest = self._latest.get(session, 0)
            if number <= latest:
                raise errors.OutOfSequence(f"watch {number} of session {session}: {latest} has come before")
            self._latest[session] = number

    def news(self, session: int, epoch: int) -> Watched:
        """All that the session has not heard in this epoch; nothing if that has ended."""
        watcher = self._watchers.get(session)
        if watcher is None or watcher.epoch != epoch:
            return Watched(epoch=epoch)
        return Watched(epoch=epoch, number=watcher.number, events=[Broken(*touch) for touch in watcher.told])

    def promise(self, session: int, inos: Iterable[int], now_s: float) -> bool:
        """Promise all of these or none. The answer that says so is made before anything else happens."""
        watcher = self._live(session, now_s)
        if watcher is None or len(watcher.inos) >= PER_SESSION_MAX:
            return False
        if self._changing and any(ino in self._changing for ino in inos):
            return False
        for ino in inos:
            self._holders.setdefault(ino, set()).add(session)
            watcher.inos.add(ino)
            watcher.names.pop(ino, None)
        return True

    def gone(self, ino: int) -> None:
        """The inode is no more, which all who were promised something of it have heard."""
        for session in self._holders.pop(ino, ()):
            self._watchers[session].inos.discard(ino)

    def end(self, session: int) -> None:
        """The session has ended: it uses nothing any more."""
        self._forget(session)
        self._strangers.pop(session, None)
        self._latest.pop(session, None)

    # -- changes

    def concern_others(self, session: int) -> bool:
        """Can anybody but this session have been promised anything?"""
        return bool(self._strangers) or len(self._watchers) > (session in self._watchers)

    def tell(self, touches: list[Touch], by: int, now_s: float) -> Waits:
        """Tell all who were promised something of this, except who changes it; whom to wait for before the change is
        made. Who was told before, for the same change or another, may not have heard it. What touches nothing, as an
        open that reads, concerns nobody."""
        if not touches:
            return {}
        waits: Waits = dict.fromkeys(((session, 0) for session in self._strangers), 0)
        concerned = self._telling.union(*(self._holders.get(ino, ()) for ino, _ in touches))
        concerned.discard(by)
        for session in concerned:
            watcher = self._live(session, now_s)
            if watcher is not None:
                number = self._tell(session, watcher, touches)
                waits |= {(session, watcher.epoch): number} if number else {}
        return waits

    def _tell(self, session: int, watcher: _Watcher, touches: list[Touch]) -> int:
        """The number of the event that it is to hear; 0: none concerns it."""
        concerning = [touch for touch in touches if touch[0] in watcher.inos]
        for touch in concerning:
            self._tell_one(session, watcher, touch)
        for touch in touches:
            if concerning and touch[1] and watcher.is_tired_of(touch[0]):
                self._tell_folder(session, watcher, touch)
        return max((watcher.unheard(ino) for ino, _ in touches), default=0)

    def _tell_one(self, session: int, watcher: _Watcher, touch: Touch) -> None:
        watcher.tell(touch)
        self._telling.add(session)
        if not touch[1]:
            self._let_go(session, watcher, touch[0])

    def _tell_folder(self, session: int, watcher: _Watcher, touch: Touch) -> None:
        """All that it is promised of a folder, and of what follows a name there."""
        for ino in (touch[0], *self._beside(touch)):
            if ino in watcher.inos:
                self._tell_one(session, watcher, (ino, b""))

    def tell_all(self, now_s: float) -> None:
        """Everything may have changed; nobody is waited for."""
        for session in list(self._watchers):
            watcher = self._live(session, now_s)
            if watcher is not None:
                watcher.tell((EVERYTHING, b""))
                self._telling.add(session)
                for ino in list(watcher.inos):
                    self._let_go(session, watcher, ino)

    def waits_until(self, waits: Waits, now_s: float) -> float | None:
        """When to look again at the latest; None: all have heard, or cannot use what they were promised any more."""
        untils = (self._waits_until(*who, number, now_s) for who, number in waits.items())
        return min((until for until in untils if until is not None), default=None)

    def _waits_until(self, session: int, epoch: int, number: int, now_s: float) -> float | None:
        if not epoch:
            until_s = self._strangers.get(session)
            if until_s is not None and until_s <= now_s:
                del self._strangers[session]
                return None
            return until_s
        watcher = self._live(session, now_s)
        if watcher is None or watcher.epoch != epoch or watcher.heard >= number:
            return None
        return watcher.until_s

    @contextmanager
    def changing(self, touches: list[Touch]) -> Iterator[None]:
        """Nothing is promised about these meanwhile."""
        inos = [ino for ino, _ in touches]
        self._changing.update(inos)
        try:
            yield
        finally:
            self._changing.subtract(inos)
            for ino in inos:
                if not self._changing[ino]:
                    del self._changing[ino]

    # -- leases

    def _live(self, session: int, now_s: float) -> _Watcher | None:
        watcher = self._watchers.get(session)
        if watcher is not None and watcher.until_s <= now_s:
            self._forget(session)
            return None
        return watcher

    def _begin(self, session: int, now_s: float) -> int:
        self._forget(session)
        watcher = self._watchers[session] = _Watcher(next(self._epochs), now_s + self._lease_s)
        return watcher.epoch

    def _forget(self, session: int) -> None:
        watcher = self._watchers.pop(session, None)
        self._telling.discard(session)
        for ino in list(watcher.inos) if watcher is not None else ():
            self._let_go(session, watcher, ino)

    def _let_go(self, session: int, watcher: _Watcher, ino: int) -> None:
        watcher.inos.discard(ino)
        holders = self._holders.get(ino)
        if holders is not None:
            holders.discard(session)
            if not holders:
                del self._holders[ino]
