"""What programs write past the client, into a file that the kernel has for writing: it is found by its hashes. Here the
tests themselves are such programs, which write to the cache's file and keep mappings of it."""

import contextlib
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
from clients import Client, Servers, make, uploaded
from volumes import Volume

from dfsfuse import errors, holes, lending, unseen, unseen_writes
from dfsfuse.ahead import Ahead
from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES
from dfsfuse.content import Content
from dfsfuse.handles import Handle
from dfsfuse.recovery import Recovery
from servers.store.memory import MemoryStore

SIZE = 5 * ENTRY_BYTES // 2
SEEDS = range(400 if os.environ.get("DFS_LONG") else 40)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    made = Client(Volume(MemoryStore()), Servers(), tmp_path / "client")
    yield made
    made.volume.check()


def noise(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


class Program:
    """Has a file open for writing in passthrough."""

    def __init__(self, client: Client, path: str, size: int = SIZE):
        self.client, self.path = client, path
        self.content = client.open(path)
        client.read(self.content, 0, self.content.size)
        self.content.writers += 1
        self.handle = Handle(self.content, (self.content.ino, ()), os.O_RDWR, 1, None)
        self.handle.writable = self.handle.unseen = True
        self.content.unseen.passes = lending.passes(self.content, (0, 1 << 40))
        client.cache.mark_open(self.content)
        assert lending.prepare_to_write(self.content)
        assert lending.lend_to_write(self.content, True)
        self.fd = os.open(self.content.path, os.O_RDWR)

    def write(self, data: bytes, offset: int) -> None:
        os.pwrite(self.fd, data, offset)

    def committed(self) -> bytes:
        """What the servers have, when close() or fsync() has returned."""
        unseen_writes.find(self.content)
        self.client.commit(self.content)
        return uploaded(self.client.volume, self.client.servers, self.path)

    def file(self) -> bytes:
        return Path(self.content.path).read_bytes()

    def close(self) -> None:
        os.close(self.fd)
        assert lending.may_close(self.handle)
        lending.let_go(self.handle)
        self.client.commit(self.content)
        del self.content.handles[self.handle]
        lending.take_back(self.content)
        self.client.close(self.content, write=True)


@contextlib.contextmanager
def opened(client: Client, path: str) -> Iterator[Program]:
    program = Program(client, path)
    yield program
    program.close()


def sent(client: Client) -> int:
    return sum(map(len, client.servers.chunks.values()))


# -- finding


def test_what_was_written_is_found_and_sent(client):
    """Goal: bytes in the middle, over the border of two entries and beyond the end are the next version; where nothing
    was written there is none."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        version = program.content.version
        assert program.committed() == noise(SIZE, 1)
        assert program.content.version == version
        program.write(b"one", 100)
        program.write(b"two", ENTRY_BYTES - 1)
        program.write(b"three", SIZE + 10)
        assert program.committed() == program.file()
        assert program.content.version == version + 1
        assert (program.content.size, program.content.changed) == (SIZE + 15, False)


def test_stores_that_move_no_time_are_found(client):
    """Goal: a page that is dirty already is stored to without a sign; the file's times say nothing."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program, mmap.mmap(program.fd, 0) as mapping:
        mapping[0] = 1
        program.committed()
        times = os.stat(program.content.path).st_mtime_ns
        mapping[1] = mapping[2] ^ 1
        os.utime(program.content.path, ns=(times, times))
        assert program.committed() == program.file()


def test_what_was_written_and_taken_back_is_sent_again(client):
    """Goal: what is compared is what the servers have, whatever was there in between."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        for number in (b"1", b"2", b"1", b"2"):
            program.write(number, BLOCK_BYTES)
            assert program.committed()[BLOCK_BYTES : BLOCK_BYTES + 1] == number


def test_a_change_taken_back_while_its_commit_is_in_doubt(client):
    """Goal: the file is as the last version that is known, but the servers have what was taken back."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        program.write(b"other", 0)
        client.session.lose_reply = True
        with pytest.raises(errors.TimedOut):
            program.committed()
        program.write(noise(SIZE, 1)[:5], 0)
        assert program.committed() == noise(SIZE, 1)


def test_what_is_written_while_it_is_sent(client, monkeypatch):
    """Goal: it is found the next time, also where it makes the file what it was when it was last looked at."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        program.write(b"first", 0)
        upload = client.servers.upload

        def racing(data, *more, **others):
            done = upload(data, *more, **others)
            program.write(b"again", 0)
            return done

        monkeypatch.setattr(client.servers, "upload", racing)
        assert program.committed()[:5] == b"first"
        monkeypatch.setattr(client.servers, "upload", upload)
        assert program.committed()[:5] == b"again"


def test_small_changes_send_blocks(client):
    """Goal: the first change of an entry sends it, as nobody knows its blocks; later ones send the blocks that are
    others, also in the next open of the file."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        program.write(b"1", 0)
        before = sent(client)
        program.committed()
        assert sent(client) - before == ENTRY_BYTES
        program.write(b"2", 5 * BLOCK_BYTES)
        program.committed()
        assert sent(client) - before == ENTRY_BYTES + BLOCK_BYTES
    with opened(client, "file") as program:
        program.write(b"3", 7 * BLOCK_BYTES - 1)
        assert program.committed() == program.file()
        assert sent(client) - before == ENTRY_BYTES + 2 * BLOCK_BYTES


def test_pieces_that_lie_upon_each_other(client):
    """Goal: what the manifest does not tell by names is known by the hashes of its blocks, from before the kernel has
    the file: an entry that nobody has changed is not sent."""
    make(client, "file", noise(SIZE, 1))
    content = client.open("file", write=True)
    client.read(content, 0, SIZE)
    client.write(content, b"piece", 10 * BLOCK_BYTES)
    client.commit(content)
    client.close(content, write=True)
    with opened(client, "file") as program:
        before = sent(client)
        assert program.committed() == program.file()
        assert sent(client) == before
        program.write(b"x", 0)
        assert program.committed() == program.file()
        assert sent(client) - before == BLOCK_BYTES


def test_holes_stay_holes_and_zeros_are_content(client):
    """Goal: what the kernel writes into a sparse file is content, zeros too; the rest stays a hole, and is not sent."""
    content = client.create("sparse")
    client.resize(content, 3 * ENTRY_BYTES)
    client.write(content, b"x" * 5000, ENTRY_BYTES)
    client.commit(content)
    client.close(content, write=True)
    with opened(client, "sparse") as program:
        version = program.content.version
        program.committed()
        assert program.content.version == version
        program.write(bytes(4096), 2 * ENTRY_BYTES)
        program.write(b"y", ENTRY_BYTES + 6000)
        program.write(b"z", 8192)
        assert program.committed() == program.file()
        assert holes.allocated_bytes(program.content) == 2 * 4096 + 2 * 4096
        version = program.content.version
        program.committed()
        assert program.content.version == version


def test_room_that_was_allocated_stays_counted(client):
    """Goal: it is content, though the disk has a hole there; what is written beside it does not make it one."""
    content = client.create("room")
    assert holes.allocate(content, 0, ENTRY_BYTES, False, 5, True) in (True, False)
    client.commit(content)
    client.close(content, write=True)
    with opened(client, "room") as program:
        program.write(b"x", 3 * BLOCK_BYTES + 5)
        assert program.committed() == program.file()
        assert holes.allocated_bytes(program.content) == ENTRY_BYTES


def test_size_and_times_are_those_of_the_file(client):
    """Goal: what stat tells while a program writes; times that are set stay until it writes again."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        content = program.content
        program.write(b"x", SIZE + 99)
        unseen_writes.look(content)
        assert (content.size, content.unseen.stirred) == (SIZE + 100, True)
        assert content.mtime_ns == os.stat(content.path).st_mtime_ns
        content.attributes_set(None, 7)
        unseen_writes.look(content)
        assert content.mtime_ns == 7
        program.write(b"x", 0)
        unseen_writes.look(content)
        assert content.mtime_ns > 7
        program.committed()
        assert not content.unseen.stirred


def test_what_is_in_memory_is_not_what_was_written(client):
    """Goal: chunks that came or went last are kept in memory: what the client reads for a program comes from the file,
    and nothing is sent ahead that a program may change unseen."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        content = program.content
        assert content.chunk_at(0, 10) is None
        client.write(content, noise(ENTRY_BYTES, 2), 2 * ENTRY_BYTES)
        ahead = Ahead(client.servers)
        client.write(content, b"x", 3 * ENTRY_BYTES)
        ahead.written(content, 3 * ENTRY_BYTES, 3 * ENTRY_BYTES + 1)
        assert content.ahead == {}
        ahead.close()
    assert content.chunk_at(0, 10) is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_of_changes(client, seed):
    """Goal: whatever programs write past the client, whatever it writes, cuts and punches itself, whichever replies are
    lost: what close() leaves on the servers is what the file has."""
    luck = random.Random(seed)
    make(client, "file", noise(luck.randrange(1, SIZE), seed))
    for _ in range(3):
        with opened(client, "file") as program, contextlib.ExitStack() as ended:
            _change(luck, program, ended)
            ended.close()
        assert uploaded(client.volume, client.servers, "file") == program.file()


def _change(luck: random.Random, program: Program, ended: contextlib.ExitStack) -> None:
    client, content = program.client, program.content
    before = program.file()
    for _ in range(luck.randrange(1, 12)):
        step, size = luck.randrange(9), os.fstat(program.fd).st_size
        start = luck.choice([0, luck.randrange(size + 1), luck.randrange(size + 1) // BLOCK_BYTES * BLOCK_BYTES])
        data = luck.randbytes(luck.choice([1, 100, 4096, 100_000]))
        if step < 3:
            program.write(data, start)
        elif step == 3 and size > 1:
            with mmap.mmap(program.fd, size) as mapping:
                mapping[start % size] = luck.randrange(256)
        elif step == 4:
            unseen_writes.look(content)
            client.write(content, data, start)
        elif step == 5:
            unseen_writes.look(content)
            client.resize(content, max(1, luck.choice([start, size + luck.randrange(200_000)])))
        elif step == 6:
            unseen_writes.look(content)
            holes.punch(content, start, start + luck.randrange(1, 300_000), 5, True)
        elif step == 7:
            program.write(before[start : start + 200_000], start)
        else:
            client.session.lose_reply = luck.random() < 0.3
            client.session.lose_request = luck.random() < 0.2
            with contextlib.suppress(errors.TimedOut):
                assert program.committed() == program.file()
            client.session.lose_reply = client.session.lose_request = False


# -- closing


def test_hashes_of_blocks_are_bounded(client, monkeypatch):
    """Goal: of contents that nobody writes to any more no more hashes are kept than memory is for, those of the latest;
    what has gone is hashed again for who writes next, and of what is open for writing nothing goes."""
    monkeypatch.setattr(unseen, "_ENTRIES_MAX", 4)
    monkeypatch.setattr(unseen, "_all", WeakKeyDictionary())
    contents = []
    for number in range(4):
        make(client, f"file{number}", noise(SIZE, number))
        with opened(client, f"file{number}") as program:
            contents.append(program.content)
            _write_everywhere(program)
            assert len(program.content.unseen.blocks) == 3
    assert [len(content.unseen.blocks) for content in contents] == [0, 0, 0, 3]
    assert list(unseen._all) == [contents[3].unseen.blocks]
    with opened(client, "file0") as program, opened(client, "file1") as other:
        for each in (program, other):
            each.write(b"once more", 2 * BLOCK_BYTES)
        before = sent(client)
        assert [each.committed() for each in (program, other)] == [program.file(), other.file()]
        assert sent(client) - before == 2 * BLOCK_BYTES
    assert sum(len(content.unseen.blocks) for content in contents) <= 4


def _write_everywhere(program: Program) -> None:
    """Into the middle of each entry, so that its pieces lie upon each other."""
    for start in range(0, SIZE, ENTRY_BYTES):
        program.write(b"changed", start + BLOCK_BYTES + 1)
    program.committed()
    for start in range(0, SIZE, ENTRY_BYTES):
        program.write(b"changed again", start + BLOCK_BYTES + 100)
    program.committed()


def test_who_may_still_write_is_known(client):
    """Goal: close before store before munmap: the last writer is let go when nobody can write any more; a reader that
    has it open or mapped is in nobody's way."""
    make(client, "file", noise(SIZE, 1))
    program = Program(client, "file")
    mapping = mmap.mmap(program.fd, 0)
    reader = os.open(program.content.path, os.O_RDONLY)
    os.close(program.fd)
    assert not lending.may_close(program.handle)
    program.committed()
    mapping[5] = mapping[5] ^ 1
    assert not lending.may_close(program.handle)
    mapping.close()
    assert lending.may_close(program.handle)
    lending.let_go(program.handle)
    assert program.content.changed
    client.commit(program.content)
    assert uploaded(client.volume, client.servers, "file") == program.file()
    os.pwrite(program.content.fd, b"the cache can still write", 0)
    os.close(reader)


def test_an_append_for_which_there_was_no_room_at_first(client, monkeypatch):
    """Goal: it goes on where it was: no part of it is there twice."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        write, calls = os.pwritev, []

        def full_in_between(fd: int, buffers: list, offset: int, flags: int) -> int:
            calls.append(len(buffers[0]))
            if len(calls) == 2:
                raise OSError(28, "full")
            return write(fd, [buffers[0][:3]], offset, flags)

        monkeypatch.setattr(unseen_writes.os, "pwritev", full_in_between)
        append = unseen_writes.appending(program.content, b"appended")
        with pytest.raises(OSError, match="full"):
            append()
        append()
        monkeypatch.undo()
        assert program.committed() == program.file() == noise(SIZE, 1) + b"appended"


def test_what_is_hashed_for_little(client):
    """Goal: the kernel is not given a file again, for some opens, of which much was hashed and little was written."""
    make(client, "file", noise(SIZE, 1))
    for writes, rested in ((1, True), (0, False)):
        with opened(client, "file") as program:
            if writes:
                program.write(b"x", 0)
            content = program.content
        assert content.unseen.rested() is rested
    assert [content.unseen.rested() for _ in range(15)] == [False] * 14 + [True]


def test_of_two_writers_the_last_one_is_waited_for(client):
    """Goal: whoever closes first need not be."""
    make(client, "file", noise(SIZE, 1))
    with opened(client, "file") as program:
        assert lending.lend_to_write(program.content, False)
        other = Handle(program.content, (program.content.ino, ()), os.O_RDWR, 1, None)
        other.unseen = True
        assert lending.may_close(other)
        assert (other.unseen, program.content.unseen.writers) == (False, 1)
        assert not lending.may_close(program.handle)
        del program.content.handles[other]


def test_a_cache_file_that_cannot_be_read(client, monkeypatch):
    """Goal: then nobody knows what was written, and all of it counts as changed."""
    make(client, "file", noise(SIZE, 1))
    program = Program(client, "file")
    os.close(program.fd)

    def broken(content: Content) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(unseen_writes, "find", broken)
    lending.let_go(program.handle)
    assert list(program.content.changes.written) == [(0, SIZE)]
    program.content.give_up()


# -- what is not given for writing


def test_what_is_to_be_sent_is_not_given(client):
    """Goal: nobody could tell what of it the servers have."""
    make(client, "file", noise(SIZE, 1))
    content = client.open("file", write=True)
    client.read(content, 0, SIZE)
    content.unseen.passes = True
    client.write(content, b"x", 0)
    assert not lending.prepare_to_write(content)
    assert not lending.lend_to_write(content, True)
    client.commit(content)
    assert lending.prepare_to_write(content)
    content.shared = True
    assert not lending.lend_to_write(content, True)
    client.close(content, write=True)


# -- after a kill


class TakenUp:
    def __init__(self) -> None:
        self.contents: list[Content] = []

    def add(self, content: Content) -> None:
        self.contents.append(content)


def recovered(client: Client, program: Program) -> list[Content]:
    client.kill()
    client.session.report_unsent = lambda files: None
    taken = TakenUp()

    def newest(ino: int):
        from dfsfuse.openings import Version

        found = client.volume.open(ino)
        return Version(found.attributes, *client.expanded(found), 0, False, 0.0)

    Recovery(client.session, client.cache, client.servers, taken, newest).run()
    return taken.contents


def test_killed_after_a_commit(client):
    """Goal: S15. What was written after the commit is kept as what nobody had closed; if there is nothing, there is
    nothing to do."""
    make(client, "file", noise(SIZE, 1))
    program = Program(client, "file")
    program.write(b"closed", 0)
    program.committed()
    program.write(b"not closed", ENTRY_BYTES)
    os.close(program.fd)
    (content,) = recovered(client, program)
    assert (content.promised, list(content.changes.written)) == (False, [(ENTRY_BYTES, 2 * ENTRY_BYTES)])
    assert content.version == client.volume.at("file").version


def test_killed_while_a_commit_was_not_answered(client):
    """Goal: it has happened; what was written meanwhile is compared with that."""
    make(client, "file", noise(SIZE, 1))
    for late in (b"", b"later"):
        program = Program(client, "file")
        program.write(b"sent%d" % len(late), 0)
        client.session.lose_reply = True
        with pytest.raises(errors.TimedOut):
            program.committed()
        program.write(late, ENTRY_BYTES)
        os.close(program.fd)
        taken = recovered(client, program)
        assert [list(content.changes.written) for content in taken] == (
            [[(ENTRY_BYTES, 2 * ENTRY_BYTES)]] if late else []
        )


def test_killed_while_the_commit_of_a_cut_file_was_not_answered(client):
    """Goal: the manifest has the first part of a chunk, whose name tells nothing: that is no change."""
    make(client, "file", noise(SIZE, 1))
    program = Program(client, "file")
    client.resize(program.content, ENTRY_BYTES // 2)
    client.session.lose_reply = True
    with pytest.raises(errors.TimedOut):
        program.committed()
    os.close(program.fd)
    assert recovered(client, program) == []


def test_programs_that_outlive_the_client(client):
    """Goal: who has the file open for writing when its client is killed does not write to what the next one makes of
    it."""
    make(client, "file", noise(SIZE, 1))
    program = Program(client, "file")
    program.write(b"before", 0)
    (content,) = recovered(client, program)
    program.write(b"after!", 0)
    assert Path(content.path).read_bytes()[:6] == b"before"
    os.close(program.fd)
