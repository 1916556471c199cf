"""How a mount comes about: checks, the cluster, a daemon process, and its word that the mount answers.

    mount.py  --checks--> finds or starts the cluster --> starts mount.py again as a daemon --> waits for its word
    daemon    --claims its folder--> connects --> mounts --> "ready" through the pipe --> serves until unmounted

The daemon is a new process and not a fork, because libfuse and Python both have threads by then. It inherits the
lock that keeps the cluster alive, so there is no moment in which nobody holds it.
"""

import contextlib
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dfsfuse import allocator, cluster, directories, home, joining, mountpoint, options
from dfsfuse.endpoints import Endpoint
from dfsfuse.errors import DfsError
from dfsfuse.idle_collection import IdleCollection
from dfsfuse.mountpoint import MountError
from dfsfuse.private_folder import make_private_folder

log = logging.getLogger(__name__)

DRIVERS = ("linux", "fusepy")
READY_GRACE_S = 30.0
END_S = 5.0
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_READY = "ready"
_LOOK_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asked for. `suid`, `dev`: set-id bits and device nodes count. `cluster_url` None: the cluster of
    `home`; else of which `volume`, "" being the only one, or "main". Times in seconds. `driver` is one of DRIVERS; "":
    the first that this machine can have. `passthrough`: where the kernel can, it reads cached files itself, and writes
    those up to `hash_whole_max`."""

    mountpoint: str
    home: Path
    cluster_url: str | None = None
    volume: str = ""
    read_only: bool = False
    suid: bool = False
    dev: bool = False
    lock_wait_s: float = options.LOCK_WAIT_S
    timeout_s: float = options.TIMEOUT_S
    cache_bytes: int = options.CACHE_BYTES
    known_files: int = options.KNOWN_FILES
    log_level: str = "info"
    driver: str = ""
    passthrough: bool = True
    hash_whole_max: int = options.HASH_WHOLE_MAX


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the daemon is told of the cluster that was found (`urls`: of all its directory servers), and its two
    inherited descriptors: the pipe on which it reports, and the lock that keeps the cluster alive."""

    url: str
    volume: str
    token: str
    ready: int | None = None
    users_lock: int | None = None
    urls: str = ""


def choose_driver(asked: str, tell: Callable[[str], None]) -> str:
    """The driver to use; `tell` is told why where it is not the first choice. Raises MountError."""
    from dfsfuse.drivers.linux_mount import unsupported

    why = unsupported()
    if asked == "linux" and why:
        raise MountError(f"the linux driver cannot be used: {why}; try --driver fusepy")
    if not asked and why:
        tell(f"the fusepy driver is used, as {why}")
    driver = asked or ("fusepy" if why else "linux")
    if driver == "fusepy":
        os.environ["FUSE_LIBRARY_PATH"] = mountpoint.require_libfuse()
    return driver


def prepare(wanted: Wanted, tell: Callable[[str], None]) -> Endpoint:
    """Everything before the mount itself; `tell` takes a line for the user. Raises MountError and DfsError."""
    if (wanted.suid or wanted.dev) and os.geteuid() != 0:
        raise MountError("--suid and --dev are for root: everybody's programs would trust what the servers say")
    mountpoint.free(wanted.mountpoint, tell)
    mountpoint.require_folder(wanted.mountpoint)
    mountpoint.require_fuse()
    _require_apart(wanted.mountpoint, os.path.realpath(wanted.home))
    if wanted.cluster_url is None:
        home.prepare(wanted.home)
        return cluster.find_or_start(wanted.home)
    # A cluster that is not there, or refuses the token, leaves no home behind.
    endpoint = joining.join_from(wanted.home, wanted.cluster_url, wanted.volume)
    home.prepare(wanted.home)
    return endpoint


def _require_apart(point: str, real_home: str) -> None:
    """Servers and clients that reach their own files through the mount would wait for each other for ever."""
    if os.path.commonpath([point, real_home]) in (point, real_home):
        raise MountError(f"{point}: the home {real_home} lies there, or around it; choose another with --home DIR")
    for own in map(os.path.realpath, (os.path.dirname(__file__), sys.prefix, "/proc/self", "/dev/fuse")):
        if os.path.commonpath([point, own]) == point:
            raise MountError(f"{point}: the mount would hide {own}, which dfsfuse itself needs; choose another folder")


