"""The main thread's wait for the end of a mount."""

import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from dfsfuse.drivers.wakeups import Wakeups


@pytest.fixture
def wakeups() -> Iterator[Wakeups]:
    with Wakeups() as made:
        yield made


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], None]], None]]:
    former = signal.getsignal(signal.SIGUSR1)
    yield lambda act: signal.signal(signal.SIGUSR1, lambda number, frame: act())
    signal.signal(signal.SIGUSR1, former)


def test_a_signal_that_comes_before_the_wait_ends_it(wakeups, on_signal):
    """Goal: a mount ends at a signal that comes in the moment before its client waits: one in forty was lost on a busy
    machine."""
    ended: list[bool] = []
    on_signal(lambda: ended.append(True))

    def done() -> bool:
        before = bool(ended)
        if not before:
            signal.raise_signal(signal.SIGUSR1)
        return before

    wakeups.wait(done)
    assert ended == [True]


def test_any_thread_ends_it(wakeups):
    """Goal: as where the mount is unmounted, which the thread sees that reads requests."""
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (ended.set(), wakeups.wake()))
    thread.start()
    wakeups.wait(ended.is_set)
    thread.join()


def test_a_thread_that_is_late_disturbs_nobody():
    """Goal: nothing is written to a descriptor that became somebody else's; signals wake whom they woke before."""
    former = signal.set_wakeup_fd(-1)
    with Wakeups() as wakeups:
        for _ in range(10_000):
            wakeups.wake()
        wakeups.wait(lambda: True)
    wakeups.wake()
    assert signal.set_wakeup_fd(former) == -1
