"""`dfs` and `mount.py` without a standard stream, and with one that takes nothing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dfs_command import RUN_S, Dfs, environment, running
from support import ROOT


@pytest.fixture(scope="module")
def dfs() -> Iterator[Dfs]:
    with running() as command:
        command("write", "/file", given=b"content")
        yield command


def run(redirected: str, *command: object) -> tuple[int, str, str]:
    """The exit status and both outputs of a command with such a redirection of the shell, in 60 s."""
    line = ["sh", "-c", f'exec "$@" {redirected}', "sh", *map(str, command)]
    outcome = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=RUN_S, check=False)
    return outcome.returncode, outcome.stdout, outcome.stderr


@pytest.mark.parametrize(
    ("redirected", "arguments", "status", "output", "complaint"),
    [
        (">&-", ["cat", "/file"], 1, "", "dfs: standard output: it is closed\n"),
        (">&-", ["ls", "/"], 1, "", "dfs: standard output: it is closed\n"),
        (">&-", ["dump", "-"], 1, "", "dfs: standard output: it is closed\n"),
        (">/dev/full", ["cat", "/file"], 1, "", "dfs: No space left on device\n"),
        (">&-", ["mkdir", "-p", "/folder"], 0, "", ""),
        ("<&-", ["write", "/new"], 1, "", "dfs: standard input: it is closed\n"),
        ("<&-", ["shell"], 1, "", "dfs: standard input: it is closed\n"),
        ("2>&-", ["cat", "/file"], 0, "content", ""),
        ("2>&-", ["cat", "/none"], 1, "", ""),
        ("<&- >&- 2>&-", ["mkdir", "-p", "/folder"], 0, "", ""),
    ],
)
def test_a_stream_that_is_closed(dfs, redirected, arguments, status, output, complaint):
    """Goal: what needs it fails with one line, and all else works; no file is made of what was not there."""
    assert run(redirected, *dfs.command(*arguments)) == (status, output, complaint)
    assert b"new" not in dfs("ls", "/")


def test_help_that_nobody_can_be_shown():
    """Goal: one line there too."""
    status, _, complaint = run(">&-", sys.executable, "-P", "-m", "dfsfuse", "--help")
    # Python 3.12 and newer show no help, and succeed.
    assert (status, complaint) in ((1, "dfs: standard output: it is closed\n"), (0, ""))


@pytest.mark.mounted
@pytest.mark.parametrize("redirected", [">&-", ">/dev/full", "<&- >&- 2>&-"])
def test_a_mount_of_which_nobody_hears(dfs, tmp_path, redirected):
    """Goal: it is mounted, and that is the exit status."""
    mount = sys.executable, ROOT / "mount.py", "--home", dfs.home, tmp_path
    assert run(redirected, *mount) == (0, "", "")
    try:
        assert (Path(tmp_path) / "file").read_bytes() == b"content"
    finally:
        dfs("unmount", tmp_path)
