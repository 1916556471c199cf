"""Contents that become a newer version in place, while programs have them open: against what was committed."""

import os
import random
import threading
from pathlib import Path

import pytest
from clients import Client, Servers, uploaded
from volumes import Volume, volume_on

from dfsfuse import overtaking
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Piece, Ranges, clip, spans
from dfsfuse.content import Content
from dfsfuse.holes import punch
from dfsfuse.openings import Version
from dfsfuse.overtaking import changed_spans, overtake

LENGTH = 40


@pytest.fixture
def volume(tmp_path: Path):
    with volume_on("memory", tmp_path) as volume:
        yield volume


@pytest.fixture
def two(volume: Volume, tmp_path: Path) -> tuple[Client, Client]:
    servers = Servers()
    return Client(volume, servers, tmp_path / "one"), Client(volume, servers, tmp_path / "two")


def newest(client: Client, content: Content) -> Version:
    opened = client.volume.open(content.ino)
    return Version(opened.attributes, *client.expanded(opened), 0, True, 0.0)


def bring(client: Client, content: Content) -> None:
    with content.committing:
        overtake(content, newest(client, content), client.cache, client.servers.download)


def whole(client: Client, content: Content) -> bytes:
    return client.read(content, 0, content.size)


# -- what has changed


def rendered(entry: list[Piece]) -> list[tuple[bytes, int]]:
    """For each byte where it comes from."""
    found = [(HOLE, 0)] * LENGTH
    for span in spans(clip(entry, LENGTH)):
        for at in range(span.length):
            found[span.offset + at] = (span.chunk, span.start + at if span.chunk != HOLE else 0)
    return found


@pytest.mark.parametrize("seed", range(100))
def test_changed_spans(seed: int):
    """Goal: exactly the bytes that come from somewhere else, over any pieces."""
    choose = random.Random(seed)

    def entry() -> list[Piece]:
        names = [choose.choice((b"a", b"b", b"c", HOLE)) for _ in range(choose.randrange(5))]
        return [Piece(name, choose.randrange(LENGTH), choose.randrange(1, LENGTH)) for name in names]

    old = entry()
    new = entry() if choose.random() < 0.3 else [*old, *entry()[:1]]
    before, after = rendered(old), rendered(new)
    changed = {at: (span.chunk, span.start + at - span.offset) for span in changed_spans(old, new, LENGTH)
               for at in range(span.offset, span.offset + span.length)}  # fmt: skip
    assert set(changed) == {at for at in range(LENGTH) if before[at] != after[at]}
    assert all(after[at][0] == chunk and chunk in (HOLE, after[at][0]) for at, (chunk, _) in changed.items())
    assert all(after[at] == source for at, source in changed.items() if source[0] != HOLE)


# -- contents


@pytest.mark.parametrize("seed", range(40))
def test_any_changes_of_another_client_come_in_place(two, seed: int, monkeypatch):
    """Goal: after each commit of the other client, what is open here reads as that, also where too much has changed to
    be brought at once; and what is then written here, and committed, is right on both."""
    choose = random.Random(seed)
    monkeypatch.setattr(overtaking, "BROUGHT_BYTES_MAX", choose.choice((0, 200_000, 1 << 30)))
    one, other = two
    first = one.create("f")
    one.write(first, choose.randbytes(300_000), 0)
    one.commit(first)
    second = other.open("f", write=True)
    for _ in range(8):
        change(choose, one, first)
        one.commit(first)
        if choose.random() < 0.5:
            whole(other, second)
        bring(other, second)
        assert whole(other, second) == uploaded(one.volume, one.servers, "f") == whole(one, first)
        change(choose, other, second)
        other.commit(second)
        bring(one, first)
        assert whole(one, first) == whole(other, second) == uploaded(one.volume, one.servers, "f")


def change(choose: random.Random, client: Client, content: Content) -> None:
    for _ in range(choose.randrange(1, 4)):
        if choose.random() < 0.3:
            client.resize(content, choose.choice((0, 1, 65_536, 150_000, 400_000, ENTRY_BYTES + 10)))
        else:
            client.write(content, choose.randbytes(choose.choice((1, 100, 70_000))), choose.randrange(300_000))


def test_only_what_has_changed_travels(two):
    """Goal: a small change in a file that is here is brought as one block, at once, and reading needs nothing more."""
    one, other = two
    first = one.create("f")
    one.write(first, random.Random(1).randbytes(3_000_000), 0)
    one.commit(first)
    second = other.open("f")
    whole(other, second)
    one.write(first, b"changed", 1_000_000)
    one.commit(first)
    before = other.servers.received_bytes
    bring(other, second)
    assert other.servers.received_bytes - before <= 65_536
    assert other.read(second, 1_000_000, 7) == b"changed"
    assert other.servers.received_bytes - before <= 65_536


