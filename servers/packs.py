"""Small chunks, many in one file: storing one costs an append, where a file of its own would be created and renamed.

    home/packs/00000001 ...   the packs (pack_file.py): appended to until they have PACK_BYTES, then a new one is begun
    home/packs/index.db       in which pack each chunk is (pack_index.py)
    home/corrupt/             a copy of what did not hash to its name, kept for a human

A record is in the kernel's memory when `put` returns: a killed server loses nothing. `sync` brings the packs to the
disk and then writes the index, so that its rows point to what is there for good. Until then a chunk is in one of two
tables in memory: `_fresh`, or `_pending` while a sync is about it. If the disk has no room for the index, records stay
pending, as they are safe, until RECENT_MAX of them are; then `put` refuses.

At start the records behind the index are read, verified and entered; a torn tail is cut off. An index that is missing,
broken, or knows more than the packs have, is made again from all of them.

A pack whose fdatasync failed is cut back to what was on the disk before: the kernel reports such a failure once, takes
the lost pages for clean, and does not say which they were, so all records since then are lost, also those that were
appended meanwhile.

Most chunks that come are new. That is told by a filter in memory (name_filter.py), which learns the names in the index
at start and with the syncs that follow; until it knows all, the index is asked.

A chunk is deleted by removing its row, as `set_aside` does. Its record is dead space in the pack then, and has a row
again if the index is made again; unless its bytes do not hash to its name. Packs that are mostly dead space are
rewritten (pack_compaction.py).

Threads: all methods may be called from any thread, `sync` from one at a time. Locks, in the order in which they are
taken: `_appending` serialises `put` and is held across its write; `_indexing` admits one to the index's writing side;
`_lock` guards both tables, the counters and which packs are written, and is held for memory work, save that a pack that
failed is cut under it.
"""

import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from dfsfuse import errors
from servers import pack_recovery
from servers.name_filter import NameFilter
from servers.pack_compaction import Compaction
from servers.pack_file import Handles, PackFile, Place, pack_sizes
from servers.pack_index import IndexBroken, PackIndex

log = logging.getLogger(__name__)

PACK_BYTES_MAX = 256 << 10
"""Chunks below this size go into packs."""
PACK_BYTES = 64 << 20
RECENT_MAX = 16384
"""Records in memory, some hundred bytes each."""
_NAMES_A_STEP = 20_000

