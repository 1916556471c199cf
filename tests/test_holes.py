"""Holes and room: what is punched, allocated and copied reads right everywhere, and costs what it should."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Servers, manifest_entries
from filesystems import Machine
from support import error
from volumes import Volume

from dfsfuse import chunks, errors, messages
from dfsfuse.changes import HOLE_BYTES
from dfsfuse.chunks import ENTRY_BYTES, HOLE, PIECES_MAX, Entry, Piece
from dfsfuse.openfiles import FILE_BYTES_MAX, Handle
from servers.store.memory import MemoryStore

MIB, TIB = 1 << 20, 1 << 40
KEEP, PUNCH, ZERO = 1, 3, 0x10


@pytest.fixture
def volume() -> Iterator[Volume]:
    made = Volume(MemoryStore())
    for name in "ABC":
        heartbeat = made.heartbeat(name)
        heartbeat.server.total_bytes = heartbeat.server.free_bytes = TIB
        made.core.register(heartbeat, made.now_s)
    yield made
    made.check()


@pytest.fixture
def machine(volume: Volume, tmp_path: Path) -> Machine:
    made = Machine(volume, Servers(), tmp_path / "one", 0.0)
    made.session.renew()
    return made


@pytest.fixture
def other(volume: Volume, machine: Machine, tmp_path: Path) -> Machine:
    return Machine(volume, machine.servers, tmp_path / "two", 0.0)


def content_at(machine: Machine, handle: Handle) -> list[tuple[int, int]]:
    """All stretches of content, as SEEK_DATA and SEEK_HOLE tell."""
    found, offset = [], 0
    while True:
        try:
            offset = machine.files.lseek(handle, offset, os.SEEK_DATA)
        except OSError as none:
            if none.errno != errno.ENXIO:
                raise
            return found
        found.append((offset, machine.files.lseek(handle, offset, os.SEEK_HOLE)))
        offset = found[-1][1]
        if offset == handle.content.size:
            return found


# -- entries


def test_a_hole_in_an_entry() -> None:
    """Goal: pieces are cut where they end in the hole, hidden where they lie in it, and none is laid over nothing."""
    one, two = Piece(b"1" * 32, 0, 100), Piece(b"2" * 32, 100, 50)
    assert chunks.punch([one, two], 60, 150) == [Piece(one.chunk, 0, 60)]
    assert chunks.punch([one, two], 20, 120) == [Piece(one.chunk, 0, 20), two, Piece(HOLE, 20, 100)]
    assert chunks.punch([one], 200, 300) == [one]
    assert chunks.punch([one, two], 0, 150) == []


def test_random_holes_in_an_entry() -> None:
    """Goal: whatever pieces an entry has, it reads as before with zeros in the hole."""
    choose = random.Random(3)
    for _ in range(300):
        entry: Entry = []
        for number in range(choose.randrange(6)):
            offset = choose.randrange(200)
            entry = chunks.lay(entry, Piece(bytes([number + 1]) * 32, offset, choose.randrange(1, 100)))
        first = choose.randrange(250)
        last = first + choose.randrange(1, 100)
        expected = shown(entry)
        expected[first:last] = [(b"", 0)] * (last - first)
        assert shown(chunks.punch(entry, first, last)) == expected[:400]


def shown(entry: Entry) -> list[tuple[bytes, int]]:
    """For each byte the chunk and where in it."""
    found = [(b"", 0)] * 400
    for span in chunks.spans(entry):
        for i in range(span.length):
            found[span.offset + i] = (span.chunk, span.start + i) if span.chunk != HOLE else (b"", 0)
    return found


def test_ranges_without_a_range() -> None:
    """Goal: taking away from a set of ranges does what it does to a set of numbers."""
    choose = random.Random(5)
    ranges, numbers = chunks.Ranges(), set()
    for _ in range(2000):
        start = choose.randrange(200)
        end = start + choose.randrange(30)
        getattr(ranges, choose.choice(["add", "remove"]))(start, end)
        span = set(range(start, end))
        last = (numbers | span, numbers - span)
        numbers = last[0] if {i for first, stop in ranges for i in range(first, stop)} == last[0] else last[1]
        assert {i for first, stop in ranges for i in range(first, stop)} == numbers
        assert {i for first, stop in ranges.within(50, 90) for i in range(first, stop)} == numbers & set(range(50, 90))


# -- compared with a bytearray


class _Run:
    """Random operations on one file by two clients in turn, and the same on a bytearray."""

    def __init__(self, machine: Machine, other: Machine, seed: int):
        self.here, self.there, self.choose = machine, other, random.Random(seed)
        self.model = bytearray()
        self.handle = machine.create("/f")
        self.steps = [self.write, self.write, self.punch, self.punch, self.allocate, self.clear, self.resize]
        self.steps += [self.copy, self.commit, self.change_sides]

    def range(self) -> tuple[int, int]:
        around = self.choose.choice([0, HOLE_BYTES, ENTRY_BYTES, 2 * ENTRY_BYTES, len(self.model)])
        start = max(0, around + self.choose.choice([0, 0, -HOLE_BYTES, self.choose.randrange(-9000, 9000)]))
        return start, self.choose.choice([1, 4096, 8192, 100_000, self.choose.randrange(1, 5 * MIB)])

    def grow(self, end: int) -> None:
        self.model.extend(bytes(max(0, end - len(self.model))))

    def write(self) -> None:
        start, length = self.range()
        data = self.choose.randbytes(length)
        self.here.put(self.handle, data, start)
        self.grow(start + length)
        self.model[start : start + length] = data

    def punch(self) -> None:
        start, length = self.range()
        self.here.files.fallocate(self.handle, PUNCH, start, length)
        end = min(start + length, len(self.model))
        self.model[start:end] = bytes(max(0, end - start))

    def allocate(self) -> None:
        start, length = self.range()
        keep = self.choose.choice([0, KEEP])
        self.here.files.fallocate(self.handle, keep, start, length)
        self.grow(0 if keep else start + length)

    def clear(self) -> None:
        start, length = self.range()
        keep = self.choose.choice([0, KEEP])
        self.here.files.fallocate(self.handle, ZERO | keep, start, length)
        self.grow(0 if keep else start + length)
        end = min(start + length, len(self.model))
        self.model[start:end] = bytes(max(0, end - start))

    def resize(self) -> None:
        size = self.range()[0]
        self.here.files.files.resize(self.handle, size)
        del self.model[size:]
        self.grow(size)

    def copy(self) -> None:
        (start, length), target = self.range(), self.range()[0]
        if not start < target < start + length and not target < start < target + length:
            copied = self.here.files.copy_range(self.handle, start, self.handle, target, length)
            assert copied == max(0, min(length, len(self.model) - start))
            self.grow(target + copied if copied else 0)
            self.model[target : target + copied] = self.model[start : start + copied]

    def commit(self) -> None:
        self.here.files.files.flush(self.handle)
        assert self.there.read("/f") == self.model
        for entry in manifest_entries(self.here.volume, self.handle.content.ino):
            assert len(entry) <= PIECES_MAX

    def change_sides(self) -> None:
        self.here.close(self.handle)
        self.here, self.there = self.there, self.here
        self.handle = self.here.open("/f", os.O_RDWR)

    def check(self) -> None:
        assert self.here.files.files.read(self.handle, len(self.model) + 1, 0) == self.model
        found, end = content_at(self.here, self.handle), 0
        for first, last in [*found, (len(self.model), 0)]:
            assert not any(self.model[end:first]), "a hole has content"
            end = last
        assert abs(self.here.stat("/f").allocated_bytes - sum(last - first for first, last in found)) < 64 * HOLE_BYTES


@pytest.mark.parametrize("seed", range(1, 9))
def test_random_changes_do_what_a_bytearray_does(machine: Machine, other: Machine, seed: int) -> None:
    """Goal: after any writes, holes, allocations, copies and cuts, by two clients in turn, everything reads as the
    model, holes hold nothing, and the blocks that stat tells are those of the content."""
    run = _Run(machine, other, seed)
    for _ in range(60):
        run.choose.choice(run.steps)()
        run.check()
    run.commit()
    run.here.close(run.handle)


# -- what it costs


def test_a_punched_hole_costs_nothing(machine: Machine, other: Machine) -> None:
    """Goal: no byte travels for a hole, the quota gets its room back, and others find it where it is."""
    machine.write("/f", random.Random(1).randbytes(3 * ENTRY_BYTES))
    handle, sent = machine.open("/f", os.O_RDWR), machine.servers.sent_bytes
    machine.files.fallocate(handle, PUNCH, MIB, 9 * MIB)
    assert machine.stat("/f").allocated_bytes == 3 * ENTRY_BYTES - 9 * MIB
    machine.close(handle)
    assert machine.servers.sent_bytes == sent
    assert other.volume.core.quota(messages.Quota()).used_bytes == 3 * MIB
    reader = other.open("/f")
    assert content_at(other, reader) == [(0, MIB), (10 * MIB, 12 * MIB)]
    assert other.files.files.read(reader, MIB, 2 * MIB) == bytes(MIB)
    other.close(reader)


def test_a_hole_is_punched_without_fetching_it(machine: Machine, other: Machine) -> None:
    """Goal: whole entries become holes at a client that has nothing of them."""
    machine.write("/f", random.Random(1).randbytes(3 * ENTRY_BYTES))
    handle, received = other.open("/f", os.O_RDWR), other.servers.received_bytes
    other.files.fallocate(handle, PUNCH, ENTRY_BYTES, 2 * ENTRY_BYTES)
    assert content_at(other, handle) == [(0, ENTRY_BYTES)]
    other.close(handle)
    assert other.servers.received_bytes == received


def test_a_hole_at_an_end_within_a_block(machine: Machine, other: Machine) -> None:
    """Goal: the last block of a file whose size is odd becomes a hole with the rest, for others too."""
    machine.write("/f", b"x" * (MIB + 100))
    handle = machine.open("/f", os.O_RDWR)
    machine.files.fallocate(handle, PUNCH, MIB - 100_000, MIB)
    machine.close(handle)
    assert other.read("/f") == b"x" * (MIB - 100_000) + bytes(100_100)
    reader = other.open("/f")
    assert content_at(other, reader) == [(0, -(-(MIB - 100_000) // HOLE_BYTES) * HOLE_BYTES)]
    other.close(reader)


def test_a_write_into_a_hole_that_was_just_punched(machine: Machine, other: Machine) -> None:
    """Goal: the rest of its first and last block is zeros for others too, as the hole had made it."""
    machine.write("/f", b"x" * MIB)
    handle = machine.open("/f", os.O_RDWR)
    machine.files.fallocate(handle, PUNCH, 65536, 131072)
    machine.put(handle, b"n" * 70_000, 70_000)
    machine.close(handle)
    expected = bytearray(b"x" * 65536 + bytes(131072) + b"x" * (MIB - 196608))
    expected[70_000:140_000] = b"n" * 70_000
    assert other.read("/f") == expected
    reader = other.open("/f")
    assert content_at(other, reader) == [(0, 65536), (69632, 143360), (196608, MIB)]
    other.close(reader)


def test_scattered_content_keeps_its_holes(machine: Machine, other: Machine) -> None:
    """Goal: up to 16 stretches of an entry are stored as they are; of more the shortest holes are filled."""
    handle = machine.create("/f")
    for number in range(16):
        machine.put(handle, b"x" * 8192, number * 250_000 // 4096 * 4096)
    machine.close(handle)
    reader = other.open("/f")
    assert len(content_at(other, reader)) == 16
    other.close(reader)
    handle = machine.open("/f", os.O_RDWR)
    machine.put(handle, b"x" * 8192, 16384)
    assert len(content_at(machine, handle)) == 17
    machine.close(handle)
    reader = other.open("/f")
    found = content_at(other, reader)
    assert (len(found), found[0]) == (16, (0, 24576))
    other.close(reader)


def test_allocated_room_counts_and_is_one_chunk(machine: Machine, other: Machine) -> None:
    """Goal: a gigabyte that was allocated is content for stat, quota and other clients, and sends one chunk."""
    handle = machine.create("/f")
    machine.files.fallocate(handle, 0, 0, 1 << 30)
    assert machine.stat("/f").allocated_bytes == machine.stat("/f").size == 1 << 30
    sent = machine.servers.sent_bytes
    machine.close(handle)
    assert machine.servers.sent_bytes - sent == ENTRY_BYTES
    assert other.volume.core.quota(messages.Quota()).used_bytes == other.stat("/f").allocated_bytes == 1 << 30


def test_what_is_written_while_room_is_sent(machine: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a write into room that is being sent, as zeros that stand for all of its parts, is in its own place alone,
    and travels with the next commit at the latest."""
    handle = machine.create("/f")
    machine.files.fallocate(handle, 0, 0, 4 * ENTRY_BYTES)
    is_blank, looked_at = handle.content.is_blank, []

    def write_then(*part: int) -> bool:
        found = is_blank(*part)
        looked_at.append(part)
        if len(looked_at) == 4:
            machine.put(handle, b"X" * 100)
        return found

    monkeypatch.setattr(handle.content, "is_blank", write_then)
    machine.files.files.flush(handle)
    monkeypatch.undo()
    sent = other.read("/f")
    assert not any(sent[100:])
    assert sent[:100] in (bytes(100), b"X" * 100)
    machine.close(handle)
    assert other.read("/f") == b"X" * 100 + bytes(4 * ENTRY_BYTES - 100)


