"""python -m faults.endings, in a sandbox: when connections end that are cut while nothing comes over them.

A server on one host answers the first request of each connection, and no other. A client on another host, and a server
as a client, ask a second time before the cut, so that the answer is what they wait for, and after it, so that nobody
has their request. For each a line: who, and how long after the cut its call failed.
"""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from support import ROOT

from dfsfuse import errors
from dfsfuse.messages import Nothing
from dfsfuse.rpc import Rpc
from servers.peers import Peers

from .network import Network, both_ways

PORT, TIMEOUT_S = 7000, 60.0
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\x80"


def serve() -> None:
    with socket.create_server(("", PORT)) as listening:
        _say("ready")
        kept = []
        while True:
            connection, _ = listening.accept()
            connection.recv(4096)
            connection.sendall(_ANSWER)
            kept.append(connection)


def ask(url: str) -> None:
    """All at once; what is to be asked after the cut waits for a line on standard input."""
    is_cut = threading.Event()
    calls = [(f"{who} {when}", way(url)) for who, way in (("client", _client), ("server", _server)) for when in _WHEN]
    threads = [threading.Thread(target=_second, args=(name, call, is_cut)) for name, call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.5)  # Nothing tells when the other side's kernel has acknowledged.
    _say("asked")
    sys.stdin.readline()
    is_cut.set()
    for thread in threads:
        thread.join()


_WHEN = ("before", "after")


def _second(name: str, call: Callable[[], object], is_cut: threading.Event) -> None:
    if name.endswith("after"):
        is_cut.wait()
    began = time.monotonic()
    try:
        call()
    except errors.Unreachable:
        is_cut.wait()
    _say(f"{name} {time.monotonic() - began:.1f}")


def _client(url: str) -> Callable[[], object]:
    rpc = Rpc("token")
    call = lambda: rpc.call(url, "ping", Nothing(), Nothing, TIMEOUT_S)  # noqa: E731
    call()
    return call


def _server(url: str) -> Callable[[], object]:
    loop, peers = asyncio.new_event_loop(), Peers("token")
    call = lambda: loop.run_until_complete(peers.call(url, "ping", Nothing(), Nothing, TIMEOUT_S))  # noqa: E731
    call()
    return call


def main() -> None:
    network = Network(["one", "other"])
    network.connect()
    url = f"http://{network.hosts['other'].address}:{PORT}"
    _start(network, "other", "serve")
    asking = _start(network, "one", "ask", url)
    network.cut(both_ways("one", ["other"]))
    said, _ = asking.communicate("cut\n", timeout=2 * TIMEOUT_S)
    _say(said.rstrip())


def _start(network: Network, host: str, *arguments: str) -> subprocess.Popen:
    """Until it says its first line."""
    command = network.hosts[host].command(sys.executable, "-m", "faults.endings", *arguments)
    process = subprocess.Popen(
        command, cwd=ROOT / "tests", env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdout.readline(), f"{arguments} has ended"
    return process


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"serve": serve, "ask": ask, "": main}[sys.argv[1] if sys.argv[1:] else ""](*sys.argv[2:])
