"""Reads that may have brought back into the kernel's pages what a write under way was about to change.

A write that goes through pages is put into them by the kernel first, and sent then, and a page that was up to date is
not locked meanwhile (fs/fuse/file.c, fuse_send_write_pages). If the kernel is told just then to forget the page, as the
content has become another client's version, the next read or read-ahead may be answered before the write is done, and
brings the page back without it. The kernel would keep that.

Requests are numbered in the order in which the kernel has sent them (`unique`; fs/fuse/dev.c, fuse_dev_queue_req, which
counts under the queue's lock, as of Linux 6.18). So whoever is done with a write looks
for reads of the same bytes that were sent after it, and has their pages forgotten. Such a page is not locked by the
write: it was read again.

Threads: any; one mutex each, nothing else is taken under it.
"""

import threading
from collections import deque
from typing import NamedTuple

_READS_MAX = 128


class Read(NamedTuple):
    """Of the bytes [start, end), by the kernel's request number `unique`."""

    unique: int
    start: int
    end: int


class LateReads:
    """Those of one node, the oldest of many taken together: then of more bytes, and later, than they were."""

    __slots__ = ("_mutex", "_reads")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._reads: deque[Read] = deque()

    def begin(self, read: Read) -> None:
        """Before anything of the answer is looked up."""
        with self._mutex:
            self._reads.append(read)
            if len(self._reads) > _READS_MAX:
                self._reads.appendleft(_both(self._reads.popleft(), self._reads.popleft()))

    def of(self, unique: int, start: int, end: int) -> tuple[int, int] | None:
        """The bytes of [start, end) that were asked for after request `unique`, which has changed them."""
        with self._mutex:
            late = [read for read in self._reads if read.unique > unique and read.start < end and start < read.end]
        if not late:
            return None
        return max(start, min(read.start for read in late)), min(end, max(read.end for read in late))


def _both(one: Read, other: Read) -> Read:
    return Read(max(one.unique, other.unique), min(one.start, other.start), max(one.end, other.end))
