"""The first lock of a program, and changes that are under way: whoever made them, they are sent."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from clients import Servers
from filesystems import Machine
from support import wait_until
from volumes import Volume

from dfsfuse import errors
from dfsfuse.handles import Handle
from dfsfuse.messages import RangeGranted
from dfsfuse.sharing import Sharing
from dfsfuse.sparse_files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from servers.store.memory import MemoryStore

SIZE = 10_000


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine]:
    volume, servers = Volume(MemoryStore()), Servers()
    here, there = (Machine(volume, servers, tmp_path / name) for name in ("here", "there"))
    here.write("/file", bytes(SIZE))
    return here, there


class Held:
    """One method of an object that stops before it has begun, until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str):
        self.begun, self.go, method = threading.Event(), threading.Event(), getattr(owner, name)

        def held(*arguments: Any, **more: Any) -> Any:
            self.begun.set()
            assert self.go.wait(30)
            return method(*arguments, **more)

        monkeypatch.setattr(owner, name, held)


class Thread(threading.Thread):
    """`end` waits for it, and raises what it has raised."""

    def __init__(self, work: Any):
        super().__init__(daemon=True)
        self._work, self._error = work, None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def end(self) -> None:
        self.join(30)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error


def lock(sharing: Sharing, handle: Handle) -> None:
    """What the first lock of a program does, once it is granted."""
    sharing.begin_locking(handle)
    sharing.refresh(handle, RangeGranted(lease_s=8.0))


CHANGES = {
    "write": lambda files, handle: files.files.write(handle, b"new", 0),
    "resize": lambda files, handle: files.files.resize(handle, SIZE // 2),
    "punch": lambda files, handle: files.fallocate(handle, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192),
    "copy": lambda files, handle: files.copy_range(handle, 0, handle, SIZE, 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_under_way_at_the_first_lock_is_sent_at_the_unlock(machines, monkeypatch, change):
    """Goal: S3. Of two threads one changes the file while the other takes the file's first lock: the unlock sends the
    change, as it does with every other."""
    here, there = machines
    handle, sharing = here.open("/file", os.O_RDWR), here.files.files.sharing
    before = there.stat("/file").version
    held = Held(monkeypatch, here.files.files, "bring" if change != "resize" else "resize_within")
    changing = Thread(lambda: CHANGES[change](here.files, handle))
    assert held.begun.wait(30)
    locking = Thread(lambda: lock(sharing, handle))
    wait_until(lambda: sharing._plain._stopped or not locking.is_alive(), "the lock waits for the change")
    held.go.set()
    changing.end()
    locking.end()
    assert handle.lock is None
    sharing.settle(handle.content)
    assert not handle.content.changed
    newest = there.open("/file")
    assert newest.content.version == before + 1
    assert there.files.files.read(newest, 2 * SIZE, 0) == here.files.files.read(handle, 2 * SIZE, 0)


def test_what_comes_during_the_first_lock_waits_for_it(machines, monkeypatch):
    """Goal: it is made with the write lock that the file's programs share from then on; who is interrupted meanwhile
    has changed nothing."""
    here, there = machines
    handle, sharing = here.open("/file", os.O_RDWR), here.files.files.sharing
    first = Held(monkeypatch, handle.content, "write")
    writing = Thread(lambda: here.put(handle, b"first", 0))
    assert first.begun.wait(30)
    locking = Thread(lambda: lock(sharing, handle))
    wait_until(lambda: sharing._plain._stopped, "the lock waits for the write")
    with pytest.raises(errors.Interrupted):
        here.files.files.write(handle, b"never", 100, interrupted=lambda: True)
    coming = Thread(lambda: here.put(handle, b"second", 10))
    first.go.set()
    for thread in (writing, locking, coming):
        thread.end()
    sharing.settle(handle.content)
    assert there.read("/file")[:20] == b"first" + bytes(5) + b"second" + bytes(4)
    assert there.read("/file")[100:110] == bytes(10)
    assert not sharing._plain._under_way
    assert not sharing._plain._stopped
