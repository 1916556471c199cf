"""The core of the range locks under random clients, against an account of every byte that is kept without asking it."""

import random

import pytest

from dfsfuse import errors
from dfsfuse.messages import RANGE_END, HeldRanges, LockRange, Range, RangeGranted, RenewLocks, UnlockRange
from servers.claims import LOCK_LEASE_S, TICKET_RETURN_S
from servers.range_claims import RangeEvent
from servers.range_locks import RangeLocks

STEPS = 1500
SESSIONS, OWNERS, INOS, BYTES = (1, 2, 3), (1, 2), (1, 2), 8
KINDS = ("posix", "posix", "posix", "flock")

Owner = tuple[int, int]
Ticket = tuple[int, int]


class Asked:
    """A request that waits. `here`: its connection is open; else until when it may come back."""

    def __init__(self, request: LockRange):
        self.request, self.here, self.returns_by = request, True, 0.0
        self.owner: Owner = (request.session, request.owner)
        self.place = request.ino, request.kind
        self.bytes = range(min(request.start, BYTES), min(request.end, BYTES))

    def excludes(self, other: "Asked") -> bool:
        both = self.owner != other.owner and self.place == other.place and set(self.bytes) & set(other.bytes)
        return bool(both) and (self.request.write or other.request.write)


class Account:
    """Who has which byte of which file (with BYTES bytes; a flock has all), and who waits, in the order of arrival."""

    def __init__(self) -> None:
        self.bytes: dict[tuple[int, str], list[dict[Owner, bool]]] = {}
        self.waiting: dict[Ticket, Asked] = {}

    def of(self, place: tuple[int, str]) -> list[dict[Owner, bool]]:
        return self.bytes.setdefault(place, [{} for _ in range(BYTES)])

    def in_the_way(self, asked: Asked) -> set[Owner]:
        found = (self.of(asked.place)[at].items() for at in asked.bytes)
        return {o for pairs in found for o, write in pairs if o != asked.owner and (write or asked.request.write)}

    def has_locks(self, owner: Owner) -> bool:
        return any(owner in held for held in sum(self.bytes.values(), []))

    def must_stay_behind(self, asked: Asked, ahead: list[Asked]) -> bool:
        return not self.has_locks(asked.owner) and any(other.here and other.excludes(asked) for other in ahead)

    def set(self, place: tuple[int, str], owner: Owner, bytes_: range, write: bool | None) -> None:
        for at in bytes_:
            self.of(place)[at].pop(owner, None)
            if write is not None:
                self.of(place)[at][owner] = write

    def drop(self, session: int) -> None:
        for held in sum(self.bytes.values(), []):
            for owner in [owner for owner in held if owner[0] == session]:
                del held[owner]

    def ranges(self, place: tuple[int, str], owner: Owner) -> list[Range]:
        found: list[Range] = []
        for at, held in enumerate(self.of(place)):
            if owner in held:
                start = found.pop()[0] if found and found[-1][1:] == (at, held[owner]) else at
                found.append((start, at + 1, held[owner]))
        if place[1] == "flock":
            return [(0, RANGE_END, write) for _, _, write in found]
        return found

    def waits_for_itself(self, start: Owner) -> bool:
        """Brute force: everybody whom `start` waits for through POSIX locks."""
        reached: set[Owner] = set()
        while True:
            posix = [asked for asked in self.waiting.values() if asked.request.kind == "posix"]
            mine = [asked for asked in posix if asked.owner in reached | {start}]
            more = set().union(*(self.in_the_way(asked) for asked in mine)) if mine else set()
            if more <= reached:
                return start in reached
            reached |= more


