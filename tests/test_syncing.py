"""fsync() of what was committed before: servers lose power, and what a client was told is safe is only in its cache."""

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import ancestors, errors
from dfsfuse.chunks import ENTRY_BYTES
from dfsfuse.messages import id_after_loss
from dfsfuse.openfiles import Handle
from dfsfuse.sparse_files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from servers import records, undurable, versions
from servers.store import Transaction
from servers.store.memory import MemoryStore


class Power:
    """The power of the directory: it has on its disk what was there at the latest `sync`."""

    def __init__(self, volume: Volume):
        self._volume = volume
        self.sync()

    def sync(self) -> None:
        self._on_disk = dict(self._volume.store.values)

    def cut(self) -> None:
        """And it is back."""
        store = self._volume.store
        store.values, store.keys = dict(self._on_disk), sorted(self._on_disk)
        self._volume.restart()
        for name in "ABC":
            self._volume.core.register(self._volume.heartbeat(name), self._volume.now_s)


@pytest.fixture
def volume() -> Volume:
    return Volume(MemoryStore())


@pytest.fixture
def power(volume: Volume) -> Power:
    return Power(volume)


@pytest.fixture
def here(volume: Volume, tmp_path: Path) -> Machine:
    return Machine(volume, Servers(), tmp_path / "here", 0.0)


@pytest.fixture
def there(here: Machine, tmp_path: Path) -> Machine:
    return Machine(here.volume, here.servers, tmp_path / "there", 0.0)


def go_back(tx: Transaction, ino: int) -> None:
    """As losses.py does it: the file has the content before the newest one again."""
    inode, row = records.get_inode(tx, ino), undurable.get(tx, ino)
    versions.revert(tx, ino, inode, row, len(row.between) - 1, id_after_loss(inode.commit_id))
    records.put_inode(tx, ino, inode)


def fsync(machine: Machine, handle: Handle) -> errors.DfsError | None:
    """What it returns."""
    try:
        machine.files.files.flush(handle, durable=True)
        return None
    except errors.DfsError as error:
        return error


def close(machine: Machine, handle: Handle) -> None:
    with contextlib.suppress(errors.DfsError):
        machine.close(handle)


@contextlib.contextmanager
def written(machine: Machine, *contents: bytes) -> Iterator[Handle]:
    """A descriptor of /f through which these were written, and each was committed without fsync."""
    handle = machine.open("/f", os.O_RDWR)
    for data in contents:
        machine.files.files.resize(handle, 0)
        machine.put(handle, data)
        machine.files.files.flush(handle)
    yield handle
    close(machine, handle)


# -- the directory has lost commits


@pytest.mark.parametrize("contents", [[b"new"], [b"new", b"and longer"], [b"x"] * 300])
def test_what_the_directory_has_lost_is_there_again(
    here: Machine, there: Machine, power: Power, contents: list[bytes]
) -> None:
    """Goal: S10: a power cut of the directory takes commits of the last second; fsync of the descriptor through which
    they were made makes the last of them the file's content again, for all, and nothing beside it."""
    here.write("/f", b"old content")
    power.sync()
    with written(here, *contents) as handle:
        power.cut()
        if len(contents) > ancestors.ANCESTORS_MAX:
            assert isinstance(fsync(here, handle), errors.VersionConflict), "nobody knows any more what it came from"
            assert there.read("/f") == b"old content"
            return
        assert fsync(here, handle) is None
        power.sync()
        power.cut()
        assert (there.read("/f"), there.names()) == (contents[-1], [b"f"])
        asked = here.session.asked.total()
        assert fsync(here, handle) is None
        assert here.session.asked.total() == asked, "it is on the disks"
    assert here.read("/f") == contents[-1]


def test_a_new_file_whose_content_is_lost(here: Machine, there: Machine, power: Power) -> None:
    """Goal: S10: the name is on the directory's disk, and its first commit is not."""
    handle = here.create("/f")
    power.sync()
    here.put(handle, b"new")
    here.files.files.flush(handle)
    power.cut()
    assert there.read("/f") == b""
    assert fsync(here, handle) is None
    assert there.read("/f") == b"new"
    here.close(handle)


def test_a_new_file_that_is_lost(here: Machine, there: Machine, power: Power) -> None:
    """Goal: S10, S4: where the file is gone with its name, fsync fails, and what was written is a copy."""
    handle = here.create("/f")
    here.put(handle, b"new")
    here.files.files.flush(handle)
    power.cut()
    assert isinstance(fsync(here, handle), errors.Stale)
    (copy,) = there.names()
    assert (copy.startswith(b"f (conflict here "), there.read("/" + copy.decode())) == (True, b"new")
    assert isinstance(fsync(here, handle), errors.Stale), "the file has not got it"
    close(here, handle)


