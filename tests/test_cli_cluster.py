"""The command `dfs` on the cluster itself: locks, status, uploads that failed, start and stop, several at once."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator

import pytest
from dfs_command import RUN_S, Dfs, environment
from support import MountedCluster, wait_until

from dfsfuse import home as homes


@contextlib.contextmanager
def killed_for_good(dfs: Dfs, *names: str) -> Iterator[None]:
    """Within the block these servers are dead, and nobody starts them; after it they are up again."""
    with dfs.cluster.dead(*names):
        yield
    wait_until(lambda: all(service["up"] for service in status(dfs)["services"]), "all are up again")
    wait_until(lambda: not dfs.run("locks").returncode, "the lock service is found again")


def status(dfs: Dfs) -> dict:
    outcome = dfs.run("status", "--json")
    return json.loads(outcome.stdout)


# -- quota


def test_quota_is_shown_set_and_kept(dfs):
    """Goal: limits for people and programs; a write beyond them fails with a line that says what to do, and is kept
    until there is room, as any that cannot be sent; `none` takes a limit away."""
    before = dfs.json("quota")
    assert (before["bytes_max"], before["inodes_max"]) == (None, None)
    dfs("write", "/limited", given=b"x" * 1000)
    set_to = dfs.json("quota", "--bytes", before["used_bytes"] + 3000, "--inodes", "1K")
    assert set_to == {**before, "used_bytes": before["used_bytes"] + 1000, "used_inodes": before["used_inodes"] + 1,
                      "bytes_max": before["used_bytes"] + 3000, "inodes_max": 1024}  # fmt: skip
    outcome = dfs.run("write", "/limited", given=b"x" * 5000)
    assert outcome.returncode == 1
    assert b"quota" in outcome.stderr
    assert dfs.json("stat", "/limited")["size"] == 1000
    assert b"beyond the quota of the volume: 1000 B of " in outcome.stderr or b" KiB of " in outcome.stderr
    assert [line.split()[0] for line in dfs("quota").decode().splitlines()[1:]] == ["bytes", "inodes"]
    below = dfs.run("quota", "--bytes", "10")
    assert below.returncode == 0
    assert b" used, and the limit is 10 B: what is there stays" in below.stderr
    dfs("quota", "--bytes", set_to["bytes_max"])
    dfs("quota", "--inodes", set_to["used_inodes"])
    assert b"quota" in dfs.run("mkdir", "/one-more").stderr
    cleared = dfs.json("quota", "--bytes", "none", "--inodes", "none")
    assert (cleared["bytes_max"], cleared["inodes_max"]) == (None, None)
    dfs("mkdir", "/one-more")
    assert dfs("cat", "/limited") == b"x" * 5000, "what was kept is sent once there is room"
    dfs("rm", "-r", "/limited", "/one-more")


# -- locks


def test_locks_shows_who_writes_and_who_waits(dfs):
    """Goal: the holder and the places of the queue, for people and programs; the one who waits gets the lock next."""
    assert dfs.json("locks") == []
    nobody = dfs.run("locks")
    assert (nobody.returncode, nobody.stdout) == (0, b"")
    assert nobody.stderr.startswith(b"dfs: no file is open for writing, and no program has locked one")
    with dfs.held("/locked") as holder:
        waiter = dfs.start("write", "/locked")
        row = wait_until(lambda: (row := dfs.lock("/locked"))["waiters"] and row, "one waits")
        assert row["holder"]["pid"] == holder.pid
        assert row["holder"]["age_s"] > 0
        assert [(other["place"], other["pid"]) for other in row["waiters"]] == [(1, waiter.pid)]
        holds, waits = dfs("locks").decode().splitlines()[1:]
        assert holds.startswith("holds ")
        assert waits.startswith("waits, 1. ")
        assert holds.endswith(" s  /locked")
        assert holder.communicate(b"first", RUN_S) == (b"", b"")
        assert waiter.communicate(b"second", RUN_S) == (b"", b"")
    assert dfs("cat", "/locked") == b"second"
    assert all(row["holder"]["kept"] for row in dfs.json("locks", "--kept"))
    wait_until(lambda: dfs.lock("/locked") is None, "the lock is free")


def test_a_lock_that_does_not_come_free(dfs):
    """Goal: after --lock-wait one line says who has the file, and the file stays as it is."""
    dfs("write", "/busy", given=b"before")
    with dfs.held("/busy") as holder:
        line = dfs.failure("--lock-wait", "0.2", "write", "/busy", given=b"other")
        assert line.startswith("/busy: ")
        assert "/busy is open for writing by " in line
        assert f"(pid {holder.pid})" in line
        assert dfs("cat", "/busy") == b"before"


# -- status


def test_status(dfs):
    """Goal: each service with its address and numbers, the volume's figures and the sessions, as text and as JSON."""
    dfs("write", "/counted", given=b"12345")
    with dfs.held("/held") as holder:
        known = dfs.json("status")
        text = dfs("status").decode()
    assert [(s["name"], s["kind"], s["up"]) for s in known["services"]] == [
        ("directory", "directory", True), ("locks", "locks", True),
        ("A", "files", True), ("B", "files", True), ("C", "files", True),
    ]  # fmt: skip
    running_now = dfs.cluster.servers()
    for service in known["services"]:
        assert (service["address"], service["pid"]) == (
            running_now[service["name"]].url,
            running_now[service["name"]].pid,
        )
        assert service["address"] in text
    files = known["services"][2:]
    assert all(service["chunks"] and service["stored_bytes"] and service["free_bytes"] for service in files)
    assert (known["copies"], known["copies_min"], known["short_chunks"]) == (3, 2, 0)
    assert known["used_bytes"] >= 5
    session = next(row for row in known["sessions"] if row["pid"] == holder.pid)
    assert (session["live"], session["unsent_files"], session["mountpoint"]) == (True, 0, "dfs-0")
    assert f"volume {known['volume']} at " in text


