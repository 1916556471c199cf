"""SQLite databases that are open on two mounts at once: every transaction is kept, nobody is refused without need."""

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Mount, MountedCluster, python, wait_until

pytestmark = pytest.mark.mounted

TRANSACTIONS = """
import sqlite3, sys
path, who, count, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
db = sqlite3.connect(path, timeout=60, isolation_level=None)
print('connected', flush=True)
sys.stdin.readline()
db.execute(f'PRAGMA journal_mode={mode}')
for number in range(count):
    db.execute('BEGIN IMMEDIATE')
    (latest,) = db.execute('SELECT coalesce(max(serial), 0) FROM entries').fetchone()
    db.execute('INSERT INTO entries VALUES (?, ?, ?)', (who, number, latest + 1))
    db.execute('COMMIT')
db.close()
"""


@pytest.fixture(scope="module")
def first(shared: MountedCluster) -> Mount:
    """Opens for writing wait less long here: the log of a write-ahead database is open for writing as long as it is."""
    return shared.mount("--lock-wait", 2)


@pytest.fixture(scope="module")
def second(shared: MountedCluster) -> Mount:
    return shared.mount("--lock-wait", 2)


def made(path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE entries (who TEXT, number INTEGER, serial INTEGER)")
        db.commit()
    return path


def worker(path: Path, who: str, count: int, mode: str) -> subprocess.Popen:
    """It has the database open, and begins when a line is written to it."""
    process = python(TRANSACTIONS, path, who, count, mode, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "connected\n", process.stderr.read()
    return process


def check(path: Path, wanted: dict[str, int]) -> None:
    """Every row is there, each transaction saw all before it, and the file is whole."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = db.execute("SELECT who, number, serial FROM entries ORDER BY serial").fetchall()
    assert [serial for _, _, serial in rows] == list(range(1, sum(wanted.values()) + 1))
    for who, count in wanted.items():
        assert [number for name, number, _ in rows if name == who] == list(range(count))


@pytest.mark.parametrize(("mode", "count"), [("delete", 100), ("truncate", 25), ("persist", 25)])
def test_transactions_of_two_mounts_at_once(two_mounts, mode, count):
    """Goal: one process on each mount, both with the database open all the time; no EBUSY, every transaction kept."""
    made(two_mounts[0] / "db")
    workers = [worker(side / "db", f"mount {number}", count, mode) for number, side in enumerate(two_mounts)]
    for process in workers:
        process.stdin.write("begin\n")
        process.stdin.flush()
    for process in workers:
        assert process.communicate(timeout=90)[1] == ""
        assert process.returncode == 0
    for side in two_mounts:
        check(side / "db", {"mount 0": count, "mount 1": count})


def test_four_processes_on_two_mounts(two_mounts):
    """Goal: the same with two on each, which share their mount's cache and pages."""
    made(two_mounts[0] / "db")
    workers = [worker(two_mounts[number % 2] / "db", f"process {number}", 15, "delete") for number in range(4)]
    for process in workers:
        process.stdin.write("begin\n")
        process.stdin.flush()
    for process in workers:
        assert process.communicate(timeout=90)[1] == ""
    check(two_mounts[0] / "db", {f"process {number}": 15 for number in range(4)})


@pytest.fixture
def two_connections(two_mounts) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """The same database, from both mounts."""
    made(two_mounts[0] / "db")
    with contextlib.ExitStack() as closing:
        yield tuple(
            closing.enter_context(contextlib.closing(sqlite3.connect(side / "db", timeout=30, isolation_level=None)))
            for side in two_mounts
        )


def test_in_turns(two_connections):
    """Goal: what one has committed, the other reads next, without closing anything; large rows and small ones."""
    for number in range(20):
        writer, reader = two_connections[number % 2], two_connections[1 - number % 2]
        writer.execute("INSERT INTO entries VALUES (?, ?, ?)", ("x" * 10_000 * (number % 3), number, number))
        assert reader.execute("SELECT count(*), max(number) FROM entries").fetchone() == (number + 1, number)
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_reader_in_its_transaction(two_connections):
    """Goal: while one reads, the other can prepare to write, and is told to wait only when it commits; the reader's
    transaction sees one state of the database."""
    reader, writer = two_connections
    writer.execute("INSERT INTO entries VALUES ('first', 1, 1)")
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM entries").fetchone() == (1,)
    writer.execute("PRAGMA busy_timeout = 300")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO entries VALUES ('second', 2, 2)")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        writer.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM entries").fetchone() == (1,)
    reader.execute("COMMIT")
    writer.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM entries").fetchone() == (2,)


def test_a_transaction_that_died_half_written_is_rolled_back_by_the_other_mount(two_mounts):
    """Goal: the program is killed while parts of its transaction are in the database file; the other mount finds the
    journal and restores what was before."""
    path = made(two_mounts[0] / "db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executemany("INSERT INTO entries VALUES (?, ?, ?)", [("x" * 500, n, n) for n in range(1000)])
        db.commit()
    dying = python(
        """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA cache_size = 5')
db.execute('BEGIN')
db.execute("UPDATE entries SET who = 'half written' || number")
print(os.path.getsize(sys.argv[1] + '-journal'), flush=True)
sys.stdin.readline()
""",
        path,
        stdin=subprocess.PIPE,
    )
    assert int(dying.stdout.readline()) > 100_000
    dying.send_signal(signal.SIGKILL)
    dying.wait(30)
    with contextlib.closing(sqlite3.connect(two_mounts[1] / "db", timeout=60)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM entries WHERE who LIKE 'half%'").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (1000,)
    dying.communicate()


def test_a_database_with_a_write_ahead_log(two_mounts):
    """Goal: its index is memory that programs of one machine share. On one mount it works with several; another mount
    is refused as long as they have it open, and neither harms the other."""
    path = made(two_mounts[0] / "db")
    with contextlib.closing(sqlite3.connect(path)) as first, contextlib.closing(sqlite3.connect(path)) as second:
        assert first.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        for number in range(10):
            writer, reader = (first, second) if number % 2 else (second, first)
            writer.execute("INSERT INTO entries VALUES ('wal', ?, ?)", (number, number + 1))
            writer.commit()
            assert reader.execute("SELECT count(*) FROM entries").fetchone() == (number + 1,)
            if number in (0, 5):
                with contextlib.closing(sqlite3.connect(two_mounts[1] / "db", timeout=1)) as other:
                    for statement in ("SELECT * FROM entries", "INSERT INTO entries VALUES ('lost', 0, 0)"):
                        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
                            other.execute(statement).fetchall()
        assert first.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def readable() -> bool:
        with contextlib.closing(sqlite3.connect(two_mounts[1] / "db", timeout=5)) as other:
            with contextlib.suppress(sqlite3.OperationalError):
                return bool(other.execute("SELECT count(*) FROM entries").fetchone())
        return False

    wait_until(readable, "the other mount may use it once nobody has it open", 5)
    check(two_mounts[1] / "db", {"wal": 10})
    check(two_mounts[0] / "db", {"wal": 10})


def test_the_clients_of_a_write_ahead_log_die(fresh: MountedCluster):
    """Goal: with the client of the one mount killed, the other one recovers what was committed from the log."""
    one, other = fresh.mount(), fresh.mount()
    path = made(one.point / "db")
    writing = python(
        """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA journal_mode=WAL')
db.execute('PRAGMA synchronous=FULL')
for number in range(5):
    db.execute('INSERT INTO entries VALUES (?, ?, ?)', ('wal', number, number + 1))
print('written', flush=True)
sys.stdin.readline()
""",
        path,
        stdin=subprocess.PIPE,
    )
    assert writing.stdout.readline() == "written\n"
    one.kill()
    os.kill(writing.pid, signal.SIGKILL)
    writing.communicate()

    def recovered() -> bool:
        with contextlib.suppress(sqlite3.OperationalError):
            check(other.point / "db", {"wal": 5})
            return True
        return False

    wait_until(recovered, "the other mount has recovered the database", 60)
