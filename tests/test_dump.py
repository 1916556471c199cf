"""Dumps of the metadata, without a network: what they have, what is refused, and what a loaded volume goes on with."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from models import check_tree
from volumes import ENGINES, FOLDER, LINK, Volume, on, piece, volume_on

from dfsfuse import errors, messages
from dfsfuse.chunks import Piece
from dfsfuse.messages import Manifest, Segment
from servers import (
    dump,
    garbage_log,
    losses,
    open_rows,
    records,
    references,
    server_states,
    short_rows,
    undurable,
    versions,
)
from servers.load import LEAPS, load
from servers.store.memory import MemoryStore

LEFT_OUT = {b"o", b"r", b"s", b"k", b"v", b"m", b"d", b"h", b"u", b"y", b"l", b"n", b"w"}
"""First letters of the keys that no dump has: what ends with the directory, and numbers that go on elsewhere."""
LEAP = 5


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        yield made


def filled(volume: Volume) -> None:
    """Everything that a volume can have."""
    volume.make("a", FOLDER)
    volume.make("a/b", FOLDER, uid=5)
    volume.make("a/link", LINK, target=b"to\xffwhere")
    volume.make("fifo", stat.S_IFIFO | 0o600)
    volume.make("device", stat.S_IFBLK | 0o600, rdev=77)
    volume.change(messages.Create(names=[b"a", b"hex:\xfe\n"], ino=0, mode=0o100644))
    small = volume.make("a/small")
    volume.commit(small.ino, b"content")
    volume.commit(small.ino, b"content of now")
    volume.link("a/small", "a/b/hard")
    volume.change(messages.SetXattr(names=[b"a"], name=b"user.colour", value=b"\0blue"))
    volume.change(messages.SetXattr(names=[b"a"], name=b"user.size", value=b"1"))
    large(volume, volume.make("large").ino)
    volume.core.quota(messages.Quota(bytes_max=1 << 40, inodes_max=1000))
    while volume.core.settle(volume.now_s):
        pass


def large(volume: Volume, ino: int) -> None:
    """A manifest in segments, the second of which is a hole, and a chunk that one server lacks."""
    segment_id = b"s" * 16
    part = Segment(segment_id, 0, [[piece(b"first")], [], [Piece(b"", 5, 10), piece(b"second", 40)]])
    request = messages.PutSegments(
        session=0, ino=ino, base_version=0, base_commit_id=b"", segments=[part],
        receipts=[on("AC", b"first"), on("ABC", b"second")],
    )  # fmt: skip
    volume.core.put_segments(request, volume.now_s)
    volume.commit(ino, size=2000 * (4 << 20), manifest=Manifest([], [segment_id, b""]), receipts=[])


def dumped(volume: Volume) -> list[bytes]:
    """All lines of a dump, with their ends."""
    snapshot = volume.store.snapshot()
    pages = list(dump.pages(snapshot, 3, volume.now_ns))
    snapshot.close()
    assert [page.more for page in pages] == [True] * (len(pages) - 1) + [False]
    return [line + b"\n" for page in pages for line in page.lines]


def loaded(lines: list[bytes]) -> Volume:
    store = MemoryStore()
    load(store, lines, LEAP)
    return Volume(store)


def content(volume: Volume) -> list[tuple[bytes, bytes]]:
    """All rows that a dump is to bring back. That an inode once had others beside them is not to come back."""
    rows = volume.store.read(lambda tx: tx.range(b"", b"\xff", 1_000_000))
    return [(key, nothing_beside(key, value)) for key, value in rows if key[:1] not in LEFT_OUT]


def nothing_beside(key: bytes, row: bytes) -> bytes:
    if key[:1] != b"i":
        return row
    inode = records.decode_inode(row)
    inode.beside = False
    return msgspec.msgpack.encode(inode)


def test_everything_comes_back(volume: Volume) -> None:
    """Goal: names, attributes, contents, extended attributes, short copies, sums and limits are as they were, also of
    names and values of any bytes; the volume is the same one."""
    filled(volume)
    other = loaded(dumped(volume))
    assert content(other) == content(volume)
    for row in (b"mvolume", b"musage", b"mquota"):
        assert other.store.read(lambda tx, row=row: tx.get(row)) == volume.store.read(lambda tx, row=row: tx.get(row))
    other.check()
    assert dumped(other)[1:-1] == dumped(volume)[1:-1]


def test_a_dump_is_of_one_moment(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what is changed while the lines are made is not among them, whatever page has been made by then."""
    monkeypatch.setattr(dump, "PAGE_BYTES", 1)
    filled(volume)
    before = dumped(volume)
    for changes_after in (0, 1, 5, len(before) - 2):
        snapshot, lines = volume.store.snapshot(), []
        for number, page in enumerate(dump.pages(snapshot, 3, volume.now_ns)):
            lines += page.lines
            if number == changes_after:
                volume.rename("a", "renamed")
                volume.make("later")
        snapshot.close()
        assert [line + b"\n" for line in lines][1:-1] == before[1:-1]
        volume.rename("renamed", "a")
        volume.remove("later")
        before = dumped(volume)


