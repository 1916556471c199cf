"""The core of the lock service: every rule as a sequence of calls with an invented clock; no sockets, no sleep."""

import pytest

from dfsfuse import errors
from dfsfuse.messages import (
    Acquire,
    Granted,
    HeldLock,
    LockRow,
    ReleaseLocks,
    RenewedLocks,
    RenewLocks,
    Wanted,
    from_msgpack,
    to_msgpack,
)
from servers import locks as core
from servers.claims import NUMBER_MAX, PATH_BYTES_MAX, TEXT_MAX, TICKET_RETURN_S, Claim, Grant, Refusal, Session, State
from servers.locks import LOCK_LEASE_S, Locks, Phase
from servers.tokens import TOKENS_PER_START

INO = 7


class Table:
    """Locks with a clock that tests move; every call does first what is due, as the service does."""

    def __init__(self, start: int = 1, sessions=(), at: float = 100.0):
        self.now = at
        self.locks = Locks()
        self.events = []
        if start:
            self.events += self.locks.begin(start, sessions, self.now)

    def sleep(self, seconds: float, alive=()) -> list:
        """What happens meanwhile, at each deadline of the core. Sessions in `alive` renew without saying anything."""
        seen, until = [], self.now + seconds
        while self.now < until:
            self.now = min(until, self.locks.next_deadline(), self.now + 1)
            for number in alive:
                self.locks._renew_lease(self.locks._sessions[number], self.now)
            seen += self.locks.tick(self.now)
        return seen

    def acquire(self, session: int, ticket: int, ino: int = INO, wait_s: float = 10.0, **who) -> Granted | None:
        request = Acquire(session=session, ticket=ticket, ino=ino, wait_s=wait_s, **who)
        return self.locks.acquire(request, self.now)

    def release(self, session: int, *pairs: tuple[int, int]) -> list:
        return self.locks.release(ReleaseLocks(session, [HeldLock(*pair) for pair in pairs]), self.now)

    def renew(
        self, session: int, held=(), waiting=(), last_ticket: int = 0, number: int = 0
    ) -> tuple[RenewedLocks, list]:
        held_here = {(ino, claim.token) for ino, claim in self.locks._holders.items()}
        pairs = [HeldLock(*pair, path=b"" if pair in held_here else b"/again") for pair in held]
        request = RenewLocks(session=session, held=pairs, waiting=list(waiting), last_ticket=last_ticket, number=number)
        reply, events = self.locks.renew(request, self.now)
        reply.lost = [HeldLock(pair.ino, pair.token) for pair in reply.lost]
        return reply, events

    def withdraw(self, session: int, ticket: int) -> None:
        self.locks.withdraw(session, ticket, self.now)

    def row(self, ino: int = INO) -> LockRow:
        return next(row for row in self.locks.list_locks(self.now).locks if row.ino == ino)

    def picture(self) -> bytes:
        """Everything that can be seen from outside, to prove that nothing has changed."""
        return to_msgpack(self.locks.list_locks(self.now)) + repr(self.locks.next_deadline()).encode()


def granted(events: list) -> list[tuple[int, int]]:
    """(session, ticket) of the grants among events."""
    return [(event.session, event.ticket) for event in events if isinstance(event, Grant)]


def refused(events: list) -> dict[tuple[int, int], type]:
    return {(event.session, event.ticket): type(event.error) for event in events if isinstance(event, Refusal)}


# -- queues


def test_a_free_lock_is_granted_at_once_with_the_lease():
    """Goal: an uncontended acquire needs no event; reply and listing agree."""
    table = Table()
    grant = table.acquire(1, 1, path=b"/a", host="mars", pid=12, command="vim")
    assert grant.lease_s == LOCK_LEASE_S
    table.sleep(3)
    assert table.row() == LockRow(
        ino=INO, token=grant.token, session=1, path=b"/a", host="mars", pid=12, command="vim", held_s=3.0
    )


