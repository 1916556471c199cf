"""The file service over HTTP: three real servers as processes, killed and stopped as a test wants."""

import asyncio
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from chunk_homes import damage, everything
from file_group import DEADLINE_S, TOKEN, Directory, FileServer, Group, free_port, wait_until
from support import served

from dfsfuse import messages
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from servers import file_service
from servers.file_service import FileService
from servers.http import App, Raw
from servers.peers import Peers


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    servers = Group(tmp_path)
    try:
        servers.wait_ready()
        yield servers
    finally:
        servers.end()


def error_code(body: bytes) -> str:
    return messages.from_msgpack(body, dict)["code"]


def test_s8_a_put_is_on_all_three_servers(group: Group):
    """Goal: once a PUT is answered, B's and C's copies equal A's, small and large, and everybody counts them."""
    chunks = [os.urandom(size) for size in (1, 4096, 300_000, ENTRY_BYTES)]
    for data in chunks:
        assert group.a.put(data) == ["A", "B", "C"]
    expected = {chunk_name(data).hex(): data for data in chunks}
    assert all(everything(server.home) == expected for server in group.all)
    status = group.c.status()
    assert (status.chunks, status.received_chunks, status.served_chunks) == (4, 4, 0)
    assert status.stored_bytes == sum(map(len, chunks))
    assert status.total_bytes > status.free_bytes > 0
    wait_until(lambda: group.directory.servers["B"].chunks == 4, "a heartbeat with the new counts")


