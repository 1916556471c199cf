"""The contract of stores, for every engine; and what only an engine on a disk must keep: crashes and a full disk."""

import contextlib
import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import engine
from support import ROOT

from dfsfuse.errors import DfsError, NoSpace, ServerError
from servers.store import Store, Transaction, after_prefix, sqlite
from servers.store.sqlite import SqliteStore

ALL = (b"", b"\xff" * 20)


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with engine(request.param, tmp_path) as made:
        yield made


def fill(store: Store, *keys: bytes) -> None:
    store.transact(lambda tx: [tx.put(key, b"value of " + key) for key in keys])


def keys_in(store: Store, start: bytes, end: bytes, limit: int = 100) -> list[bytes]:
    return [key for key, _ in store.read(lambda tx: tx.range(start, end, limit))]


# -- the contract


def test_get_put_and_delete(store: Store) -> None:
    """Goal: a value is what was put last, None where there is none; deleting what is not there is no error."""
    fill(store, b"a")
    store.transact(lambda tx: (tx.put(b"a", b"second"), tx.put(b"empty", b""), tx.delete(b"never there")))
    assert store.read(lambda tx: (tx.get(b"a"), tx.get(b"empty"), tx.get(b"b"))) == (b"second", b"", None)
    store.transact(lambda tx: tx.delete(b"a"))
    assert store.read(lambda tx: tx.get(b"a")) is None


def test_a_transaction_returns_what_its_operation_returned(store: Store) -> None:
    """Goal: transact and read pass the result through."""
    assert store.transact(lambda tx: "result") == "result"
    assert store.read(lambda tx: tx.get(b"a")) is None


def test_ranges_are_sorted_bounded_and_limited(store: Store) -> None:
    """Goal: start is within, end is not; bytes sort as unsigned, a prefix before what it begins."""
    fill(store, b"b", b"a\xff", b"a", b"a\x00", b"\x80", b"", b"ab")
    assert keys_in(store, *ALL) == [b"", b"a", b"a\x00", b"ab", b"a\xff", b"b", b"\x80"]
    assert keys_in(store, b"a", b"b") == [b"a", b"a\x00", b"ab", b"a\xff"]
    assert keys_in(store, b"a\x00", b"ab") == [b"a\x00"]
    assert keys_in(store, b"a", b"b", 2) == [b"a", b"a\x00"]
    assert keys_in(store, b"a", b"b", 0) == []
    assert keys_in(store, b"b", b"a") == []
    assert keys_in(store, b"a", after_prefix(b"a")) == [b"a", b"a\x00", b"ab", b"a\xff"]


def test_a_transaction_sees_its_own_writes(store: Store) -> None:
    """Goal: get and range show what this transaction has put and deleted, within the limit too."""
    fill(store, b"a", b"b", b"c")

    def operation(tx: Transaction) -> tuple:
        tx.put(b"aa", b"new")
        tx.put(b"c", b"changed")
        tx.delete(b"a")
        tx.put(b"gone", b"")
        tx.delete(b"gone")
        return tx.get(b"a"), tx.get(b"aa"), tx.range(*ALL, 100), tx.range(*ALL, 2), tx.range(*ALL, 0)

    everything = [(b"aa", b"new"), (b"b", b"value of b"), (b"c", b"changed")]
    assert store.transact(operation) == (None, b"new", everything, everything[:2], [])
    assert store.read(lambda tx: tx.range(*ALL, 100)) == everything


@pytest.mark.parametrize("error", [ValueError, NoSpace, KeyboardInterrupt])
def test_nothing_remains_of_an_operation_that_raises(store: Store, error: type[BaseException]) -> None:
    """Goal: put and delete are undone, the error reaches the caller, and the store goes on."""
    fill(store, b"a")

    def operation(tx: Transaction) -> None:
        tx.put(b"b", b"new")
        tx.put(b"a", b"changed")
        tx.delete(b"a")
        raise error("of the operation")

    with pytest.raises(error, match="of the operation"):
        store.transact(operation)
    assert store.read(lambda tx: tx.range(*ALL, 100)) == [(b"a", b"value of a")]
    fill(store, b"c")
    assert keys_in(store, *ALL) == [b"a", b"c"]


