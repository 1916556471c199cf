"""Indexes of caches that an earlier version has made: taken over with all that was not sent, or left as they were."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from clients import Client, Servers, make, uploaded
from test_cache import noise, read_all, recovered, send
from volumes import Volume

from dfsfuse import cache_index_forms as forms
from dfsfuse import errors
from dfsfuse.cache_index import State
from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES, Piece, Ranges
from dfsfuse.manifests import Entries, SegmentIds

encode = msgspec.msgpack.encode
HUGE = (1 << 36) + BLOCK_BYTES
Row = tuple[bytes, bytes, bytes]


@pytest.fixture
def client(volume: Volume, tmp_path: Path) -> Client:
    return Client(volume, Servers(), tmp_path / "client")


@contextlib.contextmanager
def index_of(client: Client) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(client.home / "index.db")) as db, db:
        yield db


def as_before(client: Client) -> None:
    """The index as the version before has kept it: an item for each entry. Nobody has it open."""
    client.cache.index.close()
    with index_of(client) as db:
        rows = db.execute("SELECT number, size, entries, segments, present FROM contents").fetchall()
        for number, size, *stored in rows:
            entries, ids, present = forms.decoded(*stored)
            entries.fit(-(-size // ENTRY_BYTES))
            plain = [entries[index] for index in range(len(entries))]
            flags = bytes(index in present for index in range(len(entries)))
            values = encode(plain), encode(ids.part(0, len(ids))), flags
            db.execute("UPDATE contents SET entries = ?, segments = ?, present = ? WHERE number = ?", (*values, number))
        db.execute("PRAGMA user_version = 1")


def stored(client: Client) -> tuple[int, list[Row]]:
    """(form, rows) of the index."""
    with index_of(client) as db:
        rows = db.execute("SELECT entries, segments, present FROM contents ORDER BY number").fetchall()
        return db.execute("PRAGMA user_version").fetchone()[0], rows


def open_files() -> list[str]:
    """Paths of all files that this process has open."""
    return [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]


def fill(client: Client) -> None:
    """A file that is here in part; one of 64 GiB with 100 bytes that were sent, and 50 that were closed and not; and an
    empty one."""
    make(client, "f", noise(3 * ENTRY_BYTES))
    make(client, "empty", b"")
    make(Client(client.volume, client.servers, client.home.with_name("other")), "there", noise(3 * ENTRY_BYTES, 2))
    part = client.open("there")
    client.read(part, ENTRY_BYTES, 1)
    client.close(part)
    huge = client.create("huge")
    client.resize(huge, HUGE)
    client.write(huge, b"x" * 100, HUGE // 2)
    client.commit(huge)
    client.write(huge, b"y" * 50, HUGE - 50)
    client.cache.mark_closed(huge, b"p" * 16)
    client.cache.maintain()


def test_what_the_version_before_has_kept_and_not_sent(client: Client) -> None:
    """Goal: after an update, what is in the cache does not travel again, what a killed client had closed is sent, and
    the index has shrunk to what files hold."""
    fill(client)
    now = stored(client)
    as_before(client)
    before = stored(client)
    assert before[0] == 1
    assert sum(len(column) for row in before[1] for column in row) > HUGE // ENTRY_BYTES * 2
    ((huge, state, pending),) = recovered(client)
    assert stored(client) == now
    assert (state, pending) == (State.CLOSED, b"p" * 16)
    assert huge.changes.written.covers(HUGE - 50, HUGE)
    assert huge.changes.written.total() <= BLOCK_BYTES
    send(client, huge)
    assert client.read(client.open("huge"), HUGE - 50, 50) == b"y" * 50
    travelled = client.servers.received_bytes
    assert read_all(client, "f") == noise(3 * ENTRY_BYTES)
    assert client.servers.received_bytes == travelled
    assert read_all(client, "there") == noise(3 * ENTRY_BYTES, 2) == uploaded(client.volume, client.servers, "there")
    assert client.servers.received_bytes == travelled + 2 * ENTRY_BYTES


def test_a_kill_while_it_is_taken_over(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the index is as it was, and the next client takes it over."""
    fill(client)
    as_before(client)
    before, upgrade_row = stored(client), forms._upgrade_row
    rows = iter(range(3))

    def killed(db: sqlite3.Connection, number: int) -> None:
        next(rows)
        upgrade_row(db, number)

    monkeypatch.setattr(forms, "_upgrade_row", killed)
    with pytest.raises(StopIteration):
        client.start()
    assert stored(client) == before
    monkeypatch.undo()
    assert len(recovered(client)) == 1
    assert stored(client)[0] == forms.FORM


def test_a_disk_that_has_no_room_for_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a clear error, the index is as it was, and nobody has it open."""
    fill(client)
    as_before(client)
    before = stored(client)

    def full(db: sqlite3.Connection, number: int) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(forms, "_upgrade_row", full)
    with pytest.raises(errors.NoSpace):
        client.start()
    assert stored(client) == before
    assert not [path for path in open_files() if path.startswith(str(client.home / "index.db"))]


@pytest.mark.parametrize("flags", [b"", b"\0", b"\1", b"\0\1\1\0\0\1", b"\1\0\1", b"\0\0"])
def test_flags_become_ranges(flags: bytes) -> None:
    """Goal: any flags that an index may have, as ranges of those that are 1."""
    ranges = forms._ranges(flags)
    assert bytes(number in ranges for number in range(len(flags))) == flags


def test_a_row_takes_what_its_file_holds() -> None:
    """Goal: entries and ids of a file of 16 TiB with content in three places take less than 300 bytes."""
    entries, ids = Entries(count=4 << 20), SegmentIds(count=4096)
    for index in (5, 1 << 20, (4 << 20) - 1):
        entries[index], ids[index // 1024] = [Piece(b"c" * 32, 0, 100)], b"i" * 16
    assert sum(map(len, forms.encoded(entries, ids, Ranges([(5, 6), (1 << 20, 1 << 21)])))) < 300
