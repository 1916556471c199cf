"""What a load has done, in a file beside the mounts: one line before each step, and one with its outcome after it.

A step that was acknowledged must be found at the end, one that failed may be found, one that has no outcome is under
way. Times are of CLOCK_MONOTONIC, which is one for all processes of the run.
"""

import json
import time
from pathlib import Path
from typing import NamedTuple

BEGAN, DONE, FAILED, WRONG = "began", "done", "failed", "wrong"


class Line(NamedTuple):
    """`what` is the step's key, `value` what it makes of it. WRONG: something was seen that must never be."""

    at_s: float
    state: str
    what: str
    value: int
    why: str = ""


class Journal:
    """Written by one process. Each line is one write, so readers never see half of one that was not the last."""

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)

    def note(self, state: str, what: str, value: int, why: str = "") -> None:
        line = json.dumps(Line(time.monotonic(), state, what, value, why))
        self._file.write(line.encode() + b"\n")


class Reader:
    """All lines of a journal, those that came since the last look read when asked."""

    def __init__(self, path: Path):
        self._path, self._offset = path, 0
        self.lines: list[Line] = []

    def new(self) -> list[Line]:
        """The lines that have come since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        came = [Line(*json.loads(line)) for line in whole.splitlines()]
        self.lines += came
        return came


class Known:
    """Of each key: the latest value that was acknowledged, the latest that was tried, and whether the latest step came
    to a good end."""

    def __init__(self, reader: Reader):
        self._reader = reader
        self.acknowledged: dict[str, int] = {}
        self.tried: dict[str, int] = {}
        self.sure: dict[str, bool] = {}

    def update(self) -> "Known":
        for line in self._reader.new():
            self.sure[line.what] = line.state == DONE
            if line.state == BEGAN:
                self.tried[line.what] = line.value
            elif line.state == DONE:
                self.acknowledged[line.what] = line.value
        return self
