"""The core of the range locks: every rule as a sequence of calls with an invented clock; no sockets, no sleep."""

import math

import pytest

from dfsfuse import errors
from dfsfuse.messages import (
    RANGE_END,
    HeldRanges,
    LockRange,
    LostRanges,
    ProbeRange,
    Range,
    RangeGranted,
    RenewLocks,
    UnlockRange,
    UseFile,
    from_msgpack,
    to_msgpack,
)
from servers import range_claims
from servers.claims import LOCK_LEASE_S, TICKET_RETURN_S
from servers.range_claims import RangeEvent
from servers.range_locks import RangeLocks

INO = 7


class Table:
    """Range locks with a clock that tests move; every call does first what is due, as the service does."""

    def __init__(self, sessions=(), begun: bool = True):
        self.now, self.ticket, self.core = 100.0, 0, RangeLocks()
        if begun:
            self.core.begin(sessions, self.now)

    def next_ticket(self) -> int:
        self.ticket += 1
        return self.ticket

    def lock(self, session: int, start: int = 0, end: int = RANGE_END, **what) -> RangeGranted | None:
        """The owner is 1, the process the owner's, and the ticket the next one, unless told."""
        what = {"owner": 1, "ticket": what.get("ticket") or self.next_ticket(), "ino": INO, **what}
        what.setdefault("pid", what["owner"])
        reply, self.events = self.core.lock(LockRange(session=session, start=start, end=end, **what), self.now)
        return reply

    def waits(self, session: int, start: int = 0, end: int = RANGE_END, **what) -> int:
        """The ticket with which it waits."""
        assert self.lock(session, start, end, **{"wait_s": 1000.0, **what}) is None
        return what.get("ticket", self.ticket)

    def unlock(self, session: int, start: int = 0, end: int = RANGE_END, **what) -> list[RangeEvent]:
        what = {"owner": 1, "ticket": what.get("ticket") or self.next_ticket(), "ino": INO, **what}
        return self.core.unlock(UnlockRange(session=session, start=start, end=end, **what), self.now)

    def probe(self, session: int, start: int = 0, end: int = RANGE_END, **what):
        return self.core.probe(
            ProbeRange(session=session, start=start, end=end, **{"owner": 1, "ino": INO, **what}), self.now
        )

    def renew(
        self, session: int, *rows: HeldRanges, waiting=(), last_ticket: int | None = None, using=(INO,)
    ) -> tuple[list[LostRanges], list[RangeEvent]]:
        """By default the client knows of everything that was answered."""
        last = self.ticket if last_ticket is None else last_ticket
        request = RenewLocks(
            session=session, ranges=list(rows), waiting=list(waiting), last_ticket=last, using=list(using)
        )
        return self.core.renew(request, self.now)

    def sleep(self, seconds: float, alive=()) -> list[RangeEvent]:
        """What happens meanwhile, at each deadline of the core. Sessions in `alive` keep their lease."""
        seen, until = [], self.now + seconds
        while self.now < until:
            self.now = min(until, self.core.next_deadline(), self.now + 1)
            for number in alive:
                self.core._leases.renewed(number, self.now)
            seen += self.core.tick(self.now)
        return seen

    def held(self, session: int, owner: int = 1, kind: str = "posix", ino: int = INO) -> list[Range]:
        rows = [row for row in self.core.rows(1000, self.now) if row.ino == ino]
        found = [h for row in rows for h in row.holders if (h.session, h.kind) == (session, kind) and h.pid == owner]
        return found[0].ranges if found else []

    def waiters(self, ino: int = INO) -> list[int]:
        return [w.session for row in self.core.rows(1000, self.now) if row.ino == ino for w in row.waiters]


def mine(*ranges: Range, owner: int = 1, ino: int = INO, kind: str = "posix") -> HeldRanges:
    return HeldRanges(ino=ino, owner=owner, kind=kind, ranges=list(ranges))


def granted(events: list[RangeEvent]) -> list[tuple[int, int]]:
    return [(event.session, event.ticket) for event in events if isinstance(event.outcome, RangeGranted)]


