"""One fault after another, under load: each is held, undone, and over when everybody works again."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from support import wait_until

from .faults import Fault
from .lab import Lab
from .running import Running

GOES_ON_S = 30.0
RESUMES_S = 60.0
WHOLE_S = 120.0


class Outcome(NamedTuple):
    """Of one fault. `stood_s`: load -> the longest time without a step, of which a part lies between the fault and its
    end. `resumed_s`: from its undoing until each load had done a step that began after it. `whole_s`: until nothing was
    down, and nothing was to be repaired. `failures`: load -> steps that ended with an error."""

    fault: Fault
    held_s: float
    stood_s: dict[str, float]
    resumed_s: float
    whole_s: float
    failures: dict[str, int]


def go_on(loads: Iterable[Running], since_s: float, within_s: float, when: str) -> float:
    """When the last of them has done a step that began after `since_s`."""
    loads = list(loads)
    waiting = lambda: [load.name for load in loads if load.update().first_since(since_s) is None]  # noqa: E731
    try:
        wait_until(lambda: not waiting(), "", within_s)
    except AssertionError:
        said = {load.name: load.failures(since_s)[-3:] for load in loads if load.name in waiting()}
        raise AssertionError(f"{when} these did nothing for {within_s:g} s, with these errors: {said}") from None
    return max((load.first_since(since_s) for load in loads), default=since_s)


def one(lab: Lab, loads: list[Running], fault: Fault) -> Outcome:
    began_s = time.monotonic()
    fault.do(lab)
    done_s = time.monotonic()
    go_on(filter(fault.lets_go_on, loads), done_s, GOES_ON_S, f"during {fault.name}")
    wait_until(lambda: time.monotonic() >= done_s + fault.hold_s, "the fault has lasted", fault.hold_s + 1)
    fault.undo(lab)
    undone_s = time.monotonic()
    resumed_s = go_on(loads, undone_s, RESUMES_S, f"after {fault.name}")
    wait_whole(lab, f"after {fault.name}")
    whole_s = time.monotonic()
    check(lab, loads)
    return Outcome(
        fault, undone_s - done_s,
        {load.name: load.stood_still_s(began_s, resumed_s) for load in loads},
        resumed_s - undone_s, whole_s - undone_s,
        {load.name: len(found) for load in loads if (found := load.failures(began_s))},
    )  # fmt: skip


def calm(loads: list[Running], for_s: float) -> float:
    """Nothing happens for so long: the longest time without a step of any load, to compare others with."""
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() >= began_s + for_s, "some time without faults", for_s + 1)
    return max(load.update().stood_still_s(began_s, began_s + for_s) for load in loads)


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
