"""Files that the Linux driver keeps open for the next program (fuse_spares.py), over a whole client: when they stay,
and when they go."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Servers
from filesystems import Machine
from fuse_requests import Kernel, request_bytes
from volumes import Volume

from dfsfuse.cache_index import unsent_in
from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.places import place_of
from servers import open_rows
from servers.store.memory import MemoryStore

_KEPT = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH


class Mount:
    """A machine and the kernel of its mount, whose only other client is `there`. `ino` is that of /file."""

    def __init__(self, home: Path):
        volume, servers = Volume(MemoryStore()), Servers()
        self.here = Machine(volume, servers, home / "here", watches=True)
        self.there = Machine(volume, servers, home / "there", watches=True)
        self.there.write("/file", b"content")
        self.ino = volume.at("file").ino
        self.kernel = Kernel(self.here.files)
        self.kernel.lookup(b"file")

    def open(self) -> int:
        """Read by a program, and open."""
        fh, _ = self.kernel.open(self.ino)
        assert self.kernel.read(fh, 100).body == b"content"
        return fh

    def keep(self) -> None:
        """A program has opened it, read it and closed it."""
        self.kernel.release(self.open())
        assert self.kept == 1

    @property
    def kept(self) -> int:
        return len(self.kernel.driver.files.spares)

    def rows(self) -> list[object]:
        """What of the file is open here, as the directory knows after a renewal."""
        self.here.session.renew()
        volume = self.here.volume
        return volume.store.read(lambda tx: open_rows.of(tx, self.ino, self.here.session.id))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path)
    yield made
    made.kernel.close()


def test_the_next_program_has_it_without_an_open(mount: Mount) -> None:
    """Goal: neither the directory nor the cache is asked, whoever opens it, as often as that may be."""
    mount.keep()
    asked, (content,) = mount.here.session.asked.total(), mount.here.cache.in_use()
    for _ in range(3):
        fh, flags = mount.kernel.open(mount.ino)
        assert flags == _KEPT
        assert mount.kernel.read(fh, 100).body == b"content"
        mount.kernel.release(fh)
    assert mount.here.session.asked.total() == asked
    assert mount.here.cache.in_use() == [content]


@pytest.mark.parametrize("looked_at", [True, False])
def test_nothing_is_kept_of_what_has_no_name_any_more(mount: Mount, looked_at: bool) -> None:
    """Goal: S11. A file that was removed here while a program has it open is gone with the last close, also where the
    directory has promised once more what is left of it."""
    fh = mount.open()
    mount.kernel.do(fuse.FUSE_UNLINK, b"file\0")
    if looked_at:
        mount.kernel.do(fuse.FUSE_GETATTR, bytes(16), mount.ino)
    mount.kernel.release(fh)
    assert mount.kept == 0
    assert mount.rows() == []


def test_nothing_is_kept_of_what_others_have_removed(mount: Mount) -> None:
    """Goal: as above, where another client has removed it."""
    fh = mount.open()
    mount.there.files.remove(place_of("/file"), folder=False)
    mount.kernel.do(fuse.FUSE_GETATTR, bytes(16), mount.ino)
    mount.kernel.release(fh)
    assert mount.kept == 0
    assert mount.rows() == []


def test_nothing_is_kept_of_a_new_file_that_is_gone(mount: Mount) -> None:
    """Goal: S11. Of a file that no version was ever committed of nothing is promised when its name has gone."""
    handle = mount.here.create("/new")
    fh, _ = mount.kernel.open(mount.kernel.lookup(b"new"))
    mount.kernel.do(fuse.FUSE_UNLINK, b"new\0")
    mount.kernel.release(fh)
    assert mount.kept == 0
    mount.here.close(handle)
    assert mount.here.cache.in_use() == []


def test_what_is_written_meanwhile_is_not_kept(mount: Mount) -> None:
    """Goal: S4. What waits to be sent is in use by programs alone, and by none where none has it open: it matters to
    what becomes of it, and it may grow."""
    fh = mount.open()
    handle = mount.here.open("/file", os.O_WRONLY)
    mount.kernel.release(fh)
    assert mount.kept == 0
    mount.here.put(handle, b"CONTENT")
    mount.here.close(handle)
    assert mount.there.read("/file") == b"CONTENT"


def test_a_truncation_by_name_closes_it(mount: Mount) -> None:
    """Goal: as above; it is not opened for that as files are."""
    mount.keep()
    body = fuse.fuse_setattr_in.pack(fuse.FATTR_SIZE, 0, 3, *[0] * 10)
    mount.kernel.do(fuse.FUSE_SETATTR, body, mount.ino)
    assert mount.there.stat("/file").size == 3
    assert mount.kept == 0


def test_a_new_session_opens_nothing_for_it(mount: Mount) -> None:
    """Goal: a client that comes back after its session has ended asks for what programs have open, one after the other;
    what was kept is closed instead."""
    mount.keep()
    before = mount.here.session.asked["Open"]
    mount.here.session.begin_anew()
    assert mount.kept == 0
    assert mount.here.session.asked["Open"] == before


def test_what_others_have_changed_is_opened_anew(mount: Mount) -> None:
    """Goal: S2. It is closed with the event of the change, and the next program reads the newer content."""
    mount.keep()
    mount.there.write("/file", b"newer content")
    assert mount.kept == 0
    mount.kernel.lookup(b"file")
    fh, _ = mount.kernel.open(mount.ino)
    assert mount.kernel.read(fh, 100).body == b"newer content"


def test_what_no_names_lead_to_is_opened_as_ever(mount: Mount) -> None:
    """Goal: S2. A program that is in a folder which another client has moved has its file; one that comes by the
    folder's former name, to which the kernel still holds, is to look it up again, and finds what is there now."""
    mount.there.make("/d")
    mount.there.write("/d/file", b"content")
    folder = mount.kernel.lookup(b"d")
    mount.ino = mount.kernel.lookup(b"file", folder)
    mount.there.files.rename(place_of("/d"), place_of("/e"))
    mount.there.make("/d")
    mount.there.write("/d/file", b"another file")
    opening = fuse.fuse_open_in.pack(os.O_RDONLY, 0)
    assert mount.kernel.ask(fuse.FUSE_OPEN, opening, mount.ino).error == errno.ESTALE
    mount.kernel.lookup(b"file", folder)
    mount.keep()
    mount.kernel.lookup(b"file", folder)
    (reply,) = mount.kernel.send(request_bytes(fuse.FUSE_OPEN, opening, mount.ino, pid=78))
    assert reply.error == errno.ESTALE
    assert mount.kept == 0


