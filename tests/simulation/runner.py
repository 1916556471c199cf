"""Runs many seeds in several processes, and tells what came of them.

Each process is a fork that has the product's modules as they were loaded and have run a little, and runs some seeds one
after the other: the first costs more than those that follow. What one leaves behind, from threads to files, stays where
it is until the process ends. Modules keep nothing that the next seed depends on; that a seed replays exactly, whatever
ran before it, is tested, and one that fails is run again as the first of a process before it is told.
"""

import contextlib
import gc
import json
import logging
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from simulation import faults, pages, product, threads
from simulation.history import Violation
from simulation.world import World

CPU_S_MAX = 60
"""A run that takes longer goes in circles."""
SEEDS_IN_A_ROW, WARMING_SEEDS = 25, 3


class Twist(NamedTuple):
    """What is the same in all runs: a deliberate fault, and a kind of disaster that each run has."""

    fault: str = ""
    disaster: str = ""


NONE = Twist()


class Outcome(NamedTuple):
    """Of one seed. `violation` is empty if all promises were kept. `digest` is of all that was drawn, to compare two
    runs."""

    seed: int
    violation: str
    events: int
    operations: int
    simulated_s: float
    cpu_s: float
    given_up: bool
    digest: str


_worlds: list[World] = []
"""All of this process: their threads and tasks stand still for ever, and do not end as garbage in a later one."""


def run_seed(seed: int, disaster: str = "", traced: bool = False) -> tuple[Outcome, list[str]]:
    """In this process, which is a fork: (outcome, trace)."""
    began_s = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S_MAX)
    world = World(seed, traced, disaster)
    _worlds.append(world)
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: world.loop.failures.append(f"warning: {message}")
    violation = ""
    try:
        with _logged(world, traced):
            world.run()
        _check_metadata(world)
    except Violation as error:
        violation = str(error)
    except BaseException as error:
        violation = f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error)[-12:])}"
    loop = world.loop
    outcome = Outcome(
        seed, violation, loop.events, len(world.files.writes) + len(world.names.ops), loop.now - 1000.0,
        time.process_time() - began_s, world.given_up, f"{loop.events} {loop.now:.9f} {world.drawn()}",
    )  # fmt: skip
    return outcome, world.trace


def _check_metadata(world: World) -> None:
    """Whatever happened, the directory's rows fit each other, as `dfs check` has it."""
    from servers import check

    snapshot = world.servers.directory_disk.store.snapshot()
    wrong = [problem for page in check.pages(snapshot) for problem in page.problems]
    if wrong:
        raise Violation(f"{faults.CHECK}: the metadata is not whole: {wrong}")


