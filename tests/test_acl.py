"""Access control lists at the directory: the arithmetic and the rooms around it, held against the local disk."""

import errno
import itertools
import os
import random
import stat
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ROOT
from test_directory_tree import refused
from volumes import ENGINES, FILE, FOLDER, LINK, Volume, names, volume_on

from dfsfuse import errors, messages
from dfsfuse.messages import XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT, XATTR_CAPABILITY
from servers import acl, records
from servers.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, AclEntry
from servers.store.memory import MemoryStore, MemoryTransaction

LISTS = XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT
SEEDS = range(8)
VALUES_A_SEED = 1000
STEPS_A_SEED = 400
MINIMAL = acl.as_value((AclEntry(USER_OBJ, 6), AclEntry(GROUP_OBJ, 4), AclEntry(OTHER, 0)))
LONGER = acl.as_value(
    (AclEntry(USER_OBJ, 7), AclEntry(USER, 7, 5), AclEntry(GROUP_OBJ, 5), AclEntry(MASK, 7), AclEntry(OTHER, 0))
)


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        made.make("f")
        made.make("d", FOLDER)
        yield made


def give(volume: Volume, path: str, name: bytes, value: bytes, **more: object) -> messages.Attributes:
    return volume.change(messages.SetXattr(names=names(path), name=name, value=value, **more))


def take(volume: Volume, path: str, name: bytes) -> messages.Attributes:
    return volume.change(messages.RemoveXattr(names=names(path), name=name))


def list_of(volume: Volume, path: str, name: bytes = XATTR_ACL_ACCESS) -> bytes | None:
    try:
        return volume.ask(messages.GetXattr(names=names(path), name=name)).value
    except errors.NoAttribute:
        return None


# -- against the local disk


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A folder on a local file system that keeps lists: the kernel's functions are the same for all of them."""
    for place in (tempfile.gettempdir(), "/var/tmp", ROOT):
        with tempfile.TemporaryDirectory(prefix="dfs-", dir=place) as folder:
            try:
                os.setxattr(folder, "system.posix_acl_access", MINIMAL)
            except OSError:
                continue
            yield Path(folder)
            return
    pytest.skip("NOT RUN: ACCESS CONTROL LISTS AGAINST THE LOCAL DISK, as none here keeps any")


def a_value(rng: random.Random) -> bytes:
    """Mostly a valid list, in part one with a fault."""
    entries = [(USER_OBJ, rng.randrange(8), rng.choice((0, 0xFFFFFFFF)))]
    named = rng.choice((0, 0, 1, 3))
    entries += [(USER, rng.randrange(8), rng.randrange(5)) for _ in range(named)]
    entries += [(GROUP_OBJ, rng.randrange(8), 0xFFFFFFFF)]
    groups = rng.choice((0, 0, 1, 2))
    entries += [(GROUP, rng.randrange(8), rng.choice((7, 0xFFFFFFFE))) for _ in range(groups)]
    if named or groups or rng.random() < 0.3:
        entries.append((MASK, rng.randrange(8), 0xFFFFFFFF))
    entries.append((OTHER, rng.randrange(8), 0xFFFFFFFF))
    return _with_a_fault(rng, entries) if rng.random() < 0.4 else _packed(entries)


