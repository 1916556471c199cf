"""How long servers are waited for, with a clock of the test's own."""

import contextlib
from collections.abc import Callable

import pytest

from dfsfuse import errors, patience
from dfsfuse.patience import BRIEFLY_S, SILENT_S, Patience


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def silent(left_s: float) -> None:
    raise errors.TimedOut("no answer")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """`until_answered` makes one attempt, which takes all the time that it has."""
    clock = Clock()

    def once(attempt, timeout_s, *_):
        clock.now_s += timeout_s if attempt is silent else 0.0
        return attempt(timeout_s)

    monkeypatch.setattr(patience, "until_answered", once)
    return clock


def test_a_silent_server_is_waited_for_once(clock: Clock) -> None:
    """Goal: S13: who asks again at once waits briefly, however often; who asks later waits the whole time-out."""
    waiting = Patience(30.0, clock)
    for wait_s in (30.0, BRIEFLY_S, BRIEFLY_S, BRIEFLY_S):
        assert waiting.wait_s() == wait_s
        with pytest.raises(errors.TimedOut):
            waiting.until_answered(silent)
    clock.now_s += SILENT_S
    assert waiting.wait_s() == 30.0


def refusing(left_s: float) -> None:
    raise errors.NotFound("no such file")


@pytest.mark.parametrize("answering", [lambda left_s: left_s, refusing])
def test_an_answer_brings_patience_back(clock: Clock, answering: Callable[[float], float]) -> None:
    """Goal: after one answer, or an error that is one, the whole time-out counts again."""
    waiting = Patience(30.0, clock)
    with pytest.raises(errors.TimedOut):
        waiting.until_answered(silent)
    with contextlib.suppress(errors.NotFound):
        assert waiting.until_answered(answering) == BRIEFLY_S
    assert waiting.wait_s() == 30.0


def test_who_asks_for_less_gets_less(clock: Clock) -> None:
    """Goal: a shorter time is kept to, and waiting so long in vain says nothing of the server: it may start again."""
    waiting = Patience(30.0, clock)
    for wait_s in (0.1, 29.0):
        assert waiting.wait_s(wait_s) == wait_s
        with pytest.raises(errors.TimedOut):
            waiting.until_answered(silent, wait_s)
        assert waiting.wait_s() == 30.0
