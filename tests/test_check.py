"""The checker of the metadata: whatever a volume does it finds nothing, what is broken by hand is found, told and
mended, and nothing else is touched."""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_dump import filled
from volumes import FOLDER, Volume, piece, volume_on

from dfsfuse import messages
from dfsfuse.chunks import chunk_name
from servers import check, mend, open_rows, records, references, short_rows, tracing, versions
from servers.mend import _REPAIRS
from servers.records import Usage, entry_key, parent_key
from servers.store import Transaction
from servers.store.memory import MemoryStore


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    with volume_on("memory", tmp_path) as made:
        filled(made)
        session = made.begin()
        made.make_unnamed(session)
        ino = made.make("opened").ino
        made.commit(ino, b"older")
        made.open(ino, session, opening=9)
        made.commit(ino, b"newer")
        made.make("deep", FOLDER)
        made.make("deep/er", FOLDER)
        yield made


Break = Callable[[Transaction, Callable[[str], int]], None]


def inode(**fields: object) -> Break:
    """Fields of the inode of /a/small, set to what they are not."""

    def run(tx: Transaction, ino: Callable[[str], int]) -> None:
        found = records.get_inode(tx, ino("a/small"))
        for name, value in fields.items():
            setattr(found, name, value)
        records.put_inode(tx, ino("a/small"), found)

    return run


def of_folder(tx: Transaction, ino: Callable[[str], int]) -> None:
    found = records.get_inode(tx, ino("a"))
    found.nlink = 7
    records.put_inode(tx, ino("a"), found)


def cycle(tx: Transaction, ino: Callable[[str], int]) -> None:
    """/deep is moved into /deep/er, and the sums are right."""
    deep, below = ino("deep"), ino("deep/er")
    tx.delete(entry_key(1, b"deep"))
    tx.delete(parent_key(deep, 1, b"deep"))
    tx.put(entry_key(below, b"x"), records.pack_entry(deep, FOLDER))
    tx.put(parent_key(deep, below, b"x"), b"")
    for number, change in ((1, -1), (below, 1)):
        folder = records.get_inode(tx, number)
        folder.nlink += change
        records.put_inode(tx, number, folder)


def second_name(tx: Transaction, ino: Callable[[str], int]) -> None:
    tx.put(entry_key(1, b"again"), records.pack_entry(ino("deep"), FOLDER))
    tx.put(parent_key(ino("deep"), 1, b"again"), b"")


def lose_name(tx: Transaction, ino: Callable[[str], int]) -> None:
    """Both rows of a name are gone."""
    tx.delete(entry_key(1, b"fifo"))
    tx.delete(parent_key(ino("fifo"), 1, b"fifo"))


def lose_chunk(tx: Transaction, ino: Callable[[str], int]) -> None:
    references.drop(tx, 1, [piece(b"content of now").chunk], references.inode_holder(ino("a/small")))


def lose_listed_chunk(tx: Transaction, ino: Callable[[str], int]) -> None:
    references.drop(tx, 1, [piece(b"first").chunk], b"s" + b"s" * 16)


def stray_holder(tx: Transaction, ino: Callable[[str], int]) -> None:
    references.hold(tx, 1, [chunk_name(b"of nobody")], references.inode_holder(ino("a/small")))


def stray_segment(tx: Transaction, ino: Callable[[str], int]) -> None:
    references.put_segment(tx, 1, b"t" * 16, [[piece(b"stray")]])


def stray_version(tx: Transaction, ino: Callable[[str], int]) -> None:
    """Nobody has it open; what it needs is held all the same."""
    found = records.get_inode(tx, ino("a/small"))
    found.beside = True
    content = versions.Content(1, 5, 5, [[piece(b"kept for nothing")]])
    with versions.keeping(tx, ino("a/small"), found):
        key = b"h" + records.number(ino("a/small")) + records.number(1)
        tx.put(key, records._encode(content))
    records.put_inode(tx, ino("a/small"), found)


def nothing_beside(tx: Transaction, ino: Callable[[str], int]) -> None:
    """An older version of it is open."""
    found = records.get_inode(tx, ino("opened"))
    found.beside = False
    records.put_inode(tx, ino("opened"), found)


def lose_part(tx: Transaction, ino: Callable[[str], int]) -> None:
    references.drop(tx, 1, [b"s" * 16], references.inode_holder(ino("large")))


def stray_short(tx: Transaction, ino: Callable[[str], int]) -> None:
    """As an earlier version has left it: counted, and of nobody."""
    short_rows.put(tx, [("C", chunk_name(b"of nobody"))])


