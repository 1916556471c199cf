"""One fault after another, under load: each is held, undone, and over when everybody works again."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from support import wait_until

from .faults import NONE, Errors, Fault
from .lab import Lab
from .running import CALLS, Running

RESUMES_S = 20.0
PROGRAMS_S = 60.0
"""The same for programs, whose steps are many calls."""
WHOLE_S = 120.0


class Outcome(NamedTuple):
    """Of one fault. `stood_s`: load -> the longest time without a step, of which a part lies between the fault and its
    end. `resumed_s`: load -> from its undoing until it had done a step that began after it. `whole_s`: until nothing
    was down, and nothing was to be repaired. `failures`: load -> steps that ended with an error."""

    fault: Fault
    held_s: float
    stood_s: dict[str, float]
    resumed_s: dict[str, float]
    whole_s: float
    failures: dict[str, list[str]]


def go_on(loads: Iterable[Running], since_s: float, calls_s: float, when: str) -> dict[str, float]:
    """Wait until each has done a step that began after `since_s`: when that was. Calls must have within `calls_s`,
    programs within PROGRAMS_S."""
    loads = list(loads)

    def has_gone_on(load: Running) -> bool:
        within_s = calls_s if load.name in CALLS else PROGRAMS_S
        gone_on = load.update().first_since(since_s) is not None
        assert gone_on or time.monotonic() < since_s + within_s, (
            f"{when} {load.name} did nothing for {within_s:g} s, with these errors: {load.failures(since_s)[-3:]}"
        )
        return gone_on

    wait_until(lambda: all(has_gone_on(load) for load in loads), f"{when} all loads go on", 2 * PROGRAMS_S)
    return {load.name: load.first_since(since_s) - since_s for load in loads}


def one(lab: Lab, loads: list[Running], fault: Fault) -> Outcome:
    began_s = time.monotonic()
    fault.do(lab)
    done_s = time.monotonic()
    go_on(filter(fault.lets_go_on, loads), done_s, fault.go_on_s, f"during {fault.name}")
    wait_until(lambda: time.monotonic() >= done_s + fault.hold_s, "the fault has lasted", fault.hold_s + 1)
    fault.undo(lab)
    undone_s = time.monotonic()
    resumed_s = go_on(loads, undone_s, RESUMES_S, f"after {fault.name}")
    again_s = time.monotonic()
    wait_whole(lab, f"after {fault.name}")
    whole_s = time.monotonic()
    check(lab, loads)
    stood_s = {load.name: load.stood_still_s(began_s, again_s) for load in loads}
    failures = judge(loads, fault.errors, f"with {fault.name}")
    return Outcome(fault, undone_s - done_s, stood_s, resumed_s, whole_s - undone_s, failures)


def judge(loads: Iterable[Running], allowed: Errors, when: str) -> dict[str, list[str]]:
    """Load -> errors with which its steps have ended since they were judged last. AssertionError for one that is not
    allowed."""
    failures = {load.name: said for load in loads if (said := load.new_failures())}
    wrong = [f"{name}: {error}" for name, said in failures.items() for error in said if not allowed.allow(name, error)]
    assert not wrong, f"errors {when}, where none is allowed but {allowed}: {wrong[:5]}"
    return failures


def calm(loads: list[Running], for_s: float) -> dict[str, float]:
    """Nothing happens for so long: the longest time without a step of each load."""
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() >= began_s + for_s, "some time without faults", for_s + 1)
    judge(loads, NONE, "without a fault")
    return {load.name: load.update().stood_still_s(began_s, began_s + for_s) for load in loads}


def wait_whole(lab: Lab, when: str) -> None:
    try:
        wait_until(lab.is_whole, "", WHOLE_S)
    except AssertionError:
        raise AssertionError(f"{when}, not within {WHOLE_S:g} s: {lab.what_lacks()}") from None


def check(lab: Lab, loads: list[Running]) -> None:
    """Nobody has seen what must never be, and nobody has ended by himself."""
    wrong = [what for load in loads for what in load.update().wrong]
    assert not wrong, "\n".join(wrong)
    lab.check_lives()
