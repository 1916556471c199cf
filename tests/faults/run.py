"""A whole run: servers, clients and loads, what happens to them, and the look at what is there afterwards."""

import contextlib
import re
import sys
import time
from collections.abc import Iterable, Iterator

from . import checks, report, rounds
from .faults import LONG_S, NONE, Fault, long_cuts
from .lab import CLIENTS, Lab
from .running import CALLS, LOADS, Running

FIRST_S = 60.0
CALM_S = 5.0
SLOW_S = 10.0
ROUND_TRIP_S = 0.2
AGAIN_S = 3.0
_BEGAN_S = time.monotonic()
TAKEN_FOR_DEAD = (
    "does not answer", "is passed over until it answers", "cannot be renewed", "has ended at the directory",
    "the write lock of .* is lost", "locks of process .* are lost",
)  # fmt: skip
"""What servers and clients write into their logs when they give somebody up, or have been given up: expressions."""


def under_faults(lab: Lab, faults: list[Fault], seed: int) -> None:
    """AssertionError: something was not as promised."""
    lab.network.connect()
    lab.start()
    with _loads(lab, LOADS, seed) as loads:
        tell(f"no fault for {CALM_S:g} s: {report.waited(rounds.calm(loads, CALM_S))}")
        outcomes = []
        for number, fault in enumerate(faults, 1):
            outcomes.append(rounds.one(lab, loads, fault))
            tell(report.line(number, outcomes[-1]))
    tell("the worst of each:\n" + report.table(outcomes))
    _look(lab, loads, *CLIENTS, "m3")


def over_long_cuts(lab: Lab, seed: int) -> None:
    """Links are cut for longer than anybody waits; soon after they are whole everybody is answered who still waits."""
    lab.network.connect()
    lab.start(timeout_s=3 * LONG_S)
    with _loads(lab, CALLS, seed) as loads:
        for fault in long_cuts():
            outcome = rounds.one(lab, loads, fault)
            again = {load: round(again_s, 1) for load, again_s in outcome.resumed_s.items()}
            tell(f"{fault.name} for {outcome.held_s:.0f} s: again after {again} s, whole after {outcome.whole_s:.1f} s")
            assert max(again.values()) <= AGAIN_S, f"after {fault.name} it took longer than {AGAIN_S:g} s"
    _look(lab, loads, *CLIENTS, "m3")


def over_slow_links(lab: Lab, seed: int) -> None:
    """Everything goes on, slowly; nobody takes another one for dead because of it."""
    lab.network.connect_slowly(ROUND_TRIP_S)
    lab.start()
    before = {name: len(log) for name, log in lab.logs().items()}
    with _loads(lab, (*CALLS, "sqlite-m1"), seed) as loads:
        tell(f"round trips of {ROUND_TRIP_S:g} s for {SLOW_S:g} s: {report.waited(rounds.calm(loads, SLOW_S))}")
        rounds.go_on(loads, time.monotonic(), rounds.RESUMES_S, "at the end")
        rounds.check(lab, loads)
    for name, log in lab.logs().items():
        wrong = [line for line in log[before[name] :].splitlines() if tells_of_a_death(line)]
        assert not wrong, f"{name} takes somebody for dead: {wrong[:3]}"
    _look(lab, loads, "m3")


@contextlib.contextmanager
def _loads(lab: Lab, names: Iterable[str], seed: int) -> Iterator[list[Running]]:
    """These, at work; at the end of the block each ends between two steps."""
    folder = lab.folder / "journals"
    folder.mkdir()
    loads = [Running(name, folder, lab.clients[LOADS[name][1]].point, seed) for name in names]
    try:
        rounds.go_on(loads, time.monotonic(), FIRST_S, "at the beginning")
        yield loads
        for load in loads:
            load.end()
        rounds.judge(loads, NONE, "at the end")
    finally:
        for load in loads:
            load.kill()


def _look(lab: Lab, loads: list[Running], *clients: str) -> None:
    """From these clients; m3 has nothing in its cache. Then, with all clients gone, the checker looks."""
    lab.mount("m3")
    for name in clients:
        looked = checks.check_client(lab.clients[name].point, loads)
        tell(f"{name} finds all that was acknowledged: {looked} files, rows and commits")
    tell(f"conflict copies: {len(checks.copies(lab.clients['m3'].point))}")
    for name in list(lab.clients):
        lab.unmount(name)
    found = checks.check_volume(lab)
    tell(f"dfs check: nothing is wrong, short or in vain in {found['rows']} rows and {found['chunks']} chunks")


def tell(line: str) -> None:
    """With the time since the run began."""
    sys.stdout.write(f"{time.monotonic() - _BEGAN_S:6.1f} s  {line}\n")
    sys.stdout.flush()


def tells_of_a_death(line: str) -> bool:
    return any(re.search(what, line) for what in TAKEN_FOR_DEAD)


def ends_of_logs(lab: Lab) -> str:
    return "\n".join(f"--- {name}\n" + "\n".join(log.splitlines()[-15:]) for name, log in lab.logs().items())
