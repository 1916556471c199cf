"""Snapshots of a store, on every engine, and the walks over them that are asked for page by page."""

import asyncio
import sqlite3
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dfsfuse import errors
from servers.store import Reader, Store
from servers.store.memory import MemoryStore
from servers.store.sqlite import SqliteStore
from servers.surveys import IDLE_S, SURVEYS_MAX, Surveys

ALL = (b"", b"\xff")
KEY = b"k" * 16


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store.db")
    yield made
    made.close()


def put(store: Store, *keys: bytes, value: bytes = b"value") -> None:
    store.transact(lambda tx: [tx.put(key, value) for key in keys])


def test_a_snapshot_stays_as_it_was(store: Store) -> None:
    """Goal: what is put, changed and deleted later is not seen in it; the store itself goes on, and is synced."""
    put(store, b"a", b"b", b"c")
    snapshot = store.snapshot()
    put(store, b"d")
    put(store, b"a", value=b"changed")
    store.transact(lambda tx: tx.delete(b"b"))
    store.sync()
    later = store.snapshot()
    assert snapshot.range(*ALL, 100) == [(key, b"value") for key in (b"a", b"b", b"c")]
    assert (snapshot.get(b"a"), snapshot.get(b"b"), snapshot.get(b"d")) == (b"value", b"value", None)
    assert later.range(*ALL, 100) == [(b"a", b"changed"), (b"c", b"value"), (b"d", b"value")]
    assert snapshot.range(b"a", b"c", 1) == [(b"a", b"value")]
    assert snapshot.range(b"b", b"a", 5) == snapshot.range(b"a", b"c", 0) == []
    for made in (snapshot, later):
        made.close()


def test_a_snapshot_is_read_in_another_thread(store: Store) -> None:
    """Goal: a walk over it and transactions of the store run side by side, and neither sees half of the other."""
    put(store, *(b"%04d" % number for number in range(1000)))
    snapshot, seen = store.snapshot(), []
    reader = threading.Thread(target=lambda: seen.extend(len(snapshot.range(*ALL, 5000)) for _ in range(20)))
    reader.start()
    for number in range(1000, 1300):
        put(store, b"%04d" % number)
    reader.join()
    snapshot.close()
    assert seen == [1000] * 20


def test_a_snapshot_does_not_outlive_a_full_disk(tmp_path: Path) -> None:
    """Goal: a snapshot keeps the log from beginning anew, so where the disk is full, or the log was lost, it ends; who
    reads it is told, and the store goes on."""
    store = SqliteStore(tmp_path / "store.db")
    put(store, b"a")
    snapshot = store.snapshot()
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(errors.NoSpace):
        put(store, b"large", value=bytes(1 << 20))
    with pytest.raises(errors.ServerError, match="begin it again"):
        snapshot.get(b"a")
    store._connection.execute("PRAGMA max_page_count=100000")
    put(store, b"b")
    snapshot = store.snapshot()
    store._log_is_doubtful = True
    store.sync()
    with pytest.raises(errors.ServerError, match="begin it again"):
        snapshot.range(*ALL, 1)
    snapshot.close()
    assert store._snapshots == []
    store.close()


def test_the_log_begins_anew_once_no_snapshot_is_read(tmp_path: Path) -> None:
    """Goal: a snapshot that was closed holds nothing back."""
    store = SqliteStore(tmp_path / "store.db")
    snapshot = store.snapshot()
    for number in range(20):
        put(store, b"%d" % number, value=bytes(1 << 20))
        store.sync()
    assert (tmp_path / "store.db-wal").stat().st_size > 16 << 20
    snapshot.close()
    store.sync()
    put(store, b"begins the log again")
    assert (tmp_path / "store.db-wal").stat().st_size < 8 << 20
    store.close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- page by page


class Page(NamedTuple):
    rows: list
    more: bool


def in_pairs(tx: Reader) -> Iterator[Page]:
    rows = tx.range(*ALL, 100)
    for at in range(0, len(rows), 2):
        yield Page(rows[at : at + 2], at + 2 < len(rows))


def fails(tx: Reader) -> Iterator[Page]:
    yield Page([], True)
    raise errors.ServerError("of the disk")


class Asker:
    """Asks a `Surveys` for pages, at times that a test sets."""

    def __init__(self, store: Store):
        self.surveys, self.now_s = Surveys(store), 100.0

    def page(self, number: int, key: bytes = KEY, pages: Any = in_pairs) -> Page:
        return self.run(self.surveys.page(key, number, pages, self.now_s))

    def run(self, work: Coroutine) -> Any:
        return asyncio.run(work)


@pytest.fixture
def asker(store: Store) -> Iterator[Asker]:
    put(store, b"a", b"b", b"c")
    made = Asker(store)
    yield made
    made.surveys.close()


def test_pages_of_one_moment(store: Store, asker: Asker) -> None:
    """Goal: pages follow each other, each is given again to who did not get it, and all are of the first one's
    moment."""
    first = asker.page(0)
    put(store, b"d", b"e")
    assert asker.page(0) == first == ([(b"a", b"value"), (b"b", b"value")], True)
    assert asker.page(1) == asker.page(1) == ([(b"c", b"value")], False)
    assert [len(asker.page(number, key=b"other" * 4).rows) for number in range(3)] == [2, 2, 1]


@pytest.mark.parametrize("number", [2, -1, 7])
def test_pages_out_of_order(asker: Asker, number: int) -> None:
    """Goal: a page that is not the next one is refused, and the walk goes on."""
    asker.page(0)
    with pytest.raises(errors.OutOfSequence):
        asker.page(number)
    assert asker.page(1).more is False
    with pytest.raises(errors.OutOfSequence):
        asker.page(2)


def test_a_walk_that_nobody_asks_for_ends(asker: Asker) -> None:
    """Goal: after a minute of silence it holds nothing back any more, and who comes back is told to begin again."""
    asker.page(0)
    asker.now_s += IDLE_S
    asker.surveys.end_idle(asker.now_s)
    asker.page(0)
    asker.now_s += IDLE_S + 1
    asker.surveys.end_idle(asker.now_s)
    with pytest.raises(errors.NotFound, match="begin again"):
        asker.page(1)
    assert asker.page(0).more


def test_a_walk_that_fails_ends(asker: Asker) -> None:
    """Goal: its error reaches who asked, and the key can be used again."""
    asker.page(0, pages=fails)
    with pytest.raises(errors.ServerError, match="of the disk"):
        asker.page(1, pages=fails)
    with pytest.raises(errors.NotFound):
        asker.page(1)
    assert asker.page(0).more


def test_walks_are_bounded(asker: Asker) -> None:
    """Goal: so many at a time and no more; those that have come to their end make room."""
    for number in range(SURVEYS_MAX):
        asker.page(0, key=b"%016d" % number)
    with pytest.raises(errors.Busy):
        asker.page(0)
    asker.page(1, key=b"%016d" % 3)
    assert asker.page(0).more
    with pytest.raises(errors.BadRequest):
        Asker(MemoryStore()).page(0, key=b"short")
