"""What tests of passthrough have in common."""

import contextlib
import mmap
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_files import opened, whole
from support import Mount

from dfsfuse.drivers.fuse_backing import LEAST_BYTES

MARKS = [
    pytest.mark.mounted,
    pytest.mark.drivers("linux"),
    pytest.mark.skipif(os.geteuid() != 0, reason="passthrough is for root"),
]
MIB = 1 << 20
SIZE = LEAST_BYTES + 12345


def noise(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def mapping_of(handle: int, flags: int = mmap.MAP_SHARED) -> mmap.mmap:
    return mmap.mmap(handle, 0, flags, mmap.PROT_READ)


def bring(file: Path) -> None:
    """All of it is in the cache of that mount, and none of it in the kernel's pages: the next open is passthrough."""
    for _ in range(2):
        with opened(file) as handle:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            whole(handle)


@contextlib.contextmanager
def stopped(mount: Mount) -> Iterator[None]:
    """Nobody answers the kernel."""
    pid = mount.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
