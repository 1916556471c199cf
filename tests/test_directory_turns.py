"""Nobody waits for one large file: whatever the directory does with it, others have their turn after a bounded number
of rows. Rows are counted between two turns of the event loop, so how fast the machine is does not matter."""

import asyncio
import functools
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counted_rows import CountingStore
from model_servers import Servers
from volumes import FOLDER, Volume

from dfsfuse import messages
from dfsfuse.chunks import ENTRY_BYTES, PIECES_MAX, Piece
from dfsfuse.messages import SEGMENT_ENTRIES, ChunkReceipts, Manifest, PutSegments, Segment
from dfsfuse.segments import in_requests
from servers import open_rows, records, undurable
from servers.directory_service import DirectoryService, boottime_s
from servers.store.sqlite import SqliteStore

PARTS = 20
"""Of a file with 20,480 chunks: more rows than ROWS_MAX in all that is done for each of them."""
ROWS_MAX = 10_000
"""Between two turns: some 50 ms on a slow machine."""
DEADLINE_S = 60.0


class Directory:
    """A directory service without a network, and its file servers."""

    def __init__(self, folder: Path):
        self.store = CountingStore(SqliteStore(folder / "directory.db"))
        self.service = DirectoryService(self.store, 3, "http://directory")
        self.volume = Volume(self.store)
        self.volume.core = self.service.core
        # What servers have told is long ago by the clock of the service.
        self.volume.now_s = boottime_s() - 100.0
        self.servers = Servers(self.volume)
        self.most, self._runner = 0, asyncio.Runner()

    def close(self) -> None:
        self._runner.close()
        self.service.close()
        self.store.close()

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """What `work` returns; `most` is how many rows it has touched between two turns then."""
        return self._runner.run(self._run(work))

    async def _run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        self.most, self._before = 0, self.store.rows
        watch = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await work()
        finally:
            watch.cancel()
            self._look()

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(0)

    def _look(self) -> None:
        self.most, self._before = max(self.most, self.store.rows - self._before), self.store.rows

    async def ask(self, operation: str, request: messages.Message) -> Any:
        reply = self.service.operations()[operation].handler(request)
        reply = await reply if isinstance(reply, Awaitable) else reply
        await asyncio.sleep(0)
        return reply

    # -- a large file

    def chunks(self, count: int, on: str) -> tuple[list[bytes], list[ChunkReceipts]]:
        names = [secrets.token_bytes(32) for _ in range(count)]
        return names, [ChunkReceipts(name, [self.servers.of[s].store(name) for s in on]) for name in names]

    async def put(self, ino: int, segments: list[Segment], receipts: list[ChunkReceipts]) -> None:
        """As a client does it."""
        by_name = {row.chunk: row for row in receipts}
        for batch in in_requests(segments):
            names = (piece.chunk for segment in batch for entry in segment.entries for piece in entry)
            what = {"base_version": 0, "base_commit_id": b"", "receipts": [by_name[name] for name in names]}
            await self.ask("put_segments", PutSegments(session=0, ino=ino, segments=batch, **what))

    async def make(self, path: str, parts: int, on: str = "ABC", pieces: int = 1) -> int:
        """A file with so many full parts."""
        ino, segments, receipts = self.volume.make(path).ino, [], []
        for part in range(parts):
            names, more = self.chunks(pieces * SEGMENT_ENTRIES, on)
            receipts += more
            laid = [[Piece(names.pop(), at, 1) for at in range(pieces)] for _ in range(SEGMENT_ENTRIES)]
            segments.append(Segment(secrets.token_bytes(16), part, laid))
        await self.put(ino, segments, receipts)
        manifest = Manifest([], [segment.id for segment in segments])
        size = parts * SEGMENT_ENTRIES * ENTRY_BYTES
        await self.ask("commit", self.volume.commit_request(ino, size=size, manifest=manifest))
        return ino

    async def settle(self, done: Callable[[], bool]) -> None:
        """What goes on by itself, until it has done so."""
        task = asyncio.create_task(self.service.settle_for_ever())
        while not done():
            await asyncio.sleep(0.01)
        task.cancel()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    made = Directory(tmp_path)
    yield made
    made.volume.check()
    made.close()


@pytest.mark.parametrize("pieces", [1, PIECES_MAX])
def test_segments_come_in(directory: Directory, pieces: int) -> None:
    """Goal: a large manifest whose chunks one server lacks, also where each entry has many pieces."""
    directory.run(lambda: directory.make("f", 4 if pieces == 1 else 1, on="AB", pieces=pieces))
    assert directory.most < ROWS_MAX


