"""The directory is killed, at random moments and at each step of its store: what it has acknowledged is there, nothing
is there by half, and what is asked again is not done twice."""

import random
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from failing_disk import failing_disk
from loaded_directory import Load
from models import check_tree
from support import small_disk, wait_until
from test_directory_service import Service
from volumes import FILE, FOLDER, Volume, names, on, piece

from dfsfuse import errors, messages
from dfsfuse.chunks import Piece
from dfsfuse.messages import Change, Manifest, Segment
from servers.store.sqlite import SqliteStore, SqliteTransaction


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path).start()
    yield made
    if made.process.poll() is None:
        made.kill()


def assert_sound(database: Path) -> None:
    """SQLite finds no fault, nor does the oracle."""
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = SqliteStore(database)
    check_tree(store)
    store.close()


# -- a process, at any moment


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment(service: Service, seed: int) -> None:
    """Goal: S1, S9. A real process under load is killed many times, also while it starts: each operation that was
    answered is there, none is by half, none was done twice."""
    choose, load = random.Random(seed), Load(service, 4, seed)
    for _ in range(15):
        before = load.steps
        wait_until(lambda before=before: load.steps > before + 20 or load.failures, "the clients get on")
        time.sleep(choose.random() * 0.05)
        service.kill()
        if choose.random() < 0.3:
            service.launch()
            time.sleep(choose.random() * 0.4)
            service.kill()
        service.start()
    load.end()
    assert sum(client.repeated for client in load.clients) > 15
    service.kill()
    assert_sound(service.home / "directory.db")


# -- at each step of the store


class Killed(BaseException):
    """The process is gone."""


class MortalTransaction(SqliteTransaction):
    """Dies at one of its steps: before a row is written or deleted, before and after the commit."""

    steps_left = 1 << 60

    def _step(self) -> None:
        self.steps_left -= 1
        if not self.steps_left:
            raise Killed

    def put(self, key: bytes, value: bytes) -> None:
        self._step()
        super().put(key, value)

    def delete(self, key: bytes) -> None:
        self._step()
        super().delete(key)

    def commit(self) -> None:
        self._step()
        super().commit()
        self._step()


