"""Copies of content of whose base a part is lost: made of what there is, once, and it is told what they lack."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from partly_cached import BASE, World

from dfsfuse import cache_index, gaps
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from dfsfuse.commits import Committer
from dfsfuse.messages import End, LostFile, Server
from dfsfuse.recovery import Recovery

GAP = ENTRY_BYTES, 2 * ENTRY_BYTES
TOLD = f"; bytes {GAP[0]} to {GAP[1] - 1} are zeros in it, as no file server has what was there any more"
WITH_A_GAP = b"CHANGED" + BASE[7 : GAP[0]] + bytes(ENTRY_BYTES) + BASE[GAP[1] :]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    assert made.client.unsent.count() == 0
    made.volume.check()


def entry(number: int) -> bytes:
    return BASE[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES]


def lose(world: World, number: int = 1) -> None:
    """All servers lose the chunk of one entry at once."""
    del world.servers.chunks[chunk_name(entry(number))]


def lost_files(world: World) -> list[LostFile]:
    directory = Server(kind="directory", name="directory", url="")
    return world.volume.core.status(directory, world.volume.now_s).lost_files


def test_a_copy_with_a_gap(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: S4, S15. What is lost is zeros in the copy, and the log, `dfs status` and the list of lost files name the
    ranges; the rest is whole, and nothing is tried again."""
    world.fail_to_close()
    world.replace()
    lose(world)
    assert world.client.unsent.retry() == 0
    ((name, content),) = world.copies().items()
    assert content == WITH_A_GAP
    assert caplog.messages[-1].endswith(f"kept as /{name}{TOLD}")
    (copy,) = cache_index.copies_in(world.client.home / "index.db")
    assert (copy.path.decode(), copy.gaps) == (f"/{name}", [GAP])
    (lost,) = lost_files(world)
    assert (lost.path, lost.reverted, lost.gaps) == (copy.path, False, [GAP])
    world.volume.restart()
    assert lost_files(world) == [lost]
    world.other.files.remove((1, (name.encode(),)), False)
    world.client.session.renew()
    world.other.session.renew()
    assert lost_files(world) == []


def test_a_client_that_was_waited_for_in_vain(world: World) -> None:
    """Goal: S15. A client that comes back after what was kept for it has gone has a copy of what was in its cache, and
    is told what it lacks."""
    world.fail_to_close()
    world.go()
    world.volume.core.end(End(world.client.session.id))
    world.replace()
    world.client.kill()
    assert list(world.copies().values()) == [WITH_A_GAP[: GAP[0]] + bytes(2 * ENTRY_BYTES)]
    (lost,) = lost_files(world)
    assert lost.gaps == [(ENTRY_BYTES, 3 * ENTRY_BYTES)]


def test_mount_tells_of_a_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S15. What the next client tells of the copies that it has made says what they lack."""
    made: list[Recovery] = []
    run = Recovery.run
    monkeypatch.setattr(Recovery, "run", lambda self: made.append(self) or run(self))
    world.replace()
    lose(world)
    world.client.kill()
    (line,) = made[0].outcome(0.0)
    assert line.startswith("/f.txt: a client was killed before it was closed; kept as /f (recovered ")
    assert line.endswith(TOLD)


def test_a_gap_is_told_whoever_finishes_the_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the client that makes the copy is killed when the content has become the copy's: the next one finishes it,
    and knows that its zeros are none."""
    world.fail_to_close()
    world.replace()
    lose(world)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Committer, "commit", killed)
        with pytest.raises(Killed):
            world.client.unsent.retry()
    world.client.kill()
    assert list(world.copies().values()) == [WITH_A_GAP]
    (lost,) = lost_files(world)
    assert lost.gaps == [GAP]


def test_what_a_killed_client_had_fetched_counts(world: World) -> None:
    """Goal: bytes that are in the cache though its index does not say so, and are what they should be, are no gap."""
    fd = os.open(world.handle.content.path, os.O_WRONLY)
    os.pwrite(fd, entry(1), ENTRY_BYTES)
    os.pwrite(fd, b"something else", 2 * ENTRY_BYTES)
    os.close(fd)
    world.replace()
    for number in (1, 2):
        lose(world, number)
    world.client.kill()
    assert list(world.copies().values()) == [world.wanted[: 2 * ENTRY_BYTES] + bytes(ENTRY_BYTES)]
    (lost,) = lost_files(world)
    assert lost.gaps == [(2 * ENTRY_BYTES, 3 * ENTRY_BYTES)]


def test_the_other_pieces_of_an_entry(tmp_path: Path) -> None:
    """Goal: of an entry of several pieces what other chunks have is there."""
    world = World(tmp_path)
    world.client.close(world.handle)
    patched = world.other.open("/f.txt", os.O_RDWR)
    world.other.put(patched, b"p" * 70_000, ENTRY_BYTES)
    world.other.close(patched)
    world.client.put(again := world.client.open("/f.txt", os.O_RDWR), b"AGAIN", 0)
    world.client.close(again)
    world.handle = world.client.open("/f.txt", os.O_RDWR)
    world.client.put(world.handle, b"ONCE MORE", 0)
    world.replace()
    lose(world)
    world.client.kill()
    ((_, content),) = world.copies().items()
    (lost,) = lost_files(world)
    ((start, end),) = lost.gaps
    assert ENTRY_BYTES + 70_000 <= start < ENTRY_BYTES + 200_000
    assert end == 2 * ENTRY_BYTES
    assert content == b"ONCE MORE" + BASE[9:ENTRY_BYTES] + b"p" * 70_000 + BASE[ENTRY_BYTES + 70_000 : start] + bytes(
        end - start
    ) + entry(2)


def test_many_gaps_are_told_shortly():
    """Goal: a manifest in pieces has no end of gaps: they are bounded for the wire, and fewer are named to people."""
    many = [(10 * number, 10 * number + 5) for number in range(5000)]
    merged = gaps.merged([*many, (5, 10)])
    assert merged[0] == (0, 15)
    assert len(merged) == gaps.GAPS_MAX
    assert merged[-1][1] == many[-1][1]
    assert gaps.as_text(merged) == (
        "; bytes 0 to 14, 20 to 24, 30 to 34, 40 to 44, 50 to 54, 995 ranges more, the last up to byte 49994 are zeros "
        "in it, as no file server has what was there any more"
    )
    assert gaps.as_text([]) == ""
