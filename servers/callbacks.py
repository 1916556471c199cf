"""Promises at work: answers that promise, sessions that watch for what breaks it, and changes that wait until all whom
they concern have heard.

A change looks for whom it concerns, tells them, waits, and looks again, as names may have moved meanwhile; it is made
in the same turn of the event loop in which nobody is left to wait for. (The core is servers/promises.py.)

Threads: none; everything runs in the event loop of the server.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any

from dfsfuse import messages
from dfsfuse.messages import Message, Watch, Watched
from servers.promises import Promises, Touch, Waits
from servers.watchers import Watchers, wake

POLL_S = 1.0
"""How long a Watch stays unanswered where there is nothing to tell: a part of the lease, which the next one renews."""


class Callbacks:
    """`core` answers what a Watch can be answered at once."""

    def __init__(self, core: Callable[[Watch, float], Watched | None], promises: Promises, clock: Callable[[], float]):
        self._core, self._promises, self._clock = core, promises, clock
        self._watching = Watchers()
        self._changes: dict[asyncio.Future[None], None] = {}

    # -- watching

    def watch(self, request: Watch, gone: asyncio.Future[None]) -> Watched | Awaitable[Watched]:
        watched = self._core(request, self._clock())
        wake(self._changes)
        if watched is not None:
            return watched
        return self._news(request.session, request.epoch, self._watching.wait(request.session, gone, POLL_S))

    async def _news(self, session: int, epoch: int, woken: Awaitable[None]) -> Watched:
        await woken
        return self._promises.news(session, epoch)

    def end(self, session: int) -> None:
        self._promises.end(session)
        wake(self._changes)

    # -- changes

    def change(self, by: int, touched: Callable[[], list[Touch]], apply: Callable[[], Any]) -> Any:
        """The reply of `apply`, or an awaitable of it, once nobody but the session `by` uses anything that it touches
        any more."""
        if not self._promises.concern_others(by):
            return apply()
        touches = touched()
        waits = self._tell(touches, by)
        return self._when_heard(by, touches, waits, touched, apply) if waits else apply()

    async def _when_heard(
        self, by: int, touches: list[Touch], waits: Waits, touched: Callable[[], list[Touch]], apply: Callable[[], Any]
    ) -> Any:
        told: list[Touch] = []
        with contextlib.ExitStack() as changing:
            while waits:
                changing.enter_context(self._promises.changing(touches))
                await self._heard(waits)
                told += touches
                touches = [touch for touch in touched() if touch not in told]
                waits = self._tell(touches, by)
        reply = apply()
        return await reply if isawaitable(reply) else reply

    async def _heard(self, waits: Waits) -> None:
        while (until_s := self._promises.waits_until(waits, self._clock())) is not None:
            heard = asyncio.get_running_loop().create_future()
            self._changes[heard] = None
            try:
                await asyncio.wait((heard,), timeout=until_s - self._clock())
            finally:
                del self._changes[heard]

    def _tell(self, touches: list[Touch], by: int) -> Waits:
        waits = self._promises.tell(touches, by, self._clock())
        for session, _ in waits:
            self._watching.wake(session)
        return waits

    def changed(self, inos: Iterable[int]) -> None:
        """The directory itself has changed these: nobody is waited for."""
        self._tell([(ino, b"") for ino in inos], by=0)

    def changed_all(self) -> None:
        """Anything may have been changed."""
        self._promises.tell_all(self._clock())
        self._watching.wake_all()

    # -- answers

    def promise(self, session: int, reply: Message, place: tuple[int, list[bytes]]) -> Message:
        """The reply, which says then whether what it tells of the place is promised to the session; 0: to nobody."""
        if session:
            inos, told = promisable(reply, place)
            promised = self._promises.promise(session, inos, self._clock())
            for part in told:
                part.promised = promised
        if isinstance(reply, messages.Removed | messages.Renamed) and reply.unnamed:
            self._promises.gone(reply.unnamed)
        return reply


def promisable(reply: Any, place: tuple[int, list[bytes]]) -> tuple[list[int], list[Any]]:
    """(inode numbers, what says that they are promised): of an answer about a place; with one name, the entry that
    leads there is told too."""
    folder = [place[0]] if len(place[1]) == 1 else []
    if isinstance(reply, messages.Listing):
        return [reply.folder.ino, *(entry.attributes.ino for entry in reply.entries)], [reply]
    if isinstance(reply, messages.Made):
        return [reply.folder.ino, reply.attributes.ino], [reply.folder, reply.attributes]
    if isinstance(reply, messages.Removed):
        return [reply.folder.ino], [reply.folder]
    if isinstance(reply, messages.Renamed) and reply.ino:
        return [reply.folder, reply.new_folder, *(each.ino for each in reply.since)], [reply, *reply.since]
    if isinstance(reply, messages.Opened):
        return [reply.attributes.ino, *folder], [reply.attributes]
    if isinstance(reply, messages.Attributes):
        return [reply.ino, *folder], [reply]
    return [], []
