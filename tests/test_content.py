"""Content against a bytearray: what is read is what was written, what is uploaded is what is there, and not more."""

import contextlib
import errno
import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Client, Servers, manifest_entries, uploaded
from volumes import Volume

from dfsfuse import chunks, direct_io, errors, segments, sparse_files
from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES, PIECES_MAX, Piece
from dfsfuse.content import Content
from dfsfuse.disk_io import write_all
from dfsfuse.fetching import fetch
from dfsfuse.holes import allocated_bytes
from dfsfuse.manifests import Entries
from dfsfuse.messages import SEGMENT_ENTRIES
from dfsfuse.sparse_files import punch_hole
from servers.store.memory import MemoryStore

MIB = 1 << 20


class World:
    """One volume with two clients."""

    def __init__(self, folder: Path):
        self.volume, self.servers = Volume(MemoryStore()), Servers()
        self.one = Client(self.volume, self.servers, folder / "one")
        self.two = Client(self.volume, self.servers, folder / "two")

    def file(self, data: bytes) -> Content:
        """A committed file "f", open for writing at `one`."""
        content = self.one.create("f")
        self.one.write(content, data, 0)
        self.one.commit(content)
        return content

    def committed(self) -> bytes:
        return uploaded(self.volume, self.servers, "f")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.volume.check()


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


# -- compared with a bytearray