def test_room_that_is_not_there_is_refused(machine: Machine) -> None:
    """Goal: EDQUOT beyond the quota, ENOSPC beyond what the servers have, EFBIG beyond the largest file; the file stays
    as it was."""
    handle = machine.create("/f")
    machine.put(handle, b"content")
    with error(errno.EFBIG):
        raise_os(lambda: machine.files.fallocate(handle, 0, FILE_BYTES_MAX, 1))
    machine.volume.core.quota(messages.Quota(bytes_max=100 * MIB))
    machine.session.renew()
    for mode in (0, KEEP, ZERO):
        with pytest.raises(errors.QuotaExceeded):
            machine.files.fallocate(handle, mode, 0, 101 * MIB)
    machine.files.fallocate(handle, PUNCH, 0, 101 * MIB)
    machine.volume.core.quota(messages.Quota(bytes_max=0))
    machine.session.renew()
    with pytest.raises(errors.NoSpace):
        machine.files.fallocate(handle, 0, 0, TIB + MIB)
    assert handle.content.size == 7
    machine.close(handle)


def test_more_than_the_caches_disk_allows_in_one_file(machine: Machine) -> None:
    """Goal: EFBIG from writing, cutting and allocating, where ext4 below has less than we do."""
    handle = machine.create("/f")
    acts = (
        lambda: machine.put(handle, b"xx", FILE_BYTES_MAX - 2),
        lambda: machine.files.fallocate(handle, 0, FILE_BYTES_MAX - 2, 1),
        lambda: machine.files.fallocate(handle, ZERO, FILE_BYTES_MAX - 2, 1),
        lambda: machine.files.files.resize(handle, FILE_BYTES_MAX),
    )
    for act in acts:
        with error(errno.EFBIG):
            raise_os(act)
    assert handle.content.size == 0
    machine.close(handle)


