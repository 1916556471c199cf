"""What the directory answers to fsync(): is a content still in its file, and on the disks of enough servers?"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_servers import Servers
from test_directory_upkeep import commit
from volumes import ENGINES, Volume, piece, volume_on

from dfsfuse import errors, messages
from dfsfuse.chunks import chunk_name
from dfsfuse.messages import Attributes, Durable, Manifest
from servers import durability, undurable


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def servers(volume: Volume) -> Servers:
    return Servers(volume)


def answer(servers: Servers, content: Attributes, synced: str = "ABC") -> str:
    """How it is answered when these servers have just synced: without looking at chunks, or by each of them."""
    for name in synced:
        servers.of[name].sync()
    request = Durable(ino=content.ino, version=content.version, commit_id=content.commit_id, synced=list(synced))
    try:
        found, how = servers.volume.look(durability.known, request), "at once"
        if found is None:
            found, how = servers.volume.look(durability.check, request), "by chunks"
        servers.volume.store.transact(lambda tx: durability.note(tx, content.ino, found))
        return how
    except errors.DfsError as error:
        return error.code


def power_cut(servers: Servers, names: str = "ABC") -> None:
    """They have started again, and the directory has heard of it."""
    for name in names:
        servers.of[name].start(power_cut=True)
        servers.register(name)


# -- the disks of file servers


def test_two_disks_are_enough(servers: Servers) -> None:
    """Goal: S10: a content is on disks when two servers that have all of it have synced."""
    ino = servers.volume.make("f").ino
    content = commit(servers, ino, b"one")
    told = {synced: answer(servers, content, synced) for synced in ("", "A", "AB", "BC", "ABC")}
    few = "not_enough_copies"
    assert told == {"": few, "A": few, "AB": "at once", "BC": "at once", "ABC": "at once"}


@pytest.mark.parametrize("synced", [True, False])
def test_after_a_power_cut_of_all_nobody_is_believed(servers: Servers, synced: bool) -> None:
    """Goal: S10: servers that have started again are not known to have what they had not told to be on their disks,
    until they have looked; what nobody has then the file has lost."""
    ino = servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.settle()
    content = commit(servers, ino, b"two")
    if synced:
        for server in servers.of.values():
            server.sync()
    power_cut(servers)
    assert answer(servers, content) == "not_enough_copies"
    servers.settle()
    assert answer(servers, content) == ("at once" if synced else "lost")


def test_what_was_told_to_be_on_disks_stays_there(servers: Servers) -> None:
    """Goal: S9: who starts again is believed what it had told, before it has looked for anything else."""
    ino = servers.volume.make("f").ino
    content = commit(servers, ino, b"one")
    servers.beat()
    other = commit(servers, servers.volume.make("g").ino, b"two")
    power_cut(servers)
    assert (answer(servers, content), answer(servers, other)) == ("at once", "not_enough_copies")


def test_a_power_cut_of_one(servers: Servers) -> None:
    """Goal: S9, S10: one that has lost power does not count, and two others suffice."""
    content = commit(servers, servers.volume.make("f").ino, b"one")
    power_cut(servers, "A")
    assert (answer(servers, content, "AB"), answer(servers, content, "BC")) == ("not_enough_copies", "at once")
    servers.repair("A")
    assert answer(servers, content, "AB") == "at once"


def test_who_was_not_heard_yet(servers: Servers) -> None:
    """Goal: S10: a directory that has started does not know whether file servers have, too, until it hears them."""
    content = commit(servers, servers.volume.make("f").ino, b"one")
    servers.volume.restart()
    assert answer(servers, content) == "not_enough_copies"
    for name in "AB":
        servers.register(name)
    assert (answer(servers, content, "AC"), answer(servers, content, "AB")) == ("not_enough_copies", "at once")


def test_short_copies_do_not_count(servers: Servers) -> None:
    """Goal: S8, S10: a server that lacks a chunk has not brought it to its disk, whatever it syncs; of another file it
    has all."""
    whole = commit(servers, servers.volume.make("g").ino, b"two")
    content = commit(servers, servers.volume.make("f").ino, b"one", "BC")
    assert (answer(servers, content, "AB"), answer(servers, content, "BC")) == ("not_enough_copies", "at once")
    assert (answer(servers, whole, "AB"), answer(servers, whole, "BC")) == ("by chunks", "at once")
    servers.repair("A")
    assert answer(servers, content, "AB") == "at once"


def test_what_is_short_here_and_there(servers: Servers) -> None:
    """Goal: S10: each chunk is on the disks of two servers, though no two have all."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    commit(servers, ino, b"one", "AB")
    servers.beat()
    volume.now_s += 10
    servers.of["C"].up = False
    servers.beat()
    volume.core.settle(volume.now_s)
    servers.of["C"].up = True
    both = Manifest([[piece(b"one"), piece(b"two", offset=3)]])
    content = volume.commit(ino, size=6, manifest=both, receipts=[servers.store(b"two", "BC")])
    assert answer(servers, content, "BC") == "not_enough_copies"
    servers.repair("C")
    assert answer(servers, content, "BC") == "at once"


