"""What the kernel is told for long, and that it is over: the driver's replies, and its notifications."""

import contextlib
import os
import queue
import stat
from collections.abc import Iterator

import msgspec
import pytest
from fake_filesystem import FakeFileSystem
from fuse_requests import Kernel, request_bytes

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_channel import Request
from dfsfuse.drivers.fuse_forgetting import Forgetting
from dfsfuse.drivers.fuse_replies import PROMISED_HOLD_S
from dfsfuse.messages import EVERYTHING, ROOT_INO, Attributes
from dfsfuse.places import Place


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    made.driver.nodes.lasting = made.fs.lease_counts
    yield made
    made.close()


def promised(kernel: Kernel, name: bytes, mode: int = stat.S_IFREG | 0o644) -> int:
    ino = kernel.fs.add(name, mode)
    kernel.fs.inodes[ino] = msgspec.structs.replace(kernel.fs.inodes[ino], promised=True)
    kernel.fs.promised.add(ino)
    return ino


def holds(kernel: Kernel, name: bytes) -> tuple[float, float]:
    """(of the name, of the attributes) in seconds, as a look-up tells."""
    fields = fuse.fuse_entry_out.unpack_from(kernel.do(fuse.FUSE_LOOKUP, name + b"\0"))
    return fields[2] + fields[4] / 1e9, fields[3] + fields[5] / 1e9


@pytest.mark.parametrize("lasting", [True, False])
def test_what_is_promised_is_told_for_long(kernel: Kernel, lasting: bool) -> None:
    """Goal: the kernel asks once about what is promised, and soon again about all else; and about everything where it
    cannot be told that this is over."""
    kernel.driver.nodes.lasting = lambda: lasting
    ino = promised(kernel, b"promised")
    kernel.fs.add(b"other")
    assert holds(kernel, b"other") == (0.25, 0.25)
    assert holds(kernel, b"promised") == ((PROMISED_HOLD_S, PROMISED_HOLD_S) if lasting else (0.25, 0.25))
    told = fuse.fuse_attr_out.unpack(kernel.do(fuse.FUSE_GETATTR, nodeid=ino))
    assert told[0] == (PROMISED_HOLD_S if lasting else 0)


def test_nothing_is_told_for_long_once_the_lease_has_ended(kernel: Kernel) -> None:
    """Goal: S14. An answer may say that it is promised while the lease of all promises is over: of a client that is
    being cut off the kernel would go on with it for an hour."""
    promised(kernel, b"promised")
    kernel.fs.leased = False
    assert holds(kernel, b"promised") == (0.25, 0.25)
    kernel.fs.leased = True
    assert holds(kernel, b"promised") == (PROMISED_HOLD_S, PROMISED_HOLD_S)


def test_the_size_of_an_older_version_is_not_told_for_long(kernel: Kernel) -> None:
    """Goal: S14. While the older version is open the kernel is told that one's size, which ends with it."""
    ino = promised(kernel, b"file")
    kernel.lookup(b"file")
    kernel.open(ino)
    kernel.fs.replace_content(ino, b"newer")
    assert holds(kernel, b"file") == (0.25, 0.25)


def tell(kernel: Kernel, ino: int, name: bytes = b"") -> list[tuple[int, bytes]]:
    """The notifications of one event."""
    kernel.driver.forgetting.tell(ino, name)
    return [(-reply.error, reply.body) for reply in kernel.written()]


