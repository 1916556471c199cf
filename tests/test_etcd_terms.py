"""What goes wrong in a term, and around it: requests that arrive late, answers that are lost, threads that die, an etcd
that is full."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from etcd_servers import EtcdServers, etcd_servers
from support import wait_until

from dfsfuse import errors
from dfsfuse.messages import Nothing
from servers.etcd import copying
from servers.etcd.candidate import Candidate
from servers.etcd.client import Compacted, EtcdClient
from servers.etcd.copying import Copy
from servers.etcd.election import Election, Term
from servers.etcd.keys import Keys
from servers.etcd.messages import Change, Put
from servers.etcd.room import Room
from servers.etcd.sender import Sender
from servers.etcd.vacancy import Ended
from servers.http import Operation
from servers.standing import within_term
from servers.store import after_prefix
from servers.store.etcd import EtcdStore
from servers.store.sqlite import SqliteStore


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServers]:
    with etcd_servers(1) as servers:
        yield servers


class Volume:
    """The keys of one, and what its tests have begun."""

    def __init__(self, etcd: EtcdServers, folder: Path):
        self.client, self.folder, self._numbers = EtcdClient(etcd.address()), folder, itertools.count()
        self.keys = Keys(self.client.address.prefix)
        self.closing: list[Callable[[], object]] = [self.client.close]

    def election(self, name: bytes = b"one", client: EtcdClient | None = None) -> Election:
        return Election(client or self.client, self.keys.serving, name, time.monotonic)

    def term(self) -> Term:
        term = self.election().try_once()
        self.closing.append(term.end)
        return term

    def sqlite(self) -> SqliteStore:
        return SqliteStore(self.folder / f"copy-{next(self._numbers)}.db")

    def store(self, term: Term, quota_bytes: int = 1 << 40) -> EtcdStore:
        sender = Sender(self.client, term, self.keys.sent)
        sender.begin()
        self.room = Room(self.client, quota_bytes)
        store = EtcdStore(sender, self.sqlite(), self.keys.data, self.keys.redo, self.room)
        self.closing.append(store.close)
        return store

    def value(self, key: bytes) -> bytes | None:
        pair = self.client.get(self.keys.data + key)
        return pair and pair.value

    def close(self) -> None:
        for close in reversed(self.closing):
            close()


@pytest.fixture
def volume(etcd: EtcdServers, tmp_path: Path) -> Iterator[Volume]:
    made = Volume(etcd, tmp_path)
    yield made
    made.close()


def put(store: EtcdStore, key: bytes, value: bytes) -> None:
    store.transact(lambda tx: tx.put(key, value))


# -- requests


def test_a_request_that_arrives_late_changes_nothing(volume: Volume) -> None:
    """Goal: S1: what was taken for lost, and done through another member, may reach etcd once more, after others."""
    store, sent = volume.store(volume.term()), []
    real = volume.client.transact
    volume.client.transact = lambda *request, **more: sent.append(request) or real(*request, **more)
    put(store, b"key", b"old")
    store.sync()
    put(store, b"key", b"new")
    store.sync()
    assert not real(*sent[0]).succeeded
    assert volume.value(b"key") == b"new"


def test_a_request_whose_answer_is_lost_is_done_once(volume: Volume) -> None:
    """Goal: it is asked again, found done, and the next one follows it."""
    store, lost = volume.store(volume.term()), []
    real = volume.client.transact

    def losing(*request: object, **more: object) -> object:
        reply = real(*request, **more)
        if not lost:
            lost.append(reply)
            raise errors.TimedOut("the answer was lost")
        return reply

    volume.client.transact = losing
    put(store, b"key", b"1")
    store.sync()
    put(store, b"key", b"2")
    store.sync()
    assert volume.value(b"key") == b"2"
    assert volume.client.get(volume.keys.sent).value == b"2"


def test_what_etcd_refuses_for_good_ends_the_term(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S11: one request that etcd never takes does not stop the volume: another server begins with what is
    there."""
    monkeypatch.setattr("servers.etcd.sender._REFUSED_S_MAX", 0.2)
    term = volume.term()
    store = volume.store(term)
    put(store, b"key", b"never")

    def refusing(*request: object, **more: object) -> object:
        raise errors.ServerError("etcd: too many operations in txn request")

    monkeypatch.setattr(volume.client, "transact", refusing)
    with pytest.raises(errors.NotServing):
        store.sync()
    assert not term.is_on
    assert not store.is_synced


# -- the term


