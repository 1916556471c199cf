"""Requests to the one that serves, of several servers: `http://a:1,http://b:1`.

    the one that served last, or the first --> answers: done
                                           --> stands by, is gone, or stands still: whom it names, then all others, once

Who stands by says so at once, and who is gone refuses. One that is silent may be at work on a long answer, or stand
still: it is waited for until another one says that it serves.

Threads: none; everything belongs to the event loop that runs it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dfsfuse import errors
from dfsfuse.messages import Message, Nothing, Serving

ASK_EVERY_S, ASK_S = 0.5, 2.0

Call = Callable[[str, str, Message, type, float], Awaitable[Any]]
"""`Peers.call` of one URL."""


class ServingServer:
    """Of all groups of servers that are asked, each known by its URLs."""

    def __init__(self, call: Call):
        self._call = call
        self._latest: dict[str, str] = {}

    async def call(self, urls: str, operation: str, request: Message, reply_kind: type, timeout_s: float) -> Any:
        """As `Peers.call`, with the whole of `timeout_s` for the one that serves; after that nobody else is asked.
        NotServing where nobody serves."""
        to_ask, asked, until = [self._latest.get(urls, ""), *urls.split(",")], set(), time.monotonic() + timeout_s
        while True:
            url = next(each for each in to_ask if each and each not in asked)
            asked.add(url)
            try:
                answer = self._call(url, operation, request, reply_kind, timeout_s)
                reply = await self._unless_another_serves(urls, url, answer)
            except (errors.NotServing, errors.Unreachable) as error:
                to_ask.insert(0, error.detail if isinstance(error, errors.NotServing) else "")
                if {*to_ask} - {""} <= asked or time.monotonic() >= until:
                    raise
            else:
                self._latest[urls] = url
                return reply

    async def _unless_another_serves(self, urls: str, url: str, answer: Awaitable[Any]) -> Any:
        """Raises NotServing, which names that one."""
        answered, another = asyncio.ensure_future(answer), asyncio.ensure_future(self._another(urls, url))
        try:
            await asyncio.wait((answered, another), return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                return answered.result()
            raise errors.NotServing(f"the server at {url} does not serve any more", another.result())
        finally:
            answered.cancel()
            another.cancel()

    async def _another(self, urls: str, url: str) -> str:
        """The first of the others that says that it serves; asked again and again."""
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            others = [self._serves(each) for each in urls.split(",") if each != url]
            for other in await asyncio.gather(*others):
                if other:
                    return other

    async def _serves(self, url: str) -> str:
        """Itself, if it does."""
        try:
            serving: Serving = await self._call(url, "serving", Nothing(), Serving, ASK_S)
        except errors.DfsError:
            return ""
        return url if serving.url == url else ""
