"""What is synced as it is written: O_SYNC, O_DSYNC, RWF_DSYNC, msync; and O_DIRECT."""

import mmap
import os
from pathlib import Path

import pytest
from posix_rules.files import opened

pytestmark = pytest.mark.mounted

PAGE = mmap.PAGESIZE


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_each_write_counts_as_fsync(two_mounts: tuple[Path, Path], flag: int):
    """Goal: with O_SYNC and O_DSYNC what write() has returned is the file's next version, on every mount, before any
    close(); so it is after RWF_DSYNC for that write, and not after a plain one."""
    here, there = two_mounts
    with opened(here / "f", os.O_CREAT | os.O_RDWR | flag) as fd:
        for number in range(3):
            os.write(fd, b"%d" % number)
            assert (there / "f").read_bytes() == b"012"[: number + 1]
    with opened(here / "g", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"plain")
        assert (there / "g").read_bytes() == b""
        os.pwritev(fd, [b" synced"], 5, os.RWF_DSYNC)
        assert (there / "g").read_bytes() == b"plain synced"


def test_direct_io_is_coherent(two_mounts: tuple[Path, Path]):
    """Goal: what is written with O_DIRECT, aligned or not, is read at once through pages, mappings and O_DIRECT, and on
    another mount after the close; what was written through pages is read with O_DIRECT."""
    here, there = two_mounts
    with opened(here / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT) as direct, opened(here / "f", os.O_RDWR) as plain:
        aligned = mmap.mmap(-1, 2 * PAGE)
        aligned.write(b"a" * 2 * PAGE)
        assert os.pread(plain, 10, 0) == b""
        assert os.write(direct, aligned) == 2 * PAGE
        assert os.pread(plain, 3 * PAGE, 0) == b"a" * 2 * PAGE
        assert os.pwrite(direct, b"odd", 5) == 3
        os.pwrite(plain, b"plain", PAGE)
        assert os.pread(direct, 10, 0) == b"aaaaaoddaa"
        assert os.preadv(direct, [aligned], 0) == 2 * PAGE
        assert aligned[PAGE : PAGE + 6] == b"plaina"
        with mmap.mmap(plain, 0) as mapped:
            assert mapped[:10] == b"aaaaaoddaa"
    assert (there / "f").read_bytes()[:10] == b"aaaaaoddaa"


def test_msync_reaches_another_mount(two_mounts: tuple[Path, Path]):
    """Goal: what was stored through a shared mapping is the next version after msync, with the mapping still there; a
    private mapping's stores reach nobody."""
    here, there = two_mounts
    (here / "f").write_bytes(b"-" * PAGE)
    with opened(here / "f", os.O_RDWR) as fd, mmap.mmap(fd, PAGE) as shared:
        with mmap.mmap(fd, PAGE, mmap.MAP_PRIVATE) as private:
            private[10:17] = b"private"
            shared[:6] = b"stored"
            shared.flush()
            assert (there / "f").read_bytes()[:20] == b"stored" + b"-" * 14
            assert private[10:17] == b"private"
