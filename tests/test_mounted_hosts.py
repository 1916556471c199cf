"""A cluster of three hosts, made by its commands: each host has an address of its own on the loopback interface."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_servers import EtcdServers, etcd_servers
from support import DRIVER, ROOT, Mount, clean_up, run_mount, wait_until

from dfsfuse import joining
from servers.children import free_port

pytestmark = pytest.mark.mounted


class Hosts:
    """`dfs cluster init` on the first, `join` on the others; then what their units would run."""

    def __init__(self, folder: Path, etcd: EtcdServers):
        self.folder, self._etcd = folder, etcd
        self.address = "etcd://" + ",".join(member.url.removeprefix("http://") for member in etcd.members)
        self.port = free_port(set())
        self.processes: list[subprocess.Popen] = []
        self.units = folder / "units"
        self.units.mkdir()
        self._mounts = 0

    def config(self, number: int) -> Path:
        return self.folder / f"h{number}" / "cluster.toml"

    @property
    def agents(self) -> str:
        return ",".join(f"http://127.0.0.{10 + number}:{self.port}" for number in range(3))

    @property
    def token(self) -> str:
        return (self.folder / "h0" / "token").read_text().strip()

    def dfs(self, *arguments: object, status: int | None = 0, token: str | None = None) -> str:
        """What it says. `status` None: any but 0."""
        command = [sys.executable, "-m", "dfsfuse", "--home", self.folder / "home", *arguments]
        known = self.token if (self.folder / "h0").exists() else ""
        environment = {**os.environ, "DFS_TOKEN": known if token is None else token}
        done = subprocess.run(
            list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status or (status is None and done.returncode), done.stderr
        return done.stdout + done.stderr

    def make(self) -> None:
        for number in range(3):
            what = ["init", "--etcd", self.address] if number == 0 else ["join", f"http://127.0.0.10:{self.port}"]
            options = ["--address", f"127.0.0.{10 + number}", "--name", f"h{number}", "--port", self.port]
            options += ["--dir", self.folder / f"h{number}", "--data", self.folder / f"h{number}" / "data"]
            self.dfs("cluster", *what, *options, "--units", self.units)
            self.start(number)
            if number == 0:
                wait_until(lambda: self._answers("http://127.0.0.10"), "the first host's agent answers", 20)

    def _answers(self, host: str) -> bool:
        import requests

        try:
            headers = {"Authorization": f"Bearer {self.token}"}
            return requests.post(f"{host}:{self.port}/v1/ping", json={}, headers=headers, timeout=2).ok
        except requests.RequestException:
            return False

    def start(self, number: int) -> None:
        """What the units of a host run."""
        unit = (self.units / "dfsfuse-directory.service").read_text()
        assert "ExecStart=" in unit
        command = [sys.executable, "-P", "-m", "servers", "host", "--config", str(self.config(number))]
        log = (self.folder / f"h{number}.log").open("ab")
        self.processes.append(
            subprocess.Popen(command, stdout=log, stderr=log, cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)})
        )
        log.close()

    def mount(self, *arguments: object) -> Mount:
        self._mounts += 1
        point = self.folder / f"m{self._mounts}"
        point.mkdir()
        options = ["--home", self.folder / "home", "--driver", DRIVER, "--cluster", self.agents, *arguments]
        outcome = run_mount(point, *options, DFS_TOKEN=self.token)
        assert outcome.returncode == 0, outcome.stderr
        return Mount(self, point, self.folder / "home")

    def end(self) -> None:
        clean_up(self.folder)
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait(30)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with tempfile.TemporaryDirectory(prefix="dfs-", dir="/tmp") as folder, etcd_servers() as etcd:
        made = Hosts(Path(folder), etcd)
        try:
            made.make()
            yield made
        finally:
            made.end()


def test_three_commands_make_a_cluster(hosts: Hosts) -> None:
    """Goal: init, join and join; then it can be mounted from any agent, a second volume is another tree, a host may
    go, and a volume that is removed is gone with what hosts had of it."""
    first = hosts.mount()
    (first.point / "f").write_bytes(b"main")
    hosts.dfs("--cluster", hosts.agents, "volume", "create", "other")
    second = hosts.mount("--volume", "other")
    assert os.listdir(second.point) == []
    (second.point / "f").write_bytes(b"other")
    again = hosts.mount("--volume", "main")
    assert (again.point / "f").read_bytes() == b"main"
    listed = json.loads(hosts.dfs("--cluster", hosts.agents, "volume", "list", "--json"))
    assert [row["name"] for row in listed] == ["main", "other"]
    assert all(row["serving"].startswith("http://127.0.0.1") for row in listed)
    told = hosts.dfs("--cluster", hosts.agents, "volume", "quota", "other", "--inodes", "1000")
    assert "1000" in told
    assert "other" in hosts.dfs("--cluster", hosts.agents, "volume", "remove", "other", status=1)
    assert (second.point / "f").read_bytes() == b"other"
    second.unmount()
    hosts.dfs("--cluster", hosts.agents, "volume", "remove", "other", "--yes-remove", "other")
    for number in range(3):
        folder = hosts.folder / f"h{number}" / "data" / "other"
        wait_until(lambda folder=folder: not any(folder.glob("*")), "the host has nothing of it", 20)
    hosts.processes[0].send_signal(signal.SIGKILL)
    (first.point / "g").write_bytes(b"goes on")
    assert (again.point / "g").read_bytes() == b"goes on"


def test_what_is_wrong_is_told(hosts: Hosts) -> None:
    """Goal: the configuration is checked with clear errors, an agent's address is told from a directory's, and what is
    there already is not overwritten."""
    assert "is right" in hosts.dfs("config", "check", hosts.config(0))
    text = hosts.config(0).read_text()
    wrong = hosts.folder / "wrong.toml"
    for change, told in (
        ("copies = 3", "copies = 99"),
        ("port = ", "port = 99999 #"),
        ("zone = ", "colour = "),
        ("weight = 1.0", 'weight = "much"'),
        ('roles = ["directory"', 'roles = ["king"'),
    ):
        wrong.write_text(text.replace(change, told))
        complaint = hosts.dfs("config", "check", wrong, status=1)
        assert told.split(" ")[0] in complaint or "colour" in complaint, complaint
    assert "there already" in hosts.dfs(
        "cluster", "init", "--etcd", hosts.address, "--address", "127.0.0.9", "--dir", hosts.folder / "h0", status=1
    )
    assert "another token" in started(hosts, 1, token="0" * 64)
    assert "another name" in started(hosts, 1, name="h0")
    for options, told in (
        ([], "--token-file"),
        (["--token-file", wrong.with_name("nowhere")], "nowhere"),
        (["--token-file", hosts.folder / "h0" / "token", "--etcd", "x"], "--etcd"),
    ):
        new = ["--address", "127.0.0.9", "--dir", hosts.folder / "h9"]
        asked = hosts.dfs("cluster", "join", f"http://127.0.0.10:{hosts.port}", *new, *options, status=None, token="")
        assert told in asked
    assert "letters" in hosts.dfs("--cluster", hosts.agents, "volume", "create", "a b", status=1)
    (directory, *_) = joining.directories(hosts.agents.split(","), hosts.token, "main")
    assert "agents" in hosts.dfs("--cluster", directory, "--volume", "main", "ls", "/", status=1)
    assert "no volume 'nobody'" in hosts.dfs("--cluster", hosts.agents, "--volume", "nobody", "ls", "/", status=1)


def started(hosts: Hosts, number: int, token: str = "", name: str = "") -> str:
    """What a host says that has another token, or another's name, and does not start."""
    folder = hosts.folder / "other"
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(token or hosts.token)
    text = hosts.config(number).read_text().replace(str(hosts.folder / f"h{number}" / "token"), str(folder / "token"))
    if name:
        text = text.replace(f'name = "h{number}"', f'name = "{name}"')
    (folder / "cluster.toml").write_text(text)
    command = [sys.executable, "-P", "-m", "servers", "host", "--config", str(folder / "cluster.toml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd="/", env=environment, check=False)
    assert done.returncode == 1
    return done.stderr
