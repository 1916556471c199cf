"""What tests share: waiting for a condition, running mount.py, and ending all that a test has started."""

import asyncio
import contextlib
import ctypes
import errno
import faulthandler
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests
import uvloop

from dfsfuse import home as homes
from dfsfuse import mountpoint
from servers.http import App, Listener

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 30.0
DRIVER = os.environ.get("DFS_TEST_DRIVER", "linux")
"""The driver of tests on real mounts, save those that are marked with the `drivers` on which they run."""


class Host(Protocol):
    """Where a process runs, and the address at which others reach it."""

    address: str

    def command(self, *command: object) -> list[str]:
        """The same command, on this host."""


class _Here:
    address = "127.0.0.1"

    def command(self, *command: object) -> list[str]:
        return list(map(str, command))


HERE: Host = _Here()


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `condition`; AssertionError when there is none within `deadline_s`."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.01)
    return value


def run_mount(*arguments: object, host: Host = HERE, **environment: str) -> subprocess.CompletedProcess:
    """mount.py with these arguments; its output as text."""
    command = host.command(sys.executable, ROOT / "mount.py", *arguments)
    without = {name: value for name, value in os.environ.items() if not name.startswith("DFS_")}
    return subprocess.run(
        command, env={**without, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def is_in_pages(fd: int) -> bool:
    """The beginning of a file is in the kernel's memory."""
    present = ctypes.c_ubyte()
    with mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        address = ctypes.addressof(first := ctypes.c_char.from_buffer(mapping))
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(1), ctypes.byref(present))
        del first
    assert not failed
    return bool(present.value & 1)


def processes_of(folder: Path) -> dict[int, str]:
    """Living processes, other than this one, whose command line names `folder`: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = entry.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in command:
                    found[int(entry.name)] = command
    return found


def alive(pid: int) -> bool:
    """It runs: it is neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def clean_up(folder: Path) -> None:
    """End everything that names `folder`: mounts below it first, so that nothing is removed through them."""
    for mount in reversed(mountpoint.mounts()):
        if mount.point.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount.point], capture_output=True, check=False)
    for how, wait_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        for pid in processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not any(map(alive, processes_of(folder))), "processes of the test end", wait_s)
            return


class Mount:
    """One real mount and the client behind it. `point` is its root."""

    def __init__(self, cluster: "MountedCluster", point: Path, home: Path):
        self.cluster, self.point, self.home = cluster, point, home

    @property
    def pid(self) -> int:
        """The client's process."""
        return next(pid for pid, command in processes_of(self.point).items() if "--ready-fd" in command)

    @property
    def folder(self) -> Path:
        """The client's folder: its cache and its log."""
        (volume,) = (self.home / "clients").iterdir()
        return volume / homes.client_folder(self.home, "v", str(self.point)).name

    @property
    def log(self) -> str:
        return (self.folder / "client.log").read_text(errors="replace")

    def kill(self) -> None:
        """The client is killed; its mount stays, dead."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), "the client is gone")

    def unmount(self) -> None:
        """umount, and the client's end."""
        pid = self.pid
        subprocess.run(["umount", str(self.point)], check=True, capture_output=True)
        wait_until(lambda: not alive(pid), "the client ends after umount")


