"""The directory compared with the model in models.py: thousands of random operations on a crowded tree, with hard
links, files that are open without a name, clients that die, contents and extended attributes. The oracle looks on.
"""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import Tree, nlink_of
from volumes import FILE, FOLDER, Volume, names

from dfsfuse import errors, messages
from servers import records
from servers.store.memory import MemoryStore

EXCHANGE, NOREPLACE = messages.RENAME_EXCHANGE, messages.RENAME_NOREPLACE
CLIENTS = 2
XATTRS = (b"user.a", b"trusted.b")


class OnVolume:
    """The operations of the model on a real directory."""

    def __init__(self) -> None:
        self.volume = Volume(MemoryStore())
        self._sessions = [self.volume.begin() for _ in range(CLIENTS)]
        self._opened: list[tuple[int, int, int]] = []
        self._openings = 0

    def create(self, path: str, folder: bool) -> None:
        self.volume.make(path, FOLDER if folder else FILE)

    def link(self, old: str, new: str) -> None:
        self.volume.link(old, new)

    def remove(self, path: str, folder: bool) -> None:
        self.volume.remove(path, folder)

    def rename(self, old: str, new: str, flags: int) -> None:
        self.volume.rename(old, new, flags)

    def open(self, client: int, path: str) -> None:
        self._openings += 1
        session = self._sessions[client]
        request = messages.Open(session=session, names=names(path), opening=self._openings)
        opened = self.volume.core.open(request).attributes
        self._opened.append((client, opened.ino, opened.version))

    def create_unnamed(self, client: int, path: str) -> None:
        self._openings += 1
        request = messages.Create(
            session=self._sessions[client], slot=self._openings, sequence=1, names=names(path), ino=0, mode=FILE,
            unnamed=True, opening=self._openings,
        )  # fmt: skip
        self._opened.append((client, self.volume.change(request).attributes.ino, 0))

    def name(self, number: int, path: str) -> None:
        if self._opened:
            self.volume.link(self._opened[number % len(self._opened)][1], path)

    def close(self, number: int) -> None:
        """The client tells of it when it has no other handle on that version."""
        if not self._opened:
            return
        client, ino, version = closed = self._opened.pop(number % len(self._opened))
        if closed not in self._opened:
            self.volume.close(self._sessions[client], ino, version, self._openings)

    def die(self, client: int) -> None:
        self.volume.core.end(messages.End(self._sessions[client]))
        self._sessions[client] = self.volume.begin()
        self._opened = [held for held in self._opened if held[0] != client]

    def write(self, path: str, size: int) -> None:
        self.volume.commit(self.volume.at(path).ino, b"x" * size)

    def give(self, path: str, name: bytes, flags: int) -> None:
        self.volume.change(messages.SetXattr(names=names(path), name=name, value=b"%d" % flags, flags=flags))

    def take(self, path: str, name: bytes) -> None:
        self.volume.change(messages.RemoveXattr(names=names(path), name=name))


class Pair:
    """The directory and the model, asked the same."""

    def __init__(self) -> None:
        self.real, self.tree = OnVolume(), Tree()

    def both(self, what: str, *arguments: Any) -> None:
        in_bytes = [names(argument) if isinstance(argument, str) else argument for argument in arguments]
        outcomes = _outcome(self.real, what, arguments), _outcome(self.tree, what, in_bytes)
        assert outcomes[0] is outcomes[1], (what, arguments, *outcomes)

    def compare(self) -> None:
        volume, tree = self.real.volume, self.tree.walk()
        volume.check()
        found = {path.encode(): volume.at(path) for path in volume.paths()}
        assert set(found) == set(tree)
        nodes = {}
        for path, known in found.items():
            node = tree[path]
            assert nodes.setdefault(known.ino, node) is node, f"{path}: another inode"
            assert (known.nlink, known.size) == (nlink_of(node), node.size), path
            xattrs = volume.ask(messages.ListXattrs(names=names(path.decode()))).names
            assert xattrs == sorted(node.xattrs), path
        assert len(nodes) == len(set(tree.values())), "names of one inode lead to several"
        alive = self.tree.alive()
        used = volume.store.read(records.usage)
        assert (used.inodes, used.size_bytes) == (len(alive), sum(node.size for node in alive))
        assert volume.at("").nlink == nlink_of(self.tree.root)


