"""What content is based on that was not sent: kept for the client that has it, and for the next one of its cache,
whatever others commit meanwhile and however thoroughly garbage is collected."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import errors, home
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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    assert made.client.unsent.count() == 0
    made.client.session.renew()
    made.other.session.renew()
    assert made.volume.store.read(lambda tx: tx.range(b"o", b"p", 10)) == [], "nothing is kept for longer"
    made.volume.check()


def nothing(world: World) -> None:
    pass


@pytest.mark.parametrize("away", [nothing, World.go])
@pytest.mark.parametrize("closed", [True, False])
def test_a_killed_client(world: World, closed: bool, away: Callable[[World], None]) -> None:
    """Goal: S15. The next client completes the copy, though it has little of the version that it is based on."""
    if closed:
        world.fail_to_close()
    away(world)
    world.replace()
    world.client.kill()
    ((name, content),) = world.copies().items()
    assert f" ({'conflict' if closed else 'recovered'} " in name
    assert content == world.wanted


def test_a_client_whose_close_failed(world: World) -> None:
    """Goal: S4. The client that lives on completes its copy too: no program has the file open any more."""
    world.fail_to_close()
    world.replace()
    assert world.client.unsent.retry() == 0
    assert list(world.copies().values()) == [world.wanted]


def test_a_client_that_was_away(world: World) -> None:
    """Goal: S4. A client that was suspended for so long that its session has ended takes over what was kept for it."""
    world.fail_to_close()
    world.go()
    world.replace()
    world.client.session.begin_anew()
    world.collect()
    assert world.client.unsent.retry() == 0
    assert list(world.copies().values()) == [world.wanted]


def test_a_client_that_was_unmounted(world: World) -> None:
    """Goal: S4. What could not be sent is the next client's to send, or to keep."""
    world.fail_to_close()
    world.client.unmount()
    world.replace()
    world.client.start()
    assert list(world.copies().values()) == [world.wanted]


def test_a_client_that_is_killed_again(world: World) -> None:
    """Goal: what the next client has taken over it leaves to the one after it, wherever it is killed."""
    world.fail_to_close()
    first = world.client.session.id
    with silence(world.servers):
        world.client.kill()
    second = world.client.session.id
    world.replace()
    with silence(world.servers):
        # Killed before it has noted that it took over.
        home.write_sessions(world.client.home, [first, second])
        world.client.kill()
    assert world.copies() == {}
    assert world.client.unsent.retry() == 0
    assert list(world.copies().values()) == [world.wanted]


@pytest.mark.parametrize("killed", [True, False])
def test_a_file_that_another_client_removes(world: World, killed: bool) -> None:
    """Goal: S4. The file lives on for its base alone: what was not sent becomes a copy, and is not committed to what
    nobody can reach."""
    world.fail_to_close()
    world.other.files.remove((1, (b"f.txt",)), False)
    world.collect()
    if killed:
        world.client.kill()
    assert world.client.unsent.retry() == 0
    assert list(world.copies().values()) == [world.wanted]


def test_what_was_sent_after_all_needs_no_base(world: World) -> None:
    """Goal: the usual case: nobody else has committed, the next client sends it as the next version, and lets go."""
    world.fail_to_close()
    world.client.kill()
    assert world.other.read("/f.txt") == world.wanted
    assert world.copies() == {}


def test_what_was_not_changed_needs_no_base(world: World) -> None:
    """Goal: a file that was open for writing, and was not written, leaves nothing behind."""
    world.client.put(world.handle, BASE[:7])
    world.client.kill()
    assert world.copies() == {}
