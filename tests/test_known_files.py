"""What a client remembers of files, where there is no room for more: who goes, and what a file takes."""

import gc
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse.attributes import AttributeTable
from dfsfuse.closed_rows import ClosedRows
from dfsfuse.drivers.fuse_nodes import KNOWN_FILES_A_NODE, Nodes
from dfsfuse.known_names import ABSENT
from dfsfuse.messages import EVERYTHING, ROOT_INO, Attributes
from servers.store.memory import MemoryStore

ROOM = 100
FILES = 20_000
MEMORY_BYTES = 1000
"""What README.md and --help promise: no file that is known takes more."""
TABLES_BYTES = 600
_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.Decoder(Attributes).decode


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


@pytest.fixture
def table() -> AttributeTable:
    """Of a client that is promised what it is told."""
    made = AttributeTable(clock=Clock(), items_max=ROOM)
    made.lease(1e9)
    return made


def known(ino: int, mode: int = 0o100644) -> Attributes:
    """As an answer brings it."""
    return _decode(_encode(Attributes(
        ino=ino, mode=mode, uid=1000, gid=1000, nlink=1, size=5000 + ino, allocated_bytes=5000 + ino, version=3,
        mtime_ns=1_700_000_000_000_000_000 + ino, ctime_ns=1_700_000_000_000_000_001 + ino,
        atime_ns=1_700_000_000_000_000_002 + ino, commit_id=ino.to_bytes(16, "big"), promised=True,
    )))  # fmt: skip


def enter(table: AttributeTable, folder: int, numbers: range, ino: int, uses: bool = True) -> None:
    """A name in the folder for each number, as look-ups bring them; inode numbers from `ino` on."""
    for number in numbers:
        table.put((folder, (b"name-%d.txt" % number,)), known(ino + number), table.now(), uses)


def list_into(table: AttributeTable, folder: int, count: int, ino: int) -> None:
    """As a listing brings them, which is promised."""
    begun_at = table.now()
    enter(table, folder, range(count), ino, uses=False)
    table.listed(folder, begun_at)


def test_what_is_used_stays(table):
    """Goal: the tables do not forget what programs use all the time, though it was known first: the root, a folder,
    and a file in it; what nobody has used goes."""
    table.put((ROOT_INO, ()), known(ROOT_INO, 0o40755), table.now())
    table.put((ROOT_INO, (b"busy",)), known(2, 0o40755), table.now())
    table.put((2, (b"file",)), known(3), table.now())
    for number in range(10 * ROOM):
        enter(table, 4 + number // 10, range(number, number + 1), 1000)
        assert table.promises((ROOT_INO, (b"busy", b"file")), 3)
        assert table.get((ROOT_INO, ())) is not None
        assert len(table) <= ROOM
    assert table.get((4, (b"name-0.txt",))) is None
    assert table.get((1000, ())) is None


def test_a_large_folder_drives_out_nothing_but_itself(table):
    """Goal: a folder with more entries than there is room is listed: what programs come back to stays, no folder is
    forgotten, of which the kernel would hear with all its names, and it is not taken to have no other entries."""
    table.put((2, ()), known(2, 0o40755), table.now())
    enter(table, 3, range(20), 100)
    told: list[int] = []
    table.on_broken(lambda ino, name: told.append(ino))
    for _ in range(3):
        assert all(table.get((3, (b"name-%d.txt" % number,))) is not None for number in range(20))
        list_into(table, 2, ROOM * 12 // 10, 1000)
        assert len(table) <= ROOM
        assert not table.is_absent((2, (b"name-0.txt",)))
        assert not {EVERYTHING, 2, 3} & set(told)
    last = ROOM * 12 // 10 - 1
    assert table.get((2, (b"name-%d.txt" % last,))) is not None


def test_what_has_gone_may_not_be_entered_by_an_older_answer(table):
    """Goal: S2. A name that was forgotten for want of room had also said that older answers are void."""
    asked_at = table.now()
    table.put((2, ()), known(2, 0o40755), table.now())
    table.name_changed((2, (b"first",)), known(2, 0o40755), table.now(), ABSENT)
    enter(table, 2, range(2 * ROOM), 1000)
    table.put((2, (b"first",)), known(9), asked_at)
    assert table.get((2, (b"first",))) is None


def test_a_listing_that_many_removals_overtake(table):
    """Goal: S2. Of many names that have been removed nothing is remembered but that older answers are void: a listing
    that such an answer was part of does not say that what it has brought is not there."""
    table.items_max = 5000
    begun_at = table.now()
    for number in range(1001):
        table.name_changed((2, (b"%d" % number,)), known(2, 0o40755), table.now(), ABSENT)
    table.put((2, (b"there",)), known(9), begun_at)
    table.listed(2, begun_at)
    assert not table.is_absent((2, (b"there",)))


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine]:
    """The first one remembers few files."""
    volume, servers = Volume(MemoryStore()), Servers()
    here, there = (Machine(volume, servers, tmp_path / name, watches=True) for name in ("here", "there"))
    here.files._attributes.items_max = ROOM
    return here, there


def test_what_listing_a_large_folder_costs_others(machines):
    """Goal: a folder of 1.2 times the room is listed again and again: files of other folders are looked at without a
    request."""
    here, there = machines
    for path in ("/large", "/others"):
        there.make(path)
    others = [f"/others/{number}" for number in range(20)]
    for path in [*others, *(f"/large/{number}" for number in range(ROOM * 12 // 10))]:
        there.write(path, b"")
    folder, large = here.stat("/others").ino, here.stat("/large").ino
    for number in range(5):
        before = here.session.asked.total()
        for path in others:
            here.files.lookup((folder, (path.rpartition("/")[2].encode(),)))
        assert here.session.asked.total() - before == (0 if number else len(others))
        assert len(list(here.files.list_folder((large, ())))) == ROOM * 12 // 10


def test_what_a_known_file_takes():
    """Goal: names and attributes of a file are less than is promised, with what the kernel's nodes take in addition,
    and the rows that are kept of what programs have opened."""
    table, nodes, rows = AttributeTable(items_max=2 * FILES), Nodes(0.25), ClosedRows()
    rows.keep_while(lambda ino: 3)
    gc.collect()
    tracemalloc.start()
    try:
        for folder in range(2, 2 + FILES // 100):
            enter(table, folder, range(100), folder * 1000)
        tables = tracemalloc.get_traced_memory()[0]
        for number in range(FILES // KNOWN_FILES_A_NODE):
            nodes.tell(nodes.found(1000 + number, (2, b"name-%d.txt" % number)), known(1000 + number))
        for number in range(FILES):
            rows.add(1000 + number, 3, 10_000 + number)
        while rows.take():
            pass
        together = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(table) == FILES
    assert tables / FILES < TABLES_BYTES
    assert together / FILES < MEMORY_BYTES
