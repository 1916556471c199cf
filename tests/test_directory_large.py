"""Large folders at the directory: what an operation costs does not depend on how many entries the folder has, memory
stays flat, and a listing is stable while others change the folder."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counted_rows import CountingStore
from volumes import FILE, FOLDER, Volume, volume_on

from dfsfuse import errors, messages
from dfsfuse.messages import LIST_PAGE_MAX, ROOT_INO
from servers import records, tree
from servers.store import Transaction
from servers.store.memory import MemoryStore

MANY, BATCH = 100_000, 500
FLAT_BYTES = 48 << 20


def _costs(entries: int) -> dict[str, int]:
    """Operation -> rows that it touched in a folder with so many entries."""
    volume, costs = Volume(CountingStore(MemoryStore())), {}
    folder = volume.make("d", FOLDER).ino
    for path in ("empty", "e"):
        volume.make(path, FOLDER)
    for number in range(entries):
        volume.make(f"d/{number:06}")
    session = volume.begin()

    def count(what: str, act: Callable[[], Any]) -> None:
        before = volume.store.rows
        try:
            act()
        except errors.DfsError as error:
            what += f" {error.code}"
        costs[what] = volume.store.rows - before

    count("create", lambda: volume.make("d/new"))
    count("create exists", lambda: volume.make("d/000001"))
    count("mkdir", lambda: volume.make("d/sub", FOLDER))
    count("link", lambda: volume.link("d/new", "d/linked"))
    count("lookup", lambda: volume.at("d/000003"))
    count("lookup missing", lambda: volume.at("d/none"))
    count("path", lambda: volume.path_of(volume.at("d/000003").ino))
    count("rename within", lambda: volume.rename("d/new", "d/newer"))
    count("rename over", lambda: volume.rename("d/newer", "d/000002"))
    count("rename out", lambda: volume.rename("d/linked", "moved"))
    count("exchange", lambda: volume.rename("d/000001", "moved", messages.RENAME_EXCHANGE))
    count("rename the folder", lambda: volume.rename("d", "d2"))
    count("rename over the folder", lambda: volume.rename("e", "d2"))
    count("rename over an empty folder", lambda: volume.rename("d2", "empty"))
    count("set attributes of the folder", lambda: volume.set("empty", mode=0o700))
    count("open", lambda: volume.open(volume.at("empty/000004").ino, session, opening=1))
    count("commit", lambda: volume.commit(volume.at("empty/000004").ino, b"x"))
    count("unlink", lambda: volume.remove("empty/000005"))
    count("unlink open", lambda: volume.remove("empty/000004"))
    count("rmdir", lambda: volume.remove("empty/sub", folder=True))
    count("rmdir of the folder", lambda: volume.remove("empty", folder=True))
    count("one page", lambda: volume.listing("empty", limit=5))
    count("the next page", lambda: volume.listing("empty", after=b"000006", limit=2))
    assert volume.at("empty").ino == folder
    return costs


def test_no_operation_costs_more_in_a_large_folder() -> None:
    """Goal: every operation touches the same rows whether the folder has 20 entries or 3,000."""
    assert _costs(20) == _costs(3000)


def lose_parent(tx: Transaction, folder: int, name: bytes, ino: int) -> None:
    tx.delete(records.parent_key(ino, folder, name))


def lose_inode(tx: Transaction, folder: int, name: bytes, ino: int) -> None:
    tx.delete(records.inode_key(ino))


def mistake_type(tx: Transaction, folder: int, name: bytes, ino: int) -> None:
    tx.put(records.entry_key(folder, name), records.pack_entry(ino, FOLDER))


def lose_name(tx: Transaction, folder: int, name: bytes, ino: int) -> None:
    tx.delete(records.entry_key(folder, name))
    lose_parent(tx, folder, name, ino)


def _repair_costs(entries: int, how: Callable[[Transaction, int, bytes, int], None]) -> float:
    """Rows for each entry, where all entries of a folder are broken and repaired."""
    volume = Volume(CountingStore(MemoryStore()))
    folder = volume.make("d", FOLDER).ino
    made = [(b"%06d" % number, volume.make(f"d/{number:06}").ino) for number in range(entries)]
    volume.store.transact(lambda tx: [how(tx, folder, name, ino) for name, ino in made])
    before = volume.store.rows
    while found := [problem for problem in volume.problems() if problem.mend]:
        assert any(volume.core.upkeep.mend(messages.Mend(found), volume.tick()).changed)
    volume.check()
    return (volume.store.rows - before) / entries


@pytest.mark.parametrize("how", [lose_parent, lose_inode, mistake_type, lose_name])
def test_repairing_costs_as_much_as_is_broken(how: Callable[[Transaction, int, bytes, int], None]) -> None:
    """Goal: of a folder in which every name is wrong, repairing a name touches as many rows as in a small one, whatever
    is wrong; and all of it is repaired."""
    assert _repair_costs(1500, how) < 1.2 * _repair_costs(50, how)


def test_a_folder_of_a_hundred_thousand(tmp_path: Path) -> None:
    """Goal: made, listed in pages and removed on SQLite, with flat memory; nothing is left."""
    with volume_on("sqlite", tmp_path) as volume:
        folder, before = volume.make("d", FOLDER).ino, resident_bytes()
        in_batches(volume, tree.create, lambda name: messages.Create(base=folder, names=[name], ino=0, mode=FILE))
        after, seen, more = b"", 0, True
        while more:
            page = volume.ask(messages.ListFolder(base=folder, after=after))
            assert [e.name for e in page.entries] == [b"%06d" % n for n in range(seen, seen + LIST_PAGE_MAX)]
            seen, more, after = seen + len(page.entries), page.more, page.entries[-1].name
        assert seen == MANY
        with pytest.raises(errors.NotEmpty):
            volume.remove("d", folder=True)
        in_batches(volume, tree.remove, lambda name: messages.Remove(base=folder, names=[name]))
        assert resident_bytes() - before < FLAT_BYTES
        volume.remove("d", folder=True)
        assert volume.paths() == []


def in_batches(volume: Volume, operation: Callable, request: Callable[[bytes], messages.Change]) -> None:
    """MANY operations, some hundred in a transaction, and now and then the sync that the service makes each second."""
    for first in range(0, MANY, BATCH):
        batch = [request(b"%06d" % number) for number in range(first, first + BATCH)]
        volume.store.transact(lambda tx, batch=batch: [operation(tx, one, 1) for one in batch])
        if first % 10_000 == 0:
            volume.store.sync()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("seed", range(5))
def test_a_listing_is_stable_while_others_change_the_folder(seed: int) -> None:
    """Goal: entries that are there all the time come once each and in order, whatever is made, removed and renamed
    between two pages; what comes and goes comes once at most under one name."""
    choose, volume = random.Random(seed), Volume(MemoryStore())
    stay = {b"%04d" % number for number in range(0, 2000, 2)}
    for name in sorted(stay):
        volume.change(messages.Create(names=[name], ino=0, mode=FILE))
    passing: set[bytes] = set()
    found, after, more = [], b"", True
    while more:
        page = volume.ask(messages.ListFolder(base=ROOT_INO, after=after, limit=choose.randrange(1, 60)))
        found += [entry.name for entry in page.entries]
        more, after = page.more, found[-1]
        for _ in range(20):
            _change(volume, choose, passing)
    assert found == sorted(set(found))
    assert stay <= set(found)


def _change(volume: Volume, choose: random.Random, passing: set[bytes]) -> None:
    """Make, remove or rename one of the entries that come and go."""
    name = b"%04d" % choose.randrange(1, 2000, 2)
    if name not in passing:
        volume.change(messages.Create(names=[name], ino=0, mode=FILE))
        passing.add(name)
        return
    passing.remove(name)
    new = b"%04d" % choose.randrange(1, 2000, 2)
    if choose.random() < 0.5:
        volume.change(messages.Remove(names=[name]))
    else:
        volume.change(messages.Rename(names=[name], new_names=[new]))
        passing.add(new)


def _rows_to_close(count: int) -> int:
    """How many rows a renewal touches that closes so many versions of one file, none of which is the newest."""
    volume = Volume(CountingStore(MemoryStore()))
    ino, reader = volume.make("f").ino, volume.begin()
    closed = []
    for number in range(count + 1):
        volume.commit(ino, b"%d" % number)
        opened = volume.open(ino, reader, opening=1)
        closed.append(messages.Closed(ino, opened.attributes.version, 1))
    before = volume.store.rows
    volume.core.renew(messages.Renew(session=reader, closed=closed[:-1]), volume.now_s)
    return volume.store.rows - before


def test_many_versions_that_are_closed_together() -> None:
    """Goal: who opens one file again and again while another client writes it closes hundreds of versions with one
    renewal: each costs the same, and nobody waits for it."""
    few, many = _rows_to_close(100), _rows_to_close(400)
    assert many < 4 * few * 1.2
