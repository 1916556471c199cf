"""Mounts of a cluster of their own for as long as a benchmark needs them."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.__main__ import ROOT, wait_for_end


@contextlib.contextmanager
def mounted(home: Path, points: Mapping[Path, Sequence[str]], last: bool = True) -> Iterator[None]:
    """Clients of the cluster in `home`, by mountpoint the options of each. The cluster ends afterwards where they are
    its `last`."""
    try:
        for point, options in points.items():
            point.mkdir(exist_ok=True)
            command = [sys.executable, str(ROOT / "mount.py"), "--home", str(home), *options, str(point)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield
    finally:
        for point in points:
            subprocess.run(["umount", str(point)], check=False, stderr=subprocess.DEVNULL)
        if last:
            wait_for_end(home)
