"""mount.py up to the driver: arguments, what the machine must have, mountpoints, and the daemon's word."""

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from support import ROOT, run_mount

import mount
from dfsfuse import home as homes
from dfsfuse import mounting, mountpoint
from dfsfuse.endpoints import Endpoint
from dfsfuse.mountpoint import MountError

needs_fuse = pytest.mark.skipif(
    os.geteuid() != 0 or not mountpoint.FUSE_DEVICE.exists(), reason="NOT RUN: needs root and /dev/fuse"
)


@pytest.fixture
def point(folder: Path) -> Path:
    """An empty folder to mount on."""
    made = folder / "mnt"
    made.mkdir()
    return made


def wanted(point: Path, home: Path, **more) -> mounting.Wanted:
    return mounting.Wanted(mountpoint=str(point), home=home, **more)


@contextlib.contextmanager
def silent_mount(point: Path, fstype: str) -> Iterator[None]:
    """A FUSE mount whose client never answers within the block, and is dead after it, as if it had been killed."""
    device = os.open(mountpoint.FUSE_DEVICE, os.O_RDWR)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        data = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        assert libc.mount(b"dfsfuse:test", os.fsencode(point), fstype.encode(), 0, data) == 0, ctypes.get_errno()
        yield
    finally:
        os.close(device)


# -- one line and an exit status


def test_mountpoint_must_be_there_and_be_a_folder(folder, home):
    """Goal: each is told in one line, with exit status 1, before anything is started."""
    (folder / "file").write_text("")
    for path, line in (
        (folder / "none", "none: no such mountpoint; make it with: mkdir -p "),
        (folder / "file", "file: not a folder; a mountpoint must be one"),
        (folder / "file" / "below", "below: not a folder"),
    ):
        outcome = run_mount(path, "--home", home)
        assert (outcome.returncode, outcome.stdout, outcome.stderr.count("\n")) == (1, "", 1)
        assert line in outcome.stderr
    assert not home.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["--home", ""],
        ["--cluster", ""],
        ["--cache-bytes", "10X"],
        ["--cache-bytes", "0"],
        ["--passthrough-writes", "-1"],
        ["--known-files", "0"],
        ["--lock-wait", "-1"],
        ["--timeout", "soon"],
        ["--what"],
    ],
)
def test_misuse(arguments, folder):
    """Goal: exit status 2 and a usage line."""
    outcome = run_mount(*([folder] if arguments and arguments[0] else []), *arguments)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("usage: mount.py")


