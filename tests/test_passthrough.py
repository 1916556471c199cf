"""Passthrough over a file system in memory: which files the kernel is given, and that nothing is opened through a node
that the kernel would refuse, or that would be another version. The kernel's rules are at the top of fuse_nodes.py."""

import errno
import os
from collections.abc import Iterator

import pytest
from fake_filesystem import FakeContent
from fuse_requests import Kernel, request_bytes
from support import wait_until

from dfsfuse.drivers import fuse_nodes
from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_backing import LEAST_BYTES, Backing
from dfsfuse.drivers.fuse_lending import Lingering

DIRECT, KEPT, ITSELF = fuse.FOPEN_DIRECT_IO, fuse.FOPEN_KEEP_CACHE, fuse.FOPEN_PASSTHROUGH


class FakeBacking(Backing):
    """Ids that the kernel has now are in `given`."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.on, self.given, self.count = True, set(), 0

    def open(self, fd: int) -> int:
        self.count += 1
        self.given.add(self.count)
        return self.count

    def close(self, number: int) -> None:
        self.given.remove(number)


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, which stands still."""
    seconds = [100.0]
    monkeypatch.setattr(fuse_nodes.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def kernel(now) -> Iterator[Kernel]:
    made = Kernel()
    made.backing = made.driver.files._backing = made.driver.files._lending._backing = FakeBacking()
    yield made
    made.close()
    assert len(made.backing.given) == len(made.fs.files.lent)


def add(kernel: Kernel, name: bytes = b"file", size: int = LEAST_BYTES) -> int:
    """A file that the kernel may read itself, and has looked up."""
    ino = kernel.fs.add(name)
    kernel.fs.contents[ino].data.extend(bytes(size))
    assert kernel.lookup(name) == ino
    return ino


def replace(kernel: Kernel, ino: int) -> FakeContent:
    """A newer version of the same size."""
    size, version = kernel.fs.contents[ino].size, kernel.fs.contents[ino].version
    kernel.fs.replace_content(ino, bytes(size))
    kernel.fs.contents[ino].version = version + 1
    return kernel.fs.contents[ino]


def opened(kernel: Kernel, node: int, flags: int = os.O_RDONLY) -> tuple[int, int, int]:
    """(number, FOPEN_ flags other than NOFLUSH, backing id)."""
    body = kernel.do(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(flags, 0), node)
    fh, kept, backing = fuse.fuse_open_out.unpack(body)
    return fh, kept & ~fuse.FOPEN_NOFLUSH, backing


def refused(kernel: Kernel, node: int, flags: int = os.O_RDONLY) -> int:
    return kernel.ask(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(flags, 0), node).error


def test_large_files_are_given_and_taken_back(kernel):
    """Goal: what is opened to be read gets one id as long as anything is open through the node, and no flag that the
    kernel refuses beside it; smaller files, and what is opened for writing, are not given."""
    node = add(kernel)
    first, second = opened(kernel, node), opened(kernel, node)
    assert first[1:] == second[1:] == (ITSELF, 1)
    kernel.release(first[0])
    assert kernel.backing.given == {1}
    kernel.release(second[0])
    assert kernel.backing.given == set()
    assert opened(kernel, node)[1:] == (ITSELF, 2)
    small = add(kernel, b"small", LEAST_BYTES - 1)
    assert opened(kernel, small)[1:] == (0, 0)
    other = add(kernel, b"other")
    assert opened(kernel, other, os.O_RDWR)[1:] == (0, 0)


def test_what_is_in_the_kernels_pages_is_read_from_there(kernel):
    """Goal: a file that was just written, or fetched and read, is in the kernel's memory, and of the cache's file only
    the disk has it: it goes on being read from memory, until that is seen to be gone, or the file is there too."""
    node, read = add(kernel), LEAST_BYTES // 2

    def read_and_close(*offsets: int) -> int:
        fh, flags, backing = opened(kernel, node)
        for offset in offsets:
            kernel.read(fh, read, offset)
        kernel.release(fh)
        return backing

    writer = opened(kernel, node, os.O_RDWR)
    kernel.write(writer[0], b"x")
    kernel.release(writer[0])
    assert [read_and_close(), read_and_close(), read_and_close(0), read_and_close()] == [0, 0, 0, 1]
    kernel.fs.contents[node].lineage += 1
    writer = opened(kernel, node, os.O_RDWR)
    kernel.release(writer[0])
    kernel.fs.files.is_in_memory = lambda content: True
    assert read_and_close() == 2


def test_what_is_read_once_is_not_missed(kernel):
    """Goal: the first open of a content fills the kernel's pages: these reads do not tell that they are gone."""
    node = add(kernel)
    kernel.backing.on = False
    fh = opened(kernel, node)[0]
    for offset in range(0, LEAST_BYTES, 1 << 16):
        kernel.read(fh, 1 << 16, offset)
    kernel.release(fh)
    assert opened(kernel, node)[1:] == (KEPT, 0)
    small = add(kernel, b"small", 100)
    for _ in range(3):
        fh = opened(kernel, small)[0]
        kernel.read(fh, 4096)
        kernel.release(fh)
    assert opened(kernel, small)[1:] == (KEPT, 0)


def test_a_node_stays_as_it_is_while_it_is_open(kernel):
    """Goal: while a program has pages of it, as when it was opened for writing before, all others get pages too; the
    kernel would refuse the rest."""
    node = add(kernel)
    writer = opened(kernel, node, os.O_RDWR)
    kernel.write(writer[0], b"x")
    reader = opened(kernel, node)
    assert (writer[1:], reader[1:]) == ((0, 0), (KEPT, 0))
    kernel.release(writer[0])
    assert opened(kernel, node)[1:] == (KEPT, 0)
    assert kernel.backing.count == 0


def test_newer_version_has_another_node(kernel):
    """Goal: what is open goes on with its version; whoever opens it then is told to look again, and finds a node of the
    same inode; nothing else happens to it."""
    node = add(kernel)
    old = opened(kernel, node)
    replace(kernel, node)
    assert refused(kernel, node) == errno.ESTALE
    body = kernel.do(fuse.FUSE_LOOKUP, b"file\0")
    number, ino = fuse.fuse_entry_out.unpack_from(body)[0], fuse.fuse_attr.unpack_from(body, 40)[0]
    assert number >= fuse_nodes.FURTHER
    assert ino == node
    assert opened(kernel, number)[1:] == (0, 0)
    assert kernel.lookup(b"file") == number
    kernel.release(old[0])
    assert kernel.backing.given == set()
    assert refused(kernel, node) == errno.ESTALE


def test_a_look_up_that_sees_a_newer_version_finds_another_node(kernel):
    """Goal: an open that has looked again already, as its name had come to lead elsewhere, is not told to once more."""
    node = add(kernel)
    opened(kernel, node)
    replace(kernel, node)
    number = kernel.lookup(b"file")
    assert number != node
    assert opened(kernel, number)[1:] == (0, 0)


def test_writers_have_another_node(kernel):
    """Goal: stores through a mapping of theirs would be seen by nobody. The file is not touched before."""
    node = add(kernel)
    opened(kernel, node)
    handles = len(kernel.fs.handles)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        assert refused(kernel, node, flags) == errno.ESTALE
    assert len(kernel.fs.handles) == handles
    number = kernel.lookup(b"file")
    writer = opened(kernel, number, os.O_RDWR)
    assert writer[1:] == (0, 0)
    kernel.write(writer[0], b"x")
    assert opened(kernel, number)[1:] == (KEPT, 0)


@pytest.fixture
def writing(kernel) -> Kernel:
    """The kernel may write files itself."""
    kernel.fs.files.writable, kernel.fs.files.sizes = True, (LEAST_BYTES, 1 << 40)
    kernel.fs.files.is_in_memory = lambda content: True
    return kernel


def test_writers_are_given_the_file(writing):
    """Goal: who writes gets it, and who reads it meanwhile by the same id; the other way round too."""
    kernel, node = writing, add(writing)
    writer, reader = opened(kernel, node, os.O_RDWR), opened(kernel, node)
    assert writer[1:] == reader[1:] == (ITSELF, 1)
    assert opened(kernel, node, os.O_WRONLY)[1:] == (ITSELF, 1)
    other = add(kernel, b"other")
    assert opened(kernel, other)[1:] == opened(kernel, other, os.O_RDWR)[1:] == (ITSELF, 2)


def test_writers_whom_the_client_must_see(writing):
    """Goal: appends have their places, disks their own rules of alignment, and what is synced as it is written must
    reach servers: these get direct I/O beside the same id, or pages where nobody has it in passthrough. Programs that
    use locks are not given it."""
    kernel, node = writing, add(writing)
    opened(kernel, node, os.O_RDWR)
    for flags in (os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_DIRECT, os.O_RDWR | os.O_SYNC, os.O_RDWR | os.O_DSYNC):
        assert opened(kernel, node, flags)[1:] == (DIRECT | ITSELF, 1)
        assert opened(kernel, add(kernel, b"f%d" % flags), flags)[1:] == (0, 0)
    suid = add(kernel, b"suid")
    kernel.fs.inodes[suid].mode |= 0o4000
    assert opened(kernel, suid, os.O_RDWR)[1:] == (0, 0)


def test_synchronous_writes_beside_the_pages(writing):
    """Goal: S10. The kernel asks for the sync of what has gone through its pages, and of nothing else: what is written
    past them with O_SYNC, O_DSYNC or RWF_DSYNC is synced before it is answered, and no other write is."""
    kernel, node, calls = writing, add(writing), writing.fs.files.calls
    opened(kernel, node, os.O_RDWR)
    beside = opened(kernel, node, os.O_RDWR | os.O_DSYNC)[0]
    pages = opened(kernel, add(kernel, b"other"), os.O_RDWR | os.O_SYNC)[0]
    for fh, flags, synced in ((beside, os.O_DSYNC, True), (beside, os.O_SYNC, True), (beside, 0, False)):
        kernel.write(fh, b"x", open_flags=os.O_RDWR | flags)
        assert (calls[-1] == ("flush", node, True)) is synced
    kernel.write(pages, b"x", open_flags=os.O_RDWR | os.O_SYNC)
    assert calls[-1][0] == "write"


def test_who_cuts_what_only_readers_have_comes_again(writing):
    """Goal: a newer version must not be cut for nothing; with a writer there it is the version that is open."""
    kernel, node = writing, add(writing)
    reader = opened(kernel, node)
    assert refused(kernel, node, os.O_WRONLY | os.O_TRUNC) == errno.ESTALE
    kernel.release(reader[0])
    other = add(kernel, b"other")
    opened(kernel, other, os.O_RDWR)
    assert opened(kernel, other, os.O_WRONLY | os.O_TRUNC)[1:] == (ITSELF, 2)


def test_a_writer_is_closed_when_nobody_can_write_any_more(writing):
    """Goal: a mapping outlives RELEASE: until it ends the node stays as it is, with its id, and the file open."""
    kernel, node = writing, add(writing)
    files, content = kernel.fs.files, kernel.fs.contents[node]
    files.mapped.append(content)
    writer = opened(kernel, node, os.O_RDWR)
    kernel.release(writer[0])
    assert ("release", node) not in files.calls
    assert opened(kernel, node)[1:] == (ITSELF, 1)
    files.mapped.clear()
    wait_until(lambda: ("release", node) in files.calls, "it is released")
    assert kernel.backing.given == {1}


def test_others_that_linger_are_closed_whatever_fails(caplog):
    """Goal: what goes wrong with one file, of whatever kind it is, is logged, and the others are closed; one of which
    nobody could tell whether it is over is looked at again."""
    closed, looked_at = [], []

    def may_close(handle: int) -> bool:
        looked_at.append(handle)
        if looked_at == [1]:
            raise RuntimeError("looking")
        return handle in looked_at[:-1]

    def close(number: int) -> None:
        closed.append(number)
        if number == 1:
            raise RuntimeError("closing")

    lingering = Lingering(may_close, close)
    for number in (1, 2):
        lingering.add(number, number)
    wait_until(lambda: sorted(closed) == [1, 2], "both are closed", 5)
    lingering.add(3, 3)
    wait_until(lambda: closed[2:] == [3], "one that comes later is closed", 5)
    assert ("looking" in caplog.text, "closing" in caplog.text) == (True, True)


def test_files_that_linger_are_closed_with_the_mount(writing):
    """Goal: nobody waits for a mapping then."""
    kernel, node = writing, add(writing)
    kernel.fs.files.mapped.append(kernel.fs.contents[node])
    kernel.release(opened(kernel, node, os.O_RDWR)[0])
    kernel.driver.end()
    assert ("release", node) in kernel.fs.files.calls
    assert kernel.backing.given == set()


def test_the_version_that_is_open_can_be_opened_again(kernel):
    """Goal: through /proc/self/fd a program opens a node that look-ups do not find any more: with the same content that
    is the same file."""
    node = add(kernel)
    opened(kernel, node)
    assert refused(kernel, node, os.O_RDWR) == errno.ESTALE
    assert opened(kernel, node)[1:] == (ITSELF, 1)


def test_a_node_that_came_in_anothers_place_is_left_alone_for_a_while(kernel, now):
    """Goal: ESTALE makes the kernel look again once in each open(2). Whoever comes back must find a node that is not in
    passthrough again by then."""
    node = add(kernel)
    opened(kernel, node)
    assert refused(kernel, node, os.O_RDWR) == errno.ESTALE
    number = kernel.lookup(b"file")
    reader = opened(kernel, number)
    assert reader[1:] == (0, 0)
    assert opened(kernel, number, os.O_RDWR)[2] == 0
    other = add(kernel, b"other")
    opened(kernel, other)
    assert refused(kernel, other, os.O_RDWR) == errno.ESTALE
    number = kernel.lookup(b"other")
    now[0] += fuse_nodes.CALM_S + 0.1
    assert opened(kernel, number)[1:] == (ITSELF, 3)


def test_who_comes_again_finds_a_node_that_can_be_written(kernel, now):
    """Goal: a thread whose open was told to look again gets, at that look-up, a node through which anything can be
    opened, though another program has brought the one there is into passthrough meanwhile."""
    node = add(kernel)
    opened(kernel, node)
    assert refused(kernel, node, os.O_RDWR) == errno.ESTALE
    number = kernel.lookup(b"file")
    now[0] += fuse_nodes.CALM_S + 0.1
    opened(kernel, number)
    kernel.driver.files._comes_again(77, None)
    again = kernel.lookup(b"file")
    assert again not in (node, number)
    assert opened(kernel, again, os.O_RDWR)[1:] == (0, 0)


def test_attributes_of_an_inode_with_several_nodes_are_not_kept(kernel):
    """Goal: what is changed through one node is not told to the other, so the kernel asks each time; and forgets what
    it was told of the first one for long."""
    node = add(kernel)
    opened(kernel, node)
    replace(kernel, node)
    number = kernel.lookup(b"file")
    for each in (node, number):
        body = kernel.do(fuse.FUSE_GETATTR, fuse.fuse_getattr_in.pack(0, 0, 0), each)
        assert fuse.fuse_attr_out.unpack_from(body)[:2] == (0, 0)
    entry_s, attr_s, _, attr_ns = fuse.fuse_entry_out.unpack(kernel.do(fuse.FUSE_LOOKUP, b"file\0"))[2:6]
    assert (entry_s, attr_s, attr_ns) == (0, 0, 0)


def test_the_kernel_is_told_of_a_superseded_node(kernel):
    """Goal: attributes that it was told for long go."""
    node = add(kernel)
    opened(kernel, node)
    replace(kernel, node)
    told, reply = kernel.send(request_bytes(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(0, 0), node))
    assert (told.unique, told.error, reply.error) == (0, -fuse.FUSE_NOTIFY_INVAL_INODE, errno.ESTALE)
    assert fuse.fuse_notify_inval_inode_out.unpack(told.body) == (node, -1, 0)


def test_another_version_in_place_is_told_of_all_nodes(kernel):
    """Goal: the pages of each node of the inode go. Of broken promises nobody has to hear, as the kernel asks for the
    attributes of such nodes each time."""
    node = add(kernel)
    opened(kernel, node)
    replace(kernel, node)
    number = kernel.lookup(b"file")
    kernel.written()
    kernel.driver.forgetting.tell(node, b"")
    kernel.fs.program_locks.tell(kernel.fs.contents[node], node)
    told = [fuse.fuse_notify_inval_inode_out.unpack(reply.body) for reply in kernel.written()]
    assert told == [(node, 0, 0), (number, 0, 0)]


def test_nodes_of_an_inode_are_forgotten_one_by_one(kernel):
    """Goal: each as often as it was looked up; when all are gone the next one has the inode's number again."""
    nodes = kernel.driver.nodes
    node = add(kernel)
    fh = opened(kernel, node)[0]
    replace(kernel, node)
    number = kernel.lookup(b"file")
    nodes.forget(number, 1)
    third = kernel.lookup(b"file")
    assert third not in (node, number)
    kernel.release(fh)
    nodes.forget(node, 1)
    assert kernel.lookup(b"file") == third
    nodes.forget(third, 2)
    assert nodes._several == {}
    assert kernel.lookup(b"file") == node


def test_a_file_that_programs_lock_is_read_through_the_driver(kernel):
    """Goal: it may become another version while it is open. Who opens it once more, after it was given, gets it past
    the kernel's pages by the same id."""
    locked = add(kernel, b"locked")
    make = kernel.fs.open

    def open_shared(*what, **more):
        handle, told = make(*what, **more)
        handle.share, handle.past_pages = object(), True
        return handle, told

    node = add(kernel)
    opened(kernel, node)
    kernel.fs.open = open_shared
    assert opened(kernel, locked)[1:] == (DIRECT, 0)
    assert opened(kernel, node)[1:] == (DIRECT | ITSELF, 1)


def test_a_file_on_which_programs_have_begun_to_use_locks(kernel):
    """Goal: S7. Who opens it after that is read for by the driver, and so hears of locks that are lost, though the
    kernel reads it for others."""
    node = add(kernel)
    opened(kernel, node)
    kernel.fs.program_locks.shared.add(node)
    assert opened(kernel, node)[1:] == (DIRECT | ITSELF, 1)
    kernel.fs.program_locks.shared.clear()
    assert opened(kernel, node)[1:] == (ITSELF, 1)


def test_a_file_that_the_kernel_does_not_take(kernel):
    """Goal: then it is read through the driver, and not kept as given."""
    kernel.backing.open = lambda fd: 0
    assert opened(kernel, add(kernel))[1:] == (0, 0)
    kernel.fs.files.writable, kernel.fs.files.is_in_memory = True, lambda content: True
    node = add(kernel, b"other")
    assert opened(kernel, node, os.O_RDWR)[1:] == (0, 0)
    assert kernel.fs.contents[node].unseen.writers == 0
    assert kernel.fs.files.lent == []


def test_a_reply_that_nobody_takes(kernel):
    """Goal: the program was killed while it opened the file: the kernel does not read it."""
    node = add(kernel)
    kernel.ours.close()
    kernel.driver.answer(kernel.put(request_bytes(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(0, 0), node)))
    assert kernel.backing.given == set()