def refused(events: list[RangeEvent]) -> dict[int, type]:
    return {event.ticket: type(event.outcome) for event in events if not isinstance(event.outcome, RangeGranted)}


# -- who excludes whom


def test_readers_share_and_a_writer_excludes():
    """Goal: shared locks go together, also over sessions; a lock for writing goes with nobody's."""
    table = Table()
    assert table.lock(1, 0, 10, write=False)
    assert table.lock(2, 5, 15, write=False)
    with pytest.raises(errors.WouldBlock):
        table.lock(3, 9, 10)
    assert table.lock(3, 15, 20)
    with pytest.raises(errors.WouldBlock):
        table.lock(1, 0, 16, write=False)
    assert table.held(1) == [(0, 10, False)], "what was refused has changed nothing"


def test_an_owner_replaces_what_it_has():
    """Goal: as POSIX says: a lock of the same owner splits, replaces and merges with what is there."""
    table = Table()
    table.lock(1, 0, 10)
    table.lock(1, 2, 4, write=False)
    assert table.held(1) == [(0, 2, True), (2, 4, False), (4, 10, True)]
    table.lock(1, 2, 4)
    assert table.held(1) == [(0, 10, True)]
    table.unlock(1, 3, 5)
    assert table.held(1) == [(0, 3, True), (5, 10, True)]
    table.unlock(1)
    assert table.held(1) == []


def test_owners_of_one_session_exclude_each_other():
    """Goal: processes of one mount are as far apart as those of two."""
    table = Table()
    table.lock(1, 0, 10, owner=1)
    with pytest.raises(errors.WouldBlock):
        table.lock(1, 0, 10, owner=2)


def test_the_same_owner_number_of_another_session_is_another_owner():
    """Goal: numbers of owners are the session's own."""
    table = Table()
    table.lock(1, 0, 10, owner=5)
    with pytest.raises(errors.WouldBlock):
        table.lock(2, 0, 10, owner=5)


def test_flock_and_fcntl_know_nothing_of_each_other():
    """Goal: as on Linux. Open file descriptions' locks and those of processes exclude each other."""
    table = Table()
    table.lock(1, kind="posix")
    assert table.lock(2, kind="flock")
    with pytest.raises(errors.WouldBlock):
        table.lock(3, kind="ofd")
    with pytest.raises(errors.WouldBlock):
        table.lock(3, kind="flock")


def test_files_know_nothing_of_each_other():
    """Goal: each inode has its own locks."""
    table = Table()
    table.lock(1, ino=7)
    assert table.lock(2, ino=8)


@pytest.mark.parametrize("fault", [
    {"start": 5, "end": 5}, {"start": 6, "end": 5}, {"start": -1}, {"end": RANGE_END + 1}, {"owner": -1},
    {"ino": 0}, {"wait_s": -1.0}, {"wait_s": math.nan}, {"ticket": -1}, {"pid": -1}, {"owner": 1 << 64},
])  # fmt: skip
def test_what_makes_no_sense_is_refused(fault: dict):
    """Goal: bad numbers change nothing."""
    table = Table()
    with pytest.raises(errors.InvalidArgument):
        table.lock(1, **fault)
    assert table.core.rows(10, table.now) == []


# -- asking


def test_probe_tells_the_first_lock_in_the_way():
    """Goal: F_GETLK: whose, where, of which type; and nothing where the lock would be granted."""
    table = Table()
    table.lock(2, 20, 30, write=False, pid=22, host="b")
    table.lock(3, 10, 15, pid=33, host="c")
    found = table.probe(1, 0, 100)
    assert (found.taken, found.session, found.start, found.end, found.write) == (True, 3, 10, 15, True)
    assert (found.pid, found.host) == (33, "c")
    assert table.probe(1, 16, 100).start == 20
    assert not table.probe(1, 16, 100, write=False).taken
    assert not table.probe(1, 15, 20).taken
    assert not table.probe(3, 10, 15).taken, "one's own"


