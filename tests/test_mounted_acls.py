"""Access control lists on real mounts: the programs that set, show and copy them, two mounts, and each driver."""

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest
from dfs_command import Dfs
from support import Mount, error, wait_until
from test_acl import LONGER
from test_mounted_basics import NOBODY
from test_mounted_posix import ACL
from test_mounted_tools import run

pytestmark = pytest.mark.mounted

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_STALE_S = 1.0


def fill(folder: Path) -> Path:
    """A tree with lists of every kind, as setfacl makes them."""
    tree = folder / "tree"
    (tree / "shared").mkdir(parents=True)
    (tree / "file").write_text("content\n")
    run("setfacl", "-m", "u:65534:rw,g:54331:r", "file", cwd=tree)
    run("setfacl", "-m", "u:65534:rwx,d:u:65534:rwx,d:o::-", "shared", cwd=tree)
    (tree / "shared" / "inside").write_text("more\n")
    (tree / "shared" / "below").mkdir()
    return tree


def described(tree: Path) -> str:
    return run("getfacl", "-R", "-n", "-p", ".", cwd=tree)


def test_setfacl_getfacl_and_ls(mount: Path, tmp_path: Path):
    """Goal: the same commands make the same lists as on a local disk; ls marks them; chmod and setfacl -b too."""
    here, local = fill(mount), fill(tmp_path)
    assert "default:user:65534:rwx" in described(here)
    assert described(here) == described(local)
    modes = run("ls", "-l", here, cwd=mount)
    assert "-rw-rw-r--+" in modes
    assert "drwxrwxr-x+" in modes
    for command in (["chmod", "g-w", "file"], ["setfacl", "-x", "g:54331", "file"], ["setfacl", "-k", "shared"],
                    ["setfacl", "-R", "-m", "u:1:r", "."], ["setfacl", "-b", "file", "shared"]):  # fmt: skip
        for tree in (here, local):
            run(*command, cwd=tree)
        assert described(here) == described(local), command
    assert "+" not in run("ls", "-ld", "file", "shared", cwd=here)


def test_copies_keep_lists(mount: Path, tmp_path: Path):
    """Goal: cp -a, rsync -A and tar --acls take them in, on, and out again; a second rsync has nothing to send."""
    local = fill(tmp_path)
    expected = described(local)
    run("cp", "-a", local, "one", cwd=mount)
    run("rsync", "-aA", "one/", "two", cwd=mount)
    assert run("rsync", "-aAi", "one/", "two", cwd=mount) == ""
    run("tar", "--acls", "-cf", "two.tar", "-C", "two", ".", cwd=mount)
    (tmp_path / "out").mkdir()
    run("tar", "--acls", "-xf", mount / "two.tar", "-C", tmp_path / "out", cwd=tmp_path)
    (mount / "three").mkdir()
    run("tar", "--acls", "-xf", "two.tar", "-C", "three", cwd=mount)
    for copy in (mount / "one", mount / "two", mount / "three", tmp_path / "out"):
        assert described(copy) == expected, copy


def test_another_mount_lets_in_by_the_list(two_mounts: tuple[Path, Path]):
    """Goal: what one mount sets counts on the other within S14's second, and so does its removal."""
    here, there = two_mounts
    (here / "f").write_text("secret\n")
    (here / "f").chmod(0o600)

    def may_read() -> bool:
        return subprocess.run([*NOBODY, "cat", there / "f"], capture_output=True, check=False).returncode == 0

    assert not may_read()
    os.setxattr(here / "f", ACCESS, ACL)
    wait_until(may_read, "the list counts on the other mount", 2 * _STALE_S)
    assert os.getxattr(there / "f", ACCESS) == ACL
    assert stat.S_IMODE(os.stat(there / "f").st_mode) == 0o664
    os.chmod(here / "f", 0o600)
    wait_until(lambda: not may_read(), "it has gone there", 2 * _STALE_S)


def test_dfs_inherits_a_default_list(mount: Path, first: Mount):
    """Goal: what the command makes below a default list has it, whatever its umask."""
    os.setxattr(mount, DEFAULT, LONGER)
    dfs = Dfs(first.cluster)
    before = os.umask(0o077)
    try:
        dfs("write", mount / "f", given=b"content")
        dfs("mkdir", mount / "d")
        os.removexattr(mount, DEFAULT)
        dfs("write", mount / "g", given=b"content")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(os.stat(mount / name).st_mode) for name in "fdg"] == [0o660, 0o770, 0o600]
    assert os.getxattr(mount / "d", DEFAULT) == LONGER


@pytest.mark.drivers("fusepy")
def test_a_driver_that_passes_on_no_lists(mount: Path, first: Mount):
    """Goal: with fusepy each call is EOPNOTSUPP and none is listed; lists that others have set are kept, follow chmod,
    and are inherited."""
    (mount / "d").mkdir()
    (mount / "f").touch()
    attempts = (
        lambda: os.setxattr(mount / "f", ACCESS, ACL),
        lambda: os.getxattr(mount / "f", ACCESS),
        lambda: os.removexattr(mount / "f", ACCESS),
        lambda: os.setxattr(mount / "d", DEFAULT, ACL),
        lambda: os.getxattr(mount / "d", DEFAULT),
    )
    for attempt in attempts:
        with error(errno.EOPNOTSUPP):
            attempt()
    other = first.cluster.mount("--driver", "linux")
    there = other.point / mount.relative_to(first.point)
    os.setxattr(there / "d", DEFAULT, LONGER)
    wait_until(lambda: _made_below(mount / "d"), "the default list is inherited", 5.0)
    assert os.listxattr(mount / "d") == []
    os.chmod(mount / "d" / "x", 0o740)
    assert os.getxattr(there / "d" / "x", ACCESS) != LONGER
    assert stat.S_IMODE(os.stat(there / "d" / "x").st_mode) == 0o740
    other.unmount()


def _made_below(folder: Path) -> bool:
    (folder / "x").unlink(missing_ok=True)
    os.close(os.open(folder / "x", os.O_CREAT | os.O_WRONLY, 0o777))
    return stat.S_IMODE(os.stat(folder / "x").st_mode) == 0o750
