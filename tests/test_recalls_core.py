"""The core of the lock service where clients keep locks that no program uses: who is asked, and what answers do."""

import pytest
from test_locks_core import INO, Table, granted, refused

from dfsfuse import errors
from dfsfuse.messages import HeldLock, RenewLocks, Reserve, WatchLocks
from servers.locks import LOCK_LEASE_S
from servers.recalls import ANSWER_S


class Keeping(Table):
    """Sessions 1 and 2 watch."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        for session in (1, 2):
            assert self.asked(session) == []

    def asked(self, session: int) -> list[HeldLock]:
        """What the session is asked for."""
        return self.locks.watch(WatchLocks(session=session), self.now)[0]

    def answer_used(self, session: int, *pairs: tuple[int, int]) -> list:
        """What comes of the session's saying that programs use these."""
        return self.locks.watch(WatchLocks(session=session, used=[HeldLock(*pair) for pair in pairs]), self.now)[1]


@pytest.fixture
def table() -> Keeping:
    return Keeping()


@pytest.mark.parametrize("wait_s", [0, 10.0])
def test_a_lock_that_is_not_used_goes_to_who_asks(table, wait_s):
    """Goal: S5. Who asks for a lock that is kept gets it as soon as that is given back, also if he does not wait."""
    token = table.acquire(1, 1).token
    assert table.acquire(2, 1, wait_s=wait_s) is None
    assert table.locks.take_news() == [1]
    assert table.asked(1) == [HeldLock(INO, token)]
    assert granted(table.release(1, (INO, token))) == [(2, 1)]
    assert table.asked(1) == []


def test_who_does_not_wait_hears_that_it_is_used(table):
    """Goal: S5. EAGAIN as soon as the holder has said that a program uses it, and at once from then on."""
    token = table.acquire(1, 1).token
    table.acquire(2, 1, wait_s=0)
    table.acquire(3, 1)
    assert refused(table.answer_used(1, (INO, token))) == {(2, 1): errors.WouldBlock}
    with pytest.raises(errors.WouldBlock):
        table.acquire(4, 1, wait_s=0)
    assert table.asked(1) == []
    assert granted(table.release(1, (INO, token))) == [(3, 1)]


def test_nobody_is_asked_twice(table):
    """Goal: a lock that is asked for is told again until it is answered, and no session is woken again for it."""
    token = table.acquire(1, 1).token
    table.acquire(2, 1)
    assert table.locks.take_news() == [1]
    table.acquire(3, 1)
    assert table.asked(1) == table.asked(1) == [HeldLock(INO, token)]
    assert table.answer_used(1, (INO, token + 1)) == []
    assert table.asked(1) == [HeldLock(INO, token)]
    table.answer_used(1, (INO, token))
    table.locks.take_news()
    table.acquire(4, 1)
    assert table.locks.take_news() == []


def test_a_holder_that_does_not_watch_is_not_asked():
    """Goal: S5. Who never watches keeps no locks, so who does not wait is refused at once."""
    table = Table()
    table.acquire(1, 1)
    with pytest.raises(errors.WouldBlock):
        table.acquire(2, 1, wait_s=0)
    table.renew(1, [(INO, table.row().token)], last_ticket=1)
    request = RenewLocks(session=1, held=[HeldLock(INO, table.row().token)], last_ticket=1, watches=True)
    table.locks.renew(request, table.now)
    assert table.acquire(2, 2, wait_s=0) is None


def test_who_does_not_wait_stays_behind_who_does(table):
    """Goal: S5. First come first served: an open with O_NONBLOCK takes no lock that others wait for."""
    table.acquire(1, 1)
    table.acquire(2, 1)
    with pytest.raises(errors.WouldBlock):
        table.acquire(3, 1, wait_s=0)


def test_one_of_those_who_do_not_wait_gets_it(table):
    """Goal: the others are told at once that it is taken."""
    token = table.acquire(1, 1).token
    for session in (3, 2, 4):
        table.acquire(session, 1, wait_s=0)
    events = table.release(1, (INO, token))
    assert granted(events) == [(3, 1)]
    assert refused(events) == {(2, 1): errors.WouldBlock, (4, 1): errors.WouldBlock}


