"""Clients that are gone: the directory keeps the versions that their unsent content is based on, until they are back or
long enough."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from volumes import ENGINES, Volume, volume_on

from dfsfuse import errors, messages
from dfsfuse.chunks import chunk_name
from dfsfuse.messages import Base, End, Renew, TakenOver, TakeOver
from servers import references
from servers.attendance import COUNT_EVERY_S, KEPT_S, OPEN_ROWS_S, PROMISE_LEASE_S

DIRECTORY = messages.Server(kind="directory", name="directory", url="http://directory")


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        yield made


def is_kept(volume: Volume, data: bytes) -> bool:
    """Does anything need the chunk, once what replaced it is on the disks?"""
    while volume.core.settle(volume.now_s):
        continue
    return volume.store.read(lambda tx: references.is_held(tx, references.ONLY_GROUP, chunk_name(data)))


def written(volume: Volume, session: int, name: str = "f", token: int = 1) -> int:
    """A file that the session has open for writing, at the version with the content b"base"."""
    ino = volume.make(name).ino
    volume.commit(ino, b"base")
    volume.open(ino, session, token=token, opening=1)
    return ino


def is_silent_for(volume: Volume, seconds: float) -> None:
    """The directory runs on meanwhile, and other clients do not renew either."""
    end = volume.now_s + seconds
    while volume.now_s < end:
        volume.now_s = min(end, volume.now_s + COUNT_EVERY_S)
        volume.core.attendance.end_lapsed(volume.now_s)


def go(volume: Volume) -> None:
    is_silent_for(volume, PROMISE_LEASE_S + OPEN_ROWS_S + 1)


def take_over(volume: Volume, session: int, former: int, *inos: int) -> TakenOver:
    request = TakeOver(session=session, formers=[former], bases=[Base(ino, 1) for ino in inos], opening=9)
    return volume.core.attendance.take_over(request)


def row_of(volume: Volume, session: int) -> messages.SessionRow | None:
    rows = volume.core.status(DIRECTORY, volume.now_s).sessions
    return next((row for row in rows if row.session == session), None)


def test_what_a_gone_client_had_open_for_writing_is_kept(volume: Volume) -> None:
    """Goal: S15. The version that unsent content is based on outlives the session of a killed client, and restarts of
    the directory, though others have replaced it; what the client only read does not."""
    session = volume.begin()
    ino = written(volume, session)
    read = volume.make("read").ino
    volume.commit(read, b"read")
    volume.open(read, session, opening=2)
    volume.commit(ino, b"replaced by another client", token=2)
    volume.commit(read, b"replaced too")
    go(volume)
    for _ in range(2):
        assert (is_kept(volume, b"base"), is_kept(volume, b"read")) == (True, False)
        row = row_of(volume, session)
        assert (row.gone, row.live, row.kept_files) == (True, False, 1)
        assert 0 < row.kept_s <= KEPT_S
        volume.check()
        volume.restart()


def test_a_gone_session_is_refused(volume: Volume) -> None:
    """Goal: who comes back finds its session ended, and begins a new one; no lock service waits for it."""
    session = volume.begin()
    ino = written(volume, session)
    go(volume)
    for _ in range(2):
        with pytest.raises(errors.SessionEnded):
            volume.core.renew(Renew(session=session), volume.now_s)
        with pytest.raises(errors.SessionEnded):
            volume.open(ino, session, opening=3)
        with pytest.raises(errors.SessionEnded):
            volume.change(messages.Create(names=[b"x"], ino=0, mode=33188, session=session, slot=1, sequence=1))
        start = messages.Register(server=volume.heartbeat("locks", "locks").server, start=True)
        assert volume.core.register(start, volume.now_s).sessions == []
        volume.restart()


def test_the_next_session_takes_over(volume: Volume) -> None:
    """Goal: S15. The next client of the cache has the rows that it names, be the former session silent or gone; nothing
    else of that is left, and with the last close the version goes."""
    for wait in (lambda: None, lambda: go(volume)):
        former = volume.begin()
        ino, other = written(volume, former, "f"), written(volume, former, "other")
        volume.commit(ino, b"replaced by another client", token=2)
        volume.commit(other, b"replaced by another client", token=2)
        wait()
        session = volume.begin()
        for _ in range(2):
            assert take_over(volume, session, former, ino).rows == [messages.Closed(ino, 1, 9)]
        assert row_of(volume, former) is None
        assert is_kept(volume, b"base")
        volume.close(session, ino, version=1, opening=9)
        assert not is_kept(volume, b"base")
        volume.check()
        for name in ("f", "other"):
            volume.remove(name)
        volume.core.end(End(session))


def test_what_is_taken_over_is_kept_for_the_next_but_one(volume: Volume) -> None:
    """Goal: the client that took over is killed too, before it could send anything."""
    first, second = volume.begin(), volume.begin()
    ino = written(volume, first)
    volume.commit(ino, b"replaced by another client", token=2)
    take_over(volume, second, first, ino)
    go(volume)
    assert is_kept(volume, b"base")
    assert row_of(volume, second).gone
    assert take_over(volume, volume.begin(), second, ino).rows == [messages.Closed(ino, 1, 9)]


def test_what_a_commit_in_doubt_has_made_is_taken_over_too(volume: Volume) -> None:
    """Goal: a commit has happened and its client never heard of it: what the cache has is based on the version before,
    of which it lacks what the newer one has as well."""
    former = volume.begin()
    ino = written(volume, former)
    volume.commit(ino, b"unheard", session=former, slot=1, sequence=1, token=1, opening=2)
    volume.commit(ino, b"replaced by another client", token=2)
    assert take_over(volume, volume.begin(), former, ino).rows == [messages.Closed(ino, 2, 9)]
    assert is_kept(volume, b"unheard")


def test_the_newest_version_needs_no_former_session(volume: Volume) -> None:
    """Goal: a directory that knows none of the client's sessions, as after a load, keeps the bases that there are."""
    session = volume.begin()
    ino, gone = written(volume, 0), written(volume, 0, "gone")
    volume.commit(gone, b"replaced by another client", token=2)
    assert take_over(volume, session, 12345, ino, gone).rows == [messages.Closed(ino, 1, 9)]
    volume.commit(ino, b"replaced by another client", token=2)
    go(volume)
    assert is_kept(volume, b"base")
    itself = volume.begin()
    with pytest.raises(errors.BadRequest):
        take_over(volume, itself, itself, ino)


