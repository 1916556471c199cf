"""`dfs status` of what is not on the servers yet, where the cluster is stopped, away, or another one's."""

import json
import os
import subprocess
from typing import Any

import pytest
from dfs_command import Dfs
from support import Mount, MountedCluster, processes_of, run_mount, wait_until

from dfsfuse import home as homes

pytestmark = pytest.mark.mounted


def write_in_vain(mount: Mount, name: str) -> None:
    with mount.cluster.frozen("A", "B", "C"), pytest.raises(OSError):  # noqa: PT011
        (mount.point / name).write_bytes(b"kept")


def status(dfs: Dfs, *options: str) -> tuple[int, dict[str, Any], str]:
    """(exit status, what it tells programs, what it tells people): at a time at which both tell the same, as each retry
    may fail for another reason."""

    def same() -> tuple[int, dict[str, Any], str] | None:
        before, text, after = (dfs.run(*options, "status", *how) for how in (["--json"], [], ["--json"]))
        assert before.returncode == text.returncode
        told = [json.loads(outcome.stdout) for outcome in (before, after)]
        reasons = [[upload["reason"] for upload in known["uploads"]] for known in told]
        return (before.returncode, told[0], text.stdout.decode()) if reasons[0] == reasons[1] else None

    return wait_until(same, "both tell the same reason")


def assert_listed(known: dict[str, Any], text: str, path: str, cache: object) -> None:
    (upload,) = known["uploads"]
    assert (upload["path"], upload["size"], upload["cache"]) == (path, 4, str(cache))
    assert upload["reason"]
    assert "\nnot on the servers yet:\n" in text
    assert upload["reason"] in text


def test_files_that_wait_at_a_stopped_cluster(fresh):
    """Goal: the cluster of the home has ended with its last mount; what waits is listed with the reason."""
    mount, dfs = fresh.mount("--timeout", 1), Dfs(fresh)
    with fresh.frozen("A", "B", "C"):
        with pytest.raises(OSError):  # noqa: PT011
            (mount.point / "file").write_bytes(b"kept")
        mount.unmount()
    wait_until(lambda: not processes_of(fresh.home), "the cluster ends")
    failed, known, text = status(dfs)
    assert (failed, known["state"]) == (1, "stopped")
    assert_listed(known, text, "/file", mount.folder)


def joined(cluster: MountedCluster, *options: object) -> Mount:
    """A client of the cluster with a home of its own, where no cluster is."""
    point, home = cluster.folder / "joined", cluster.folder / "own"
    point.mkdir()
    url, token = cluster.servers()["directory"].url, homes.read_token(cluster.home)
    outcome = run_mount(point, "--home", home, "--cluster", url, *options, DFS_TOKEN=token)
    assert outcome.returncode == 0, outcome.stderr
    return Mount(cluster, point, home)


def test_files_that_wait_at_an_absent_cluster(fresh):
    """Goal: the client has joined a cluster of another machine, which is gone; what waits is listed with the reason,
    whether the address is given or not, while the client lives and afterwards."""
    fresh.mount()
    url = fresh.servers()["directory"].url
    mount, dfs = joined(fresh, "--timeout", 1), Dfs(fresh)
    dfs.home = mount.home
    write_in_vain(mount, "file")
    with fresh.frozen("directory", "locks", "A", "B", "C"):
        for options in ((), ("--cluster", url)):
            failed, known, text = status(dfs, *options)
            assert failed == 1
            assert_listed(known, text, "/file", mount.folder)
            (dfs.home / homes.TOKEN).write_text(homes.read_token(fresh.home))
        subprocess.run(["umount", mount.point], check=True)
        wait_until(lambda: not os.path.ismount(mount.point), "it is unmounted")
        assert_listed(*status(dfs)[1:], "/file", mount.folder)


def sessions(dfs: Dfs) -> dict[str, dict[str, Any]]:
    """Of `dfs status`, by their mountpoints."""
    return {row["mountpoint"]: row for row in dfs.json("status")["sessions"]}


def test_a_client_that_does_not_come_back(fresh):
    """Goal: S15. What is kept for a client that ended with unsent content is told, with how long it will be; `dfs
    forget` ends that, and ends nothing of a client that lives."""
    mount, other, dfs = fresh.mount("--timeout", 1), fresh.mount(), Dfs(fresh)
    (mount.point / "file").write_bytes(b"base")
    write_in_vain(mount, "file")
    mount.unmount()
    gone, lives = (sessions(dfs)[str(one.point)] for one in (mount, other))
    assert (gone["gone"], gone["live"], gone["kept_files"]) == (True, False, 1)
    assert (lives["gone"], lives["live"], lives["kept_files"]) == (False, True, 0)
    _, _, text = status(dfs)
    assert "1 file for " in text
    assert "\ngone: " in text
    assert dfs.failure("forget", lives["session"]).startswith(f"session {lives['session']} is live: ")
    assert "no session 12345" in dfs.failure("forget", gone["session"], 12345)
    assert str(mount.point) in sessions(dfs)
    dfs("forget", gone["session"])
    assert str(mount.point) not in sessions(dfs)
    fresh.mount(point=mount.point)
    wait_until(lambda: (other.point / "file").read_bytes() == b"kept", "it is sent all the same", 20)