def _packed(entries: list[tuple[int, int, int]], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _with_a_fault(rng: random.Random, entries: list[tuple[int, int, int]]) -> bytes:
    where, other = rng.randrange(len(entries)), rng.randrange(len(entries))
    tag, bits, number = entries[where]
    fault = rng.randrange(9)
    if fault == 0:
        del entries[where]
    elif fault == 1:
        entries.insert(other, entries[where])
    elif fault == 2:
        entries[where], entries[other] = entries[other], entries[where]
    elif fault == 3:
        entries[where] = rng.choice((0, 3, 64, 0x8001, USER, GROUP, MASK)), bits, number
    elif fault == 4:
        entries[where] = tag, rng.choice((8, 15, 0x100)), number
    elif fault == 5:
        entries[where] = tag, bits, 0xFFFFFFFF
    elif fault == 6:
        return _packed(entries, rng.choice((0, 1, 3)))
    elif fault == 7:
        return _packed(entries)[: rng.randrange(12)]
    else:
        return _packed([])
    return _packed(entries)


def outcome(act: Callable[[], object]) -> int:
    """0, or its errno."""
    try:
        act()
    except (OSError, errors.DfsError) as error:
        return error.errno
    return 0


def state_on(path: Path) -> tuple:
    """(mode, access list, default list)."""
    found: list[bytes | None] = []
    for name in LISTS:
        try:
            found.append(os.getxattr(path, name.decode()))
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            found.append(None)
    return os.lstat(path).st_mode, *found


def state_at(volume: Volume, path: str) -> tuple:
    return volume.at(path).mode, *(list_of(volume, path, name) for name in LISTS)


@pytest.mark.parametrize("seed", SEEDS)
def test_lists_are_what_the_local_disk_makes_of_them(disk: Path, tmp_path: Path, seed: int) -> None:
    """Goal: of thousands of lists, valid ones and others, errno, mode and what is kept are the local disk's."""
    rng, folder = random.Random(seed), disk / f"values{seed}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    seen: Counter[int] = Counter()
    with volume_on("memory", tmp_path) as volume:
        volume.make("d", FOLDER)
        for _ in range(VALUES_A_SEED):
            name, value = rng.choice(LISTS), a_value(rng)
            expected = outcome(lambda n=name, v=value: os.setxattr(folder, n.decode(), v))
            assert outcome(lambda n=name, v=value: give(volume, "d", n, v)) == expected, (name, value)
            assert state_at(volume, "d") == state_on(folder), (name, value)
            seen[expected] += 1
    assert set(seen) == {0, errno.EINVAL, errno.EOPNOTSUPP}
    assert min(seen.values()) > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_what_changes_make_of_lists_is_what_the_local_disk_makes(disk: Path, tmp_path: Path, seed: int) -> None:
    """Goal: after any changes of lists and modes, and below any default list and umask, files and folders have the
    modes and lists that they have on the local disk."""
    rng, top = random.Random(seed), disk / f"tree{seed}"
    top.mkdir()
    top.chmod(0o755)
    folders, files = ["t"], []
    with volume_on("memory", tmp_path) as volume:
        volume.make("t", FOLDER)
        local = lambda path: top / path.partition("/")[2]  # noqa: E731
        for number in range(STEPS_A_SEED):
            kind, path = rng.randrange(6), rng.choice(folders + files[-20:])
            if kind <= 1:
                mask, mode, name = rng.randrange(0o1000), rng.randrange(0o1000), f"{rng.choice(folders)}/{number}"
                made = folders if kind and len(folders) < 20 else files
                path = _make(volume, local(name), name, mode, mask, folder=made is folders)
                made.append(path)
            elif kind == 2:
                mode = rng.randrange(0o10000)
                os.chmod(local(path), mode)
                volume.set(path, mode=mode)
            elif kind == 3:
                name = XATTR_ACL_ACCESS if path in files else rng.choice(LISTS)
                os.removexattr(local(path), name.decode())
                take(volume, path, name)
            else:
                name, value = XATTR_ACL_ACCESS if path in files else rng.choice(LISTS), a_value(rng)
                expected = outcome(lambda p=path, n=name, v=value: os.setxattr(local(p), n.decode(), v))
                assert outcome(lambda p=path, n=name, v=value: give(volume, p, n, v)) == expected
            assert state_at(volume, path) == state_on(local(path)), path
        assert len(folders) > 5
        assert any(list_of(volume, path) for path in files)


def _make(volume: Volume, there: Path, name: str, mode: int, mask: int, *, folder: bool) -> str:
    before = os.umask(mask)
    try:
        if folder:
            os.mkdir(there, mode)
        else:
            os.close(os.open(there, os.O_CREAT | os.O_WRONLY, mode))
    finally:
        os.umask(before)
    volume.make(name, (stat.S_IFDIR if folder else stat.S_IFREG) | mode, umask=mask)
    return name


# -- the directory alone


def test_every_form_is_read_as_it_is_written() -> None:
    """Goal: whatever entries, the value is that of the kernel's header, and reading it gives them back."""
    fields = 2, 1, 7, 0xFFFFFFFF, 2, 7, 5, 4, 5, 0xFFFFFFFF, 16, 7, 0xFFFFFFFF, 32, 0, 0xFFFFFFFF
    assert struct.pack("<I" + 5 * "HHI", *fields) == LONGER
    for value in (MINIMAL, LONGER):
        assert acl.as_value(acl.parse(value)) == value


def test_a_mode_and_back() -> None:
    """Goal: for every mode, with a mask and without: the list that is given the mode gives that mode; what is
    inherited lets in no one whom the mode or the default list does not."""
    for value, mode in itertools.product((MINIMAL, LONGER), range(0o1000)):
        entries = acl.parse(value)
        assert acl.mode_of(acl.with_mode(entries, mode), stat.S_ISVTX) == stat.S_ISVTX | mode
        assert acl.mode_of(acl.inherited(entries, mode), 0) == acl.mode_of(entries, 0) & mode


def test_who_may_not_keep_setgid(volume: Volume) -> None:
    """Goal: an access list takes it where the client says so, a default list never."""
    volume.set("f", mode=0o2775)
    assert give(volume, "f", XATTR_ACL_ACCESS, LONGER).mode & stat.S_ISGID
    assert not give(volume, "f", XATTR_ACL_ACCESS, LONGER, kills_setgid=True).mode & stat.S_ISGID
    volume.set("f", mode=0o2775)
    assert not give(volume, "f", XATTR_ACL_ACCESS, MINIMAL, kills_setgid=True).mode & stat.S_ISGID
    volume.set("d", mode=0o2775)
    assert give(volume, "d", XATTR_ACL_DEFAULT, LONGER, kills_setgid=True).mode & stat.S_ISGID


def test_lists_that_cannot_be(volume: Volume) -> None:
    """Goal: symlinks have none, only folders a default list; nothing is changed."""
    volume.make("l", LINK, target=b"f")
    before = volume.at("f"), volume.at("l")
    for path, name, error in (
        ("l", XATTR_ACL_ACCESS, errors.NotSupported),
        ("f", XATTR_ACL_DEFAULT, errors.NotPermitted),
        ("none", XATTR_ACL_ACCESS, errors.NotFound),
    ):
        with refused(volume, error):
            give(volume, path, name, LONGER)
    assert (volume.at("f"), volume.at("l")) == before


def test_a_list_counts_as_an_attribute(volume: Volume) -> None:
    """Goal: it is listed, known by `has_xattrs`, goes with the inode, and stands beside others; a minimal one leaves no
    row, nor does the removal of what is not there move ctime."""
    for name in LISTS:
        assert give(volume, "d", name, LONGER).has_xattrs
    give(volume, "d", b"user.a", b"1")
    listed = volume.ask(messages.ListXattrs(names=names("d"))).names
    assert listed == [XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT, b"user.a"]
    for name in LISTS:
        take(volume, "d", name)
    before = take(volume, "d", b"user.a")
    assert not before.has_xattrs
    assert take(volume, "d", XATTR_ACL_ACCESS) == before
    assert not give(volume, "d", XATTR_ACL_ACCESS, MINIMAL).has_xattrs
    give(volume, "d", XATTR_ACL_DEFAULT, LONGER)
    volume.make("d/x")
    volume.remove("d/x")
    volume.remove("d", folder=True)
    assert volume.store.read(lambda tx: tx.range(*records.within(b"x"), 100)) == []


def test_a_list_that_there_is_no_room_for(volume: Volume) -> None:
    """Goal: ENOSPC, and the mode is what it was; a minimal one needs no room."""
    for name in (b"user.a", b"user.b"):
        give(volume, "f", name, bytes((64 << 10) - 6))
    before = volume.at("f")
    with refused(volume, errors.AttributesFull):
        give(volume, "f", XATTR_ACL_ACCESS, LONGER)
    assert volume.at("f") == before
    assert stat.S_IMODE(give(volume, "f", XATTR_ACL_ACCESS, MINIMAL).mode) == 0o640


def test_the_lists_of_a_file_stay_with_other_changes(volume: Volume) -> None:
    """Goal: a new owner takes set-id bits and capabilities, and leaves the list; times leave it too."""
    give(volume, "f", XATTR_ACL_ACCESS, LONGER)
    give(volume, "f", XATTR_CAPABILITY, b"1")
    volume.set("f", uid=5, mtime_ns=1)
    assert volume.ask(messages.ListXattrs(names=names("f"))).names == [XATTR_ACL_ACCESS]
    assert list_of(volume, "f") == LONGER


def test_umasks(volume: Volume) -> None:
    """Goal: without a default list the umask counts, for all but symlinks; what is no umask is refused."""
    assert stat.S_IMODE(volume.make("d/x", stat.S_IFREG | 0o4777, umask=0o027).mode) == 0o4750
    assert volume.make("d/l", LINK, target=b"x", umask=0o777).mode == LINK
    session = volume.begin()
    assert stat.S_IMODE(volume.make_unnamed(session, "d", umask=0o077).mode) == 0o600
    for wrong in (-1, 0o1000):
        with refused(volume, errors.InvalidArgument):
            volume.make("d/y", FILE, umask=wrong)


def test_a_repeated_list_is_set_once(volume: Volume) -> None:
    """Goal: the first reply comes again, also after the mode was changed."""
    session = volume.begin()
    once = {"session": session, "slot": 1, "sequence": 1}
    reply = give(volume, "f", XATTR_ACL_ACCESS, LONGER, **once)
    volume.set("f", mode=0o600)
    assert give(volume, "f", XATTR_ACL_ACCESS, LONGER, **once) == reply
    assert stat.S_IMODE(volume.at("f").mode) == 0o600


def test_no_row_is_read_where_there_are_no_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: creating, chmod and stat cost the rows that they cost without access control lists."""
    touched: list[bytes] = []
    for method in ("get", "put", "delete", "range"):
        plain = getattr(MemoryTransaction, method)
        monkeypatch.setattr(
            MemoryTransaction, method, lambda tx, key, *more, f=plain: (touched.append(key), f(tx, key, *more))[1]
        )
    volume = Volume(MemoryStore())
    volume.make("d", FOLDER)
    volume.make("d/x", umask=0o022)
    volume.set("d/x", mode=0o600)
    assert touched
    assert not [key for key in touched if key.startswith(b"x")]
    give(volume, "d", XATTR_ACL_DEFAULT, LONGER)
    volume.make("d/y")
    assert [key for key in touched if key.startswith(b"x")]
