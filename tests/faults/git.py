"""A git repository, used as a person does who does not look into it."""

import os
import subprocess
from pathlib import Path

_QUIET = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
_WHO = {f"GIT_{who}_{what}": "load" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Git:
    """`folder` is the work tree."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, *arguments: object) -> str:
        """What git writes. Raises OSError with what it complains of."""
        command = ["git", "-C", str(self.folder), "-c", "gc.auto=0", *map(str, arguments)]
        done = subprocess.run(
            command, env={**os.environ, **_QUIET, **_WHO}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise OSError(f"git {arguments[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    def init(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.run("init", "--quiet", "--initial-branch=main")

    def commit(self, number: int) -> None:
        """A commit whose message is the number. A former one that failed may have come as far as the index."""
        (self.folder / f"file-{number % 10}").write_text(f"{number}\n" * 100)
        self.run("add", "--all")
        self.run("commit", "--quiet", f"--message={number}")

    def remove_locks(self) -> None:
        """What a git leaves that was told of an error: it says itself that one should remove it."""
        for lock in (self.folder / ".git").rglob("*.lock"):
            lock.unlink()

    def messages(self) -> list[str]:
        return self.run("log", "--format=%s").split()