def test_what_ends_with_the_directory_is_left_out(volume: Volume) -> None:
    """Goal: files that live by open rows alone are in no dump; nor are sessions and their replies. The sums fit."""
    session = volume.begin()
    volume.make_unnamed(session)
    gone = volume.make("gone")
    volume.commit(gone.ino, b"content")
    volume.open(gone.ino, session, opening=2)
    volume.remove("gone")
    older = volume.make_unnamed(session, sequence=2)
    volume.commit(older.ino, b"on two servers", receipts=[on("AB", b"on two servers")])
    volume.make("stays", session=session, slot=1, sequence=1)
    other = loaded(dumped(volume))
    other.check()
    assert other.paths() == ["/stays"]
    assert other.core.quota(messages.Quota()).used_inodes == 2
    assert [volume.store.read(lambda tx: short_rows.count(tx, "C")) for volume in (volume, other)] == [1, 0]
    with pytest.raises(errors.SessionEnded):
        other.core.renew(messages.Renew(session=session), other.now_s)


def test_each_kind_of_row_is_dumped_or_left_out_on_purpose() -> None:
    """Goal: who adds a kind of row decides whether dumps have it."""
    modules = (garbage_log, losses, open_rows, references, server_states, short_rows, undurable, versions)
    kinds = {line[0] for line in records.__doc__.split("value\n")[1].splitlines() if line[1:2] == " "}
    kinds |= {kind for module in modules for kind in re.findall(r"^    ([a-z]) ", module.__doc__, flags=re.M)}
    assert kinds == {"i", "e", "p", "x", "g", "q", "c"} | {key.decode() for key in LEFT_OUT}


def test_numbers_go_on_behind_all_that_were_given_out(volume: Volume) -> None:
    """Goal: inode numbers, sessions and start numbers of lock services that were given out after the dump was made are
    not given out again: a client of before must not be taken for another one."""
    volume.core.register(messages.Register(server=volume.heartbeat("locks", "locks").server, start=True), volume.now_s)
    lines = dumped(volume)
    sessions = [volume.begin() for _ in range(3)]
    inodes = [volume.make(str(number)).ino for number in range(3)]
    starts = [
        volume.core.register(messages.Register(server=volume.heartbeat("locks", "locks").server, start=True), 200.0)
        for _ in range(3)
    ]
    other = loaded(lines)
    assert other.begin() > max(sessions) + (1 << 32)
    assert other.make("new").ino > max(inodes) + (1 << 32)
    again = other.core.register(messages.Register(server=other.heartbeat("locks", "locks").server, start=True), 200.0)
    assert again.start_number > max(start.start_number for start in starts)
    assert (again.start_number + LEAPS) << 32 < 1 << 63


def test_a_client_of_later_than_the_dump(volume: Volume) -> None:
    """Goal: S4. Versions repeat and commit ids do not: a client that has a later version is given the dump's, and a
    commit that is based on a later one is refused, also where the number is the same. One that has happened before
    the dump was made has happened."""
    ino = volume.make("file").ino
    volume.commit(ino, b"first", commit_id=b"1" * 16)
    lines = dumped(volume)
    later = volume.commit(ino, b"second")
    other = loaded(lines)
    assert other.commit(ino, b"x", commit_id=b"1" * 16).version == 1
    with pytest.raises(errors.VersionConflict):
        other.commit(ino, b"third", base_version=later.version, base_commit_id=later.commit_id)
    mine = other.commit(ino, b"other second")
    assert mine.version == later.version
    opened = other.open(ino, have_version=later.version, have_commit_id=later.commit_id)
    assert opened.manifest == Manifest([[piece(b"other second")]])
    with pytest.raises(errors.VersionConflict):
        other.commit(ino, b"third", base_version=later.version, base_commit_id=later.commit_id)