def test_an_event_makes_the_kernel_ask_again(kernel: Kernel) -> None:
    """Goal: S14. Of a file its attributes; of a folder an entry by its name, or all, and the entries it has listed."""
    file, folder = promised(kernel, b"file"), promised(kernel, b"folder", stat.S_IFDIR | 0o755)
    kernel.lookup(b"file")
    kernel.lookup(b"folder")
    inode, entry = fuse.fuse_notify_inval_inode_out, fuse.fuse_notify_inval_entry_out
    assert tell(kernel, file) == [(fuse.FUSE_NOTIFY_INVAL_INODE, inode.pack(file, -1, 0))]
    assert tell(kernel, folder, b"name") == [
        (fuse.FUSE_NOTIFY_INVAL_ENTRY, entry.pack(folder, 4, 0) + b"name\0"),
        (fuse.FUSE_NOTIFY_INVAL_INODE, inode.pack(folder, 0, 0)),
    ]
    assert tell(kernel, folder) == [
        (fuse.FUSE_NOTIFY_INC_EPOCH, b""),
        (fuse.FUSE_NOTIFY_INVAL_INODE, inode.pack(folder, 0, 0)),
    ]
    everything = tell(kernel, EVERYTHING)
    assert {code for code, _ in everything} == {fuse.FUSE_NOTIFY_INC_EPOCH, fuse.FUSE_NOTIFY_INVAL_INODE}
    told = [inode.unpack(body) for code, body in everything if body]
    assert {number for number, _, _ in told} == {file, folder, ROOT_INO}
    assert (folder, 0, 0) in told
    assert (file, 0, 0) not in told


def test_an_answer_that_an_event_has_overtaken(kernel: Kernel) -> None:
    """Goal: S14. A request was begun before an event and is answered after it: what the kernel was told by that is
    over too, though the event was told before."""
    ino = promised(kernel, b"file")
    lookup = kernel.fs.lookup

    def broken_meanwhile(*args):
        known = lookup(*args)
        for tell_broken in kernel.fs.broken:
            tell_broken(ino, b"")
        return known

    kernel.fs.lookup = broken_meanwhile
    forgetting: Forgetting = kernel.driver.forgetting
    kernel.lookup(b"file")
    assert [forgetting._due.get_nowait()[1:] for _ in range(2)] == [(ino, b"")] * 2
    kernel.fs.lookup = lookup
    kernel.lookup(b"file")
    assert forgetting._due.empty()


def test_an_open_has_said_what_is_late(kernel: Kernel) -> None:
    """Goal: S2. The kernel does not take an answer about attributes that a notification overtakes, and a read goes on
    with the size of before. So what an open has told the kernel is not told again, when the program reads what it has
    opened; what has happened since is."""
    ino = promised(kernel, b"file")
    kernel.lookup(b"file")
    forgetting: Forgetting = kernel.driver.forgetting
    open_file = kernel.fs.open

    def broken_meanwhile(*args, **others):
        forgetting.broken(ino, b"")
        return open_file(*args, **others)

    kernel.fs.open = broken_meanwhile
    kernel.open(ino, os.O_RDWR)
    late = forgetting._due.get_nowait()
    assert forgetting._due.empty()
    forgetting.broken(ino, b"")
    forgetting.tell(late[1], late[2], late[0])
    assert not kernel.written()
    number, *event = forgetting._due.get_nowait()
    forgetting.tell(*event, number)
    assert kernel.written()


def test_an_open_comes_before_what_an_event_has_overtaken_is_said_again(kernel: Kernel, monkeypatch) -> None:
    """Goal: S2. A look-up is answered, and a program opens the file before the thread that has answered says again what
    has happened meanwhile. That is before the open, which has told the kernel: said after it, it would make the program
    read with the size of before. So two clients that made one name at once lost what the first had written."""
    ino, reply, lookup = promised(kernel, b"file"), Request.reply, kernel.fs.lookup
    kernel.lookup(b"file")
    forgetting: Forgetting = kernel.driver.forgetting

    def broken_meanwhile(*args):
        known = lookup(*args)
        forgetting.broken(ino, b"")
        return known

    def open_follows(request: Request, body: bytes = b"") -> None:
        monkeypatch.undo()
        reply(request, body)
        kernel.fs.lookup = lookup
        kernel.fs.replace_content(ino, b"newer")
        kernel.open(ino, os.O_RDWR)

    monkeypatch.setattr(Request, "reply", open_follows)
    kernel.fs.lookup = broken_meanwhile
    kernel.driver.answer(kernel.put(request_bytes(fuse.FUSE_LOOKUP, b"file\0")))
    assert forgetting.count == 1
    while not forgetting._due.empty():
        number, *event = forgetting._due.get_nowait()
        forgetting.tell(*event, number)
    assert not kernel.written()
    forgetting.broken(ino, b"")
    number, *event = forgetting._due.get_nowait()
    forgetting.tell(*event, number)
    assert kernel.written()