_Result = TypeVar("_Result")
_KEEP = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class Packs:
    """The small chunks below `home`, whose folders packs/ and corrupt/ are there."""

    def __init__(self, home: pathlib.Path, on_broken: Callable[[bytes], None] = lambda _: None):
        self._on_broken = on_broken
        self._folder, self._corrupt = f"{home}/packs", f"{home}/corrupt"
        self._appending, self._indexing, self._lock = threading.Lock(), threading.RLock(), threading.Lock()
        self._fresh: dict[bytes, Place] = {}
        self._pending: dict[bytes, Place] = {}
        self._ends: dict[int, int] = {}
        self._written: dict[int, PackFile] = {}
        self._current: PackFile | None = None
        self._behind = False
        self._known, self._learnt, self._all_known = NameFilter(), b"", False
        self._handles = Handles(self._folder)
        self._index = PackIndex(f"{self._folder}/index.db")
        self.chunks = self.stored_bytes = 0
        self._open_index()
        self._last = max((0, *pack_sizes(self._folder)))
        self._compaction = Compaction(
            self._folder, self._handles, self._index, self._ask_alone, self._new_number, self._forget_wrong
        )
        if self._last:
            # As long as it has room it is gone on with.
            self._current = self._written[self._last] = PackFile(self._folder, self._last)

    @property
    def unsynced(self) -> int:
        """Records that the next sync is for."""
        return len(self._fresh) + len(self._pending)

    @property
    def is_learning(self) -> bool:
        """Are there names in the index that are not known yet? Some are learnt with each sync."""
        return not self._all_known

    # -- storing and finding

    def put(self, name: bytes, data: bytes | bytearray | memoryview) -> bool:
        """Append a chunk; False if it is here. Raises OSError, NoSpace, Internal; then nothing of it is left."""
        with self._appending:
            known = self.find(name) if self.may_have(name) else None
            if known and known.length == len(data):
                return False
            if known:
                self._forget_wrong(name, known)
            if self.unsynced >= RECENT_MAX:
                raise errors.NoSpace("the index of packs cannot be written, and too many chunks wait for it")
            pack = self._writable()
            place = pack.write(name, data)
            with self._lock:
                pack.end = place.end
                self._fresh[name] = place
                self._known.add(name)
                self._count(1, place.length)
        return True

    def _forget_wrong(self, name: bytes, known: Place) -> None:
        """A row that gives a chunk another length than its bytes have. While it stands, no other is written."""
        self.set_aside(name, known)
        if self.find(name):
            raise errors.Internal(f"chunk {name.hex()} has a wrong row in the index of packs, which cannot be written")

    def _count(self, chunks: int, size: int) -> None:
        self.chunks += chunks
        self.stored_bytes += size

    def _writable(self) -> PackFile:
        """The pack to append to; `_appending` is held."""
        pack = self._current
        if pack is None or pack.sealed or pack.end >= PACK_BYTES:
            pack = PackFile(self._folder, self._new_number())
            with self._lock:
                self._current = self._written[pack.number] = pack
        return pack

    def may_have(self, name: bytes) -> bool:
        """False: the chunk is certainly not here. Told from memory."""
        return not self._all_known or self._known.may_have(name)

    def find(self, name: bytes) -> Place | None:
        with self._lock:
            place = self._fresh.get(name) or self._pending.get(name)
        return place or self._ask_index(lambda: self._index.find(name))

    def read(self, name: bytes, place: Place, offset: int, length: int) -> bytes:
        """A part of the chunk there; shorter than asked for where the pack ends. Raises OSError."""
        try:
            return self._handles.read(place, offset, length)
        except FileNotFoundError:
            moved = self.find(name)
            if moved is None or moved.pack == place.pack:
                raise
        return self.read(name, moved, offset, length)

    def read_into(self, name: bytes, place: Place, buffer: memoryview) -> int:
        """The whole chunk; how many bytes, fewer than it has where the pack ends. Raises OSError."""
        data = self.read(name, place, 0, place.length)
        buffer[: len(data)] = data
        return len(data)

    def drop_pages(self, _: bytes, place: Place) -> None:
        """Forget what is in memory of the chunk: it is read from the disk next."""
        self._handles.drop_pages(place)

    def pieces(self, name: bytes, place: Place) -> Iterator[bytes]:
        """The whole chunk. Raises OSError."""
        yield self.read(name, place, 0, place.length)

    def set_aside(self, name: bytes, place: Place) -> None:
        """Forget the chunk if it is still at that place; its bytes, as far as the disk gives them, go to corrupt/."""
        with self._indexing:
            if self.find(name) != place:
                return
            self._keep_aside(name, place)
            with self._lock:
                self._fresh.pop(name, None)
                self._pending.pop(name, None)
            self._write_index(lambda: self._index.remove({name: place}))
            self._recount()

    def delete(self, names: Iterable[bytes]) -> None:
        """Forget these chunks, unless the index cannot be written. Nobody puts them meanwhile."""
        with self._indexing:
            places = {name: place for name in names if self.may_have(name) and (place := self.find(name))}
            if not places or not self._write_index(lambda: self._index.remove(places)):
                return
            with self._lock:
                for name in places:
                    self._fresh.pop(name, None)
                    self._pending.pop(name, None)
            self._recount()

    def names(self, after: bytes, limit: int) -> list[bytes]:
        """Names of chunks in the index that sort after `after`, in order, `limit` at most."""
        return self._ask_alone(lambda: self._index.names(after, limit))

    # -- room

    def save_room(self) -> None:
        """The index takes as little of a disk that is full as it can."""
        with self._indexing:
            self._index.empty_log()

    def compact(self) -> int:
        """Rewrite one pack that is mostly dead space, if there is one; how many bytes that has freed. For one thread at
        a time. Raises NoSpace, Internal; then nothing has changed."""
        with self._lock:
            in_use = {*self._written, *self._ends}
        return self._compaction.compact(in_use, PACK_BYTES)

    def look_for_packs(self) -> None:
        """A pack that somebody has removed is not read any more through a descriptor that is still open, nor appended
        to: what was in it is missing."""
        with self._lock:
            here = pack_sizes(self._folder)
            for pack in self._written.values():
                pack.sealed = pack.sealed or pack.number not in here
        self._handles.keep(here)

    def _new_number(self) -> int:
        """Of a pack that is going to be made."""
        with self._lock:
            self._last += 1
            return self._last

    def _keep_aside(self, name: bytes, place: Place) -> None:
        self._on_broken(name)
        path = f"{self._corrupt}/{name.hex()}"
        try:
            data = self._handles.read(place, 0, place.length)
            with open(os.open(path, _KEEP, 0o600), "wb", buffering=0) as file:
                file.write(data)
        except OSError as error:
            log.error("%s cannot be kept in %s: %s", place, path, error.strerror)

    # -- the disk

    def sync(self, indexed: bool = True) -> list[OSError]:
        """Bring everything that was put to the disk, and then, `indexed`, into the index, which is behind else. A
        failure for each chunk that was lost."""
        with self._lock:
            self._pending.update(self._fresh)
            self._fresh = {}
            packs = [(pack, pack.end) for pack in self._written.values()]
        lost = [error for pack, end in packs for error in self._sync_pack(pack, end)]
        if indexed:
            self._index_pending()
        return lost

    def _index_pending(self) -> None:
        with self._indexing:
            with self._lock:
                places, ends = dict(self._pending), dict(self._ends)
            if ends and self._write_index(lambda: self._index.add(places, ends)):
                with self._lock:
                    self._pending, self._ends = {}, {}
            self._learn_names()

    def _sync_pack(self, pack: PackFile, end: int) -> list[OSError]:
        if end > pack.synced:
            try:
                pack.sync()
            except OSError as error:
                return [error] * self._drop_unsynced(pack, error)
            try:
                pack.sync_name()
            except OSError as error:
                return [error]
        with self._lock:
            if end > pack.synced:
                pack.synced = self._ends[pack.number] = end
            if pack is not self._current and pack.synced == pack.end:
                del self._written[pack.number]
        return []

    def _drop_unsynced(self, pack: PackFile, error: OSError) -> int:
        """How many chunks are lost: all that came since the pack was on the disk."""
        lost = 0
        with self._appending, self._lock:
            for recent in (self._fresh, self._pending):
                for name in [name for name, at in recent.items() if at.pack == pack.number and at.end > pack.synced]:
                    lost += 1
                    self._count(-1, -recent.pop(name).length)
                    self._on_broken(name)
            pack.end, pack.sealed = pack.synced, True
            pack.cut()
        log.error("pack %d: its last %d chunks could not be brought to the disk: %s", pack.number, lost, error.strerror)
        return lost

    def close(self) -> None:
        """Nobody uses it any more."""
        self._index.close()
        self._compaction.close()
        self._handles.keep(())
        self._written, self._current = {}, None

    # -- the index

    def _open_index(self) -> None:
        sizes = pack_sizes(self._folder)
        began, why = time.monotonic(), ""
        try:
            known = self._index.open()
            why = "" if known or not sizes else "is missing"
            pack_recovery.check_fits(self._index, sizes)
            self._enter(sizes)
        except IndexBroken as error:
            why = str(error)
            self._index.renew(lambda: self._enter(sizes))
        if why:
            self._tell(why, began)
        self._recount()
        self._learn_names()

    def _learn_names(self) -> None:
        """Some more of the names in the index, until all are known: at start, and then with each sync, as a million of
        them take seconds. `_indexing` is held."""
        if self._all_known:
            return
        try:
            names = self._index.names(self._learnt, _NAMES_A_STEP)
        except (IndexBroken, errors.DfsError) as error:
            log.warning("the index of packs %s; its names are learnt later", error)
            return
        with self._lock:
            for name in names:
                self._known.add(name)
        self._all_known = len(names) < _NAMES_A_STEP
        self._learnt = names[-1] if names else b""

    def _enter(self, sizes: dict[int, int]) -> None:
        ends = pack_recovery.enter(self._index, self._folder, sizes, self._keep_aside)
        pack_recovery.cut_torn(self._folder, sizes, ends)

    def _ask_index(self, ask: Callable[[], _Result]) -> _Result:
        """Its answer; from an index that has been made again if need be."""
        for _ in range(2):
            generation = self._index.generation
            try:
                return ask()
            except IndexBroken as error:
                why = str(error)
                self._rebuild(generation, why)
        raise errors.Internal(f"the index of packs {why}, just after it was made again")

    def _ask_alone(self, ask: Callable[[], _Result]) -> _Result:
        with self._indexing:
            return self._ask_index(ask)

    def _write_index(self, write: Callable[[], None]) -> bool:
        """Whether `write` was done. If the disk has no room or fails, the index stays behind; `_indexing` is held."""
        try:
            self._ask_index(write)
        except errors.DfsError as error:
            if not self._behind:
                log.error("%s; what is new stays in memory until it can be written", error)
            self._behind = True
            return False
        self._behind = False
        return True

    def _rebuild(self, generation: int, why: str) -> None:
        """Make the index again from what is on the disk, unless another thread has; who asks it waits meanwhile."""
        with self._indexing:
            if self._index.generation != generation:
                return
            began = time.monotonic()
            with self._lock:
                synced = {pack.number: pack.synced for pack in self._written.values()}
                limits = pack_sizes(self._folder) | synced
            try:
                self._index.renew(lambda: pack_recovery.enter(self._index, self._folder, limits, self._keep_aside))
            except IndexBroken as error:
                raise errors.Internal(f"the index of packs {error}, while it was made again") from error
            except OSError as error:
                raise errors.from_os_error(error, "making the index of packs again") from error
            self._forget_entered(limits)
            self._recount()
            self._tell(why, began)

    def _forget_entered(self, limits: dict[int, int]) -> None:
        """What was pending and has been entered by the scan is not counted, nor entered, once more."""
        with self._lock:
            self._pending = {name: at for name, at in self._pending.items() if at.end > limits.get(at.pack, 0)}
            # The scan may have found what had been set aside.
            self._learnt, self._all_known = b"", False

    def _recount(self) -> None:
        """`_indexing` is held."""
        chunks, size = self._ask_index(self._index.totals)
        with self._lock:
            recent = [*self._fresh.values(), *self._pending.values()]
            self.chunks, self.stored_bytes = chunks + len(recent), size + sum(place.length for place in recent)

    def _tell(self, why: str, began: float) -> None:
        chunks, _ = self._index.totals()
        took_s = time.monotonic() - began
        log.warning("the index %s/index.db %s; made again in %.1f s: %d chunks", self._folder, why, took_s, chunks)
