"""A disk that fails on command: a file system of a process of its own that passes everything on to a folder, and
answers EIO to what writes, or brings to the disk, while the file `fails` is in the folder beside it.

    python failing_disk.py BELOW POINT     serve BELOW on POINT until it is unmounted
"""

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mfusepy


class FailingDisk(mfusepy.Operations):
    def __init__(self, below: Path):
        self._below = below
        self._fails = below.with_name(below.name + ".fails")

    def _at(self, path: str) -> str:
        return f"{self._below}{path}"

    def _may_fail(self) -> None:
        if self._fails.exists():
            raise mfusepy.FuseOSError(errno.EIO)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        try:
            known = os.lstat(self._at(path))
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno) from None
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_mtime", "st_ctime", "st_atime", "st_blocks")
        return {name: getattr(known, name) for name in names}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~os.O_CREAT)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._may_fail()
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._may_fail()
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self._may_fail()
        os.truncate(self._at(path), length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self._may_fail()
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def unlink(self, path: str) -> None:
        self._may_fail()
        os.unlink(self._at(path))

    def mkdir(self, path: str, mode: int) -> None:
        self._may_fail()
        os.mkdir(self._at(path), mode)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)


class Disk:
    """`point` is where it is mounted."""

    def __init__(self, folder: Path):
        self.below, self.point, self._fails = folder / "below", folder / "disk", folder / "below.fails"
        for made in (self.below, self.point):
            made.mkdir()

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        self._fails.touch()
        try:
            yield
        finally:
            self._fails.unlink()


@contextlib.contextmanager
def failing_disk(folder: Path) -> Iterator[Disk]:
    """Mounted within the block."""
    disk = Disk(folder)
    process = subprocess.Popen([sys.executable, __file__, disk.below, disk.point])
    try:
        while process.poll() is None and not disk.point.is_mount():
            pass
        assert process.poll() is None
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk.point], check=False)
        process.wait(20)


if __name__ == "__main__":
    mfusepy.FUSE(FailingDisk(Path(sys.argv[1])), sys.argv[2], foreground=True, nothreads=True)
