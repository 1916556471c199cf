"""Answers that are held back until what they rest on is certain, for stores in which a transaction is only there once
it was synced (`Store.answers_need_sync`).

What an operation has read may be what another one has just written; so each answer waits for all that was transacted
before it, errors too, whether it has changed anything itself or not. Where nothing waits to be synced it costs nothing.

Threads: none; a part of the server's event loop.
"""

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from dfsfuse import errors
from servers.store import Store

Handler = Callable[..., Any]


def when_certain(store: Store, sync: Callable[[], Awaitable[None]], handler: Handler) -> Handler:
    """The handler, whose replies are told when they are certain. `sync()` raises what then is told instead."""
    if not store.answers_need_sync:
        return handler

    def answer(*request: Any) -> Any:
        try:
            reply = handler(*request)
        except errors.DfsError as error:
            if store.is_synced:
                raise
            return _refused(error)
        if isawaitable(reply):
            return _awaited(reply)
        return reply if store.is_synced else _held(reply)

    async def _refused(error: errors.DfsError) -> Any:
        await sync()
        raise error

    async def _awaited(reply: Awaitable[Any]) -> Any:
        try:
            done = await reply
        except errors.DfsError as error:
            return await _refused(error)
        return done if store.is_synced else await _held(done)

    async def _held(reply: Any) -> Any:
        await sync()
        return reply

    return answer
