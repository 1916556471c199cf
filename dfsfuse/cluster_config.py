"""The configuration of a host in a cluster of several: TOML, written by `dfs cluster init` and `join`, checked here.

    [cluster]   what is the same on all hosts
    [host]      what this one is

docs/CLUSTER.md explains each setting.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from dfsfuse import errors, etcd_address

DEFAULT = Path("/etc/dfsfuse/cluster.toml")
ROLES = ("directory", "locks", "files")
PORTS_A_VOLUME = 3
COPIES_MAX = 7
_ADDRESS = re.compile(r"(?!0\.0\.0\.0$)[A-Za-z0-9][A-Za-z0-9.-]*")
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class OfCluster(msgspec.Struct, forbid_unknown_fields=True):
    etcd: str
    token_file: str
    copies: int = 3


class OfHost(msgspec.Struct, forbid_unknown_fields=True):
    """`port` is that of the host's agent; those of the servers of volume number n are the three from port + 3n + 1."""

    name: str
    address: str
    home: str = "/var/lib/dfsfuse"
    port: int = 7400
    zone: str = ""
    weight: float = 1.0
    roles: list[str] = msgspec.field(default_factory=lambda: list(ROLES))


class ClusterConfig(msgspec.Struct, forbid_unknown_fields=True):
    cluster: OfCluster
    host: OfHost

    @property
    def url(self) -> str:
        return f"http://{self.host.address}:{self.host.port}"

    @property
    def token(self) -> str:
        """Raises BadRequest."""
        try:
            token = Path(self.cluster.token_file).read_text().strip()
        except OSError as error:
            raise errors.BadRequest(
                f"{self.cluster.token_file}: {error.strerror}; it has the cluster's token"
            ) from None
        if not token:
            raise errors.BadRequest(f"{self.cluster.token_file} is empty; it has the cluster's token")
        return token


def read(path: Path) -> ClusterConfig:
    """Raises BadRequest, with the file and all that is wrong in it, a line each."""
    try:
        text = path.read_text()
    except OSError as error:
        raise errors.BadRequest(f"{path}: {error.strerror}; `dfs cluster init` or `join` makes it") from None
    try:
        config = msgspec.convert(tomllib.loads(text), ClusterConfig)
    except tomllib.TOMLDecodeError as error:
        raise errors.BadRequest(f"{path} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise errors.BadRequest(f"{path}: {_in_words(str(error))}") from None
    if wrong := list(problems(config)):
        raise errors.BadRequest("\n".join(f"{path}: {each}" for each in wrong))
    return config


def _in_words(said: str) -> str:
    """msgspec names a place as `$.host.port`."""
    what, _, place = said.partition(" - at `$")
    return f"[{place.strip('.`').replace('.', '] ', 1)}: {what}" if "." in place.strip(".`") else said.replace("$.", "")


def problems(config: ClusterConfig) -> list[str]:
    """What is wrong though it has the right form."""
    host, cluster = config.host, config.cluster
    checks: list[tuple[Any, str]] = [
        (_NAME.fullmatch(host.name), f"[host] name = {host.name!r}: up to 63 letters, digits, -, _ and ."),
        (_ADDRESS.fullmatch(host.address), f"[host] address = {host.address!r}: one address or name of this host"),
        (1 <= host.port <= 65535 - PORTS_A_VOLUME, f"[host] port = {host.port}: a port from 1 to 65532"),
        (Path(host.home).is_absolute(), f"[host] home = {host.home!r}: a path from the root on"),
        (host.weight > 0, f"[host] weight = {host.weight}: more than 0, in proportion to the room on its disk"),
        (host.roles, f"[host] roles = []: at least one of {', '.join(ROLES)}"),
        (1 <= cluster.copies <= COPIES_MAX, f"[cluster] copies = {cluster.copies}: from 1 to {COPIES_MAX}"),
    ]
    found = [told for fine, told in checks if not fine]
    try:
        etcd_address.parse(cluster.etcd, with_password=False)
    except errors.BadRequest as error:
        found.append(f"[cluster] etcd: {error}")
    unknown = [role for role in host.roles if role not in ROLES]
    return found + [f"[host] roles: there is no role {role!r}, only {', '.join(ROLES)}" for role in unknown]


def written(config: ClusterConfig) -> str:
    """The file's text, with what each setting is."""
    host, cluster = config.host, config.cluster
    roles = ", ".join(f'"{role}"' for role in host.roles)
    return f"""\
# A host of a dfsfuse cluster. Check it with: dfs config check FILE

[cluster]                        # the same on all hosts
etcd = "{cluster.etcd}"
token_file = "{cluster.token_file}"
copies = {cluster.copies}                       # of each file's content, each on another host

[host]                           # this one
name = "{host.name}"
address = "{host.address}"               # under which the other hosts and all clients reach it
zone = "{host.zone}"                        # such as a rack or a room: copies go to different ones
home = "{host.home}"
port = {host.port}                      # of its agent; the next ones are those of its servers, three for each volume
weight = {host.weight}                     # its share of files, in proportion to the room on its disk
roles = [{roles}]
"""
