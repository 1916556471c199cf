"""All servers of a cluster on one machine, for as long as somebody uses them: `python -m servers all`.

Who uses the cluster holds a shared flock on users.lock; the supervisor holds an exclusive one on supervisor.lock from
before its first act to its last. It decides to end by taking users.lock exclusively, which succeeds only without users,
and keeps both until its servers are gone and cluster.json is removed. So a mount that comes meanwhile waits for
users.lock, finds supervisor.lock free, and starts the next supervisor: there are never two, and never a user without.

A supervisor that is killed leaves nothing behind: its servers end when the pipes that it held are closed. The names of
the files are a protocol with dfsfuse/home.py, which explains them.

Threads: none.
"""

import fcntl
import json
import logging
import os
import secrets
import select
import signal
import socket
import time
from pathlib import Path

from servers.children import Child, free_port

log = logging.getLogger(__name__)

SERVERS = (("directory", "directory"), ("locks", "locks"), ("files", "A"), ("files", "B"), ("files", "C"))
LOOK_S = 0.25
IDLE_S = 1.0
END_S = 5.0
STARTING_LOOK_S = 0.02
STARTING_DEATHS_MAX = 5
_LOCK_WAIT_S = 1.0


class AlreadyRunning(Exception):
    """Another supervisor holds this home."""


def supervise(home: Path, keep: bool, log_level: str, lock: int | None = None) -> None:
    """Run the cluster in `home` until a signal, or until nobody uses it. `lock`: supervisor.lock, held by the starter.

    Raises AlreadyRunning, and ChildProcessError when the directory dies again and again before its first answer.
    """
    lock = _held_lock(home) if lock is None else lock
    os.set_inheritable(lock, False)
    try:
        if keep:
            (home / "keep").touch(mode=0o600)
        Supervisor(home, log_level).run()
    finally:
        os.close(lock)


def _held_lock(home: Path) -> int:
    """Who only asks whether there is a supervisor holds the lock for a moment; so one refusal is not the answer."""
    lock = _open_lock(home / "supervisor.lock")
    deadline = time.monotonic() + _LOCK_WAIT_S
    while not _try_exclusive(lock):
        if time.monotonic() > deadline:
            os.close(lock)
            raise AlreadyRunning(f"a cluster already runs in {home}; `dfs status` shows it")
        time.sleep(STARTING_LOOK_S)
    return lock


class Supervisor:
    """Starts, watches, publishes and ends the servers of one home."""

    def __init__(self, home: Path, log_level: str):
        self._home = home
        self._users_lock = _open_lock(home / "users.lock")
        (home / "cluster.json").unlink(missing_ok=True)
        _make_token(home / "token")
        ports = _ports(home / "ports.json")
        self._children = [
            Child(kind, name, home / name, home / "token", ports[name], log_level) for kind, name in SERVERS
        ]
        self._directory = self._children[0]
        self._published, self._unpublished = False, True
        self._idle_since: float | None = None

    def run(self) -> None:
        """Until a signal, or until nobody uses the cluster; then end the servers. Raises ChildProcessError."""
        log.info("supervisor %d runs the cluster in %s", os.getpid(), self._home)
        signals = _Signals()
        try:
            while not signals.end and not self.is_unused(time.monotonic()):
                self._tick(time.monotonic())
                signals.wait(self._pause_s(time.monotonic()))
        finally:
            # Removed first: after a signal there may be users, and who comes now must not join servers that are ending.
            (self._home / "cluster.json").unlink(missing_ok=True)
            self._end_children(signals)
            log.info("supervisor %d has ended", os.getpid())
            self.close()

    def close(self) -> None:
        """Another one may run the cluster."""
        os.close(self._users_lock)

    def _tick(self, now: float) -> None:
        url = self._directory.url
        changed = [child.tick(now, self._directory.url) for child in self._children]
        if self._published and self._directory.url != url:
            # The others were told the directory's former address; they are started again with the new one.
            for child in self._children[1:]:
                child.terminate()
        self._unpublished |= any(changed)
        if self._published or self._directory.answers():
            self._publish()
        elif self._directory.deaths >= STARTING_DEATHS_MAX:
            raise ChildProcessError(f"the directory dies again and again; see {self._home / 'directory/server.log'}")

    def _pause_s(self, now: float) -> float:
        look_s = LOOK_S if self._published else STARTING_LOOK_S
        return min(look_s, *(child.due_in(now) for child in self._children))

    def is_unused(self, now: float) -> bool:
        """Nobody has used the cluster for IDLE_S, and from now on nobody can: users.lock is held exclusively."""
        if (self._home / "keep").exists() or not _try_exclusive(self._users_lock):
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since >= IDLE_S:
            log.info("nobody uses the cluster any more")
            return True
        fcntl.flock(self._users_lock, fcntl.LOCK_UN)
        return False

    def _publish(self) -> None:
        """Write what has changed. A full disk must not end the cluster: the next look tries again."""
        if not self._unpublished:
            return
        shown = ("name", "kind", "url", "pid", "deaths", "trouble")
        servers = [{what: getattr(child, what) for what in shown} for child in self._children]
        state = {"directory": self._directory.url, "supervisor_pid": os.getpid(), "servers": servers}
        try:
            _write(self._home / "ports.json", {child.name: child.port for child in self._children})
            _write(self._home / "cluster.json", state)
        except OSError as error:
            log.warning("cluster.json cannot be written: %s", error)
            return
        if not self._published:
            log.info("the directory answers at %s", self._directory.url)
        self._published, self._unpublished = True, False

    def _end_children(self, signals: "_Signals") -> None:
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + END_S
        while not all(child.gone() for child in self._children):
            if time.monotonic() > deadline:
                for child in self._children:
                    child.kill()
            signals.wait(STARTING_LOOK_S)


class _Signals:
    """SIGTERM and SIGINT ask for the end; they and a child's death interrupt `wait`."""

    def __init__(self) -> None:
        self.end = False
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_end)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def _on_end(self, number: int, _frame: object) -> None:
        log.info("asked to end by %s", signal.Signals(number).name)
        self.end = True

    def wait(self, wait_s: float) -> None:
        """At most `wait_s`."""
        if select.select([self._read], [], [], wait_s)[0]:
            self._read.recv(4096)


def _make_token(path: Path) -> None:
    """The cluster's token is made once. It is complete before it has its name, so nobody reads half of it."""
    draft = path.with_name(f"token.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _ports(path: Path) -> dict[str, int]:
    """The ports of the latest start; Child passes over those that are taken now."""
    try:
        known = json.loads(path.read_bytes())
        known = {name: port for name, port in known.items() if isinstance(port, int) and 0 < port < 65536}
    except (OSError, ValueError, AttributeError):
        known = {}
    ports: dict[str, int] = {}
    for _, name in SERVERS:
        ports[name] = known.get(name) or free_port({*known.values(), *ports.values()})
    return ports


def _write(path: Path, content: dict) -> None:
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
    draft.replace(path)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_exclusive(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
