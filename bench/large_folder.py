"""`python -m bench.large_folder`: what a folder of very many files costs the client and the directory in memory.

Starts a cluster and a client of its own in a temporary folder. In each round the folder's files are made, listed, asked
for their attributes and removed again, one program at a time; after each of these steps the resident memory is
printed, and at the end the largest that there was. Exit status 1 if the last round ends more than GROWTH_MAX above the
first, or a peak is above PEAK_MB."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.__main__ import ROOT, memory_mb, wait_for_end
from bench.workloads import put

PEAK_MB = {"directory": 80, "client 1": 120}
GROWTH_MAX = 1.05
Memory = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.large_folder", description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000, help="files of the folder (default 100,000)")
    parser.add_argument("--bytes", type=int, default=100, help="of each file (default 100); 0 makes them empty")
    parser.add_argument("--rounds", type=int, default=3, help="how often (default 3)")
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    try:
        ends, peaks = run(folder, arguments.entries, b"x" * arguments.bytes, arguments.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return judge(ends, peaks)


def run(folder: Path, entries: int, content: bytes, rounds: int) -> tuple[list[Memory], Memory]:
    """(memory at the end of each round, the largest that there was), in MB by process."""
    mount, home = folder / "mount", folder / "home"
    mount.mkdir()
    try:
        command = [sys.executable, str(ROOT / "mount.py"), "--home", str(home), str(mount)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        show("begin", 0.0, memory_mb(home))
        ends = [one_round(mount / f"round-{number}", home, entries, content) for number in range(1, rounds + 1)]
        return ends, memory_mb(home, "VmHWM")
    finally:
        subprocess.run(["umount", str(mount)], check=False, stderr=subprocess.DEVNULL)
        wait_for_end(home)


def one_round(folder: Path, home: Path, entries: int, content: bytes) -> Memory:
    names = [f"entry-{number}" for number in range(entries)]
    steps: dict[str, Callable[[], None]] = {
        "made": lambda: make(folder, names, content),
        "listed": lambda: list_all(folder, entries),
        "asked": lambda: ask(folder, names, content),
        "removed": lambda: remove(folder, names),
    }
    memory: Memory = {}
    for step, work in steps.items():
        begun = time.perf_counter()
        work()
        memory = memory_mb(home)
        show(f"{folder.name} {step}", time.perf_counter() - begun, memory)
    return memory


def make(folder: Path, names: list[str], content: bytes) -> None:
    folder.mkdir()
    for name in names:
        put(f"{folder}/{name}", content)


def list_all(folder: Path, entries: int) -> None:
    with os.scandir(folder) as listing:
        found = sum(entry.is_file(follow_symlinks=False) for entry in listing)
    if found != entries:
        raise AssertionError(f"{found} entries are listed, and {entries} were made")


def ask(folder: Path, names: list[str], content: bytes) -> None:
    for name in names:
        if os.stat(f"{folder}/{name}").st_size != len(content):
            raise AssertionError(f"{name} has another size")


def remove(folder: Path, names: list[str]) -> None:
    for name in names:
        os.unlink(f"{folder}/{name}")
    folder.rmdir()


def show(step: str, seconds: float, memory: Memory) -> None:
    print(f"{step:18} {seconds:7.1f} s  " + "  ".join(f"{name} {mb:5.1f}" for name, mb in memory.items()), flush=True)


def judge(ends: list[Memory], peaks: Memory) -> int:
    show("peaks", 0.0, peaks)
    failed = False
    for name, peak_mb in PEAK_MB.items():
        growth = ends[-1][name] / ends[0][name]
        good = growth <= GROWTH_MAX and peaks[name] < peak_mb
        print(f"{name}: last round / first {growth:.3f}, peak {peaks[name]:.1f} MB: {'ok' if good else 'TOO MUCH'}")
        failed = failed or not good
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
