"""Programs that work on a mount and write down what was acknowledged.

python -m faults.loads KIND MOUNT JOURNAL SEED goes on until there is a file JOURNAL.end, and ends between two steps. An
error is no failure of the run, as a call may end with one while its servers are away: what it was about is then neither
acknowledged nor forgotten. What must never be seen is noted as WRONG.
"""

import random
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .git import Git
from .journal import BEGAN, DONE, FAILED, WRONG, Journal, Known, Reader

COUNTERS = 8
MOVED = 6
FOLDERS = ("here", "there")
SIZES = (20, 3_000, 150_000, 900_000)
SQLITE_WAIT_S = 20.0
_PAUSE_S = 0.02


def content(key: str, number: int, size: int) -> bytes:
    """What a file has at its number: lines that all say it, so a mixture of two is seen."""
    line = f"{key} {number:09d}\n".encode()
    return line * max(1, size // len(line))


def number_in(data: bytes, key: str) -> int:
    """Raises ValueError with what is wrong with it."""
    lines = set(data.splitlines())
    if len(lines) != 1:
        raise ValueError(f"{key} has lines of {len(lines)} versions: {sorted(lines)[:3]}")
    name, _, number = lines.pop().decode(errors="replace").partition(" ")
    if name != key:
        raise ValueError(f"{key} has the content of {name!r}")
    return int(number)


class Load:
    """One program. `step` does one thing and notes it."""

    pause_s = _PAUSE_S

    def __init__(self, mount: Path, journal: Path, seed: int):
        self.mount, self.journal, self.random = mount, Journal(journal), random.Random(seed)
        self.journals = journal.parent
        self.known = Known(Reader(journal)).update()

    def attempt(self, what: str, value: int, work: Callable[[], object]) -> bool:
        """Whether it was acknowledged."""
        self.journal.note(BEGAN, what, value)
        try:
            work()
        except (OSError, sqlite3.Error) as error:
            self.journal.note(FAILED, what, value, f"{getattr(error, 'sqlite_errorname', '')} {error}".strip())
            return False
        self.journal.note(DONE, what, value)
        return True

    def prepare(self) -> None:
        """What has to be there before the first step."""

    def step(self) -> None:
        raise NotImplementedError


class Counters(Load):
    """Writes files in turn, each time with the next number, and closes them; it is the only one that writes them."""

    number = 0

    def step(self) -> None:
        self.number += 1
        key, size = f"counter-{self.random.randrange(COUNTERS)}", self.random.choice(SIZES)
        self.attempt(key, self.number, lambda: (self.mount / key).write_bytes(content(key, self.number, size)))


class Readers(Load):
    """Reads, on another mount, what Counters writes: never older than what was acknowledged before the open (S2), never
    a mixture (S3)."""

    def prepare(self) -> None:
        self.written = Known(Reader(self.journals / "counters"))

    def step(self) -> None:
        known = dict(self.written.update().acknowledged)
        if not known:
            return
        key = self.random.choice(sorted(known))
        self.attempt(f"read {key}", known[key], lambda: self._read(key, known[key]))

    def _read(self, key: str, at_least: int) -> None:
        try:
            found = number_in((self.mount / key).read_bytes(), key)
            wrong = f"{key} has {found}, older than {at_least}, which was closed before" if found < at_least else ""
        except (ValueError, FileNotFoundError) as error:
            wrong = str(error)
        if wrong:
            self.journal.note(WRONG, key, at_least, wrong)


class Mover(Load):
    """Moves files between two folders. Whether a move that failed has happened is looked up before the next one."""

    def prepare(self) -> None:
        self.place: dict[str, int] = {}
        for folder in FOLDERS:
            (self.mount / folder).mkdir(exist_ok=True)
        for number in range(MOVED):
            name = f"moved-{number}"
            if self.attempt(name, 0, lambda n=name: (self.mount / FOLDERS[0] / n).write_bytes(content(n, 0, 5000))):
                self.place[name] = 0

    def step(self) -> None:
        name = self.random.choice(sorted(self.place))
        to = 1 - self.place[name]
        old, new = (self.mount / FOLDERS[folder] / name for folder in (1 - to, to))
        if self.attempt(name, to, lambda: old.rename(new)):
            self.place[name] = to
        else:
            self._look_up(name)

    def _look_up(self, name: str) -> None:
        """Until it is answered."""
        while True:
            try:
                found = [name in {path.name for path in (self.mount / folder).iterdir()} for folder in FOLDERS]
            except OSError:
                time.sleep(_PAUSE_S)
                continue
            if sum(found) != 1:
                self.journal.note(WRONG, name, 0, f"after a rename that failed {name} is in {sum(found)} folders")
                return
            self.place[name] = found.index(True)
            # What was found is as good as acknowledged.
            self.attempt(name, self.place[name], lambda: None)
            return


class Sqlite(Load):
    """Transactions on a database that the loads of both mounts use; each adds a row, and 1 to a total."""

    # SQLite asks again and again for its lock: who has just had it is the likeliest to get it.
    pause_s = 0.4
    number = 0

    def prepare(self) -> None:
        self.writer = self.mount.name
        self.database: sqlite3.Connection | None = None

    def step(self) -> None:
        self.number += 1
        if not self.attempt(self.writer, self.number, self._transaction):
            self._drop()

    def _transaction(self) -> None:
        if self.database is None:
            file = self.mount / "ledger.db"
            self.database = sqlite3.connect(file, timeout=SQLITE_WAIT_S, isolation_level=None)
        run = self.database.execute
        run("BEGIN IMMEDIATE")
        run("CREATE TABLE IF NOT EXISTS ledger (writer TEXT, number INT, PRIMARY KEY (writer, number))")
        run("CREATE TABLE IF NOT EXISTS total (sum INT)")
        run("INSERT INTO ledger VALUES (?, ?)", (self.writer, self.number))
        run("INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT * FROM total)")
        run("UPDATE total SET sum = sum + 1")
        run("COMMIT")

    def _drop(self) -> None:
        """A connection that has met an error may be in any state."""
        database, self.database = self.database, None
        if database is not None:
            try:
                database.close()
            except sqlite3.Error as error:
                self.journal.note(FAILED, "close", self.number, str(error))


class Commits(Load):
    """git: a commit in a repository of its own, again and again."""

    pause_s = 0.3
    number = 0

    def prepare(self) -> None:
        self.git = Git(self.mount / "repository")
        while not self.attempt("git init", 0, self.git.init):
            time.sleep(self.pause_s)

    def step(self) -> None:
        self.number += 1
        if not self.attempt("commit", self.number, lambda: self.git.commit(self.number)):
            self.attempt("git clean", self.number, self.git.remove_locks)


KINDS: dict[str, type[Load]] = {
    "counters": Counters, "readers": Readers, "mover": Mover, "sqlite": Sqlite, "git": Commits,
}  # fmt: skip


def main(kind: str, mount: str, journal: str, seed: str) -> None:
    load = KINDS[kind](Path(mount), Path(journal), int(seed))
    load.prepare()
    while not Path(journal + ".end").exists():
        load.step()
        time.sleep(load.pause_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