def test_nothing_of_the_old_version_is_seen_again(two):
    """Goal: what was cut off and grown again is zero, also where the cache still had it."""
    one, other = two
    first = one.create("f")
    one.write(first, b"x" * 100_000, 0)
    one.commit(first)
    second = other.open("f")
    whole(other, second)
    one.resize(first, 10)
    one.commit(first)
    one.resize(first, 50_000)
    one.commit(first)
    bring(other, second)
    assert whole(other, second) == b"x" * 10 + bytes(49_990)


def test_readers_see_no_zeros_meanwhile(two):
    """Goal: what did not change is right at every moment, while versions follow each other."""
    one, other = two
    first = one.create("f")
    one.write(first, b"x" * 200_000, 0)
    one.commit(first)
    second = other.open("f")
    whole(other, second)
    second.shared, wrong, done = True, [], threading.Event()

    def read() -> None:
        buffer = bytearray(50_000)
        while not done.is_set():
            with second.mutex:
                second.read_into(memoryview(buffer), 0)
            if buffer.count(b"x") != len(buffer):
                wrong.append(bytes(buffer))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        one.write(first, b"%d" % (number % 10) * 1000, 150_000)
        one.commit(first)
        bring(other, second)
    done.set()
    reader.join()
    assert wrong == []


def test_a_crash_leaves_no_mixture(two, monkeypatch: pytest.MonkeyPatch):
    """Goal: a client that is killed while a content becomes another version has nothing to send afterwards, and reads
    what was committed."""
    one, other = two
    first = one.create("f")
    one.write(first, b"x" * 100_000, 0)
    one.commit(first)
    second = other.open("f", write=True)
    whole(other, second)
    one.write(first, b"new", 50_000)
    one.commit(first)

    def download(name: bytes) -> bytes:
        return other.servers.download(name)

    killed = RuntimeError("killed")
    with monkeypatch.context() as patched:
        patched.setattr(other.cache.index, "save_clean", lambda contents: (_ for _ in ()).throw(killed))
        with pytest.raises(RuntimeError):
            overtake(second, newest(other, second), other.cache, download)
    other.kill()
    assert other.cache.unsent() == []
    assert other.cache.index.load_unsent(other.cache.path_of) == []
    again = other.open("f")
    assert whole(other, again) == uploaded(one.volume, one.servers, "f")


@pytest.mark.parametrize("rewritten", [b"", b"new"])
def test_what_a_killed_client_had_fetched(two, rewritten: bytes):
    """Goal: where nothing says that something is here, and the newer version has a hole, as all or as a part of an
    entry, that reads as zeros."""
    one, other = two
    first = one.create("f")
    one.write(first, b"x" * 3 * ENTRY_BYTES, 0)
    one.commit(first)
    other.close(other.open("f"))
    other.cache.maintain()
    fetched = other.open("f")
    whole(other, fetched)
    other.kill()
    second = other.open("f")
    assert second.present == Ranges()
    punch(first, 0, ENTRY_BYTES, 5, True)
    if rewritten:
        one.write(first, rewritten, ENTRY_BYTES // 2)
    one.commit(first)
    bring(other, second)
    assert whole(other, second) == uploaded(one.volume, one.servers, "f") == whole(one, first)
    assert whole(other, second).startswith(bytes(ENTRY_BYTES // 2) + rewritten)


def test_a_crash_leaves_nothing_in_a_hole(two, monkeypatch: pytest.MonkeyPatch):
    """Goal: a client is killed while content is laid into a hole, and the version after that has the hole again: it
    reads as zeros."""
    one, other = two
    second = other.create("f")
    other.write(second, b"x" * 2 * ENTRY_BYTES, 0)
    punch(second, ENTRY_BYTES, 2 * ENTRY_BYTES, 5, True)
    other.commit(second)
    other.close(second, write=True)
    other.cache.maintain()
    second, first = other.open("f"), one.open("f", write=True)
    one.write(first, b"new", ENTRY_BYTES + 100)
    one.commit(first)
    with monkeypatch.context() as patched:
        patched.setattr(other.cache.index, "save_clean", lambda contents: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError):
            bring(other, second)
    assert os.pread(second.fd, 3, ENTRY_BYTES + 100) == b"new"
    punch(first, ENTRY_BYTES, 2 * ENTRY_BYTES, 5, True)
    one.commit(first)
    other.kill()
    assert whole(other, other.open("f")) == uploaded(one.volume, one.servers, "f") == whole(one, first)
