"""A large upload is sent on to the replicas while it arrives. The primary is real; the replicas are sockets, so that a
test sees what comes, and when."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_group import DEADLINE_S, TOKEN, Directory, FileServer, wait_until

from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from dfsfuse.messages import Receipt, Server, Stored, from_msgpack, to_msgpack
from servers.arriving import FORWARD_BYTES


class Replica:
    """Takes each upload and gives a receipt, or what `answer` says; `received` has how many bytes of body came, upload
    by upload, `whole` the bodies that came whole, `broken` how many connections ended within one."""

    def __init__(self, name: str):
        self.name, self.received, self.whole, self.broken = name, list[int](), list[bytes](), 0
        self.answer, self.answer_after, self.closes = b"", ENTRY_BYTES, False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while self._upload(connection) and not self.closes:
                pass

    def _upload(self, connection: socket.socket) -> bool:
        head, _, body = self._until_head(connection)
        if not head:
            return False
        length, number = int(head.partition(b"content-length: ")[2].split(b"\r")[0]), len(self.received)
        self.received.append(len(body))
        parts = [body]
        while self.received[number] < min(length, self.answer_after):
            part = connection.recv(1 << 20)
            if not part:
                self.broken += 1
                return False
            parts.append(part)
            self.received[number] += len(part)
        if self.received[number] == length:
            self.whole.append(b"".join(parts))
        stored = to_msgpack(Stored([Receipt(self.name, 1)]))
        connection.sendall(self.answer or b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(stored), stored))
        return True

    def _until_head(self, connection: socket.socket) -> tuple[bytes, bytes, bytes]:
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(1 << 16)
            if not part:
                return b"", b"", b""
            head += part
        return head.partition(b"\r\n\r\n")


class Group:
    def __init__(self, folder: Path):
        self.directory = Directory()
        self.replicas = [Replica("B"), Replica("C")]
        for replica in self.replicas:
            self.directory.servers[replica.name] = Server(kind="files", name=replica.name, url=replica.url, up=True)
        self.primary = FileServer("A", folder / "A", self.directory.port)
        wait_until(self.primary.answers, "A answers")
        wait_until(lambda: self._upload(b"first") == ["A", "B", "C"], "A knows the group")
        self.forget()

    def close(self) -> None:
        self.primary.end()
        self.directory.stop()
        for replica in self.replicas:
            replica.close()

    def forget(self) -> None:
        """What has come so far."""
        for replica in self.replicas:
            replica.received.clear()
            replica.whole.clear()

    def wait_until_received(self, count: int) -> None:
        for replica in self.replicas:
            wait_until(lambda r=replica: r.received and r.received[0] >= count, f"{replica.name} has {count} bytes")

    def _upload(self, data: bytes) -> list[str]:
        try:
            return self.primary.put(data)
        except (AssertionError, OSError):
            return []


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path)
    yield made
    made.close()


class Upload:
    """One upload to the primary, sent piece by piece."""

    def __init__(self, group: Group, data: bytes):
        self.data = data
        self.connection = socket.create_connection(("127.0.0.1", group.primary.port), timeout=DEADLINE_S)
        self.connection.sendall(
            f"PUT /v1/chunks/{chunk_name(data).hex()} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n"
            f"content-length: {len(data)}\r\n\r\n".encode()
        )
        self.sent = 0

    def send(self, until: int) -> None:
        self.connection.sendall(self.data[self.sent : until])
        self.sent = until

    def receipts(self) -> list[str]:
        """Who has given one."""
        reply = b""
        while b"\r\n\r\n" not in reply:
            reply += self.connection.recv(1 << 16)
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), reply
        return sorted(receipt.server for receipt in from_msgpack(body, Stored).receipts)


@pytest.fixture
def data() -> bytes:
    return os.urandom(ENTRY_BYTES)


def test_what_has_come_is_sent_on(group: Group, data: bytes):
    """Goal: the replicas have most of a chunk before its last byte has reached the primary; all get it whole."""
    upload, most = Upload(group, data), ENTRY_BYTES - 1
    upload.send(most)
    group.wait_until_received(most - FORWARD_BYTES)
    upload.send(len(data))
    assert upload.receipts() == ["A", "B", "C"]
    assert [replica.whole for replica in group.replicas] == [[data], [data]]


def test_an_upload_that_breaks_off(group: Group, data: bytes):
    """Goal: the replicas' connections end with it, and nobody takes the replicas for silent: the next upload goes to
    them at once."""
    upload = Upload(group, data)
    upload.send(3 * FORWARD_BYTES)
    group.wait_until_received(2 * FORWARD_BYTES)
    upload.connection.close()
    for replica in group.replicas:
        wait_until(lambda r=replica: r.broken == 1, f"{replica.name} hears that no more comes")
    group.forget()
    begun = time.monotonic()
    assert group.primary.put(data) == ["A", "B", "C"]
    assert time.monotonic() - begun < 5
    assert [replica.whole for replica in group.replicas] == [[data], [data]]


def test_a_replica_that_closes_idle_connections(group: Group, data: bytes):
    """Goal: where a pooled connection turns out to be closed, the whole body goes over a fresh one."""
    for replica in group.replicas:
        replica.closes = True
    assert group.primary.put(data) == ["A", "B", "C"]
    for _ in range(3):
        group.forget()
        upload = Upload(group, data)
        upload.send(2 * FORWARD_BYTES)
        upload.send(len(data))
        assert upload.receipts() == ["A", "B", "C"]
        assert [replica.whole for replica in group.replicas] == [[data], [data]]


def test_a_replica_that_refuses_in_the_middle(group: Group, data: bytes):
    """Goal: who answers before it has all of the body is sent no more of it, the others are enough, and the next upload
    does not go over that connection."""
    refuses, takes = group.replicas
    body = b"\x82\xa4code\xa8no_space\xa7message\xa4full"
    refuses.answer = b"HTTP/1.1 507 Full\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    refuses.answer_after = FORWARD_BYTES
    upload = Upload(group, data)
    upload.send(2 * FORWARD_BYTES)
    wait_until(lambda: refuses.received and refuses.received[0] >= FORWARD_BYTES, "it has some of it")
    upload.send(len(data))
    assert upload.receipts() == ["A", "C"]
    assert takes.whole == [data]
    refuses.answer, refuses.answer_after = b"", ENTRY_BYTES
    group.forget()
    assert group.primary.put(data) == ["A", "B", "C"]
    assert refuses.whole == [data]


def test_what_does_not_hash_to_its_name(group: Group, data: bytes):
    """Goal: the client hears that it is wrong, whatever was sent on meanwhile, and the servers go on."""
    status, _, body = group.primary.ask("PUT", f"/v1/chunks/{chunk_name(b'else').hex()}", data)
    assert (status, b"bad_hash" in body) == (400, True)
    assert group.primary.put(data) == ["A", "B", "C"]
