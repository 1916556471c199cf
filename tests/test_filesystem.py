"""The client's file system on the directory's core, without a mount: names, attributes, links, extended attributes."""

import errno
import itertools
import os
import stat
import threading
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from test_acl import MINIMAL
from volumes import Volume

from dfsfuse import errors, messages
from dfsfuse.giving_attributes import TIME_NS_MAX, TIME_NS_MIN
from dfsfuse.messages import (
    LIST_PAGE_MAX,
    RENAME_EXCHANGE,
    ROOT_INO,
    XATTR_ACL_ACCESS,
    XATTR_ACL_DEFAULT,
    XATTR_CAPABILITY,
    XATTR_CREATE,
    XATTR_REPLACE,
)
from dfsfuse.places import place_of
from servers import records
from servers.quota import INODES_FREE
from servers.store.memory import MemoryStore

FOR_EVER_S = 1e9
CAPABILITY = b"\1\0\0\2" + bytes(16)


@pytest.fixture
def machine(volume: Volume, tmp_path: Path) -> Machine:
    """It uses what it knows for ever: what it has changed itself it must never see old."""
    return Machine(volume, Servers(), tmp_path / "one", FOR_EVER_S)


@pytest.fixture
def other(volume: Volume, machine: Machine, tmp_path: Path) -> Machine:
    """Another client, which always asks."""
    return Machine(volume, machine.servers, tmp_path / "two", 0.0)


def mode_of(machine: Machine, path: str) -> int:
    return stat.S_IMODE(machine.stat(path).mode)


def gone(machine: Machine, path: str) -> bool:
    try:
        machine.stat(path)
    except errors.NotFound:
        return True
    return False


# -- what is known


def test_what_was_just_made_is_known_by_its_inode_alone(machine: Machine, other: Machine) -> None:
    """Goal: the fstat that follows a create costs no request. Its name is looked up again: the kernel does so before
    it makes a name that must not exist, and another client may have removed it."""
    handle = machine.create("/f")
    before = machine.session.asked["Lookup"]
    assert machine.files.attributes_of(handle).ino == handle.content.ino
    assert machine.session.asked["Lookup"] == before
    machine.close(handle)
    other.files.remove(place_of("/f"), folder=False)
    assert gone(machine, "/f")


def test_a_link_tells_what_has_become_of_its_folder(tmp_path: Path) -> None:
    """Goal: git names each object by a link and an unlink: the folder's times, and the file by its new name, are known
    after the link without asking."""
    machine = Machine(Volume(MemoryStore()), Servers(), tmp_path / "watches", 0.0, watches=True)
    folder = machine.make("/d").ino
    machine.write("/d/tmp", b"object")
    before, modified = machine.session.asked.total(), machine.stat("/d").mtime_ns
    machine.files.link((machine.stat("/d/tmp").ino, ()), (folder, (b"object",)))
    assert machine.files.lookup((folder, ())).mtime_ns > modified
    assert machine.files.lookup((folder, (b"object",))).nlink == 2
    assert machine.session.asked.total() == before + 1


def test_own_changes_are_seen_at_once(machine: Machine) -> None:
    """Goal: however long attributes are held, what this client does to one name is seen under all of them, and in
    their folders."""
    machine.make("/d")
    machine.write("/f", b"one")
    assert (machine.stat("/").nlink, machine.stat("/d").nlink, machine.stat("/f").nlink) == (3, 2, 1)
    machine.files.link(place_of("/f"), place_of("/d/g"))
    assert (machine.stat("/f").nlink, machine.stat("/d/g").nlink) == (2, 2)
    machine.write("/d/g", b"longer")
    assert (machine.stat("/f").size, machine.read("/f")) == (6, b"longer")
    machine.files.set_attributes(place_of("/f"), mode=0o600)
    assert mode_of(machine, "/d/g") == 0o600
    machine.make("/d/sub")
    assert machine.stat("/d").nlink == 3
    machine.files.rename(place_of("/f"), place_of("/d/f"))
    assert gone(machine, "/f")
    machine.files.remove(place_of("/d/g"), folder=False)
    assert machine.stat("/d/f").nlink == 1
    machine.files.remove(place_of("/d/sub"), folder=True)
    assert machine.stat("/d").nlink == 2


def test_a_change_tells_of_its_folder(machine: Machine, other: Machine) -> None:
    """Goal: the kernel asks for a folder's attributes after each name that comes or goes there, and that costs no
    request; and they are the folder's as it is since."""
    machine.make("d")
    ino = machine.stat("d").ino
    for change in (
        lambda: machine.write("d/f", b"x"),
        lambda: machine.make("d/sub"),
        lambda: machine.files.remove(place_of("d/f"), folder=False),
        lambda: machine.files.remove(place_of("d/sub"), folder=True),
    ):
        change()
        asked = machine.session.asked["Lookup"]
        known = machine.files.lookup((ino, ()))
        assert machine.session.asked["Lookup"] == asked
        assert known == other.files.lookup((ino, ()))


