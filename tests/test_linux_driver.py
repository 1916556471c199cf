"""The Linux driver over a file system in memory: what it translates, which errno it answers with, and that nothing that
the kernel could send ends it. The requests are bytes; nothing is mounted."""

import ctypes
import errno
import fcntl
import logging
import os
import random
import socket
import stat
from collections.abc import Iterator

import msgspec
import pytest
from fake_filesystem import FakeFileSystem
from fuse_requests import Kernel, entries_of, reply_of, request_bytes

from dfsfuse import errors
from dfsfuse.attributes import Place
from dfsfuse.direct_io import BLOCK_BYTES
from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_channel import BODY, Request
from dfsfuse.drivers.fuse_workers import Workers
from dfsfuse.drivers.linux import OPTIONAL, REFUSED, WANTED
from dfsfuse.range_locks import FileLock

FLUSH = fuse.fuse_flush_in.pack
_LAST = (1 << 63) - 1
ROUNDS = 40_000 if os.environ.get("DFS_LONG") else 4000


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def setattr_body(valid: int, **fields: int) -> bytes:
    """`fuse_setattr_in` with these fields."""
    order = (
        "fh", "size", "lock_owner", "atime", "mtime", "ctime", "atimensec", "mtimensec", "ctimensec", "mode", "uid",
        "gid",
    )  # fmt: skip
    assert set(fields) <= set(order)
    return fuse.fuse_setattr_in.pack(valid, *(fields.get(name, 0) for name in order))


def attr(body: bytes, start: int = 0) -> dict[str, int]:
    """The fields of a fuse_attr that tests look at."""
    values = fuse.fuse_attr.unpack_from(body, start)
    names = ("ino", "size", "blocks", "atime", "mtime", "ctime", "atimensec", "mtimensec", "ctimensec", "mode", "nlink",
             "uid", "gid", "rdev")  # fmt: skip
    return dict(zip(names, values, strict=False))


_ATTR_START, _ENTRY_ATTR_START = 16, 40


# -- INIT


def init(kernel: Kernel, major: int = 7, minor: int = 45, flags: int = 0xFFFFFFFF):
    body = fuse.fuse_init_in_ext.pack(major, minor, 1 << 17, flags, 0xFFFFFFFF)
    return kernel.ask(fuse.FUSE_INIT, body)


def test_init_chooses_what_the_kernel_offers(kernel):
    """Goal: requests of 1 MiB, and those of the wanted flags that the kernel has, no others."""
    reply = fuse.fuse_init_out.unpack(init(kernel).body)
    assert reply[:2] == (7, fuse.FUSE_KERNEL_MINOR_VERSION)
    assert reply[3] == WANTED
    assert (reply[6], reply[8] * 4096) == (1 << 20, 1 << 20)
    assert fuse.fuse_init_out.unpack(init(kernel, minor=36, flags=fuse.FUSE_ASYNC_READ).body)[1:4:2] == (36, 1)
    assert kernel.driver.ready


def test_flags_that_are_left_out_on_purpose():
    """Goal: none of what would break a promise is negotiated by accident."""
    never = fuse.FUSE_WRITEBACK_CACHE | fuse.FUSE_NO_OPEN_SUPPORT | fuse.FUSE_AUTO_INVAL_DATA | fuse.FUSE_EXPORT_SUPPORT
    assert not WANTED & (never | fuse.FUSE_NO_OPENDIR_SUPPORT)


def test_versions_of_the_protocol(kernel):
    """Goal: a kernel with a later major version is told ours, and asks again; one that is too old is refused."""
    assert fuse.fuse_init_out.unpack(init(kernel, major=8).body)[:2] == (7, fuse.FUSE_KERNEL_MINOR_VERSION)
    assert not kernel.driver.ready
    assert init(kernel, minor=20).error == errno.EPROTO
    assert "7.20" in kernel.driver.unfit


# -- names and attributes


def test_lookup_tells_everything(kernel):
    """Goal: an entry carries node, attributes to the nanosecond, and how long they may be used."""
    times = {"mtime_ns": 5 * 10**9 + 6, "ctime_ns": 7 * 10**9 + 8, "atime_ns": -1}
    ino = kernel.fs.add(b"file", 0o100640, uid=12, gid=34, nlink=2, **times)
    kernel.fs.contents[ino].data.extend(b"x" * 1000)
    body = kernel.do(fuse.FUSE_LOOKUP, b"file\0")
    nodeid, generation, entry_s, attr_s, entry_ns, attr_ns = fuse.fuse_entry_out.unpack(body)[:6]
    assert (nodeid, generation) == (ino, 0)
    assert (entry_s, attr_s, entry_ns, attr_ns) == (0, 0, 250_000_000, 250_000_000)
    assert attr(body, _ENTRY_ATTR_START) == {
        "ino": ino, "size": 1000, "blocks": 2, "atime": -1, "mtime": 5, "ctime": 7, "atimensec": 999_999_999,
        "mtimensec": 6, "ctimensec": 8, "mode": 0o100640, "nlink": 2, "uid": 12, "gid": 34, "rdev": 0,
    }  # fmt: skip


def test_getattr_and_statx(kernel):
    """Goal: both tell the same; statx says that only the basic fields are there."""
    ino = kernel.fs.add(b"dev", stat.S_IFCHR | 0o600, rdev=os.makedev(5, 300))
    kernel.lookup(b"dev")
    plain = attr(kernel.do(fuse.FUSE_GETATTR, bytes(16), ino), _ATTR_START)
    assert (plain["ino"], plain["mode"], plain["rdev"]) == (ino, stat.S_IFCHR | 0o600, os.makedev(5, 300))
    more = fuse.fuse_statx_out.unpack(kernel.do(fuse.FUSE_STATX, bytes(24), ino))
    assert more[3] == fuse.STATX_BASIC_STATS
    assert more[11] == ino
    assert more[9] == stat.S_IFCHR | 0o600
    assert more[-4:-2] == (5, 300)


def test_readlink_and_symlink(kernel):
    """Goal: the target's bytes go both ways unchanged."""
    body = kernel.do(fuse.FUSE_SYMLINK, b"link\0/no/\xff where\0")
    nodeid = fuse.fuse_entry_out.unpack(body)[0]
    assert kernel.do(fuse.FUSE_READLINK, b"", nodeid) == b"/no/\xff where"
    kernel.fs.add(b"file")
    assert kernel.ask(fuse.FUSE_READLINK, b"", kernel.lookup(b"file")).error == errno.EINVAL


def test_making_and_removing(kernel):
    """Goal: folders and special files with their mode, owner and number, and the program's umask; and they go again."""
    folder = fuse.fuse_entry_out.unpack(kernel.do(fuse.FUSE_MKDIR, fuse.fuse_mkdir_in.pack(0o2777, 0o027) + b"d\0"))[0]
    made = kernel.fs.inodes[folder]
    assert (made.mode, made.uid, made.gid) == (stat.S_IFDIR | 0o2750, 1000, 1001)
    mknod = fuse.fuse_mknod_in.pack(stat.S_IFIFO | 0o666, 0, 0o066, 0) + b"pipe\0"
    assert kernel.fs.inodes[fuse.fuse_entry_out.unpack(kernel.do(fuse.FUSE_MKNOD, mknod, folder))[0]].mode == 0o010600
    assert kernel.ask(fuse.FUSE_RMDIR, b"d\0").error == errno.ENOTEMPTY
    assert kernel.ask(fuse.FUSE_RMDIR, b"pipe\0", folder).error == errno.ENOTDIR
    kernel.do(fuse.FUSE_UNLINK, b"pipe\0", folder)
    kernel.do(fuse.FUSE_RMDIR, b"d\0")
    assert kernel.fs.names == {}


def test_rename_with_flags(kernel):
    """Goal: RENAME2 passes the flags; both forms move the node's name."""
    one, two = kernel.fs.add(b"a"), kernel.fs.add(b"b")
    kernel.lookup(b"a"), kernel.lookup(b"b")
    rename2 = lambda flags: fuse.fuse_rename2_in.pack(1, flags) + b"a\0b\0"  # noqa: E731
    assert kernel.ask(fuse.FUSE_RENAME2, rename2(1)).error == errno.EEXIST
    kernel.do(fuse.FUSE_RENAME2, rename2(2))
    assert (kernel.fs.names[1, b"a"], kernel.fs.names[1, b"b"]) == (two, one)
    assert kernel.driver.nodes.place_of(kernel.driver.nodes.get(one))[1] == b"/b"
    kernel.do(fuse.FUSE_RENAME, fuse.fuse_rename_in.pack(1) + b"b\0c\0")
    assert kernel.driver.nodes.place_of(kernel.driver.nodes.get(one))[1] == b"/c"


