"""The command `dfs` for tests: a real process against a real cluster."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import ROOT, MountedCluster, mounted_cluster, wait_until
from volume_checks import assert_whole

RUN_S = 60.0


class Dfs:
    """`dfs` with the home of a cluster. Outputs are bytes, as names are."""

    def __init__(self, cluster: MountedCluster):
        self.cluster, self.home = cluster, cluster.home

    def command(self, *arguments: object) -> list[str | bytes]:
        texts = [a if isinstance(a, bytes) else str(a) for a in arguments]
        return [sys.executable, "-P", "-m", "dfsfuse", "--home", str(self.home), *texts]

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen:
        """A command that goes on beside the test, its three streams being pipes."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(self.command(*arguments), env=environment(), **(pipes | options))

    def run(self, *arguments: object, given: bytes = b"", **options: Any) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments), input=given, env=environment(), capture_output=True, timeout=RUN_S, check=False,
            **options,
        )  # fmt: skip

    def __call__(self, *arguments: object, given: bytes = b"", **options: Any) -> bytes:
        """What a command prints that must succeed, and complain about nothing."""
        outcome = self.run(*arguments, given=given, **options)
        assert (outcome.returncode, outcome.stderr) == (0, b""), outcome
        return outcome.stdout

    def json(self, *arguments: object, **options: Any) -> Any:
        return json.loads(self(*arguments, "--json", **options))

    def failure(self, *arguments: object, **options: Any) -> str:
        """The one line on standard error of a command that must fail."""
        outcome = self.run(*arguments, **options)
        assert outcome.returncode == 1, outcome
        text = outcome.stderr.decode()
        assert text.startswith("dfs: "), outcome
        assert text.count("\n") == 1, outcome
        return text.removeprefix("dfs: ").rstrip("\n")

    def lock(self, path: str) -> dict[str, Any] | None:
        """The row of `dfs locks` for a path."""
        return next((row for row in self.json("locks") if row["path"] == path), None)

    @contextlib.contextmanager
    def held(self, path: str) -> Iterator[subprocess.Popen]:
        """A writer that has the lock of `path` and waits for its content."""
        writer = self.start("write", path)
        try:
            wait_until(lambda: (row := self.lock(path)) and row["holder"], f"{path} is locked")
            yield writer
        finally:
            writer.terminate()
            writer.communicate()


def environment() -> dict[str, str]:
    without = {name: value for name, value in os.environ.items() if not name.startswith("DFS_")}
    return without | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}


@contextlib.contextmanager
def running() -> Iterator[Dfs]:
    """A cluster that goes on without users, and `dfs` for it."""
    with mounted_cluster() as cluster:
        dfs = Dfs(cluster)
        assert b" runs at http://127.0.0.1:" in dfs("cluster", "start")
        yield dfs
        if cluster.stays_whole:
            assert_whole(cluster.home)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
