"""Servers and clients as processes on the hosts of a network, each with a disk of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import ROOT, Mount, alive, fill_disk, wait_until

from dfsfuse import errors, messages
from dfsfuse.rpc import Rpc

from .network import Host, Network

PORT = 7000
FILES = ("A", "B", "C")
SERVERS = ("directory", "locks", *FILES)
CLIENTS = ("m1", "m2")
DISK_MB = 400
START_S = 30.0
ASK_S = 5.0
DFS_S = 120.0


class Server:
    """One server: its process, and its disk, which is a file system of its own."""

    def __init__(self, name: str, host: Host, folder: Path, options: list[object]):
        self.name, self.host, self.home = name, host, folder / name
        self.url = f"http://{host.address}:{PORT}"
        self._filler = self.home / "filler"
        self._log, self._options = folder / f"{name}.log", options
        self.process: subprocess.Popen | None = None
        self.new_disk()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def new_disk(self) -> None:
        """An empty one in place of what there was; the server does not run."""
        if self.home.exists():
            subprocess.run(["umount", self.home], check=True)
        self.home.mkdir(exist_ok=True)
        size = f"size={DISK_MB}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.home], check=True)

    def fill_disk(self) -> None:
        """To the last byte."""
        fill_disk(self._filler)

    def free_disk(self) -> None:
        self._filler.unlink()

    def start(self) -> None:
        at = ["--home", self.home, "--host", self.host.address, "--port", PORT]
        command = self.host.command(sys.executable, "-P", "-m", "servers", *self._options, *at)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def signal(self, number: int) -> None:
        """SIGKILL is waited for."""
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(START_S)

    def check_lives(self) -> None:
        ended = self.process.poll()
        assert ended is None, f"{self.name} has ended by itself ({ended}): {self.log[-2000:]}"


class Lab:
    """A cluster and its clients; `folder` holds everything."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.token = secrets.token_hex(16)
        (folder / "token").write_text(self.token)
        self._rpc = Rpc(self.token)
        self.network = Network([*SERVERS, *CLIENTS, "m3"])
        self.servers = {name: self._server(name) for name in SERVERS}
        self.clients: dict[str, Mount] = {}

    def _server(self, name: str) -> Server:
        hosts = self.network.hosts
        options: list[object] = ["directory"]
        if name != "directory":
            directory = f"http://{hosts['directory'].address}:{PORT}"
            options = [*(["locks"] if name == "locks" else ["files", "--name", name]), "--directory", directory]
        return Server(name, hosts[name], self.folder, [*options, "--token-file", self.folder / "token"])

    def start(self, timeout_s: float = 30) -> None:
        """The servers, and the two clients, whose calls end after `timeout_s` without progress."""
        for server in self.servers.values():
            server.start()
        wait_until(self.is_whole, f"all servers are up; {self.what_lacks()}", START_S)
        for name in CLIENTS:
            self.mount(name, timeout_s=timeout_s)

    def restart_files(self) -> None:
        """The file servers, one after the other. After its start each goes through all that it has: it finds what was
        uploaded and never committed, for which it would else take its time (a day)."""
        for name in FILES:
            server = self.servers[name]
            server.signal(signal.SIGKILL)
            server.start()
            wait_until(lambda s=server: self._is_back(s), f"{name} is back", START_S)
        wait_until(self.is_whole, f"all servers are up; {self.what_lacks()}", START_S)

    def _is_back(self, server: Server) -> bool:
        """The directory has heard of this process."""
        with contextlib.suppress(errors.DfsError):
            return server.process.pid in {each.pid for each in self.status().cluster.files}
        return False

    def mount(self, name: str, host: str = "", timeout_s: float = 30) -> Mount:
        """A client with a cache of its own, on the host of its name, or on another one's."""
        point, home = self.folder / name, self.folder / f"home-{name}"
        point.mkdir()
        url = self.servers["directory"].url
        options = [point, "--home", home, "--cluster", url, "--timeout", timeout_s]
        command = self.network.hosts[host or name].command(sys.executable, ROOT / "mount.py", *options)
        environment = {**os.environ, "DFS_TOKEN": self.token}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        self.clients[name] = Mount(None, point, home)
        return self.clients[name]

    def unmount(self, name: str) -> None:
        self.clients.pop(name).unmount()

    # -- what the lab itself sees, whatever is cut

    def ask(self, name: str, operation: str, request: messages.Message, reply: type) -> Any:
        """One operation of one server. Raises DfsError."""
        return self._rpc.call(self.servers[name].url, operation, request, reply, ASK_S)

    def status(self) -> messages.StatusReply:
        return self.ask("directory", "status", messages.Nothing(), messages.StatusReply)

    def dfs(self, *arguments: object) -> subprocess.CompletedProcess:
        """The command, on a host of nobody."""
        url, home = self.servers["directory"].url, self.folder / "home-dfs"
        command = [sys.executable, "-P", "-m", "dfsfuse", "--home", home, "--cluster", url, *arguments]
        environment = {**os.environ, "DFS_TOKEN": self.token, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, timeout=DFS_S, check=False
        )

    def what_lacks(self) -> str:
        """Why the cluster is not what it should be: nothing is down, short, or on its way to be there."""
        try:
            found = self.status()
        except errors.DfsError as error:
            return f"the directory does not answer: {error}"
        services = [*found.cluster.files, *([found.cluster.locks] if found.cluster.locks else [])]
        there = {server.name: server for server in services if server.up}
        lacks = [f"{name} is not up" for name in SERVERS[1:] if name not in there]
        lacks += [f"{server.name} is syncing" for server in there.values() if server.syncing]
        lacks += [f"{found.short_chunks} chunks are short"] * bool(found.short_chunks)
        return "; ".join(lacks)

    def is_whole(self) -> bool:
        return not self.what_lacks()

    def logs(self) -> dict[str, str]:
        """Of servers and clients."""
        return {name: one.log for name, one in (*self.servers.items(), *self.clients.items())}

    def copy_logs(self, to: Path) -> None:
        """And what the loads have written."""
        to.mkdir(parents=True, exist_ok=True)
        for name, log in self.logs().items():
            (to / f"{name}.log").write_text(log)
        for file in (self.folder / "journals").iterdir():
            shutil.copy(file, to / f"journal-{file.name}")

    def check_lives(self) -> None:
        """Servers and clients that nobody has ended run."""
        for server in self.servers.values():
            server.check_lives()
        for name, client in self.clients.items():
            assert alive(client.pid), f"the client {name} has ended by itself: {client.log[-2000:]}"


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """Hosts, and nothing started yet, in a folder that is in memory. The end of the sandbox ends what is left of it."""
    folder = Path(tempfile.mkdtemp(prefix="dfs-faults-"))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        yield Lab(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