def test_interrupted_at_once(capsys, monkeypatch, point, home):
    """Goal: Ctrl-C is one line from the first moment on, and not a traceback."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mount, "_parser", interrupt)
    assert fail_with(capsys, point, home) == "mount.py: interrupted; nothing is mounted\n"


def test_sizes_have_units():
    """Goal: --cache-bytes and --passthrough-writes take bytes, and K, M, G, T as powers of 1024; 0 is possible where it
    means something."""
    parse = mount._parser().parse_args
    for text, value in (("4096", 4096), ("500M", 500 << 20), ("10g", 10 << 30), ("1T", 1 << 40)):
        assert parse(["/mnt", "--cache-bytes", text]).cache_bytes == value
        assert parse(["/mnt", "--passthrough-writes", text]).passthrough_writes == value
    assert parse(["/mnt"]).cache_bytes == 10 << 30
    assert parse(["/mnt", "--passthrough-writes", "0"]).passthrough_writes == 0


def fail_with(capsys, point: Path, home: Path, *arguments: str) -> str:
    """mount.py in this process: it fails with status 1 and one line, which is returned."""
    assert mount.main([str(point), "--home", str(home), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


def test_machine_without_fuse(capsys, monkeypatch, point, home):
    """Goal: no /dev/fuse, no libfuse 3, no fusermount3: each is named, with what to do."""
    monkeypatch.delenv("FUSE_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", Path("/dev/no-fuse"))
    assert "there is no /dev/no-fuse: load the kernel's module" in fail_with(capsys, point, home)
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", Path(os.devnull))
    monkeypatch.setattr(mountpoint.ctypes.util, "find_library", lambda name: None)
    assert "there is no libfuse 3; install it" in fail_with(capsys, point, home, "--driver", "fusepy")
    monkeypatch.setattr(mountpoint.ctypes.util, "find_library", lambda name: "libfuse3.so.3")
    monkeypatch.setattr(mountpoint.importlib.util, "find_spec", lambda name: None if name == "mfusepy" else name)
    assert "there is no mfusepy" in fail_with(capsys, point, home, "--driver", "fusepy")
    monkeypatch.setattr(mountpoint.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mountpoint.shutil, "which", lambda name: None)
    assert "there is no fusermount3" in fail_with(capsys, point, home)


@pytest.fixture
def any_machine(monkeypatch):
    """As if this machine had FUSE."""
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", Path(os.devnull))
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "libfuse3.so.3")


@pytest.mark.usefixtures("any_machine")
def test_home_that_cannot_be_used(capsys, folder, point):
    """Goal: a home that cannot be written, one that the mount itself would hide, and one within which it would be:
    there servers would wait for themselves for ever."""
    (folder / "file").write_text("")
    assert "cannot be written: Not a directory" in fail_with(capsys, point, folder / "file" / "home")
    assert "cannot be written: it is not a folder" in fail_with(capsys, point, folder / "file")
    for home, where in ((point / "home", point), (point, point), (point, point / "A")):
        where.mkdir(exist_ok=True)
        assert "lies there, or around it; choose another with --home" in fail_with(capsys, where, home)
    line = fail_with(capsys, ROOT, folder / "home")
    assert f"{ROOT}: the mount would hide {ROOT}/" in line
    assert "/proc: the mount would hide /proc/" in fail_with(capsys, Path("/proc"), folder / "home")
    assert not (folder / "home").exists()


@pytest.mark.usefixtures("any_machine")
def test_cluster_that_cannot_be_used(capsys, monkeypatch, folder, point, cluster):
    """Goal: a cluster that is not reachable, and one that refuses the token."""
    home = folder / "away"
    monkeypatch.delenv("DFS_TOKEN", raising=False)
    line = fail_with(capsys, point, home, "--cluster", cluster.url)
    assert f"joining a cluster needs its token: no token in {home}/token" in line
    monkeypatch.setenv("DFS_TOKEN", "wrong")
    line = fail_with(capsys, point, home, "--cluster", cluster.url)
    assert "refuses the token of $DFS_TOKEN; set $DFS_TOKEN to that cluster's token" in line
    monkeypatch.setenv("DFS_TOKEN", "caf\u00e9")
    assert "$DFS_TOKEN is not the token of a cluster" in fail_with(capsys, point, home, "--cluster", cluster.url)
    assert "is not the address" in fail_with(capsys, point, home, "--cluster", "nonsense")
    monkeypatch.setenv("DFS_TOKEN", "wrong")
    # Port 1 is below those that servers get; nobody listens there.
    line = fail_with(capsys, point, home, "--cluster", "127.0.0.1:1")
    assert "no cluster answers at http://127.0.0.1:1: Connection refused" in line
    assert not home.exists(), "what is refused leaves nothing behind"


def test_python_without_dependencies(folder):
    """Goal: mount.py goes on with the Python of .venv beside it, and without one names the command to run."""
    script = shutil.copy(ROOT / "mount.py", folder)
    command = [sys.executable, "-S", script, "/mnt/dfs", "--read-only"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert outcome.returncode == 1
    assert f"run: make -C {folder} venv" in outcome.stderr
    own = folder / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text('#!/bin/sh\necho "$@"\n')
    own.chmod(0o755)
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert outcome.stdout == f"{script} /mnt/dfs --read-only\n"


# -- mountpoints


def test_mountinfo_is_read_as_the_kernel_writes_it(monkeypatch, folder):
    """Goal: blanks in paths are escaped there; the uppermost of several mounts counts."""
    listed = folder / "mountinfo"
    listed.write_text(
        "22 1 0:20 / /mnt/a\\040b rw,relatime shared:1 - ext4 /dev/a rw\n"
        "23 1 0:21 / /mnt/a\\040b rw - fuse.dfsfuse dfsfuse:v rw,user_id=0\n"
    )
    monkeypatch.setattr(mountpoint, "MOUNTINFO", listed)
    mounted = mountpoint.mounted_at("/mnt/a b")
    assert (mounted.point, mounted.fstype, mounted.source) == ("/mnt/a b", "fuse.dfsfuse", "dfsfuse:v")
    assert mountpoint.mounted_at("/mnt/a") is None


@needs_fuse
@pytest.mark.mounted
def test_dead_mount_is_unmounted_lazily_with_a_line(point, home):
    """Goal: what a killed client has left is removed, also twice on one point, and the user is told."""
    for _ in range(2):
        with silent_mount(point, mountpoint.FSTYPE):
            pass
    with pytest.raises(OSError, match="not connected") as dead:
        os.listdir(point)
    assert dead.value.errno == errno.ENOTCONN
    outcome = run_mount(point, "--home", home, "--cluster", "127.0.0.1:1", DFS_TOKEN="t")
    assert outcome.returncode == 1
    told = outcome.stderr.splitlines()
    assert told[0] == told[1] == f"mount.py: {point}: its client was killed; the dead mount has been unmounted lazily"
    assert "no cluster answers" in told[2]
    assert os.listdir(point) == []


@needs_fuse
@pytest.mark.mounted
def test_living_mount_is_left_alone(monkeypatch, point):
    """Goal: a mount whose client is there, even if it does not answer, and another file system's are not touched,
    and nothing hangs."""
    monkeypatch.setattr(mountpoint, "ANSWER_S", 0.2)
    tell = mock.Mock()
    with silent_mount(point, mountpoint.FSTYPE):
        assert mountpoint.resolve(str(point)) == str(point)
        with pytest.raises(MountError, match=r"already mounted \(its client does not answer\); to unmount it: umount"):
            mountpoint.free(str(point), tell)
    mountpoint.free(str(point), tell)
    with silent_mount(point, "fuse.another"):
        with pytest.raises(MountError, match=r"a fuse\.another file system is mounted there"):
            mountpoint.free(str(point), tell)
    assert mountpoint.mounted_at(str(point)).fstype == "fuse.another"
    assert tell.call_count == 1


def test_path_of_a_mountpoint_is_made_absolute(monkeypatch, folder, point):
    """Goal: relative paths and symlinks lead to the point itself."""
    (folder / "link").symlink_to(point)
    monkeypatch.chdir(folder)
    assert mountpoint.resolve("mnt/") == mountpoint.resolve("link") == str(point)


def test_other_users_may_enter_when_root_mounts_or_fuse_conf_says_so(monkeypatch, folder):
    """Goal: allow_other is asked for only where it is permitted."""
    conf = folder / "fuse.conf"
    monkeypatch.setattr(mountpoint, "FUSE_CONF", conf)
    monkeypatch.setattr(mountpoint.os, "geteuid", lambda: 0)
    assert mountpoint.others_may_enter()
    monkeypatch.setattr(mountpoint.os, "geteuid", lambda: 1000)
    assert not mountpoint.others_may_enter()
    conf.write_text("#user_allow_other\nmount_max = 9\n")
    assert not mountpoint.others_may_enter()
    conf.write_text("mount_max = 9\nuser_allow_other\n")
    assert mountpoint.others_may_enter()


def test_each_mountpoint_has_a_client_folder_of_its_own(home):
    """Goal: names are unique, short enough for a file name, and stay below clients/."""
    points = ["/mnt/dfs", "/mnt-dfs", "/mnt/dfs/x", "/mnt%2Fdfs", "/", "/..", "/" + "x" * 4000, "/" + "x" * 4001]
    folders = {homes.client_folder(home, "volume", point) for point in points}
    assert len(folders) == len(points)
    assert all(made.parent == home / "clients" / "volume" and len(made.name) < 255 for made in folders)
    assert homes.client_folder(home, "..", "/mnt").parent.name == "%2E."


# -- the daemon


def start_daemon(folder: Path, point: Path, home: Path, code: str, **more) -> None:
    """What mount.py does with its daemon, where the daemon is `code`, run with mount.py's arguments as `args`."""
    script = folder / "daemon.py"
    script.write_text(
        f"import os, sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"import mount\nargs = mount._parser().parse_args()\n{code}\n"
    )
    home.mkdir(exist_ok=True)
    endpoint = Endpoint(url="http://127.0.0.1:1", token="t", volume="v")
    mounting.mount_in_background(wanted(point, home, **more), endpoint, [sys.executable, str(script)])


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("os.write(args.ready_fd, b'no cluster today')", r"^no cluster today$"),
        ("print('its last words'); sys.exit(7)", r"^the client ended with status 7: its last words; its log is .*log$"),
        ("os._exit(9)", r"^the client ended with status 9: it said nothing; "),
        ("os.write(args.ready_fd, b'ready')", r"mnt: the mount does not answer: it is not mounted any more; see "),
        ("time.sleep(600)", r"^the client is not ready after 0\.3 s"),
    ],
)
def test_daemon_that_does_not_mount(monkeypatch, folder, point, home, code, line):
    """Goal: its own words, its log's last line, or its silence become one error, and it is ended."""
    monkeypatch.setattr(mounting, "READY_GRACE_S", 20.0)
    timeout_s = 30.0
    if "sleep" in code:
        monkeypatch.setattr(mounting, "READY_GRACE_S", 0.2)
        timeout_s = 0.1
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(mounting.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])
    with pytest.raises(MountError, match=line):
        start_daemon(folder, point, home, code, timeout_s=timeout_s)
    assert started[0].returncode is not None


