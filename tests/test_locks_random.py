"""The core of the lock service under random clients: honest ones that lapse, lose connections and see restarts. Some
watch: they are asked for locks that they hold, and give them back, or say that they use them."""

import random

import pytest

from dfsfuse import errors
from dfsfuse.messages import Acquire, Granted, HeldLock, ReleaseLocks, RenewLocks, WatchLocks
from servers.claims import TICKET_RETURN_S, Event, Grant, Refusal
from servers.locks import LOCK_LEASE_S, Locks, Phase
from servers.recalls import ANSWER_S

STEPS = 3000
SESSIONS, INOS = (1, 2, 3, 4), (1, 2, 3)
WATCHING = (1, 2)

Key = tuple[int, int]
"""A session and its ticket."""


class Clients:
    """What the clients know, and an account of each queue that is kept without asking the core.

    `queues`: who has arrived, in order. `listening`: whose connection is open. `absent`: until when the others may
    come back. `lapses_at`: when each session's lease ends. `unasserted`: who is to return after a restart. `impatient`:
    until when those are in the queue who do not wait. `used`: tokens of locks that go back when they are not used.
    """

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.now, self.start, self.ticket, self.last_token, self.grants = 100.0, 0, 0, 0, 0
        self.inode_of: dict[Key, int] = {}
        self.holder: dict[int, Key] = {}
        self.lapses_at: dict[int, float] = {}
        self.restart()

    def step(self) -> None:
        self.pass_time(self.random.choice((0, 0, 0, 0.01, 0.3, 1.1)))
        weights = {
            self.acquire: 8,
            self.release: 6,
            self.lose_connection: 3,
            self.come_back: 3,
            self.renew: 6,
            self.watch: 4,
            self.interrupt: 1,
            self.restart: 0.1,
        }
        (action,) = self.random.choices([*weights], [*weights.values()])
        action()
        self.check()

    # -- what clients do

    def acquire(self) -> None:
        self.ticket += 1
        key = self.random.choice(SESSIONS), self.ticket
        self.inode_of[key] = self.random.choice(INOS)
        self.send(key, self.random.choice((0, 0.5, 3, 30)))

    def come_back(self) -> None:
        if self.absent:
            self.send(self.random.choice(sorted(self.absent)), 5)

    def send(self, key: Key, wait_s: float) -> None:
        ino = self.inode_of[key]
        try:
            reply = self.locks.acquire(Acquire(session=key[0], ticket=key[1], ino=ino, wait_s=wait_s), self.now)
        except errors.WouldBlock:
            assert wait_s == 0, "it was to wait"
            assert self.locks.phase is not Phase.GRANTING or not self.may_come_at_once(ino, key[0]), "refused too early"
            return
        self.lapses_at[key[0]] = self.now + LOCK_LEASE_S
        if self.absent.pop(key, None) is None:
            self.queues[ino].append(key)
        self.listening.add(key)
        if wait_s == 0 and key not in self.impatient:
            self.impatient[key] = self.now + ANSWER_S
        if reply is not None:
            self.learn_of_grant(key, reply)

    def may_come_at_once(self, ino: int, session: int) -> bool:
        holder, token = self.holder.get(ino, (0, 0))
        kept = holder in WATCHING and holder != session and token not in self.used
        return not holder or kept and all(key in self.impatient for key in self.queues[ino])

    def watch(self) -> None:
        """The session is asked for what others want, and answers some of it."""
        session = self.random.choice(WATCHING)
        asked = self.asked(session)
        used = [lock for lock in asked if self.random.random() < 0.3]
        self.used |= {lock.token for lock in used}
        self.learn(self.locks.watch(WatchLocks(session=session, used=used), self.now)[1])
        for ino in {lock.ino for lock in used}:
            assert not self.impatient.keys() & {*self.queues[ino]}, "not told that it is used"
        returned = [lock for lock in asked if lock not in used and self.random.random() < 0.7]
        for lock in returned:
            del self.holder[lock.ino]
        self.learn(self.locks.release(ReleaseLocks(session, returned), self.now))

    def asked(self, session: int) -> list[HeldLock]:
        asked, events = self.locks.watch(WatchLocks(session=session), self.now)
        pairs = {(lock.ino, lock.token) for lock in asked}
        held = {(ino, token) for ino, (holder, token) in self.holder.items() if holder == session}
        unused = {(ino, token) for ino, token in held if token not in self.used}
        wanted = {pair for pair in unused if any(key[0] != session for key in self.listening & {*self.queues[pair[0]]})}
        assert events == []
        assert wanted <= pairs <= unused or self.locks.phase is not Phase.GRANTING
        return asked

    def lose_connection(self) -> None:
        if self.listening:
            key = self.random.choice(sorted(self.listening))
            self.listening.remove(key)
            self.absent[key] = self.now + TICKET_RETURN_S
            self.locks.withdraw(*key, self.now)

    def interrupt(self) -> None:
        """A program stops waiting; the client says so in a renewal, before the connection's end is noticed."""
        if self.listening:
            key = self.random.choice(sorted(self.listening))
            self.leave(key)
            self.renew(key[0])

    def release(self) -> None:
        if self.holder:
            ino, (session, token) = self.random.choice(sorted(self.holder.items()))
            del self.holder[ino]
            self.learn(self.locks.release(ReleaseLocks(session, [HeldLock(ino, token)]), self.now))

    def renew(self, session: int = 0) -> None:
        session = session or self.random.choice(SESSIONS)
        held = [HeldLock(ino, token, b"/again") for ino, (holder, token) in self.holder.items() if holder == session]
        waiting = [ticket for number, ticket in self.listening | self.absent.keys() if number == session]
        request = RenewLocks(
            session=session, held=held, waiting=waiting, last_ticket=self.ticket, watches=session in WATCHING
        )
        reply, events = self.locks.renew(request, self.now)
        assert reply.lost == [], "lost although the lease was kept"
        self.lapses_at[session] = self.now + LOCK_LEASE_S
        self.unasserted.discard(session)
        self.learn(events)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.learn(self.locks.tick(self.now))

    def restart(self) -> None:
        """The service forgets everything, and all connections break: their tickets are new to it."""
        self.start += 1
        self.locks = Locks()
        self.queues: dict[int, list[Key]] = {ino: [] for ino in INOS}
        self.listening: set[Key] = set()
        self.absent: dict[Key, float] = {}
        self.unasserted = set(SESSIONS)
        self.impatient: dict[Key, float] = {}
        self.used: set[int] = set()
        self.learn(self.locks.begin(self.start, SESSIONS, self.now))
        for session in WATCHING:
            assert self.asked(session) == []

    # -- what they learn

    def learn(self, events: list[Event]) -> None:
        """What the clock says comes first: a grant may be its consequence."""
        lapsed = {session for session, lapses_at in self.lapses_at.items() if lapses_at <= self.now}
        if self.locks.phase is Phase.GRANTING:
            lapsed |= self.unasserted
            self.unasserted = set()
        self.holder = {ino: held for ino, held in self.holder.items() if held[0] not in lapsed}
        for key in [key for key, until in self.absent.items() if until <= self.now]:
            self.leave(key)
        for event in events:
            if isinstance(event, Refusal) and (event.session, event.ticket) in self.listening | self.absent.keys():
                self.leave((event.session, event.ticket))
        for event in events:
            if isinstance(event, Grant):
                self.learn_of_grant((event.session, event.ticket), event.granted)

    def leave(self, key: Key) -> None:
        self.queues[self.inode_of[key]].remove(key)
        self.listening.discard(key)
        self.absent.pop(key, None)
        self.impatient.pop(key, None)

    def learn_of_grant(self, key: Key, granted: Granted) -> None:
        ino, token = self.inode_of[key], granted.token
        assert self.locks.phase is Phase.GRANTING, "granted although sessions are still to return"
        assert ino not in self.holder, "two holders"
        assert token > self.last_token, "a token that is not larger than all before"
        assert key == next(other for other in self.queues[ino] if other in self.listening), "not the first who listens"
        self.leave(key)
        patient = [other for other in self.queues[ino] if other not in self.impatient]
        assert granted.wanted or not any(other[0] != key[0] for other in patient), "it does not know who else waits"
        self.used |= {token} if granted.wanted else set()
        self.holder[ino], self.last_token = (key[0], token), token
        self.grants += 1

    def check(self) -> None:
        """The core's own account says the same, and nobody listens at a free lock."""
        rows = {row.ino: row for row in self.locks.list_locks(self.now).locks}
        for ino in INOS:
            row, queue = rows.get(ino), self.queues[ino]
            assert all(self.impatient[key] > self.now for key in queue if key in self.impatient), "an answer is overdue"
            assert [waiter.session for waiter in (row.waiters if row else [])] == [session for session, _ in queue]
            if self.locks.phase is Phase.GRANTING:
                assert self.holder.get(ino) == ((row.session, row.token) if row and row.token else None)
                assert ino in self.holder or not self.listening & {*queue}, "free, and yet waited for"
        assert self.locks.next_deadline() > self.now, "something is overdue"


@pytest.mark.parametrize("seed", range(12))
def test_s5_s6_s7_hold_in_any_sequence(seed):
    """Goal: never two holders, tokens that only rise, first come first served among those who listen.

    Method: thousands of random steps, compared after each with an account of arrivals. The seed replays a run exactly.
    """
    clients = Clients(seed)
    for _ in range(STEPS):
        clients.step()
    assert clients.grants > STEPS / 20
