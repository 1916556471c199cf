"""What the driver over paths lets the kernel keep, without a kernel."""

import msgspec
import pytest

from dfsfuse.content import Content
from dfsfuse.drivers.kernel_nodes import KernelNode, KernelNodes
from dfsfuse.manifests import Entries
from dfsfuse.messages import Attributes

ATTRIBUTES = Attributes(ino=7, mode=0o100644, uid=0, gid=0, nlink=1, size=9, mtime_ns=1, ctime_ns=1, atime_ns=1)


@pytest.fixture
def nodes() -> KernelNodes:
    return KernelNodes(0.25)


@pytest.fixture
def content() -> Content:
    return Content(1, 7, "/nowhere", 9, Entries())


class Opened:
    """An open through `path`; `kept`: the kernel kept its pages."""

    def __init__(self, nodes: KernelNodes, path: str, content: Content):
        self._nodes, self._content = nodes, content
        self.node: KernelNode
        self.node, self.kept, self.direct, _ = nodes.open(path, content, ATTRIBUTES)

    def close(self) -> bool:
        self._nodes.close(self.node, self._content, self.direct)
        return self.kept


def test_pages_are_kept_from_open_to_open(nodes, content):
    """Goal: what was read is not fetched from the client again; another content starts anew."""
    assert not Opened(nodes, "/x", content).close()
    assert Opened(nodes, "/x", content).close()
    assert not Opened(nodes, "/x", Content(2, 7, "/nowhere", 9, Entries())).close()


def test_pages_end_when_the_content_comes_through_another_node(nodes, content):
    """Goal: a file that was renamed elsewhere, written here under its new name, and named back."""
    Opened(nodes, "/x", content).close()
    assert not Opened(nodes, "/y", content).close()
    assert not Opened(nodes, "/x", content).close()
    assert Opened(nodes, "/x", content).close()


def test_no_pages_are_kept_while_another_node_may_write(nodes, content):
    """Goal: what is written through a descriptor of the old name reaches no pages of the new one, whatever else was
    opened and closed meanwhile."""
    writer = Opened(nodes, "/x", content)
    for path in ("/y", "/z", "/y"):
        assert not Opened(nodes, path, content).close()
        assert not Opened(nodes, path, content).close()
    writer.close()
    assert not Opened(nodes, "/y", content).close()
    assert Opened(nodes, "/y", content).close()


def test_writing_past_the_pages_of_one_node_ends_those_of_another(nodes, content):
    """Goal: an open with direct I/O counts too: it may write what another node has in its pages."""
    older = Opened(nodes, "/x", Content(2, 7, "/nowhere", 9, Entries()))
    Opened(nodes, "/y", content).close()
    newer = Opened(nodes, "/x", content)
    assert newer.direct
    newer.close()
    assert not Opened(nodes, "/y", content).close()
    older.close()


@pytest.mark.parametrize("through_a_handle", [False, True])
def test_what_the_kernel_was_told_before_it_asks_again(nodes, content, through_a_handle):
    """Goal: S3. An open that finds another size than the kernel was told makes it ask, but not where it is made to ask
    anyway: its answers to who locks the file would come too late."""
    node = Opened(nodes, "/x", content).node
    if through_a_handle:
        nodes.tell_open(node, ATTRIBUTES)
    else:
        nodes.tell("/x", ATTRIBUTES)
    content.size = 10
    newer = msgspec.structs.replace(ATTRIBUTES, size=10)
    nodes._renamed_at = -10.0
    assert nodes.open("/x", content, newer)[3]
    nodes.asks_again(node)
    assert not nodes.open("/x", content, newer)[3]
