"""A content that nobody uses becomes a version that another client has committed, and keeps what both have in common.

What is not fetched yet must read as zeros on disk, as `fetch` writes only what is not zero; what one chunk fills leaves
nothing of what was there, so its bytes may stay until then. What was fetched by a client that was killed is on disk
too, though nothing says so.

Threads: the cache's, which calls this under its mutex.
"""

import contextlib
import os
from collections.abc import Iterator

from dfsfuse import chunks
from dfsfuse.cache_index import CacheIndex
from dfsfuse.chunks import ENTRY_BYTES, Ranges
from dfsfuse.content import Content
from dfsfuse.manifests import Entries, SegmentIds
from dfsfuse.messages import Attributes
from dfsfuse.sparse_files import punch_hole
from dfsfuse.sparse_list import indexes_of


def become(content: Content, newest: Attributes, entries: Entries, segments: SegmentIds, index: CacheIndex) -> int:
    """Content, file and row are the version of these attributes; how many bytes the file takes on the disk. Raises
    OSError, NoSpace.

    The row says what is on disk, so it is told before anything of that goes, and again when the rest is right; not
    under the content's mutex, which comes after the index's."""
    entries = entries.copy().fit(chunks.entry_count(newest.size))
    with _opened(content) as fd:
        stale = _stale_entries(content, newest.size, entries)
        # A killed client has left something else here than the index knows of.
        is_foreign = os.fstat(fd).st_size != content.size
        if stale or is_foreign:
            index.forget_present(content.row)
        with content.mutex:
            content.row_current = False
            if is_foreign:
                content.present = Ranges()
                os.ftruncate(fd, 0)
            _reshape(content, fd, newest.size, entries, stale)
            content.version, content.commit_id, content.segments = newest.version, newest.commit_id, segments
            content.mtime_ns, content.synced, content.missed = newest.mtime_ns, False, False
            content.ancestors.forget()
            content.read_elsewhere()
        size_bytes = os.fstat(fd).st_blocks * 512
    index.save_clean([content])
    content.row_current = True
    return size_bytes


def _stale_entries(content: Content, size: int, entries: Entries) -> list[int]:
    """Those whose bytes on disk must go."""
    return [
        index
        for index in _changed(content, entries)
        if not chunks.is_solid(entries[index], chunks.entry_length(index, size))
    ]


def _changed(content: Content, entries: Entries) -> Iterator[int]:
    """Entries of both versions that are not here as the newer one has them, and may have bytes on disk."""
    present, former = content.present, content.entries
    count = min(len(former), len(entries))
    for index in indexes_of(former, entries):
        here = index in present
        if index < count and (here or former[index]) and not (here and former[index] == entries[index]):
            yield index


def _reshape(content: Content, fd: int, size: int, entries: Entries, stale: list[int]) -> None:
    for index in stale:
        punch_hole(fd, index * ENTRY_BYTES, ENTRY_BYTES)
    content.present.cut(len(entries))
    for index in list(_changed(content, entries)):
        content.present.remove(index, index + 1)
    if os.fstat(fd).st_size != size:
        os.ftruncate(fd, size)
    content.size, content.entries = size, entries


@contextlib.contextmanager
def _opened(content: Content) -> Iterator[int]:
    """A descriptor of its file, which a client may have been killed before it made."""
    if content.fd >= 0:
        yield content.fd
        return
    fd = os.open(content.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
