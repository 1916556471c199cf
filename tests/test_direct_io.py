"""Files that are read and written past the kernel's pages, and what does where that cannot be."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import is_in_pages

from dfsfuse import direct_io
from dfsfuse.direct_io import BLOCK_BYTES

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


def refuses(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("more", [0, 1, BLOCK_BYTES - 1])
def test_whole_blocks_go_past_the_pages(fd: int, data: memoryview, more: int):
    """Goal: what is written and read this way leaves nothing in the kernel's memory; of a part of a block, which cannot
    go this way, nothing is written."""
    if not direct_io.write_blocks(fd, data):
        pytest.skip("the file system of the temporary folder has no direct I/O")
    assert os.fstat(fd).st_size == SIZE
    assert not is_in_pages(fd)
    os.pwrite(fd, bytes(more), SIZE)
    read = direct_io.memory(2 * SIZE)
    assert direct_io.read_into(fd, read) == SIZE + more
    assert read[:SIZE] == data
    assert direct_io.write_blocks(fd, data[: BLOCK_BYTES + more]) == BLOCK_BYTES


def test_less_than_a_block(fd: int, data: memoryview):
    """Goal: nothing is written, and nothing is wrong."""
    assert direct_io.write_blocks(fd, data[:100]) == 0
    assert os.fstat(fd).st_size == 0


@pytest.mark.parametrize(("owner", "name"), [(fcntl, "fcntl"), (os, "pwrite"), (os, "preadv")])
def test_a_file_system_that_cannot(
    fd: int, data: memoryview, owner: object, name: str, monkeypatch: pytest.MonkeyPatch
):
    """Goal: whoever asks hears that nothing was done, and the descriptor is as before."""
    os.pwrite(fd, data, 0)
    with monkeypatch.context() as patch:
        refuses(owner, name, patch)
        assert name == "preadv" or direct_io.write_blocks(fd, data) == 0
        assert name == "pwrite" or direct_io.read_into(fd, direct_io.memory(SIZE)) == 0
    assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT


def test_what_the_disk_refuses_is_raised(fd: int, data: memoryview, monkeypatch: pytest.MonkeyPatch):
    """Goal: a full or broken disk is no file system without direct I/O."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="space"):
        direct_io.write_blocks(fd, data)
    assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
