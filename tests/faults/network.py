"""Hosts, each in its own network namespace, on one bridge.

A link is cut one way by telling the sender's kernel that the other host has a hardware address that nobody has: frames
leave and arrive nowhere, and nobody is told, as with a pulled cable or a wrong rule in a firewall. Connections that are
open are concerned as much as new ones.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from support import ROOT, wait_until

_NET = "10.77.0"
_MASK = 24
_NOBODY = "02:00:00:00:00:01"


class Host:
    """A network namespace, held by a process that does nothing else."""

    def __init__(self, name: str, number: int):
        self.name, self.address = name, f"{_NET}.{number}"
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        wait_until(self._is_apart, f"{name} has its own network")

    @property
    def pid(self) -> int:
        """A process that is in the namespace as long as the sandbox lasts."""
        return self._holder.pid

    def _is_apart(self) -> bool:
        # Before exec it is still this program, whose namespace may have changed already: sleep(1) is what stays.
        there = os.readlink(f"/proc/{self.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        return there and Path(f"/proc/{self.pid}/comm").read_text() == "sleep\n"

    def command(self, *command: object) -> list[str]:
        """The same command, on this host."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *map(str, command)]

    def run(self, *command: object) -> None:
        _run(self.command(*command))


class Network:
    """The bridge, with this process on it: it reaches every host, whatever is cut."""

    def __init__(self, names: Sequence[str]):
        _run(["ip", "link", "set", "lo", "up"])
        _run(["ip", "link", "add", "br0", "type", "bridge"])
        _run(["ip", "address", "add", f"{_NET}.254/{_MASK}", "dev", "br0"])
        _run(["ip", "link", "set", "br0", "up"])
        self.hosts = {name: Host(name, number) for number, name in enumerate(names, 1)}
        self._cuts: set[tuple[str, str]] = set()

    def connect(self) -> None:
        """Each host by a pair of interfaces."""
        for name, host in self.hosts.items():
            _run(["ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(host.pid)])
            self.plug(host, f"to-{name}")

    def connect_slowly(self, round_trip_s: float) -> None:
        """Each host by a wire on which frames take their time: so long from any host to any other one and back."""
        command = [sys.executable, "-m", "faults.wires", str(round_trip_s / 4), *self.hosts]
        wires = subprocess.Popen(command, cwd=ROOT / "tests", stdout=subprocess.PIPE)
        assert wires.stdout.readline() == b"ready\n", "there are no slow wires"
        for name, host in self.hosts.items():
            _run(["ip", "link", "set", f"at-{name}", "netns", str(host.pid), "name", "eth0"])
            self.plug(host, f"to-{name}")

    def plug(self, host: Host, port: str) -> None:
        """`port` is of this namespace, its other end is the host's eth0."""
        _run(["ip", "link", "set", port, "master", "br0", "up"])
        host.run("ip", "address", "add", f"{host.address}/{_MASK}", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        host.run("ip", "link", "set", "lo", "up")

    def cut(self, links: Iterable[tuple[str, str]]) -> None:
        """Nothing goes from the first to the second of each pair any more. All begin within some milliseconds."""
        links = list(links)
        self._on_each(links, f"neighbour replace {{}} lladdr {_NOBODY} nud permanent dev eth0")
        self._cuts.update(links)

    def heal(self) -> None:
        """All that was cut."""
        self._on_each(self._cuts, "neighbour delete {} dev eth0")
        self._cuts.clear()

    def _on_each(self, links: Iterable[tuple[str, str]], command: str) -> None:
        """The command of ip, for the address of the second of each pair, on the first one."""
        commands: dict[str, list[str]] = {}
        for sender, receiver in links:
            commands.setdefault(sender, []).append(command.format(self.hosts[receiver].address))
        batches = [(self.hosts[sender].command("ip", "-batch", "-"), lines) for sender, lines in commands.items()]
        processes = [subprocess.Popen(batch, stdin=subprocess.PIPE, text=True) for batch, _ in batches]
        for process, (_, lines) in zip(processes, batches, strict=True):
            process.communicate("\n".join(lines) + "\n")
            assert process.returncode == 0, f"ip has not done: {lines}"


def both_ways(one: str, others: Iterable[str]) -> list[tuple[str, str]]:
    """The links between one host and others."""
    return [link for other in others for link in ((one, other), (other, one))]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