def test_daemon_is_told_what_the_user_asked_for(monkeypatch, folder, point, home):
    """Goal: arguments, token and descriptors arrive; the daemon is in no folder and no session of its starter."""
    code = (
        "found = mount._found(args)\n"
        "word = [mount._wanted(args), found.token, found.url, found.volume, os.getcwd(), os.getsid(0) == os.getpid(),\n"
        "        os.environ.get('DFS_TOKEN')]\n"
        "os.write(args.ready_fd, repr(word).encode())"
    )
    more = {"suid": True, "dev": True}
    more |= {
        "read_only": True,
        "lock_wait_s": 1.5,
        "timeout_s": 20.0,
        "cache_bytes": 1 << 20,
        "known_files": 5000,
        "cluster_url": "x:1",
    }
    with pytest.raises(MountError) as told:
        start_daemon(folder, point, home, code, **more)
    expected = [wanted(point, home, **more), "t", "http://127.0.0.1:1", "v", "/", True, None]
    assert str(told.value) == repr(expected)


@pytest.mark.parametrize("lifted", ["suid", "dev"])
def test_guards_are_lifted_by_root_alone(monkeypatch, home, point, lifted):
    """Goal: others are told before anything is started."""
    monkeypatch.setattr(mounting.os, "geteuid", lambda: 1000)
    with pytest.raises(MountError, match="are for root"):
        mounting.prepare(wanted(point, home, **{lifted: True}), print)
    assert not home.exists()