def test_what_was_written_here_is_clean_before_it_is_kept(mount: Mount) -> None:
    """Goal: S15. What is kept open is in use, and a crash would find what was last known of it: so first the index has
    heard that all of it is sent. Else `dfs status` told of it as left open by a killed client, and what a power cut has
    taken of it from this disk became a copy."""
    mount.here.write("/mine", b"content")
    mount.ino = mount.kernel.lookup(b"mine")
    mount.kernel.release(mount.open())
    mount.here.cache.maintain()
    assert unsent_in(mount.here.home / "index.db") == []
    mount.kernel.lookup(b"mine")
    mount.keep()
    mount.here.cache.maintain()
    assert unsent_in(mount.here.home / "index.db") == []


def test_a_look_after_the_lease_has_ended_tells_the_newest_size(mount: Mount) -> None:
    """Goal: S14. A client that was cut off has not heard of a change. What it looks up when it is back is told as it
    is: a version that no program has open any more does not matter to the size, though it is kept still."""
    mount.keep()
    here = mount.here
    here.volume.core.promises.end(here.session.id)
    here.files._attributes._lease.end()
    here.files.forget_names()
    mount.there.write("/file", b"newer content")
    mount.kernel.lookup(b"file")
    told = mount.kernel.do(fuse.FUSE_GETATTR, bytes(16), mount.ino)
    assert fuse.fuse_attr.unpack_from(told, len(told) - fuse.fuse_attr.size)[1] == len(b"newer content")
    assert mount.kept == 0