def test_who_else_uses_a_file():
    """Goal: a session learns whether others use locks on the file too, also where none are held at the moment."""
    table = Table()
    assert not table.lock(1, 0, 1).elsewhere
    assert table.lock(2, 5, 6).elsewhere
    table.unlock(1)
    assert table.core.use(UseFile(session=2, ino=INO, ticket=table.next_ticket()), table.now)
    table.renew(1, using=())
    assert not table.core.use(UseFile(session=2, ino=INO, ticket=table.next_ticket()), table.now)


def test_a_use_that_a_renewal_cannot_know_of_stays():
    """Goal: the renewal was sent before the request that told of the use."""
    table = Table()
    ticket = table.next_ticket()
    table.core.use(UseFile(session=1, ino=INO, ticket=ticket), table.now)
    table.renew(1, using=(), last_ticket=ticket - 1)
    assert table.lock(2, 0, 1).elsewhere
    table.renew(1, using=(), waiting=[ticket])
    assert table.lock(2, 1, 2).elsewhere
    table.renew(1, using=())
    assert not table.lock(2, 2, 3).elsewhere


# -- waiting


def test_waiters_are_served_in_their_order():
    """Goal: first come, first served among those who exclude each other; others pass."""
    table = Table()
    table.lock(1, 0, 10)
    second, third, fourth = table.waits(2, 0, 10), table.waits(3, 5, 15), table.waits(4, 12, 14)
    assert granted(table.unlock(1)) == [(2, second)]
    assert granted(table.unlock(2)) == [(3, third)]
    assert granted(table.unlock(3)) == [(4, fourth)]


def test_readers_do_not_starve_a_writer():
    """Goal: who comes after a waiting writer, and waits, is served after him."""
    table = Table()
    table.lock(1, write=False)
    writer, reader = table.waits(2), table.waits(3, write=False)
    assert granted(table.unlock(1)) == [(2, writer)]
    assert granted(table.unlock(2)) == [(3, reader)]


def test_who_does_not_wait_heeds_holders_alone():
    """Goal: F_SETLK fails because of locks, never because of those who wait; with `fair` it stays behind them."""
    table = Table()
    table.lock(1, write=False)
    table.waits(2)
    assert table.lock(3, write=False)
    with pytest.raises(errors.WouldBlock, match="others wait"):
        table.lock(4, write=False, fair=True)


def test_a_process_with_other_locks_passes_those_who_wait():
    """Goal: it may have what the others wait for; holding it back could make both wait for ever."""
    table = Table()
    table.lock(1, write=False)
    table.lock(3, ino=8, owner=30, pid=3)
    writer = table.waits(2)
    assert table.lock(3, write=False, owner=31, pid=3, wait_s=100.0)
    table.waits(4, write=False)
    table.unlock(1)
    assert granted(table.unlock(3, owner=31)) == [(2, writer)]


def test_a_weaker_lock_serves_those_who_wait():
    """Goal: from writing to reading, readers get in; also where it is itself granted after a wait."""
    table = Table()
    table.lock(1, 0, 10)
    reader = table.waits(2, 0, 5, write=False)
    assert table.lock(1, 0, 10, write=False)
    assert granted(table.events) == [(2, reader)]
    table.unlock(2)
    table.lock(1, 0, 5)
    table.lock(3, 5, 10, write=False)
    table.lock(1, 5, 6, write=False)
    reader, mixed = table.waits(2, 0, 5, write=False), table.waits(1, 6, 20, ticket=900)
    assert granted(table.unlock(3)) == [(1, mixed)]
    whole = table.waits(4, 10, 30, ticket=901)
    assert granted(table.unlock(1, 0, 20)) == [(2, reader), (4, whole)]


def test_waits_end():
    """Goal: WouldBlock when the wait is over, and the place is free for those behind."""
    table = Table()
    table.lock(1, write=False)
    writer, reader = table.waits(2, wait_s=3.0), table.waits(3, write=False)
    events = table.sleep(3.5, alive=(1, 2, 3))
    assert refused(events) == {writer: errors.WouldBlock}
    assert granted(events) == [(3, reader)]
    assert table.core.next_deadline() > table.now


