"""Servers and clients as processes on the hosts of a network, each with a disk of its own."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import requests
from support import ROOT, Mount, alive, wait_until

from dfsfuse import messages

from .network import Host, Network

PORT = 7000
FILES = ("A", "B", "C")
SERVERS = ("directory", "locks", *FILES)
CLIENTS = ("m1", "m2")
DISK_MB = 600
START_S = 30.0


class Server:
    """One server: its process, and its disk, which is a file system of its own."""

    def __init__(self, name: str, host: Host, folder: Path, options: list[object]):
        self.name, self.host, self.home = name, host, folder / name
        self.url = f"http://{host.address}:{PORT}"
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

    def ask(self, name: str, operation: str = "status") -> bytes:
        """What a server answers to an operation without arguments, as JSON. Raises requests.RequestException."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        with requests.Session() as session:
            session.trust_env = False
            reply = session.post(f"{self.servers[name].url}/v1/{operation}", b"{}", headers=headers, timeout=5)
        reply.raise_for_status()
        return reply.content

    def status(self) -> messages.StatusReply:
        return messages.from_json(self.ask("directory"), messages.StatusReply)

    def what_lacks(self) -> str:
        """Why the cluster is not what it should be: nothing is down, short, or on its way to be there."""
        try:
            found = self.status()
        except requests.RequestException as error:
            return f"the directory does not answer: {error}"
        services = [*found.cluster.files, *([found.cluster.locks] if found.cluster.locks else [])]
        there = {server.name: server for server in services if server.up}
        lacks = [f"{name} is not up" for name in SERVERS[1:] if name not in there]
        lacks += [f"{server.name} is syncing" for server in there.values() if server.syncing]
        # Who does not tell of its disk is not repaired.
        repaired = all(server.store for server in found.cluster.files)
        lacks += [f"{found.short_chunks} chunks are short"] * bool(repaired and found.short_chunks)
        return "; ".join(lacks)

    def is_whole(self) -> bool:
        return not self.what_lacks()

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
