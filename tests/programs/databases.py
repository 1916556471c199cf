"""Databases: each transaction is kept, whoever makes it and whatever is killed."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from programs import run

_ADD = """
import sqlite3, sys
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    db = sqlite3.connect(path, timeout=60)
    with db:
        db.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * (number % 700)))
    db.close()
"""


def sqlite(here: Path, there: Path, turns: int = 20) -> object:
    """50 transactions a turn by two clients in turn, 1,000 in all; then the integrity check and every row."""
    with contextlib.closing(sqlite3.connect(here / "t.db")) as db:
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
    for turn in range(turns):
        folder = (here, there)[turn % 2]
        run(sys.executable, "-c", _ADD, folder / "t.db", turn * 50, 50, cwd=folder)
    with contextlib.closing(sqlite3.connect(there / "t.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute("SELECT count(*), sum(n), sum(length(text)) FROM t").fetchone()


def postgresql(here: Path, there: Path, seconds: int = 60) -> object:
    """initdb and pgbench for a minute; after kill -9 of the whole server every account adds up."""
    user, data = pwd.getpwnam("postgres"), here / "data"
    data.mkdir(mode=0o700)
    os.chown(data, user.pw_uid, user.pw_gid)
    here.chmod(0o755)
    as_user = {"user": "postgres", "group": user.pw_gid, "extra_groups": []}
    run(_program("initdb"), "-D", data, "-A", "trust", cwd=data, **as_user)
    with _server(data, as_user) as connect:
        run(_program("pgbench"), *connect, "-i", "-s", "2", "postgres", cwd=data, **as_user)
        said = run(_program("pgbench"), *connect, "-c", "2", "-T", seconds, "postgres", cwd=data, **as_user)
        done = int(re.search(r"actually processed: (\d+)", said)[1])
        _kill_server(data)
    with _server(data, as_user) as connect:
        query = (
            "SELECT count(*), (SELECT sum(abalance) FROM pgbench_accounts) = sum(delta), "
            "(SELECT sum(bbalance) FROM pgbench_branches) = sum(delta) FROM pgbench_history"
        )
        count, *equal = run(
            _program("psql"), *connect, "-At", "-F", " ", "-c", query, "postgres", cwd=data, **as_user
        ).split()
        assert int(count) == done, f"{done} transactions were acknowledged, {count} are there"
        return equal


def _program(name: str) -> str:
    """PostgreSQL's programs are outside of PATH on Debian."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name) or name


@contextlib.contextmanager
def _server(data: Path, as_user: dict) -> Iterator[list[str]]:
    """Options with which a client connects to the running server."""
    options = f"-c listen_addresses='' -c unix_socket_directories='{data}' -c full_page_writes=on"
    run(
        _program("pg_ctl"),
        "-D",
        data,
        "-w",
        "-t",
        "120",
        "-l",
        data / "log",
        "-o",
        options,
        "start",
        cwd=data,
        **as_user,
    )
    try:
        yield ["-h", str(data)]
    finally:
        if (data / "postmaster.pid").exists() and _runs(data):
            run(_program("pg_ctl"), "-D", data, "-w", "-m", "fast", "stop", cwd=data, **as_user)


def _pid(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split()[0])


def _runs(data: Path) -> bool:
    return Path(f"/proc/{_pid(data)}").exists()


def _kill_server(data: Path) -> None:
    """SIGKILL to the server and to all that it has started."""
    server = _pid(data)
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    for pid in (server, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
