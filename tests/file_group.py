"""Three real file servers as processes and a directory that answers `register` alone, for tests of the file service."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import served

from dfsfuse import messages
from dfsfuse.chunks import chunk_name
from servers.file_service import Pace
from servers.http import App, Operation

TOKEN = "a token of this test"
_GENTLE = Pace()
DEADLINE_S = 20.0
_ROOT = Path(__file__).parent.parent
_RUN = (
    "import json, logging, pathlib, sys, uvloop; from servers import file_service; "
    "logging.basicConfig(level='INFO'); name, home, port, token, directory, pace = sys.argv[1:]; "
    "pace = file_service.Pace(**json.loads(pace)); "
    "uvloop.run(file_service.run(name, pathlib.Path(home), '127.0.0.1', int(port), token, directory, pace))"
)


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Directory:
    """Knows who has registered; `up` is decided by the test, so nothing hangs on a clock."""

    def __init__(self):
        self.servers, self.starts, self.heartbeats = {}, [], 0
        self._running = contextlib.ExitStack()
        app = App(TOKEN, {"register": Operation(messages.Register, self._register)})
        self.port = self._running.enter_context(served(app))

    def _register(self, request: messages.Register) -> messages.Registered:
        self.servers[request.server.name] = request.server
        self.starts += [request.server.name] * request.start
        self.heartbeats += 1
        files = [self.servers[name] for name in sorted(self.servers)]
        return messages.Registered(cluster=messages.Cluster(volume="test", copies=3, copies_min=2, files=files))

    def stop(self) -> None:
        self._running.close()


class FileServer:
    """One process, and a connection to it."""

    def __init__(self, name: str, home: Path, directory_port: int, token: str = TOKEN, pace: Pace = _GENTLE):
        self.name, self.home, self.port = name, home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = [name, str(home), str(self.port), token, f"http://127.0.0.1:{directory_port}"]
        arguments.append(json.dumps(pace._asdict()))
        self.log = open(home.with_suffix(".log"), "ab")  # noqa: SIM115
        self.process = subprocess.Popen([sys.executable, "-c", _RUN, *arguments], cwd=_ROOT, stderr=self.log)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body), over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            fields = {"Authorization": f"Bearer {TOKEN}"} | {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request(method, path, body, fields)
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def put(self, data: bytes, role: str = "", name: bytes | None = None) -> list[str]:
        """The servers that gave receipts."""
        query = f"?role={role}" if role else ""
        status, _, body = self.ask("PUT", f"/v1/chunks/{(name or chunk_name(data)).hex()}{query}", data)
        assert status == 200, body
        return sorted(receipt.server for receipt in messages.from_msgpack(body, messages.Stored).receipts)

    def get(self, name: bytes, **headers: str) -> bytes:
        status, _, body = self.ask("GET", f"/v1/chunks/{name.hex()}", **headers)
        assert status in (200, 206), body
        return body

    def call(self, operation: str, request: messages.Message, kind: type) -> Any:
        status, _, body = self.ask("POST", f"/v1/{operation}", messages.to_msgpack(request))
        assert status == 200, body
        return messages.from_msgpack(body, kind)

    def status(self) -> messages.FilesStatus:
        return self.call("status", messages.Nothing(), messages.FilesStatus)

    def answers(self) -> bool:
        try:
            return self.ask("POST", "/v1/ping")[0] == 200
        except OSError:
            return False

    def signal(self, number: int) -> None:
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(DEADLINE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        self.log.close()


class Group:
    """Servers A, B and C below one folder."""

    def __init__(self, folder: Path):
        self.directory = Directory()
        self.all = [FileServer(name, folder / name, self.directory.port) for name in "ABC"]
        self.a, self.b, self.c = self.all

    def wait_ready(self) -> None:
        wait_until(lambda: len(self.directory.servers) == 3, "three registrations")
        for server in self.all:
            wait_until(lambda s=server: knows_two_others(s), f"{server.name} knows the others")

    def end(self) -> None:
        for server in self.all:
            server.end()
        self.directory.stop()


def knows_two_others(server: FileServer) -> bool:
    """A sync that is not alone is answered for everybody whom the server knows."""
    return server.answers() and len(server.call("sync", messages.Sync(), messages.Synced).servers) == 3
