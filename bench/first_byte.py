"""`python -m bench.first_byte`: how soon a program has the first byte of a large file of which its mount has nothing.

Writes one file through a mount, then makes one mount after another, each with an empty cache, and times open() and the
first read of one byte, by turns at the start of the file and somewhere in it. All pieces of the file are the same, so
that it takes its size once on the disk of the writer's cache, and next to nothing on the servers; its manifest is as
long as that of any other of its size."""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.mounts import mounted
from bench.workloads import expect

PIECE = 4 << 20
Times = tuple[float, float]
"""Seconds that open() took, and the read."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.first_byte", description=__doc__)
    parser.add_argument("--gib", type=int, default=10, help="size of the file (default 10)")
    parser.add_argument("--mounts", type=int, default=12, help="how many read it (default 12)")
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    try:
        times = run(folder, arguments.gib << 30, arguments.mounts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(times)
    return 0


def run(folder: Path, size: int, mounts: int) -> list[Times]:
    home, writer = folder / "home", folder / "writer"
    with mounted(home, {writer: []}):
        piece = write(writer / "large", size)
        return [first_byte(home, folder / f"reader-{number}", piece, at(number, size)) for number in range(mounts)]


def write(path: Path, size: int) -> bytes:
    """What each of its pieces is."""
    piece = os.urandom(PIECE)
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // PIECE):
            file.write(piece)
    return piece


def at(number: int, size: int) -> int:
    return 0 if number % 2 == 0 else random.Random(number).randrange(size)


def first_byte(home: Path, point: Path, piece: bytes, offset: int) -> Times:
    """At a mount of its own."""
    with mounted(home, {point: []}, last=False):
        start = time.perf_counter()
        descriptor = os.open(point / "large", os.O_RDONLY)
        opened = time.perf_counter()
        data = os.pread(descriptor, 1, offset)
        read = time.perf_counter()
        os.close(descriptor)
    expect(data, piece[offset % PIECE : offset % PIECE + 1])
    return opened - start, read - opened


def show(times: list[Times]) -> None:
    together = [opened + read for opened, read in times]
    for name, seconds in (
        ("open()", [opened for opened, _ in times]),
        ("first byte, at the start", together[::2]),
        ("first byte, anywhere", together[1::2]),
    ):
        print(f"{name:26} median {statistics.median(seconds) * 1e3:6.1f} ms, slowest {max(seconds) * 1e3:6.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
