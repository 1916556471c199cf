"""`python -m bench.kept_locks`: what opening for writing costs where this mount keeps the write lock, or another does.

Two mounts of a cluster of its own. On a noisy machine compare the rows."""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.__main__ import ROOT, wait_for_end

SETTLE_S = 0.02
"""RELEASE, with which a lock is kept, comes after close() has returned."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kept_locks", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="opens of each kind (default 300)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-"))
    mounts = [folder / "one", folder / "two"]
    try:
        for mount in mounts:
            mount.mkdir()
            command = [sys.executable, str(ROOT / "mount.py"), "--home", str(folder / "home"), str(mount)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        measure(mounts[0] / "file", mounts[1] / "file", arguments.count)
    finally:
        for mount in mounts:
            subprocess.run(["umount", str(mount)], check=False, stderr=subprocess.DEVNULL)
        wait_for_end(folder / "home")
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(here: Path, there: Path, count: int) -> None:
    here.write_bytes(b"")
    show("open for writing, this mount keeps the lock", [rewrite(here) for _ in range(count)])
    for what, flags in (("", 0), (", O_NONBLOCK", os.O_NONBLOCK)):
        took_s = [rewrite(side, flags) for _ in range(count // 2) for side in (there, here)]
        show(f"open for writing, another mount keeps it{what}", took_s)
    with here.open("r+b"):
        show("EAGAIN, a program of another mount uses it", [refused(there) for _ in range(count)])


def rewrite(path: Path, flags: int = 0) -> float:
    """How long the open has taken, in s. It is tried again where the former program's RELEASE is late."""
    while True:
        start = time.perf_counter()
        with contextlib.suppress(BlockingIOError):
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | flags)
            break
        print("  refused: RELEASE is late")
        time.sleep(SETTLE_S)
    took_s = time.perf_counter() - start
    os.write(descriptor, bytes(4096))
    os.close(descriptor)
    time.sleep(SETTLE_S)
    return took_s


def refused(path: Path) -> float:
    start = time.perf_counter()
    with contextlib.suppress(BlockingIOError):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        raise SystemExit("it was opened; the figures mean nothing")
    return time.perf_counter() - start


def show(what: str, took_s: list[float]) -> None:
    ordered = sorted(took_s)
    tenth = ordered[len(ordered) * 9 // 10]
    print(f"{what:52} median {statistics.median(ordered) * 1e6:7.0f} us, nine of ten within {tenth * 1e6:7.0f} us")


if __name__ == "__main__":
    sys.exit(main())