@pytest.mark.parametrize(
    ("valid", "fields", "changed"),
    [
        (fuse.FATTR_MODE, {"mode": 0o104751}, {"mode": 0o104751}),
        (fuse.FATTR_UID, {"uid": 9}, {"uid": 9}),
        (fuse.FATTR_GID | fuse.FATTR_KILL_SUIDGID, {"gid": 9}, {"gid": 9}),
        (fuse.FATTR_UID | fuse.FATTR_MODE, {"uid": 9, "mode": 0o6711}, {"uid": 9, "mode": 0o106711}),
        (fuse.FATTR_ATIME, {"atime": -2, "atimensec": 3}, {"atime_ns": -2 * 10**9 + 3}),
        (fuse.FATTR_MTIME, {"mtime": 2, "mtimensec": 3}, {"mtime_ns": 2 * 10**9 + 3}),
    ],
)
def test_setattr(kernel, valid, fields, changed):
    """Goal: exactly what is marked as valid changes; what a new owner takes away is the file system's part."""
    ino = kernel.fs.add(b"file", 0o106755)
    kernel.lookup(b"file")
    before = msgspec.structs.asdict(kernel.fs.inodes[ino])
    body = kernel.do(fuse.FUSE_SETATTR, setattr_body(valid, **fields), ino)
    assert msgspec.structs.asdict(kernel.fs.inodes[ino]) == {**before, **changed}
    assert attr(body, _ATTR_START)["mode"] == kernel.fs.inodes[ino].mode


def test_setattr_now(kernel):
    """Goal: UTIME_NOW is this machine's clock."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    now = fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW
    kernel.do(fuse.FUSE_SETATTR, setattr_body(now, mtime=1), ino)
    assert kernel.fs.inodes[ino].mtime_ns > 10**18
    assert kernel.fs.inodes[ino].atime_ns > 10**18


def test_new_owner_of_a_folder_keeps_its_bits(kernel):
    """Goal: on a folder set-group-id is about the group of new files."""
    ino = kernel.fs.add(b"d", stat.S_IFDIR | 0o2775)
    kernel.lookup(b"d")
    kernel.do(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_UID, uid=7), ino)
    assert kernel.fs.inodes[ino].mode == stat.S_IFDIR | 0o2775


def test_size_with_and_without_an_open_file(kernel):
    """Goal: ftruncate goes to its open file, truncate takes the way of an open."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    fh, _ = kernel.open(ino, os.O_RDWR)
    body = kernel.do(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_SIZE | fuse.FATTR_FH, fh=fh, size=5), ino)
    assert attr(body, _ATTR_START)["size"] == kernel.fs.contents[ino].size == 5
    opens = len(kernel.fs.handles)
    kernel.do(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_SIZE, size=2), ino)
    assert kernel.fs.contents[ino].size == 2
    assert len(kernel.fs.handles) == opens + 1
    assert kernel.fs.handles[-1].closed


def test_statfs(kernel):
    """Goal: figures in blocks, from memory."""
    blocks, free, available, files, free_files, size, name_max, *_ = fuse.fuse_statfs_out.unpack(
        kernel.do(fuse.FUSE_STATFS)
    )
    assert (blocks * size, free * size, available * size) == (100 << 20, 40 << 20, 40 << 20)
    assert (files - free_files, name_max) == (7, 255)


# -- look-ups are counted


def test_forget_takes_back_what_was_counted(kernel):
    """Goal: FORGET and BATCH_FORGET, without a reply; a node is gone with its last look-up."""
    one, two = kernel.fs.add(b"a"), kernel.fs.add(b"b")
    for _ in range(3):
        kernel.lookup(b"a"), kernel.lookup(b"b")
    assert kernel.send(request_bytes(fuse.FUSE_FORGET, fuse.fuse_forget_in.pack(2), one)) == []
    kernel.do(fuse.FUSE_GETATTR, bytes(16), one)
    pairs = fuse.fuse_forget_one.pack(one, 1) + fuse.fuse_forget_one.pack(two, 3)
    assert kernel.send(request_bytes(fuse.FUSE_BATCH_FORGET, fuse.fuse_batch_forget_in.pack(2, 0) + pairs)) == []
    assert len(kernel.driver.nodes) == 1
    assert kernel.ask(fuse.FUSE_GETATTR, bytes(16), one).error == errno.ESTALE


def everything_that_counts(kernel: Kernel) -> list[bytes]:
    """A request of each kind that names nodes in its reply."""
    kernel.fs.add(b"there")
    fh = fuse.fuse_open_out.unpack(kernel.do(fuse.FUSE_OPENDIR, bytes(8)))[0]
    return [
        request_bytes(fuse.FUSE_LOOKUP, b"there\0"),
        request_bytes(fuse.FUSE_MKDIR, bytes(8) + b"d\0"),
        request_bytes(fuse.FUSE_MKNOD, fuse.fuse_mknod_in.pack(stat.S_IFIFO, 0, 0, 0) + b"f\0"),
        request_bytes(fuse.FUSE_SYMLINK, b"l\0target\0"),
        request_bytes(fuse.FUSE_CREATE, fuse.fuse_create_in.pack(os.O_WRONLY, 0o644, 0, 0) + b"c\0"),
        request_bytes(fuse.FUSE_READDIRPLUS, fuse.fuse_read_in.pack(fh, 0, 4096, 0, 0, 0)),
    ]


def test_reply_that_is_not_taken_is_undone(kernel):
    """Goal: where the kernel does not take a reply, its look-ups do not count, and a file that it would have opened is
    closed."""
    for message in everything_that_counts(kernel):
        kernel._request.device = os.open(os.devnull, os.O_RDONLY)
        try:
            kernel.send(message)
        finally:
            os.close(kernel._request.device)
        assert len(kernel.driver.nodes) == 1
    assert all(handle.closed for handle in kernel.fs.handles)
    assert len(kernel.fs.handles) == 1


def test_what_fails_halfway_is_undone(kernel):
    """Goal: a listing that fails after some entries has counted none."""
    for number in range(20):
        kernel.fs.add(b"%02d" % number)
    fh = fuse.fuse_open_out.unpack(kernel.do(fuse.FUSE_OPENDIR, bytes(8)))[0]
    known, left = kernel.fs.known, [10]

    def fails(place: Place):
        left[0] -= 1
        if not left[0]:
            raise errors.TimedOut
        return known(place)

    kernel.fs.known = fails
    ask = fuse.fuse_read_in.pack(fh, 0, 8192, 0, 0, 0)
    assert kernel.ask(fuse.FUSE_READDIRPLUS, ask).error == errno.ETIMEDOUT
    assert len(kernel.driver.nodes) == 1
    assert len(entries_of(kernel.do(fuse.FUSE_READDIRPLUS, ask), plus=True)) == 22


# -- listings


def listing(kernel: Kernel, size: int, plus: bool = False, nodeid: int = 1) -> list:
    """All entries, as far as each reply goes, each reply asked for from the offset of the last entry."""
    fh = fuse.fuse_open_out.unpack(kernel.do(fuse.FUSE_OPENDIR, bytes(8), nodeid))[0]
    opcode, found, offset = fuse.FUSE_READDIRPLUS if plus else fuse.FUSE_READDIR, [], 0
    while True:
        body = kernel.do(opcode, fuse.fuse_read_in.pack(fh, offset, size, 0, 0, 0), nodeid)
        assert len(body) <= size
        if not body:
            break
        found += entries_of(body, plus)
        offset = found[-1].following
    kernel.do(fuse.FUSE_RELEASEDIR, fuse.fuse_release_in.pack(fh, 0, 0, 0), nodeid)
    return found


