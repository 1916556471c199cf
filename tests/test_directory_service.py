"""The directory over real HTTP, as `python -m servers directory`: JSON and msgpack, bad input of every kind, and what
is left when the process is killed. The server of the module serves all tests of bad input, so each shows that the ones
before it did no harm."""

import asyncio
import contextlib
import http.client
import json
import os
import random
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest
from models import check_tree
from support import ROOT, wait_until
from volumes import FILE, on, piece

from dfsfuse import errors, messages
from dfsfuse.messages import Manifest, Nothing, from_msgpack, to_msgpack
from servers.directory_service import DirectoryService
from servers.store.memory import MemoryStore, MemoryTransaction
from servers.store.sqlite import SqliteStore

TOKEN = "a-token-of-this-test"
JSON = "application/json"


class Service:
    """A directory process in `home`; `start` again after `kill`, on the same port."""

    def __init__(self, home: Path, store: str = "sqlite"):
        self.home, self.store = home, store
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
        self.process: subprocess.Popen | None = None

    def start(self) -> "Service":
        self.launch()
        wait_until(self.answers, "the directory answers")
        return self

    def launch(self) -> None:
        """Start it, without waiting until it answers."""
        command = [sys.executable, "-m", "servers", "directory", "--home", self.home, "--port", str(self.port)]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--store", self.store], cwd=ROOT, stderr=log, env={**os.environ, "DFS_TOKEN": TOKEN}
            )

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.send("ping", b"", {"content-length": "0"})[0] == 200
        except OSError:
            return False

    def log(self) -> str:
        return (self.home / "log").read_text()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(how)
        return self.process.wait(20)

    def send(
        self, operation: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST",
        token: str | None = f"Bearer {TOKEN}",
    ) -> tuple[int, bytes]:  # fmt: skip
        """(status, body) of a request that is put together by hand."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            path = operation if operation.startswith("/") else f"/v1/{operation}"
            authorization = {} if token is None else {"authorization": token}
            connection.request(method, path, body, {**authorization, **(headers or {})})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def json(self, operation: str, **request: Any) -> dict:
        """As curl would: JSON out, JSON in; raises the error that came back."""
        status, body = self.send(operation, json.dumps(request).encode(), {"content-type": JSON})
        reply = json.loads(body)
        if status != 200:
            raise errors.from_wire(**reply)
        return reply

    def call(self, operation: str, request: messages.Message, kind: type = Nothing) -> Any:
        """msgpack both ways."""
        status, body = self.send(operation, to_msgpack(request), {"content-type": "application/msgpack"})
        if status != 200:
            raise errors.from_wire(**messages.from_msgpack(body, dict))
        return from_msgpack(body, kind)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("directory")).start()
    try:
        yield made
        assert made.kill(signal.SIGTERM) == 0
        assert "Traceback" not in made.log()
    finally:
        if made.process.poll() is None:
            made.kill()
    with contextlib.closing(SqliteStore(made.home / "directory.db")) as store:
        check_tree(store)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """A directory for this test alone."""
    made = Service(tmp_path).start()
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.kill()


def refusal(answer: tuple[int, bytes], as_json: bool = True) -> dict:
    """What came back is an error with a code of ours, and its status."""
    status, body = answer
    reply = json.loads(body) if as_json else messages.from_msgpack(body, dict)
    assert status == errors.BY_CODE[reply["code"]].status
    assert reply["message"]
    assert "Traceback" not in reply["message"]
    return reply


# -- the manners of HTTP


def test_every_operation_by_hand(service: Service) -> None:
    """Goal: each operation can be tried with JSON, names as text, defaults left out."""
    made = service.json("create", names=["by hand"], ino=0, mode=FILE, uid=3)["attributes"]
    assert service.json("lookup", names=["by hand"]) == made
    assert service.json("lookup", base=made["ino"]) == made
    assert service.json("path", ino=made["ino"]) == {"path": "/by hand", "parent_ino": 1}
    assert service.json("open", session=0, names=["by hand"])["manifest"] == {"entries": [], "segments": []}
    assert service.json("set_attributes", names=["by hand"], mode=0o600)["mode"] == stat.S_IFREG | 0o600
    service.json("rename", names=["by hand"], new_names=["renamed"])
    assert [entry["name"] for entry in service.json("list")["entries"]] == ["renamed"]
    assert service.json("where", names=["renamed"])["path"] == "/renamed"
    assert len(service.json("mappings")["rows"]) == 1
    for name in "ABC":
        server = {"kind": "files", "name": name, "url": f"http://{name}"}
        assert service.json("register", server=server)["start_number"] == 0
    chunk = f"hex:{bytes(32).hex()}"
    commit = {
        "ino": made["ino"], "token": 1, "base_version": 0, "base_commit_id": "", "commit_id": "sixteen bytes 16",
        "size": 3, "mtime_ns": 5, "manifest": {"entries": [[{"chunk": chunk, "offset": 0, "length": 3}]]},
        "receipts": [{"chunk": chunk, "receipts": [{"server": name, "number": 1} for name in "AB"]}],
    }  # fmt: skip
    assert service.json("commit", **commit)["version"] == 1
    assert service.json("commit", **commit)["commit_id"] == "sixteen bytes 16"
    with pytest.raises(errors.VersionConflict):
        service.json("put_segments", session=0, ino=made["ino"], base_version=7, base_commit_id="", segments=[])
    with pytest.raises(errors.NotFound):
        service.json("get_segments", ids=["sixteen bytes 16"])
    service.json("remove", names=["renamed"])
    begun = service.json("begin", key="0123456789abcdef")
    assert service.json("renew", session=begun["session"])["revived"] is False
    assert service.json("allocate", session=begun["session"], count=5)["count"] == 5
    assert service.json("end", session=begun["session"]) == {}
    assert service.json("cluster")["copies_min"] == 2
    assert service.json("status")["inodes"] == 1
    assert service.json("sync") == service.json("ping") == {}


def test_an_empty_body_is_json(service: Service) -> None:
    """Goal: curl -X POST without a body asks with defaults and is answered with JSON."""
    status, body = service.send("list", b"", {"content-length": "0"})
    assert (status, json.loads(body)["more"]) == (200, False)


def test_msgpack_both_ways(service: Service) -> None:
    """Goal: programs speak msgpack, with the answer and with errors; names may be any bytes."""
    name = b"\xff\x00"[:1] + b"hex:"
    made = service.call("create", messages.Create(names=[name], ino=0, mode=FILE), messages.Made).attributes
    assert service.call("lookup", messages.Lookup(names=[name]), messages.Attributes) == made
    with pytest.raises(errors.AlreadyExists):
        service.call("create", messages.Create(names=[name], ino=0, mode=FILE))
    assert service.json("lookup", names=["hex:" + name.hex()])["ino"] == made.ino
    service.call("remove", messages.Remove(names=[name]))


@pytest.mark.parametrize(
    ("path", "method", "code"),
    [
        ("nothing", "POST", "no_such_operation"),
        ("lookup/more", "POST", "no_such_operation"),
        ("", "POST", "no_such_operation"),
        ("/", "GET", "no_such_operation"),
        ("/v2/lookup", "POST", "no_such_operation"),
        ("/v1/%6cookup%00", "POST", "no_such_operation"),
        ("/v1/../../etc/passwd", "POST", "no_such_operation"),
        ("lookup", "GET", "method_not_allowed"),
        ("lookup", "PUT", "method_not_allowed"),
        ("lookup", "DELETE", "method_not_allowed"),
        ("nothing", "GET", "no_such_operation"),
    ],
)
def test_wrong_routes_and_methods(service: Service, path: str, method: str, code: str) -> None:
    """Goal: 404 and 405 with a code; what is not POST does nothing."""
    assert refusal(service.send(path, b"{}", {"content-type": JSON}, method))["code"] == code


@pytest.mark.parametrize(
    "token", [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9"]
)
def test_without_the_token_nothing_is_told(service: Service, token: str | None) -> None:
    """Goal: 401 for every route, known or not, before anything of the request is looked at."""
    for path in ("lookup", "nothing", "/elsewhere"):
        assert refusal(service.send(path, b"not JSON", {"content-type": JSON}, token=token))["code"] == "unauthorized"


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        b"",
        b"\x91\x01",
        b"\x05",
        b"\x81\xa4base\xa1x",
        b"\x81\xa4base\xcb" + bytes(8),
        b"\x81\xa5names\x92\xa1a\x01",
        b"\x81\xa5names\xc0",
        b"\x81\xa4base",
        b"\x91" * 100_000,
        b"\xdf\xff\xff\xff\xff",
        b"\x80trailing",
        random.Random(1).randbytes(1000),
    ],
)
def test_broken_msgpack(service: Service, body: bytes) -> None:
    """Goal: what is not a message of the operation is bad_request, answered in msgpack."""
    headers = {"content-type": "application/msgpack", **({} if body else {"transfer-encoding": "chunked"})}
    answer = service.send("lookup", body or b"0\r\n\r\n", headers)
    assert refusal(answer, as_json=False)["code"] == "bad_request"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b'{"base": "1"}',
        b'{"base": 1.5}',
        b'{"base": true}',
        b'{"base": null}',
        b'{"names": "a"}',
        b'{"names": [1]}',
        b'{"names": {"a": 1}}',
        b'{"names": ["hex:4"]}',
        b'{"names": ["hex:zz"]}',
        b'{"names": [["a"]]}',
        b'{"names": ["\\ud800"]}',
        b"[" * 100_000,
        b'{"names":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"base": 1e999}',
    ],
)
def test_broken_json(service: Service, body: bytes) -> None:
    """Goal: text that is no JSON, and JSON of wrong types, is bad_request, answered in JSON."""
    assert refusal(service.send("lookup", body, {"content-type": JSON}))["code"] == "bad_request"


def test_what_is_asked_and_what_is_accepted(service: Service) -> None:
    """Goal: the content-type alone says what the request is; who accepts JSON gets it."""
    request = to_msgpack(messages.Lookup())
    for kind in ("application/msgpack", "text/plain"):
        status, body = service.send("lookup", request, {"content-type": kind, "accept": JSON})
        assert (status, json.loads(body)["ino"]) == (200, 1)
        answer = service.send("lookup", b'{"base": 1}', {"content-type": kind, "accept": JSON})
        assert refusal(answer)["code"] == "bad_request"


@pytest.mark.parametrize("limit", [0, -1, 10**9])
def test_pages_of_amounts_that_are_not_possible(service: Service, limit: int) -> None:
    """Goal: they are as the nearest amount that is."""
    folder = f"asked for {limit}"
    service.json("create", names=[folder], ino=0, mode=stat.S_IFDIR | 0o755)
    for name in ("one", "two"):
        service.json("create", names=[folder, name], ino=0, mode=FILE)
    found = service.json("list", names=[folder], limit=limit)
    assert (len(found["entries"]), found["more"]) == ((2, False) if limit > 0 else (1, True))
    session = service.json("begin", key="hex:" + "07" * 16)["session"]
    assert service.json("allocate", session=session, count=limit)["count"] == (1 << 20 if limit > 0 else 1)


@pytest.mark.parametrize("number", [-1, 2**63, 2**64, 10**30])
def test_numbers_that_are_none(service: Service, number: int) -> None:
    """Goal: numbers out of all ranges are the caller's error in every field of every operation, never a 500."""
    fields = {
        "lookup": ["base"], "list": ["base"], "path": ["ino"], "where": ["base"], "mappings": ["after_ino"],
        "create": ["base", "ino", "mode", "session", "slot", "sequence"],
        "remove": ["base", "session"], "rename": ["base", "new_base", "flags", "session"],
        "set_attributes": ["base", "mode", "session"], "open": ["base", "session", "ino"],
        "renew": ["session"], "allocate": ["session"],
    }  # fmt: skip
    needed = {
        "create": {"names": ["n"], "ino": 0, "mode": FILE}, "remove": {"names": ["n"]}, "open": {"session": 0},
        "rename": {"names": ["n"], "new_names": ["m"]}, "path": {"ino": 1},
    }  # fmt: skip
    for operation, names in fields.items():
        for name in names:
            request = {**needed.get(operation, {}), name: number}
            status, body = service.send(operation, json.dumps(request).encode(), {"content-type": JSON})
            assert status < 500, (operation, name, body)
    for request in ({"uid": number}, {"gid": number}, {"mtime_ns": number}, {"atime_ns": number}):
        body = json.dumps({"names": [], **request}).encode()
        assert service.send("set_attributes", body, {"content-type": JSON})[0] < 500
    assert service.json("lookup")["ino"] == 1


