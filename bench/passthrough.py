"""`python -m bench.passthrough`: an open file of the cache with passthrough, without it, and on the local disk, in
alternating passes.

Both mounts are clients of one cluster of its own. Needs root; on a noisy machine trust the ratios."""

import argparse
import mmap
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.mounts import mounted
from bench.workloads import Rows, expect, get, median_us

PLACES = {"passthrough": ["--passthrough", "auto"], "without": ["--passthrough", "off"], "local": None}
PIECE, SMALL = 1 << 20, 4096
RANDOM = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.passthrough", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256, help="size of the large file (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each place; medians are shown (default 3)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-"))
    try:
        show(run(arguments, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, list[Rows]]:
    places = {place: folder / place for place in PLACES}
    passes: dict[str, list[Rows]] = {place: [] for place in PLACES}
    places["local"].mkdir()
    with mounted(folder / "home", {places[place]: options for place, options in PLACES.items() if options is not None}):
        for place, point in places.items():
            prepare(point, place, arguments.megabytes)
        for number in range(arguments.rounds):
            print(f"pass {number + 1} of {arguments.rounds}", file=sys.stderr)
            for place, point in places.items():
                passes[place].append(one_pass(point / place, arguments.megabytes << 20))
    return passes


def prepare(point: Path, place: str, megabytes: int) -> None:
    """Each place has files of its own, all of them in its cache."""
    (point / place).mkdir()
    for name, size in (
        ("small", SMALL),
        ("middle", PIECE),
        ("large", megabytes * PIECE),
        ("patched", megabytes * PIECE),
    ):
        with (point / place / name).open("wb") as file:
            for _ in range(0, size, PIECE):
                file.write(os.urandom(min(size, PIECE)))


def one_pass(folder: Path, size: int) -> Rows:
    rows: Rows = {"read in order, just written": (_written_and_read(folder / "new", size // 4), "MB/s")}
    for name in ("middle", "large"):
        warm(folder / name)
    rows["open + read 4 KiB + close, of 4 KiB"] = (
        median_us(lambda n: expect_length(folder / "small", SMALL), 2000),
        "us",
    )
    rows["open + read 1 MiB + close, of 1 MiB"] = (
        median_us(lambda n: expect_length(folder / "middle", PIECE), 500),
        "us",
    )
    rows["open + read 4 KiB + close, of a large file"] = median_us(lambda n: get(folder / "large", SMALL), 2000), "us"
    rows |= _reading(folder / "large", size)
    rows |= _writing(folder / "large", size)
    for name in ("middle", "patched"):
        warm(folder / name)
    rows["open + write 4 KiB + close, of 1 MiB"] = median_us(lambda n: _patch(folder / "middle", n), 100), "us"
    rows["open + write 1 MiB + close, of 1 MiB"] = median_us(lambda n: _rewrite(folder / "middle"), 50), "us"
    rows["open + write 4 KiB + close, of a large file"] = median_us(lambda n: _patch(folder / "patched", n), 10), "us"
    return rows


def warm(path: Path) -> None:
    """In memory as a part of the cache, and not of the mount: from the next open on the kernel reads it itself."""
    for _ in range(2):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(PIECE):
                pass


def _written_and_read(path: Path, size: int) -> float:
    with path.open("wb") as file:
        for _ in range(0, size, PIECE):
            file.write(os.urandom(PIECE))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _speed(lambda at: os.pread(descriptor, PIECE, at), size)
    finally:
        os.close(descriptor)


def expect_length(path: Path, length: int) -> None:
    if len(get(path, length)) != length:
        expect(b"", b"all of it")


def _reading(path: Path, size: int) -> Rows:
    offsets = [random.randrange(size // SMALL) * SMALL for _ in range(RANDOM)]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        rows = {"read in order": (_speed(lambda at: os.pread(descriptor, PIECE, at), size), "MB/s")}
        rows["read 4 KiB anywhere"] = median_us(lambda n: os.pread(descriptor, SMALL, offsets[n]), RANDOM), "us"
        with mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
            rows["all pages of a mapping"] = _speed(lambda at: sum(mapping[at : at + PIECE : SMALL]), size), "MB/s"
            rows["4 KiB of a mapping anywhere"] = (
                median_us(lambda n: mapping[offsets[n] : offsets[n] + SMALL], RANDOM), "us",
            )  # fmt: skip
        return rows
    finally:
        os.close(descriptor)


def _writing(path: Path, size: int) -> Rows:
    """Before close(), which sends it."""
    piece, small = os.urandom(PIECE), os.urandom(SMALL)
    offsets = [random.randrange(size // SMALL) * SMALL for _ in range(RANDOM // 10)]
    descriptor = os.open(path, os.O_RDWR)
    try:
        return {
            "write 4 KiB anywhere": (
                median_us(lambda n: os.pwrite(descriptor, small, offsets[n]), len(offsets)), "us",
            ),
            "write in order": (_speed(lambda at: os.pwrite(descriptor, piece, at), size), "MB/s"),
        } | _storing(descriptor, offsets, small)  # fmt: skip
    finally:
        os.close(descriptor)


def _storing(descriptor: int, offsets: list[int], data: bytes) -> Rows:
    with mmap.mmap(descriptor, 0) as mapping:

        def store(number: int) -> None:
            mapping[offsets[number] : offsets[number] + SMALL] = data

        return {"store 4 KiB to a mapping anywhere": (median_us(store, len(offsets)), "us")}


def _patch(path: Path, number: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, os.urandom(SMALL), number * SMALL)
    finally:
        os.close(descriptor)


def _rewrite(path: Path) -> None:
    descriptor, data = os.open(path, os.O_RDWR), os.urandom(PIECE)
    try:
        for start in range(0, PIECE, SMALL):
            os.pwrite(descriptor, data[start : start + SMALL], start)
    finally:
        os.close(descriptor)


def _speed(step: Callable[[int], object], size: int) -> float:
    """MB/s of steps of PIECE."""
    start = time.perf_counter()
    for at in range(0, size, PIECE):
        step(at)
    return size / 1e6 / (time.perf_counter() - start)


def show(passes: dict[str, list[Rows]]) -> None:
    count = len(passes["local"])
    print(f"{f'median of {count} passes':44}" + "".join(f"{place:>13}" for place in passes) + "  unit  through/local")
    for row, (_, unit) in passes["local"][0].items():
        values = {place: statistics.median(one[row][0] for one in several) for place, several in passes.items()}
        figures = "".join(f"{value:13.1f}" for value in values.values())
        print(f"{row:44}{figures}  {unit:5} {values['passthrough'] / values['local']:10.2f}")


if __name__ == "__main__":
    sys.exit(main())