@pytest.mark.parametrize("size", [512, 4096, 1 << 20])
@pytest.mark.parametrize("plus", [False, True])
def test_listing(kernel, size, plus):
    """Goal: every entry once with its type, `.` and `..` first; with attributes each counts a look-up, those two do
    not."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    for number in range(300):
        kernel.fs.add(b"%03d" % number + b"x" * (number % 9), parent=folder)
    found = listing(kernel, size, plus, folder)
    assert [(entry.name, entry.ino, entry.kind) for entry in found[:2]] == [(b".", folder, 4), (b"..", 1, 4)]
    assert len({entry.name for entry in found}) == len(found) == 302
    assert all(entry.kind == stat.S_IFREG >> 12 for entry in found[2:])
    assert all(entry.nodeid == entry.ino * plus for entry in found[2:])
    assert [entry.nodeid for entry in found[:2]] == [0, 0]
    assert len(kernel.driver.nodes) == 2 + 300 * plus


def test_entries_that_are_not_known_freshly_come_without_a_node(kernel):
    """Goal: the kernel looks them up when somebody asks, rather than use what is old."""
    kernel.fs.add(b"old")
    kernel.fs.add(b"new")
    known = kernel.fs.known
    kernel.fs.known = lambda place: None if place[1] == (b"old",) else known(place)
    nodes = {entry.name: entry.nodeid for entry in listing(kernel, 4096, plus=True)}
    assert nodes[b"old"] == 0
    assert nodes[b"new"] > 0


@pytest.mark.parametrize("others", [False, True], ids=["moved", "replaced"])
def test_entries_that_have_moved_meanwhile_come_without_a_node(kernel, others):
    """Goal: a listing tells what was there when its entries were asked for. A name that has come to lead elsewhere
    since is not told to the kernel as one that leads there: it would go by that."""
    listed, moved = kernel.fs.add(b"a"), kernel.fs.add(b"b")
    fh = fuse.fuse_open_out.unpack(kernel.do(fuse.FUSE_OPENDIR, bytes(8)))[0]
    room = 3 * fuse.fuse_entry_out.size + 3 * fuse.fuse_dirent_align(25)
    first = entries_of(kernel.do(fuse.FUSE_READDIRPLUS, fuse.fuse_read_in.pack(fh, 0, room, 0, 0, 0)), plus=True)
    assert [(entry.name, entry.nodeid) for entry in first] == [(b".", 0), (b"..", 0), (b"a", listed)]
    kernel.do(fuse.FUSE_RENAME, fuse.fuse_rename_in.pack(1) + b"b\0c\0")
    if others:
        kernel.fs.add(b"b")
    rest = fuse.fuse_read_in.pack(fh, first[-1].following, room, 0, 0, 0)
    found = {entry.name: entry.nodeid for entry in entries_of(kernel.do(fuse.FUSE_READDIRPLUS, rest), plus=True)}
    assert found == {b"b": 0, b"c": moved}


def test_fsyncdir_and_unknown_folders(kernel):
    """Goal: fsync of a folder is the directory's sync; a number that is not open is EBADF."""
    kernel.do(fuse.FUSE_FSYNCDIR, bytes(16))
    assert kernel.fs.session.synced == 1
    assert kernel.ask(fuse.FUSE_READDIR, fuse.fuse_read_in.pack(99, 0, 4096, 0, 0, 0)).error == errno.EBADF


def test_root_opens_without_a_request(kernel):
    """Goal: S13. df opens the mountpoint: it must not wait for the directory. Another folder is asked for its first
    entries, as its name may have come to lead elsewhere."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")

    def silent(*place, **more):
        raise errors.TimedOut
        yield

    kernel.fs.list_folder = silent
    kernel.do(fuse.FUSE_OPENDIR, bytes(8))
    assert kernel.ask(fuse.FUSE_OPENDIR, bytes(8), folder).error == errno.ETIMEDOUT


def test_folder_that_is_gone(kernel):
    """Goal: opening it is ESTALE, so that the kernel looks the name up; one that was open is at its end. Who opens it
    once more is in it, and finds it empty; it goes on with its attributes, without links."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    fh = fuse.fuse_open_out.unpack(kernel.do(fuse.FUSE_OPENDIR, bytes(8), folder))[0]
    kernel.fs.remove((1, (b"d",)), True)
    del kernel.fs.inodes[folder]
    assert kernel.ask(fuse.FUSE_OPENDIR, bytes(8), folder).error == errno.ESTALE
    assert kernel.fs.forgotten == 1
    read = fuse.fuse_read_in.pack(fh, 0, 4096, 0, 0, 0)
    kernel.ask(fuse.FUSE_READDIR, read, folder)
    assert kernel.ask(fuse.FUSE_READDIR, read, folder).error == errno.ENOENT
    fh = fuse.fuse_open_out.unpack(kernel.do(fuse.FUSE_OPENDIR, bytes(8), folder))[0]
    dots = kernel.do(fuse.FUSE_READDIR, fuse.fuse_read_in.pack(fh, 0, 4096, 0, 0, 0), folder)
    assert len(dots) == 2 * 32
    kernel.do(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_MODE, mode=0o40700), folder)
    there = attr(kernel.do(fuse.FUSE_GETATTR, bytes(16), folder), _ATTR_START)
    assert (there["nlink"], there["mode"]) == (0, 0o40700)


def replaced_elsewhere(kernel: Kernel, name: bytes) -> int:
    """Another client has removed a folder, and put a new one in its place, which the kernel has not heard of yet."""
    del kernel.fs.inodes[kernel.fs.names[1, name]]
    return kernel.fs.add(name, stat.S_IFDIR | 0o755)


IN_A_FOLDER = {
    "LOOKUP": b"x\0",
    "MKDIR": fuse.fuse_mkdir_in.pack(0o755, 0) + b"x\0",
    "MKNOD": fuse.fuse_mknod_in.pack(stat.S_IFIFO | 0o644, 0, 0, 0) + b"x\0",
    "SYMLINK": b"x\0target\0",
    "CREATE": fuse.fuse_create_in.pack(os.O_WRONLY, 0o644, 0, 0) + b"x\0",
    "UNLINK": b"x\0",
    "RMDIR": b"x\0",
    "RENAME": fuse.fuse_rename_in.pack(1) + b"x\0y\0",
    "RENAME2": fuse.fuse_rename2_in.pack(1, 0) + b"x\0y\0",
}


@pytest.mark.parametrize("operation", IN_A_FOLDER)
def test_a_name_in_a_folder_that_is_gone(kernel, operation):
    """Goal: it is not there, as on a local disk, also for who is in the folder. Where another one has its name the
    kernel is to look that up."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    below = kernel.fs.add(b"below", stat.S_IFDIR | 0o755, folder)
    kernel.lookup(b"d"), kernel.lookup(b"below", folder)
    del kernel.fs.names[1, b"d"], kernel.fs.names[folder, b"below"], kernel.fs.inodes[folder], kernel.fs.inodes[below]
    opcode, body = getattr(fuse, f"FUSE_{operation}"), IN_A_FOLDER[operation]
    for gone in (folder, below):
        assert kernel.ask(opcode, body, gone).error == errno.ENOENT
    kernel.fs.add(b"below", stat.S_IFDIR | 0o755, kernel.fs.add(b"d", stat.S_IFDIR | 0o755))
    for gone in (folder, below):
        *_, other = kernel.send(request_bytes(opcode, body, gone, pid=gone))
        assert other.error == errno.ESTALE


def test_a_folder_that_is_gone_while_the_directory_is_silent(kernel):
    """Goal: where nobody knows what has its name, the kernel looks it up."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    del kernel.fs.names[1, b"d"], kernel.fs.inodes[folder]

    def silent(place: Place) -> int:
        raise errors.TimedOut

    kernel.fs.open_folder = silent
    assert kernel.ask(fuse.FUSE_LOOKUP, b"x\0", folder).error == errno.ESTALE


