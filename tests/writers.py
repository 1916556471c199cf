"""Programs on mounts that note what was acknowledged, while servers come and go: threads of the test's own process."""

import threading
import time
from abc import ABC, abstractmethod
from itertools import pairwise
from pathlib import Path

from support import wait_until


class _Program(ABC):
    """It does one step after the other; `count` were acknowledged. An error is its `trouble`, and its end. `longest_s`:
    the longest time from one acknowledged step to the next, or until now."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        self.count, self.trouble = 0, ""
        self._latest, self._longest_s = time.monotonic(), 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @abstractmethod
    def step(self) -> None:
        """Raises OSError."""

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                self.step()
            except (OSError, ValueError) as error:
                self.trouble = f"step {self.count}: {error}"
                return
            self._longest_s, self._latest = self.longest_s, time.monotonic()
            self.count += 1

    @property
    def longest_s(self) -> float:
        return max(self._longest_s, time.monotonic() - self._latest)

    def wait_for(self, more: int) -> None:
        """So many steps later."""
        wanted = self.count + more
        wait_until(lambda: self.trouble or self.count >= wanted, "programs go on", 60)
        assert not self.trouble, self.trouble

    def end(self) -> None:
        self._ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a call hangs"
        assert not self.trouble, self.trouble


class Writer(_Program):
    """Writes files one after the other; `written` is what each has."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.written: dict[str, bytes] = {}
        super().__init__()

    def step(self) -> None:
        name, content = f"f{self.count % 40}", b"%d " % self.count * 100
        (self._folder / name).write_bytes(content)
        self.written[name] = content


class Adder(_Program):
    """Adds 1 to the number in a file that others add to as well; `held` is when it had the file open for writing."""

    def __init__(self, file: Path):
        self._file = file
        self.held: list[tuple[float, float]] = []
        super().__init__()

    def step(self) -> None:
        with self._file.open("r+b", buffering=0) as file:
            began = time.monotonic()
            number = int(file.read())
            file.seek(0)
            file.write(b"%d" % (number + 1))
            self.held.append((began, time.monotonic()))


def assert_one_at_a_time(adders: list[Adder]) -> None:
    """S5, as programs see it."""
    for (_, ended), (began, _) in pairwise(sorted(span for adder in adders for span in adder.held)):
        assert ended <= began, f"two had the file open for writing, for {ended - began:.3f} s"


class Held:
    """A file that is open for writing on one mount, and a program that waits for it on another one."""

    def __init__(self, one: Path, other: Path):
        self._one, self._other = one, other
        one.write_bytes(b"before")
        self._file = one.open("r+b", buffering=0)
        self._file.write(b"first ")
        self._got: list[float] = []
        self._trouble = ""
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        try:
            with self._other.open("r+b") as file:
                self._got.append(time.monotonic())
                file.write(b"second")
        except OSError as error:
            self._trouble = str(error)

    def check(self) -> None:
        """It is held, and written to."""
        self._file.write(b".")
        assert not self._got, "two have the file open for writing"
        assert not self._trouble, self._trouble

    def close(self) -> float:
        """How long it then takes until the other one has had it, with all that was written before."""
        self.check()
        self._file.seek(6)
        self._file.write(b"AND MORE")
        closing = time.monotonic()
        self._file.close()
        closed = time.monotonic()
        self._waiting.join(30)
        assert not self._trouble, self._trouble
        assert self._got, "who waits for the file does not get it"
        assert self._got[0] >= closing
        assert self._one.read_bytes().startswith(b"secondAND MORE")
        return self._got[0] - closed
