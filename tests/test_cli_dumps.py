"""`dfs dump` and `dfs load` against a real cluster: while it is in use, after its directory is lost, and with clients
that have caches."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dfs_command import RUN_S, Dfs, environment, running, write_files
from models import check_tree
from support import MountedCluster, alive, processes_of, wait_until

from dfsfuse import home as homes
from dfsfuse.messages import from_json
from dfsfuse.messages.dumps import DumpLine
from servers.load import load
from servers.store.memory import MemoryStore

FILES = {"small": b"content", "folder/large": os.urandom(5 << 20), "folder/below/\xe4": b"named", "empty": b""}


@pytest.fixture
def dfs() -> Iterator[Dfs]:
    with running() as command:
        yield command


def lose_directory(home: Path) -> None:
    """Its disk is gone; the servers have ended before."""
    wait_until(lambda: not processes_of(home), "everything has ended")
    shutil.rmtree(home / "directory")


def test_a_lost_directory_comes_back(dfs: Dfs, folder: Path) -> None:
    """Goal: with a dump and the file servers' disks the volume is as it was at the dump, contents and all."""
    write_files(folder / "files", FILES)
    dfs("put", "-r", folder / "files", "/")
    assert b"lines" in dfs("dump", folder / "dump")
    before = dfs.json("status")["volume"]
    dfs("write", "/later", given=b"not in the dump")
    dfs("cluster", "stop")
    lose_directory(dfs.home)
    said = dfs("load", folder / "dump").decode()
    assert before in said
    assert said.splitlines()[-1] == f"to start it: dfs --home {dfs.home} cluster start; and then: dfs check"
    dfs("cluster", "start")
    assert dfs.json("status")["volume"] == before
    dfs("get", "-r", "/files", folder / "back")
    back = {str(path.relative_to(folder / "back")): path.read_bytes() for path in (folder / "back").rglob("*")
            if path.is_file()}  # fmt: skip
    assert back == FILES
    assert "no file" in dfs.failure("stat", "/later")
    dfs("write", "/later", given=b"goes on")
    assert dfs("cat", "/later") == b"goes on"


_BUSY = """
import sys
from dfsfuse.messages import *
from dfsfuse.rpc import Rpc
url, token = sys.argv[1:]
rpc, at = Rpc(token), 0
while True:
    rpc.call(url, "rename", Rename(names=[b"moves%d" % at], new_names=[b"moves%d" % (1 - at)]), Renamed, 30)
    at = 1 - at
    rpc.call(url, "link", Link(names=[b"moves%d" % at], new_names=[b"other"]), Made, 30)
    print("one", flush=True)
    rpc.call(url, "remove", Remove(names=[b"other"]), Removed, 30)
"""


def test_dumps_of_a_volume_in_use(dfs: Dfs, folder: Path) -> None:
    """Goal: each dump is of one moment, whatever a client does meanwhile: invariants hold in it, and what is moved
    about has one place."""
    write_files(folder / "files", {f"{number}": b"x" for number in range(300)})
    dfs("put", "-r", folder / "files", "/")
    dfs("write", "/moves0", given=b"content")
    endpoint, token = homes.read_cluster(dfs.home).directory, homes.read_token(dfs.home)
    command = [sys.executable, "-c", _BUSY, endpoint, token]
    busy = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert busy.stdout.readline()
        for number in range(8):
            dfs("dump", folder / f"dump{number}")
        assert busy.poll() is None, busy.stderr.read()
    finally:
        busy.kill()
        busy.communicate()
    places = set()
    for number in range(8):
        lines = (folder / f"dump{number}").read_bytes().splitlines(keepends=True)
        store = MemoryStore()
        assert load(store, lines, 1).inodes == 303
        check_tree(store)
        names = [row.name.name for line in lines if (row := from_json(line, DumpLine)).name and row.name.folder == 1]
        (place,) = {b"moves0", b"moves1"} & set(names)
        places.add((place, b"other" in names))
    assert len(places) > 1, "nothing happened meanwhile"


def test_dumps_through_pipes(dfs: Dfs, folder: Path) -> None:
    """Goal: `-` is standard output and standard input, and nothing else is in it."""
    dfs("write", "/file", given=b"content")
    lines = dfs("dump", "-")
    other = Dfs(MountedCluster(folder / "other"))
    assert b"2 inodes" in other("load", "-", given=lines)
    assert without_short_copies(lines) == without_short_copies(_start(other)("dump", "-"))
    other("cluster", "stop")


def without_short_copies(lines: bytes) -> list[bytes]:
    """What does not change by itself: servers get what they lack meanwhile."""
    return [line for line in lines.splitlines()[1:-1] if not line.startswith(b'{"short"')]


