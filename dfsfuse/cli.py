"""The command `dfs`: arguments -> one function of dfsfuse.commands -> exit status.

0: done; 1: a failure, with one line on standard error; 2: misuse. What a command needs is imported when it runs, so
`dfs --help` answers at once.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from dfsfuse import arguments as given
from dfsfuse import standard_streams

LOCK_WAIT_S = 10.0
TIMEOUT_S = 30.0
_PATH = """\
PATH is a path in the volume, such as /notes.txt, or one below a mount of it,
such as /mnt/dfs/notes.txt; where it could be both, it is the one below the
mount. A relative PATH starts at the working directory if that is below a
mount, else at the root of the volume. A mount itself is never touched, so dfs
works while a mount hangs."""

Add = Callable[..., argparse.ArgumentParser]


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name; the exit status."""
    standard_streams.complete()
    try:
        return _run(argv)
    except KeyboardInterrupt:
        sys.stderr.write("dfs: interrupted\n")
    except OSError as error:
        # Help that nobody can be shown.
        sys.stderr.write(f"dfs: {error.filename}: {error.strerror}\n")
    except ModuleNotFoundError as error:
        sys.stderr.write(f"dfs: this Python ({sys.executable}) lacks {error.name}, which dfsfuse needs; {_remedy()}\n")
    return 1


def _remedy() -> str:
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = os.path.join(here, ".venv", "bin", "dfs")
    return f"use {own}" if os.path.exists(own) else f"run: make -C {here} venv"


def _run(argv: list[str] | None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.cluster is not None and arguments.embedded:
        parser.error("--cluster names a cluster that was started elsewhere; this is for that of --home")
    module, _, function = arguments.run.partition(":")
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _terminated)
    return _guarded(lambda: getattr(importlib.import_module(f"dfsfuse.{module}"), function)(arguments))


def _guarded(command: Callable[[], int]) -> int:
    from dfsfuse import tables
    from dfsfuse.errors import DfsError

    tables.use_bytes_of_names()
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python flushes once more at its end; nobody is there to read that either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DfsError, OSError) as error:
        from dfsfuse.commands.reach import line_of

        tables.complain(line_of(error))
    return 1


def _terminated(number: int, frame: object) -> NoReturn:
    """SIGTERM, and the end of its terminal, ends the command as an error would, so that nothing is left half done."""
    raise SystemExit(1)


# -- arguments