def test_closed_connection_and_return():
    """Goal: who comes back in time has his place and gets what was free meanwhile; others have passed him."""
    table = Table()
    table.lock(1, 0, 10)
    second, third = table.waits(2, 0, 10), table.waits(3, 0, 5, write=False)
    table.core.withdraw(2, second, table.now)
    assert granted(table.unlock(1)) == [(3, third)]
    assert table.waiters() == [2]
    assert table.lock(2, 0, 10, ticket=second, wait_s=1000.0) is None
    assert granted(table.unlock(3)) == [(2, second)]
    table.core.withdraw(2, second, table.now)
    assert table.held(2) == [(0, 10, True)], "what was granted stays"
    fourth = table.waits(4, 0, 10)
    table.core.withdraw(4, fourth, table.now)
    table.unlock(2)
    assert table.lock(4, 0, 10, ticket=fourth, wait_s=1000.0)


def test_who_does_not_come_back_is_forgotten():
    """Goal: the place is kept for TICKET_RETURN_S."""
    table = Table()
    table.lock(1)
    second = table.waits(2)
    table.core.withdraw(2, second, table.now)
    table.sleep(TICKET_RETURN_S - 0.1, alive=(1, 2))
    assert table.waiters() == [2]
    table.sleep(0.2, alive=(1, 2))
    assert table.waiters() == []


def test_a_repeated_request_is_executed_once():
    """Goal: a lock or an unlock that arrives again, after others, changes nothing."""
    table = Table()
    table.lock(1, ticket=11)
    table.unlock(1, ticket=12)
    assert table.lock(2, ticket=5)
    assert table.lock(1, ticket=11), "it was granted"
    assert table.held(1) == []
    table.unlock(2, ticket=6)
    table.lock(2, ticket=7)
    table.unlock(2, ticket=6)
    assert table.held(2) == [(0, RANGE_END, True)]


def test_tickets_that_were_given_up():
    """Goal: a late request whose ticket a renewal has given up is not executed; one that waits is refused."""
    table = Table()
    table.lock(1)
    waiting = table.waits(2)
    _, events = table.renew(2, last_ticket=waiting)
    assert refused(events) == {waiting: errors.Interrupted}
    with pytest.raises(errors.OutOfSequence):
        table.lock(2, ticket=waiting, wait_s=5.0)


# -- circles


def test_two_processes_that_wait_for_each_other():
    """Goal: EDEADLK for the one that closes the circle; the other gets its lock."""
    table = Table()
    table.lock(1, 0, 1)
    table.lock(2, 1, 2)
    waiting = table.waits(1, 1, 2)
    with pytest.raises(errors.Deadlock):
        table.lock(2, 0, 1, wait_s=10.0)
    assert granted(table.unlock(2)) == [(1, waiting)]


def test_two_readers_that_want_to_write():
    """Goal: each waits for the other's shared lock: the second is refused."""
    table = Table()
    table.lock(1, write=False)
    table.lock(2, write=False)
    waiting = table.waits(1)
    with pytest.raises(errors.Deadlock):
        table.lock(2, wait_s=10.0)
    assert granted(table.unlock(2)) == [(1, waiting)]


def test_a_circle_over_files_and_sessions():
    """Goal: three sessions, three files."""
    table = Table()
    for number in (1, 2, 3):
        table.lock(number, ino=number)
    table.waits(1, ino=2)
    table.waits(2, ino=3)
    with pytest.raises(errors.Deadlock):
        table.lock(3, ino=1, wait_s=10.0)
    assert table.lock(3, ino=4, wait_s=10.0)


@pytest.mark.parametrize("kind", ["ofd", "flock"])
def test_only_posix_locks_are_searched_for_circles(kind: str):
    """Goal: as on Linux, where others wait for ever."""
    table = Table()
    table.lock(1, ino=1, kind=kind)
    table.lock(2, ino=2, kind=kind)
    table.waits(1, ino=2, kind=kind)
    table.waits(2, ino=1, kind=kind)