def test_a_link_that_an_event_has_overtaken() -> None:
    """Goal: S14. The kernel takes what a link has answered about the file, though it was told meanwhile that this is
    over. So it is told once more."""

    class Linking(FakeFileSystem):
        def link(self, old: Place, new: Place) -> Attributes:
            kernel.driver.forgetting.broken(old[0], b"")
            _tell_due(kernel.driver.forgetting)
            return self.inodes[old[0]]

    with contextlib.closing(Kernel(Linking())) as kernel:
        kernel.driver.nodes.lasting = kernel.fs.lease_counts
        ino = promised(kernel, b"file")
        kernel.lookup(b"file")
        kernel.do(fuse.FUSE_LINK, fuse.fuse_link_in.pack(ino) + b"other\0")
        _tell_due(kernel.driver.forgetting)
        assert [reply.body for reply in kernel.written()] == [fuse.fuse_notify_inval_inode_out.pack(ino, -1, 0)]


def _tell_due(forgetting: Forgetting) -> None:
    while not forgetting._due.empty():
        number, *event = forgetting._due.get_nowait()
        forgetting.tell(*event, number)


def test_more_events_than_are_remembered(kernel: Kernel) -> None:
    """Goal: an answer that very many events have overtaken makes the kernel ask for everything again."""
    forgetting = kernel.driver.forgetting
    for _ in range(5000):
        forgetting.broken(ROOT_INO, b"name")
    while not forgetting._due.empty():
        forgetting._due.get_nowait()
    forgetting.answered(1, forgetting.said)
    assert forgetting._due.get_nowait()[1:] == (EVERYTHING, b"")


@pytest.mark.parametrize("known", [True, False])
def test_a_promised_folder_is_opened_without_asking(kernel: Kernel, known: bool) -> None:
    """Goal: the kernel keeps the entries of a folder that is promised; of another one they are asked for at once."""
    folder = kernel.fs.add(b"folder", stat.S_IFDIR | 0o755)
    if known:
        kernel.fs.promised.add(folder)
    kernel.lookup(b"folder")
    opened = kernel.do(fuse.FUSE_OPENDIR, fuse.fuse_open_in.pack(0, 0), folder)
    flags = fuse.fuse_open_out.unpack(opened)[1]
    assert flags == (fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE if known else 0)


def test_the_kernel_asks_each_time_while_programs_share_a_file(kernel: Kernel) -> None:
    """Goal: S3. It is told before a lock is granted that the content is another one, and nothing more until it holds
    something again: a notification would make the next answer void, and a read would end at the former size."""
    ino = promised(kernel, b"file")
    kernel.lookup(b"file")
    kernel.open(ino)
    kernel.fs.program_locks.shared.add(ino)
    invalid = fuse.FUSE_NOTIFY_INVAL_INODE, fuse.fuse_notify_inval_inode_out.pack(ino, 0, 0)

    def notified_by_an_open() -> list[int]:
        body = fuse.fuse_open_in.pack(os.O_RDWR, 0)
        return [reply.error for reply in kernel.send(request_bytes(fuse.FUSE_OPEN, body, ino)) if not reply.unique]

    content = kernel.fs.contents[ino]
    kernel.fs.program_locks.tell(content, ino)
    assert [(-reply.error, reply.body) for reply in kernel.written()] == [invalid]
    content.data.extend(b"content")
    last = fuse.FUSE_NOTIFY_STORE, fuse.fuse_notify_store_out.pack(ino, 6, 1) + b"t"
    kernel.fs.program_locks.tell(content, ino)
    assert [(-reply.error, reply.body) for reply in kernel.written()] == [invalid, last]
    for _ in range(2):
        assert tell(kernel, ino) == []
        assert notified_by_an_open() == []
        assert holds(kernel, b"file") == (PROMISED_HOLD_S, 0)
        assert fuse.fuse_attr_out.unpack(kernel.do(fuse.FUSE_GETATTR, nodeid=ino))[:2] == (0, 0)
        assert fuse.fuse_statx_out.unpack(kernel.do(fuse.FUSE_STATX, bytes(24), ino))[:2] == (0, 0)

    kernel.fs.program_locks.shared.clear()
    kernel.lookup(b"file")
    kernel.fs.program_locks.shared.add(ino)
    assert len(tell(kernel, ino)) == 1
    assert notified_by_an_open() == []