def test_its_end_is_always_told(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whoever serves hears of the end, also where the renewal fails in a way that nobody has thought of, and
    where it was over before it was asked for."""
    term, told = volume.term(), threading.Event()
    term.on_end(told.set)

    def broken(*_: object) -> bool:
        raise ValueError("nobody has thought of this")

    monkeypatch.setattr(volume.client, "keep_alive", broken)
    assert told.wait(10)
    assert not term.is_on
    later = threading.Event()
    term.on_end(later.set)
    assert later.is_set()


def test_an_election_whose_answer_is_lost_is_found(volume: Volume) -> None:
    """Goal: who has been elected unheard serves at the next try, and does not wait for itself."""
    election, real = volume.election(), volume.client.transact

    def losing(*request: object, **more: object) -> object:
        volume.client.transact = real
        real(*request, **more)
        raise errors.TimedOut("the answer was lost")

    volume.client.transact = losing
    with pytest.raises(errors.TimedOut):
        election.try_once()
    assert election.holder() is None
    term = election.try_once()
    assert isinstance(term, Term)
    term.end()


def test_nothing_is_answered_after_it(volume: Volume) -> None:
    """Goal: S5: a process that stood still neither begins nor answers what came meanwhile, whatever it is."""
    term, done = volume.term(), []
    over = lambda: errors.NotServing("over")  # noqa: E731

    async def slowly(request: Nothing) -> Nothing:
        await asyncio.sleep(0)
        done.append(request)
        term.end()
        return request

    def at_once(request: Nothing) -> Nothing:
        done.append(request)
        return request

    with pytest.raises(errors.NotServing):
        asyncio.run(within_term(term, Operation(Nothing, slowly), over).handler(Nothing()))
    with pytest.raises(errors.NotServing):
        within_term(term, Operation(Nothing, at_once), over).handler(Nothing())
    assert len(done) == 1


def test_a_store_is_closed_while_it_syncs(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: at the end of a term who waits for a sync is told NotServing, and nothing else."""
    term = volume.term()
    store, begun, found = volume.store(term), threading.Event(), []
    real = volume.client.transact

    def slow(*request: object, **more: object) -> object:
        begun.set()
        wait_until(lambda: not term.is_on, "the term ends")
        return real(*request, **more)

    monkeypatch.setattr(volume.client, "transact", slow)
    put(store, b"key", b"value")

    def sync() -> None:
        try:
            store.sync()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    assert begun.wait(10)
    term.end()
    store.close()
    thread.join(20)
    assert [type(error) for error in found] == [errors.NotServing]
    volume.closing.remove(store.close)


# -- candidates


def test_a_candidate_survives_what_fails(volume: Volume) -> None:
    """Goal: a standby whose disk is full, or whose etcd refuses something, goes on standing by."""
    made = iter([errors.NoSpace("the disk is full"), errors.ServerError("etcd: something")])

    def make_copy() -> SqliteStore:
        for error in made:
            raise error
        return volume.sqlite()

    candidate = Candidate(volume.client, volume.keys, volume.election(), make_copy, lambda holder: None)
    elected = candidate.wait()
    assert elected.term.is_on
    elected.give_up()
    candidate.stop()
    with pytest.raises(Ended):
        candidate.wait()


def fill(volume: Volume, store: EtcdStore, first: int, last: int) -> None:
    for number in range(first, last):
        put(store, b"%05d" % number, bytes(64_000))
        if number % 10 == 9:
            store.sync()
    store.sync()


def keys_of(store: SqliteStore) -> list[bytes]:
    return [key for key, _ in store.read(lambda tx: tx.range(b"", b"\xff", 10_000))]


def test_large_rows_are_loaded_and_followed(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a copy of any size is made in pages of some megabytes, and one that is far behind catches up, however long
    etcd takes to begin to tell."""
    store = volume.store(volume.term())
    fill(volume, store, 0, 400)
    sizes, real = [], volume.client.range

    def sized(*request: object, **more: object) -> object:
        reply = real(*request, **more)
        sizes.append(sum(len(pair.value) for pair in reply.kvs))
        return reply

    monkeypatch.setattr(volume.client, "range", sized)
    copy = Copy(volume.client, volume.keys, volume.sqlite(), lambda: False)
    volume.closing.append(copy.close)
    copy.load()
    assert max(sizes) <= 3 * copying._PAGE_BYTES
    assert keys_of(copy.store) == keys_of(store)
    fill(volume, store, 400, 800)
    copy._silence_s = 0.001
    deadline = time.monotonic() + 60
    while keys_of(copy.store) != keys_of(store):
        assert time.monotonic() < deadline
        copy.follow()


def test_a_quiet_volume_outlives_compactions(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: where others change etcd and let it forget, a copy in which nothing changes need not be made anew."""
    store = volume.store(volume.term())
    put(store, b"key", b"value")
    store.sync()
    copy = Copy(volume.client, volume.keys, volume.sqlite(), lambda: False)
    volume.closing.append(copy.close)
    copy.load()
    copy._silence_s = 0.05
    for number in range(3):
        latest = volume.client.transact([], [Change(request_put=Put(b"/others", b"%d" % number))]).header.revision
        copy.follow()
        volume.client.compact(latest)
        copy.follow()
    put(store, b"key", b"changed")
    store.sync()
    deadline = time.monotonic() + 30
    while copy.store.read(lambda tx: tx.get(b"key")) != b"changed":
        assert time.monotonic() < deadline
        copy.follow()


# -- room


def test_a_full_etcd_takes_what_makes_room(volume: Volume) -> None:
    """Goal: before etcd takes nothing more, what would grow is refused with NoSpace and leaves nothing; deletions and
    reads go on."""
    store = volume.store(volume.term(), quota_bytes=1)
    volume.room._used_bytes = 0
    put(store, b"key", b"value")
    store.sync()
    volume.room._used_bytes = volume.client.used_bytes()
    assert volume.room._used_bytes > 0
    with pytest.raises(errors.NoSpace, match="quota"):
        put(store, b"more", b"value")
    assert store.read(lambda tx: (tx.get(b"key"), tx.get(b"more"))) == (b"value", None)
    store.transact(lambda tx: tx.delete(b"key"))
    store.sync()
    assert volume.value(b"key") is None


def test_what_was_replaced_is_forgotten(volume: Volume) -> None:
    """Goal: etcd does not fill with former values of keys: whoever serves lets it forget what is older than a while."""
    store = volume.store(volume.term())
    put(store, b"key", b"1")
    store.sync()
    first = volume.client.get(volume.keys.data + b"key").mod_revision
    put(store, b"other", b"")
    store.sync()
    volume.room.compact()
    for number in range(3):
        put(store, b"key", b"%d" % number)
        store.sync()
    volume.room.compact()
    with pytest.raises(Compacted):
        list(volume.client.watch(volume.keys.base, after_prefix(volume.keys.base), first, 5.0))
