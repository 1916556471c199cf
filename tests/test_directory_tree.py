"""The directory's tree: every operation and each of its errors, on both engines; the oracle looks at every result."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from volumes import ENGINES, FILE, FOLDER, LINK, Volume, volume_on

from dfsfuse import errors, messages
from dfsfuse.messages import ROOT_INO
from servers.store.memory import MemoryStore

EXCHANGE, NOREPLACE = messages.RENAME_EXCHANGE, messages.RENAME_NOREPLACE


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        yield made


@contextlib.contextmanager
def refused(volume: Volume, error: type[errors.DfsError]) -> Iterator[None]:
    """Exactly this error is raised, and it changes nothing at all."""
    before = _everything(volume)
    with pytest.raises(errors.DfsError) as caught:
        yield
    assert type(caught.value) is error
    assert _everything(volume) == before


def _everything(volume: Volume) -> list[tuple[bytes, bytes]]:
    return volume.store.read(lambda tx: tx.range(b"", b"\xff" * 9, 1_000_000))


# -- a new volume


def test_a_new_volume_is_an_empty_root(volume: Volume) -> None:
    """Goal: the root is a folder of its maker with nothing in it, and making the volume again changes nothing."""
    root = volume.at("")
    assert (root.ino, root.mode, root.uid, root.gid, root.nlink) == (ROOT_INO, FOLDER, 7, 8, 2)
    assert volume.listing().entries == []
    assert volume.path_of(ROOT_INO) == messages.PathReply(b"/", 0)
    before = _everything(volume)
    volume.restart()
    assert _everything(volume) == before


# -- looking


def test_lookup_follows_names_from_any_inode(volume: Volume) -> None:
    """Goal: a place is an inode and a path below it; without a path it is the inode itself."""
    folder = volume.make("a", FOLDER)
    made = volume.make("a/f")
    assert volume.at("a/f") == made
    assert volume.ask(messages.Lookup(folder.ino, [b"f"])) == made
    assert volume.ask(messages.Lookup(made.ino)) == made


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing", errors.NotFound),
        ("a/missing", errors.NotFound),
        ("missing/f", errors.NotFound),
        ("a/f/below", errors.NotADirectory),
        ("link/below", errors.NotADirectory),
        ("n" * 256, errors.NameTooLong),
        ("a/" + "ä" * 128, errors.NameTooLong),
        (".", errors.BadRequest),
        ("a/..", errors.BadRequest),
        ("a\0b", errors.BadRequest),
    ],
)
def test_lookup_errors(volume: Volume, path: str, error: type[errors.DfsError]) -> None:
    """Goal: each way in which a path leads nowhere has its error."""
    volume.make("a", FOLDER)
    volume.make("a/f")
    volume.make("link", LINK, target=b"a")
    with refused(volume, error):
        volume.at(path)


def test_names_that_cannot_be(volume: Volume) -> None:
    """Goal: an empty name and one with a slash inside are refused wherever a name is taken."""
    for name in (b"", b"a/b", b"/", b"\0", b".", b".."):
        with refused(volume, errors.BadRequest):
            volume.ask(messages.Lookup(ROOT_INO, [name]))
        with refused(volume, errors.BadRequest):
            volume.change(messages.Create(names=[name], ino=0, mode=FILE))
        with refused(volume, errors.BadRequest):
            volume.change(messages.Remove(names=[name]))


def test_an_inode_that_is_gone_is_stale(volume: Volume) -> None:
    """Goal: whoever still holds the number of a removed inode learns that it must look the name up again."""
    gone = volume.make("a", FOLDER).ino
    volume.remove("a", folder=True)
    for request in (messages.Lookup(gone), messages.Lookup(gone, [b"f"]), messages.PathOf(gone),
                    messages.ListFolder(base=gone)):  # fmt: skip
        with refused(volume, errors.Stale):
            volume.ask(request)
    with refused(volume, errors.Stale):
        volume.change(messages.Create(base=gone, names=[b"f"], ino=0, mode=FILE))
    with refused(volume, errors.Stale):
        volume.change(messages.SetAttributes(base=gone, mode=0o600))


@pytest.mark.parametrize("number", [-1, -(2**63), 2**64, 10**30])
def test_numbers_that_are_none(volume: Volume, number: int) -> None:
    """Goal: a number that is negative or beyond 64 bits is the caller's error, not the server's."""
    requests = [messages.Lookup(number), messages.Lookup(number, [b"f"]), messages.ListFolder(base=number)]
    requests.append(messages.PathOf(number))
    for request in requests:
        with refused(volume, errors.InvalidArgument):
            volume.ask(request)
    for change in (
        messages.Create(base=number, names=[b"f"], ino=0, mode=FILE),
        messages.Remove(base=number, names=[b"f"]),
        messages.Rename(base=number, names=[b"f"], new_names=[b"g"]),
        messages.SetAttributes(base=number, mode=0o600),
    ):
        with refused(volume, errors.InvalidArgument):
            volume.change(change)
    for what in ({"mode": number}, {"uid": 10**30}, {"mtime_ns": 10**30}, {"atime_ns": -(10**30)}):
        with refused(volume, errors.InvalidArgument):
            volume.set("", **what)
    with refused(volume, errors.InvalidArgument):
        volume.make("f", number)
    with refused(volume, errors.InvalidArgument):
        volume.make("f", mtime_ns=10**30)


# -- listing


def test_listing_is_sorted_and_has_attributes(volume: Volume) -> None:
    """Goal: names sort as bytes, each entry has the attributes of its inode, the folder's come along."""
    for name in ("b", "a", "ä", "B", "a b"):
        volume.make(name)
    volume.set("b", mode=0o600)
    listing = volume.listing()
    assert [entry.name.decode() for entry in listing.entries] == ["B", "a", "a b", "b", "ä"]
    assert all(entry.attributes == volume.at(entry.name.decode()) for entry in listing.entries)
    assert (listing.folder, listing.more) == (volume.at(""), False)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 14, 20])
