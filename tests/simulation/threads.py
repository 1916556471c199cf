"""Threads of the simulated clients: greenlets that give way only where a real thread would wait.

What stands here for the modules threading, concurrent.futures and queue has as much of them as the product uses. Which
thread goes first where several could is decided by the simulation's order of events, and now and then a thread gives
way before it takes a lock, as the operating system might make it.
"""

import random
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

from simulation.loop import SimulatedLoop

YIELD_EACH = 50


class _Scheduler:
    """Which loop runs the threads; one in a process. Before one of YIELD_EACH locks is taken, its thread gives way:
    `locks_left` are taken before, which `random` decides each time."""

    __slots__ = ("loop", "hub", "random", "locks_left")

    loop: SimulatedLoop
    hub: greenlet
    random: random.Random
    locks_left: int


Scheduler = _Scheduler()
"""An object, as Python forgets all that it knows of a class whose attribute is set."""


def begin(loop: SimulatedLoop, source: random.Random) -> None:
    Scheduler.loop, Scheduler.hub, Scheduler.random, Scheduler.locks_left = loop, getcurrent(), source, 1


def _give_way() -> None:
    Scheduler.locks_left = 1 + int(Scheduler.random.expovariate(1 / YIELD_EACH))
    sleep(0.0)


def is_thread() -> bool:
    return getcurrent() is not Scheduler.hub


class Wait:
    """One wait of a thread: it ends once, whoever comes first."""

    __slots__ = ("_thread", "_over", "woken")

    def __init__(self) -> None:
        self._thread, self._over, self.woken = getcurrent(), False, False

    def end(self, value: Any = None) -> None:
        if not self._over:
            self._over = True
            self._thread.switch(value)

    def wake(self) -> None:
        """Soon, as an event of the present life."""
        self.woken = True
        Scheduler.loop.call_soon(self.end)

    def until(self, timeout_s: float | None = None) -> Any:
        """What `end` is given, or None after the time-out."""
        if timeout_s is None:
            return Scheduler.hub.switch()
        timer = Scheduler.loop.call_later(max(0.0, timeout_s), self.end)
        try:
            return Scheduler.hub.switch()
        finally:
            timer.cancel()


def sleep(seconds: float) -> None:
    Wait().until(seconds)


_idle: list[greenlet] = []
"""Whose work has ended; a new one costs a page of memory, fresh from the kernel."""


def spawn(work: Callable[[], None]) -> None:
    """A thread of the present life; an exception that leaves it ends the simulation with its traceback."""
    thread = _idle.pop() if _idle else greenlet(_work_for_ever, Scheduler.hub)
    Scheduler.loop.call_soon(thread.switch, work)


def _work_for_ever(work: Callable[[], None]) -> None:
    while True:
        work()
        _idle.append(getcurrent())
        work = Scheduler.hub.switch()


class Waiters(deque[Wait]):
    """Threads that wait for something, first come first served."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it was woken within the time."""
        mine = Wait()
        self.append(mine)
        mine.until(timeout_s)
        if not mine.woken:
            self.remove(mine)
        return mine.woken

    def wake(self, count: int = 1) -> None:
        while self and count:
            self.popleft().wake()
            count -= 1


class RLock:
    """threading.RLock; of a plain Lock it differs in what its owner may do."""

    again = True

    def __init__(self) -> None:
        self._owner: Any = None
        self._depth = 0
        self._waiters = Waiters()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = getcurrent()
        if self._owner is None:
            if blocking and me is not Scheduler.hub:
                Scheduler.locks_left -= 1
                if not Scheduler.locks_left:
                    _give_way()
        elif self._owner is me and self.again:
            self._depth += 1
            return True
        while self._owner is not None:
            if not blocking:
                return False
            assert is_thread(), "the simulation itself waits for a lock"
            self._waiters.wait()
        self._owner, self._depth = me, 1
        return True

    def __enter__(self) -> bool:
        """`acquire`, most often on the shortest way."""
        me, scheduler = getcurrent(), Scheduler
        if self._owner is None and scheduler.locks_left > 1 and me is not scheduler.hub:
            scheduler.locks_left -= 1
            self._owner, self._depth = me, 1
            return True
        return self.acquire()

    def release(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            if self._waiters:
                self._waiters.wake()

    __exit__ = release

    def locked(self) -> bool:
        return self._owner is not None


class Lock(RLock):
    again = False


class Condition:
    def __init__(self, lock: RLock | None = None):
        self._lock = lock or RLock()
        self._waiters = Waiters()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        depth, self._lock._depth = self._lock._depth, 1
        self._lock.release()
        try:
            return self._waiters.wait(timeout)
        finally:
            self._lock.acquire()
            self._lock._depth = depth

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        end = None if timeout is None else Scheduler.loop.now + timeout
        while not predicate():
            left = None if end is None else end - Scheduler.loop.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return predicate()

    def notify(self, n: int = 1) -> None:
        self._waiters.wake(n)

    def notify_all(self) -> None:
        self._waiters.wake(sys.maxsize)


class Flag:
    """threading.Event."""

    def __init__(self) -> None:
        self._set, self._waiters = False, Waiters()

    def set(self) -> None:
        self._set = True
        self._waiters.wake(sys.maxsize)

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._waiters.wait(timeout)
        return self._set


class Thread:
    def __init__(
        self, target: Callable, name: str = "", args: tuple = (), kwargs: dict | None = None, daemon: bool = False
    ):
        self.name, self._work = name, lambda: target(*args, **(kwargs or {}))
        self._begun = False
        self._over = Flag()

    def start(self) -> None:
        self._begun = True
        spawn(self._run)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._over.set()

    def is_alive(self) -> bool:
        return self._begun and not self._over.is_set()

    def join(self, timeout: float | None = None) -> None:
        self._over.wait(timeout)


class Future:
    """concurrent.futures.Future of work that a thread does."""

    def __init__(self) -> None:
        self._done, self._begun, self._cancelled = Flag(), False, False
        self._result: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future], Any]] = []

    def add_done_callback(self, callback: "Callable[[Future], Any]") -> None:
        self._callbacks.append(callback)

    def run(self, work: Callable[[], Any]) -> None:
        if self._cancelled:
            return
        self._begun = True
        try:
            self._result = work()
        except BaseException as error:
            self._error = error
        self._end()

    def _end(self) -> None:
        self._done.set()
        for callback in self._callbacks:
            callback(self)

    def cancel(self) -> bool:
        if not self._begun and not self._cancelled:
            self._cancelled = True
            self._end()
        return self._cancelled

    def cancelled(self) -> bool:
        return self._cancelled

    def exception(self) -> BaseException | None:
        self._done.wait()
        return self._error

    def result(self) -> Any:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class ThreadPoolExecutor:
    """At most `max_workers` at a time; threads are made as they are needed. A server's only names one: its work is
    the loop's."""

    def __init__(self, max_workers: int, thread_name_prefix: str = ""):
        self.name = thread_name_prefix
        self._idle = max_workers
        self._queue: deque[tuple[Future, Callable[[], Any]]] = deque()

    def submit(self, work: Callable, *arguments: Any) -> Future:
        future = Future()
        self._queue.append((future, lambda: work(*arguments)))
        if self._idle:
            self._idle -= 1
            spawn(self._work)
        return future

    def _work(self) -> None:
        while self._queue:
            future, work = self._queue.popleft()
            future.run(work)
        self._idle += 1

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        while cancel_futures and self._queue:
            self._queue.popleft()[0].cancel()


class SimpleQueue:
    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._changed = Condition()

    def put(self, item: Any) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def get(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            return self._items.popleft()
