"""What the volume holds: bytes that are stored, holes not counted; the quota; and databases of earlier versions."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_directory_content import large, put
from test_directory_tree import refused
from volumes import ENGINES, FILE, FOLDER, LINK, ROOM, Volume, on, piece, volume_on

from dfsfuse import errors, messages
from dfsfuse.chunks import ENTRY_BYTES, HOLE, Entry, Piece
from dfsfuse.messages import SEGMENT_ENTRIES, Lookup, Manifest, QuotaReply, Segment
from servers import records
from servers.quota import INODES_FREE


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with volume_on(request.param, tmp_path) as made:
        yield made


def limit(volume: Volume, **limits: int) -> QuotaReply:
    return volume.core.quota(messages.Quota(**limits))


def space(volume: Volume) -> tuple[int, int, int, int]:
    told = volume.core.renew(messages.Renew(session=volume.begin()), volume.now_s)
    return told.total_bytes, told.free_bytes, told.inodes, told.inodes_free


# -- what is stored


@pytest.mark.parametrize(
    ("entries", "size", "stored"),
    [
        ([], 0, 0),
        ([], 10 << 20, 0),
        ([[piece(b"one")]], 3, 3),
        ([[piece(b"one")]], 10 << 20, 3),
        ([[], [piece(b"one"), piece(b"three", 10)]], 10 << 20, 8),
        ([[piece(b"three"), piece(b"one", 2)]], 5, 5),
        ([[piece(b"three"), Piece(HOLE, 1, 3)]], 5, 2),
        ([[Piece(HOLE, 0, ENTRY_BYTES)]], ENTRY_BYTES, 0),
        ([[piece(b"three")]], 2, 2),
    ],
)
def test_holes_take_no_space(volume: Volume, entries: list[Entry], size: int, stored: int) -> None:
    """Goal: a file counts the bytes that come from chunks, not those between them nor beyond its end."""
    ino = volume.make("f").ino
    receipts = [on("ABC", b"one"), on("ABC", b"three")]
    after = volume.commit(ino, size=size, manifest=Manifest(entries), receipts=receipts)
    assert (after.size, after.allocated_bytes) == (size, stored)
    assert volume.at("f").allocated_bytes == limit(volume).used_bytes == stored
    assert volume.commit(ino, b"").allocated_bytes == limit(volume).used_bytes == 0


def test_what_is_no_file_takes_no_space(volume: Volume) -> None:
    """Goal: folders, symlinks and special files count no bytes, whatever their size."""
    for name, mode, more in (("d", FOLDER, {}), ("l", LINK, {"target": b"x" * 100}), ("c", 0o020600, {"rdev": 259})):
        assert volume.make(name, mode, **more).allocated_bytes == 0
    assert limit(volume).used_bytes == 0


def test_segments_are_counted(volume: Volume) -> None:
    """Goal: a large file counts all its segments: when they are new, when some stay, when one occurs twice, and when
    it becomes small again."""
    ino, size = volume.make("f").ino, 3 * SEGMENT_ENTRIES * ENTRY_BYTES
    one, two, none = secrets.token_bytes(16), secrets.token_bytes(16), b""
    parts = Segment(one, 0, large(b"one", b"three")), Segment(two, 1, large(b"seven77"))
    for segments, stored in (([one, two, none], 15), ([one, none, none], 8), ([one, two, one], 23), ([none] * 3, 0),
                             ([two], 7), ([one, two], 15)):  # fmt: skip
        put(volume, ino, *parts)
        after = volume.commit(ino, size=size, manifest=Manifest([], segments), receipts=[])
        assert after.allocated_bytes == stored
        volume.check()
    assert volume.commit(ino, b"small").allocated_bytes == 5
    put(volume, ino, *parts)
    assert volume.commit(ino, size=size, manifest=Manifest([], [one]), receipts=[]).allocated_bytes == 8


# -- the quota


def test_nothing_is_limited_unless_told(volume: Volume) -> None:
    """Goal: a new volume has no quota, and says what is used."""
    volume.commit(volume.make("f").ino, b"content")
    assert limit(volume) == QuotaReply(bytes_max=0, inodes_max=0, used_bytes=7, used_inodes=2)
    assert space(volume) == (ROOM, ROOM, 2, INODES_FREE)


def test_a_quota_is_kept(volume: Volume) -> None:
    """Goal: what is set holds over a restart; what is not named stays; 0 takes a limit away."""
    limit(volume, bytes_max=50)
    limit(volume, inodes_max=3)
    volume.restart()
    assert limit(volume) == QuotaReply(bytes_max=50, inodes_max=3, used_bytes=0, used_inodes=1)
    limit(volume, bytes_max=0, inodes_max=0)
    assert limit(volume) == QuotaReply(bytes_max=0, inodes_max=0, used_bytes=0, used_inodes=1)


@pytest.mark.parametrize("number", [-1, 1 << 63, 10**30])
def test_numbers_that_are_no_limits(volume: Volume, number: int) -> None:
    """Goal: they are refused, and the present limit stays."""
    limit(volume, bytes_max=50, inodes_max=5)
    for what in ("bytes_max", "inodes_max"):
        with refused(volume, errors.InvalidArgument):
            limit(volume, **{what: number})


@pytest.mark.parametrize(("mode", "more"), [(FILE, {}), (FOLDER, {}), (LINK, {"target": b"x"}), (0o010600, {})])
def test_inodes_beyond_the_quota(volume: Volume, mode: int, more: dict[str, Any]) -> None:
    """Goal: nothing new is made beyond it, also without a name; a link is no inode; what goes makes room."""
    limit(volume, inodes_max=2)
    volume.make("f")
    session = volume.begin()
    with refused(volume, errors.QuotaExceeded):
        volume.make("x", mode, **more)
    with pytest.raises(errors.QuotaExceeded):
        volume.make_unnamed(session)
    assert limit(volume).used_inodes == 2
    volume.link("f", "g")
    volume.rename("f", "h")
    volume.remove("g")
    volume.remove("h")
    volume.make("x", mode, **more)


def test_an_unlinked_file_counts_while_it_is_open(volume: Volume) -> None:
    """Goal: its room is free when the last descriptor is closed, not before."""
    limit(volume, inodes_max=2, bytes_max=7)
    session, made = volume.begin(), volume.make("f")
    volume.open(made.ino, session, opening=1)
    volume.commit(made.ino, b"content")
    volume.remove("f")
    with refused(volume, errors.QuotaExceeded):
        volume.make("g")
    volume.close(session, made.ino)
    volume.commit(volume.make("g").ino, b"another")


def test_bytes_beyond_the_quota(volume: Volume) -> None:
    """Goal: a commit that grows beyond it is refused; one that does not grow never is, also above the quota."""
    limit(volume, bytes_max=10)
    one, two = volume.make("one").ino, volume.make("two").ino
    volume.commit(one, b"123456")
    with refused(volume, errors.QuotaExceeded):
        volume.commit(two, b"12345")
    volume.commit(two, b"1234")
    volume.commit(one, b"654321")
    limit(volume, bytes_max=3)
    volume.commit(one, b"abcdef")
    volume.commit(one, b"abcde")
    with refused(volume, errors.QuotaExceeded):
        volume.commit(one, b"abcdef")
    volume.commit(one, b"")
    volume.remove("two")
    volume.commit(one, b"123")


def test_a_sparse_file_of_any_size_fits(volume: Volume) -> None:
    """Goal: holes are free."""
    limit(volume, bytes_max=10)
    ino = volume.make("f").ino
    volume.commit(ino, size=16 << 40, manifest=Manifest([[piece(b"one")]]), receipts=[on("ABC", b"one")])
    assert limit(volume).used_bytes == 3


def test_a_refused_commit_may_come_again(volume: Volume) -> None:
    """Goal: the refusal is the outcome of its slot; the next request succeeds once there is room."""
    limit(volume, bytes_max=3)
    session, ino = volume.begin(), volume.make("f").ino
    with pytest.raises(errors.QuotaExceeded):
        volume.commit(ino, b"content", session=session, slot=1, sequence=1)
    limit(volume, bytes_max=7)
    with pytest.raises(errors.QuotaExceeded):
        volume.commit(ino, b"content", session=session, slot=1, sequence=1)
    assert volume.commit(ino, b"content", session=session, slot=1, sequence=2).size == 7


def test_statfs_follows_the_quota(volume: Volume) -> None:
    """Goal: total and free are those of the servers or of the quota, whichever is less; never below zero."""
    volume.commit(volume.make("f").ino, b"content")
    for limits, told in (
        ({"bytes_max": 50}, (50, 43, 2, INODES_FREE)),
        ({"bytes_max": 1 << 40}, (ROOM, ROOM, 2, INODES_FREE)),
        ({"bytes_max": 3}, (3, 0, 2, INODES_FREE)),
        ({"inodes_max": 10}, (3, 0, 2, 8)),
        ({"inodes_max": 1}, (3, 0, 2, 0)),
    ):
        limit(volume, **limits)
        assert space(volume) == told


# -- databases of earlier versions

_OLD_INODE_FIELDS = 16


def _age(volume: Volume) -> None:
    """Every row as the first version wrote it."""

    def shorten(tx: Any) -> None:
        for ino, _ in list(records.inodes(tx)):
            fields = msgspec.msgpack.decode(tx.get(records.inode_key(ino)))
            tx.put(records.inode_key(ino), msgspec.msgpack.encode(fields[:_OLD_INODE_FIELDS]))
        used = records.usage(tx)
        tx.put(b"musage", msgspec.msgpack.encode([used.inodes, used.size_bytes]))

    volume.store.transact(shorten)
    volume.restart()


def test_rows_of_earlier_versions_can_be_read(volume: Volume) -> None:
    """Goal: what they did not count is taken for the size, summed up at the start, and counted with the next commit."""
    sparse = {"size": 1000, "manifest": Manifest([[piece(b"one")]]), "receipts": [on("ABC", b"one")]}
    for name in ("f", "g", "h"):
        volume.commit(volume.make(name).ino, **sparse)
    volume.make("d", FOLDER)
    _age(volume)
    assert (volume.at("f").allocated_bytes, limit(volume).used_bytes) == (1000, 3000)
    volume.check()
    ino = volume.at("f").ino
    assert volume.commit(ino, **sparse).allocated_bytes == 3
    volume.remove("g")
    assert limit(volume).used_bytes == 1003
    volume.link("h", "d/h")
    volume.change(messages.SetXattr(names=[b"h"], name=b"user.a", value=b"1"))
    assert volume.ask(Lookup(volume.at("d/h").ino)).has_xattrs


def test_segments_of_earlier_versions_are_counted_whole(volume: Volume) -> None:
    """Goal: with the first commit all segments are counted, those too that stay."""
    ino, size = volume.make("f").ino, 2 * SEGMENT_ENTRIES * ENTRY_BYTES
    one, two = secrets.token_bytes(16), secrets.token_bytes(16)
    put(volume, ino, Segment(one, 0, large(b"one")), Segment(two, 1, large(b"three")))
    volume.commit(ino, size=size, manifest=Manifest([], [one, two]), receipts=[])
    _age(volume)
    assert volume.at("f").allocated_bytes == size
    assert volume.commit(ino, size=size, manifest=Manifest([], [one, two]), receipts=[]).allocated_bytes == 8