def test_listing_in_pages(volume: Volume, count: int) -> None:
    """Goal: pages of 7 after the last name seen give every entry once; `more` is right at each border."""
    for number in range(count):
        volume.make(f"f{number:02}")
    found, after, more = [], b"", True
    while more:
        page = volume.listing(after=after, limit=7)
        assert len(page.entries) <= 7
        found += [entry.name for entry in page.entries]
        more = page.more
        after = found[-1] if found else b""
    assert found == [b"f%02d" % number for number in range(count)]


def test_listing_limits(volume: Volume) -> None:
    """Goal: a limit that makes no sense gives a page all the same, and neighbours do not leak in."""
    neighbours = [volume.make(f"d{number}", FOLDER) for number in range(3)]
    volume.make("d1/f")
    assert len(volume.listing(limit=-5).entries) == 1
    assert len(volume.listing(limit=10**9).entries) == 3
    assert [e.name for e in volume.ask(messages.ListFolder(base=neighbours[1].ino)).entries] == [b"f"]
    assert volume.listing("d0").entries == volume.listing("d2").entries == []
    assert volume.listing(after=b"\xff" * 300).entries == []


def test_only_folders_can_be_listed(volume: Volume) -> None:
    """Goal: a file has no entries to list."""
    volume.make("f")
    with refused(volume, errors.NotADirectory):
        volume.listing("f")


def test_folders_whose_numbers_end_in_255(volume: Volume) -> None:
    """Goal: the end of a range of keys is right where the last byte of the prefix cannot be raised."""
    first = volume.core.attendance.allocate(messages.AllocateInodes(volume.begin(), 1000)).first
    number = first | 0xFF
    volume.make("a", FOLDER, ino=number)
    volume.make("b", FOLDER, ino=number + 1)
    volume.make("b/f")
    volume.make("a/" + "\x7f", ino=number + 2)
    assert [e.name for e in volume.listing("a").entries] == [b"\x7f"]
    with refused(volume, errors.NotEmpty):
        volume.remove("a", folder=True)


# -- paths


def test_paths_of_inodes(volume: Volume) -> None:
    """Goal: an inode's path is made from its parent rows and changes with a rename above it."""
    volume.make("a", FOLDER)
    inner = volume.make("a/b", FOLDER)
    made = volume.make("a/b/f")
    assert volume.path_of(made.ino) == messages.PathReply(b"/a/b/f", inner.ino)
    volume.rename("a", "c")
    assert volume.path_of(made.ino).path == b"/c/b/f"


def test_the_path_of_what_has_no_name(volume: Volume) -> None:
    """Goal: an unlinked inode that is still open has the empty path in no folder."""
    session = volume.begin()
    made = volume.make("f")
    volume.open(made.ino, session, opening=1)
    volume.remove("f")
    assert volume.path_of(made.ino) == messages.PathReply(b"", 0)


