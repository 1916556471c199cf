"""What is synced as it is written: O_SYNC, O_DSYNC, RWF_DSYNC, msync; and O_DIRECT."""

import contextlib
import mmap
import os
from pathlib import Path

import pytest
from passthrough import SIZE, bring
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


def first_bytes(file: Path, length: int) -> bytes:
    with opened(file, os.O_RDONLY) as fd:
        return os.pread(fd, length, 0)


@pytest.mark.parametrize(
    "others", [(), (os.O_RDONLY,), (os.O_RDWR,)], ids=["alone", "beside a reader", "beside a writer"]
)
@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_each_write_to_a_large_file_counts_as_fsync(two_mounts: tuple[Path, Path], flag: int, others: tuple[int, ...]):
    """Goal: as above, of a file that the kernel would write itself (passthrough), and has others reading or writing so
    already; after fdatasync() too."""
    here, there = (mount / "f" for mount in two_mounts)
    here.write_bytes(b"-" * SIZE)
    bring(here)
    with contextlib.ExitStack() as opens:
        for each in others:
            opens.enter_context(opened(here, each))
        fd = opens.enter_context(opened(here, os.O_RDWR | flag))
        for number in range(3):
            os.pwrite(fd, b"%d" % number, number)
            assert first_bytes(there, 4) == b"012"[: number + 1] + b"-" * (3 - number)
    with opened(here, os.O_RDWR) as fd:
        os.pwrite(fd, b"data", 0)
        os.fdatasync(fd)
        assert first_bytes(there, 4) == b"data"


def test_synchronous_writes_beside_an_older_version(two_mounts: tuple[Path, Path]):
    """Goal: what goes past the kernel's pages, as a program here has an older version open, is synced too."""
    here, there = (mount / "f" for mount in two_mounts)
    here.write_bytes(b"older")
    with opened(here, os.O_RDONLY) as older:
        assert os.read(older, 5) == b"older"
        there.write_bytes(b"newer")
        with opened(here, os.O_RDWR | os.O_SYNC) as fd:
            os.pwrite(fd, b"N", 0)
            assert there.read_bytes() == b"Newer"
        with opened(here, os.O_RDWR) as fd:
            os.pwritev(fd, [b"S"], 0, os.RWF_DSYNC)
            assert there.read_bytes() == b"Sewer"


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
