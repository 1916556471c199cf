"""The servers of one host of a cluster, for each of its volumes: `python -m servers host --config FILE [--role ROLE]`.

Each volume has a directory server, a lock server and a file server of its own on each host that has the role, so that
volumes share no processor and no lock; their ports follow from the volume's number. What a volume has on this host's
disk goes when the volume does. With the role `directory` the host has an agent besides, whom clients ask where the
directories of a volume are.

    home/VOLUME/directory/ locks/ files/    a server's own folder, with its server.log

Threads: etcd is asked in a thread; the rest is the event loop's.
"""

import asyncio
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from dfsfuse import errors
from dfsfuse.cluster_config import ClusterConfig
from dfsfuse.etcd_address import parse
from dfsfuse.messages import (
    ClusterSettings,
    HostList,
    HostRow,
    Nothing,
    VolumeList,
    VolumeName,
    VolumePlaces,
    VolumeRow,
)
from servers.children import Child
from servers.etcd.client import EtcdClient
from servers.etcd.election import holder_of
from servers.etcd.registry import Host, Registry
from servers.http import App, Operation, serve

log = logging.getLogger(__name__)

LOOK_S = 0.25
_ASK_EVERY_S = 1.0
_END_S = 5.0


class HostServers:
    """Those of the roles that are given, of this host. `run` for ever; `end` afterwards."""

    def __init__(self, config: ClusterConfig, roles: list[str], registry: Registry, log_level: str):
        self._config, self._roles, self._registry, self._log_level = config, roles, registry, log_level
        self._home = Path(config.host.home)
        self._children: dict[tuple[str, str], Child] = {}
        self._directories: dict[str, str] = {}
        self._asked_s = float("-inf")

    async def run(self) -> None:
        while True:
            now = time.monotonic()
            if now - self._asked_s >= _ASK_EVERY_S:
                self._asked_s = now
                await self._look()
            for (volume, _), child in self._children.items():
                child.tick(now, self._directories[volume])
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Which volumes there are now. While etcd does not answer, those that are known go on."""
        mine = host_of(self._config)
        try:
            hosts, volumes = await asyncio.to_thread(self._ask, mine)
        except errors.DfsError as error:
            log.warning("etcd does not tell which volumes there are: %s", error)
            return
        for name in sorted({volume for volume, _ in self._children} - volumes.keys()):
            await self._remove(name)
        for name, volume in volumes.items():
            self._directories[name] = directories_of(hosts, volume.number)
            for role in self._roles:
                if (name, role) not in self._children:
                    self._children[name, role] = self._child(name, role, mine, volume.number)

    def _ask(self, mine: Host) -> tuple[dict[str, Host], dict[str, Any]]:
        hosts = self._registry.hosts()
        if hosts.get(self._config.host.name) != mine:
            self._registry.put_host(self._config.host.name, mine)
            self._registry.make_first()
            hosts = self._registry.hosts()
        return hosts, self._registry.volumes()

    def _child(self, volume: str, role: str, host: Host, number: int) -> Child:
        log.info("volume %s: the %s server begins", volume, role)
        cluster, name = self._config.cluster, self._config.host.name
        port = int(host.url(role, number).rpartition(":")[2])
        more = {
            "directory": ["--store", cluster.etcd, "--volume", volume, "--copies", str(cluster.copies)],
            "locks": ["--etcd", cluster.etcd, "--volume", volume],
            "files": [],
        }[role]
        home = self._home / volume / role
        token = Path(cluster.token_file)
        child = Child(role, name, home, token, port, self._log_level, self._config.host.address, more)
        child.label = f"volume {volume}: the {role} server"
        return child

    async def _remove(self, volume: str) -> None:
        """It is not there any more, nor is what it has on this disk."""
        for key in [key for key in self._children if key[0] == volume]:
            child = self._children.pop(key)
            await _ended([child])
            shutil.rmtree(self._home / volume / key[1], ignore_errors=True)
            log.info("volume %s was removed, and with it the %s server and its folder", volume, key[1])

    async def end(self) -> None:
        await _ended(list(self._children.values()))


async def _ended(children: list[Child]) -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _END_S
    while [child for child in children if not child.gone()]:
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
        await asyncio.sleep(0.02)


def directories_of(hosts: dict[str, Host], number: int) -> str:
    """The URLs of a volume's directory servers, with commas between."""
    return ",".join(hosts[name].url("directory", number) for name in sorted(hosts) if "directory" in hosts[name].roles)


class Agent:
    """What clients, and those who want to be hosts, ask a host."""

    def __init__(self, client: EtcdClient, registry: Registry, config: ClusterConfig):
        self._client, self._registry, self._cluster = client, registry, config.cluster

    def operations(self) -> dict[str, Operation]:
        return {
            "volume": Operation(VolumeName, lambda r: asyncio.to_thread(self._places, r.name)),
            "volumes": Operation(Nothing, lambda r: asyncio.to_thread(self._volumes)),
            "create_volume": Operation(VolumeName, lambda r: asyncio.to_thread(self._create, r.name)),
            "remove_volume": Operation(VolumeName, lambda r: asyncio.to_thread(self._remove, r.name)),
            "hosts": Operation(Nothing, lambda r: asyncio.to_thread(self._hosts)),
            "settings": Operation(Nothing, lambda r: ClusterSettings(self._cluster.etcd, self._cluster.copies)),
            "ping": Operation(Nothing, lambda r: r),
        }

    def _places(self, name: str) -> VolumePlaces:
        volume = self._registry.volumes().get(name)
        if volume is None:
            raise errors.NotFound(f"there is no volume {name!r}; `dfs volume list` shows those that there are")
        return VolumePlaces(directories_of(self._registry.hosts(), volume.number))

    def _volumes(self) -> VolumeList:
        rows = self._registry.volumes().items()
        serving = {name: holder_of(self._client, name) for name, _ in rows}
        return VolumeList([VolumeRow(name=name, number=v.number, serving=serving[name]) for name, v in sorted(rows)])

    def _create(self, name: str) -> VolumePlaces:
        self._registry.create_volume(name)
        return self._places(name)

    def _remove(self, name: str) -> Nothing:
        self._registry.remove_volume(name)
        return Nothing()

    def _hosts(self) -> HostList:
        rows = sorted(self._registry.hosts().items())
        return HostList(
            [
                HostRow(name=name, address=h.address, port=h.port, roles=h.roles, zone=h.zone, weight=h.weight)
                for name, h in rows
            ]
        )


async def _admitted(config: ClusterConfig, registry: Registry) -> None:
    """Waits for etcd. Raises Unauthorized, AlreadyExists."""
    said = False
    while True:
        try:
            return await asyncio.to_thread(registry.admit, config.host.name, host_of(config), config.token)
        except errors.Unreachable as error:
            if not said:
                log.warning("waiting for etcd: %s", error)
            said = True
        await asyncio.sleep(_ASK_EVERY_S)


def host_of(config: ClusterConfig) -> Host:
    host = config.host
    return Host(host.address, host.port, host.roles, host.zone, host.weight)


async def run(config: ClusterConfig, roles: list[str], log_level: str) -> None:
    """Until SIGTERM."""
    client = EtcdClient(parse(config.cluster.etcd))
    registry = Registry(client)
    await _admitted(config, registry)
    servers = HostServers(config, roles, registry, log_level)
    has_agent = "directory" in roles
    app = App(config.token, Agent(client, registry, config).operations() if has_agent else {})
    port = config.host.port if has_agent else 0
    try:
        await serve(app, config.host.address, port, servers.run())
    finally:
        await servers.end()
        client.close()
