"""Versions of content at the directory: open, fence, commit, receipts, segments, and where the copies are."""

import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_directory_tree import refused
from volumes import ENGINES, FILE, FOLDER, LINK, Volume, on, piece, volume_on

from dfsfuse import errors, messages
from dfsfuse.chunks import ENTRY_BYTES, HOLE, PIECES_MAX, Entry, Piece
from dfsfuse.messages import PUT_PIECES_MAX, SEGMENT_ENTRIES, Closed, Manifest, PutSegments, Segment
from servers import content, undurable
from servers.content import FILE_BYTES_MAX
from servers.store import Transaction


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        yield made


# -- open


def test_open_returns_the_newest_content(volume: Volume) -> None:
    """Goal: attributes and manifest of the newest version, under a name or by inode."""
    made = volume.make("f")
    assert volume.open(made.ino).manifest == Manifest()
    committed = volume.commit(made.ino, b"one")
    opened = volume.core.open(messages.Open(session=0, names=[b"f"]))
    assert opened == messages.Opened(attributes=committed, manifest=Manifest([[piece(b"one")]]))
    assert volume.open(made.ino) == opened


def test_open_sends_no_manifest_to_who_has_it(volume: Volume) -> None:
    """Goal: the manifest is left out only if version AND commit id are those of the newest content."""
    ino = volume.make("f").ino
    new = volume.commit(ino, b"one")
    cases = [
        (new.version, new.commit_id, False),
        (new.version, secrets.token_bytes(16), True),
        (new.version + 1, new.commit_id, True),
        (0, b"", True),
    ]
    for version, commit_id, sent in cases:
        opened = volume.open(ino, have_version=version, have_commit_id=commit_id)
        assert (opened.manifest is not None) == sent
    assert volume.open(volume.make("empty").ino, have_version=0, have_commit_id=b"").manifest == Manifest()


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("d", errors.IsADirectory),
        ("link", errors.InvalidArgument),
        ("missing", errors.NotFound),
        ("f/x", errors.NotADirectory),
    ],
)
def test_what_cannot_be_opened(volume: Volume, path: str, error: type[errors.DfsError]) -> None:
    """Goal: only regular files have content."""
    volume.make("d", FOLDER)
    volume.make("link", LINK, target=b"f")
    volume.make("f")
    with refused(volume, error):
        volume.core.open(messages.Open(session=0, names=[part.encode() for part in path.split("/")]))


def test_open_for_an_inode_that_the_name_has_left(volume: Volume) -> None:
    """Goal: with `ino` the name must still lead to what the lock was taken for; else Stale, and no fence is raised."""
    old = volume.make("f").ino
    volume.make("g")
    volume.rename("g", "f")
    with refused(volume, errors.Stale):
        volume.core.open(messages.Open(session=0, names=[b"f"], ino=old, token=9))


@pytest.mark.parametrize("mode", [FOLDER, LINK])
def test_open_where_the_name_is_no_file_any_more(volume: Volume, mode: int) -> None:
    """Goal: who expects an inode is told that the name has left it, and not that what stands there has no content:
    then the kernel looks the name up again."""
    old = volume.make("f").ino
    volume.make("g", mode, **({"target": b"x"} if mode == LINK else {}))
    volume.remove("f")
    volume.rename("g", "f")
    with refused(volume, errors.Stale):
        volume.core.open(messages.Open(session=0, names=[b"f"], ino=old))


def test_the_fence_rises_with_each_token(volume: Volume) -> None:
    """Goal: an open for writing fences off older tokens, for opens and commits, and stays over a restart."""
    ino = volume.make("f").ino
    volume.open(ino, token=5)
    volume.open(ino, token=5)
    volume.open(ino)
    volume.restart()
    with refused(volume, errors.LockLost):
        volume.open(ino, token=4)
    with refused(volume, errors.LockLost):
        volume.commit(ino, b"late", token=4)
    assert volume.commit(ino, b"in time", token=5).version == 1
    volume.open(ino, token=6)
    with refused(volume, errors.LockLost):
        volume.commit(ino, b"late", token=5)


@pytest.mark.parametrize("first", [5, 6])
def test_a_fence_that_a_power_cut_has_taken(volume: Volume, first: int) -> None:
    """Goal: S6. Where the directory loses the open of a newer holder, as it had not synced it, the one before may
    commit as long as nobody has; whoever is second is refused, so no version is overwritten that he does not know."""
    ino = volume.make("f").ino
    volume.commit(ino, b"old")
    volume.open(ino, token=5)
    on_disk = volume.store.read(lambda tx: tx.range(b"", b"\xff", 1000))
    volume.open(ino, token=6)
    contents = {token: volume.commit_request(ino, b"%d" % token, token=token) for token in (5, 6)}
    with refused(volume, errors.LockLost):
        volume.core.commit(contents[5], volume.tick(), volume.now_s)
    volume.store.transact(lambda tx: [tx.put(key, value) for key, value in on_disk])
    volume.restart()
    assert volume.core.commit(contents.pop(first), volume.tick(), volume.now_s).version == 2
    (second,) = contents.values()
    with refused(volume, errors.VersionConflict):
        volume.core.commit(second, volume.tick(), volume.now_s)