def _outcome(side: OnVolume | Tree, what: str, arguments: Any) -> type | None:
    try:
        getattr(side, what)(*arguments)
        return None
    except errors.DfsError as error:
        return type(error)


# -- seeded runs


def random_step(choose: random.Random, tree: Tree) -> tuple:
    """Most of the time of what is there, and to a name in a folder that is there; sometimes of anything."""
    known = tree.walk()
    there = [path.decode() for path in known] or ["/a"]
    folders = ["", *(path.decode() for path, node in known.items() if node.names is not None and path.count(b"/") < 4)]

    def old() -> str:
        return choose.choice(there) if choose.random() < 0.8 else "/".join(choose.choices("abcdef", k=2))

    def new() -> str:
        return f"{choose.choice(folders if choose.random() < 0.9 else there)}/{choose.choice('abcdef')}"

    client, number, xattr = choose.randrange(CLIENTS), choose.randrange(1000), choose.choice(XATTRS)
    path = old()
    is_folder = path in folders
    steps = {
        ("create", new(), choose.random() < 0.4): 8,
        ("remove", path, is_folder != (choose.random() < 0.1)): 7,
        ("rename", old(), new(), choose.choices((0, NOREPLACE, EXCHANGE), (4, 1, 2))[0]): 8,
        ("rename", old(), old(), choose.choices((0, NOREPLACE, EXCHANGE), (4, 1, 2))[0]): 3,
        ("link", old(), new()): 6,
        ("open", client, old()): 5,
        ("create_unnamed", client, choose.choice(folders)): 2,
        ("name", number, new()): 2,
        ("close", number): 6,
        ("die", client): 0.3,
        ("write", old(), choose.randrange(50)): 3,
        ("give", old(), xattr, choose.randrange(3)): 3,
        ("take", old(), xattr): 1,
    }
    return choose.choices(list(steps), list(steps.values()))[0]


@pytest.mark.parametrize("seed", range(1, 9))
def test_random_operations_do_what_the_model_does(seed: int) -> None:
    """Goal: 3,000 operations give the same outcomes and the same tree, and leave nothing that nobody can reach."""
    choose, pair = random.Random(seed), Pair()
    for step in range(3000):
        pair.both(*random_step(choose, pair.tree))
        if step % 50 == 0:
            pair.compare()
    for client in range(CLIENTS):
        pair.both("die", client)
    pair.compare()


# -- short runs, which Hypothesis shrinks


_PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
_CLIENTS, _NUMBERS = st.integers(0, CLIENTS - 1), st.integers(0, 3)
_STEPS = st.one_of(
    st.tuples(st.just("create"), _PATHS, st.booleans()),
    st.tuples(st.just("remove"), _PATHS, st.booleans()),
    st.tuples(st.just("link"), _PATHS, _PATHS),
    st.tuples(st.just("rename"), _PATHS, _PATHS, st.sampled_from([0, NOREPLACE, EXCHANGE])),
    st.tuples(st.just("open"), _CLIENTS, _PATHS),
    st.tuples(st.just("create_unnamed"), _CLIENTS, _PATHS),
    st.tuples(st.just("name"), _NUMBERS, _PATHS),
    st.tuples(st.just("close"), _NUMBERS),
    st.tuples(st.just("die"), _CLIENTS),
    st.tuples(st.just("write"), _PATHS, st.integers(0, 5)),
    st.tuples(st.just("give"), _PATHS, st.sampled_from(XATTRS), st.integers(0, 2)),
    st.tuples(st.just("take"), _PATHS, st.sampled_from(XATTRS)),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_STEPS, max_size=25))
def test_any_few_operations_do_what_the_model_does(steps: list[tuple]) -> None:
    """Goal: as above, looking after each step."""
    pair = Pair()
    for step in steps:
        pair.both(*step)
        pair.compare()
