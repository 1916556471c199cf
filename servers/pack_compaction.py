"""Room for what was deleted from packs: what is live in a pack that is mostly dead space is copied, and the pack goes.

    copy    live records        -> a pack of their own, which nothing else is appended to; fdatasync
    move    their rows          -> to the copies; on the disk before the next step
    remove  the former pack, when no row points to it any more; then what the index knows of it

So each row points to what is on the disk, whenever a kill or a power cut comes. What that leaves is a copy without a
row, which is dead space, or a former pack without live records, which is removed another time.

Threads: those of the caller, one at a time.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from dfsfuse import errors
from dfsfuse.chunks import chunk_name
from servers.pack_file import Handles, PackFile, Place, pack_path, sync_folder
from servers.pack_index import PackIndex

log = logging.getLogger(__name__)

AT_ONCE = 4096
"""Records that are copied and moved together."""

Moves = dict[bytes, tuple[Place, Place]]
"""Chunk -> where it is, and where its copy is."""

Ask = Callable[[Callable[[], Any]], Any]
"""Calls a function that asks or changes the index, while nobody else does."""


class Compaction:
    """Of the packs in the folder, which `index` knows. `new_number` gives the number of a pack that is to be made, and
    `forget` takes a record that is broken."""

    def __init__(
        self,
        folder: str,
        handles: Handles,
        index: PackIndex,
        ask: Ask,
        new_number: Callable[[], int],
        forget: Callable[[bytes, Place], None],
    ):
        self._folder, self._handles, self._index, self._ask = folder, handles, index, ask
        self._new_number, self._forget = new_number, forget
        self._target: PackFile | None = None

    def close(self) -> None:
        """The pack that it copies to is not open any longer."""
        self._target = None

    def compact(self, in_use: Container[int], pack_bytes: int) -> int:
        """Rewrite a pack that is mostly dead space, and is none of these; how many bytes that has freed, 0 if there is
        none. A pack of `pack_bytes` is full. Raises NoSpace, Internal; then nothing has changed."""
        mine = self._target.number if self._target else 0
        packs = self._ask(self._index.wasteful)
        pack = next((pack for pack in packs if pack not in in_use and pack != mine), None)
        if pack is None:
            return 0
        try:
            return self._rewrite(pack, pack_bytes)
        except OSError as error:
            raise errors.from_os_error(error, f"rewriting pack {pack}, which is mostly dead space") from None

    def _rewrite(self, pack: int, pack_bytes: int) -> int:
        copied = 0
        while live := self._ask(lambda: self._index.live(pack, AT_ONCE)):
            with self._copied(live, pack_bytes) as (moves, target):
                self._ask(functools.partial(self._index.move, moves, target.number, target.end))
            copied += sum(place.length for place, _ in moves.values())
            for name in live.keys() - moves.keys():
                self._forget(name, live[name])
        size = self._ask(lambda: self._remove(pack))
        log.info("pack %d is gone: %d of its %d bytes were live, and have been copied", pack, copied, size)
        return size - copied

    def _remove(self, pack: int) -> int:
        """How many bytes it had; nothing of it is live. If somebody else has removed it that is as good."""
        path, size = pack_path(self._folder, pack), 0
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(path).st_size
            os.unlink(path)
        self._handles.drop(pack)
        sync_folder(self._folder)
        self._index.forget_packs([pack])
        return size

    @contextlib.contextmanager
    def _copied(self, records: Mapping[bytes, Place], pack_bytes: int) -> Iterator[tuple[Moves, PackFile]]:
        """Within the block there are copies on the disk, in that pack, of those of these records that are sound. If it
        raises they are taken back."""
        target = self._writable(pack_bytes)
        try:
            moves = self._copy(target, records)
            target.sync()
            target.sync_name()
            yield moves, target
        except BaseException:
            self._take_back(target)
            raise
        target.synced = target.end

    def _writable(self, pack_bytes: int) -> PackFile:
        if self._target is None or self._target.sealed or self._target.end >= pack_bytes:
            self._target = PackFile(self._folder, self._new_number())
        return self._target

    def _copy(self, target: PackFile, records: Mapping[bytes, Place]) -> Moves:
        moves: Moves = {}
        for name, place in sorted(records.items(), key=lambda item: item[1].offset):
            data = self._read(place)
            if chunk_name(data) == name:
                moves[name] = place, target.write(name, data)
                target.end = moves[name][1].end
        return moves

    def _read(self, place: Place) -> bytes:
        """Nothing of a record whose pack has been removed."""
        try:
            return self._handles.read(place, 0, place.length)
        except FileNotFoundError:
            return b""

    def _take_back(self, target: PackFile) -> None:
        target.end, self._target = target.synced, None
        target.cut()
        if not target.end:
            os.unlink(pack_path(self._folder, target.number))
