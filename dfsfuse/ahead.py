"""Chunks that are sent while the program still writes, so that close() has less to wait for.

An entry of 4 MiB that was written whole is sent when the next one is begun: who copies a file or streams into it does
not come back. If something of it is written again all the same, what was sent is of no use, and is garbage on the
servers; then the entry waits for close(). What fails is left to close() too, and so is what has not begun by then.

Threads: those of a pool of its own, so nobody's close() waits behind what may be in vain. `Content.ahead` is changed
under `Content.mutex`; what was sent counts while `Changes.ahead` has its range, from which every change takes its own.
"""

import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.content import Content
from dfsfuse.disk_io import read_into
from dfsfuse.messages import ChunkReceipts
from dfsfuse.transfer import Transfer

log = logging.getLogger(__name__)

IN_FLIGHT = 2
WAITING_MAX = 64
"""Entries that are on their way or wait for it, each with a descriptor. Where the network is slower than the program,
close() sends the others."""
PAUSE_S = 5.0
"""After a failure; close() will tell of it if it lasts."""


class Ahead:
    def __init__(self, transfer: Transfer):
        self._transfer = transfer
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="ahead")
        self._paused_until_s = 0.0
        self._counting, self._waiting = threading.Lock(), 0

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def written(self, content: Content, start: int, end: int) -> None:
        """After each write to [start, end): costs nothing unless it has gone on from one entry to the next. Nobody
        would know whether programs that write through the kernel have changed what was sent."""
        index = (end - 1) // ENTRY_BYTES - 1
        if (
            content.unseen.writers
            or index < 0
            or start > (index + 1) * ENTRY_BYTES
            or time.monotonic() < self._paused_until_s
        ):
            return
        entry = index * ENTRY_BYTES, (index + 1) * ENTRY_BYTES
        with content.mutex:
            if index in content.ahead or content.changes.written.within(*entry) != [entry]:
                return
            if self._waiting < WAITING_MAX:
                content.changes.ahead.add(*entry)
                content.ahead[index] = self._begin(os.dup(content.fd), index, content.past_pages)

    def _begin(self, fd: int, index: int, past_pages: bool) -> "Future[ChunkReceipts]":
        def done(_: object) -> None:
            os.close(fd)
            self._count(-1)

        self._count(1)
        future = self._pool.submit(self._send, fd, index, past_pages)
        future.add_done_callback(done)
        return future

    def _count(self, more: int) -> None:
        with self._counting:
            self._waiting += more

    def _send(self, fd: int, index: int, past_pages: bool) -> ChunkReceipts:
        try:
            with self._transfer.buffers.lend() as buffer:
                count = read_into(fd, buffer, index * ENTRY_BYTES, past_pages)
                return self._transfer.try_upload(buffer[:count])
        except errors.DfsError as error:
            log.info("what is being written is not sent ahead for %.0f s: %s", PAUSE_S, error)
            self._paused_until_s = time.monotonic() + PAUSE_S
            raise


def sent_ahead(content: Content, index: int) -> ChunkReceipts | None:
    """What came of an entry that is to be sent now: None if it was not sent, has changed since, or could not be sent.
    The caller holds `committing`, and has taken the changes."""
    entry = index * ENTRY_BYTES, (index + 1) * ENTRY_BYTES
    with content.mutex:
        future: Future[ChunkReceipts] | None = content.ahead.pop(index, None)
        unchanged = content.taken.ahead.within(*entry) == [entry]
    if future is None or not unchanged or future.cancel():
        return None
    try:
        return future.result()
    except (errors.DfsError, OSError):
        return None
