"""What the Linux driver knows of the kernel's nodes: look-ups counted exactly, names, pages, and what was told."""

import random
import stat

import pytest
from fake_filesystem import FakeContent, attributes

from dfsfuse.drivers import fuse_nodes
from dfsfuse.drivers.fuse_late_reads import LateReads
from dfsfuse.drivers.fuse_node import Node, Way
from dfsfuse.drivers.fuse_nodes import Nodes
from dfsfuse.messages import ROOT_INO

HOLD_S = 0.25
THROUGH, PAST = Way(False, False, False), Way(False, True, False)


@pytest.fixture
def nodes() -> Nodes:
    return Nodes(HOLD_S)


def file(ino: int, size: int = 0, mtime_ns: int = 3):
    return attributes(ino, stat.S_IFREG | 0o644, size=size, mtime_ns=mtime_ns)


# -- look-ups


def test_late_reads_are_known_as_long_as_anything_is_open(nodes):
    """Goal: also while who writes past the pages is left alone with a write under way."""
    node, content = nodes.found(7, (1, b"a")), FakeContent(7, 1)
    reader = nodes.open(node, content, file(7))
    writer = nodes.open(node, content, file(7), past_pages=True)
    node.late_reads = LateReads()
    nodes.close(node, reader)
    assert node.late_reads is not None
    nodes.close(node, writer)
    assert node.late_reads is None


def test_look_ups_are_counted_exactly(nodes):
    """Goal: a node lives as long as the kernel has look-ups of it, neither shorter nor longer."""
    node = nodes.found(7, (1, b"a"))
    assert nodes.found(7, (1, b"a")) is node
    nodes.forget(7, 1)
    assert nodes.get(7) is node
    nodes.forget(7, 1)
    with pytest.raises(OSError, match="not known"):
        nodes.get(7)
    assert nodes.found(7, (1, b"a")) is not node


def test_random_look_ups_against_counters(nodes):
    """Goal: after any sequence of look-ups and forgets exactly those with a count are there, names included."""
    random.seed(7)
    counts: dict[int, int] = {}
    for _ in range(5000):
        ino = random.randrange(2, 40)
        if random.random() < 0.5:
            nodes.found(ino, (random.randrange(1, 40), b"%d" % random.randrange(30)))
            counts[ino] = counts.get(ino, 0) + 1
        elif counts.get(ino):
            taken = random.randint(1, counts[ino])
            nodes.forget(ino, taken)
            counts[ino] -= taken
    assert len(nodes) == 1 + sum(count > 0 for count in counts.values())
    for ino, count in list(counts.items()):
        nodes.forget(ino, count)
    assert len(nodes) == 1
    assert nodes.named == {}


def test_the_root_is_never_forgotten(nodes):
    """Goal: the kernel has the root without a look-up."""
    nodes.forget(1, 5)
    assert nodes.get(1).ino == ROOT_INO


def test_forgetting_what_is_not_there_does_nothing(nodes):
    """Goal: neither an unknown node nor too high a count disturbs anything."""
    nodes.forget(99, 1)
    nodes.found(7, None)
    nodes.forget(7, 100)
    assert len(nodes) == 1


# -- names


def test_place_of_a_node_is_its_path(nodes):
    """Goal: names lead from the root; a node without one, or below one in doubt, is reached by its inode."""
    assert nodes.place_of(nodes.get(1)) == ((1, ()), b"/")
    nodes.found(2, (1, b"a"))
    nodes.found(3, (2, b"b"))
    node = nodes.found(4, (3, b"c"))
    assert nodes.place_of(node) == ((1, (b"a", b"b", b"c")), b"/a/b/c")
    nodes.doubt(node)
    assert nodes.place_of(node) == ((4, ()), b"/")
    nodes.found(4, (3, b"c"))
    assert nodes.place_of(node) == ((3, (b"c",)), b"/c")
    nodes.found(2, (1, b"a"))
    nodes.found(3, (2, b"b"))
    assert nodes.place_of(node)[0] == (1, (b"a", b"b", b"c"))


def test_names_follow_renames(nodes):
    """Goal: a folder takes all below it along; what was replaced has lost its name; an exchange exchanges."""
    nodes.found(2, (1, b"folder"))
    node, other = nodes.found(3, (2, b"x")), nodes.found(4, (1, b"y"))
    nodes.renamed((1, b"folder"), (1, b"moved"), exchanged=False)
    assert nodes.place_of(node)[1] == b"/moved/x"
    nodes.renamed((2, b"x"), (1, b"y"), exchanged=True)
    assert (nodes.place_of(node)[1], nodes.place_of(other)[1]) == (b"/y", b"/moved/x")
    nodes.renamed((1, b"y"), (2, b"x"), exchanged=False)
    assert nodes.place_of(node)[1] == b"/moved/x"
    assert nodes.place_of(other) == ((4, ()), b"/")
    nodes.removed((2, b"x"))
    assert nodes.place_of(node) == ((3, ()), b"/")
    nodes.renamed((1, b"none"), (1, b"nothing"), exchanged=False)


