"""Promises on real mounts: what the kernel keeps, and how two clients get on in one folder."""

import os
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from support import Mount, run_mount, wait_until
from tcp_proxy import proxy

from dfsfuse import home as homes

FILES = 300
STALL_S = 3.0
TOLD_S = 3.0
"""Within that a client has seen that its lease is over, and told its kernel, though a look waits for a second."""


def test_two_clients_create_in_one_folder_as_fast_as_they_can(two_mounts):
    """Goal: S2, S13. The kernel holds the folder's lock while a file is made, and is told to forget names of it by the
    other's events: nobody stalls, and each reads at once what the other has closed."""
    here, there = two_mounts
    slowest, wrong = [0.0], []

    def work(mine: Path, others: Path, tag: str) -> None:
        for number in range(FILES):
            begun = time.monotonic()
            (mine / f"{tag}{number}").write_text(f"{tag} {number}")
            seen = (others / f"{tag}{number}").read_text()
            slowest[0] = max(slowest[0], time.monotonic() - begun)
            if seen != f"{tag} {number}":
                wrong.append((tag, number, seen))

    threads = [threading.Thread(target=work, args=args) for args in ((here, there, "a"), (there, here, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert slowest[0] < STALL_S
    assert len(os.listdir(here)) == len(os.listdir(there)) == 2 * FILES


def test_replaced_again_and_again(two_mounts):
    """Goal: S2. One client replaces a file by rename, the other opens it as soon as that has returned: it has the new
    one each time, though its kernel knows the name of the old."""
    here, there = two_mounts
    for number in range(FILES):
        (here / "new").write_text(str(number))
        os.rename(here / "new", here / "file")
        assert (there / "file").read_text() == str(number)


def test_a_folder_on_the_way_is_replaced(two_mounts):
    """Goal: S2. The same for a folder: the path leads through the new one at once."""
    here, there = two_mounts
    for number in range(50):
        (here / "next").mkdir()
        (here / "next" / "file").write_text(str(number))
        if number:
            os.rename(here / "folder", here / f"old{number}")
        os.rename(here / "next", here / "folder")
        assert (there / "folder" / "file").read_text() == str(number)


def test_attributes_and_listings_elsewhere(two_mounts):
    """Goal: S14. What the kernel was told for long is over within a moment of the change."""
    here, there = two_mounts
    (here / "file").write_text("x")
    for number in range(30):
        assert (there / "file").stat().st_size == number + 1
        assert sorted(os.listdir(there)) == sorted(os.listdir(here))
        with (here / "file").open("a") as handle:
            handle.write("x")
        (here / f"more{number}").touch()
        _until(lambda size=number + 2: (there / "file").stat().st_size == size)
        _until(lambda name=f"more{number}": name in os.listdir(there))


def test_what_a_client_that_is_cut_off_tells(fresh):
    """Goal: S14. A client that hears nothing any more has promises until their lease ends; then its kernel, which was
    told of a file and of its name for an hour, asks again, and does not tell what is not so any more."""
    there = fresh.mount().point
    (there / "file").write_bytes(b"old")
    (there / "replaced").write_bytes(b"old")
    with proxy(urlsplit(fresh.servers()["directory"].url).port) as way:
        here = _joined(fresh, way.url)
        names = ("file", "replaced")
        assert [(here.point / name).stat().st_size for name in names] == [3, 3]
        way.cut()
        begun = time.monotonic()
        (there / "file").write_bytes(b"newer")
        assert time.monotonic() - begun > 1, "it waits for the end of what was promised"
        (there / "new").write_bytes(b"newest")
        os.rename(there / "new", there / "replaced")
        for name in names:
            wait_until(lambda name=name: not _tells(here.point / name, 3), f"the old {name} is not told of", TOLD_S)
        here.unmount()


def _joined(cluster, url: str) -> Mount:
    """A client with a home of its own, which reaches the directory this way alone."""
    point, home = cluster.folder / "joined", cluster.folder / "own"
    point.mkdir()
    token = homes.read_token(cluster.home)
    outcome = run_mount(point, "--home", home, "--cluster", url, "--timeout", 1, DFS_TOKEN=token)
    assert outcome.returncode == 0, outcome.stderr
    return Mount(cluster, point, home)


def _tells(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _until(holds) -> None:
    deadline = time.monotonic() + 1
    while not holds():
        assert time.monotonic() < deadline
