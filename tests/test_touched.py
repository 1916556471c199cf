"""What a change says beforehand that it will touch, against what it has written."""

import random
import stat

import msgspec
import pytest

import servers.touched
from dfsfuse import errors, messages
from dfsfuse.messages import RENAME_EXCHANGE, ROOT_INO
from servers import records, rename, tree, xattrs
from servers.records import attributes_of
from servers.store.memory import MemoryStore
from servers.touched import beside, touched

_APPLY = {
    messages.Create: tree.create,
    messages.Link: tree.link,
    messages.Remove: tree.remove,
    messages.Rename: rename.rename,
    messages.SetAttributes: tree.set_attributes,
    messages.SetXattr: xattrs.set_value,
}
_NAMES = [b"a", b"b", b"c"]


def _state(store: MemoryStore) -> tuple[dict[int, messages.Attributes], dict[tuple[int, bytes], int]]:
    def read(tx):
        inodes = {ino: attributes_of(ino, inode) for ino, inode in records.inodes(tx)}
        entries = {
            (records.as_number(key[1:9]), key[9:]): records.unpack_entry(row)[0]
            for key, row in tx.range(*records.within(b"e"), 10_000)
        }
        return inodes, entries

    return store.read(read)


def _draw(draw: random.Random, folders: list[int]) -> messages.Change:
    def place(most: int = 2) -> tuple[int, list[bytes]]:
        return draw.choice(folders), [draw.choice(_NAMES) for _ in range(draw.randint(1, most))]

    (base, names), (new_base, new_names) = place(), place()
    kind = draw.choice((stat.S_IFREG, stat.S_IFDIR))
    return draw.choice(
        (
            messages.Create(base=base, names=names, ino=0, mode=kind | 0o644),
            messages.Create(base=base, names=names, ino=0, mode=kind | 0o644),
            messages.Link(base=base, names=names, new_base=new_base, new_names=new_names),
            messages.Remove(base=base, names=names, folder=kind == stat.S_IFDIR),
            messages.Rename(
                base=base, names=names, new_base=new_base, new_names=new_names, flags=draw.choice((0, RENAME_EXCHANGE))
            ),
            messages.SetAttributes(base=base, names=names[:1], mode=draw.choice((0o600, 0o755))),
            messages.SetAttributes(base=base, mtime_ns=draw.randrange(10**9)),
            messages.SetXattr(base=base, names=names, name=b"user.x", value=b"%d" % draw.randrange(9)),
        )
    )


@pytest.mark.parametrize("seed", range(100))
def test_all_that_a_change_writes_was_said_before(seed):
    """Goal: S2, S14. Each inode whose attributes have changed, and each entry that leads elsewhere, was among what the
    change said that it would touch; a folder's own attributes change with its entries."""
    draw, store = random.Random(seed), MemoryStore()
    store.transact(lambda tx: records.create_volume(tx, b"v" * 16, 0, 0, 1))
    for now_ns in range(2, 150):
        before = _state(store)
        folders = [ino for ino, known in before[0].items() if stat.S_ISDIR(known.mode)]
        request = _draw(draw, folders)
        said = set(store.read(lambda tx, r=request: touched(tx, r)))
        try:
            store.transact(lambda tx, r=request, t=now_ns: _APPLY[type(r)](tx, r, t))
        except errors.DfsError:
            continue
        _check(said, before, _state(store))


def _check(said, before, after) -> None:
    inodes = {ino for ino, _ in said}
    for ino, known in before[0].items():
        assert ino in inodes or after[0].get(ino) == known, f"inode {ino} was touched"
    for entry in before[1].keys() | after[1].keys():
        if before[1].get(entry) != after[1].get(entry):
            assert entry in said or (entry[0], b"") in said, f"entry {entry} was touched"


def test_reading_touches_nothing():
    """Goal: who only looks or opens calls nobody back; who begins to lock a file does."""
    store = MemoryStore()
    store.transact(lambda tx: records.create_volume(tx, b"v" * 16, 0, 0, 1))
    made = store.transact(lambda tx: tree.create(tx, messages.Create(names=[b"f"], ino=0, mode=stat.S_IFREG), 2))
    opened = messages.Open(session=1, base=ROOT_INO, names=[b"f"])
    for request in (messages.Lookup(names=[b"f"]), opened):
        assert store.read(lambda tx, r=request: touched(tx, r)) == []
    locking = msgspec.structs.replace(opened, locking=True)
    assert store.read(lambda tx: touched(tx, locking)) == [(made.attributes.ino, b"")]


def test_what_is_beside_a_name(monkeypatch):
    """Goal: the inodes of the names that follow it in order, in its folder alone, and no more than a few."""
    monkeypatch.setattr(servers.touched, "_BESIDE_MAX", 3)
    store = MemoryStore()

    def make(tx) -> dict[bytes, int]:
        records.create_volume(tx, bytes(16), 0, 0, 1)
        folder = tree.create(tx, messages.Create(names=[b"d"], ino=0, mode=stat.S_IFDIR | 0o755), 1).attributes.ino
        names = [b"a", b"b", b"b\1", b"c", b"d", b"e", b"\xff"]
        made = {
            name: tree.create(tx, messages.Create(base=folder, names=[name], ino=0, mode=stat.S_IFREG), 1)
            for name in names
        }
        tree.create(tx, messages.Create(names=[b"z"], ino=0, mode=stat.S_IFREG), 1)
        return {b"/": folder} | {name: reply.attributes.ino for name, reply in made.items()}

    inos = store.transact(make)
    following = {b"b": [b"b\1", b"c", b"d"], b"bb": [b"c", b"d", b"e"], b"e": [b"\xff"], b"\xff": []}
    for name, names in following.items():
        assert store.read(lambda tx, name=name: beside(tx, (inos[b"/"], name))) == [inos[each] for each in names]
