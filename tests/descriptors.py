"""Descriptors of the process that runs the tests: what a test leaves open is closed, and none stays.

A test that kills a server or a client of its own process does what a kill does: it goes on with another object and
leaves the former one as it is. The kernel would close what that had open. Here somebody has to, as a process that runs
all tests would come to its limit, and to numbers that select() does not take.
"""

import contextlib
import functools
import gc
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from support import wait_until

from dfsfuse import errors
from dfsfuse.cache import Cache
from dfsfuse.done_commits import DoneCommits
from servers.chunkstore import ChunkStore
from servers.packs import Packs
from servers.store.sqlite import SqliteStore
from servers.supervisor import Supervisor

END_S = 5.0
_KINDS = Cache, ChunkStore, DoneCommits, Packs, SqliteStore, Supervisor


@contextlib.contextmanager
def closed_afterwards() -> Iterator[None]:
    """What is made within and has descriptors is closed in the end, the latest first, if it is not closed by then."""
    left: dict[int, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind in _KINDS:
            patch.setattr(kind, "__init__", _noting(kind.__init__, left))
            patch.setattr(kind, "close", _forgetting(kind.close, left))
        yield
        while left:
            _, made = left.popitem()
            # What it stood on may be gone, or broken by the test.
            with contextlib.suppress(errors.DfsError, OSError, sqlite3.Error):
                made.close()


def _noting(make: Callable[..., None], left: dict[int, Any]) -> Callable[..., None]:
    @functools.wraps(make)
    def run(self: Any, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        left[id(self)] = self

    return run


def _forgetting(close: Callable[[Any], None], left: dict[int, Any]) -> Callable[[Any], None]:
    @functools.wraps(close)
    def run(self: Any) -> None:
        left.pop(id(self), None)
        close(self)

    return run


@contextlib.contextmanager
def none_stays(where: str) -> Iterator[None]:
    """AssertionError for descriptors that are open in the end and were not before. Threads have a moment to end."""
    _make_pipe_of_all_loops()
    before = _descriptors()
    yield
    with contextlib.suppress(AssertionError):
        wait_until(
            lambda: len(_descriptors()) <= len(before) or _after_collecting() <= len(before), "all closed", END_S
        )
    now = _descriptors()
    new = sorted(now[number] for number in now if now[number] != before.get(number))
    assert len(now) <= len(before), f"{where} leaves {len(now) - len(before)} descriptors open, among {new[:20]}"


def _after_collecting() -> int:
    """How many there are when what refers to itself is gone."""
    gc.collect()
    return len(_descriptors())


@functools.cache
def _make_pipe_of_all_loops() -> None:
    """libuv makes a pipe for signals with the first loop of a process, and keeps it."""
    uvloop.new_event_loop().close()


def _descriptors() -> dict[int, str]:
    """number -> what it leads to, as the kernel tells it."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found