BROKEN: dict[str, tuple[Break, set[str]]] = {
    "links of a file": (inode(nlink=9), {"nlink"}),
    "links of a folder": (of_folder, {"nlink"}),
    "type of an inode": (inode(mode=stat.S_IFSOCK | 0o600), {"entry_type", "usage"}),
    "an inode that is gone": (
        lambda tx, ino: tx.delete(records.inode_key(ino("fifo"))), {"entry_dangling", "names_stray", "usage"}),
    "a folder that is gone": (
        lambda tx, ino: tx.delete(records.inode_key(ino("deep"))),
        {"entry_dangling", "names_stray", "entries_stray", "usage"}),
    "a name that its inode does not count": (
        lambda tx, ino: tx.delete(parent_key(ino("a/small"), ino("a"), b"small")), {"name_missing", "nlink"}),
    "a name that is not there": (lambda tx, ino: tx.delete(entry_key(ino("a"), b"small")), {"name_stray", "nlink"}),
    "an inode without a name": (lose_name, {"unnamed"}),
    "folders that contain each other": (cycle, {"cycle"}),
    "a folder with two names": (second_name, {"folder_names", "nlink"}),
    "attributes of nobody": (lambda tx, ino: tx.put(records.xattr_key(1 << 40, b"user.a"), b"b"), {"xattrs_stray"}),
    "attributes that are not counted": (
        lambda tx, ino: tx.put(records.xattr_key(ino("fifo"), b"user.a"), b"b"), {"xattr_bytes"}),
    "attributes that are counted wrongly": (
        lambda tx, ino: tx.put(records.xattr_key(ino("a"), b"user.x"), b"b"), {"xattr_bytes"}),
    "open in no session": (lambda tx, ino: open_rows.put(tx, ino("a/small"), 99, 2, 1), {"open_stray"}),
    "open, and gone": (lambda tx, ino: open_rows.put(tx, 1 << 40, 1, 2, 1), {"open_stray"}),
    "the sums": (lambda tx, ino: records.put_record(tx, b"musage", Usage(5, 6, 7)), {"usage"}),
    "what is no hole": (inode(stored_bytes=3), {"stored_bytes", "usage"}),
    "numbers to be given out": (lambda tx, ino: records.put_counter(tx, b"next_inode", 3), {"next_inode"}),
    "a chunk that counts as garbage": (lose_chunk, {"unheld"}),
    "a chunk of a segment that does": (lose_listed_chunk, {"unheld"}),
    "a segment that counts as garbage": (lose_part, {"unheld"}),
    "a reference of nobody": (stray_holder, {"held_stray"}),
    "a segment of nobody": (stray_segment, {"segment_stray"}),
    "a version that its inode does not tell of": (nothing_beside, {"beside"}),
    "a version for nobody": (stray_version, {"kept_stray"}),
    "what a server is to look for": (stray_short, {"short_stray", "short_count"}),
    "how much a server lacks": (lambda tx, ino: short_rows.add_to_count(tx, "A", 3), {"short_count"}),
}  # fmt: skip
LOST: dict[str, tuple[Break, set[str]]] = {
    "a segment": (lambda tx, ino: tx.delete(b"g" + b"s" * 16), {"segment_missing", "held_stray"}),
    "the history": (inode(history=[]), {"manifest"}),
    "the root": (lambda tx, ino: tx.delete(records.inode_key(1)), {"root", "usage", "entries_stray"}),
    "a name that cannot be": (
        lambda tx, ino: (tx.put(entry_key(1, b"a/b"), records.pack_entry(ino("fifo"), stat.S_IFIFO)),
                         tx.put(parent_key(ino("fifo"), 1, b"a/b"), b"")), {"entry_name", "nlink"}),
}  # fmt: skip
"""What nothing can mend."""


def broken(volume: Volume, how: Break) -> set[str]:
    volume.store.transact(lambda tx: how(tx, lambda path: volume.at(path).ino))
    return {problem.kind for problem in volume.problems()}


def mended(volume: Volume) -> list[bool]:
    return volume.core.upkeep.mend(messages.Mend(volume.problems()), volume.tick()).changed


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found_and_mended(volume: Volume, what: str) -> None:
    """Goal: the checker names what is wrong, and says where and what repairing does; repaired, the volume is whole by
    the oracle too. Repairing again changes nothing."""
    how, kinds = BROKEN[what]
    assert broken(volume, how) == kinds
    for problem in volume.problems():
        assert problem.what
        assert problem.mend
        assert problem.ino or problem.path or problem.name
    first = volume.problems()
    for _ in range(3):
        mended(volume)
    assert volume.problems() == []
    while volume.core.settle(volume.now_s):
        pass
    volume.check()
    assert volume.core.upkeep.mend(messages.Mend(first), volume.tick()).changed == [False] * len(first)


@pytest.mark.parametrize("what", LOST)
def test_what_cannot_be_mended_is_told(tmp_path: Path, what: str) -> None:
    """Goal: what is lost is told, and repairing invents nothing."""
    volume = Volume(MemoryStore())
    filled(volume)
    how, kinds = LOST[what]
    assert kinds <= broken(volume, how)
    assert all(problem.mend == "" for problem in volume.problems() if problem.kind not in _REPAIRS)