def test_name_that_leads_to_another_inode_now(nodes):
    """Goal: the former bearer of a name has lost it; of several names of an inode the latest counts."""
    old = nodes.found(2, (1, b"a"))
    new = nodes.found(3, (1, b"a"))
    assert nodes.place_of(old) == ((2, ()), b"/")
    nodes.found(3, (1, b"b"))
    assert nodes.place_of(new)[1] == b"/b"
    nodes.removed((1, b"a"))
    assert nodes.place_of(new)[1] == b"/b"


def test_names_that_run_in_circles_end(nodes):
    """Goal: names learnt at different times may contradict each other; nothing hangs."""
    nodes.found(2, (3, b"a"))
    node = nodes.found(3, (2, b"b"))
    base, names = nodes.place_of(node)[0]
    assert base in (2, 3)
    assert len(names) == fuse_nodes._DEPTH_MAX
    nodes.doubt(node)
    assert nodes.place_of(node)[0] == (3, ())


def test_parent_of_a_folder(nodes):
    """Goal: `..` has the parent's inode number, and the root's own at the root."""
    assert nodes.parent_of(nodes.get(1)) == 1
    nodes.found(2, (1, b"a"))
    assert nodes.parent_of(nodes.found(3, (2, b"b"))) == 2


# -- pages


def test_pages_are_kept_while_the_content_is_the_same(nodes):
    """Goal: the first open drops them, later ones keep them, also after the last close; another lineage drops them."""
    node, content = nodes.found(7, None), FakeContent(7, 1)
    first = nodes.open(node, content, file(7))
    assert first[:3] == (False, False, False)
    nodes.taken(node, first)
    assert nodes.open(node, content, file(7))[:2] == (True, False)
    nodes.close(node, first)
    nodes.close(node, THROUGH)
    assert node.content is None
    assert nodes.open(node, content, file(7))[0]
    nodes.close(node, THROUGH)
    content.lineage += 1
    assert not nodes.open(node, content, file(7))[0]


def test_an_open_that_overtakes_the_one_that_drops_the_pages(nodes):
    """Goal: S2. The kernel has the former version's pages until it takes the answer that tells it to drop them: another
    program that opens the file before that, and gets its answer first, must not be told to keep them."""
    node, old, new = nodes.found(7, None), FakeContent(7, 1), FakeContent(7, 2)
    way = nodes.open(node, old, file(7))
    nodes.close(node, way)
    slow, fast = nodes.open(node, new, file(7)), nodes.open(node, new, file(7))
    assert (slow.keep, fast.keep) == (False, False)
    nodes.taken(node, fast)
    assert nodes.open(node, new, file(7)).keep
    nodes.close(node, slow)
    nodes.open(node, new, file(7), past_pages=True)
    third = nodes.open(node, new, file(7))
    nodes.taken(node, fast)
    assert not third.keep
    assert not nodes.open(node, new, file(7)).keep


def test_newer_content_is_opened_past_the_pages(nodes):
    """Goal: while the older one is open its pages and its size stay; direct opens do not count as users of them."""
    node, old, new = nodes.found(7, None), FakeContent(7, 1), FakeContent(7, 2)
    old.data.extend(b"old")
    nodes.open(node, old, file(7, 3))
    assert nodes.open(node, new, file(7, 9)) == PAST
    assert nodes.tell(node, file(7, 9)).size == 3
    nodes.close(node, THROUGH)
    assert nodes.tell(node, file(7, 9)).size == 9
    assert node.opens == 1
    assert nodes.open(node, new, file(7, 9))[:2] == (False, False)
    nodes.close(node, THROUGH)
    nodes.close(node, PAST)
    assert (node.opens, node.users) == (0, 0)


# -- what was told


def test_kernel_asks_again_where_it_knows_other_attributes(monkeypatch, nodes):
    """Goal: an open that finds another size or time than the kernel was told of late makes it ask; not where it knows
    the same, was told nothing, has made the change itself, or has forgotten what it was told."""
    now = [100.0]
    monkeypatch.setattr(fuse_nodes.time, "monotonic", lambda: now[0])
    node, content = nodes.found(7, None), FakeContent(7, 1)

    def asks_again(size: int, mtime_ns: int = 3) -> bool:
        nodes.close(node, THROUGH)
        return nodes.open(node, content, file(7, size, mtime_ns))[2]

    assert not nodes.open(node, content, file(7, 5))[2]
    content.data.extend(b"12345")
    nodes.tell(node, file(7, 5))
    assert not asks_again(5)
    assert asks_again(6)
    assert asks_again(5, mtime_ns=4)
    nodes.changed_by_kernel(node)
    assert not asks_again(6)
    nodes.tell(node, file(7, 5))
    now[0] += 2 * HOLD_S + 0.01
    assert not asks_again(6)


def test_nodes_are_small():
    """Goal: a client that has looked up many files does not grow beyond 1 KB for each: no dictionaries per node."""
    assert not hasattr(Node(7, 7), "__dict__")