def test_a_folder_that_is_gone_while_asking_fails(kernel, caplog):
    """Goal: nothing ends the thread that answers: the log tells of it, and the kernel looks the name up."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    del kernel.fs.names[1, b"d"], kernel.fs.inodes[folder]

    def broken(place: Place) -> int:
        raise OSError(errno.EMFILE, "no descriptors are left")

    kernel.fs.open_folder = broken
    assert kernel.ask(fuse.FUSE_LOOKUP, b"x\0", folder).error == errno.ESTALE
    assert "no descriptors are left" in caplog.text


@pytest.mark.parametrize("operation", IN_A_FOLDER)
@pytest.mark.parametrize("found", ["the same", "another"])
def test_a_name_in_a_folder_that_is_replaced_each_time(kernel, operation, found):
    """Goal: first ESTALE, so that the kernel looks up what has led there. If that is the same folder, as a program is
    in it, or one that is gone once more, the name is not there: a program must not see ESTALE, which no local disk
    answers."""
    opcode, body = getattr(fuse, f"FUSE_{operation}"), IN_A_FOLDER[operation]
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    new = replaced_elsewhere(kernel, b"d")
    assert kernel.ask(opcode, body, folder).error == errno.ESTALE
    if found == "another":
        folder = new
        assert kernel.lookup(b"d") == new
        replaced_elsewhere(kernel, b"d")
    assert kernel.ask(opcode, body, folder).error == errno.ENOENT
    *_, other = kernel.send(request_bytes(opcode, body, folder, pid=5))
    assert other.error == errno.ESTALE, "another program has not looked again"


@pytest.mark.parametrize("ends", ["found", "not found", "gone", "made"])
def test_a_later_call_looks_names_up_once_more(kernel, ends):
    """Goal: S2. What was looked up for a call that has ended may be old for the next one: a folder that was removed
    since, and replaced, is looked up again, however soon the next call comes."""
    one = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    two = replaced_elsewhere(kernel, b"d")
    assert kernel.ask(fuse.FUSE_LOOKUP, b"x\0", one).error == errno.ESTALE
    assert kernel.lookup(b"d") == two
    if ends == "found":
        kernel.fs.add(b"x", parent=two)
        kernel.lookup(b"x", two)
        del kernel.fs.names[two, b"x"]
    elif ends == "made":
        kernel.do(fuse.FUSE_MKDIR, fuse.fuse_mkdir_in.pack(0o755, 0) + b"new\0", two)
    elif ends == "not found":
        assert kernel.ask(fuse.FUSE_LOOKUP, b"none\0", two).error == errno.ENOENT
    replaced_elsewhere(kernel, b"d")
    if ends == "gone":
        assert kernel.ask(fuse.FUSE_LOOKUP, b"x\0", two).error == errno.ENOENT
    assert kernel.ask(fuse.FUSE_LOOKUP, b"x\0", two).error == errno.ESTALE


@pytest.mark.parametrize(
    ("opcode", "body", "answer"),
    [
        (fuse.FUSE_OPEN, bytes(8), 0),
        (fuse.FUSE_OPEN, fuse.fuse_open_in.pack(os.O_WRONLY, 0), errno.EINTR),
        (fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_MODE, mode=0o600), 0),
    ],
    ids=["opened", "not opened", "changed"],
)
def test_what_is_done_to_a_file_ends_a_call(kernel, opcode, body, answer):
    """Goal: S2. A program was told to look again, and has opened or changed what it found. Its next call may go by a
    folder that another program has looked up meanwhile: that was not for this call."""
    one, other = (kernel.fs.add(name, stat.S_IFDIR | 0o755) for name in (b"d", b"other"))
    kernel.lookup(b"d")
    two = replaced_elsewhere(kernel, b"d")
    file = kernel.fs.add(b"x", parent=two)
    assert kernel.ask(fuse.FUSE_LOOKUP, b"x\0", one).error == errno.ESTALE
    assert (kernel.lookup(b"d"), kernel.lookup(b"x", two)) == (two, file)
    if answer == errno.EINTR:
        kernel.fs.blocking.set()
        kernel.driver.interrupts.everything()
    assert kernel.ask(opcode, body, file).error == answer
    kernel.send(request_bytes(fuse.FUSE_LOOKUP, b"other\0", pid=5))
    replaced_elsewhere(kernel, b"other")
    assert kernel.ask(fuse.FUSE_LOOKUP, b"y\0", other).error == errno.ESTALE


def test_a_call_that_follows_an_answer_at_once(kernel, monkeypatch):
    """Goal: the program goes on as soon as it has the answer, and another thread serves it: that its next call was told
    to look again must not be forgotten when the thread that has answered the call before goes on."""
    one = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    two = replaced_elsewhere(kernel, b"d")
    assert kernel.ask(fuse.FUSE_LOOKUP, b"x\0", one).error == errno.ESTALE
    assert kernel.lookup(b"d") == two
    reply = Request.reply

    def reply_and_next(request: Request, body: bytes) -> None:
        reply(request, body)
        monkeypatch.setattr(Request, "reply", reply)
        replaced_elsewhere(kernel, b"d")
        kernel.driver.answer(kernel.put(request_bytes(fuse.FUSE_LOOKUP, b"y\0", two)))

    monkeypatch.setattr(Request, "reply", reply_and_next)
    made, looked = kernel.send(request_bytes(fuse.FUSE_MKDIR, IN_A_FOLDER["MKDIR"], two))
    assert (made.error, looked.error) == (0, errno.ESTALE)
    assert kernel.ask(fuse.FUSE_LOOKUP, b"y\0", two).error == errno.ENOENT


def test_what_was_looked_for_in_a_folder_that_is_gone_cannot_be_made(kernel):
    """Goal: the kernel looks a name up before it makes it, in one call: both are answered ENOENT."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    replaced_elsewhere(kernel, b"d")
    for _ in range(2):
        answers = [kernel.ask(fuse.FUSE_LOOKUP, b"x\0", folder).error for _ in range(2)]
        assert answers == [errno.ESTALE, errno.ENOENT]
        assert kernel.ask(fuse.FUSE_MKDIR, IN_A_FOLDER["MKDIR"], folder).error == errno.ENOENT


@pytest.mark.parametrize("begins", ["with a look-up", "at once"])
@pytest.mark.parametrize(
    ("opcode", "pack"),
    [(fuse.FUSE_RENAME, fuse.fuse_rename_in.pack), (fuse.FUSE_RENAME2, fuse.fuse_rename2_in.pack)],
    ids=["RENAME", "RENAME2"],
)
def test_rename_to_a_folder_that_is_gone(kernel, opcode, pack, begins):
    """Goal: the program is in the folder to which it moves a name, and which another client has replaced: ESTALE once,
    for which the kernel looks both names up again, and then nothing is there."""
    kernel.fs.add(b"x")
    new = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    body = pack(new, *[0] * (opcode == fuse.FUSE_RENAME2)) + b"x\0y\0"
    replaced_elsewhere(kernel, b"d")
    first = (opcode, body, 1) if begins == "at once" else (fuse.FUSE_LOOKUP, b"y\0", new)
    for _ in range(2):
        assert kernel.ask(*first).error == errno.ESTALE
        kernel.lookup(b"x")
        assert kernel.ask(fuse.FUSE_LOOKUP, b"y\0", new).error == errno.ENOENT
        assert kernel.ask(opcode, body).error == errno.ENOENT


def test_opening_a_folder_that_moves_each_time(kernel):
    """Goal: the second time what the kernel has just looked up is listed, wherever it is by then, as on a local disk; a
    later opendir() goes by the name again."""
    one, two = (kernel.fs.add(name, stat.S_IFDIR | 0o755) for name in (b"d", b"other"))
    kernel.fs.add(b"in two", parent=two)
    kernel.lookup(b"d")
    for _ in range(2):
        kernel.fs.names[1, b"d"] = two
        assert kernel.ask(fuse.FUSE_OPENDIR, bytes(8), one).error == errno.ESTALE
        assert kernel.lookup(b"d") == two
        kernel.fs.names[1, b"d"] = one
        fh = fuse.fuse_open_out.unpack(kernel.do(fuse.FUSE_OPENDIR, bytes(8), two))[0]
        listed = entries_of(kernel.do(fuse.FUSE_READDIR, fuse.fuse_read_in.pack(fh, 0, 4096, 0, 0, 0), two))
        assert [entry.name for entry in listed] == [b".", b"..", b"in two"]
        assert kernel.lookup(b"d") == one


# -- files


def test_open_read_write_close(kernel):
    """Goal: bytes go both ways, flags, pid and path arrive, and each call reaches the file system once."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    ino = kernel.fs.add(b"file", parent=folder)
    kernel.lookup(b"d")
    kernel.lookup(b"file", folder)
    fh, flags = kernel.open(ino, os.O_RDWR | os.O_APPEND)
    assert kernel.fs.files.calls == [("open", (1, (b"d", b"file")), os.O_RDWR | os.O_APPEND, 77, b"/d/file")]
    assert flags == 0
    assert kernel.write(fh, b"hello" * 1000) == 5000
    assert kernel.read(fh, 4096).body == (b"hello" * 1000)[:4096]
    assert kernel.read(fh, 4096, 4990).body == b"hello" * 2
    assert kernel.read(fh, 4096, 6000).body == b""
    kernel.do(fuse.FUSE_FLUSH, FLUSH(fh, 1))
    kernel.do(fuse.FUSE_FSYNC, fuse.fuse_fsync_in.pack(fh, 1))
    kernel.release(fh)
    assert kernel.fs.files.calls[2:] == [("flush", ino, False), ("flush", ino, True), ("release", ino)]
    assert kernel.read(fh, 1).error == errno.EBADF
    assert kernel.ask(fuse.FUSE_RELEASE, fuse.fuse_release_in.pack(fh, 0, 0, 0)).error == errno.EBADF


def test_megabytes_in_one_request(kernel):
    """Goal: the largest requests that were negotiated pass in one piece, and larger ones are cut."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    fh, _ = kernel.open(ino, os.O_RDWR)
    data = os.urandom(1 << 20)
    assert kernel.write(fh, data) == 1 << 20
    assert kernel.read(fh, 1 << 20).body == data
    assert kernel.read(fh, 1 << 30).body == data


