"""Real mounts of a cluster with several directory and lock servers, of which those that serve die, stop or end."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from many_servers import ManyServers, Process, many_servers
from support import wait_until
from writers import Writer

log = logging.getLogger(__name__)

pytestmark = pytest.mark.mounted

TAKEN_OVER_S = 5.0
"""Until another server serves, after the former one went."""
GAP_S = TAKEN_OVER_S + 2.0
"""Programs wait no longer for a single write: it is asked again of the one that serves within moments."""
AFTER_CLOSE_S = 3.0


@pytest.fixture
def many() -> Iterator[ManyServers]:
    with many_servers() as cluster:
        yield cluster


@pytest.mark.parametrize("way", ["kill", "stop", "end"])
def test_a_directory_takes_over(many: ManyServers, way: str, record_property) -> None:
    """Goal: S1, S2, S11. Whichever way the one that serves goes, another one serves within 5 s, and programs write on
    soon after; they only wait, no acknowledged write is lost, and two mounts see the same."""
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
        gap_s = writer.longest_s
    tell(record_property, took_over_s=took_s, gap_s=gap_s)
    assert took_s < TAKEN_OVER_S
    assert gap_s < GAP_S
    writer.wait_for(5)
    writer.end()
    assert {name: (second.point / name).read_bytes() for name in os.listdir(second.point)} == writer.written
    assert len([each for each in many.directories if each.process.poll() is None and each.serves]) == 1


def tell(record_property: Callable[[str, object], None], **times_s: float) -> None:
    """`pytest -rP --log-level=INFO` shows them."""
    for name, time_s in times_s.items():
        record_property(name, round(time_s, 1))
        log.info("%s: %.1f", name, time_s)


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


class Opener:
    """A program that opens a file for writing, waits for its lock, and writes into it. `got_at`: when it has got it."""

    def __init__(self, path: Path):
        self._path, self.got_at, self.trouble = path, 0.0, ""
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            with self._path.open("r+b") as file:
                self.got_at = time.monotonic()
                file.write(b"second")
        except OSError as error:
            self.trouble = str(error)

    def is_waiting(self) -> bool:
        assert not self.trouble, self.trouble
        return self._thread.is_alive() and not self.got_at

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the open hangs"
        assert not self.trouble, self.trouble


def waiters(server: Process) -> list[float]:
    """For how long those have waited that wait at this lock server, in seconds."""
    return [waiter["waited_s"] for row in server.ask("locks")["locks"] for waiter in row["waiters"]]


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_lock_server_takes_over(many: ManyServers, way: str, record_property) -> None:
    """Goal: S5, S6. A file that is open for writing stays locked for others; who waits goes on waiting, with the time
    that it has waited, and gets it soon after it is closed."""
    first, second = many.mount(), many.mount()
    (first.point / "f").write_bytes(b"before")
    served = many.serving(many.locks)
    others = [each for each in many.locks if each is not served]
    with (first.point / "f").open("r+b", buffering=0) as file:
        file.write(b"first ")
        opener = Opener(second.point / "f")
        wait_until(lambda: max(waiters(served), default=0.0) > 0.2, "it waits", 10)
        began = time.monotonic()
        with gone(served, way):
            wait_until(lambda: many.serving(others), "another one serves", 20)
            took_s = time.monotonic() - began
            wait_until(lambda: opener.is_waiting() and waiters(many.serving(others)), "it waits there", 5)
            waits_s = time.monotonic() - began
            assert waiters(many.serving(others))[0] >= waits_s - 0.5
            file.write(b"AND MORE")
            assert opener.is_waiting()
            file.close()
            closed = time.monotonic()
            opener.join()
    tell(record_property, took_over_s=took_s, waits_there_s=waits_s, after_close_s=opener.got_at - closed)
    assert closed <= opener.got_at < closed + AFTER_CLOSE_S
    assert (first.point / "f").read_bytes() == b"secondAND MORE"
