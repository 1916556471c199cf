"""Mounting without libfuse: what the machine must have, mount(2), fusermount3, and how a mount ends."""

import ctypes
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fake_filesystem import FakeFileSystem
from support import ROOT, error, python, wait_until

from dfsfuse import mounting, mountpoint
from dfsfuse.drivers import linux, linux_mount
from dfsfuse.drivers.linux_mount import CannotMount

needs_fuse = pytest.mark.skipif(
    os.geteuid() != 0 or not mountpoint.FUSE_DEVICE.exists(), reason="NOT RUN: needs root and /dev/fuse"
)
OPTIONS = {"fsname": "dfsfuse:v", "read_only": False, "allow_other": True}


@pytest.fixture
def point(folder: Path) -> Path:
    made = folder / "mnt"
    made.mkdir()
    return made


# -- which driver


class Uname:
    def __init__(self, release: str, sysname: str = "Linux"):
        self.release, self.sysname = release, sysname


@pytest.mark.parametrize(
    ("release", "fits"),
    [("5.15.0", True), ("5.14.21-generic", False), ("6.1.0-18-amd64", True), ("4.19", False), ("5.15-rc1", True),
     ("10.0.0+", True)],
)  # fmt: skip
def test_kernels_that_fit(monkeypatch, release, fits):
    """Goal: Linux 5.15 or newer, however the release is written."""
    monkeypatch.setattr(linux_mount.os, "uname", lambda: Uname(release))
    assert (linux_mount.unsupported() == "") is fits


def test_driver_that_is_chosen(monkeypatch):
    """Goal: linux where it can be; else fusepy, and the user is told why in one line; who asks for a driver gets that
    one or an error."""
    told: list[str] = []
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "libfuse3.so.3")
    assert mounting.choose_driver("", told.append) == "linux"
    assert mounting.choose_driver("fusepy", told.append) == "fusepy"
    assert told == []
    monkeypatch.setattr(linux_mount.os, "uname", lambda: Uname("5.10.0"))
    assert mounting.choose_driver("", told.append) == "fusepy"
    assert told == ["the fusepy driver is used, as Linux 5.10.0 is older than 5.15"]
    with pytest.raises(mounting.MountError, match="cannot be used: Linux 5.10.0 is older"):
        mounting.choose_driver("linux", told.append)


def test_linux_driver_needs_no_libfuse():
    """Goal: neither mfusepy nor libfuse is loaded for it."""
    code = "import sys; import dfsfuse.drivers.linux, dfsfuse.client; print('mfusepy' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout == "False\n"


# -- fusermount3


FUSERMOUNT = """#!{python} -S
import os, socket, sys
open({seen!r}, 'w').write(repr(sys.argv[1:]))
channel = socket.socket(fileno=int(os.environ['_FUSE_COMMFD']))
{then}
"""


@pytest.fixture
def fusermount(monkeypatch, folder: Path):
    """Puts a program in fusermount3's place; returns what it was given."""
    seen = folder / "seen"
    monkeypatch.setattr(linux_mount.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def install(then: str):
        program = folder / "fusermount3"
        program.write_text(FUSERMOUNT.format(python=sys.executable, seen=str(seen), then=then))
        program.chmod(0o755)
        return lambda: eval(seen.read_text())  # noqa: S307

    return install


def test_descriptor_comes_from_fusermount(fusermount):
    """Goal: it is asked with the same options as mount(2), commas escaped, and its descriptor is taken over."""
    given = fusermount("socket.send_fds(channel, [b'x'], [os.open('/dev/null', os.O_RDWR)])")
    device = linux_mount.mount("/mnt/a b", fsname="a,b\\c", read_only=True, allow_other=True)
    try:
        assert os.fstat(device).st_rdev == os.stat("/dev/null").st_rdev
        assert not os.get_inheritable(device)
    finally:
        os.close(device)
    options = "default_permissions,max_read=1048576,fsname=a\\,b\\\\c,subtype=dfsfuse,allow_other,ro"
    assert given() == ["-o", options, "--", "/mnt/a b"]


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ("sys.exit('fusermount3: option allow_other only allowed if ...')", "option allow_other only allowed"),
        ("sys.exit(3)", "fusermount3 ended with 3"),
        ("pass", "has not sent the descriptor"),
    ],
)
def test_fusermount_that_fails(fusermount, then, why):
    """Goal: its own words are the error."""
    fusermount(then)
    with pytest.raises(CannotMount, match=why):
        linux_mount.mount("/mnt", **OPTIONS)


