"""Entries of a content that are not on the local disk come from the servers: each once, whoever waits for it.

Threads: any. `_mutex` guards the table of what is coming. `Content.mutex` is taken where an entry is laid down. Neither
is held while it comes. Who brings entries fetches the first of them itself, as handing it over would cost a small file
more than its content; a pool fetches the others, and what is brought beforehand. Who needs what waits in the pool still
fetches that himself.
"""

import contextlib
import threading
from collections.abc import Callable

from dfsfuse import chunks, disk_io, errors
from dfsfuse.cache import Cache
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Span
from dfsfuse.content import Content
from dfsfuse.full_disk import Need
from dfsfuse.sparse_files import punch_hole
from dfsfuse.transfer import Transfer

Lend = Callable[[bytes], contextlib.AbstractContextManager[memoryview]]
"""A chunk by its name, for a block."""


_NOT_TRIED = errors.Unreachable("not fetched: the client ends, or another entry could not be fetched")


class _Coming:
    """An entry on its way. `error` is what became of it, when it is `over`; `given_up`: nobody waits for it; `begun`:
    a thread has it."""

    __slots__ = ("begun", "content", "error", "given_up", "index", "need", "over")

    def __init__(self, content: Content, index: int, need: Need):
        self.content, self.index, self.need = content, index, need
        self.over, self.given_up, self.begun = threading.Event(), False, False
        self.error: BaseException | None = None


class Fetching:
    """`release` ends the `use` of a content, which lasts as long as something is coming for it."""

    def __init__(self, cache: Cache, transfer: Transfer, release: Callable[[Content], None]):
        self._cache, self._transfer = cache, transfer
        self.use, self.release = cache.use, release
        self._mutex = threading.Lock()
        self._coming: dict[tuple[Content, int], _Coming] = {}

    @property
    def coming(self) -> int:
        """How many entries are on their way."""
        return len(self._coming)

    def bring(self, content: Content, wanted: Callable[[Content], list[int]], need: Need = Need.WRITE) -> None:
        """Fetch the entries that `wanted` names until it names none. Raises NoSpace. What another one could not fetch
        is tried once more: the time-out was not the caller's, and neither was the need."""
        while indexes := wanted(content):
            claimed = [self._claim(content, index, need) for index in indexes]
            mine = [coming for coming, is_new in claimed if is_new]
            for coming in mine[1:]:
                self._begin(coming)
            for coming in mine[:1]:
                self._run(coming)
            for coming, is_new in claimed:
                if not is_new:
                    self._run(coming)
                coming.over.wait()
                if coming.error is not None and is_new:
                    for other in mine:
                        other.given_up = True
                    raise coming.error

    def bring_behind(self, content: Content, index: int, read: Callable[[], int], then: Callable[[], None]) -> int:
        """`read()`, which gets what it needs of the entry into memory and past the disk; the pool brings the entry from
        there afterwards, and goes on with `then`. -1: the entry is coming already."""
        coming, is_new = self._claim(content, index, Need.READ, begun=True)
        if not is_new:
            return -1
        try:
            count = read()
        except BaseException as error:
            self._end(coming, error)
            raise
        coming.begun = False
        self._begin(coming, then)
        return count

    def begin(self, content: Content, indexes: list[int]) -> None:
        """Bring these meanwhile. What fails is fetched again when it is read."""
        for coming, is_new in [self._claim(content, index, Need.READ) for index in indexes]:
            if is_new:
                self._begin(coming)

    def _claim(self, content: Content, index: int, need: Need, begun: bool = False) -> tuple[_Coming, bool]:
        """(what is coming, it is the caller's to fetch)."""
        with self._mutex:
            known = self._coming.get((content, index))
            if known is not None:
                return known, False
            self.use(content)
            coming = self._coming[content, index] = _Coming(content, index, need)
            coming.begun = begun
            return coming, True

    def _begin(self, coming: _Coming, then: Callable[[], None] = lambda: None) -> None:
        def work() -> None:
            self._run(coming)
            then()

        self._transfer.begin(work, lambda: self._run(coming, tried=False))

    def _run(self, coming: _Coming, tried: bool = True) -> None:
        """Once; who comes later finds it begun."""
        content, index = coming.content, coming.index
        with self._mutex:
            begun, coming.begun = coming.begun, True
        if begun:
            return
        if coming.given_up or not tried:
            self._end(coming, _NOT_TRIED)
            return
        try:
            fetched = self._cache.with_room(lambda: fetch(content, index, self._transfer.latest.lend), coming.need)
            self._cache.note_growth(content, fetched)
        except BaseException as error:
            self._end(coming, error)
        else:
            self._end(coming, None)

    def _end(self, coming: _Coming, error: BaseException | None) -> None:
        with self._mutex:
            del self._coming[coming.content, coming.index]
        coming.error = error
        coming.over.set()
        self.release(coming.content)


def fetch(content: Content, index: int, lend: Lend) -> int:
    """Bring one entry to the local disk; how many bytes of chunks it took. What was written meanwhile stays."""
    with content.mutex:
        entry = content.entries[index] if index < len(content.entries) else []
    spans = [span for span in chunks.spans(entry) if span.chunk != HOLE]
    with contextlib.ExitStack() as lent:
        fetched = {name: lent.enter_context(lend(name)) for name in {span.chunk for span in spans}}
        with content.mutex:
            current = content.entries[index] if index < len(content.entries) else []
            if current == entry and entry and index not in content.present:
                _lay_all(content, index, spans, fetched)
        return sum(map(len, fetched.values()))


def _lay_all(content: Content, index: int, spans: list[Span], fetched: dict[bytes, memoryview]) -> None:
    try:
        for span in spans:
            lay(content.fd, index, span, fetched[span.chunk])
    except OSError:
        punch_hole(content.fd, index * ENTRY_BYTES, ENTRY_BYTES)
        raise
    content.present.add(index, index + 1)
    content.row_current = False


def lay(fd: int, index: int, span: Span, data: memoryview) -> None:
    """The span of entry `index`, from its chunk `data`."""
    if len(data) < span.start + span.length:
        raise errors.ChunkCorrupt(f"chunk {span.chunk.hex()} is shorter than its piece")
    disk_io.write_all(fd, data[span.start : span.start + span.length], index * ENTRY_BYTES + span.offset)