def test_s5_waiters_of_many_sessions_are_granted_in_the_order_of_their_arrival():
    """Goal: FIFO over sessions, not within each; tickets say nothing about places."""
    table = Table()
    token = table.acquire(1, 1).token
    arrivals = [(3, 50), (2, 9), (4, 1), (2, 4), (3, 2)]
    assert [table.acquire(*arrival) for arrival in arrivals] == [None] * 5
    served, session = [], 1
    for _ in arrivals:
        (event,) = table.release(session, (INO, token))
        served.append((event.session, event.ticket))
        session, token = event.session, event.granted.token
    assert served == arrivals
    assert table.release(session, (INO, token)) == []
    assert table.locks.list_locks(table.now).locks == []


def test_inodes_have_queues_of_their_own():
    """Goal: a wait for one inode delays nobody at another."""
    table = Table()
    table.acquire(1, 1, ino=1)
    assert table.acquire(2, 1, ino=1) is None
    assert table.acquire(2, 2, ino=2) is not None


def test_the_holder_may_wait_for_its_own_lock_like_any_other():
    """Goal: several claims of one session at one inode, one of them held, served in order with another session's."""
    table = Table()
    token = table.acquire(1, 1).token
    assert (table.acquire(1, 2), table.acquire(2, 1), table.acquire(1, 3)) == (None, None, None)
    assert table.renew(1, held=[(INO, token)], waiting=[2, 3], last_ticket=3)[0].wanted == [Wanted(INO, 0.0)]
    (first,) = table.release(1, (INO, token))
    (second,) = table.release(1, (INO, first.granted.token))
    (third,) = table.release(2, (INO, second.granted.token))
    assert granted([first, second, third]) == [(1, 2), (2, 1), (1, 3)]


def test_s5_the_wait_ends_with_busy_that_names_the_holder():
    """Goal: Busy exactly when wait_s is over, saying who has what open, where."""
    table = Table()
    table.acquire(1, 1, path=b"/notes.txt", host="mars", pid=4711, command="vim")
    table.acquire(2, 1, wait_s=3)
    assert table.locks.next_deadline() == table.now + 3
    assert table.sleep(2.99) == []
    (event,) = table.sleep(0.01)
    assert (event.session, event.ticket, type(event.error)) == (2, 1, errors.Busy)
    for part in ("/notes.txt", "mars", "4711", "vim", "3"):
        assert part in str(event.error)
    assert table.row().waiters == []


def test_s5_without_waiting_it_is_would_block_at_once_and_nothing_changes():
    """Goal: O_NONBLOCK never queues, and not even a session is left behind."""
    table = Table()
    table.acquire(1, 1, command="vim")
    before = table.picture()
    with pytest.raises(errors.WouldBlock, match="vim"):
        table.acquire(2, 1, wait_s=0)
    assert table.picture() == before
    assert table.acquire(2, 2, ino=8, wait_s=0) is not None


def test_a_full_queue_refuses_with_busy(monkeypatch):
    """Goal: the queue is bounded, and refusing changes nothing."""
    monkeypatch.setattr(core, "QUEUE_MAX", 3)
    table = Table()
    for ticket in range(1, 5):
        table.acquire(1, ticket)
    before = table.picture()
    with pytest.raises(errors.Busy, match="3 wait"):
        table.acquire(2, 1)
    assert table.picture() == before


def test_many_waits_leave_no_garbage_behind():
    """Goal: deadlines of claims that were granted long ago do not pile up, however long their waits were."""
    table = Table()
    token, session = table.acquire(1, 1, wait_s=3600).token, 1
    for ticket in range(2, 5002):
        table.acquire(3 - session, ticket, wait_s=3600)
        (event,) = table.release(session, (INO, token))
        session, token = event.session, event.granted.token
    assert len(table.locks._queues.waits) < 1100
    table.release(session, (INO, token))
    assert (table.locks._holders, [*table.locks._queues], [*table.locks._queues.away]) == ({}, [], [])


# -- connections


def test_who_comes_back_within_two_seconds_has_the_old_place():
    """Goal: a broken connection costs no place."""
    table = Table()
    token = table.acquire(1, 1).token
    table.acquire(2, 1)
    table.acquire(3, 1)
    table.withdraw(2, 1)
    assert table.sleep(TICKET_RETURN_S - 0.01) == []
    assert table.acquire(2, 1) is None
    assert table.sleep(1) == []
    assert granted(table.release(1, (INO, token))) == [(2, 1)]


