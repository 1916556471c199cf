"""Fewer file servers than a file needs: one of three is there, or one has room. What clients are told, and what becomes
of what they have written."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dfs_command import Dfs
from support import Mount, MountedCluster, fill_disk, processes_of, small_disk, wait_until
from volume_checks import assert_whole

pytestmark = pytest.mark.mounted

TIMEOUT_S = 3.0
SENT_S = 30.0


class Files:
    """Two mounts: one writes, with a short time-out; the other has nothing in its cache."""

    def __init__(self, cluster: MountedCluster):
        self.cluster = cluster
        self.writer, self.reader = cluster.mount("--timeout", TIMEOUT_S), cluster.mount()
        self.before, self.content = os.urandom(300_000), os.urandom(300_000)
        (self.writer.point / "before").write_bytes(self.before)
        wait_until(lambda: cluster.ask("directory")["short_chunks"] == 0, "all servers have it")

    def close_fails(self, *numbers: int) -> None:
        """With one of these, within the time-out of this mount; and what was written is read there all the same."""
        began_s = time.monotonic()
        with pytest.raises(OSError) as failed:  # noqa: PT011 - compared below
            (self.writer.point / "file").write_bytes(self.content)
        assert failed.value.errno in numbers, errno.errorcode[failed.value.errno]
        assert time.monotonic() - began_s < TIMEOUT_S + 4
        assert (self.writer.point / "file").read_bytes() == self.content

    def waiting(self) -> list[str]:
        """Paths of the files that `dfs status` tells as not sent yet."""
        return [upload["path"] for upload in Dfs(self.cluster).json("status")["uploads"]]

    def wait_sent(self) -> None:
        there = lambda: _content(self.reader, "file") == self.content  # noqa: E731
        wait_until(there, "what was kept is sent", SENT_S)
        wait_until(lambda: not self.waiting(), "nothing waits any more")


def _content(mount: Mount, name: str) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return (mount.point / name).read_bytes()
    return None


def test_one_of_three_lives(fresh: MountedCluster):
    """Goal: S4, S9, S13. With two file servers dead close() fails with EHOSTUNREACH, within --timeout; reading goes on,
    on both mounts; what was written is in the cache, and sent when they are back."""
    files = Files(fresh)
    with fresh.dead("A", "B"):
        files.close_fails(errno.EHOSTUNREACH)
        assert (files.reader.point / "before").read_bytes() == files.before
        assert files.waiting() == ["/file"]
    files.wait_sent()


def test_one_of_three_answers(fresh: MountedCluster):
    """Goal: S4, S9, S13. The same where two stand still, but that the time-out may be told as what it is; and what was
    kept is sent as soon as one of them goes on."""
    files = Files(fresh)
    with fresh.frozen("A"):
        with fresh.frozen("B"):
            files.close_fails(errno.EHOSTUNREACH, errno.ETIMEDOUT)
            assert (files.reader.point / "before").read_bytes() == files.before
            assert files.waiting() == ["/file"]
        files.wait_sent()


@pytest.fixture
def full(fresh: MountedCluster) -> Iterator[list[Path]]:
    """The disks of A and B have no room until these files are removed."""
    with contextlib.ExitStack() as disks:
        for name in "AB":
            disks.enter_context(small_disk(fresh.home / name, 40))
        yield [fresh.home / name / "filler" for name in "AB"]
        fresh.stays_whole = False


def test_one_of_three_has_room(fresh: MountedCluster, full: list[Path]):
    """Goal: S4. With one full disk everybody goes on; with exactly two close() fails with ENOSPC, reading goes on, what
    was written is in the cache, and sent when one of them has room."""
    files = Files(fresh)
    fill_disk(full[0])
    (files.writer.point / "two copies").write_bytes(files.content[1:])
    fill_disk(full[1])
    files.close_fails(errno.ENOSPC)
    assert (files.reader.point / "before").read_bytes() == files.before
    assert (files.reader.point / "two copies").read_bytes() == files.content[1:]
    assert files.waiting() == ["/file"]
    full[1].unlink()
    files.wait_sent()
    full[0].unlink()
    wait_until(lambda: fresh.ask("directory")["short_chunks"] == 0, "the other one has got what it missed")
    assert_whole(fresh.home, read=True)
    for mount in (files.writer, files.reader):
        mount.unmount()
    wait_until(lambda: not processes_of(fresh.home), "the cluster ends")
