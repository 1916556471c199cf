"""`dfs check` on a real cluster: what is wrong is found and told, also while the volume is in use, and repaired."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dfs_command import Dfs, environment, running, write_files
from support import processes_of, wait_until
from test_cli_cluster import killed_for_good

from dfsfuse import errors, messages
from dfsfuse import home as homes
from dfsfuse.commands import check
from servers import records
from servers.store import Transaction
from servers.store.sqlite import SqliteStore


@pytest.fixture
def dfs() -> Iterator[Dfs]:
    with running() as command:
        yield command


def checked(dfs: Dfs, *options: str) -> tuple[int, dict]:
    outcome = dfs.run("check", "--json", *options)
    return outcome.returncode, json.loads(outcome.stdout)


def broken(dfs: Dfs, how: Callable[[Transaction], None]) -> None:
    """The directory's rows are changed behind its back."""
    with stopped(dfs):
        store = SqliteStore(dfs.home / "directory" / "directory.db")
        store.transact(how)
        store.close()


@contextlib.contextmanager
def stopped(dfs: Dfs) -> Iterator[None]:
    """Without servers. What was written before is on their disks."""
    dfs("cluster", "stop")
    wait_until(lambda: not processes_of(dfs.home), "everything has ended")
    yield
    dfs("cluster", "start")


def chunk_files(dfs: Dfs, server: str) -> list[Path]:
    return sorted(path for path in (dfs.home / server / "chunks").rglob("*") if path.is_file())


def test_a_whole_volume(dfs: Dfs, folder: Path) -> None:
    """Goal: exit status 0, and what was looked at: rows, chunks, on which servers, read or only looked for."""
    write_files(folder / "files", {"small": b"1", "same": b"1", "large": bytes(range(256)) * (20 << 10)})
    dfs("put", "-r", folder / "files", "/")
    status, whole = checked(dfs)
    assert (status, whole["problems"], whole["unchecked"]) == (0, [], {})
    assert (whole["chunks"], whole["read"], whole["servers"]) == (3, True, ["A", "B", "C"])
    assert whole["rows"] > 8
    assert checked(dfs, "--quick")[1]["read"] is False
    text = dfs("check").decode()
    assert text.endswith(" rows of metadata looked at; 3 chunks read and hashed, on A B C: nothing is wrong\n")


def test_metadata_that_is_wrong(dfs: Dfs) -> None:
    """Goal: the path, what is wrong and what repairing does; exit status 1. Repaired, the volume is whole, and exit
    status 0 says so."""
    dfs("mkdir", "/folder")
    dfs("write", "/folder/file", given=b"content")
    ino = dfs.json("stat", "/folder/file")["inode"]

    def spoil(tx: Transaction) -> None:
        inode = records.get_inode(tx, ino)
        inode.nlink = 9
        records.put_inode(tx, ino, inode)
        tx.delete(records.entry_key(1, b"folder"))

    broken(dfs, spoil)
    outcome = dfs.run("check")
    assert outcome.returncode == 1
    lines = outcome.stdout.decode().splitlines()
    assert "/folder/file: it counts 9 links, and has 1 (--repair: it counts 1)" in lines
    assert lines[-1].endswith("problems")
    repaired = dfs.run("check", "--repair")
    assert repaired.returncode == 0, repaired.stdout
    assert "after repairing:" in repaired.stdout.decode()
    assert repaired.stdout.decode().splitlines()[-1].endswith("nothing is wrong")
    (name,) = dfs("ls", "/lost+found").decode().split()
    assert dfs("cat", f"/lost+found/{name}/file") == b"content"


def test_a_copy_that_is_missing(dfs: Dfs) -> None:
    """Goal: the server and the file are named; repairing makes it known as short, and the server fetches it."""
    dfs("write", "/file", given=b"x" * (1 << 20))
    (file,) = chunk_files(dfs, "B")
    content = file.read_bytes()
    file.unlink()
    status, whole = checked(dfs, "--quick")
    (problem,) = whole["problems"]
    assert (status, problem["kind"], problem["server"], problem["path"]) == (1, "copy_missing", "B", "/file")
    assert checked(dfs, "--quick", "--repair")[0] == 0
    assert checked(dfs, "--quick")[1]["problems"] == []
    wait_until(file.exists, "the copy is there again")
    assert file.read_bytes() == content


def test_a_chunk_that_nobody_has(dfs: Dfs) -> None:
    """Goal: what is lost is told with the file that it belongs to, and repairing pretends nothing.

    Method: it is lost long after it was written; what is lost within a second of that is put back to what was before.
    """
    dfs.cluster.stays_whole = False
    dfs("write", "/file", given=b"x" * (1 << 20))
    dfs("write", "/other", given=b"y" * (1 << 20))
    with stopped(dfs):
        lost = min(file.name for file in chunk_files(dfs, "A"))
        for server in "ABC":
            for file in chunk_files(dfs, server):
                if file.name == lost:
                    file.unlink()
    for options in (["--quick"], ["--quick", "--repair"], []):
        status, whole = checked(dfs, *options)
        problems = (whole["after_repair"] or whole)["problems"]
        assert status == 1
        assert "chunk_lost" in {problem["kind"] for problem in problems}
        assert len({problem["path"] for problem in problems}) == 1
        assert all(lost in problem["what"] for problem in problems)


