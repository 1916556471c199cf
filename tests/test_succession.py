"""What content is based on that was not sent: kept for the client that has it, and for the next one of its cache,
whatever others commit meanwhile and however thoroughly garbage is collected."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from partly_cached import BASE, World, silence
from support import wait_until

from dfsfuse import home


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    assert made.client.unsent.count() == 0
    wait_until(lambda: nothing_is_kept(made), "nothing is kept for longer")
    made.volume.check()


def nothing_is_kept(world: World) -> bool:
    """What a program has read goes on coming for a moment, in the background."""
    world.client.session.renew()
    world.other.session.renew()
    return world.volume.store.read(lambda tx: tx.range(b"o", b"p", 10)) == []


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


def test_sessions_that_cannot_be_written(tmp_path: Path) -> None:
    """Goal: what is to be taken over stays known where the next list is written by half, by a kill or a full disk."""
    home.write_sessions(tmp_path, [11, 12])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            home.write_sessions(tmp_path, [12])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert home.sessions_in(tmp_path) == [11, 12]


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