def test_a_grant_to_a_process_with_threads_closes_a_circle():
    """Goal: B waits with two threads; when it gets what A waits for too, A waits for B and B for A: A is refused."""
    table = Table()
    table.lock(1, 0, 1)
    table.lock(3, 5, 6)
    first, second = table.waits(2, 5, 6), table.waits(2, 0, 1)
    waiting = table.waits(1, 5, 6)
    events = table.unlock(3)
    assert granted(events) == [(2, first)]
    assert refused(events) == {waiting: errors.Deadlock}
    assert granted(table.unlock(1)) == [(2, second)]


# -- sessions


def test_a_silent_session_loses_all_after_one_lease():
    """Goal: S7 for range locks."""
    table = Table()
    table.lock(1, 0, 10)
    table.lock(1, kind="flock")
    gone, waiting, other = table.waits(1, 5, 6, owner=2), table.waits(2, 0, 10), table.waits(2, kind="flock")
    events = table.sleep(LOCK_LEASE_S + 0.1, alive=(2,))
    assert granted(events) == [(2, waiting), (2, other)]
    assert refused(events) == {gone: errors.Busy}


def test_nothing_is_handed_from_one_lapsed_session_to_another():
    """Goal: both lapse at the same moment; the one that waited gets nothing."""
    table = Table()
    table.lock(1)
    table.waits(2)
    events = table.sleep(LOCK_LEASE_S + 0.1)
    assert granted(events) == []
    assert table.core.rows(10, table.now) == []


def test_the_end_of_a_session():
    """Goal: its locks are free at once, and it is refused from then on."""
    table = Table()
    table.lock(1)
    waiting = table.waits(2)
    assert granted(table.core.end(1, table.now)) == [(2, waiting)]
    for attempt in (table.lock, table.unlock, table.renew):
        with pytest.raises(errors.SessionEnded):
            attempt(1)


def test_renewals_keep_the_lease():
    """Goal: a session that renews keeps what it has."""
    table = Table()
    table.lock(1)
    for _ in range(20):
        table.sleep(1.0)
        assert table.renew(1, mine((0, RANGE_END, True))) == ([], [])
    assert table.held(1)


def test_a_grant_that_was_never_received_is_freed():
    """Goal: the client has given up waiting for the answer; what it had before is as it was."""
    table = Table()
    table.lock(1, 0, 10, write=False)
    table.lock(1, 5, 20)
    waiting = table.waits(2, 5, 20, write=False)
    lost, events = table.renew(1, mine((0, 10, False)))
    assert lost == []
    assert granted(events) == [(2, waiting)]
    assert table.held(1) == [(0, 10, False)]
    assert table.renew(1) == ([], [])
    assert table.held(1) == []


def test_what_a_renewal_could_not_know_is_left_alone():
    """Goal: a lock and an unlock that were executed after the renewal was put together."""
    table = Table()
    table.lock(1, 0, 10)
    before = table.ticket
    table.lock(1, 20, 30)
    assert table.renew(1, mine((0, 10, True)), last_ticket=before) == ([], [])
    assert table.held(1) == [(0, 10, True), (20, 30, True)]
    table.unlock(1)
    both = mine((0, 10, True), (20, 30, True))
    assert table.renew(1, both, last_ticket=table.ticket, waiting=[table.ticket]) == ([], [])
    assert table.renew(1) == ([], [])


def test_what_is_listed_and_not_held_is_lost():
    """Goal: a client that has slept through its lease is told, of each owner that has lost something."""
    table = Table()
    table.lock(1, 0, 10)
    table.lock(1, owner=2, kind="flock", pid=2)
    table.sleep(LOCK_LEASE_S + 0.1)
    table.lock(2, 5, 6)
    lost, _ = table.renew(1, mine((0, 10, True)), mine((0, RANGE_END, True), owner=2, kind="flock"))
    assert {(row.ino, row.owner, row.kind) for row in lost} == {(INO, 1, "posix"), (INO, 2, "flock")}
    assert table.held(1) == []
    table.unlock(2)
    assert table.lock(3, 0, 10)