def _start(dfs: Dfs) -> Dfs:
    dfs("cluster", "start")
    return dfs


def test_what_cannot_be_dumped_or_loaded(dfs: Dfs, folder: Path) -> None:
    """Goal: nothing is overwritten, neither files nor volumes; half a dump is none; each error says what to do."""
    dfs("write", "/file", given=b"content")
    dfs("dump", folder / "dump")
    assert "exists" in dfs.failure("dump", folder / "dump")
    assert dfs.failure("dump", folder / "nowhere" / "dump") == f"{folder}/nowhere/dump: No such file or directory"
    assert dfs.failure("dump", folder / "dump" / "below") == f"{folder}/dump/below: Not a directory"
    assert [path.name for path in folder.iterdir()] == ["dump"]
    assert f"end it first: dfs --home {dfs.home} cluster stop" in dfs.failure("load", folder / "dump")
    assert dfs.run("--cluster", "127.0.0.1:1", "load", folder / "dump").returncode == 2
    dfs("cluster", "stop")
    wait_until(lambda: not processes_of(dfs.home), "everything has ended")
    assert "files in it, and is not overwritten" in dfs.failure("load", folder / "dump")
    assert "no such file" in dfs.failure("load", folder / "none")
    other = Dfs(MountedCluster(folder / "other"))
    (folder / "half").write_bytes((folder / "dump").read_bytes()[:-10])
    (folder / "cut").write_bytes(b"".join((folder / "dump").read_bytes().splitlines(keepends=True)[:-1]))
    for half in ("half", "cut"):
        assert any(word in other.failure("load", folder / half) for word in ("line 5 is no line", "cut off"))
        assert sorted(path.name for path in (other.home / "directory").iterdir()) == ["server.lock"]
    dfs.cluster.stays_whole = False
    (dfs.home / "directory" / "directory.db").write_bytes(b"no database" * 1000)
    assert "move it away first" in dfs.failure("load", folder / "dump")


def test_an_empty_volume_is_replaced(dfs: Dfs, folder: Path) -> None:
    """Goal: a home whose volume has nothing in it takes a dump, again and again, and its log is not taken for the new
    database's."""
    dfs("write", "/file", given=b"content")
    dfs("dump", folder / "dump")
    other = _start(Dfs(MountedCluster(folder / "other")))
    os.kill(homes.read_cluster(other.home).supervisor_pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(other.home), "everything has ended")
    other("load", folder / "dump")
    assert other.json("ls", "/")[0]["name"] == "file"
    clean = subprocess.run([*other.command("cluster", "stop")], env=environment(), timeout=RUN_S, check=False)
    assert clean.returncode == 0


def read(path: Path) -> bytes:
    """Empty where it cannot be read yet."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


@pytest.mark.mounted
def test_a_mount_goes_on_after_a_load(fresh: MountedCluster, folder: Path) -> None:
    """Goal: a client that was there before the directory was lost goes on: what it has cached of a version after the
    dump is not shown, what it had not committed is kept as a copy where it was based on such a version, and is
    committed where it was not."""
    dfs, mount = Dfs(fresh), fresh.mount()
    for name in ("one", "two", "three"):
        (mount.point / name).write_bytes(b"in the dump")
    dfs("dump", folder / "dump")
    other = Dfs(MountedCluster(folder / "other"))
    other("load", folder / "dump")
    (mount.point / "one").write_bytes(b"after it")
    (mount.point / "two").write_bytes(b"after it")
    written = [os.open(mount.point / name, os.O_WRONLY) for name in ("two", "three")]
    for descriptor in written:
        os.pwrite(descriptor, b"open", 0)
    client = mount.pid
    os.kill(client, signal.SIGSTOP)
    supervisor = homes.read_cluster(fresh.home).supervisor_pid
    servers = [server.pid for server in homes.read_cluster(fresh.home).servers]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, [supervisor, *servers])), "the cluster is gone")
    # No process is started while the client stands still: its copy of the descriptors would wait for the client.
    shutil.rmtree(fresh.home / "directory")
    (other.home / "directory").rename(fresh.home / "directory")
    os.kill(client, signal.SIGCONT)
    wait_until(lambda: read(mount.point / "one") == b"in the dump", "the volume of the dump is seen")
    for descriptor in written:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    assert (mount.point / "one").read_bytes() == b"in the dump"
    assert (mount.point / "two").read_bytes() == b"in the dump"
    found = {path.name: path.read_bytes() for path in mount.point.iterdir()}
    copies = [content for name, content in found.items() if "(conflict " in name and name.startswith("two")]
    assert copies == [b"openr it"]