def test_what_an_emptied_disk_has_not_got_back(servers: Servers) -> None:
    """Goal: S8, S10: of a new disk that counts which it is known to have."""
    content = commit(servers, servers.volume.make("f").ino, b"one")
    servers.settle()
    servers.of["A"].empty_disk()
    servers.register("A")
    assert (answer(servers, content, "AB"), answer(servers, content)) == ("not_enough_copies", "at once")
    servers.repair("A")
    assert answer(servers, content, "AB") == "at once"


def test_what_has_no_content(servers: Servers) -> None:
    """Goal: an empty file is on no file server's disk, whether it was written before or not."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    assert answer(servers, volume.at("f"), "") == "at once"
    commit(servers, ino, b"one")
    assert answer(servers, volume.commit(ino, b""), "") == "at once"


# -- what the file has had


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_a_content_that_was_replaced(servers: Servers, count: int) -> None:
    """Goal: a content that somebody has open is known to have been the file's, however many came after it; what has
    replaced it must be on disks."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    content = commit(servers, ino, b"mine")
    session = volume.begin()
    volume.open(ino, session, opening=1)
    for number in range(count):
        commit(servers, ino, b"%d" % number)
    assert (answer(servers, content, "A"), answer(servers, content, "AB")) == ("not_enough_copies", "at once")
    volume.close(session, ino, content.version)


def test_a_content_that_was_never_there(servers: Servers) -> None:
    """Goal: S10: a number alone tells nothing: after a power cut of the directory it is that of another content."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    content = commit(servers, ino, b"one")
    session = volume.begin()
    volume.open(ino, session, opening=1)
    lost = messages.Attributes(**{**_fields(content), "commit_id": bytes(16)})
    assert answer(servers, lost) == "lost"
    for number in range(20):
        commit(servers, ino, b"%d" % number)
    assert (answer(servers, lost), answer(servers, content)) == ("lost", "at once")
    volume.close(session, ino, content.version)


def _fields(content: Attributes) -> dict[str, object]:
    return {name: getattr(content, name) for name in content.__struct_fields__}


def test_contents_from_which_the_file_has_gone_back(servers: Servers) -> None:
    """Goal: S10: where chunks are lost the file goes back: what was committed since is not in it, though somebody has
    it open, and what it has gone back to is."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    session, contents = volume.begin(), []
    for number, data in enumerate((b"one", b"two", b"three"), 1):
        contents.append(commit(servers, ino, data))
        volume.open(ino, session, opening=number)
        if data == b"one":
            servers.settle()
    power_cut(servers)
    servers.settle()
    assert volume.open(ino).manifest.entries[0][0].chunk == chunk_name(b"one")
    assert [answer(servers, content) for content in contents] == ["by chunks", "lost", "lost"]
    for number, content in enumerate(contents, 1):
        volume.close(session, ino, content.version, number)


def test_a_file_that_is_gone(servers: Servers) -> None:
    """Goal: S10: of a file that is not there nothing is safe."""
    content = commit(servers, servers.volume.make("f").ino, b"one")
    servers.volume.remove("f")
    assert answer(servers, content) == "stale"


# -- what comes after an fsync


def follows(servers: Servers, ino: int, data: bytes, after_ns: int = 0) -> Attributes:
    """Committed so soon after the content before, without fsync."""
    volume = servers.volume
    volume.now_ns += after_ns
    request = volume.commit_request(ino, data, receipts=[servers.store(data)])
    return volume.core.commit(request, volume.now_ns, volume.now_s)


def test_what_was_fsynced_later_is_not_undone(servers: Servers) -> None:
    """Goal: S10: what comes a moment after an fsync does not take its content along, though that was committed without
    one."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.settle()
    fsynced = follows(servers, ino, b"fsynced")
    assert answer(servers, fsynced) == "at once"
    for data in (b"after", b"long after"):
        follows(servers, ino, data)
    power_cut(servers)
    servers.settle()
    assert volume.open(ino).manifest.entries[0][0].chunk == chunk_name(b"fsynced")


@pytest.mark.parametrize("turns", [7, 8, 9, 30])
def test_the_latest_fsync_counts_however_much_follows(servers: Servers, turns: int) -> None:
    """Goal: S10: a file of which much is kept, as it is committed all the time while servers are late, keeps what was
    fsynced last."""
    volume, ino = servers.volume, servers.volume.make("f").ino
    commit(servers, ino, b"one")
    servers.settle()
    for number in range(turns):
        fsynced = follows(servers, ino, b"fsynced %d" % number, undurable.ROUND_NS)
        assert answer(servers, fsynced) == "at once"
        follows(servers, ino, b"after %d" % number)
    for number in range(undurable.BETWEEN_MAX):
        follows(servers, ino, b"long after %d" % number, undurable.ROUND_NS)
    power_cut(servers)
    servers.settle()
    assert volume.open(ino).manifest.entries[0][0].chunk == chunk_name(b"fsynced %d" % (turns - 1))