def test_who_does_not_come_back_is_dropped():
    """Goal: the place is lost after TICKET_RETURN_S; a later return begins at the end."""
    table = Table()
    token = table.acquire(1, 1).token
    table.acquire(2, 1)
    table.acquire(3, 1)
    table.withdraw(2, 1)
    table.sleep(TICKET_RETURN_S)
    assert [waiter.session for waiter in table.row().waiters] == [3]
    assert table.acquire(2, 1) is None
    assert granted(table.release(1, (INO, token))) == [(3, 1)]


def test_a_waiter_without_connection_is_passed_over_and_keeps_its_place():
    """Goal: nobody is granted a lock without hearing of it; the next live one is served, the absent one after it."""
    table = Table()
    token = table.acquire(1, 1).token
    for session in (2, 3, 4):
        table.acquire(session, 1)
    table.withdraw(2, 1)
    (event,) = table.release(1, (INO, token))
    assert granted([event]) == [(3, 1)]
    assert table.acquire(2, 1) is None
    assert granted(table.release(3, (INO, event.granted.token))) == [(2, 1)]


def test_a_lock_that_became_free_meanwhile_is_granted_on_return():
    """Goal: with nobody but absent waiters the lock is free, to whoever comes first."""
    table = Table()
    token = table.acquire(1, 1).token
    for session in (2, 3):
        table.acquire(session, 1)
        table.withdraw(session, 1)
    assert table.release(1, (INO, token)) == []
    newcomer = table.acquire(4, 1)
    assert newcomer.token > token
    assert table.acquire(3, 1) is None
    assert granted(table.release(4, (INO, newcomer.token))) == [(3, 1)]


def test_two_connections_of_one_ticket_are_one_place():
    """Goal: a retry that overtakes the news of the broken connection is not withdrawn by that news."""
    table = Table()
    token = table.acquire(1, 1).token
    assert (table.acquire(2, 1), table.acquire(2, 1)) == (None, None)
    table.withdraw(2, 1)
    assert len(table.row().waiters) == 1
    assert granted(table.release(1, (INO, token))) == [(2, 1)]


def test_a_repeated_acquire_returns_the_same_grant():
    """Goal: a lost reply costs nothing: same ticket, same token, also after a grant from the queue."""
    table = Table()
    first = table.acquire(1, 1)
    assert table.acquire(1, 1) == first
    table.acquire(2, 5)
    (event,) = table.release(1, (INO, first.token))
    table.withdraw(2, 5)
    assert table.acquire(2, 5) == event.granted
    assert table.acquire(2, 5, wait_s=0) == event.granted


# -- leases and renewals


def test_s7_the_locks_of_a_silent_session_are_free_after_one_lease():
    """Goal: a dead client delays others by one lease at most, and its own waits are over."""
    table = Table()
    table.acquire(1, 1)
    table.acquire(1, 2, ino=8)
    table.acquire(1, 3)
    table.acquire(2, 1, wait_s=60)
    assert table.sleep(LOCK_LEASE_S - 0.01, alive=[2]) == []
    events = table.sleep(0.01, alive=[2])
    assert (granted(events), refused(events)) == ([(2, 1)], {(1, 3): errors.Busy})
    assert [row.ino for row in table.locks.list_locks(table.now).locks] == [INO]


def test_a_lock_is_not_handed_to_a_session_that_lapses_in_the_same_tick():
    """Goal: "alive when it is granted", even if the tick is late."""
    table = Table()
    table.acquire(1, 1)
    table.acquire(2, 1)
    table.acquire(3, 1, wait_s=60)
    table.now += 1
    table.renew(3, waiting=[1], last_ticket=1)
    table.now += LOCK_LEASE_S - 0.5
    assert granted(table.locks.tick(table.now)) == [(3, 1)]


def test_renewals_keep_locks_for_ever():
    """Goal: the lease counts from the last renewal."""
    table = Table()
    pair = (INO, table.acquire(1, 1).token)
    for _ in range(5):
        assert table.sleep(LOCK_LEASE_S - 1) == []
        assert table.renew(1, held=[pair], last_ticket=1) == (RenewedLocks(start_number=1), [])