def test_a_body_that_is_too_large(service: Service) -> None:
    """Goal: 413 whether the length is announced or comes in parts; nothing of it is executed."""
    large = b'{"names": ["' + b"a" * messages.BODY_BYTES_MAX + b'"], "ino": 0, "mode": 33188}'
    assert _code_of_large(service, {"content-length": str(len(large))}, large) == "body_too_large"
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (large[: 4 << 20], large[4 << 20 :])) + b"0\r\n\r\n"
    assert _code_of_large(service, {"transfer-encoding": "chunked"}, parts) == "body_too_large"
    assert service.answers()


def _code_of_large(service: Service, headers: dict[str, str], body: bytes) -> str:
    """The answer may come before the body has left; so it is sent by hand, and what it says is read all the same."""
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        lines = ["POST /v1/create HTTP/1.1", "host: x", f"authorization: Bearer {TOKEN}", f"content-type: {JSON}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with contextlib.suppress(OSError):
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == 413
        return json.loads(reply.read())["code"]


def test_connections_that_break_off(service: Service) -> None:
    """Goal: half requests, half bodies and no HTTP at all leave the server serving."""
    head = f"POST /v1/create HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: {JSON}\r\n".encode()
    before = service.json("list")["entries"]
    for data in (b"", b"POST", head, head + b"content-length: 100\r\n\r\n{", b"\x16\x03\x01" + bytes(50), b"\r\n" * 9,
                 head + b"content-length: -1\r\n\r\n{}", head + b"content-length: ten\r\n\r\n{}",
                 head + b"transfer-encoding: chunked\r\n\r\nzz\r\n"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
            connection.sendall(data)
    assert service.answers()
    assert service.json("list")["entries"] == before


def test_a_connection_is_kept_after_an_error(service: Service) -> None:
    """Goal: errors answer within the connection, and the next request on it is served."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": JSON}
    for path, status in (("nothing", 404), ("lookup", 200), ("lookup", 200)):
        connection.request("POST", f"/v1/{path}", b"{}", headers)
        reply = connection.getresponse()
        assert (reply.status, bool(reply.read())) == (status, True)
    assert connection.sock is not None
    connection.close()


# -- what is left of a killed server


def test_sigkill_loses_no_acknowledged_change(own: Service) -> None:
    """Goal: after SIGKILL and a restart each acknowledged name, commit, slot and inode range is there."""
    begun = own.call("begin", messages.Begin(key=secrets.token_bytes(16)), messages.Begun)
    for name in "ABC":
        server = messages.Server(kind="files", name=name, url=f"http://{name}")
        own.call("register", messages.Register(server=server), messages.Registered)
    kept: dict[bytes, messages.Attributes] = {}
    sequence = 0
    for life in range(3):
        for number in range(20):
            name, sequence = b"f%d-%d" % (life, number), sequence + 1
            ino = begun.inodes.first + sequence
            create = messages.Create(session=begun.session, slot=1, sequence=sequence, names=[name], ino=ino, mode=FILE)
            own.call("create", create, messages.Made)
            kept[name] = own.call("commit", _commit(ino, name), messages.Attributes)
        own.kill()
        own.start()
        assert own.call("create", create, messages.Made).attributes.ino == ino, (
            "the last change is answered, not repeated"
        )
        page = own.call("list", messages.ListFolder(), messages.Listing)
        assert {entry.name: entry.attributes for entry in page.entries} == kept
        fresh = own.call("begin", messages.Begin(key=secrets.token_bytes(16)), messages.Begun)
        assert fresh.session > begun.session
        assert fresh.inodes.first >= begun.inodes.first + begun.inodes.count
    own.kill()
    store = SqliteStore(own.home / "directory.db")
    check_tree(store)
    store.close()


def _commit(ino: int, data: bytes, **more: Any) -> messages.Commit:
    return messages.Commit(
        ino=ino, token=1, base_version=0, base_commit_id=b"", commit_id=secrets.token_bytes(16), size=len(data),
        mtime_ns=5, manifest=Manifest([[piece(data)]]), receipts=[on("ABC", data)], **more,
    )  # fmt: skip


class _Disk(MemoryStore):
    """Knows what was transacted, and what of it was there when each sync began."""

    def __init__(self) -> None:
        super().__init__()
        self.done = self.synced = 0

    def transact(self, operation: Any) -> Any:
        result = super().transact(operation)
        self.done += 1
        return result

    def sync(self) -> None:
        began_with = self.done
        time.sleep(0.001)
        self.synced = max(self.synced, began_with)


def test_what_must_be_durable_waits_for_a_sync() -> None:
    """Goal: durable commits, `sync`, `durable`, begin, allocate, starts, and what names garbage are answered after a
    sync that began after them, also when many come at once; a plain change waits for none, nor does the answer that
    there is no garbage."""

    async def scenario() -> None:
        disk = _Disk()
        operations = DirectoryService(disk, 3, "http://d").operations()

        async def ask(name: str, request: messages.Message) -> tuple[Any, bool]:
            reply = operations[name].handler(request)
            done = disk.done
            if isawaitable(reply):
                reply = await reply
            return reply, disk.synced >= done

        for name in "ABC":
            server = messages.Server(kind="files", name=name, url=f"http://{name}", store="s" + name, next_number=1)
            await ask("register", messages.Register(server=server))
        made, durable = await ask("create", messages.Create(names=[b"f"], ino=0, mode=FILE))
        assert not durable
        garbage, durable = await ask("collect", messages.Collect(server="A", next_number=1))
        assert (garbage.chunks, durable) == ([], False)
        begun, durable = await ask("begin", messages.Begin(key=bytes(16)))
        assert durable
        start = messages.Register(server=messages.Server(kind="locks", name="locks", url="u"), start=True)
        waiting = [
            ask("commit", _commit(made.attributes.ino, b"data", durable=True)),
            ask("sync", Nothing()),
            ask("durable", messages.Durable(ino=made.attributes.ino, version=0, commit_id=b"")),
            ask("register", start),
            ask("collect", messages.Collect(server="A", next_number=1, names=[bytes(32)])),
            *(ask("allocate", messages.AllocateInodes(begun.session)) for _ in range(50)),
        ]
        answers = await asyncio.gather(*waiting)
        assert all(durable for _, durable in answers)

    asyncio.run(scenario())


def test_what_is_said_again_is_not_promised() -> None:
    """Goal: S2, S14. A change whose answer was lost is asked for again, and answered as before: that is not promised,
    as another client may have changed it since, which this one was not told; what was made just now is."""
    operations = DirectoryService(MemoryStore(), 3, "http://d").operations()

    async def ask(name: str, request: messages.Message) -> Any:
        reply = operations[name].handler(request)
        return await reply if isawaitable(reply) else reply

    async def scenario() -> None:
        session = (await ask("begin", messages.Begin(key=bytes(16)))).session
        asked = messages.Watch(session=session, epoch=0, heard=0)
        operations["watch"].handler(asked, asyncio.get_running_loop().create_future())
        file = (await ask("allocate", messages.AllocateInodes(session))).first
        create = messages.Create(names=[b"old"], ino=file, mode=FILE, session=session, slot=1, sequence=1)
        rename = messages.Rename(names=[b"old"], new_names=[b"new"], session=session, slot=2, sequence=1)
        for number in range(2):
            made = await ask("create", create)
            assert made.folder.promised == made.attributes.promised == (not number)
        for number in range(2):
            assert (await ask("rename", rename)).promised == (not number)
        found = await ask("lookup", messages.Lookup(names=[b"new"], session=session))
        assert found.promised

    asyncio.run(scenario())


def test_a_durable_commit_over_http(own: Service) -> None:
    """Goal: a durable commit succeeds, and is there after SIGKILL."""
    for name in "ABC":
        server = messages.Server(kind="files", name=name, url=f"http://{name}")
        own.call("register", messages.Register(server=server), messages.Registered)
    ino = own.json("create", names=["f"], ino=0, mode=FILE)["attributes"]["ino"]
    committed = own.call("commit", _commit(ino, b"data", durable=True), messages.Attributes)
    own.kill()
    own.start()
    assert own.call("lookup", messages.Lookup(ino), messages.Attributes) == committed


def test_sigterm_ends_cleanly(own: Service) -> None:
    """Goal: exit status 0, soon, with an idle connection open, and everything in the database."""
    idle = http.client.HTTPConnection("127.0.0.1", own.port, timeout=20)
    idle.request("POST", "/v1/ping", b"", {"authorization": f"Bearer {TOKEN}"})
    idle.getresponse().read()
    own.json("create", names=["f"], ino=0, mode=FILE)
    begin = time.monotonic()
    assert own.kill(signal.SIGTERM) == 0
    assert time.monotonic() - begin < 5
    idle.close()
    assert "Traceback" not in own.log()
    own.start()
    assert own.json("list")["entries"][0]["name"] == "f"


def test_on_the_memory_engine(tmp_path: Path) -> None:
    """Goal: --store memory serves the same, and keeps nothing."""
    service = Service(tmp_path, "memory").start()
    try:
        service.json("create", names=["f"], ino=0, mode=FILE)
        assert service.json("sync") == {}
        assert service.json("status")["inodes"] == 2
    finally:
        assert service.kill(signal.SIGTERM) == 0
    assert not (tmp_path / "directory.db").exists()


class _FullDisk(MemoryStore):
    """While `full`, transactions that would write are refused."""

    full = False

    def transact(self, operation: Any) -> Any:
        writes = MemoryTransaction(self)
        operation(writes)
        if self.full and writes.changes:
            raise errors.NoSpace("the directory's disk is full")
        return super().transact(operation)


def test_on_a_full_disk_reading_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: files can be opened for reading while nothing can be written; opening for writing says NoSpace; what runs
    beside the requests does not end the server."""

    async def scenario() -> None:
        disk = _FullDisk()
        service = DirectoryService(disk, 3, "http://d")
        ino = service.core.change(messages.Create(names=[b"f"], ino=0, mode=FILE), 1).attributes.ino
        session = service.core.begin(messages.Begin(key=bytes(16)), 0.0).session
        opens, disk.full = service.operations()["open"].handler, True
        # The first open after a change would move the atime.
        assert opens(messages.Open(session=session, base=ino, opening=1, atime_ns=2)).attributes.ino == ino
        with pytest.raises(errors.NoSpace):
            opens(messages.Open(session=session, base=ino, token=5, opening=2))
        seen: list[float] = []
        monkeypatch.setattr("servers.directory_service._TIDY_EVERY_S", 0.001)
        monkeypatch.setattr("servers.directory_service.boottime_s", lambda: seen.append(1e6) or 1e6)
        tidying = asyncio.create_task(service.tidy_for_ever())
        while len(seen) < 3:
            assert not tidying.done()
            await asyncio.sleep(0.001)
        tidying.cancel()

    asyncio.run(scenario())
