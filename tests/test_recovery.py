"""What a killed client left: sent, kept as a copy, or forgotten; never lost, and never over what it was not based
on."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Servers, uploaded
from volumes import Volume

from dfsfuse import errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.content import Content
from dfsfuse.openings import Version
from dfsfuse.recovery import Recovery
from dfsfuse.unsent import Unsent
from servers.store.memory import MemoryStore


class TakenUp:
    """Stands in for the list of what is retried."""

    def __init__(self):
        self.contents: list[Content] = []

    def add(self, content: Content) -> None:
        self.contents.append(content)


class World:
    def __init__(self, folder: Path):
        self.volume, self.servers = Volume(MemoryStore()), Servers()
        self.client = Client(self.volume, self.servers, folder / "client")
        self.client.session.report_unsent = lambda files: None

    def killed_and_recovered(self) -> list[Content]:
        """What the next client takes up to send or to keep."""
        self.client.kill()
        taken = TakenUp()
        Recovery(self.client.session, self.client.cache, self.servers, taken, self.newest).run()
        return taken.contents

    def newest(self, ino: int) -> Version:
        opened = self.volume.open(ino)
        return Version(opened.attributes, *self.client.expanded(opened), 0, False, 0.0)

    def bytes_of(self, content: Content) -> bytes:
        return Path(content.path).read_bytes()

    def rows(self) -> set[int]:
        return self.client.cache.index.all_rows()


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_what_was_closed_and_not_sent_is_taken_up_as_promised(world):
    """Goal: S15: close() reached the commit, the client died, and the next one sends the content."""
    file = world.client.create("f")
    world.client.write(file, b"closed", 0)
    world.client.session.lose_request = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)
    (content,) = world.killed_and_recovered()
    assert content.promised
    assert world.bytes_of(content) == b"closed"
    assert world.client.cache.current(content.ino) is content


def test_what_was_half_written_is_taken_up_as_a_copy(world):
    """Goal: what no close() promised is never committed over the file, and never shown under its name."""
    file = world.client.create("f")
    world.client.write(file, b"half", 0)
    (content,) = world.killed_and_recovered()
    assert not content.promised
    assert world.client.cache.current(content.ino) is None


def test_a_commit_that_has_happened_leaves_nothing_to_do(world):
    """Goal: the reply was lost with the client; nothing is sent again and no copy is made."""
    file = world.client.create("f")
    world.client.write(file, b"sent", 0)
    world.client.session.lose_reply = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)
    assert world.killed_and_recovered() == []
    assert uploaded(world.volume, world.servers, "f") == b"sent"
    assert world.rows() == set()


def test_what_was_closed_after_a_commit_in_doubt_is_not_lost(world):
    """Goal: the first commit has happened unheard, a second close() failed, the client died: the second content is
    still there to be sent or kept."""
    file = world.client.create("f")
    world.client.write(file, b"first", 0)
    world.client.session.lose_reply = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)
    world.client.write(file, b"SECOND", 0)
    world.client.session.lose_request = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)
    (content,) = world.killed_and_recovered()
    assert world.bytes_of(content) == b"SECOND"


def test_what_was_written_during_an_upload_is_not_lost(world):
    """Goal: bytes that a program wrote while a commit was under way are kept when the client dies after it."""
    file = world.client.create("f")
    world.client.write(file, b"x" * 100_000, 0)

    def write_late() -> None:
        world.servers.before_store = lambda: None
        world.client.write(file, b"LATE", 0)

    world.servers.before_store = write_late
    world.client.commit(file)
    assert uploaded(world.volume, world.servers, "f")[:4] == b"xxxx"
    (content,) = world.killed_and_recovered()
    assert world.bytes_of(content)[:4] == b"LATE"


def test_what_was_written_during_an_unanswered_upload_is_not_lost(world):
    """Goal: the same when the commit's reply was lost as well."""
    file = world.client.create("f")
    world.client.write(file, b"x" * 100_000, 0)

    def write_late() -> None:
        world.servers.before_store = lambda: None
        world.client.write(file, b"LATE", 0)

    world.servers.before_store = write_late
    world.client.session.lose_reply = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)
    (content,) = world.killed_and_recovered()
    assert world.bytes_of(content)[:4] == b"LATE"


