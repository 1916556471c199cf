"""Small files that programs have read and closed, kept open for the next program that opens them."""

import os
import resource
from collections.abc import Iterator

import pytest
from fake_filesystem import FakeFileSystem
from fuse_requests import Kernel, request_bytes

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers import fuse_spares
from dfsfuse.drivers.fuse_backing import LEAST_BYTES
from dfsfuse.drivers.fuse_channel import HEAD, Request
from dfsfuse.messages import EVERYTHING, RENAME_EXCHANGE

_KEPT = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def add(kernel: Kernel, name: bytes = b"file") -> int:
    """A file of which everything is promised, and whose pages the kernel has."""
    ino = kernel.fs.add(name)
    kernel.fs.contents[ino].data[:] = b"content"
    kernel.fs.promised.add(ino)
    kernel.lookup(name)
    fh, _ = kernel.open(ino)
    kernel.read(fh, 10)
    kernel.release(fh)
    kernel.fs.files.calls.clear()
    return ino


def opens_and_closes(kernel: Kernel) -> list[str]:
    return [call[0] for call in kernel.fs.files.calls if call[0] in ("open", "release")]


def test_what_was_closed_is_opened_again(kernel: Kernel):
    """Goal: neither the opens nor the closes after the first one reach the file system; the kernel keeps its pages, and
    what is read through the open file is the content."""
    ino = add(kernel)
    for _ in range(3):
        fh, flags = kernel.open(ino)
        assert flags == _KEPT
        assert kernel.read(fh, 100).body == b"content"
        kernel.release(fh)
    assert opens_and_closes(kernel) == []
    assert len(kernel.driver.files.spares) == 1


def test_two_programs_at_a_time_have_open_files_of_their_own(kernel: Kernel):
    """Goal: what one has open nobody else gets, and one spare file is kept when both have closed."""
    ino = add(kernel)
    one, _ = kernel.open(ino)
    two, _ = kernel.open(ino)
    assert one != two
    assert opens_and_closes(kernel) == ["open"]
    kernel.release(one)
    kernel.release(two)
    assert opens_and_closes(kernel) == ["open", "release"]
    assert len(kernel.driver.files.spares) == 1


def not_promised(kernel: Kernel, ino: int) -> None:
    kernel.fs.promised.discard(ino)


def newer(kernel: Kernel, ino: int) -> None:
    kernel.fs.replace_content(ino, b"newer")


def leads_elsewhere(kernel: Kernel, ino: int) -> None:
    kernel.fs.names[1, b"another name"] = kernel.fs.names.pop((1, b"file"))
    kernel.fs.names[1, b"file"] = kernel.fs.add(b"other")


def locked(kernel: Kernel, ino: int) -> None:
    kernel.fs.program_locks.shared.add(ino)


def touched(kernel: Kernel, ino: int) -> None:
    kernel.fs.set_attributes((ino, ()), mtime_ns=99)


def superseded(kernel: Kernel, ino: int) -> None:
    nodes = kernel.driver.nodes
    nodes._supersede(nodes.get(ino))


def forgotten(kernel: Kernel, ino: int) -> None:
    kernel.send(request_bytes(fuse.FUSE_FORGET, fuse.fuse_forget_in.pack(1), ino))
    kernel.lookup(b"file")


@pytest.mark.parametrize(
    "change", [not_promised, newer, leads_elsewhere, locked, touched, superseded, forgotten], ids=lambda f: f.__name__
)
def test_what_may_be_something_else_is_opened_anew(kernel: Kernel, change):
    """Goal: S2. The file that was kept is closed, and the open goes its usual way, where anything has changed that an
    open must heed."""
    ino = add(kernel)
    change(kernel, ino)
    kernel.fs.files.calls.clear()
    kernel.ask(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(os.O_RDONLY, 0), ino)
    assert opens_and_closes(kernel)[0] == "release"
    assert len(kernel.driver.files.spares) == 0


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_NONBLOCK, os.O_NOATIME])
def test_other_flags_are_another_open(kernel: Kernel, flags: int):
    """Goal: what is kept serves opens with the same flags alone, and is closed before the file is opened otherwise."""
    ino = add(kernel)
    kernel.open(ino, flags)
    assert opens_and_closes(kernel) == ["release", "open"]


def test_a_promise_that_is_broken_closes(kernel: Kernel):
    """Goal: S11. Nothing is kept open of what others change or remove; what is broken of a folder's names does not
    matter, as an open asks where the name leads."""
    one, _ = add(kernel, b"one"), add(kernel, b"two")
    kernel.fs.broken[-1](1, b"one")
    assert opens_and_closes(kernel) == []
    kernel.fs.broken[-1](one, b"")
    assert opens_and_closes(kernel) == ["release"]
    add(kernel, b"three")
    kernel.fs.broken[-1](EVERYTHING, b"")
    assert opens_and_closes(kernel) == ["release", "release"]
    assert len(kernel.driver.files.spares) == 0


def test_what_is_not_promised_when_it_is_closed_is_not_kept(kernel: Kernel):
    """Goal: a promise that was broken while a program had the file open is not broken again."""
    ino = add(kernel)
    fh, _ = kernel.open(ino)
    kernel.fs.promised.discard(ino)
    kernel.release(fh)
    assert opens_and_closes(kernel) == ["release"]