def test_after_a_lapse_the_renewal_says_what_is_lost():
    """Goal: a session that wakes up learns it, even if nobody took the lock meanwhile."""
    table = Table()
    pair = (INO, table.acquire(1, 1).token)
    table.sleep(LOCK_LEASE_S)
    reply, _ = table.renew(1, held=[pair], last_ticket=1)
    assert reply.lost == [HeldLock(*pair)]
    assert table.acquire(1, 2).token > pair[1]


def test_a_grant_that_was_never_received_is_freed_by_the_renewal():
    """Goal: unlisted, and its ticket is not above last_ticket: the next in the queue has it."""
    table = Table()
    table.acquire(1, 1)
    table.acquire(2, 1)
    assert granted(table.renew(1, last_ticket=1)[1]) == [(2, 1)]


def test_a_grant_is_kept_while_its_answer_may_be_under_way():
    """Goal: neither a ticket above last_ticket nor one that the session still waits for is freed."""
    table = Table()
    table.acquire(1, 5)
    table.acquire(1, 4, ino=8)
    table.acquire(2, 1)
    assert table.renew(1, waiting=[4], last_ticket=4)[1] == []
    assert {row.ino for row in table.locks.list_locks(table.now).locks if row.session == 1} == {INO, 8}


def test_a_waiter_that_the_session_gave_up_is_dropped_and_stays_over():
    """Goal: an interrupted open leaves the queue by the renewal; a late duplicate of its acquire is not executed."""
    table = Table()
    token = table.acquire(1, 1).token
    table.acquire(2, 3)
    _, events = table.renew(2, last_ticket=3)
    assert refused(events) == {(2, 3): errors.Interrupted}
    before = table.picture()
    with pytest.raises(errors.OutOfSequence):
        table.acquire(2, 3)
    assert table.picture() == before
    assert table.release(1, (INO, token)) == []


def test_an_acquire_may_arrive_after_the_renewal_that_lists_it():
    """Goal: requests overtake each other; a listed ticket is no late duplicate."""
    table = Table()
    table.renew(2, waiting=[3], last_ticket=5)
    assert table.acquire(2, 3) is not None
    with pytest.raises(errors.OutOfSequence):
        table.acquire(2, 4)


def test_a_renewal_that_was_overtaken_brings_no_ticket_back():
    """Goal: what a later renewal has given up stays over, though an older one still lists it."""
    table = Table()
    table.renew(2, last_ticket=5)
    table.renew(2, waiting=[3], last_ticket=4)
    with pytest.raises(errors.OutOfSequence):
        table.acquire(2, 3)


def test_wanted_tells_how_long_the_first_of_another_session_has_waited():
    """Goal: own waiters and absent ones are not counted; nobody else's locks are listed."""
    table = Table()
    pair = (INO, table.acquire(1, 1).token)
    table.acquire(1, 2, wait_s=60)
    table.acquire(3, 1, ino=8)
    table.acquire(4, 1, ino=8)
    assert table.renew(1, held=[pair], waiting=[2], last_ticket=2)[0].wanted == []
    table.acquire(2, 1)
    table.sleep(1)
    table.acquire(3, 2)
    table.sleep(2)
    assert table.renew(1, held=[pair], waiting=[2], last_ticket=2)[0].wanted == [Wanted(INO, 3.0)]
    table.withdraw(2, 1)
    assert table.renew(1, held=[pair], waiting=[2], last_ticket=2)[0].wanted == [Wanted(INO, 2.0)]


def test_what_is_not_held_is_passed_over_when_released():
    """Goal: a repeated or mistaken release frees nobody's lock."""
    table = Table()
    token = table.acquire(1, 1).token
    table.acquire(2, 1)
    for session, pair in ((2, (INO, token)), (1, (INO, token + 1)), (1, (INO, token - 1)), (9, (99, 1))):
        assert table.release(session, pair) == []
    assert table.row().session == 1
    assert len(table.release(1, (INO, token))) == 1
    assert table.release(1, (INO, token)) == []