def test_a_patched_file_that_was_only_opened_is_forgotten(world):
    """Goal: an entry of several pieces is compared byte by byte, so nothing written means nothing kept."""
    file = world.client.create("f")
    world.client.write(file, b"x" * 3_000_000, 0)
    world.client.commit(file)
    world.client.write(file, b"y", 500_000)
    world.client.commit(file)
    world.client.close(file, write=True)
    world.client.cache.maintain()
    world.client.open("f", write=True)
    assert world.killed_and_recovered() == []


def test_a_second_commit_in_doubt_is_settled_with_the_lock_of_now(world):
    """Goal: a commit that did not happen is tried again under the token that is held now, not the one of then."""
    file = world.client.create("f")
    world.client.write(file, b"first", 0)
    world.client.session.lose_request = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)
    world.volume.open(file.ino, token=2)
    file.token = 2
    world.client.commit(file)
    assert uploaded(world.volume, world.servers, "f") == b"first"


class Keeping:
    """Stands in for the copies: fails once, then keeps."""

    def __init__(self):
        self.kept: list[str] = []
        self.down = True

    def keep(self, content: Content, kind: str, why=None) -> None:
        if self.down:
            self.down = False
            raise errors.Unreachable("no lock service yet")
        content.give_up()
        self.kept.append(kind)


def test_a_copy_that_could_not_be_made_is_tried_again_as_a_copy(world):
    """Goal: half-written content is never committed onto the file, also when the servers came up late."""
    file = world.client.create("f")
    world.client.write(file, b"old", 0)
    world.client.commit(file)
    world.client.close(file, write=True)
    world.client.cache.maintain()
    world.client.write(world.client.open("f", write=True), b"HALF", 0)
    world.client.kill()
    copies = Keeping()
    unsent = Unsent(world.client.session, None, world.client.cache, None, copies)
    Recovery(world.client.session, world.client.cache, world.servers, unsent, world.newest).run()
    assert unsent.retry() == 1
    assert unsent.retry() == 0
    assert copies.kept == ["recovered"]
    assert uploaded(world.volume, world.servers, "f") == b"old"


def test_what_cannot_be_compared_is_sent(world):
    """Goal: recovery that cannot ask the servers takes up everything that is here, never a part of it."""
    file = world.client.create("f")
    world.client.write(file, b"a" * (9 << 20), 0)
    world.client.commit(file)
    world.client.write(file, b"p", 100)
    world.client.commit(file)
    world.client.write(file, b"X", (4 << 20) + 5)
    world.client.write(file, b"Y", (8 << 20) + 5)
    world.client.session.lose_request = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)

    def unreachable(name: bytes) -> bytes:
        raise errors.Unreachable("no file server yet")

    world.servers.download = unreachable
    (content,) = world.killed_and_recovered()
    assert content.promised
    world.client.cache.use(content)
    world.client.commit(content)
    assert uploaded(world.volume, world.servers, "f") == world.bytes_of(content)


def test_what_is_written_as_a_commit_begins_is_not_lost(world, monkeypatch):
    """Goal: a write between the moment at which a commit takes what is dirty and the one at which the index hears of
    it is part of that commit, or is still there after a crash."""
    file = world.client.create("f")
    world.client.write(file, b"first", 0)
    index = world.client.cache.index
    set_pending = index.set_pending

    def write_around(content: Content, commit_id: bytes) -> None:
        monkeypatch.setattr(index, "set_pending", set_pending)
        world.client.write(file, b"early", 0)
        set_pending(content, commit_id)

    monkeypatch.setattr(index, "set_pending", write_around)
    world.client.session.lose_reply = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)
    left = world.killed_and_recovered()
    assert left or uploaded(world.volume, world.servers, "f") == b"early"