# -- restart


def test_before_the_service_knows_its_sessions_nothing_is_granted():
    """Goal: STARTING and RETURNING: what does not wait is told to ask again, what waits waits."""
    table = Table(begun=False)
    with pytest.raises(errors.Starting):
        table.lock(1)
    waiting = table.waits(1)
    table.core.begin([2], table.now)
    with pytest.raises(errors.Starting):
        table.probe(1)
    with pytest.raises(errors.Starting):
        table.core.use(UseFile(session=1, ino=INO, ticket=table.next_ticket()), table.now)
    lost, events = table.renew(2)
    assert lost == []
    assert granted(events) == [(1, waiting)]


def test_holders_reassert_what_they_have():
    """Goal: after a restart nobody gets what another still has; what nobody claims is free."""
    table = Table(sessions=[1, 2])
    waiting, free = table.waits(3, 0, 10), table.waits(3, 50, 60, owner=9)
    assert table.renew(1, mine((0, 10, False)), mine((0, RANGE_END, True), kind="flock")) == ([], [])
    lost, events = table.renew(2, mine((5, 8, False), (100, 110, True)))
    assert lost == []
    assert granted(events) == [(3, free)]
    assert table.held(1, owner=0) == [(0, 10, False)]
    table.unlock(1)
    assert granted(table.unlock(2)) == [(3, waiting)]
    with pytest.raises(errors.WouldBlock):
        table.lock(2, kind="flock")


def test_two_that_claim_the_same():
    """Goal: the first keeps it, the other is told."""
    table = Table(sessions=[1, 2])
    assert table.renew(1, mine((0, 10, True)))[0] == []
    assert table.renew(2, mine((5, 6, False)))[0] == [LostRanges(INO, 1, "posix")]


def test_sessions_that_do_not_return_are_waited_for_one_lease():
    """Goal: then granting goes on without them, and what they had is free."""
    table = Table(sessions=[1])
    waiting = table.waits(2)
    assert granted(table.sleep(LOCK_LEASE_S - 0.1, alive=(2,))) == []
    assert granted(table.sleep(0.2, alive=(2,))) == [(2, waiting)]
    assert table.renew(1, mine((0, 1, True)))[0] == [LostRanges(INO, 1, "posix")]


def test_a_renewal_that_is_older_than_an_unlock_is_not_the_return():
    """Goal: the rest of what that owner has is re-asserted by the next renewal, and nobody gets it before."""
    table = Table(sessions=[1])
    waiting = table.waits(2)
    table.ticket = 10
    table.unlock(1, 0, 5, ticket=9)
    assert table.renew(1, mine((0, 10, True)), last_ticket=8) == ([], [])
    assert table.renew(1, mine((5, 10, True))) == ([], [])
    assert table.waiters() == [2]
    assert granted(table.unlock(1)) == [(2, waiting)]


def test_an_unlock_is_answered_while_sessions_return():
    """Goal: a program that ends is not kept waiting by a restart."""
    table = Table(sessions=[1, 2])
    table.renew(1, mine((0, 10, True)))
    assert table.unlock(1) == []
    assert table.held(1) == []


def test_waiters_have_their_places_again_after_a_restart():
    """Goal: in the order of before, whoever is back first; nothing is granted before all are."""
    table = Table(sessions=[1, 2, 3])
    table.waits(3, ticket=31, waited_s=5.0)
    table.renew(3, waiting=[31], last_ticket=31)

    def returns(session: int, ticket: int) -> list[RangeEvent]:
        request = RenewLocks(session=session, waiting=[ticket], last_ticket=ticket, queued_ranges=[ticket])
        return table.core.renew(request, table.now)[1]

    assert returns(1, 11) == returns(2, 21) == []
    table.waits(2, ticket=21, waited_s=10.0)
    assert table.sleep(1.0) == []
    table.waits(1, ticket=11, waited_s=8.0)
    assert table.waiters() == [2, 1, 3]
    assert granted(table.sleep(0.01)) == [(2, 21)]