class _Run:
    """Random operations on one file by two clients in turn, and the same on a bytearray."""

    def __init__(self, world: World, seed: int):
        self.world, self.choose = world, random.Random(seed)
        self.model = bytearray()
        self.client, self.other = world.one, world.two
        self.content = self.client.create("f")
        self.steps = [self.write, self.write, self.write, self.append, self.resize, self.read, self.read, self.commit]
        self.steps += [self.change_sides, self.reopen]

    def place(self) -> int:
        """Anywhere, but often at a border of blocks or entries, or near it."""
        around = self.choose.choice([0, BLOCK_BYTES, ENTRY_BYTES, 2 * ENTRY_BYTES, len(self.model)])
        near = max(0, around + self.choose.choice([0, self.choose.randrange(-200, 200)]))
        return near if self.choose.random() < 0.6 else self.choose.randrange(10 * MIB)

    def length(self) -> int:
        return self.choose.choice([1, 100, 4096, 70_000, MIB, self.choose.randrange(1, 5 * MIB)])

    def write(self) -> None:
        self._write(self.place())

    def append(self) -> None:
        self._write(len(self.model))

    def _write(self, offset: int) -> None:
        data = direct_io.memory(self.length())
        data[:] = self.choose.randbytes(len(data))
        self.client.write(self.content, data, offset)
        self.model.extend(bytes(max(0, offset - len(self.model))))
        self.model[offset : offset + len(data)] = data

    def resize(self) -> None:
        size = self.choose.choice([0, ENTRY_BYTES, 2 * ENTRY_BYTES, self.place(), self.place()])
        self.client.resize(self.content, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def read(self) -> None:
        offset, length = self.place(), self.length()
        assert self.client.read(self.content, offset, length) == self.model[offset : offset + length]
        assert self.content.size == len(self.model)

    def commit(self) -> None:
        self.client.commit(self.content)
        assert self.world.committed() == self.model
        assert not self.content.changed

    def change_sides(self) -> None:
        self.commit()
        self.client.close(self.content, write=True)
        self.client, self.other = self.other, self.client
        self.content = self.client.open("f", write=True)
        self.read()

    def reopen(self) -> None:
        self.commit()
        self.client.close(self.content, write=True)
        self.client.cache.close()
        self.client.start()
        self.content = self.client.open("f", write=True)

    def check(self) -> None:
        count = chunks.entry_count(len(self.model))
        assert len(self.content.entries) == count
        assert all(0 <= first < last <= count for first, last in self.content.present)
        for index, entry in self.content.entries.items():
            assert len(entry) <= PIECES_MAX
            assert all(piece.end <= chunks.entry_length(index, len(self.model)) for piece in entry)


@pytest.mark.parametrize("seed", range(1, 7))
def test_random_operations_do_what_a_bytearray_does(world: World, seed: int) -> None:
    """Goal: reads by either client, after any writes, cuts, commits and changes of the writer, equal the model; what is
    uploaded reassembles to it."""
    run = _Run(world, seed)
    for _ in range(120):
        run.choose.choice(run.steps)()
        run.check()
    run.commit()
    reader = run.other.open("f")
    assert run.other.read(reader, 0, len(run.model) + 1) == run.model


# -- only what changed travels


def sent_by(world: World, content: Content, data: bytes, offset: int) -> int:
    before = world.servers.sent_bytes
    world.one.write(content, data, offset)
    world.one.commit(content)
    return world.servers.sent_bytes - before


@pytest.mark.parametrize("offset", [0, 5000, BLOCK_BYTES - 2048, ENTRY_BYTES - 2048, ENTRY_BYTES, 9 * MIB])
def test_a_small_change_uploads_a_block(world: World, offset: int) -> None:
    """Goal: 4 KiB changed in a large file upload at most 64 KiB, wherever they are."""
    data = bytearray(noise(9 * MIB + 5000))
    content = world.file(data)
    assert sent_by(world, content, b"x" * 4096, offset) <= BLOCK_BYTES
    data[offset : offset + 4096] = b"x" * 4096
    assert world.committed() == data


@pytest.mark.parametrize("size", [9 * MIB + 5, 8 * MIB, 8 * MIB - 50, 9 * MIB - 50, 9 * MIB])
def test_an_append_uploads_a_block(world: World, size: int) -> None:
    """Goal: 100 bytes appended upload at most 64 KiB, also across borders, and by a client that has nothing of it."""
    data = noise(size)
    world.one.close(world.file(data), write=True)
    content = world.two.open("f", write=True)
    before = world.servers.sent_bytes
    world.two.write(content, b"x" * 100, size)
    world.two.commit(content)
    assert world.servers.sent_bytes - before <= BLOCK_BYTES
    assert world.committed() == data + b"x" * 100


def test_pieces_merge_when_there_are_too_many(world: World) -> None:
    """Goal: many small changes of one entry cost a block each, and once in 16 the whole entry."""
    content = world.file(noise(ENTRY_BYTES))
    costs = [sent_by(world, content, b"%d" % step, (2 * step + 1) * BLOCK_BYTES) for step in range(20)]
    assert sorted(costs)[:-1] == [BLOCK_BYTES] * 19
    assert max(costs) == ENTRY_BYTES
    assert world.committed() == world.one.read(content, 0, ENTRY_BYTES)


def test_the_same_block_again_makes_no_more_pieces(world: World) -> None:
    """Goal: a file that is rewritten in one place does not fragment."""
    content = world.file(noise(ENTRY_BYTES))
    for step in range(40):
        assert sent_by(world, content, b"%d" % step, 100_000) == BLOCK_BYTES
    assert len(content.entries[0]) == 2


def test_nothing_changed_commits_nothing(world: World) -> None:
    """Goal: no request, no version."""
    content = world.file(b"data")
    version = content.version
    assert world.one.commit(content) is None
    assert world.volume.at("f").version == version


def test_only_what_is_missing_is_fetched(world: World) -> None:
    """Goal: entries that a newer version shares with the cached one are not fetched again; overwritten ones never."""
    content = world.file(noise(4 * ENTRY_BYTES))
    reader = world.two.open("f")
    world.two.read(reader, 0, 4 * ENTRY_BYTES)
    world.servers.latest._kept.clear()
    world.two.close(reader)
    world.one.write(content, b"new", 2 * ENTRY_BYTES + 100_000)
    world.one.commit(content)
    before = world.servers.received_bytes
    reader = world.two.open("f", write=True)
    world.two.write(reader, noise(ENTRY_BYTES, 2), 3 * ENTRY_BYTES)
    assert world.servers.received_bytes == before
    world.two.read(reader, 0, 4 * ENTRY_BYTES)
    assert world.servers.received_bytes - before == ENTRY_BYTES + BLOCK_BYTES


def test_reading_on_reads_ahead(world: World) -> None:
    """Goal: a read at the start, or after what is here, brings the next entries too, and so does the first one in the
    entry that follows; others do not."""
    world.one.close(world.file(noise(8 * ENTRY_BYTES)), write=True)
    reader = world.two.open("f")

    def ahead(offset: int) -> tuple[list[int], list[int]]:
        missing = reader.missing(offset, offset + 10)
        return missing, reader.missing_ahead(offset + 10, missing)

    assert ahead(0) == ([0], [1, 2, 3])
    world.two.read(reader, 0, ENTRY_BYTES + 10)
    assert ahead(ENTRY_BYTES) == ([], [2, 3, 4])
    assert ahead(ENTRY_BYTES + 10) == ([], [])
    assert ahead(4 * ENTRY_BYTES) == ([4], [])
    assert ahead(2 * ENTRY_BYTES) == ([2], [3, 4, 5])
    assert ahead(9 * ENTRY_BYTES) == ([], [])


# -- large files


def test_a_file_of_many_entries(world: World) -> None:
    """Goal: a manifest in segments: written, appended to by another client, cut to few entries again."""
    content = world.one.create("f")
    world.one.resize(content, 20 * ENTRY_BYTES)
    world.one.write(content, b"middle", 10 * ENTRY_BYTES)
    world.one.commit(content)
    world.one.close(content, write=True)
    assert world.volume.open(content.ino).manifest.segments
    content = world.two.open("f", write=True)
    assert len(content.entries) == 20
    world.two.write(content, b"end", 20 * ENTRY_BYTES)
    world.two.commit(content)
    assert world.committed()[-3:] == b"end"
    world.two.resize(content, 11 * ENTRY_BYTES)
    world.two.commit(content)
    assert world.committed() == bytes(10 * ENTRY_BYTES) + b"middle" + bytes(ENTRY_BYTES - 6)


def test_a_manifest_of_many_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a segment with more pieces than one request carries is put in several, and is whole for other clients."""
    monkeypatch.setattr(segments, "PUT_PIECES_MAX", 20)
    content = world.one.create("f")
    world.one.resize(content, 20 * ENTRY_BYTES)
    for index in range(20):
        for block in (1, 3, 5):
            world.one.write(content, b"%d, %d" % (index, block), index * ENTRY_BYTES + block * BLOCK_BYTES)
    world.one.commit(content)
    assert len(manifest_entries(world.volume, content.ino)) == 20
    reader = world.two.open("f")
    assert world.two.read(reader, 0, 20 * ENTRY_BYTES) == world.committed()
    assert world.committed()[19 * ENTRY_BYTES + 5 * BLOCK_BYTES :].startswith(b"19, 5")


def test_cut_within_the_last_entry_of_a_segment_and_grown_again(world: World) -> None:
    """Goal: what was cut off reads as zeros everywhere after growing again, also where a whole segment is kept."""
    content = world.one.create("f")
    last = (SEGMENT_ENTRIES - 1) * ENTRY_BYTES
    world.one.resize(content, 2 * SEGMENT_ENTRIES * ENTRY_BYTES)
    world.one.write(content, b"secret" * 20_000, last)
    world.one.commit(content)
    world.one.resize(content, last + 6)
    world.one.commit(content)
    world.one.resize(content, last + 5 * ENTRY_BYTES)
    world.one.commit(content)
    entries = manifest_entries(world.volume, content.ino)
    assert entries[SEGMENT_ENTRIES - 1] == content.entries[SEGMENT_ENTRIES - 1]
    reader = world.two.open("f")
    assert world.two.read(reader, last, 100) == b"secret" + bytes(94)


def test_unchanged_segments_are_kept(world: World) -> None:
    """Goal: a change in one part of a very large file writes that segment alone; parts of holes have none."""
    content = world.one.create("f")
    world.one.resize(content, 3 * SEGMENT_ENTRIES * ENTRY_BYTES)
    for part in (0, 2):
        world.one.write(content, b"here", part * SEGMENT_ENTRIES * ENTRY_BYTES)
    world.one.commit(content)
    first = content.segments.part(0, 3)
    assert [bool(segment) for segment in first] == [True, False, True]
    world.one.write(content, b"changed", 2 * SEGMENT_ENTRIES * ENTRY_BYTES)
    world.one.commit(content)
    assert content.segments.part(0, 2) == first[:1]
    assert content.segments[2] != first[2]


# -- when sending fails, and meanwhile


def test_what_is_written_during_an_upload_stays_dirty(world: World) -> None:
    """Goal: the commit has a consistent moment or later bytes, and the next commit has the rest, also a growth."""
    content = world.one.create("f")
    world.one.write(content, noise(3 * ENTRY_BYTES), 0)

    def write_meanwhile() -> None:
        world.servers.before_store = lambda: None
        world.one.write(content, b"late", 2 * ENTRY_BYTES)
        world.one.write(content, b"beyond", 5 * ENTRY_BYTES)

    world.servers.before_store = write_meanwhile
    world.one.commit(content)
    assert content.changed
    assert world.volume.at("f").size == 3 * ENTRY_BYTES
    world.one.commit(content)
    expected = bytearray(noise(3 * ENTRY_BYTES)) + bytes(2 * ENTRY_BYTES) + b"beyond"
    expected[2 * ENTRY_BYTES : 2 * ENTRY_BYTES + 4] = b"late"
    assert world.committed() == expected
    assert not content.changed


@pytest.mark.parametrize("resized", [False, True])
def test_a_failed_upload_is_still_to_be_sent(world: World, resized: bool) -> None:
    """Goal: an error before the commit leaves everything changed, and the next attempt sends it all."""
    content = world.file(noise(ENTRY_BYTES))
    world.one.write(content, b"changed", 100)
    if resized:
        world.one.resize(content, 1000)

    def fail() -> None:
        world.servers.before_store = lambda: None
        raise errors.Unreachable("no file server")

    world.servers.before_store = fail
    with pytest.raises(errors.Unreachable):
        world.one.commit(content)
    assert content.changed
    world.one.commit(content)
    assert world.committed() == world.one.read(content, 0, content.size)
    assert world.volume.at("f").version == 2


@pytest.mark.parametrize("lost", ["lose_request", "lose_reply"])
def test_a_commit_without_an_answer_is_asked_again(world: World, lost: str) -> None:
    """Goal: whether it happened or not, the content is committed once, and what was written since is the next
    version."""
    content = world.file(b"first")
    world.one.write(content, b"second", 0)
    setattr(world.one.session, lost, True)
    with pytest.raises(errors.TimedOut):
        world.one.commit(content)
    assert content.changed
    world.one.write(content, b"third!", 0)
    world.one.commit(content)
    assert world.committed() == b"third!"
    assert world.volume.at("f").version == 3


@pytest.mark.parametrize("lost", ["lose_request", "lose_reply"])
@pytest.mark.parametrize("grown", [0, ENTRY_BYTES + 300, 3 * ENTRY_BYTES], ids=["cut", "grown", "longer"])
def test_what_is_cut_while_a_commit_is_in_doubt_stays_cut(world: World, lost: str, grown: int) -> None:
    """Goal: whether the commit has happened or not, what was cut after it is gone, and zeros where the content has
    grown since; nothing of the longer content comes back."""
    content = world.file(noise(2 * ENTRY_BYTES + 1000))
    world.one.write(content, b"second", ENTRY_BYTES - 3)
    world.one.write(content, b"third", 2 * ENTRY_BYTES)
    setattr(world.one.session, lost, True)
    with pytest.raises(errors.TimedOut):
        world.one.commit(content)
    world.one.resize(content, 100)
    if grown:
        world.one.resize(content, grown)
    assert 100 <= allocated_bytes(content) <= 4096
    world.one.commit(content)
    expected = noise(100).ljust(max(grown, 100), b"\0")
    assert world.one.read(content, 0, content.size) == world.committed() == expected
    assert [index for index, _ in content.entries.items()] == [0]
    assert len(content.entries) == chunks.entry_count(content.size)


def test_a_commit_on_an_old_version_is_refused(world: World) -> None:
    """Goal: nothing overwrites what it was not based on; the content stays changed."""
    content = world.file(b"base")
    other = world.two.open("f", write=True)
    world.two.write(other, b"theirs", 0)
    world.two.commit(other)
    world.one.write(content, b"mine", 0)
    with pytest.raises(errors.VersionConflict):
        world.one.commit(content)
    assert content.changed
    assert world.committed() == b"theirs"


# -- fetching


def test_what_was_written_while_an_entry_was_fetched_stays(world: World) -> None:
    """Goal: a whole entry overwritten during its download is not covered by what comes."""
    world.one.close(world.file(noise(ENTRY_BYTES)), write=True)
    content = world.two.open("f", write=True)

    def lend(name: bytes) -> contextlib.AbstractContextManager[memoryview]:
        content.write(b"n" * ENTRY_BYTES, 0, 1)
        return world.servers.latest.lend(name)

    fetch(content, 0, lend)
    assert world.two.read(content, 0, 5) == b"nnnnn"


def test_a_chunk_that_is_too_short_is_corrupt(world: World) -> None:
    """Goal: an entry whose chunk lacks bytes is an error, never zeros; it stays missing."""
    world.one.close(world.file(b"data"), write=True)
    content = world.two.open("f")
    with pytest.raises(errors.ChunkCorrupt):
        fetch(content, 0, lambda name: contextlib.nullcontext(memoryview(b"dat")))
    assert content.missing(0, 4) == [0]


def test_fetching_does_not_hide_that_the_index_is_behind(world: World) -> None:
    """Goal: a write after a commit tells the index, also when something was fetched in between: a crash would else
    take the new write for the commit that has happened."""
    world.one.close(world.file(noise(2 * ENTRY_BYTES)), write=True)
    content = world.two.open("f", write=True)
    world.two.write(content, b"a" * ENTRY_BYTES, 0)
    world.two.commit(content)
    fetch(content, 1, world.servers.latest.lend)
    assert content.write(b"b", 0, 1), "the index must be told"


def test_reading_beyond_the_end(world: World) -> None:
    """Goal: nothing beyond the size, whatever the buffer."""
    content = world.file(b"data")
    assert [world.one.read(content, *at) for at in ((0, 9), (2, 9), (4, 9), (99, 9), (0, 0))] == [
        b"data", b"ta", b"", b"", b"",
    ]  # fmt: skip


def test_append_ignores_the_offset(world: World) -> None:
    """Goal: O_APPEND writes at the end."""
    content = world.file(b"data")
    content.write(b"more", 0, 1, append=True)
    assert world.one.read(content, 0, 99) == b"datamore"


# -- following a newer version


def test_stale_bytes_of_a_killed_client_never_show(world: World) -> None:
    """Goal: what a killed client had fetched is on its disk though the index does not say so; where the newer version
    has holes, they read as zeros."""
    content = world.file(noise(ENTRY_BYTES))
    reader = world.two.open("f")
    world.two.close(reader)
    reader = world.two.open("f")
    world.two.read(reader, 0, ENTRY_BYTES)
    world.two.kill()
    world.one.resize(content, 1000)
    world.one.resize(content, ENTRY_BYTES)
    world.one.commit(content)
    reader = world.two.open("f")
    assert world.two.read(reader, 0, ENTRY_BYTES) == noise(ENTRY_BYTES)[:1000] + bytes(ENTRY_BYTES - 1000)


def test_following_where_a_kill_left_no_file(world: World) -> None:
    """Goal: a row whose file was never made, or is gone, follows a newer version all the same."""
    content = world.file(b"first")
    reader = world.two.open("f")
    world.two.close(reader)
    world.two.cache.close()
    (world.two.home / "contents").joinpath(f"{reader.row & 0xFF:02x}", f"{reader.row:x}").unlink()
    world.two.start()
    world.one.write(content, b"second", 0)
    world.one.commit(content)
    assert world.two.read(world.two.open("f"), 0, 9) == b"second"


@pytest.mark.parametrize("size", [0, 100, ENTRY_BYTES, 3 * ENTRY_BYTES, 3 * ENTRY_BYTES + 1])
def test_following_any_size(world: World, size: int) -> None:
    """Goal: a cached content that follows a shorter or longer version reads like it."""
    content = world.file(noise(2 * ENTRY_BYTES))
    reader = world.two.open("f")
    world.two.read(reader, 0, 2 * ENTRY_BYTES)
    world.two.close(reader)
    world.one.resize(content, size)
    world.one.commit(content)
    reader = world.two.open("f")
    assert world.two.read(reader, 0, size + 1) == noise(2 * ENTRY_BYTES)[:size].ljust(size, b"\0")


def test_entries_fit_the_size() -> None:
    """Goal: one entry for each 4 MiB, in a list of its own, whatever a manifest has."""
    many = [[Piece(b"c" * 32, 0, 1)] for _ in range(5)]
    for given in (many, many[:1], []):
        entries = Entries(given)
        content = Content(1, 2, "", 3 * ENTRY_BYTES, entries)
        assert content.entries == Entries(given[:3], count=3)
        assert entries == Entries(given)


def test_holes_and_writes_on_disk(tmp_path: Path) -> None:
    """Goal: punch_hole gives zeros and keeps the size; write_all goes on after a disk that takes less than all."""
    with open(tmp_path / "f", "w+b") as file:
        write_all(file.fileno(), noise(100_000), 50)
        punch_hole(file.fileno(), 4096, 8192)
        data = file.read()
    assert data[4096 : 4096 + 8192] == bytes(8192)
    assert data[:4096] == bytes(50) + noise(100_000)[:4046]
    assert data[12_288:] == noise(100_000)[12_238:]


def test_a_disk_that_cannot_punch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: zeros are written where there is content, so a file of 8 TiB does not fill the disk; the size stays."""

    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "refused")

    monkeypatch.setattr(sparse_files, "_fallocate", refused)
    size = 8 << 40
    with open(tmp_path / "f", "w+b") as file:
        os.ftruncate(file.fileno(), size)
        write_all(file.fileno(), noise(3 << 20), 1 << 40)
        write_all(file.fileno(), b"end", size - 3)
        punch_hole(file.fileno(), (1 << 40) + 100, size)
        assert os.fstat(file.fileno()).st_size == size
        assert os.fstat(file.fileno()).st_blocks * 512 < 4 << 20
        assert os.pread(file.fileno(), 4 << 20, 1 << 40).rstrip(b"\0") == noise(3 << 20)[:100]
        assert os.pread(file.fileno(), 3, size - 3) == bytes(3)