def test_what_an_open_did_not_find_is_gone(machine: Machine, other: Machine) -> None:
    """Goal: an open asks the directory; what it has learnt is not contradicted by what was known before, so the name
    can be made again."""
    machine.write("/f", b"one")
    assert machine.stat("/f")
    other.files.remove(place_of("/f"), folder=False)
    assert not gone(machine, "/f")
    with pytest.raises(errors.NotFound):
        machine.open("/f")
    assert gone(machine, "/f")


def test_removing_a_name_that_was_never_looked_up(machine: Machine, other: Machine) -> None:
    """Goal: what the name led to may be known under another name; its link count is right all the same."""
    machine.write("/f", b"one")
    other.files.link(place_of("/f"), place_of("/g"))
    machine.files.remove(place_of("/g"), folder=False)
    assert machine.stat("/f").nlink == 1
    other.files.link(place_of("/f"), place_of("/g"))
    machine.files.set_attributes(place_of("/f"), mode=0o600)
    assert machine.stat("/f").nlink == 2
    machine.files.remove(place_of("/g"), folder=False)
    assert machine.stat("/f").nlink == 1


# -- links


def test_a_link_to_a_file_that_is_open(machine: Machine, other: Machine) -> None:
    """Goal: a handle follows the inode whatever names it gets and loses."""
    handle = machine.create("/f")
    machine.put(handle, b"one")
    machine.files.link((handle.content.ino, ()), place_of("/g"))
    machine.files.remove(place_of("/f"), folder=False)
    machine.put(handle, b"two", 3)
    assert machine.files.attributes_of(handle).size == 6
    machine.close(handle)
    assert other.read("/g") == b"onetwo"


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [("/none", "/new", errno.ENOENT), ("/f", "/d", errno.EEXIST), ("/d", "/new", errno.EPERM),
     ("/f", "/none/new", errno.ENOENT), ("/f", "/f/new", errno.ENOTDIR), ("/f", "/" + "n" * 256, errno.ENAMETOOLONG)],
)  # fmt: skip
def test_links_that_are_refused(machine: Machine, old: str, new: str, number: int) -> None:
    """Goal: each refusal has its errno."""
    machine.make("/d")
    machine.write("/f", b"")
    with pytest.raises(errors.DfsError) as refused:
        machine.files.link(place_of(old), place_of(new))
    assert refused.value.errno == number


# -- without a name


def test_a_nameless_file_gets_its_name(machine: Machine, other: Machine) -> None:
    """Goal: O_TMPFILE and linkat: nobody sees it before, everybody after, with what was written so far."""
    handle = machine.create_unnamed()
    machine.put(handle, b"content")
    assert machine.names() == []
    assert (machine.files.attributes_of(handle).nlink, machine.files.attributes_of(handle).size) == (0, 7)
    machine.files.files.flush(handle)
    machine.files.link((handle.content.ino, ()), place_of("/named"))
    assert (machine.names(), machine.stat("/named").nlink) == ([b"named"], 1)
    assert other.read("/named") == b"content"
    machine.close(handle)


def test_a_nameless_file_goes_with_its_last_close(machine: Machine, volume: Volume) -> None:
    """Goal: nothing is left of it at the directory, and O_EXCL keeps it from ever having a name."""
    handle = machine.create_unnamed(flags=os.O_RDWR | os.O_EXCL)
    machine.put(handle, b"content")
    with pytest.raises(errors.NotFound):
        machine.files.link((handle.content.ino, ()), place_of("/named"))
    machine.close(handle)
    assert volume.store.read(records.usage) == records.Usage(1, 0, 0)


@pytest.mark.parametrize("synced", [False, True])
def test_a_killed_clients_nameless_file_is_gone(machine: Machine, synced: bool) -> None:
    """Goal: as on a local disk after a crash: no recovered copy of what never had a name."""
    handle = machine.create_unnamed()
    machine.put(handle, b"content")
    if synced:
        machine.files.files.flush(handle, durable=True)
        machine.put(handle, b"more")
    machine.kill()
    assert machine.names() == []
    assert machine.unsent.count() == 0


def test_a_killed_clients_file_that_got_a_name_is_kept(machine: Machine) -> None:
    """Goal: from its name on a file that began without one is as any other: what was not closed is a recovered copy."""
    handle = machine.create_unnamed()
    machine.put(handle, b"content")
    machine.files.link((handle.content.ino, ()), place_of("/named"))
    machine.put(handle, b" and more", 7)
    machine.kill()
    (copy,) = (name for name in machine.names() if name != b"named")
    assert copy.startswith(b"named (recovered ")
    assert machine.read("/" + copy.decode()) == b"content and more"


