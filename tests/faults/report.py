"""What a run has measured, as a table."""

from collections.abc import Iterable, Sequence

from .rounds import Outcome

_HEAD = ("fault", "times", "longest stand", "of", "resumed after", "whole after", "errors")


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each fault: the worst of all times that it came. Stand: without a step of that load, the fault itself
    included. Resumed and whole: after the fault was undone."""
    names = list(dict.fromkeys(outcome.fault.name for outcome in outcomes))
    rows = [_row(name, [outcome for outcome in outcomes if outcome.fault.name == name]) for name in names]
    return _lines([_HEAD, *rows])


def line(number: int, outcome: Outcome) -> str:
    """One fault as it has just been."""
    name, stood_s = _longest(outcome)
    text = f"{number:3} {outcome.fault.name}: held {outcome.held_s:.1f} s, stood still {stood_s:.1f} s ({name}), "
    text += f"resumed after {outcome.resumed_s:.1f} s, whole after {outcome.whole_s:.1f} s"
    return text + (f"; errors: {outcome.failures}" if outcome.failures else "")


def _longest(outcome: Outcome) -> tuple[str, float]:
    return max(outcome.stood_s.items(), key=lambda item: item[1])


def _row(name: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    load, stood_s = max((_longest(outcome) for outcome in outcomes), key=lambda item: item[1])
    resumed_s, whole_s = (max(getattr(one, what) for one in outcomes) for what in ("resumed_s", "whole_s"))
    errors = sum(sum(outcome.failures.values()) for outcome in outcomes)
    return name, str(len(outcomes)), f"{stood_s:.1f} s", load, f"{resumed_s:.1f} s", f"{whole_s:.1f} s", str(errors)


def _lines(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
