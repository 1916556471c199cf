"""Room for what was deleted from packs: what is live in a pack that is mostly dead space is copied, and the pack goes.

    copy    live records        -> a pack of their own, which nothing else is appended to; fdatasync
    move    their rows          -> to the copies; on the disk before the next step
    remove  the former pack, when no row points to it any more; then what the index knows of it

So each row points to what is on the disk, whenever a kill or a power cut comes. What that leaves is a copy without a
row, which is dead space, or a former pack without live records, which is removed another time.

Threads: those of the caller, one at a time.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping

from dfsfuse.chunks import chunk_name
from servers.pack_file import Handles, PackFile, Place, pack_path

AT_ONCE = 4096
"""Records that are copied and moved together."""

Moves = dict[bytes, tuple[Place, Place]]
"""Chunk -> where it is, and where its copy is."""


class Compaction:
    """Copies of records in packs of the folder. `new_number` gives the number of a pack that is going to be made."""

    def __init__(self, folder: str, handles: Handles, new_number: Callable[[], int]):
        self._folder, self._handles, self._new_number = folder, handles, new_number
        self._target: PackFile | None = None

    @property
    def target(self) -> int:
        """The pack to which copies are appended; 0 if there is none."""
        return self._target.number if self._target else 0

    @contextlib.contextmanager
    def copied(self, records: Mapping[bytes, Place], pack_bytes: int) -> Iterator[tuple[Moves, list[bytes], int]]:
        """Within the block there are copies of these records on the disk: (moves, names of those that are not sound and
        were not copied, where the copies end). If it raises they are taken back. A pack with `pack_bytes` is full."""
        target = self._writable(pack_bytes)
        try:
            moves, broken = self._copy(target, records)
            target.sync()
            target.sync_name()
            yield moves, broken, target.end
        except BaseException:
            self._take_back(target)
            raise
        target.synced = target.end

    def _writable(self, pack_bytes: int) -> PackFile:
        if self._target is None or self._target.sealed or self._target.end >= pack_bytes:
            self._target = PackFile(self._folder, self._new_number())
        return self._target

    def _copy(self, target: PackFile, records: Mapping[bytes, Place]) -> tuple[Moves, list[bytes]]:
        moves, broken = {}, []
        for name, place in sorted(records.items(), key=lambda item: item[1].offset):
            data = self._handles.read(place, 0, place.length)
            if len(data) != place.length or chunk_name(data) != name:
                broken.append(name)
                continue
            moves[name] = place, target.write(name, data)
            target.end = moves[name][1].end
        return moves, broken

    def _take_back(self, target: PackFile) -> None:
        target.end, self._target = target.synced, None
        target.cut()
        if not target.end:
            os.unlink(pack_path(self._folder, target.number))
