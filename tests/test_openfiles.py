"""Open files of one client whose threads meet: what close() tells, which token a commit has, which rows are closed."""

import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from open_files import SILENT, OneClient, failed_to_close, place
from support import wait_until
from volumes import FILE

from dfsfuse import errors, messages, salvage

DEADLINE_S = 10.0


@pytest.fixture
def client(tmp_path: Path) -> OneClient:
    return OneClient(tmp_path)


class Pause:
    """A place at which a thread stops until it may go on."""

    def __init__(self):
        self._reached, self._go_on = threading.Event(), threading.Event()

    def before(self, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> "Pause":
        """Who calls `owner.name` stops first."""
        call = getattr(owner, name)

        def paused(*arguments: Any) -> Any:
            self.here()
            return call(*arguments)

        monkeypatch.setattr(owner, name, paused)
        return self

    def here(self) -> None:
        self._reached.set()
        assert self._go_on.wait(DEADLINE_S)

    def reached(self) -> None:
        assert self._reached.wait(DEADLINE_S)

    def go_on(self) -> None:
        self._go_on.set()


class Background:
    """`work()` in a thread; `outcome` is what it returned."""

    def __init__(self, work: Callable[[], Any]):
        self._outcome: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._outcome.append(work()), daemon=True)
        self._thread.start()

    def waits(self) -> bool:
        """It does not end by itself."""
        self._thread.join(0.2)
        return self._thread.is_alive()

    def outcome(self) -> Any:
        self._thread.join(DEADLINE_S)
        return self._outcome[0]


# -- what close() and fsync() tell


@pytest.mark.parametrize("durable", [False, True])
def test_close_waits_for_the_commit_that_has_its_bytes(client: OneClient, durable: bool) -> None:
    """Goal: S4: while another descriptor's commit carries what this one wrote, close() and fsync() do not say that it
    is on the servers; when that commit fails they have failed too."""
    one, two = client.create("f"), client.open("f")
    client.write(two, b"written through two")
    pause = Pause()

    def silent() -> None:
        pause.here()
        raise SILENT

    client.servers.before_store = silent
    first = Background(lambda: client.flush(one))
    pause.reached()
    second = Background(lambda: client.flush(two, durable))
    assert second.waits()
    pause.go_on()
    assert (first.outcome(), second.outcome()) == (SILENT, SILENT)
    assert client.volume.at("f").version == 0


def test_close_is_content_with_a_commit_that_has_its_bytes(client: OneClient) -> None:
    """Goal: when the other descriptor's commit succeeds, nothing is sent a second time."""
    one, two = client.create("f"), client.open("f")
    client.write(two, b"written through two")
    pause = Pause()
    client.servers.before_store = pause.here
    first = Background(lambda: client.flush(one))
    pause.reached()
    second = Background(lambda: client.flush(two))
    assert second.waits()
    pause.go_on()
    assert (first.outcome(), second.outcome()) == (None, None)
    assert client.volume.at("f").version == 1


