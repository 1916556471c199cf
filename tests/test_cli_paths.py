"""PATH as users of `dfs` give it: in the volume, or below a mount that may hang."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from dfs_command import RUN_S, Dfs, environment

from dfsfuse import mountpoint
from dfsfuse.commands.paths import Located, locate

_MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 0:50 / /mnt/dfs rw - fuse.dfsfuse dfsfuse:v1 rw
31 21 0:50 /sub/folder /bound rw - fuse.dfsfuse dfsfuse:v1 rw
32 30 0:51 / /mnt/dfs/over rw - tmpfs none rw
33 21 0:52 / /mnt/two\\040words rw - fuse.dfsfuse dfsfuse:v2 rw
"""


@pytest.mark.parametrize(
    ("path", "names", "volume"),
    [
        ("/notes.txt", b"notes.txt", ""),
        ("notes.txt", b"notes.txt", ""),
        ("/mnt/dfs", b"", "v1"),
        ("/mnt/dfs/a//./b/../c/", b"a/c", "v1"),
        ("//mnt/dfs/a", b"a", "v1"),
        ("/mnt/dfsx/a", b"mnt/dfsx/a", ""),
        ("/mnt/dfs/over/a", b"mnt/dfs/over/a", ""),
        ("/bound/a", b"sub/folder/a", "v1"),
        ("/mnt/two words/a", b"a", "v2"),
        ("../../../a", b"a", ""),
    ],
)
def test_where_a_path_leads(path, names, volume, tmp_path, monkeypatch):
    """Goal: a path below a mount wins, whatever is mounted how; all else is a path in the volume."""
    (tmp_path / "mounts").write_text(_MOUNTS)
    monkeypatch.setattr(mountpoint, "MOUNTINFO", tmp_path / "mounts")
    monkeypatch.chdir("/")
    assert locate(path) == Located(tuple(part for part in names.split(b"/") if part), volume)


def test_a_symlink_to_a_mount(tmp_path, monkeypatch):
    """Goal: a symlink on this machine that leads below a mount is followed, without touching the mount."""
    (tmp_path / "mounts").write_text(_MOUNTS)
    (tmp_path / "link").symlink_to("/mnt/dfs/folder")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setattr(mountpoint, "MOUNTINFO", tmp_path / "mounts")
    assert locate(f"{tmp_path}/link/file") == Located((b"folder", b"file"), "v1")
    assert locate(f"{tmp_path}/loop").volume == ""


@pytest.mark.mounted
def test_paths_below_a_mount_that_hangs(dfs, tmp_path):
    """Goal: absolute and relative paths below a real mount work, also while its client stands still."""
    mount = dfs.cluster.mount()
    try:
        dfs("mkdir", "/top")
        dfs("write", f"{mount.point}/top/file", given=b"content")
        assert (mount.point / "top" / "file").read_bytes() == b"content"
        (tmp_path / "link").symlink_to(mount.point)
        with _in_folder(dfs, f"{mount.point}/top", "cat", "file") as inside, _stopped(mount.pid):
            assert dfs("cat", f"{mount.point}/top/file") == b"content"
            assert dfs("ls", f"{tmp_path}/link/top") == b"file\n"
            assert inside.communicate(b"go\n", RUN_S) == (b"content", b"")
    finally:
        mount.unmount()


@contextlib.contextmanager
def _in_folder(dfs: Dfs, folder: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """A command whose working directory is `folder`; it begins when it is given a line."""
    script = 'cd "$0" && echo there && read line && exec "$@"'
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(
        ["sh", "-c", script, folder, *dfs.command(*arguments)], env=environment(), **pipes
    ) as process:
        try:
            assert process.stdout.readline() == b"there\n"
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.mounted
def test_a_mount_of_another_cluster(dfs, folder):
    """Goal: a path below a mount of another volume is refused, instead of being looked for in this one."""
    mount = dfs.cluster.mount(home=folder / "home")
    try:
        assert "below a mount of volume" in dfs.failure("ls", mount.point)
    finally:
        mount.unmount()