def test_pages_are_kept_and_closes_that_matter_are_asked_for(kernel):
    """Goal: FOPEN_KEEP_CACHE where the kernel has these very pages; FOPEN_NOFLUSH where nothing can be written, unless
    programs lock the file, as locks go with a close."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    fh, flags = kernel.open(ino)
    assert flags == fuse.FOPEN_NOFLUSH
    assert kernel.open(ino)[1] == fuse.FOPEN_NOFLUSH
    kernel.read(fh, 1)
    assert kernel.open(ino)[1] == fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
    assert kernel.open(ino, os.O_RDWR)[1] == fuse.FOPEN_KEEP_CACHE
    kernel.fs.program_locks.shared.add(ino)
    assert kernel.open(ino)[1] == fuse.FOPEN_KEEP_CACHE


def test_newer_version_while_the_older_is_open(kernel):
    """Goal: it is read past the pages, and what would go through them gets EINVAL; copy_file_range too, so that
    programs read and write."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    old, _ = kernel.open(ino)
    kernel.fs.replace_content(ino, b"newer")
    new, flags = kernel.open(ino)
    assert flags & fuse.FOPEN_DIRECT_IO
    assert kernel.read(new, 10, flags=fuse.FUSE_READ_LOCKOWNER).body == b"newer"
    assert kernel.read(new, 10).error == errno.EINVAL
    assert kernel.read(old, 10).body == b""
    copy = lambda fh: fuse.fuse_copy_file_range_in.pack(fh, 0, ino, old, 0, 10, 0)  # noqa: E731
    assert kernel.ask(fuse.FUSE_COPY_FILE_RANGE, copy(new)).error == errno.EINVAL
    assert kernel.ask(fuse.FUSE_COPY_FILE_RANGE_64, copy(old)).error == errno.EOPNOTSUPP


def test_kernel_is_told_to_ask_again_before_an_open_is_answered(kernel):
    """Goal: where another client has changed the size, the kernel forgets the one that it was told, and its pages
    stay its own affair."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    kernel.fs.replace_content(ino, b"newer")
    first, second = kernel.send(request_bytes(fuse.FUSE_OPEN, bytes(8), ino))
    assert (first.unique, -first.error) == (0, fuse.FUSE_NOTIFY_INVAL_INODE)
    assert second.error == 0


def test_create(kernel):
    """Goal: name, mode, umask, owner and flags arrive; the reply is an entry and an open file in one."""
    folder = kernel.fs.add(b"d", stat.S_IFDIR | 0o755)
    kernel.lookup(b"d")
    body = kernel.do(fuse.FUSE_CREATE, fuse.fuse_create_in.pack(os.O_RDWR, 0o100666, 0o027, 0) + b"new\0", folder)
    nodeid, fh = fuse.fuse_create_out.unpack(body)[0], fuse.fuse_create_out.unpack(body)[-3]
    assert kernel.fs.inodes[nodeid].mode == 0o100640
    assert kernel.fs.files.calls == [("create", b"/d/new", os.O_RDWR, 77)]
    assert kernel.write(fh, b"x") == 1
    assert kernel.driver.nodes.get(nodeid).opens == 1


@pytest.mark.parametrize(("flags", "number"), [(os.O_WRONLY, errno.ESTALE), (os.O_EXCL, errno.EEXIST)])
def test_create_of_a_name_that_has_come_to_exist(kernel, flags, number):
    """Goal: ESTALE brings the kernel back with LOOKUP and OPEN, which may wait; O_EXCL gets EEXIST."""
    kernel.fs.add(b"file")
    body = fuse.fuse_create_in.pack(flags, 0o644, 0, 0) + b"file\0"
    assert kernel.ask(fuse.FUSE_CREATE, body).error == number
    assert len(kernel.driver.nodes) == 1


def test_open_after_a_create_that_has_found_a_file(kernel):
    """Goal: ESTALE has sent the kernel back once, and will not again: what it finds then is opened, as on a local disk,
    wherever its name leads by then."""
    one = kernel.fs.add(b"file")
    body = fuse.fuse_create_in.pack(os.O_WRONLY, 0o644, 0, 0) + b"file\0"
    assert kernel.ask(fuse.FUSE_CREATE, body).error == errno.ESTALE
    assert kernel.lookup(b"file") == one
    kernel.fs.names[1, b"file"] = kernel.fs.add(b"other")
    kernel.open(one, os.O_WRONLY)
    assert kernel.fs.files.calls[-1][1] == (one, ())


def test_open_of_a_name_that_leads_elsewhere_now(kernel):
    """Goal: S2. ESTALE, so that the kernel looks the name up; names that are known are forgotten. Without a lookup the
    same node is then opened by its inode: that was not by name."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    other = kernel.fs.add(b"other")
    kernel.fs.names[1, b"file"] = other
    assert kernel.ask(fuse.FUSE_OPEN, bytes(8), ino).error == errno.ESTALE
    assert kernel.fs.forgotten == 1
    kernel.open(ino)
    assert kernel.fs.files.calls[-1][1] == (ino, ())
    kernel.open(kernel.lookup(b"file"))
    assert kernel.fs.files.calls[-1][1] == (1, (b"file",))


def test_a_name_that_leads_elsewhere_each_time(kernel):
    """Goal: the kernel tries twice, and then a program gets ESTALE. The second time what it has just looked up is
    opened, as on a local disk, wherever the name leads by then; a later open of the same program goes by the name
    again."""
    one, two = kernel.fs.add(b"file"), kernel.fs.add(b"other")
    kernel.lookup(b"file")
    for _ in range(2):
        kernel.fs.names[1, b"file"] = two
        assert kernel.ask(fuse.FUSE_OPEN, bytes(8), one).error == errno.ESTALE
        assert kernel.lookup(b"file") == two
        kernel.fs.names[1, b"file"] = one
        fh, _ = kernel.open(two)
        assert kernel.fs.files.calls[-1][1] == (two, ())
        assert kernel.lookup(b"file") == one
        kernel.open(one)
        assert kernel.fs.files.calls[-1][1] == (1, (b"file",))


def open_as(kernel: Kernel, thread: int, nodeid: int) -> int:
    """The errno of another thread's open; 0: it is open."""
    *_, reply = kernel.send(request_bytes(fuse.FUSE_OPEN, bytes(8), nodeid, pid=thread))
    return reply.error


def test_a_name_that_another_program_has_found_to_lead_elsewhere(kernel):
    """Goal: S2. Two programs open what the kernel has looked up a moment ago. That the name leads elsewhere now the
    first one finds out; the second one's open must not go past the name, and be of the former file. Neither of what is
    in the same folder, when the folder was replaced."""
    folder, new = (kernel.fs.add(name, stat.S_IFDIR | 0o755) for name in (b"d", b"new"))
    one, two = (kernel.fs.add(name, parent=folder) for name in (b"one", b"two"))
    assert kernel.lookup(b"d") == folder
    for name, ino in ((b"one", one), (b"two", two)):
        assert kernel.lookup(name, folder) == ino
        kernel.fs.add(name, parent=new)
    kernel.fs.names[1, b"d"] = new
    assert [open_as(kernel, thread, one) for thread in (1, 2)] == [errno.ESTALE, errno.ESTALE]
    assert open_as(kernel, 3, two) == errno.ESTALE
    *_, cut = kernel.send(request_bytes(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_SIZE, size=3), two, pid=4))
    assert cut.error == errno.ESTALE
    assert kernel.fs.handles == []
    assert kernel.lookup(b"d") == new
    found = kernel.lookup(b"one", new)
    assert (found == one, open_as(kernel, 2, found)) == (False, 0)


def test_a_name_that_leads_elsewhere_again_after_another_program_has_found_it(kernel):
    """Goal: the second look of one open(2) is the last one, also where the first ESTALE was for what another program
    had found: what was looked up for it is opened by its inode, and no program gets ESTALE."""
    one, two, three = (kernel.fs.add(name) for name in (b"file", b"two", b"three"))
    kernel.lookup(b"file")
    kernel.fs.names[1, b"file"] = two
    assert [open_as(kernel, thread, one) for thread in (1, 2)] == [errno.ESTALE, errno.ESTALE]
    assert kernel.lookup(b"file") == two
    kernel.fs.names[1, b"file"] = three
    assert open_as(kernel, 2, two) == 0