# -- creating


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_create_every_type(volume: Volume, kind: int) -> None:
    """Goal: each type is made with its attributes, and its folder's times move."""
    before = volume.at("")
    made = volume.make("x", kind | 0o4751, uid=5, gid=6, mtime_ns=77, rdev=259)
    rdev = 259 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    assert (made.mode, made.uid, made.gid, made.size, made.rdev) == (kind | 0o4751, 5, 6, 0, rdev)
    assert (made.mtime_ns, made.atime_ns, made.ctime_ns, made.version) == (77, 77, volume.now_ns, 0)
    assert made.nlink == (2 if kind == stat.S_IFDIR else 1)
    root = volume.at("")
    assert (root.mtime_ns, root.ctime_ns, root.atime_ns) == (volume.now_ns, volume.now_ns, before.atime_ns)
    assert root.nlink == before.nlink + (kind == stat.S_IFDIR)


def test_create_a_symlink(volume: Volume) -> None:
    """Goal: a target of any bytes up to 4,095 is kept; its size is that of the target, and no content of the volume."""
    for number, target in enumerate((b"x", b"/a/b", b"\xff\n", b"t" * 4095)):
        made = volume.make(f"l{number}", LINK, target=target)
        assert (made.target, made.size) == (target, len(target))


@pytest.mark.parametrize(
    ("mode", "target"),
    [(LINK, b""), (LINK, b"t" * 4096), (FILE, b"t"), (FOLDER, b"t"), (0o644, b""), (0o170000, b"")],
)
def test_create_what_makes_no_sense(volume: Volume, mode: int, target: bytes) -> None:
    """Goal: a symlink needs a target, nothing else has one, and a type is needed."""
    with refused(volume, errors.InvalidArgument):
        volume.make("x", mode, target=target)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("f", errors.AlreadyExists),
        ("d", errors.AlreadyExists),
        ("f/x", errors.NotADirectory),
        ("missing/x", errors.NotFound),
        ("d/" + "n" * 256, errors.NameTooLong),
        ("", errors.InvalidArgument),
    ],
)
def test_create_errors(volume: Volume, path: str, error: type[errors.DfsError]) -> None:
    """Goal: a taken name, a file on the way, a missing folder, a name too long and no name each have their error."""
    volume.make("d", FOLDER)
    volume.make("f")
    for mode in (FILE, FOLDER):
        with refused(volume, error):
            volume.make(path, mode)


def test_names_of_any_bytes(volume: Volume) -> None:
    """Goal: every name of up to 255 bytes without slash and NUL is possible, and comes back as it was."""
    odd = [b"\xff" * 255, b"hex:41", b"a\nb", b"...", b" ", b"\xc3", bytes(range(1, 47)), "é".encode(), b"\x01"]
    for name in odd:
        volume.change(messages.Create(names=[name], ino=0, mode=FILE))
    assert {entry.name for entry in volume.listing().entries} == set(odd)


def test_create_takes_numbers_of_handed_out_ranges_once(volume: Volume) -> None:
    """Goal: an inode number that was not handed out, or is in use, is refused."""
    first = volume.core.attendance.allocate(messages.AllocateInodes(volume.begin(), 10)).first
    assert volume.make("a", ino=first + 3).ino == first + 3
    for number in (first + 3, ROOT_INO, first + 10, 1 << 50):
        with refused(volume, errors.BadRequest):
            volume.make("b", ino=number)
    with refused(volume, errors.InvalidArgument):
        volume.make("b", ino=-1)
    assert volume.make("b").ino >= first + 10


def test_a_setgid_folder_passes_its_group_on(volume: Volume) -> None:
    """Goal: what is made in a set-group-id folder has its group; folders have the bit too."""
    volume.make("d", FOLDER | stat.S_ISGID, gid=42)
    inner, made = volume.make("d/e", FOLDER, gid=1), volume.make("d/f", gid=1)
    assert (inner.gid, made.gid) == (42, 42)
    assert inner.mode & stat.S_ISGID
    assert not made.mode & stat.S_ISGID


# -- removing


def test_removing_what_somebody_else_has_put_there(volume: Volume) -> None:
    """Goal: who says which inode he means removes no other."""
    former = volume.make("f").ino
    volume.make("g")
    volume.rename("g", "f")
    with refused(volume, errors.Stale):
        volume.change(messages.Remove(names=[b"f"], ino=former))
    volume.change(messages.Remove(names=[b"f"], ino=volume.at("f").ino))
    assert volume.paths() == []


