"""A server as a child process: its command, its port, its log, and when it is started again after it died.

Threads: none; the supervisor is single-threaded.
"""

import logging
import os
import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 5.0
HEALTHY_S = 10.0
PORT_WAIT_S = 2.0
PORT_LOOK_S = 0.05
LOG_BYTES_MAX = 10 << 20

# Below what Linux gives to outgoing connections: a connection to a server that is away can neither take its port nor,
# which happens on the loopback interface, connect to itself.
_PORTS = range(20000, 32000)
_HOST = "127.0.0.1"


class Pause:
    """How long to wait before the next start: doubles with each death in a row, back to the first after some health."""

    def __init__(self) -> None:
        self.deaths = 0

    def after_death(self, lived_s: float) -> float:
        """Seconds until the next start, after a life of `lived_s`."""
        self.deaths = 1 if lived_s >= HEALTHY_S else self.deaths + 1
        return min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(self.deaths - 1, 16))


class Child:
    """One server. `tick(now)` starts it when it is due and notices its death; `now` is a monotonic time in seconds.
    `host`: where it listens; elsewhere than on this machine alone others know its port, which then stays. `more`: what
    it is told besides."""

    def __init__(
        self,
        kind: str,
        name: str,
        home: Path,
        token_file: Path,
        port: int,
        log_level: str,
        host: str = _HOST,
        more: Sequence[str] = (),
    ):
        self.kind, self.name, self.port = kind, name, port
        self.label, self.trouble = name, ""
        self._home, self._host = home, host
        self._options = ["--token-file", str(token_file), "--log-level", log_level, "--exit-with-parent", *more]
        self._process: subprocess.Popen | None = None
        self._pause = Pause()
        self._started_at = 0.0
        self._due_at = 0.0
        self._port_wanted_since: float | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def pid(self) -> int:
        """0 while it is not running."""
        return self._process.pid if self._process else 0

    @property
    def deaths(self) -> int:
        return self._pause.deaths

    def tick(self, now: float, directory_url: str) -> bool:
        """True when something changed: it died, was started, or has been healthy long enough to forget its deaths."""
        if self._process:
            return self._notice_death(now) or self._notice_health(now)
        if now < self._due_at or self._waits_for_port(now):
            return False
        try:
            self._start(now, directory_url)
        except OSError as error:
            self._schedule(now, f"cannot be started ({error})")
        return True

    def due_in(self, now: float) -> float:
        """Seconds until it must be started; for ever while it runs."""
        return float("inf") if self._process else max(0.0, self._due_at - now)

    def answers(self) -> bool:
        """It listens; a server listens once it is ready."""
        try:
            socket.create_connection((self._host, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def terminate(self) -> None:
        if self._process:
            self._process.terminate()

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def gone(self) -> bool:
        if self._process and self._process.poll() is not None:
            self._forget()
        return self._process is None

    def _waits_for_port(self, now: float) -> bool:
        """A server whose supervisor was killed may need a moment to end; after that the port is given up."""
        if self._host != _HOST or is_free(self.port):
            self._port_wanted_since = None
            return False
        if self._port_wanted_since is None:
            self._port_wanted_since = now
        if now - self._port_wanted_since < PORT_WAIT_S:
            self._due_at = now + PORT_LOOK_S
            return True
        taken, self.port = self.port, free_port(set())
        log.warning("%s: port %d is taken by another program; using %d", self.name, taken, self.port)
        return False

    def _start(self, now: float, directory_url: str) -> None:
        self._started_at = now
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = _open_log(self._home / "server.log")
        try:
            self._process = subprocess.Popen(
                self._command(directory_url), stdin=subprocess.PIPE, stdout=output, stderr=output, cwd="/"
            )
        finally:
            os.close(output)

    def _command(self, directory_url: str) -> list[str]:
        command = [sys.executable, "-P", "-m", "servers", self.kind, "--home", str(self._home)]
        command += ["--host", self._host, "--port", str(self.port), *self._options]
        if self.kind == "files":
            command += ["--name", self.name]
        return command if self.kind == "directory" else [*command, "--directory", directory_url]

    def _notice_death(self, now: float) -> bool:
        status = self._process.poll()
        if status is None:
            return False
        self._forget()
        self._schedule(now, f"was ended by signal {-status}" if status < 0 else f"ended with status {status}")
        return True

    def _schedule(self, now: float, how: str) -> None:
        pause_s = self._pause.after_death(now - self._started_at)
        self._due_at = now + pause_s
        self.trouble = how
        log.warning("%s %s; starting it again in %.1f s; its log is %s", self.label, how, pause_s, self._home)

    def _notice_health(self, now: float) -> bool:
        healthy = self._pause.deaths > 0 and now - self._started_at >= HEALTHY_S
        if healthy:
            self._pause.deaths = 0
        return healthy

    def _forget(self) -> None:
        self._process.stdin.close()
        self._process = None


def is_free(port: int) -> bool:
    """Nobody listens on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def free_port(taken: set[int]) -> int:
    """A free port that is not in `taken`."""
    for port in random.sample(_PORTS, 200):
        if port not in taken and is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]


def _open_log(path: Path) -> int:
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
