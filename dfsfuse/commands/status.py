"""dfs status: every service, who uses the cluster, and what is not on the servers yet.

Each server is asked itself whether it is up, for the directory learns of a death only later. Starts nothing: where no
cluster runs, or its directory is down, what is known on this machine is shown, and the exit status is 1.
"""

import argparse
import contextlib
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dfsfuse import cluster, errors, gaps, joining, tables
from dfsfuse import home as homes
from dfsfuse.cache_index import Copy
from dfsfuse.commands import upkeep
from dfsfuse.commands.leftovers import ASK_S, Ask, Upload, caches_by_session, copies_in, uploads_in
from dfsfuse.commands.reach import home_of, no_cluster
from dfsfuse.commands.upkeep import Condition
from dfsfuse.copies import WHY
from dfsfuse.directories import Directories
from dfsfuse.endpoints import Endpoint
from dfsfuse.messages import FilesStatus, Nothing, Server, SessionRow, StatusReply, bytes_as_text, size_as_text
from dfsfuse.rpc import Rpc
from dfsfuse.tables import age_text, count_text, shown, time_text, yes_or_no

_SILENT = (
    "silent: not heard of for 4 s, so it was killed, hangs or is cut off; its locks are free after 8 s,\n"
    "and what it has open is kept for 10 min"
)
_GONE = (
    "gone: killed more than 10 min ago, or unmounted with files that could not be sent; the versions that these\n"
    "are based on are kept until its next mount, as long as KEPT says, or until dfs forget SESSION"
)

_LISTED = "each is listed until it is removed or renamed"
_LISTED_LAST = "whether they are still there is told when the directory answers"


class Service(NamedTuple):
    """A server as it is now; `trouble` says why it is not up."""

    server: Server
    trouble: str = ""


class Found(NamedTuple):
    """All that is shown. `whole` is None where the directory does not answer; no services: the cluster is stopped."""

    where: str
    services: list[Service]
    whole: StatusReply | None
    uploads: list[Upload]
    copies: list[Copy]
    conditions: list[Condition]


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
        endpoint = _elsewhere(arguments, joining.token_for(home))
    elif (endpoint := cluster.find_running(home)) is None:
        nobody = Ask(Rpc(""), None)
        return Found(str(home), [], None, uploads_in(home, nobody), copies_in(home, nobody), []), _stopped(home)
    with endpoint:
        services, whole, trouble = _ask(endpoint)
        rpc = Rpc(endpoint.token)
        ask = Ask(rpc, endpoint.url, whole.cluster.volume) if whole is not None else Ask(rpc, None)
        uploads, copies = uploads_in(home, ask), copies_in(home, ask)
        rpc.close()
    conditions = upkeep.conditions(whole) if whole is not None else []
    if whole is not None:
        _count_unsent(whole, uploads, caches_by_session(home, whole.cluster.volume))
    return Found(endpoint.url, services, whole, uploads, copies, conditions), trouble


def _elsewhere(arguments: argparse.Namespace, token: str) -> Endpoint:
    """Where nobody answers it is told of those that were asked."""
    urls = joining.normal_urls(arguments.cluster).split(",")
    with contextlib.suppress(errors.Unreachable):
        urls = joining.directories(urls, token, arguments.volume)
    return Endpoint(url=urls[0] if len(urls) == 1 else Directories(urls, token).find(), token=token, volume="")


def _stopped(home: Path) -> str:
    if not (home / homes.TOKEN).exists():
        return no_cluster(home)
    return (
        f"the cluster in {home} is stopped; to start it: dfs --home {shlex.quote(str(home))} cluster start, or a mount"
    )


def _count_unsent(whole: StatusReply, uploads: list[Upload], caches: dict[int, str]) -> None:
    """A client reports its number once a second: where its cache is here, the number is that of what is listed."""
    for row in whole.sessions:
        if cache := caches.get(row.session):
            row.unsent_files = sum(upload.cache == cache for upload in uploads)


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


# -- for people