# -- special files


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_special_files_are_names(machine: Machine, other: Machine, kind: int) -> None:
    """Goal: they are made, seen, linked, renamed and removed as files are, and have no content (EINVAL)."""
    machine.make("/x", kind | 0o640, uid=3, gid=4, rdev=0x12345)
    for one in (machine, other):
        known = one.stat("/x")
        assert (known.mode, known.uid, known.gid, known.size) == (kind | 0o640, 3, 4, 0)
        assert known.rdev == (0x12345 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0)
    for attempt in (
        lambda: machine.open("/x"),
        lambda: machine.open("/x", os.O_WRONLY),
        lambda: machine.open("/x", os.O_RDWR | os.O_TRUNC),
        lambda: machine.files.truncate(place_of("/x"), 0, 1),
        lambda: machine.files.truncate(place_of("/x"), 5, 1),
    ):
        with pytest.raises(errors.InvalidArgument):
            attempt()
    machine.files.link(place_of("/x"), place_of("/y"))
    machine.files.rename(place_of("/x"), place_of("/z"))
    assert machine.stat("/z").nlink == 2
    machine.files.remove(place_of("/y"), folder=False)
    assert machine.names() == [b"z"]


# -- extended attributes


def test_extended_attributes_of_two_clients(machine: Machine, other: Machine) -> None:
    """Goal: what one sets the other gets and lists, and what is removed is gone for both."""
    machine.write("/f", b"content")
    for name, value in ((b"user.a", b"1"), (b"user.empty", b""), (b"trusted.t", bytes(60_000))):
        machine.files.setxattr(place_of("/f"), name, value)
        assert machine.files.getxattr(place_of("/f"), name) == other.files.getxattr(place_of("/f"), name) == value
    assert other.files.listxattr(place_of("/f")) == [b"trusted.t", b"user.a", b"user.empty"]
    assert other.files.listxattr(place_of("/f"), privileged=False) == [b"user.a", b"user.empty"]
    for name in other.files.listxattr(place_of("/f")):
        machine.files.removexattr(place_of("/f"), name)
        for one in (machine, other):
            with pytest.raises(errors.NoAttribute):
                one.files.getxattr(place_of("/f"), name)
    assert machine.files.listxattr(place_of("/f")) == other.files.listxattr(place_of("/f")) == []


def test_extended_attributes_refuse_as_a_local_disk(machine: Machine) -> None:
    """Goal: each refusal has its errno."""
    machine.write("/f", b"")
    machine.make("/p", stat.S_IFIFO | 0o600)
    files, place = machine.files, place_of("/f")
    files.setxattr(place, b"user.a", b"1")
    for number, attempt in (
        (errno.ENODATA, lambda: files.getxattr(place, b"user.none")),
        (errno.ENODATA, lambda: files.removexattr(place, b"user.none")),
        (errno.ENODATA, lambda: files.setxattr(place, b"user.none", b"", XATTR_REPLACE)),
        (errno.EEXIST, lambda: files.setxattr(place, b"user.a", b"", XATTR_CREATE)),
        (errno.EOPNOTSUPP, lambda: files.setxattr(place, b"system.other", b"")),
        (errno.EOPNOTSUPP, lambda: files.getxattr(place, b"system.other")),
        (errno.EOPNOTSUPP, lambda: files.removexattr(place, b"system.other")),
        (errno.ENODATA, lambda: files.getxattr(place, b"system.posix_acl_access")),
        (errno.EINVAL, lambda: files.setxattr(place, b"system.posix_acl_access", b"x")),
        (errno.EPERM, lambda: files.setxattr(place, b"system.posix_acl_default", MINIMAL)),
        (errno.EOPNOTSUPP, lambda: files.setxattr(place, b"foreign.a", b"")),
        (errno.EINVAL, lambda: files.setxattr(place, b"user.", b"")),
        (errno.E2BIG, lambda: files.setxattr(place, b"user.b", bytes(65_537))),
        (errno.EPERM, lambda: files.setxattr(place_of("/p"), b"user.a", b"")),
        (errno.ENOENT, lambda: files.setxattr(place_of("/none"), b"user.a", b"")),
        (errno.ENOENT, lambda: files.getxattr(place_of("/none"), b"user.a")),
        (errno.ENOENT, lambda: files.listxattr(place_of("/none"))),
        (errno.ENAMETOOLONG, lambda: files.listxattr(place_of("/" + "n" * 256))),
    ):
        with pytest.raises(errors.DfsError) as refused:
            attempt()
        assert refused.value.errno == number


def test_who_has_no_attributes_is_not_asked_for_them(machine: Machine) -> None:
    """Goal: kernels ask for security.capability at each write, and `ls -l` for access control lists: what is known to
    have none costs no request."""
    machine.write("/f", b"")
    machine.stat("/f")
    before = machine.session.asked.total()
    for name in (b"security.capability", XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT):
        assert machine.files.lacks_xattr(place_of("/f"), name)
        with pytest.raises(errors.NoAttribute):
            machine.files.getxattr(place_of("/f"), name)
    assert machine.files.listxattr(place_of("/f")) == []
    assert machine.session.asked.total() == before


