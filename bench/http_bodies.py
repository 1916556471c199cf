"""Which HTTP server for chunk bodies? PUT with three copies (client -> A -> B and C) and GET, on loopback.

    pip install -e '.[bench]'
    python -m bench.http_bodies [--kinds uvicorn,aiohttp,threads,service] [--mib 512] [--flight 3] [--small 1000]

Each candidate does the same: receive the body, hash it, write a file and rename it, and as the primary send it to
the two others at the same time. `service` is this project's file server, which also brings everything to the disk each
second. The client hashes too. CPU is that of A, B and C together, for each small request or each MiB: on a noisy
machine it is a better guide than the clock.
"""

import argparse
import asyncio
import http.server
import itertools
import os
import pathlib
import queue
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dfsfuse import messages  # noqa: E402
from dfsfuse.chunks import ENTRY_BYTES, chunk_name  # noqa: E402
from servers import file_service  # noqa: E402
from servers.peers import Peers  # noqa: E402

TOKEN = "bench"
STORED = messages.to_msgpack(messages.Stored([]))
START_S = 20.0


class Folder:
    """Where a candidate keeps its chunks."""

    def __init__(self, path: str):
        self._path, self._count = path, itertools.count()

    def keep(self, name: str, data: bytes | bytearray | memoryview) -> None:
        if chunk_name(data).hex() != name:
            raise ValueError(f"{name}: bad hash")
        temporary = f"{self._path}/{next(self._count)}.tmp"
        with open(temporary, "wb", buffering=0) as file:
            file.write(data)
        os.rename(temporary, f"{self._path}/{name}")

    def read(self, name: str) -> bytes:
        with open(f"{self._path}/{name}", "rb", buffering=0) as file:
            data = file.read()
        if chunk_name(data).hex() != name:
            raise ValueError(f"{name}: corrupt")
        return data


# -- candidates


class Asynchronous:
    """What the two asyncio candidates share: store in a thread, forward with the project's own client."""

    def __init__(self, folder: Folder, others: list[str]):
        self.folder, self._others, self._peers = folder, others, Peers(TOKEN)

    async def put(self, name: str, copy: bool, data: bytes | bytearray) -> None:
        jobs = [] if copy else [self._send(url, name, data) for url in self._others]
        await asyncio.gather(*jobs, self._keep(name, data))

    async def _send(self, url: str, name: str, data: bytes | bytearray) -> None:
        await self._peers.put_chunk(url, bytes.fromhex(name), data, 10.0, "role=copy")

    async def _keep(self, name: str, data: bytes | bytearray) -> None:
        if len(data) < 256 << 10:
            self.folder.keep(name, data)
        else:
            await asyncio.get_running_loop().run_in_executor(None, self.folder.keep, name, data)


