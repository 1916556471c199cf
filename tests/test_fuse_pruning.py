"""Which nodes the kernel is asked to forget, and how; without a kernel."""

import errno
import os
import struct
from collections.abc import Iterator, Sequence

import pytest
from fake_filesystem import FakeContent, attributes
from fuse_requests import Kernel
from support import wait_until

from dfsfuse.drivers import fuse_channel
from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_nodes import Nodes
from dfsfuse.drivers.fuse_pruning import Pruning

MAX = 40


@pytest.fixture
def nodes() -> Nodes:
    return Nodes(0.25, nodes_max=MAX)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel(known_files=4 * MAX)
    yield made
    made.close()


def look_up(nodes: Nodes, *inos: int) -> None:
    for ino in inos:
        nodes.found(ino, (1, b"%d" % ino))


def test_nothing_goes_while_there_is_room(nodes):
    """Goal: up to the limit all stay, and nobody is woken."""
    look_up(nodes, *range(2, MAX + 1))
    assert (nodes.surplus(), nodes.crowded.is_set()) == ([], False)
    look_up(nodes, MAX + 1)
    assert nodes.crowded.is_set()
    nodes.forget(3, 1)
    assert not nodes.crowded.is_set()


def test_the_oldest_go_first_and_a_quarter_of_the_room_is_free_then(nodes):
    """Goal: not one by one, and never the root, which the kernel cannot forget."""
    look_up(nodes, *range(2, MAX + 2))
    assert nodes.surplus() == list(range(2, 2 + MAX + 1 - MAX * 3 // 4))


def test_what_is_used_stays(nodes):
    """Goal: what programs have open, and what was looked up again, is not asked for."""
    look_up(nodes, *range(2, MAX + 2), 3)
    nodes.open(nodes.get(2), FakeContent(2, 1), attributes(2, 0o100644))
    assert not {2, 3} & set(nodes.surplus())


def test_what_the_kernel_keeps_is_in_nobodys_way(nodes):
    """Goal: nodes that it does not forget, such as folders of what is open, are passed over the next time."""
    look_up(nodes, *range(2, MAX + 2))
    first = nodes.surplus()
    second = nodes.surplus()
    assert min(len(first), len(second)) > 1
    assert not set(first) & set(second)
    assert nodes.surplus() == first


def test_what_the_kernel_is_told(kernel, monkeypatch):
    """Goal: notifications of the protocol's form name all that is to go, so many at once as a kernel takes."""
    monkeypatch.setattr("dfsfuse.drivers.fuse_pruning.PRUNED_AT_ONCE", 4)
    look_up(kernel.driver.nodes, *range(2, MAX + 2))
    assert kernel.driver.pruning.prune()
    named: list[int] = []
    for told in kernel.written():
        count, *numbers = struct.unpack_from(f"=I12x{(len(told.body) - 16) // 8}Q", told.body)
        assert (told.unique, told.error, count) == (0, -fuse.FUSE_NOTIFY_PRUNE, len(numbers))
        assert count <= 4
        named += numbers
    assert named == list(range(2, 2 + MAX + 1 - MAX * 3 // 4))


def test_it_is_tried_until_there_is_room():
    """Goal: what was looked up again stays once, and not for ever, also where nothing new comes to wake anybody."""
    nodes = Nodes(0.25, nodes_max=MAX)
    look_up(nodes, *range(2, MAX + 2), *range(2, MAX + 2))
    notifier = Forgetting(nodes)
    pruning = Pruning(nodes, notifier)
    pruning.start()
    try:
        wait_until(lambda: len(nodes) <= MAX, "there is room")
    finally:
        pruning.stop()


class Forgetting:
    """A kernel that forgets whatever it is asked to."""

    def __init__(self, nodes: Nodes):
        self._nodes = nodes

    def prune(self, nodeids: Sequence[int]) -> bool:
        for nodeid in nodeids:
            self._nodes.forget(nodeid, 1000)
        return True


@pytest.mark.parametrize(("number", "knows_how"), [(errno.EINVAL, False), (errno.ENODEV, True), (errno.ENOMEM, True)])
def test_a_kernel_that_refuses(kernel, monkeypatch, number, knows_how):
    """Goal: one that does not know how is asked once; another error is a matter of the moment."""

    def refuse(device: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    look_up(kernel.driver.nodes, *range(2, MAX + 2))
    monkeypatch.setattr(fuse_channel.os, "write", refuse)
    assert kernel.driver.pruning.prune() is knows_how