def test_the_end_of_a_session_frees_everything_and_is_final():
    """Goal: waiters of the session are told, other sessions served, and a late request brings nothing back."""
    table = Table()
    pair = (INO, table.acquire(1, 1).token)
    table.acquire(1, 2)
    table.acquire(2, 1)
    events = table.locks.end(1, table.now)
    assert (granted(events), refused(events)) == ([(2, 1)], {(1, 2): errors.SessionEnded})
    assert table.locks.end(1, table.now) == []
    for call in (lambda: table.acquire(1, 3, ino=8), lambda: table.renew(1, held=[pair], last_ticket=2)):
        with pytest.raises(errors.SessionEnded):
            call()
    assert table.release(1, pair) == []


# -- restarts


def test_tokens_rise_within_a_start_and_across_starts():
    """Goal: the start number is the high part, so a token of a later start is larger than any before."""
    last = 0
    for start in (1, 2, 7):
        table = Table(start)
        for ticket in range(1, 50):
            token = table.acquire(1, ticket, ino=ticket).token
            assert (token > last, token >> 32) == (True, start)
            last = token


def test_nothing_is_granted_before_the_directory_has_answered():
    """Goal: acquires queue without a start number, and their waits count from when granting resumes."""
    table = Table(start=0)
    assert table.locks.phase is Phase.STARTING
    assert table.acquire(1, 1, wait_s=1) is None
    assert table.acquire(2, 1, wait_s=1) is None
    with pytest.raises(errors.WouldBlock, match="just started"):
        table.acquire(2, 2, wait_s=0)
    assert table.sleep(5) == []
    assert granted(table.locks.begin(3, [], table.now)) == [(1, 1)]
    assert table.sleep(0.99) == []
    assert refused(table.sleep(0.01)) == {(2, 1): errors.Busy}


def test_holders_may_re_assert_before_the_directory_has_answered():
    """Goal: a directory that is away costs nobody a lock; who has come back already is not waited for again."""
    table = Table(start=0)
    assert table.renew(1, held=[(INO, 5)])[0] == RenewedLocks(start_number=0)
    table.acquire(2, 1, ino=8)
    assert granted(table.locks.begin(2, [1], table.now)) == [(2, 1)]
    assert (table.row().session, table.row().token) == (1, 5)


def test_no_lock_is_granted_until_every_session_is_back():
    """Goal: a lock that looks free may be held by who has not come back yet."""
    table = Table(start=2, sessions=[1, 2])
    assert table.acquire(3, 1, ino=8) is None
    assert table.renew(1)[1] == []
    assert table.acquire(1, 1, ino=9) is None
    reply, events = table.renew(2, held=[(INO, 5)])
    assert (reply.lost, granted(events)) == ([], [(3, 1), (1, 1)])
    assert table.row().token == 5


def test_a_renewal_of_before_the_start_is_no_return():
    """Goal: S5. A renewal that was on its way when the service started does not list what was granted since it was
    sent: only one that comes after an answer of this start says what its session holds."""
    table = Table(start=2, sessions=[1])
    reply, _ = table.locks.renew(RenewLocks(session=1, start_number=1, number=3), table.now)
    assert (reply.start_number, table.locks.phase) == (2, Phase.RETURNING)
    held = [HeldLock(INO, TOKENS_PER_START + 5)]
    table.locks.renew(RenewLocks(session=1, start_number=2, number=4, held=held), table.now)
    assert table.locks.phase is Phase.GRANTING
    with pytest.raises(errors.WouldBlock):
        table.acquire(2, 1, wait_s=0)


def test_a_first_renewal_that_was_late_is_no_return():
    """Goal: S5. A client that was never answered names no start, and a service that has no number yet is none that it
    could have heard of: such a renewal may be as old as the session."""
    table = Table(start=0)
    table.locks.renew(RenewLocks(session=1, start_number=0, number=1), table.now)
    table.locks.begin(2, [1], table.now)
    assert table.locks.phase is Phase.RETURNING
    assert table.acquire(2, 1) is None
    held = [HeldLock(INO, TOKENS_PER_START + 5)]
    table.locks.renew(RenewLocks(session=1, start_number=2, number=9, held=held), table.now)
    assert (table.locks.phase, table.row().session) == (Phase.GRANTING, 1)


