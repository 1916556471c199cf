"""A cluster on three machines, each of which has a member of etcd, a directory server and a file server, and two a lock
server; and clients on machines of their own."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from etcd_servers import EtcdServers, Member
from many_servers import ManyServers, Process
from support import Mount, wait_until

from .network import Network

MACHINES, CLIENTS = ("h1", "h2", "h3"), ("m1", "m2")
LOCK_WAIT_S, TIMEOUT_S = 60.0, 30.0
_ASK_S = 2.0


class Machine:
    """What dies with it, and starts with it."""

    def __init__(self, name: str, member: Member, servers: list[Process]):
        self.name, self.member, self.directory, self.servers = name, member, servers[0], servers


class Machines:
    """`clients` are mounts by their machines' names."""

    def __init__(self, folder: Path):
        self.network = Network([*MACHINES, *CLIENTS, "m3"])
        self.network.connect()
        hosts = [self.network.hosts[name] for name in MACHINES]
        (folder / "etcd").mkdir()
        self.etcd = EtcdServers(folder / "etcd", hosts)
        self.servers = servers = ManyServers(folder, self.etcd, hosts=hosts)
        locks = [[server] for server in servers.locks] + [[]]
        each = zip(MACHINES, self.etcd.members, servers.directories, servers.files, locks, strict=True)
        self.all = [Machine(name, member, [first, second, *more]) for name, member, first, second, more in each]
        servers.start()
        self.clients: dict[str, Mount] = {}
        for name in CLIENTS:
            self.mount(name, TIMEOUT_S)

    def mount(self, name: str, timeout_s: float) -> Mount:
        """A client on the machine of this name."""
        options = ("--lock-wait", LOCK_WAIT_S, "--timeout", timeout_s)
        self.clients[name] = self.servers.mount(*options, host=self.network.hosts[name])
        return self.clients[name]

    def others(self, than: Machine) -> list[Machine]:
        return [machine for machine in self.all if machine is not than]

    def kill(self, machine: Machine) -> None:
        """As when its power is cut, but for what its disks have."""
        for one in (*machine.servers, machine.member):
            one.process.kill()
        for one in (*machine.servers, machine.member):
            one.process.wait(30)

    def start(self, machine: Machine) -> None:
        self.etcd.start(machine.member)
        for server in machine.servers:
            server.start()

    # -- who leads

    def serving(self, among: list[Machine]) -> Machine | None:
        """The machine whose directory serves."""
        found = self.servers.serving([machine.directory for machine in among])
        return next((machine for machine in among if machine.directory is found), None)

    def lead(self, machine: Machine) -> None:
        """Its member of etcd leads the others from now on."""

        def leads() -> bool:
            states = {each.name: _ask_etcd(each.member, "status") for each in self.all}
            wanted = states[machine.name]["header"]["member_id"]
            if all(state.get("leader") == wanted for state in states.values()):
                return True
            for each in self.all:
                if states[each.name]["header"]["member_id"] == states[each.name].get("leader"):
                    _ask_etcd(each.member, "transfer-leadership", targetID=wanted)
            return False

        wait_until(leads, f"etcd on {machine.name} leads", 10)

    def ends_of_logs(self) -> str:
        logs = {server.name: server.log for server in self.servers.all}
        logs |= {name: client.log for name, client in self.clients.items()}
        return "\n".join(f"--- {name}\n" + "\n".join(log.splitlines()[-20:]) for name, log in logs.items())

    # -- whether all is as it should be

    def what_lacks(self) -> str:
        serving = [machine for machine in self.all if machine.directory.serves]
        if len(serving) != 1:
            return f"{len(serving)} directories serve"
        cluster = serving[0].directory.ask("cluster")
        lacks = [f"{each['name']} is not up" for each in cluster["files"] if not each["up"]]
        lacks += [f"{each['name']} is syncing" for each in cluster["files"] if each["syncing"]]
        lacks += ["no lock server"] * (not (cluster["locks"] or {}).get("up"))
        lacks += [f"no etcd on {machine.name}" for machine in self.all if not _is_led(machine.member)]
        knows = {_told(machine.directory) for machine in self.all}
        lacks += [f"they tell {knows}"] * (knows != {serving[0].directory.url})
        return "; ".join(lacks)

    def wait_whole(self, within_s: float) -> None:
        def is_whole() -> bool:
            with contextlib.suppress(requests.RequestException, KeyError):
                return not self.what_lacks()
            return False

        try:
            wait_until(is_whole, "", within_s)
        except AssertionError:
            raise AssertionError(f"not within {within_s:g} s: {self.what_lacks()}") from None


def _told(directory: Process) -> str:
    return directory.ask("serving")["url"]


def _is_led(member: Member) -> bool:
    return bool(_ask_etcd(member, "status").get("leader"))


def _ask_etcd(member: Member, operation: str, **request: Any) -> dict[str, Any]:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(f"{member.url}/v3/maintenance/{operation}", json=request, timeout=_ASK_S).json()


@contextlib.contextmanager
def machines() -> Iterator[Machines]:
    """In a sandbox, whose end ends what is left of them. Their disks are in memory."""
    folder = Path(tempfile.mkdtemp(prefix="dfs-machines-"))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        yield Machines(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
