"""Runs many seeds in several processes, each seed in a fork of its own, and tells what came of them.

A fork has the product's modules as they were loaded, so no seed leaves anything for the next, and a seed replays
exactly whatever ran before it.
"""

import gc
import json
import logging
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

from simulation import faults, product, threads
from simulation.history import Violation
from simulation.world import World

CPU_S_MAX = 60
"""A run that takes longer goes in circles."""


class Twist(NamedTuple):
    """What is the same in all runs: a deliberate fault, and a kind of disaster that each run has."""

    fault: str = ""
    disaster: str = ""


NONE = Twist()


class Outcome(NamedTuple):
    """Of one seed. `violation` is empty if all promises were kept. `digest` is of all events, to compare two runs."""

    seed: int
    violation: str
    events: int
    operations: int
    simulated_s: float
    cpu_s: float
    given_up: bool
    digest: str


def run_seed(seed: int, twist: Twist = NONE, traced: bool = False) -> tuple[Outcome, list[str]]:
    """In this process, once: (outcome, trace)."""
    if twist.fault:
        faults.ALL[twist.fault]()
    world = World(seed, traced, twist.disaster)
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
        seed, violation, loop.events, len(world.files.writes) + len(world.name_ops), loop.now - 1000.0,
        time.process_time(), world.given_up, f"{loop.events}:{loop.now:.9f}:{len(world.files.writes)}",
    )  # fmt: skip
    return outcome, world.trace


def _check_metadata(world: World) -> None:
    """Whatever happened, the directory's rows fit each other, as `dfs check` has it."""
    from servers import check

    snapshot = world.servers.directory_disk.store.snapshot()
    wrong = [problem for page in check.pages(snapshot) for problem in page.problems]
    if wrong:
        raise Violation(f"the metadata is not whole: {wrong}")


class _logged:
    """What the product logs is a part of the trace."""

    def __init__(self, world: object, traced: bool):
        self._world, self._traced = world, traced

    def __enter__(self) -> None:
        if not self._traced:
            logging.disable(logging.CRITICAL)
            return
        note = self._world.note

        class ToTrace(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                note(threads.Scheduler.loop.life.name, f"({record.levelname.lower()}) {record.getMessage()}")

        logging.getLogger().addHandler(ToTrace())
        logging.getLogger().setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None: ...


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
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S_MAX)
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
    found = result(*in_fork(lambda: run_seed(seed, twist, traced=True)))
    if found is None:
        return _stuck(seed), []
    return Outcome(*found[0]), found[1]


def _stuck(seed: int) -> Outcome:
    return Outcome(seed, f"S13: the run has not ended after {CPU_S_MAX} s of processor time", 0, 0, 0.0, 0.0, False, "")


def outcomes(first: int, count: int, twist: Twist = NONE, jobs: int = 2) -> Iterator[Outcome]:
    """Of each seed, as they end. Closing the iterator ends what runs."""
    product.load()
    gc.collect()
    gc.freeze()
    waiting, running = iter(range(first, first + count)), {}
    try:
        while True:
            while len(running) < jobs and (seed := next(waiting, None)) is not None:
                process, read = in_fork(lambda seed=seed: run_seed(seed, twist)[0])
                running[read] = seed, process
            if not running:
                return
            for read in _readable(list(running)):
                seed, process = running.pop(read)
                found = result(process, read)
                yield Outcome(*found) if found is not None else _stuck(seed)
    finally:
        for read, (_, process) in running.items():
            os.kill(process, signal.SIGKILL)
            result(process, read)


def _readable(descriptors: list[int]) -> list[int]:
    import select

    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return [descriptor for descriptor, _ in poll.poll()]