def test_attributes_of_an_unlinked_file_that_is_open(machine: Machine) -> None:
    """Goal: by its inode number it can be given attributes, modes and times until it is closed."""
    handle = machine.create("/f")
    place = handle.content.ino, ()
    machine.files.remove(place_of("/f"), folder=False)
    machine.files.setxattr(place, b"user.a", b"1")
    machine.files.set_attributes(place, mode=0o4711, mtime_ns=5)
    assert machine.files.getxattr(place, b"user.a") == b"1"
    assert machine.files.attributes_of(handle).mtime_ns == 5
    machine.close(handle)


# -- rights that go with a write


@pytest.mark.parametrize(("privileged", "left"), [(False, 0o755), (True, 0o6755)])
@pytest.mark.parametrize("how", ["write", "truncate", "O_TRUNC", "truncate by path"])
def test_writing_takes_set_id_bits(machine: Machine, other: Machine, how: str, privileged: bool, left: int) -> None:
    """Goal: what may not keep them loses them by any change of the content: seen at once here, and committed."""
    machine.write("/f", b"program")
    machine.files.set_attributes(place_of("/f"), mode=0o6755)
    if how == "truncate by path":
        machine.files.truncate(place_of("/f"), 3, 1, privileged=privileged)
    else:
        flags = os.O_RDWR | (os.O_TRUNC if how == "O_TRUNC" else 0)
        handle = machine.open("/f", flags, privileged=privileged)
        if how == "write":
            machine.put(handle, b"x")
        elif how == "truncate":
            machine.files.files.resize(handle, 3)
        assert mode_of(machine, "/f") == left
        machine.close(handle)
    assert mode_of(machine, "/f") == mode_of(other, "/f") == left


def test_opening_and_reading_takes_nothing(machine: Machine) -> None:
    """Goal: an open for writing without a write leaves mode and capability."""
    machine.write("/f", b"program")
    machine.files.set_attributes(place_of("/f"), mode=0o4755)
    machine.files.setxattr(place_of("/f"), XATTR_CAPABILITY, CAPABILITY)
    machine.close(machine.open("/f", os.O_RDWR))
    assert machine.read("/f") == b"program"
    assert mode_of(machine, "/f") == 0o4755
    assert machine.files.getxattr(place_of("/f"), XATTR_CAPABILITY) == CAPABILITY


def test_set_group_id_without_group_execution_stays(machine: Machine) -> None:
    """Goal: it marks a file for mandatory locks, and is no right."""
    machine.write("/f", b"")
    machine.files.set_attributes(place_of("/f"), mode=0o6745)
    machine.write("/f", b"x")
    assert mode_of(machine, "/f") == 0o2745


def test_what_is_set_after_the_last_write_stays(machine: Machine, other: Machine) -> None:
    """Goal: cp -p, tar and setcap write first, then set mode and capability, then close; a later write takes them."""
    handle = machine.create("/f")
    machine.put(handle, b"program")
    machine.files.set_attributes((handle.content.ino, ()), mode=0o4755)
    machine.files.setxattr((handle.content.ino, ()), XATTR_CAPABILITY, CAPABILITY)
    machine.files.files.flush(handle)
    assert mode_of(other, "/f") == 0o4755
    assert other.files.getxattr(place_of("/f"), XATTR_CAPABILITY) == CAPABILITY
    machine.put(handle, b"another")
    machine.close(handle)
    assert mode_of(other, "/f") == 0o755
    assert not other.stat("/f").has_xattrs


def test_a_capability_is_gone_with_the_write(machine: Machine, other: Machine) -> None:
    """Goal: here at once, for others with the commit; other attributes stay."""
    machine.write("/f", b"program")
    place = place_of("/f")
    for name in (XATTR_CAPABILITY, b"user.a"):
        machine.files.setxattr(place, name, CAPABILITY)
    handle = machine.open("/f", os.O_RDWR, privileged=True)
    machine.put(handle, b"x")
    with pytest.raises(errors.NoAttribute):
        machine.files.getxattr(place, XATTR_CAPABILITY)
    assert (machine.files.listxattr(place), len(other.files.listxattr(place))) == ([b"user.a"], 2)
    machine.close(handle)
    assert machine.files.listxattr(place) == other.files.listxattr(place) == [b"user.a"]


def test_rights_that_another_client_gives_meanwhile(machine: Machine, other: Machine) -> None:
    """Goal: the owner makes a program of what it sees, on another machine, while somebody here has written something
    else that is not closed yet: what is committed then does not run with the owner's rights."""
    machine.write("/f", b"seen by its owner")
    handle = machine.open("/f", os.O_RDWR)
    machine.put(handle, b"not seen")
    other.files.set_attributes(place_of("/f"), mode=0o6755)
    other.files.setxattr(place_of("/f"), XATTR_CAPABILITY, CAPABILITY)
    machine.close(handle)
    assert mode_of(other, "/f") == 0o755
    assert not other.stat("/f").has_xattrs


def test_each_commit_takes_what_was_written_before_it(machine: Machine) -> None:
    """Goal: rights given after a commit stay when only the privileged write from then on."""
    mine, roots = machine.create("/f"), machine.open("/f", os.O_RDWR, privileged=True)
    machine.put(mine, b"one")
    machine.close(mine)
    machine.files.set_attributes(place_of("/f"), mode=0o4755)
    machine.put(roots, b"two")
    machine.close(roots)
    assert mode_of(machine, "/f") == 0o4755


