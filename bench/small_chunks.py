"""What small chunks cost a file server's store: `python -m bench.small_chunks [--scratch DIR] [--bytes N]`.

No server and no network: the store alone, on a folder of its own below DIR, as the disk's behaviour differs by folder.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable

from dfsfuse.chunks import chunk_name
from servers.chunkstore import ChunkStore


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.small_chunks", description=__doc__)
    parser.add_argument("--scratch", type=pathlib.Path, help="a folder on the disk to measure (default: temporary)")
    parser.add_argument("--bytes", type=int, default=4096, help="of each chunk (default 4096)")
    parser.add_argument("--count", type=int, default=1000, help="chunks between two syncs (default 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="batches of so many chunks (default 5)")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    try:
        measure(ChunkStore(folder), arguments.bytes, arguments.count, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    return 0


def measure(store: ChunkStore, size: int, count: int, rounds: int) -> None:
    store.sync()
    times: dict[str, list[float]] = {what: [] for what in ("store", "store again", "length", "read")}
    syncs = []
    for _ in range(rounds):
        chunks = [os.urandom(size) for _ in range(count)]
        named = [(chunk_name(data), data) for data in chunks]
        times["store"] += timed(store.store, named)
        syncs += timed(store.sync, [()])
        times["store again"] += timed(store.store, named)
        times["length"] += timed(store.length, [(name,) for name, _ in named])
        times["read"] += timed(store.read, [(name,) for name, _ in named])
    for what, seconds in times.items():
        cuts = statistics.quantiles([second * 1e6 for second in seconds], n=100)
        print(f"{what:12} median {cuts[49]:8.1f} us   99 of 100 below {cuts[98]:8.1f} us")
    print(f"sync of {count}: " + ", ".join(f"{second * 1e3:.1f}" for second in syncs) + " ms")


def timed(call: Callable, arguments: Iterable[tuple]) -> list[float]:
    """How long each call took."""
    took = []
    for each in arguments:
        began = time.perf_counter()
        call(*each)
        took.append(time.perf_counter() - began)
    return took


if __name__ == "__main__":
    raise SystemExit(main())
