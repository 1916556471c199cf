"""Commits whose receipts are void: servers have started again, or deleted what nobody needed, since they gave them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients import Client, Servers, uploaded
from volumes import Volume

from dfsfuse import errors, transfer
from dfsfuse.chunks import ENTRY_BYTES, chunk_name
from dfsfuse.messages import INLINE_ENTRIES, Cluster, Collect, Confirm, Confirmed, Receipt, Server, Stored
from dfsfuse.messages import ChunkReceipts as Row
from dfsfuse.transfer import Transfer
from servers.store.memory import MemoryStore

MIB = 1 << 20
DATA = b"some content"
NAME = chunk_name(DATA)


class World:
    """A client of servers with disks. `before_commit` is called before each request that brings receipts."""

    def __init__(self, folder: Path):
        self.volume, self.servers = Volume(MemoryStore()), Servers(number=(1 << 40) + 1)
        self.client = Client(self.volume, self.servers, folder / "one")
        self.before_commit: list[Callable[[], None]] = []
        for name in "ABC":
            told = {"store": f"disk {name}", "first_number": (1 << 40) + 1, "next_number": (1 << 40) + 1}
            self.volume.core.register(self.volume.heartbeat(name, **told), self.volume.now_s)
        for name in ("query", "change"):
            self._hook(name)

    def _hook(self, name: str) -> None:
        real = getattr(self.client.session, name)

        def call(request: object, reply: type) -> object:
            if self.before_commit:
                self.before_commit.pop(0)()
            return real(request, reply)

        setattr(self.client.session, name, call)

    def collect(self, but: float = 1.0) -> None:
        """All receipts are void; of the chunks the servers keep this part."""
        self.servers.number += 1000
        for name in "ABC":
            self.volume.collect(Collect(server=name, next_number=self.servers.number))
        names = sorted(self.servers.chunks)
        for name in names[int(len(names) * but) :]:
            del self.servers.chunks[name]

    def committed(self, data: bytes) -> bool:
        content = self.client.create("f")
        self.client.write(content, data, 0)
        self.client.commit(content)
        return uploaded(self.volume, self.servers, "f") == data


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.volume.check()


def test_what_is_still_there_is_confirmed(world: World):
    """Goal: a commit whose receipts have become void succeeds without sending anything again."""
    data = os.urandom(9 * MIB)
    world.before_commit = [world.collect]
    assert world.committed(data)
    assert world.servers.sent_bytes == len(data)


def test_what_is_gone_is_sent_again(world: World):
    """Goal: chunks that were deleted meanwhile are sent once more, and no others."""
    data = os.urandom(12 * MIB)
    world.before_commit = [lambda: world.collect(but=0.7)]
    assert world.committed(data)
    assert world.servers.sent_bytes == len(data) + ENTRY_BYTES


def test_receipts_that_become_void_again_and_again(world: World):
    """Goal: several times in a row are no failure; where there is no end, the commit fails and nothing is lost."""
    data = os.urandom(MIB)
    world.before_commit = [world.collect] * 7
    assert world.committed(data)
    content = world.client.open("f", write=True)
    world.client.write(content, b"more", 0)
    world.before_commit = [world.collect] * 8
    with pytest.raises(errors.ReceiptsVoid):
        world.client.commit(content)
    assert uploaded(world.volume, world.servers, "f") == data
    world.client.commit(content)
    assert uploaded(world.volume, world.servers, "f") == b"more" + data[4:]


def test_segments(world: World):
    """Goal: the same where receipts travel with segments: before these are put, and before the commit."""
    size = (INLINE_ENTRIES + 2) * ENTRY_BYTES
    data = os.urandom(MIB) + bytes(size - 2 * MIB) + os.urandom(MIB)
    world.before_commit = [world.collect, lambda: world.collect(but=0.5), world.collect]
    assert world.committed(data)


def test_a_commit_in_doubt(world: World):
    """Goal: a commit that was not answered and has not happened, and whose receipts are void when it is asked again, is
    made anew."""
    content = world.client.create("f")
    world.client.write(content, b"some content", 0)
    world.client.session.lose_request = True
    with pytest.raises(errors.TimedOut):
        world.client.commit(content)
    world.collect(but=0)
    world.client.commit(content)
    assert uploaded(world.volume, world.servers, "f") == b"some content"


# -- asking servers


class Group:
    """A session with three file servers that have these chunks; None: it is away. Each looks for so many at once."""

    timeout_s = 0.05
    at_once = 1000

    def __init__(self, **chunks: list[bytes] | None):
        self.chunks, self.rpc, self.sent = chunks, self, []
        files = [Server(kind="files", name=name, url=name, up=True) for name in chunks]
        self.cluster = Cluster(volume="", copies=3, copies_min=2, files=files)

    def call(self, url: str, operation: str, request: Confirm, *_: object) -> Confirmed:
        if self.chunks[url] is None:
            raise errors.Unreachable(f"{url} is away")
        looked, left = request.chunks[: self.at_once], request.chunks[self.at_once :]
        return Confirmed([Row(name, [Receipt(url, 7)]) for name in looked if name in self.chunks[url]], left)

    def put_chunk(self, url: str, name: bytes, data: bytes, *_: object) -> Stored:
        if self.chunks[url] is None:
            raise errors.Unreachable(f"{url} is away")
        self.sent.append(url)
        return Stored([Receipt(other, 8) for other, had in self.chunks.items() if had is not None])


def test_two_servers_have_to_confirm():
    """Goal: a chunk is confirmed by all servers that have it, if these are enough; one that is away is passed over."""
    one, two, three = names = [bytes([number]) * 32 for number in range(3)]
    confirmed = Transfer(Group(A=[one, two], B=[one, three], C=[one, two])).confirm(names)
    assert {name: [r.server for r in row.receipts] for name, row in confirmed.items()} == {
        one: ["A", "B", "C"],
        two: ["A", "C"],
    }
    assert set(Transfer(Group(A=None, B=[one, three], C=[one, two])).confirm(names)) == {one}


def test_what_enough_servers_have_is_not_sent_again():
    """Goal: a retry asks first: a chunk that an earlier attempt has brought to enough servers does not travel again."""
    group = Group(A=[NAME], B=[NAME], C=[])
    row = Transfer(group).upload(DATA, {}, ask=True)
    assert ({receipt.server for receipt in row.receipts}, group.sent) == ({"A", "B"}, [])


def test_what_too_few_servers_have_is_sent():
    """Goal: a chunk that one server alone has got goes to the others now."""
    group = Group(A=[NAME], B=[], C=[])
    row = Transfer(group).upload(DATA, {}, ask=True)
    assert (len(row.receipts), group.sent) == (3, ["A"])


def test_nothing_is_sent_in_vain():
    """Goal: while too few servers are there a retry sends nothing, however often it comes."""
    group = Group(A=[], B=None, C=None)
    transfer = Transfer(group)
    for server in group.cluster.files[1:]:
        server.up = False
    for _ in range(3):
        with pytest.raises(errors.Unreachable, match="1 of 3 file servers answer"):
            transfer.upload(DATA, {}, ask=True)
    assert group.sent == []


def test_what_the_directory_hears_is_worth_a_try():
    """Goal: a client that is cut off from two servers sends through the third, which may reach them."""
    group = Group(A=[], B=None, C=None)
    Transfer(group).upload(DATA, {}, ask=True)
    assert group.sent == ["A"]


def test_servers_that_read_what_they_confirm_are_asked_again(monkeypatch: pytest.MonkeyPatch):
    """Goal: more chunks than a request names, and than a server looks at before it answers, are all asked for."""
    monkeypatch.setattr(transfer, "_CONFIRM_AT_ONCE", 7)
    names = [bytes([number]) * 32 for number in range(20)]
    group = Group(A=names, B=names[:15], C=names[5:])
    group.at_once = 3
    confirmed = Transfer(group).confirm(names)
    assert list(confirmed) == names
    assert [len(confirmed[name].receipts) for name in names] == [2] * 5 + [3] * 10 + [2] * 5
