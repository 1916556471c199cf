"""Simulated time: an asyncio event loop whose clock jumps from one event to the next.

Every event belongs to a Life: one run of one program on one host. What a life schedules is dropped once it has ended,
as with a process that was killed, and waits while it is paused, as with one that was stopped or a laptop that sleeps.
Only the network and the world schedule across lives. Each life has its own clocks: a difference that no program may
depend on.

Events of one moment come in the order in which they were scheduled, as asyncio promises; that of different hosts is
shuffled by the network's delays.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

PATIENT = ("upkeep",)
"""Executors whose work waits behind that of others."""


class Life:
    """One run of a program on the host `name`; its clocks are `ahead_s` before the simulation's."""

    def __init__(self, name: str, ahead_s: float = 0.0):
        self.name, self.ahead_s = name, ahead_s
        self.alive, self.paused = True, False
        self.pauses: list[list[float]] = []
        self.deferred: list[Event] = []

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


class Event:
    """A callback that is due; what call_soon and call_at return."""

    __slots__ = ("life", "callback", "arguments", "context", "due", "_cancelled")

    def __init__(self, life: Life, due: float, callback: Callable, arguments: tuple, context: Any):
        self.life, self.due = life, due
        self.callback, self.arguments, self.context = callback, arguments, context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self.due

    def run(self) -> None:
        if self.context is None:
            self.callback(*self.arguments)
        else:
            self.context.run(self.callback, *self.arguments)


class SimulatedLoop(asyncio.AbstractEventLoop):
    """`run_until` is the only thing that moves time. An exception that nothing has caught ends it."""

    def __init__(self, disk_s: Callable[[], float]):
        self.now = 1000.0
        self.world = Life("world")
        self.life = self.world
        self.events = 0
        self._disk_s = disk_s
        self._ready: deque[Event] = deque()
        self._timers: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self._tasks: set[asyncio.Task] = set()
        self.failures: list[str] = []

    # -- what asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future:
        return asyncio.Future(loop=self)

    def create_task(self, work: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task:
        task = asyncio.Task(work, loop=self, name=name, context=context)
        # Of a life that has ended nothing runs any more, not even what a task does when it is given up.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call_soon(self, callback: Callable, *arguments: Any, context: Any = None) -> Event:
        event = Event(self.life, self.now, callback, arguments, context)
        self._ready.append(event)
        return event

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable, *arguments: Any, context: Any = None) -> Event:
        return self.call_at(self.now + delay, callback, *arguments, context=context)

    def call_at(self, when: float, callback: Callable, *arguments: Any, context: Any = None) -> Event:
        return self._at(self.life, when, callback, arguments, context)

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

    def for_life(self, life: Life, delay: float, callback: Callable, *arguments: Any) -> Event:
        """An event of another life."""
        return self._at(life, self.now + delay, callback, arguments, None)

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

    def _at(self, life: Life, when: float, callback: Callable, arguments: tuple, context: Any) -> Event:
        event = Event(life, when, callback, arguments, context)
        heapq.heappush(self._timers, (when, next(self._order), event))
        return event

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> bool:
        """Whether `done` came true by `end`; without it, time is `end` afterwards."""
        asyncio._set_running_loop(self)
        try:
            while True:
                self._take_due()
                if done is not None and done():
                    return True
                if self._ready:
                    self._run_ready()
                elif self._timers and self._timers[0][0] <= end:
                    self.now = max(self.now, self._timers[0][0])
                else:
                    self.now = max(self.now, end)
                    return False
        finally:
            asyncio._set_running_loop(None)

    def _take_due(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            self._ready.append(heapq.heappop(timers)[2])

    def _run_ready(self) -> None:
        for _ in range(len(self._ready)):
            event = self._ready.popleft()
            life = event.life
            if event._cancelled or not life.alive:
                continue
            if life.paused:
                life.deferred.append(event)
                continue
            self.life = life
            self.events += 1
            event.run()
        self.life = self.world