def mount_in_background(wanted: Wanted, endpoint: Endpoint, program: list[str]) -> list[str]:
    """Start the daemon (`program` is mount.py's command) and return once the mount answers, with what it has to tell
    the user. Raises MountError."""
    folder = home.client_folder(wanted.home, endpoint.volume, wanted.mountpoint)
    log_file = folder / "client.log"
    process, ready, log_start = _start_daemon(wanted, endpoint, program, log_file)
    try:
        lines = _await_ready(process, ready, wanted.timeout_s + READY_GRACE_S, log_file, log_start)
        failure = mountpoint.failure_of(wanted.mountpoint, wanted.timeout_s)
        if failure or not mountpoint.is_fuse(mountpoint.mounted_at(wanted.mountpoint)):
            why = os.strerror(failure) if failure else "it is not mounted any more"
            raise MountError(f"{wanted.mountpoint}: the mount does not answer: {why}; see {log_file}")
    except BaseException:
        _end(process)
        raise
    finally:
        os.close(ready)
    return lines


def _start_daemon(
    wanted: Wanted, endpoint: Endpoint, program: list[str], log_file: Path
) -> tuple[subprocess.Popen, int, int]:
    """The process, the pipe on which it reports, and the size that its log had before."""
    ready, write = os.pipe()
    output = home.open_log(log_file)
    log_start = os.fstat(output).st_size
    inherited = [write, *([endpoint.users_lock] if endpoint.users_lock is not None else [])]
    command = [*program, *_daemon_arguments(wanted, endpoint, write)]
    environment = {**os.environ, "DFS_TOKEN": endpoint.token}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment,
            pass_fds=inherited,
            start_new_session=True,
        )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(write)
        os.close(output)
    return process, ready, log_start


def _daemon_arguments(wanted: Wanted, endpoint: Endpoint, ready: int) -> list[str]:
    arguments = ["--home", str(wanted.home), "--lock-wait", str(wanted.lock_wait_s)]
    arguments += ["--timeout", str(wanted.timeout_s), "--cache-bytes", str(wanted.cache_bytes)]
    arguments += ["--known-files", str(wanted.known_files)]
    arguments += ["--log-level", wanted.log_level, "--ready-fd", str(ready)]
    arguments += ["--driver", wanted.driver] if wanted.driver else []
    arguments += [] if wanted.passthrough else ["--passthrough", "off"]
    arguments += ["--passthrough-writes", str(wanted.hash_whole_max)]
    arguments += ["--found-url", endpoint.url, "--found-volume", endpoint.volume, "--found-urls", endpoint.urls]
    if endpoint.users_lock is not None:
        arguments += ["--users-fd", str(endpoint.users_lock)]
    if wanted.cluster_url is not None:
        arguments += ["--cluster", wanted.cluster_url]
    if wanted.read_only:
        arguments.append("--read-only")
    arguments += ["--suid"] * wanted.suid + ["--dev"] * wanted.dev
    return [*arguments, "--", wanted.mountpoint]


def _await_ready(process: subprocess.Popen, ready: int, wait_s: float, log_file: Path, log_start: int) -> list[str]:
    """What the daemon tells the user. Raises MountError with its own words when it has any."""
    if not select.select([ready], [], [], wait_s)[0]:
        raise MountError(f"the client is not ready after {wait_s:g} s; its log is {log_file}")
    word = b""
    while part := os.read(ready, 4096):
        word += part
    first, *lines = word.decode(errors="surrogateescape").split("\n")
    if first == _READY:
        return lines
    if word:
        raise MountError(word.decode(errors="surrogateescape"))
    status = process.wait(END_S)
    last = home.last_line(log_file, log_start) or "it said nothing"
    raise MountError(f"the client ended with status {status}: {last}; its log is {log_file}")


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve_as_daemon(wanted: Wanted, found: Found) -> int:
    """The daemon's life; the exit status."""
    for descriptor in filter(None, (found.ready, found.users_lock)):
        os.set_inheritable(descriptor, False)
    report = _Report(found.ready)
    try:
        lines: list[str] = []
        serve(wanted, found, lambda: report.send("\n".join([_READY, *lines])), lines.append)
    except Exception as error:
        log.error("%s", one_line(error), exc_info=not isinstance(error, MountError | DfsError))
        report.send(one_line(error))
        return 1
    return 0