def test_machine_without_fusermount(monkeypatch):
    """Goal: named."""
    monkeypatch.setattr(linux_mount.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(linux_mount.shutil, "which", lambda name: None)
    with pytest.raises(CannotMount, match="there is no fusermount3"):
        linux_mount.mount("/mnt", **OPTIONS)


# -- real mounts of a file system in memory


@pytest.fixture
def served(point: Path) -> Iterator[tuple[Path, FakeFileSystem]]:
    """A mount of a file system in memory, served by threads of this process."""
    fs, ready = FakeFileSystem(), threading.Event()
    arguments = {"target": linux.run, "args": (fs, str(point)), "kwargs": {**OPTIONS, "on_ready": ready.set}}
    thread = threading.Thread(**arguments, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield point, fs
    subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)
    thread.join(10)
    assert not thread.is_alive()


def outside(code: str, *arguments: object) -> str:
    """What a process says that does this: a system call into a mount of one's own process could wait for itself."""
    process = python(code, *arguments)
    output, complaint = process.communicate(timeout=30)
    assert process.returncode == 0, complaint
    return output.strip()


@needs_fuse
@pytest.mark.mounted
def test_mount_of_root(served):
    """Goal: type, source and options are those that everything else expects; files can be made, read and removed."""
    point, fs = served
    mounted = mountpoint.mounted_at(str(point))
    assert (mounted.fstype, mounted.source) == (mountpoint.FSTYPE, "dfsfuse:v")
    assert mounted.fstype == f"fuse.{linux_mount.SUBTYPE}"
    (line,) = (line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {point} " in line)
    for option in ("nosuid", "nodev", "default_permissions", "allow_other"):
        assert option in line
    code = "import os,sys; p=sys.argv[1]+'/f'; open(p,'w').write('x'*9); print(open(p).read()); os.unlink(p)"
    assert outside(code, point) == "x" * 9
    assert fs.names == {}


@needs_fuse
@pytest.mark.mounted
def test_program_that_waits_keeps_no_other_waiting(served):
    """Goal: with twenty opens waiting, stat is answered at once; Ctrl-C ends each of them."""
    point, fs = served
    ino = fs.add(b"file")
    fs.blocking.set()
    waiting = [python("import os, sys; os.open(sys.argv[1], os.O_WRONLY)", point / "file") for _ in range(20)]
    for _ in waiting:
        assert fs.blocked.acquire(timeout=20)
    assert outside("import os, sys; print(os.stat(sys.argv[1]).st_ino)", point / "file") == str(ino)
    for process in waiting:
        process.send_signal(signal.SIGINT)
    for process in waiting:
        process.communicate(timeout=10)
        assert process.returncode in (1, -signal.SIGINT)
    assert all(handle.closed for handle in fs.handles)


@needs_fuse
@pytest.mark.mounted
def test_kernel_and_driver_count_the_same(served):
    """Goal: after files were listed with attributes, looked up, opened and unlinked, and the kernel has dropped what
    it remembers, no node is left but the root."""
    point, fs = served
    for number in range(500):
        fs.add(b"%03d" % number)
    code = "import os,sys; p=sys.argv[1]; print(sum(e.stat().st_size for e in os.scandir(p)), len(os.listdir(p)));"
    code += "[open(p+'/%03d'%n).close() for n in range(50)]; [os.unlink(p+'/%03d'%n) for n in range(0, 500, 2)]"
    assert outside(code, point) == "0 500"
    assert len(nodes_of(fs)) > 200

    def forgotten() -> bool:
        # A remount drops the names that the kernel remembers of this mount alone.
        flags = ctypes.c_ulong(32 | 2 | 4)
        assert ctypes.CDLL(None).mount(b"none", os.fsencode(point), None, flags, None) == 0
        return len(nodes_of(fs)) == 1

    wait_until(forgotten, "the kernel forgets all nodes")


@needs_fuse
@pytest.mark.mounted
@pytest.mark.parametrize("listed", [False, True])
def test_kernel_forgets_where_it_remembers_too_much(served, listed):
    """Goal: memory does not grow with the files that programs look at; what they have open, or are in, stays."""
    if linux_mount._version(os.uname().release) < (6, 18):
        pytest.skip("NOT RUN: this kernel cannot be asked to forget nodes")
    point, fs = served
    nodes = nodes_of(fs)
    nodes._max = 100
    folder = fs.add(b"folder", stat.S_IFDIR | 0o755)
    for number in range(1000):
        fs.add(b"%03d" % number)
    held, inside = fs.add(b"held"), fs.add(b"inside", parent=folder)
    code = "import os, sys; os.chdir(sys.argv[1] + '/folder'); f = open('../held'); os.stat('inside');"
    code += "print('holds', flush=True); sys.stdin.read(); print(os.fstat(f.fileno()).st_ino, os.stat('inside').st_ino)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, point], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "holds\n"
    look = "[e.stat() for e in os.scandir(p)]" if listed else "[os.stat(p + '/%03d' % n) for n in range(1000)]"
    outside(f"import os, sys; p = sys.argv[1]; {look}", point)
    wait_until(lambda: len(nodes) <= 100, "the kernel forgets nodes")
    assert {1, folder, held} <= nodes._nodes.keys()
    assert holder.communicate("", timeout=20)[0] == f"{held} {inside}\n"


def nodes_of(fs: FakeFileSystem):
    """The nodes of the driver that serves it."""
    return driver_of(fs).nodes


def driver_of(fs: FakeFileSystem) -> linux.Driver:
    import gc

    (driver,) = (one for one in gc.get_objects() if isinstance(one, linux.Driver) and one._fs is fs)
    return driver


@needs_fuse
@pytest.mark.mounted
def test_what_others_have_written_is_read_whatever_the_kernel_is_told_meanwhile(served):
    """Goal: S3. A program under a lock reads a file that has grown elsewhere, to its end. The kernel takes no answer
    about attributes that a notification has overtaken, and reads on with the size that it knew."""
    point, fs = served
    ino = fs.add(b"file")
    fs.inodes[ino] = msgspec.structs.replace(fs.inodes[ino], promised=True)
    code = "import os, sys; fd = os.open(sys.argv[1] + '/file', os.O_RDONLY); print(os.fstat(fd).st_size, flush=True);"
    code += "sys.stdin.read(); print(len(os.pread(fd, 10000, 0)), os.lseek(fd, 0, os.SEEK_END))"
    reader = subprocess.Popen(
        [sys.executable, "-c", code, point], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "0\n"
    content = fs.contents[ino]
    content.data.extend(b"x" * 5000)
    content.lineage += 1
    fs.program_locks.shared.add(ino)
    fs.program_locks.tell(content, ino)
    forgetting, lookup_open = driver_of(fs).forgetting, fs.lookup_open

    def overtaken(ino):
        known = lookup_open(ino)
        forgetting.tell(ino, b"")
        return known

    fs.lookup_open = overtaken
    assert reader.communicate("", timeout=20)[0] == "5000 5000\n"


@needs_fuse
@pytest.mark.mounted
@pytest.mark.parametrize("size", [1, 5000, 8187, 8188])
def test_who_locks_appends_to_what_others_have_written(served, size):
    """Goal: S3. A program under a lock appends to a file that has grown elsewhere, without looking how long it is, and
    finds all of it then: the kernel puts what is appended where it takes the end to be."""
    point, fs = served
    ino = fs.add(b"file")
    code = "import os, sys; fd = os.open(sys.argv[1] + '/file', os.O_RDWR | os.O_APPEND); os.write(fd, b'first');"
    code += "print(os.pread(fd, 5, 0), flush=True); sys.stdin.read(); os.write(fd, b'second');"
    code += "print(os.pread(fd, 4, 3), os.pread(fd, 6, int(sys.argv[2])), os.lseek(fd, 0, os.SEEK_END))"
    program = subprocess.Popen(
        [sys.executable, "-c", code, point, str(5 + size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout.readline() == "b'first'\n"
    content = fs.contents[ino]
    content.data.extend(b"x" * size)
    content.lineage += 1
    fs.program_locks.shared.add(ino)
    fs.program_locks.tell(content, ino)
    places, write = [], fs.files.write
    fs.files.write = lambda handle, data, offset, *more: places.append(offset) or write(handle, data, offset, *more)
    found = b"st" + (b"x" * size + b"second")[:2]
    assert program.communicate("", timeout=20)[0] == f"{found} {b'second'} {11 + size}\n"
    assert content.data == b"first" + b"x" * size + b"second"
    assert places == [5 + size]


@needs_fuse
@pytest.mark.mounted
def test_both_drivers_over_the_file_system_in_memory():
    """Goal: what `python -m bench.drivers_alone` measures works with each driver, so that its figures can be taken."""
    command = [sys.executable, "-m", "bench.drivers_alone", "--rounds", "1", "--count", "40"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome.stderr
    titles, *figures = outcome.stdout.splitlines()
    assert "linux    fusepy" in titles
    assert len(figures) == 5


SERVE = """
import os, sys, threading
sys.path[:0] = [{root!r}, {tests!r}]
from fake_filesystem import FakeFileSystem
from dfsfuse.drivers import linux
fs = FakeFileSystem()
fs.add(b'file')
{first}
def ready():
    print('ready', flush=True)
    threading.Thread(target=act, daemon=True).start()
def act():
    {act}
linux.run(fs, sys.argv[1], fsname='dfsfuse:v', read_only=False, allow_other={others}, on_ready=ready)
print('ended', all(handle.closed for handle in fs.handles), flush=True)
"""


AS_NOBODY = """
import ctypes
from dfsfuse import mountpoint
libc = ctypes.CDLL(None, use_errno=True)
# Mounts of its own, with a /dev/fuse that everybody may open, as most machines have.
assert libc.unshare(0x20000) == 0 and libc.mount(None, b'/', None, 1 << 14 | 1 << 18, None) == 0
os.mknod({device!r}, 0o020666, os.makedev(10, 229))
os.chmod({device!r}, 0o666)
assert libc.mount({device!r}.encode(), b'/dev/fuse', None, 4096, None) == 0
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
def mounted():
    found = mountpoint.mounted_at(sys.argv[1])
    return found.fstype + ' ' + found.source
"""


def serve(point: Path, act: str = "pass", first: str = "", others: bool = True) -> subprocess.Popen:
    code = SERVE.format(root=str(ROOT), tests=str(ROOT / "tests"), first=first, act=act, others=others)
    process = subprocess.Popen([sys.executable, "-c", code, point], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@needs_fuse
@pytest.mark.mounted
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_mount_that_is_used(point, number):
    """Goal: the mount goes, the program that has a file open gets an error, what was open is closed, and the process
    ends by itself."""
    process = serve(point)
    held = os.open(point / "file", os.O_RDWR)
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == "ended True\n"
    assert process.returncode == 0
    assert mountpoint.mounted_at(str(point)) is None
    for call in (lambda: os.write(held, b"x"), lambda: os.close(held)):
        with error(errno.ENOTCONN):
            call()


@needs_fuse
@pytest.mark.mounted
def test_mount_of_another_user(point):
    """Goal: a user other than root mounts through fusermount3, uses the mount, and a signal unmounts it."""
    if shutil.which("fusermount3") is None:
        pytest.skip("NOT RUN: there is no fusermount3")
    os.chown(point, 65534, 65534)
    point.parent.chmod(0o755)
    act = "print(sorted(os.listdir(sys.argv[1])), os.stat(sys.argv[1] + '/file').st_uid, mounted(), flush=True)"
    process = serve(point, act, AS_NOBODY.format(device=str(point.parent / "fuse")), others=False)
    assert process.stdout.readline() == f"['file'] 1 {mountpoint.FSTYPE} dfsfuse:v\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "ended True\n"


@needs_fuse
@pytest.mark.mounted
def test_mountpoint_that_cannot_be(folder):
    """Goal: mount(2)'s error, by name."""
    with pytest.raises(CannotMount, match="No such file"):
        linux_mount.mount(str(folder / "none"), **OPTIONS)
    (folder / "file").touch()
    assert stat.S_ISREG(os.stat(folder / "file").st_mode)
    device = linux_mount.mount(str(folder / "file"), **OPTIONS)
    linux_mount.unmount(str(folder / "file"))
    os.close(device)
