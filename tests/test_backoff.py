"""How long what failed is left alone."""

from dfsfuse.backoff import Backoff


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def pause_s(backoff: Backoff, clock: Clock) -> float:
    """Until it is due, in steps of a second."""
    began = clock.now
    while not backoff.is_due("file"):
        clock.now += 1.0
    return clock.now - began


def test_pauses_double_up_to_a_minute():
    """Goal: what fails again and again is tried more and more rarely, and never more rarely than once a minute."""
    clock = Clock()
    backoff = Backoff(clock)
    pauses = []
    for _ in range(8):
        backoff.failed("file")
        pauses.append(pause_s(backoff, clock))
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_what_is_worth_a_try_is_due_at_once():
    """Goal: once a server is back everything is tried, and short pauses come first again."""
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.failed("file")
    backoff.forget_all()
    assert backoff.is_due("file")
    backoff.failed("file")
    assert pause_s(backoff, clock) == 2


def test_who_waits_for_a_lock_asks_often():
    """Goal: waiting makes no pause longer, and each file has its own."""
    clock = Clock()
    backoff = Backoff(clock)
    backoff.failed("other")
    for _ in range(5):
        backoff.waits("file")
        assert not backoff.is_due("file")
        assert pause_s(backoff, clock) == 2
    backoff.forget("other")
    assert backoff.is_due("other")
