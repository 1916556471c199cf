"""What takes long to look at, as it was at one moment: in a thread of its own, so that the directory goes on answering.

A single look (`once`) finds what there is to be found; walks over the whole volume give their results page by page.

Page 0 begins a walk on a snapshot of the store, under a key that the caller has made; the latest page is kept, so one
that did not arrive can be asked for again. A walk of which nobody has heard for IDLE_S ends.

One look or page is made at a time; what it costs is bounded by whoever makes it.

Threads: all methods belong to the event loop; looks and `_Survey.page` run in the one thread of `_executor`.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from dfsfuse import errors
from servers.store import Reader, Snapshot, Store


class Page(Protocol):
    """A message that tells whether others follow."""

    more: bool


IDLE_S = 60.0
SURVEYS_MAX = 8

Pages = Callable[[Reader], Iterator[Page]]
Found = TypeVar("Found")


class _Survey:
    def __init__(self, snapshot: Snapshot, pages: Iterator[Page], now_s: float):
        self._snapshot, self._pages = snapshot, pages
        self._number: int = -1
        self._page: Page | None = None
        self.used_s = now_s

    def page(self, number: int) -> Page:
        if number == self._number and self._page is not None:
            return self._page
        page = next(self._pages, None) if number == self._number + 1 else None
        if page is None:
            raise errors.OutOfSequence(f"page {number} was asked for after page {self._number}")
        self._number, self._page = number, page
        if not page.more:
            self.close()
        return page

    @property
    def is_done(self) -> bool:
        return self._page is not None and not self._page.more

    def close(self) -> None:
        self._snapshot.close()


class Surveys:
    def __init__(self, store: Store):
        self._store = store
        self._executor = ThreadPoolExecutor(1, "survey")
        self._known: dict[bytes, _Survey] = {}

    async def once(self, look: Callable[[Reader], Found]) -> Found:
        """What `look` finds in a snapshot. Raises what it raises."""
        snapshot = self._store.snapshot()
        try:
            return await self._in_thread(look, snapshot)
        finally:
            snapshot.close()

    def _in_thread(self, work: Callable[..., Found], *arguments: object) -> "asyncio.Future[Found]":
        return asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def page(self, key: bytes, number: int, pages: Pages, now_s: float) -> Page:
        """Page `number` of what `pages` makes of a snapshot. Raises NotFound, Busy, OutOfSequence, BadRequest."""
        survey = self._known.get(key) or self._begin(key, number, pages, now_s)
        survey.used_s = now_s
        try:
            return await self._in_thread(survey.page, number)
        except errors.OutOfSequence:
            raise
        except Exception:
            self.end(key)
            raise

    def _begin(self, key: bytes, number: int, pages: Pages, now_s: float) -> _Survey:
        if number:
            raise errors.NotFound(
                "the directory has started again, or was not asked for a minute, and has lost its place; begin again"
            )
        if not 16 <= len(key) <= 64:
            raise errors.BadRequest("a key is 16 to 64 random bytes")
        for other in [other for other, survey in self._known.items() if survey.is_done]:
            if len(self._known) >= SURVEYS_MAX:
                self.end(other)
        if len(self._known) >= SURVEYS_MAX:
            raise errors.Busy(f"{SURVEYS_MAX} dumps and checks are under way; try again when one has ended")
        snapshot = self._store.snapshot()
        made = self._known[key] = _Survey(snapshot, pages(snapshot), now_s)
        return made

    def end(self, key: bytes) -> None:
        """Nobody will ask for it again."""
        survey = self._known.pop(key, None)
        if survey is not None:
            survey.close()

    def end_idle(self, now_s: float) -> None:
        for key in [key for key, survey in self._known.items() if now_s - survey.used_s > IDLE_S]:
            self.end(key)

    def close(self) -> None:
        for key in list(self._known):
            self.end(key)
        self._executor.shutdown(wait=False)
