"""Requests that wait at a server until their session is told something. (Over HTTP: test_lock_service.py.)

Several requests that have arrived are all handled before any of those that wait is taken up again: what one of them has
to tell must reach those before it.
"""

import asyncio
import time

from dfsfuse.messages import Acquire, Broken, Granted, HeldLock, Nothing, Watch, Watched, WatchLocks
from servers import callbacks, lock_service
from servers.callbacks import Callbacks
from servers.lock_service import LockService, description_of
from servers.locks import Locks
from servers.promises import Promises

INO, HOLDER, OTHER = 7, 1, 2
LONG_S = 60.0


def test_a_recall_in_the_same_run_of_the_event_loop(monkeypatch):
    """Goal: S5. Who waits for recalls hears of one that comes before its wait has begun: the kept lock goes at once to
    who does not wait for it."""
    monkeypatch.setattr(lock_service, "WATCH_S", LONG_S)

    async def run() -> tuple[list[HeldLock], Granted]:
        core, loop = Locks(), asyncio.get_running_loop()
        service = LockService(core, description_of("http://here"), clock=time.monotonic)
        core.begin(1, [], time.monotonic())
        core.watch(WatchLocks(session=HOLDER), time.monotonic())
        held = service.acquire(Acquire(session=HOLDER, ino=INO, ticket=1, wait_s=0), loop.create_future())
        watching = service.watch(WatchLocks(session=HOLDER), loop.create_future())
        asking = service.acquire(Acquire(session=OTHER, ino=INO, ticket=1, wait_s=0), loop.create_future())
        granted = asyncio.ensure_future(asking)
        wanted = (await asyncio.wait_for(watching, 10)).locks
        assert [(lock.ino, lock.token) for lock in wanted] == [(INO, held.token)]
        service.watch(WatchLocks(session=HOLDER, returned=wanted), loop.create_future())
        return wanted, await granted

    wanted, granted = asyncio.run(run())
    assert granted.token > wanted[0].token


def test_a_call_back_in_the_same_run_of_the_event_loop(monkeypatch):
    """Goal: S2. Who waits for news hears of a change that comes before its wait has begun, so the change waits for one
    answer, and not for as long as the request may stay unanswered."""
    monkeypatch.setattr(callbacks, "POLL_S", LONG_S)

    async def run() -> Watched:
        promises, gone = Promises(LONG_S, 1000, (), time.monotonic()), asyncio.get_running_loop().create_future()
        called = Callbacks(promises.watch, promises, time.monotonic)
        begun = called.watch(Watch(session=HOLDER), gone)
        assert promises.promise(HOLDER, [INO], time.monotonic())
        watching = called.watch(Watch(session=HOLDER, epoch=begun.epoch), gone)
        changing = asyncio.ensure_future(called.change(OTHER, lambda: [(INO, b"")], Nothing))
        told = await asyncio.wait_for(watching, 10)
        again = asyncio.ensure_future(called.watch(Watch(session=HOLDER, epoch=begun.epoch, heard=told.number), gone))
        await asyncio.wait_for(changing, 10)
        gone.set_result(None)
        await again
        return told

    assert asyncio.run(run()).events == [Broken(INO)]
