"""Extended attributes at the directory: every operation, each of its errors, and the limits."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_directory_tree import refused
from volumes import ENGINES, FILE, FOLDER, LINK, Volume, names, volume_on

from dfsfuse import errors, messages
from dfsfuse.messages import XATTR_CREATE, XATTR_REPLACE
from servers import records
from servers.xattrs import NAMES_BYTES_MAX, TOTAL_BYTES_MAX


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        made.make("f")
        made.make("d", FOLDER)
        yield made


def give(volume: Volume, path: str, name: bytes, value: bytes = b"value", flags: int = 0) -> messages.Attributes:
    return volume.change(messages.SetXattr(names=names(path), name=name, value=value, flags=flags))


def value_of(volume: Volume, path: str, name: bytes) -> bytes:
    return volume.ask(messages.GetXattr(names=names(path), name=name)).value


def names_of(volume: Volume, path: str) -> list[bytes]:
    return volume.ask(messages.ListXattrs(names=names(path))).names


def take(volume: Volume, path: str, name: bytes) -> messages.Attributes:
    return volume.change(messages.RemoveXattr(names=names(path), name=name))


def rows(volume: Volume) -> list[tuple[bytes, bytes]]:
    return volume.store.read(lambda tx: tx.range(*records.within(b"x"), 100_000))


@pytest.mark.parametrize("path", ["f", "d", ""])
def test_values_are_kept_and_changed(volume: Volume, path: str) -> None:
    """Goal: any bytes, of files and folders and the root, listed by name; ctime moves with each change, and no other
    time does; attributes say whether there are any."""
    before = volume.at(path)
    assert (names_of(volume, path), before.has_xattrs) == ([], False)
    for name, value in ((b"user.b", b""), (b"user.a", bytes(range(256))), (b"trusted.x", b"1"), (b"security.y", b"2")):
        after = give(volume, path, name, value)
        assert (after.ctime_ns, after.mtime_ns, after.has_xattrs) == (volume.now_ns, before.mtime_ns, True)
        assert after == volume.at(path)
        assert value_of(volume, path, name) == value
    assert names_of(volume, path) == [b"security.y", b"trusted.x", b"user.a", b"user.b"]
    give(volume, path, b"user.b", b"changed")
    assert value_of(volume, path, b"user.b") == b"changed"
    for name in names_of(volume, path):
        assert take(volume, path, name).ctime_ns == volume.now_ns
    assert (names_of(volume, path), volume.at(path).has_xattrs, rows(volume)) == ([], False, [])


def test_flags_of_setting(volume: Volume) -> None:
    """Goal: XATTR_CREATE refuses a name that is there, XATTR_REPLACE one that is not; other flags are none."""
    with refused(volume, errors.NoAttribute):
        give(volume, "f", b"user.a", flags=XATTR_REPLACE)
    give(volume, "f", b"user.a", b"1", XATTR_CREATE)
    with refused(volume, errors.AlreadyExists):
        give(volume, "f", b"user.a", b"2", XATTR_CREATE)
    with refused(volume, errors.AlreadyExists):
        give(volume, "f", b"user.a", b"2", XATTR_CREATE | XATTR_REPLACE)
    give(volume, "f", b"user.a", b"3", XATTR_REPLACE)
    assert value_of(volume, "f", b"user.a") == b"3"
    for flags in (4, -1):
        with refused(volume, errors.InvalidArgument):
            give(volume, "f", b"user.a", flags=flags)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"system.posix_acl_access.x", errors.NotSupported),
        (b"system.posix_acl", errors.NotSupported),
        (b"system.x", errors.NotSupported),
        (b"os2.x", errors.NotSupported),
        (b"user", errors.NotSupported),
        (b"", errors.NotSupported),
        (b"user.", errors.InvalidArgument),
        (b"trusted.", errors.InvalidArgument),
        (b"security.", errors.InvalidArgument),
        (b"user.a\0b", errors.InvalidArgument),
        (b"user." + b"n" * 251, errors.NameTooLong),
    ],
)
def test_names_that_cannot_be(volume: Volume, name: bytes, error: type[errors.DfsError]) -> None:
    """Goal: namespaces that Linux keeps for others, empty and overlong names are refused by each operation."""
    for attempt in (lambda: give(volume, "f", name), lambda: value_of(volume, "f", name),
                    lambda: take(volume, "f", name)):  # fmt: skip
        with refused(volume, error):
            attempt()


def test_what_is_not_there(volume: Volume) -> None:
    """Goal: an attribute that was never set is NoAttribute; a place that leads nowhere has its own errors."""
    give(volume, "f", b"user.a")
    for attempt in (lambda: value_of(volume, "f", b"user.b"), lambda: take(volume, "f", b"user.b"),
                    lambda: value_of(volume, "d", b"user.a"), lambda: take(volume, "d", b"user.a")):  # fmt: skip
        with refused(volume, errors.NoAttribute):
            attempt()
    for path, error in (("missing", errors.NotFound), ("f/x", errors.NotADirectory)):
        for attempt in (lambda p=path: give(volume, p, b"user.a"), lambda p=path: value_of(volume, p, b"user.a"),
                        lambda p=path: take(volume, p, b"user.a"), lambda p=path: names_of(volume, p)):  # fmt: skip
            with refused(volume, error):
                attempt()


@pytest.mark.parametrize(("kind", "target"), [(LINK, b"f"), (stat.S_IFIFO | 0o600, b""), (stat.S_IFSOCK | 0o600, b""),
                                              (stat.S_IFCHR | 0o600, b"")])  # fmt: skip
def test_user_attributes_are_for_files_and_folders(volume: Volume, kind: int, target: bytes) -> None:
    """Goal: EPERM for user attributes of anything else, as Linux has it; trusted ones are possible."""
    volume.make("x", kind, target=target)
    for attempt in (lambda: give(volume, "x", b"user.a"), lambda: take(volume, "x", b"user.a")):
        with refused(volume, errors.NotPermitted):
            attempt()
    give(volume, "x", b"trusted.a")
    assert names_of(volume, "x") == [b"trusted.a"]


def test_limits_of_values(volume: Volume) -> None:
    """Goal: 255 bytes of name and 64 KiB of value are possible, one more of value is E2BIG; all together have a limit,
    which a shorter value in their place makes room in."""
    longest = b"user." + b"n" * 250
    give(volume, "f", longest, bytes(64 << 10))
    assert len(value_of(volume, "f", longest)) == 64 << 10
    with refused(volume, errors.ValueTooLarge):
        give(volume, "f", b"user.b", bytes((64 << 10) + 1))
    left = TOTAL_BYTES_MAX - (64 << 10) - len(longest) - len(b"user.b")
    with refused(volume, errors.AttributesFull):
        give(volume, "f", b"user.b", bytes(left + 1))
    give(volume, "f", b"user.b", bytes(left))
    with refused(volume, errors.AttributesFull):
        give(volume, "f", b"user.c", b"")
    give(volume, "f", b"user.b", bytes(left - 6))
    give(volume, "f", b"user.c", b"")
    give(volume, "d", longest, bytes(64 << 10))


def test_the_list_of_names_stays_short_enough(volume: Volume) -> None:
    """Goal: listxattr(2) gives 64 KiB at most, so there are no more names than that; a known one can be changed."""
    count = NAMES_BYTES_MAX // 256
    for number in range(count):
        give(volume, "f", b"user.%0250d" % number, b"")
    assert sum(len(name) + 1 for name in names_of(volume, "f")) == NAMES_BYTES_MAX
    with refused(volume, errors.AttributesFull):
        give(volume, "f", b"user.a", b"")
    give(volume, "f", b"user.%0250d" % 5, b"changed")


def test_attributes_go_with_their_inode(volume: Volume) -> None:
    """Goal: no row is left behind by unlink, rmdir, rename-over or the last close; another name keeps them."""
    session = volume.begin()
    for path in ("f", "d"):
        give(volume, path, b"user.a", bytes(1000))
    volume.link("f", "g")
    volume.remove("f")
    assert names_of(volume, "g") == [b"user.a"]
    volume.open(volume.at("g").ino, session, opening=1)
    ino = volume.at("g").ino
    volume.make("new")
    volume.rename("new", "g")
    assert volume.ask(messages.GetXattr(base=ino, name=b"user.a")).value == bytes(1000)
    volume.close(session, ino)
    volume.remove("d", folder=True)
    assert rows(volume) == []


def test_many_attributes_go_at_once(volume: Volume) -> None:
    """Goal: more rows than one page of the deletion."""
    for number in range(250):
        give(volume, "f", b"user.%d" % number, b"")
    volume.remove("f")
    assert rows(volume) == []


def test_neighbours_keep_theirs(volume: Volume) -> None:
    """Goal: rows of an inode whose number ends in 255 end where the next one's begin."""
    first = volume.core.attendance.allocate(messages.AllocateInodes(volume.begin(), 1000)).first | 0xFF
    for number, path in enumerate(("x", "y")):
        volume.make(path, ino=first + number)
        give(volume, path, b"user.a", path.encode())
    assert names_of(volume, "x") == [b"user.a"]
    volume.remove("x")
    assert value_of(volume, "y", b"user.a") == b"y"