def _parser() -> argparse.ArgumentParser:
    parser = given.Parser(
        prog="dfs", description="Work on a dfsfuse volume without a mount, and look after its cluster.", epilog=_PATH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    home = "$DFS_HOME, else $XDG_DATA_HOME/dfsfuse, else ~/.local/share/dfsfuse"
    parser.add_argument(
        "--home",
        metavar="DIR",
        type=given.path,
        help=f"has the caches, and the cluster unless --cluster is given ({home})",
    )
    where = "the directory service, or agents of hosts (URL,URL,...); the token is in $DFS_TOKEN, else in the home"
    parser.add_argument("--cluster", metavar="URL", type=given.path, help=where)
    parser.add_argument("--volume", metavar="NAME", default="", help="which volume of that cluster (main)")
    wait = "how long writing waits for another writer of the file (%(default)g)"
    parser.add_argument("--lock-wait", metavar="S", type=given.seconds, default=LOCK_WAIT_S, help=wait)
    timeout = "how long a command goes on without progress (%(default)g)"
    parser.add_argument("--timeout", metavar="S", type=given.timeout, default=TIMEOUT_S, help=timeout)
    parser.set_defaults(embedded=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: str, help_text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(run=run)
        return made

    _add_content(add)
    _add_names(add)
    _add_looks(add)
    _add_cluster(add)
    _add_safety(add)
    return parser


def _add_content(add: Add) -> None:
    cat = add("cat", "commands.content:cat", "write the contents of files to standard output")
    _path(cat, "paths", nargs="+")
    put = add("put", "commands.copying:put", "copy files of this machine into the volume, as cp -p does")
    put.add_argument("-r", "--recursive", action="store_true", help="copy folders with all below them")
    _sources_and_target(put, "LOCAL", "PATH", "copy")
    get = add("get", "commands.copying:get", "copy files of the volume to this machine, as cp -p does")
    get.add_argument("-r", "--recursive", action="store_true", help="copy folders with all below them")
    _sources_and_target(get, "PATH", "LOCAL", "copy")
    write = add("write", "commands.content:write", "make standard input the content of a file, in one version")
    _path(write)


def _add_names(add: Add) -> None:
    ls = add("ls", "commands.names:ls", "list a folder")
    ls.add_argument("-l", "--long", action="store_true", help="with type, mode, owner, size and time")
    _json(ls)
    _path(ls, nargs="?", default=".")
    mkdir = add("mkdir", "commands.names:mkdir", "make folders")
    mkdir.add_argument("-p", "--parents", action="store_true", help="with missing parents; an existing folder is fine")
    _path(mkdir, "paths", nargs="+")
    mv = add("mv", "commands.names:mv", "rename, or move into an existing folder")
    _sources_and_target(mv, "PATH", "PATH", "move")
    rm = add("rm", "commands.names:rm", "remove files")
    rm.add_argument("-r", "--recursive", action="store_true", help="folders too, with all below them")
    _path(rm, "paths", nargs="+")
    stat = add("stat", "commands.names:stat_", "show what the directory knows of a file, folder or symlink")
    _json(stat)
    _path(stat)


def _add_looks(add: Add) -> None:
    where = add("where", "commands.copies:where", "show on which servers the copies of a file are")
    _json(where)
    _path(where)
    mappings = add("mappings", "commands.copies:mappings", "show on which servers the copies of all files are")
    form = mappings.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="one line for each copy, with a line of titles")
    _json(form)
    locks = add("locks", "commands.locks:locks", "show who has files open for writing, and who waits for that")
    locks.add_argument("--kept", action="store_true", help="also write locks that clients keep and no program uses")
    locks.epilog = "Of the programs of one mount that wait for a file the first is shown; the others wait behind it."
    _json(locks)
    quota = add("quota", "commands.quota:quota", "show what the volume holds and may hold, or limit it")
    _quota(quota)
    _json(add("status", "commands.status:status", "show the services, the sessions, and uploads that failed"))


def _add_cluster(add: Add) -> None:
    add("shell", "shell:main", "edit and view files line by line, interactively or from a script")
    cluster = add("cluster", "", "start or stop the cluster of --home; or make this host one of a cluster of several")
    actions = cluster.add_subparsers(title="actions", metavar="start|stop|init|join", required=True)
    unmount = add("unmount", "commands.unmounting:unmount", "unmount, and tell what is not on the servers yet")
    unmount.add_argument("mountpoint", metavar="MOUNTPOINT", type=given.path, help="where a volume is mounted")
    flush = "first wait until everything is on the servers; what is not goes on being sent by the next mount otherwise"
    unmount.add_argument("--flush", action="store_true", help=flush)
    what = "let go what the directory keeps for clients that are silent or gone, and do not come back"
    forget = add("forget", "commands.sessions:forget", what)
    forget.add_argument("sessions", nargs="+", metavar="SESSION", type=int, help="its number, from `dfs status`")
    start = actions.add_parser("start", help="start it, to go on without mounts", description="Start the cluster.")
    start.set_defaults(run="commands.clusters:start", embedded=True)
    stop = actions.add_parser("stop", help="let it end with its last user", description="Stop the cluster.")
    stop.set_defaults(run="commands.clusters:stop", embedded=True)
    _add_hosts(add, actions)
    _add_volumes(add)


def _add_hosts(add: Add, actions: argparse._SubParsersAction) -> None:
    init = actions.add_parser("init", help="make a cluster, this being its first host", description="Make a cluster.")
    init.add_argument("--etcd", required=True, metavar="ADDRESS", help="etcd://HOST:PORT,HOST:PORT,...[?prefix=/NAME/]")
    init.add_argument("--copies", type=int, default=3, metavar="N", help="of each file's content (3)")
    join = actions.add_parser("join", help="make this host one of a cluster", description="Join a cluster.")
    join.add_argument("url", metavar="URL", type=given.path, help="a host's agent, such as http://10.0.0.1:7400")
    join.add_argument("--token-file", metavar="FILE", type=given.path, help="has the cluster's token (else $DFS_TOKEN)")
    for parser, run in ((init, "commands.hosts:init"), (join, "commands.hosts:join")):
        parser.set_defaults(run=run, embedded=True)
        parser.add_argument(
            "--address", required=True, metavar="ADDRESS", help="where other hosts and clients reach it"
        )
        parser.add_argument("--name", metavar="NAME", default="", help="of this host (its host name)")
        parser.add_argument("--zone", metavar="ZONE", default="", help="such as a rack: copies go to different ones")
        parser.add_argument(
            "--port", type=int, default=7400, help="of its agent; its servers have the next ones (7400)"
        )
        parser.add_argument(
            "--weight", type=float, default=1.0, help="its share of files, for the room on its disk (1)"
        )
        parser.add_argument(
            "--role", action="append", choices=("directory", "locks", "files"), help="these alone (all)"
        )
        home = "where its servers keep everything (/var/lib/dfsfuse)"
        parser.add_argument("--data", dest="home_of_host", metavar="DIR", default="/var/lib/dfsfuse", help=home)
        parser.add_argument("--dir", metavar="DIR", default="/etc/dfsfuse", help="for the configuration (/etc/dfsfuse)")
        parser.add_argument("--units", metavar="DIR", default="", help="for the systemd units (/etc/systemd/system)")
    config = add("config", "", "check the configuration of a host")
    checks = config.add_subparsers(title="actions", metavar="check", required=True)
    check = checks.add_parser("check", help="is it right?", description="Check the configuration of a host.")
    check.add_argument("file", metavar="FILE", nargs="?", default="/etc/dfsfuse/cluster.toml", help="(%(default)s)")
    check.set_defaults(run="commands.hosts:check")


def _add_volumes(add: Add) -> None:
    volume = add("volume", "", "the volumes of a cluster of several hosts (--cluster: their agents)")
    actions = volume.add_subparsers(title="actions", metavar="create|list|remove|quota", required=True)

    def action(name: str, run: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(run=run)
        return made

    action("create", "commands.volumes:create", "make a volume").add_argument("name", metavar="NAME")
    _json(action("list", "commands.volumes:list_", "show the volumes, and who serves each"))
    remove = action("remove", "commands.volumes:remove", "remove a volume with all its files")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--yes-remove", dest="sure", metavar="NAME", default="", help="its name once more")
    quota = action("quota", "commands.volumes:quota", "show what a volume holds and may hold, or limit it")
    quota.add_argument("name", metavar="NAME")
    _quota(quota)


def _add_safety(add: Add) -> None:
    what = "check the whole volume while it is in use: metadata, and every copy on every file server"
    check = add("check", "commands.check:check", what)
    check.add_argument("--repair", action="store_true", help="repair what can be; nothing that has content is deleted")
    check.add_argument("--quick", action="store_true", help="only look whether copies are there; read none of them")
    check.epilog = "Exit status: 0 nothing is wrong, 1 something is, 2 some of it could not be checked."
    _json(check)
    dump = add(
        "dump", "commands.dumps:dump", "write all metadata of the volume, as it is at this moment, to a new file"
    )
    dump.add_argument("file", metavar="FILE", type=given.path, help="a new file of this machine; -: standard output")
    what = "make a dump the metadata of a home that has no volume, or an empty one"
    load = add("load", "commands.dumps:load", what)
    load.add_argument("file", metavar="FILE", type=given.path, help="what dump has written; -: standard input")
    load.set_defaults(embedded=True)


def _quota(parser: argparse.ArgumentParser) -> None:
    stored = "limit what files store (500M, ...; none: no limit)"
    parser.add_argument("--bytes", metavar="N", type=given.limit, help=stored)
    parser.add_argument("--inodes", metavar="N", type=given.limit, help="limit how many files, folders and all else")
    _json(parser)


def _path(parser: argparse.ArgumentParser, name: str = "path", **more: object) -> None:
    parser.add_argument(name, metavar="PATH", type=given.path, **more)
    parser.epilog = _PATH


def _sources_and_target(parser: argparse.ArgumentParser, source: str, target: str, what: str) -> None:
    parser.add_argument("paths", nargs="+", metavar=source, type=given.path, help=f"what to {what}")
    where = "its new name, or an existing folder"
    parser.add_argument("paths", action=_Last, metavar=target, type=given.path, help=where)
    parser.epilog = _PATH


class _Last(argparse.Action):
    """The last positional argument, kept behind those before it."""

    def __call__(self, parser: object, namespace: argparse.Namespace, value: object, option: object = None) -> None:
        namespace.paths = [*namespace.paths, value]


def _json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