@pytest.mark.parametrize(("name", "trouble"), [("B", "refuses connections"), ("locks", "refuses connections")])
def test_status_while_a_server_is_dead(dfs, name, trouble):
    """Goal: a dead file server or lock service is shown at once as not up, and why; it comes back by itself."""
    with killed_for_good(dfs, name):
        services = {service["name"]: service for service in dfs.json("status")["services"]}
        assert [service["up"] for service in services.values()].count(False) == 1
        assert not services[name]["up"]
        assert trouble in services[name]["trouble"]
        line = next(line for line in dfs("status").decode().splitlines() if line.startswith(f"{name} "))
        assert " no " in line
        assert trouble in line
        if name == "locks":
            assert dfs.failure("locks").startswith("the lock service is down: ")
        dfs("ls")


def test_status_while_the_directory_is_dead(dfs):
    """Goal: what can be known is shown; the exit status and one line tell that it is not everything."""
    with killed_for_good(dfs, "directory"):
        outcome = dfs.run("status", "--json")
        assert outcome.returncode == 1
        assert outcome.stderr.startswith(b"dfs: the directory is down: ")
        ups = {service["name"]: service["up"] for service in json.loads(outcome.stdout)["services"]}
        assert ups == {"directory": False, "locks": True, "A": True, "B": True, "C": True}
        assert "refuses connections" in dfs.failure("--timeout", "0.5", "ls")


def test_status_without_a_cluster(folder):
    """Goal: asking starts nothing, and makes no folder. A home whose cluster is stopped is told from one that has none,
    with what to do."""
    other = Dfs(MountedCluster(folder))
    assert other.failure("status").startswith(f"no cluster in {folder}/home; ")
    assert not (folder / "home").exists()
    (folder / "home").mkdir()
    assert other.failure("status").startswith(f"no cluster in {folder}/home; ")
    assert b"no cluster runs" in other("cluster", "stop")
    assert os.listdir(folder / "home") == []
    other("cluster", "start")
    assert other.json("status")["state"] == "running"
    other("cluster", "stop")
    outcome = other.run("status", "--json")
    assert (outcome.returncode, json.loads(outcome.stdout)["state"]) == (1, "stopped")
    assert other.failure("status") == (
        f"the cluster in {folder}/home is stopped; to start it: dfs --home {folder}/home cluster start, or a mount"
    )
    assert homes.read_cluster(other.home) is None


# -- what could not be sent