def test_an_acquire_is_no_return():
    """Goal: only a renewal re-asserts; who merely asks for a lock is still waited for."""
    table = Table(start=0)
    table.acquire(1, 1)
    table.renew(2)
    assert table.locks.begin(2, [1, 2], table.now) == []
    assert granted(table.renew(1, waiting=[1], last_ticket=1)[1]) == [(1, 1)]


def test_sessions_that_do_not_come_back_are_waited_for_one_lease():
    """Goal: a client that died with the service delays the others by one lease from the start."""
    table = Table(start=2, sessions=[1])
    table.acquire(2, 1, wait_s=1)
    assert table.sleep(LOCK_LEASE_S - 0.01, alive=[2]) == []
    assert granted(table.sleep(0.01, alive=[2])) == [(2, 1)]


def test_a_session_that_ends_is_not_waited_for():
    """Goal: unmounting during the restart does not cost the others a lease."""
    table = Table(start=2, sessions=[1])
    table.acquire(2, 1)
    assert granted(table.locks.end(1, table.now)) == [(2, 1)]


def returning(table: Table, session: int, *queued: int, held=()) -> list:
    """The session renews after a restart, with these tickets in queues; the events."""
    pairs = [HeldLock(*pair) for pair in held]
    request = RenewLocks(
        session=session, held=pairs, waiting=list(queued), last_ticket=9, queued=list(queued), queued_ranges=[77]
    )
    return table.locks.renew(request, table.now)[1]


def test_s5_waiters_have_their_places_again_after_a_restart():
    """Goal: the order is that of before, in whichever order they come back; who has not waited before is the last."""
    for order in ((2, 3, 4), (4, 2, 3), (3, 4, 2), (4, 3, 2)):
        table = Table(start=2, sessions=[1, 2, 3, 4])
        waited_s = {2: 30.0, 3: 20.0, 4: 10.0}
        table.acquire(5, 1)
        for session in order:
            table.sleep(0.1)
            assert table.acquire(session, 1, waited_s=waited_s[session] + table.now - 100) is None
        table.acquire(6, 1)
        table.acquire(7, 1, waited_s=0.0)
        assert [waiter.session for waiter in table.row().waiters] == [2, 3, 4, 5, 6, 7]
        assert table.row().waiters[0].waited_s == pytest.approx(30.0 + table.now - 100)


def test_nothing_is_granted_before_those_who_waited_are_back():
    """Goal: a session that is back says who of it waited; until these are there too, nobody can take their turn."""
    table = Table(start=2, sessions=[1, 2])
    table.acquire(1, 5)
    assert returning(table, 1, 5) == []
    assert returning(table, 2, 3, 4) == []
    table.acquire(2, 3, waited_s=2.0)
    assert table.sleep(1.0) == []
    table.acquire(2, 4, ino=8, waited_s=3.0)
    assert granted(table.sleep(0.01)) == [(2, 3), (2, 4)]


def test_those_who_waited_are_waited_for_as_after_any_broken_connection():
    """Goal: one that never comes back costs the others TICKET_RETURN_S from the return of the last session; one that
    was given up costs nothing."""
    table = Table(start=2, sessions=[1, 2])
    table.acquire(2, 1, ino=8)
    returning(table, 1, 5)
    table.sleep(1.0)
    assert returning(table, 2, 1) == []
    assert table.sleep(TICKET_RETURN_S - 0.01) == []
    assert granted(table.sleep(0.01)) == [(2, 1)]
    table = Table(start=2, sessions=[1, 2])
    table.acquire(2, 1, ino=8)
    returning(table, 1, 5)
    assert returning(table, 2, 1) == []
    assert granted(returning(table, 1)) == [(2, 1)]


def test_those_who_waited_may_tell_before_the_directory_has_answered():
    """Goal: the same for who is back before the service has its start number."""
    table = Table(start=0)
    table.acquire(2, 1)
    returning(table, 1, 5)
    returning(table, 2, 1)
    assert table.sleep(3.0, alive=[1, 2]) == []
    assert table.locks.begin(2, [1, 2], table.now) == []
    table.acquire(1, 5, waited_s=10.0)
    assert granted(table.sleep(0.01)) == [(1, 5)]