def test_copies_are_read(dfs: Dfs) -> None:
    """Goal: a copy that is not what its name says is found by reading, and not by --quick; it is set aside, and another
    server's takes its place."""
    dfs("write", "/file", given=b"x" * (1 << 20))
    (file,) = chunk_files(dfs, "C")
    content = file.read_bytes()
    spoiled = bytearray(content)
    spoiled[5000] ^= 1
    file.write_bytes(spoiled)
    corrupt = dfs.home / "C" / "corrupt"
    assert checked(dfs, "--quick")[0] == 0
    assert not list(corrupt.iterdir())
    checked(dfs)
    assert list(corrupt.iterdir())
    wait_until(lambda: file.exists() and file.read_bytes() == content, "the copy is there again")
    assert checked(dfs)[0] == 0


def test_what_cannot_be_checked(dfs: Dfs, folder: Path) -> None:
    """Goal: exit status 2, and the reason: a server that is down, or no cluster at all."""
    dfs("write", "/file", given=b"content")
    with killed_for_good(dfs, "B"):
        status, whole = checked(dfs)
        assert (status, list(whole["unchecked"]), whole["servers"]) == (2, ["B"], ["A", "C"])
        assert whole["problems"] == []
        assert b"B was not checked: " in dfs.run("check").stdout
    nowhere = subprocess.run(
        [sys.executable, "-m", "dfsfuse", "--home", folder, "check"],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert nowhere.returncode == 2
    assert b"could not be checked: no cluster in" in nowhere.stderr


class Restarting:
    """A directory that is killed after each page, so many times."""

    def __init__(self, kills: int):
        self.kills = kills

    def ask(self, operation: str, request: messages.Check, reply: type) -> messages.Checked:
        if request.page and self.kills:
            self.kills -= 1
            raise errors.NotFound("begin again")
        return messages.Checked(looked=10, more=request.page < 3)


def test_a_directory_that_starts_again_meanwhile() -> None:
    """Goal: the check begins anew, and counts nothing twice; not for ever."""
    assert sum(page.looked for page in check._pages(Restarting(2))) == 40
    with pytest.raises(errors.NotFound):
        check._pages(Restarting(3))


def test_surplus_is_no_problem(dfs: Dfs) -> None:
    """Goal: what nobody needs, such as an upload that was not committed, is counted for each server."""
    chunk = "8e4c7c1b99dbfd50e7a95185fead5ee1448fa904a2fdd778eaf5f2dbfd629a99"
    url = dfs.cluster.servers()["A"].url
    token = f"Authorization: Bearer {homes.read_token(dfs.home)}"
    command = ["curl", "-sf", "-H", token, "-X", "PUT", "--data-binary", "@-", f"{url}/v1/chunks/{chunk}"]
    subprocess.run(command, input=b"hello\n", check=True, capture_output=True)
    whole = wait_until(lambda: (found := checked(dfs)[1])["surplus"].get("A") and found, "the chunk is in an inventory")
    assert (whole["problems"], whole["surplus"]["A"]) == ([], 1)


_BUSY = """
import errno, os, random, sys
from pathlib import Path
point, choose = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
print("begins", flush=True)
while True:
    name = point / f"{choose.randrange(20)}"
    try:
        if choose.random() < 0.3:
            name.unlink()
        elif choose.random() < 0.3:
            os.replace(name, point / f"{choose.randrange(20)}")
        else:
            name.write_bytes(choose.randbytes(choose.choice((10, 5000, 300_000))))
    except OSError as error:
        # The other mount may be quicker, be writing the same file, or replace it again and again.
        if error.errno not in (errno.ENOENT, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ESTALE):
            raise
"""


@pytest.mark.mounted
def test_a_volume_in_use(dfs: Dfs) -> None:
    """Goal: while two mounts write, replace and remove files all the time, the checker finds nothing wrong."""
    mounts = [dfs.cluster.mount().point for _ in range(2)]
    busy = [
        subprocess.Popen([sys.executable, "-c", _BUSY, point, str(seed)], stdout=subprocess.PIPE)
        for seed, point in enumerate(mounts)
    ]
    try:
        for process in busy:
            assert process.stdout.readline()
        for number in range(10):
            status, whole = checked(dfs, *(["--quick"] if number % 2 else []))
            assert (status, whole["problems"]) == (0, []), whole
        assert all(process.poll() is None for process in busy)
    finally:
        for process in busy:
            process.kill()
            process.communicate()