def test_a_new_owner_gets_no_capabilities(volume: Volume) -> None:
    """Goal: chown takes security.capability away, as Linux does, and leaves all others; chmod takes nothing."""
    for name in (b"security.capability", b"security.other", b"user.a"):
        give(volume, "f", name)
    volume.set("f", mode=0o755)
    assert len(names_of(volume, "f")) == 3
    volume.set("f", gid=5)
    assert names_of(volume, "f") == [b"security.other", b"user.a"]
    assert volume.at("f").has_xattrs
    give(volume, "d", b"security.capability")
    volume.set("d", uid=5)
    assert names_of(volume, "d") == [b"security.capability"]


@pytest.mark.parametrize("kind", [messages.SetXattr, messages.RemoveXattr])
def test_changes_of_attributes_are_executed_once(volume: Volume, kind: type[messages.Change]) -> None:
    """Goal: a repeated request gets the first reply, also after others have changed the attribute."""
    session = volume.begin()
    give(volume, "f", b"user.a", b"first")
    more: dict[str, Any] = {"value": b"second", "flags": XATTR_REPLACE} if kind is messages.SetXattr else {}
    request = kind(session=session, slot=1, sequence=1, names=[b"f"], name=b"user.a", **more)
    reply = volume.change(request)
    give(volume, "f", b"user.a", b"third")
    assert volume.change(request) == reply
    assert value_of(volume, "f", b"user.a") == b"third"


def test_large_values_do_not_stay_in_memory(tmp_path: Path) -> None:
    """Goal: the directory's memory has small values alone, and what it says is right when a value grows and shrinks."""
    with volume_on("sqlite", tmp_path) as volume:
        volume.make("f", FILE)
        for size in (10, 60_000, 20, 50_000):
            give(volume, "f", b"user.a", bytes(size))
            assert value_of(volume, "f", b"user.a") == bytes(size)
            assert max(len(value or b"") for value in volume.store._transaction._known.values()) <= 4096
        take(volume, "f", b"user.a")
        with refused(volume, errors.NoAttribute):
            value_of(volume, "f", b"user.a")
