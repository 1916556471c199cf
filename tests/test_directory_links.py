"""Several names for one inode, and inodes without a name: hard links, O_TMPFILE, and what open rows keep alive."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_directory_tree import refused
from volumes import ENGINES, FILE, FOLDER, LINK, Volume, names, volume_on

from dfsfuse import errors, messages
from dfsfuse.messages import LINKS_MAX, Lookup
from servers import records

EXCHANGE = messages.RENAME_EXCHANGE
FIFO = stat.S_IFIFO | 0o600


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        made.make("d", FOLDER)
        yield made


def parents(volume: Volume, ino: int) -> set[tuple[int, bytes]]:
    """(folder, name) of every parent row of an inode."""
    rows = volume.store.read(lambda tx: tx.range(*records.within(b"p" + records.number(ino)), 1000))
    return {(records.as_number(key[9:17]), key[17:]) for key, _ in rows}


def used(volume: Volume) -> records.Usage:
    return volume.store.read(records.usage)


# -- links


def test_a_link_is_another_name_of_the_same_inode(volume: Volume) -> None:
    """Goal: both names lead to one inode with one content; nlink counts them; ctime and the new folder's times move."""
    made = volume.make("f", mtime_ns=5)
    volume.commit(made.ino, b"content", mtime_ns=6)
    linked = volume.link("f", "d/g")
    assert (linked.ino, linked.nlink, linked.ctime_ns, linked.mtime_ns) == (made.ino, 2, volume.now_ns, 6)
    assert volume.at("f") == volume.at("d/g") == linked
    assert (volume.at("d").mtime_ns, volume.at("d").ctime_ns) == (volume.now_ns, volume.now_ns)
    assert volume.at("").mtime_ns < volume.now_ns
    volume.set("d/g", mode=0o600)
    assert stat.S_IMODE(volume.at("f").mode) == 0o600
    assert used(volume) == records.Usage(3, 7, 7)


def test_parent_rows_lead_back_to_all_names(volume: Volume) -> None:
    """Goal: each name has its row, `path` tells one of them, and the one that is left is told when the others go."""
    made, folder = volume.make("f"), volume.at("d").ino
    for name in ("d/g", "d/h", "z"):
        volume.link("f", name)
    assert parents(volume, made.ino) == {(1, b"f"), (folder, b"g"), (folder, b"h"), (1, b"z")}
    assert volume.path_of(made.ino).path in (b"/f", b"/d/g", b"/d/h", b"/z")
    for number, name in enumerate(("f", "z", "d/h"), 1):
        volume.remove(name)
        assert volume.ask(Lookup(made.ino)).nlink == 4 - number
        assert volume.ask(Lookup(made.ino)).ctime_ns == volume.now_ns
    assert volume.path_of(made.ino) == messages.PathReply(b"/d/g", folder)
    volume.remove("d/g")
    assert parents(volume, made.ino) == set()
    with refused(volume, errors.Stale):
        volume.ask(Lookup(made.ino))


@pytest.mark.parametrize(("kind", "target"), [(FILE, b""), (LINK, b"to"), (FIFO, b""), (stat.S_IFSOCK | 0o600, b""),
                                              (stat.S_IFCHR | 0o600, b""), (stat.S_IFBLK | 0o600, b"")])  # fmt: skip
def test_everything_but_folders_can_have_links(volume: Volume, kind: int, target: bytes) -> None:
    """Goal: the type goes along with each name, and a symlink is linked itself."""
    made = volume.make("x", kind, target=target)
    linked = volume.link("x", "y")
    assert (linked.ino, linked.mode, linked.target, linked.nlink) == (made.ino, kind, target, 2)
    volume.remove("x")
    assert volume.at("y").nlink == 1


def test_a_link_by_inode_number(volume: Volume) -> None:
    """Goal: a driver that knows inodes names no path: (ino, ()) to (folder, (name,))."""
    ino, folder = volume.make("f").ino, volume.at("d").ino
    volume.change(messages.Link(base=ino, new_base=folder, new_names=[b"g"]))
    assert volume.at("d/g").ino == ino


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("missing", "new", errors.NotFound),
        ("f/x", "new", errors.NotADirectory),
        ("f", "missing/new", errors.NotFound),
        ("f", "f/new", errors.NotADirectory),
        ("f", "f", errors.AlreadyExists),
        ("f", "d", errors.AlreadyExists),
        ("d", "f", errors.AlreadyExists),
        ("d", "new", errors.NotPermitted),
        ("", "new", errors.NotPermitted),
        ("f", "", errors.InvalidArgument),
        ("f", "n" * 256, errors.NameTooLong),
        ("f", ".", errors.BadRequest),
        ("f", "d/..", errors.BadRequest),
    ],
)
def test_what_cannot_be_linked(volume: Volume, old: str, new: str, error: type[errors.DfsError]) -> None:
    """Goal: each refusal of link(2) has its error, and changes nothing."""
    volume.make("f")
    with refused(volume, error):
        volume.link(old, new)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_numbers_that_are_no_inodes(volume: Volume, number: int) -> None:
    """Goal: a number that cannot be one is the caller's error at both ends."""
    volume.make("f")
    for request in (messages.Link(base=number, new_names=[b"g"]),
                    messages.Link(names=[b"f"], new_base=number, new_names=[b"g"])):  # fmt: skip
        with refused(volume, errors.InvalidArgument):
            volume.change(request)