class MortalStore(SqliteStore):
    """`kill_at`: the step at which it dies, counted from now."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._transaction = MortalTransaction(self._connection)

    def kill_at(self, step: int) -> None:
        self._transaction.steps_left = step


def once(number: int) -> dict[str, int]:
    return {"session": 1, "slot": 1, "sequence": number}


def large_segment() -> messages.PutSegments:
    part = Segment(b"s" * 16, 0, [[piece(b"one")], [Piece(b"", 5, 10), piece(b"two", 40)]])
    receipts = [on("AC", b"one"), on("ABC", b"two")]
    return messages.PutSegments(
        session=1, ino=INOS["other"], base_version=0, base_commit_id=b"", segments=[part], receipts=receipts
    )


INOS = {"file": 3, "other": 4}
_COMMIT = {"token": 0, "mtime_ns": 5, "ctime_ns": 6, "commit_id": b"c" * 16}
CHANGES: dict[str, Callable[[], Change]] = {
    "create": lambda: messages.Create(names=names("folder/new"), ino=0, mode=FILE, opening=9, token=1, **once(1)),
    "create a folder": lambda: messages.Create(names=names("new"), ino=0, mode=FOLDER, **once(1)),
    "create unnamed": lambda: messages.Create(names=[], ino=0, mode=FILE, unnamed=True, opening=9, **once(1)),
    "link": lambda: messages.Link(names=names("file"), new_names=names("folder/link"), **once(1)),
    "remove": lambda: messages.Remove(names=names("file"), **once(1)),
    "remove what is open": lambda: messages.Remove(names=names("other"), **once(1)),
    "remove a folder": lambda: messages.Remove(names=names("folder/empty"), folder=True, **once(1)),
    "rename": lambda: messages.Rename(names=names("file"), new_names=names("folder/moved"), **once(1)),
    "replace": lambda: messages.Rename(names=names("other"), new_names=names("file"), **once(1)),
    "exchange": lambda: messages.Rename(names=names("file"), new_names=names("folder"), flags=2, **once(1)),
    "set attributes": lambda: messages.SetAttributes(names=names("file"), mode=0o600, uid=5, **once(1)),
    "set an attribute": lambda: messages.SetXattr(names=names("file"), name=b"user.b", value=b"v", **once(1)),
    "remove an attribute": lambda: messages.RemoveXattr(names=names("file"), name=b"user.a", **once(1)),
    "commit": lambda: messages.Commit(
        ino=INOS["file"], base_version=1, base_commit_id=b"1" * 16, size=3, manifest=Manifest([[piece(b"new")]]),
        receipts=[on("AB", b"new")], **_COMMIT, **once(1)),
    "commit with an error": lambda: messages.Commit(
        ino=INOS["file"], base_version=7, base_commit_id=b"7" * 16, size=0, manifest=Manifest(), **_COMMIT, **once(1)),
}  # fmt: skip
OTHERS: dict[str, Callable[[Volume], Any]] = {
    "put segments": lambda volume: volume.core.put_segments(large_segment(), volume.now_s),
    "open": lambda volume: volume.open(INOS["file"], 1, opening=20, token=9, atime_ns=1 << 60),
    "close": lambda volume: volume.close(1, INOS["other"], opening=30),
    "end a session": lambda volume: volume.core.end(messages.End(1)),
    "quota": lambda volume: volume.core.quota(messages.Quota(bytes_max=1 << 30)),
    "register": lambda volume: volume.core.register(volume.heartbeat("D"), volume.now_s),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a volume with a little of everything."""
    path = tmp_path_factory.mktemp("base") / "directory.db"
    volume = Volume(SqliteStore(path))
    volume.core.begin(messages.Begin(key=b"k" * 16), volume.now_s)
    for name, mode in (("folder", FOLDER), ("file", FILE), ("other", FILE), ("folder/empty", FOLDER)):
        INOS[name] = volume.make(name, mode).ino
    volume.commit(INOS["file"], b"old", commit_id=b"1" * 16)
    volume.open(INOS["other"], 1, opening=1)
    volume.open(INOS["file"], 1, opening=2)
    volume.change(messages.SetXattr(names=names("file"), name=b"user.a", value=b"v"))
    volume.store.close()
    return path


def asked(volume: Volume, request: Change) -> type | None:
    """How it ends: with a reply, or an error."""
    try:
        if isinstance(request, messages.Commit):
            volume.core.commit(request, 10**12, volume.now_s)
        else:
            volume.core.change(request, 10**12)
    except errors.DfsError as error:
        return type(error)
    return None


def rows_after(base: Path, folder: Path, work: Callable[[Volume], Any], kill_at: int) -> tuple[list, Any, bool]:
    """(all rows, the outcome, whether the store was killed) of work that is repeated after a kill at that step."""
    path = folder / "directory.db"
    shutil.copy(base, path)
    store = MortalStore(path)
    volume, killed, outcome = Volume(store), False, None
    store.kill_at(kill_at)
    try:
        outcome = work(volume)
    except Killed:
        killed = True
    store._connection.close()
    store.close()
    volume = Volume(SqliteStore(path))
    if killed:
        outcome = work(volume)
    rows = volume.store.read(lambda tx: tx.range(b"", b"\xff", 100_000))
    volume.check()
    volume.store.close()
    for file in folder.iterdir():
        file.unlink()
    return rows, outcome, killed


@pytest.mark.parametrize("what", [*CHANGES, *OTHERS])
def test_killed_at_each_step(base: Path, tmp_path: Path, what: str) -> None:
    """Goal: S1. Whatever step of an operation was the last one: after the restart, and the client's repetition, every
    row and the outcome are what they are without a kill."""
    work = OTHERS.get(what) or (lambda volume: asked(volume, CHANGES[what]()))
    rows, outcome, _ = rows_after(base, tmp_path, work, 1 << 40)
    step, killed = 1, True
    while killed:
        after, again, killed = rows_after(base, tmp_path, work, step)
        assert (after, again) == (rows, outcome), f"killed at step {step}"
        step += 1
    assert step > 3, "nothing was written"


