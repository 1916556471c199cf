"""dfs cluster init and join, dfs config check: a host becomes one of a cluster.

They write, and overwrite nothing:

    DIR/cluster.toml                     the configuration (dfsfuse/cluster_config.py)
    DIR/token                            the cluster's token, 0600; who has it can do everything
    UNITS/dfsfuse-ROLE.service           a unit for each role; started where systemd runs
"""

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from dfsfuse import cluster_config, endpoints, errors, joining, tables
from dfsfuse.cluster_config import ClusterConfig, OfCluster, OfHost
from dfsfuse.messages import ClusterSettings, Nothing

UNITS = Path("/etc/systemd/system")
_UNIT = """\
[Unit]
Description=dfsfuse: the {role} servers of this host
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={python} -P -m servers host --config {config} --role {role}
Environment=PYTHONPATH={root}
WorkingDirectory=/
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=15
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
"""


def check(arguments: argparse.Namespace) -> int:
    config = cluster_config.read(Path(arguments.file))
    config.token  # noqa: B018, raises where it cannot be read
    tables.write_line(f"{arguments.file} is right: host {config.host.name}, {', '.join(config.host.roles)}")
    return 0


def init(arguments: argparse.Namespace) -> int:
    """The first host: a new cluster, and its token."""
    cluster = OfCluster(arguments.etcd, str(_folder(arguments) / "token"), arguments.copies)
    _make(arguments, cluster, secrets.token_hex(32))
    config = ClusterConfig(cluster, _host(arguments))
    tables.write_line(f"the other hosts: dfs cluster join {config.url} --token-file {cluster.token_file}, a copy of it")
    return 0


def join(arguments: argparse.Namespace) -> int:
    """A further host: what it shares with the others it is told by their agents."""
    token = _token(arguments)
    url = joining.normal_url(arguments.url)
    try:
        settings = endpoints.ask(url, token, "settings", Nothing(), ClusterSettings)
    except (errors.NoSuchOperation, errors.Starting):
        raise errors.BadRequest(f"{url} is a server's address; a host's agent has port 7400, as a rule") from None
    except errors.Unauthorized:
        raise errors.Unauthorized(f"the cluster at {url} has another token than this one") from None
    _make(arguments, OfCluster(settings.etcd, str(_folder(arguments) / "token"), settings.copies), token)
    return 0


def _token(arguments: argparse.Namespace) -> str:
    if arguments.token_file is None and not os.environ.get("DFS_TOKEN", "").strip():
        raise errors.BadRequest("a host joins with the cluster's token: --token-file FILE, a copy of another host's")
    if arguments.token_file is None:
        return os.environ["DFS_TOKEN"].strip()
    try:
        token = Path(arguments.token_file).read_text().strip()
    except OSError as error:
        raise errors.BadRequest(f"{arguments.token_file}: {error.strerror}; it has the cluster's token") from None
    if not token:
        raise errors.BadRequest(f"{arguments.token_file} is empty; it has the cluster's token")
    return token


def _folder(arguments: argparse.Namespace) -> Path:
    return Path(arguments.dir).absolute()


def _host(arguments: argparse.Namespace) -> OfHost:
    given = {name: getattr(arguments, name) for name in ("home_of_host", "port", "zone", "weight")}
    home = given.pop("home_of_host")
    full_name = socket.gethostname()
    name = arguments.name or full_name.partition(".")[0]
    roles = arguments.role or list(cluster_config.ROLES)
    return OfHost(name=name, address=arguments.address, home=home, roles=roles, **given)


def _make(arguments: argparse.Namespace, cluster: OfCluster, token: str) -> None:
    folder, config = _folder(arguments), ClusterConfig(cluster, _host(arguments))
    if wrong := cluster_config.problems(config):
        raise errors.BadRequest("; ".join(wrong))
    target = folder / "cluster.toml"
    if target.exists():
        raise errors.AlreadyExists(f"{target} is there already: this host is a part of a cluster")
    folder.mkdir(parents=True, exist_ok=True)
    _write(Path(cluster.token_file), token + "\n", 0o600)
    _write(target, cluster_config.written(config), 0o644)
    cluster_config.read(target)
    tables.write_line(f"{target} is made, and {cluster.token_file}")
    _units(arguments, target, config)


def _write(path: Path, text: str, mode: int) -> None:
    """Never with more rights than these, not for a moment."""
    if path.exists() and path.read_text() == text:
        return
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)


def _units(arguments: argparse.Namespace, config_file: Path, config: ClusterConfig) -> None:
    folder = Path(arguments.units) if arguments.units else UNITS
    if not folder.is_dir():
        tables.write_line(f"there is no {folder}; run: {sys.executable} -m servers host --config {config_file}")
        return
    root, names = Path(__file__).absolute().parents[2], []
    for role in config.host.roles:
        unit = _UNIT.format(role=role, python=sys.executable, config=config_file, root=root)
        (folder / f"dfsfuse-{role}.service").write_text(unit)
        names.append(f"dfsfuse-{role}")
    start = ["systemctl", "enable", "--now", *names]
    if shutil.which("systemctl") and Path("/run/systemd/system").is_dir() and not arguments.units:
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        subprocess.run(start, check=True)
        tables.write_line(f"{', '.join(names)} run")
    else:
        tables.write_line(f"units are in {folder}; start them: {' '.join(start)}")
