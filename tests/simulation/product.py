"""The product's modules, imported with stand-ins for time, threads and randomness.

`load` imports them once more, in this process, while the stand-ins are in the place of the standard library's modules:
so also a default argument such as time.monotonic is the simulation's. Nothing of the product is changed. Constants
that decide how content is cut are made small, so that files of some kilobytes have several entries and segments; and
so few locks are reserved that a run needs more.

Use it in a process of its own: what was imported before keeps the real modules.
"""

import contextlib
import functools
import importlib
import random
import sqlite3
import sys
import time as real_time
import types
from typing import Any

from simulation import threads

ENTRY_BYTES, BLOCK_BYTES = 2048, 256
INLINE_ENTRIES, SEGMENT_ENTRIES, PUT_PIECES_MAX = 2, 3, 16
RESERVE = 4

_MODULES = (
    "servers.directory_service",
    "servers.lock_service",
    "servers.file_service",
    "dfsfuse.client",
)

OPEN_ROWS_S = 5.0
"""The sessions of clients that are away for some seconds end within a run; but later than their locks, of which the
lock service knows after a restart by their sessions."""

EPOCH_NS = 1_700_000_000 * 10**9


class Randomness:
    """What `secrets` draws from; a run sets `source`."""

    source = random.Random(0)

    @classmethod
    def token_bytes(cls, count: int) -> bytes:
        return cls.source.randbytes(count)


def now(_: int = 0) -> float:
    """By the clocks of the program that runs, whichever it asks."""
    loop = threads.Scheduler.loop
    return loop.now + loop.life.ahead_s


def _time_ns() -> int:
    return EPOCH_NS + int(now() * 1e9)


_databases: dict[str, sqlite3.Connection] = {}


def _connect(path: Any, **options: Any) -> sqlite3.Connection:
    """A database in memory that outlives who has opened it, as a file does."""
    name = f"file:{path}?vfs=memdb"
    if name not in _databases:
        _databases[name] = sqlite3.connect(name, uri=True)
    return sqlite3.connect(name, uri=True, **options)


def _module(name: str, **contents: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(contents)
    return module


def stand_ins() -> dict[str, types.ModuleType]:
    clock = {
        "monotonic": now, "perf_counter": now, "clock_gettime": now, "time_ns": _time_ns,
        "time": lambda: _time_ns() / 1e9, "sleep": threads.sleep,
        "localtime": lambda: real_time.gmtime(_time_ns() // 10**9), "strftime": real_time.strftime,
        "struct_time": real_time.struct_time, "CLOCK_BOOTTIME": 7, "CLOCK_MONOTONIC": 1,
    }  # fmt: skip
    return {
        "time": _module("time", **clock),
        "sqlite3": _module("sqlite3", **{**vars(sqlite3), "connect": _connect}),
        "secrets": _module("secrets", token_bytes=Randomness.token_bytes),
        "queue": _module("queue", SimpleQueue=threads.SimpleQueue),
        "concurrent.futures": _module(
            "concurrent.futures", ThreadPoolExecutor=threads.ThreadPoolExecutor, Future=threads.Future
        ),
        "threading": _module(
            "threading", Lock=threads.Lock, RLock=threads.RLock, Condition=threads.Condition, Event=threads.Flag,
            Thread=threads.Thread,
        ),
    }  # fmt: skip


@functools.cache
def load() -> None:
    """Import the product anew, once in a process. What it needs of the standard library is there by then."""
    for name in _MODULES:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("dfsfuse", "servers")]:
        del sys.modules[name]
    instead = stand_ins()
    kept = {name: sys.modules[name] for name in instead}
    sys.modules.update(instead)
    try:
        _cut_small()
        for name in _MODULES:
            importlib.import_module(name)
    finally:
        sys.modules.update(kept)
    _make_decoders()


def _make_decoders() -> None:
    """Each kind of message gets its decoder with its first one: now, and not in each run."""
    from dfsfuse import errors, messages

    for kind in messages.Message.__subclasses__():
        with contextlib.suppress(errors.BadRequest):
            messages.from_msgpack(b"\x80", kind)


def _cut_small() -> None:
    chunks = importlib.import_module("dfsfuse.chunks")
    chunks.ENTRY_BYTES, chunks.BLOCK_BYTES = ENTRY_BYTES, BLOCK_BYTES
    messages = importlib.import_module("dfsfuse.messages")
    for module in (messages, importlib.import_module("dfsfuse.messages.base")):
        module.INLINE_ENTRIES, module.SEGMENT_ENTRIES = INLINE_ENTRIES, SEGMENT_ENTRIES
        module.PUT_PIECES_MAX = PUT_PIECES_MAX
    importlib.import_module("servers.attendance").OPEN_ROWS_S = OPEN_ROWS_S
    importlib.import_module("dfsfuse.reservations").RESERVE = RESERVE
    # Last, as it brings others along, which take these numbers over.
    full_disk = importlib.import_module("dfsfuse.full_disk")
    full_disk.RESERVE_BYTES = full_disk._STEP_BYTES
