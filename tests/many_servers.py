"""Clusters of several directory and lock servers upon etcd, each server a process of its own, on loopback or on hosts
of their own."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from etcd_servers import EtcdServers, etcd_servers
from support import DRIVER, HERE, ROOT, Host, Mount, clean_up, run_mount, wait_until

from servers.children import free_port


class Process:
    """A server that can be killed, stopped and started again."""

    def __init__(self, kind: str, name: str, folder: Path, token: str, host: Host, *options: str):
        self.name, self.kind, self._token = name, kind, token
        self._folder = folder / name
        self.port = free_port(set())
        self.url = f"http://{host.address}:{self.port}"
        at = ["--home", self._folder, "--host", host.address, "--port", self.port]
        self._command = host.command(sys.executable, "-P", "-m", "servers", kind, *at, *options)
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        environment = {**os.environ, "DFS_TOKEN": self._token, "PYTHONPATH": str(ROOT)}
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment, cwd="/")

    def end(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait(30)

    def ask(self, operation: str, **request: Any) -> dict[str, Any]:
        """In JSON. An error that the server tells has "code"."""
        with requests.Session() as session:
            session.trust_env = False
            headers = {"Authorization": f"Bearer {self._token}"}
            return session.post(f"{self.url}/v1/{operation}", json=request, headers=headers, timeout=5).json()

    @property
    def serves(self) -> bool:
        try:
            return self.ask("serving")["url"] == self.url
        except (requests.RequestException, KeyError):
            return False

    @property
    def answers(self) -> bool:
        """It tells what it has in its store."""
        try:
            return "code" not in self.ask("cluster")
        except requests.RequestException:
            return False

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """It stands still (SIGSTOP) within the block."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


class ManyServers:
    """`directories` and `locks` are elected through `etcd`; A, B and C keep the content. Of each the first is on the
    first of `hosts`, and so on."""

    def __init__(
        self, folder: Path, etcd: EtcdServers, directories: int = 3, locks: int = 2, hosts: Sequence[Host] = (HERE,) * 3
    ):
        self.folder, self.etcd, self.token = folder, etcd, secrets.token_hex(16)
        self.home = folder / "home"
        self.address = "etcd://" + ",".join(member.url.removeprefix("http://") for member in etcd.members)
        self.address += f"?prefix=/{folder.name}"
        self.directories = [
            self._make("directory", f"d{n}", host, "--store", self.address)
            for n, host in enumerate(hosts[:directories])
        ]
        self.urls = ",".join(each.url for each in self.directories)
        where = ("--directory", self.urls)
        self.locks = [
            self._make("locks", f"l{n}", host, *where, "--etcd", self.address) for n, host in enumerate(hosts[:locks])
        ]
        self.files = [
            self._make("files", name, host, *where, "--name", name) for name, host in zip("ABC", hosts, strict=True)
        ]
        self._mounts = 0

    def _make(self, kind: str, name: str, host: Host, *options: str) -> Process:
        return Process(kind, name, self.folder, self.token, host, *options)

    @property
    def all(self) -> list[Process]:
        return [*self.directories, *self.locks, *self.files]

    def start(self) -> None:
        for each in self.all:
            each.start()
        wait_until(self._is_whole, "all servers are up", 30)

    def _is_whole(self) -> bool:
        serving = self.serving(self.directories)
        if serving is None:
            return False
        cluster = serving.ask("cluster")
        return len(cluster["files"]) == 3 and (cluster["locks"] or {}).get("up", False)

    def serving(self, among: list[Process]) -> Process | None:
        return next((each for each in among if each.process.poll() is None and each.serves), None)

    def mount(self, *arguments: object, point: Path | None = None, host: Host = HERE) -> Mount:
        if point is None:
            self._mounts += 1
            point = self.folder / f"m{self._mounts}"
            point.mkdir()
        options = ["--home", self.home, "--driver", DRIVER, "--cluster", self.urls, *arguments]
        outcome = run_mount(point, *options, host=host, DFS_TOKEN=self.token)
        assert outcome.returncode == 0, outcome.stderr
        return Mount(self, point, self.home)

    def end(self) -> None:
        clean_up(self.folder)
        for each in self.all:
            if each.process is not None and each.process.poll() is None:
                each.process.kill()
                each.process.wait(30)


@contextlib.contextmanager
def many_servers(**counts: int) -> Iterator[ManyServers]:
    folder = Path(tempfile.mkdtemp(prefix="dfs-", dir="/tmp"))
    try:
        with etcd_servers() as etcd:
            made = ManyServers(folder, etcd, **counts)
            try:
                made.start()
                yield made
            finally:
                made.end()
    finally:
        shutil.rmtree(folder)