class MountedCluster:
    """An embedded cluster in `folder`/home with any number of real mounts, through `driver`. `environment` is what
    its processes get besides that of the test. `stays_whole`: no test breaks it on purpose, so it is checked in the
    end."""

    def __init__(self, folder: Path, driver: str = DRIVER):
        self.folder, self.home, self.driver = folder, folder / "home", driver
        self.environment: dict[str, str] = {}
        self.stays_whole = True
        self._made = 0

    def mount(self, *arguments: object, home: Path | None = None, point: Path | None = None) -> Mount:
        """mount.py on `point`, by default a new folder."""
        if point is None:
            self._made += 1
            point = self.folder / f"m{self._made}"
            point.mkdir()
        home = home or self.home
        outcome = run_mount(point, "--home", home, "--driver", self.driver, *arguments, **self.environment)
        assert outcome.returncode == 0, outcome.stderr
        return Mount(self, point, home)

    def servers(self) -> dict[str, homes.RunningServer]:
        """directory, locks, A, B, C as the supervisor knows them now."""
        running = homes.read_cluster(self.home)
        assert running is not None, "the cluster does not run"
        return {server.name: server for server in running.servers}

    def ask(self, name: str, operation: str = "status", **request: Any) -> dict[str, Any]:
        """One operation of one server, in JSON."""
        headers = {"Authorization": f"Bearer {homes.read_token(self.home)}"}
        url = f"{self.servers()[name].url}/v1/{operation}"
        with requests.Session() as session:
            session.trust_env = False
            reply = session.post(url, json=request, headers=headers, timeout=10)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def served(self, *names: str) -> int:
        """How many chunks these file servers have served, from the disk or not."""
        return sum(self.ask(name)["served_chunks"] for name in names or ("A", "B", "C"))

    def stored_bytes(self, name: str = "A") -> int:
        return self.ask(name)["stored_bytes"]

    def kill(self, name: str) -> None:
        """SIGKILL; the supervisor starts it again."""
        os.kill(self.servers()[name].pid, signal.SIGKILL)

    def wait_for(self, name: str, other_than: int = 0) -> None:
        """The server answers, as another process than `other_than`."""

        def answers() -> bool:
            with contextlib.suppress(requests.RequestException, AssertionError):
                return self.servers()[name].pid not in (0, other_than) and bool(self.ask(name))
            return False

        wait_until(answers, f"{name} answers again")

    @contextlib.contextmanager
    def frozen(self, *names: str) -> Iterator[None]:
        """These servers stand still (SIGSTOP) within the block: their supervisor takes them for alive."""
        pids = [self.servers()[name].pid for name in names]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def dead(self, *names: str) -> Iterator[None]:
        """Within the block these servers are dead, and nobody starts them: their supervisor stands still."""
        supervisor = homes.read_cluster(self.home).supervisor_pid
        pids = {name: self.servers()[name].pid for name in names}
        os.kill(supervisor, signal.SIGSTOP)
        try:
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            yield
        finally:
            os.kill(supervisor, signal.SIGCONT)
            for name, pid in pids.items():
                self.wait_for(name, other_than=pid)

    def end(self) -> None:
        """Everything that names the folder is ended, and the folder removed."""
        clean_up(self.folder)
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def mounted_cluster(driver: str = DRIVER) -> Iterator[MountedCluster]:
    """A cluster for real mounts; other users may reach its mounts, but not its home."""
    folder = Path(tempfile.mkdtemp(prefix="dfs-", dir="/tmp"))
    folder.chmod(0o711)
    cluster = MountedCluster(folder, driver)
    try:
        yield cluster
    finally:
        cluster.end()


def hung(folder: Path) -> None:
    """A test takes too long: with the clients gone every call into their mounts ends with ENOTCONN, so pytest goes on
    and can say which test it was."""
    faulthandler.dump_traceback(all_threads=True)
    for pid, command in processes_of(folder).items():
        if "--ready-fd" in command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen:
    """A process of its own that runs `code` with these arguments; its output as text."""
    command = [sys.executable, "-S", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@contextlib.contextmanager
def error(number: int) -> Iterator[None]:
    """The block ends with an OSError of this errno."""
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is compared below
        yield
    assert raised.value.errno == number, f"{errno.errorcode[raised.value.errno]}, not {errno.errorcode[number]}"


@contextlib.contextmanager
def served(
    app: App, port: int = 0, loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
) -> Iterator[int]:
    """An application that listens on a loopback port (0: any), in a thread of its own; the port."""
    listener = Listener(app, "127.0.0.1", port)
    runner = asyncio.Runner(loop_factory=loop_factory)
    loop = runner.get_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(DEADLINE_S)

    run(listener.start())
    try:
        yield listener.port
    finally:
        run(listener.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        runner.close()


@contextlib.contextmanager
def small_disk(point: Path, megabytes: int) -> Iterator[None]:
    """An ext4 file system of this size on `point`; skipped where this machine has no loop devices."""
    image = point.with_name(point.name + ".img")
    point.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, point], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NOT RUN: no loop devices: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


def fill_disk(file: Path) -> None:
    """With this file, to the last byte of its disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for size in (1 << 20, 4096, 512, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)


@contextlib.contextmanager
def after_a_power_cut(image: Path, point: Path) -> Iterator[Path]:
    """What a `small_disk` has been given until now, and nothing of what the kernel still has in memory, as a disk of
    its own on `point`."""
    copy = point.with_name(point.name + ".img")
    shutil.copy(image, copy)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", copy, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)
        copy.unlink()