def test_a_new_file_is_fenced_by_its_makers_token(volume: Volume) -> None:
    """Goal: create with a token opens for writing in the same transaction."""
    session = volume.begin()
    ino = volume.make("f", FILE, token=5, opening=1).ino
    with refused(volume, errors.LockLost):
        volume.commit(ino, b"late", token=4)
    made = volume.core.change(
        messages.Create(session=session, slot=1, sequence=1, names=[b"g"], ino=0, mode=FILE, token=7, opening=1), 1
    ).attributes
    volume.remove("g")
    assert volume.ask(messages.Lookup(made.ino)).nlink == 0, "it is open"
    volume.core.end(messages.End(session))


@pytest.mark.parametrize("number", [-1, 2**64, 10**30])
def test_numbers_that_are_none(volume: Volume, number: int) -> None:
    """Goal: a number that cannot be one is the caller's error."""
    session = volume.begin()
    ino = volume.make("f").ino
    with refused(volume, errors.InvalidArgument):
        volume.open(number)
    with refused(volume, errors.InvalidArgument):
        volume.open(ino, session, opening=number)
    with refused(volume, errors.InvalidArgument):
        volume.commit(ino, b"x", mtime_ns=10**30)
    with refused(volume, errors.InvalidArgument):
        volume.look(content.mappings, messages.ListMappings(max(number, 2**64 - 1)))


DAY_NS = 24 * 3600 * 10**9


@pytest.mark.parametrize(
    ("mtime_ns", "atime_ns", "read_ns", "moves"),
    [
        (10, 5, 2_000_000_000_000, True),
        (10**16, 10**16, 10**16 + 1, True),
        (10, 10**16, 10**16 + 1, False),
        (10, 10**16, 10**16 + DAY_NS - 1, False),
        (10, 10**16, 10**16 + DAY_NS, True),
        (10, 10**16, 10**16 - 1, False),
        (10, 5, 0, False),
    ],
)
def test_reading_moves_atime_as_with_relatime(
    volume: Volume, mtime_ns: int, atime_ns: int, read_ns: int, moves: bool
) -> None:
    """Goal: after a change and once a day, and only by an open that says when it reads; no other time moves."""
    ino = volume.make("f").ino
    before = volume.set("f", mtime_ns=mtime_ns, atime_ns=atime_ns)
    after = volume.open(ino, volume.begin(), opening=1, atime_ns=read_ns).attributes
    assert after == volume.at("f")
    assert after.atime_ns == (read_ns if moves else atime_ns)
    assert (after.mtime_ns, after.ctime_ns, after.version) == (before.mtime_ns, before.ctime_ns, before.version)


@pytest.mark.parametrize(
    ("since", "moves"), [({}, True), ({"mode": 0o600}, False), ({"atime_ns": 6}, False), ({"mtime_ns": 6}, False)]
)
def test_what_was_read_without_asking(volume: Volume, since: dict[str, int], moves: bool) -> None:
    """Goal: a renewal tells when files were read, which moves atime by the same rule, but of none that has changed
    since; one that is gone is passed over."""
    before, session = volume.make("f"), volume.begin()
    before = volume.set("f", mtime_ns=5, atime_ns=5)
    now = volume.set("f", **since) if since else before
    read = [messages.ReadAt(ino, 10**18, before.ctime_ns) for ino in (before.ino + 1000, before.ino)]
    volume.core.renew(messages.Renew(session=session, read=read), volume.now_s)
    assert volume.at("f").atime_ns == (10**18 if moves else now.atime_ns)
    read = [messages.ReadAt(before.ino, 10**18 + 1, volume.at("f").ctime_ns)]
    volume.core.renew(messages.Renew(session=session, read=read), volume.now_s)
    assert volume.at("f").atime_ns == 10**18 + (not moves)
    assert volume.at("f").ctime_ns == now.ctime_ns


