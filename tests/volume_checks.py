"""Is a test's volume whole when the test has ended? The checker looks, over the network where the cluster runs."""

import argparse
from pathlib import Path

from models import check_tree

from dfsfuse import cluster, errors
from dfsfuse.commands.check import Result
from dfsfuse.commands.reach import metadata
from servers import check
from servers.store.sqlite import SqliteStore


def assert_whole(home: Path, read: bool = False) -> None:
    """AssertionError for what `dfs check` finds wrong in the cluster of this home. `read`: copies too. Servers that are
    away are left out."""
    if not (home / "directory" / "directory.db").exists():
        return
    try:
        problems = _over_the_network(home, read)
    except errors.DfsError:
        problems = _of_database(home / "directory" / "directory.db")
    assert not problems, problems


def _over_the_network(home: Path, read: bool) -> list:
    """Unreachable where no cluster runs: none is started for this."""
    endpoint = cluster.find_running(home, 1.0)
    if endpoint is None:
        raise errors.Unreachable("no cluster")
    with endpoint, metadata(argparse.Namespace(home=home, cluster=None, timeout=1.0)) as asked:
        return Result(asked, read).problems


def _of_database(path: Path) -> list:
    store = SqliteStore(path)
    try:
        check_tree(store)
        snapshot = store.snapshot()
        problems = [problem for page in check.pages(snapshot) for problem in page.problems]
        snapshot.close()
        return problems
    finally:
        store.close()
