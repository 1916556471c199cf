"""Is a test's volume whole when the test has ended? The checker looks, over the network."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from support import wait_until

from dfsfuse.commands.check import Result
from dfsfuse.commands.reach import Metadata, metadata
from dfsfuse.endpoints import Endpoint
from dfsfuse.messages import Problem, Sync, Synced

PATIENCE_S = 30.0
SERVERS = ["A", "B", "C"]


def assert_whole(home: Path, read: bool = False) -> None:
    """AssertionError for what `dfs check` finds wrong in the volume of this home, and where a file server cannot be
    asked; a DfsError where the directory cannot. `read`: copies are read too. A cluster that has ended is started for
    this, and servers that start just now are waited for."""
    if not (home / "directory" / "directory.db").exists():
        return
    with metadata(argparse.Namespace(home=home, cluster=None, timeout=PATIENCE_S)) as asked:
        _assert_sound(_looked_at(asked, read, lambda found: True, "all file servers can be asked"))


def assert_at_rest(url: str, token: str) -> None:
    """Every copy on every file server is read: each has what somebody needs, unbroken, and, once it has caught up and
    deleted its garbage, nothing else. AssertionError if not."""
    with _directory(url, token) as asked:
        for server in asked.fresh_cluster().files:
            # What is not in the index of its packs yet is in no inventory.
            asked.rpc.call(server.url, "sync", Sync(alone=True), Synced, PATIENCE_S)
        _assert_sound(_looked_at(asked, True, _is_at_rest, "nothing is short, and nothing is there in vain"))


def problems_of(url: str, token: str) -> list[Problem]:
    """What the checker finds wrong when it reads everything. AssertionError: a file server cannot be asked."""
    with _directory(url, token) as asked:
        return _looked_at(asked, True, lambda found: True, "all file servers can be asked").problems


@contextlib.contextmanager
def _directory(url: str, token: str) -> Iterator[Metadata]:
    asked = Metadata(Endpoint(url=url, token=token, volume=""), PATIENCE_S)
    try:
        yield asked
    finally:
        asked.rpc.close()


def _looked_at(asked: Metadata, read: bool, is_enough: Callable[[Result], bool], what: str) -> Result:
    """What the checker finds, as soon as it has asked all file servers and that is enough, or wrong."""
    seen: list[Result] = []

    def look() -> Result | None:
        found = Result(asked, read)
        seen[:] = [found]
        is_seen = found.chunks.asked_servers == SERVERS
        return found if is_seen and (found.problems or is_enough(found)) else None

    try:
        return wait_until(look, what, PATIENCE_S)
    except AssertionError as error:
        chunks = seen[0].chunks
        told = f"short {dict(chunks.short)}, surplus {dict(chunks.surplus)}, silent {chunks.silent}"
        raise AssertionError(f"{error}: {told}") from None


def _is_at_rest(found: Result) -> bool:
    return not found.chunks.short.total() and not found.chunks.surplus.total()


def _assert_sound(found: Result) -> None:
    assert not found.problems, found.problems
