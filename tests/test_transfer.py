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


@pytest.mark.parametrize("holders", [["BC"], ["ABC", "AC"]])
def test_disks_without_the_chunk_do_not_count(holders: list[str]):
    """Goal: S10: a chunk that A and C have is on one disk when A and B have synced."""
    with pytest.raises(errors.Unreachable, match="only A, B could sync"):
        Transfer(Group(A="AB", B="AB", C="AB")).sync(receipts(*holders))


@pytest.mark.parametrize(("whole", "synced"), [("ABC", "AB"), ("AB", "AB"), ("B", "ABC"), ("", "ABC")])
def test_a_file_without_a_commit_is_on_two_disks(whole: str, synced: str):
    """Goal: S10: fsync of what others have committed: two servers that have all of it, or all servers, as each chunk is
    on two of them."""
    Transfer(Group(A=synced)).sync_file(set(whole))


@pytest.mark.parametrize(("whole", "synced"), [("AB", "BC"), ("A", "AB"), ("C", "AB")])
def test_disks_of_short_copies_do_not_count(whole: str, synced: str):
    """Goal: S10: a server that lacks a chunk has not brought it to its disk, whatever it syncs."""
    with pytest.raises(errors.Unreachable, match=f"only {', '.join(synced)} could sync"):
        Transfer(Group(A=synced, B=synced, C=synced)).sync_file(set(whole))


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