@pytest.mark.parametrize("found_out", [False, True])
def test_a_look_up_of_another_program_that_was_begun_before(kernel, found_out):
    """Goal: S2. The kernel lets a program have the answer to another one's look-up of the name that is under way: it
    may be what the name led to before the program called open(2), and is not opened by its inode then; nor where a
    third program has found out meanwhile that the name leads elsewhere, so that the node has none."""
    one, two = kernel.fs.add(b"file"), kernel.fs.add(b"other")
    kernel.lookup(b"file")
    look_up = kernel.fs.lookup

    def slow(place, shown):
        found = look_up(place)
        kernel.fs.names[1, b"file"] = two
        kernel.fs.lookup = look_up
        kernel.driver.answer(kernel.put(request_bytes(fuse.FUSE_OPEN, bytes(8), one, pid=5)))
        return found

    kernel.fs.lookup = slow
    replies = kernel.send(request_bytes(fuse.FUSE_LOOKUP, b"file\0"))
    assert [reply.error for reply in replies if reply.unique][0] == errno.ESTALE
    if found_out:
        assert open_as(kernel, 6, one) == errno.ESTALE
    assert open_as(kernel, 5, one) == errno.ESTALE
    assert kernel.fs.handles == []


def test_a_file_that_no_name_leads_to(kernel):
    """Goal: S11. An unlinked file that is open is opened once more through /proc, for which the kernel looks nothing up
    when it is told to."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    kernel.open(ino)
    kernel.do(fuse.FUSE_UNLINK, b"file\0")
    assert [open_as(kernel, 1, ino) for _ in range(2)] == [errno.ESTALE, 0]


def test_a_name_that_is_gone_is_not_opened_by_its_inode_later(kernel):
    """Goal: S2. A program that was told that the name is gone, and opens it when it is there again, gets no ESTALE for
    that one's sake: the two opens have nothing to do with each other."""
    for _ in range(3):
        ino = kernel.fs.add(b"file")
        kernel.lookup(b"file")
        del kernel.fs.names[1, b"file"]
        assert kernel.ask(fuse.FUSE_OPEN, bytes(8), ino).error == errno.ESTALE
        assert kernel.ask(fuse.FUSE_LOOKUP, b"file\0").error == errno.ENOENT


def test_unlinked_file_that_is_open(kernel):
    """Goal: its attributes are told, set, and its size changed, by its inode."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    fh, _ = kernel.open(ino, os.O_RDWR)
    kernel.do(fuse.FUSE_UNLINK, b"file\0")
    kernel.do(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_MODE, mode=0o600), ino)
    kernel.do(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_SIZE | fuse.FATTR_FH, fh=fh, size=3), ino)
    told = attr(kernel.do(fuse.FUSE_GETATTR, bytes(16), ino), _ATTR_START)
    assert (told["mode"], told["size"]) == (0o100600, 3)


def test_stores_through_a_mapping_are_at_their_place(kernel):
    """Goal: what comes from the kernel's pages is written where it belongs, also through a handle with O_APPEND; which
    fcntl can set and clear."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    fh, _ = kernel.open(ino, os.O_RDWR | os.O_APPEND)
    kernel.write(fh, b"a", 10, 0, os.O_RDWR | os.O_APPEND)
    kernel.write(fh, b"b", 20, fuse.FUSE_WRITE_CACHE, os.O_RDWR | os.O_APPEND)
    kernel.write(fh, b"c", 30, 0, os.O_RDWR)
    assert [call[-1] for call in kernel.fs.files.calls if call[0] == "write"] == [True, False, False]


def test_what_is_written_can_go_to_the_disk_as_it_is(kernel, monkeypatch):
    """Goal: the data of a WRITE is handed on where it was read to, and begins at the border of a block of memory."""
    ino, addresses = kernel.fs.add(b"file"), []
    kernel.lookup(b"file")
    fh, _ = kernel.open(ino, os.O_RDWR)

    def write(handle: object, data: memoryview, *_: object) -> int:
        addresses.append(ctypes.addressof(ctypes.c_char.from_buffer(data)))
        return len(data)

    monkeypatch.setattr(kernel.fs.files, "write", write)
    kernel.write(fh, b"some", 0)
    kernel.write(fh, b"more", 4)
    assert addresses[0] == addresses[1]
    assert addresses[0] % BLOCK_BYTES == 0


def test_writing_takes_set_id_bits_away(kernel):
    """Goal: the file system hears who may keep them: root, unless the kernel says of a write, of an open that cuts or
    of a new size that it is by somebody else."""
    ino = kernel.fs.add(b"file", 0o106755)
    kernel.lookup(b"file")
    kernel.open(ino, os.O_RDWR)
    assert not kernel.fs.handles[-1].privileged
    kernel.uid = 0
    fh, _ = kernel.open(ino, os.O_RDWR)
    privileged = lambda: kernel.fs.handles[-1].privileged  # noqa: E731
    kernel.write(fh, b"as root")
    kernel.do(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_SIZE | fuse.FATTR_FH, fh=fh, size=3), ino)
    assert privileged()
    kernel.write(fh, b"as another", 0, fuse.FUSE_WRITE_KILL_SUIDGID)
    assert not privileged()
    fh, _ = kernel.open(ino, os.O_RDWR)
    by_another = fuse.FATTR_SIZE | fuse.FATTR_KILL_SUIDGID
    kernel.do(fuse.FUSE_SETATTR, setattr_body(by_another | fuse.FATTR_FH, fh=fh, size=3), ino)
    assert not privileged()
    kernel.do(fuse.FUSE_SETATTR, setattr_body(fuse.FATTR_SIZE, size=2), ino)
    assert privileged()
    kernel.do(fuse.FUSE_SETATTR, setattr_body(by_another, size=1), ino)
    assert not privileged()
    kernel.do(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(os.O_WRONLY | os.O_TRUNC, fuse.FUSE_OPEN_KILL_SUIDGID), ino)
    assert not privileged()


def test_interrupt_ends_a_waiting_open(kernel):
    """Goal: an open that waits gets EINTR, whether INTERRUPT comes first or not; no reply to INTERRUPT itself."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    kernel.fs.blocking.set()
    message = request_bytes(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(os.O_WRONLY, 0), ino, unique=1000)
    assert kernel.send(request_bytes(fuse.FUSE_INTERRUPT, fuse.fuse_interrupt_in.pack(1000))) == []
    assert [reply.error for reply in kernel.send(message)] == [errno.EINTR]


def test_undoing_that_fails(kernel, caplog):
    """Goal: a file that the kernel did not take and that cannot be closed either is a line in the log, no more."""
    kernel.fs.add(b"file")
    kernel.lookup(b"file")

    def fail(handle):
        raise ZeroDivisionError

    kernel.fs.files.release = fail
    kernel._request.device = os.open(os.devnull, os.O_RDONLY)
    kernel.send(request_bytes(fuse.FUSE_OPEN, bytes(8), kernel.fs.names[1, b"file"]))
    os.close(kernel._request.device)
    assert "OPEN cannot be undone" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_end_closes_what_is_open(kernel):
    """Goal: what the kernel had no time to release when the mount ended is released, once."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    for _ in range(3):
        kernel.open(ino, os.O_RDWR)
    kernel.driver.end()
    kernel.driver.end()
    assert [handle.closed for handle in kernel.fs.handles] == [True] * 3


# -- what the file system may or may not offer


@pytest.mark.parametrize("opcode", [*OPTIONAL, *REFUSED, 7, 19, fuse.FUSE_SETUPMAPPING, 4095, 1 << 31])
def test_errno_of_what_is_not_offered(kernel, opcode):
    """Goal: each has the errno that makes the kernel, or programs, do without it."""
    wanted = OPTIONAL[opcode][1] if opcode in OPTIONAL else REFUSED.get(opcode, errno.ENOSYS)
    assert kernel.ask(opcode, bytes(200)).error == wanted


