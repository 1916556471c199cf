"""Entries of a content that are not on the local disk come from the servers.

Threads: any. `Content.mutex` is taken where an entry is laid down, and never held while it comes.
"""

import contextlib
from collections.abc import Callable

from dfsfuse import chunks, disk_io, errors
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Span
from dfsfuse.content import Content
from dfsfuse.sparse_files import punch_hole

Lend = Callable[[bytes], contextlib.AbstractContextManager[memoryview]]
"""A chunk by its name, for a block."""


def fetch(content: Content, index: int, lend: Lend) -> int:
    """Bring one entry to the local disk; how many bytes of chunks it took. What was written meanwhile stays."""
    with content.mutex:
        entry = content.entries[index] if index < len(content.entries) else []
    spans = [span for span in chunks.spans(entry) if span.chunk != HOLE]
    with contextlib.ExitStack() as lent:
        fetched = {name: lent.enter_context(lend(name)) for name in {span.chunk for span in spans}}
        with content.mutex:
            current = content.entries[index] if index < len(content.entries) else []
            if current == entry and entry and not content.present[index]:
                _lay_all(content, index, spans, fetched)
        return sum(map(len, fetched.values()))


def _lay_all(content: Content, index: int, spans: list[Span], fetched: dict[bytes, memoryview]) -> None:
    try:
        for span in spans:
            _lay(content.fd, index, span, fetched[span.chunk])
    except OSError:
        punch_hole(content.fd, index * ENTRY_BYTES, ENTRY_BYTES)
        raise
    content.present[index] = 1
    content.row_current = False


def _lay(fd: int, index: int, span: Span, data: memoryview) -> None:
    if len(data) < span.start + span.length:
        raise errors.ChunkCorrupt(f"chunk {span.chunk.hex()} is shorter than its piece")
    disk_io.write_all(fd, data[span.start : span.start + span.length], index * ENTRY_BYTES + span.offset)