def test_the_first_commit_brings_attributes(volume: Volume) -> None:
    """Goal: what was set of a new file comes with its content, as `set_attributes` would have it; set-id bits that a
    later write has taken go all the same. Later commits bring none."""
    made = volume.make("f", mtime_ns=1)
    new = messages.OwedAttributes(
        mode=(0o644, 0o6755), uid=(0, 5), gid=(0, 6), mtime_ns=(made.mtime_ns, 7), atime_ns=(made.atime_ns, 8)
    )
    ino = made.ino
    known = volume.commit(ino, b"content", mtime_ns=None, attributes=new)
    assert known == volume.at("f")
    assert (known.mode, known.uid, known.gid) == (FILE & ~0o7777 | 0o6755, 5, 6)
    assert (known.mtime_ns, known.atime_ns, known.size) == (7, 8, 7)
    with refused(volume, errors.BadRequest):
        volume.commit(ino, b"more", attributes=new)
    ino = volume.make("g").ino
    assert volume.commit(ino, b"", attributes=new, clears_set_ids=True).mode & 0o7777 == 0o755


@pytest.mark.parametrize("field", ["mode", "uid", "gid", "mtime_ns", "atime_ns"])
@pytest.mark.parametrize("how", ["commit", "set_attributes"])
def test_what_somebody_else_has_set_since_stays(volume: Volume, field: str, how: str) -> None:
    """Goal: an attribute that is another than the one that was replaced stays; the others are set."""
    made = volume.make("f")
    values = {"mode": 0o600, "uid": 5, "gid": 6, "mtime_ns": 7, "atime_ns": 8}
    before = {name: made.mode & 0o7777 if name == "mode" else getattr(made, name) for name in values}
    owed = messages.OwedAttributes(**{name: (before[name], values[name]) for name in values})
    others = volume.set("f", **{field: 0o700 if field == "mode" else 99})
    if how == "commit":
        now = volume.commit(made.ino, b"content", mtime_ns=None, attributes=owed)
    else:
        now = volume.set("f", owed=owed)
    for name in values:
        wanted = getattr(others, name) if name == field else values[name] | (FILE & ~0o7777 if name == "mode" else 0)
        assert getattr(now, name) == wanted, name


@pytest.mark.parametrize("wrong", [{"uid": -1}, {"gid": 1 << 32}, {"mode": -1}, {"mode": 1 << 20}])
def test_attributes_that_cannot_be_are_refused_with_the_commit(volume: Volume, wrong: dict[str, int]) -> None:
    """Goal: nothing of such a commit is done."""
    ino = volume.make("f").ino
    with refused(volume, errors.InvalidArgument):
        pairs = {field: (0o644 if field == "mode" else 0, value) for field, value in wrong.items()}
        volume.commit(ino, b"content", attributes=messages.OwedAttributes(**pairs))
    assert volume.at("f").version == 0


def test_that_programs_use_locks_is_remembered(volume: Volume) -> None:
    """Goal: who notes it changes nothing else, and every later open is told."""
    volume.make("f")
    ino = volume.commit(volume.at("f").ino, b"one").ino
    before = volume.open(ino, token=5)
    assert not before.locking
    noted = volume.open(ino, locking=True)
    assert (noted.locking, noted.attributes) == (True, before.attributes)
    assert volume.open(ino).locking
    volume.commit(ino, b"two", token=5)
    assert volume.open(ino).locking
    with refused(volume, errors.LockLost):
        volume.open(ino, token=4)


def test_reading_does_not_undo_the_fence(volume: Volume) -> None:
    """Goal: an open for reading and an open for writing keep to their own: the fence stays, and so does atime."""
    ino = volume.make("f").ino
    volume.open(ino, token=9)
    assert volume.open(ino, atime_ns=10**18).attributes.atime_ns == 10**18
    assert volume.open(ino, token=10).attributes.atime_ns == 10**18
    with refused(volume, errors.LockLost):
        volume.open(ino, token=9)


# -- open rows


def test_open_rows_go_when_the_latest_open_is_closed(volume: Volume) -> None:
    """Goal: closing an earlier open leaves the row; each version has a row of its own."""
    session = volume.begin()
    ino = volume.make("f").ino
    volume.open(ino, session, opening=1)
    volume.open(ino, session, opening=2)
    _close(volume, session, Closed(ino, 0, 1))
    assert len(_open_rows(volume)) == 1
    volume.commit(ino, b"one")
    volume.open(ino, session, opening=3)
    assert len(_open_rows(volume)) == 2
    _close(volume, session, Closed(ino, 0, 9), Closed(ino, 1, 3), Closed(ino, 7, 3), Closed(99, 0, 3))
    assert _open_rows(volume) == []


def test_a_repeated_open_does_not_undo_a_later_one(volume: Volume) -> None:
    """Goal: open 1, repeated by a slow network after open 2, leaves the row that closing open 1 must not delete."""
    session = volume.begin()
    ino = volume.make("f").ino
    for opening in (1, 2, 1):
        volume.open(ino, session, opening=opening)
    _close(volume, session, Closed(ino, 0, 1))
    assert len(_open_rows(volume)) == 1


