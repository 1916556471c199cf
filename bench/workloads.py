"""Everyday workloads on any folder. Each returns {row: (value, unit)}; lower is better for ms and us, higher for MB/s.

What is read back is compared with what was written. "cold" means that the kernel's caches were dropped (as root), or
that the names were made through the other client."""

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SMALL = 4096
LARGE_PIECE = 1 << 20

Rows = dict[str, tuple[float, str]]


def median_us(operation: Callable[[int], None], count: int) -> float:
    """Microseconds of the median of `count` calls."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        operation(number)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def put(path: str | Path, data: bytes, flags: int = os.O_CREAT | os.O_WRONLY) -> None:
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def get(path: str | Path, size: int = 1 << 16) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def text(number: int, size: int = SMALL) -> bytes:
    return f"{number:08d}".encode() * (size // 8)


def expect(found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise SystemExit("wrong content was read back; the figures mean nothing")


@contextlib.contextmanager
def scratch(base: Path, name: str) -> Iterator[Path]:
    folder = base / f"bench-{os.getpid()}-{name}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def small_files(base: Path, other: Path, count: int) -> Rows:
    with scratch(base, "small") as folder:
        names = [f"{folder}/f{number}" for number in range(count)]
        rows = {"create + write 4 KiB + close": median_us(lambda n: put(names[n], text(n)), count)}
        rows["open + read 4 KiB + close, the same file"] = median_us(lambda n: expect(get(names[7]), text(7)), count)
        rows["open + read 4 KiB + close, each file"] = median_us(lambda n: expect(get(names[n]), text(n)), count)
        truncate = os.O_WRONLY | os.O_TRUNC
        rows["rewrite 4 KiB"] = median_us(lambda n: put(names[n], text(n + 1), truncate), count)
        append = os.O_WRONLY | os.O_APPEND
        rows["append 100 bytes"] = median_us(lambda n: put(names[0], b"." * 100, append), count // 4)
        rows["stat"] = median_us(lambda n: os.stat(names[n]), count)
        rows["rename"] = median_us(lambda n: os.rename(names[n], names[n] + "r"), count)
        rows["unlink"] = median_us(lambda n: os.unlink(names[n] + "r"), count)
    return {name: (value, "us") for name, value in rows.items()}


def listing(base: Path, other: Path, count: int) -> Rows:
    """Made through one client, listed by the other: its kernel has never seen a name."""
    with scratch(base, "list") as folder:
        for number in range(count):
            put(folder / f"entry-{number:05d}", b"x")
        seen = other / folder.name
        start = time.perf_counter()
        with os.scandir(seen) as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
        cold = time.perf_counter() - start
        expect(bytes(sizes), b"\1" * count)
    return {f"list {count} entries with attributes, cold": (cold * 1e3, "ms")}


def large_file(base: Path, other: Path, megabytes: int) -> Rows:
    with scratch(base, "large") as folder:
        path = folder / "large"
        written, closed = write_large(path, megabytes)
        again = read_large(path)
        elsewhere = read_large(other / folder.name / "large")
    size_mb = megabytes * LARGE_PIECE / 1e6
    return {
        f"write {megabytes} MiB, until the last write()": (size_mb / written, "MB/s"),
        f"write {megabytes} MiB, until close()": (size_mb / closed, "MB/s"),
        f"read {megabytes} MiB again": (size_mb / again, "MB/s"),
        f"read {megabytes} MiB through the other client": (size_mb / elsewhere, "MB/s"),
    }


def write_large(path: Path, megabytes: int) -> tuple[float, float]:
    """Seconds until the last write() has returned, and until close()."""
    piece, start = os.urandom(LARGE_PIECE), time.perf_counter()
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    for number in range(megabytes):
        os.write(descriptor, number.to_bytes(8, "big") + piece[8:])
    written = time.perf_counter() - start
    os.close(descriptor)
    return written, time.perf_counter() - start


def read_large(path: Path) -> float:
    """Seconds; the number at the head of each piece is checked."""
    buffer, start, number = bytearray(LARGE_PIECE), time.perf_counter(), 0
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            expect(bytes(buffer[:8]), number.to_bytes(8, "big"))
            number += 1
    return time.perf_counter() - start


def editor_saves(base: Path, other: Path, count: int) -> Rows:
    """What vim does at :w: backup by rename, write, fsync, chmod, remove the backup."""
    with scratch(base, "editor") as folder:
        path, backup = f"{folder}/text.c", f"{folder}/text.c~"
        put(path, text(0, 20480))

        def save(number: int) -> None:
            os.rename(path, backup)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(descriptor, text(number, 20480))
            os.fsync(descriptor)
            os.close(descriptor)
            os.chmod(path, 0o644)
            os.unlink(backup)

        return {"editor save 20 KiB, with fsync": (median_us(save, count) / 1e3, "ms")}


def two_clients(base: Path, other: Path, count: int) -> Rows:
    """From close() on one client until the other has read the new content; the reader opens again and again."""
    with scratch(base, "two") as folder:
        mine, theirs = folder / "file", other / folder.name / "file"
        put(mine, text(0))
        rounds = [seen_ms(mine, theirs, number) for number in range(1, count + 1)]
    delays = [delay for delay, _ in rounds]
    return {
        "commit seen by the other client, median": (statistics.median(delays), "ms"),
        "commit seen by the other client, slowest": (max(delays), "ms"),
        "reads after close() that were stale": (float(sum(stale for _, stale in rounds)), "reads"),
    }


def seen_ms(mine: Path, theirs: Path, number: int) -> tuple[float, int]:
    """(milliseconds from close() until the other side reads the new content, reads before that were stale)."""
    new, stale = text(number), 0
    put(mine, new, os.O_WRONLY | os.O_TRUNC)
    start = time.perf_counter()
    while get(theirs) != new:
        stale += 1
    return (time.perf_counter() - start) * 1e3, stale