def test_the_number_of_names_has_a_limit(volume: Volume) -> None:
    """Goal: the name beyond LINKS_MAX is refused; when one goes there is room again."""
    ino = volume.make("f").ino

    def almost(tx) -> None:
        inode = records.get_inode(tx, ino)
        inode.nlink = LINKS_MAX - 1
        records.put_inode(tx, ino, inode)

    volume.store.transact(almost)
    assert volume.link("f", "g").nlink == LINKS_MAX
    with refused(volume, errors.TooManyLinks):
        volume.link("f", "h")
    volume.remove("g")
    volume.link("f", "h")
    volume.store.transact(lambda tx: records.put_inode(tx, ino, _counted(tx, ino)))


def _counted(tx, ino: int) -> records.Inode:
    inode = records.get_inode(tx, ino)
    inode.nlink = 2
    return inode


# -- renaming what has several names


def test_rename_onto_another_name_of_the_same_inode_does_nothing(volume: Volume) -> None:
    """Goal: as POSIX says: both names stay. RENAME_NOREPLACE refuses all the same."""
    volume.make("f")
    volume.link("f", "d/g")
    before = volume.at("f")
    for flags in (0, EXCHANGE):
        volume.rename("f", "d/g", flags)
        assert volume.at("f") == volume.at("d/g") == before
    with refused(volume, errors.AlreadyExists):
        volume.rename("f", "d/g", messages.RENAME_NOREPLACE)


def test_rename_over_one_of_several_names(volume: Volume) -> None:
    """Goal: what is replaced keeps its other names, with its ctime moved."""
    kept = volume.make("f")
    volume.link("f", "d/g")
    moved = volume.make("new")
    volume.rename("new", "f")
    assert volume.at("f").ino == moved.ino
    assert (volume.at("d/g").ino, volume.at("d/g").nlink, volume.at("d/g").ctime_ns) == (kept.ino, 1, volume.now_ns)
    assert parents(volume, kept.ino) == {(volume.at("d").ino, b"g")}


def test_exchange_of_a_name_with_a_folder(volume: Volume) -> None:
    """Goal: parent rows and link counts are right where one of the two has other names too."""
    made = volume.make("f")
    volume.link("f", "g")
    volume.make("d/sub", FOLDER)
    volume.rename("f", "d/sub", EXCHANGE)
    assert volume.at("d/sub").ino == made.ino
    assert parents(volume, made.ino) == {(volume.at("d").ino, b"sub"), (1, b"g")}
    assert (volume.at("").nlink, volume.at("d").nlink) == (4, 2)


# -- without a name


def test_an_unlinked_file_gets_no_name_again(volume: Volume) -> None:
    """Goal: what has lost its last name is only for who has it open; nobody can bring it back (ENOENT)."""
    session = volume.begin()
    made = volume.make("f")
    volume.open(made.ino, session, opening=1)
    volume.remove("f")
    with refused(volume, errors.NotFound):
        volume.link(made.ino, "back")


def test_a_file_without_a_name(volume: Volume) -> None:
    """Goal: O_TMPFILE: it is in no folder and moves no folder's times, counts as an inode, and goes at its close."""
    session, before = volume.begin(), volume.at("d")
    made = volume.make_unnamed(session, "d", uid=5, gid=6)
    assert (made.nlink, made.mode, made.uid, made.gid) == (0, FILE, 5, 6)
    assert (volume.at("d"), volume.listing("d").entries) == (before, [])
    assert volume.path_of(made.ino) == messages.PathReply(b"", 0)
    assert used(volume).inodes == 3
    volume.commit(made.ino, b"some content")
    assert used(volume).size_bytes == 12
    volume.close(session, made.ino)
    with refused(volume, errors.Stale):
        volume.ask(Lookup(made.ino))
    assert used(volume) == records.Usage(2, 0, 0)


