"""What is sent while a program still writes: that it saves close() the work, and never becomes a wrong content."""

import os
import threading
from pathlib import Path

import pytest
from clients import uploaded
from open_files import OneClient
from support import wait_until
from volumes import FILE

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.handles import Handle
from dfsfuse.holes import punch

MIB = 1 << 20


@pytest.fixture
def client(tmp_path: Path) -> OneClient:
    return OneClient(tmp_path)


def create(client: OneClient) -> Handle:
    return client.files.create((1, (b"f",)), FILE, 0, 0, os.O_RDWR, 1)[0]


def write(client: OneClient, handle: Handle, data: bytes, offset: int = 0, at_once: int = MIB) -> None:
    for start in range(0, len(data), at_once):
        client.files.write(handle, data[start : start + at_once], offset + start)


def settled(handle: Handle) -> bool:
    return all(future.done() for future in list(handle.content.ahead.values()))


def sent(client: OneClient, handle: Handle, entries: int) -> None:
    """Wait until so many entries were sent ahead."""
    wait_until(lambda: len(handle.content.ahead) == entries and settled(handle), f"{entries} entries were sent")


@pytest.mark.parametrize("at_once", [128 << 10, MIB, 5 * MIB + 1])
def test_close_sends_what_was_not_sent_ahead(client: OneClient, at_once: int) -> None:
    """Goal: of a file that is written from its beginning to its end every byte travels once, all but the last entry
    before close()."""
    handle, data = create(client), os.urandom(4 * ENTRY_BYTES + 5)
    write(client, handle, data, at_once=at_once)
    wait_until(lambda: settled(handle), "nothing is under way")
    assert client.servers.sent_bytes >= 2 * ENTRY_BYTES
    assert client.flush(handle) is None
    assert uploaded(client.volume, client.servers, "f") == data
    assert client.servers.sent_bytes == len(data)
    assert not handle.content.ahead


def test_what_fits_an_entry_waits_for_close(client: OneClient) -> None:
    """Goal: nothing is sent in vain of files that are a moment from their close()."""
    handle = create(client)
    write(client, handle, bytes(ENTRY_BYTES))
    assert not handle.content.ahead


@pytest.mark.parametrize("how", ["write", "punch", "cut", "cut and grow"])
def test_what_changes_after_it_was_sent_is_sent_again(client: OneClient, how: str) -> None:
    """Goal: the content that close() commits is what the file has then, however it changed after it was sent."""
    handle, data = create(client), bytearray(os.urandom(3 * ENTRY_BYTES))
    write(client, handle, bytes(data))
    sent(client, handle, 2)
    if how == "write":
        client.files.write(handle, b"changed", ENTRY_BYTES - 3)
        data[ENTRY_BYTES - 3 : ENTRY_BYTES + 4] = b"changed"
    elif how == "punch":
        punch(handle.content, 0, MIB, 1, True)
        data[:MIB] = bytes(MIB)
    else:
        client.files.resize(handle, ENTRY_BYTES + 5)
        del data[ENTRY_BYTES + 5 :]
        if how == "cut and grow":
            client.files.resize(handle, 2 * ENTRY_BYTES)
            data += bytes(ENTRY_BYTES - 5)
    assert client.flush(handle) is None
    assert uploaded(client.volume, client.servers, "f") == bytes(data)


def test_what_changes_while_it_is_sent_is_sent_again(client: OneClient) -> None:
    """Goal: a write that comes while the entry is on its way counts; and an entry is sent in vain once at most."""
    handle, data = create(client), bytearray(os.urandom(2 * ENTRY_BYTES))
    go_on, under_way = threading.Event(), threading.Event()

    def stop() -> None:
        client.servers.before_store = lambda: None
        under_way.set()
        assert go_on.wait(10)

    client.servers.before_store = stop
    write(client, handle, bytes(data))
    assert under_way.wait(10)
    write(client, handle, b"changed")
    data[:7] = b"changed"
    write(client, handle, bytes(data[MIB:]), MIB)
    go_on.set()
    wait_until(lambda: settled(handle), "nothing is under way")
    assert client.servers.sent_bytes == ENTRY_BYTES
    assert client.flush(handle) is None
    assert uploaded(client.volume, client.servers, "f") == bytes(data)


def test_a_failure_is_left_to_close(client: OneClient) -> None:
    """Goal: servers that do not answer meanwhile fail no write, and are left alone for a while; close() sends all."""
    handle, data, tries = create(client), os.urandom(4 * ENTRY_BYTES), []

    def fail() -> None:
        tries.append(1)
        raise errors.Unreachable("no file server")

    client.servers.before_store = fail
    write(client, handle, data[: 2 * ENTRY_BYTES])
    wait_until(lambda: tries and settled(handle), "it was tried")
    write(client, handle, data[2 * ENTRY_BYTES :], 2 * ENTRY_BYTES)
    assert len(tries) == 1
    client.servers.before_store = lambda: None
    assert client.flush(handle) is None
    assert uploaded(client.volume, client.servers, "f") == data


def test_what_was_sent_ahead_is_confirmed_where_its_receipts_are_void(client: OneClient) -> None:
    """Goal: receipts from long before close() may have become void; then what is still there is not sent again."""
    handle, data = create(client), os.urandom(3 * ENTRY_BYTES)
    write(client, handle, data)
    sent(client, handle, 2)
    for name in "ABC":
        client.volume.core.register(client.volume.heartbeat(name, store=f"disk {name}", first_number=5), 1.0)
    client.servers.number = 6
    assert client.flush(handle) is None
    assert uploaded(client.volume, client.servers, "f") == data
    assert client.servers.sent_bytes == len(data)


def test_what_was_not_begun_by_close_leaves_nothing_open(client: OneClient) -> None:
    """Goal: entries that still wait for their turn at close() are sent by it, and keep no descriptor."""
    handle, data = create(client), os.urandom(8 * ENTRY_BYTES)
    go_on, before = threading.Event(), len(os.listdir("/proc/self/fd"))
    client.servers.before_store = lambda: assert_true(
        threading.main_thread() is threading.current_thread() or go_on.wait(10)
    )
    write(client, handle, data)
    assert len(handle.content.ahead) == 7
    closed = threading.Timer(0.2, go_on.set)
    closed.start()
    assert client.flush(handle) is None
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "no descriptor is left")
    assert uploaded(client.volume, client.servers, "f") == data


def assert_true(value: bool) -> None:
    assert value