def test_many_uploads_at_once(group: Group):
    """Goal: more uploads than there are buffers all succeed, each with its own content."""
    chunks = [os.urandom(ENTRY_BYTES // 2) for _ in range(12)]
    threads = [threading.Thread(target=group.a.put, args=(data,)) for data in chunks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert all(server.get(chunk_name(data)) == data for server in group.all for data in chunks)


def test_reads_whole_and_in_ranges(group: Group):
    """Goal: GET answers 200 with everything, 206 with the wanted part, 416 beyond the chunk."""
    data = os.urandom(700_000)
    name = chunk_name(data)
    group.a.put(data)
    assert group.b.get(name) == data
    for start, end in ((0, 1), (10, 600_000), (699_999, 700_000)):
        status, headers, body = group.c.ask("GET", f"/v1/chunks/{name.hex()}", Range=f"bytes={start}-{end - 1}")
        assert (status, body) == (206, data[start:end])
        assert headers["content-range"] == f"bytes {start}-{end - 1}/700000"
    assert group.c.get(name, Range="bytes=699990-") == data[-10:]
    for wanted in ("bytes=0-700000", "bytes=700000-", "bytes=5-4", "bytes=-5", "lines=1-2", "bytes=0-1,3-4"):
        status, _, body = group.c.ask("GET", f"/v1/chunks/{name.hex()}", Range=wanted)
        assert (status, error_code(body)) == (416, "bad_range")


def test_a_replica_names_the_primary(group: Group):
    """Goal: a replica takes no upload by itself; `detail` of the refusal is the primary's address."""
    status, _, body = group.b.ask("PUT", f"/v1/chunks/{chunk_name(b'data').hex()}", b"data")
    assert status == 421
    reply = messages.from_msgpack(body, dict)
    assert (reply["code"], reply["detail"]) == ("not_primary", group.a.url)
    assert not any(everything(server.home) for server in group.all)


def test_a_copy_goes_no_further(group: Group):
    """Goal: role=copy is stored by the one who gets it, alone."""
    assert group.b.put(b"data", role="copy") == ["B"]
    assert not everything(group.a.home)
    assert not everything(group.c.home)


def test_s9_a_replica_acts_when_the_primary_is_dead(group: Group):
    """Goal: with A killed, B takes uploads and C gets its copy."""
    group.a.signal(signal.SIGKILL)
    data = os.urandom(100_000)
    assert group.b.put(data, role="acting") == ["B", "C"]
    assert group.c.get(chunk_name(data)) == data


def test_s9_who_acts_does_not_wait_for_whom_a_client_has_waited_for(group: Group):
    """Goal: with A stopped B takes an upload, and brings what it has to disks, without the second that it gives to
    others; the fastest of three, so that load on the machine is none of it."""
    took_s = []
    for number in range(3):
        wait_until(lambda n=number: group.b.put(b"before %d" % n, role="acting") == ["A", "B", "C"], "A is used")
        group.a.signal(signal.SIGSTOP)
        try:
            before = time.monotonic()
            assert group.b.put(b"%d" % number, role="acting") == ["B", "C"]
            took_s.append(time.monotonic() - before)
        finally:
            group.a.signal(signal.SIGCONT)
    assert min(took_s) < 0.9


def test_s9_a_dead_replica_costs_nothing(group: Group):
    """Goal: with B killed, though the directory still calls it up, PUTs succeed with two receipts and promptly."""
    group.a.put(b"connections are open")
    group.b.signal(signal.SIGKILL)
    before = time.monotonic()
    for number in range(10):
        assert group.a.put(b"%d" % number) == ["A", "C"]
    assert time.monotonic() - before < 5


def test_s9_a_silent_replica_is_waited_for_once(group: Group):
    """Goal: B stopped, not dead: one PUT waits about a second, the next pass B over, and B is used again later."""
    group.b.signal(signal.SIGSTOP)
    try:
        data = os.urandom(ENTRY_BYTES)
        assert group.a.put(data) == ["A", "C"]
        before = time.monotonic()
        for number in range(10):
            assert group.a.put(b"%d" % number) == ["A", "C"]
        assert time.monotonic() - before < 5
    finally:
        group.b.signal(signal.SIGCONT)
    numbers = iter(range(10**9))
    wait_until(lambda: group.a.put(b"again %d" % next(numbers)) == ["A", "B", "C"], "B is used again")


def test_too_few_servers(group: Group):
    """Goal: with B and C killed a PUT fails and says what is wrong with whom; reads go on."""
    group.a.put(b"before")
    group.b.signal(signal.SIGKILL)
    group.c.signal(signal.SIGKILL)
    for _ in range(2):
        status, _, body = group.a.ask("PUT", f"/v1/chunks/{chunk_name(b'after').hex()}", b"after")
        reply = messages.from_msgpack(body, dict)
        assert (status, reply["code"]) == (503, "not_enough_copies")
        assert group.b.url in reply["message"]
        assert group.c.url in reply["message"]
    assert group.a.get(chunk_name(b"before")) == b"before"


def test_a_restarted_server_is_used_again(group: Group, tmp_path: Path):
    """Goal: B killed and started anew registers as a start, keeps its chunks, and gets copies again."""
    group.a.put(b"before")
    group.b.signal(signal.SIGKILL)
    group.a.put(b"without B")
    group.b.end()
    group.b = group.all[1] = FileServer("B", tmp_path / "B", group.directory.port)
    group.wait_ready()
    assert group.directory.starts.count("B") == 2
    assert group.b.get(chunk_name(b"before")) == b"before"
    wait_until(lambda: group.a.put(b"with B") == ["A", "B", "C"], "B gets copies again")


@pytest.mark.parametrize("size", [5000, 500_000])
def test_s16_a_corrupt_copy_is_refused_and_repaired(group: Group, size: int):
    """Goal: a broken chunk is never served; after the error it is missing, until another server's copy or an upload has
    brought it back."""
    data = os.urandom(size)
    name = chunk_name(data)
    group.a.put(data)
    damage(group.b.home, name)
    first, second = (group.b.ask("GET", f"/v1/chunks/{name.hex()}")[2] for _ in range(2))
    assert error_code(first) == "chunk_corrupt"
    assert second == data or error_code(second) == "chunk_missing"
    group.a.put(data)
    assert group.b.get(name) == data


_HEX = chunk_name(b"data").hex()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("PUT", f"/v1/chunks/{_HEX}", b"tada", 400, "bad_hash"),
        ("PUT", f"/v1/chunks/{_HEX}", os.urandom(300_000), 400, "bad_hash"),
        ("PUT", f"/v1/chunks/{_HEX}", b"", 400, "bad_request"),
        ("PUT", f"/v1/chunks/{_HEX}", b"x" * (ENTRY_BYTES + 1), 413, "body_too_large"),
        ("PUT", f"/v1/chunks/{_HEX}", iter([b"x" * 100_000] * 50), 400, "bad_request"),
        ("PUT", f"/v1/chunks/{_HEX}?role=king", b"data", 400, "bad_request"),
        ("PUT", "/v1/chunks/" + "g" * 64, b"data", 400, "bad_hash"),
        ("PUT", "/v1/chunks/abc", b"data", 400, "bad_hash"),
        ("PUT", "/v1/chunks/../../../etc/passwd", b"data", 400, "bad_hash"),
        ("GET", "/v1/chunks/..%2f..%2fstart", None, 400, "bad_hash"),
        ("GET", f"/v1/chunks/{_HEX}", None, 404, "chunk_missing"),
        ("DELETE", f"/v1/chunks/{_HEX}", None, 405, "method_not_allowed"),
        ("POST", f"/v1/chunks/{_HEX}", b"data", 405, "method_not_allowed"),
        ("GET", "/v1/status", None, 405, "method_not_allowed"),
        ("POST", "/v1/explode", b"\x80", 404, "no_such_operation"),
        ("POST", "/v1/confirm", b"\xc1", 400, "bad_request"),
    ],
)
def test_bad_requests(lone: FileServer, method: str, path: str, body: Any, status: int, code: str):
    """Goal: each gives a clear error, nothing is stored, and the server goes on."""
    got, _, reply = lone.ask(method, path, body, Content_Type="application/msgpack")
    assert (got, error_code(reply)) == (status, code)
    assert not everything(lone.home)
    assert lone.answers()


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """Server A of a group, for requests that change nothing."""
    servers = Group(tmp_path_factory.mktemp("lone"))
    try:
        servers.wait_ready()
        yield servers.a
    finally:
        servers.end()


def test_the_token_is_asked_for(lone: FileServer):
    """Goal: without the cluster's token nothing is stored or served, whatever the method."""
    for method in ("PUT", "GET"):
        for token in ("", "Bearer wrong", TOKEN):
            status, _, body = lone.ask(method, f"/v1/chunks/{_HEX}", b"data", Authorization=token)
            assert (status, error_code(body)) == (401, "unauthorized")
    assert not everything(lone.home)


def test_a_body_cut_short_stores_nothing(lone: FileServer):
    """Goal: connections closed within small and large bodies leave nothing, and give their buffers back."""
    for announced, sent in [(4, b"da")] + [(1_000_000, b"x" * 900_000)] * 10:
        with socket.create_connection(("127.0.0.1", lone.port)) as connection:
            head = f"PUT /v1/chunks/{_HEX} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n"
            connection.sendall(f"{head}content-length: {announced}\r\n\r\n".encode() + sent)
    status, _, body = lone.ask("PUT", f"/v1/chunks/{_HEX}", os.urandom(1_000_000))
    assert (status, error_code(body)) == (400, "bad_hash")
    assert not everything(lone.home)


def test_a_body_longer_than_announced(lone: FileServer):
    """Goal: surplus bytes are taken for the next request, which is not HTTP: refused, and the server goes on."""
    with socket.create_connection(("127.0.0.1", lone.port), timeout=DEADLINE_S) as connection:
        head = (
            f"PUT /v1/chunks/{_HEX} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 3\r\n\r\n"
        )
        connection.sendall(head.encode() + b"data and more")
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b" 400 " in reply
    assert not everything(lone.home)
    assert lone.answers()


def test_replies_as_json(lone: FileServer):
    """Goal: with `accept: application/json` an error is readable text, so chunks can be tried with curl."""
    status, headers, body = lone.ask("GET", f"/v1/chunks/{_HEX}", Accept="application/json")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert b'"chunk_missing"' in body


def test_what_takes_long_to_confirm_is_answered_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Goal: a server that has to read all of it answers in time with what it has confirmed by then, at least one chunk,
    and says what is left."""
    service = FileService("A", "http://a", tmp_path, Peers("token"), "http://directory")
    myself = messages.Server(kind="files", name="A", url="http://a")
    service._replication.update(messages.Cluster(volume="v", copies=3, copies_min=2, files=[myself]))
    names = [chunk_name(data) for data in (b"one", b"two", b"three")]
    for name, data in zip(names, (b"one", b"two", b"three"), strict=True):
        service._store.store(name, data)
    confirm = service.operations()["confirm"].handler

    async def ask() -> messages.Confirmed:
        return await confirm(messages.Confirm(names))

    whole = asyncio.run(ask())
    assert ([row.chunk for row in whole.receipts], whole.left) == (names, [])
    monkeypatch.setattr(file_service, "CONFIRM_S", 0.0)
    first = asyncio.run(ask())
    assert ([row.chunk for row in first.receipts], first.left) == (names[:1], names[1:])
    service.close()


def test_confirm_and_sync(group: Group):
    """Goal: confirm gives newer receipts for what is there; sync names the servers that did it, alone or all."""
    status, _, body = group.a.ask("PUT", f"/v1/chunks/{_HEX}", b"data", Accept="application/json")
    assert (status, b'"receipts"' in body) == (200, True)
    there, absent = chunk_name(b"data"), chunk_name(b"absent")
    first, second = (
        group.b.call("confirm", messages.Confirm([there, absent]), messages.Confirmed).receipts for _ in range(2)
    )
    assert [row.chunk for row in first] == [there]
    assert [receipt.server for receipt in first[0].receipts] == ["B"]
    assert second[0].receipts[0].number > first[0].receipts[0].number
    assert group.a.call("sync", messages.Sync(alone=True), messages.Synced).servers == ["A"]
    assert sorted(group.a.call("sync", messages.Sync(), messages.Synced).servers) == ["A", "B", "C"]


def test_a_directory_that_goes_away(group: Group):
    """Goal: file servers go on without the directory; its going is logged once."""
    group.directory.stop()
    log = Path(group.a.log.name)
    wait_until(lambda: b"does not answer" in log.read_bytes(), "the log says that the directory went")
    assert group.a.put(b"data") == ["A", "B", "C"]
    assert log.read_bytes().count(b"does not answer") == 1


@pytest.mark.parametrize("query", ["?sync", "?role=acting&sync", "?role=copy&sync"])
@pytest.mark.parametrize("length", [100, 200_000])
def test_s10_what_is_to_be_synced_is_on_the_disk(
    query: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Goal: with `sync` an upload is answered when the chunk is on the disk, and refused where the disk fails; without
    it the disk is not waited for."""
    service = FileService("A", "http://127.0.0.1:1", tmp_path, Peers(TOKEN), "http://127.0.0.1:1")
    me = messages.Server(kind="files", name="A", url="http://127.0.0.1:1")
    service._replication.update(messages.Cluster(volume="", copies=1, copies_min=1, files=[me]))

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "the disk fails")

    def put(data: bytes, wanted: str) -> requests.Response:
        url = f"http://127.0.0.1:{port}/v1/chunks/{chunk_name(data).hex()}{wanted}"
        return requests.put(url, data, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=DEADLINE_S)

    with served(App(TOKEN, service.operations(), {"chunks": Raw(service.chunks, file_service.SMALL_BYTES)})) as port:
        assert put(os.urandom(length), query.removesuffix("sync").rstrip("?&")).status_code == 200
        assert service._store.receipts.synced < service._store.receipts.next - 1
        reply = put(os.urandom(length), query)
        (receipt,) = messages.from_msgpack(reply.content, messages.Stored).receipts
        assert service._store.receipts.synced >= receipt.number
        monkeypatch.setattr(os, "fdatasync", fails)
        refused = put(os.urandom(length), query)
        assert (refused.status_code, error_code(refused.content)) in [(503, "not_enough_copies"), (500, "internal")]
    service.close()


