"""The threads that serve requests, over a socket pair in place of /dev/fuse."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support import wait_until

from dfsfuse.drivers import fuse_workers
from dfsfuse.drivers.fuse_channel import HEAD, Interrupts, Request
from dfsfuse.drivers.fuse_workers import Looks, Workers

BLOCK = b"block"


class Served:
    """Workers whose answer is what they were asked. A request BLOCK waits until `free` is set."""

    def __init__(self, workers_max: int = 64):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(10)
        self.device = theirs.detach()
        self.free, self.blocked, self.threads = threading.Event(), threading.Semaphore(0), set()
        self.devices: set[int] = set()
        self.workers = Workers(self.device, self._answer, os.dup, workers_max)
        self.workers.start()

    def _answer(self, request: Request) -> None:
        self.threads.add(threading.current_thread())
        self.devices.add(request.device)
        asked = request.buffer[HEAD : request.end]
        if asked == BLOCK:
            self.blocked.release()
            self.free.wait()
        with contextlib.suppress(BrokenPipeError):
            os.write(request.device, asked)

    def ask(self, what: bytes) -> bytes:
        self.ours.send(what)
        return self.ours.recv(100)

    def block(self, count: int) -> None:
        """`count` requests are being answered, and stay so."""
        for _ in range(count):
            self.ours.send(BLOCK)
        for _ in range(count):
            assert self.blocked.acquire(timeout=10)

    def close(self) -> int:
        self.free.set()
        self.ours.shutdown(socket.SHUT_RDWR)
        left = self.workers.join()
        self.ours.close()
        os.close(self.device)
        return left


@contextlib.contextmanager
def serving(workers_max: int = 64) -> Iterator[Served]:
    served = Served(workers_max)
    try:
        yield served
    finally:
        assert served.close() == 0


def test_one_thread_as_long_as_requests_come_one_after_another():
    """Goal: no thread is added, and so none woken, where none keeps another waiting. (Where the machine lets a thread
    stand still in the middle of a request it looks as if it did; so there are some tries.)"""

    def one_thread() -> bool:
        with serving() as served:
            for number in range(1000):
                assert served.ask(b"%d" % number) == b"%d" % number
            return len(served.threads) == len(served.workers.all()) == 1

    assert any(one_thread() for _ in range(5))


@pytest.mark.parametrize("rested", [False, True])
def test_request_that_blocks_keeps_none_waiting(rested):
    """Goal: while one is being answered for long, others are answered at once, each by the descriptor of its own
    thread; also where nothing had happened for long before."""
    with serving() as served:
        if rested:
            wait_until(lambda: served.workers._resting, "the watch rests")
        served.block(1)
        started = time.monotonic()
        assert served.ask(b"quick") == b"quick"
        assert time.monotonic() - started < 0.5
        assert len(served.devices) == 2
        served.free.set()
        assert served.ours.recv(100) == BLOCK


def test_many_that_block():
    """Goal: fifty of them come under way within a moment, as ever more threads are added at once."""
    with serving() as served:
        started = time.monotonic()
        served.block(50)
        assert served.ask(b"quick") == b"quick"
        assert time.monotonic() - started < 2.0


def test_threads_are_bounded():
    """Goal: beyond the limit requests wait, and are answered once a thread is free."""
    with serving(workers_max=3) as served:
        served.block(3)
        served.ours.send(b"later")
        wait_until(lambda: len(served.workers.all()) == 3, "all threads are there")
        time.sleep(0.05)
        assert len(served.workers.all()) == 3
        served.free.set()
        assert sorted(served.ours.recv(100) for _ in range(4)) == [BLOCK, BLOCK, BLOCK, b"later"]


def test_idle_threads_end():
    """Goal: after a crowd a few are left at once, and after a while one, as requests come one after another again."""
    with serving() as served:
        served.block(40)
        served.free.set()
        for _ in range(40):
            assert served.ours.recv(100) == BLOCK

        def few() -> bool:
            served.ask(b"quick")
            return len(served.workers.all()) <= fuse_workers.IDLE_MAX + 1

        wait_until(few, "most threads end")
        open_before = len(os.listdir("/proc/self/fd"))

        def alone() -> bool:
            served.ask(b"quick")
            return len(served.workers.all()) == 1

        wait_until(alone, "one thread is left")
        wait_until(lambda: len(os.listdir("/proc/self/fd")) < open_before, "their descriptors are closed")


def test_watch_rests_while_nothing_happens():
    """Goal: an idle mount costs no wake-ups."""
    with serving() as served:
        served.ask(b"quick")
        wait_until(lambda: served.workers._resting, "the watch rests")
        switches = _switches()
        time.sleep(0.2)
        assert _switches() - switches < 20


def _switches() -> int:
    """Voluntary switches of all threads of this process, save this one's."""
    found = 0
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != threading.get_native_id():
            with open(f"/proc/self/task/{thread}/status") as status:
                found += sum(int(line.split()[1]) for line in status if line.startswith("voluntary"))
    return found


