"""The client's file system compared with the local disk: random calls on both end with the same errno, and leave trees
that stat, listxattr and read cannot tell apart.

What the kernel does before it asks a file system (following symlinks, checking permissions) is left out: paths go
through folders alone, and both are asked as root.
"""

import ctypes
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import Servers
from filesystems import Machine
from volumes import Volume

from dfsfuse import errors
from dfsfuse.messages import XATTR_CREATE, XATTR_REPLACE
from dfsfuse.places import place_of
from servers.store.memory import MemoryStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes and owners need root")

STAMP_NS = 10**18
XATTR_FLAGS = (XATTR_CREATE, XATTR_REPLACE)
_renameat2 = ctypes.CDLL(None, use_errno=True).renameat2


class OnDisk:
    """The calls on a local folder."""

    def __init__(self, top: Path):
        self.top = os.fspath(top)

    def _at(self, path: str) -> str:
        return self.top + path

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path))
        os.chmod(self._at(path), mode)

    def create(self, path: str, mode: int) -> None:
        os.close(os.open(self._at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.chmod(self._at(path), mode)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self._at(path))

    def mknod(self, path: str, mode: int, device: int) -> None:
        os.mknod(self._at(path), mode & ~0o7777 | 0o600, device)

    def link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def rename(self, old: str, new: str, flags: int) -> None:
        if _renameat2(-100, os.fsencode(self._at(old)), -100, os.fsencode(self._at(new)), flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._at(path), uid, gid)

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def write(self, path: str, data: bytes, offset: int, flags: int) -> None:
        fd = os.open(self._at(path), os.O_RDWR | flags)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(self._at(path), name, value, flags, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)

    # -- looking

    def kind(self, path: str) -> int:
        """The type of what is there; 0 for nothing."""
        try:
            return stat.S_IFMT(os.lstat(self._at(path)).st_mode)
        except OSError:
            return 0

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path) or "/"))

    def seen(self, path: str) -> dict[str, Any]:
        known = os.lstat(self._at(path))
        found = {
            "mode": known.st_mode, "nlink": known.st_nlink, "uid": known.st_uid, "gid": known.st_gid,
            "rdev": known.st_rdev, "times": _stamps(known.st_atime_ns, known.st_mtime_ns), "ino": known.st_ino,
            "xattrs": sorted(n for n in os.listxattr(self._at(path), follow_symlinks=False) if _ours(n)),
        }  # fmt: skip
        if not stat.S_ISDIR(known.st_mode):
            found["size"] = known.st_size
        if stat.S_ISLNK(known.st_mode):
            found["target"] = os.readlink(self._at(path))
        if stat.S_ISREG(known.st_mode):
            found["content"] = Path(self._at(path)).read_bytes()
        return found


