"""`python -m bench.growth`: does an operation cost more where there are more files, or more mounts?

`--files 1000 1000000`: a volume with so many files each, in folders of 200, on clusters of its own in a temporary
folder. The files that were there are empty rows, put into the directory's database while nothing runs. Each pass does
the everyday operations in a new folder and a cold listing of an old one, on each volume in turn; medians, and the ratio
of the largest to the smallest.

`--mounts 1 4 16`: so many clients of one cluster, a process on each, which makes, reads, rewrites and removes files in
a folder of its own for a while; all their operations in a second, and the share of the best."""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.__main__ import memory_mb
from bench.mounts import mounted
from bench.workloads import Rows, expect, get, listing, put, small_files, text
from dfsfuse.messages import Create
from servers import tree
from servers.store import Transaction
from servers.store.sqlite import SqliteStore

PER_FOLDER = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[], help="volumes with so many files each")
    parser.add_argument("--mounts", type=int, nargs="*", default=[], help="so many mounts of one volume")
    parser.add_argument("--rounds", type=int, default=3, help="passes; medians are shown (default 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each pass over mounts (default 5)")
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    try:
        if arguments.files:
            more_files(folder, arguments.files, arguments.rounds)
        if arguments.mounts:
            more_mounts(folder, arguments.mounts, arguments.rounds, arguments.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


@contextlib.contextmanager
def clients(home: Path, count: int) -> Iterator[list[Path]]:
    """The mountpoints of so many."""
    points = [home.parent / f"{home.name}-mount-{number}" for number in range(count)]
    with mounted(home, dict.fromkeys(points, ())):
        yield points


# -- files


def more_files(folder: Path, counts: list[int], rounds: int) -> None:
    homes = {count: folder / f"files-{count}" for count in counts}
    for count, home in homes.items():
        with clients(home, 1):
            pass
        began = time.perf_counter()
        fill(home, count)
        print(f"a volume of {count} files was made in {time.perf_counter() - began:.0f} s", flush=True)
    with contextlib.ExitStack() as stack:
        points = {count: stack.enter_context(clients(home, 2)) for count, home in homes.items()}
        passes = [{count: everyday(*points[count], count, number) for count in counts} for number in range(rounds)]
        show(counts, passes)
        for count, home in homes.items():
            print(f"{count} files: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in memory_mb(home).items()))


def fill(home: Path, count: int) -> None:
    """The cluster must not run."""
    store = SqliteStore(home / "directory" / "directory.db")
    for first in range(0, count, PER_FOLDER):
        store.transact(lambda tx, first=first: _fill_folder(tx, first, min(PER_FOLDER, count - first)))
    store.sync()
    store.close()


def _fill_folder(tx: Transaction, first: int, count: int) -> None:
    name = b"old-%d" % (first // PER_FOLDER)
    tree.create(tx, Create(names=[name], ino=0, mode=0o40755), time.time_ns())
    for number in range(count):
        tree.create(tx, Create(names=[name, b"file %d" % number], ino=0, mode=0o100644), time.time_ns())


def everyday(base: Path, other: Path, count: int, number: int) -> Rows:
    """`number` of the pass: each lists another of the folders that were there, from the last one on."""
    rows = small_files(base, other, 400) | listing(base, other, 1000)
    folders = -(-count // PER_FOLDER)
    began = time.perf_counter()
    with os.scandir(base / f"old-{folders - 1 - number % folders}") as entries:
        found = sum(entry.stat(follow_symlinks=False).st_size == 0 for entry in entries)
    seconds = time.perf_counter() - began
    return rows | {f"list {found} entries that were there, cold": (seconds * 1e3, "ms")}


def show(counts: list[int], passes: list[dict[int, Rows]]) -> None:
    print(
        f"{f'median of {len(passes)} passes':48}" + "".join(f"{count:>12}" for count in counts) + "  unit  last/first"
    )
    for row, (_, unit) in passes[0][counts[0]].items():
        values = [statistics.median(one[count][row][0] for one in passes) for count in counts]
        print(f"{row:48}" + "".join(f"{v:12.1f}" for v in values) + f"  {unit:4}  {values[-1] / values[0]:.2f}")


# -- mounts


def more_mounts(folder: Path, counts: list[int], rounds: int, seconds: float) -> None:
    with clients(folder / "mounts", max(counts)) as points:
        rates = {count: [together(points[:count], seconds) for _ in range(rounds)] for count in counts}
    medians = {count: statistics.median(values) for count, values in rates.items()}
    print(f"{'mounts':>8} {'files a second':>16} {'of the best':>12}")
    for count, rate in medians.items():
        print(f"{count:8} {rate:16.0f} {rate / max(medians.values()):12.2f}")


def together(points: list[Path], seconds: float) -> float:
    """Files a second that all of them together have made, read, rewritten and removed."""
    with multiprocessing.get_context("spawn").Pool(len(points)) as pool:
        return sum(pool.starmap(alone, [(point, time.time() + 1.0, seconds) for point in points], chunksize=1))


def alone(point: Path, begin: float, seconds: float) -> float:
    """Files a second, from `begin` (as of time.time()) on."""
    folder = point / f"bench-{os.getpid()}"
    folder.mkdir()
    time.sleep(max(0.0, begin - time.time()))
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        path = f"{folder}/{done}"
        put(path, text(done))
        expect(get(path), text(done))
        put(path, text(done + 1), os.O_WRONLY | os.O_TRUNC)
        os.unlink(path)
        done += 1
    rate = done / (time.perf_counter() - began)
    folder.rmdir()
    return rate


if __name__ == "__main__":
    sys.exit(main())
