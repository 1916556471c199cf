"""Holes and room of a content: finding, punching, allocating.

A content's holes are those of its manifest, less what was written here since, and with what was punched here since. So
nothing need be fetched to find them. Room that was allocated is content, of zeros: it is stored, and counts, as such.

Threads: any; `Content.mutex` is held, and what must be fetched first is here when these are called.
"""

import errno
import os
from collections.abc import Iterator

from dfsfuse import chunks, sparse_files
from dfsfuse.changes import blocks_within, data_of
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.content import Content
from dfsfuse.manifests import Entries
from dfsfuse.sparse_list import indexes_of


def with_data(entries: Entries, fd: int, size: int) -> list[int]:
    """Numbers of the entries that have content, or where the local file `fd` is no hole."""
    found = set(indexes_of(entries))
    for start, end, is_content in sparse_files.stretches(fd, 0, size):
        if is_content:
            found.update(range(*chunks.entries_in(start, end)))
    return sorted(found)


def data_in(content: Content, index: int) -> list[tuple[int, int]]:
    """Where entry `index` is no hole, in offsets of the content."""
    start = index * ENTRY_BYTES
    length = chunks.entry_length(index, content.size)
    steps = [changes.of_entry(start, start + ENTRY_BYTES) for changes in (content.taken, content.changes) if changes]
    return [(start + first, start + last) for first, last in data_of(content.entries[index], steps, length)]


def stretches(content: Content, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """The range, within the content, cut at the borders of holes: (start, end, is content)."""
    end = min(end, content.size)
    while start < end:
        with content.mutex:
            begins = _find(content, start, data=True)
            stops = _find(content, start, data=False) if begins == start else begins
        yield start, min(stops, end), begins == start
        start = stops


def seek(content: Content, offset: int, whence: int) -> int:
    """lseek(2) with SEEK_DATA and SEEK_HOLE. Raises OSError."""
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    with content.mutex:
        found = _find(content, offset, data=whence == os.SEEK_DATA) if 0 <= offset < content.size else content.size
        if offset >= content.size or offset < 0 or (whence == os.SEEK_DATA and found >= content.size):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return found


def _find(content: Content, offset: int, *, data: bool) -> int:
    """Where from `offset` on the first byte of content is, or of a hole; there is one at the end."""
    index = offset // ENTRY_BYTES
    while index < len(content.entries):
        end = min((index + 1) * ENTRY_BYTES, content.size)
        for first, last in data_in(content, index):
            if data and last > offset:
                return max(first, offset)
            if not data and first <= offset < last:
                offset = last
        if not data and offset < end:
            return offset
        index = _next_with_data(content, index + 1) if data else index + 1
        offset = max(offset, index * ENTRY_BYTES)
    return content.size


def _next_with_data(content: Content, index: int) -> int:
    """The next entry that may have some."""
    found = content.entries.following(index)
    for changes in (content.taken, content.changes):
        written = changes.written.following(index * ENTRY_BYTES)
        found = min(found, written // ENTRY_BYTES) if written is not None else found
    return found


def allocated_bytes(content: Content) -> int:
    """How many bytes are content."""
    with content.mutex:
        more = 0
        changed = content.taken.followed_by(content.changes) if content.taken else content.changes
        for index in changed.by_entry():
            stored = chunks.stored_bytes([content.entries[index]])
            more += sum(last - first for first, last in data_in(content, index)) - stored
        return content.stored_bytes + more


def punch(content: Content, start: int, end: int, now_ns: int, privileged: bool) -> bool:
    """Zeros that are stored nowhere; True if the index must be told."""
    with content.mutex:
        news, end = False, min(end, content.size)
        if start < end:
            sparse_files.punch_hole(content.fd, start, end - start)
            news = _account_hole(content, start, end)
        content.resized = True
        content.touch(now_ns, privileged)
        return news


def _account_hole(content: Content, start: int, end: int) -> bool:
    """What is no hole yet becomes one, save the rest of its first and last block: that is written, with zeros."""
    news, index, last_index = False, start // ENTRY_BYTES, (end - 1) // ENTRY_BYTES
    while index <= last_index:
        for first, last in data_in(content, index):
            first, last = max(first, start), min(last, end)
            if first < last:
                _punch_data(content, first, last)
                news = content.note(first, last) or news
        index = _next_with_data(content, index + 1)
    return news


def _punch_data(content: Content, start: int, end: int) -> None:
    first, last = blocks_within(start, end, content.size)
    if first >= last:
        content.changes.write(start, end)
        return
    content.changes.punch(first, last)
    content.changes.write(start, first)
    content.changes.write(last, end)


def lacking(content: Content, start: int, end: int) -> list[tuple[int, int]]:
    """The parts of a range that are holes, or beyond the end."""
    found = [(first, last) for first, last, is_content in stretches(content, start, end) if not is_content]
    return [*found, (max(start, content.size), end)] if end > content.size else found


def allocate(content: Content, start: int, end: int, keep_size: bool, now_ns: int, privileged: bool) -> bool:
    """Holes become content, and the content as long as `end`, unless it keeps its size. Raises OSError."""
    with content.mutex:
        sparse_files.reserve(content.fd, start, end - start, keep_size)
        news = False
        for first, last in lacking(content, start, min(end, content.size) if keep_size else end):
            news = content.account(first, last) or news
        content.resized = True
        content.touch(now_ns, privileged)
        return news


def clear(content: Content, start: int, end: int, keep_size: bool, now_ns: int, privileged: bool) -> bool:
    """As `allocate`, and what is there becomes zeros."""
    with content.mutex:
        # What is punched makes room: the second time the disk has it.
        sparse_files.reserve(content.fd, start, end - start, keep_size=True)
        news, within = False, min(end, content.size)
        if start < within:
            sparse_files.punch_hole(content.fd, start, within - start)
            news = content.account(start, within)
        return allocate(content, start, end, keep_size, now_ns, privileged) or news


def take_from_disk(content: Content, fd: int, start: int, end: int) -> None:
    """What the local file has in a range is to be sent; its holes are holes."""
    for first, last, is_content in sparse_files.stretches(fd, start, end):
        if is_content:
            content.changes.write(first, last)
        else:
            _account_hole(content, first, last)
