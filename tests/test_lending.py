"""Files of the cache that the kernel was given: as long as anybody has one open or mapped, nothing is done to it that
he must not see. Here the test itself is who has it mapped."""

import contextlib
import errno
import mmap
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Client, Servers
from volumes import Volume

from dfsfuse import errors, lending, overtaking
from dfsfuse.chunks import ENTRY_BYTES, Ranges
from dfsfuse.content import Content
from dfsfuse.openings import Version
from dfsfuse.overtaking import overtake

SIZE = 3 * ENTRY_BYTES // 2


@pytest.fixture
def client(volume: Volume, tmp_path: Path) -> Client:
    return Client(volume, Servers(), tmp_path / "client")


@pytest.fixture
def other(client: Client, tmp_path: Path) -> Client:
    return Client(client.volume, client.servers, tmp_path / "other")


def noise(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


def write(client: Client, path: str, data: bytes, new: bool = False) -> None:
    content = client.create(path) if new else client.open(path, write=True)
    client.write(content, data, 0)
    client.commit(content)
    client.close(content, write=True)


@contextlib.contextmanager
def mapped(content: Content) -> Iterator[mmap.mmap]:
    """As a program has it that mapped it through the kernel, and may have closed it."""
    fd = os.open(content.path, os.O_RDONLY)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapping:
        os.close(fd)
        yield mapping


def lent(client: Client, path: str) -> Content:
    content = client.open(path)
    client.read(content, 0, content.size)
    assert lending.lend(content, 1)
    return content


def take_back(client: Client, content: Content) -> None:
    lending.take_back(content)
    client.close(content)


# -- what may be given


def test_what_is_not_whole_is_not_given(client, other):
    """Goal: the kernel would read zeros where nothing was fetched; what is small is not worth it; who writes is in the
    way."""
    write(client, "file", noise(SIZE, 1), new=True)
    content = other.open("file")
    assert not lending.lend(content, 1)
    other.read(content, 0, 10)
    assert not lending.lend(content, 1)
    other.read(content, SIZE - 1, 1)
    assert not lending.lend(content, SIZE + 1)
    assert lending.lend(content, SIZE)
    lending.take_back(content)
    other.close(content)
    writer = other.open("file", write=True)
    assert not lending.lend(writer, 1)
    other.close(writer, write=True)


def test_holes_need_not_be_here(client, other):
    """Goal: a sparse file is whole where all of its chunks are."""
    content = client.create("sparse")
    client.write(content, b"end", 3 * ENTRY_BYTES)
    client.commit(content)
    client.close(content, write=True)
    content = lent(other, "sparse")
    with mapped(content) as mapping:
        assert mapping[-4:] == b"\0end"
        assert mapping[:8] == bytes(8)
    take_back(other, content)


def test_whether_it_is_in_memory_is_known(client, other):
    """Goal: what went to the disk past the kernel's pages is read from there; what was read, or written in small
    pieces, is not."""
    content = client.create("file")
    for start in range(0, SIZE, 1 << 16):
        client.write(content, noise(min(1 << 16, SIZE - start), 1), start)
    assert lending.is_in_memory(content)
    os.fsync(content.fd)
    os.posix_fadvise(content.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert not lending.is_in_memory(content)
    client.read(content, 0, SIZE)
    assert lending.is_in_memory(content)
    client.commit(content)
    client.close(content, write=True)


# -- who has it


def test_who_has_a_file_is_known(client):
    """Goal: a descriptor or a mapping of anybody's counts, one's own descriptor does not; afterwards it is forgotten.
    What was just given the kernel has, though it has not opened it yet."""
    write(client, "file", noise(SIZE, 1), new=True)
    content = lent(client, "file")
    assert lending.is_left(content)
    lending.take_back(content)
    assert not lending.is_left(content)
    assert not content.lent
    content.lent = True
    with mapped(content):
        assert lending.is_left(content)
        assert not lending.is_alone_at(content.path)
    fd = os.open(content.path, os.O_RDONLY)
    assert lending.is_left(content)
    os.close(fd)
    assert not lending.is_left(content)
    client.close(content)


def test_what_is_given_while_somebody_asks(client, monkeypatch):
    """Goal: who asks whether anybody has the file does not overlook that it is given to the kernel meanwhile."""
    write(client, "file", noise(SIZE, 1), new=True)
    content = lent(client, "file")
    lending.take_back(content)
    is_alone, giving = lending._is_alone, threading.Thread(target=lending.lend, args=(content, 1))

    def given_meanwhile(fd: int) -> bool:
        alone = is_alone(fd)
        giving.start()
        giving.join(0.1)
        return alone

    with monkeypatch.context() as patched:
        patched.setattr(lending, "_is_alone", given_meanwhile)
        lending.is_left(content)
    giving.join()
    assert (content.lent, content.pins, lending.is_left(content)) == (True, 1, True)
    take_back(client, content)


def test_asking_while_others_open_the_file(client):
    """Goal: the system tells the one who asks, by a signal, when somebody opens the file just then. It does no harm and
    nobody waits for long."""
    write(client, "file", noise(SIZE, 1), new=True)
    content = client.open("file")
    done = threading.Event()

    def open_it() -> None:
        while not done.is_set():
            os.close(os.open(content.path, os.O_RDONLY))

    others = [threading.Thread(target=open_it) for _ in range(2)]
    for other in others:
        other.start()
    for _ in range(5000):
        content.lent = True
        lending.is_left(content)
    done.set()
    for other in others:
        other.join()
    client.close(content)


@pytest.mark.parametrize("given", [False, True])
def test_a_file_system_that_does_not_know_who_has_a_file(client, monkeypatch, given):
    """Goal: where leases are not offered nothing is given to the kernel, so nobody has anything; if they come to be
    missing afterwards, everything counts as had."""
    monkeypatch.setattr(lending, "_given", threading.Event())
    write(client, "file", noise(SIZE, 1), new=True)
    content = client.open("file")
    client.read(content, 0, SIZE)
    if given:
        assert lending.lend(content, 1)
        lending.take_back(content)

    def refuse(fd: int) -> None:
        raise OSError(errno.EINVAL, "no leases here")

    monkeypatch.setattr(lending, "ask_for_lease", refuse)
    content.lent = True
    assert lending.is_left(content) == given
    assert lending.is_alone_at(content.path) != given
    client.close(content)


# -- what is not done to it


def test_newer_version_gets_another_file(client, other):
    """Goal: S3. What a program has mapped stays as it is after it has closed the file, and another client has made a
    newer version, which is opened here."""
    old, new = noise(SIZE, 1), noise(SIZE, 2)
    write(client, "file", old, new=True)
    content = lent(client, "file")
    with mapped(content) as mapping:
        take_back(client, content)
        write(other, "file", new)
        again = client.open("file")
        assert client.read(again, 0, SIZE) == new
        assert mapping[:] == old
        assert not os.path.exists(content.path)
        client.close(again)
        assert mapping[:] == old


def test_without_a_mapping_the_file_becomes_the_newer_version(client, other):
    """Goal: what both versions have in common stays, as it does of files that were never given."""
    old, new = noise(SIZE, 1), noise(ENTRY_BYTES, 1) + noise(SIZE - ENTRY_BYTES, 2)
    write(client, "file", old, new=True)
    content = lent(client, "file")
    take_back(client, content)
    write(other, "file", new)
    again = client.open("file")
    assert (again is content, again.present) == (True, Ranges([(0, 1)]))
    assert client.read(again, 0, SIZE) == new
    client.close(again)


def test_file_of_a_content_that_is_gone_is_not_used_again(client):
    """Goal: the room of removed files is used for new ones, but not what somebody has mapped; also where an earlier
    client had given it."""
    data = noise(SIZE, 1)
    write(client, "file", data, new=True)
    content = lent(client, "file")
    take_back(client, content)
    with mapped(content) as mapping:
        client.cache.evict_all()
        for number in range(3):
            write(client, f"new{number}", noise(SIZE, 9), new=True)
        assert mapping[:] == data


def test_full_disk_drops_nothing_of_it(client):
    """Goal: neither while the kernel reads the file, before it has even opened it, nor while it is mapped."""
    data = noise(SIZE, 1)
    write(client, "file", data, new=True)
    content = lent(client, "file")
    assert not drop_read(client)
    lending.take_back(content)
    with mapped(content) as mapping:
        assert not drop_read(client)
        assert mapping[:] == data
    assert drop_read(client)
    assert content.missing(0, SIZE) == [0, 1]
    client.close(content)


def drop_read(client: Client) -> bool:
    return client.cache._full._drop_read()


@pytest.mark.parametrize("has_it", [True, False])
def test_version_in_place_that_is_large(client, other, monkeypatch, has_it):
    """Goal: where programs use locks a file becomes another version while it is open. What is too much to keep in
    memory is dropped and fetched when it is read, but where the kernel reads the file itself: there it is never a
    hole."""
    monkeypatch.setattr(overtaking, "BROUGHT_BYTES_MAX", 1 << 16)
    old, new = noise(3 * ENTRY_BYTES, 1), noise(2 * ENTRY_BYTES + 5, 2)
    write(client, "file", old, new=True)
    content = lent(client, "file")
    lending.take_back(content)
    writer = other.open("file", write=True)
    other.write(writer, new, 0)
    other.resize(writer, len(new))
    other.commit(writer)
    other.close(writer, write=True)
    with mapped(content) if has_it else contextlib.nullcontext() as mapping:
        with content.committing:
            overtake(content, newest(client, content), client.cache, client.servers.download)
        assert content.present == Ranges([(0, 3)] if has_it else [])
        if has_it:
            assert mapping[: len(new)] == new
    assert client.read(content, 0, len(new)) == new
    client.close(content)


@pytest.mark.parametrize("brought_bytes_max", [1 << 16, 1 << 30])
@pytest.mark.parametrize("where", [2 * ENTRY_BYTES - 1, 2 * ENTRY_BYTES, 7 * ENTRY_BYTES // 2, ENTRY_BYTES + 4096])
def test_version_in_place_has_no_holes_where_the_kernel_reads(client, other, monkeypatch, where, brought_bytes_max):
    """Goal: what the newer version has beyond the end of the older one, or in a hole of it, was not here, and nobody
    fetches it for the kernel: it is there at once. What is a hole in both stays one."""
    monkeypatch.setattr(overtaking, "BROUGHT_BYTES_MAX", brought_bytes_max)
    writer = other.create("file")
    other.write(writer, noise(1000, 1), 0)
    other.write(writer, b"end", SIZE - 3 if where >= SIZE else 2 * ENTRY_BYTES)
    other.commit(writer)
    content = lent(client, "file")
    lending.take_back(content)
    with mapped(content):
        other.write(writer, b"news", where)
        other.commit(writer)
        with content.committing:
            overtake(content, newest(client, content), client.cache, client.servers.download)
        expected = other.read(writer, 0, writer.size)
        with open(content.path, "rb") as file:
            assert file.read() == expected
        assert not content.missing(0, content.size)
        assert os.stat(content.path).st_blocks * 512 <= 1 << 20
    other.close(writer, write=True)
    client.close(content)


def test_version_in_place_for_which_the_disk_has_no_room(client, other, monkeypatch):
    """Goal: a content that cannot become a newer version stays what it was, and the error says so."""
    old = noise(SIZE, 1)
    write(client, "file", old, new=True)
    content = lent(client, "file")
    writer = other.open("file", write=True)
    other.write(writer, noise(1000, 2), 0)
    other.write(writer, b"news", 2 * ENTRY_BYTES)
    other.commit(writer)
    other.close(writer, write=True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(overtaking, "reserve_if_possible", full)
    with mapped(content) as mapping, content.committing:
        with pytest.raises(errors.NoSpace):
            overtake(content, newest(client, content), client.cache, client.servers.download)
        assert mapping[:] == old
    assert client.read(content, 0, content.size) == old
    take_back(client, content)


def newest(client: Client, content: Content) -> Version:
    opened = client.volume.open(content.ino)
    return Version(opened.attributes, *client.expanded(opened), 0, True, 0.0)


def test_what_is_written_to_a_given_file_is_in_the_kernels_pages(client):
    """Goal: writes past the pages of a disk, and mappings of the same bytes, are not promised to agree."""
    write(client, "file", noise(SIZE, 1), new=True)
    content = lent(client, "file")
    with mapped(content) as mapping:
        client.write(content, b"x" * (1 << 20), 0)
        assert not content.past_pages
        assert mapping[: 1 << 20] == b"x" * (1 << 20)
    content.give_up()
    take_back(client, content)
