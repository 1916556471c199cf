"""`python -m bench.drivers`: the drivers side by side, on two mounts of one cluster of its own, in alternating passes.

What differs is the driver alone: servers, cache and file system are the same."""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.mounts import mounted
from bench.workloads import Rows, expect, get, median_us, put, scratch, text

DRIVERS = ("linux", "fusepy")
_FORGOTTEN_S = 1.1
"""After this neither the kernel nor the client uses attributes without asking."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drivers", description=__doc__)
    parser.add_argument("--files", type=int, default=300, help="small files (default 300)")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the large file (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each driver; medians are shown (default 5)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-"))
    try:
        show(run(arguments, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, list[Rows]]:
    mounts = {driver: folder / driver for driver in DRIVERS}
    passes: dict[str, list[Rows]] = {driver: [] for driver in DRIVERS}
    with mounted(folder / "home", {mount: ["--driver", driver] for driver, mount in mounts.items()}):
        for number in range(arguments.rounds):
            print(f"pass {number + 1} of {arguments.rounds}", file=sys.stderr)
            for driver, mount in mounts.items():
                passes[driver].append(one_pass(mount, arguments.files, arguments.megabytes))
    return passes


def one_pass(mount: Path, files: int, megabytes: int) -> Rows:
    with scratch(mount, "drivers") as folder:
        names = [f"{folder}/f{number}" for number in range(files)]
        rows = {"create + write 4 KiB + close": (median_us(lambda n: put(names[n], text(n)), files), "us")}
        rows["open + read 4 KiB + close, the same file"] = (median_us(lambda n: get(names[7]), files), "us")
        rows["open + read 4 KiB + close, each file"] = (
            median_us(lambda n: expect(get(names[n]), text(n)), files), "us",
        )  # fmt: skip
        time.sleep(_FORGOTTEN_S)
        rows["stat, asked of the directory"] = (median_us(lambda n: os.stat(names[n]), files), "us")
        rows["write 4 KiB to an open file"] = (_writes_us(names[3], files), "us")
        time.sleep(_FORGOTTEN_S)
        start = time.perf_counter()
        sizes = [entry.stat().st_size for entry in os.scandir(folder)]
        rows["list with attributes, a file"] = ((time.perf_counter() - start) * 1e6 / len(sizes), "us")
        rows["unlink"] = (median_us(lambda n: os.unlink(names[n]), files), "us")
        rows |= _large(folder / "large", megabytes)
    return rows


def _writes_us(path: str, count: int) -> float:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        return median_us(lambda n: os.pwrite(descriptor, text(n), 0), count)
    finally:
        os.close(descriptor)


def _large(path: Path, megabytes: int) -> Rows:
    piece, size_mb = os.urandom(1 << 20), megabytes * (1 << 20) / 1e6
    descriptor, start = os.open(path, os.O_CREAT | os.O_RDWR), time.perf_counter()
    for _ in range(megabytes):
        os.write(descriptor, piece)
    written = time.perf_counter() - start
    os.fsync(descriptor)
    # The kernel's pages go, so what is read comes through the driver.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    buffer, offset, start = bytearray(1 << 20), 0, time.perf_counter()
    while length := os.preadv(descriptor, [buffer], offset):
        offset += length
    read = time.perf_counter() - start
    os.close(descriptor)
    return {
        f"write {megabytes} MiB, until the last write()": (size_mb / written, "MB/s"),
        f"read {megabytes} MiB from the cache": (size_mb / read, "MB/s"),
    }


def show(passes: dict[str, list[Rows]]) -> None:
    first, second = DRIVERS
    print(f"{'median of ' + str(len(passes[first])) + ' passes':44} {first:>9} {second:>9}  unit   ratio")
    for row, (_, unit) in passes[first][0].items():
        one, other = (statistics.median(rows[row][0] for rows in passes[driver]) for driver in DRIVERS)
        print(f"{row:44} {one:9.1f} {other:9.1f}  {unit:5} {other / one:6.2f}")


if __name__ == "__main__":
    sys.exit(main())