def test_a_client_that_ends_with_unsent_content(volume: Volume) -> None:
    """Goal: an unmount keeps for the next mount what could not be sent, and what that is based on."""
    session = volume.begin()
    ino = written(volume, session)
    volume.commit(ino, b"replaced by another client", token=2)
    volume.core.end(End(session, keeps=True))
    assert (is_kept(volume, b"base"), row_of(volume, session).gone) == (True, True)
    volume.core.end(End(session))
    assert (is_kept(volume, b"base"), row_of(volume, session)) == (False, None)


def test_a_client_that_does_not_come_back_is_not_waited_for_for_ever(volume: Volume) -> None:
    """Goal: after KEPT_S, in which the directory ran, what was kept is garbage; restarts and sleep count nothing."""
    session = volume.begin()
    ino = written(volume, session)
    volume.commit(ino, b"replaced by another client", token=2)
    go(volume)
    is_silent_for(volume, KEPT_S / 2)
    volume.restart()
    volume.now_s += 10 * KEPT_S
    is_silent_for(volume, KEPT_S / 2 - 10 * COUNT_EVERY_S)
    assert is_kept(volume, b"base")
    assert row_of(volume, session).kept_s <= 12 * COUNT_EVERY_S
    is_silent_for(volume, 12 * COUNT_EVERY_S)
    assert (is_kept(volume, b"base"), row_of(volume, session)) == (False, None)
    volume.check()


def test_what_a_commit_has_made_is_the_next_base(volume: Volume) -> None:
    """Goal: a client that has committed, writes on and is killed needs the version that it has made, and no other."""
    session = volume.begin()
    ino = written(volume, session)
    volume.commit(ino, b"second", session=session, slot=1, sequence=1, token=1, opening=2)
    volume.commit(ino, b"replaced by another client", token=2)
    go(volume)
    assert (is_kept(volume, b"base"), is_kept(volume, b"second")) == (False, True)


def test_a_new_file_needs_no_base(volume: Volume) -> None:
    """Goal: of a file that nobody has committed yet nothing is kept when its client is gone."""
    session = volume.begin()
    request = messages.Create(names=[b"f"], ino=0, mode=33188, token=1, opening=1, session=session, slot=1, sequence=1)
    ino = volume.change(request).attributes.ino
    volume.remove("f")
    assert volume.ask(messages.Lookup(ino)).nlink == 0
    go(volume)
    assert row_of(volume, session) is None
    with pytest.raises(errors.Stale):
        volume.ask(messages.Lookup(ino))


@pytest.mark.parametrize("how", ["unlinked", "replaced", "never named"])
def test_a_file_without_a_name_goes_with_its_client(volume: Volume, how: str) -> None:
    """Goal: S11. What the client has unlinked or replaced itself, or has made without a name, is gone when its session
    has ended, as on a local disk."""
    session = volume.begin()
    change = {"session": session, "slot": 1, "sequence": 1}
    if how == "never named":
        ino = volume.make_unnamed(session, token=1).ino
        volume.commit(ino, b"base", **change, opening=2, token=1)
    else:
        ino = written(volume, session)
    if how == "unlinked":
        volume.change(messages.Remove(names=[b"f"], **change))
    elif how == "replaced":
        volume.make("new")
        volume.change(messages.Rename(names=[b"new"], new_names=[b"f"], **change))
    assert is_kept(volume, b"base")
    go(volume)
    assert (is_kept(volume, b"base"), row_of(volume, session)) == (False, None)
    with pytest.raises(errors.Stale):
        volume.ask(messages.Lookup(ino))
    volume.check()


def test_a_file_that_another_client_has_removed_is_kept(volume: Volume) -> None:
    """Goal: S4. Content that is based on it becomes a copy, for which the version is needed."""
    session = volume.begin()
    ino = written(volume, session)
    volume.remove("f")
    go(volume)
    assert is_kept(volume, b"base")
    assert volume.ask(messages.Lookup(ino)).nlink == 0
    volume.core.end(End(session))
    assert not is_kept(volume, b"base")
    volume.check()
