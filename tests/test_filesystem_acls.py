"""Access control lists through the client's file system, without a mount."""

import os
import stat
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from test_acl import LONGER, MINIMAL
from volumes import Volume

from dfsfuse import errors
from dfsfuse.messages import XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT
from dfsfuse.places import place_of
from servers import acl
from servers.store.memory import MemoryStore

FOR_EVER_S = 1e9


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """It uses what it knows for ever."""
    return Machine(Volume(MemoryStore()), Servers(), tmp_path / "one", FOR_EVER_S)


@pytest.fixture
def other(machine: Machine, tmp_path: Path) -> Machine:
    """Another client, which always asks."""
    return Machine(machine.volume, machine.servers, tmp_path / "two", 0.0)


@pytest.fixture
def third(machine: Machine, tmp_path: Path) -> Machine:
    return Machine(machine.volume, machine.servers, tmp_path / "three", 0.0)


def test_access_control_lists_of_two_machines(other: Machine, third: Machine) -> None:
    """Goal: a list that one sets, and what chmod makes of it, is what the other gets; mode and list are of one piece on
    the machine that changes them, at once."""
    other.write("/f", b"")
    place = place_of("/f")
    for one, two in ((other, third), (third, other)):
        one.files.setxattr(place, XATTR_ACL_ACCESS, LONGER)
        assert stat.S_IMODE(one.stat("/f").mode) == 0o770
        assert one.files.getxattr(place, XATTR_ACL_ACCESS) == LONGER
        assert (two.stat("/f").mode, two.files.getxattr(place, XATTR_ACL_ACCESS)) == (one.stat("/f").mode, LONGER)
        one.files.set_attributes(place, mode=0o700)
        for each in (one, two):
            entries = acl.parse(each.files.getxattr(place, XATTR_ACL_ACCESS))
            assert acl.mode_of(entries, 0) == stat.S_IMODE(each.stat("/f").mode) == 0o700
        one.files.setxattr(place, XATTR_ACL_ACCESS, MINIMAL)
        assert stat.S_IMODE(two.stat("/f").mode) == 0o640
        assert two.files.listxattr(place) == []


def test_what_is_made_below_a_default_list(machine: Machine) -> None:
    """Goal: one request makes it, with mode and list, which are known at once; the umask counts elsewhere."""
    for path in ("/d", "/e"):
        machine.make(path, stat.S_IFDIR | 0o755)
    machine.files.setxattr(place_of("/d"), XATTR_ACL_DEFAULT, LONGER)
    for path, mode in (("/d/f", 0o660), ("/e/f", 0o600)):
        before = machine.session.asked.copy()
        handle = machine.create(path, 0o666, umask=0o077)
        place = handle.content.ino, ()
        assert stat.S_IMODE(machine.files.attributes_of(handle).mode) == mode
        assert machine.files.lacks_xattr(place, XATTR_ACL_ACCESS) == (path == "/e/f")
        assert machine.session.asked - before == {"Create": 1}
        machine.close(handle)
    handle = machine.create_unnamed("/d", umask=0o777)
    assert stat.S_IMODE(machine.files.attributes_of(handle).mode) == 0o600
    machine.close(handle)
    assert machine.make("/d/sub", stat.S_IFDIR | 0o755, umask=0o777).mode == stat.S_IFDIR | 0o750
    assert machine.files.getxattr(place_of("/d/sub"), XATTR_ACL_DEFAULT) == LONGER


def test_a_copy_lets_in_nobody_whom_the_list_keeps_out(machine: Machine, other: Machine) -> None:
    """Goal: what becomes a copy beside a file has the file's list, not its group bits alone."""
    machine.write("/f", b"before")
    machine.files.setxattr(place_of("/f"), XATTR_ACL_ACCESS, LONGER)
    handle = machine.open("/f", os.O_RDWR)
    machine.put(handle, b"here")
    other.write("/f", b"there")
    with pytest.raises(errors.DfsError):
        machine.close(handle)
    (copy,) = [f"/{name.decode()}" for name in machine.names() if b"conflict" in name]
    assert machine.read(copy) == b"herere"
    assert machine.files.getxattr(place_of(copy), XATTR_ACL_ACCESS) == LONGER
    assert machine.stat(copy).mode == machine.stat("/f").mode
