"""What most rules begin with: a file with content, a descriptor that is closed again, and the clock of time stamps."""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support import wait_until

CREATE = os.O_RDWR | os.O_CREAT
MIB = 1 << 20
_COARSE_CLOCK = 5
"""CLOCK_REALTIME_COARSE, of which Python does not know: what the kernel stamps files with."""


def made(path: Path, content: bytes = b"") -> Path:
    """A new file with this content."""
    path.write_bytes(content)
    return path


def made_folder(path: Path, mode: int = 0o755) -> Path:
    """A new folder with this mode."""
    path.mkdir()
    path.chmod(mode)
    return path


@contextlib.contextmanager
def opened(path: Path | str, flags: int = CREATE, mode: int = 0o644, dir_fd: int | None = None) -> Iterator[int]:
    """A descriptor, closed when the block ends."""
    fd = os.open(path, flags, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def bits(path: Path) -> int:
    """The mode without the type."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def ino(path: Path) -> int:
    return os.lstat(path).st_ino


def missing(path: Path) -> bool:
    """There is no such name, not even a dangling symlink's."""
    return not os.path.lexists(path)


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Within the block new names are made under this mask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# -- time stamps


def tick() -> int:
    """Waits until the clock that file systems stamp with has moved on; nothing that was stamped before is as late."""
    start = time.clock_gettime_ns(_COARSE_CLOCK)
    wait_until(lambda: time.clock_gettime_ns(_COARSE_CLOCK) > start, "the clock moves on")
    return time.clock_gettime_ns(_COARSE_CLOCK)


def moved(path: Path, act: Callable[[], object]) -> set[str]:
    """Which times of this file (a symlink itself) are later after `act`."""
    before = os.lstat(path)
    tick()
    act()
    after = os.lstat(path)
    names = ("atime", "mtime", "ctime")
    return {name for name in names if getattr(after, f"st_{name}_ns") > getattr(before, f"st_{name}_ns")}