def test_session_0_leaves_no_open_rows(volume: Volume) -> None:
    """Goal: what no session's end would delete is not kept: an inode would never go."""
    ino = volume.make("f", FILE, opening=1).ino
    volume.open(ino, 0, opening=2)
    volume.commit(ino, b"one", opening=3)
    assert _open_rows(volume) == []
    volume.remove("f")
    with refused(volume, errors.Stale):
        volume.open(ino)


def test_a_commit_moves_the_open_row(volume: Volume) -> None:
    """Goal: the committer has the new version open, and no longer the one that it was based on."""
    session = volume.begin()
    ino = volume.make("f").ino
    volume.open(ino, session, opening=1)
    volume.commit(ino, b"one", session=session, slot=1, sequence=1, opening=2)
    assert _open_rows(volume) == [(ino, session, 1)]


def _close(volume: Volume, session: int, *closed: Closed) -> None:
    volume.core.renew(messages.Renew(session=session, closed=list(closed)), volume.now_s)


def _open_rows(volume: Volume) -> list[tuple[int, ...]]:
    keys = [key for key, _ in volume.store.read(lambda tx: tx.range(b"o", b"p", 1000))]
    return [tuple(int.from_bytes(key[i : i + 8], "big") for i in (1, 9, 17)) for key in keys]


# -- commit


def test_ctime_is_that_of_the_last_change(volume: Volume) -> None:
    """Goal: a commit tells when the content was changed; ctime never moves back by it, and other changes move it on,
    also where the clock of the client is ahead of the directory's."""
    ino, ahead = volume.make("f").ino, 10**18

    def commit(data: bytes, ctime_ns: int) -> int:
        request = volume.commit_request(ino, data, ctime_ns=ctime_ns)
        return volume.core.commit(request, volume.tick(), volume.now_s).ctime_ns

    changed = volume.set("f", mode=0o600).ctime_ns
    assert commit(b"one", changed - 5) == changed
    assert commit(b"two", changed + 5) == changed + 5
    assert commit(b"three", ahead) == ahead
    assert volume.set("f", mode=0o640).ctime_ns > ahead
    volume.rename("f", "g")
    assert volume.at("g").ctime_ns > ahead + 1


def test_commit_makes_the_next_version(volume: Volume) -> None:
    """Goal: version, commit id, size and times after each commit; the usage follows (the oracle looks)."""
    ino = volume.make("f").ino
    for version, data in enumerate((b"one", b"", b"a longer third"), 1):
        request = volume.commit_request(ino, data, mtime_ns=version)
        after = volume.core.commit(request, volume.tick(), volume.now_s)
        assert (after.version, after.commit_id, after.size) == (version, request.commit_id, len(data))
        assert (after.mtime_ns, after.ctime_ns) == (version, volume.now_ns)
        assert volume.at("f") == after
        volume.check()


def test_commit_leaves_times_that_were_set_after_the_write(volume: Volume) -> None:
    """Goal: mtime None keeps the file's mtime (cp -p)."""
    ino = volume.make("f").ino
    volume.set("f", mtime_ns=42)
    assert volume.commit(ino, b"one", mtime_ns=None).mtime_ns == 42


@pytest.mark.parametrize(
    ("mode", "left"), [(0o6755, 0o755), (0o4700, 0o700), (0o2745, 0o2745), (0o2710, 0o710), (0o755, 0o755)]
)
def test_what_strangers_have_written_gets_no_rights(volume: Volume, mode: int, left: int) -> None:
    """Goal: a commit takes set-id bits away where it says so, as write(2) does, and only there; set-group-id without
    group execution stays. The same for the file's capability."""
    ino = volume.make("f", stat.S_IFREG | mode).ino
    volume.change(messages.SetXattr(base=ino, name=b"security.capability", value=b"\1\0\0\2"))
    assert stat.S_IMODE(volume.commit(ino, b"by its owner").mode) == mode
    assert volume.ask(messages.ListXattrs(ino)).names == [b"security.capability"]
    assert stat.S_IMODE(volume.commit(ino, b"by another", clears_set_ids=True).mode) == left
    assert volume.at("f").has_xattrs
    after = volume.commit(ino, b"by anybody", clears_capability=True)
    assert not after.has_xattrs
    assert volume.at("f") == after


def test_a_refused_commit_takes_no_rights(volume: Volume) -> None:
    """Goal: nothing of it is done, and a repeated one does not take again what was given since."""
    ino = volume.make("f", stat.S_IFREG | 0o4755).ino
    with refused(volume, errors.VersionConflict):
        volume.commit(ino, b"late", base_version=3, clears_set_ids=True)
    request = volume.commit_request(ino, b"one", clears_set_ids=True)
    volume.core.commit(request, volume.tick(), volume.now_s)
    volume.set("f", mode=0o4755)
    assert stat.S_IMODE(volume.core.commit(request, volume.tick(), volume.now_s).mode) == 0o4755


