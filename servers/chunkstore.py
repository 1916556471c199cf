"""Chunks and receipts on one server's disk. No sockets, no event loop.

    home/start            the start number, raised at each start: the high part of receipt numbers
    home/chunks/ab/ab...  one file per chunk, named by its 64 hex digits, in 256 folders
    home/tmp/             chunks being written; a rename moves a whole one to its place, leftovers are removed at start
    home/corrupt/         chunks that did not hash to their names, kept for a human; never served

Every chunk is hashed when it arrives, and again before it is served. A range of a chunk cannot be checked by the one
who receives it, so the whole chunk is checked here first, unless this process has already done so: VERIFIED_MAX names
are remembered. What is found broken is set aside, so that it counts as missing and can be uploaded anew.

A stored chunk is in the kernel's memory: a killed server loses nothing. `sync` brings chunks and their folders to the
disk. The names it still has to do are a bounded set; the `store` that fills it syncs before it returns. What an earlier
process had not synced yet is not known by name, so the first `sync` of a process brings everything to the disk.

Threads: all methods may be called from any thread. `_lock` guards the counters, the receipt counter and both sets of
names, and is held across a rename but never across reading, writing or syncing; `_syncing` admits one sync at a time,
so that when `sync` returns, earlier batches are on disk as well.
"""

import contextlib
import errno
import itertools
import logging
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator

from blake3 import blake3

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES, NAME_BYTES, chunk_name

log = logging.getLogger(__name__)

