"""Simulated time: an asyncio event loop whose clock jumps from one event to the next.

Every event belongs to a Life: one run of one program on one host. What a life schedules is dropped once it has ended,
as with a process that was killed, and waits while it is paused, as with one that was stopped or a laptop that sleeps.
Only the network and the world schedule across lives. Each life has its own clocks: a difference that no program may
depend on.

Events of one moment come in the order in which they were scheduled, as asyncio promises; that of different hosts is
shuffled by the network's delays. Context variables are not kept: the product has none.
"""

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

PATIENT = ("upkeep",)
"""Executors whose work waits behind that of others."""


class Life:
    """One run of a program on the host `name`; its clocks are `ahead_s` before the simulation's."""

    def __init__(self, name: str, ahead_s: float = 0.0):
        self.name, self.ahead_s = name, ahead_s
        self.alive, self.paused = True, False
        self.pauses: list[list[float]] = []
        self.deferred: list[Due | Timer] = []

    def pause(self, now: float) -> None:
        if not self.paused:
            self.paused = True
            self.pauses.append([now, float("inf")])

    def ran_s_ago(self, seconds: float, now: float) -> float:
        """The time since which it has run for so long, pauses not counted."""
        since = now - seconds
        for began, ended in reversed(self.pauses):
            if since < min(ended, now):
                since -= min(ended, now) - began
        return since


Due = tuple[Life, Callable, tuple]
"""A callback with its arguments, and whose it is."""


class Timer(list):
    """What call_later and call_at return: a Due that has no callback once it is cancelled."""

    __slots__ = ()

    def cancel(self) -> None:
        self[1] = None

    def cancelled(self) -> bool:
        return self[1] is None


class SimulatedLoop(asyncio.AbstractEventLoop):
    """`run_until` is the only thing that moves time. An exception that nothing has caught ends it."""

    def __init__(self, disk_s: Callable[[], float]):
        self.now = 1000.0
        self.world = Life("world")
        self.life = self.world
        self.events = 0
        self._disk_s = disk_s
        self._ready: deque[Due | Timer] = deque()
        self._later: list[tuple[float, int, Due | Timer]] = []
        self.create_future = functools.partial(asyncio.Future, loop=self)
        self._order = itertools.count()
        self._tasks: list[tuple[Life, asyncio.Task]] = []
        self._tasks_kept = 0
        self._stopped = False
        self.failures: list[str] = []

    # -- what asyncio asks of a loop

    def time(self) -> float:
        return self.now

    get_debug = staticmethod(bool)
    """Each future asks: it is False, without a function of Python's."""

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_task(self, work: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task:
        task = asyncio.Task(work, loop=self, name=name, context=context)
        # Of a life that has ended nothing runs any more, not even what a task does when it is given up.
        self._tasks.append((self.life, task))
        if len(self._tasks) > 2 * self._tasks_kept + 50:
            self.forget_done()
        return task

    def forget_done(self) -> None:
        """An exception that nobody has asked a task for is told now."""
        self._tasks = [(life, task) for life, task in self._tasks if not (life.alive and task.done())]
        self._tasks_kept = len(self._tasks)

    def call_soon(self, callback: Callable, *arguments: Any, context: Any = None) -> None:
        """It cannot be cancelled."""
        self._ready.append((self.life, callback, arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable, *arguments: Any, context: Any = None) -> Timer:
        return self.call_at(self.now + delay, callback, *arguments)

    def call_at(self, when: float, callback: Callable, *arguments: Any, context: Any = None) -> Timer:
        timer = Timer((self.life, callback, arguments))
        if when > self.now:
            heappush(self._later, (when, next(self._order), timer))
        else:
            self._ready.append(timer)
        return timer

    def run_in_executor(self, executor: Any, work: Callable, *arguments: Any) -> asyncio.Future:
        """The work is done at one moment, a disk's time from now: nothing of a killed program's."""
        outcome = self.create_future()

        def do() -> None:
            try:
                result = work(*arguments)
            except Exception as error:
                if not outcome.done():
                    outcome.set_exception(error)
                return
            if not outcome.done():
                outcome.set_result(result)

        patient = getattr(executor, "name", "") in PATIENT
        self.call_later(self._disk_s() * (30 if patient else 1), do)
        return outcome

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.default_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(f"{self.life.name}: {context.get('message')}: {context.get('exception')!r}")

    # -- the simulation's part

    def stop(self) -> None:
        """For good, after the events of this moment."""
        self._stopped = True

    def for_life(self, life: Life, delay: float, callback: Callable, *arguments: Any) -> None:
        """An event of another life. It cannot be cancelled."""
        if delay > 0:
            heappush(self._later, (self.now + delay, next(self._order), (life, callback, arguments)))
        else:
            self._ready.append((life, callback, arguments))

    def hand_over(self, life: Life, callback: Callable, *arguments: Any) -> None:
        """Within an event of the world: what comes of it for another life, if that goes on, comes at once."""
        if life.paused:
            life.deferred.append((life, callback, arguments))
        elif life.alive:
            self.life = life
            callback(*arguments)
            self.life = self.world

    def within(self, life: Life, work: Callable[[], Any]) -> Any:
        """Do something as that life: what it schedules belongs to it."""
        former, self.life = self.life, life
        try:
            return work()
        finally:
            self.life = former

    def resume(self, life: Life) -> None:
        if life.paused:
            life.paused, life.pauses[-1][1] = False, self.now
        self._ready.extend(life.deferred)
        life.deferred.clear()

    def run_until(self, end: float) -> None:
        """All that is due by `end`, which is the time afterwards; or up to the event that has called `stop`."""
        asyncio._set_running_loop(self)
        try:
            self._run_until(end)
        finally:
            asyncio._set_running_loop(None)
        self.now = max(self.now, end)

    def _run_until(self, end: float) -> None:
        later, ready = self._later, self._ready
        while True:
            while ready:
                due = ready.popleft()
                life, callback, arguments = due
                if life.paused:
                    life.deferred.append(due)
                elif life.alive and callback is not None:
                    self.life = life
                    self.events += 1
                    callback(*arguments)
            self.life = self.world
            if not later or later[0][0] > end or self._stopped:
                return
            self.now = later[0][0]
            while later and later[0][0] == self.now:
                due = heappop(later)[2]
                if due[1] is not None:
                    ready.append(due)