def test_fsync_covers_what_was_committed_before(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S10: after a close() without fsync, the next fsync is for all chunks of the file, not for those alone that
    it sends; once they are on the disks nothing is asked for again."""
    asked: list[object] = []
    monkeypatch.setattr(client.servers, "sync_until", asked.append)
    handle = client.create("f", b"first")
    for data, more in ((b"second", 1), (b"third", 0)):
        asked.clear()
        client.write(handle, data)
        client.files.flush(handle, durable=True)
        assert len(asked) == more
    asked.clear()
    fresh, _ = client.files.create(place("g"), FILE, 0, 0, os.O_RDWR, 1)
    client.write(fresh, b"new")
    client.files.flush(fresh, durable=True)
    assert asked == [], "a new file has nothing but what was sent"


def test_stat_during_a_commit_is_that_of_the_content(client: OneClient) -> None:
    """Goal: what is being sent is not on the servers yet, so the content's own size and time count."""
    handle = client.create("f")
    client.write(handle, b"data")
    content, seen = handle.content, []
    content.writers = 0
    client.servers.before_store = lambda: seen.append((client.files.of_inode(content.ino), content.base()))
    client.files.flush(handle)
    assert seen == [(content, None)]
    content.writers = 1


def refused(client: OneClient) -> list:
    """Two handles of one content, on top of whose base another client has committed."""
    one = client.create("f", b"base")
    two = client.open("f")
    client.others_commit("f", b"others")
    client.write(one, b"mine")
    return [one, two]


def test_close_during_the_making_of_a_copy_gets_the_error(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S6: a descriptor whose close() comes while another's refused content is being kept fails as that does, and
    one copy is made."""
    one, two = refused(client)
    pause = Pause().before(salvage, "bring_all", monkeypatch)
    # Both have passed the look at what has failed before.
    first = Background(lambda: client.flush(one))
    pause.reached()
    second = Background(lambda: pytest.raises(errors.VersionConflict, client.files._commit, two, False))
    assert second.waits()
    pause.go_on()
    assert isinstance(first.outcome(), errors.VersionConflict)
    assert second.outcome().value is first.outcome()
    assert len(client.volume.paths()) == 2


def test_a_refused_content_is_kept_once(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: nobody else's commit is refused between one's refusal and the copy: one copy, not one for each close()."""
    one, two = refused(client)
    pause = Pause().before(client.copies, "keep", monkeypatch)
    first = Background(lambda: client.flush(one))
    pause.reached()
    second = Background(lambda: pytest.raises(errors.VersionConflict, client.files._commit, two, False))
    assert second.waits()
    pause.go_on()
    assert isinstance(first.outcome(), errors.VersionConflict)
    second.outcome()
    assert len(client.volume.paths()) == 2


def sizes(client: OneClient) -> tuple[int, int]:
    """(of the file, of the one copy beside it)"""
    (copy,) = {path for path in client.volume.paths() if path != "/f"}
    return client.volume.at("f").size, client.volume.at(copy).size


def test_an_open_that_truncates_spares_the_copy(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S6: what could not be sent becomes a copy while a program waits to cut it, as it opens the file with
    O_TRUNC: the program cuts the file's newest version, and the copy has what it was made for."""
    failed_to_close(client, "f", b"unsent")
    client.session.refusal = errors.LockLost("another client has opened the file")
    pause = Pause().before(client.copies, "keep", monkeypatch)
    retry = Background(client.unsent.retry)
    pause.reached()
    client.session.refusal = None
    opening = Background(lambda: client.open("f", os.O_RDWR | os.O_TRUNC))
    assert opening.waits()
    pause.go_on()
    assert retry.outcome() == 0
    assert client.close(opening.outcome()) is None
    assert client.unsent.retry() == 0
    assert sizes(client) == (0, len(b"unsent"))


def test_a_truncation_spares_the_copy(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S6: as above, for a descriptor that was open before: its file is the copy's by then, so it has failed."""
    one, two = refused(client)
    pause = Pause().before(client.copies, "keep", monkeypatch)
    first = Background(lambda: client.flush(one))
    pause.reached()
    second = Background(lambda: pytest.raises(errors.VersionConflict, client.files.resize, two, 0))
    assert second.waits()
    pause.go_on()
    assert second.outcome().value is first.outcome()
    assert client.unsent.retry() == 0
    assert sizes(client) == (len(b"others"), len(b"mine"))


@pytest.mark.parametrize("others", ["nothing", "make a file of that name", "remove it"])
def test_a_copy_whose_making_was_not_answered(client: OneClient, others: str) -> None:
    """Goal: S4: whether the directory has made the copy or not, one is there in the end: none is left empty."""
    one, two = refused(client)
    client.session.lost = 1
    assert client.flush(one) is SILENT
    (begun,) = {path for path in client.volume.paths() if path != "/f"}
    if others != "nothing":
        client.volume.remove(begun)
    if others == "make a file of that name":
        client.volume.make(begun)
    for handle in (one, two):
        assert isinstance(client.close(handle), errors.VersionConflict | errors.TimedOut)
    assert client.unsent.retry() == 0
    copies = {path: client.volume.at(path).size for path in client.volume.paths() if path != "/f"}
    assert copies.pop(begun, len(b"mine")) == (0 if others == "make a file of that name" else len(b"mine"))
    assert list(copies.values()) == [len(b"mine")] * (others == "make a file of that name")


def test_a_copy_that_could_not_be_sent_is_sent_to_the_copy(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: where the copy has a name already and its bytes could not be sent, they are sent there, and no second copy
    is made."""
    one, two = refused(client)
    become = client.copies._become

    def became(*arguments: Any) -> None:
        become(*arguments)
        client.session.refusal = SILENT

    with monkeypatch.context() as patch:
        patch.setattr(client.copies, "_become", became)
        assert client.flush(one) is SILENT
    client.session.refusal = None
    for handle in (one, two):
        assert isinstance(client.close(handle), errors.VersionConflict)
    assert client.unsent.count() == 1
    assert client.unsent.retry() == 0
    (copy,) = {path for path in client.volume.paths() if path != "/f"}
    assert client.volume.at(copy).size == len(b"mine")


def test_the_index_without_room_hides_no_refusal(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S6: that the failure cannot be noted, as the disk is full, is not what the program is told."""
    one, _ = refused(client)
    fill(client, monkeypatch, "failure")
    assert isinstance(client.flush(one), errors.VersionConflict)
    assert len(client.volume.paths()) == 2


# -- tokens


def test_a_commit_has_the_newest_token_of_its_content(client: OneClient) -> None:
    """Goal: the lock was lost, nobody else took it, and another local open has it anew: the first handle's commit is as
    good as the second's, and takes nothing from it."""
    one = client.create("f", b"1")
    client.locks.lose(one.content.ino)
    two = client.open("f")
    assert two.content is one.content
    client.write(two, b"2")
    assert (client.flush(one), client.flush(two)) == (None, None)
    client.write(one, b"3")
    assert (client.close(two), client.close(one)) == (None, None)
    assert client.volume.paths() == ["/f"]
    assert client.volume.at("f").version == 3


# -- open rows


def test_reopened_while_it_is_closed(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S11: an open that comes between the last close and the word of it keeps its row: the file, unlinked, lives
    until that one is closed too."""
    client.close(client.create("f", b"data"))
    handle, again, close_one = client.open("f", os.O_RDONLY), [], client.cache.close_one

    def preempted(content: Any) -> Any:
        closed = close_one(content)
        if not again:
            again.append(None)
            again[0] = client.open("f", os.O_RDONLY)
        return closed

    monkeypatch.setattr(client.cache, "close_one", preempted)
    client.files.release(handle)
    assert client.open_rows() == 1
    client.volume.remove("f")
    assert client.volume.ask(messages.Lookup(handle.content.ino)).nlink == 0
    client.files.release(again[0])
    assert client.open_rows() == 0


def rows_of(client: OneClient) -> list[tuple[bytes, bytes]]:
    return client.volume.store.read(lambda tx: tx.range(b"o", b"p", 100))


def test_a_file_that_is_opened_again_soon_takes_its_row_back(client: OneClient) -> None:
    """Goal: S11. Opening and closing over and over writes nothing at the directory, and the row keeps the unlinked file
    while it is open; it goes with the last close."""
    client.close(client.create("f", b"data"))
    client.files.release(client.open("f", os.O_RDONLY))
    before = rows_of(client)
    for _ in range(3):
        handle = client.open("f", os.O_RDONLY)
        assert rows_of(client) == before
        client.files.release(handle)
    handle = client.open("f", os.O_RDONLY)
    assert client.open_rows() == 1
    client.volume.remove("f")
    assert client.volume.ask(messages.Lookup(handle.content.ino)).nlink == 0
    client.files.release(handle)
    assert client.open_rows() == 0


def overtaken_open(
    client: OneClient, monkeypatch: pytest.MonkeyPatch, flags: int, meanwhile: Callable[[], None]
) -> Any:
    """What an open gives whose answer is not used before `meanwhile` is through."""
    pause, query, slow = Pause(), client.session.query, []

    def late(request: messages.Message, *more: Any) -> Any:
        answer = query(request, *more)
        if slow == [threading.current_thread()]:
            slow.append(None)
            pause.here()
        return answer

    def first() -> Any:
        slow.append(threading.current_thread())
        return client.open("f", flags)

    monkeypatch.setattr(client.session, "query", late)
    background = Background(first)
    pause.reached()
    meanwhile()
    pause.go_on()
    return background.outcome()


def test_a_row_that_another_open_has_closed_meanwhile(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S11. Two opens at once: the second, with a number of its own, is closed, and its row is gone, before the
    first one's answer is here. The first has a row all the same."""
    client.close(client.create("f", b"data"))
    client.files.release(client.open("f", os.O_RDONLY))

    def another() -> None:
        client.files.release(client.open("f", os.O_RDONLY))
        client.session.renew()

    handle = overtaken_open(client, monkeypatch, os.O_RDONLY, another)
    assert client.open_rows() == 1
    client.files.release(handle)
    assert client.open_rows() == 0


def test_an_open_whose_answer_a_commit_here_has_overtaken(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S4. Two programs here share the write lock. The second one's open is answered, and before that is used the
    first commits and closes: the second goes on from that commit, and its own close succeeds."""
    client.close(client.create("f", b"first"))
    first = client.open("f", os.O_RDWR)
    client.write(first, b"second")
    closed: list[Exception | None] = []
    handle = overtaken_open(client, monkeypatch, os.O_RDWR, lambda: closed.append(client.close(first)))
    assert closed == [None]
    assert client.files.read(handle, 100, 0) == b"second"
    client.write(handle, b"third")
    assert client.close(handle) is None
    assert client.volume.paths() == ["/f"], "no conflict with oneself"
    assert client.volume.at("f").version == 3


def test_opens_whose_answers_come_out_of_order_close_their_row(
    client: OneClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the row goes with the last close, though the older open was the later one to be noted."""
    handle = client.create("f", b"x")
    pause, opened, slow = Pause(), client.cache.open, []

    def late(*arguments: Any) -> Any:
        if threading.current_thread() in slow:
            pause.here()
        return opened(*arguments)

    monkeypatch.setattr(client.cache, "open", late)

    def first() -> Any:
        slow.append(threading.current_thread())
        return client.open("f", os.O_RDONLY)

    background = Background(first)
    pause.reached()
    second = client.open("f", os.O_RDONLY)
    pause.go_on()
    for each in (handle, second, background.outcome()):
        client.files.release(each)
    assert client.open_rows() == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_later_close_leaves_an_open_that_is_not_noted_yet_its_row(
    client: OneClient, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Goal: S11: an open was answered and is not in the cache yet; meanwhile a later one of the same version comes and
    goes. The inode lives through its removal until the first one is closed, and no longer, also where that fails."""
    client.files.release(client.create("f", b"kept"))
    pause, opened, slow = Pause(), client.cache.open, []

    def late(*arguments: Any) -> Any:
        if threading.current_thread() in slow:
            pause.here()
            if fails:
                raise errors.NoSpace("the local cache's disk is full")
        return opened(*arguments)

    monkeypatch.setattr(client.cache, "open", late)

    def first() -> Any:
        slow.append(threading.current_thread())
        try:
            return client.open("f", os.O_RDONLY)
        except errors.NoSpace:
            return None

    background = Background(first)
    pause.reached()
    client.files.release(client.open("f", os.O_RDONLY))
    client.session.renew()
    assert client.open_rows() == 1
    pause.go_on()
    handle = background.outcome()
    client.session.renew()
    if not fails:
        client.volume.change(messages.Remove(names=[b"f"], folder=False))
        assert client.open_rows() == 1
        assert client.files.read(handle, 10, 0) == b"kept"
        client.files.release(handle)
    assert client.open_rows() == 0


@pytest.mark.parametrize("others", [False, True])
def test_an_open_that_fails_here_leaves_no_row(
    client: OneClient, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    """Goal: the directory has answered, the cache has no room: the row goes, at once or with those who have the same
    version open, and not before."""
    handle = client.create("f", b"x")
    if not others:
        client.files.release(handle)

    def full(*_: object) -> None:
        raise errors.NoSpace("the local cache's disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(client.cache, "_use", full)
        with pytest.raises(errors.NoSpace):
            client.open("f", os.O_RDONLY)
    assert client.open_rows() == others
    if others:
        client.files.release(handle)
    assert client.open_rows() == 0


def test_a_create_that_fails_here_leaves_no_row(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the same for a new file: once it is removed, its inode goes."""

    def full(*_: object, **__: object) -> None:
        raise errors.NoSpace("the local cache's disk is full")

    monkeypatch.setattr(client.cache, "_use", full)
    with pytest.raises(errors.NoSpace):
        client.files.create(place("f"), 0o100644, 0, 0, os.O_RDWR, 1)
    assert client.open_rows() == 0
    assert client.volume.paths() == [], "as on a local disk"


def test_a_create_that_is_refused_leaves_nothing_here(client: OneClient) -> None:
    """Goal: the content that was made while the directory was at work goes again, with its file and its row."""
    client.close(client.create("f", b"first"))
    files = lambda: [path for path in client.home.rglob("contents/*/*") if path.is_file()]  # noqa: E731
    before = len(files()), client.cache.index.all_rows()
    with pytest.raises(errors.AlreadyExists):
        client.files.create(place("f"), 0o100644, 0, 0, os.O_RDWR, 1)
    assert (len(files()), client.cache.index.all_rows()) == before
    assert not client.cache.in_use()
    assert client.open_rows() == 0


def test_after_a_lost_session_every_open_version_has_a_row(client: OneClient) -> None:
    """Goal: S11: also the inode of a version that a newer one has superseded here lives as long as it is open, and each
    row goes with the last of those that need it."""
    client.close(client.create("f", b"first"))
    old = client.open("f", os.O_RDONLY)
    client.others_commit("f", b"second")
    new = client.open("f", os.O_RDONLY)
    assert old.content is not new.content
    client.session.lapse()
    client.volume.remove("f")
    client.files.release(new)
    client.session.renew()
    assert client.volume.ask(messages.Lookup(old.content.ino)).nlink == 0
    client.files.release(old)
    assert client.open_rows() == 0


# -- what is retried


def test_what_failed_again_meanwhile_is_retried(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S4: a close() that fails between a retry's success and the note of it is not forgotten."""
    failed_to_close(client, "f")
    send = client.unsent._send

    def preempted(content: Any) -> None:
        send(content)
        failed_to_close(client, "f")

    with monkeypatch.context() as patch:
        patch.setattr(client.unsent, "_send", preempted)
        assert client.unsent.retry() == 1
    assert client.session.unsent_files == 1
    assert client.unsent.retry() == 0


def fill(client: OneClient, monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    """The index has no room for statements that name `column`."""
    run = client.cache.index._run

    def full(statement: str, values: tuple) -> Any:
        if f"SET {column}" in statement:
            raise errors.NoSpace("the local cache's disk is full")
        return run(statement, values)

    monkeypatch.setattr(client.cache.index, "_run", full)


def test_one_failure_that_cannot_be_noted_holds_up_nobody(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the cache's disk is full, one content cannot be sent: the others are sent all the same."""
    stuck = failed_to_close(client, "a")
    failed_to_close(client, "b")
    stuck.writers = 1
    fill(client, monkeypatch, "failure")
    assert client.unsent.retry() == 1
    assert client.volume.at("b").version == 1


def test_retries_go_on_where_the_cache_cannot_be_maintained(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an index that cannot be brought to the disk keeps nothing from being sent."""
    failed_to_close(client, "a")

    def full() -> None:
        raise errors.NoSpace("full")

    monkeypatch.setattr("dfsfuse.unsent.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(client.cache, "maintain", full)
    sent = threading.Event()
    monkeypatch.setattr(client.session, "report_unsent", lambda files: files or sent.set())
    client.unsent.start()
    assert sent.wait(DEADLINE_S)
    client.unsent.close()


def test_a_full_disk_is_told_of_once(client: OneClient, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Goal: while the disk has no room to bring the index up to date, the log gets one line without a traceback, and
    one more when there is room again."""

    class Checkpointer:
        tried, full = 0, True

        def execute(self, statement: str) -> None:
            self.tried += 1
            if self.full:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error

        def close(self) -> None: ...

    checkpointer = Checkpointer()
    monkeypatch.setattr("dfsfuse.unsent.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(client.cache.index, "_checkpointer", checkpointer)
    caplog.set_level("INFO", "dfsfuse.unsent")
    client.unsent.start()
    wait_until(lambda: checkpointer.tried >= 5, "it is tried again and again")
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("ERROR", None)]
    assert "the local cache's disk is full" in caplog.text
    checkpointer.full = False
    wait_until(lambda: len(caplog.records) > 1, "there is room again")
    tried = checkpointer.tried
    wait_until(lambda: checkpointer.tried >= tried + 5, "it goes on")
    client.unsent.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


# -- the end of the client


def test_what_is_open_at_the_end_is_committed(client: OneClient) -> None:
    """Goal: a client that is ended by a signal closes what programs have open for writing."""
    written, read = client.create("f"), client.create("read", b"as it was")
    client.write(written, b"written")
    client.files.close()
    assert client.volume.at("f").size == len(b"written")
    assert client.volume.at("read").version == read.content.version == 1


def test_what_cannot_be_sent_at_the_end_is_the_next_clients_to_send(client: OneClient) -> None:
    """Goal: with the servers away it counts as closed all the same, and one time-out is enough for all of it."""
    for name in "abc":
        client.write(client.create(name), b"written")
    attempts = []

    def silent() -> None:
        attempts.append(None)
        raise SILENT

    client.servers.before_store = silent
    client.files.close()
    assert len(attempts) == 1
    assert len(client.cache.unsent()) == 3


def test_only_its_room_is_what_a_full_disk_costs(client: OneClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a disk of the cache that is full of what can be evicted fails no open, create or close()."""
    client.close(client.create("old", b"x" * 5000))
    disk_open, full = os.open, [True]

    def opened(path: Any, flags: int, *more: Any, **how: Any) -> int:
        if full[0] and str(path).startswith(str(client.home)):
            raise OSError(errno.ENOSPC, "full")
        return disk_open(path, flags, *more, **how)

    delete = client.cache.index.delete

    def freed(number: int) -> None:
        full[0] = False
        delete(number)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(client.cache.index, "delete", freed)
    assert client.close(client.create("new", b"data")) is None
    full[0] = True
    handle = client.open("old", os.O_RDONLY)
    assert client.files.read(handle, 5, 0) == b"xxxxx"
