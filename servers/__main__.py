"""python -m servers directory | locks | files | all: one server in this process, or a supervisor of all of them; and
load, which makes a dump the database of a directory.

A server takes everything it needs from its arguments and its own folder (--home), in which it runs alone: an
exclusive flock on server.lock makes a second one wait for the first to end, so no store ever has two servers. The
cluster's token comes from a file or from $DFS_TOKEN, never from the command line, where everyone could read it.
"""

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from dfsfuse.errors import DfsError
from dfsfuse.etcd_address import is_etcd

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS = ("debug", "info", "warning", "error")
_END_S = 5.0
_ALONE_S = 10.0


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments name until SIGTERM or SIGINT; exit status 0, 1 for a failure, 2 for misuse."""
    arguments = _parser().parse_args(argv)
    os.umask(0o077)
    _raise_file_limit()
    logging.basicConfig(stream=sys.stderr, level=arguments.log_level.upper(), format=_LOG_FORMAT)
    try:
        if arguments.kind != "host":
            arguments.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if arguments.kind == "all":
            return _supervise(arguments)
        if arguments.kind == "host":
            return _run(_host(arguments))
        if arguments.kind != "load" and arguments.exit_with_parent:
            threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
        lock = _alone(arguments.home / "server.lock")
        try:
            return _load(arguments) if arguments.kind == "load" else _run(_service(arguments))
        finally:
            os.close(lock)
    except (StartError, DfsError, OSError) as error:
        logging.getLogger("servers").error("%s: %s", arguments.kind, error)
        return 1


def _raise_file_limit() -> None:
    """Each client has several connections: the soft limit, often 1024, would be that of all clients."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m servers", description="The servers of a dfsfuse cluster.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="directory | locks | files | all | load")
    directory = _server(kinds, "directory", "the tree, versions, manifests, sessions; where the other servers are")
    directory.add_argument("--copies", type=int, default=3, help="file servers that keep each chunk (3)")
    stores = "where its rows are kept: sqlite, memory, or etcd://HOST:PORT,...[?prefix=/NAME] for several directories"
    directory.add_argument("--store", type=_store, default="sqlite", metavar="ENGINE", help=stores)
    _add_volume(directory)
    for kind, what in (("locks", "the write locks of files"), ("files", "the content of files, in chunks")):
        server = _server(kinds, kind, what)
        where = "the directory service; several with commas between"
        server.add_argument("--directory", required=True, metavar="URL", help=where)
        if kind == "locks":
            several = "elects one of several lock servers: etcd://HOST:PORT,...[?prefix=/NAME]"
            server.add_argument("--etcd", metavar="ADDRESS", help=several)
            _add_volume(server)
    server.add_argument("--name", required=True, help="this file server's name, such as A")
    scrubbing = "how many bytes of what is stored are verified each second, 0 for none (8388608)"
    server.add_argument("--scrub-bytes", type=int, default=8 << 20, metavar="N", help=scrubbing)
    _add_all(kinds)
    _add_host(kinds)
    _add_load(kinds)
    return parser


def _add_volume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--volume", default="main", metavar="NAME", help="which of the volumes in etcd (main)")


def _server(kinds: Any, kind: str, what: str) -> argparse.ArgumentParser:
    parser = kinds.add_parser(kind, help=what, description=f"Serves {what}.")
    parser.add_argument("--home", type=_folder, required=True, metavar="DIR", help="this server's own folder")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, required=True, help="the TCP port to listen on")
    parser.add_argument("--token-file", type=_folder, metavar="FILE", help="has the cluster's token (else $DFS_TOKEN)")
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="what goes to standard error (info)")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input reaches its end")
    return parser


def _add_all(kinds: Any) -> None:
    what = "a directory service, a lock service and file servers A, B and C, restarted when they die"
    parser = kinds.add_parser("all", help=what, description=f"Supervises {what}; ends when nobody uses them.")
    parser.add_argument("--home", type=_folder, required=True, metavar="DIR", help="the cluster's folder")
    parser.add_argument("--keep", action="store_true", help="go on when nobody uses the cluster")
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="what goes to the logs (info)")
    parser.add_argument("--lock-fd", type=int, help=argparse.SUPPRESS)


