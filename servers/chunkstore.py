"""Chunks and receipts on one server's disk. No sockets, no event loop.

    home/start  store_id  the number of this start, and what tells this disk from others (store_identity.py)
    home/packs/           chunks below PACK_BYTES_MAX, many in a file (packs.py)
    home/chunks/  tmp/    larger ones, a file for each (chunk_files.py)
    home/corrupt/         chunks that did not hash to their names, kept for a human; never served

Every chunk is hashed when it arrives, and again before it is served. A range of a chunk cannot be checked by the one
who receives it, so the whole chunk is checked here first, unless this process has already done so: VERIFIED_MAX names
are remembered. What is found broken is set aside, so that it counts as missing and can be uploaded anew.

A stored chunk is in the kernel's memory or on the disk: a killed server loses nothing. `sync` brings everything to the
disk. What it still has to do is bounded: the `store` that fills it syncs before it returns.

Threads: all methods may be called from any thread. `_lock` guards the counters and the verified names, and is held for
memory work alone; `_syncing` admits one sync at a time, so that when `sync` returns, earlier batches are on disk as
well. The receipts, the packs and the chunk files have locks of their own.
"""

import contextlib
import errno
import heapq
import itertools
import logging
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator, Sequence

from blake3 import blake3

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from servers.broken_chunks import BrokenChunks
from servers.chunk_files import ChunkFiles, FilePlace
from servers.packs import PACK_BYTES_MAX, Packs, Place
from servers.receipts import COUNTER_BITS, Receipts
from servers.store_identity import raise_start_number, store_id

log = logging.getLogger(__name__)

UNSYNCED_MAX = 8192
VERIFIED_MAX = 1 << 16
RESERVE_BYTES, _RESERVE_SHARE = 256 << 20, 16
"""Of the disk, or a sixteenth of it where that is less, nothing is stored on: deleting needs room too, for the packs'
index and for what is live of packs that are rewritten."""
ASIDE_MAX = 1000
"""Broken chunks that are kept for a human; looked at when the server starts."""
_ROOM_AT_ONCE = 512 << 10
_DELETE_AT_ONCE = 64
"""Chunks that nobody can store or confirm while they are being deleted: some milliseconds."""