class OnVolume:
    """The same calls on the client's file system."""

    def __init__(self, machine: Machine):
        self.machine, self.files = machine, machine.files

    def mkdir(self, path: str, mode: int) -> None:
        self.files.make(place_of(path), stat.S_IFDIR | 0o755, 0, 0)
        self.chmod(path, mode)

    def create(self, path: str, mode: int) -> None:
        self.machine.close(self.machine.create(path, privileged=True))
        self.chmod(path, mode)

    def symlink(self, path: str, target: str) -> None:
        self.files.make(place_of(path), stat.S_IFLNK | 0o777, 0, 0, target=os.fsencode(target))

    def mknod(self, path: str, mode: int, device: int) -> None:
        self.files.make(place_of(path), mode & ~0o7777 | 0o600, 0, 0, rdev=device)

    def link(self, old: str, new: str) -> None:
        self.files.link(place_of(old), place_of(new))

    def unlink(self, path: str) -> None:
        self.files.remove(place_of(path), folder=False)

    def rmdir(self, path: str) -> None:
        self.files.remove(place_of(path), folder=True)

    def rename(self, old: str, new: str, flags: int) -> None:
        self.files.rename(place_of(old), place_of(new), flags)

    def chmod(self, path: str, mode: int) -> None:
        self.files.set_attributes(place_of(path), mode=mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self.files.set_attributes(place_of(path), uid=uid, gid=gid)

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        self.files.set_attributes(place_of(path), atime_ns=atime_ns, mtime_ns=mtime_ns)

    def write(self, path: str, data: bytes, offset: int, flags: int) -> None:
        handle = self.machine.open(path, os.O_RDWR | flags, privileged=True)
        try:
            self.machine.put(handle, data, offset)
        finally:
            self.machine.close(handle)

    def truncate(self, path: str, size: int) -> None:
        self.files.truncate(place_of(path), size, os.getpid(), privileged=True)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self.files.setxattr(place_of(path), name.encode(), value, flags)

    def removexattr(self, path: str, name: str) -> None:
        self.files.removexattr(place_of(path), name.encode())

    def names(self, path: str) -> list[str]:
        return [name.decode() for name in self.machine.names(path)]

    def seen(self, path: str) -> dict[str, Any]:
        known = self.machine.stat(path)
        found = {
            "mode": known.mode, "nlink": known.nlink, "uid": known.uid, "gid": known.gid, "rdev": known.rdev,
            "times": _stamps(known.atime_ns, known.mtime_ns), "ino": known.ino,
            "xattrs": sorted(name.decode() for name in self.files.listxattr(place_of(path))),
        }  # fmt: skip
        if not stat.S_ISDIR(known.mode):
            found["size"] = known.size
        if stat.S_ISLNK(known.mode):
            found["target"] = os.fsdecode(known.target)
        if stat.S_ISREG(known.mode):
            found["content"] = self.machine.read(path)
        return found


def _stamps(atime_ns: int, mtime_ns: int) -> list[int]:
    """Times that were set; those of a clock are other ones on each side."""
    return [time_ns if STAMP_NS <= time_ns < STAMP_NS + 1000 else 0 for time_ns in (0, mtime_ns)]


def _ours(name: str) -> bool:
    return name.startswith(("user.", "trusted."))


# -- the steps


def random_call(choose: random.Random, disk: OnDisk) -> tuple:
    """A method and its arguments; of what is there most of the time."""
    folders, there = [""], []
    for folder in folders:
        for name in disk.names(folder):
            there.append(f"{folder}/{name}")
            if disk.kind(there[-1]) == stat.S_IFDIR and folder.count("/") < 3:
                folders.append(there[-1])
    plain = [path for path in there if disk.kind(path) != stat.S_IFLNK]
    files = [path for path in there if disk.kind(path) == stat.S_IFREG]

    def old(of: list[str] = there) -> str:
        """Sometimes what is not there."""
        return choose.choice(of) if of and choose.random() < 0.9 else "/none"

    def new() -> str:
        parents = folders if choose.random() < 0.9 or not plain else plain
        return f"{choose.choice(parents)}/{choose.choice('abcdef')}"

    def mode() -> int:
        return choose.choice((0o644, 0o755, 0o6755, 0o4711, 0o2745, 0o1777, 0o2775))

    kind = choose.choice((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFREG))
    xattr = choose.choice(("user.a", "user.b", "trusted.c", "foreign.d", "user."))
    calls: list[tuple[float, Callable[[], tuple]]] = [
        (6, lambda: ("mkdir", new(), mode())),
        (6, lambda: ("create", new(), mode())),
        (2, lambda: ("symlink", new(), "nowhere" * choose.randrange(1, 4))),
        (2, lambda: ("mknod", new(), kind, choose.choice((0x103, 0x12345)))),
        (5, lambda: ("link", old(), new())),
        (4, lambda: ("unlink", old())),
        (3, lambda: ("rmdir", old())),
        (6, lambda: ("rename", old(), new(), choose.choice((0, 0, 1, 2)))),
        (4, lambda: ("rename", old(), choose.choice(there or ["/a"]), choose.choice((0, 0, 1, 2)))),
        (3, lambda: ("chmod", old(plain), mode())),
        (3, lambda: ("chown", old(), choose.randrange(3), choose.randrange(3))),
        (2, lambda: ("utime", old(), STAMP_NS + choose.randrange(1000), STAMP_NS + choose.randrange(1000))),
        (4, lambda: ("write", old(files), b"x" * choose.randrange(1, 99), choose.randrange(200), 0)),
        (1, lambda: ("write", old(files), b"y" * choose.randrange(1, 99), 0, os.O_TRUNC)),
        (3, lambda: ("truncate", old(plain), choose.randrange(300))),
        (4, lambda: ("setxattr", old(), xattr, b"v" * choose.randrange(9), choose.choice((0, *XATTR_FLAGS)))),
        (2, lambda: ("removexattr", old(), xattr)),
    ]  # fmt: skip
    call = choose.choices([call for _, call in calls], [weight for weight, _ in calls])[0]()
    return call if _reaches_the_file_system(call) else random_call(choose, disk)


def _reaches_the_file_system(call: tuple) -> bool:
    """Not refused by the kernel for a reason of its own: a file that would replace a folder above it, and attributes
    of unknown namespaces where there is nothing."""
    if call[0] == "rename":
        return not call[1].startswith(f"{call[2]}/")
    return call[1:3] != ("/none", "foreign.d")


def _errno(side: OnDisk | OnVolume, what: str, arguments: tuple) -> int:
    try:
        getattr(side, what)(*arguments)
        return 0
    except (OSError, errors.DfsError) as error:
        return error.errno


def compare(disk: OnDisk, volume: OnVolume) -> None:
    """Everything that a program can see; inode numbers differ, but not which names share one."""
    folders, inos = [""], {}
    links_of_folders = os.lstat(disk.top).st_nlink > 1
    for folder in folders:
        assert volume.names(folder or "/") == disk.names(folder)
        for name in disk.names(folder):
            path = f"{folder}/{name}"
            ours, theirs = volume.seen(path), disk.seen(path)
            assert inos.setdefault(ours.pop("ino"), theirs["ino"]) == theirs.pop("ino"), path
            if stat.S_ISDIR(theirs["mode"]):
                folders.append(path)
                if not links_of_folders:
                    ours["nlink"] = theirs["nlink"]
            assert ours == theirs, path
    assert len(set(inos.values())) == len(inos)


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_local_disk_does_the_same(tmp_path: Path, seed: int) -> None:
    """Goal: 1,500 calls end alike, and the trees stay alike."""
    choose, directory = random.Random(seed), Volume(MemoryStore())
    (tmp_path / "disk").mkdir()
    disk = OnDisk(tmp_path / "disk")
    volume = OnVolume(Machine(directory, Servers(), tmp_path / "cache", 1e9))
    for step in range(1500):
        what, *arguments = random_call(choose, disk)
        outcome = _errno(volume, what, tuple(arguments)), _errno(disk, what, tuple(arguments))
        assert outcome[0] == outcome[1], (step, what, arguments, outcome)
        if step % 25 == 0:
            compare(disk, volume)
            directory.check()
    compare(disk, volume)