def test_a_service_that_stood_still_extends_leases_and_tickets():
    """Goal: who could not be heard is not silent, and has the place in the queue and the time to return still."""
    table = Table()
    token = table.acquire(1, 1).token
    table.acquire(2, 1, wait_s=100)
    table.withdraw(2, 1)
    table.now += LOCK_LEASE_S + 5
    table.locks.extend(table.now + 3)
    assert table.locks.tick(table.now) == []
    table.acquire(2, 1)
    assert table.renew(1, held=[(INO, token)])[0].lost == []
    assert (table.row().token, [waiter.session for waiter in table.row().waiters]) == (token, [2])
    assert table.sleep(LOCK_LEASE_S - 0.1) == []
    assert refused(table.sleep(0.2)) == {(2, 1): errors.Busy}


def test_the_highest_token_of_an_inode_wins_in_either_order():
    """Goal: of two who re-assert one lock, the later holder has it; the other is told by `lost`."""
    for first, second in ((11, 12), (12, 11)):
        table = Table(start=2, sessions=[11, 12, 13])
        lost = {number: table.renew(number, held=[(INO, number)])[0].lost for number in (first, second)}
        assert lost[12] == []
        assert table.renew(11, held=[(INO, 11)])[0].lost == [HeldLock(INO, 11)]
        assert (table.row().session, table.row().token) == (12, 12)


def test_re_asserting_is_repeatable_and_over_after_the_restart():
    """Goal: renewals go on as before; a pair that is unknown once locks are granted is lost."""
    table = Table(start=2, sessions=[1])
    assert table.renew(1, held=[(INO, 5)], last_ticket=9)[0] == RenewedLocks(start_number=2)
    assert table.renew(1, held=[(INO, 5)], last_ticket=9)[0] == RenewedLocks(start_number=2)
    assert table.renew(2, held=[(8, 6)])[0].lost == [HeldLock(8, 6)]
    table.acquire(2, 1)
    assert granted(table.release(1, (INO, 5))) == [(2, 1)]


def test_a_token_that_cannot_be_of_an_earlier_start_is_not_believed():
    """Goal: tokens go on rising whatever a client claims."""
    table = Table(start=2, sessions=[1, 2])
    invented = (INO, 2 * TOKENS_PER_START + 9)
    assert table.renew(1, held=[invented])[0].lost == [HeldLock(*invented)]


def test_a_re_asserted_lock_is_freed_when_it_is_not_listed_any_more():
    """Goal: such a lock has no ticket here, and yet a release that was lost does not leave it held."""
    table = Table(start=2, sessions=[1])
    table.renew(1, held=[(INO, 5), (8, 6)], last_ticket=9)
    table.acquire(2, 1)
    assert granted(table.renew(1, held=[(8, 6)], last_ticket=9)[1]) == [(2, 1)]


# -- what is not of the form


BAD = 0, -1, NUMBER_MAX + 1


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: value} for name in ("session", "ino", "ticket") for value in BAD),
        *({"wait_s": value} for value in (-1.0, float("nan"), float("inf"), 1e9)),
        *({"pid": value} for value in (-1, NUMBER_MAX + 1)),
        {"ticket": 1, "ino": INO + 1},
    ],
    ids=str,
)
def test_a_wrong_acquire_raises_and_changes_nothing(wrong):
    """Goal: no argument of an acquire leaves a trace unless it is right; the last has a ticket of another inode."""
    table = Table()
    table.acquire(1, 1)
    before = table.picture()
    with pytest.raises(errors.InvalidArgument):
        table.acquire(**{"session": 1, "ticket": 2, **wrong})
    assert table.picture() == before


@pytest.mark.parametrize("number", BAD)
def test_a_wrong_renewal_or_end_raises_and_changes_nothing(number):
    """Goal: also in the restart, where what a renewal lists is believed."""
    table = Table(start=2, sessions=[1])
    before = table.picture()
    calls = [
        lambda: table.renew(1, held=[(8, 5), (number, 5)]),
        lambda: table.renew(1, held=[(8, 5), (INO, number)]),
        lambda: table.renew(number),
        lambda: table.locks.end(number, table.now),
    ]
    for call in calls:
        with pytest.raises(errors.InvalidArgument):
            call()
    assert table.picture() == before