def test_remove_a_file_and_a_folder(volume: Volume) -> None:
    """Goal: the name goes, with its inode; the folder's times and link count move."""
    volume.make("d", FOLDER)
    gone = volume.make("d/f")
    volume.remove("d/f")
    assert volume.at("d").mtime_ns == volume.now_ns
    volume.remove("d", folder=True)
    assert (volume.paths(), volume.at("").nlink) == ([], 2)
    with refused(volume, errors.Stale):
        volume.ask(messages.Lookup(gone.ino))


@pytest.mark.parametrize(
    ("path", "folder", "error"),
    [
        ("missing", False, errors.NotFound),
        ("d", False, errors.IsADirectory),
        ("f", True, errors.NotADirectory),
        ("d", True, errors.NotEmpty),
        ("f/x", False, errors.NotADirectory),
        ("missing/x", True, errors.NotFound),
        ("", True, errors.InvalidArgument),
    ],
)
def test_remove_errors(volume: Volume, path: str, folder: bool, error: type[errors.DfsError]) -> None:
    """Goal: each refusal of unlink and rmdir."""
    volume.make("d", FOLDER)
    volume.make("d/inner")
    volume.make("f")
    with refused(volume, error):
        volume.remove(path, folder)


def test_an_open_file_outlives_its_name(volume: Volume) -> None:
    """Goal: an unlinked inode lives, and can be read and changed, until its last open row goes."""
    one, two = volume.begin(), volume.begin()
    made = volume.make("f")
    volume.open(made.ino, one, opening=1)
    volume.open(made.ino, two, opening=1)
    volume.remove("f")
    assert volume.ask(messages.Lookup(made.ino)).nlink == 0
    volume.change(messages.SetAttributes(base=made.ino, mode=0o600))
    volume.commit(made.ino, b"written without a name")
    volume.core.renew(messages.Renew(session=one, closed=[messages.Closed(made.ino, 0, 1)]), volume.now_s)
    assert volume.ask(messages.Lookup(made.ino)).size == 22
    volume.core.end(messages.End(two))
    with refused(volume, errors.Stale):
        volume.ask(messages.Lookup(made.ino))


# -- attributes


def test_set_attributes_changes_what_is_named_alone(volume: Volume) -> None:
    """Goal: each attribute on its own; the type stays, ctime moves each time."""
    before = volume.make("f", FILE, uid=1, gid=2, mtime_ns=3)
    steps = [("mode", 0o1711), ("uid", 0), ("gid", 0), ("mtime_ns", 0), ("mtime_ns", -5), ("atime_ns", 2**62)]
    for name, value in steps:
        after = volume.set("f", **{name: value})
        assert after == volume.at("f")
        assert getattr(after, name) == (stat.S_IFREG | value if name == "mode" else value)
        assert after.ctime_ns == volume.now_ns
        same = [n for n in after.__struct_fields__ if n not in (name, "ctime_ns")]
        assert [getattr(after, n) for n in same] == [getattr(before, n) for n in same]
        before = after


def test_set_attributes_never_changes_the_type(volume: Volume) -> None:
    """Goal: type bits in a mode are passed over."""
    volume.make("d", FOLDER)
    assert volume.set("d", mode=FILE).mode == stat.S_IFDIR | 0o644


@pytest.mark.parametrize("owner", [{"uid": 5}, {"gid": 5}, {"uid": 5, "gid": 5}, {"uid": 0}])
@pytest.mark.parametrize(("mode", "left"), [(0o6755, 0o755), (0o4700, 0o700), (0o2710, 0o710), (0o6745, 0o2745),
                                            (0o1777, 0o1777)])  # fmt: skip
def test_a_new_owner_gets_no_set_id_bits(volume: Volume, owner: dict, mode: int, left: int) -> None:
    """Goal: chown clears them, set-group-id only where the group may execute; folders keep theirs; a mode that is set
    in the same request holds."""
    volume.make("f", stat.S_IFREG | mode)
    assert stat.S_IMODE(volume.set("f", **owner).mode) == left
    assert stat.S_IMODE(volume.set("f", mode=mode, **owner).mode) == mode
    volume.make("d", stat.S_IFDIR | mode)
    assert stat.S_IMODE(volume.set("d", **owner).mode) == mode


# -- renaming