def test_sync_from_another_thread_beside_transactions(store: Store) -> None:
    """Goal: syncs that run while transactions do disturb neither."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def sync_on() -> None:
        try:
            while not stop.is_set():
                store.sync()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=sync_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(300):
        store.transact(lambda tx, n=number: tx.put(b"%d" % n, bytes(4096)))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(keys_in(store, *ALL, 1000)) == 300


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "range", "get", "fail"]), st.binary(max_size=2), st.binary(max_size=2)),
    max_size=12,
)


@settings(deadline=None, max_examples=120)
@given(st.lists(OPERATIONS, max_size=8))
def test_engines_are_dictionaries(transactions: list) -> None:
    """Goal: all engines do what a dict does, within transactions and between them, also when some are undone."""
    folder = Path(tempfile.mkdtemp(prefix="dfs-store-", dir="/dev/shm"))
    with contextlib.ExitStack() as opened:
        opened.callback(shutil.rmtree, folder)
        engines = [opened.enter_context(engine(name, folder)) for name in ("memory", "sqlite", "etcd")]
        model: dict[bytes, bytes] = {}
        for steps in transactions:
            after, expected = _on_dict(dict(model), steps)
            for each in engines:
                assert _on_store(each, steps) == expected
            model = after if expected[-1] == "done" else model
            for each in engines:
                assert each.read(lambda tx: tx.range(*ALL, 1000)) == sorted(model.items())


def _on_dict(values: dict[bytes, bytes], steps: list) -> tuple[dict, list]:
    seen: list = []
    for what, key, other in steps:
        if what == "put":
            values[key] = other
        elif what == "delete":
            values.pop(key, None)
        elif what == "get":
            seen.append(values.get(key))
        elif what == "range":
            seen.append(sorted((k, v) for k, v in values.items() if key <= k < other)[:3])
        else:
            return values, [*seen, "failed"]
    return values, [*seen, "done"]


def _on_store(store: Store, steps: list) -> list:
    seen: list = []

    def operation(tx: Transaction) -> None:
        for what, key, other in steps:
            if what == "put":
                tx.put(key, other)
            elif what == "delete":
                tx.delete(key)
            elif what == "get":
                seen.append(tx.get(key))
            elif what == "range":
                seen.append(tx.range(key, other, 3))
            else:
                raise ZeroDivisionError

    try:
        store.transact(operation)
    except ZeroDivisionError:
        return [*seen, "failed"]
    return [*seen, "done"]


# -- SQLite alone


def test_sqlite_keeps_everything_over_close_and_reopening(tmp_path: Path) -> None:
    """Goal: what was transacted is there after a close, also what was never synced."""
    for number in range(4):
        store = SqliteStore(tmp_path / "store.db")
        assert keys_in(store, *ALL) == [b"%d" % n for n in range(number)]
        fill(store, b"%d" % number)
        store.close()


def test_two_stores_in_turn_and_sync_after_reopening(tmp_path: Path) -> None:
    """Goal: sync works on a reopened store before anything was written to it, and follows the log it then gets."""
    SqliteStore(tmp_path / "store.db").close()
    store = SqliteStore(tmp_path / "store.db")
    store.sync()
    fill(store, b"a")
    store.sync()
    assert os.fstat(store._log_file).st_ino == os.stat(tmp_path / "store.db-wal").st_ino
    store.close()


_WRITER = """
import sys
from pathlib import Path
from servers.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
number = 0
while True:
    store.transact(lambda tx: [tx.put(b"%08d %d" % (number, part), bytes(200)) for part in range(3)])
    print(number, flush=True)
    number += 1
    if number % 50 == 0:
        store.sync()
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_sqlite_keeps_what_was_acknowledged_when_it_is_killed(tmp_path: Path, seed: int) -> None:
    """Goal: SIGKILL in the middle of writing loses no acknowledged transaction and leaves no half of one."""
    choose = random.Random(seed)
    for _ in range(2):
        path = tmp_path / "store.db"
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, cwd=ROOT)
        wanted = choose.randrange(60, 250)
        for line in writer.stdout:
            if int(line) >= wanted:
                break
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([wanted, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        store = SqliteStore(path)
        found = keys_in(store, *ALL, 10_000)
        store.close()
        assert len(found) >= 3 * (acknowledged + 1)
        assert found == [b"%08d %d" % (number, part) for number in range(len(found) // 3) for part in range(3)]
        assert _integrity(path) == "ok"


def _integrity(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


def test_the_log_does_not_stay_large(tmp_path: Path) -> None:
    """Goal: after a checkpoint the log file is cut, so that later syncs do not each make a checkpoint again."""
    store = SqliteStore(tmp_path / "store.db")
    for number in range(12):
        store.transact(lambda tx, n=number: tx.put(b"%d" % n, os.urandom(1 << 20)))
    store.sync()
    fill(store, b"begins the log again")
    assert os.stat(tmp_path / "store.db-wal").st_size <= 8 << 20
    store.close()


_FILLER = """
import sys
from pathlib import Path
from dfsfuse.errors import NoSpace
from servers.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
for number in range(1000):
    try:
        store.transact(lambda tx: [tx.put(b"%04d %d" % (number, part), bytes(9000)) for part in range(3)])
    except NoSpace as error:
        print(number, len(store.read(lambda tx: tx.range(b"", b"~", 10_000))), "nothing was changed" in str(error))
        break
try:
    store.transact(lambda tx: tx.put(b"large", bytes(3 << 20)))
except NoSpace:
    print("again")
Path(sys.argv[1]).with_name("ballast").unlink()
store.transact(lambda tx: tx.put(b"after", b""))
print("goes on")
store.sync()
store.close()
"""


def test_a_full_disk_is_no_space_and_corrupts_nothing(folder: Path) -> None:
    """Goal: on a full disk a transaction raises NoSpace and leaves nothing; with space again the store goes on."""
    disk = folder / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip(f"no small file system can be mounted here: {mount.stderr.decode().strip()}")
    (disk / "ballast").write_bytes(bytes(1 << 20))
    command = [sys.executable, "-c", _FILLER, disk / "store.db"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    count, rows, *rest = done.stdout.split()
    assert (int(rows), rest) == (3 * int(count), ["True", "again", "goes", "on"])
    store = SqliteStore(disk / "store.db")
    assert len(keys_in(store, *ALL, 10_000)) == int(rows) + 1
    store.close()
    assert _integrity(disk / "store.db") == "ok"


def test_a_store_that_fails_says_which(tmp_path: Path) -> None:
    """Goal: a broken database is an error of ours that names the file, not one of SQLite's."""
    store = SqliteStore(tmp_path / "store.db")
    store.transact(lambda tx: tx._execute("DROP TABLE pairs"))
    with pytest.raises(DfsError, match=r"store\.db"):
        fill(store, b"a")
    with pytest.raises(DfsError, match=r"store\.db"):
        store.read(lambda tx: tx.get(b"a"))
    store.close()


def test_large_values_are_not_kept_in_memory(tmp_path: Path) -> None:
    """Goal: memory does not grow with the manifests of large files; a large value that becomes small, or the other way
    round, is read as what it is."""
    store = SqliteStore(tmp_path / "store.db")
    for number in range(300):
        store.transact(lambda tx, key=b"g%d" % number: tx.put(key, bytes(40_000)))
    assert sum(len(value or b"") for value in store._transaction._known.values()) < 1_000_000
    for size in (10, 40_000, 10):
        store.transact(lambda tx, size=size: tx.put(b"g0", bytes(size)))
        assert len(store.read(lambda tx: tx.get(b"g0"))) == size
    store.close()


def test_values_that_are_only_read_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: memory does not grow where clients look at a million files, and nobody changes anything."""
    monkeypatch.setattr(sqlite, "_KNOWN_MAX", 100)
    store = SqliteStore(tmp_path / "store.db")
    fill(store, *(b"k%d" % number for number in range(300)))
    for number in range(300):
        assert store.read(lambda tx, key=b"k%d" % number: tx.get(key)) is not None
        assert len(store._transaction._known) <= 102
    store.close()


def test_what_a_failed_sync_may_have_lost_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S10. The kernel reports a failed write of the log once, and takes the lost pages for clean. So the next
    sync that succeeds has brought everything into the database, and the log is not needed."""
    store = SqliteStore(tmp_path / "store.db")
    store.transact(lambda tx: tx.put(b"key", b"value"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", _fails)
        with pytest.raises(ServerError):
            store.sync()
    store.sync()
    (tmp_path / "after").mkdir()
    shutil.copy(tmp_path / "store.db", tmp_path / "after")
    after = SqliteStore(tmp_path / "after" / "store.db")
    assert after.read(lambda tx: tx.get(b"key")) == b"value"
    assert (tmp_path / "store.db-wal").stat().st_size == 0
    store.transact(lambda tx: tx.put(b"key", b"later"))
    store.sync()
    assert (tmp_path / "store.db-wal").stat().st_size > 0
    for opened in (store, after):
        opened.close()


def test_an_idle_store_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: who asks whether there is anything to sync is told of all that was written, also by an earlier process and
    while a sync goes on, and what a sync that failed has left; not of what was only read, or rolled back."""
    store = SqliteStore(tmp_path / "store.db")
    assert not store.is_synced
    store.sync()
    assert store.is_synced
    with pytest.raises(ValueError, match="no"):
        store.transact(lambda tx: (tx.put(b"a", b"1"), int("no")))
    store.transact(lambda tx: tx.get(b"a"))
    assert store.is_synced
    fill(store, b"a")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", _fails)
        with pytest.raises(ServerError):
            store.sync()
    assert not store.is_synced
    store.sync()
    fill(store, b"b")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda _: fill(store, b"c"))
        store.sync()
    assert not store.is_synced
    store.close()


def _fails(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_disk_that_fails_is_told_to_who_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an error of the errors module, which the directory survives, and the next sync works."""
    store = SqliteStore(tmp_path / "store.db")
    fill(store, b"a")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", _fails)
        with pytest.raises(ServerError, match="log"):
            store.sync()
    store.sync()
    store.close()