def test_after_a_power_cut_nothing_unsent_becomes_the_newest_version(world):
    """Goal: pages that were never synced may be zeros: what was unsent is kept as a copy, not committed."""
    file = world.client.create("f")
    world.client.write(file, b"closed", 0)
    world.client.session.lose_request = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(file)
    world.client.cache.index._run("UPDATE contents SET boot = 'another'", ())
    (content,) = world.killed_and_recovered()
    assert not content.promised


def while_a_row_is_made(world: World, monkeypatch: pytest.MonkeyPatch, write: Callable, meanwhile: Callable) -> None:
    """`meanwhile` comes while the thread that does `write` has what it will put into the index, and has not put it."""
    index = world.client.cache.index
    values, made, go_on = index._values, threading.Event(), threading.Event()
    slow = threading.Thread(target=write)

    def values_of(*arguments: Any) -> tuple:
        found = values(*arguments)
        if threading.current_thread() is slow:
            made.set()
            assert go_on.wait(10)
        return found

    monkeypatch.setattr(index, "_values", values_of)
    slow.start()
    assert made.wait(10)
    quick = threading.Thread(target=meanwhile)
    quick.start()
    quick.join(0.2)
    go_on.set()
    for thread in (slow, quick):
        thread.join(10)


def test_an_older_row_is_never_put_over_a_newer_one(world, monkeypatch):
    """Goal: two threads write to one file; whichever of them the index hears last, a crash finds both."""
    maker = Client(world.volume, world.servers, world.client.home.with_name("maker"))
    maker.write(made := maker.create("f"), b"a" * (2 * ENTRY_BYTES), 0)
    maker.commit(made)
    file = world.client.open("f", write=True)
    while_a_row_is_made(
        world,
        monkeypatch,
        lambda: world.client.write(file, b"1" * ENTRY_BYTES, 0),
        lambda: world.client.write(file, b"2" * ENTRY_BYTES, ENTRY_BYTES),
    )
    (content,) = world.killed_and_recovered()
    assert list(content.dirty) == [(0, 2 * ENTRY_BYTES)]


def test_what_was_closed_stays_closed(world, monkeypatch):
    """Goal: a write that the index hears of during a close() does not turn what was promised into half written."""
    file = world.client.create("f")
    world.client.write(file, b"first", 0)
    world.client.commit(file)
    world.client.session.lose_request = True

    def close() -> None:
        with pytest.raises(errors.TimedOut):
            world.client.commit(file)

    while_a_row_is_made(world, monkeypatch, lambda: world.client.write(file, b"second", 0), close)
    (content,) = world.killed_and_recovered()
    assert content.promised


def patched_through_the_kernel(world: World) -> Content:
    """A file with an entry of several pieces, opened for writing by whom the index does not see write."""
    file = world.client.create("f")
    world.client.write(file, b"x" * 3_000_000, 0)
    world.client.commit(file)
    file.unseen.passes = True
    world.client.cache.mark_open(file)
    world.client.write(file, b"y", 500_000)
    return file


def gone(name: bytes) -> bytes:
    raise errors.ChunkGone(f"chunk {name.hex()} is not here")


def test_a_file_that_was_removed_after_its_commit_is_forgotten(world):
    """Goal: S15: the commit has happened, then the file lost its name: nobody has its chunks to compare with, and no
    copy of it comes back."""
    file = patched_through_the_kernel(world)
    world.client.commit(file)
    world.volume.remove("f")
    world.servers.download = gone
    assert world.killed_and_recovered() == []
    assert world.rows() == set()


def test_what_the_kernel_wrote_and_all_have_closed_is_known_as_sent_at_once(world):
    """Goal: S15: nobody can write to it any more, so the next client has nothing to compare, whatever becomes of the
    file before the index would be told in its turn."""
    file = patched_through_the_kernel(world)
    world.client.commit(file)
    world.client.cache.mark_open(file)
    world.client.close(file, write=True)
    world.volume.remove("f")
    world.servers.download = gone
    assert world.killed_and_recovered() == []
