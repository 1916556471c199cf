"""Real etcd clusters, on loopback or on hosts of their own, for tests. Their data lies in memory: what is tested is not
its disks."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support import HERE, Host, wait_until

from dfsfuse import errors
from dfsfuse.etcd_address import EtcdAddress
from servers.children import free_port
from servers.etcd.client import EtcdClient

_HEARTBEAT_MS, _ELECTION_MS = 50, 500


class Member:
    def __init__(
        self, name: str, folder: Path, client_port: int, peer_port: int, scheme: str = "http", host: Host = HERE
    ):
        self.name, self._folder, self._host = name, folder, host
        self.url, self.peer_url = f"{scheme}://{host.address}:{client_port}", f"http://{host.address}:{peer_port}"
        self.process: subprocess.Popen | None = None

    def start(self, members: list["Member"], *options: str) -> None:
        command = [
            "etcd", "--name", self.name, "--data-dir", self._folder / self.name, "--logger", "zap",
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", ",".join(f"{each.name}={each.peer_url}" for each in members),
            "--heartbeat-interval", _HEARTBEAT_MS, "--election-timeout", _ELECTION_MS, *options,
        ]  # fmt: skip
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(self._host.command(*command), stdout=log, stderr=log)

    def end(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait(20)


class EtcdServers:
    """A member on each host. `address()` is that of keys which nobody else uses. `tls`: the folder of ca.pem,
    client.pem and client.key, with which they are asked."""

    def __init__(self, folder: Path, hosts: Sequence[Host], *options: str, tls: Path | None = None):
        self.folder, self._options, self._made, self._tls = folder, options, 0, tls
        taken: set[int] = set()
        ports = [free_port(taken) for _ in range(2 * len(hosts))]
        scheme = "http" if tls is None else "https"
        self.members = [
            Member(f"m{n}", folder, ports[2 * n], ports[2 * n + 1], scheme, host) for n, host in enumerate(hosts)
        ]
        for member in self.members:
            member.start(self.members, *options)
        client = EtcdClient(self.address())
        wait_until(lambda: _answers(client), "etcd answers", 30)
        client.close()

    def address(self, prefix: str = "") -> EtcdAddress:
        self._made += 1
        address = EtcdAddress([member.url for member in self.members], f"/{prefix or self._made}/".encode())
        if self._tls is None:
            return address
        files = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
        return address._replace(**{name: str(self._tls / file) for name, file in files.items()})

    def start(self, member: Member) -> None:
        member.start(self.members, *self._options)

    @contextlib.contextmanager
    def still(self, *members: Member) -> Iterator[None]:
        """They stand still (SIGSTOP) within the block."""
        for member in members:
            os.kill(member.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for member in members:
                os.kill(member.process.pid, signal.SIGCONT)

    def close(self) -> None:
        for member in self.members:
            if member.process.poll() is None:
                member.process.kill()
            member.process.wait(20)


def _answers(client: EtcdClient) -> bool:
    try:
        client.get(b"/")
        return True
    except errors.DfsError:
        return False


@contextlib.contextmanager
def etcd_servers(count: int = 3, *options: str, tls: Path | None = None) -> Iterator[EtcdServers]:
    if shutil.which("etcd") is None:
        pytest.fail("there is no etcd: .ci/setup test installs it")
    folder = Path(tempfile.mkdtemp(prefix="dfs-etcd-", dir="/dev/shm"))
    try:
        with contextlib.closing(EtcdServers(folder, [HERE] * count, *options, tls=tls)) as servers:
            yield servers
    finally:
        shutil.rmtree(folder)
