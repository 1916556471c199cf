"""dfs status: every service, who uses the cluster, and what is not on the servers yet.

Each server is asked itself whether it is up, for the directory learns of a death only later. Starts nothing: where no
cluster runs, or its directory is down, what is known on this machine is shown, and the exit status is 1.
"""

import argparse
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dfsfuse import cache_index, cluster, errors, tables
from dfsfuse import home as homes
from dfsfuse.cluster import Endpoint
from dfsfuse.commands.reach import home_of
from dfsfuse.messages import Attributes, FilesStatus, Lookup, Nothing, Server, SessionRow, StatusReply, bytes_as_text
from dfsfuse.rpc import Rpc
from dfsfuse.tables import shown, size_text, yes_or_no

ASK_S = 2.0

IsSent = Callable[[int, bytes], bool]
"""(inode number, commit id) -> the file has this version."""


class Service(NamedTuple):
    """A server as it is now; `trouble` says why it is not up."""

    server: Server
    trouble: str = ""


class Upload(NamedTuple):
    """Content in a cache of this home that the servers do not have."""

    path: bytes
    size: int
    reason: str
    cache: str


class Found(NamedTuple):
    """All that is shown. `whole` is None where the directory does not answer."""

    where: str
    services: list[Service]
    whole: StatusReply | None
    uploads: list[Upload]


def status(arguments: argparse.Namespace) -> int:
    home = home_of(arguments)
    found, trouble = _look(arguments, home)
    if arguments.json:
        tables.write_json(_as_json(found))
    else:
        _write(found)
    if trouble:
        tables.complain(trouble)
    return 1 if trouble else 0


def _look(arguments: argparse.Namespace, home: Path) -> tuple[Found, str]:
    """What there is, and why it is not everything."""
    if arguments.cluster is not None:
        endpoint = Endpoint(url=cluster.normal_url(arguments.cluster), token=cluster.token_for(home), volume="")
    elif (endpoint := cluster.find_running(home)) is None:
        hint = f"mounting starts it, and so does: dfs --home {home} cluster start"
        return Found(str(home), [], None, uploads_in(home, _never_sent)), f"no cluster runs in {home}; {hint}"
    with endpoint:
        services, whole, trouble = _ask(endpoint)
        rpc = Rpc(endpoint.token)
        uploads = uploads_in(home, _asking(rpc, endpoint.url) if whole is not None else _never_sent)
        rpc.close()
    return Found(endpoint.url, services, whole, uploads), trouble


def _ask(endpoint: Endpoint) -> tuple[list[Service], StatusReply | None, str]:
    rpc = Rpc(endpoint.token)
    try:
        whole: StatusReply = rpc.call(endpoint.url, "status", Nothing(), StatusReply, ASK_S)
        locks = whole.cluster.locks or Server(kind="locks", name="locks", url="", up=False)
        others = [locks, *whole.cluster.files]
    except errors.Unreachable as error:
        directory, *others = _last_known(endpoint)
        services = [Service(directory, str(error)), *_ask_each(rpc, others)]
        return services, None, f"the directory is down: {error}; see the log of the server `directory`"
    else:
        whole.directory.url = endpoint.url
        return [Service(whole.directory), *_ask_each(rpc, others)], whole, ""
    finally:
        rpc.close()


def _last_known(endpoint: Endpoint) -> list[Server]:
    """The directory first, then the other servers of an embedded cluster, as its supervisor has published them."""
    running = homes.read_cluster(endpoint.home) if endpoint.home else None
    servers = running.servers if running else []
    others = [Server(kind=s.kind, name=s.name, url=s.url) for s in servers if s.kind != "directory"]
    return [Server(kind="directory", name="directory", url=endpoint.url, up=False), *others]


def _ask_each(rpc: Rpc, servers: list[Server]) -> list[Service]:
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        return list(pool.map(lambda server: _ask_one(rpc, server), servers))


def _ask_one(rpc: Rpc, server: Server) -> Service:
    server.up, server.pid = False, 0
    if not server.url:
        return Service(server, "not registered yet")
    try:
        if server.kind == "files":
            now: FilesStatus = rpc.call(server.url, "status", Nothing(), FilesStatus, ASK_S)
            server.chunks, server.stored_bytes, server.pid = now.chunks, now.stored_bytes, now.pid
            server.free_bytes, server.total_bytes = now.free_bytes, now.total_bytes
        else:
            server.pid = rpc.call(server.url, "status", Nothing(), Server, ASK_S).pid
    except errors.DfsError as error:
        return Service(server, str(error))
    server.up = True
    return Service(server)