class Offering(FakeFileSystem):
    """With everything that a file system may offer."""

    def __init__(self) -> None:
        super().__init__()
        self.xattrs: dict[tuple[int, bytes], bytes] = {}
        self.asked: list[tuple] = []
        self.syncs = 0

    def sync(self):
        self.syncs += 1

    def link(self, old, new):
        ino = self._at(old)
        self.names[self._at((new[0], new[1][:-1])), new[1][-1]] = ino
        self.inodes[ino].nlink += 1
        return self.inodes[ino]

    def setxattr(self, place, name, value, flags, kills_setgid):
        self.asked.append(("setxattr", flags, kills_setgid))
        self.xattrs[self._at(place), name] = value

    def getxattr(self, place, name):
        if (self._at(place), name) not in self.xattrs:
            raise OSError(errno.ENODATA, "none")
        return self.xattrs[self._at(place), name]

    def lacks_xattr(self, place, name):
        return name == b"user.never"

    def listxattr(self, place, privileged):
        return [name for ino, name in self.xattrs if ino == self._at(place)]

    def removexattr(self, place, name):
        self.getxattr(place, name)
        del self.xattrs[self._at(place), name]

    def fallocate(self, handle, mode, offset, length, interrupted):
        assert not interrupted()
        self.asked.append(("fallocate", handle.content.ino, mode, offset, length))

    def lseek(self, handle, offset, whence):
        return offset + whence

    def copy_range(self, source, offset, target, target_offset, length, interrupted):
        assert not interrupted()
        self.asked.append(("copy", source.content.ino, offset, target.content.ino, target_offset, length))
        return length // 2

    def create_unnamed(self, place, mode, uid, gid, flags, pid, privileged, interrupted, umask):
        made = self.make((1, (b"unnamed",)), mode, uid, gid)
        del self.names[1, b"unnamed"]
        return self._handle(made.ino, True, privileged), made


@pytest.fixture
def offering() -> Iterator[Kernel]:
    made = Kernel(Offering())
    yield made
    made.close()


def test_hard_links(offering):
    """Goal: the reply to LINK names the same node, and counts."""
    ino = offering.fs.add(b"file")
    offering.lookup(b"file")
    body = offering.do(fuse.FUSE_LINK, fuse.fuse_link_in.pack(ino) + b"second\0")
    assert fuse.fuse_entry_out.unpack(body)[0] == ino
    assert attr(body, _ENTRY_ATTR_START)["nlink"] == 2
    assert offering.driver.nodes.get(ino).lookups == 2


def test_extended_attributes(offering):
    """Goal: values, names, sizes for a size of 0, ERANGE, and the file system's own errors."""
    ino = offering.fs.add(b"file")
    offering.lookup(b"file")
    offering.do(fuse.FUSE_SETXATTR, fuse.fuse_setxattr_in.pack(5, 2, 1, 0) + b"user.a\0value", ino)
    offering.do(fuse.FUSE_SETXATTR, fuse.fuse_setxattr_in.pack(0, 0, 2, 0) + b"user.b\0", ino)
    assert offering.fs.asked == [("setxattr", 2, True), ("setxattr", 0, False)]
    get = lambda size, name=b"user.a": fuse.fuse_getxattr_in.pack(size) + name + b"\0"  # noqa: E731
    assert offering.do(fuse.FUSE_GETXATTR, get(5), ino) == b"value"
    assert fuse.fuse_getxattr_out.unpack(offering.do(fuse.FUSE_GETXATTR, get(0), ino)) == (5,)
    assert offering.ask(fuse.FUSE_GETXATTR, get(4), ino).error == errno.ERANGE
    assert offering.ask(fuse.FUSE_GETXATTR, get(5, b"user.none"), ino).error == errno.ENODATA
    assert offering.ask(fuse.FUSE_GETXATTR, get(5, b"user.never"), ino).error == errno.ENODATA
    assert offering.do(fuse.FUSE_LISTXATTR, fuse.fuse_getxattr_in.pack(100), ino) == b"user.a\0user.b\0"
    offering.do(fuse.FUSE_REMOVEXATTR, b"user.a\0", ino)
    assert offering.do(fuse.FUSE_LISTXATTR, fuse.fuse_getxattr_in.pack(100), ino) == b"user.b\0"


def test_ranges_of_a_file(offering):
    """Goal: fallocate, lseek and both forms of copy_file_range reach the file system with all their numbers."""
    one, two = offering.fs.add(b"a"), offering.fs.add(b"b")
    fhs = [offering.open(offering.lookup(name), os.O_RDWR)[0] for name in (b"a", b"b")]
    offering.do(fuse.FUSE_FALLOCATE, fuse.fuse_fallocate_in.pack(fhs[0], 1, 2, 3), one)
    body = offering.do(fuse.FUSE_LSEEK, fuse.fuse_lseek_in.pack(fhs[0], 40, os.SEEK_DATA), one)
    assert fuse.fuse_lseek_out.unpack(body) == (43,)
    copy = fuse.fuse_copy_file_range_in.pack(fhs[0], 4, two, fhs[1], 5, 1 << 40, 0)
    assert fuse.fuse_write_out.unpack(offering.do(fuse.FUSE_COPY_FILE_RANGE, copy[:40] + bytes(16), one)) == (0,)
    assert fuse.fuse_copy_file_range_out.unpack(offering.do(fuse.FUSE_COPY_FILE_RANGE_64, copy, one)) == (1 << 39,)
    assert offering.fs.asked == [
        ("fallocate", one, 3, 1, 2), ("copy", one, 4, two, 5, 0), ("copy", one, 4, two, 5, 1 << 40),
    ]  # fmt: skip


def test_file_without_a_name(offering):
    """Goal: O_TMPFILE gives a node and an open file."""
    body = offering.do(fuse.FUSE_TMPFILE, fuse.fuse_create_in.pack(os.O_RDWR, 0o600, 0, 0) + b"\0")
    nodeid, fh = fuse.fuse_create_out.unpack(body)[0], fuse.fuse_create_out.unpack(body)[-3]
    assert offering.write(fh, b"x") == 1
    assert offering.driver.nodes.place_of(offering.driver.nodes.get(nodeid)) == ((nodeid, ()), b"/")


def lock_body(fh: int, kind: int, *, owner: int = 7, flock: bool = False) -> bytes:
    return fuse.fuse_lk_in.pack(fh, owner, 10, _LAST, kind, 55, fuse.FUSE_LK_FLOCK * flock)


def test_locks_between_programs(kernel):
    """Goal: POSIX and BSD locks with owner and range; what is in the way is told; the close carries the owner."""
    ino, locks = kernel.fs.add(b"file"), kernel.fs.program_locks
    fh = kernel.open(kernel.lookup(b"file"), os.O_RDWR)[0]
    free = fuse.fuse_file_lock.unpack(kernel.do(fuse.FUSE_GETLK, lock_body(fh, fcntl.F_WRLCK), ino))
    assert free == (10, _LAST, fcntl.F_UNLCK, 0)
    kernel.do(fuse.FUSE_SETLK, lock_body(fh, fcntl.F_WRLCK), ino)
    assert locks.held == FileLock(7, fcntl.F_WRLCK, 10, _LAST, 55)
    held = fuse.fuse_file_lock.unpack(kernel.do(fuse.FUSE_GETLK, lock_body(fh, fcntl.F_RDLCK), ino))
    assert held == (10, _LAST, fcntl.F_WRLCK, 55)
    assert kernel.ask(fuse.FUSE_SETLK, lock_body(fh, fcntl.F_WRLCK), ino).error == errno.EAGAIN
    kernel.do(fuse.FUSE_SETLKW, lock_body(fh, fcntl.F_UNLCK), ino)
    kernel.do(fuse.FUSE_SETLKW, lock_body(fh, fcntl.F_WRLCK, flock=True), ino)
    assert locks.held.flock
    assert kernel.ask(fuse.FUSE_SETLK, lock_body(fh, 9), ino).error == errno.EINVAL
    kernel.do(fuse.FUSE_FLUSH, FLUSH(fh, 8))
    assert locks.held
    kernel.do(fuse.FUSE_FLUSH, FLUSH(fh, 7))
    assert not locks.held


