"""Which hosts and which volumes a cluster has.

    PREFIX/token           hash of the cluster's token: a host that has another one is none of it
    PREFIX/hosts/NAME      Host
    PREFIX/volumes/NAME    Volume, with a number of its own: its servers' ports follow from it, on every host
    PREFIX/numbers         the next one

Both are JSON, for people who look with etcdctl.
"""

import contextlib
import re
from typing import TypeVar

import msgspec
from blake3 import blake3

from dfsfuse import errors
from servers.etcd.client import EtcdClient
from servers.etcd.keys import Keys
from servers.etcd.messages import Change, Compare, DeleteRange, Pair, Put, Target
from servers.store import after_prefix

Kind = TypeVar("Kind")

FIRST = "main"
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
PORT_OF = {"directory": 1, "locks": 2, "files": 3}


class Host(msgspec.Struct):
    address: str
    port: int
    roles: list[str]
    zone: str = ""
    weight: float = 1.0

    def url(self, kind: str, number: int) -> str:
        """Of its server of a volume."""
        return f"http://{self.address}:{self.port + 3 * number + PORT_OF[kind]}"


class Volume(msgspec.Struct):
    number: int


class Registry:
    """Raises Unreachable while etcd is."""

    def __init__(self, client: EtcdClient):
        self._client, prefix = client, client.address.prefix
        self.prefix = prefix
        self._hosts, self._volumes, self._numbers = prefix + b"hosts/", prefix + b"volumes/", prefix + b"numbers"
        self._token = prefix + b"token"

    def hosts(self) -> dict[str, Host]:
        return self._all(self._hosts, Host)

    def volumes(self) -> dict[str, Volume]:
        return self._all(self._volumes, Volume)

    def _all(self, prefix: bytes, kind: type[Kind]) -> dict[str, Kind]:
        pairs = self._client.range(prefix, after_prefix(prefix)).kvs
        return {pair.key.removeprefix(prefix).decode(): msgspec.json.decode(pair.value, type=kind) for pair in pairs}

    def admit(self, name: str, host: Host, token: str) -> None:
        """Raises Unauthorized for a host that has another token than the first had, which none of the others, and no
        client, would take; AlreadyExists where another host has the name."""
        mine = blake3(token.encode()).hexdigest().encode()
        self._client.transact([Compare(self._token, create_revision=0)], [Change(request_put=Put(self._token, mine))])
        if self._client.get(self._token).value != mine:
            raise errors.Unauthorized(
                "this cluster has another token: `dfs cluster join` with a copy of that of the other hosts, or give "
                "another cluster a prefix of its own in etcd (?prefix=/NAME/)"
            )
        known = self.hosts().get(name)
        if known is not None and known.address != host.address:
            raise errors.AlreadyExists(
                f"a host named {name} is at {known.address} already: give this one another name; if it has moved: "
                f"etcdctl del {(self._hosts + name.encode()).decode()}"
            )

    def make_first(self) -> None:
        """A cluster that has never had a volume gets one, `main`."""
        if self._client.get(self._numbers) is None:
            with contextlib.suppress(errors.AlreadyExists):
                self.create_volume(FIRST)

    def put_host(self, name: str, host: Host) -> None:
        """This host is a part of the cluster, as it is now."""
        self._client.transact([], [Change(request_put=Put(self._hosts + name.encode(), msgspec.json.encode(host)))])

    def create_volume(self, name: str) -> Volume:
        """Raises AlreadyExists, BadRequest."""
        if not _NAME.fullmatch(name):
            raise errors.BadRequest(f"{name!r} is no name of a volume: up to 63 letters, digits, -, _ and .")
        key = self._volumes + name.encode()
        while True:
            known = self._client.get(self._numbers)
            volume = Volume(int(known.value) if known is not None else 0)
            compare = [Compare(key, create_revision=0), _unchanged(self._numbers, known)]
            puts = [Put(key, msgspec.json.encode(volume)), Put(self._numbers, b"%d" % (volume.number + 1))]
            if self._client.transact(compare, [Change(request_put=put) for put in puts]).succeeded:
                return volume
            if self._client.get(key) is not None:
                raise errors.AlreadyExists(f"there is a volume {name!r} already")

    def remove_volume(self, name: str) -> None:
        """With all that etcd has of it; what is on disks its hosts remove. Raises NotFound."""
        key, base = self._volumes + name.encode(), Keys(self._client.address.below("volume", name)).base
        known = self._client.get(key)
        if known is None:
            raise errors.NotFound(f"there is no volume {name!r}")
        gone = [DeleteRange(key), DeleteRange(base, after_prefix(base))]
        self._client.transact([_unchanged(key, known)], [Change(request_delete_range=each) for each in gone])


def _unchanged(key: bytes, known: Pair | None) -> Compare:
    if known is None:
        return Compare(key, create_revision=0)
    return Compare(key, Target.MOD, mod_revision=known.mod_revision)
