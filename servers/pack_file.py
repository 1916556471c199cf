"""A pack: one file to which small chunks are appended, each as a record.

    record   header, then the chunk's bytes
    header   magic (8 bytes), length of the chunk (4), its name (32), CRC-32 of these 44 bytes (4); big-endian

So a pack can be read without an index: the header's checksum tells where records are, and the name, being a hash, that
they are whole. Reading from some offset on (`Scan`) meets

    a record whose bytes do not hash to its name    yielded as not `sound`; the next one begins where it ends
    bytes that are no header                        passed over, to the next header that is one; they stay in the file
    a record that ends beyond the file, or less     the torn tail of a killed server, a full disk or a power cut:
      than a header                                 reading ends before it, and who appends next cuts it off

Threads: a `PackFile` is guarded by who has it (packs.py). `Handles` has a lock, held while a pack is opened; reading
needs none, as a descriptor is closed when its last user has dropped it.
"""

import errno
import logging
import os
import re
import struct
import threading
import zlib
from collections.abc import Container, Iterator
from typing import NamedTuple

from dfsfuse.chunks import ENTRY_BYTES, NAME_BYTES, chunk_name

log = logging.getLogger(__name__)

HANDLES_MAX = 64
"""Packs that are open for reading at a time."""

_MAGIC = b"\x89DFSpck1"
_START = struct.Struct(f">{len(_MAGIC)}sI{NAME_BYTES}s")
HEADER_BYTES = _START.size + 4
_WINDOW_BYTES = 64 << 10
_PACK_NAME = re.compile("[0-9]{8}")


class Place(NamedTuple):
    """Where a chunk's bytes are: `length` bytes at `offset` of the pack of that number."""

    pack: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Record(NamedTuple):
    name: bytes
    place: Place
    sound: bool


def header(name: bytes, length: int) -> bytes:
    start = _START.pack(_MAGIC, length, name)
    return start + zlib.crc32(start).to_bytes(4, "big")


def pack_path(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}"


def pack_sizes(folder: str) -> dict[int, int]:
    """The packs in the folder: number -> bytes."""
    return {int(file.name): file.stat().st_size for file in os.scandir(folder) if _PACK_NAME.fullmatch(file.name)}


class _Handle:
    """A descriptor that is closed with its last reference."""

    def __init__(self, path: str, flags: int):
        self.number = -1
        self.number = os.open(path, flags | os.O_CLOEXEC, 0o600)

    def __del__(self):
        if self.number >= 0:
            os.close(self.number)


class PackFile:
    """A pack that is written. `end`: up to where its records are known to the owner, who moves it on; `synced`: up to
    where they are on the disk; `sealed`: nothing more is appended to it."""

    def __init__(self, folder: str, number: int):
        self.number, self.sealed = number, False
        self._folder = folder
        self._file = _Handle(pack_path(folder, number), os.O_RDWR | os.O_CREAT)
        self._handle = self._file.number
        self.end = self.synced = os.fstat(self._handle).st_size
        self._new = not self.end

    def write(self, name: bytes, data: bytes | bytearray | memoryview) -> Place:
        """A record at `end`. Raises OSError; then nothing of it is left, or the pack is sealed."""
        try:
            self._write_all(header(name, len(data)), data)
        except OSError:
            self.cut()
            raise
        return Place(self.number, self.end + HEADER_BYTES, len(data))

    def _write_all(self, head: bytes, data: bytes | bytearray | memoryview) -> None:
        written = os.pwritev(self._handle, (head, data), self.end)
        while written < len(head) + len(data):
            rest = (head + data)[written:]
            written += os.pwrite(self._handle, rest, self.end + written)

    def cut(self) -> None:
        """Remove what is beyond `end`. A pack that cannot be cut is sealed, so that no record follows a torn one."""
        try:
            os.ftruncate(self._handle, self.end)
        except OSError as error:
            self.sealed = True
            log.error(
                "pack %d cannot be cut to %d bytes: %s; a new one is begun", self.number, self.end, error.strerror
            )

    def sync(self) -> None:
        """Bring it to the disk. The descriptor is the one that wrote: it hears of every failure since."""
        os.fdatasync(self._handle)

    def sync_name(self) -> None:
        """Bring its name to the disk. What fails can be done again: the kernel keeps a folder's changes."""
        if self._new:
            sync_folder(self._folder)
            self._new = False