@pytest.mark.parametrize(("version", "right_id"), [(0, False), (2, True), (1, False), (-1, False)])
def test_commit_on_another_base_is_refused(volume: Volume, version: int, right_id: bool) -> None:
    """Goal: base version and base commit id must both be the file's."""
    ino = volume.make("f").ino
    new = volume.commit(ino, b"one")
    base_id = new.commit_id if right_id else b"\7" * 16
    with refused(volume, errors.VersionConflict):
        volume.commit(ino, b"two", base_version=version, base_commit_id=base_id)


def test_a_repeated_commit_id_is_success(volume: Volume) -> None:
    """Goal: a commit that has happened answers with the newest attributes, for the latest 8; later it is a conflict."""
    ino = volume.make("f").ino
    requests = []
    for number in range(9):
        requests.append(volume.commit_request(ino, b"content %d" % number))
        volume.core.commit(requests[-1], volume.tick(), volume.now_s)
    for request in requests[1:]:
        assert volume.core.commit(request, volume.tick(), volume.now_s) == volume.at("f")
    assert volume.at("f").version == 9
    with refused(volume, errors.VersionConflict):
        volume.core.commit(requests[0], volume.tick(), volume.now_s)


def test_a_commit_id_that_was_refused_is_not_known(volume: Volume) -> None:
    """Goal: asking with a base that nothing has tells whether a commit has happened (recovery after a crash asks
    so)."""
    ino = volume.make("f").ino
    tried = volume.commit_request(ino, b"one")
    question = {"token": 1 << 62, "base_version": -1, "base_commit_id": b"", "size": 0, "manifest": Manifest()}
    ask = volume.commit_request(ino, commit_id=tried.commit_id, **question)
    with refused(volume, errors.VersionConflict):
        volume.core.commit(ask, volume.tick(), volume.now_s)
    volume.core.commit(tried, volume.tick(), volume.now_s)
    assert volume.core.commit(ask, volume.tick(), volume.now_s) == volume.at("f")


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"commit_id": b""}, errors.BadRequest),
        ({"commit_id": b"x" * 17}, errors.BadRequest),
        ({"size": -1}, errors.InvalidArgument),
        ({"size": FILE_BYTES_MAX + 1}, errors.FileTooLarge),
        ({"size": ENTRY_BYTES, "manifest": Manifest([[], []])}, errors.BadRequest),
        ({"size": 0, "manifest": Manifest([[]])}, errors.BadRequest),
        ({"size": 17 * ENTRY_BYTES, "manifest": Manifest([[]] * 17)}, errors.BadRequest),
        ({"size": 9, "manifest": Manifest([[]], [b""])}, errors.BadRequest),
        ({"size": SEGMENT_ENTRIES * ENTRY_BYTES, "manifest": Manifest([], [b"", b""])}, errors.BadRequest),
        ({"size": 9, "manifest": Manifest([[Piece(b"short", 0, 9)]])}, errors.BadRequest),
        ({"size": 9, "manifest": Manifest([[Piece(HOLE, -1, 9)]])}, errors.BadRequest),
        ({"size": 9, "manifest": Manifest([[Piece(HOLE, 0, 0)]])}, errors.BadRequest),
        ({"size": 9, "manifest": Manifest([[Piece(HOLE, 1, ENTRY_BYTES)]])}, errors.BadRequest),
        ({"size": 9, "manifest": Manifest([[Piece(HOLE, 0, 1)] * (PIECES_MAX + 1)])}, errors.BadRequest),
        ({"size": 9, "manifest": Manifest([], [b"never put" + bytes(7)])}, errors.BadRequest),
    ],
)
def test_commits_that_make_no_sense(volume: Volume, what: dict[str, Any], error: type[errors.DfsError]) -> None:
    """Goal: commit ids, sizes and manifests that cannot be are refused, and nothing is stored."""
    ino = volume.make("f").ino
    with refused(volume, error):
        volume.commit(ino, **what)


@pytest.mark.parametrize("kind", [FOLDER, LINK])
def test_only_files_take_commits(volume: Volume, kind: int) -> None:
    """Goal: a folder or symlink never gets content."""
    ino = volume.make("x", kind, target=b"t" if kind == LINK else b"").ino
    with refused(volume, errors.InvalidArgument):
        volume.commit(ino, b"x")