def test_an_upload_that_fails_is_kept_shown_and_sent_later(dfs):
    """Goal: without file servers write fails with one line; status tells why; the next command sends the content."""
    with dfs.cluster.frozen("A", "B", "C"):
        line = dfs.failure("--timeout", "1", "write", "/unsent", given=b"kept")
        assert line.startswith("/unsent: not on the servers: ")
        (upload,) = dfs.json("status")["uploads"]
        assert (upload["path"], upload["size"]) == ("/unsent", 4)
        assert upload["reason"] in line
        assert upload["cache"].startswith(str(dfs.home))
        text = dfs("status").decode()
        assert "\nnot on the servers yet:\n" in text
        assert ", 0 short chunks; 3 copies, " in text
    dfs("mkdir", "/another")
    assert dfs.json("status")["uploads"] == []
    assert dfs("cat", "/unsent") == b"kept"


def test_what_a_killed_command_left_is_sent_by_a_later_one(dfs):
    """Goal: SIGKILL during an upload loses nothing, whichever cache folder the command had."""
    with dfs.held("/holds-dfs-0") as first, dfs.cluster.frozen("A", "B", "C"):
        process = dfs.start("write", "/left")
        process.stdin.write(b"left behind")
        process.stdin.close()
        uploads = wait_until(lambda: dfs.json("status")["uploads"], "it is on its way")
        assert [(upload["path"], upload["reason"]) for upload in uploads] == [("/left", "on its way")]
        assert uploads[0]["cache"].endswith("/dfs-1")
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        first.communicate(b"")
    wait_until(lambda: dfs.json("locks") == [], "the killed command's lock has lapsed")
    dfs("mkdir", "/later")
    assert dfs("cat", "/left") == b"left behind"
    assert dfs.json("status")["uploads"] == []


# -- clusters


def test_cluster_start_and_stop(folder):
    """Goal: start brings the cluster up to stay; stop ends it, or says that it is in use; the data stays."""
    other = Dfs(MountedCluster(folder))
    assert b"no cluster runs" in other("cluster", "stop")
    try:
        assert str(other.home).encode() in other("cluster", "start")
        other("write", "/kept", given=b"kept")
        with other.held("/held"):
            assert b"is in use" in other("cluster", "stop")
        other("cluster", "start")
        assert b"has ended" in other("cluster", "stop")
        assert homes.read_cluster(other.home) is None
        assert other("cat", "/kept") == b"kept"
    finally:
        other.run("cluster", "stop")


def test_a_cluster_by_its_address(dfs, folder):
    """Goal: --cluster URL and $DFS_TOKEN reach a cluster from another home; a wrong token or address is one line."""
    dfs("write", "/far", given=b"far")
    url = homes.read_cluster(dfs.home).directory
    away = Dfs(MountedCluster(folder))
    assert "no token" in away.failure("--cluster", url, "ls")

    def ask(token: str, *arguments: str) -> subprocess.CompletedProcess:
        known = environment() | {"DFS_TOKEN": token}
        return subprocess.run(away.command(*arguments), env=known, capture_output=True, timeout=RUN_S, check=False)

    token = homes.read_token(dfs.home)
    for command, output in (("cat", b"far"), ("ls", b"/far\n")):
        assert ask(token, "--cluster", url.removeprefix("http://"), command, "/far").stdout == output
    assert ask(token, "--cluster", url, "status", "--json").returncode == 0
    for command in ("ls", "status", "mkdir"):
        outcome = ask("wrong", "--cluster", url, command, *(["/x"] if command != "status" else []))
        assert outcome.returncode == 1
        assert b"token" in outcome.stderr
        assert outcome.stderr.count(b"\n") == 1
    outcome = ask(token, "--timeout", "0.2", "--cluster", "127.0.0.1:1", "ls")
    assert (outcome.returncode, outcome.stderr) == (
        1,
        b"dfs: no cluster answers at http://127.0.0.1:1: Connection refused\n",
    )
    for address in ("nonsense", "ftp://127.0.0.1:1", "http://127.0.0.1:1/bla"):
        assert b"is not the address" in ask(token, "--cluster", address, "ls").stderr


def test_commands_at_the_same_time(dfs):
    """Goal: many at once each have a cache of their own, and each does its work."""
    dfs("mkdir", "/together")
    writers = [dfs.start("write", f"/together/{number}") for number in range(6)]
    assert [writer.communicate(b"x" * 1000, RUN_S) for writer in writers] == [(b"", b"")] * 6
    assert [row["size"] for row in dfs.json("ls", "/together")] == [1000] * 6