def test_link_names_a_file_once(volume: Volume) -> None:
    """Goal: a nameless file gets its name by `link`, then is as any other: it outlives its session, and once it has
    lost all names it gets none again."""
    session = volume.begin()
    made = volume.make_unnamed(session)
    volume.open(made.ino, session, opening=2)
    assert volume.link(made.ino, "d/f").nlink == 1
    assert volume.link(made.ino, "g").nlink == 2
    assert volume.at("d/f").ino == made.ino
    volume.remove("g")
    volume.remove("d/f")
    with refused(volume, errors.NotFound):
        volume.link(made.ino, "d/f")
    volume.core.end(messages.End(session))
    with refused(volume, errors.Stale):
        volume.ask(Lookup(made.ino))


def test_a_nameless_file_may_stay_so_for_good(volume: Volume) -> None:
    """Goal: O_TMPFILE | O_EXCL: `link` refuses."""
    made = volume.make_unnamed(volume.begin(), linkable=False)
    with refused(volume, errors.NotFound):
        volume.link(made.ino, "f")


def test_a_nameless_file_goes_with_its_dead_client(volume: Volume) -> None:
    """Goal: nobody closes it, the session ends after its time, and its space is free."""
    session = volume.begin()
    volume.commit(volume.make_unnamed(session).ino, b"lost", opening=1, session=0)
    volume.now_s += 10_000
    volume.core.attendance.end_lapsed(volume.now_s)
    assert used(volume) == records.Usage(2, 0, 0)


def test_a_nameless_file_takes_the_group_of_its_folder(volume: Volume) -> None:
    """Goal: set-group-id folders hand on their group to what has no name yet."""
    volume.make("s", FOLDER | stat.S_ISGID, gid=42)
    assert volume.make_unnamed(volume.begin(), "s", gid=1).gid == 42


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"mode": FOLDER}, errors.InvalidArgument),
        ({"mode": FIFO}, errors.InvalidArgument),
        ({"mode": LINK, "target": b"x"}, errors.InvalidArgument),
        ({"opening": 0}, errors.InvalidArgument),
        ({"folder": "f"}, errors.NotADirectory),
        ({"folder": "missing"}, errors.NotFound),
    ],
)
def test_what_must_have_a_name(volume: Volume, more: dict, error: type[errors.DfsError]) -> None:
    """Goal: only a regular file that is open can do without, and it is made in a folder."""
    volume.make("f")
    with pytest.raises(error):
        volume.make_unnamed(volume.begin(), **more)
    with refused(volume, errors.InvalidArgument):
        volume.change(messages.Create(ino=0, mode=FILE, names=[], unnamed=True, opening=1))


# -- what open rows keep


def test_the_last_of_several_sessions_frees_an_unlinked_file(volume: Volume) -> None:
    """Goal: S11: closed by one, its client dead for the other; the space is free after the second."""
    one, two = volume.begin(), volume.begin()
    made = volume.make("f")
    volume.link("f", "g")
    for session in (one, two):
        volume.open(made.ino, session, opening=1)
    volume.commit(made.ino, b"content")
    volume.remove("f")
    volume.remove("g")
    volume.close(one, made.ino)
    assert (volume.ask(Lookup(made.ino)).nlink, used(volume)) == (0, records.Usage(3, 7, 7))
    volume.core.end(messages.End(two))
    assert used(volume) == records.Usage(2, 0, 0)


# -- special files


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_special_files_have_no_content(volume: Volume, kind: int) -> None:
    """Goal: every operation on content refuses them (EINVAL), and they count no bytes."""
    session, made = volume.begin(), volume.make("x", kind | 0o600, rdev=0x103)
    assert made.rdev == (0x103 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0)
    with refused(volume, errors.InvalidArgument):
        volume.open(made.ino, session, opening=1)
    with refused(volume, errors.InvalidArgument):
        volume.commit(made.ino, b"x")
    with refused(volume, errors.InvalidArgument):
        volume.core.put_segments(_segments_for(made.ino), volume.now_s)
    assert used(volume) == records.Usage(3, 0, 0)


def _segments_for(ino: int) -> messages.PutSegments:
    segment = messages.Segment(bytes(16), 0, [])
    return messages.PutSegments(session=0, ino=ino, base_version=0, base_commit_id=b"", segments=[segment])


@pytest.mark.parametrize("rdev", [-1, 1 << 32])
def test_device_numbers_have_32_bits(volume: Volume, rdev: int) -> None:
    """Goal: a number that no kernel takes is refused; the largest is kept."""
    with refused(volume, errors.InvalidArgument):
        volume.make("x", stat.S_IFCHR | 0o600, rdev=rdev)
    assert volume.make("y", stat.S_IFBLK | 0o600, rdev=(1 << 32) - 1).rdev == (1 << 32) - 1


def test_a_symlink_of_a_name_is_no_name(volume: Volume) -> None:
    """Goal: lookups do not follow it, so nothing can be linked through it."""
    volume.make("l", LINK, target=b"d")
    with refused(volume, errors.NotADirectory):
        volume.change(messages.Link(names=names("l/x"), new_names=[b"y"]))