def test_a_commit_to_what_is_gone(volume: Volume) -> None:
    """Goal: a removed file takes no commit; the client makes a copy of it elsewhere."""
    request = volume.commit_request(volume.make("f").ino, b"x")
    volume.remove("f")
    with refused(volume, errors.Stale):
        volume.core.commit(request, volume.tick(), volume.now_s)


@pytest.mark.parametrize("servers", ["", "A", "AX", "XY", "AA"])
def test_too_few_receipts(volume: Volume, servers: str) -> None:
    """Goal: each new chunk needs receipts of copies_min different servers of the group."""
    ino = volume.make("f").ino
    for receipts in ([], [on(servers, b"x")], [on("ABC", b"another chunk")]):
        with refused(volume, errors.NotEnoughCopies):
            volume.commit(ino, b"x", receipts=receipts)


def test_chunks_of_the_base_need_no_receipts(volume: Volume) -> None:
    """Goal: receipts cover what is new; holes need none."""
    ino = volume.make("f").ino
    volume.commit(ino, b"one", receipts=[on("BC", b"one")])
    both = Manifest([[piece(b"one"), Piece(HOLE, 50, 10), piece(b"two", 3)]])
    with refused(volume, errors.NotEnoughCopies):
        volume.commit(ino, size=60, manifest=both)
    volume.commit(ino, size=60, manifest=both, receipts=[on("AB", b"two")])
    volume.commit(ino, size=3, manifest=Manifest([[piece(b"one")]]))
    with refused(volume, errors.NotEnoughCopies):
        volume.commit(ino, size=60, manifest=both)


# -- large manifests


def large(*data: bytes) -> list[Entry]:
    return [[piece(one)] for one in data]


def put(volume: Volume, ino: int, *segments: Segment, **more: Any) -> None:
    base = volume.ask(messages.Lookup(ino))
    new = [entry[0].chunk for segment in segments for entry in segment.entries if entry]
    receipts = [messages.ChunkReceipts(chunk, [messages.Receipt(s, 1) for s in "ABC"]) for chunk in new]
    what = {"base_version": base.version, "base_commit_id": base.commit_id, "receipts": receipts, **more}
    volume.core.put_segments(PutSegments(session=0, ino=ino, segments=list(segments), **what), volume.now_s)


def test_a_manifest_in_segments(volume: Volume) -> None:
    """Goal: put, committed, read back; a segment of holes has no id; inline again after a cut."""
    ino = volume.make("f").ino
    entries = large(*(b"chunk %d" % number for number in range(20)))
    put(volume, ino, Segment(b"s" * 16, 0, entries))
    size = (SEGMENT_ENTRIES + 5) * ENTRY_BYTES
    volume.commit(ino, size=size, manifest=Manifest([], [b"s" * 16, b""]))
    assert volume.open(ino).manifest == Manifest([], [b"s" * 16, b""])
    assert volume.ask(messages.GetSegments([b"s" * 16])).segments == [Segment(b"s" * 16, 0, entries)]
    volume.commit(ino, size=3 * ENTRY_BYTES, manifest=Manifest(entries[:3]))
    volume.check()


def test_segments_are_invisible_until_committed(volume: Volume) -> None:
    """Goal: putting segments changes nothing of the file, and repeating it does no harm."""
    ino = volume.make("f").ino
    before = volume.open(ino)
    for _ in range(2):
        put(volume, ino, Segment(b"s" * 16, 0, large(b"x")))
    assert volume.open(ino) == before


def test_an_unchanged_part_needs_no_receipts_again(volume: Volume) -> None:
    """Goal: a part's chunks are compared with the same part of the base, inline or in segments."""
    ino = volume.make("f").ino
    entries = large(*(b"chunk %d" % number for number in range(16)))
    receipts = [messages.ChunkReceipts(e[0].chunk, [messages.Receipt(s, 1) for s in "AB"]) for e in entries]
    volume.commit(ino, size=16 * ENTRY_BYTES, manifest=Manifest(entries), receipts=receipts)
    new = [*entries, *large(b"the 17th")]
    with refused(volume, errors.NotEnoughCopies):
        put(volume, ino, Segment(b"s" * 16, 0, new), receipts=[])
    with refused(volume, errors.NotEnoughCopies):
        put(volume, ino, Segment(b"s" * 16, 1, entries), receipts=[])
    put(volume, ino, Segment(b"s" * 16, 0, new), receipts=[on("AB", b"the 17th")])
    volume.commit(ino, size=17 * ENTRY_BYTES, manifest=Manifest([], [b"s" * 16]))
    put(volume, ino, Segment(b"t" * 16, 0, [*new, []]), receipts=[])


