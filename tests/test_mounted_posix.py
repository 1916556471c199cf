"""Links, special files, extended attributes, ownership and space, on one real mount and on two."""

import errno
import json
import mmap
import os
import socket
import stat
import struct
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from dfs_command import Dfs
from support import Mount, error, wait_until
from test_mounted_basics import NOBODY

pytestmark = pytest.mark.mounted

_ACL_ENTRIES = ((1, 6, -1), (2, 6, 65534), (4, 4, -1), (16, 6, -1), (32, 4, -1))
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in _ACL_ENTRIES)
"""An access control list as setfacl -m u:65534:rw makes it."""


def as_nobody(script: str, folder: Path) -> int:
    command = [*NOBODY, "sh", "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


def by_nobody(act: Callable[[], None]) -> None:
    """In a process of its own, as nobody."""
    pid = os.fork()
    if pid == 0:
        failed = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            act()
            failed = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


# -- hard links


def test_hard_links(two_mounts: tuple[Path, Path]):
    """Goal: names of one inode, on both mounts; what is written through one is read through the other; each goes on
    its own, and the content with the last."""
    here, there = two_mounts
    (here / "d").mkdir()
    (here / "f").write_bytes(b"one")
    os.link(here / "f", here / "d" / "g")
    for mount in two_mounts:
        f, g = os.stat(mount / "f"), os.stat(mount / "d" / "g")
        assert (f.st_ino, f.st_nlink) == (g.st_ino, g.st_nlink) == (f.st_ino, 2)
    (there / "d" / "g").write_bytes(b"second")
    assert (here / "f").read_bytes() == b"second"
    (here / "f").unlink()
    assert (there / "d" / "g").read_bytes() == (here / "d" / "g").read_bytes() == b"second"
    wait_until(lambda: os.stat(here / "d" / "g").st_nlink == 1, "one name is left", 2)


def test_pages_of_a_file_with_several_names(mount: Path):
    """Goal: the kernel keeps pages for each name; what was read through one is right after a change through the other,
    of the same size too: at once, after the kernel has forgotten the attributes, and when one of the names has gone
    meanwhile."""
    one, two = mount / "one", mount / "two"

    def overwrite(path: Path, content: bytes) -> None:
        with path.open("r+b") as file:
            file.write(content * 5000)

    one.write_bytes(b"a" * 5000)
    assert one.read_bytes() == b"a" * 5000
    os.link(one, two)
    for content, forgotten in ((b"b", False), (b"c", True), (b"d", False), (b"e", True)):
        for old, new in ((one, two), (two, one)):
            overwrite(new, content)
            if forgotten:
                let_attributes_go(mount)
            assert old.read_bytes() == content * 5000
            content = content.upper()
    with two.open("r+b") as file:
        file.write(b"f" * 5000)
        two.unlink()
        file.seek(0)
        file.write(b"g" * 5000)
    let_attributes_go(mount)
    assert one.read_bytes() == b"g" * 5000


def let_attributes_go(mount: Path) -> None:
    """The kernel and the driver forget what was told of other files than the folder."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        os.stat(mount)
        time.sleep(0.05)


def test_hard_links_that_are_refused(mount: Path):
    """Goal: the errno of each refusal of link(2)."""
    (mount / "d").mkdir()
    (mount / "f").touch()
    os.symlink("f", mount / "l")
    for number, old, new in (
        (errno.EPERM, "d", "new"),
        (errno.EEXIST, "f", "f"),
        (errno.EEXIST, "f", "d"),
        (errno.ENOENT, "none", "new"),
        (errno.ENOENT, "f", "none/new"),
        (errno.ENOTDIR, "f", "f/new"),
    ):
        with error(number):
            os.link(mount / old, mount / new)
    os.link(mount / "l", mount / "l2", follow_symlinks=False)
    assert os.readlink(mount / "l2") == "f"
    assert os.lstat(mount / "l2").st_nlink == 2


def test_archives_keep_hard_links(mount: Path, tmp_path: Path):
    """Goal: tar and cp -a find out that names belong together, and make them so again."""
    source = mount / "source"
    source.mkdir()
    (source / "a").write_bytes(b"content" * 1000)
    os.link(source / "a", source / "b")
    subprocess.run(["cp", "-a", source, mount / "copy"], check=True)
    subprocess.run(["tar", "-C", mount, "-cf", tmp_path / "t.tar", "source"], check=True)
    (mount / "out").mkdir()
    subprocess.run(["tar", "-C", mount / "out", "-xf", tmp_path / "t.tar"], check=True)
    for folder in (mount / "copy", mount / "out" / "source"):
        assert os.stat(folder / "a").st_ino == os.stat(folder / "b").st_ino
        assert (folder / "b").read_bytes() == b"content" * 1000


# -- files without a name


def give_name(fd: int, path: Path) -> None:
    """linkat with AT_SYMLINK_FOLLOW, which Python passes only where it has a descriptor of a folder."""
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


@pytest.mark.drivers("linux")
def test_o_tmpfile(two_mounts: tuple[Path, Path]):
    """Goal: written, cut and given attributes like any file and in no folder; linkat names it for everybody; without a
    name it is gone with its descriptor, and under O_EXCL it never gets one."""
    here, there = two_mounts
    fd = os.open(here, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"some content")
    os.ftruncate(fd, 4)
    os.setxattr(fd, "user.a", b"1")
    os.fchmod(fd, 0o604)
    os.fsync(fd)
    known = os.fstat(fd)
    assert (known.st_nlink, known.st_size, stat.S_IMODE(known.st_mode)) == (0, 4, 0o604)
    assert os.listdir(here) == os.listdir(there) == []
    give_name(fd, here / "named")
    assert (os.fstat(fd).st_nlink, (there / "named").read_bytes()) == (1, b"some")
    assert os.getxattr(there / "named", "user.a") == b"1"
    os.pwrite(fd, b"more", 4)
    os.close(fd)
    assert (here / "named").read_bytes() == (there / "named").read_bytes() == b"somemore"
    for flags in (0, os.O_EXCL):
        fd = os.open(here, os.O_TMPFILE | os.O_RDWR | flags, 0o600)
        if flags:
            with error(errno.ENOENT):
                give_name(fd, here / "other")
        os.close(fd)
    assert os.listdir(there) == ["named"]


# -- special files


def test_fifo(mount: Path):
    """Goal: what one process writes to it another reads, as the kernel does it; nothing of it is a file's content."""
    os.mkfifo(mount / "fifo", 0o600)
    assert stat.S_ISFIFO(os.lstat(mount / "fifo").st_mode)
    writer = threading.Thread(target=lambda: (mount / "fifo").write_bytes(b"through the fifo"))
    writer.start()
    assert (mount / "fifo").read_bytes() == b"through the fifo"
    writer.join()
    assert os.lstat(mount / "fifo").st_size == 0
    with error(errno.EINVAL):
        os.truncate(mount / "fifo", 5)
    with error(errno.ENXIO):
        os.open(mount / "fifo", os.O_WRONLY | os.O_NONBLOCK)


def test_unix_socket(mount: Path):
    """Goal: programs find each other by the name of a socket; opening it is ENXIO."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(mount / "socket"))
        server.listen()
        assert stat.S_ISSOCK(os.lstat(mount / "socket").st_mode)
        client.connect(str(mount / "socket"))
        connection, _ = server.accept()
        with connection:
            client.sendall(b"hello")
            assert connection.recv(10) == b"hello"
        with error(errno.ENXIO):
            os.open(mount / "socket", os.O_RDWR)
        with error(errno.EADDRINUSE), socket.socket(socket.AF_UNIX) as second:
            second.bind(str(mount / "socket"))


def test_device_nodes(first: Mount, two_mounts: tuple[Path, Path]):
    """Goal: kept with their numbers, which `dfs ls` shows; the mount does not let them be opened, as it is nodev."""
    here, there = two_mounts
    for name, kind, device in (
        ("null", stat.S_IFCHR, os.makedev(1, 3)),
        ("big", stat.S_IFBLK, os.makedev(259, 70_000)),
    ):
        os.mknod(here / name, kind | 0o640, device)
        for mount in two_mounts:
            known = os.lstat(mount / name)
            assert (stat.S_IFMT(known.st_mode), known.st_rdev, known.st_size) == (kind, device, 0)
    with error(errno.EACCES):
        os.open(there / "null", os.O_RDONLY)
    shown = Dfs(first.cluster)("ls", "-l", f"/{here.name}").decode().splitlines()
    assert [line.split()[4:6] for line in shown] == [["259,", "70000"], ["1,", "3"]]
    os.mknod(here / "plain", stat.S_IFREG | 0o600)
    (there / "plain").write_bytes(b"a file like any other")


def test_symlinks_that_lead_nowhere(mount: Path):
    """Goal: loops are ELOOP, dangling ones ENOENT, O_NOFOLLOW refuses each."""
    os.symlink("a", mount / "b")
    os.symlink("b", mount / "a")
    os.symlink("none", mount / "dangling")
    for number, path, flags in (
        (errno.ELOOP, "a", os.O_RDONLY),
        (errno.ENOENT, "dangling", os.O_RDONLY),
        (errno.ELOOP, "dangling", os.O_RDONLY | os.O_NOFOLLOW),
    ):
        with error(number):
            os.open(mount / path, flags)
    with (mount / "dangling").open("w") as file:
        file.write("made through it")
    assert (mount / "none").read_text() == "made through it"


def test_folders_list_themselves(mount: Path):
    """Goal: `.` and `..` are in every listing, as folders with inode numbers: programs that read the entries skip those
    without."""
    (mount / "d" / "sub").mkdir(parents=True)
    listed = subprocess.run(["ls", "-fi", "d"], cwd=mount, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(number) for number, name in (line.split() for line in listed.splitlines())}
    assert sorted(numbers) == [".", "..", "sub"]
    assert (numbers["."], numbers["sub"]) == (os.stat(mount / "d").st_ino, os.stat(mount / "d" / "sub").st_ino)
    assert numbers[".."] == os.stat(mount).st_ino


# -- extended attributes


def test_extended_attributes(two_mounts: tuple[Path, Path]):
    """Goal: set, got, listed and removed on files, folders and symlinks, of any bytes, on both mounts."""
    here, there = two_mounts
    (here / "f").touch()
    (here / "d").mkdir()
    os.symlink("f", here / "l")
    for name in ("f", "d"):
        os.setxattr(here / name, "user.any", bytes(range(256)))
        os.setxattr(here / name, "user.empty", b"")
        os.setxattr(here / name, "trusted.root", b"1")
    os.setxattr(here / "l", "trusted.link", b"2", follow_symlinks=False)
    for mount in two_mounts:
        for name in ("f", "d"):
            assert os.getxattr(mount / name, "user.any") == bytes(range(256))
            assert sorted(os.listxattr(mount / name)) == ["trusted.root", "user.any", "user.empty"]
        assert os.listxattr(mount / "l", follow_symlinks=False) == ["trusted.link"]
    os.removexattr(here / "f", "user.any")
    with error(errno.ENODATA):
        os.getxattr(here / "f", "user.any")


def test_extended_attributes_that_are_refused(mount: Path):
    """Goal: the errno of each refusal, from the kernel or from here."""
    (mount / "f").touch()
    os.symlink("f", mount / "l")
    os.mkfifo(mount / "p")
    os.setxattr(mount / "f", "user.a", b"1" * 100)
    attempts = [
        (errno.ENODATA, lambda: os.getxattr(mount / "f", "user.none")),
        (errno.ENODATA, lambda: os.removexattr(mount / "f", "user.none")),
        (errno.ENODATA, lambda: os.setxattr(mount / "f", "user.none", b"", os.XATTR_REPLACE)),
        (errno.EEXIST, lambda: os.setxattr(mount / "f", "user.a", b"", os.XATTR_CREATE)),
        (errno.EOPNOTSUPP, lambda: os.setxattr(mount / "f", "system.other", b"")),
        (errno.EOPNOTSUPP, lambda: os.getxattr(mount / "f", "system.other")),
        (errno.EOPNOTSUPP, lambda: os.setxattr(mount / "f", "foreign.a", b"")),
        (errno.EINVAL, lambda: os.setxattr(mount / "f", "user.", b"")),
        (errno.ERANGE, lambda: os.setxattr(mount / "f", "user." + "n" * 251, b"")),
        (errno.E2BIG, lambda: os.setxattr(mount / "f", "user.b", bytes(65_537))),
        (errno.EPERM, lambda: os.setxattr(mount / "l", "user.a", b"", follow_symlinks=False)),
        (errno.EPERM, lambda: os.setxattr(mount / "p", "user.a", b"")),
        (errno.ENOENT, lambda: os.getxattr(mount / "none", "user.a")),
    ]
    for number, attempt in attempts:
        with error(number):
            attempt()
    assert os.getxattr(mount / "f", "user.a") == b"1" * 100
    os.setxattr(mount / "f", "user.most", bytes(64 << 10))
    assert os.getxattr(mount / "f", "user.most") == bytes(64 << 10)


def test_who_may_see_and_set_extended_attributes(mount: Path):
    """Goal: the kernel checks: user attributes follow the mode, trusted ones are root's, and not even listed to
    others."""
    (mount / "f").touch()
    (mount / "f").chmod(0o644)
    os.setxattr(mount / "f", "user.a", b"1")
    os.setxattr(mount / "f", "trusted.t", b"1")
    file = mount / "f"

    def look() -> None:
        assert os.listxattr(file) == ["user.a"]
        assert os.getxattr(file, "user.a") == b"1"
        for number, attempt in (
            (errno.EACCES, lambda: os.setxattr(file, "user.a", b"2")),
            (errno.EPERM, lambda: os.setxattr(file, "trusted.t", b"2")),
            (errno.ENODATA, lambda: os.getxattr(file, "trusted.t")),
        ):
            with error(number):
                attempt()

    by_nobody(look)


def test_cp_keeps_extended_attributes(mount: Path, tmp_path: Path):
    """Goal: cp -a brings them along, onto the mount, on it, and off it again."""
    source = tmp_path / "source"
    source.write_bytes(b"content")
    os.setxattr(source, "user.a", b"value")
    for old, new in ((source, mount / "one"), (mount / "one", mount / "two"), (mount / "two", tmp_path / "back")):
        subprocess.run(["cp", "-a", old, new], check=True)
        assert os.getxattr(new, "user.a") == b"value"


# -- owners and modes


def test_setgid_folders(mount: Path):
    """Goal: what anybody makes in one has its group, and folders hand the bit on."""
    folder = mount / "d"
    folder.mkdir()
    os.chown(folder, 0, 42)
    folder.chmod(0o2777)
    script = "echo x > f && mkdir sub && mkfifo p && ln -s x l && mkdir sub/deep && echo y > sub/deep/g"
    assert as_nobody(script, folder) == 0
    for name in ("f", "sub", "p", "l", "sub/deep", "sub/deep/g"):
        assert os.lstat(folder / name).st_gid == 42
    assert mode_of(folder / "sub/deep") & stat.S_ISGID
    assert not mode_of(folder / "f") & stat.S_ISGID


def test_sticky_folders(mount: Path):
    """Goal: the kernel lets nobody remove, rename or replace what belongs to others there."""
    folder = mount / "d"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / "roots").touch()
    for script in ("rm -f roots", "mv roots moved", "echo x > own && mv -f own roots", "ln own own2 && mv own roots"):
        assert as_nobody(script, folder) != 0
    assert as_nobody("rm own && touch own && mv own moved && rm moved", folder) == 0


@pytest.mark.parametrize(("mode", "left"), [(0o6777, 0o777), (0o4777, 0o777), (0o2767, 0o2767), (0o2777, 0o777)])
@pytest.mark.parametrize("how", ["echo x >> f", ": > f", "truncate -s 1 f", "echo x 1<> f"])
def test_writing_takes_set_id_bits(two_mounts: tuple[Path, Path], mode: int, left: int, how: str):
    """Goal: whoever is not root loses them by each way of changing the content; on the other mount too."""
    here, there = two_mounts
    (here / "f").write_bytes(b"program")
    (here / "f").chmod(mode)
    assert as_nobody(how, here) == 0
    wait_until(lambda: mode_of(here / "f") == mode_of(there / "f") == left, "the bits are gone", 3)


def test_root_keeps_set_id_bits_when_writing(two_mounts: tuple[Path, Path]):
    """Goal: as on a local disk; and chmod after the write, before the close, holds for anybody."""
    here, there = two_mounts
    (here / "f").write_bytes(b"program")
    (here / "f").chmod(0o6755)
    with (here / "f").open("ab") as file:
        file.write(b" and more")
    assert mode_of(here / "f") == 0o6755
    here.chmod(0o777)

    def write_and_chmod() -> None:
        with (here / "own").open("w") as file:
            file.write("x")
            file.flush()
            os.fchmod(file.fileno(), 0o4755)

    by_nobody(write_and_chmod)
    assert mode_of(there / "own") == 0o4755


@pytest.mark.parametrize("mapped", [False, True])
def test_rights_that_another_mount_gives_meanwhile(two_mounts: tuple[Path, Path], mapped: bool):
    """Goal: root makes a program of what it sees there, while nobody has written something else here and not closed it
    yet: what then appears does not run with root's rights."""
    here, there = two_mounts
    (here / "f").write_bytes(b"seen by root")
    (here / "f").chmod(0o777)

    def write_while_root_gives_rights() -> None:
        with (here / "f").open("r+b") as file, mmap.mmap(file.fileno(), 12) as memory:
            if mapped:
                memory[:8] = b"not seen"
            else:
                os.write(file.fileno(), b"not seen")
            (here / "written").touch()
            wait_until((there / "given").exists, "root has given rights", 20)

    here.chmod(0o777)
    root = threading.Thread(target=lambda: _give_rights(there))
    root.start()
    by_nobody(write_while_root_gives_rights)
    root.join()
    wait_until(lambda: (there / "f").read_bytes() == b"not seenroot", "it is committed", 5)
    assert mode_of(there / "f") == 0o777


def _give_rights(there: Path) -> None:
    wait_until((there / "written").exists, "nobody has written", 20)
    (there / "f").chmod(0o6777)
    (there / "given").touch()


def test_chown_takes_set_id_bits_and_capabilities(mount: Path):
    """Goal: as on a local disk, root's chown too; folders keep theirs."""
    (mount / "f").touch()
    (mount / "f").chmod(0o6755)
    os.setxattr(mount / "f", "security.capability", b"\1\0\0\2" + bytes(16))
    os.chown(mount / "f", 5, -1)
    assert mode_of(mount / "f") == 0o755
    with error(errno.ENODATA):
        os.getxattr(mount / "f", "security.capability")
    (mount / "d").mkdir()
    (mount / "d").chmod(0o2755)
    os.chown(mount / "d", 5, 6)
    assert mode_of(mount / "d") == 0o2755


@pytest.mark.drivers("linux")
def test_a_change_does_not_bring_an_older_mode_back(two_mounts: tuple[Path, Path]):
    """Goal: the mode that this mount was last told, with set-id bits, is not what chown and truncate make of it when
    another mount has closed the file to everybody meanwhile."""
    here, there = two_mounts
    with (here / "f").open("wb") as file:

        def cut() -> None:
            os.ftruncate(file.fileno(), 1)

        for change in (lambda: os.chown(here / "f", 5, -1), lambda: by_nobody(cut)):
            (here / "f").chmod(0o6777)
            assert mode_of(here / "f") == 0o6777
            (there / "f").chmod(0o700)
            change()
            wait_until(lambda: mode_of(here / "f") == 0o700, "what another mount has set is seen", 2)


def test_writing_takes_capabilities(mount: Path):
    """Goal: a program whose content has changed has no capability any more, whoever wrote."""
    (mount / "f").write_bytes(b"program")
    os.setxattr(mount / "f", "security.capability", b"\1\0\0\2" + bytes(16))
    with (mount / "f").open("ab") as file:
        file.write(b"x")
    with error(errno.ENODATA):
        os.getxattr(mount / "f", "security.capability")


def test_supplementary_groups_count(mount: Path):
    """Goal: who is in a file's group by a supplementary group may do what the group may."""
    (mount / "f").write_text("content")
    os.chown(mount / "f", 0, 4242)
    (mount / "f").chmod(0o640)
    alone = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", "f"]
    member = ["setpriv", "--reuid=65534", "--regid=65534", "--groups=4242", "cat", "f"]
    assert subprocess.run(alone, cwd=mount, capture_output=True, check=False).returncode != 0
    assert subprocess.run(member, cwd=mount, capture_output=True, check=False).stdout == b"content"


# -- times


@pytest.mark.parametrize(
    ("seconds", "kept"), [(2**40, 15_032_385_535), (-(2**40), -(2**31)), (2**33, 2**33), (-(10**9), -(10**9))]
)
def test_times_far_away(mount: Path, seconds: int, kept: int):
    """Goal: as ext4 keeps them; what is beyond becomes the last possible one, and nothing fails."""
    (mount / "f").touch()
    os.utime(mount / "f", (seconds, seconds))
    assert (os.stat(mount / "f").st_mtime, os.stat(mount / "f").st_atime) == (kept, kept)


def test_ctime_moves_with_each_change(mount: Path):
    """Goal: chmod, chown, utimens, link, rename, setxattr and a write move it, at once where it is done under the same
    name; reading and looking do not."""
    file, second = mount / "f", mount / "g"
    file.write_bytes(b"x")

    def moved(act) -> bool:
        before = os.stat(file).st_ctime_ns
        act()
        return os.stat(file).st_ctime_ns > before

    assert moved(lambda: os.chmod(file, 0o600))
    assert moved(lambda: os.chown(file, 1, 1))
    assert moved(lambda: os.utime(file, (1, 1)))
    assert moved(lambda: os.link(file, second))
    assert moved(lambda: (os.rename(file, mount / "h"), os.rename(mount / "h", file)))
    assert moved(lambda: os.setxattr(file, "user.a", b"1"))
    assert moved(lambda: os.removexattr(file, "user.a"))
    assert moved(lambda: file.write_bytes(b"y"))
    assert not moved(file.read_bytes)
    before = os.stat(file).st_ctime_ns
    os.unlink(second)
    wait_until(lambda: os.stat(file).st_ctime_ns > before, "what was done to another name is seen", 1)


def test_attributes_of_a_new_file_before_its_close(two_mounts: tuple[Path, Path]):
    """Goal: what tar does: write, utimens, chown, chmod, close. Each is seen here at once, by whatever call, and all on
    the other mount when close() has returned."""
    here, there = two_mounts

    def seen(known: os.stat_result) -> tuple[int, ...]:
        return (
            stat.S_IMODE(known.st_mode),
            known.st_uid,
            known.st_gid,
            known.st_mtime_ns,
            known.st_atime_ns,
            known.st_size,
        )

    fd = os.open(here / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    made = seen(os.stat(there / "f"))
    os.write(fd, b"content")
    os.utime(fd, ns=(5, 7))
    os.fchown(fd, 65534, 65533)
    os.fchmod(fd, 0o644)
    wanted = 0o644, 65534, 65533, 7, 5, 7
    assert seen(os.fstat(fd)) == seen(os.stat(here / "f")) == wanted
    with os.scandir(here) as entries:
        assert [seen(entry.stat()) for entry in entries] == [wanted]
    assert seen(os.stat(there / "f")) == made
    os.close(fd)
    assert seen(os.stat(here / "f")) == wanted
    wait_until(lambda: seen(os.stat(there / "f")) == wanted, "the other mount sees it", 1)
    by_nobody(lambda: (there / "f").write_bytes(b"its owner's"))
    assert (here / "f").read_bytes() == b"its owner's"


def test_atime_moves_as_with_relatime(first: Mount, two_mounts: tuple[Path, Path]):
    """Goal: reading after a change moves it, which this mount sees at once and others within a second; reading again
    does not, nor does O_NOATIME."""
    here, there = two_mounts
    (here / "f").write_bytes(b"content")
    os.utime(here / "f", ns=(5, 10))
    fd = os.open(here / "f", os.O_RDONLY | os.O_NOATIME)
    os.read(fd, 10)
    os.close(fd)
    assert os.stat(here / "f").st_atime_ns == 5
    assert (here / "f").read_bytes() == b"content"
    read = os.stat(here / "f").st_atime_ns
    assert abs(read - time.time_ns()) < 10 * 10**9
    dfs = Dfs(first.cluster)
    wait_until(lambda: json.loads(dfs("stat", "--json", here / "f"))["atime_ns"] == read, "the directory knows it", 5)
    assert (os.stat(here / "f").st_mtime_ns, os.stat(there / "f").st_atime_ns) == (10, read)
    (there / "f").read_bytes()
    assert os.stat(there / "f").st_atime_ns == read


# -- space


def test_blocks_are_those_that_are_stored(two_mounts: tuple[Path, Path]):
    """Goal: du tells what a file takes, not its holes, while it is written and afterwards, on both mounts."""
    here, there = two_mounts
    with (here / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        assert os.fstat(file.fileno()).st_blocks == 0
        file.seek(1 << 30)
        file.write(b"x" * 100_000)
    for mount in two_mounts:
        known = os.stat(mount / "sparse")
        assert (known.st_size, 190 < known.st_blocks < 20_000) == (1 << 40, True)
    (here / "full").write_bytes(b"x" * 1_000_000)
    assert os.stat(there / "full").st_blocks == -(-1_000_000 // 512)
    told = subprocess.run(["du", "-k", "full"], cwd=there, capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == "977"


@pytest.fixture
def limited(first: Mount):
    """Sets the quota of the module's cluster; it is gone after the test."""
    dfs = Dfs(first.cluster)
    yield lambda *limits: dfs.json("quota", *limits)
    dfs("quota", "--bytes", "none", "--inodes", "none")


def test_quota(mount: Path, limited):
    """Goal: EDQUOT from close() for content and at once for names; df follows; there is room again after unlink."""
    (mount / "f").write_bytes(b"x" * 50_000)
    used = limited()
    limited("--bytes", used["used_bytes"] + 100_000, "--inodes", used["used_inodes"] + 1)
    wait_until(lambda: os.statvfs(mount).f_bavail * 4096 <= 100_000, "df follows", 5)
    assert 1 <= os.statvfs(mount).f_favail < 100
    fill(mount / "d")
    for attempt in (lambda: os.mkdir(mount / "e"), lambda: os.symlink("x", mount / "e"),
                    lambda: (mount / "e").touch()):  # fmt: skip
        with error(errno.EDQUOT):
            attempt()
    os.link(mount / "f", mount / "e")
    with error(errno.EDQUOT):
        (mount / "f").write_bytes(b"y" * 200_000)
    limited("--bytes", "none")
    (mount / "f").write_bytes(b"z" * 200_000)
    assert (mount / "e").read_bytes() == b"z" * 200_000
    (mount / "f").unlink()
    os.rmdir(mount / "d0")
    os.mkdir(mount / "now-there-is-room")


def fill(path: Path) -> None:
    """Folders until there is no room: more than one, if what was removed before was still open at that time."""
    with error(errno.EDQUOT):
        for number in range(100):
            os.mkdir(f"{path}{number}")
