"""Requests that wait until their session is told something: by each client there is one at a time, as a rule.

Threads: none; everything runs in the event loop of the server.
"""

import asyncio
from collections.abc import Awaitable, Iterable


class Watchers:
    def __init__(self) -> None:
        # In the order in which they came, and so they are woken.
        self._waiting: dict[int, dict[asyncio.Future[None], None]] = {}

    def wait(self, session: int, gone: asyncio.Future[None], most_s: float) -> Awaitable[None]:
        """Until `wake`, or the caller is gone, or the time has passed. It hears of a `wake` from now on: what comes
        before it is awaited may be the next request, handled in the same run of the event loop."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(session, {})[news] = None
        return self._woken(session, news, gone, most_s)

    async def _woken(self, session: int, news: asyncio.Future[None], gone: asyncio.Future[None], most_s: float) -> None:
        try:
            await asyncio.wait((news, gone), timeout=most_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._remove(session, news)

    def _remove(self, session: int, news: asyncio.Future[None]) -> None:
        futures = self._waiting.get(session, {})
        futures.pop(news, None)
        if not futures:
            self._waiting.pop(session, None)

    def wake(self, session: int) -> None:
        wake(self._waiting.get(session, ()))

    def wake_all(self) -> None:
        for futures in self._waiting.values():
            wake(futures)


def wake(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
