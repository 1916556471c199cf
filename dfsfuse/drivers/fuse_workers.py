"""The threads that serve requests: one as long as they come one after another, more as soon as one keeps another
waiting.

Each thread reads a request itself, answers it, and reads the next: handing it over to another thread, or waking
several threads, would cost more than most requests do. So there is normally one thread, and a second reader would
only take turns with it. A further thread, the watch, looks each LOOK_S whether requests wait while all threads are
busy. Where all are with the same requests as at the look before, it adds threads: one, then twice as many each time, up
to ADD_MAX; and one where requests that are not quick have waited at QUEUED_LOOKS looks. Threads that have not been
needed for JUDGED_LOOKS end, each after its next request; and beyond IDLE_MAX idle ones they end as soon as they have
answered.

Threads: those that it makes. A worker's fields are written by its own thread alone; `_mutex` guards the list of
workers. The watch says that it rests and then looks who is busy, a worker says that it is busy and then looks whether
the watch rests: so one of them sees the other.
"""

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable

from dfsfuse.drivers.fuse_channel import Request

log = logging.getLogger(__name__)

LOOK_S = 0.002
WORKERS_MAX = 256
IDLE_MAX = 10
ADD_MAX = 8
QUEUED_LOOKS = 10
QUICK_A_LOOK = 10
QUIET_LOOKS = 5
JUDGED_LOOKS = 500
_LAST_READ_S = 1.0


class Worker:
    """One thread and its descriptor; the first one has the mount's own, and stays. How many requests it has begun with,
    and how many of them it has answered."""

    def __init__(self, device: int, first: bool):
        self.request, self.first = Request(device), first
        self.begun = self.answered = 0
        self.thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return self.begun != self.answered


class Looks:
    """What the watch has seen, look after look. `missing` is how many threads to add now, `quiet` how many looks in a
    row have found a thread idle.

    A request is long if it was there at the look before. Requests are quick while a thread answers more than
    QUICK_A_LOOK of them between two looks: then further threads would only be in each other's way.
    """

    def __init__(self) -> None:
        self.missing = self.quiet = self.workers = self._queued = self._added = 0
        self._before: dict[Worker, int] = {}
        self.begin_judging()

    def begin_judging(self) -> None:
        self.count = self._busy = self._long = self._served = 0

    def look(self, workers: list[Worker], requests_wait: Callable[[], bool]) -> None:
        before, self._before = self._before, {worker: worker.begun for worker in workers}
        busy = [worker for worker in workers if worker.busy]
        long = sum(before.get(worker) == worker.begun for worker in busy)
        served = sum(begun - before.get(worker, begun) for worker, begun in self._before.items())
        self.count, self.workers = self.count + 1, len(workers)
        self._busy, self._long, self._served = self._busy + len(busy), self._long + long, self._served + served
        self._decide(len(busy) == len(workers) and requests_wait(), long, served)
        self.quiet = self.quiet + 1 if len(busy) < len(workers) else 0

    def _decide(self, waiting: bool, long: int, served: int) -> None:
        self.missing = 0
        if not waiting:
            self._queued = self._added = 0
        elif long == self.workers:
            self.missing = self._added = min(2 * self._added or 1, ADD_MAX)
        elif served <= QUICK_A_LOOK * self.workers:
            self._queued += 1
            self.missing = int(self._queued % QUEUED_LOOKS == 0)

    def surplus(self) -> int:
        """How many threads have not been needed of late."""
        quick = self._served > QUICK_A_LOOK * self.workers * self.count
        needed = round(self._long / self.count) + 1 if quick else round(self._busy / self.count)
        return max(0, self.workers - max(1, needed))


