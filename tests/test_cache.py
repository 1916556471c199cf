"""The cache: the right content for each open, room, and what a crash, a reboot or a full disk leaves."""

import contextlib
import errno
import gc
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import Client, Servers, make, uploaded
from volumes import Volume

from dfsfuse import chunks, content_files, errors, spare_files, warm_files
from dfsfuse.cache import Cache
from dfsfuse.cache_index import State
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.content import Content
from dfsfuse.content_file import open_file
from dfsfuse.manifests import Entries, SegmentIds
from dfsfuse.recovery import find_changes

MIB = 1 << 20


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def client(volume: Volume, servers: Servers, tmp_path: Path) -> Client:
    return Client(volume, servers, tmp_path / "client")


@pytest.fixture
def other(volume: Volume, servers: Servers, tmp_path: Path) -> Client:
    return Client(volume, servers, tmp_path / "other")


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def read_all(client: Client, path: str) -> bytes:
    content = client.open(path)
    try:
        return client.read(content, 0, content.size)
    finally:
        client.close(content)


def files_of(client: Client) -> dict[str, int]:
    """Content files on disk: name -> bytes of disk."""
    return {path.name: path.stat().st_blocks * 512 for path in (client.home / "contents").glob("*/*")}


def rows_of(client: Client) -> set[int]:
    return client.cache.index.all_rows()


# -- which content an open gets


def test_nothing_travels_for_what_is_cached(client: Client, servers: Servers) -> None:
    """Goal: an open of the cached version fetches nothing, also after the cache was closed and opened again."""
    make(client, "f", noise(5 * MIB))
    before = servers.received_bytes
    assert read_all(client, "f") == noise(5 * MIB)
    client.cache.close()
    client.start()
    assert read_all(client, "f") == noise(5 * MIB)
    assert servers.received_bytes == before


def test_version_and_commit_id_must_both_match(client: Client, other: Client, volume: Volume) -> None:
    """Goal: the same version number with another commit id is another content, whose bytes are not mixed with ours."""
    make(client, "f", b"first")
    attributes = volume.at("f")
    lied = type(attributes)(**{n: getattr(attributes, n) for n in attributes.__struct_fields__})
    lied.commit_id = bytes(16)
    content = client.cache.open(lied, Entries(count=1), SegmentIds(), b"/f")
    assert (content.version, content.commit_id) == (lied.version, bytes(16))
    assert client.read(content, 0, 5) == bytes(5)
    client.close(content)


def test_a_newer_version_replaces_what_nobody_uses(client: Client, other: Client) -> None:
    """Goal: one row and file for an inode, in the newest version."""
    make(client, "f", b"first")
    content = other.open("f", write=True)
    other.write(content, b"second", 0)
    other.commit(content)
    assert read_all(client, "f") == b"second"
    assert len(rows_of(client)) == len(files_of(client)) == 1


def test_a_reader_keeps_the_version_that_it_opened(client: Client, other: Client) -> None:
    """Goal: two versions open at once have a content each; the older goes when it is closed, with file and row."""
    make(client, "f", b"first")
    old = client.open("f")
    content = other.open("f", write=True)
    other.write(content, b"second", 0)
    other.commit(content)
    new = client.open("f")
    assert (client.read(old, 0, 9), client.read(new, 0, 9)) == (b"first", b"second")
    client.close(old)
    assert rows_of(client) == {new.row}
    assert len(files_of(client)) == 1
    client.close(new)
    assert read_all(client, "f") == b"second"


def test_an_older_version_that_is_still_open_is_not_shared(client: Client, other: Client) -> None:
    """Goal: when the newer content is gone, the older one, still open, is not turned into a newer one."""
    make(client, "f", b"first")
    old = client.open("f")
    for data in (b"second", b"third!"):
        content = other.open("f", write=True)
        other.write(content, data, 0)
        other.commit(content)
        other.close(content, write=True)
        assert read_all(client, "f") == data
        client.cache.bytes_max = 0
        client.cache.make_room()
        assert client.read(old, 0, 9) == b"first"
        assert client.cache.peek(old.ino) is not old


def test_local_opens_share_one_content(client: Client) -> None:
    """Goal: a second open of the same version is the same content, and sees what the first writes."""
    make(client, "f", b"first")
    one, two = client.open("f", write=True), client.open("f")
    assert one is two
    client.write(one, b"F", 0)
    assert client.read(two, 0, 9) == b"First"
    client.commit(one)
    assert client.open("f") is one