def test_what_a_full_disk_has_taken_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a write that the disk cut short fails, and what this mount reads from then on is what the servers get."""
    content = world.file(b"o" * MIB)
    pwrite = os.pwrite

    def cut_short(fd: int, data: memoryview, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", fails)
        return pwrite(fd, data[: len(data) // 2], offset)

    def fails(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", cut_short)
    with pytest.raises(OSError, match="full"):
        world.one.write(content, b"n" * 1000, 100)
    monkeypatch.setattr(os, "pwrite", pwrite)
    world.one.commit(content)
    assert world.committed() == world.one.read(content, 0, MIB)
    assert world.committed()[100:1100] == b"n" * 500 + b"o" * 500


def test_a_lineage_is_never_repeated(world: World) -> None:
    """Goal: a content that is loaded again, and one that follows another version, are told apart from all before:
    the kernel keeps pages by it."""
    content = world.file(b"one")
    world.one.close(content, write=True)
    world.one.cache.maintain()
    seen = {content.lineage}
    for number in range(3):
        theirs = world.two.open("f", write=True)
        world.two.write(theirs, b"%d" % number, 0)
        world.two.commit(theirs)
        world.two.close(theirs, write=True)
        world.one.cache._current.clear()
        mine = world.one.open("f")
        assert mine.lineage not in seen
        seen.add(mine.lineage)
        world.one.close(mine)
        world.one.cache.maintain()


def test_only_a_durable_commit_makes_a_content_synced(world: World) -> None:
    """Goal: fsync may be passed over only when the very commit that the content is at was brought to the disks, and
    so was what that is based on."""
    content = world.file(b"one")
    assert not content.synced
    world.one.write(content, b"two", 0)
    world.one.session.lose_reply = True
    with pytest.raises(errors.TimedOut):
        world.one.commit(content)
    world.one.committer.commit(content, durable=True)
    assert not content.synced
    world.one.write(content, b"six", 0)
    world.one.committer.commit(content, durable=True)
    assert not content.synced
    content.synced = True
    world.one.write(content, b"ten", 0)
    world.one.committer.commit(content, durable=True)
    assert content.synced


def test_a_durable_commit_brings_all_of_it_to_the_disks(world: World) -> None:
    """Goal: S10. One small part is synced by the request that sends it; of several, and of none, the servers are asked
    to sync once."""
    content, servers = world.file(b"one"), world.servers
    world.one.write(content, b"two", 0)
    world.one.committer.commit(content, durable=True)
    assert (servers.synced_uploads, servers.syncs) == (1, 0)
    world.one.write(content, bytes(8), 0)
    world.one.write(content, b"six", ENTRY_BYTES)
    world.one.committer.commit(content, durable=True)
    assert (servers.synced_uploads, servers.syncs) == (1, 1)
    world.one.resize(content, 0)
    world.one.committer.commit(content, durable=True)
    assert (servers.synced_uploads, servers.syncs) == (1, 2)


def test_receipts_of_who_has_not_synced(world: World) -> None:
    """Goal: S10: a server that has synced may have started again before the commit, which rests on the receipts of
    others then: so where one of these has not synced, fsync asks the directory what it knows."""
    content = world.file(b"one")
    content.synced = True
    world.servers.syncing = "AB"
    world.one.write(content, b"two" * BLOCK_BYTES, 0)
    world.one.write(content, b"six" * BLOCK_BYTES, ENTRY_BYTES)
    world.one.committer.commit(content, durable=True)
    assert not content.synced


def test_an_open_during_the_commit_shares_the_content(world: World) -> None:
    """Goal: the directory has the new version already and this client has not heard: it is the same content."""
    content = world.file(b"one")
    world.one.write(content, b"two", 0)
    world.one.session.lose_reply = True
    with pytest.raises(errors.TimedOut):
        world.one.commit(content)
    again = world.one.open("f")
    assert again is content
    world.one.close(again)


def test_the_largest_file_costs_little_memory(world: World) -> None:
    """Goal: holes cost nothing: a file of 16 TiB, which has four million entries, takes no more memory than any, and
    what is written into it changes one of them."""
    content, size = world.one.create("f"), (16 << 40) - BLOCK_BYTES
    tracemalloc.start()
    world.one.resize(content, size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    world.one.write(content, b"end", size - 3)
    world.one.commit(content)
    assert [index for index, _ in content.entries.items()] == [len(content.entries) - 1]
    assert world.volume.at("f").size == size