def test_metadata_from_a_dump(here: Machine, there: Machine, power: Power) -> None:
    """Goal: a directory that does not know the session any more was made from a dump, which was wanted: what was
    committed after it is not put upon what is in it, but becomes a copy."""
    here.write("/f", b"in the dump")
    power.sync()
    with written(here, b"after it") as handle:
        power.cut()
        here.session.begin_anew()
        assert isinstance(fsync(here, handle), errors.VersionConflict)
        assert there.read("/f") == b"in the dump"
        (copy,) = {name for name in there.names() if name != b"f"}
        assert there.read("/" + copy.decode()) == b"after it"


def test_a_file_that_others_have_changed_since(here: Machine, there: Machine, power: Power) -> None:
    """Goal: S10, S4: what was lost is not put upon what others have made since: fsync fails, and it is a copy."""
    here.write("/f", b"old")
    power.sync()
    with written(here, b"mine") as handle:
        power.cut()
        there.write("/f", b"theirs")
        assert isinstance(fsync(here, handle), errors.LockLost)
        assert there.read("/f") == b"theirs"
        (copy,) = {name for name in there.names() if name != b"f"}
        assert there.read("/" + copy.decode()) == b"mine"
        assert fsync(here, handle) is not None


@pytest.mark.parametrize("promised", [False, True])
def test_a_descriptor_for_reading(volume: Volume, power: Power, tmp_path: Path, promised: bool) -> None:
    """Goal: S10: it does not matter through which descriptor: what was closed, and is read again, is put back, also
    where it was opened under a promise that the directory has forgotten."""
    here = Machine(volume, Servers(), tmp_path / "here", 0.0, watches=promised)
    here.write("/f", b"old")
    power.sync()
    here.write("/f", b"new")
    if promised:
        power.cut()
    handle = here.open("/f")
    if not promised:
        power.cut()
    assert here.files.files.read(handle, 100, 0) == b"new"
    assert fsync(here, handle) is None
    assert volume.at("/f").version == 2
    there = Machine(volume, here.servers, tmp_path / "there", 0.0)
    assert there.read("/f") == b"new"
    here.close(handle)


def test_what_others_have_committed_and_lost(here: Machine, there: Machine, power: Power) -> None:
    """Goal: S10: who only reads what another client has made does not say that it is safe when it is gone, and makes
    nothing of it."""
    here.write("/f", b"old")
    power.sync()
    there.write("/f", b"new")
    handle = here.open("/f")
    power.cut()
    assert isinstance(fsync(here, handle), errors.Lost)
    assert (here.volume.at("/f").version, there.names()) == (1, [b"f"])
    here.close(handle)


def test_the_next_commit_finds_it(here: Machine, there: Machine, power: Power) -> None:
    """Goal: what is written upon a content that is lost is no conflict with anybody: both are the file's content."""
    here.write("/f", b"old content")
    power.sync()
    with written(here, b"new content") as handle:
        power.cut()
        here.put(handle, b"NEW")
        assert here.files.files.flush(handle) is None
        assert (there.read("/f"), there.names()) == (b"NEW content", [b"f"])


def test_what_waits_to_be_sent_finds_it(here: Machine, there: Machine, power: Power) -> None:
    """Goal: S4: content that close() could not send, based on what is lost, is no conflict with anybody."""
    here.write("/f", b"old content")
    power.sync()
    with written(here, b"new content") as handle:
        here.put(handle, b"NEW")
        here.volume.core, core = None, here.volume.core
        with pytest.raises(AttributeError):
            here.files.files.flush(handle)
        here.volume.core = core
        power.cut()
        here.files.files.release(handle)
        assert here.unsent.count() == 1
        assert here.unsent.retry() == 0
        handle.content.handles[handle] = None
        here.cache.use(handle.content)
        handle.content.writers += 1
    assert (there.read("/f"), there.names()) == (b"NEW content", [b"f"])


@pytest.mark.parametrize("seed", range(30))
def test_any_changes(here: Machine, there: Machine, power: Power, seed: int) -> None:
    """Goal: whatever lies between what the directory has and what it had, in size, holes and content: all of it is
    there again. What was never fetched need not be here."""
    chance = random.Random(seed)
    here.write("/f", b"begin")
    there.write("/f", chance.randbytes(100_000))
    data = bytearray(there.read("/f"))
    handle, synced = here.open("/f", os.O_RDWR), chance.randrange(6)
    for step in range(7):
        if step == synced:
            power.sync()
        _change(here, handle, data, chance)
        here.files.files.flush(handle)
    power.cut()
    assert fsync(here, handle) is None
    assert there.read("/f") == data
    here.close(handle)