# -- room


def open_files(client: Client) -> set[str]:
    """Content files that this process has open."""
    found = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)}
    return {path for path in found if path.startswith(str(client.home / "contents"))}


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def test_files_that_were_read_stay_open_for_a_while(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: opening again what was read lately costs the disk nothing; no more than WARM_MAX are kept, and none after
    the end; what is removed is closed."""
    monkeypatch.setattr(warm_files, "WARM_MAX", 3)
    for number in range(5):
        make(client, f"f{number}", b"data%d" % number)
    assert open_files(client) == set(), "what was written is measured at close"
    for number in (0, 1, 2, 3, 4):
        assert read_all(client, f"f{number}") == b"data%d" % number
    assert len(open_files(client)) == 3
    opened = []
    monkeypatch.setattr(content_files, "open_file", lambda *of: opened.append(of[0]) or open_file(*of))
    for number in (4, 2, 3, 0):
        assert read_all(client, f"f{number}") == b"data%d" % number
    assert [content.where for content in opened] == [b"f0"]
    client.cache.delete(client.cache.peek(client.volume.at("f0").ino))
    assert len(open_files(client)) == 2
    client.cache.close()
    assert open_files(client) == set()
    client.start()
    assert read_all(client, "f2") == b"data2"


def test_a_newer_version_in_a_file_that_is_still_open(client: Client, other: Client) -> None:
    """Goal: the file that was kept open has the newer content after another client's commit."""
    make(client, "f", noise(3 * MIB))
    assert read_all(client, "f") == noise(3 * MIB)
    changed = other.open("f", write=True)
    other.write(changed, b"changed", 5)
    other.resize(changed, 2 * MIB)
    other.commit(changed)
    other.close(changed, write=True)
    expected = bytearray(noise(3 * MIB)[: 2 * MIB])
    expected[5:12] = b"changed"
    for _ in range(2):
        assert read_all(client, "f") == expected


def inodes_of(client: Client) -> set[int]:
    return {path.stat().st_ino for path in (client.home / "contents").glob("*/*")}


def test_files_of_removed_contents_are_used_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a new content takes an emptied file, also one that an earlier client has left; no more than SPARE_MAX are
    kept, and what they held is gone."""
    monkeypatch.setattr(spare_files, "SPARE_MAX", 2)
    for number in range(4):
        make(client, f"f{number}", noise(MIB, number))
    former = inodes_of(client)
    for number in range(4):
        client.cache.delete(client.cache.peek(client.volume.at(f"f{number}").ino))
    spares = list((client.home / "spare").iterdir())
    assert len(spares) == 2
    assert sum(path.stat().st_blocks for path in spares) == 0
    make(client, "new", b"short")
    assert inodes_of(client) < former
    client.kill()
    make(client, "another", b"")
    assert inodes_of(client) < former
    assert list((client.home / "spare").iterdir()) == []
    assert (read_all(client, "new"), read_all(client, "another")) == (b"short", b"")


def test_what_was_removed_goes_when_there_is_time(client: Client) -> None:
    """Goal: `rm` does not wait for the cache; what it leaves is neither found nor used any more, and goes with the next
    maintenance, or at once where room is needed."""
    for name in ("a", "b"):
        make(client, name, noise(MIB))
        client.cache.discard(client.volume.at(name).ino)
        assert client.cache.peek(client.volume.at(name).ino) is None
    assert sum(files_of(client).values()) >= 2 * MIB
    assert client.cache.evict_all() == 2
    assert files_of(client) == {}
    make(client, "c", noise(MIB))
    client.cache.discard(client.volume.at("c").ino)
    client.cache.maintain()
    assert files_of(client) == {}
    assert client.cache.index.all_rows() == set()
    assert client.cache._sizes.used_bytes == 0


def test_eviction_takes_the_least_recently_used(volume: Volume, servers: Servers, tmp_path: Path) -> None:
    """Goal: beyond bytes_max the content that was closed longest ago goes, until the rest fits."""
    client = Client(volume, servers, tmp_path / "client", bytes_max=5 * MIB)
    for name in "abcde":
        make(client, name, noise(MIB))
    read_all(client, "a")
    make(client, "f", noise(MIB))
    assert sum(files_of(client).values()) <= 5 * MIB
    before = servers.received_bytes
    for name in "acdef":
        assert read_all(client, name) == noise(MIB)
    assert servers.received_bytes == before
    assert read_all(client, "b") == noise(MIB)
    assert servers.received_bytes == before + MIB


def test_eviction_never_takes_what_is_open_or_unsent(volume: Volume, servers: Servers, tmp_path: Path) -> None:
    """Goal: with no room at all, open and unsent contents stay, and go once they are closed and sent."""
    client = Client(volume, servers, tmp_path / "client")
    make(client, "clean", noise(MIB))
    make(client, "read", noise(MIB))
    reading = client.open("read")
    client.read(reading, 0, MIB)
    unsent = client.create("unsent")
    client.write(unsent, noise(MIB, 2), 0)
    client.cache.mark_closed(unsent, bytes(16))
    client.close(unsent, write=True)
    client.cache.bytes_max = 0
    assert client.cache.make_room() == 1
    assert rows_of(client) == {reading.row, unsent.row}
    assert client.read(reading, 0, MIB) == noise(MIB)
    client.cache.use(unsent)
    client.commit(unsent)
    client.cache.close_one(unsent)
    client.close(reading)
    assert rows_of(client) == set()
    assert files_of(client) == {}
    assert uploaded(volume, servers, "unsent") == noise(MIB, 2)


def test_a_restarted_cache_knows_its_size(volume: Volume, servers: Servers, tmp_path: Path) -> None:
    """Goal: what an earlier client cached counts, and is evicted, oldest first; a file without a row goes at once."""
    client = Client(volume, servers, tmp_path / "client")
    for name in "abc":
        make(client, name, noise(MIB))
    client.cache.close()
    (client.home / "contents" / "ff").mkdir(exist_ok=True)
    (client.home / "contents" / "ff" / "ffff").write_bytes(b"left by a kill")
    client.bytes_max = 3 * MIB
    client.start()
    assert len(files_of(client)) == 3
    make(client, "d", noise(MIB))
    assert len(files_of(client)) == 3
    before = servers.received_bytes
    read_all(client, "a")
    assert servers.received_bytes == before + MIB


def test_no_more_contents_than_memory_is_for(
    volume: Volume, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a million small files do not fill the client's memory: beyond so many the oldest are evicted."""
    monkeypatch.setattr("dfsfuse.cache.EVICTABLE_MAX", 5)
    client = Client(volume, servers, tmp_path / "c")
    for number in range(20):
        content = client.create(f"f{number}")
        client.write(content, b"x", 0)
        client.commit(content)
        client.close(content, write=True)
    assert client.cache.index.all_rows() == set(range(16, 21))


def test_eviction_goes_on_in_the_order_of_use_after_a_restart(volume: Volume, servers: Servers, tmp_path: Path) -> None:
    """Goal: the next client of the cache evicts what was used longest ago, not what was cached first."""
    client = Client(volume, servers, tmp_path / "client")
    for name in "abc":
        make(client, name, noise(MIB))
    read_all(client, "a")
    client.cache.close()
    client.bytes_max = 3 * MIB
    client.start()
    make(client, "d", noise(MIB))
    before = servers.received_bytes
    read_all(client, "a")
    assert servers.received_bytes == before
    read_all(client, "b")
    assert servers.received_bytes == before + MIB


def test_empty_files_take_room_too(volume: Volume, servers: Servers, tmp_path: Path) -> None:
    """Goal: files without a block, which have a row and an inode of the disk each, are evicted like others."""
    client = Client(volume, servers, tmp_path / "client", bytes_max=10 * 4096)
    for number in range(30):
        client.close(client.create(f"f{number}"), write=True)
    assert len(files_of(client)) == len(rows_of(client)) == 10
    client.cache.close()
    client.bytes_max = 4 * 4096
    client.start()
    client.close(client.create("last"), write=True)
    assert len(files_of(client)) == len(rows_of(client)) == 4


def test_a_file_that_cannot_be_kept_as_a_spare_is_removed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a folder that needs a block which a full disk does not have must not stop what is evicted to make room."""
    make(client, "f", noise(MIB))

    def full(old: str, new: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", full)
    assert client.cache.evict_all() == 1
    assert (files_of(client), list((client.home / "spare").iterdir())) == ({}, [])


def _full() -> errors.NoSpace:
    return errors.NoSpace("the local cache's disk is full")


@pytest.mark.parametrize("method", ["add", "save_written", "set_pending", "save_clean", "forget_present"])
def test_an_index_without_room_evicts(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Goal: where the index cannot be written as the disk is full of what can be evicted, that goes, and nobody
    notices: not who opens, nor who writes, commits, or opens a newer version."""
    make(client, "old", noise(MIB))
    make(client, "f", b"first")
    content = other.open("f", write=True)
    other.write(content, b"second", 0)
    # What ends in a hole has to be cleared on disk.
    other.resize(content, MIB)
    other.commit(content)
    written, full = getattr(client.cache.index, method), [True]

    def without_room(*arguments: object) -> None:
        if full[0]:
            raise _full()
        written(*arguments)

    delete = client.cache.index.delete

    def freed(number: int) -> None:
        full[0] = False
        delete(number)

    monkeypatch.setattr(client.cache.index, "delete", freed)
    monkeypatch.setattr(client.cache.index, method, without_room)
    content = client.open("f", write=True)
    assert client.read(content, 0, 9) == b"second\0\0\0"
    client.write(content, b"third!", 0)
    client.commit(content)
    new = client.create("new")
    client.write(new, b"new", 0)
    client.commit(new)
    assert not full[0]
    assert uploaded(client.volume, client.servers, "f") == b"third!".ljust(MIB, b"\0")
    assert uploaded(client.volume, client.servers, "new") == b"new"
    assert sum(files_of(client).values()) < MIB


def test_what_the_index_could_not_be_told_is_told_with_the_next_write(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a write that failed as the index had no room leaves nothing untold: after the next one a crash finds
    both."""
    make(client, "f", noise(2 * ENTRY_BYTES))
    content = client.open("f", write=True)

    def without_room(*_: object) -> None:
        raise _full()

    with monkeypatch.context() as patch:
        patch.setattr(client.cache.index, "_values", without_room)
        with pytest.raises(errors.NoSpace):
            client.write(content, b"first", 0)
    client.write(content, b"second", 100)
    ((again, _, _),) = recovered(client)
    assert list(again.dirty) == [(0, ENTRY_BYTES)]


def test_what_a_full_disk_means(client: Client) -> None:
    """Goal: ENOSPC evicts and lets the caller try again; with nothing to evict it is NoSpace; another error stays."""

    def failing(number: int, times: int) -> Callable[[], str]:
        errors_left = [number] * times

        def work() -> str:
            if errors_left:
                raise OSError(errors_left.pop(), "fails")
            return "done"

        return work

    make(client, "f", noise(MIB))
    assert client.cache.with_room(failing(errno.ENOSPC, 1)) == "done"
    assert files_of(client) == {}
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(errors.NoSpace):
            client.cache.with_room(failing(number, 1))
    with pytest.raises(errors.Internal):
        client.cache.with_room(failing(errno.EIO, 1))


def test_an_open_that_fails_leaves_no_descriptor(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an error of the disk while a content comes into use leaks nothing, and the next open works."""
    make(client, "f", b"data")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    content = client.cache.peek(client.volume.at("f").ino)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", full)
        with pytest.raises(errors.NoSpace):
            client.open("f")
    assert (content.fd, content.users) == (-1, 0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert read_all(client, "f") == b"data"


# -- after a crash


def recovered(client: Client) -> list[tuple[Content, State, bytes]]:
    """What the next client finds, with its changes."""
    client.kill()
    found = client.cache.index.load_unsent(client.cache.path_of)
    for content, _, _ in found:
        find_changes(content, client.servers.download)
    return found


def send(client: Client, content: Content) -> None:
    """What `unsent` does with a content that was promised."""
    client.cache.adopt(content)
    client.cache.use(content)
    client.commit(content)
    client.cache.close_one(content)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("size", [0, 1, 70_000, ENTRY_BYTES, 2 * ENTRY_BYTES + 5])
def test_a_new_file_is_found_after_a_crash(client: Client, closed: bool, size: int) -> None:
    """Goal: what was written to a new file is found with its state, and can be sent."""
    content = client.create("f")
    client.write(content, noise(size), 0)
    if closed:
        client.cache.mark_closed(content, b"p" * 16)
    found = recovered(client)
    (again, state, pending) = found[0]
    assert (again.ino, state, pending) == (content.ino, State.CLOSED if closed else State.OPEN, b"p" * 16 * closed)
    assert again.size == size
    assert again.changed == bool(size)
    if size:
        send(client, again)
        assert uploaded(client.volume, client.servers, "f") == noise(size)


_CHANGES = {
    "overwritten": lambda client, content: client.write(content, b"changed", 100),
    "overwritten whole without fetching": lambda client, content: client.write(content, noise(ENTRY_BYTES, 7), 0),
    "appended": lambda client, content: client.write(content, b"more", content.size),
    "zeros appended": lambda client, content: client.write(content, bytes(2 * ENTRY_BYTES), content.size),
    "zeros appended, then overwritten": lambda client, content: (
        client.write(content, bytes(2 * ENTRY_BYTES), content.size), client.write(content, noise(3000), 0)),
    "written beyond the end": lambda client, content: client.write(content, b"far", 4 * ENTRY_BYTES),
    "cut to nothing": lambda client, content: client.resize(content, 0),
    "cut at a border": lambda client, content: client.resize(content, ENTRY_BYTES),
    "cut": lambda client, content: client.resize(content, ENTRY_BYTES + 1000),
    "grown": lambda client, content: client.resize(content, 3 * ENTRY_BYTES),
    "cut and grown to the same size": lambda client, content: (
        client.resize(content, ENTRY_BYTES), client.resize(content, 2 * ENTRY_BYTES)),
    "cut and written again": lambda client, content: (
        client.resize(content, 0), client.write(content, b"new", 0)),
}  # fmt: skip


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("what", _CHANGES)
def test_changes_of_a_file_are_found_after_a_crash(
    client: Client, other: Client, volume: Volume, servers: Servers, what: str, known: bool
) -> None:
    """Goal: whatever was done to a file before a crash is found, and sent it is what the program saw; whether its old
    content was in the cache or not. Without a change nothing is found."""
    make(other, "f", noise(2 * ENTRY_BYTES))
    if known:
        read_all(client, "f")
    content = client.open("f", write=True)
    assert [c.changed for c, _, _ in recovered(client)] == [False]
    client.kill()
    client.cache.index.delete(content.row)
    content = client.open("f", write=True)
    _CHANGES[what](client, content)
    client.cache.mark_closed(content, b"p" * 16)
    expected = client.read(content, 0, content.size)
    ((again, state, _),) = recovered(client)
    assert state == State.CLOSED
    assert again.changed
    send(client, again)
    assert uploaded(volume, servers, "f") == expected
    assert read_all(other, "f") == expected


def test_a_cut_is_found_when_the_crash_comes_during_its_upload(client: Client, other: Client) -> None:
    """Goal: a change of size that a commit has taken and not finished is in the index, also when a write during the
    upload saves the row."""
    make(other, "f", noise(2 * ENTRY_BYTES))
    content = client.open("f", write=True)
    client.resize(content, ENTRY_BYTES)
    client.cache.mark_closed(content, b"p" * 16)
    content.take_changes()
    client.cache.mark_open(content)
    ((again, _, _),) = recovered(client)
    assert again.changed


def test_a_commit_after_a_write_during_an_upload_has_its_base(client: Client, volume: Volume) -> None:
    """Goal: the row of a content that is sent again has the version which the first commit made, so a crash does not
    turn what was written into a conflict with ourselves."""
    content = client.create("f")
    client.write(content, noise(MIB), 0)

    def write_meanwhile() -> None:
        client.servers.before_store = lambda: None
        client.write(content, b"late", 10)

    client.servers.before_store = write_meanwhile
    client.commit(content)
    client.cache.mark_closed(content, b"q" * 16)
    ((again, state, pending),) = recovered(client)
    assert (again.version, state, pending) == (1, State.CLOSED, b"q" * 16)
    send(client, again)
    assert uploaded(volume, client.servers, "f")[10:14] == b"late"


def test_what_was_sent_and_closed_is_clean_after_a_crash(client: Client, servers: Servers) -> None:
    """Goal: what the servers have is known as such: at once by its commit id, and by the index a little later; then it
    is found clean, and nothing is fetched."""
    make(client, "f", noise(MIB))
    assert all(pending == client.volume.at("f").commit_id for _, _, pending in recovered(client))
    make(client, "g", noise(MIB))
    client.cache.maintain()
    before = servers.received_bytes
    assert [content.ino for content, _, _ in recovered(client)] in ([], [client.volume.at("f").ino])
    assert read_all(client, "g") == noise(MIB)
    assert servers.received_bytes == before


def test_unsent_content_is_not_shared_as_if_it_were_clean(client: Client, other: Client) -> None:
    """Goal: a client that has not taken up what a killed one left (a read-only mount) shows what the servers have, and
    leaves the unsent content where it is."""
    make(other, "f", b"of the servers")
    content = client.open("f", write=True)
    client.write(content, b"unsent", 0)
    client.cache.mark_closed(content, bytes(16))
    client.kill()
    assert read_all(client, "f") == b"of the servers"
    ((again, _, _),) = recovered(client)
    assert again.changed
    client.cache.use(again)
    assert client.read(again, 0, 99) == b"unsent servers"


def _truncate(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


@pytest.mark.parametrize("damage", [Path.unlink, _truncate(0), _truncate(2 * MIB)])
def test_a_row_whose_file_is_gone_or_short(client: Client, servers: Servers, damage: Callable[[Path], None]) -> None:
    """Goal: content that the index promises and the disk does not have is fetched; it is never read as zeros."""
    make(client, "f", noise(MIB))
    client.cache.close()
    (path,) = (client.home / "contents").glob("*/*")
    damage(path)
    client.start()
    assert read_all(client, "f") == noise(MIB)
    client.cache.close()
    client.start()
    before = servers.received_bytes
    assert read_all(client, "f") == noise(MIB)
    assert servers.received_bytes == before


def test_a_file_that_vanishes_while_the_client_runs(client: Client) -> None:
    """Goal: as above for a content that is known and idle."""
    make(client, "f", noise(MIB))
    (path,) = (client.home / "contents").glob("*/*")
    path.unlink()
    assert read_all(client, "f") == noise(MIB)


def test_a_kill_in_the_middle_of_an_eviction(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the row goes before the file: a file without a row is cleared away, a row without a file would be a lie."""
    make(client, "f", noise(MIB))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    client.cache.bytes_max = 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", killed)
        with pytest.raises(KeyboardInterrupt):
            client.cache.make_room()
    assert len(files_of(client)) == 1
    client.kill()
    assert files_of(client) == {}
    assert read_all(client, "f") == noise(MIB)


def test_a_kill_between_cutting_and_saying_so(client: Client) -> None:
    """Goal: a clean row whose file was cut for O_TRUNC, and no more, does not show zeros as the old version; nor where
    the client that finds it so is killed before it has fetched that."""
    make(client, "f", noise(MIB))
    client.cache.maintain()
    content = client.open("f")
    content.resize(0, 1)
    client.kill()
    client.open("f")
    client.kill()
    assert read_all(client, "f") == noise(MIB)


@pytest.mark.parametrize("change", ["the same size", "shorter", "longer", "with a hole"])
@pytest.mark.parametrize("method", ["forget_present", "save_clean"])
def test_a_kill_while_a_newer_version_is_taken_up(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch, method: str, change: str
) -> None:
    """Goal: wherever it is cut off, neither file nor row tells the former version's bytes as the newer one's, also
    where what was fetched since is on disk and the row does not say so."""
    block, whole = chunks.BLOCK_BYTES, 5 * chunks.BLOCK_BYTES
    make(client, "f", noise(whole))
    client.cache.maintain()
    content, size = other.open("f", write=True), {"shorter": whole - 1, "longer": whole + 1}.get(change, whole)
    other.resize(content, 0)
    other.write(content, noise(block if change == "with a hole" else size, 2), 0)
    other.resize(content, size)
    other.commit(content)
    newest = other.read(content, 0, size)
    written = getattr(client.cache.index, method)

    def killed(*arguments: object) -> None:
        written(*arguments)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(client.cache.index, method, killed)
            # Who is killed cleans nothing up.
            patch.setattr(client.cache, "delete", lambda content: None)
            with contextlib.suppress(KeyboardInterrupt):
                content = client.open("f")
                assert client.read(content, 0, size) == newest
        client.kill()
    assert read_all(client, "f") == newest


@pytest.mark.parametrize("size", [999, 1001])
def test_kills_one_after_the_other(client: Client, other: Client, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Goal: where one client is killed as it has given the file a newer version's size, and the next as it has given it
    the former one again, the row that neither has changed does not tell of zeros that they are the content."""
    make(client, "f", noise(1000))
    client.cache.maintain()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for data in (noise(size, 2), noise(1000)):
        content = other.open("f", write=True)
        other.resize(content, 0)
        other.write(content, data, 0)
        other.commit(content)
        with monkeypatch.context() as patch:
            patch.setattr(client.cache.index, "save_clean", killed)
            patch.setattr(client.cache, "delete", lambda content: None)
            with pytest.raises(KeyboardInterrupt):
                client.open("f")
        client.kill()
    assert read_all(client, "f") == noise(1000)


def test_a_newer_version_is_taken_up_while_the_index_is_told(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: who opens a file of which this client's commit is just being noted, after its last close(), and who notes
    that do not wait for each other."""
    make(client, "f", noise(MIB))
    noted = client.cache.peek(client.volume.at("f").ino)
    content = other.open("f", write=True)
    other.resize(content, 0)
    other.resize(content, MIB)
    other.write(content, b"second", 0)
    other.commit(content)
    index, listed, clearing, noting = client.cache.index, *(threading.Event() for _ in range(3))
    forget_present, values = index.forget_present, index._values

    def in_use() -> list[Content]:
        listed.set()
        assert clearing.wait(10)
        return [noted]

    def cleared(number: int) -> None:
        clearing.set()
        assert noting.wait(10)
        forget_present(number)

    def valued(content: Content, state: State) -> tuple:
        noting.set()
        return values(content, state)

    def opened() -> None:
        assert listed.wait(10)
        client.open("f")

    client.cache.maintain()
    # As it was when it was found to be in use.
    noted.row_stale = True
    monkeypatch.setattr(client.cache, "in_use", in_use)
    monkeypatch.setattr(index, "forget_present", cleared)
    monkeypatch.setattr(index, "_values", valued)
    threads = [threading.Thread(target=work, daemon=True) for work in (client.cache.maintain, opened)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("error", [errors.NoSpace, sqlite3.OperationalError])
def test_a_row_that_cannot_be_brought_up_to_date_goes(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Goal: where the index cannot take the newer version, as the disk is full or fails, no row stays that tells of the
    former one what is fetched of the newer."""
    make(client, "f", noise(1000))
    client.cache.maintain()
    content = other.open("f", write=True)
    other.write(content, noise(1000, 2), 0)
    other.commit(content)

    def fails(*_: object) -> None:
        raise error("nothing can be written")

    with monkeypatch.context() as patch, contextlib.suppress(sqlite3.Error):
        patch.setattr(client.cache.index, "save_clean", fails)
        client.open("f")
    assert client.read(client.open("f"), 0, 1000) == noise(1000, 2)
    client.kill()
    other.write(content, noise(1000), 0)
    other.commit(content)
    assert read_all(client, "f") == noise(1000)


# -- after a reboot


def reboot(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfsfuse.cache.boot_id", lambda: "another boot")
    client.start()


def damage(client: Client, content: Content, offset: int) -> None:
    with open(content.path, "r+b") as file:
        file.seek(offset)
        file.write(b"lost by the disk")


def test_content_of_another_boot_is_hashed(client: Client, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: after a reboot entries that are not what they should be are fetched again, the others are not; after that
    they are trusted."""
    make(client, "f", noise(3 * ENTRY_BYTES))
    content = client.cache.current(client.volume.at("f").ino)
    client.cache.close()
    damage(client, content, ENTRY_BYTES + 50)
    reboot(client, monkeypatch)
    before = servers.received_bytes
    assert read_all(client, "f") == noise(3 * ENTRY_BYTES)
    assert servers.received_bytes == before + ENTRY_BYTES
    client.cache.close()
    client.start()
    assert client.cache.peek(content.ino).verified


@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize("left", [0, 1000])
def test_a_hole_that_had_content_before_a_power_cut(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch, first: int, left: int
) -> None:
    """Goal: the disk may have kept what was fetched of a version that the index, which it has not kept, tells nothing
    of: it is not read where an earlier or later version has a hole, or begins to have one."""
    size, home = 2 * ENTRY_BYTES, client.home

    def become(data: bytes) -> None:
        content = other.open("f", write=True)
        other.resize(content, ENTRY_BYTES)
        other.write(content, data, ENTRY_BYTES)
        other.resize(content, size)
        other.commit(content)
        other.close(content, write=True)

    make(client, "f", noise(ENTRY_BYTES))
    become(noise(first, 3))
    read_all(client, "f")
    client.cache.close()
    before = (home / "index.db").read_bytes()
    client.start()
    between = noise(first, 3).ljust(chunks.BLOCK_BYTES, b"\0") + noise(ENTRY_BYTES - chunks.BLOCK_BYTES, 2)
    become(between)
    assert read_all(client, "f")[ENTRY_BYTES:] == between
    become(noise(left, 3))
    client.cache.close()
    (home / "index.db").write_bytes(before)
    reboot(client, monkeypatch)
    assert read_all(client, "f") == noise(ENTRY_BYTES) + noise(left, 3).ljust(ENTRY_BYTES, b"\0")


def test_nothing_is_trusted_that_was_not_hashed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a row that is saved before its content was hashed still belongs to the old boot."""
    make(client, "f", noise(MIB))
    content = client.cache.current(client.volume.at("f").ino)
    client.cache.close()
    damage(client, content, 50)
    reboot(client, monkeypatch)
    client.cache.peek(content.ino)
    client.cache.close()
    client.start()
    assert read_all(client, "f") == noise(MIB)


@pytest.mark.parametrize("new", [False, True])
def test_unsent_content_survives_a_reboot(
    client: Client, other: Client, volume: Volume, servers: Servers, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    """Goal: what was written and not sent before a reboot is sent as it was: it hashes to nothing that is known, and it
    is all that there is."""
    if new:
        content = client.create("f")
    else:
        make(other, "f", noise(2 * ENTRY_BYTES))
        content = client.open("f", write=True)
    client.write(content, noise(ENTRY_BYTES + 500, 2), 0)
    client.cache.mark_closed(content, bytes(16))
    expected = client.read(content, 0, content.size)
    reboot(client, monkeypatch)
    ((again, _, _),) = recovered(client)
    assert again.changed
    send(client, again)
    assert uploaded(volume, servers, "f") == expected


# -- as a whole


@pytest.mark.parametrize("seed", range(1, 5))
def test_random_use_with_kills(volume: Volume, servers: Servers, tmp_path: Path, seed: int) -> None:
    """Goal: two clients with little room read, write, commit and are killed at random; every read is the committed
    content, or what this client itself has written since."""
    choose = random.Random(seed)
    clients = [Client(volume, servers, tmp_path / name, bytes_max=3 * MIB) for name in ("one", "two")]
    models = dict.fromkeys("abcd", b"")
    for name in models:
        make(clients[0], name, b"")
    for _ in range(150):
        client, name = choose.choice(clients), choose.choice(list(models))
        if choose.random() < 0.15:
            client.kill()
        if choose.random() < 0.5:
            assert read_all(client, name) == models[name]
            continue
        content = client.open(name, write=True)
        data, offset = choose.randbytes(choose.choice([10, 5000, MIB])), choose.randrange(2 * MIB)
        if choose.random() < 0.3:
            client.resize(content, choose.randrange(2 * MIB))
            models[name] = models[name][: content.size].ljust(content.size, b"\0")
        client.write(content, data, offset)
        models[name] = models[name].ljust(offset, b"\0")
        models[name] = models[name][:offset] + data + models[name][offset + len(data) :]
        assert client.read(content, 0, content.size) == models[name]
        client.commit(content)
        client.close(content, write=True)
        assert uploaded(volume, servers, name) == models[name]


def test_an_index_that_is_new_has_no_rows(tmp_path: Path) -> None:
    """Goal: an empty folder is an empty cache, and closing it twice over is possible."""
    for _ in range(2):
        cache = Cache(tmp_path / "new", 0)
        assert cache.unsent() == []
        assert cache.peek(5) is None
        assert cache.current(5) is None
        cache.close()


def test_an_index_of_another_form_is_refused(client):
    """Goal: a cache that another version has made may hold what is not sent: a clear error, and nothing is touched."""
    path = client.home / "index.db"
    client.cache.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(errors.NotSupported, match="form 99"):
        client.start()
    assert path.read_bytes() == before