def test_nothing_is_lost_by_repairing(volume: Volume) -> None:
    """Goal: a file and a tree without a name are in /lost+found, with all that they had; a folder that is gone is there
    again with its entries."""

    def run(tx: Transaction) -> None:
        for name in (b"fifo", b"a"):
            ino = records.unpack_entry(tx.get(entry_key(1, name)))[0]
            tx.delete(entry_key(1, name))
            tx.delete(parent_key(ino, 1, name))
        tx.delete(records.inode_key(deep))

    fifo, a, deep = (volume.at(path).ino for path in ("fifo", "a", "deep"))
    below = [(entry.name, entry.attributes.ino) for entry in volume.listing("a").entries]
    volume.store.transact(run)
    for _ in range(3):
        mended(volume)
    volume.check()
    found = {entry.name: entry.attributes.ino for entry in volume.listing("lost+found").entries}
    assert found == {b"#%d" % ino: ino for ino in (fifo, a)}
    assert [(entry.name, entry.attributes.ino) for entry in volume.listing(f"lost+found/#{a}").entries] == below
    assert volume.paths("deep") == ["deep/er"]
    assert volume.at("deep").ino == deep


def test_a_chunk_that_counted_as_garbage_is_looked_for(volume: Volume) -> None:
    """Goal: servers may have deleted it; once it is needed again, each is told to look for it."""
    volume.core.register(volume.heartbeat("A", store="disk", first_number=1, next_number=2), volume.now_s)
    volume.core.repair(messages.Repair(server="A", first_number=1), volume.now_ns, volume.now_s)
    broken(volume, lose_chunk)
    mended(volume)
    heard = volume.core.register(volume.heartbeat("A", store="disk", first_number=1, next_number=2), volume.now_s)
    assert heard.repair
    work = volume.core.repair(messages.Repair(server="A", first_number=1), volume.now_ns, volume.now_s)
    assert piece(b"content of now").chunk in work.chunks


def test_a_chunk_is_traced(volume: Volume) -> None:
    """Goal: who needs it, also through a segment, and which servers are known to lack it; a copy that is missing
    becomes one of these, once."""
    chunks = [piece(data).chunk for data in (b"content of now", b"first", b"of nobody")]
    traces = volume.look(tracing.trace, messages.Trace(chunks)).chunks
    assert [(trace.chunk, trace.needed, trace.short) for trace in traces] == [
        (chunks[0], True, []), (chunks[1], True, ["B"]), (chunks[2], False, []),
    ]  # fmt: skip
    assert [trace.paths for trace in traces] == [[b"/a/small"], [b"/large"], []]
    missing = messages.Problem(kind="copy_missing", server="C", name=chunks[0])
    unknown = messages.Problem(kind="copy_missing", server="X", name=chunks[0])
    needless = messages.Problem(kind="copy_missing", server="C", name=chunks[2])
    assert volume.core.upkeep.mend(messages.Mend([missing, missing, unknown, needless]), 1).changed == [
        True,
        *[False] * 3,
    ]
    assert volume.look(tracing.trace, messages.Trace(chunks[:1])).chunks[0].short == ["C"]


def test_sums_are_mended_once(volume: Volume) -> None:
    """Goal: of two checks that have found the same difference one adds it; changes since the check do not matter."""
    broken(volume, lambda tx, ino: records.put_record(tx, b"musage", Usage(5, 6, 7)))
    problems = volume.problems()
    volume.commit(volume.make("since").ino, b"content")
    assert volume.core.upkeep.mend(messages.Mend(problems + problems), volume.tick()).changed == [True, False]
    volume.check()


def test_repairing_looks_at_the_rows_of_now(volume: Volume) -> None:
    """Goal: a problem that somebody has solved meanwhile, or that is made up, changes nothing."""
    before = volume.store.values.copy()
    for kind in _REPAIRS:
        for ino in (1, volume.at("a/small").ino, 1 << 40):
            for name in (b"small", b"", records.number(3), references.key(1, bytes(32), b"i" + records.number(ino))):
                made_up = messages.Problem(kind=kind, ino=ino, other=volume.at("a").ino, name=name)
                if kind != "usage":
                    assert not volume.store.transact(lambda tx, p=made_up: mend.mend(tx, p, 1)), made_up
    assert volume.store.values == before


def test_pages_are_bounded(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a page looks at so many rows, and tells so many problems, whatever there is."""
    monkeypatch.setattr(check, "ROWS_PER_PAGE", 10)
    pages = list(check.pages(volume.store.snapshot()))
    assert [page.looked for page in pages[:-1]] == [10] * (len(pages) - 1)
    assert len(pages) > 5
    assert [page.more for page in pages] == [True] * (len(pages) - 1) + [False]
    for number in range(30):
        volume.store.transact(lambda tx, n=number: tx.put(records.xattr_key(1 << 40 | n, b"user.a"), b"b"))
    monkeypatch.setattr(check, "PROBLEMS_PER_PAGE", 4)
    assert max(len(page.problems) for page in check.pages(volume.store.snapshot())) <= 4
    assert len(volume.problems()) == 30
    mended(volume)


def test_each_repair_is_tried() -> None:
    """Goal: nobody adds a repair without breaking what it mends; copies are missing in tests/test_cli_check.py."""
    assert {kind for _, kinds in BROKEN.values() for kind in kinds} == set(_REPAIRS) - {"copy_missing"}
