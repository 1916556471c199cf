"""What a dump and a check of many files take, and cost those who ask the directory meanwhile:
`python -m bench.surveys [--files N] [--scratch DIR]`.
"""

import argparse
import os
import pathlib
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from dfsfuse import errors
from dfsfuse.messages import (
    Attributes,
    Check,
    Checked,
    Create,
    Dump,
    DumpPage,
    Lookup,
    Message,
    Nothing,
)
from dfsfuse.rpc import Rpc
from servers import tree
from servers.directory import Directory
from servers.store import Transaction
from servers.store.sqlite import SqliteStore

PORT = 29999
URL = f"http://127.0.0.1:{PORT}"
TOKEN = "bench"
_BATCH = 1000
_EVERY_S = 0.002
_CALM_S = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.surveys", description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, help="in one folder (default 100000)")
    parser.add_argument("--scratch", type=pathlib.Path, help="a folder on the disk to measure (default: temporary)")
    arguments = parser.parse_args()
    home = pathlib.Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    try:
        make(home, arguments.files)
        with serving(home) as process:
            measure(process)
    finally:
        shutil.rmtree(home)
    return 0


def make(home: pathlib.Path, count: int) -> None:
    """A directory's database with so many empty files."""
    store = SqliteStore(home / "directory.db")
    Directory(store, copies=3, volume=secrets.token_bytes(16), uid=0, gid=0, now_ns=1, now_s=1.0)
    store.transact(lambda tx: tree.create(tx, Create(names=[b"d"], ino=0, mode=0o40755), 1))

    def some(tx: Transaction, first: int) -> None:
        for number in range(first, min(count, first + _BATCH)):
            tree.create(tx, Create(names=[b"d", b"file %d" % number], ino=0, mode=0o100644), 1)

    for first in range(0, count, _BATCH):
        store.transact(lambda tx, first=first: some(tx, first))
    store.sync()
    store.close()


class serving:
    """The directory of this home, as a process of its own."""

    def __init__(self, home: pathlib.Path):
        command = [sys.executable, "-m", "servers", "directory", "--home", str(home), "--port", str(PORT)]
        self.process = subprocess.Popen(command, env={**os.environ, "DFS_TOKEN": TOKEN}, stderr=subprocess.DEVNULL)

    def __enter__(self) -> subprocess.Popen:
        rpc = Rpc(TOKEN)
        while True:
            try:
                rpc.call(URL, "ping", Nothing(), Nothing, 1)
                return self.process
            except errors.Unreachable:
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


def measure(process: subprocess.Popen) -> None:
    looks = Looks()
    time.sleep(_CALM_S)
    looks.tell("look-ups alone")
    for name, request, reply in (("dump", Dump, DumpPage), ("check", Check, Checked)):
        began = time.perf_counter()
        pages = sum(1 for _ in walk(name, request, reply))
        print(f"{name}: {time.perf_counter() - began:.1f} s, {pages} pages")
        looks.tell(f"look-ups beside the {name}")
    looks.end()
    with open(f"/proc/{process.pid}/status") as status:
        print("directory, at most: " + next(line for line in status if line.startswith("VmHWM")).split(":")[1].strip())


def walk(operation: str, request: type[Message], reply: type[Message]) -> Iterator[Message]:
    rpc, key, number, more = Rpc(TOKEN), secrets.token_bytes(16), 0, True
    while more:
        page = rpc.call(URL, operation, request(key=key, page=number), reply, 60)
        yield page
        more, number = page.more, number + 1


class Looks:
    """Another client, which looks a name up again and again."""

    def __init__(self) -> None:
        self._took: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        rpc, request = Rpc(TOKEN), Lookup(names=[b"d", b"file 5"])
        while not self._ended.wait(_EVERY_S):
            began = time.perf_counter()
            rpc.call(URL, "lookup", request, Attributes, 30)
            self._took.append((time.perf_counter() - began) * 1e3)

    def tell(self, what: str) -> None:
        took, self._took = self._took, []
        cuts = statistics.quantiles(took, n=100)
        print(f"{what}: median {cuts[49]:.2f} ms, 99 of 100 below {cuts[98]:.1f} ms, slowest {max(took):.0f} ms")

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


if __name__ == "__main__":
    raise SystemExit(main())
