"""Python's full search for garbage, at moments in which nobody waits; and what was freed goes back to the system.

Reference counts free nearly all of it at once; what is searched for is what refers to itself in circles. A full search
looks at each object, and meanwhile nothing is answered: with 6,000 files known it takes 20 ms, and Python begins it in
the middle of work, whenever a quarter more objects have come to be. Here it is begun when the process has had nothing
to do for LOOK_S, and has done WORK_S since the last one. Searches among the youngest objects, which find most, are
short and stay; those among the next generation come more often, so that each has less to look at.

What was freed goes back to the system then, too (allocator.py), and after each WORK_S without an idle moment.

Threads: one of its own. Python's collector belongs to the whole process.
"""

import gc
import threading
import time
from collections.abc import Callable

from dfsfuse import allocator

LOOK_S = 1.0
IDLE_S = 0.02
"""Processor time within LOOK_S that counts as nothing to do."""
WORK_S, WORK_S_MAX = 5.0, 120.0
"""Processor time between two full searches: if there is an idle moment, and if there is none. Memory is given back each
WORK_S."""
_THRESHOLDS = 700, 2, 1 << 30
"""Of Python's three generations; its own are 700, 10 and 10."""


class IdleCollection:
    """`spent_s` tells the processor time of the process so far."""

    def __init__(
        self,
        spent_s: Callable[[], float] = time.process_time,
        collect: Callable[[], object] = gc.collect,
        give_back: Callable[[], object] = allocator.give_back,
    ) -> None:
        self._spent_s, self._collect, self._give_back = spent_s, collect, give_back
        self._before_s = self._collected_s = self._given_back_s = spent_s()

    def begin(self) -> None:
        """What the process has been made of is never searched again."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
        threading.Thread(target=self._look_for_ever, name="collect", daemon=True).start()

    def look(self) -> None:
        """Called each LOOK_S."""
        spent_s = self._spent_s()
        idle, work_s = spent_s - self._before_s < IDLE_S, spent_s - self._collected_s
        if work_s >= (WORK_S if idle else WORK_S_MAX):
            self._collect()
            spent_s = self._collected_s = self._spent_s()
        if spent_s - self._given_back_s >= WORK_S:
            self._give_back()
            spent_s = self._given_back_s = self._spent_s()
        self._before_s = spent_s

    def _look_for_ever(self) -> None:
        while True:
            time.sleep(LOOK_S)
            self.look()
