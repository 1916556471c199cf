"""Is a test's volume whole when the test has ended? The checker looks, over the network."""

import argparse
from pathlib import Path

from dfsfuse.commands.check import Result
from dfsfuse.commands.reach import metadata

PATIENCE_S = 30.0


def assert_whole(home: Path, read: bool = False) -> None:
    """AssertionError for what `dfs check` finds wrong in the volume of this home, a DfsError where it cannot look.
    `read`: copies are read too. A cluster that has ended is started for this; servers that are away are left out."""
    if not (home / "directory" / "directory.db").exists():
        return
    with metadata(argparse.Namespace(home=home, cluster=None, timeout=PATIENCE_S)) as asked:
        problems = Result(asked, read).problems
    assert not problems, problems