# -- limits


def test_limits(monkeypatch):
    """Goal: NoLocks beyond so many ranges of a session or of a file, and beyond so many waiters; others go on."""
    monkeypatch.setattr(range_claims, "RANGES_MAX", 3)
    monkeypatch.setattr(range_claims, "FILE_RANGES_MAX", 4)
    table = Table()
    for number in range(3):
        table.lock(1, 10 * number, 10 * number + 1)
    with pytest.raises(errors.NoLocks):
        table.lock(1, 100, 101)
    assert table.lock(1, 0, 5), "no range more"
    table.unlock(1, 2, 3)
    assert len(table.held(1)) == 4, "unlocking is never refused"
    with pytest.raises(errors.NoLocks):
        table.lock(2, 200, 201)
    table.unlock(1)
    assert table.lock(2, 200, 201)


def test_a_waiter_that_would_have_too_many(monkeypatch):
    """Goal: told when its turn comes."""
    table = Table()
    table.lock(1, 0, 10)
    waiting = table.waits(2, 0, 5)
    monkeypatch.setattr(range_claims, "RANGES_MAX", 0)
    assert refused(table.unlock(1)) == {waiting: errors.NoLocks}
    assert table.core.rows(10, table.now) == []


def test_too_many_waiters(monkeypatch):
    """Goal: the queue of a file has an end."""
    monkeypatch.setattr("servers.range_locks.FILE_WAITERS_MAX", 2)
    table = Table()
    table.lock(1)
    table.waits(2)
    table.waits(3)
    with pytest.raises(errors.NoLocks):
        table.lock(4, wait_s=1.0)


# -- for people


def test_rows_tell_who_holds_and_who_waits():
    """Goal: path, ranges, host, pid, command, since when; those who wait in their order."""
    table = Table()
    table.lock(1, 0, 10, path=b"/a", host="h", pid=5, command="db")
    table.sleep(2.0)
    table.waits(2, 5, 7, path=b"/b", pid=6, command="other", write=False)
    table.sleep(1.0)
    (row,) = table.core.rows(10, table.now)
    assert from_msgpack(to_msgpack(row), type(row)) == row
    (holder,), (waiter,) = row.holders, row.waiters
    assert (row.ino, row.path) == (INO, b"/a")
    assert (holder.session, holder.ranges, holder.host, holder.pid, holder.command) == (
        1,
        [(0, 10, True)],
        "h",
        5,
        "db",
    )
    assert holder.held_s == pytest.approx(3.0)
    assert (waiter.session, waiter.range, waiter.pid, waiter.command) == (2, (5, 7, False), 6, "other")
    assert waiter.waited_s == pytest.approx(1.0)


def test_nothing_is_left_when_all_is_over():
    """Goal: no row, no queue, no deadline of what is past."""
    table = Table()
    table.lock(1)
    table.core.withdraw(2, table.waits(2), table.now)
    table.waits(3, wait_s=1.0)
    table.sleep(5.0, alive=(1,))
    table.unlock(1)
    table.sleep(LOCK_LEASE_S + 1)
    core = table.core
    assert (core._files, core._away, len(core._ends), core._circles._waits_of) == ({}, {}, 0, {})
    assert core._users._sessions == {}
    assert core.next_deadline() == math.inf


def test_a_circle_that_closed_while_sessions_returned():
    """Goal: found when granting begins: one of the two is refused, the other goes on."""
    table = Table(sessions=[1, 2])
    first, second = table.waits(1, 1, 2), table.waits(2, 0, 1)
    table.renew(1, mine((0, 1, True)), waiting=[first])
    _, events = table.renew(2, mine((1, 2, True)), waiting=[second])
    assert refused(events) == {first: errors.Deadlock}
    assert granted(table.unlock(1)) == [(2, second)]
