"""`python -m bench.drivers_alone`: what the kernel and a driver cost by themselves: each driver over the file system in
memory that its tests use, in alternating passes."""

import argparse
import ctypes.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.__main__ import ROOT
from bench.drivers import DRIVERS, show
from bench.workloads import Rows, get, median_us, put, text

_FILES = 100


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drivers_alone", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="passes of each driver; medians are shown (default 5)")
    parser.add_argument("--count", type=int, default=3000, help="calls of each kind (default 3000)")
    parser.add_argument("--serve", nargs=2, metavar=("DRIVER", "POINT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return 0
    passes: dict[str, list[Rows]] = {driver: [] for driver in DRIVERS}
    for number in range(arguments.rounds):
        print(f"pass {number + 1} of {arguments.rounds}", file=sys.stderr)
        for driver in DRIVERS:
            passes[driver].append(one_pass(driver, arguments.count))
    show(passes)
    return 0


def serve(driver: str, point: str) -> None:
    """Until unmounted. The kernel keeps attributes as long as it always does."""
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ["FUSE_LIBRARY_PATH"] = ctypes.util.find_library("fuse3") or ""
    from fake_filesystem import FakeFileSystem

    from dfsfuse.mounting import run_of

    filesystem = FakeFileSystem()
    for number in range(_FILES):
        ino = filesystem.add(b"f%d" % number)
        filesystem.contents[ino].data[:] = text(number)
    ready = lambda: print("ready", flush=True)  # noqa: E731
    run_of(driver)(filesystem, point, read_only=False, allow_other=True, fsname="dfsfuse:memory", on_ready=ready)


def one_pass(driver: str, count: int) -> Rows:
    with tempfile.TemporaryDirectory(prefix="dfsbench-") as point:
        command = [sys.executable, "-m", "bench.drivers_alone", "--serve", driver, point]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"the {driver} driver could not mount")
            return measure(Path(point), count)
        finally:
            subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)
            process.wait(30)


def measure(point: Path, count: int) -> Rows:
    os.chdir(point)
    try:
        names = [f"f{number}" for number in range(_FILES)]
        rows = {"stat of a name that is not there": (median_us(lambda n: _missing(f"none{n}"), count), "us")}
        rows["open + read 4 KiB + close"] = (median_us(lambda n: get(names[n % _FILES]), count), "us")
        descriptor, data = os.open(names[0], os.O_WRONLY), text(1)
        rows["write 4 KiB"] = (median_us(lambda n: os.pwrite(descriptor, data, 0), count), "us")
        os.close(descriptor)
        made = count // 4
        rows["create + write 4 KiB + close"] = (median_us(lambda n: put(f"n{n}", data), made), "us")
        rows["unlink"] = (median_us(lambda n: os.unlink(f"n{n}"), made), "us")
        return rows
    finally:
        os.chdir("/")


def _missing(name: str) -> None:
    """Costs one request, a look-up: the kernel remembers no name that is not there."""
    try:
        os.stat(name)
    except FileNotFoundError:
        return
    raise SystemExit(f"{name} is there; the figures mean nothing")


if __name__ == "__main__":
    sys.exit(main())
