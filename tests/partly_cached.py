"""A client that has a little of a file in its cache, changed, and nothing else of it; and others that go on."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES
from servers import references
from servers.attendance import OPEN_ROWS_S, PROMISE_LEASE_S
from servers.store.memory import MemoryStore

BASE = b"".join(bytes([65 + number]) * ENTRY_BYTES for number in range(3))


@contextlib.contextmanager
def silence(servers: Servers) -> Iterator[None]:
    """No file server answers."""

    def silent(*_: bytes) -> None:
        raise errors.TimedOut("no answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "before_store", silent)
        patch.setattr(servers, "download", silent)
        yield


class World:
    """A file of three entries, and a client that has changed a little of the first without having the others here."""

    def __init__(self, folder: Path):
        self.volume, self.servers = Volume(MemoryStore()), Servers()
        self.other = Machine(self.volume, self.servers, folder / "other")
        self.other.write("/f.txt", BASE)
        self.client = Machine(self.volume, self.servers, folder / "client")
        self.handle = self.client.open("/f.txt", os.O_RDWR)
        self.client.put(self.handle, b"CHANGED")

    @property
    def wanted(self) -> bytes:
        return b"CHANGED" + BASE[7:]

    def replace(self) -> None:
        """Another client commits, and what nobody needs then is deleted everywhere."""
        self.other.write("/f.txt", b"another version")
        self.collect()

    def collect(self) -> None:
        while self.volume.core.settle(self.volume.now_s):
            continue
        self.servers.chunks = {name: data for name, data in self.servers.chunks.items() if self.is_needed(name)}

    def is_needed(self, name: bytes) -> bool:
        return self.volume.store.read(lambda tx: references.is_held(tx, references.ONLY_GROUP, name))

    def fail_to_close(self) -> None:
        with silence(self.servers), pytest.raises(errors.TimedOut):
            self.client.close(self.handle)

    def go(self) -> None:
        """The client is away for so long that its session ends."""
        self.volume.now_s += PROMISE_LEASE_S + OPEN_ROWS_S + 1
        self.other.session.renew()
        self.volume.core.attendance.end_lapsed(self.volume.now_s)

    def copies(self) -> dict[str, bytes]:
        names = [os.fsdecode(name) for name in self.other.names()]
        return {name: self.other.read(f"/{name}") for name in names if "(" in name}
