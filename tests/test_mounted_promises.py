"""Promises on real mounts: what the kernel keeps, and how two clients get on in one folder."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support import Mount, run_mount, wait_until
from tcp_proxy import proxy

from dfsfuse import home as homes

pytestmark = pytest.mark.mounted

FILES = 300
STALL_S = 3.0
TOLD_S = 3.0
"""Within that a client has seen that its lease is over, and told its kernel, though a look waits for a second."""


@pytest.mark.drivers("linux", "fusepy")
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


@pytest.mark.drivers("linux", "fusepy")
def test_replaced_again_and_again(two_mounts):
    """Goal: S2. One client replaces a file by rename, the other opens it as soon as that has returned: it has the new
    one each time, though its kernel knows the name of the old."""
    here, there = two_mounts
    for number in range(FILES):
        (here / "new").write_text(str(number))
        os.rename(here / "new", here / "file")
        assert (there / "file").read_text() == str(number)


@pytest.mark.drivers("linux", "fusepy")
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


@pytest.mark.drivers("linux", "fusepy")
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


class Stopwatch:
    """`slowest`: the operation that has taken longest, and how long."""

    def __init__(self) -> None:
        self.slowest = (0.0, "")

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.slowest = max(self.slowest, (time.monotonic() - begun, what))


@pytest.mark.drivers("linux", "fusepy")
def test_two_clients_create_the_same_names_as_fast_as_they_can(two_mounts):
    """Goal: S1, S2, S13. Both make a name at the same moment, again and again: one of them finds that it is there,
    which its kernel did not know when it locked the folder. Each opens, at once, the one file, with what the other has
    closed; nothing of the file that had the name before shows; and no operation stalls."""
    barrier, took = threading.Barrier(2), Stopwatch()

    def work(side: int) -> None:
        for number in range(FILES):
            path, mine = two_mounts[side] / f"name{number % 3}", b"%d of %d\n" % (side, number)
            barrier.wait(STALL_S * 4)
            _add_line(path, mine, took)
            with took("stat"):
                size = path.stat().st_size
            assert size >= len(mine)
            barrier.wait(STALL_S * 4)
            lines = path.read_bytes().splitlines(keepends=True)
            assert sorted(lines) == [b"%d of %d\n" % (each, number) for each in range(2)], f"round {number}"
            barrier.wait(STALL_S * 4)
            if number % 2 == side:
                with took("unlink"):
                    path.unlink()

    _both(work, barrier)
    assert took.slowest[0] < STALL_S, took.slowest


def _add_line(path: Path, line: bytes, took: Stopwatch) -> None:
    """The content is read and written as a whole: one that was opened too old would be put back."""
    with took("open"):
        fd = _made_or_opened(path)
    try:
        with took("read and write"):
            os.pwrite(fd, os.pread(fd, 1000, 0) + line, 0)
    finally:
        with took("close"):
            os.close(fd)


def _made_or_opened(path: Path) -> int:
    """The kernel looks once more where a name has come meanwhile; if that has gone again by then, it says ESTALE."""
    deadline = time.monotonic() + STALL_S
    while True:
        try:
            return os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            if error.errno != errno.ESTALE or time.monotonic() > deadline:
                raise


def _both(work: Callable[[int], None], barrier: threading.Barrier) -> None:
    """One thread for each mount; where one fails the other does not wait for it."""

    def run(side: int) -> None:
        try:
            work(side)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        outcomes = [done.exception() for done in [pool.submit(run, side) for side in range(2)]]
    failed = [error for error in outcomes if error is not None]
    for error in sorted(failed, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error


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