def _write(found: Found) -> None:
    whole = found.whole
    if whole is not None:
        used = f"{count_text(whole.inodes, 'inode')}, {size_as_text(whole.used_bytes)} in files"
        used += f", {count_text(whole.short_chunks, 'short chunk')}"
        copies = f"{count_text(whole.cluster.copies, 'copy', 'copies')}, at least {whole.cluster.copies_min} before a"
        copies += " close succeeds"
        tables.write_line(f"volume {whole.cluster.volume} at {found.where}: {used}; {copies}\n")
    titles = ["SERVICE", "KIND", "UP", "CHUNKS", "STORED", "FREE", "PID", "ADDRESS", ""]
    tables.write_table(titles, map(_service_row, found.services), right=["CHUNKS", "STORED", "FREE", "PID"])
    upkeep.write(found.conditions, whole.lost_files if whole is not None else [])
    if whole is not None and whole.sessions:
        tables.write_line("")
        titles = ["SESSION", "HOST", "USER", "PID", "STATE", "UNSENT", "KEPT", "MOUNTPOINT"]
        tables.write_table(titles, map(_session_row, whole.sessions), right=["SESSION", "PID", "UNSENT"])
        states = {_state(row) for row in whole.sessions}
        for state, meaning in (("silent", _SILENT), ("gone", _GONE)):
            if state in states:
                tables.write_line(meaning)
    if found.uploads:
        tables.write_line("\nnot on the servers yet:")
        titles = ["SIZE", "PATH", "REASON", "CACHE"]
        tables.write_table(titles, map(_upload_row, found.uploads), right=["SIZE"])
    if found.copies:
        known = _LISTED if found.whole is not None else _LISTED_LAST
        tables.write_line(f"\nkept as copies beside their files; {known}:")
        tables.write_table(["MADE", "COPY", "OF", "WHY"], map(_copy_row, found.copies))


def _service_row(service: Service) -> list[str]:
    server, files = service.server, service.server.kind == "files"
    numbers = [str(server.chunks), size_as_text(server.stored_bytes), size_as_text(server.free_bytes)]
    return [server.name, server.kind, yes_or_no(server.up), *(numbers if files else ["", "", ""]),
            str(server.pid or ""), server.url, shown(service.trouble)]  # fmt: skip


def _session_row(row: SessionRow) -> list[str]:
    return [str(row.session), shown(row.host), shown(row.user), str(row.pid), _state(row), str(row.unsent_files),
            _kept_text(row), shown(row.mountpoint)]  # fmt: skip


def _state(row: SessionRow) -> str:
    return "gone" if row.gone else "live" if row.live else "silent"


def _kept_text(row: SessionRow) -> str:
    return f"{count_text(row.kept_files, 'file')} for {age_text(row.kept_s)}" if row.gone else ""


def _upload_row(upload: Upload) -> list[str]:
    return [size_as_text(upload.size), shown(upload.path), shown(upload.reason), shown(upload.cache)]


def _copy_row(copy: Copy) -> list[str]:
    why = WHY.get(copy.kind, copy.kind) + gaps.as_text(copy.gaps)
    return [time_text(copy.made_ns), shown(copy.path), shown(copy.original), why]


# -- for programs


def _as_json(found: Found) -> dict[str, object]:
    whole = found.whole
    state = "running" if whole is not None else "directory down" if found.services else "stopped"
    known: dict[str, object] = {
        "state": state,
        "address": found.where,
        "services": list(map(_service_json, found.services)),
    }
    if whole is not None:
        known |= {
            "volume": whole.cluster.volume, "copies": whole.cluster.copies, "copies_min": whole.cluster.copies_min,
            "inodes": whole.inodes, "used_bytes": whole.used_bytes, "short_chunks": whole.short_chunks,
        }  # fmt: skip
    known["conditions"] = list(map(upkeep.as_json, found.conditions))
    known["lost_files"] = list(map(upkeep.lost_as_json, whole.lost_files if whole else []))
    known["sessions"] = list(map(_session_json, whole.sessions if whole else []))
    known["uploads"] = [
        {"path": bytes_as_text(upload.path), "size": upload.size, "reason": upload.reason, "cache": upload.cache}
        for upload in found.uploads
    ]
    known["copies_made"] = [
        {"path": bytes_as_text(copy.path), "original": bytes_as_text(copy.original), "kind": copy.kind,
         "made_ns": copy.made_ns, "gaps": copy.gaps}
        for copy in found.copies
    ]  # fmt: skip
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
        "live": row.live, "unsent_files": row.unsent_files, "gone": row.gone, "kept_files": row.kept_files,
        "kept_s": row.kept_s,
    }  # fmt: skip
