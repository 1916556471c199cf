"""When something will have come to its end: how it went lately, whatever a step takes."""

import pytest

from servers.pace import STEPS, Pace


def noted(*steps: tuple[float, float]) -> Pace:
    pace = Pace()
    for step in steps:
        pace.note(*step)
    return pace


@pytest.mark.parametrize(
    ("steps", "left_s"),
    [
        ((), -1),
        (((100, 0.0),), -1),
        (((100, 0.0), (75, 1.0)), 3),
        (((100, 0.0), (100, 1.0)), -1),
        (((100, 0.0), (110, 1.0)), -1),
        (((100, 0.0), (0, 1.0)), 0),
        (((1_000_000, 0.0), (999_900, 330.0)), 330 * 9999),
        (((0.75, 5.0), (0.5, 15.0)), 20),
    ],
    ids=[
        "nothing", "one step", "steady", "no progress", "more and more", "the end", "long steps", "a part of the whole",
    ],
)  # fmt: skip
def test_how_long_it_takes(steps: tuple[tuple[float, float], ...], left_s: float) -> None:
    """Goal: what is left divided by what was done lately, however much that is and however long a step takes; nothing
    is told where nothing was done."""
    assert noted(*steps).left_s() == left_s


def test_only_the_latest_steps_count() -> None:
    """Goal: a pace that has changed is soon that of now; nothing remains of what has ended."""
    slow = [(10_000 - step, step * 100.0) for step in range(STEPS)]
    quick = [(9_000 - step, 2000.0 + step) for step in range(STEPS)]
    pace = noted(*slow, *quick)
    assert pace.left_s() == 9_000 - STEPS + 1
    pace.forget()
    assert pace.left_s() == -1
