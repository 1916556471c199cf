"""Real mounts of a cluster with several directory and lock servers, of which those that serve die, stop or end."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from many_servers import ManyServers, Process, many_servers
from support import wait_until

pytestmark = pytest.mark.mounted

TAKEN_OVER_S = 5.0


@pytest.fixture
def many() -> Iterator[ManyServers]:
    with many_servers() as cluster:
        yield cluster


class Writer:
    """A program that writes files one after the other and notes what was acknowledged."""

    def __init__(self, folder: Path):
        self._folder, self._ending = folder, threading.Event()
        self.written: dict[str, bytes] = {}
        self.count, self.trouble = 0, ""
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._ending.is_set():
            name, content = f"f{self.count % 40}", b"%d " % self.count * 100
            try:
                (self._folder / name).write_bytes(content)
            except OSError as error:
                self.trouble = f"{name}: {error}"
                return
            self.written[name] = content
            self.count += 1

    def wait_for(self, more: int) -> None:
        """So many writes later."""
        wanted = self.count + more
        wait_until(lambda: self.trouble or self.count >= wanted, "programs go on", 60)
        assert not self.trouble, self.trouble

    def end(self) -> None:
        self._ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a write hangs"
        assert not self.trouble, self.trouble


@pytest.mark.parametrize("way", ["kill", "stop", "end"])
def test_a_directory_takes_over(many: ManyServers, way: str) -> None:
    """Goal: S1, S2, S11. Whichever way the one that serves goes, another one serves within 5 s; programs only wait, no
    acknowledged write is lost, and two mounts see the same."""
    first, second = many.mount(), many.mount()
    writer = Writer(first.point)
    writer.wait_for(20)
    served = many.serving(many.directories)
    began = time.monotonic()
    others = [each for each in many.directories if each is not served]
    with gone(served, way):
        wait_until(lambda: many.serving(others), "another one serves", 20)
        took_s = time.monotonic() - began
        writer.wait_for(20)
        assert took_s < TAKEN_OVER_S
    writer.wait_for(5)
    writer.end()
    assert {name: (second.point / name).read_bytes() for name in os.listdir(second.point)} == writer.written
    assert len([each for each in many.directories if each.process.poll() is None and each.serves]) == 1


@contextlib.contextmanager
def gone(server: Process, way: str) -> Iterator[None]:
    """Within the block it stands still; or it was killed, or ended, and is started again after it."""
    if way == "stop":
        with server.still():
            yield
    else:
        server.end(signal.SIGKILL if way == "kill" else signal.SIGTERM)
        yield
        server.start()


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_lock_server_takes_over(many: ManyServers, way: str) -> None:
    """Goal: S5, S6. A file that is open for writing stays locked for others; who waits goes on waiting, and gets it
    when it is closed."""
    first, second = many.mount(), many.mount()
    (first.point / "f").write_bytes(b"before")
    served = many.serving(many.locks)
    got: list[float] = []

    def wait_for_lock() -> None:
        with (second.point / "f").open("r+b") as file:
            got.append(time.monotonic())
            file.write(b"second")

    with (first.point / "f").open("r+b", buffering=0) as file:
        file.write(b"first ")
        others = [each for each in many.locks if each is not served]
        with gone(served, way):
            wait_until(lambda: many.serving(others), "another one serves", 20)
            waiting = threading.Thread(target=wait_for_lock, daemon=True)
            waiting.start()
            file.write(b"AND MORE")
            assert not got
        closed = time.monotonic()
    waiting.join(30)
    assert got[0] >= closed
    assert (first.point / "f").read_bytes() == b"secondAND MORE"
