"""A content that programs have open becomes a newer version, in place: what has changed is written over what was there.

Programs that use locks on a file read what others have written before they unlocked it (S3), through descriptors that
stay open. Unlike in superseding.py this happens while others read: what did not change is never touched, and what did
goes from its old to its new bytes at once. What would be too much to keep in memory, and what was not here before, is
fetched when it is read. Where the kernel reads the file itself nobody would fetch it then: there all of the newer
version is brought, and waits in another file until all is there.

Threads: the caller holds `Content.committing`, so nothing is written or sent meanwhile; `mutex` is taken here. What
others fetch meanwhile is laid down only where the newer version has it too. Readers of a content that is `shared` read
under `mutex`.
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable

from dfsfuse.cache import Cache
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Entry, Span, clip, entry_length, spans
from dfsfuse.content import Content, Download
from dfsfuse.disk_io import write_all
from dfsfuse.lending import is_left
from dfsfuse.openings import Version
from dfsfuse.sparse_files import punch_hole, reserve_if_possible
from dfsfuse.sparse_list import indexes_of

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
        content.ancestors.forget()
        content.unseen.mtime_ns, content.unseen.stirred = os.fstat(content.fd).st_mtime_ns, False
    # Nobody here writes to it before `mark_open`.
    cache.index.save_clean([content])
    content.row_current, content.promised = True, False


def _bring(content: Content, newest: Version, download: Download, ended: contextlib.ExitStack, cache: Cache) -> Patches:
    """What is new in entries that are on the local disk: all of it, or as far as it is not too much; and all else that
    is not there, where the kernel has the file. There is room for it. Raises NoSpace."""
    patches: Patches = {}
    room, put, left = BROUGHT_BYTES_MAX, _in_memory, is_left(content)
    for index in indexes_of(content.entries, newest.entries):
        if index >= len(newest.entries):
            break
        entry = newest.entries[index]
        changed = _to_bring(content, index, entry, newest.attributes.size, left)
        if changed is None:
            continue
        names = {span.chunk for span in changed if span.chunk != HOLE}
        room -= sum(piece.length for piece in entry if piece.chunk in names)
        if room < 0 and put is _in_memory:
            if not left:
                break
            aside = _Aside(content.path, cache)
            ended.callback(aside.close)
            put = aside.put
        brought = {name: download(name) for name in names}
        cache.with_room(functools.partial(_reserve, content.fd, index, changed))
        patches[index] = [(span, put(_part(brought.get(span.chunk, b""), span))) for span in changed]
    return patches


def _to_bring(content: Content, index: int, entry: Entry, size: int, left: bool) -> list[Span] | None:
    """What of an entry must be laid down for it to be here as it is in the newer version; None: it need not be here.
    Of what was not here nobody knows what the disk has in its place."""
    old = content.entries[index] if index < len(content.entries) else []
    length = entry_length(index, size)
    with content.mutex:
        is_here = index in content.present
    if is_here:
        return changed_spans(old, entry, length)
    if not left or not (old or entry):
        return None
    return _whole(entry, length) if old else changed_spans(old, entry, length)


def _reserve(fd: int, index: int, changed: list[Span]) -> None:
    for span in changed:
        if span.chunk != HOLE:
            reserve_if_possible(fd, index * ENTRY_BYTES + span.offset, span.length)


def _in_memory(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _part(data: bytes, span: Span) -> bytes:
    return data[span.start : span.start + span.length] if span.chunk != HOLE else b""


def _patch(content: Content, newest: Version, patches: Patches) -> None:
    """Where it grows, it does so by what is laid down: who reads to its end sees no zeros that nobody wrote. What was
    fetched by a client that was killed is on disk too, though nothing says so."""
    size, entries = newest.attributes.size, newest.entries
    os.ftruncate(content.fd, min(size, content.size))
    content.present.cut(len(entries))
    content.entries.fit(len(entries))
    for index in indexes_of(content.entries, entries):
        if index in patches:
            _lay(content.fd, index, patches[index])
            content.present.add(index, index + 1)
        elif content.entries[index] != entries[index] and (content.entries[index] or index in content.present):
            punch_hole(content.fd, index * ENTRY_BYTES, ENTRY_BYTES)
            content.present.remove(index, index + 1)
    os.ftruncate(content.fd, size)
    content.size, content.entries = size, entries.copy()


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
