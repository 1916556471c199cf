"""Large chunks: a file for each.

    home/chunks/ab/ab...  one file per chunk, named by its 64 hex digits, in 256 folders
    home/tmp/             chunks being written; a rename moves a whole one to its place, leftovers are removed at start
    home/corrupt/         what did not hash to its name

Small chunks are found here too: those of homes that were made before there were packs.

The names that `sync` still has to do are known; what an earlier process had not synced is not, so the first `sync` of a
process brings everything to the disk.

Threads: all methods may be called from any thread, `sync` from one at a time. `_lock` guards the counters and the names
to sync, and is held across a rename but never across reading, writing or syncing.
"""

import contextlib
import itertools
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from dfsfuse import direct_io, errors
from dfsfuse.chunks import ENTRY_BYTES, NAME_BYTES

log = logging.getLogger(__name__)

READ_BYTES = 256 << 10
READ_LATELY_MAX = 4096
"""Names of whole chunks that were read last, 16 GiB of them at most: about what a server has memory for."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class FilePlace(NamedTuple):
    """The file that a chunk is, `inode` telling it from one that has taken its place."""

    inode: int
    length: int


class ChunkFiles:
    """The chunk files below `home`, whose folders tmp/ and corrupt/ are there."""

    def __init__(self, home: pathlib.Path, on_broken: Callable[[bytes], None]):
        self._home, self._on_broken = home, on_broken
        self._lock = threading.Lock()
        self._unsynced: set[bytes] = set()
        self._read_lately: dict[bytes, None] = {}
        self._inherited = True
        self._temporary = itertools.count()
        self._make_folders()
        self._empty_tmp()
        self.chunks = self.stored_bytes = 0
        self.shortest = ENTRY_BYTES
        """Of the files that were here at start."""
        self._measure()

    @property
    def unsynced(self) -> int:
        """Chunks that the next sync is for."""
        return len(self._unsynced)

    def put(self, name: bytes, data: bytes | bytearray | memoryview) -> None:
        """Keep a chunk, in place of a file of that name. Raises OSError; then nothing of it is left."""
        temporary = f"{self._home}/tmp/{next(self._temporary)}"
        try:
            _write_file(temporary, data)
            with self._lock:
                replaced = self.find(name)
                os.rename(temporary, self._path(name))
                self._forget(name, replaced)
                self.chunks += 1
                self.stored_bytes += len(data)
                self._unsynced.add(name)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def find(self, name: bytes) -> FilePlace | None:
        """Raises BadHash for what is not a chunk's name. An empty file is what a power cut has left of one."""
        try:
            found = os.stat(self._path(name))
        except OSError:
            return None
        return FilePlace(found.st_ino, found.st_size) if found.st_size else None

    def read(self, name: bytes, _: FilePlace, offset: int, length: int) -> bytes:
        """A part of the chunk; shorter than asked for where the file ends. Raises OSError."""
        with self._reading(name) as handle:
            return os.pread(handle, length, offset)

    def read_into(self, name: bytes, place: FilePlace, buffer: memoryview) -> int:
        """The whole chunk; how many bytes, fewer than it has where the file ends. Raises OSError."""
        buffer = buffer[: place.length]
        with self._reading(name) as handle:
            done = 0 if self._is_read_again(name) else direct_io.pread_into(handle, buffer, 0)
            while done < len(buffer) and (count := os.preadv(handle, (buffer[done:],), done)):
                done += count
        return done

    def _is_read_again(self, name: bytes) -> bool:
        """What several clients read is worth the kernel's pages; what one has read is in its cache."""
        with self._lock:
            again = name in self._read_lately
            self._read_lately[name] = None
            if len(self._read_lately) > READ_LATELY_MAX:
                del self._read_lately[next(iter(self._read_lately))]
        return again

    def pieces(self, name: bytes, _: FilePlace) -> Iterator[memoryview]:
        """The whole chunk, piece by piece in one buffer. Raises OSError."""
        buffer = memoryview(bytearray(READ_BYTES))
        with self._reading(name) as handle:
            while count := os.readv(handle, (buffer,)):
                yield buffer[:count]

    @contextlib.contextmanager
    def _reading(self, name: bytes) -> Iterator[int]:
        handle = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)

    def drop_pages(self, name: bytes, _: FilePlace) -> None:
        """Forget what is in memory of the chunk: it is read from the disk next."""
        with self._reading(name) as handle:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def set_aside(self, name: bytes, place: FilePlace) -> None:
        """Move the chunk to corrupt/, if it is still that file."""
        with self._lock, contextlib.suppress(OSError):
            if self.find(name) == place:
                os.replace(self._path(name), f"{self._home}/corrupt/{name.hex()}")
                self._forget(name, place)
                self._on_broken(name)

    def names(self, after: bytes, limit: int) -> list[bytes]:
        """Names of chunks that sort after `after`, in order, `limit` at most."""
        found: list[bytes] = []
        for first in range(after[0] if after else 0, 256):
            names = sorted(os.listdir(f"{self._home}/chunks/{first:02x}"))
            found += [name for name in map(bytes.fromhex, names) if name > after]
            if len(found) >= limit:
                break
        return found[:limit]

    def delete(self, names: Iterable[bytes]) -> None:
        """Remove the files of these chunks, as far as the disk lets them go."""
        for name in names:
            with self._lock:
                place = self.find(name)
                try:
                    os.unlink(self._path(name))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    log.error("chunk %s could not be deleted: %s", name.hex(), error.strerror)
                    continue
                self._forget(name, place)

    def _forget(self, name: bytes, place: FilePlace | None) -> None:
        """A file that was counted is gone; `_lock` is held."""
        if place:
            self.chunks -= 1
            self.stored_bytes -= place.length
        self._unsynced.discard(name)

    def sync(self) -> list[OSError]:
        """Bring everything that was put to the disk. A failure for each chunk that was lost, and set aside."""
        with self._lock:
            batch, self._unsynced = self._unsynced, set()
        if self._inherited:
            os.sync()
            self._inherited = False
        failed = [error for name in batch if (error := self._sync_chunk(name))]
        for first in {name[0] for name in batch}:
            failed += self._sync_folder(first, [name for name in batch if name[0] == first])
        return failed

    def _sync_folder(self, first: int, names: list[bytes]) -> list[OSError]:
        """What failed is to be done again: a folder's changes are not forgotten as a file's bytes are."""
        try:
            sync_path(f"{self._home}/chunks/{first:02x}", os.fsync)
        except OSError as error:
            with self._lock:
                self._unsynced.update(name for name in names if self.find(name))
            return [error] * len(names)
        return []

    def _sync_chunk(self, name: bytes) -> OSError | None:
        """Only what the disk has refused to take is lost; a file that could not be opened is tried again."""
        try:
            handle = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            with self._lock:
                self._unsynced.add(name)
            return error
        try:
            os.fdatasync(handle)
        except OSError as error:
            log.error("chunk %s could not be brought to the disk: %s; set aside", name.hex(), error.strerror)
            if place := self.find(name):
                self.set_aside(name, place)
            return error
        finally:
            os.close(handle)
        return None

    # -- files and folders

    def _path(self, name: bytes) -> str:
        if len(name) != NAME_BYTES:
            raise errors.BadHash(f"a chunk's name has {NAME_BYTES} bytes, not {len(name)}")
        digits = name.hex()
        return f"{self._home}/chunks/{digits[:2]}/{digits}"

    def _make_folders(self) -> None:
        for folder in ("chunks", *(f"chunks/{first:02x}" for first in range(256))):
            (self._home / folder).mkdir(mode=0o700, exist_ok=True)
        sync_path(f"{self._home}/chunks", os.fsync)

    def _empty_tmp(self) -> None:
        for leftover in os.scandir(self._home / "tmp"):
            os.unlink(leftover)

    def _measure(self) -> None:
        """Count what is stored. A power cut leaves empty files of chunks that no sync had reached; they go."""
        for first in range(256):
            for file in os.scandir(f"{self._home}/chunks/{first:02x}"):
                if length := file.stat().st_size:
                    self.chunks += 1
                    self.stored_bytes += length
                    self.shortest = min(self.shortest, length)
                else:
                    os.unlink(file)


def _write_file(path: str, data: bytes | bytearray | memoryview) -> None:
    handle = os.open(path, _CREATE, 0o600)
    try:
        written = direct_io.pwrite(handle, data, 0)
        while written < len(data):
            written += os.pwrite(handle, memoryview(data)[written:], written)
    finally:
        os.close(handle)


def sync_path(path: str, sync: Callable[[int], None]) -> None:
    """`sync`, os.fsync or os.fdatasync, of the file or folder there."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(handle)
    finally:
        os.close(handle)
