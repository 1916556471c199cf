"""A client's cache and commits without a network: the real cache, contents and committer over the real directory core.

Chunks are kept in a dictionary; what travels is counted. Two Clients of one Volume are two mounts.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from volumes import Volume

from dfsfuse import chunks, errors, messages
from dfsfuse.buffers import Buffers
from dfsfuse.cache import Cache
from dfsfuse.chunks import HOLE, Entry
from dfsfuse.commits import Committer
from dfsfuse.content import Content
from dfsfuse.fetching import fetch
from dfsfuse.latest_chunks import LatestChunks
from dfsfuse.manifests import Entries, SegmentIds
from dfsfuse.messages import SEGMENT_ENTRIES, Attributes, ChunkReceipts, Receipt
from servers import content as versions


@dataclasses.dataclass
class Servers:
    """What all file servers have, and what travelled. `before_store` is called before each upload is stored; `number`
    is that of the receipts they give."""

    chunks: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    sent_bytes: int = 0
    synced_uploads: int = 0
    syncs: int = 0
    syncing: str = "ABC"
    received_bytes: int = 0
    before_store: Callable[[], None] = lambda: None
    number: int = 1
    buffers: Buffers = dataclasses.field(default_factory=Buffers)

    def __post_init__(self) -> None:
        self.latest = LatestChunks(self._bring, self.buffers)

    def _bring(self, name: bytes, buffer: memoryview) -> int:
        data = self.download(name)
        buffer[: len(data)] = data
        return len(data)

    # -- dfsfuse.transfer.Transfer

    def upload(
        self, data: bytes, confirmed: dict[bytes, ChunkReceipts], ask: bool = False, synced: bool = False
    ) -> ChunkReceipts:
        self.before_store()
        self.synced_uploads += synced
        name = chunks.chunk_name(data)
        if name in confirmed:
            return confirmed[name]
        if ask and name in self.chunks:
            return self._receipts(name)
        self.chunks[name] = bytes(data)
        self.sent_bytes += len(data)
        return self._receipts(name)

    def try_upload(self, data: bytes) -> ChunkReceipts:
        return self.upload(data, {})

    def _receipts(self, name: bytes) -> ChunkReceipts:
        return ChunkReceipts(name, [Receipt(server, self.number) for server in "ABC"])

    def confirm(self, names: list[bytes]) -> dict[bytes, ChunkReceipts]:
        return {name: self._receipts(name) for name in names if name in self.chunks}

    def download(self, name: bytes) -> bytes:
        if name not in self.chunks:
            raise errors.ChunkGone(f"no file server has chunk {name.hex()} any more")
        self.received_bytes += len(self.chunks[name])
        return self.chunks[name]

    def begin(self, work: Callable[[], None], given_up: Callable[[], None]) -> None:
        work()

    def each(self, work: Callable, items: Iterable) -> Iterator:
        return map(work, items)

    def sync(self, receipts: Iterable[ChunkReceipts]) -> set[str]:
        self.syncs += 1
        return set(self.syncing)

    def sync_until(self, check: Callable[[set[str], float], None]) -> None:
        """Once: what is lacking is lacking."""
        try:
            check(set("ABC"), 1.0)
        except errors.NotEnoughCopies as error:
            raise errors.Unreachable(str(error)) from None


class NoLocks:
    """What sharing needs of the locks of programs, where none uses any."""

    def on_lost(self, tell: Callable) -> None: ...
    def ask_use(self, ino: int, timeout_s: float | None = None) -> bool:
        return False

    def begin_use(self, ino: int) -> None: ...
    def end_use(self, ino: int) -> None: ...
    def check_lease(self) -> None: ...
    def has(self, *_: object) -> bool:
        return False

    def taken_through(self, descriptor: object) -> list:
        return []


class Sending:
    """What commits need of a session. `lose_request` and `lose_reply` make the next commit go unanswered."""

    def __init__(self, volume: Volume):
        self._volume, self.id, self._openings = volume, 0, 0
        self.lose_request = self.lose_reply = False

    def new_opening(self) -> int:
        self._openings += 1
        return self._openings

    def closed(self, ino: int, version: int, opening: int) -> None: ...
    def committed(self, ino: int, base: int, version: int) -> None: ...

    def query(self, request: messages.PutSegments | messages.Lookup, reply: type) -> Any:
        if isinstance(request, messages.Lookup):
            return self._volume.ask(request)
        return self._volume.core.put_segments(request, self._volume.now_s)

    def change(self, request: messages.Commit, reply: type) -> Attributes:
        if self.lose_request:
            self.lose_request = False
            raise errors.TimedOut("the request was lost")
        done = self._volume.core.commit(request, self._volume.tick(), self._volume.now_s)
        if self.lose_reply:
            self.lose_reply = False
            raise errors.TimedOut("the reply was lost")
        return done


class Client:
    """Opens, reads, writes and commits as `openfiles` does, without locks. `kill` leaves everything as it is."""

    def __init__(self, volume: Volume, servers: Servers, home: Path, bytes_max: int = 1 << 40):
        self.volume, self.servers, self.home, self.bytes_max = volume, servers, home, bytes_max
        self.session = Sending(volume)
        self.start()

    def start(self) -> None:
        self.cache = Cache(self.home, self.bytes_max)
        self.committer = Committer(self.session, self.servers, self.cache)

    def kill(self) -> None:
        """Another process takes the folder; nothing was closed but what the kernel closes."""
        for content in (*self.cache.in_use(), *self.cache._files._warm.take_all()):
            if content.fd >= 0:
                os.close(content.fd)
                content.fd = -1
        self.start()

    def create(self, path: str) -> Content:
        content = self.cache.create(self.volume.make(path).ino, path.encode(), 5)
        content.writers += 1
        return content

    def open(self, path: str, write: bool = False) -> Content:
        ino = self.volume.at(path).ino
        held = self.cache.peek(ino)
        have = (held.version, held.commit_id) if held else (0, b"")
        opened = self.volume.open(ino, have_version=have[0], have_commit_id=have[1])
        if opened.manifest is None:
            entries, segments = held.entries, held.segments
        else:
            entries, segments = self.expanded(opened)
        content = self.cache.open(opened.attributes, entries, segments, path.encode())
        if write:
            content.writers += 1
            self.cache.mark_open(content)
        return content

    def expanded(self, opened: messages.Opened) -> tuple[Entries, SegmentIds]:
        """As openings does it."""
        manifest, entries = opened.manifest, Entries(opened.manifest.entries)
        for part, segment_id in enumerate(manifest.segments):
            reply = self.volume.ask(messages.GetSegments([segment_id])) if segment_id else None
            entries.fit(part * SEGMENT_ENTRIES).extend(reply.segments[0].entries if reply else [])
        return entries.fit(chunks.entry_count(opened.attributes.size)), SegmentIds(manifest.segments)

    def close(self, content: Content, write: bool = False) -> None:
        content.writers -= write
        self.cache.close_one(content)

    def read(self, content: Content, offset: int, length: int) -> bytes:
        for index in content.missing(offset, offset + length):
            fetch(content, index, self.servers.latest.lend)
        buffer = bytearray(length)
        return bytes(buffer[: content.read_into(memoryview(buffer), offset)])

    def write(self, content: Content, data: bytes, offset: int) -> None:
        for index in content.unready(offset, offset + len(data)):
            fetch(content, index, self.servers.latest.lend)
        if content.write(data, offset, self.volume.now_ns):
            self.cache.mark_open(content)

    def resize(self, content: Content, size: int) -> None:
        if size < content.size and size % chunks.ENTRY_BYTES:
            for index in content.unready(size, size + 1):
                fetch(content, index, self.servers.latest.lend)
        content.resize(size, self.volume.now_ns)
        self.cache.mark_open(content)

    def commit(self, content: Content) -> Attributes | None:
        return self.committer.commit(content)


def uploaded(volume: Volume, servers: Servers, path: str) -> bytes:
    """The newest version of a file, put together from its manifest and the chunks alone."""
    size, ino = volume.at(path).size, volume.at(path).ino
    data = bytearray(size)
    for index, entry in enumerate(manifest_entries(volume, ino)):
        start = index * chunks.ENTRY_BYTES
        for piece in entry:
            stored = servers.chunks[piece.chunk] if piece.chunk != HOLE else bytes(piece.length)
            assert len(stored) >= piece.length
            last = min(start + piece.end, size)
            data[start + piece.offset : last] = stored[: last - start - piece.offset]
    return bytes(data)


def manifest_entries(volume: Volume, ino: int) -> list[Entry]:
    manifest = volume.open(ino).manifest
    if not manifest.segments:
        return manifest.entries
    return volume.store.read(
        lambda tx: [entry for part in range(len(manifest.segments)) for entry in versions._part(tx, manifest, part)]
    )


def make(client: Client, path: str, data: bytes) -> None:
    """A committed file that nobody has open."""
    content = client.create(path)
    client.write(content, data, 0)
    client.commit(content)
    client.close(content, write=True)
