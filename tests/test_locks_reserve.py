"""Locks of inodes that only their session knows: taken many at a time, shown once a program uses them."""

import math

import pytest

from dfsfuse import errors
from dfsfuse.messages import Acquire, HeldLock, ReleaseLocks, RenewLocks, Reserve
from servers.locks import Locks, Phase

NOW = 100.0


@pytest.fixture
def table() -> Locks:
    """A lock service that grants."""
    locks = Locks()
    locks.begin(1, (), NOW)
    assert locks.phase is Phase.GRANTING
    return locks


def test_reserved_locks_have_rising_tokens_and_are_held(table):
    """Goal: a reservation grants each inode a token of its own, and they are held like any lock."""
    reply = table.reserve(Reserve(session=1, inos=[10, 11, 12], ticket=1), NOW)
    assert reply.tokens == sorted(set(reply.tokens))
    assert 0 not in reply.tokens
    renewed, _ = table.renew(
        RenewLocks(session=1, held=[HeldLock(10 + i, token) for i, token in enumerate(reply.tokens)], last_ticket=3),
        NOW,
    )
    assert renewed.lost == []


def test_a_repeated_reservation_gives_the_same_tokens(table):
    """Goal: a request that is sent again because its reply was lost takes nothing twice."""
    request = Reserve(session=1, inos=[10, 11], ticket=1)
    assert table.reserve(request, NOW).tokens == table.reserve(request, NOW).tokens


def test_a_reserved_lock_is_listed_once_its_holder_is_told(table):
    """Goal: people see programs, not stock; a renewal tells which program uses a reserved lock."""
    (token,) = table.reserve(Reserve(session=1, inos=[10], ticket=1), NOW).tokens
    assert table.list_locks(NOW).locks == []
    used = HeldLock(10, token, b"/notes.txt", 77, "vim")
    table.renew(RenewLocks(session=1, host="here", held=[used], last_ticket=1), NOW)
    (row,) = table.list_locks(NOW).locks
    assert (row.path, row.host, row.pid, row.command, row.token) == (b"/notes.txt", "here", 77, "vim", token)


@pytest.mark.parametrize("kept", [False, True])
def test_a_lock_counts_from_when_its_file_was_opened(table, kept):
    """Goal: who waits is not shown as older than who opened before; whether the lock was reserved or kept until then,
    and whenever the renewal came that told of it."""
    (token,) = table.reserve(Reserve(session=1, inos=[10], ticket=1), NOW).tokens
    if kept:
        unused = HeldLock(10, token, b"/notes.txt", kept=True)
        table.renew(RenewLocks(session=1, held=[unused], last_ticket=1), NOW + 0.5)
    table.acquire(Acquire(session=2, ino=10, ticket=1, wait_s=10.0), NOW + 1.5)
    used = HeldLock(10, token, b"/notes.txt", 77, "vim", used_s=1.0)
    table.renew(RenewLocks(session=1, held=[used], last_ticket=1), NOW + 2)
    (row,) = table.list_locks(NOW + 3).locks
    assert (row.held_s, row.waiters[0].waited_s) == (2.0, 1.5)


@pytest.mark.parametrize("used_s", [-1.0, math.nan, math.inf])
def test_no_time_is_refused(table, used_s):
    """Goal: what is shown to people stays a time."""
    with pytest.raises(errors.InvalidArgument, match="used_s"):
        table.renew(RenewLocks(session=1, held=[HeldLock(10, 1, used_s=used_s)]), NOW)


def test_what_is_not_free_is_passed_over(table):
    """Goal: an inode that another session holds gives token 0, and the others are granted all the same."""
    table.reserve(Reserve(session=2, inos=[11], ticket=1), NOW)
    tokens = table.reserve(Reserve(session=1, inos=[10, 11, 12], ticket=1), NOW).tokens
    assert [bool(token) for token in tokens] == [True, False, True]


def test_unlisted_reservations_are_freed(table):
    """Goal: what a client never received, or forgot, is free after its next renewal."""
    table.reserve(Reserve(session=1, inos=[10], ticket=1), NOW)
    table.renew(RenewLocks(session=1, last_ticket=1), NOW)
    assert all(table.reserve(Reserve(session=2, inos=[10], ticket=1), NOW).tokens)


def test_a_reserved_lock_is_released_like_any(table):
    """Goal: release by token frees it for others."""
    (token,) = table.reserve(Reserve(session=1, inos=[10], ticket=1), NOW).tokens
    table.release(ReleaseLocks(1, [HeldLock(10, token)]), NOW)
    assert all(table.reserve(Reserve(session=2, inos=[10], ticket=1), NOW).tokens)


def test_nothing_is_reserved_before_the_sessions_are_back():
    """Goal: after a restart a lock that looks free may be held, so reservations give nothing."""
    locks = Locks()
    locks.begin(2, (5,), NOW)
    assert locks.reserve(Reserve(session=1, inos=[10], ticket=1), NOW).tokens == [0]


def test_too_large_a_reservation_is_refused(table):
    """Goal: every list has a limit."""
    with pytest.raises(errors.InvalidArgument):
        table.reserve(Reserve(session=1, inos=list(range(1, 2000)), ticket=1), NOW)
    assert table.list_locks(NOW).locks == []