class Workers:
    """`answer` is called with each request, and never raises. `clone` makes a descriptor for a further thread.
    `on_end` comes at the end of the mount, from any thread, and perhaps more than once."""

    def __init__(
        self,
        device: int,
        answer: Callable[[Request], None],
        clone: Callable[[int], int],
        workers_max: int = WORKERS_MAX,
        on_end: Callable[[], None] = lambda: None,
    ):
        self._device, self._answer, self._clone, self._max = device, answer, clone, workers_max
        self._mutex = threading.Lock()
        self._workers: list[Worker] = []
        self._ended, self._on_end = threading.Event(), on_end
        self._surplus = 0
        self._resting = False
        self._rouse = threading.Event()
        self._watch = threading.Thread(target=self._watch_for_ever, name="fuse-watch", daemon=True)

    def start(self) -> None:
        self._add(Worker(self._device, first=True))
        self._watch.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until a thread has seen the end of the mount; False: not within the time."""
        return self._ended.wait(timeout_s)

    def stop(self) -> None:
        """As if a thread had seen the end of the mount."""
        self._ended.set()
        self._rouse.set()
        self._on_end()

    def finish(self, timeout_s: float) -> bool:
        """Wait until nothing is being answered; False: not within the time."""
        deadline = time.monotonic() + timeout_s
        while busy := self.busy():
            if time.monotonic() > deadline:
                break
            time.sleep(LOOK_S)
        return not busy

    def join(self) -> int:
        """Wait for what is being answered after the end; how many threads are left in a read that does not end, as the
        mount is still used."""
        self.stop()
        self._watch.join()
        self.finish(math.inf)
        deadline = time.monotonic() + _LAST_READ_S
        for worker in self.all():
            worker.thread.join(max(0.0, deadline - time.monotonic()))
        return len(self.all())

    def all(self) -> list[Worker]:
        with self._mutex:
            return list(self._workers)

    def busy(self) -> int:
        return sum(worker.busy for worker in self.all())

    # -- a worker's life

    def _add(self, worker: Worker) -> None:
        worker.thread = threading.Thread(target=self._serve, args=(worker,), name="fuse", daemon=True)
        with self._mutex:
            self._workers.append(worker)
        try:
            worker.thread.start()
        except RuntimeError:
            self._gone(worker)
            raise

    def _serve(self, worker: Worker) -> None:
        request, answer = worker.request, self._answer
        try:
            while request.receive():
                worker.begun += 1
                if self._resting:
                    self._rouse.set()
                answer(request)
                worker.answered = worker.begun
                if (self._surplus or len(self._workers) > IDLE_MAX) and self._leaves(worker):
                    return
            self.stop()
        finally:
            self._gone(worker)

    def _leaves(self, worker: Worker) -> bool:
        """Is this one too many?"""
        with self._mutex:
            if worker.first:
                return False
            if self._surplus > 0:
                self._surplus -= 1
                return True
            return sum(not each.busy for each in self._workers) > IDLE_MAX

    def _gone(self, worker: Worker) -> None:
        with self._mutex:
            self._workers.remove(worker)
        if not worker.first:
            os.close(worker.request.device)
        worker.request.close()

    # -- the watch

    def _watch_for_ever(self) -> None:
        waiting = select.poll()
        waiting.register(self._device, select.POLLIN)
        looks = Looks()
        while not self._ended.is_set():
            time.sleep(LOOK_S)
            looks.look(self.all(), lambda: bool(waiting.poll(0)))
            self._grow(min(looks.missing, self._max - looks.workers))
            if looks.quiet > QUIET_LOOKS:
                self._rest()
                looks.quiet = 0
            if looks.count == JUDGED_LOOKS:
                self._surplus = looks.surplus()
                looks.begin_judging()

    def _rest(self) -> None:
        """Until the next request, as long as a thread is there to read it."""
        self._rouse.clear()
        self._resting = True
        if not all(worker.busy for worker in self.all()) and not self._ended.is_set():
            self._rouse.wait()
        self._resting = False

    def _grow(self, count: int) -> None:
        try:
            for _ in range(count):
                self._add(Worker(self._further_device(), first=False))
        except (OSError, RuntimeError, MemoryError) as error:
            # No descriptor, thread or memory is left just now; the next look tries again.
            log.warning("requests wait, and no thread can be added: %s", error)

    def _further_device(self) -> int:
        """Where /dev/fuse may not be opened (fusermount3 did it), threads read from the mount's own descriptor."""
        try:
            return self._clone(self._device)
        except OSError:
            return os.dup(self._device)
