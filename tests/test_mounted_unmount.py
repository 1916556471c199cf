"""`dfs unmount`: what is not on the servers yet is told, kept for the next mount, or, with --flush, sent before."""

import os
import subprocess
import sys

import pexpect
import pytest
from dfs_command import Dfs, environment
from support import ROOT, Mount, alive, wait_until

from dfsfuse.commands.unmounting import Stall
from dfsfuse.sent_bytes import SentBytes, sent_in

pytestmark = pytest.mark.mounted


def write_in_vain(mount: Mount, *names: str) -> None:
    """Files of one byte more each; close() fails, as no file server answers."""
    for number, name in enumerate(names, 1):
        with pytest.raises(OSError):  # noqa: PT011
            (mount.point / name).write_bytes(b"x" * number)


def is_mounted(mount: Mount) -> bool:
    return os.path.ismount(mount.point)


def unmounted(dfs: Dfs, mount: Mount, *options: str) -> str:
    """What it says, after the name of the mount."""
    line = dfs("unmount", *options, mount.point).decode()
    assert line.startswith(f"{mount.point} is unmounted")
    assert not is_mounted(mount)
    return line


@pytest.mark.parametrize("options", [(), ("--flush",)])
def test_all_is_on_the_servers(fresh, options):
    """Goal: with nothing to wait for it is umount, and says so; the client has ended when it returns."""
    mount, other = fresh.mount(), fresh.mount()
    (mount.point / "file").write_bytes(b"content")
    pid = mount.pid
    assert unmounted(Dfs(fresh), mount, *options).endswith("; all of it is on the servers\n")
    assert not alive(pid)
    assert (other.point / "file").read_bytes() == b"content"


def test_flush_waits_until_all_is_sent(fresh):
    """Goal: while the file servers stand still it waits, and tells for how many files and why; then everything is sent,
    and only then it unmounts."""
    mount, other, dfs = fresh.mount("--timeout", 1), fresh.mount(), Dfs(fresh)
    with fresh.frozen("A", "B", "C"):
        write_in_vain(mount, "one", "two")
        waiting = dfs.start("unmount", "--flush", mount.point)
        line = waiting.stdout.readline().decode()
        assert line.startswith("waiting for 2 files, 3 B: /one: ")
        assert is_mounted(mount)
    said, complaint = waiting.communicate(timeout=30)
    assert (waiting.returncode, complaint) == (0, b"")
    assert said.decode().endswith(f"{mount.point} is unmounted; all of it is on the servers\n")
    assert not is_mounted(mount)
    assert dfs.json("status")["uploads"] == []
    assert [(other.point / name).read_bytes() for name in ("one", "two")] == [b"x", b"xx"]


def test_flush_shows_a_bar_on_a_terminal(fresh):
    """Goal: a person sees how much is left."""
    mount, dfs = fresh.mount("--timeout", 1), Dfs(fresh)
    with fresh.frozen("A", "B", "C"):
        write_in_vain(mount, "one")
        command = dfs.command("unmount", "--flush", mount.point)
        terminal = pexpect.spawn(command[0], command[1:], env=environment(), timeout=30, use_poll=True)
        terminal.expect("1 file left, /one:")
    terminal.expect("100%")
    terminal.expect("is unmounted")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_flush_gives_up(fresh):
    """Goal: S13. Where nothing goes on for --timeout it ends, with the reason; the mount stays, and goes on trying."""
    mount, other, dfs = fresh.mount("--timeout", 1), fresh.mount(), Dfs(fresh)
    with fresh.frozen("A", "B", "C"):
        write_in_vain(mount, "file")
        outcome = dfs.run("--timeout", 2, "unmount", "--flush", mount.point)
        assert outcome.returncode == 1
        line = outcome.stderr.decode()
        assert line.startswith(
            f"dfs: {mount.point} stays mounted, as 1 file could not be sent, and nothing has gone on"
        )
        assert " 2 s: /file: " in line
        assert is_mounted(mount)
    wait_until(lambda: (other.point / "file").read_bytes() == b"x", "it is sent all the same", 20)