class ChunkStore:
    """The chunks below `home`, a folder that no other process uses meanwhile."""

    def __init__(self, home: pathlib.Path):
        self._home = home
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._verified: dict[bytes, None] = {}
        self.served_chunks = self.received_chunks = 0
        self._room = 0
        for folder in ("", "tmp", "corrupt", "packs"):
            (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.broken = BrokenChunks()
        self._packs, self._files = Packs(home, self.broken.note), ChunkFiles(home, self.broken.note)
        self._note_set_aside()
        self.id = store_id(home)
        self.receipts = Receipts(raise_start_number(home))

    def _note_set_aside(self) -> None:
        """What an earlier start has set aside, and may not have replaced. Of that a human has the latest."""
        aside = list((self._home / "corrupt").iterdir())
        for path in aside:
            with contextlib.suppress(ValueError, errors.BadHash):
                if not self.has(name := bytes.fromhex(path.name)):
                    self.broken.note(name)
        if len(aside) > ASIDE_MAX:
            for path in sorted(aside, key=lambda path: path.stat().st_mtime_ns)[:-ASIDE_MAX]:
                path.unlink()

    @property
    def chunks(self) -> int:
        return self._packs.chunks + self._files.chunks

    @property
    def stored_bytes(self) -> int:
        return self._packs.stored_bytes + self._files.stored_bytes

    # -- storing

    def store(self, name: bytes, data: bytes | bytearray | memoryview) -> int:
        """Keep a chunk; the number of its receipt. Storing it again is a success with a new receipt, and repairs what
        is broken here.

        Raises BadRequest (empty), BodyTooLarge, BadHash, NoSpace, Internal; then nothing of it is left.
        """
        if not data:
            raise errors.BadRequest("a chunk is never empty")
        if len(data) > ENTRY_BYTES:
            raise errors.BodyTooLarge(f"the chunk has {len(data)} bytes; at most {ENTRY_BYTES} are taken")
        if chunk_name(data) != name:
            raise errors.BadHash(f"the {len(data)} bytes received do not hash to {name.hex()}")
        self.receipts.begin(name)
        try:
            written = self._keep(name, data)
            number = self.receipts.give(name)
        except OSError as error:
            raise errors.from_os_error(error, f"storing chunk {name.hex()}") from None
        finally:
            self.receipts.end(name)
        with self._lock:
            if written:
                self._remember_verified(name)
            self.received_chunks += 1
        if self._packs.unsynced + self._files.unsynced >= UNSYNCED_MAX:
            self.sync()
        return number

    def _keep(self, name: bytes, data: bytes | bytearray | memoryview) -> bool:
        """False if it is here, unbroken."""
        small = len(data) < PACK_BYTES_MAX
        if not (small and self._is_certainly_new(name)):
            self._is_sound(name)
            if small and self._is_old_file(name, len(data)):
                return False
            known = (self._packs if small else self._files).find(name)
            if known and known.length == len(data):
                return False
        self._take_room(len(data))
        if small:
            return self._packs.put(name, data)
        self._files.put(name, data)
        return True

    def _take_room(self, length: int) -> None:
        """Raises NoSpace where the reserve would be needed. The disk is asked for each _ROOM_AT_ONCE bytes."""
        with self._lock:
            if self._room < length:
                self._room = min(self.capacity()[0], max(length, _ROOM_AT_ONCE))
            if self._room < length:
                raise errors.NoSpace("the disk is full: what it has left is kept for deleting")
            self._room -= length

    def _is_certainly_new(self, name: bytes) -> bool:
        """Of a small chunk: told from memory, as most chunks that come are new."""
        return self._files.shortest >= PACK_BYTES_MAX and not self._packs.may_have(name)

    def _is_old_file(self, name: bytes, length: int) -> bool:
        """Whether an earlier version has kept this small chunk as a file. One of another length, as power cuts leave
        them, goes: if no file was that small at start, there is none."""
        known = self._files.find(name) if self._files.shortest < PACK_BYTES_MAX else None
        if known and known.length != length:
            self._files.set_aside(name, known)
            return False
        return known is not None

    def confirm(self, names: Iterable[bytes]) -> dict[bytes, int]:
        """A new receipt for each of these chunks that is here, unbroken. Raises BadHash for what is not a chunk's
        name."""
        numbers = {name: self._confirm(name) for name in names}
        return {name: number for name, number in numbers.items() if number}

    def _confirm(self, name: bytes) -> int:
        """The number of its new receipt; 0 if it is not here."""
        self.receipts.begin(name)
        try:
            return self.receipts.give(name) if self._is_sound(name) else 0
        finally:
            self.receipts.end(name)

    def begin_scrub(self) -> None:
        """Packs that somebody has removed are noticed, though they are open."""
        self._packs.look_for_packs()

    def scrub(self, name: bytes) -> int:
        """Read a chunk from the disk, and set it aside if it is broken; its length, 0 if it is not here, or not any
        more. What can be told from memory alone tells nothing of the disk."""
        place = self._find(name)
        if not place:
            return 0
        try:
            with self._reading(name, place):
                self._shelf(place).drop_pages(name, place)
            self._check_hash(name, place)
        except (errors.ChunkCorrupt, errors.ChunkMissing):
            return 0
        return place.length

    def _is_sound(self, name: bytes) -> bool:
        """Whether it is here, and hashed to its name when this process saw all of it: no receipt rests on a file's
        length. What is broken is set aside."""
        place = self._find(name)
        if place is None or name in self._verified:
            return place is not None
        try:
            self._verify(name, place)
        except (errors.ChunkCorrupt, errors.ChunkMissing):
            return False
        return True

    def length(self, name: bytes) -> int:
        """The chunk's length; 0 if it is not here. Raises BadHash for what is not a chunk's name."""
        place = self._find(name)
        return place.length if place else 0

    def has(self, name: bytes) -> bool:
        return bool(self.length(name))

    def _find(self, name: bytes) -> Place | FilePlace | None:
        return self._packs.find(name) or self._files.find(name)

    def _shelf(self, place: Place | FilePlace) -> Packs | ChunkFiles:
        """Where what is at that place is read and set aside."""
        return self._packs if isinstance(place, Place) else self._files

    # -- reading

    def read(self, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on, or all the rest. Raises ChunkMissing, ChunkCorrupt, BadRange."""
        whole = offset == 0 and length is None
        size = self.check(name, again=whole)
        length = size - offset if length is None else length
        check_range(offset, length, size)
        return self.piece(name, offset, length)

    def check(self, name: bytes, again: bool) -> int:
        """The chunk's length, after its hash was verified; not `again` accepts that this process has done that before.

        Whoever has checked a chunk may read its pieces. Raises ChunkMissing, ChunkCorrupt.
        """
        place = self._serve(name)
        if again or name not in self._verified:
            self._verify(name, place)
        return place.length

    def load(self, name: bytes, buffer: memoryview) -> int:
        """A whole chunk into `buffer`, where it was verified; its length. Raises ChunkMissing, ChunkCorrupt."""
        place = self._serve(name)
        with self._reading(name, place):
            length = self._shelf(place).read_into(name, place, buffer)
        if chunk_name(buffer[:length]) != name:
            raise self._set_aside(name, place, "its content hashes to another name")
        with self._lock:
            self._remember_verified(name)
        return length

    def _serve(self, name: bytes) -> Place | FilePlace:
        place = self._find(name)
        if not place:
            raise errors.ChunkMissing(f"chunk {name.hex()} is not here")
        with self._lock:
            self.served_chunks += 1
        return place

    def piece(self, name: bytes, offset: int, length: int) -> bytes:
        """A part of a checked chunk. Raises ChunkMissing and ChunkCorrupt: both can come about between two pieces."""
        place = self._find(name)
        if not place:
            raise errors.ChunkMissing(f"chunk {name.hex()} is not here")
        with self._reading(name, place):
            data = self._shelf(place).read(name, place, offset, length)
        if len(data) != length:
            raise self._set_aside(name, place, f"{len(data)} of {length} bytes at {offset}")
        return data

    def _verify(self, name: bytes, place: Place | FilePlace) -> None:
        self._check_hash(name, place)
        with self._lock:
            self._remember_verified(name)

    def _check_hash(self, name: bytes, place: Place | FilePlace) -> None:
        hasher = blake3()
        with self._reading(name, place):
            for piece in self._shelf(place).pieces(name, place):
                hasher.update(piece)
        if hasher.digest() != name:
            raise self._set_aside(name, place, "its content hashes to another name")

    @contextlib.contextmanager
    def _reading(self, name: bytes, place: Place | FilePlace) -> Iterator[None]:
        """What the disk cannot read is set aside as what it misread is; so is what has lost its pack."""
        try:
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError) and (isinstance(place, FilePlace) or not self._find(name)):
                raise errors.ChunkMissing(f"chunk {name.hex()} is not here") from None
            if error.errno in (errno.EIO, errno.ENOENT):
                raise self._set_aside(name, place, "the disk cannot read it") from None
            raise errors.from_os_error(error, f"reading chunk {name.hex()}") from None

    def _remember_verified(self, name: bytes) -> None:
        self._verified[name] = None
        if len(self._verified) > VERIFIED_MAX:
            del self._verified[next(iter(self._verified))]

    def _set_aside(self, name: bytes, place: Place | FilePlace, why: str) -> errors.ChunkCorrupt:
        """The error to raise, after the broken chunk went where it is never served from."""
        log.error("chunk %s is corrupt (%s); set aside in %s/corrupt", name.hex(), why, self._home)
        with self._lock:
            self._verified.pop(name, None)
        self._shelf(place).set_aside(name, place)
        return errors.ChunkCorrupt(f"chunk {name.hex()} is corrupt here: {why}", name.hex())

    # -- what nobody needs

    def inventory(self, after: bytes = b"", limit: int = 1000) -> list[bytes]:
        """Names of chunks that are here, in order, those that sort after `after`; without those that are not in the
        packs' index yet. Fewer than `limit`: these are the last ones."""
        both = heapq.merge(self._packs.names(after, limit), self._files.names(after, limit))
        return [name for name, _ in itertools.islice(itertools.groupby(both), limit)]

    def delete(self, names: Sequence[bytes], below: int) -> list[bytes]:
        """Those of these chunks that are not here any more. A chunk for which a receipt from number `below` on was
        given, or is just being given, stays, and so does what the disk does not let go.

        A power cut may bring back what was deleted; it is deleted again then.
        """
        gone = []
        for at in range(0, len(names), _DELETE_AT_ONCE):
            with self.receipts.deleting(names[at : at + _DELETE_AT_ONCE], below) as free:
                self._save_room()
                self._packs.delete(free)
                self._files.delete(free)
                gone += [name for name in free if not self._find(name)]
                with self._lock:
                    for name in free:
                        self._verified.pop(name, None)
        return gone

    def _save_room(self) -> None:
        """A full disk's reserve is not used up by the log of the packs' index, which is emptied by itself at 4 MB."""
        if not self.capacity()[0]:
            self._packs.save_room()

    def compact(self) -> int:
        """Write anew what is live of a pack that is mostly dead, if there is one; how many bytes that has freed. For
        one thread at a time. Raises NoSpace, Internal; then the pack stays as it was."""
        return self._packs.compact()

    def number_from(self, number: int) -> None:
        """Give receipts from this number on, also after the next start: a disk that is new does not know how far the
        numbers of the disk before had come."""
        with self._lock:
            raise_start_number(self._home, number >> COUNTER_BITS)
        self.receipts.go_on_from(number)

    # -- the disk

    def sync(self, indexed: bool = True) -> int:
        """Bring everything stored so far to the disk; the number up to which receipts are on it now. Where somebody
        waits it need not be `indexed`: the next sync does that, and a start.

        A chunk that could not be written counts as missing, and NoSpace or Internal is raised: the kernel reports such
        a failure once and then takes the lost pages for clean.
        """
        with self._syncing:
            number = self.receipts.next - 1
            failed = self._files.sync() + self._packs.sync(indexed)
            self._save_room()
            if failed:
                raise errors.from_os_error(failed[0], f"syncing {len(failed)} chunks")
            if not self.broken:
                self.receipts.synced = number
        return number

    @property
    def is_synced(self) -> bool:
        """Is there nothing for `sync` to do? Each chunk that came has a receipt; what could not be written waits."""
        waiting = self._packs.unsynced + self._files.unsynced
        return not waiting and not self._packs.is_learning and self.receipts.synced == self.receipts.next - 1

    def close(self) -> None:
        """Nobody uses it any more. What was not synced is as after a kill: it is in the kernel's memory."""
        self._packs.close()

    def capacity(self) -> tuple[int, int]:
        """(free, total) bytes of the disk; the reserve is not free."""
        disk = os.statvfs(self._home)
        total = disk.f_blocks * disk.f_frsize
        return max(0, disk.f_bavail * disk.f_frsize - min(RESERVE_BYTES, total // _RESERVE_SHARE)), total


def check_range(offset: int, length: int, size: int) -> None:
    """Raises BadRange unless [offset, offset + length) lies within a chunk of `size` bytes and is not empty."""
    if offset < 0 or length < 1 or offset + length > size:
        raise errors.BadRange(f"{length} bytes at {offset} are not within the chunk's {size} bytes", str(size))