def test_daemon_reports_an_unexpected_error_once(monkeypatch, home, point):
    """Goal: an error before the mount reaches the starter in one line with its kind; one after it only the log."""
    for before in (True, False):
        read, write = os.pipe()

        def serve(_wanted, _found, on_ready, tell, before=before):
            if not before:
                tell("one thing to know")
                on_ready()
            raise ValueError("two\nlines")

        monkeypatch.setattr(mounting, "serve", serve)
        found = mounting.Found(url="", volume="", token="", ready=write)
        assert mounting.serve_as_daemon(wanted(point, home), found) == 1
        assert os.read(read, 100) == (b"ValueError: two lines" if before else b"ready\none thing to know")
        assert os.read(read, 100) == b""
        os.close(read)


def test_former_client_of_the_mountpoint_is_waited_for(home, point):
    """Goal: two clients never share a folder; the second waits for the first, and says so when that takes too long."""
    asked = mounting.options.ClientOptions(url="", token="", home=home, mountpoint=str(point), timeout_s=0.1)
    first = mounting._claim(asked)
    with pytest.raises(MountError, match="still has open files or uploads"):
        mounting._claim(asked)
    os.close(first)
    os.close(mounting._claim(asked))


@pytest.mark.mounted
def test_soft_limit_of_who_mounts_is_not_that_of_all_programs(fresh):
    """Goal: a client and its servers open as many files as the hard limit allows, each for all programs and clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = 50 + max(int(number) for number in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    try:
        mounted = fresh.mount()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for pid in (mounted.pid, *(server.pid for server in fresh.servers().values())):
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context((mounted.point / f"{number}").open("w")) for number in range(low + 50)]
        assert len(os.listdir(mounted.point)) == len(opened)
