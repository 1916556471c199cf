"""What programs write to a content that the kernel has for writing (passthrough): nobody tells of it, so it is found.

The file tells its size and when it was last written. Which bytes are others than those of the servers its hashes tell,
never its times: what is stored through a mapping moves none. A piece of the manifest that is seen as a whole is
compared by the name of its chunk, which is the hash of its bytes; where pieces lie upon each other, and so that a small
change is told from its entry, by hashes of blocks (unseen.py). Both are BLAKE3: half as fast as the fastest hashes that
are not made for cryptography; but nothing can be made up to pass for something else, and what was sent is known by name
without another pass.

What is sent is hashed again as it is sent: so what is written meanwhile is found the next time, whatever it was.

Threads: `find` and `expect` hold `Content.committing`, so nothing of it is sent, or becomes another version, meanwhile.
`Content.mutex` is taken for what is noted.
"""

import os
from collections.abc import Callable

from dfsfuse import holes
from dfsfuse.buffers import Buffers
from dfsfuse.changes import whole_blocks
from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES, HOLE, Entry, Ranges, chunk_name, entry_length, spans
from dfsfuse.content import Content
from dfsfuse.sparse_files import stretches
from dfsfuse.unseen import HASH_BYTES, hashes

_buffers = Buffers()
Stretches = list[tuple[int, int, bool]]


# -- what the file tells


def look(content: Content) -> None:
    """Its size and its time of change, where the kernel may have moved them."""
    unseen = content.unseen
    if not unseen.writers:
        return
    with content.mutex:
        found = os.fstat(content.fd)
        if found.st_size > content.size:
            content.grow(found.st_size)
        if found.st_mtime_ns != unseen.mtime_ns:
            unseen.mtime_ns, unseen.stirred = found.st_mtime_ns, True
            privileged = all(handle.privileged for handle in list(content.handles) if handle.writable)
            content.touch(max(found.st_mtime_ns, 0 if content.mtime_set else content.mtime_ns), privileged)


def allocated_bytes(content: Content) -> int:
    """How many bytes are content: what was not found yet is as the disk has it."""
    if not content.unseen.stirred:
        return holes.allocated_bytes(content)
    return min(os.fstat(content.fd).st_blocks * 512, content.size)


def appending(content: Content, data: bytes | memoryview) -> Callable[[], None]:
    """Appends at the end, wherever programs have moved that. Called again after an error it goes on. Raises OSError."""
    rest = memoryview(data)

    def append() -> None:
        nonlocal rest
        with content.mutex:
            while rest:
                rest = rest[os.pwritev(content.fd, [rest], 0, os.RWF_APPEND) :]
            look(content)

    return append


def expect(content: Content) -> None:
    """The kernel is about to have it for writing: what its names do not tell is hashed. It is whole, and unchanged."""
    unknown = [
        index
        for index, entry in content.entries.items()
        if not _named(entry) and content.unseen.blocks.of(index, entry) is None
    ]
    with _buffers.lend() as buffer:
        for index in unknown:
            count = _read(content.fd, buffer[: entry_length(index, content.size)], index * ENTRY_BYTES)
            content.unseen.blocks.learn(index, content.entries[index], hashes(buffer[:count]))


def _named(entry: Entry) -> bool:
    """Every byte of it belongs to a chunk that is seen from its first byte on, and to no other's rest."""
    seen = [(span.chunk, span.start, span.length) for span in spans(entry) if span.chunk != HOLE]
    return sorted(seen) == sorted((piece.chunk, 0, piece.length) for piece in entry if piece.chunk != HOLE)


# -- what its bytes tell


def find(content: Content) -> None:
    """All that is not as the servers have it is among what was changed here from now on."""
    if not content.unseen.writers:
        return
    with content.committing:
        look(content)
        _doubt(content)
        size = content.size
        with _buffers.lend() as buffer:
            for index in holes.with_data(content.entries, content.fd, size):
                _find(content, index, buffer[: entry_length(index, size)])


def _doubt(content: Content) -> None:
    """Nobody knows whether the servers have what a commit in doubt was to send: what is there now is sent again."""
    with content.mutex:
        if content.in_doubt is not None:
            for ranges in (content.taken.written, content.taken.punched):
                for first, last in ranges:
                    content.account(first, min(last, content.size))


def _find(content: Content, index: int, buffer: memoryview) -> None:
    start, end = index * ENTRY_BYTES, index * ENTRY_BYTES + len(buffer)
    with content.mutex:
        if content.changes.written.within(start, end) == [(start, end)]:
            return
        entry = content.entries[index]
    data = list(stretches(content.fd, start, end))
    content.unseen.hashed += len(buffer) if entry else 0
    if not entry:
        changed = Ranges((first, last) for first, last, is_content in data if is_content)
    elif (known := content.unseen.blocks.of(index, entry)) is not None:
        changed = _other_blocks(content, index, buffer, known)
    else:
        changed = _other_pieces(content, entry, start, buffer, data)
    if changed:
        _note(content, index, changed, data)


def _other_blocks(content: Content, index: int, buffer: memoryview, known: bytes) -> Ranges:
    count = _read(content.fd, buffer, index * ENTRY_BYTES)
    now, changed = hashes(buffer[:count]), Ranges()
    if now != known[: len(now)]:
        for number in range(len(now) // HASH_BYTES):
            at = slice(number * HASH_BYTES, (number + 1) * HASH_BYTES)
            if now[at] != known[at]:
                begin = index * ENTRY_BYTES + number * BLOCK_BYTES
                changed.add(begin, min(begin + BLOCK_BYTES, index * ENTRY_BYTES + count))
    return changed


def _other_pieces(content: Content, entry: Entry, start: int, buffer: memoryview, data: Stretches) -> Ranges:
    """Which blocks of a piece are others nobody knows; so where one is, all of the entry counts as changed. Content in
    what was a hole is a change too, zeros included; but a disk's blocks are content as a whole."""
    count, hole = _read(content.fd, buffer, start), Ranges([(0, len(buffer))])
    for span in spans(entry):
        stop = span.offset + span.length
        if span.chunk == HOLE:
            continue
        if span.start or stop > count or chunk_name(buffer[span.offset : stop]) != span.chunk:
            return Ranges([(start, start + len(buffer))])
        hole.remove(span.offset, stop)
    changed = Ranges()
    for first, last, is_content in data:
        for begin, stop in hole.within(first - start, last - start) if is_content else ():
            if not _is_rest(entry, begin, stop) or any(buffer[begin:stop]):
                changed.add(start + begin, start + stop)
    return changed


def _is_rest(entry: Entry, begin: int, stop: int) -> bool:
    """No more than what lies in a disk's blocks beside pieces."""
    for piece in entry:
        first, last = whole_blocks(piece.offset, piece.end)
        begin = last if piece.offset <= begin < last else begin
        stop = first if first < stop <= piece.end else stop
    return begin >= stop


def _note(content: Content, index: int, changed: Ranges, data: Stretches) -> None:
    """What the disk has there, and what the servers have: holes are made by the client alone, which knows them. Whole
    blocks, so that what is known of blocks stays so."""
    with content.mutex:
        here = Ranges((first, last) for first, last, is_content in data if is_content)
        for first, last in holes.data_in(content, index):
            here.add(first, last)
        for first, last in changed:
            for begin, stop in here.within(first, last):
                content.account(begin, stop)
                content.unseen.found += stop - begin


def _read(fd: int, buffer: memoryview, offset: int) -> int:
    done = 0
    while done < len(buffer) and (count := os.preadv(fd, [buffer[done:]], offset + done)):
        done += count
    return done
