"""Syncs that come by themselves: what is stored is on the disk soon, whoever asks for it.

A sync begins SYNC_EVERY_S after the one before has begun, or where that takes longer as soon as it has ended. So what
came just too late for one is on the disk SYNC_EVERY_S later, and the time of a sync. While there is nothing new the
disk is left alone.

Threads: none; a coroutine of the server's event loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from dfsfuse import errors

log = logging.getLogger(__name__)

SYNC_EVERY_S = 0.5


async def sync_regularly(is_synced: Callable[[], bool], sync: Callable[[], Awaitable[Any]]) -> None:
    """For ever. A disk that fails is tried again."""
    clock = asyncio.get_running_loop().time
    began_s = clock()
    while True:
        await asyncio.sleep(began_s + SYNC_EVERY_S - clock())
        began_s = clock()
        if is_synced():
            continue
        try:
            await sync()
        except errors.DfsError as error:
            log.error("sync: %s", error)
