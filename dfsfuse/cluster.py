"""Finds the cluster to use: one that runs somewhere (`join`), or the one of a home, which is started when it is not.

Who uses the cluster of a home holds a shared flock on users.lock, as long as its Endpoint is open; the supervisor ends
only when it can have that lock for itself. Who finds supervisor.lock free starts the supervisor, and hands the lock
over to it, held: of many who come at the same time one starts it, and the others wait for cluster.json.

Threads: what `refinder` returns may be called by all threads of a client: one looks and starts, and those that come
meanwhile get its outcome.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from dfsfuse import errors
from dfsfuse import home as homes
from dfsfuse.endpoints import ASK_S, Endpoint, ask_status
from dfsfuse.home import RunningCluster, open_lock, try_lock
from dfsfuse.messages import StatusReply

START_S = 30.0
ALL_COPIES_S = 3.0
STOP_S = 15.0
_LOOK_S = 0.02
_IN_USE_S = 0.5
_DEATHS_MAX = 4
SERVERS = (sys.executable, "-P", "-m", "servers")


def find_or_start(home: Path, timeout_s: float = START_S) -> Endpoint:
    """The cluster of `home`, with enough servers up to write. Raises NotPermitted or NoSpace (the home cannot be
    written), Unauthorized, Unreachable (a server keeps dying, with the last line of its log) and TimedOut."""
    home = home.absolute()
    homes.prepare(home)
    deadline = time.monotonic() + timeout_s
    users_lock = open_lock(home / homes.USERS_LOCK)
    try:
        while not try_lock(users_lock, exclusive=False):
            _sleep_until(deadline, f"the cluster in {home} is ending and does not come to its end")
        status, token = _ready(home, deadline)
    except BaseException:
        os.close(users_lock)
        raise
    return Endpoint(
        url=status.directory.url, token=token, volume=status.cluster.volume, home=home, users_lock=users_lock
    )


def find_running(home: Path, timeout_s: float = ASK_S) -> Endpoint | None:
    """The cluster that runs in `home`, whatever of it is up; no server is asked, so `volume` is empty. None: there is
    none. Raises TimedOut when it starts or ends, and comes to no end with that."""
    home, deadline = home.absolute(), time.monotonic() + timeout_s
    while home.is_dir() and is_running(home):
        users_lock = open_lock(home / homes.USERS_LOCK)
        running = homes.read_cluster(home) if try_lock(users_lock, exclusive=False) else None
        if running:
            token = homes.read_token(home)
            return Endpoint(url=running.directory, token=token, volume="", home=home, users_lock=users_lock)
        os.close(users_lock)
        _sleep_until(deadline, f"the cluster in {home} neither starts nor ends; the logs are in {home}")
    return None


def refinder(home: Path) -> Callable[[], str]:
    """What a client calls when the directory does not answer: returns its present URL, and starts the supervisor
    again if it died. Asks no server, so it returns at once while the supervisor lives. Raises Unreachable, TimedOut."""
    mutex = threading.Lock()
    latest: Future[str] | None = None

    def refind() -> str:
        nonlocal latest
        with mutex:
            under_way = latest if latest is not None and not latest.done() else None
            look = latest = under_way or Future()
        if under_way is None:
            _look(home, look)
        return look.result()

    return refind


def _look(home: Path, look: "Future[str]") -> None:
    try:
        look.set_result(_running(home, time.monotonic() + START_S).directory)
    except BaseException as error:
        look.set_exception(error)


def start_keeping(home: Path, timeout_s: float = START_S) -> Endpoint:
    """Start the home's cluster, to go on without users until `stop`."""
    homes.prepare(home)
    (home / homes.KEEP).touch(mode=0o600)
    endpoint = find_or_start(home, timeout_s)
    endpoint.close()
    return endpoint


def stop(home: Path, timeout_s: float = STOP_S) -> bool:
    """Let the home's cluster end with its last user; True when it has ended, False when it is in use.

    Raises TimedOut when it neither ends nor is used.
    """
    if not home.is_dir():
        return True
    (home / homes.KEEP).unlink(missing_ok=True)
    deadline, used_since = time.monotonic() + timeout_s, None
    while is_running(home):
        now = time.monotonic()
        used_since = (used_since or now) if _has_users(home) else None
        # The supervisor itself looks whether there are users, by taking the lock for a moment.
        if used_since and now - used_since > _IN_USE_S:
            return False
        _sleep_until(deadline, f"the cluster in {home} does not end; its log is {home / homes.SUPERVISOR_LOG}")
    return True


def is_running(home: Path) -> bool:
    """The home has a supervisor."""
    return not _lock_is_free(home / homes.SUPERVISOR_LOCK, exclusive=False)


def _has_users(home: Path) -> bool:
    lock = home / homes.USERS_LOCK
    return not _lock_is_free(lock, exclusive=True) and _lock_is_free(lock, exclusive=False)