def test_a_failed_commit_takes_them_later(machine: Machine, other: Machine, volume: Volume) -> None:
    """Goal: what a write must take is not forgotten when the commit is refused and tried again."""
    machine.write("/f", b"one")
    machine.files.set_attributes(place_of("/f"), mode=0o4755)
    volume.core.quota(messages.Quota(bytes_max=3))
    handle = machine.open("/f", os.O_RDWR)
    machine.put(handle, b"much more")
    with pytest.raises(errors.QuotaExceeded):
        machine.close(handle)
    assert mode_of(other, "/f") == 0o4755
    volume.core.quota(messages.Quota(bytes_max=0))
    assert machine.unsent.retry() == 0
    assert (mode_of(other, "/f"), other.read("/f")) == (0o755, b"much more")


def test_what_a_killed_client_left_has_no_rights(machine: Machine, other: Machine, volume: Volume) -> None:
    """Goal: after a crash nobody knows who has written, so what is sent then takes the bits."""
    machine.write("/f", b"one")
    machine.files.set_attributes(place_of("/f"), mode=0o4755)
    handle = machine.open("/f", os.O_RDWR, privileged=True)
    machine.put(handle, b"two and three")
    volume.core.quota(messages.Quota(bytes_max=3))
    with pytest.raises(errors.QuotaExceeded):
        machine.files.files.flush(handle)
    volume.core.quota(messages.Quota(bytes_max=0))
    machine.kill()
    assert (other.read("/f"), mode_of(other, "/f")) == (b"two and three", 0o755)


def test_a_conflict_copy_has_no_rights(machine: Machine, other: Machine) -> None:
    """Goal: what lost the race becomes a file of the original's owner, and must not run with the owner's rights,
    whoever wrote it."""
    machine.write("/f", b"one")
    machine.files.set_attributes(place_of("/f"), mode=0o6755, uid=7)
    machine.files.set_attributes(place_of("/f"), mode=0o6755)
    handle = machine.open("/f", os.O_RDWR, privileged=True)
    machine.put(handle, b"mine")
    other.write("/f", b"theirs", privileged=True)
    with pytest.raises((errors.LockLost, errors.VersionConflict)):
        machine.close(handle)
    (copy,) = (name.decode() for name in other.names() if name != b"f")
    assert (other.read("/" + copy), other.stat("/" + copy).uid, mode_of(other, "/" + copy)) == (b"mine", 7, 0o755)
    assert mode_of(other, "/f") == 0o6755


# -- times


@pytest.mark.parametrize(
    ("time_ns", "kept"),
    [
        (0, 0),
        (-1, -1),
        (-1_500_000_001, -1_500_000_001),
        (TIME_NS_MIN, TIME_NS_MIN),
        (TIME_NS_MIN - 1, TIME_NS_MIN),
        (-(10**30), TIME_NS_MIN),
        (TIME_NS_MAX, TIME_NS_MAX),
        (TIME_NS_MAX + 1, TIME_NS_MAX),
        (10**30, TIME_NS_MAX),
    ],
)
def test_times_are_those_that_ext4_keeps(machine: Machine, other: Machine, time_ns: int, kept: int) -> None:
    """Goal: to the nanosecond, before 1970 too; what is beyond becomes the first or last possible time."""
    machine.write("/f", b"")
    machine.files.set_attributes(place_of("/f"), mtime_ns=time_ns, atime_ns=time_ns)
    for one in (machine, other):
        assert (one.stat("/f").mtime_ns, one.stat("/f").atime_ns) == (kept, kept)


def test_atime_alone_changes_nothing_else(machine: Machine, other: Machine, volume: Volume) -> None:
    """Goal: setting it moves ctime, and neither mtime nor content, also of a file that is being written."""
    machine.write("/f", b"content")
    before = machine.stat("/f")
    after = machine.files.set_attributes(place_of("/f"), atime_ns=77)
    assert (after.atime_ns, after.mtime_ns) == (77, before.mtime_ns)
    assert after.ctime_ns > before.ctime_ns
    handle = machine.open("/f", os.O_RDWR)
    machine.put(handle, b"changed")
    written = machine.stat("/f").mtime_ns
    assert machine.files.set_attributes(place_of("/f"), atime_ns=78).mtime_ns == written > before.mtime_ns
    machine.close(handle)
    known = other.stat("/f")
    assert (known.atime_ns, known.mtime_ns, other.read("/f")) == (78, written, b"changed")


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_fsync_covers_attributes(machine: Machine, flags: int) -> None:
    """Goal: what was set since the last fsync is on the directory's disk after the next; without a change nothing is
    asked."""
    machine.write("/f", b"content")
    handle = machine.open("/f", flags)
    machine.files.files.flush(handle, durable=True)
    for change in (
        lambda: machine.files.set_attributes(place_of("/f"), mode=0o600),
        lambda: machine.files.setxattr(place_of("/f"), b"user.a", b"1"),
        lambda: machine.files.removexattr(place_of("/f"), b"user.a"),
    ):
        change()
        for more in (1, 0):
            before = machine.session.asked["Sync"]
            machine.files.files.flush(handle, durable=True)
            assert machine.session.asked["Sync"] - before == more
    machine.close(handle)