def test_numbers_are_not_given_out_twice(base: Path, tmp_path: Path) -> None:
    """Goal: what is given out before a kill is not given out after it, whether it was heard or not."""
    step, killed = 1, True
    while killed:
        path = tmp_path / "directory.db"
        shutil.copy(base, path)
        store = MortalStore(path)
        volume, given = Volume(store), []
        store.kill_at(step)
        killed = False
        try:
            for number in range(2):
                begun = volume.core.begin(messages.Begin(key=b"%016d" % number), volume.now_s)
                given.append((begun.session, begun.inodes.first))
        except Killed:
            killed = True
        store._connection.close()
        store.close()
        volume = Volume(SqliteStore(path))
        begun = volume.core.begin(messages.Begin(key=secrets.token_bytes(16)), volume.now_s)
        assert all(begun.session > session and begun.inodes.first > first for session, first in given)
        volume.store.close()
        step += 1
    assert step > 6


# -- a disk that is full


def test_a_full_disk_under_load(folder: Path) -> None:
    """Goal: S4. Where the directory's disk fills up, changes are refused and reading goes on; what was acknowledged
    before stays, also over a kill; with room again everything that was asked is done, once."""
    with small_disk(folder / "disk", 24):
        service = Service(folder / "disk" / "home")
        service.home.mkdir()
        service.start()
        try:
            load = Load(service, 3, 7)
            for number in range(3):
                before = load.steps
                wait_until(lambda before=before: load.steps > before + 100 or load.failures, "the clients get on")
                fill(folder / "disk" / "ballast")
                refused = wait_until(lambda: refusal(service), "the disk is full", 30)
                assert isinstance(refused, errors.NoSpace)
                assert "nothing was changed" in str(refused)
                assert service.json("list")["entries"], "reading goes on"
                if number:
                    service.kill()
                (folder / "disk" / "ballast").unlink()
                if number:
                    service.start()
            before = load.steps
            wait_until(lambda: load.steps > before + 100 or load.failures, "the clients get on")
            load.end()
        finally:
            service.kill()
        assert_sound(service.home / "directory.db")


def fill(path: Path) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=4096", "status=none"], check=False, capture_output=True)


def refusal(service: Service) -> errors.DfsError | None:
    """The error with which a change ends."""
    try:
        service.json("set_attributes", base=1, mtime_ns=random.randrange(1 << 40))
    except errors.DfsError as error:
        return error
    return None


# -- a disk that fails


@pytest.mark.mounted
def test_a_failing_disk_under_load(folder: Path) -> None:
    """Goal: S10. While the disk of the directory fails (EIO from a file system below it), changes and syncs are refused
    and reading goes on; nothing that was acknowledged is lost then or by a kill, nothing is there by half, and once the
    disk works everything that was asked is done, once."""
    with failing_disk(folder) as disk:
        service = Service(disk.point)
        service.start()
        try:
            load = Load(service, 3, 11)
            for number in range(4):
                before = load.steps
                wait_until(lambda before=before: load.steps > before + 60 or load.failures, "the clients get on")
                with disk.failing():
                    refused = wait_until(lambda: refusal(service), "the disk fails")
                    assert isinstance(refused, errors.ServerError), refused
                    with pytest.raises(errors.ServerError):
                        service.json("sync")
                    assert service.json("list")["entries"], "reading goes on"
                    if number % 2:
                        service.kill()
                if number % 2:
                    service.start()
            before = load.steps
            wait_until(lambda: load.steps > before + 60 or load.failures, "the clients get on")
            load.end()
            service.json("sync")
        finally:
            service.kill()
        assert_sound(disk.below / "directory.db")