class Clients:
    """Honest clients that lapse, lose connections, interrupt their programs and see restarts."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.now, self.ticket = 100.0, 0
        self.account = Account()
        self.lapses_at: dict[int, float] = {}
        self.core, self.unasserted, self.resumes_at = RangeLocks(), set[int](), 0.0
        self.learn(self.core.begin((), self.now))
        self.seen = {"granted": 0, "waited": 0, "circles": 0, "lapses": 0}

    def step(self) -> None:
        self.pass_time(self.random.choice((0, 0, 0, 0.01, 0.3, 1.1)))
        weights = {
            self.lock: 12, self.unlock: 6, self.lose_connection: 2, self.come_back: 2, self.renew: 5,
            self.interrupt: 1, self.restart: 0.1, self.end: 0.2,
        }  # fmt: skip
        (action,) = self.random.choices([*weights], [*weights.values()])
        action()
        self.check()

    # -- what clients do

    def lock(self) -> None:
        self.ticket += 1
        kind = self.random.choice(KINDS)
        start, end = sorted(self.random.sample(range(BYTES + 1), 2)) if kind == "posix" else (0, RANGE_END)
        owner = self.random.choice(OWNERS)
        asked = Asked(LockRange(
            session=self.random.choice(SESSIONS), ino=self.random.choice(INOS), owner=owner, pid=owner, kind=kind,
            ticket=self.ticket, start=start, end=end, write=self.random.random() < 0.6,
            wait_s=self.random.choice((0, 0, 3, 1000)), fair=self.random.random() < 0.2,
        ))  # fmt: skip
        self.send(asked)

    def send(self, asked: Asked) -> None:
        request, key = asked.request, (asked.request.session, asked.request.ticket)
        blocked, behind = self.account.in_the_way(asked), self.stays_behind(asked)
        self.lapses_at[request.session] = self.now + LOCK_LEASE_S
        try:
            reply, events = self.core.lock(request, self.now)
        except errors.WouldBlock:
            assert not request.wait_s, "it was to wait"
            assert blocked or (behind and request.fair), "refused although it is free"
            return
        except errors.Starting:
            assert self.unasserted, "all have returned"
            assert not request.wait_s
            return
        except errors.Deadlock:
            self.account.waiting[key] = asked
            assert self.account.waits_for_itself(asked.owner), "refused although nobody waits for it"
            del self.account.waiting[key]
            self.seen["circles"] += 1
            return
        if reply is None:
            assert blocked or behind or self.unasserted, "waits although it is free"
            self.account.waiting[key] = asked
            self.seen["waited"] += 1
            if not self.unasserted and request.kind == "posix":
                assert not self.account.waits_for_itself(asked.owner), "waits for itself"
        else:
            self.learn_of_grant(asked)
        self.learn(events)

    def stays_behind(self, asked: Asked) -> bool:
        others = [other for other in self.account.waiting.values() if other is not asked]
        return bool(asked.request.wait_s or asked.request.fair) and self.account.must_stay_behind(asked, others)

    def unlock(self) -> None:
        self.ticket += 1
        session, owner, ino = (self.random.choice(one) for one in (SESSIONS, OWNERS, INOS))
        kind = self.random.choice(KINDS)
        start, end = sorted(self.random.sample(range(BYTES + 1), 2)) if kind == "posix" else (0, RANGE_END)
        if self.random.random() < 0.3:
            start, end = 0, RANGE_END
        request = UnlockRange(
            session=session, ino=ino, owner=owner, kind=kind, ticket=self.ticket, start=start, end=end
        )
        self.account.set((ino, kind), (session, owner), range(start, min(end, BYTES)), None)
        self.lapses_at[session] = self.now + LOCK_LEASE_S
        self.learn(self.core.unlock(request, self.now))

    def lose_connection(self) -> None:
        here = [key for key, asked in self.account.waiting.items() if asked.here]
        if here:
            key = self.random.choice(here)
            asked = self.account.waiting[key]
            asked.here, asked.returns_by = False, self.now + TICKET_RETURN_S
            self.learn(self.core.withdraw(*key, self.now))

    def come_back(self) -> None:
        away = [asked for asked in self.account.waiting.values() if not asked.here]
        if not away:
            return
        asked = self.random.choice(away)
        asked.here, self.lapses_at[asked.request.session] = True, self.now + LOCK_LEASE_S
        reply, events = self.core.lock(asked.request, self.now)
        key = asked.request.session, asked.request.ticket
        assert (reply is None) == (key not in [event[:2] for event in events])
        self.learn(events)

    def interrupt(self) -> None:
        """A program stops waiting; its client says so in a renewal."""
        if self.account.waiting:
            key = self.random.choice([*self.account.waiting])
            del self.account.waiting[key]
            self.renew(key[0])

    def renew(self, session: int = 0) -> None:
        session = session or self.random.choice(SESSIONS)
        rows = [
            HeldRanges(ino=ino, owner=owner, kind=kind, ranges=ranges, pid=owner)
            for ino in INOS for owner in OWNERS for kind in ("posix", "flock")
            if (ranges := self.account.ranges((ino, kind), (session, owner)))
        ]  # fmt: skip
        waiting = [ticket for number, ticket in self.account.waiting if number == session]
        request = RenewLocks(session=session, ranges=rows, waiting=waiting, last_ticket=self.ticket)
        self.lapses_at[session] = self.now + LOCK_LEASE_S
        self.unasserted.discard(session)
        lost, events = self.core.renew(request, self.now)
        assert lost == [], "lost although the lease was kept"
        self.learn(events)

    def end(self) -> None:
        """And another client comes, which has the number of the former for the sake of this account."""
        session = self.random.choice(SESSIONS)
        self.forget(session)
        events = self.core.end(session, self.now)
        self.core._leases._ended.clear()
        self.learn(events)

    def forget(self, session: int) -> None:
        self.account.drop(session)
        for key in [key for key in self.account.waiting if key[0] == session]:
            del self.account.waiting[key]
        self.lapses_at.pop(session, None)
        self.unasserted.discard(session)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        lapsed = {session for session, lapses_at in self.lapses_at.items() if lapses_at <= self.now}
        for session in lapsed:
            self.seen["lapses"] += 1
            self.forget(session)
        if self.resumes_at <= self.now:
            for session in self.unasserted:
                self.account.drop(session)
            self.unasserted = set()
        for key, asked in [*self.account.waiting.items()]:
            if not asked.here and asked.returns_by <= self.now:
                del self.account.waiting[key]
        self.learn(self.core.tick(self.now))

    def restart(self) -> None:
        """The service forgets everything, and all connections break: their requests are new to it."""
        self.core = RangeLocks()
        self.account.waiting.clear()
        self.unasserted = {session for session in SESSIONS if session in self.lapses_at}
        for session in self.unasserted:
            self.lapses_at[session] = self.now + LOCK_LEASE_S
        self.resumes_at = self.now + LOCK_LEASE_S
        self.learn(self.core.begin([*self.unasserted], self.now))

    # -- what they learn

    def learn(self, events: list[RangeEvent]) -> None:
        for event in events:
            asked = self.account.waiting.pop((event.session, event.ticket), None)
            if isinstance(event.outcome, RangeGranted):
                assert asked is not None, "granted to nobody"
                self.learn_of_grant(asked)
            elif isinstance(event.outcome, errors.Deadlock):
                self.account.waiting[event.session, event.ticket] = asked
                assert self.account.waits_for_itself(asked.owner), "refused although nobody waits for it"
                del self.account.waiting[event.session, event.ticket]
                self.seen["circles"] += 1

    def learn_of_grant(self, asked: Asked) -> None:
        assert not self.unasserted, "granted although sessions are still to return"
        assert not self.account.in_the_way(asked), "granted although somebody's lock is in the way"
        earlier = [a for a in self.account.waiting.values() if a.request.ticket < asked.request.ticket]
        if asked.request.wait_s:
            assert not self.account.must_stay_behind(asked, earlier), "granted before somebody who came earlier"
        self.account.set(asked.place, asked.owner, asked.bytes, asked.request.write)
        self.seen["granted"] += 1

    def check(self) -> None:
        """The core's own account says the same, and nobody waits for what is free."""
        rows = {}
        for row in self.core.rows(1000, self.now):
            rows.update({((row.ino, h.kind), (h.session, h.pid)): h.ranges for h in row.holders})
        places = [(ino, kind) for ino in INOS for kind in ("posix", "flock")]
        owners = [(session, owner) for session in SESSIONS for owner in OWNERS]
        wanted = {(place, owner): self.account.ranges(place, owner) for place in places for owner in owners}
        known = {key: ranges for key, ranges in wanted.items() if ranges and key[1][0] not in self.unasserted}
        assert rows == known
        if not self.unasserted:
            self.check_waiters()
        assert self.core.next_deadline() > self.now, "something is overdue"

    def check_waiters(self) -> None:
        ahead: list[Asked] = []
        for asked in self.account.waiting.values():
            if asked.here:
                assert self.account.in_the_way(asked) or self.account.must_stay_behind(asked, ahead), (
                    "free, yet waiting"
                )
                ahead.append(asked)


@pytest.mark.parametrize("seed", range(24))
def test_s7_range_locks_hold_in_any_sequence(seed):
    """Goal: locks that exclude each other are never held at once, first come first served, EDEADLK exactly where a
    circle closes, nothing kept of dead clients and nothing lost of living ones.

    Method: thousands of random steps, compared after each with an account of every byte. The seed replays a run.
    """
    clients = Clients(seed)
    for _ in range(STEPS):
        clients.step()
    assert clients.seen["granted"] > STEPS / 20
    assert clients.seen["waited"] > STEPS / 50
    assert clients.seen["circles"] > 0
