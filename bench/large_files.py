"""`python -m bench.large_files`: one large file written, read again, and read through another client, with the
processor time of each process; before it, what this machine charges for a MiB in each step of its way.

`--against TREE` does the same with another checkout, by turns. On two cores it is processor time that counts: programs,
clients and servers share them."""

import argparse
import contextlib
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.__main__ import ROOT, memory_mb, processes, wait_for_end
from bench.workloads import read_large, write_large
from dfsfuse import direct_io
from dfsfuse.chunks import ENTRY_BYTES, chunk_name

MIB = 1 << 20
_PIECES = 64
_TICKS_S = os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.large_files", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=512, help="size of the file (default 512)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each checkout (default 3)")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to use (default: a temporary one)")
    parser.add_argument("--against", type=Path, help="another checkout, which takes turns with this one")
    arguments = parser.parse_args()
    trees = [ROOT, arguments.against] if arguments.against else [ROOT]
    with tempfile.TemporaryDirectory(prefix="dfsbench-", dir=arguments.scratch) as folder:
        show_steps(Path(folder))
        for number in range(arguments.rounds):
            for tree in trees:
                print(f"\npass {number + 1}: {tree}")
                one_pass(tree, Path(folder) / "run", arguments.megabytes)
    return 0


# -- what the steps cost by themselves


def show_steps(folder: Path) -> None:
    print(f"{'processor time of one MiB, by itself':44} {'us':>6}")
    for step, cost_us in steps(folder):
        print(f"{step:44} {cost_us:6.0f}", flush=True)


def steps(folder: Path) -> Iterator[tuple[str, float]]:
    source, target = direct_io.memory(ENTRY_BYTES), direct_io.memory(ENTRY_BYTES)
    source[:] = os.urandom(ENTRY_BYTES)

    def copy(number: int) -> None:
        target[:] = source

    yield "copied in memory", _us_a_mib(copy)
    yield "hashed", _us_a_mib(lambda number: chunk_name(source))
    yield "fresh memory", _us_a_mib(_touch_fresh)
    descriptor = os.open(folder / "pages", os.O_RDWR | os.O_CREAT)
    with _closing(descriptor):
        yield "written through the kernel's pages", _us_a_mib(lambda n: os.pwrite(descriptor, source, n * ENTRY_BYTES))
        yield "read from the kernel's pages", _us_a_mib(lambda n: os.preadv(descriptor, [target], n * ENTRY_BYTES))
    descriptor = os.open(folder / "direct", os.O_RDWR | os.O_CREAT)
    with _closing(descriptor):
        yield "written past them", _us_a_mib(lambda n: direct_io.pwrite(descriptor, source, n * ENTRY_BYTES))
        yield "read past them", _us_a_mib(lambda n: direct_io.pread_into(descriptor, target, n * ENTRY_BYTES))
    yield "sent and received (loopback)", _loopback_us(source, target)


def _us_a_mib(step: Callable[[int], object]) -> float:
    step(0)
    begun = time.process_time()
    for number in range(_PIECES):
        step(number)
    return (time.process_time() - begun) * 1e6 / (_PIECES * ENTRY_BYTES / MIB)


def _touch_fresh(number: int) -> None:
    with mmap.mmap(-1, ENTRY_BYTES) as memory:
        for page in range(0, ENTRY_BYTES, mmap.PAGESIZE):
            memory[page] = 1


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _loopback_us(source: memoryview, target: memoryview) -> float:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        sender = threading.Thread(target=lambda: [ours.sendall(source) for _ in range(_PIECES)])
        begun, left = time.process_time(), _PIECES * ENTRY_BYTES
        sender.start()
        while left:
            left -= theirs.recv_into(target)
        sender.join()
        theirs.close()
    return (time.process_time() - begun) * 1e6 / (_PIECES * ENTRY_BYTES / MIB)


# -- the whole way


def one_pass(tree: Path, folder: Path, megabytes: int) -> None:
    mounts, home = [folder / "one", folder / "two"], folder / "home"
    try:
        for mount in mounts:
            mount.mkdir(parents=True)
            command = [sys.executable, str(tree / "mount.py"), "--home", str(home), str(mount)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=tree)
        watch = Watch(processes(home), megabytes)
        watch.show("written, until close()", write_large(mounts[0] / "large", megabytes)[1])
        watch.show("read again", read_large(mounts[0] / "large"))
        watch.show("read through the other client", read_large(mounts[1] / "large"))
        print("most memory: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in memory_mb(home, "VmHWM").items()))
    finally:
        for mount in mounts:
            subprocess.run(["umount", str(mount)], check=False, stderr=subprocess.DEVNULL)
        wait_for_end(home)
        shutil.rmtree(folder, ignore_errors=True)


class Watch:
    """The processor time of processes between two calls of `show`; of this one too, which is the program."""

    def __init__(self, pids: dict[str, int], megabytes: int):
        self._pids, self._megabytes = pids | {"program": os.getpid()}, megabytes
        self._before = self._spent_s()

    def show(self, what: str, seconds: float) -> None:
        now = self._spent_s()
        spent_s = {name: now[name] - self._before[name] for name in now}
        self._before = now
        parts = ", ".join(f"{name} {cpu_s:.2f}" for name, cpu_s in spent_s.items() if cpu_s >= 0.02)
        speed = self._megabytes * MIB / 1e6 / seconds
        print(f"{what:30} {speed:8.1f} MB/s, {sum(spent_s.values()):5.2f} s of processor time: {parts}", flush=True)

    def _spent_s(self) -> dict[str, float]:
        fields = {n: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for n, pid in self._pids.items()}
        return {name: (int(field[11]) + int(field[12])) / _TICKS_S for name, field in fields.items()}


if __name__ == "__main__":
    sys.exit(main())
