"""What fsync takes for an answer: which servers have synced what."""

import pytest

from dfsfuse import errors
from dfsfuse.messages import ChunkReceipts, Cluster, Receipt, Server, Stored, Synced
from dfsfuse.transfer import Transfer


class Group:
    """A session with three file servers; `synced` are the servers that each of them says have synced."""

    timeout_s = 0.05

    def __init__(self, **synced: str):
        self.synced, self.rpc = synced, self
        self.asked: list[str] = []
        files = [Server(kind="files", name=name, url=name, up=True) for name in "ABC"]
        self.cluster = Cluster(volume="", copies=3, copies_min=2, files=files)

    def put_chunk(self, *request: object) -> Stored:
        self.asked.append("put, synced" if request[-1] else "put")
        return Stored([Receipt(name, 1) for name in "AB"])

    def call(self, url: str, operation: str, *_: object) -> Synced:
        self.asked.append(operation)
        if url not in self.synced:
            raise errors.Unreachable(f"{url} is away")
        return Synced(list(self.synced[url]))


def receipts(*holders: str) -> list[ChunkReceipts]:
    return [ChunkReceipts(bytes([i]) * 32, [Receipt(name, 1) for name in names]) for i, names in enumerate(holders)]


@pytest.mark.parametrize("holders", [["ABC"], ["AB", "ABC"], ["AB", "AB"]])
def test_two_disks_are_enough(holders: list[str]):
    """Goal: S10: each chunk that was sent is on the disks of two servers that have it."""
    Transfer(Group(A="AB")).sync(receipts(*holders))


def test_who_has_synced():
    """Goal: S10: who is asked is told, as others that have given receipts may not have it on their disks."""
    assert Transfer(Group(A="AB")).sync(receipts("ABC", "AB")) == {"A", "B"}


@pytest.mark.parametrize("holders", [["BC"], ["ABC", "AC"]])
def test_disks_without_the_chunk_do_not_count(holders: list[str]):
    """Goal: S10: a chunk that A and C have is on one disk when A and B have synced."""
    with pytest.raises(errors.Unreachable, match="only A, B could sync"):
        Transfer(Group(A="AB", B="AB", C="AB")).sync(receipts(*holders))


def test_servers_sync_until_they_are_enough():
    """Goal: S10: whoever has synced in an attempt is told to who knows what they have; what is not enough is tried
    again, and what was synced in an attempt before is not counted on."""
    group, told = Group(A="A", B="BC"), list[set[str]]()
    group.timeout_s = 10.0

    def check(synced: set[str], left_s: float) -> None:
        assert 0 < left_s <= group.timeout_s
        told.append(set(synced))
        if len(told) < 5:
            raise errors.NotEnoughCopies("so far nobody has it")

    Transfer(group).sync_until(check)
    assert told == [{"A"}, {"A", "B", "C"}, {"A"}, {"A", "B", "C"}, {"A"}]


def test_what_is_not_enough_for_too_long():
    """Goal: S13: it ends at the time-out, with what was not enough; any other answer ends it at once."""

    def check(synced: set[str], left_s: float) -> None:
        raise errors.NotEnoughCopies("so far A has it")

    with pytest.raises(errors.Unreachable, match="so far A has it"):
        Transfer(Group(A="AB", B="AB", C="AB")).sync_until(check)

    def lost(synced: set[str], left_s: float) -> None:
        raise errors.Lost("it is gone")

    with pytest.raises(errors.Lost):
        Transfer(Group(A="ABC")).sync_until(lost)


def test_what_several_servers_say_is_put_together():
    """Goal: who could not sync at the first one's word may at the next one's."""
    Transfer(Group(A="AB", B="BC")).sync(receipts("AC", "BC", "AB"))


def test_a_small_change_is_synced_by_the_request_that_sends_it():
    """Goal: fsync of a small change asks the servers once; what they have already is brought to the disks by a request
    of its own."""
    group = Group(A="AB")
    sent = Transfer(group).upload(b"data", {}, synced=True)
    assert group.asked == ["put, synced"]
    assert Transfer(group).upload(b"data", {sent.chunk: sent}, synced=True) == sent
    assert group.asked == ["put, synced", "sync"]
    sent.receipts.append(Receipt("C", 1))
    known = Transfer(group).upload(b"data", {sent.chunk: sent}, synced=True)
    assert "C" not in {receipt.server for receipt in known.receipts}
