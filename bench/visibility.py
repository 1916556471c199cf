"""`python -m bench.visibility`: how soon after close() another mount reads the new content.

Two mounts of one cluster; the reader opens again and again. A file is rewritten so often that single slow rounds are
seen too, and that what the servers do now and then (renewals, syncs, the garbage) falls among the rounds. After each
round goes as many bytes to another process and back as there were requests: what the machine charges for that alone."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.__main__ import echoes
from bench.mounts import mounted
from bench.workloads import put, seen_ms, text

LATE_MS, REQUESTS = 5.0, 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.visibility", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000, help="how many commits (default 10000)")
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    here, there = folder / "one", folder / "two"
    try:
        with mounted(folder / "home", {here: [], there: []}):
            show(*run(here, there, arguments.rounds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def run(here: Path, there: Path, rounds: int) -> tuple[list[float], list[float], int]:
    """(milliseconds until each commit was seen, those that the machine took by itself, reads that were stale)."""
    put(here / "file", text(0))
    delays, alone, stale = [], [], 0
    with echoes() as echo:
        for number in range(1, rounds + 1):
            delay, before = seen_ms(here / "file", there / "file", number)
            start = time.perf_counter()
            for _ in range(REQUESTS):
                echo()
            alone.append((time.perf_counter() - start) * 1e3)
            delays.append(delay)
            stale += before
    return delays, alone, stale


def show(delays: list[float], alone: list[float], stale: int) -> None:
    for name, times in (("seen after", delays), (f"{REQUESTS} round trips alone", alone)):
        ordered = sorted(times)
        late = sum(time > LATE_MS for time in times)
        at = {share: ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 0.999, 1)}
        print(f"{name:20} " + "  ".join(f"{share:.1%} {ms:6.2f} ms" for share, ms in at.items()), end="  ")
        print(f"later than {LATE_MS:.0f} ms: {late} of {len(times)}")
    print(f"stale reads: {stale}")


if __name__ == "__main__":
    sys.exit(main())