class Scan:
    """The records of [start, end) of a pack, in order; `position` is where the last one that was yielded ends."""

    def __init__(self, handle: int, number: int, start: int, end: int):
        self.position = start
        self._handle, self._number, self._end = handle, number, end

    def __iter__(self) -> Iterator[Record]:
        while self._end - self.position >= HEADER_BYTES:
            found = self._header(self.position)
            if found is None:
                self._pass_over()
                continue
            place = Place(self._number, self.position + HEADER_BYTES, found[1])
            if place.end > self._end:
                return
            self.position = place.end
            yield Record(found[0], place, chunk_name(self._read(place.length, place.offset)) == found[0])

    def _header(self, position: int) -> tuple[bytes, int] | None:
        """(name, length) of the header there."""
        head = self._read(HEADER_BYTES, position)
        if not head.startswith(_MAGIC) or len(head) < HEADER_BYTES:
            return None
        _, length, name = _START.unpack_from(head)
        return (name, length) if header(name, length) == head and 0 < length <= ENTRY_BYTES else None

    def _pass_over(self) -> None:
        begin, self.position = self.position, self._next_header(self.position + 1)
        count = self.position - begin
        log.error("pack %d: the %d bytes at %d are no record; they are passed over", self._number, count, begin)

    def _next_header(self, position: int) -> int:
        """Where the next one begins; the end if there is none."""
        while self._end - position >= HEADER_BYTES:
            window = self._read(min(_WINDOW_BYTES, self._end - position), position)
            index = window.find(_MAGIC)
            if len(window) < HEADER_BYTES:
                break
            if index < 0:
                position += len(window) - len(_MAGIC) + 1
            elif self._header(position + index):
                return position + index
            else:
                position += index + 1
        return self._end

    def _read(self, length: int, offset: int) -> bytes:
        """What the disk cannot read counts as zeros: it hashes to no name, and is no header."""
        try:
            return os.pread(self._handle, length, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return bytes(length)


class Handles:
    """The packs that are open for reading: those that were read last, HANDLES_MAX at most."""

    def __init__(self, folder: str):
        self._folder = folder
        self._lock = threading.Lock()
        self._open: dict[int, _Handle] = {}

    def read(self, place: Place, offset: int, length: int) -> bytes:
        """A part of what is at `place`; shorter than asked for where the pack ends. Raises OSError."""
        handle = self._handle(place.pack)
        return os.pread(handle.number, length, place.offset + offset)

    def drop_pages(self, place: Place) -> None:
        """Forget what is in memory of what is at `place`: it is read from the disk next."""
        handle = self._handle(place.pack)
        os.posix_fadvise(handle.number, place.offset, place.length, os.POSIX_FADV_DONTNEED)

    def keep(self, packs: Container[int]) -> None:
        """Others than these are open no longer."""
        with self._lock:
            self._open = {pack: handle for pack, handle in self._open.items() if pack in packs}

    def drop(self, pack: int) -> None:
        """It was removed: its room is free once nobody reads it any more."""
        with self._lock:
            self._open.pop(pack, None)

    def _handle(self, pack: int) -> _Handle:
        with self._lock:
            handle = self._open.pop(pack, None) or _Handle(pack_path(self._folder, pack), os.O_RDONLY)
            self._open[pack] = handle
            if len(self._open) > HANDLES_MAX:
                del self._open[next(iter(self._open))]
        return handle


def sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