def test_end_waits_for_what_is_being_answered():
    """Goal: the end of the mount ends all threads, the last once it has answered."""
    served = Served()
    served.block(1)
    served.ours.shutdown(socket.SHUT_WR)
    assert served.workers.wait(10)
    threading.Timer(0.1, served.free.set).start()
    assert served.workers.join() == 0
    assert served.free.is_set()
    assert served.ours.recv(100) == BLOCK
    served.ours.close()
    os.close(served.device)


def test_thread_without_a_descriptor_of_its_own():
    """Goal: where the device cannot be cloned, threads share the mount's descriptor."""
    served = Served()

    def refused(device: int) -> int:
        raise PermissionError

    served.workers._clone = refused
    served.block(2)
    assert served.ask(b"quick") == b"quick"
    assert served.close() == 0


def test_no_thread_can_be_added(caplog):
    """Goal: where descriptors have run out, requests wait for a thread that is there, and the watch goes on."""
    with serving() as served:
        served.workers._further_device = lambda: os.dup(-1)
        served.block(1)
        served.ours.send(b"later")
        wait_until(lambda: "no thread can be added" in caplog.text, "the log says so")
        del served.workers._further_device
        assert served.ours.recv(100) == b"later"


# -- interrupts


def test_interrupts_may_come_first():
    """Goal: an INTERRUPT that is read before anybody has begun with its request counts all the same, for it alone."""
    interrupts, request = Interrupts(), Request(-1)
    interrupts.arrived(8)
    request.unique = 8
    assert interrupts.of(request)()
    request.unique = 10
    second = interrupts.of(request)
    assert not second()
    interrupts.arrived(10)
    request.unique = 12
    assert second()
    assert not interrupts.of(request)()
    interrupts.everything()
    assert interrupts.of(request)()


def test_interrupts_take_bounded_memory():
    """Goal: those that came too late for their requests do not pile up."""
    interrupts = Interrupts()
    for unique in range(20_000):
        interrupts.arrived(unique)
    assert len(interrupts._arrived) <= 4096
    assert interrupts.has(19_999)


# -- what the watch decides


class Counted:
    """A worker by its counts alone."""

    def __init__(self) -> None:
        self.begun = self.answered = 0

    @property
    def busy(self) -> bool:
        return self.begun != self.answered


def decisions(looks: Looks, workers: list[Counted], count: int, served: int, stuck: int = 0) -> list[int]:
    """How many threads are missing at each of `count` looks at which requests wait and all are busy; between two looks
    each worker answers `served` requests, save the first `stuck` ones, which stay with theirs."""
    found = []
    for worker in workers:
        worker.begun = worker.begun or 1
    for _ in range(count):
        for worker in workers[stuck:]:
            worker.begun, worker.answered = worker.begun + served, worker.begun + served - 1
        looks.look(workers, lambda: True)
        found.append(looks.missing)
    return found


def test_more_threads_while_all_are_with_long_requests():
    """Goal: the next look after the first adds one, then two, four, and never more than ADD_MAX at once."""
    workers = [Counted()]
    assert decisions(Looks(), workers, 6, 0, stuck=1) == [0, 1, 2, 4, 8, 8]


def test_no_more_threads_for_quick_requests():
    """Goal: many quick requests always look as if some waited; another thread would not help them."""
    assert not any(decisions(Looks(), [Counted()], 1000, 40))
    assert not any(decisions(Looks(), [Counted(), Counted()], 1000, 40, stuck=1))


def test_more_threads_where_slower_requests_queue_up():
    """Goal: requests that take a while each, and wait for each other all the time, get one thread after another."""
    found = decisions(Looks(), [Counted()], 40, 2)
    assert sum(found) == 40 // fuse_workers.QUEUED_LOOKS
    assert not any(found[:9])


def test_queue_that_empties_adds_nothing():
    """Goal: only what waits at look after look counts."""
    looks, workers = Looks(), [Counted()]
    for _ in range(20):
        assert not any(decisions(looks, workers, fuse_workers.QUEUED_LOOKS - 1, 2))
        looks.look(workers, lambda: False)


@pytest.mark.parametrize(("served", "stuck", "needed"), [(40, 0, 1), (40, 1, 2), (40, 2, 3), (2, 0, 4), (2, 1, 4)])
def test_threads_that_have_not_been_needed(served, stuck, needed):
    """Goal: quick requests need one thread beside those with long ones, slower ones all that are busy."""
    looks, workers = Looks(), [Counted() for _ in range(4)]
    decisions(looks, workers, 500, served, stuck)
    assert looks.surplus() == 4 - needed
