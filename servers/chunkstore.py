"""Chunks and receipts on one server's disk. No sockets, no event loop.

    home/start            the start number, raised at each start: the high part of receipt numbers
    home/packs/           chunks below PACK_BYTES_MAX, many in a file (packs.py)
    home/chunks/  tmp/    larger ones, a file for each (chunk_files.py)
    home/corrupt/         chunks that did not hash to their names, kept for a human; never served

Every chunk is hashed when it arrives, and again before it is served. A range of a chunk cannot be checked by the one
who receives it, so the whole chunk is checked here first, unless this process has already done so: VERIFIED_MAX names
are remembered. What is found broken is set aside, so that it counts as missing and can be uploaded anew.

A stored chunk is in the kernel's memory: a killed server loses nothing. `sync` brings everything to the disk. What it
still has to do is bounded: the `store` that fills it syncs before it returns.

Threads: all methods may be called from any thread. `_lock` guards the receipt counter, the two other counters and the
verified names, and is held for memory work alone; `_syncing` admits one sync at a time, so that when `sync` returns,
earlier batches are on disk as well. The packs and the chunk files have locks of their own.
"""

import contextlib
import errno
import logging
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator

from blake3 import blake3

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from servers.chunk_files import ChunkFiles, FilePlace, sync_path
from servers.packs import PACK_BYTES_MAX, Packs, Place

log = logging.getLogger(__name__)

UNSYNCED_MAX = 8192
VERIFIED_MAX = 8192
COUNTER_BITS = 40


class ChunkStore:
    """The chunks below `home`, a folder that no other process uses meanwhile."""

    def __init__(self, home: pathlib.Path):
        self._home = home
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._verified: dict[bytes, None] = {}
        self.served_chunks = self.received_chunks = 0
        for folder in ("", "tmp", "corrupt", "packs"):
            (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._packs, self._files = Packs(home), ChunkFiles(home)
        self._number = _raise_start_number(home) << COUNTER_BITS

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
        try:
            written = self._keep(name, data)
        except OSError as error:
            raise errors.from_os_error(error, f"storing chunk {name.hex()}") from None
        with self._lock:
            if written:
                self._remember_verified(name)
            self.received_chunks += 1
            number = self._next_number()
        if self._packs.unsynced + self._files.unsynced >= UNSYNCED_MAX:
            self.sync()
        return number

    def _keep(self, name: bytes, data: bytes | bytearray | memoryview) -> bool:
        """False if it is here, unbroken."""
        if len(data) < PACK_BYTES_MAX and self._is_certainly_new(name):
            return self._packs.put(name, data)
        self._is_sound(name)
        if len(data) < PACK_BYTES_MAX:
            return not self._is_old_file(name, len(data)) and self._packs.put(name, data)
        known = self._files.find(name)
        if known and known.length == len(data):
            return False
        self._files.put(name, data)
        return True

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
        here = [name for name in names if self._is_sound(name)]
        with self._lock:
            return {name: self._next_number() for name in here}

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

    def _next_number(self) -> int:
        self._number += 1
        return self._number

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
        place = self._find(name)
        if not place:
            raise errors.ChunkMissing(f"chunk {name.hex()} is not here")
        with self._lock:
            self.served_chunks += 1
            known = name in self._verified
        if again or not known:
            self._verify(name, place)
        return place.length

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
        hasher = blake3()
        with self._reading(name, place):
            for piece in self._shelf(place).pieces(name, place):
                hasher.update(piece)
        if hasher.digest() != name:
            raise self._set_aside(name, place, "its content hashes to another name")
        with self._lock:
            self._remember_verified(name)

    @contextlib.contextmanager
    def _reading(self, name: bytes, place: Place | FilePlace) -> Iterator[None]:
        """What the disk cannot read is set aside as what it misread is; so is what has lost its pack."""
        try:
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError) and isinstance(place, FilePlace):
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

    # -- the disk

    def sync(self) -> int:
        """Bring everything stored so far to the disk; the number up to which receipts are on it now.

        A chunk that could not be written counts as missing, and NoSpace or Internal is raised: the kernel reports such
        a failure once and then takes the lost pages for clean.
        """
        with self._syncing:
            with self._lock:
                number = self._number
            failed = self._files.sync() + self._packs.sync()
        if failed:
            raise errors.from_os_error(failed[0], f"syncing {len(failed)} chunks")
        return number

    def close(self) -> None:
        """Nobody uses it any more. What was not synced is as after a kill: it is in the kernel's memory."""
        self._packs.close()

    def capacity(self) -> tuple[int, int]:
        """(free, total) bytes of the disk."""
        disk = os.statvfs(self._home)
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def check_range(offset: int, length: int, size: int) -> None:
    """Raises BadRange unless [offset, offset + length) lies within a chunk of `size` bytes and is not empty."""
    if offset < 0 or length < 1 or offset + length > size:
        raise errors.BadRange(f"{length} bytes at {offset} are not within the chunk's {size} bytes", str(size))


def _raise_start_number(home: pathlib.Path) -> int:
    """The number of this start, on disk before it is used."""
    path, new = home / "start", home / "start.new"
    number = int(path.read_text()) + 1 if path.exists() else 1
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{number}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    sync_path(str(home), os.fsync)
    return number
