"""A server of which there are several, of which one serves: the others stand by, and say who does.

Each is a candidate (servers/etcd). Once elected it serves until its term is over; then what it has served with is
dropped, as another one may serve already, and it stands by again: who was cut off needs no new start.

Threads: the candidate waits in one of its own; the rest is the event loop's.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable
from typing import Any, NamedTuple, Protocol

from dfsfuse import errors
from dfsfuse.messages import Nothing, Serving
from servers.etcd.election import Holder, Term
from servers.etcd.vacancy import Ended
from servers.http import App, Operation

log = logging.getLogger(__name__)


class Service(NamedTuple):
    """What a term is served with, and what goes on beside it. `close` comes after the term, in a thread."""

    operations: dict[str, Operation]
    beside: list[Coroutine[Any, Any, None]]
    close: Callable[[], None]


class Elected(Protocol):
    term: Term

    def give_up(self) -> None:
        """It was not taken up."""


class Candidate(Protocol):
    def wait(self) -> Elected:
        """Until this one is elected; in a thread. Raises Ended."""

    def stop(self) -> None: ...


class Standing:
    """`take_up(elected)` makes what a term is served with. Raises DfsError where it cannot."""

    def __init__(self, app: App, url: str, take_up: Callable[[Any], Service]):
        self._app, self._url, self._take_up = app, url, take_up
        self._holder = ""
        self._stand_by()

    def seen(self, holder: Holder | None) -> None:
        """Who serves, as the candidate sees it; called in its thread."""
        self._holder = holder.value.decode() if holder is not None else ""

    async def run(self, candidate: Candidate) -> None:
        """For ever; cancelled, it lets another one serve at once."""
        waiting: asyncio.Future | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(asyncio.to_thread(candidate.wait))
                elected = await asyncio.shield(waiting)
                waiting = None
                await self._serve(elected)
        finally:
            candidate.stop()
            if waiting is not None:
                await _given_up(waiting)

    async def _serve(self, elected: Elected) -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        elected.term.on_end(lambda: loop.call_soon_threadsafe(over.set))
        try:
            service = self._take_up(elected)
        except errors.DfsError as error:
            log.error("the term cannot be taken up: %s", error)
            await asyncio.to_thread(elected.give_up)
            return
        try:
            log.info("this server serves")
            self._holder = self._url
            within = {name: within_term(elected.term, one, self._over) for name, one in service.operations.items()}
            self._app.replace({**within, **self._telling()})
            await _beside(service.beside, over)
        finally:
            self._stand_by()
            await asyncio.to_thread(elected.term.end)
            await asyncio.to_thread(service.close)
            log.info("this server does not serve any more, and stands by")

    def _stand_by(self) -> None:
        self._holder = ""
        self._app.replace(self._telling(), self._refusal)

    def _telling(self) -> dict[str, Operation]:
        return {"serving": Operation(Nothing, lambda _: Serving(self._holder))}

    def _over(self) -> errors.DfsError:
        return errors.NotServing(f"the server at {self._url} does not serve any more: another one may")

    def _refusal(self) -> errors.DfsError:
        whom = f"ask {self._holder}" if self._holder else "nobody serves just now; ask again"
        return errors.NotServing(f"the server at {self._url} stands by: {whom}", self._holder)


def within_term(term: Term, operation: Operation, over: Callable[[], errors.DfsError]) -> Operation:
    """It is begun, and answered, while the term lasts; else `over()` is told. A process that stood still finds requests
    that came meanwhile before it hears that its term is over."""

    def handle(*request: Any) -> Any:
        if not term.is_on:
            raise over()
        reply = operation.handler(*request)
        if isawaitable(reply):
            return later(reply)
        if not term.is_on:
            raise over()
        return reply

    async def later(reply: Awaitable[Any]) -> Any:
        done = await reply
        if not term.is_on:
            raise over()
        return done

    return operation._replace(handler=handle)


async def _given_up(waiting: asyncio.Future) -> None:
    """It may have been elected just then."""
    with contextlib.suppress(Ended):
        await asyncio.to_thread((await waiting).give_up)


async def _beside(work: list[Coroutine[Any, Any, None]], over: asyncio.Event) -> None:
    """Until the term is over. Work that fails ends the term, as its process would end if it were the only one."""
    tasks = [asyncio.ensure_future(each) for each in work]
    waiting = asyncio.ensure_future(over.wait())
    try:
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            if task.exception() is not None:
                log.error("a background task failed; the term ends", exc_info=task.exception())
    finally:
        for task in (waiting, *tasks):
            task.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)