@pytest.mark.parametrize(
    ("segment", "error"),
    [
        (Segment(b"short", 0, []), errors.BadRequest),
        (Segment(b"", 0, []), errors.BadRequest),
        (Segment(b"s" * 16, 0, [[]] * (SEGMENT_ENTRIES + 1)), errors.BadRequest),
        (Segment(b"s" * 16, 0, [[Piece(b"bad", 0, 1)]]), errors.BadRequest),
        (Segment(b"s" * 16, -1, large(b"x")), errors.BadRequest),
        (Segment(b"s" * 16, 4096, large(b"x")), errors.BadRequest),
    ],
)
def test_segments_that_make_no_sense(volume: Volume, segment: Segment, error: type[errors.DfsError]) -> None:
    """Goal: ids, parts and entries of segments are checked."""
    ino = volume.make("f").ino
    with refused(volume, error):
        put(volume, ino, segment)


def test_a_segment_never_changes(volume: Volume) -> None:
    """Goal: an id that is taken, by whatever file, cannot be given other entries."""
    one, two = volume.make("f").ino, volume.make("g").ino
    put(volume, one, Segment(b"s" * 16, 0, large(b"x")))
    with refused(volume, errors.BadRequest):
        put(volume, two, Segment(b"s" * 16, 0, large(b"y")))


def test_a_segment_comes_in_runs(volume: Volume) -> None:
    """Goal: entries come behind those that are there, repeated and late ones change nothing, each run is whole with its
    references, and what one server lacks of any of them is known at the commit."""
    ino, entries = volume.make("f").ino, large(*(b"chunk %d" % number for number in range(6)))
    runs = [Segment(b"s" * 16, 0, entries[first : first + 2], first) for first in (0, 2, 4)]
    with refused(volume, errors.ReceiptsVoid):
        put(volume, ino, runs[1])
    put(volume, ino, runs[0])
    volume.check()
    on_two = [messages.ChunkReceipts(e[0].chunk, [messages.Receipt(s, 1) for s in "AB"]) for e in runs[1].entries]
    put(volume, ino, runs[1], receipts=on_two)
    for run in (runs[0], runs[2], runs[1], runs[0]):
        put(volume, ino, run, **({"receipts": on_two} if run is runs[1] else {}))
    with refused(volume, errors.BadRequest):
        put(volume, ino, Segment(b"s" * 16, 0, large(b"another"), 3))
    assert volume.ask(messages.GetSegments([b"s" * 16])).segments == [Segment(b"s" * 16, 0, entries)]
    volume.commit(ino, size=17 * ENTRY_BYTES, manifest=Manifest([], [b"s" * 16]))
    volume.check()
    assert volume.store.read(lambda tx: undurable.get(tx, ino)).needs.lacking == ["C"]


