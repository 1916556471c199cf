"""What there is of a content that becomes a copy: all of it, or what is left where file servers have lost chunks.

What is not here comes from the version that the content is based on. The directory keeps that (succession.py); but it
may be lost with the disks of several servers, or have been given up, as its client did not come back for too long. Then
the copy is made of what there is: of an entry what other chunks have, of a chunk what a killed client had fetched.

Threads: `Content.committing` is held.
"""

import os

from dfsfuse import chunks, errors
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Span, chunk_name
from dfsfuse.content import Content
from dfsfuse.fetching import Lend, fetch, lay
from dfsfuse.gaps import Gap, merged
from dfsfuse.sparse_files import punch_hole
from dfsfuse.transfer import Transfer


def bring_all(content: Content, transfer: Transfer) -> list[Gap]:
    """Bring what is not here; the ranges that nobody has. They are holes of the file, and do not count as here."""
    missing = content.missing(0, content.size)
    gaps: list[Gap] = []
    for found in transfer.each(lambda index: _bring(content, index, transfer.latest.lend), missing):
        gaps += found
    return merged(gaps)


def _bring(content: Content, index: int, lend: Lend) -> list[Gap]:
    try:
        fetch(content, index, lend)
        return []
    except errors.ChunkGone:
        spans = [span for span in chunks.spans(content.entries[index]) if span.chunk != HOLE]
        return [gap for span in spans for gap in _bring_span(content, index, span, lend)]


def _bring_span(content: Content, index: int, span: Span, lend: Lend) -> list[Gap]:
    try:
        with lend(span.chunk) as data, content.mutex:
            lay(content.fd, index, span, data)
        return []
    except errors.ChunkGone:
        return _gap_of(content, index, span)


def _gap_of(content: Content, index: int, span: Span) -> list[Gap]:
    """A whole chunk may have been fetched by a client that was killed before it could note that."""
    start = index * ENTRY_BYTES + span.offset
    with content.mutex:
        if span.start == 0 and chunk_name(os.pread(content.fd, span.length, start)) == span.chunk:
            return []
        punch_hole(content.fd, start, span.length)
        return [(start, min(start + span.length, content.size))]
