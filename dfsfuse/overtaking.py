"""A content that programs have open becomes a newer version, in place: what has changed is written over what was there.

Programs that use locks on a file read what others have written before they unlocked it (S3), through descriptors that
stay open. So unlike `Content.follow` this happens while others read: what did not change is never touched, and what did
goes from its old to its new bytes at once. What would be too much to keep in memory is fetched when it is read; where
the kernel reads the file itself, which would see holes meanwhile, it waits in another file until all is there.

Threads: the caller holds `Content.committing`, so nothing is written or sent meanwhile; `mutex` is taken here. What
others fetch meanwhile is laid down only where the newer version has it too. Readers of a content that is `shared` read
under `mutex`.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable

from dfsfuse.cache import Cache
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Entry, Span, clip, entry_length, spans
from dfsfuse.content import Content, Download
from dfsfuse.disk_io import write_all
from dfsfuse.lending import is_left
from dfsfuse.openings import Version
from dfsfuse.sparse_files import punch_hole

BROUGHT_BYTES_MAX = 16 << 20
Patches = dict[int, list[tuple[Span, Callable[[], bytes]]]]
"""By entry: what is to be laid where."""


class _Aside:
    """Bytes that wait in a file beside `path`, which goes with this. Raises NoSpace."""

    def __init__(self, path: str, cache: Cache):
        self._cache, self._end = cache, 0
        self._file = cache.with_room(lambda: tempfile.TemporaryFile(dir=os.path.dirname(path)))  # noqa: SIM115
        self.close = self._file.close

    def put(self, data: bytes) -> Callable[[], bytes]:
        fd, offset = self._file.fileno(), self._end
        self._cache.with_room(lambda: write_all(fd, data, offset))
        self._end += len(data)
        return lambda: os.pread(fd, len(data), offset)


def overtake(content: Content, newest: Version, cache: Cache, download: Download) -> None:
    """The content is `newest` from now on. It is unchanged: nothing here waits to be sent."""
    with contextlib.ExitStack() as ended:
        _overtake(content, newest, cache, _bring(content, newest, download, ended, cache))


def _overtake(content: Content, newest: Version, cache: Cache, patches: Patches) -> None:
    # What a crash leaves from now on is fetched again.
    cache.index.forget_base(content.row)
    with content.mutex:
        content.read_elsewhere()
        content.row_stale = False
        content.noted.clear()
        _patch(content, newest, patches)
        attributes = newest.attributes
        content.version, content.commit_id, content.segments = (
            attributes.version, attributes.commit_id, newest.segments,
        )  # fmt: skip
        content.mtime_ns, content.mtime_set, content.synced = attributes.mtime_ns, False, False
    # Nobody here writes to it before `mark_open`.
    cache.index.save_clean([content])
    content.row_current, content.promised = True, False


def _bring(content: Content, newest: Version, download: Download, ended: contextlib.ExitStack, cache: Cache) -> Patches:
    """What is new in entries that are on the local disk: all of it, or as far as it is not too much."""
    patches: Patches = {}
    room, put = BROUGHT_BYTES_MAX, _in_memory
    for index, entry in enumerate(newest.entries):
        if index >= len(content.present) or not content.present[index]:
            continue
        changed = changed_spans(content.entries[index], entry, entry_length(index, newest.attributes.size))
        names = {span.chunk for span in changed if span.chunk != HOLE}
        room -= sum(piece.length for piece in entry if piece.chunk in names)
        if room < 0 and put is _in_memory:
            if not is_left(content):
                break
            aside = _Aside(content.path, cache)
            ended.callback(aside.close)
            put = aside.put
        brought = {name: download(name) for name in names}
        patches[index] = [(span, put(_part(brought.get(span.chunk, b""), span))) for span in changed]
    return patches


def _in_memory(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _part(data: bytes, span: Span) -> bytes:
    return data[span.start : span.start + span.length] if span.chunk != HOLE else b""


def _patch(content: Content, newest: Version, patches: Patches) -> None:
    size, entries = newest.attributes.size, newest.entries
    os.ftruncate(content.fd, size)
    present = bytearray(len(entries))
    for index in range(min(len(entries), len(content.present))):
        same = content.entries[index] == entries[index]
        if index in patches:
            _lay(content.fd, index, patches[index])
        elif content.present[index] and not same:
            punch_hole(content.fd, index * ENTRY_BYTES, ENTRY_BYTES)
        present[index] = content.present[index] and (same or index in patches)
    os.ftruncate(content.fd, size)
    content.size, content.entries, content.present = size, list(entries), present


def _lay(fd: int, index: int, patch: list[tuple[Span, Callable[[], bytes]]]) -> None:
    for span, data in patch:
        if span.chunk == HOLE:
            punch_hole(fd, index * ENTRY_BYTES + span.offset, span.length)
        else:
            write_all(fd, data(), index * ENTRY_BYTES + span.offset)


def changed_spans(old: Entry, new: Entry, length: int) -> list[Span]:
    """What of the first `length` bytes of an entry is not the same in `old` and `new`, as it is in `new`."""
    changed: list[Span] = []
    before, after = _whole(old, length), _whole(new, length)
    borders = sorted({span.offset for span in (*before, *after)} | {length})
    first = second = 0
    for start, end in zip(borders, borders[1:], strict=False):
        while before[first].offset + before[first].length <= start:
            first += 1
        while after[second].offset + after[second].length <= start:
            second += 1
        was, span = before[first], after[second]
        if was.chunk != span.chunk or (span.chunk != HOLE and was.start - was.offset != span.start - span.offset):
            changed.append(Span(span.chunk, span.start + start - span.offset, start, end - start))
    return changed


def _whole(entry: Entry, length: int) -> list[Span]:
    """Spans without gaps up to `length`: what no piece covers is zero."""
    whole, at = list[Span](), 0
    for span in spans(clip(entry, length)):
        if span.offset > at:
            whole.append(Span(HOLE, 0, at, span.offset - at))
        whole.append(span)
        at = span.offset + span.length
    if at < length:
        whole.append(Span(HOLE, 0, at, length - at))
    return whole