def test_names_that_go_take_it_along(kernel: Kernel):
    """Goal: S11. Before this client removes a file, or puts another in its place, nothing is kept open of it."""
    for name in (b"unlinked", b"replaced", b"exchanged", b"moved"):
        add(kernel, name)
    kernel.do(fuse.FUSE_UNLINK, b"unlinked\0")
    assert opens_and_closes(kernel) == ["release"]
    kernel.do(fuse.FUSE_RENAME, fuse.fuse_rename_in.pack(1) + b"moved\0replaced\0")
    assert opens_and_closes(kernel) == ["release"] * 2
    exchange = fuse.fuse_rename2_in.pack(1, RENAME_EXCHANGE)
    kernel.do(fuse.FUSE_RENAME2, exchange + b"replaced\0exchanged\0")
    assert opens_and_closes(kernel) == ["release"] * 3


def test_what_is_kept_is_small_and_was_read(kernel: Kernel):
    """Goal: files that were open for writing, that programs lock, or that are large are closed at once."""
    ino = add(kernel)
    fh, _ = kernel.open(ino, os.O_RDWR)
    kernel.release(fh)
    assert len(kernel.driver.files.spares) == 0
    fh, _ = kernel.open(ino)
    kernel.driver.files.handle(fh).share = object()
    kernel.release(fh)
    assert len(kernel.driver.files.spares) == 0
    fh, _ = kernel.open(ino)
    kernel.fs.contents[ino].data.extend(bytes(LEAST_BYTES))
    kernel.release(fh)
    assert len(kernel.driver.files.spares) == 0
    assert opens_and_closes(kernel).count("open") == opens_and_closes(kernel).count("release") - 1


def test_the_oldest_is_closed_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch):
    """Goal: a bound on descriptors; those that were closed last stay."""
    monkeypatch.setattr(fuse_spares.Spares.__init__, "__defaults__", (2,))
    kernel = Kernel()
    try:
        inos = [add(kernel, b"%d" % number) for number in range(4)]
        assert len(kernel.driver.files.spares) == 2
        kernel.fs.files.calls.clear()
        for ino in inos[2:]:
            kernel.open(ino)
        assert opens_and_closes(kernel) == []
    finally:
        kernel.close()


@pytest.mark.parametrize("scarce", ["cache", "descriptors"])
def test_where_there_is_little_of_something_few_are_kept(scarce: str, monkeypatch: pytest.MonkeyPatch):
    """Goal: what nobody has open takes a quarter of a small cache at most, and of the files that the client may have
    open at once: the rest is for what programs open."""
    filesystem = FakeFileSystem()
    if scarce == "cache":
        filesystem.cache_bytes = 9 * (64 << 10)
    else:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (9, 9))
    kernel = Kernel(filesystem)
    for number in range(5):
        add(kernel, b"%d" % number)
    assert len(kernel.driver.files.spares) == 2
    kernel.close()


def meanwhile(kernel: Kernel, opcode: int, body: bytes, ino: int) -> None:
    """Another thread of the driver answers a request."""
    request = Request(kernel.theirs.fileno())
    message = request_bytes(opcode, body, ino)
    request.end = HEAD + len(message)
    request.buffer[HEAD : request.end] = message
    kernel.driver.answer(request)
    request.close()
    assert [reply.error for reply in kernel.written()] == [0]


@pytest.mark.parametrize("way", ["unlink", "rename", "truncate", "open"])
def test_what_is_closed_while_the_file_goes_or_is_opened_for_writing(kernel: Kernel, way: str):
    """Goal: S4, S11. A program closes the file just then: nothing is kept of it either."""
    ino = add(kernel)
    fh, _ = kernel.open(ino)
    method = {"unlink": "remove"}.get(way, way)
    act = getattr(kernel.fs, method)

    def close_first(*arguments: object, **more: object) -> object:
        meanwhile(kernel, fuse.FUSE_RELEASE, fuse.fuse_release_in.pack(fh, 0, 0, 0), ino)
        assert len(kernel.driver.files.spares) == 1
        return act(*arguments, **more)

    setattr(kernel.fs, method, close_first)
    if way == "unlink":
        kernel.do(fuse.FUSE_UNLINK, b"file\0")
    elif way == "rename":
        kernel.fs.add(b"other")
        kernel.do(fuse.FUSE_RENAME, fuse.fuse_rename_in.pack(1) + b"other\0file\0")
    elif way == "truncate":
        kernel.do(fuse.FUSE_SETATTR, fuse.fuse_setattr_in.pack(fuse.FATTR_SIZE, 0, 3, *[0] * 10), ino)
    else:
        kernel.do(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(os.O_WRONLY, 0), ino)
    assert len(kernel.driver.files.spares) == 0


def test_the_end_of_the_mount_closes_all(kernel: Kernel):
    """Goal: what is kept is closed with the mount."""
    ino = add(kernel)
    kernel.driver.end()
    assert kernel.fs.files.calls == [("release", ino)]


def test_an_open_that_nobody_waits_for_is_closed(kernel: Kernel):
    """Goal: the kernel does not take the answer where the program is gone: then the file is closed."""
    ino = add(kernel)
    kernel._request.device = os.open(os.devnull, os.O_RDONLY)
    kernel.send(request_bytes(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(os.O_RDONLY, 0), ino))
    os.close(kernel._request.device)
    assert opens_and_closes(kernel) == ["release"]
