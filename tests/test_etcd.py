"""The etcd client, elections and copies, on real members."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from etcd_servers import EtcdServers, etcd_servers
from support import wait_until

from dfsfuse import errors
from dfsfuse.etcd_address import EtcdAddress
from servers.etcd import writes
from servers.etcd.candidate import Candidate
from servers.etcd.client import Compacted, EtcdClient
from servers.etcd.election import TERM_S, Election, Holder, Term
from servers.etcd.keys import Keys
from servers.etcd.messages import Change, Compare, DeleteRange, Put, RangeRequest
from servers.etcd.room import Room
from servers.etcd.vacancy import Ended, Vacancy
from servers.store import after_prefix
from servers.store.etcd import EtcdStore
from servers.store.sqlite import SqliteStore


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServers]:
    with etcd_servers() as servers:
        yield servers


@pytest.fixture
def client(etcd: EtcdServers) -> Iterator[EtcdClient]:
    made = EtcdClient(etcd.address())
    yield made
    made.close()


def put(key: bytes, value: bytes = b"") -> Change:
    return Change(request_put=Put(key, value))


# -- the client


def test_keys(client: EtcdClient) -> None:
    """Goal: any bytes are keys and values; ranges are sorted, paged and as of one revision."""
    base = client.address.prefix
    keys = [base + bytes([number, 255 - number]) for number in range(0, 256, 5)]
    first = client.transact([], [put(key, key[::-1]) for key in keys])
    found = client.range(base, after_prefix(base))
    assert [(pair.key, pair.value) for pair in found.kvs] == [(key, key[::-1]) for key in keys]
    client.transact([], [Change(request_delete_range=DeleteRange(base, after_prefix(base)))])
    page = client.range(base, after_prefix(base), 10, first.header.revision)
    assert page.more
    assert [pair.key for pair in page.kvs] == keys[:10]
    assert client.get(keys[0]) is None


def test_changes_are_bound_to_revisions(client: EtcdClient) -> None:
    """Goal: all of a transaction or nothing; else what was asked for otherwise."""
    key = client.address.prefix + b"key"
    made = client.transact([Compare(key, create_revision=0)], [put(key, b"1")])
    assert made.succeeded
    again = client.transact([Compare(key, create_revision=0)], [put(key)], [Change(request_range=RangeRequest(key))])
    assert not again.succeeded
    assert again.responses[0].response_range.kvs[0].value == b"1"
    assert client.transact([Compare(key, create_revision=made.header.revision)], [put(key, b"2")]).succeeded
    assert client.get(key).create_revision == made.header.revision


def test_what_changes_is_told_in_order(client: EtcdClient) -> None:
    """Goal: a watch tells of everything from a revision on, also of what was before it began; and says where that is
    forgotten."""
    base = client.address.prefix
    start = client.transact([], [put(base)]).header.revision
    for number in range(20):
        client.transact([], [put(base + b"%02d" % number)])
    told: list[bytes] = []
    for reply in client.watch(base, after_prefix(base), start + 1, 5.0):
        told += [event.kv.key for event in reply.events]
        if len(told) == 20:
            break
    assert told == [base + b"%02d" % number for number in range(20)]
    client.compact(client.transact([], [put(base)]).header.revision)
    with pytest.raises(Compacted):
        list(client.watch(base, after_prefix(base), start, 5.0))


def test_a_member_that_dies_is_passed_over() -> None:
    """Goal: what is asked is answered by the others, whichever member dies or stands still; with two away it says
    so."""
    with etcd_servers() as etcd:
        client = EtcdClient(etcd.address())
        key = client.address.prefix
        etcd.members[0].end()
        assert client.transact([], [put(key, b"1")], timeout_s=20).succeeded
        with etcd.still(etcd.members[1]), pytest.raises(errors.Unreachable):
            client.transact([], [put(key, b"2")], timeout_s=1.5)
        etcd.start(etcd.members[0])
        with etcd.still(etcd.members[2]):
            wait_until(lambda: client.get(key) is not None, "two of three answer", 20)
        client.close()


def test_members_that_are_silent_are_passed_over(etcd: EtcdServers) -> None:
    """Goal: within a part of a term, by all threads together: none of them passes over the one that answers."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        first, last = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in silent)
        client = stack.enter_context(contextlib.closing(EtcdClient(EtcdAddress([first, etcd.members[0].url, last]))))
        began = time.monotonic()
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda number: client.get(b"/%d" % number), range(2)))
        assert time.monotonic() - began < TERM_S


