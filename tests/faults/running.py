"""The loads of a run as processes: whether they go on, and how long they stood still."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support import ROOT, wait_until

from .journal import BEGAN, DONE, FAILED, WRONG, Reader

LOADS = {
    "counters": ("counters", "m1"),
    "readers": ("readers", "m2"),
    "mover": ("mover", "m2"),
    "sqlite-m1": ("sqlite", "m1"),
    "sqlite-m2": ("sqlite", "m2"),
    "git": ("git", "m1"),
}
"""Name -> kind and mount."""
CALLS = ("counters", "readers", "mover")
"""A step of these is one call or two: what they wait for is the servers. A step of a program is many calls."""
TOGETHER = ("sqlite-m1", "sqlite-m2")
"""They wait for each other's locks: where one client is in trouble, both are."""
END_S = 90.0


class Step(NamedTuple):
    """One that has ended."""

    began_s: float
    ended_s: float
    done: bool
    why: str


class Running:
    """One load, and what it has done so far."""

    def __init__(self, name: str, folder: Path, point: Path, seed: int):
        kind, self.mount = LOADS[name]
        self.name, self._end = name, folder / f"{name}.end"
        self.journal = folder / name
        self._reader = Reader(self.journal)
        self._log = (folder / f"{name}.log").open("w+")
        command = [sys.executable, "-m", "faults.loads", kind, point, self.journal, seed]
        self._process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT / "tests", stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        self.steps: list[Step] = []
        self.wrong: list[str] = []
        self._began_s = 0.0
        self._judged = 0

    def update(self) -> "Running":
        """Read what it has written. AssertionError: it has ended by itself."""
        self._read()
        assert self._process.poll() is None, f"the load {self.name} has ended by itself: {self._said()}"
        return self

    def _read(self) -> None:
        for line in self._reader.new():
            if line.state == BEGAN:
                self._began_s = line.at_s
            elif line.state == WRONG:
                self.wrong.append(f"{self.name}: {line.why}")
            elif line.state in (DONE, FAILED):
                self.steps.append(Step(self._began_s, line.at_s, line.state == DONE, line.why))

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:]

    def first_since(self, at_s: float) -> float | None:
        """When the first step was done that had begun after `at_s`."""
        return next((step.ended_s for step in self._ended_after(at_s) if step.done and step.began_s >= at_s), None)

    def stood_still_s(self, from_s: float, to_s: float) -> float:
        """The longest time without a step that was done, of which a part lies between the two moments."""
        done = [step.ended_s for step in self.steps if step.done]
        before = [at_s for at_s in done if at_s <= from_s][-1:]
        marks = [*before, *(at_s for at_s in done if from_s < at_s < to_s), to_s]
        return max((later - at_s for at_s, later in zip(marks, marks[1:], strict=False)), default=0.0)

    def failures(self, from_s: float) -> list[str]:
        """What steps that ended since then have complained of."""
        return [step.why for step in self._ended_after(from_s) if not step.done]

    def new_failures(self) -> list[str]:
        """The same of all that have ended since this was asked last, or since it began."""
        self._read()
        new, self._judged = self.steps[self._judged :], len(self.steps)
        return [step.why for step in new if not step.done]

    def _ended_after(self, at_s: float) -> Iterator[Step]:
        return (step for step in self.steps if step.ended_s >= at_s)

    def end(self) -> None:
        """Let it end between two steps. AssertionError: it hangs."""
        self._end.touch()
        wait_until(lambda: self._process.poll() is not None, f"the load {self.name} ends", END_S)
        assert self._process.returncode == 0, f"the load {self.name}: {self._said()}"

    def kill(self) -> None:
        self._process.kill()
        self._log.close()
