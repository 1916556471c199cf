"""`python -m bench.requests`: how many requests to servers an everyday operation takes, and which.

Each client runs in a process of this module, which counts what leaves it; renewals and what waits for events are left
out, as they come with time and not with operations. So the counts do not depend on how fast the machine is. Directory
and lock service are asked for `create`, `acquire` and so on; PUT and GET carry chunks."""

import argparse
import collections
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from bench.__main__ import ROOT, wait_for_end
from bench.workloads import expect, get, put, text
from dfsfuse import rpc

_BY_TIME = ("renew", "watch")
_START_S = 30.0

Counts = collections.Counter[str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.requests", description=__doc__)
    parser.add_argument("--files", type=int, default=200, help="how many of each operation (200)")
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    parser.add_argument("--serve", nargs=3, metavar=("SOCKET", "HOME", "MOUNTPOINT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(*arguments.serve)
    folder = Path(tempfile.mkdtemp(prefix="dfsbench-", dir=arguments.scratch))
    try:
        with clients(folder) as (here, there):
            count_all(here, there, folder, arguments.files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


# -- a client that counts


def serve(at: str, home: str, mountpoint: str) -> int:
    """Mount in this process; each connection to the socket `at` gets the counts so far, as JSON."""
    counts: Counts = collections.Counter()
    ask = rpc.Rpc._ask

    def counted(self: rpc.Rpc, url: str, line: str, *more: object) -> bytes | memoryview:
        kind = line.split(" ")[0] if "/chunks/" in line else line.rpartition("/")[2]
        counts[kind] += kind not in _BY_TIME
        return ask(self, url, line, *more)

    rpc.Rpc._ask = counted
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(at)
    listener.listen()
    threading.Thread(target=_tell, args=(listener, counts), daemon=True).start()
    sys.path.insert(0, str(ROOT))
    import mount

    return mount.main(["--foreground", "--home", home, mountpoint])


def _tell(listener: socket.socket, counts: Counts) -> None:
    while True:
        with listener.accept()[0] as connection:
            connection.sendall(json.dumps(+counts).encode())


class Client:
    def __init__(self, folder: Path, name: str):
        self.point, self._socket = folder / name, folder / f"{name}.socket"
        self.point.mkdir()
        command = [sys.executable, "-m", "bench.requests", "--serve", str(self._socket), str(folder / "home")]
        self.process = subprocess.Popen([*command, str(self.point)], stderr=subprocess.DEVNULL, cwd=ROOT)
        deadline = time.monotonic() + _START_S
        while not os.path.ismount(self.point):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.point} could not be mounted")
            time.sleep(0.05)

    def counts(self) -> Counts:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answer:
            connection.connect(str(self._socket))
            return collections.Counter(json.loads(answer.read()))

    def end(self) -> None:
        subprocess.run(["umount", str(self.point)], check=False, stderr=subprocess.DEVNULL)
        self.process.wait()


@contextlib.contextmanager
def clients(folder: Path) -> Iterator[tuple[Client, Client]]:
    with contextlib.ExitStack() as undo:
        undo.callback(wait_for_end, folder / "home")
        pair = [Client(folder, "here"), Client(folder, "there")]
        for client in pair:
            undo.callback(client.end)
        yield pair[0], pair[1]


# -- what is counted


def count_all(here: Client, there: Client, folder: Path, count: int) -> None:
    print(f"{'requests, mean of ' + str(count):44} {'all':>5}  which")
    ours, theirs = here.point / "small", there.point / "small"
    ours.mkdir()

    def row(name: str, client: Client, operation: Callable[[int], object]) -> None:
        before = client.counts()
        for number in range(count):
            operation(number)
        show(name, client.counts() - before, count)

    def rewrite(number: int) -> None:
        put(ours / f"{number}", text(number + 1), os.O_WRONLY | os.O_TRUNC)

    row("create + write 4 KiB + close", here, lambda n: put(ours / f"{n}", text(n)))
    row("open + read + close, the first time", here, lambda n: expect(get(ours / f"{n}"), text(n)))
    row("open + read + close, once more", here, lambda n: expect(get(ours / f"{n}"), text(n)))
    row("stat", here, lambda n: os.stat(ours / f"{n}"))
    row("stat + open + read + close, another client", there, lambda n: expect(get(theirs / f"{n}"), text(n)))
    row("rewrite", here, rewrite)
    row("open + read + close, another client", there, lambda n: expect(get(theirs / f"{n}"), text(n + 1)))
    row("open + read + close, of what was rewritten", here, lambda n: expect(get(ours / f"{n}"), text(n + 1)))
    row("chmod", here, lambda n: os.chmod(ours / f"{n}", 0o600))
    row("rename", here, lambda n: os.rename(ours / f"{n}", ours / f"new-{n}"))
    row("open + read + close, of what was renamed", here, lambda n: expect(get(ours / f"new-{n}"), text(n + 1)))
    row("unlink", here, lambda n: os.unlink(ours / f"new-{n}"))
    archive = make_archive(folder / "archive.tar", count)
    before = here.counts()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(here.point)], check=True)
    show("untar, each file", here.counts() - before, count)


def make_archive(path: Path, count: int) -> Path:
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"unpacked/{number}")
            member.size, member.mtime, member.mode, member.uid = 4096, 1_000_000_000 + number, 0o640, 1000
            archive.addfile(member, BytesIO(text(number)))
    return path


def show(name: str, counts: Counts, count: int) -> None:
    which = ", ".join(f"{kind} {number / count:.2f}" for kind, number in counts.most_common())
    print(f"{name:44} {counts.total() / count:5.2f}  {which}")


if __name__ == "__main__":
    sys.exit(main())