def test_the_service_begins_once():
    """Goal: a second start number would make tokens of two starts alike."""
    table = Table()
    for start in (2, 0):
        with pytest.raises(errors.InvalidArgument):
            table.locks.begin(start, [], table.now)
    with pytest.raises(errors.InvalidArgument):
        Locks().begin(0, [], 0.0)


def test_an_illegal_step_of_a_claim_raises_and_changes_nothing():
    """Goal: the transition table is the whole truth about states."""
    legal = {("waiting", "held"), ("waiting", "away"), ("waiting", "over"), ("away", "waiting"), ("away", "over")}
    legal.add(("held", "over"))
    for old in State:
        for new in State:
            claim = Claim(Session(1), Acquire(session=1, ino=1, ticket=1), 0.0)
            claim.state = old
            if (old.value, new.value) in legal:
                claim.move(new)
            else:
                with pytest.raises(errors.Internal):
                    claim.move(new)
                assert claim.state is old


def test_names_are_cut_and_listings_are_bounded(monkeypatch):
    """Goal: what people are shown has limits, contended locks come first, and it survives the wire."""
    monkeypatch.setattr(core, "LIST_PAGE_MAX", 3)
    table = Table()
    for ino in range(1, 6):
        table.acquire(1, ino, ino=ino, path=b"p" * 9999, host="h" * 9999, command="c" * 9999)
    for ticket in range(1, 6):
        table.acquire(2, ticket, ino=5)
    listed = table.locks.list_locks(table.now)
    assert from_msgpack(to_msgpack(listed), type(listed)) == listed
    assert [(row.ino, len(row.waiters)) for row in listed.locks] == [(5, 3), (1, 0), (2, 0)]
    row = listed.locks[0]
    assert (len(row.path), len(row.host), len(row.command)) == (PATH_BYTES_MAX, TEXT_MAX, TEXT_MAX)


def test_a_start_without_tokens_left_grants_nothing(monkeypatch):
    """Goal: tokens of one start never reach into those of the next."""
    table = Table()
    assert table.locks.tokens.left == TOKENS_PER_START - 1
    table.locks.tokens.given = TOKENS_PER_START - 2
    assert table.acquire(1, 1).token == 2 * TOKENS_PER_START - 1
    with pytest.raises(errors.Internal):
        table.acquire(1, 2, ino=8)
    assert [row.ino for row in table.locks.list_locks(table.now).locks] == [INO]


# -- the latest token


def test_the_latest_token_of_a_lock_that_was_given_back():
    """Goal: known while nobody has the lock, and only if its holder himself has given it back: one who has lapsed may
    commit yet."""
    table = Table()
    assert table.locks.latest_token(INO) == 0
    first = table.acquire(1, 1)
    assert table.locks.latest_token(INO) == 0
    table.release(1, (INO, first.token))
    assert table.locks.latest_token(INO) == first.token
    second = table.acquire(2, 1)
    assert table.locks.latest_token(INO) == 0
    assert table.acquire(3, 1) is None
    events = table.release(2, (INO, second.token))
    assert granted(events) == [(3, 1)]
    assert table.locks.latest_token(INO) == 0, "the next one has it already"
    table.sleep(LOCK_LEASE_S + 1)
    assert table.locks.latest_token(INO) == 0, "it was not given back"


def test_a_renewal_that_was_overtaken_frees_nothing() -> None:
    """Goal: S5. A renewal from before a grant arrives after the one with which its holder has re-asserted it at another
    start of the service: it knows nothing of the lock, which stays held."""
    table = Table(start=2, sessions=[1, 2])
    token = TOKENS_PER_START + 7
    table.renew(1, held=[(INO, token)], last_ticket=5, number=9)
    with pytest.raises(errors.OutOfSequence):
        table.renew(1, waiting=[5], last_ticket=5, number=8)
    table.renew(2)
    assert table.renew(1, held=[(INO, token)], last_ticket=5, number=9)[0].lost == []
    assert table.row().session == 1
