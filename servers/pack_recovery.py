"""What packs have and their index does not: read, verified, and entered in the index.

Threads: those of the caller, who has the writing side of the index to himself.
"""

import logging
import os
from collections.abc import Callable, Mapping

from servers.pack_file import Place, Scan, pack_path, sync_folder
from servers.pack_index import IndexBroken, PackIndex

log = logging.getLogger(__name__)

_BATCH = 32768
"""Records that are entered at a time: some megabytes. Each batch touches most pages of a large index, so few do it."""

SetAside = Callable[[bytes, Place], None]
"""Takes a record whose bytes do not hash to its name."""


def check_fits(index: PackIndex, sizes: Mapping[int, int]) -> None:
    """Raises IndexBroken where the index knows of more than the packs have: somebody has cut or removed one. That packs
    without live chunks are gone is right: a kill came between their removal and that of their rows."""
    index.forget_packs([pack for pack in index.ends() if pack not in sizes])
    for pack, end in index.ends().items():
        if end > sizes.get(pack, 0):
            raise IndexBroken(f"knows {end} bytes of pack {pack}, which has {sizes.get(pack, 0)}")


def enter(index: PackIndex, folder: str, limits: Mapping[int, int], set_aside: SetAside) -> dict[int, int]:
    """Enter the records up to `limits` of each pack; where the last one ends, for the packs that were read.

    Raises IndexBroken, NoSpace, Internal, OSError; what was entered until then is right all the same.
    """
    ends = index.ends()
    behind = {pack: limit for pack, limit in sorted(limits.items()) if limit > ends.get(pack, 0)}
    if behind:
        sync_folder(folder)
    return {
        pack: _enter_pack(index, folder, pack, ends.get(pack, 0), limit, set_aside) for pack, limit in behind.items()
    }


def _enter_pack(index: PackIndex, folder: str, pack: int, start: int, limit: int, set_aside: SetAside) -> int:
    handle = os.open(pack_path(folder, pack), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _settle(handle, pack)
        scan = Scan(handle, pack, start, limit)
        _enter_records(index, pack, scan, set_aside)
        return scan.position
    finally:
        os.close(handle)


def _enter_records(index: PackIndex, pack: int, scan: Scan, set_aside: SetAside) -> None:
    places: dict[bytes, Place] = {}
    for name, place, sound in scan:
        if sound:
            places[name] = place
        else:
            set_aside(name, place)
        if len(places) >= _BATCH:
            index.add(places, {pack: scan.position})
            places.clear()
    index.add(places, {pack: scan.position})


def _settle(handle: int, pack: int) -> None:
    """Bring what an earlier process wrote to the disk, as rows point to nothing else. Where that fails the kernel takes
    the lost pages for clean; without them the scan reads what the disk has."""
    try:
        os.fdatasync(handle)
    except OSError as error:
        log.error("pack %d could not be brought to the disk: %s; its end is read anew", pack, error.strerror)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def cut_torn(folder: str, sizes: Mapping[int, int], ends: Mapping[int, int]) -> None:
    """Cut each pack to where its last record ends, so that the next one is appended there."""
    for pack, end in ends.items():
        if end < sizes[pack]:
            os.truncate(pack_path(folder, pack), end)
            log.warning("pack %d: %d bytes of a record that was not finished were cut off", pack, sizes[pack] - end)