def test_a_late_server_is_told_what_to_look_for(directory: Directory) -> None:
    """Goal: the former content of a file is let go when the new one is on two disks; the third server has to look for
    all of its chunks then. Afterwards it is told, what it lacks is counted, and all of it is removed: then it lacks
    nothing."""
    volume, store = directory.volume, directory.store
    ino = directory.run(lambda: directory.make("f", PARTS))
    for name in "AB":
        directory.servers.of[name].sync()
        directory.servers.register(name)

    def is_kept() -> bool:
        return store.read(lambda tx: undurable.get(tx, ino)) is not None

    directory.run(lambda: directory.settle(lambda: not is_kept()))
    assert directory.most < ROWS_MAX
    found = directory.run(lambda: directory.ask("where", messages.Lookup(ino)))
    assert directory.most < ROWS_MAX
    assert (found.chunks, [copy.missing_chunks for copy in found.copies]) == (
        PARTS * SEGMENT_ENTRIES,
        [0, 0, PARTS * SEGMENT_ENTRIES],
    )
    assert directory.run(lambda: directory.ask("mappings", messages.ListMappings())).rows == [found]
    assert directory.most < ROWS_MAX
    told = directory.run(lambda: directory.ask("status", messages.Nothing()))
    assert (told.short_chunks, told.conditions[2].short) == (PARTS * SEGMENT_ENTRIES, PARTS * SEGMENT_ENTRIES)
    assert directory.most < A_FEW_ROWS
    first = directory.servers.of["C"].first
    work = directory.run(lambda: directory.ask("repair", messages.Repair(server="C", first_number=first, limit=100)))
    assert (len(work.chunks), work.left) == (100, PARTS * SEGMENT_ENTRIES)
    assert directory.most < A_FEW_ROWS
    volume.remove("f")
    directory.run(lambda: directory.settle(lambda: not store.read(lambda tx: tx.range(b"y", b"z", 1))))
    assert directory.most < ROWS_MAX
    assert store.read(lambda tx: tx.range(b"q", b"r", 1)) == []
    assert directory.run(lambda: directory.ask("status", messages.Nothing())).short_chunks == 0


def test_whether_a_large_file_is_on_disks(directory: Directory) -> None:
    """Goal: fsync of a file, while one of the servers that have it lacks a chunk of another one."""
    ino = directory.run(lambda: directory.make("f", PARTS))
    directory.run(lambda: directory.make("g", 1, on="AC"))
    file = directory.volume.at("f")
    request = messages.Durable(ino=ino, version=file.version, commit_id=file.commit_id, synced=["A", "B"])
    assert directory.run(lambda: directory.ask("durable", request)) == messages.Nothing()
    assert directory.most < ROWS_MAX


def test_names_are_repaired(directory: Directory) -> None:
    """Goal: a request to repair many names of a folder."""
    folder = directory.volume.make("d", FOLDER).ino
    made = [(b"%d" % number, directory.volume.make(f"d/{number}").ino) for number in range(ROWS_MAX // 5)]
    directory.store.transact(lambda tx: [tx.delete(records.parent_key(ino, folder, name)) for name, ino in made])
    while found := [problem for problem in directory.volume.problems() if problem.mend]:
        directory.run(functools.partial(directory.ask, "mend", messages.Mend(found)))
        assert directory.most < ROWS_MAX


MANY, A_FEW_ROWS = 2000, 1000
"""Of what a client or a server tells or asks in one request; rows that this may cost between two turns."""


def test_many_rows_are_closed(directory: Directory) -> None:
    """Goal: a client that has read many files which others change tells with one renewal that it needs them no more."""
    volume = directory.volume
    session = volume.begin()
    inos = [volume.make(f"{number}").ino for number in range(MANY)]
    for opening, ino in enumerate(inos, 1):
        volume.open(ino, session=session, opening=opening)
    closed = [messages.Closed(ino, 0, opening) for opening, ino in enumerate(inos, 1)]
    read = [messages.ReadAt(ino, 1, 1) for ino in inos]
    reply = directory.run(lambda: directory.ask("renew", messages.Renew(session=session, closed=closed, read=read)))
    assert not reply.rows_kept
    assert directory.most < A_FEW_ROWS
    assert not directory.store.read(lambda tx: open_rows.of_session(tx, session))


def test_many_chunks_are_asked_about(directory: Directory) -> None:
    """Goal: a server asks which of many chunks nobody needs."""
    needless = sorted(secrets.token_bytes(32) for _ in range(MANY))
    directory.servers.register("A")
    request = messages.Collect(server="A", next_number=1, names=needless)
    assert directory.run(lambda: directory.ask("collect", request)).chunks == needless
    assert directory.most < A_FEW_ROWS