# -- listing


def fill(machine: Machine, folder: str, count: int) -> list[bytes]:
    names = [b"%05d" % number for number in range(count)]
    for name in names:
        machine.make(f"{folder}/{name.decode()}", stat.S_IFIFO | 0o600)
    return names


def test_a_listing_goes_on_after_a_name(machine: Machine) -> None:
    """Goal: who knows the last name that it was given gets the ones that follow."""
    names = fill(machine, "", 10)
    listed = [entry.name for entry in machine.files.list_folder(place_of("/"), after=b"00006")]
    assert listed == names[7:]


def test_a_folder_that_is_renamed_while_it_is_listed(machine: Machine, other: Machine) -> None:
    """Goal: the listing goes on with the same folder, whatever has its name now, and nothing wrong is remembered."""
    other.make("/d")
    names = fill(other, "/d", LIST_PAGE_MAX + 5)
    listing = machine.files.list_folder(place_of("/d"))
    first = [entry.name for entry in itertools.islice(listing, 10)]
    other.files.rename(place_of("/d"), place_of("/e"))
    other.make("/d")
    other.make("/d/99999", stat.S_IFIFO | 0o600)
    assert first + [entry.name for entry in listing] == names
    assert machine.files.lookup((ROOT_INO, (b"e", names[-1]))).ino
    with pytest.raises(errors.NotFound):
        machine.files.lookup((ROOT_INO, (b"d", names[-1])))


def test_a_folder_that_is_removed_while_it_is_listed(machine: Machine, other: Machine) -> None:
    """Goal: the listing ends, as on a local disk; one that begins afterwards is refused."""
    machine.make("/d")
    names = fill(machine, "/d", LIST_PAGE_MAX + 5)
    listing = machine.files.list_folder(place_of("/d"))
    next(listing)
    for name in names:
        other.files.remove(place_of(f"/d/{name.decode()}"), folder=False)
    other.files.remove(place_of("/d"), folder=True)
    assert len(list(listing)) == LIST_PAGE_MAX - 1
    with pytest.raises(errors.NotFound):
        list(machine.files.list_folder(place_of("/d")))


# -- space


def test_space_follows_the_quota(machine: Machine, volume: Volume) -> None:
    """Goal: statfs tells what is left of the quota, of bytes and of inodes."""
    machine.write("/f", b"content")
    assert machine.files.space().inodes_free == INODES_FREE
    volume.core.quota(messages.Quota(bytes_max=50, inodes_max=10))
    machine.session.renew()
    space = machine.files.space()
    assert (space.total_bytes, space.free_bytes, space.inodes, space.inodes_free) == (50, 43, 2, 8)


def test_close_tells_that_the_quota_is_used_up(machine: Machine, other: Machine, volume: Volume) -> None:
    """Goal: EDQUOT from close() and fsync(); what was written is kept here, and sent when there is room."""
    volume.core.quota(messages.Quota(bytes_max=3, inodes_max=3))
    handle = machine.create("/f")
    machine.put(handle, b"content")
    for attempt in (lambda: machine.files.files.flush(handle, durable=True), lambda: machine.close(handle)):
        with pytest.raises(errors.QuotaExceeded) as refused:
            attempt()
        assert refused.value.errno == errno.EDQUOT
    assert (other.stat("/f").size, machine.unsent.count()) == (0, 1)
    machine.make("/d")
    with pytest.raises(errors.QuotaExceeded):
        machine.make("/e")
    with pytest.raises(errors.QuotaExceeded):
        machine.create("/g")
    volume.core.quota(messages.Quota(bytes_max=7))
    assert machine.unsent.retry() == 0
    assert other.read("/f") == b"content"