def _add_host(kinds: Any) -> None:
    what = "this host's servers of each volume of a cluster of several hosts"
    parser = kinds.add_parser("host", help=what, description=f"Supervises {what}.")
    parser.add_argument(
        "--config", type=_folder, required=True, metavar="FILE", help="made by dfs cluster init or join"
    )
    parser.add_argument("--role", action="append", choices=("directory", "locks", "files"), help="these alone")
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="what goes to the logs (info)")


def _add_load(kinds: Any) -> None:
    what = "a dump of a volume's metadata, into a directory's folder that has none"
    parser = kinds.add_parser("load", help=what, description=f"Loads {what}; the directory must not run.")
    parser.add_argument("--home", type=_folder, required=True, metavar="DIR", help="the directory service's folder")
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="what goes to standard error (info)")
    parser.add_argument("file", metavar="FILE", help="what `dfs dump` has written; -: standard input")


def _store(text: str) -> str:
    if text not in ("sqlite", "memory") and not is_etcd(text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of sqlite, memory, etcd://HOST:PORT,...")
    return text


def _folder(text: str) -> Path:
    return Path(text).absolute()


def _supervise(arguments: argparse.Namespace) -> int:
    from servers.supervisor import AlreadyRunning, supervise

    try:
        supervise(arguments.home, arguments.keep, arguments.log_level, arguments.lock_fd)
    except AlreadyRunning as error:
        raise StartError(str(error)) from None
    return 0


def _host(arguments: argparse.Namespace) -> Coroutine[Any, Any, None]:
    from dfsfuse import cluster_config
    from servers import host

    config = cluster_config.read(arguments.config)
    wanted = arguments.role or config.host.roles
    return host.run(config, [role for role in config.host.roles if role in wanted], arguments.log_level)


def _load(arguments: argparse.Namespace) -> int:
    from servers.loading import load_file

    loaded = load_file(arguments.home, arguments.file)
    sys.stdout.write(f"{loaded.volume.hex()} {loaded.made_ns} {loaded.inodes}\n")
    return 0


def _service(arguments: argparse.Namespace) -> Coroutine[Any, Any, None]:
    """The service to run; only its own modules are imported."""
    token = _token(arguments.token_file)
    at = (arguments.home, arguments.host, arguments.port, token)
    if arguments.kind == "directory":
        return _directory(arguments, at)
    if arguments.kind == "locks":
        if arguments.etcd is not None:
            from dfsfuse.etcd_address import parse
            from servers import lock_standing

            return lock_standing.run(*at, arguments.directory, parse(arguments.etcd), arguments.volume)
        from servers import lock_service

        return lock_service.run(*at, arguments.directory)
    from servers import file_service

    pace = file_service.Pace(scrub_bytes_s=arguments.scrub_bytes)
    return file_service.run(arguments.name, *at, arguments.directory, pace)


def _directory(arguments: argparse.Namespace, at: tuple) -> Coroutine[Any, Any, None]:
    if is_etcd(arguments.store):
        from dfsfuse.etcd_address import parse
        from servers import directory_standing

        return directory_standing.run(*at, arguments.copies, parse(arguments.store), arguments.volume)
    from servers import directory_service

    return directory_service.run(*at, arguments.copies, arguments.store)


def _token(file: Path | None) -> str:
    token = file.read_text() if file else os.environ.get("DFS_TOKEN", "")
    if not token.strip():
        raise StartError(f"no token in {file}" if file else "no token: give --token-file FILE or set $DFS_TOKEN")
    return token.strip()


def _alone(path: Path) -> int:
    """Hold the folder's lock; a former server that is still ending is waited for."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _ALONE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StartError(f"another server still runs in {path.parent}; end it first") from None
        time.sleep(0.02)


def _run(service: Coroutine[Any, Any, None]) -> int:
    import uvloop

    # A full search for garbage would go through all of what has been imported, in the middle of work.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_until_ended(service))
        except (asyncio.CancelledError, KeyboardInterrupt):
            logging.getLogger("servers").info("ended by a signal")
    return 0


async def _until_ended(service: Coroutine[Any, Any, None]) -> None:
    """SIGTERM cancels the service, as SIGINT does under asyncio's runner, until it serves: then both let it end."""
    task = asyncio.current_task()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await service


def _end_with_parent() -> None:
    """The parent holds the other end of standard input: even SIGKILL closes it."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