@pytest.fixture
def furnished(volume: Volume) -> Volume:
    for path in ("d", "d/sub", "d/sub/deep", "empty", "other"):
        volume.make(path, FOLDER)
    for path in ("f", "g", "d/f", "d/sub/f"):
        volume.make(path)
    return volume


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("f", "new"),
        ("f", "g"),
        ("f", "d/f"),
        ("f", "d/new"),
        ("d/f", "f"),
        ("d", "new"),
        ("d", "empty"),
        ("d", "other/d"),
        ("d/sub", "sub"),
        ("d/sub", "empty"),
        ("d/sub/deep", "d/deep"),
        ("empty", "other"),
        ("f", "d/sub/deep/f"),
    ],
)
def test_rename_moves_and_replaces(furnished: Volume, old: str, new: str) -> None:
    """Goal: the inode has the new name and all below it, the old name is gone, what stood there too."""
    moved, replaced = furnished.at(old), _maybe(furnished, new)
    below = [path.removeprefix(f"/{old}") for path in furnished.paths() if path.startswith(f"/{old}/")]
    furnished.rename(old, new)
    after = furnished.at(new)
    assert (after.ino, after.mode, after.ctime_ns) == (moved.ino, moved.mode, furnished.now_ns)
    assert [path.removeprefix(f"/{new}") for path in furnished.paths() if path.startswith(f"/{new}/")] == below
    assert _maybe(furnished, old) is None
    if replaced is not None:
        with pytest.raises(errors.Stale):
            furnished.ask(messages.Lookup(replaced.ino))


def _maybe(volume: Volume, path: str) -> messages.Attributes | None:
    try:
        return volume.at(path)
    except errors.NotFound:
        return None


@pytest.mark.parametrize(
    ("old", "new", "flags", "error"),
    [
        ("missing", "new", 0, errors.NotFound),
        ("missing/f", "new", 0, errors.NotFound),
        ("f", "missing/f", 0, errors.NotFound),
        ("f/x", "new", 0, errors.NotADirectory),
        ("f", "g/x", 0, errors.NotADirectory),
        ("f", "empty", 0, errors.IsADirectory),
        ("empty", "f", 0, errors.NotADirectory),
        ("empty", "d", 0, errors.NotEmpty),
        ("d/sub", "d", 0, errors.NotEmpty),
        ("d", "d/new", 0, errors.InvalidArgument),
        ("d", "d/sub", 0, errors.InvalidArgument),
        ("d", "d/sub/deep/new", 0, errors.InvalidArgument),
        ("d", "d/f", 0, errors.InvalidArgument),
        ("", "new", 0, errors.InvalidArgument),
        ("f", "", 0, errors.InvalidArgument),
        ("f", "n" * 256, 0, errors.NameTooLong),
        ("f", "..", 0, errors.BadRequest),
        ("f", "g", NOREPLACE, errors.AlreadyExists),
        ("f", "f", NOREPLACE, errors.AlreadyExists),
        ("empty", "other", NOREPLACE, errors.AlreadyExists),
        ("f", "new", EXCHANGE, errors.NotFound),
        ("missing", "f", EXCHANGE, errors.NotFound),
        ("d", "d/sub", EXCHANGE, errors.InvalidArgument),
        ("d", "d/new", EXCHANGE, errors.NotFound),
        ("missing", "f/x", 0, errors.NotADirectory),
        ("missing", "missing/x", 0, errors.NotFound),
        ("d/sub", "d", EXCHANGE, errors.InvalidArgument),
        ("d/f", "d", EXCHANGE, errors.InvalidArgument),
        ("d/sub/deep", "d", EXCHANGE, errors.InvalidArgument),
        ("f", "g", NOREPLACE | EXCHANGE, errors.InvalidArgument),
        ("f", "g", 4, errors.InvalidArgument),
        ("f", "g", -1, errors.InvalidArgument),
    ],
)
def test_rename_refusals(furnished: Volume, old: str, new: str, flags: int, error: type[errors.DfsError]) -> None:
    """Goal: every rule of rename(2) and renameat2(2) that refuses; nothing changes."""
    with refused(furnished, error):
        furnished.rename(old, new, flags)


@pytest.mark.parametrize("flags", [0, EXCHANGE])
def test_rename_to_itself_does_nothing(furnished: Volume, flags: int) -> None:
    """Goal: a name renamed to itself succeeds without a trace."""
    for path in ("f", "d", "d/sub"):
        before = _everything(furnished)
        furnished.rename(path, path, flags)
        assert _everything(furnished) == before


def test_noreplace_to_a_free_name(furnished: Volume) -> None:
    """Goal: RENAME_NOREPLACE moves where nothing is replaced."""
    furnished.rename("f", "empty/f", NOREPLACE)
    assert "/empty/f" in furnished.paths()