def raise_os(act) -> None:
    try:
        act()
    except errors.DfsError as refused:
        raise OSError(refused.errno, str(refused)) from None


# -- copying


def test_a_copy_keeps_holes(machine: Machine, other: Machine) -> None:
    """Goal: copy_range of a sparse file is sparse, and replaces what was there by the source's holes."""
    source, target = machine.create("/from"), machine.create("/to")
    machine.put(source, b"x" * MIB, 9 * MIB)
    machine.put(target, b"y" * MIB)
    done = 0
    while copied := machine.files.copy_range(source, done, target, done, 1 << 30):
        done += copied
    assert content_at(machine, target) == [(9 * MIB, 10 * MIB)]
    machine.close(source)
    machine.close(target)
    assert other.read("/to") == bytes(9 * MIB) + b"x" * MIB


def test_what_was_copied_comes_from_what_is_fetched(machine: Machine, other: Machine) -> None:
    """Goal: a source that is not in the cache is fetched, and a target that is changed in part too."""
    data = random.Random(2).randbytes(2 * ENTRY_BYTES)
    machine.write("/from", data)
    machine.write("/to", bytes(reversed(data)))
    source, target = other.open("/from"), other.open("/to", os.O_RDWR)
    assert other.files.copy_range(source, 1000, target, 3000, ENTRY_BYTES) == ENTRY_BYTES
    other.close(target)
    other.close(source)
    expected = bytearray(reversed(data))
    expected[3000 : 3000 + ENTRY_BYTES] = data[1000 : 1000 + ENTRY_BYTES]
    assert machine.read("/to") == expected


