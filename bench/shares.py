"""`python -m bench.shares`: what an everyday operation takes, and of that each process's time on a processor.

A client (here) does the operation some hundred times; another one (there) has the files in its cache where it matters.
What no process has used is waiting: for a wake-up, for the disk, for another machine if there were one. Times on the
processor come from /proc/PID/stat in steps of 10 ms, so rows of a few hundred operations are rough. Then, how
often each process has waited (voluntary_ctxt_switches of its threads), and so had to be woken."""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.mounts import mounted
from dfsfuse import home as homes

_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
SERVERS = ("directory", "locks", "A", "B", "C")

Work = Callable[[int], None]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.shares", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="how many of each operation (500)")
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    try:
        here, there = folder / "here", folder / "there"
        with mounted(folder / "home", {here: [], there: []}):
            Shares(folder / "home", here, there, arguments.count).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


class Shares:
    def __init__(self, home: Path, here: Path, there: Path, count: int):
        self._here, self._there, self._count = here, there, count
        self._pids = {server.name: server.pid for server in homes.read_cluster(home).servers}
        self._pids |= {"here": _client(here), "there": _client(there)}

    def run(self) -> None:
        _print("us for each", ["wall", "here", *SERVERS, "there", "waiting"])
        woken: list[tuple[str, list[str]]] = []
        for what, before, work in self._works():
            for number in range(self._count):
                before(number)
            switches = self._switches()
            self._row(what, work)
            now = self._switches()
            each = [(now[name] - switches[name]) / self._count for name in ("here", *SERVERS, "there")]
            woken.append((what, [f"{value:.1f}" for value in (*each, sum(each))]))
        _print("woken for each", ["here", *SERVERS, "there", "all"])
        for what, values in woken:
            _print(what, values)

    def _switches(self) -> dict[str, int]:
        return {name: _woken(pid) for name, pid in self._pids.items()}

    def _row(self, what: str, work: Work) -> None:
        used, times = self._used(), []
        for number in range(self._count):
            began = time.perf_counter()
            work(number)
            times.append(time.perf_counter() - began)
        wall = statistics.mean(times) * 1e6
        after = self._used()
        mine = {name: (after[name] - used[name]) * _TICK_US / self._count for name in used}
        shown = [wall, mine["here"], *(mine[name] for name in SERVERS), mine["there"], wall - sum(mine.values())]
        _print(what, [f"{value:.0f}" for value in shown])

    def _used(self) -> dict[str, int]:
        """Ticks on a processor, of each process."""
        return {name: _ticks(pid) for name, pid in self._pids.items()}

    def _works(self) -> list[tuple[str, Work, Work]]:
        here, there = self._here, self._there
        name = lambda number: f"f{number}"  # noqa: E731
        nothing: Work = lambda number: None  # noqa: E731
        return [
            ("create + write 4 KiB + close", nothing, lambda n: _put(here / name(n), bytes([n % 251]) * 4096)),
            ("first read by the other client", nothing, lambda n: _get(there / name(n))),
            ("rewrite 4 KiB that the other client has", nothing, lambda n: _put(here / name(n), os.urandom(4096))),
            ("and its read there", nothing, lambda n: _get(there / name(n))),
            ("rename", nothing, lambda n: os.rename(here / name(n), here / f"g{n}")),
            ("unlink", nothing, lambda n: os.unlink(here / f"g{n}")),
            ("create, and read by the other client at once", nothing, self._create_and_see),
            ("append 100 bytes to one file", self._log, lambda n: _append(here / "log")),
            ("write 4 KiB anywhere + fdatasync", self._database, self._sync),
        ]

    def _create_and_see(self, number: int) -> None:
        _put(self._here / f"n{number}", b"new")
        _get(self._there / f"n{number}")

    def _log(self, number: int) -> None:
        if number == 0:
            _put(self._here / "log", b"")

    def _database(self, number: int) -> None:
        if number == 0:
            _put(self._here / "db", bytes(4 << 20))
            self._fd = os.open(self._here / "db", os.O_RDWR)

    def _sync(self, number: int) -> None:
        os.pwrite(self._fd, os.urandom(4096), number * 37 % 1024 * 4096)
        os.fdatasync(self._fd)
        if number == self._count - 1:
            os.close(self._fd)


def _client(point: Path) -> int:
    """The process that serves the mount."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "--ready-fd" in words and str(point) in words:
            return int(entry.parent.name)
    raise SystemExit(f"no client serves {point}")


def _print(what: str, values: list[str]) -> None:
    print(f"{what:46}" + "".join(f"{value:>10}" for value in values), flush=True)


def _woken(pid: int) -> int:
    lines = (line for path in Path(f"/proc/{pid}/task").glob("*/status") for line in path.read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _put(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(fd, data)
    os.close(fd)


def _get(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 1 << 16)
    os.close(fd)


def _append(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, bytes(100))
    os.close(fd)


if __name__ == "__main__":
    raise SystemExit(main())
