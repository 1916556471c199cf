"""Files that are read and written past the kernel's pages, and what is done where that cannot be."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import error, is_in_pages

from dfsfuse import direct_io, disk_io
from dfsfuse.direct_io import BLOCK_BYTES
from dfsfuse.disk_io import LARGE_BYTES

SIZE = 10 * BLOCK_BYTES


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def data() -> memoryview:
    memory = direct_io.memory(SIZE)
    memory[:] = os.urandom(SIZE)
    return memory


def fail(number: int):
    def call(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


def skip_without_direct_io(fd: int, data: memoryview) -> None:
    if not direct_io.pwrite(fd, data, 0):
        pytest.skip("the file system of the temporary folder has no direct I/O")


@pytest.mark.parametrize("offset", [0, BLOCK_BYTES])
@pytest.mark.parametrize("more", [0, 1, BLOCK_BYTES - 1])
def test_whole_blocks_go_past_the_pages(fd: int, data: memoryview, offset: int, more: int):
    """Goal: what is written and read this way leaves nothing in the kernel's memory; of a part of a block, which cannot
    go this way, nothing is written."""
    skip_without_direct_io(fd, data)
    assert direct_io.pwrite(fd, data, offset) == SIZE
    assert not is_in_pages(fd)
    os.pwrite(fd, bytes(more), offset + SIZE)
    found = direct_io.memory(2 * SIZE)
    assert direct_io.pread_into(fd, found, offset) == SIZE + more
    assert found[: SIZE + more] == bytes(data) + bytes(more)
    assert direct_io.pwrite(fd, data[: BLOCK_BYTES + more], 0) == BLOCK_BYTES
    assert direct_io.pread_into(fd, found, offset + 2 * SIZE) == 0


def test_what_does_not_fit(fd: int, data: memoryview):
    """Goal: less than a block, another place than a block's border, and memory that begins elsewhere: nothing is
    written or read, and nothing is wrong."""
    skip_without_direct_io(fd, data)
    for part, offset in ((data[:100], 0), (data, 100), (data[100 : 100 + BLOCK_BYTES], 0)):
        assert direct_io.pwrite(fd, part, offset) == 0
        assert direct_io.pread_into(fd, part, offset) == 0
    assert os.pread(fd, 2 * SIZE, 0) == data


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT])
@pytest.mark.parametrize("call", ["open", "pwrite", "preadv"])
def test_a_file_system_that_cannot(fd: int, data: memoryview, call: str, number: int, monkeypatch: pytest.MonkeyPatch):
    """Goal: whoever asks hears that nothing was done, and all is done through the pages; also where there is no
    /proc."""
    os.pwrite(fd, data, 0)
    monkeypatch.setattr(os, call, fail(number))
    assert call == "preadv" or direct_io.pwrite(fd, data, 0) == 0
    assert call == "pwrite" or direct_io.pread_into(fd, data, 0) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_the_disk_refuses_is_raised(fd: int, data: memoryview, number: int, monkeypatch: pytest.MonkeyPatch):
    """Goal: a full or broken disk is no file system without direct I/O."""
    monkeypatch.setattr(os, "pwrite", fail(number))
    monkeypatch.setattr(os, "preadv", fail(number))
    with error(number):
        direct_io.pwrite(fd, data, 0)
    with error(number):
        direct_io.pread_into(fd, data, 0)


# -- the cache's files


@pytest.mark.parametrize("past_pages", [False, True])
@pytest.mark.parametrize("length", [1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, LARGE_BYTES + BLOCK_BYTES + 1])
@pytest.mark.parametrize("offset", [0, 1, BLOCK_BYTES])
def test_all_of_it_is_written_and_read(fd: int, length: int, offset: int, past_pages: bool):
    """Goal: of any length, at any place, over what was written through pages: what is read is what was written, and
    what stands around it stays."""
    around = os.urandom(offset + length + 10)
    os.pwrite(fd, around, 0)
    data, found = direct_io.memory(length), direct_io.memory(length + 20)
    data[:] = os.urandom(length)
    disk_io.write_all(fd, data, offset)
    assert disk_io.read_into(fd, found, offset, past_pages) == length + 10
    assert found[: length + 10] == bytes(data) + around[-10:]
    assert os.pread(fd, offset, 0) == around[:offset]


def test_large_stretches_of_the_cache_take_no_pages(fd: int, data: memoryview):
    """Goal: the mount's pages have them already."""
    skip_without_direct_io(fd, data)
    large = direct_io.memory(LARGE_BYTES)
    disk_io.write_all(fd, large, 0)
    disk_io.read_into(fd, large, 0, past_pages=True)
    assert not is_in_pages(fd)
    disk_io.write_all(fd, large[:-BLOCK_BYTES], 0)
    assert is_in_pages(fd)


def test_what_a_full_disk_has_taken_is_known(fd: int, monkeypatch: pytest.MonkeyPatch):
    """Goal: a write that fails in the middle tells how far it has come."""
    with monkeypatch.context() as patch:
        patch.setattr(direct_io, "pwrite", lambda *_: BLOCK_BYTES)
        patch.setattr(os, "pwrite", fail(errno.ENOSPC))
        written = disk_io.written(fd, direct_io.memory(LARGE_BYTES), 0)
        assert next(written) == BLOCK_BYTES
        with error(errno.ENOSPC):
            next(written)