class _logged:
    """What the product logs is a part of the trace."""

    def __init__(self, world: object, traced: bool):
        self._world, self._traced = world, traced

    def __enter__(self) -> None:
        if not self._traced:
            logging.disable(logging.CRITICAL)
            return
        logging.disable(logging.NOTSET)
        note = self._world.note

        class ToTrace(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                note(threads.Scheduler.loop.life.name, f"({record.levelname.lower()}) {record.getMessage()}")

        logging.getLogger().addHandler(ToTrace())
        logging.getLogger().setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None: ...


@contextlib.contextmanager
def in_memory() -> Iterator[None]:
    """The files of runs are in this machine's memory, and none is left, also of a process that was killed."""
    top, before = "/dev/shm" if os.path.isdir("/dev/shm") else None, tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="dfs-simulation-", dir=top, ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def in_fork(work: Callable[[], object]) -> tuple[int, int]:
    """(process, descriptor from which the JSON of what `work` returns can be read)."""
    read, write = os.pipe()
    process = os.fork()
    if process:
        os.close(write)
        return process, read
    os.close(read)
    try:
        gc.disable()
        pages.make_large()
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        with open(write, "w") as out:
            json.dump(work(), out)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def result(process: int, read: int) -> object | None:
    """What the work has returned; None if it did not get so far."""
    with open(read) as source:
        text = source.read()
    os.waitpid(process, 0)
    return json.loads(text) if text else None


def traced(seed: int, twist: Twist) -> tuple[Outcome, list[str]]:
    """The outcome and the whole trace of one seed."""
    product.load()

    def run() -> tuple[Outcome, list[str]]:
        _put_in(twist.fault)
        return run_seed(seed, twist.disaster, traced=True)

    with in_memory():
        found = result(*in_fork(run))
    if found is None:
        return _stuck(seed), []
    return Outcome(*found[0]), found[1]


def _stuck(seed: int) -> Outcome:
    return Outcome(seed, f"S13: the run has not ended after {CPU_S_MAX} s of processor time", 0, 0, 0.0, 0.0, False, "")


def _put_in(fault: str) -> None:
    if fault:
        faults.ALL[fault].install()


def _run_row(seeds: list[int], twist: Twist) -> list[Outcome]:
    """One after the other, up to the first that fails."""
    _put_in(twist.fault)
    ended: list[Outcome] = []
    for seed in seeds:
        ended.append(run_seed(seed, twist.disaster)[0])
        if ended[-1].violation:
            break
    return ended


def outcomes(
    first: int, count: int, twist: Twist = NONE, jobs: int = 2, row: int = SEEDS_IN_A_ROW
) -> Iterator[Outcome]:
    """Of each seed, as they end; `row` of them are run by one process. Closing the iterator ends what runs."""
    product.load()
    rows = Rows(first, count, max(1, min(row, count // jobs)))
    with in_memory(), contextlib.ExitStack() as at_end:
        _warm_up()
        running: dict[int, tuple[list[int], int]] = {}
        at_end.callback(_kill, running)
        while rows.waiting or running:
            while len(running) < jobs and rows.waiting:
                seeds = rows.waiting.popleft()
                process, read = in_fork(lambda seeds=seeds: _run_row(seeds, twist))
                running[read] = seeds, process
            for read in _readable(list(running)):
                seeds, process = running.pop(read)
                yield from rows.ended(seeds, result(process, read))


def _warm_up() -> None:
    """Python makes code quicker as it runs, and forks have it as it is then. What comes of these runs is not told."""
    gc.collect()
    gc.freeze()
    gc.disable()
    signal.signal(signal.SIGVTALRM, _give_up)
    for seed in range(WARMING_SEEDS):
        run_seed(seed)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _give_up(*_: object) -> None:
    raise TimeoutError


def _kill(running: dict[int, tuple[list[int], int]]) -> None:
    for read, (_, process) in running.items():
        os.kill(process, signal.SIGKILL)
        result(process, read)


class Rows:
    """The seeds that wait for a process, row by row."""

    def __init__(self, first: int, count: int, length: int):
        seeds = list(range(first, first + count))
        self.waiting = deque(seeds[at : at + length] for at in range(0, count, length))
        self._failed: dict[int, str] = {}

    def ended(self, seeds: list[int], found: list[list] | None) -> list[Outcome]:
        """What is to be told of a row; None: its process did not end by itself. The rest waits again."""
        if found is None and len(seeds) > 1:
            self.waiting.extendleft([seed] for seed in reversed(seeds))
            return []
        told = [_stuck(seeds[0])] if found is None else [Outcome(*row) for row in found]
        if told[-1].violation and len(told) > 1:
            failed = told.pop()
            self._failed[failed.seed] = failed.violation
        if rest := seeds[len(told) :]:
            self.waiting.appendleft(rest)
        return [self._compared(outcome) for outcome in told]

    def _compared(self, outcome: Outcome) -> Outcome:
        """A seed that has failed must do so again as the first of a process."""
        before = self._failed.get(outcome.seed, outcome.violation)
        if before == outcome.violation:
            return outcome
        return outcome._replace(violation=f"not the same alone ({outcome.violation or 'no violation'}): {before}")


def _readable(descriptors: list[int]) -> list[int]:
    import select

    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return [descriptor for descriptor, _ in poll.poll()]
