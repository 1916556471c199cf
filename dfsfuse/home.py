"""The home of a cluster and of its clients on this machine: what is where, and how it is read.

    home/                       0700; all files in it 0600
      token                     the cluster's token, made at the first start
      cluster.json              where the servers are; there while the cluster runs
      ports.json                the ports of the latest start, to have them again
      supervisor.lock           flock, exclusive: the supervisor
      users.lock                flock, shared: each mount and each command that uses the cluster
      keep                      while it exists, the cluster goes on without users
      supervisor.log
      directory/ locks/ A/ ...  a server's own folder, with its server.log
      clients/<volume>/<name>/  a client's cache, with its client.log

The supervisor writes the same names (servers/supervisor.py): they are a protocol between the two.
"""

import fcntl
import hashlib
import os
import urllib.parse
from pathlib import Path

import msgspec

from dfsfuse import errors
from dfsfuse.private_folder import make_private_folder

TOKEN = "token"
CLUSTER = "cluster.json"
SUPERVISOR_LOCK = "supervisor.lock"
USERS_LOCK = "users.lock"
KEEP = "keep"
SUPERVISOR_LOG = "supervisor.log"
SERVER_LOG = "server.log"
CLIENTS = "clients"
CLIENT_LOCK = "client.lock"
SESSIONS = "session"
LOG_BYTES_MAX = 10 << 20
_NAME_BYTES_MAX = 200


class RunningServer(msgspec.Struct, kw_only=True):
    """A server as its supervisor knows it; pid 0 while it is not running. `deaths`: in a row, without 10 s of life;
    `trouble`: how the latest came about."""

    name: str
    kind: str
    url: str
    pid: int = 0
    deaths: int = 0
    trouble: str = ""


class RunningCluster(msgspec.Struct, kw_only=True):
    """What cluster.json holds; `directory` is the directory service's URL."""

    directory: str
    supervisor_pid: int
    servers: list[RunningServer] = []


def default_home() -> Path:
    """$DFS_HOME, else $XDG_DATA_HOME/dfsfuse, else ~/.local/share/dfsfuse."""
    if chosen := os.environ.get("DFS_HOME"):
        return Path(chosen).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "dfsfuse"


def prepare(home: Path) -> None:
    """Make the home if it is not there; NotPermitted or NoSpace when it cannot be written."""
    try:
        make_private_folder(home)
        os.close(open_lock(home / USERS_LOCK))
        if not os.access(home, os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
    except OSError as error:
        why = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        reason = f"home {home} cannot be written: {why}; choose another with --home DIR or $DFS_HOME"
        full = isinstance(errors.from_os_error(error, ""), errors.NoSpace)
        raise (errors.NoSpace if full else errors.NotPermitted)(reason) from None


def read_token(home: Path) -> str:
    """The cluster's token; NotFound when there is none."""
    try:
        return (home / TOKEN).read_text().strip()
    except OSError as error:
        raise errors.NotFound(f"no token in {home / TOKEN} ({error.strerror}); set $DFS_TOKEN") from None


def read_cluster(home: Path) -> RunningCluster | None:
    """What the supervisor has published; None when it has not, or when what is there cannot be read."""
    try:
        return msgspec.json.decode((home / CLUSTER).read_bytes(), type=RunningCluster)
    except (OSError, msgspec.MsgspecError):
        return None


def client_folder(home: Path, volume: str, mountpoint: str) -> Path:
    """The folder of the client that is mounted there: a readable name, unique for each mountpoint."""
    return home / CLIENTS / (_as_name(volume) or "volume") / (_as_name(mountpoint.strip("/")) or "client")


def mountpoint_of(folder: Path) -> str:
    """Of the client whose folder this is, for people; that of a long name is cut."""
    return "/" + readable(os.fsdecode(urllib.parse.unquote_to_bytes(folder.name)))


def readable(path: str) -> str:
    """A path of this machine as messages carry it: bytes that are not UTF-8 percent-encoded."""
    return "".join(_percent(one) if "\udc80" <= one <= "\udcff" else one for one in path)


def _percent(one: str) -> str:
    return f"%{os.fsencode(one).hex().upper()}"


def sessions_in(folder: Path) -> list[int]:
    """The sessions of a client's folder that were not taken over yet, and last that of its latest client; none where
    that cannot be read."""
    try:
        return [int(number) for number in (folder / SESSIONS).read_text().split()]
    except (OSError, ValueError):
        return []


def write_sessions(folder: Path, sessions: list[int]) -> None:
    """All of it or nothing, also for who is killed meanwhile: what is missing here is not taken over."""
    make_private_folder(folder)
    draft = folder / f"{SESSIONS}.draft"
    draft.write_text(" ".join(map(str, sessions)))
    draft.replace(folder / SESSIONS)


def _as_name(text: str) -> str:
    name = urllib.parse.quote(os.fsencode(text), safe="")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= _NAME_BYTES_MAX:
        return name
    return name[:100] + "-" + hashlib.blake2b(os.fsencode(text), digest_size=16).hexdigest()


def open_lock(path: Path) -> int:
    """A descriptor to lock with `try_lock`; it is inherited only by processes that are meant to have it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, exclusive: bool) -> bool:
    """Take the flock if nobody is in the way. The lock belongs to the open file: it lives as long as its last copy."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_log(path: Path) -> int:
    """A descriptor that appends to a log; one that has grown beyond 10 MB makes room and stays as `.1`."""
    make_private_folder(path.parent)
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def last_line(path: Path, start: int = 0) -> str:
    """The last line that says something, of what a log has beyond `start` bytes; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(start, path.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