READ_BYTES = 256 << 10
UNSYNCED_MAX = 8192
VERIFIED_MAX = 8192
COUNTER_BITS = 40

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class ChunkStore:
    """The chunks below `home`, a folder that no other process uses meanwhile."""

    def __init__(self, home: pathlib.Path):
        self._home = home
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._unsynced: set[bytes] = set()
        self._inherited = True
        self._verified: dict[bytes, None] = {}
        self._temporary = itertools.count()
        self.served_chunks = self.received_chunks = 0
        self._make_folders()
        self._number = _raise_start_number(home) << COUNTER_BITS
        self._empty_tmp()
        self.chunks, self.stored_bytes = self._count()

    # -- storing

    def store(self, name: bytes, data: bytes | bytearray | memoryview) -> int:
        """Keep a chunk; the number of its receipt. Storing it again is a success with a new receipt.

        Raises BadRequest (empty), BodyTooLarge, BadHash, NoSpace, Internal; then nothing of it is left.
        """
        if not data:
            raise errors.BadRequest("a chunk is never empty")
        if len(data) > ENTRY_BYTES:
            raise errors.BodyTooLarge(f"the chunk has {len(data)} bytes; at most {ENTRY_BYTES} are taken")
        if chunk_name(data) != name:
            raise errors.BadHash(f"the {len(data)} bytes received do not hash to {name.hex()}")
        if self.length(name) != len(data):
            self._write(name, data)
        with self._lock:
            self.received_chunks += 1
            full = len(self._unsynced) >= UNSYNCED_MAX
            number = self._next_number()
        if full:
            self.sync()
        return number

    def confirm(self, names: Iterable[bytes]) -> dict[bytes, int]:
        """A new receipt for each of these chunks that is here. Raises BadHash for what is not a chunk's name."""
        here = [name for name in names if self.length(name)]
        with self._lock:
            return {name: self._next_number() for name in here}

    def length(self, name: bytes) -> int:
        """The chunk's length; 0 if it is not here. Raises BadHash for what is not a chunk's name."""
        try:
            return os.stat(self._path(name)).st_size
        except OSError:
            return 0

    def has(self, name: bytes) -> bool:
        return bool(self.length(name))

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _write(self, name: bytes, data: bytes | bytearray | memoryview) -> None:
        temporary = f"{self._home}/tmp/{next(self._temporary)}"
        try:
            _write_file(temporary, data)
            with self._lock:
                replaced = self.length(name)
                os.rename(temporary, self._path(name))
                self._now_stored(name, len(data), replaced)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise errors.from_os_error(error, f"storing chunk {name.hex()}") from None

    def _now_stored(self, name: bytes, length: int, replaced: int) -> None:
        self.chunks += not replaced
        self.stored_bytes += length - replaced
        self._unsynced.add(name)
        self._remember_verified(name)

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
        size = self.length(name)
        if not size:
            raise errors.ChunkMissing(f"chunk {name.hex()} is not here")
        with self._lock:
            self.served_chunks += 1
            known = name in self._verified
        if again or not known:
            self._verify(name)
        return size

    def piece(self, name: bytes, offset: int, length: int) -> bytes:
        """A part of a checked chunk. Raises ChunkMissing and ChunkCorrupt: both can come about between two pieces."""
        with self._reading(name) as handle:
            data = os.pread(handle, length, offset)
        if len(data) != length:
            raise self._set_aside(name, f"{len(data)} of {length} bytes at {offset}")
        return data

    def _verify(self, name: bytes) -> None:
        hasher, buffer = blake3(), bytearray(READ_BYTES)
        with self._reading(name) as handle:
            while count := os.readv(handle, (buffer,)):
                hasher.update(memoryview(buffer)[:count])
        if hasher.digest() != name:
            raise self._set_aside(name, "its content hashes to another name")
        with self._lock:
            self._remember_verified(name)

    @contextlib.contextmanager
    def _reading(self, name: bytes) -> Iterator[int]:
        """An open descriptor; what the disk cannot read is set aside as what it misread is."""
        handle = -1
        try:
            handle = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
            yield handle
        except FileNotFoundError:
            raise errors.ChunkMissing(f"chunk {name.hex()} is not here") from None
        except OSError as error:
            if error.errno == errno.EIO:
                raise self._set_aside(name, "the disk cannot read it") from None
            raise errors.from_os_error(error, f"reading chunk {name.hex()}") from None
        finally:
            if handle >= 0:
                os.close(handle)

    def _remember_verified(self, name: bytes) -> None:
        self._verified[name] = None
        if len(self._verified) > VERIFIED_MAX:
            del self._verified[next(iter(self._verified))]

    def _set_aside(self, name: bytes, why: str) -> errors.ChunkCorrupt:
        """The error to raise, after the broken chunk went where it is never served from."""
        log.error("chunk %s is corrupt (%s); set aside in %s/corrupt", name.hex(), why, self._home)
        with self._lock, contextlib.suppress(OSError):
            length = self.length(name)
            os.replace(self._path(name), f"{self._home}/corrupt/{name.hex()}")
            self.chunks -= 1
            self.stored_bytes -= length
            self._unsynced.discard(name)
            self._verified.pop(name, None)
        return errors.ChunkCorrupt(f"chunk {name.hex()} is corrupt here: {why}", name.hex())

    # -- the disk

    def sync(self) -> int:
        """Bring everything stored so far to the disk; the number up to which receipts are on it now.

        A chunk that could not be written is set aside and NoSpace or Internal raised: the kernel reports such a
        failure once and then takes the lost pages for clean.
        """
        with self._syncing:
            with self._lock:
                batch, self._unsynced, number = self._unsynced, set(), self._number
            if self._inherited:
                os.sync()
                self._inherited = False
            failed = [error for name in batch if (error := self._sync_chunk(name))]
            for first in {name[0] for name in batch}:
                _sync_path(f"{self._home}/chunks/{first:02x}", os.fsync)
        if failed:
            raise errors.from_os_error(failed[0], f"syncing {len(failed)} chunks")
        return number

    def _sync_chunk(self, name: bytes) -> OSError | None:
        try:
            _sync_path(self._path(name), os.fdatasync)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._set_aside(name, f"it could not be brought to the disk: {error.strerror}")
            return error
        return None

    def capacity(self) -> tuple[int, int]:
        """(free, total) bytes of the disk."""
        disk = os.statvfs(self._home)
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize

    # -- files and folders

    def _path(self, name: bytes) -> str:
        if len(name) != NAME_BYTES:
            raise errors.BadHash(f"a chunk's name has {NAME_BYTES} bytes, not {len(name)}")
        digits = name.hex()
        return f"{self._home}/chunks/{digits[:2]}/{digits}"

    def _make_folders(self) -> None:
        for folder in ("", "chunks", "tmp", "corrupt", *(f"chunks/{first:02x}" for first in range(256))):
            (self._home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_path(f"{self._home}/chunks", os.fsync)

    def _empty_tmp(self) -> None:
        for leftover in os.scandir(self._home / "tmp"):
            os.unlink(leftover)

    def _count(self) -> tuple[int, int]:
        """(chunks, bytes) stored. A power cut leaves empty files of chunks that no sync had reached; they go."""
        count = size = 0
        for first in range(256):
            for file in os.scandir(f"{self._home}/chunks/{first:02x}"):
                length = file.stat().st_size
                count += length > 0
                size += length
                if not length:
                    os.unlink(file)
        return count, size


def check_range(offset: int, length: int, size: int) -> None:
    """Raises BadRange unless [offset, offset + length) lies within a chunk of `size` bytes and is not empty."""
    if offset < 0 or length < 1 or offset + length > size:
        raise errors.BadRange(f"{length} bytes at {offset} are not within the chunk's {size} bytes", str(size))


def _write_file(path: str, data: bytes | bytearray | memoryview) -> None:
    handle = os.open(path, _CREATE, 0o600)
    try:
        written = os.write(handle, data)
        while written < len(data):
            written += os.write(handle, memoryview(data)[written:])
    finally:
        os.close(handle)


def _sync_path(path: str, sync) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(handle)
    finally:
        os.close(handle)


def _raise_start_number(home: pathlib.Path) -> int:
    """The number of this start, on disk before it is used."""
    path, new = home / "start", home / "start.new"
    number = int(path.read_text()) + 1 if path.exists() else 1
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{number}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    _sync_path(str(home), os.fsync)
    return number