def _change(machine: Machine, handle: Handle, data: bytearray, chance: random.Random) -> None:
    kind, size = chance.choice(("write", "resize", "punch")), len(data)
    if kind == "resize":
        size = chance.choice((0, 1, size // 2, ENTRY_BYTES + 1000, 3 * ENTRY_BYTES))
        machine.files.files.resize(handle, size)
        data[size:] = bytes(max(0, size - len(data)))
        return
    start = chance.randrange(size + 1)
    if kind == "write":
        new = chance.randbytes(chance.choice((1, 5000, 300_000)))
        machine.put(handle, new, start)
        data[start : start + len(new)] = new
    elif start < size:
        end = chance.randrange(start + 1, size + 1)
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        machine.files.fallocate(handle, mode, start, end - start)
        data[start:end] = bytes(end - start)


# -- the file servers have lost chunks


@pytest.mark.parametrize("contents", [[b"new"], [b"newer", b"new"]])
@pytest.mark.parametrize("times", [1, 2])
def test_what_the_file_servers_have_lost_is_there_again(
    here: Machine, there: Machine, power: Power, contents: list[bytes], times: int
) -> None:
    """Goal: S10: where the chunks are gone the file has gone back to an older content; what is still here is sent
    again."""
    here.write("/f", b"old")
    with written(here, *contents) as handle:
        here.servers.chunks.clear()
        for _ in range(times):
            here.volume.store.transact(lambda tx: go_back(tx, handle.content.ino))
        reverted = here.volume.at("/f")
        assert fsync(here, handle) is None
        assert (there.read("/f"), there.names()) == (b"new", [b"f"])
        assert here.volume.at("/f").version == reverted.version + 1


def test_what_is_nowhere_any_more(here: Machine, there: Machine, power: Power) -> None:
    """Goal: S10, S15: what the client has never had, and the servers have lost, cannot be put back: fsync fails, and
    what there is becomes a copy."""
    size = 2 * ENTRY_BYTES
    here.write("/f", b"old")
    power.sync()
    there.write("/f", random.Random(1).randbytes(size))
    handle = here.open("/f", os.O_RDWR)
    here.put(handle, b"NEW")
    here.files.files.flush(handle)
    power.cut()
    here.servers.chunks.clear()
    assert isinstance(fsync(here, handle), errors.Lost | errors.VersionConflict)
    assert here.volume.at("/f").version == 1
    assert len(there.names()) == 2
    close(here, handle)


# -- what is not lost


@pytest.mark.parametrize("count", [1, 9, 20])
def test_what_others_have_replaced_since(here: Machine, there: Machine, count: int) -> None:
    """Goal: S10: a descriptor shows an older version than the file's, however many came after it: nothing is lost, and
    nothing is put back."""
    here.write("/f", b"mine")
    handle = here.open("/f")
    for number in range(count):
        there.write("/f", b"%d" % number)
    assert fsync(here, handle) is None
    assert here.files.files.read(handle, 100, 0) == b"mine"
    assert (here.volume.at("/f").version, there.names()) == (1 + count, [b"f"])
    here.close(handle)


def test_what_others_here_are_writing(here: Machine, there: Machine) -> None:
    """Goal: S10: what is read through a descriptor is on disks after its fsync, also what another program of this mount
    is writing and has not closed, as on a local disk."""
    here.write("/f", b"old content")
    writer, reader = here.open("/f", os.O_RDWR), here.open("/f")
    here.put(writer, b"NEW")
    assert here.files.files.read(reader, 100, 0) == b"NEW content"
    assert fsync(here, reader) is None
    assert there.read("/f") == b"NEW content"
    for handle in (reader, writer):
        here.close(handle)


def test_what_close_could_not_send(here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S10, S4: who reads what could not be sent is told so by fsync, or it is sent then."""
    here.write("/f", b"old")
    handle = here.open("/f", os.O_RDWR)
    here.put(handle, b"new")
    silent = errors.TimedOut("the servers do not answer")
    with monkeypatch.context() as patched:
        patched.setattr(here.servers, "upload", lambda *_, **__: (_ for _ in ()).throw(silent))
        with pytest.raises(errors.TimedOut):
            here.close(handle)
        reader = here.open("/f")
        assert fsync(here, reader) is silent
    assert there.read("/f") == b"old"
    assert fsync(here, reader) is None
    assert there.read("/f") == b"new"
    here.close(reader)


def test_an_empty_file(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what has no content asks nothing of file servers."""
    monkeypatch.setattr(here.servers, "sync_until", None)
    handle = here.create("/f")
    assert fsync(here, handle) is None
    assert here.session.asked["Durable"] == 1
    here.close(handle)