@pytest.mark.parametrize("act", ["copy", "clear", "allocate"])
def test_a_full_disk_changes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    """Goal: ENOSPC of the cache's disk before anything is overwritten: what is there reads as before, and is sent."""
    machine.write("/from", b"new" * 100_000)
    machine.write("/to", b"old" * 100_000)
    source, target = machine.open("/from"), machine.open("/to", os.O_RDWR)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("dfsfuse.sparse_files.reserve", full)
    calls = {
        "copy": lambda: machine.files.copy_range(source, 0, target, 0, 300_000),
        "clear": lambda: machine.files.fallocate(target, ZERO, 0, 300_000),
        "allocate": lambda: machine.files.fallocate(target, 0, 0, 400_000),
    }
    with pytest.raises(errors.NoSpace):
        calls[act]()
    assert machine.files.files.read(target, 400_000, 0) == b"old" * 100_000
    machine.close(target)
    machine.close(source)


# -- crashes and meanwhile


def test_a_kill_after_clearing_finds_what_was_cleared(machine: Machine, other: Machine) -> None:
    """Goal: the index is told before what the servers have is overwritten: a killed client's zeros are in the copy."""
    machine.write("/f", b"x" * 100_000)
    handle = machine.open("/f", os.O_RDWR)
    machine.files.fallocate(handle, ZERO, 0, 50_000)
    machine.kill()
    (copy,) = (name.decode() for name in other.names() if name != b"f")
    assert other.read("/" + copy) == bytes(50_000) + b"x" * 50_000


