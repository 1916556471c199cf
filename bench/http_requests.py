"""What does one small request cost? Our server and client, and the libraries that could stand in for them, on loopback.

    pip install -e '.[bench]'; python -m bench.http_requests [--requests 3000] [--rounds 2]

Each server answers an empty message with an empty message and checks the token; each client sends it over one
connection. Median time of a request, and the processors' time of the server and of the client for it.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from dfsfuse.messages import Nothing, to_msgpack
from dfsfuse.rpc import Rpc

TOKEN = "bench"
BODY = to_msgpack(Nothing())
START_S = 20.0
Ask = Callable[[], object]


def serve_ours(port: int) -> None:
    import uvloop

    from servers.http import App, Operation, serve

    app = App(TOKEN, {"ping": Operation(Nothing, lambda request: request)})
    uvloop.run(serve(app, "127.0.0.1", port))


def serve_uvicorn(port: int) -> None:
    import uvicorn

    authorization = f"Bearer {TOKEN}".encode()

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        assert dict(scope["headers"])[b"authorization"] == authorization
        await receive()
        headers = [(b"content-type", b"application/msgpack"), (b"content-length", b"%d" % len(BODY))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    uvicorn.run(app, port=port, log_config=None, access_log=False, lifespan="off", ws="none")


def ask_ours(url: str) -> Ask:
    rpc, nothing = Rpc(TOKEN), Nothing()
    return lambda: rpc.call(url, "ping", nothing, Nothing, 10.0)


def ask_pycurl(url: str) -> Ask:
    import pycurl

    curl, reply = pycurl.Curl(), BytesIO()
    for option, value in (
        (pycurl.NOSIGNAL, 1), (pycurl.TCP_NODELAY, 1), (pycurl.URL, url + "/v1/ping"),
        (pycurl.WRITEFUNCTION, reply.write),
        (pycurl.HTTPHEADER, [f"authorization: Bearer {TOKEN}", "expect:", "content-type: application/msgpack"]),
    ):  # fmt: skip
        curl.setopt(option, value)

    def ask() -> bytes:
        curl.setopt(pycurl.POSTFIELDS, BODY)
        curl.perform()
        assert curl.getinfo(pycurl.RESPONSE_CODE) == 200
        body = reply.getvalue()
        reply.seek(0)
        reply.truncate()
        return body

    return ask


def ask_requests(url: str) -> Ask:
    import requests

    session = requests.Session()
    session.trust_env = False
    session.headers.update({"authorization": f"Bearer {TOKEN}", "content-type": "application/msgpack"})
    return lambda: session.post(url + "/v1/ping", data=BODY, timeout=10).content


SERVE = {"ours": serve_ours, "uvicorn": serve_uvicorn}
ASK = {"ours": ask_ours, "pycurl": ask_pycurl, "requests": ask_requests}


@contextmanager
def running(kind: str) -> Iterator[tuple[str, int]]:
    """(URL, pid) of a server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "bench.http_requests", "--serve", kind, str(port)])
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(ask: Ask, pid: int, count: int) -> tuple[float, float, float]:
    """(median, server's processor time, client's) of a request in microseconds."""
    for _ in range(100):
        ask()
    times, server, client = [], cpu_s(pid), time.process_time()
    for _ in range(count):
        begun = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begun)
    server, client = cpu_s(pid) - server, time.process_time() - client
    return statistics.median(times) * 1e6, server / count * 1e6, client / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000, help="requests of each pair (3000)")
    parser.add_argument("--rounds", type=int, default=2, help="each pair by turns (2)")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        SERVE[arguments.serve[0]](int(arguments.serve[1]))
        return
    print(f"{'server':10}{'client':10}{'median':>10}{'server CPU':>12}{'client CPU':>12}   us")
    for _ in range(arguments.rounds):
        for server in SERVE:
            for client, make in ASK.items():
                with running(server) as (url, pid):
                    median, at_server, at_client = measure(make(url), pid, arguments.requests)
                print(f"{server:10}{client:10}{median:10.0f}{at_server:12.0f}{at_client:12.0f}", flush=True)


if __name__ == "__main__":
    main()