def test_what_one_request_carries_is_bounded(volume: Volume) -> None:
    """Goal: more pieces in one request are refused, and an answer has not more segments than are little work."""
    ino, entry = volume.make("f").ino, [piece(b"x", offset) for offset in range(16)]
    with refused(volume, errors.BadRequest):
        put(volume, ino, Segment(b"s" * 16, 0, [entry] * (PUT_PIECES_MAX // 16 + 1)))
    ids = [bytes([number]) * 16 for number in range(3)]
    for part, segment_id in enumerate(ids):
        for first in range(0, SEGMENT_ENTRIES, PUT_PIECES_MAX // 16):
            put(volume, ino, Segment(segment_id, part, [entry] * (PUT_PIECES_MAX // 16), first))
    assert [segment.id for segment in volume.ask(messages.GetSegments(ids)).segments] == ids[:1]


def test_segments_on_another_base(volume: Volume) -> None:
    """Goal: segments for a commit that would be refused are refused."""
    ino = volume.make("f").ino
    with refused(volume, errors.VersionConflict):
        put(volume, ino, Segment(b"s" * 16, 0, []), base_version=3)


def all_rows(tx: Transaction) -> dict[bytes, bytes]:
    return dict(tx.range(b"", b"\xff", 1000))


def test_a_commit_of_segments_that_a_power_cut_took(volume: Volume) -> None:
    """Goal: a commit that names a segment which is not there is refused: the file would lose its content."""
    ino = volume.make("f").ino
    before = volume.store.read(all_rows)
    put(volume, ino, Segment(b"s" * 16, 0, large(b"x")))
    volume.store.transact(lambda tx: [tx.delete(key) for key in set(all_rows(tx)) - set(before)])
    with refused(volume, errors.BadRequest):
        volume.commit(ino, size=17 * ENTRY_BYTES, manifest=Manifest([], [b"s" * 16]))


def test_get_segments_refusals(volume: Volume) -> None:
    """Goal: an unknown id, and more ids than a request may name."""
    with refused(volume, errors.NotFound):
        volume.ask(messages.GetSegments([b"s" * 16]))
    with refused(volume, errors.BadRequest):
        volume.ask(messages.GetSegments([b"s" * 16] * 65))


# -- where the copies are


def where(volume: Volume, path: str) -> dict[str, tuple[str, bool, int]]:
    reply = volume.look(content.where, messages.Lookup(names=[path.encode()]))
    return {copy.server: (copy.role, copy.whole, copy.missing_chunks) for copy in reply.copies}


def test_where_tells_roles_and_short_copies(volume: Volume) -> None:
    """Goal: the first server is the primary; a server without a receipt is short until a later receipt of it."""
    ino = volume.make("f").ino
    volume.commit(ino, b"one", receipts=[on("AC", b"one")])
    assert where(volume, "f") == {
        "A": ("primary", True, 0), "B": ("replica", False, 1), "C": ("replica", True, 0),
    }  # fmt: skip
    assert volume.core.status(messages.Server(kind="d", name="d", url="d"), volume.now_s).short_chunks == 1
    volume.commit(ino, b"one", receipts=[on("ABC", b"one")])
    assert where(volume, "f")["B"] == ("replica", True, 0)
    reply = volume.look(content.where, messages.Lookup(ino))
    assert (reply.path, reply.chunks, reply.attributes.version) == (b"/f", 1, 2)


def test_where_counts_the_chunks_of_segments(volume: Volume) -> None:
    """Goal: a large file's short chunks are counted over all its segments, those noted with the segments too."""
    ino = volume.make("f").ino
    receipts = [on("AB", b"x"), on("BC", b"y"), on("ABC", b"z")]
    segments = Segment(b"s" * 16, 0, large(b"x", b"y")), Segment(b"t" * 16, 1, large(b"z", b"x"))
    put(volume, ino, *segments, receipts=receipts)
    volume.commit(ino, size=(SEGMENT_ENTRIES + 2) * ENTRY_BYTES, manifest=Manifest([], [b"s" * 16, b"t" * 16]))
    assert {name: copy[2] for name, copy in where(volume, "f").items()} == {"A": 1, "B": 0, "C": 1}
    assert volume.look(content.where, messages.Lookup(ino)).chunks == 3


def test_where_of_what_has_no_copies(volume: Volume) -> None:
    """Goal: a folder is refused; an empty file is whole everywhere."""
    volume.make("d", FOLDER)
    volume.make("f")
    with refused(volume, errors.IsADirectory):
        where(volume, "d")
    with refused(volume, errors.NotFound):
        where(volume, "missing")
    assert all(whole for _, whole, _ in where(volume, "f").values())


@pytest.mark.parametrize("limit", [-1, 1, 3, 4, 1000])
def test_mappings_in_pages(volume: Volume, limit: int) -> None:
    """Goal: every regular file once, in order of inode numbers, whatever lies between; pages keep to the limit."""
    files = []
    for number in range(9):
        files.append(volume.make(f"f{number}").ino)
        volume.make(f"d{number}", FOLDER)
        volume.make(f"l{number}", LINK, target=b"x")
    found, after, more = [], 0, True
    while more:
        page = volume.look(content.mappings, messages.ListMappings(after, limit))
        assert len(page.rows) <= max(limit, 1)
        found += [row.attributes.ino for row in page.rows]
        more, after = page.more, found[-1]
    assert found == files


def test_mappings_of_an_empty_volume_and_over_many_folders(volume: Volume) -> None:
    """Goal: no files, no rows; more folders than are read at a time do not end the list."""
    assert volume.look(content.mappings, messages.ListMappings()) == messages.Mappings([], False)
    for number in range(1100):
        volume.make(f"d{number}", FOLDER)
    ino = volume.make("f").ino
    page = volume.look(content.mappings, messages.ListMappings())
    assert [row.attributes.ino for row in page.rows] == [ino]


def test_a_copy_that_lacks_something_is_among_the_lost_files(volume: Volume) -> None:
    """Goal: what a client could not find of a copy is told to everybody, until the copy is removed; what makes no sense
    is refused."""
    ino = volume.make("copy").ino
    for wrong in ([(0, 0)], [(5, 3)], [(-1, 3)], [(0, 8)], [(0, 1)] * 1001):
        with refused(volume, errors.BadRequest):
            volume.commit(ino, b"content", gaps=wrong)
    volume.commit(ino, b"content", gaps=[(0, 2), (3, 7)])
    directory = messages.Server(kind="directory", name="directory", url="")
    for _ in range(2):
        (lost,) = volume.core.status(directory, volume.now_s).lost_files
        assert (lost.ino, lost.path, lost.version, lost.gaps) == (ino, b"/copy", 1, [(0, 2), (3, 7)])
        volume.restart()
    volume.check()
    volume.remove("copy")
    assert volume.core.status(directory, volume.now_s).lost_files == []
    volume.check()
