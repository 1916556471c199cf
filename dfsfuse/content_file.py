"""The file of a content as it comes into use: what an earlier client, a reboot or somebody else has left of it.

Threads: the cache's, which calls this under its mutex for a content that nobody uses yet.
"""

import os
import time
from collections.abc import Callable

from dfsfuse import chunks, holes
from dfsfuse.chunks import ENTRY_BYTES, Ranges, chunk_name
from dfsfuse.content import Content
from dfsfuse.messages import Attributes
from dfsfuse.sparse_files import holds_data, punch_hole

ForgetPresent = Callable[[int], None]
"""Tells the index that nothing of the content with this number is here. Raises NoSpace."""


def open_file(content: Content, forget_present: ForgetPresent) -> None:
    """As `make_ready` leaves it. Raises OSError, NoSpace; then it is not open."""
    try:
        content.fd = os.open(content.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        make_ready(content, forget_present)
    except BaseException:
        if content.fd >= 0:
            os.close(content.fd)
            content.fd = -1
        raise


def close_file(content: Content) -> int:
    """How many bytes it takes on the disk."""
    found = os.fstat(content.fd)
    # The next client of this cache evicts by atime. The disk's own may be off, or of what never came into use.
    os.utime(content.fd, ns=(time.time_ns(), found.st_mtime_ns))
    os.close(content.fd)
    content.fd = -1
    return found.st_blocks * 512


def make_ready(content: Content, forget_present: ForgetPresent) -> None:
    """The file of a content that comes into use has the right size, and what the index says is in it."""
    if os.fstat(content.fd).st_size != content.size:
        if not content.changed:
            # New, or a killed client was about to cut it, or somebody else did: what `present` says is then not true;
            # nor may the row say so any more once the size is right.
            if content.present:
                forget_present(content.row)
            content.present = Ranges()
            os.ftruncate(content.fd, 0)
        os.ftruncate(content.fd, content.size)
    if not content.verified:
        _verify(content)


def _verify(content: Content) -> None:
    """After a reboot the disk may have lost what was never synced, or may have kept what the index has lost: entries
    that do not hash to their names go, also where there is a hole. Those that were written here have no name yet; what
    is unsent is all that there is of it."""
    written = {index for start, end in content.dirty for index, _, _ in chunks.by_entry(start, end)}
    for index in holes.with_data(content.entries, content.fd, content.size):
        there = index in content.present or holds_data(content.fd, index * ENTRY_BYTES, ENTRY_BYTES)
        if index in written or not there:
            continue
        if _is_right(content, index):
            content.present.add(index, index + 1)
        else:
            content.present.remove(index, index + 1)
            punch_hole(content.fd, index * ENTRY_BYTES, ENTRY_BYTES)
    content.verified = True


def _is_right(content: Content, index: int) -> bool:
    """Does it hash to its name, with zeros behind that? What has none, as it is put together from several chunks, is
    fetched again."""
    entry = content.entries[index]
    if len(entry) != 1 or entry[0].offset:
        return False
    length = entry[0].length
    data = os.pread(content.fd, chunks.entry_length(index, content.size), index * ENTRY_BYTES)
    return chunk_name(data[:length]) == entry[0].chunk and data.count(0, length) == len(data) - length


class Overtaken(Exception):
    """What the directory has answered is older than a commit of this client's that has happened meanwhile."""


def usable(content: Content, attributes: Attributes, asked_s: float) -> bool:
    """Is the content the version that the directory names, asked at `asked_s`, or made from it or later here? Raises
    Overtaken."""
    if content.trying and content.trying == attributes.commit_id:
        return True
    if content.version == attributes.version:
        return content.commit_id == attributes.commit_id
    if content.version > attributes.version and not content.users and content.committed_s >= asked_s:
        raise Overtaken
    return content.version > attributes.version and bool(content.users)