def serve_uvicorn(port: int, folder: Folder, others: list[str]) -> None:
    import uvicorn

    service = Asynchronous(folder, others)

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        name, reply = scope["path"].rpartition("/")[2], STORED
        if scope["method"] == "PUT":
            message = await receive()
            body = bytearray(message["body"])
            while message["more_body"]:
                message = await receive()
                body += message["body"]
            await service.put(name, b"copy" in scope["query_string"], body)
        else:
            reply = folder.read(name)
        headers = [(b"content-length", b"%d" % len(reply))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    uvicorn.run(app, port=port, log_config=None, access_log=False, lifespan="off", ws="none")


def serve_aiohttp(port: int, folder: Folder, others: list[str]) -> None:
    import uvloop
    from aiohttp import web

    async def put(request: web.Request) -> web.Response:
        body = bytearray()
        async for piece in request.content.iter_any():
            body += piece
        await service.put(request.match_info["name"], "role" in request.query, body)
        return web.Response(body=STORED)

    async def get(request: web.Request) -> web.Response:
        return web.Response(body=folder.read(request.match_info["name"]))

    service = Asynchronous(folder, others)
    app = web.Application(client_max_size=2 * ENTRY_BYTES)
    app.add_routes([web.put("/v1/chunks/{name}", put), web.get("/v1/chunks/{name}", get)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


def serve_threads(port: int, folder: Folder, others: list[str]) -> None:
    pool, buffers = ThreadPoolExecutor(16), queue.SimpleQueue()
    connections = {url: queue.SimpleQueue() for url in others}

    def forward(url: str, name: str, data: memoryview) -> None:
        try:
            connection = connections[url].get_nowait()
        except queue.Empty:
            connection = Client(url)
        connection.put(name, data, "?role=copy")
        connections[url].put(connection)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, 64 << 10

        def do_PUT(self) -> None:
            length = int(self.headers["content-length"])
            buffer = bytearray(ENTRY_BYTES) if buffers.empty() else buffers.get()
            body, (name, _, copy) = memoryview(buffer)[:length], self.path.rpartition("/")[2].partition("?")
            self.rfile.readinto(body)
            jobs = [] if copy else [pool.submit(forward, url, name, body) for url in others]
            folder.keep(name, body)
            for job in jobs:
                job.result()
            buffers.put(buffer)
            self._reply(STORED)

        def do_GET(self) -> None:
            self._reply(folder.read(self.path.rpartition("/")[2]))

        def _reply(self, body: bytes) -> None:
            self.send_response_only(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


SERVE = {"uvicorn": serve_uvicorn, "aiohttp": serve_aiohttp, "threads": serve_threads}


def serve_service(port: int, folder: str, name: str, directory_url: str) -> None:
    import uvloop

    uvloop.run(file_service.run(name, pathlib.Path(folder), "127.0.0.1", port, TOKEN, directory_url))


# -- the client


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str):
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=START_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(ENTRY_BYTES + 4096)

    def put(self, name: str, data: bytes | bytearray | memoryview, query: str = "") -> None:
        head = self._head("PUT", name + query) + b"content-length: %d\r\n\r\n" % len(data)
        sent = self._socket.sendmsg((head, data))
        if sent < len(head) + len(data):
            self._socket.sendall(memoryview(data)[sent - len(head) :])
        self._reply()

    def get(self, name: str) -> int:
        self._socket.sendall(self._head("GET", name) + b"\r\n")
        return self._reply()

    def _head(self, method: str, what: str) -> bytes:
        return f"{method} /v1/chunks/{what} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\n".encode()

    def _reply(self) -> int:
        """Read a whole reply; the length of its body."""
        view, filled, end = memoryview(self._buffer), 0, -1
        while end < 0 or filled < end:
            count = self._socket.recv_into(view[filled:])
            if not count:
                raise ConnectionError("closed within the reply")
            filled += count
            if end < 0 and (at := self._buffer.find(b"\r\n\r\n", 0, filled)) >= 0:
                head = bytes(view[:at]).lower()
                if b" 200 " not in head[:16]:
                    raise ConnectionError(bytes(view[:filled]))
                length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
                end = at + 4 + length
        return length


# -- measuring


@contextmanager
def directory(urls: dict[str, str]) -> Iterator[str]:
    """Answers every registration with the whole group."""
    files = [messages.Server(kind="files", name=name, url=url) for name, url in urls.items()]
    cluster = messages.Cluster(volume="bench", copies=3, copies_min=2, files=files)
    reply = messages.to_msgpack(messages.Registered(cluster=cluster))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response_only(200)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@contextmanager
def group(kind: str, folder: pathlib.Path) -> Iterator[tuple[list[str], list[int]]]:
    """(addresses, pids) of A, B and C."""
    urls = {name: f"http://127.0.0.1:{_free_port()}" for name in "ABC"}
    with directory(urls) as directory_url:
        command = [sys.executable, __file__, "--serve", kind, str(folder), directory_url, *urls.values()]
        processes = [subprocess.Popen([*command, name]) for name in urls]
        try:
            for url in urls.values():
                _wait_for(url)
            yield list(urls.values()), [process.pid for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            data = os.urandom(16)
            return Client(url).put(chunk_name(data).hex(), data, "?role=copy")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _serve(kind: str, folder: str, directory_url: str, *rest: str) -> None:
    *urls, name = rest
    own = "ABC".index(name)
    home, port = pathlib.Path(folder) / name, int(urls[own].rpartition(":")[2])
    home.mkdir()
    if kind == "service":
        serve_service(port, str(home), name, directory_url)
    else:
        SERVE[kind](port, Folder(str(home)), [url for url in urls if url != urls[own]])


def _cpu_s(pids: list[int]) -> float:
    """Of all their threads."""
    stats = (pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def small(urls: list[str], pids: list[int], count: int) -> list[str]:
    """p50 of a 4 KiB PUT with three copies, the servers' CPU for it, p50 of a 4 KiB GET."""
    client, times = Client(urls[0]), []
    before = _cpu_s(pids)
    for _ in range(count):
        data = os.urandom(4096)
        start = time.perf_counter()
        name = chunk_name(data).hex()
        client.put(name, data)
        times.append(time.perf_counter() - start)
    cpu = (_cpu_s(pids) - before) / count
    reader, reads = Client(urls[1]), []
    for _ in range(count):
        start = time.perf_counter()
        reader.get(name)
        reads.append(time.perf_counter() - start)
    return [f"{seconds * 1e6:.0f} us" for seconds in (statistics.median(times), cpu, statistics.median(reads))]


def large(urls: list[str], pids: list[int], mib: int, flight: int) -> list[str]:
    """MB/s of PUT with three copies, the servers' CPU for each MiB, MB/s of GET from B."""
    numbers, base, names = iter(range(mib // 4)), os.urandom(ENTRY_BYTES), []

    def upload(_: int) -> None:
        client, data = Client(urls[0]), bytearray(base)
        for number in numbers:
            data[:8] = number.to_bytes(8, "big")
            names.append(chunk_name(data).hex())
            client.put(names[-1], data)

    before, start = _cpu_s(pids), time.perf_counter()
    with ThreadPoolExecutor(flight) as pool:
        list(pool.map(upload, range(flight)))
    seconds, cpu = time.perf_counter() - start, _cpu_s(pids) - before
    reader, start = Client(urls[1]), time.perf_counter()
    read = sum(reader.get(name) for name in names)
    rate = read / (time.perf_counter() - start)
    return [f"{mib * 1.048576 / seconds:.0f} MB/s", f"{cpu / mib * 1e3:.2f} ms", f"{rate / 1e6:.0f} MB/s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="uvicorn,aiohttp,threads,service")
    parser.add_argument("--mib", type=int, default=512, help="content of the large PUTs (512)")
    parser.add_argument("--flight", type=int, default=3, help="large PUTs at the same time (3)")
    parser.add_argument("--small", type=int, default=1000, help="small PUTs (1000)")
    parser.add_argument("--rounds", type=int, default=2, help="each candidate by turns (2)")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="a disk with 3 x --mib free")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return _serve(*arguments.serve)
    titles = ["PUT 4K", "CPU", "GET 4K", f"PUT 4M x{arguments.flight}", "CPU a MiB", "GET 4M"]
    print(f"{'':10}" + "".join(f"{title:>12}" for title in titles))
    for kind in arguments.kinds.split(",") * arguments.rounds:
        folder = pathlib.Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            with group(kind, folder) as (urls, pids):
                cells = small(urls, pids, arguments.small) + large(urls, pids, arguments.mib, arguments.flight)
            print(f"{kind:10}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
        finally:
            shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