@pytest.mark.parametrize("command", ["dfs unmount", "umount"])
def test_without_flush_the_next_mount_sends_it(fresh, command):
    """Goal: S4. Unmounting does not wait for what cannot be sent: it is kept, listed with the reason, and sent by the
    next mount on the same mountpoint."""
    mount, other, dfs = fresh.mount("--timeout", 1), fresh.mount(), Dfs(fresh)
    with fresh.frozen("A", "B", "C"):
        write_in_vain(mount, "one", "two")
        if command == "umount":
            mount.unmount()
        else:
            told = unmounted(dfs, mount)
            assert f"; not on the servers yet: 2 files, 3 B; the next mount on {mount.point} sends them" in told
        uploads = dfs.json("status")["uploads"]
        assert [(upload["path"], upload["size"]) for upload in uploads] == [("/one", 1), ("/two", 2)]
        assert all(upload["reason"] for upload in uploads)
    fresh.mount(point=mount.point)
    wait_until(lambda: dfs.json("status")["uploads"] == [], "all is sent", 20)
    assert [(other.point / name).read_bytes() for name in ("one", "two")] == [b"x", b"xx"]


def test_what_is_refused(fresh):
    """Goal: what is no mount, or of another home, or used by programs, is told, and stays."""
    mount, dfs = fresh.mount(), Dfs(fresh)
    assert dfs.failure("unmount", fresh.folder) == f"{fresh.folder}: no dfsfuse volume is mounted there"
    elsewhere = Dfs(fresh)
    elsewhere.home = fresh.folder / "elsewhere"
    assert "its client is not of home" in elsewhere.failure("unmount", mount.point)
    with (mount.point / "open").open("w"):
        line = dfs.failure("unmount", "--flush", mount.point)
        assert "busy" in line
        assert f"fuser -vm {mount.point}" in line
    assert is_mounted(mount)


def test_a_killed_client_is_unmounted(fresh):
    """Goal: the dead mount goes; what it has left is told, and cannot be flushed before it is mounted again."""
    mount, other, dfs = fresh.mount("--timeout", 1), fresh.mount(), Dfs(fresh)
    with fresh.frozen("A", "B", "C"):
        write_in_vain(mount, "file")
        mount.kill()
    assert dfs.failure("unmount", "--flush", mount.point).startswith(
        f"{mount.point}: its client was killed, so nothing"
    )
    assert ", as its client was killed; not on the servers yet: 1 file, 1 B; " in unmounted(dfs, mount)
    again = fresh.mount(point=mount.point)
    unmounted(dfs, again, "--flush")
    assert dfs.json("status")["uploads"] == []
    assert (other.point / "file").read_bytes() == b"x"


def test_what_is_sent_is_progress(tmp_path):
    """Goal: a large file whose upload takes longer than the time-out is waited for, as long as its bytes travel."""
    now, folder = 0.0, tmp_path
    sent = SentBytes(folder)
    stall = Stall(10.0, lambda: now)
    for step in range(5):
        sent.tell(step * 4_000_000)
        assert not stall.is_over(([("/large", 1 << 30)], sent_in(folder)))
        now += 9.0
    assert not stall.is_over(([("/large", 1 << 30)], sent_in(folder)))
    now += 10.5
    assert stall.is_over(([("/large", 1 << 30)], sent_in(folder)))
    sent.close()


def test_a_client_tells_how_much_it_has_sent(fresh):
    """Goal: the count is that of a real client's uploads."""
    mount = fresh.mount()
    before = sent_in(mount.folder)
    (mount.point / "file").write_bytes(os.urandom(5_000_000))
    assert sent_in(mount.folder) - before == 5_000_000
    subprocess.run(["umount", mount.point], check=True)


@pytest.mark.drivers("linux", "fusepy")
def test_a_mountpoint_of_any_bytes(fresh):
    """Goal: a name that is not UTF-8 is a mountpoint like any other: mounted, named as it is on one's terminal and
    percent-encoded in JSON, and unmounted."""
    point, dfs = os.fsencode(fresh.folder) + b"/odd\xff", Dfs(fresh)
    os.mkdir(point)
    command = [sys.executable, ROOT / "mount.py", "--home", fresh.home, "--driver", fresh.driver, point]
    outcome = subprocess.run(command, env=environment(), capture_output=True, timeout=60, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert b" is mounted on " + point in outcome.stdout
    with open(point + b"/file", "wb") as file:
        file.write(b"content")
    assert dfs("cat", "/file") == b"content"
    shown = f"{fresh.folder}/odd%FF"
    assert shown in [session["mountpoint"] for session in dfs.json("status")["sessions"]]
    assert dfs("unmount", point) == point + b" is unmounted; all of it is on the servers\n"
