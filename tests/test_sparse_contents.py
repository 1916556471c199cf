"""Contents of almost 16 TiB with hardly anything in them: what is done to them takes what they hold, not their size.

No time is measured: bytes in the index and on the wire are counted, and calls that touch the disk."""

import os
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Servers
from test_cache import reboot, recovered, send
from volumes import Volume

from dfsfuse import content_file, holes, lending, overtaking, salvage, superseding
from dfsfuse.chunks import ENTRY_BYTES, Ranges
from dfsfuse.content import Content
from dfsfuse.manifests import Entries
from dfsfuse.openings import Version

SIZE = (16 << 40) - 3 * ENTRY_BYTES
PLACES = 0, SIZE // 2, SIZE - 100
CALLS_MAX = 20


@pytest.fixture
def client(volume: Volume, tmp_path: Path) -> Client:
    return Client(volume, Servers(), tmp_path / "client")


@pytest.fixture
def other(client: Client, tmp_path: Path) -> Client:
    return Client(client.volume, client.servers, tmp_path / "other")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Reads and punched holes."""
    made: list[str] = []

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **more: Any) -> Any:
            made.append(name)
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, call)

    counted(os, "pread")
    for module in (content_file, overtaking, superseding):
        counted(module, "punch_hole")
    return made


def sparse(client: Client) -> Content:
    """Committed, and still open for writing."""
    content = client.create("f")
    client.resize(content, SIZE)
    for place in PLACES:
        client.write(content, b"x" * 100, place)
    client.commit(content)
    return content


def read_places(client: Client, content: Content) -> list[bytes]:
    return [client.read(content, place, 100) for place in PLACES]


def index_bytes(client: Client) -> int:
    """What the rows of the cache's index take."""
    rows = client.cache.index._db.execute("SELECT entries, segments, present FROM contents").fetchall()
    return sum(len(column) for row in rows for column in row)


def test_what_a_version_costs(client: Client, other: Client) -> None:
    """Goal: the index has some bytes for each place, and three segments travel; the other client, which reads these
    places, keeps as little."""
    content = sparse(client)
    client.cache.mark_open(content)
    assert len(content.entries.runs()) == len(list(content.present)) == len(PLACES)
    assert len(list(content.segments.values())) == len(PLACES)
    reader = other.open("f")
    assert read_places(other, reader) == [b"x" * 100] * len(PLACES)
    other.close(reader)
    other.cache.close()
    other.start()
    assert other.open("f").present == Ranges((i, i + 1) for i in (place // ENTRY_BYTES for place in PLACES))
    assert max(index_bytes(client), index_bytes(other)) < 500


def test_a_killed_client_left_it(client: Client, calls: list[str]) -> None:
    """Goal: of what it had not sent, the next client looks at what the disk has, which is sent then."""
    content = sparse(client)
    client.write(content, b"late", SIZE // 4)
    client.cache.mark_closed(content, b"p" * 16)
    calls.clear()
    ((again, _, _),) = recovered(client)
    assert len(calls) < CALLS_MAX
    assert [first // ENTRY_BYTES for first, _ in again.changes.written] == [SIZE // 4 // ENTRY_BYTES]
    send(client, again)
    reader = client.open("f")
    assert client.read(reader, SIZE // 4, 4) == b"late"
    assert read_places(client, reader) == [b"x" * 100] * len(PLACES)


def test_a_reboot(client: Client, monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    """Goal: what is hashed anew is what is there."""
    client.close(sparse(client), write=True)
    client.cache.close()
    reboot(client, monkeypatch)
    calls.clear()
    content = client.open("f")
    assert content.verified
    assert len(calls) < CALLS_MAX
    assert read_places(client, content) == [b"x" * 100] * len(PLACES)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_version_of_another_client(client: Client, other: Client, calls: list[str], in_place: bool) -> None:
    """Goal: what was here of the older version becomes the newer one by what differs, whether it is open or not."""
    writer, reader = sparse(client), other.open("f")
    read_places(other, reader)
    if not in_place:
        other.close(reader)
    client.write(writer, b"y" * 100, PLACES[1])
    client.resize(writer, SIZE - ENTRY_BYTES)
    client.resize(writer, SIZE)
    client.commit(writer)
    calls.clear()
    if in_place:
        opened = other.volume.open(reader.ino)
        with reader.committing:
            newest = Version(opened.attributes, *other.expanded(opened), 0, True, 0.0)
            overtaking.overtake(reader, newest, other.cache, other.servers.download)
    else:
        reader = other.open("f")
    assert len(calls) < CALLS_MAX
    assert read_places(other, reader) == [b"x" * 100, b"y" * 100, bytes(100)]


def test_what_is_asked_of_it(client: Client, calls: list[str]) -> None:
    """Goal: whether it is whole, what is missing of all of it, what it stores, and where its content is."""
    content = sparse(client)
    assert lending.is_whole(content)
    assert content.missing(0, SIZE) == content.unready(1, SIZE) == []
    assert salvage.bring_all(content, client.servers) == []
    client.write(content, b"new", SIZE // 4)
    client.cache.mark_open(content)
    data = [first for first, _, is_content in holes.stretches(content, 0, SIZE) if is_content]
    assert [place // ENTRY_BYTES for place in data] == [place // ENTRY_BYTES for place in sorted((*PLACES, SIZE // 4))]
    assert holes.allocated_bytes(content) < 6 * 4096
    holes.punch(content, 0, SIZE, 5, True)
    assert holes.allocated_bytes(content) == 0
    client.commit(content)
    assert (list(content.entries.items()), client.volume.at("f").size) == ([], SIZE)
    client.resize(content, 5)
    client.resize(content, SIZE)
    assert len(calls) < CALLS_MAX


def test_it_becomes_a_copy(client: Client) -> None:
    """Goal: what a copy is made of is found on the disk, where holes are passed over."""
    content = sparse(client)
    with content.mutex:
        content.entries = Entries(count=len(content.entries))
        holes.take_from_disk(content, content.fd, 0, SIZE)
    assert content.changes.written.total() <= len(PLACES) * 4096
    assert holes.with_data(content.entries, content.fd, SIZE) == [place // ENTRY_BYTES for place in PLACES]
