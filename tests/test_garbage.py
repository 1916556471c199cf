"""What nobody needs is deleted by real servers, and nothing else ever is."""

import functools
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_group import wait_until
from kept_group import QUICK, KeptGroup, kept_group, noise

from dfsfuse import messages
from dfsfuse.chunks import Piece
from dfsfuse.messages import Manifest
from servers.packs import PACK_BYTES_MAX


@pytest.fixture
def group(folder: Path) -> Iterator[KeptGroup]:
    with kept_group(folder) as made:
        yield made


def test_what_was_removed_is_deleted_everywhere(group: KeptGroup):
    """Goal: S11. Chunks of a removed file, and those of a content that another one has replaced, are gone from all
    disks; what another file shares with it stays."""
    shared = noise(3)
    group.store("removed", [*shared, *noise(20), os.urandom(PACK_BYTES_MAX)])
    group.store("kept", [*shared, *noise(2)])
    group.store("changed", noise(2))
    group.remove("removed")
    group.store("changed", noise(2))
    group.wait_nothing_else()
    group.wait_everything_everywhere()


def test_a_server_that_was_away_deletes_too(group: KeptGroup):
    """Goal: what became garbage while a server was away is deleted there after its return."""
    group.store("f", noise(10))
    group.kill("B")
    group.remove("f")
    group.store("g", noise(1))
    group.start("B")
    group.wait_nothing_else()
    group.wait_everything_everywhere()


def test_uploads_that_were_never_committed(group: KeptGroup):
    """Goal: chunks of which no log tells are found by going through the inventory."""
    group.store("f", noise(3))
    for data in [*noise(5), os.urandom(PACK_BYTES_MAX)]:
        group.upload(data)
    group.wait_nothing_else()
    group.wait_everything_everywhere()


def test_what_a_power_cut_brings_back(group: KeptGroup):
    """Goal: chunks that are there again after a restart, as their deletion was lost, are deleted again."""
    group.store("f", noise(4))
    group.store("gone", noise(40))
    wait_until(lambda: len(group.has("C")) == 44, "C has all of it")
    group.kill("C")
    shutil.copytree(group.folder / "C", group.folder / "before")
    group.start("C")
    group.remove("gone")
    group.wait_nothing_else()
    group.kill("C")
    start = (group.folder / "C" / "start").read_text()
    shutil.rmtree(group.folder / "C")
    shutil.move(group.folder / "before", group.folder / "C")
    (group.folder / "C" / "start").write_text(start)
    group.start("C")
    group.wait_nothing_else()
    group.wait_everything_everywhere()


def test_commits_while_everything_is_collected(group: KeptGroup):
    """Goal: with files stored, replaced and removed at once, and rounds of deletion each 0.2 s: each content whose
    commit was answered is there, on all servers, and in the end nothing else is."""
    same = noise(1)
    wrong: list[Exception] = []

    def churn(number: int) -> None:
        try:
            for turn in range(12):
                group.store(f"f{number}", [*same, *noise(3)])
                if turn % 4 == 3 and number:
                    group.remove(f"f{number}")
        except Exception as error:  # noqa: BLE001 - whatever it is fails the test
            wrong.append(error)

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    group.wait_nothing_else()
    group.wait_everything_everywhere()


def test_an_upload_in_flight(group: KeptGroup):
    """Goal: a chunk that loses its last file while another upload of it is on its way: either the commit is refused, or
    the chunk stays."""
    for turn in range(8):
        data = noise(1)
        group.store("old", data)
        row = group.upload(data[0])
        group.remove("old")
        made = group.ask("create", messages.Create(names=[b"new"], ino=0, mode=0o100644), messages.Made)
        if turn % 2:
            wait_until(functools.partial(is_nowhere, group, row.chunk), "it is deleted")
        request = messages.Commit(
            ino=made.attributes.ino, token=0, base_version=made.attributes.version, base_commit_id=b"",
            commit_id=secrets.token_bytes(16), size=len(data[0]), mtime_ns=1,
            manifest=Manifest([[Piece(row.chunk, 0, len(data[0]))]]), receipts=[row],
        )  # fmt: skip
        if not group.is_void("commit", request):
            assert not turn % 2
            group.files["new"] = data
            group.wait_nothing_else()
            group.wait_everything_everywhere()
            del group.files["new"]
        group.ask("remove", messages.Remove(names=[b"new"]), messages.Removed)


def is_nowhere(group: KeptGroup, chunk: bytes) -> bool:
    return not any(server.ask("GET", f"/v1/chunks/{chunk.hex()}")[0] == 200 for server in group.servers.values())


def test_a_database_that_commits_all_day(folder: Path):
    """Goal: a file that is changed again and again, for many times what it holds: what disks have is bounded by what is
    live, and some packs."""
    with kept_group(folder, QUICK) as group:
        pages = noise(16, 100_000)
        written = 0
        while written < 260 << 20:
            for _ in range(8):
                pages[secrets.randbelow(16)] = os.urandom(100_000)
            group.store("database", pages)
            written += 800_000
        group.wait_nothing_else()
        for name in "ABC":
            wait_until(lambda n=name: disk_bytes(folder / n) < (128 << 20) + 3 * 2_000_000, "the disk is free again")


def disk_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