def test_file_servers_are_asked_for_everything(volume: Volume) -> None:
    """Goal: a loaded volume takes no disk for whole: each server is syncing until it has looked for all chunks, also
    one that the directory of before knew well."""
    filled(volume)
    disk = {"store": "its disk", "first_number": 7 << 40, "next_number": (7 << 40) + 5}
    other = loaded(dumped(volume))
    assert other.core.register(volume.heartbeat("A", **disk), other.now_s).repair
    wanted, after, complete = set(), b"", False
    while not complete:
        request = messages.Repair(server="A", first_number=7 << 40, have=sorted(wanted), after=after)
        work = other.core.repair(request, other.now_ns, other.now_s)
        after, complete = work.after, work.complete
        wanted |= set(work.chunks)
    assert wanted == {piece(data).chunk for data in (b"content of now", b"first", b"second")}


def test_receipts_of_before_a_load_do_not_count(volume: Volume) -> None:
    """Goal: S8. Servers that ran on while the metadata was loaded may have deleted what they gave receipts for: it is
    confirmed again before a commit rests on it."""
    ino = volume.make("file").ino
    other = loaded(dumped(volume))
    for name in "ABC":
        disk = {"store": f"disk of {name}", "first_number": 1, "next_number": 7}
        other.core.register(volume.heartbeat(name, **disk), other.now_s)
    other.now_s += 1
    old, new = (
        [messages.ChunkReceipts(piece(b"x").chunk, [messages.Receipt(name, number) for name in "ABC"])]
        for number in (6, 7)
    )
    with pytest.raises(errors.ReceiptsVoid):
        other.commit(ino, b"x", receipts=old)
    assert other.commit(ino, b"x", receipts=new).version == 1


def test_lines_can_be_read(volume: Volume) -> None:
    """Goal: each line is JSON with one thing in it; names are text where they are."""
    filled(volume)
    lines = [json.loads(line) for line in dumped(volume)]
    assert [list(line) for line in (lines[0], lines[-1])] == [["volume"], ["end"]]
    assert {kind for line in lines for kind in line} == {"volume", "inode", "segment", "name", "short", "end"}
    assert {"name": {"folder": 1, "name": "fifo", "ino": volume.at("fifo").ino}} in lines
    assert all(len(line) == 1 for line in lines)


def changed(lines: list[bytes], number: int, old: bytes, new: bytes) -> list[bytes]:
    assert old in lines[number]
    return [line.replace(old, new) if at == number else line for at, line in enumerate(lines)]


def test_what_is_no_whole_dump_is_refused(volume: Volume) -> None:
    """Goal: a dump that is cut off anywhere, has lost, changed or gained a line, or is of another format, is refused,
    and the error says what is the matter."""
    filled(volume)
    lines = dumped(volume)
    head = next(number for number, line in enumerate(lines) if b'"fifo"' in line)
    spoiled = {
        "first line does not tell": [lines[1:]],
        "cut off": [[], lines[:1], lines[:-1], lines[:head]],
        "some are missing": [lines[:head] + lines[head + 1 :]],
        "no line of a dump": [[*lines[:head], lines[head][:9]], changed(lines, head, b"{", b"["), [b"\x7fELF"]],
        "checksum": [changed(lines, head, b"fifo", b"fifa")],
        "goes on": [[*lines, b"\n"]],
        "format 2": [changed(lines, 0, b'"format":1', b'"format":2')],
    }
    for reason, all_of_them in spoiled.items():
        for wrong in all_of_them:
            with pytest.raises(errors.BadRequest, match=reason):
                load(MemoryStore(), wrong, LEAP)
    store = MemoryStore()
    load(store, lines, LEAP)
    check_tree(store)


def test_pages_are_small(volume: Volume) -> None:
    """Goal: a page has about PAGE_BYTES of lines, whatever the volume has, so no memory for the whole is needed."""
    for number in range(300):
        volume.make(f"{number:0200}")
    snapshot = volume.store.snapshot()
    sizes = [sum(map(len, page.lines)) for page in dump.pages(snapshot, 3, 0)]
    snapshot.close()
    assert len(sizes) == 1
    for number in range(300, 1500):
        volume.make(f"{number:0200}")
    snapshot = volume.store.snapshot()
    sizes = [sum(map(len, page.lines)) for page in dump.pages(snapshot, 3, 0)]
    snapshot.close()
    assert len(sizes) > 1
    assert max(sizes) < dump.PAGE_BYTES + 1000