def test_last_byte_that_is_written_meanwhile(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S3. The kernel's page has what a program writes, and then what was there before: the page is forgotten."""
    ino = promised(kernel, b"file")
    kernel.lookup(b"file")
    kernel.open(ino)
    content, notifier = kernel.fs.contents[ino], kernel.driver.forgetting._notifier
    content.data.extend(b"content")
    store = notifier.store

    def written_before(nodeid: int, data: bytes, offset: int) -> bool:
        content.data[-1:] = b"X"
        return store(nodeid, data, offset)

    monkeypatch.setattr(notifier, "store", written_before)
    kernel.fs.program_locks.tell(content, ino)
    codes = [fuse.FUSE_NOTIFY_INVAL_INODE, fuse.FUSE_NOTIFY_STORE, fuse.FUSE_NOTIFY_INVAL_INODE]
    assert [-reply.error for reply in kernel.written()] == codes


def test_write_that_was_on_its_way_when_the_kernel_was_given_the_last_byte(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: S3. As above, where the write reaches the client later: once, and only if that byte is in it."""
    ino = promised(kernel, b"file")
    kernel.lookup(b"file")
    fh, _ = kernel.open(ino, os.O_RDWR)
    content, forgotten = kernel.fs.contents[ino], queue.SimpleQueue[int]()
    content.data.extend(b"content")
    kernel.fs.program_locks.tell(content, ino)
    notifier = kernel.driver.forgetting._notifier
    monkeypatch.setattr(notifier, "content_changed", lambda nodeid, **_: forgotten.put(nodeid) or True)
    kernel.write(fh, b"12345", 0)
    kernel.write(fh, b"8", 7)
    assert kernel.driver.nodes.get(ino).stored == 6
    kernel.write(fh, b"67", 5)
    assert forgotten.get(timeout=10) == ino
    kernel.write(fh, b"67", 5)
    assert kernel.driver.nodes.get(ino).stored == -1
    assert forgotten.empty()


def test_what_the_kernel_may_hold_is_over_once_it_has_heard(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: S14. A notification that it has not taken, or that an answer has followed, is said again."""
    ino = promised(kernel, b"file")
    kernel.lookup(b"file")
    kernel.fs.program_locks.shared.add(ino)
    node, notifier = kernel.driver.nodes.get(ino), kernel.driver.forgetting._notifier
    monkeypatch.setattr(notifier, "attributes_changed", lambda nodeid: False)
    kernel.driver.forgetting.tell(ino, b"")
    assert kernel.driver.nodes.may_hold(node)

    def answered_meanwhile(nodeid: int) -> bool:
        kernel.fs.program_locks.shared.clear()
        kernel.lookup(b"file")
        kernel.fs.program_locks.shared.add(ino)
        return True

    monkeypatch.setattr(notifier, "attributes_changed", answered_meanwhile)
    kernel.driver.forgetting.tell(ino, b"")
    assert kernel.driver.nodes.may_hold(node)
    monkeypatch.setattr(notifier, "attributes_changed", lambda nodeid: True)
    kernel.driver.forgetting.tell(ino, b"")
    assert not kernel.driver.nodes.may_hold(node)