def test_holes_survive_a_kill(machine: Machine, other: Machine) -> None:
    """Goal: what was punched and not sent when the client was killed is a hole in the recovered copy."""
    machine.write("/f", b"x" * (2 * ENTRY_BYTES))
    handle = machine.open("/f", os.O_RDWR)
    machine.files.fallocate(handle, PUNCH, MIB, 2 * MIB)
    machine.kill()
    (copy,) = (name.decode() for name in other.names() if name != b"f")
    reader = other.open("/" + copy)
    assert content_at(other, reader) == [(0, MIB), (3 * MIB, 8 * MIB)]
    other.close(reader)
    assert other.read("/" + copy) == b"x" * MIB + bytes(2 * MIB) + b"x" * 5 * MIB


@pytest.mark.parametrize("fails", [False, True])
def test_a_hole_that_is_punched_during_an_upload(machine: Machine, other: Machine, fails: bool) -> None:
    """Goal: it is a hole for programs at once and after the next commit, also where the upload failed; and what is
    being sent is no hole."""
    handle, seen = machine.create("/f"), []
    machine.put(handle, b"x" * ENTRY_BYTES)

    def meanwhile() -> None:
        machine.servers.before_store = lambda: None
        seen.append(content_at(machine, handle))
        machine.files.fallocate(handle, PUNCH, 0, MIB)
        seen.append(content_at(machine, handle))
        if fails:
            raise errors.Unreachable("no file server")

    machine.servers.before_store = meanwhile
    if fails:
        with pytest.raises(errors.Unreachable):
            machine.files.files.flush(handle)
    else:
        machine.files.files.flush(handle)
    assert seen == [[(0, ENTRY_BYTES)], [(MIB, ENTRY_BYTES)]]
    assert content_at(machine, handle) == [(MIB, ENTRY_BYTES)]
    machine.close(handle)
    assert other.read("/f") == bytes(MIB) + b"x" * (ENTRY_BYTES - MIB)
    assert other.stat("/f").allocated_bytes == ENTRY_BYTES - MIB


def test_the_content_of_a_very_large_file_is_found(machine: Machine) -> None:
    """Goal: holes of a file of 16 TiB are passed over in a second, and punching it all writes nothing."""
    handle, size = machine.create("/f"), FILE_BYTES_MAX - HOLE_BYTES
    machine.files.files.resize(handle, size)
    machine.put(handle, b"end", size - 3)
    assert content_at(machine, handle) == [(size - HOLE_BYTES, size)]
    machine.files.fallocate(handle, PUNCH, 0, size)
    assert content_at(machine, handle) == []
    machine.close(handle)
    assert machine.stat("/f").allocated_bytes == 0