def test_a_watch_passes_over_a_member_that_is_silent(etcd: EtcdServers) -> None:
    """Goal: whoever begins it anew hears what changes from one that answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with contextlib.closing(EtcdClient(EtcdAddress([url, etcd.members[0].url]))) as client:
            with pytest.raises(errors.Unreachable):
                next(client.watch(b"/none", b"", 1, 0.3))
            assert next(client.watch(b"/none", b"", 0, 5.0)).created


def test_an_address_where_nobody_answers() -> None:
    """Goal: Unreachable within the time that was asked for, naming the member."""
    client = EtcdClient(EtcdAddress(["http://127.0.0.1:1"]))
    began = time.monotonic()
    with pytest.raises(errors.Unreachable, match="127.0.0.1:1"):
        client.transact([], [], timeout_s=0.3)
    assert time.monotonic() - began < 5
    client.close()


# -- elections


def test_one_of_two_candidates_serves(client: EtcdClient) -> None:
    """Goal: the second is told of the first, and serves once that has ended; its changes are bound to its term."""
    key = client.address.prefix + b"serving"
    first, second = (Election(client, key, name, time.monotonic) for name in (b"one", b"two"))
    term = first.try_once()
    holder = second.try_once()
    assert (holder.value, holder.revision) == (b"one", term.revision)
    assert client.transact([term.holds()], [put(key + b"/x")]).succeeded
    term.end()
    assert not term.is_on
    after = second.try_once()
    assert isinstance(after, Term)
    assert not client.transact([term.holds()], [put(key + b"/x")]).succeeded
    after.end()


def test_a_term_that_cannot_be_renewed_ends_before_another_begins(etcd: EtcdServers) -> None:
    """Goal: who was cut off knows by its own clock that it may not serve, before etcd lets another one."""
    client, other = EtcdClient(etcd.address()), EtcdClient(etcd.address())
    key = b"/cut-off"
    term = Election(client, key, b"one", time.monotonic).try_once()
    ended = threading.Event()
    term.on_end(ended.set)
    client.address.endpoints[:] = ["http://127.0.0.1:1"]
    candidate = Election(other, key, b"two", time.monotonic)
    later = wait_until(lambda: candidate.try_once() if candidate.holder() is None else None, "the key goes", 15)
    assert ended.is_set()
    assert not term.is_on
    assert isinstance(later, Term)
    later.end()
    client.close()
    other.close()


# -- copies, and the store upon them


class Standing:
    """A candidate in a thread, and what it has become."""

    _numbers = itertools.count()

    def __init__(self, client: EtcdClient, folder: Path, name: bytes = b"one"):
        self.client, self.keys, self._folder = client, Keys(client.address.prefix), folder
        election = Election(client, self.keys.serving, name, time.monotonic)
        self.candidate = Candidate(client, self.keys, election, self._make_copy, lambda holder: None)
        self.store: EtcdStore | None = None
        self.term: Term | None = None
        self._thread = threading.Thread(target=self._stand, daemon=True)
        self._thread.start()

    def _make_copy(self) -> SqliteStore:
        return SqliteStore(self._folder / f"copy-{next(self._numbers)}.db")

    def _stand(self) -> None:
        try:
            elected = self.candidate.wait()
        except Ended:
            return
        self.term, room = elected.term, Room(self.client, 1 << 40)
        self.store = EtcdStore(elected.sender, elected.copy, self.keys.data, self.keys.redo, room)

    def elected(self) -> EtcdStore:
        return wait_until(lambda: self.store, "it is elected", 20)

    def end(self) -> None:
        self.candidate.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.store is not None:
            self.term.end()
            self.store.close()


def test_a_candidate_follows_and_takes_over(etcd: EtcdServers, tmp_path: Path) -> None:
    """Goal: whoever is elected next has everything that was answered by the one before, and that one can change
    nothing more."""
    clients = [EtcdClient(etcd.address("volume")) for _ in range(2)]
    first = Standing(clients[0], tmp_path)
    store = first.elected()
    for number in range(300):
        store.transact(lambda tx, n=number: (tx.put(b"k%d" % n, b"v"), tx.delete(b"k%d" % (n - 100))))
    store.sync()
    second = Standing(clients[1], tmp_path, b"two")
    for number in range(300, 400):
        store.transact(lambda tx, n=number: tx.put(b"k%d" % n, b"v"))
        store.sync()
    store.transact(lambda tx: tx.put(b"never told", b""))
    first.term.end()
    with pytest.raises(errors.NotServing):
        store.sync()
    with pytest.raises(errors.NotServing):
        store.transact(lambda tx: None)
    found = second.elected().read(lambda tx: tx.range(b"", b"\xff", 1000))
    assert sorted(key for key, _ in found) == sorted(b"k%d" % number for number in range(200, 400))
    first.end()
    second.end()


@pytest.mark.parametrize("sent", [0, 1, 4, 8, 30])
def test_a_large_transaction_is_whole(etcd: EtcdServers, tmp_path: Path, sent: int) -> None:
    """Goal: what does not fit into one request is there as a whole or not at all, wherever who serves dies."""
    address = etcd.address()
    first = Standing(EtcdClient(address), tmp_path)
    store = first.elected()
    store.transact(lambda tx: tx.put(b"before", b""))
    store.sync()
    real, count = first.client.transact, itertools.count()

    def dying(compare: list, changes: list, *more: object, **options: float) -> object:
        if next(count) >= sent:
            first.term.end()
        return real(compare, changes, *more, **options)

    first.client.transact = dying
    store.transact(lambda tx: [tx.put(b"%04d" % number, bytes(3000)) for number in range(700)])
    if sent < 20:
        with pytest.raises(errors.NotServing):
            store.sync()
    else:
        store.sync()
    first.end()
    second = Standing(EtcdClient(address), tmp_path)
    found = [key for key, _ in second.elected().read(lambda tx: tx.range(b"", b"\xff", 1000))]
    assert found in ([b"before"], [*(b"%04d" % number for number in range(700)), b"before"])
    assert (len(found) > 1) == (sent >= 8)
    assert second.client.range(second.keys.redo, after_prefix(second.keys.redo)).kvs == []
    second.end()


def test_transactions_are_packed() -> None:
    """Goal: pure: in order, as few requests as there is room for, and none beyond what etcd takes."""
    small = [{b"%d" % number: b"x"} for number in range(250)]
    assert [len(request) for request in writes.packed(small)] == [100, 100, 50]
    assert list(writes.packed([{b"a": b"1"}, {b"a": None, b"b": b"2"}])) == [{b"a": None, b"b": b"2"}]
    large = {b"%d" % number: bytes(600_000) for number in range(3)}
    assert list(writes.packed([{b"a": b""}, large, {b"b": b""}])) == [{b"a": b""}, large, {b"b": b""}]
    assert not writes.fits(large)
    assert [len(part) for part in writes.pieces(large)] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["directory", "locks"])
def test_who_was_elected_just_now_is_told(etcd: EtcdServers, tmp_path: Path, kind: str) -> None:
    """Goal: a candidate that finds nobody, and then that another one was quicker, names that one from then on, however
    much there is to follow."""

    class Late(Election):
        def holder(self) -> None:
            """The other one is elected when this has been answered."""

    with contextlib.closing(EtcdClient(etcd.address())) as client:
        keys, told = Keys(client.address.prefix), list[Holder | None]()
        term = Election(client, keys.serving, b"quicker", time.monotonic).try_once()
        late = Late(client, keys.serving, b"late", time.monotonic)
        make_copy = lambda: SqliteStore(tmp_path / "copy.db")  # noqa: E731
        candidate = (
            Candidate(client, keys, late, make_copy, told.append)
            if kind == "directory"
            else Vacancy(client, late, told.append)
        )
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(candidate.wait)
            try:
                wait_until(lambda: any(told), "the quicker one is named", 10)
            finally:
                candidate.stop()
                term.end()
            assert isinstance(waiting.exception(30), Ended)
        assert {holder.value for holder in told if holder} == {b"quicker"}