def uploads_in(home: Path, is_sent: IsSent) -> list[Upload]:
    """What is not on the servers yet, of all clients of this home, running or not. A client tells its index of a
    success with a delay, so the directory is asked whether a commit has happened."""
    found: list[Upload] = []
    for index in sorted((home / homes.CLIENTS).glob("*/*/index.db")):
        try:
            rows = cache_index.unsent_in(index)
        except sqlite3.Error as error:
            tables.complain(f"{index} cannot be read: {error}")
            continue
        for row in (row for row in rows if row.state == cache_index.State.CLOSED):
            if row.failure or not is_sent(row.ino, row.pending):
                found.append(Upload(row.path, row.size, row.failure or "on its way", str(index.parent)))
    return found


def _never_sent(ino: int, commit_id: bytes) -> bool:
    """Nobody can be asked."""
    return False


def _asking(rpc: Rpc, url: str) -> IsSent:
    """Is this commit the file's newest version?"""

    def is_sent(ino: int, commit_id: bytes) -> bool:
        try:
            newest: Attributes = rpc.call(url, "lookup", Lookup(ino), Attributes, ASK_S)
        except errors.DfsError:
            return False
        return newest.commit_id == commit_id

    return is_sent


# -- for people


def _write(found: Found) -> None:
    whole = found.whole
    if whole is not None:
        used = f"{whole.inodes} inodes, {size_text(whole.used_bytes)} in files, {whole.short_chunks} short chunks"
        copies = f"{whole.cluster.copies} copies, at least {whole.cluster.copies_min} before a close succeeds"
        tables.write_line(f"volume {whole.cluster.volume} at {found.where}: {used}; {copies}\n")
    titles = ["SERVICE", "KIND", "UP", "CHUNKS", "STORED", "FREE", "PID", "ADDRESS", ""]
    tables.write_table(titles, map(_service_row, found.services), right=["CHUNKS", "STORED", "FREE", "PID"])
    if whole is not None and whole.sessions:
        tables.write_line("")
        titles = ["SESSION", "HOST", "USER", "PID", "LIVE", "UNSENT", "MOUNTPOINT"]
        tables.write_table(titles, map(_session_row, whole.sessions), right=["SESSION", "PID", "UNSENT"])
    if found.uploads:
        tables.write_line("\nnot on the servers yet:")
        titles = ["SIZE", "PATH", "REASON", "CACHE"]
        tables.write_table(titles, map(_upload_row, found.uploads), right=["SIZE"])


def _service_row(service: Service) -> list[str]:
    server, files = service.server, service.server.kind == "files"
    numbers = [str(server.chunks), size_text(server.stored_bytes), size_text(server.free_bytes)]
    return [server.name, server.kind, yes_or_no(server.up), *(numbers if files else ["", "", ""]),
            str(server.pid or ""), server.url, shown(service.trouble)]  # fmt: skip


def _session_row(row: SessionRow) -> list[str]:
    return [str(row.session), shown(row.host), shown(row.user), str(row.pid), yes_or_no(row.live),
            str(row.unsent_files), shown(row.mountpoint)]  # fmt: skip


def _upload_row(upload: Upload) -> list[str]:
    return [size_text(upload.size), shown(upload.path), shown(upload.reason), shown(upload.cache)]


# -- for programs


def _as_json(found: Found) -> dict[str, object]:
    whole = found.whole
    known: dict[str, object] = {"address": found.where, "services": list(map(_service_json, found.services))}
    if whole is not None:
        known |= {
            "volume": whole.cluster.volume, "copies": whole.cluster.copies, "copies_min": whole.cluster.copies_min,
            "inodes": whole.inodes, "used_bytes": whole.used_bytes, "short_chunks": whole.short_chunks,
        }  # fmt: skip
    known["sessions"] = list(map(_session_json, whole.sessions if whole else []))
    known["uploads"] = [
        {"path": bytes_as_text(upload.path), "size": upload.size, "reason": upload.reason, "cache": upload.cache}
        for upload in found.uploads
    ]
    return known


def _service_json(service: Service) -> dict[str, object]:
    server = service.server
    return {
        "name": server.name, "kind": server.kind, "up": server.up, "address": server.url, "chunks": server.chunks,
        "stored_bytes": server.stored_bytes, "free_bytes": server.free_bytes, "total_bytes": server.total_bytes,
        "pid": server.pid, "trouble": service.trouble,
    }  # fmt: skip


def _session_json(row: SessionRow) -> dict[str, object]:
    return {
        "session": row.session, "host": row.host, "user": row.user, "pid": row.pid, "mountpoint": row.mountpoint,
        "live": row.live, "unsent_files": row.unsent_files,
    }  # fmt: skip