def test_a_silent_holder_is_not_waited_for_by_who_does_not_wait(table):
    """Goal: EAGAIN after a second where the holder does not answer; who waits gets the lock when the lease ends."""
    table.acquire(1, 1)
    table.acquire(2, 1, wait_s=0)
    assert refused(table.sleep(ANSWER_S + 0.1)) == {(2, 1): errors.WouldBlock}
    table.acquire(2, 2, wait_s=20)
    assert granted(table.sleep(LOCK_LEASE_S, alive=[2])) == [(2, 2)]
    assert table.asked(1) == []


def test_the_next_holder_knows_that_others_wait(table):
    """Goal: who is granted a lock that others wait for gives it back with its last close, without being asked."""
    token = table.acquire(1, 1).token
    for session in (2, 3):
        table.acquire(session, 1)
    (event,) = table.release(1, (INO, token))
    assert (event.session, event.granted.wanted) == (2, True)
    assert table.asked(2) == []
    (event,) = table.release(2, (INO, event.granted.token))
    assert (event.session, event.granted.wanted) == (3, False)


def test_a_grant_that_is_repeated_tells_it_again(table):
    """Goal: the answer may have been lost."""
    table.acquire(1, 1)
    table.acquire(2, 1)
    table.answer_used(1, (INO, table.row().token))
    assert table.acquire(1, 1).wanted


@pytest.mark.parametrize("wait_s", [0, 10.0])
def test_who_comes_back_asks_again(table, wait_s):
    """Goal: whose connection was closed while the holder changed has the new one asked when he comes back, unless that
    knows already."""
    token = table.acquire(1, 1).token
    table.acquire(3, 1, wait_s=wait_s)
    table.withdraw(3, 1)
    table.release(1, (INO, token))
    grant = table.acquire(2, 1)
    assert grant.wanted == (wait_s > 0)
    assert table.acquire(3, 1, wait_s=wait_s) is None
    assert table.asked(2) == ([] if grant.wanted else [HeldLock(INO, grant.token)])
    assert granted(table.release(2, (INO, grant.token))) == [(3, 1)]


def test_kept_locks_are_shown_as_kept(table):
    """Goal: a lock that no program uses does not look like one, from the renewal on that says so; and back again."""
    tokens = {ino: table.acquire(1, ino, ino=ino, path=b"/file", pid=5).token for ino in (1, 2)}
    for kept in (True, False):
        table.sleep(3, alive=[1])
        held = [HeldLock(1, tokens[1], kept=kept), HeldLock(2, tokens[2], path=b"/used", pid=6)]
        table.locks.renew(RenewLocks(session=1, held=held, last_ticket=2, watches=True), table.now)
        assert [(row.ino, row.path, row.kept) for row in table.locks.list_locks(table.now).locks] == (
            [(2, b"/used", False), (1, b"/file", True)] if kept else [(1, b"/file", False), (2, b"/used", False)]
        )
    assert (table.row(1).held_s, table.row(2).held_s) == (0.0, 6.0)


def test_after_a_restart_kept_locks_are_asked_for():
    """Goal: S5, S7. Who waits after a restart gets a lock that has been re-asserted and is not used; also who does not
    wait."""
    table = Table(start=2, sessions=[1, 2])
    table.acquire(2, 5)
    held = [HeldLock(INO, 77, path=b"/file", kept=True), HeldLock(8, 78, kept=True)]
    table.locks.renew(RenewLocks(session=1, held=held, watches=True), table.now)
    table.renew(2, waiting=[5], last_ticket=5)
    assert table.locks.watch(WatchLocks(session=1), table.now)[0] == [HeldLock(INO, 77)]
    assert table.acquire(2, 6, ino=8, wait_s=0) is None
    assert granted(table.release(1, (INO, 77), (8, 78))) == [(2, 5), (2, 6)]


def test_reserving_asks_nobody(table):
    """Goal: what another session has is passed over."""
    table.acquire(1, 1)
    assert table.locks.reserve(Reserve(session=2, inos=[INO], ticket=1), table.now).tokens == [0]
    assert table.asked(1) == []


def test_a_session_that_has_ended_is_told_so(table):
    """Goal: its request does not wait on, and a later one is refused."""
    table.acquire(1, 1)
    table.acquire(2, 1)
    table.locks.take_news()
    assert granted(table.locks.end(1, table.now)) == [(2, 1)]
    assert table.locks.take_news() == [1]
    with pytest.raises(errors.SessionEnded):
        table.asked(1)
