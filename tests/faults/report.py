"""What a run has measured, for people."""

from collections.abc import Iterable, Sequence

from .rounds import Outcome
from .running import CALLS

_HEAD = ("fault", "times", "calls waited", "programs waited", "calls again", "programs again", "whole again", "errors")


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each fault: the worst of all times that it came. Waited: for the end of a step, the fault itself
    included. Again: from the moment when the fault was undone."""
    names = list(dict.fromkeys(outcome.fault.name for outcome in outcomes))
    rows = [_row(name, [outcome for outcome in outcomes if outcome.fault.name == name]) for name in names]
    return _lines([_HEAD, *rows])


def line(number: int, outcome: Outcome) -> str:
    """One fault as it has just been."""
    text = f"{number:3} {outcome.fault.name}: held {outcome.held_s:.1f} s, {waited(outcome.stood_s)}; again after "
    text += f"{_calls(outcome.resumed_s):.1f} s and {_programs(outcome.resumed_s):.1f} s, whole after "
    return text + f"{outcome.whole_s:.1f} s" + (f"; errors: {_errors(outcome)}" if outcome.failures else "")


def _errors(outcome: Outcome) -> str:
    """How many of each load, and its first."""
    return "; ".join(f"{name}: {len(found)}, such as {found[0]!r}" for name, found in outcome.failures.items())


def waited(of_loads: dict[str, float]) -> str:
    return f"calls waited {_calls(of_loads):.1f} s, programs {_programs(of_loads):.1f} s"


def _calls(of_loads: dict[str, float]) -> float:
    return max(time_s for name, time_s in of_loads.items() if name in CALLS)


def _programs(of_loads: dict[str, float]) -> float:
    return max(time_s for name, time_s in of_loads.items() if name not in CALLS)


def _row(name: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    waited_s = (max(which(outcome.stood_s) for outcome in outcomes) for which in (_calls, _programs))
    again_s = (max(which(outcome.resumed_s) for outcome in outcomes) for which in (_calls, _programs))
    times_s = (*waited_s, *again_s, max(outcome.whole_s for outcome in outcomes))
    errors = sum(len(found) for outcome in outcomes for found in outcome.failures.values())
    return name, str(len(outcomes)), *(f"{time_s:.1f} s" for time_s in times_s), str(errors)


def _lines(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in padded)
