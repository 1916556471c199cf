#!/usr/bin/env python3
"""python mount.py MOUNTPOINT: mounts a dfsfuse volume; installed, it is the command mount.dfs.

It returns when the mount answers (exit status 0), or says in one line on standard error why it does not (1; misuse: 2).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfsfuse import mounting

_HERE = os.path.dirname(os.path.abspath(__file__))
_NAME = "mount.dfs" if os.path.basename(sys.argv[0]) == "mount.dfs" else "mount.py"
_NEEDED = ("requests", "msgspec", "blake3", "httptools")
_PASSTHROUGH = ("auto", "off")
_LEVELS = ("debug", "info", "warning", "error")


def main(argv: list[str] | None = None) -> int:
    """Mount what the arguments say; the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not _has_dependencies():
        return _use_own_python(argv)
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing is mounted")


def _run(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)

    from dfsfuse import mounting, standard_streams, tables
    from dfsfuse.errors import DfsError

    standard_streams.complete()
    tables.use_bytes_of_names()
    wanted = _wanted(arguments)
    if arguments.ready_fd is not None:
        return mounting.serve_as_daemon(wanted, _found(arguments))
    try:
        _mount(wanted, arguments.foreground)
    except (mounting.MountError, DfsError, OSError) as error:
        return _fail(mounting.one_line(error))
    return 0


def _mount(wanted: mounting.Wanted, foreground: bool) -> None:
    from dfsfuse import mounting, mountpoint

    wanted = replace(wanted, driver=mounting.choose_driver(wanted.driver, _tell))
    with mounting.prepare(wanted, _tell) as endpoint:
        line = f"volume {endpoint.volume} of {endpoint.url} is mounted on {wanted.mountpoint}; "
        line += f"to unmount it: {mountpoint.unmount_command(wanted.mountpoint)}"
        if foreground:
            found = mounting.Found(url=endpoint.url, volume=endpoint.volume, token=endpoint.token, urls=endpoint.urls)
            mounting.serve(wanted, found, lambda: _tell(line), _tell)
        else:
            program = [sys.executable, os.path.abspath(__file__)]
            for told in mounting.mount_in_background(wanted, endpoint, program):
                _tell(told)
            with contextlib.suppress(OSError):
                # It is mounted, whether somebody hears it or not.
                sys.stdout.write(line + "\n")
                sys.stdout.flush()


def _wanted(arguments: argparse.Namespace) -> mounting.Wanted:
    from dfsfuse import home, mounting, mountpoint

    return mounting.Wanted(
        mountpoint=mountpoint.resolve(arguments.mountpoint),
        home=Path(arguments.home).absolute() if arguments.home else home.default_home(),
        cluster_url=arguments.cluster,
        volume=arguments.volume,
        read_only=arguments.read_only,
        suid=arguments.suid,
        dev=arguments.dev,
        lock_wait_s=arguments.lock_wait,
        timeout_s=arguments.timeout,
        cache_bytes=arguments.cache_bytes,
        known_files=arguments.known_files,
        log_level=arguments.log_level,
        driver=arguments.driver,
        passthrough=arguments.passthrough != "off",
        hash_whole_max=arguments.passthrough_writes,
    )


def _found(arguments: argparse.Namespace) -> mounting.Found:
    """What the process that starts the daemon tells it; the token comes through the environment, and stays here."""
    from dfsfuse import mounting

    return mounting.Found(
        url=arguments.found_url,
        volume=arguments.found_volume,
        token=os.environ.pop("DFS_TOKEN", ""),
        ready=arguments.ready_fd,
        users_lock=arguments.users_fd,
        urls=arguments.found_urls,
    )


def _parser() -> argparse.ArgumentParser:
    from dfsfuse import arguments as given
    from dfsfuse import mounting, options

    parser = given.Parser(prog=_NAME, description="Mount a dfsfuse volume.")
    add = parser.add_argument
    add("mountpoint", metavar="MOUNTPOINT", type=given.path, help="an existing folder")
    cluster = "the directory service, or agents of hosts (URL,URL,...); the token is in $DFS_TOKEN, else in the home"
    add("--cluster", metavar="URL", type=given.path, help=cluster)
    add("--volume", metavar="NAME", default="", help="which volume of that cluster (main)")
    where = "$DFS_HOME, else $XDG_DATA_HOME/dfsfuse, else ~/.local/share/dfsfuse"
    home = f"has the cache, and the cluster unless --cluster is given ({where})"
    add("--home", metavar="DIR", type=given.path, help=home)
    add("--foreground", action="store_true", help="serve in this process; log to standard error")
    add("--read-only", action="store_true", help="change nothing through this mount")
    add("--suid", action="store_true", help="set-user-id and set-group-id bits count, as on a local disk (root alone)")
    add("--dev", action="store_true", help="device nodes are devices, as on a local disk (root alone)")
    wait = "how long opening for writing waits for another writer (%(default)g)"
    add("--lock-wait", metavar="S", type=given.seconds, default=options.LOCK_WAIT_S, help=wait)
    timeout = "how long a call goes on without progress (%(default)g)"
    add("--timeout", metavar="S", type=given.timeout, default=options.TIMEOUT_S, help=timeout)
    cache = "what clean content may take on the local disk, such as 500M (10G)"
    add("--cache-bytes", metavar="N", type=given.size, default=options.CACHE_BYTES, help=cache)
    known = "of how many files names and attributes are remembered, in 1 KB of memory each at most (%(default)d)"
    add("--known-files", metavar="N", type=given.count, default=options.KNOWN_FILES, help=known)
    driver = "what speaks FUSE (linux, which needs Linux 5.15; else fusepy)"
    add("--driver", choices=mounting.DRIVERS, default="", help=driver)
    passthrough = "the kernel reads large cached files itself where it can (%(default)s), as root on Linux 6.9 or newer"
    add("--passthrough", choices=_PASSTHROUGH, default="auto", help=passthrough)
    writes = "with passthrough, it also writes files up to this size, hashed when they are closed (4G); 0: none"
    add("--passthrough-writes", metavar="N", type=given.size_or_zero, default=options.HASH_WHOLE_MAX, help=writes)
    add("--log-level", choices=_LEVELS, default="info", help="what the client's log has (%(default)s)")
    for hidden in ("--found-url", "--found-volume", "--found-urls"):
        add(hidden, default="", help=argparse.SUPPRESS)
    for hidden in ("--ready-fd", "--users-fd"):
        add(hidden, type=int, help=argparse.SUPPRESS)
    return parser


def _has_dependencies() -> bool:
    return sys.version_info >= (3, 11) and all(importlib.util.find_spec(name) for name in _NEEDED)


def _use_own_python(argv: list[str]) -> int:
    """Go on with the Python of .venv beside this file."""
    python = os.path.join(_HERE, ".venv", "bin", "python")
    if os.path.exists(python) and os.path.realpath(sys.prefix) != os.path.realpath(os.path.join(_HERE, ".venv")):
        os.execv(python, [python, os.path.abspath(__file__), *argv])
    return _fail(f"this Python ({sys.executable}) lacks what dfsfuse needs; run: make -C {_HERE} venv")


def _fail(line: str) -> int:
    _tell(line)
    return 1


def _tell(line: str) -> None:
    sys.stderr.write(f"{_NAME}: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
