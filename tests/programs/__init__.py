"""Real programs on a mount, each compared with the same on a local disk: `make programs` runs them all.

A program is a function of (here, there): the same folder through two mounts, or twice the same local folder. It raises
AssertionError where the program fails, and returns what must be equal in both places.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

Program = Callable[[Path, Path], object]
TIMEOUT_S = 900.0


def run(*command: object, cwd: Path, timeout_s: float = TIMEOUT_S, **options: object) -> str:
    """What the program prints; it ends with status 0."""
    outcome = attempt(*command, cwd=cwd, timeout_s=timeout_s, **options)
    text = f"{outcome.stdout}{outcome.stderr}"
    assert outcome.returncode == 0, f"{' '.join(map(str, command))}: status {outcome.returncode}\n{text[-4000:]}"
    return outcome.stdout


def attempt(
    *command: object, cwd: Path, timeout_s: float = TIMEOUT_S, **options: object
) -> subprocess.CompletedProcess:
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC", "HOME": str(cwd), "GIT_CONFIG_NOSYSTEM": "1"}
    environment |= options.pop("env", {})
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s,
        check=False, errors="replace", **options,
    )  # fmt: skip


def missing(*commands: str) -> list[str]:
    """Those of the commands that this machine does not have."""
    return [command for command in commands if shutil.which(command) is None]