def test_before_the_directory_has_answered(tmp_path: Path):
    """Goal: a server of whose start the directory has not heard yet gives no receipts, on which no commit could rest:
    whoever brings a chunk, or asks for one to be confirmed, is told to ask again. Nor does it say that it has synced
    (S10): who hears that counts on what the directory knows it to have. It says that it is there."""
    server = FileServer("A", tmp_path / "A", free_port())
    try:
        wait_until(server.answers, "the server answers")
        confirm = messages.to_msgpack(messages.Confirm([chunk_name(b"data")]))
        for method, path, body in (
            *(("PUT", f"/v1/chunks/{_HEX}{role}", b"data") for role in ("", "?role=acting", "?role=copy")),
            ("POST", "/v1/confirm", confirm),
            ("POST", "/v1/sync", messages.to_msgpack(messages.Sync(alone=True))),
        ):
            status, _, answer = server.ask(method, path, body)
            assert (status, error_code(answer)) == (503, "starting")
        assert server.status().chunks == 0
    finally:
        server.end()


def test_a_wrong_token_is_fatal(tmp_path: Path):
    """Goal: a server of another cluster ends at once and says why."""
    directory = Directory()
    port = directory.port
    server = FileServer("A", tmp_path / "A", port, token="another cluster's")
    try:
        server.process.wait(DEADLINE_S)
        assert b"refuses this server's token" in Path(server.log.name).read_bytes()
    finally:
        server.end()
        directory.stop()


def test_memory_stays_bounded(group: Group):
    """Goal: four uploaders at once leave each server below 80 MB, and so do readers that do not read."""
    chunks = [os.urandom(ENTRY_BYTES) for _ in range(24)]
    threads = [threading.Thread(target=lambda m=n: [group.a.put(d) for d in chunks[m::4]]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    readers = [socket.create_connection(("127.0.0.1", group.b.port)) for _ in range(24)]
    try:
        for reader, data in zip(readers, chunks, strict=True):
            path = f"/v1/chunks/{chunk_name(data).hex()}"
            reader.sendall(f"GET {path} HTTP/1.1\r\nhost: b\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode())
        wait_until(lambda: group.b.status().served_chunks >= 24, "all readers are being served")
        assert max(_peak_bytes(server) for server in group.all) < 80 << 20
    finally:
        for reader in readers:
            reader.close()


def _peak_bytes(server: FileServer) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