class AnnouncedLock:
    """`wanted` is set before the lock is waited for."""

    def __init__(self, lock: threading.RLock):
        self._lock, self.wanted = lock, threading.Event()

    def __enter__(self) -> None:
        self.wanted.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_close_that_waits_for_a_retry_shares_its_time_out(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S13. close() ends when the attempt fails that it has waited for, as the servers do not answer: one more
    would take the time-out once more. What was written is sent later all the same."""
    asked, silent, uploads = threading.Event(), threading.Event(), []

    def upload(data: bytes, confirmed: object, ask: bool, synced: bool) -> None:
        uploads.append(data)
        asked.set()
        assert silent.wait(10)
        raise errors.TimedOut("no answer")

    machine.write("/f", b"before")
    with monkeypatch.context() as patch:
        patch.setattr(machine.servers, "upload", upload)
        handle = machine.open("/f", os.O_RDWR)
        machine.put(handle, b"closed")
        handle.content.committing = announced = AnnouncedLock(handle.content.committing)
        refused: list[errors.DfsError] = []

        def close() -> None:
            try:
                machine.files.files.flush(handle)
            except errors.DfsError as error:
                refused.append(error)

        first, closing = threading.Thread(target=close), threading.Thread(target=close)
        first.start()
        assert asked.wait(10)
        announced.wanted.clear()
        machine.put(handle, b"CLOSED")
        closing.start()
        assert announced.wanted.wait(10)
        silent.set()
        for thread in (first, closing):
            thread.join(10)
        assert [type(error) for error in refused] == [errors.TimedOut, errors.TimedOut]
        assert uploads == [b"closed"]
        machine.files.files.release(handle)
    assert machine.unsent.retry() == 0
    assert machine.read("/f") == b"CLOSED"


def test_a_copy_that_the_quota_refuses_is_made_later(machine: Machine, other: Machine, volume: Volume) -> None:
    """Goal: what lost the race while no inode may be made is not lost: the copy beside the file comes when there is
    room."""
    machine.write("/f", b"one")
    handle = machine.open("/f", os.O_RDWR)
    machine.put(handle, b"mine")
    other.write("/f", b"theirs")
    volume.core.quota(messages.Quota(inodes_max=2))
    with pytest.raises(errors.DfsError):
        machine.close(handle)
    assert machine.unsent.retry() == 1
    assert other.names() == [b"f"]
    volume.core.quota(messages.Quota(inodes_max=0))
    assert machine.unsent.retry() == 0
    (copy,) = (name.decode() for name in other.names() if name != b"f")
    assert (other.read("/" + copy), other.read("/f")) == (b"mine", b"theirs")


def test_a_removed_file_frees_the_cache(machine: Machine) -> None:
    """Goal: what the cache has of a file goes with the last name, or stays while a program here has it open; other
    names keep it, and so does what was not sent."""
    for name in ("a", "b", "open"):
        machine.write(f"/{name}", name.encode() * 1000)
    machine.files.link(place_of("/b"), place_of("/b2"))
    held = machine.open("/open")

    def rows() -> int:
        machine.cache.maintain()
        return len(machine.cache.index.all_rows())

    assert rows() == 3
    for name, left in (("a", 2), ("b", 2), ("open", 2), ("b2", 1)):
        machine.files.remove(place_of(f"/{name}"), False)
        assert rows() == left, name
    assert machine.files.files.read(held, 8, 0) == b"openopen"
    machine.close(held)


def test_a_replaced_file_frees_the_cache(machine: Machine) -> None:
    """Goal: a save that renames over the file leaves nothing of the former one, which a client that is killed then
    would bring back as a conflict copy; another name keeps it, and so does exchanging."""
    machine.write("/f", b"first")

    def numbers() -> set[int]:
        machine.cache.maintain()
        return machine.cache.index.all_rows()

    for content in (b"second", b"third"):
        machine.write("/f.tmp", content)
        machine.files.rename(place_of("/f.tmp"), place_of("/f"))
        assert (len(numbers()), machine.read("/f")) == (1, content)
    machine.write("/g", b"other")
    machine.files.rename(place_of("/g"), place_of("/f"), RENAME_EXCHANGE)
    assert len(numbers()) == 2
    machine.files.link(place_of("/f"), place_of("/f2"))
    machine.files.rename(place_of("/g"), place_of("/f"))
    assert (len(numbers()), machine.read("/f2"), machine.read("/f")) == (2, b"other", b"third")


def test_what_was_removed_does_not_come_back_with_the_next_client(machine: Machine) -> None:
    """Goal: S15. A client that is killed a moment after leaves no copies of files that the servers had, and that were
    removed or replaced: the index knows at once."""
    machine.write("/f", b"first")
    machine.write("/g", b"removed")
    machine.write("/f.tmp", b"second")
    machine.files.rename(place_of("/f.tmp"), place_of("/f"))
    machine.files.remove(place_of("/g"), False)
    machine.kill()
    assert (machine.names(), machine.read("/f")) == ([b"f"], b"second")


def test_a_removed_file_that_was_not_used_lately_frees_the_cache(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: also of a file whose content is known to the index alone."""
    monkeypatch.setattr("dfsfuse.cache._IDLE_CONTENTS_MAX", 1)
    for number in range(5):
        machine.write(f"/{number}", b"x")
    for number in range(5):
        machine.files.remove(place_of(f"/{number}"), False)
    machine.cache.maintain()
    assert not machine.cache.index.all_rows()


def test_a_file_that_stays_open_and_is_removed_elsewhere(machine: Machine, other: Machine) -> None:
    """Goal: what was committed of it is known to be, once there was time to note it: when this client is killed it does
    not come back as a copy, of a conflict that there never was."""
    handle = machine.create("/f")
    machine.put(handle, b"content")
    machine.files.files.flush(handle)
    machine.cache.maintain()
    other.files.remove(place_of("/f"), folder=False)
    machine.kill()
    assert machine.names() == []


def test_what_is_written_after_that_is_kept(machine: Machine) -> None:
    """Goal: noting a commit does not hide what was written since: it comes back as a recovered copy."""
    handle = machine.create("/f.txt")
    machine.put(handle, b"content")
    machine.files.files.flush(handle)
    machine.cache.maintain()
    machine.put(handle, b"CON")
    machine.cache.maintain()
    machine.kill()
    copies = [name for name in machine.names() if name != b"f.txt"]
    assert len(copies) == 1
    assert copies[0].startswith(b"f (recovered ")
    assert machine.read("/" + os.fsdecode(copies[0])) == b"CONtent"
    assert machine.read("/f.txt") == b"content"


def test_allocated_bytes_of_a_file_that_is_written(machine: Machine, other: Machine) -> None:
    """Goal: du counts what is written, not the holes, before the close and after it."""
    handle = machine.create("/f")
    machine.files.files.resize(handle, 100 << 20)
    assert (machine.stat("/f").size, machine.stat("/f").allocated_bytes) == (100 << 20, 0)
    machine.put(handle, b"x" * 1000, 50 << 20)
    assert machine.stat("/f").allocated_bytes == 4096
    machine.files.files.flush(handle)
    assert machine.stat("/f").allocated_bytes == other.stat("/f").allocated_bytes == 4096
    machine.files.files.resize(handle, 10)
    assert machine.stat("/f").allocated_bytes <= 10
    machine.close(handle)
    assert other.stat("/f").allocated_bytes == 0


# -- what could not be sent of a file that is removed


def fail_to_close(machine: Machine, volume: Volume, path: str) -> None:
    """Content of `path` that is beyond the quota, so that close() fails and the cache keeps it."""
    volume.core.quota(messages.Quota(bytes_max=1))
    with pytest.raises(errors.QuotaExceeded):
        machine.write(path, b"beyond the quota")
    assert machine.unsent.count() == 1


def lift_the_quota(machine: Machine, volume: Volume) -> None:
    volume.core.quota(messages.Quota(bytes_max=0))
    assert machine.unsent.retry() == 0


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("by_rename", [False, True])
def test_removing_a_file_discards_what_close_could_not_send(
    machine: Machine, volume: Volume, by_rename: bool, known: bool
) -> None:
    """Goal: what was removed, or replaced by rename, does not come back as a copy when there is room again."""
    machine.write("/other", b"")
    fail_to_close(machine, volume, "/f")
    if not known:
        machine.files._attributes.forget_held()
    if by_rename:
        machine.files.rename(place_of("/other"), place_of("/f"))
    else:
        machine.files.remove(place_of("/f"), folder=False)
    assert (machine.unsent.count(), machine.cache.unsent()) == (0, [])
    lift_the_quota(machine, volume)
    assert machine.names() == ([b"f"] if by_rename else [b"other"])


def test_a_removed_file_that_has_another_name_keeps_what_is_not_sent(machine: Machine, volume: Volume) -> None:
    """Goal: the file is still there under its other name, and gets its content; exchanging names removes nothing."""
    machine.write("/other", b"")
    fail_to_close(machine, volume, "/f")
    machine.files.link(place_of("/f"), place_of("/g"))
    machine.files.rename(place_of("/other"), place_of("/f"), flags=2)
    machine.files.remove(place_of("/other"), folder=False)
    lift_the_quota(machine, volume)
    assert (machine.names(), machine.read("/g")) == ([b"f", b"g"], b"beyond the quota")


def test_what_another_client_removes_is_kept_as_a_copy(machine: Machine, other: Machine, volume: Volume) -> None:
    """Goal: who removed it there did not know of the content here, so it is not lost."""
    fail_to_close(machine, volume, "/f")
    machine.session.renew()
    other.files.remove(place_of("/f"), folder=False)
    lift_the_quota(machine, volume)
    (copy,) = machine.names()
    assert copy.startswith(b"f (conflict ")


def test_a_file_that_is_removed_while_it_is_open_leaves_nothing(machine: Machine, volume: Volume) -> None:
    """Goal: its descriptor reads on; when its close() fails, nothing of it is kept, by this client or the next."""
    handle = machine.create("/f")
    machine.put(handle, b"beyond the quota")
    machine.files.remove(place_of("/f"), folder=False)
    assert machine.files.files.read(handle, 100, 0) == b"beyond the quota"
    volume.core.quota(messages.Quota(bytes_max=1))
    with pytest.raises(errors.QuotaExceeded):
        machine.close(handle)
    lift_the_quota(machine, volume)
    assert (machine.names(), machine.cache.unsent()) == ([], [])


def test_a_client_that_is_killed_leaves_nothing_of_what_was_removed(machine: Machine, volume: Volume) -> None:
    """Goal: the next client of the cache knows that the file had lost its name."""
    handle = machine.create("/f")
    machine.put(handle, b"written")
    machine.files.remove(place_of("/f"), folder=False)
    machine.kill()
    assert (machine.names(), machine.cache.unsent()) == ([], [])