@pytest.mark.parametrize(
    ("one", "two"),
    [("f", "g"), ("f", "d"), ("d", "f"), ("d", "empty"), ("d/sub", "empty"), ("d/f", "d/sub"), ("d/sub/f", "f"),
     ("d/sub/deep", "d/f"), ("empty", "d/sub/deep")],
)  # fmt: skip
def test_exchange(furnished: Volume, one: str, two: str) -> None:
    """Goal: both inodes change places, whatever their types; doing it twice is as nothing."""
    inos = furnished.at(one).ino, furnished.at(two).ino
    paths = furnished.paths()
    furnished.rename(one, two, EXCHANGE)
    assert (furnished.at(two).ino, furnished.at(one).ino) == inos
    furnished.check()
    furnished.rename(one, two, EXCHANGE)
    assert (furnished.at(one).ino, furnished.at(two).ino) == inos
    assert furnished.paths() == paths


def test_rename_moves_the_times_of_both_folders(furnished: Volume) -> None:
    """Goal: mtime and ctime of the folders move, and their link counts when a folder moves."""
    links = furnished.at("d").nlink, furnished.at("other").nlink
    furnished.rename("d/sub", "other/sub")
    source, target = furnished.at("d"), furnished.at("other")
    assert {source.mtime_ns, source.ctime_ns, target.mtime_ns, target.ctime_ns} == {furnished.now_ns}
    assert (source.nlink, target.nlink) == (links[0] - 1, links[1] + 1)


def test_an_open_file_outlives_its_replacement(furnished: Volume) -> None:
    """Goal: a file that a rename replaces lives as long as it is open."""
    replaced = furnished.at("g").ino
    session = furnished.begin()
    furnished.open(replaced, session, opening=1)
    furnished.rename("f", "g")
    assert furnished.ask(messages.Lookup(replaced)).nlink == 0
    furnished.core.end(messages.End(session))
    with pytest.raises(errors.Stale):
        furnished.ask(messages.Lookup(replaced))


def test_rename_between_places_given_by_inode(furnished: Volume) -> None:
    """Goal: base and new_base may be any folders."""
    source, target = furnished.at("d/sub").ino, furnished.at("empty").ino
    furnished.change(messages.Rename(base=source, names=[b"f"], new_base=target, new_names=[b"moved"]))
    assert "/empty/moved" in furnished.paths()


# -- limits


def test_no_folder_moves_below_itself_however_deep(tmp_path: Path) -> None:
    """Goal: the check for loops follows the whole path, also one that no program could name at once."""
    volume = Volume(MemoryStore())
    top = ino = volume.make("top", FOLDER).ino
    for _ in range(4200):
        create = messages.Create(base=ino, names=[b"d"], ino=0, mode=FOLDER)
        ino = volume.core.change(create, volume.tick()).attributes.ino
    below = messages.Rename(names=[b"top"], new_base=ino, new_names=[b"x"])
    with pytest.raises(errors.InvalidArgument):
        volume.core.change(below, volume.tick())
    assert volume.at("top").ino == top
    assert len(volume.path_of(ino).path.split(b"/")) == 4202


@pytest.mark.parametrize("wrong", [{"uid": -5}, {"gid": 1 << 40}, {"token": -3}])
def test_numbers_that_no_kernel_has_are_refused(volume: Volume, wrong: dict[str, int]) -> None:
    """Goal: owners have 32 bits and tokens are not negative; nothing else is stored."""
    with refused(volume, errors.InvalidArgument):
        volume.core.change(messages.Create(names=[b"f"], ino=0, mode=FILE, **wrong), 1)


def test_listing_moves_atime_as_with_relatime(volume: Volume) -> None:
    """Goal: once after each change and once a day, where the listing says when it is; a page after the first need not
    say so."""
    volume.make("d", FOLDER)
    day_ns, now_ns = 24 * 3600 * 10**9, 10**18

    def listed(atime_ns: int) -> int:
        request = messages.ListFolder(names=[b"d"], atime_ns=atime_ns)
        found = volume.core.list_folder(request, volume.now_ns).folder
        assert found == volume.at("d")
        return found.atime_ns

    first = volume.at("d").atime_ns
    assert [listed(0), listed(now_ns), listed(now_ns + 1)] == [first, now_ns, now_ns]
    assert listed(now_ns + day_ns) == now_ns + day_ns
    volume.set("d", mtime_ns=now_ns + 2 * day_ns)
    assert listed(now_ns + day_ns + 5) == now_ns + day_ns + 5