class _Report:
    """The daemon's one word to who started it."""

    def __init__(self, pipe: int):
        self._pipe: int | None = pipe

    def send(self, word: str) -> None:
        """Only the first word is sent."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            # Who started the daemon may have been interrupted meanwhile: then nobody wants to know.
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe, word.encode(errors="surrogateescape"))
            os.close(pipe)


def serve(wanted: Wanted, found: Found, on_ready: Callable[[], None], tell: Callable[[str], None]) -> None:
    """Mount, and serve until unmounted; before `on_ready`, `tell` takes lines for the user. Raises MountError and
    DfsError."""
    _log_to_stderr(wanted.log_level)
    _raise_file_limit()
    allocator.keep_large_blocks_apart()
    refind, another = _finders(wanted, found)
    asked = options.ClientOptions(
        url=found.url,
        token=found.token,
        home=wanted.home,
        mountpoint=wanted.mountpoint,
        cache_bytes=wanted.cache_bytes,
        known_files=wanted.known_files,
        lock_wait_s=wanted.lock_wait_s,
        timeout_s=wanted.timeout_s,
        read_only=wanted.read_only,
        suid=wanted.suid,
        dev=wanted.dev,
        passthrough=wanted.passthrough,
        hash_whole_max=wanted.hash_whole_max,
        refind=refind,
        another=another,
        volume=found.volume,
    )
    claim = _claim(asked)
    try:
        _mount(asked, wanted.driver or choose_driver("", log.warning), on_ready, tell)
    finally:
        os.close(claim)


def _finders(wanted: Wanted, found: Found) -> directories.Finders:
    if wanted.cluster_url is None:
        return directories.Finders(cluster.refinder(wanted.home))
    return directories.finders(found.urls or found.url, found.token)


def _mount(
    asked: options.ClientOptions, driver: str, on_ready: Callable[[], None], tell: Callable[[str], None]
) -> None:
    from dfsfuse.client import connect

    run = run_of(driver)
    mounted: list[bool] = []

    def on_mounted() -> None:
        mounted.append(True)
        on_ready()

    # The other driver knows nothing of it.
    more = {"backing": asked.passing} if driver == "linux" else {}
    filesystem = connect(asked, tell)
    IdleCollection().begin()
    # The driver unmounts cleanly at these signals; libfuse does if nobody else has claimed them.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        run(
            filesystem,
            asked.mountpoint,
            read_only=asked.read_only,
            suid=asked.suid,
            dev=asked.dev,
            allow_other=mountpoint.others_may_enter(),
            fsname=f"dfsfuse:{asked.volume}",
            on_ready=on_mounted,
            **more,
        )
    except RuntimeError as error:
        # libfuse ends its loop with a status other than 0 when it was a signal that ended it.
        if mounted:
            return
        why = f"the {driver} driver cannot mount it ({error}); its log is {asked.folder / 'client.log'}"
        raise MountError(f"{asked.mountpoint}: {why}") from None
    finally:
        filesystem.close()
        log.info("%s is unmounted", asked.mountpoint)


def run_of(driver: str) -> Callable[..., None]:
    """Imports one driver alone: what the other one needs may be missing."""
    if driver == "fusepy":
        from dfsfuse.drivers import fusepy

        return fusepy.run
    from dfsfuse.drivers import linux

    return linux.run


def _claim(asked: options.ClientOptions) -> int:
    """The lock of the client's folder: the former client of this mountpoint may still be ending. Raises MountError."""
    make_private_folder(asked.folder)
    claim = home.open_lock(asked.folder / home.CLIENT_LOCK)
    deadline = time.monotonic() + asked.timeout_s
    while not home.try_lock(claim, exclusive=True):
        if mountpoint.is_fuse(mountpoint.mounted_at(asked.mountpoint)):
            os.close(claim)
            raise MountError(f"{asked.mountpoint}: another mount.py has mounted it meanwhile")
        if time.monotonic() > deadline:
            os.close(claim)
            who = f"the client that was mounted on {asked.mountpoint} before"
            raise MountError(f"{who} still has open files or uploads; wait for it to end, or use another mountpoint")
        time.sleep(_LOOK_S)
    return claim


def _raise_file_limit() -> None:
    """Each open file has its content open in the cache: the soft limit, often 1024, would be that of all programs."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_to_stderr(level: str) -> None:
    os.umask(0o077)
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format=_LOG_FORMAT)


def one_line(error: BaseException) -> str:
    """What an error says, for the user; an unexpected one says its kind too."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MountError | DfsError) else f"{type(error).__name__}: {text}"