def _lock_is_free(path: Path, exclusive: bool) -> bool:
    """Who only looks makes nothing, be it where there is no home or where it cannot be written."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return try_lock(lock, exclusive)
    finally:
        os.close(lock)


def _ready(home: Path, deadline: float) -> tuple[StatusReply, str]:
    """Wait until the directory, the lock service and all file servers are up; after ALL_COPIES_S, copies_min do."""
    patient_until = time.monotonic() + ALL_COPIES_S
    while True:
        running = _running(home, deadline)
        token = homes.read_token(home)
        try:
            status = ask_status(running.directory, token)
            missing = _missing(status, all_copies=time.monotonic() < patient_until)
        except errors.Unauthorized:
            if _is_still(running, home):
                raise
            missing = {"directory": "answers another cluster's token"}
        except errors.DfsError as error:
            missing = {"directory": str(error)}
        if not missing and _is_still(running, home):
            status.directory.url = running.directory
            return status, token
        _refuse_dying(home, set(missing))
        waits_for = "; ".join(f"{name}: {why}" for name, why in missing.items())
        _sleep_until(deadline, f"the cluster in {home} is not ready ({waits_for}); the logs are in {home}")


def _missing(status: StatusReply, all_copies: bool) -> dict[str, str]:
    """What a writer needs and does not have yet, and why."""
    cluster = status.cluster
    needed = cluster.copies if all_copies else max(1, cluster.copies_min)
    missing = {} if cluster.locks and cluster.locks.up else {"locks": "not up"}
    up = {server.name for server in cluster.files if server.up}
    if len(up) < needed:
        missing.update({name: "not up" for name in ("A", "B", "C") if name not in up})
    return missing


def _is_still(running: RunningCluster, home: Path) -> bool:
    """The supervisor that was asked is the one of now, and has not begun to end."""
    now = homes.read_cluster(home)
    same = now is not None and (now.supervisor_pid, now.directory) == (running.supervisor_pid, running.directory)
    return same and is_running(home)


def _refuse_dying(home: Path, missing: set[str]) -> None:
    running = homes.read_cluster(home)
    for server in running.servers if running else ():
        if server.name in missing and server.deaths >= _DEATHS_MAX:
            raise errors.Unreachable(_dies(home, server.name, server.trouble))


def _dies(home: Path, name: str, trouble: str) -> str:
    log = home / name / homes.SERVER_LOG
    return f"server {name} keeps dying, last with: {homes.last_line(log) or trouble}; its log is {log}"


def _running(home: Path, deadline: float) -> RunningCluster:
    """What the living supervisor of `home` has published; it is started when there is none."""
    started: subprocess.Popen | None = None
    while True:
        lock = open_lock(home / homes.SUPERVISOR_LOCK)
        try:
            if try_lock(lock, exclusive=True):
                if started:
                    started.wait()
                    raise errors.Unreachable(_why_not_started(home))
                started = _start_supervisor(home, lock)
        finally:
            os.close(lock)
        running = homes.read_cluster(home)
        if running and _lives(running.supervisor_pid):
            return running
        _sleep_until(deadline, f"the cluster in {home} does not start; the logs are in {home}")


def _start_supervisor(home: Path, lock: int) -> subprocess.Popen:
    """`lock` is supervisor.lock, held; the new process has it from its first moment."""
    # A supervisor that was killed has left it; who waits must not take it for the next one's.
    (home / homes.CLUSTER).unlink(missing_ok=True)
    command = [*SERVERS, "all", "--home", str(home), "--lock-fd", str(lock)]
    output = homes.open_log(home / homes.SUPERVISOR_LOG)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=servers_environment(),
            pass_fds=(lock,),
            start_new_session=True,
        )
    finally:
        os.close(output)


def servers_environment() -> dict[str, str]:
    """Of a process that is to find the package `servers`."""
    root = str(Path(__file__).absolute().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


@contextlib.contextmanager
def kept_stopped(home: Path) -> Iterator[None]:
    """Nobody starts the home's cluster within the block. Raises Busy where it runs."""
    lock = open_lock(home / homes.SUPERVISOR_LOCK)
    try:
        if not try_lock(lock, exclusive=True):
            raise errors.Busy(f"the cluster in {home} runs; end it first: dfs --home {home} cluster stop")
        yield
    finally:
        os.close(lock)


def _why_not_started(home: Path) -> str:
    last = homes.last_line(home / homes.SUPERVISOR_LOG)
    if "the directory dies" in last:
        return _dies(home, "directory", last)
    return f"the cluster in {home} does not start: {last or 'its supervisor said nothing'}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sleep_until(deadline: float, complaint: str) -> None:
    """A short pause; TimedOut with `complaint` when the deadline has passed."""
    if time.monotonic() > deadline:
        raise errors.TimedOut(complaint)
    time.sleep(_LOOK_S)
