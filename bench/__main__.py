"""`python -m bench`: the everyday workloads on a mount and on the local disk, with their ratio.

Starts a cluster and two clients of its own in a temporary folder, and ends them. On a noisy machine trust the ratios,
and the round trip that is printed with them: it is the price of one request at that moment."""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import workloads
from bench.workloads import Rows

ROOT = Path(__file__).resolve().parent.parent
_FASTER_IS_LESS = ("us", "ms")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to compare with (default: a temporary one)")
    parser.add_argument("--files", type=int, default=1000, help="small files (default 1000)")
    parser.add_argument("--entries", type=int, default=5000, help="entries of the folder that is listed (default 5000)")
    parser.add_argument("--megabytes", type=int, default=512, help="size of the large file (default 512)")
    parser.add_argument("--rounds", type=int, default=3, help="passes over everything; medians are shown (default 3)")
    parser.add_argument("--json", type=Path, help="write the figures of all passes here too")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    try:
        passes, memory = run(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(passes)
    print("\nresident memory afterwards: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in memory.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"passes": passes, "memory_mb": memory}, indent=1))
    return 0


def run(arguments: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Rows]], dict[str, float]]:
    mounts = [folder / "one", folder / "two"]
    local = folder / "local"
    for place in (*mounts, local):
        place.mkdir()
    try:
        for mount in mounts:
            command = [sys.executable, str(ROOT / "mount.py"), "--home", str(folder / "home"), str(mount)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        passes = []
        for number in range(arguments.rounds):
            print(f"pass {number + 1} of {arguments.rounds}", file=sys.stderr)
            passes.append(
                {
                    "mount": everything(arguments, mounts[0], mounts[1]),
                    "local": everything(arguments, local, local),
                }
            )
        return passes, memory_mb(folder / "home")
    finally:
        for mount in mounts:
            subprocess.run(["umount", str(mount)], check=False, stderr=subprocess.DEVNULL)
        wait_for_end(folder / "home")


def everything(arguments: argparse.Namespace, base: Path, other: Path) -> Rows:
    steps: list[tuple[Callable[[Path, Path, int], Rows], int]] = [
        (workloads.small_files, arguments.files),
        (workloads.listing, arguments.entries),
        (workloads.editor_saves, 100),
        (workloads.two_clients, 200),
        (workloads.large_file, arguments.megabytes),
    ]
    rows: Rows = {"round trip of one small request (loopback)": (round_trip_us(), "us")}
    for step, amount in steps:
        rows |= step(base, other, amount)
    return rows


def round_trip_us() -> float:
    """One byte to another process and back over TCP: what the machine charges for two wake-ups just now."""
    with echoes() as echo:
        return workloads.median_us(lambda n: echo(), 2000)


@contextlib.contextmanager
def echoes() -> Iterator[Callable[[], object]]:
    """A call sends one byte to another process and waits until it is back."""
    server = "import socket,sys;s=socket.create_server(('127.0.0.1',0));print(s.getsockname()[1],flush=True);" \
             "c,_=s.accept();[c.sendall(b) for b in iter(lambda:c.recv(1),b'')]"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True)
    with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield lambda: (connection.sendall(b"x"), connection.recv(1))
    process.wait()
    process.stdout.close()


def memory_mb(home: Path, field: str = "VmRSS") -> dict[str, float]:
    """Of each server and client by name; `field` of /proc/PID/status: VmRSS is now, VmHWM the most that there was."""
    return {name: _field_mb(pid, field) for name, pid in processes(home).items()}


def processes(home: Path) -> dict[str, int]:
    """The servers' and clients' process ids by name."""
    servers = json.loads((home / "cluster.json").read_text())["servers"]
    pids = {server["name"]: server["pid"] for server in servers}
    clients = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _is_client(int(entry), home)]
    return pids | {f"client {number + 1}": pid for number, pid in enumerate(sorted(clients))}


def _is_client(pid: int, home: Path) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"mount.py" in command and os.fsencode(home) in command.split(b"\0")


def _field_mb(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


def wait_for_end(home: Path) -> None:
    deadline = time.monotonic() + 15
    while (home / "cluster.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def show(passes: list[dict[str, Rows]]) -> None:
    print(f"{'median of ' + str(len(passes)) + ' passes':48} {'mount':>10} {'local':>10}  unit   mount/local")
    for row, (_, unit) in passes[0]["mount"].items():
        mount, local = (statistics.median(one[side][row][0] for one in passes) for side in ("mount", "local"))
        ratio = f"{mount / local:11.2f}" if local else "          -"
        print(f"{row:48} {mount:10.1f} {local:10.1f}  {unit:5} {ratio}")


if __name__ == "__main__":
    sys.exit(main())