@pytest.mark.parametrize("error", [None, errors.Interrupted(), errors.Deadlock()])
def test_a_lock_that_is_waited_for_is_answered_later(kernel, error):
    """Goal: the worker goes on at once, and may even end; the answer comes from whoever hears the outcome."""
    ino, locks = kernel.fs.add(b"file"), kernel.fs.program_locks
    fh = kernel.open(kernel.lookup(b"file"), os.O_RDWR)[0]
    kernel.do(fuse.FUSE_SETLK, lock_body(fh, fcntl.F_WRLCK), ino)
    before = len(os.listdir("/proc/self/fd"))
    message = request_bytes(fuse.FUSE_SETLKW, lock_body(fh, fcntl.F_WRLCK, owner=8), ino, unique=1000)
    assert kernel.send(message) == []
    kernel.do(fuse.FUSE_FLUSH, FLUSH(fh, 9))
    ((lock, decided, interrupted),) = locks.waiting
    assert lock.owner == 8
    assert not interrupted()
    assert kernel.send(request_bytes(fuse.FUSE_INTERRUPT, fuse.fuse_interrupt_in.pack(1000))) == []
    assert interrupted()
    decided(error)
    assert [(reply.unique, reply.error) for reply in kernel.written()] == [(1000, error.errno if error else 0)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_content_that_becomes_another_version(kernel):
    """Goal: the kernel is told to forget pages and attributes of that node."""
    ino = kernel.fs.add(b"file")
    kernel.open(kernel.lookup(b"file"))
    kernel.fs.program_locks.tell(kernel.fs.contents[ino], ino)
    (told,) = kernel.written()
    assert (told.unique, told.error) == (0, -fuse.FUSE_NOTIFY_INVAL_INODE)
    assert fuse.fuse_notify_inval_inode_out.unpack(told.body) == (ino, 0, 0)


def test_file_that_programs_share_by_locks(kernel):
    """Goal: its size is the newest's, though an older content is open; and past the pages where that is asked for."""
    ino, fs = kernel.fs.add(b"file"), kernel.fs
    kernel.open(kernel.lookup(b"file"))
    fs.replace_content(ino, b"newest")
    body = lambda: kernel.do(fuse.FUSE_GETATTR, bytes(16), ino)  # noqa: E731
    assert attr(body(), fuse.fuse_attr_out.size - fuse.fuse_attr.size)["size"] == 0
    fs.program_locks.shared.add(ino)
    assert attr(body(), fuse.fuse_attr_out.size - fuse.fuse_attr.size)["size"] == 6


def test_syncfs(offering):
    """Goal: it reaches the file system."""
    offering.do(fuse.FUSE_SYNCFS, bytes(8))
    assert offering.fs.syncs == 1


# -- what is not of the protocol's form


def test_errors_of_the_file_system(kernel):
    """Goal: each becomes its errno; what is unexpected is EIO, with a traceback in the log."""
    for raised, number in (
        (errors.NotFound(), errno.ENOENT),
        (errors.Busy(), errno.EBUSY),
        (errors.TimedOut(), errno.ETIMEDOUT),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError("without a number"), errno.EIO),
        (ZeroDivisionError(), errno.EIO),
    ):

        def fail(place, shown, raised=raised):
            raise raised

        kernel.fs.lookup = fail
        assert kernel.ask(fuse.FUSE_LOOKUP, b"x\0").error == number


def test_unexpected_errors_are_logged(kernel, caplog):
    """Goal: the log has the traceback."""
    kernel.fs.space = lambda: 1 / 0
    assert kernel.ask(fuse.FUSE_STATFS).error == errno.EIO
    assert "ZeroDivisionError" in caplog.text
    assert "STATFS failed" in caplog.text


def test_short_requests(kernel):
    """Goal: one that ends before its structure does is EINVAL, whatever the buffer has of earlier ones; less than a
    header is passed over; and a length that is not what was read is EINVAL."""
    ino = kernel.fs.add(b"file")
    kernel.lookup(b"file")
    fh, _ = kernel.open(ino, os.O_RDWR)
    kernel.write(fh, b"x" * 100)
    for opcode, (_, least) in kernel.driver._handlers.items():
        replies = kernel.send(request_bytes(opcode, bytes(least - BODY - 1), ino) if least > BODY else b"")
        no_reply = opcode in (fuse.FUSE_FORGET, fuse.FUSE_BATCH_FORGET, fuse.FUSE_INTERRUPT) or least == BODY
        assert [reply.error for reply in replies] == ([] if no_reply else [errno.EINVAL]), fuse.OPCODES[opcode]
    assert kernel.send(b"short") == []
    assert [reply.error for reply in kernel.send(request_bytes(fuse.FUSE_STATFS) + b"more")] == [errno.EINVAL]
    write = fuse.fuse_write_in.pack(fh, 0, 1000, 0, 0, 0)
    assert kernel.ask(fuse.FUSE_WRITE, write + b"less than 1000").error == errno.EINVAL


@pytest.mark.parametrize("name", [b"", b"\0", b"no end", b"a/b\0", b"..\0", b"x" * 300 + b"\0"])
def test_names_that_cannot_be(kernel, name):
    """Goal: an errno, and nothing is made."""
    assert kernel.ask(fuse.FUSE_MKDIR, bytes(8) + name).error in (errno.EINVAL, errno.ENAMETOOLONG, errno.EEXIST)
    assert all(b"/" not in made for _, made in kernel.fs.names)


def random_request(choose: random.Random, nodes: list[int], numbers: list[int]) -> bytes:
    """Of the protocol's form, or nearly, or not at all."""
    opcode = choose.choice([*fuse.OPCODES, choose.randrange(1 << 32)])
    fields = [choose.choice([*numbers, 0, 1, 4096, choose.getrandbits(64), choose.getrandbits(31)]) for _ in range(12)]
    body = b"".join(
        field.to_bytes(8, "little") if choose.random() < 0.5 else (field & 0xFFFFFFFF).to_bytes(4, "little")
        for field in fields[: choose.randrange(12)]
    )
    names = [b"a", b"b", b"dir", b"", b"x" * 300, bytes(choose.randbytes(5))]
    body += b"".join(choose.choice(names) + b"\0" * choose.randrange(2) for _ in range(choose.randrange(4)))
    message = request_bytes(opcode, body, choose.choice(nodes))
    if choose.random() < 0.05:
        position = choose.randrange(len(message))
        message = message[:position] + choose.randbytes(1) + message[position + 1 :]
    return message[: choose.randrange(len(message))] if choose.random() < 0.05 else message


@pytest.mark.parametrize("seed", range(4))
def test_no_request_ends_the_driver(seed, caplog):
    """Goal: requests made up at random, right and wrong ones, each get one reply at most, of the protocol's form; the
    driver then still works, has counted nothing twice, and met nothing unexpected."""
    caplog.set_level(logging.ERROR)
    choose, kernel = random.Random(seed), Kernel(Offering())
    kernel.fs.add(b"dir", stat.S_IFDIR | 0o755)
    for name in (b"a", b"b"):
        kernel.fs.add(name)
    nodes = [1, *(kernel.lookup(name) for name in (b"a", b"b", b"dir")), 999]
    numbers = [kernel.open(nodes[1], os.O_RDWR)[0], kernel.open(nodes[2])[0]]
    for _ in range(ROUNDS):
        message = random_request(choose, nodes, numbers)
        replies = [reply for reply in kernel.send(message) if reply.unique]
        assert len(replies) <= 1
        for reply in replies:
            assert reply.unique == fuse.fuse_in_header.unpack_from(message)[2]
            assert 0 <= reply.error < 4096
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    kernel.fs.add(b"still here")
    assert kernel.lookup(b"still here")
    assert all(node.lookups > 0 for node in kernel.driver.nodes._nodes.values() if node.id != 1)
    kernel.driver.end()
    assert all(handle.closed for handle in kernel.fs.handles)
    kernel.close()


def test_requests_in_many_threads(caplog):
    """Goal: the same with four threads at once: each still works afterwards, names and nodes fit together, and what is
    open is closed once."""
    caplog.set_level(logging.CRITICAL)
    choose, kernel = random.Random(9), Kernel(Offering())
    kernel.fs.add(b"dir", stat.S_IFDIR | 0o755)
    for name in (b"a", b"b"):
        kernel.fs.add(name)
    nodes = [1, *(kernel.lookup(name) for name in (b"a", b"b", b"dir")), 999]
    workers = Workers(kernel.theirs.fileno(), kernel.driver.answer, os.dup)
    workers.start()
    workers._grow(3)
    kernel.ours.settimeout(10)
    for _ in range(ROUNDS // 20):
        # As many as the socket takes without anybody reading the replies.
        for _ in range(20):
            kernel.ours.send(random_request(choose, nodes, [1, 2]) or b"?")
        last = request_bytes(fuse.FUSE_STATFS)
        kernel.ours.send(last)
        while reply_of(kernel.ours.recv(2 << 20)).unique != fuse.fuse_in_header.unpack_from(last)[2]:
            pass
    kernel.ours.shutdown(socket.SHUT_RDWR)
    assert workers.join() == 0
    table = kernel.driver.nodes
    assert all(node.lookups > 0 for node in table._nodes.values() if node.id != 1)
    assert all(node.name == name for name, node in table.named.items())
    assert {node.name for node in table._nodes.values() if node.name} == set(table.named)
    kernel.driver.end()
    assert all(handle.closed for handle in kernel.fs.handles)
    kernel.close()


def test_reply_of_checks_its_form():
    """Goal: the fuzz test would see a reply that is not as long as it says."""
    with pytest.raises(AssertionError):
        reply_of(fuse.fuse_out_header.pack(17, 0, 1))
    with pytest.raises(AssertionError):
        reply_of(fuse.fuse_out_header.pack(20, -5, 1) + bytes(4))
