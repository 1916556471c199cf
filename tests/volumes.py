"""A directory without a network for tests: its core on a store of either engine, and short ways to ask it things."""

import contextlib
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stores
from models import check_tree

from dfsfuse import messages
from dfsfuse.chunks import Piece, chunk_name
from dfsfuse.messages import Attributes, ChunkReceipts, Manifest, Problem, Receipt, Server
from servers import check
from servers.directory import Directory
from servers.store import Store

ENGINES = ("memory", "sqlite", "etcd")
FOLDER = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o644
LINK = stat.S_IFLNK | 0o777
ROOM = 100 << 20
"""What each file server has free."""


def names(path: str) -> list[bytes]:
    return [part.encode() for part in path.split("/") if part]


class Volume:
    """Time goes on by one second with each change; `check` holds the whole store against the oracle."""

    def __init__(self, store: Store):
        self.store = store
        self.now_ns, self.now_s = 1_000_000_000, 100.0
        self.core = self.reopened()
        for name in "ABC":
            self.core.register(self.heartbeat(name), self.now_s)

    def reopened(self) -> Directory:
        """Another directory on the same store, as after a restart."""
        return Directory(self.store, copies=3, volume=b"v" * 16, uid=7, gid=8, now_ns=self.now_ns, now_s=self.now_s)

    def restart(self) -> None:
        self.core = self.reopened()

    def heartbeat(self, name: str, kind: str = "files", **what: Any) -> messages.Register:
        told = {"total_bytes": 10 * ROOM, "free_bytes": ROOM, **what}
        return messages.Register(server=Server(kind=kind, name=name, url=f"http://{name}", **told))

    def check(self) -> None:
        check_tree(self.store)
        assert self.problems() == []

    def problems(self) -> list[Problem]:
        """What the checker finds."""
        snapshot = self.store.snapshot()
        found = [problem for page in check.pages(snapshot) for problem in page.problems]
        snapshot.close()
        return found

    def tick(self) -> int:
        self.now_ns += 1_000_000_000
        self.now_s += 1.0
        return self.now_ns

    # -- the tree

    def ask(self, request: messages.Message) -> Any:
        return self.core.query(request, self.now_ns)

    def look(self, what: Callable[..., Any], request: messages.Message) -> Any:
        """What a function of a reader, a request and the group finds (servers/content.py)."""
        return self.store.read(lambda tx: what(tx, request, self.core.group(self.now_s)))

    def collect(self, request: messages.Collect) -> messages.Garbage:
        """As the service answers it, in one piece."""
        reply, asked = self.core.upkeep.begin_collecting(request)
        reply.chunks = self.core.upkeep.needless(asked)
        return reply

    def change(self, request: messages.Change) -> Any:
        return self.core.change(request, self.tick())

    def at(self, path: str) -> Attributes:
        return self.ask(messages.Lookup(names=names(path)))

    def make(self, path: str, mode: int = FILE, **more: Any) -> Attributes:
        return self.change(messages.Create(names=names(path), ino=more.pop("ino", 0), mode=mode, **more)).attributes

    def link(self, old: str | int, new: str) -> Attributes:
        """Another name for what has a path, or an inode number."""
        base, below = (old, []) if isinstance(old, int) else (messages.ROOT_INO, names(old))
        return self.change(messages.Link(base=base, names=below, new_names=names(new))).attributes

    def make_unnamed(self, session: int, folder: str = "", sequence: int = 1, **more: Any) -> Attributes:
        """A file without a name, open in `session`."""
        once = {"session": session, "slot": 99, "sequence": sequence, "opening": more.pop("opening", 1)}
        request = messages.Create(names=names(folder), ino=0, mode=more.pop("mode", FILE), unnamed=True, **once, **more)
        return self.change(request).attributes

    def close(self, session: int, ino: int, version: int = 0, opening: int = 1) -> None:
        closed = [messages.Closed(ino, version, opening)]
        self.core.renew(messages.Renew(session=session, closed=closed), self.now_s)

    def remove(self, path: str, folder: bool = False) -> None:
        self.change(messages.Remove(names=names(path), folder=folder))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.change(messages.Rename(names=names(old), new_names=names(new), flags=flags))

    def set(self, path: str, **what: Any) -> Attributes:
        return self.change(messages.SetAttributes(names=names(path), **what))

    def listing(self, path: str = "", **more: Any) -> messages.Listing:
        return self.ask(messages.ListFolder(names=names(path), **more))

    def paths(self, path: str = "") -> list[str]:
        """Everything below a folder, depth first."""
        found = []
        for entry in self.listing(path).entries:
            below = f"{path}/{entry.name.decode()}"
            found.append(below)
            if stat.S_ISDIR(entry.attributes.mode):
                found += self.paths(below)
        return found

    def path_of(self, ino: int) -> messages.PathReply:
        return self.ask(messages.PathOf(ino))

    # -- sessions and content

    def begin(self) -> int:
        return self.core.begin(messages.Begin(key=secrets.token_bytes(16)), self.now_s).session

    def open(self, ino: int, session: int = 0, **more: Any) -> messages.Opened:
        return self.core.open(messages.Open(session=session, base=ino, **more))

    def commit(self, ino: int, data: bytes = b"", **more: Any) -> Attributes:
        """Make `data` (one chunk, on all servers) the file's content, based on what it has now unless told."""
        request = self.commit_request(ino, data, **more)
        return self.core.commit(request, self.tick(), self.now_s)

    def commit_request(self, ino: int, data: bytes = b"", **more: Any) -> messages.Commit:
        base = self.ask(messages.Lookup(ino))
        what = {
            "ino": ino, "token": 0, "base_version": base.version, "base_commit_id": base.commit_id,
            "commit_id": secrets.token_bytes(16), "size": len(data), "mtime_ns": self.now_ns,
            "manifest": Manifest([[piece(data)]] if data else []), "receipts": [on("ABC", data)] if data else [],
        }  # fmt: skip
        return messages.Commit(**{**what, **more})


def piece(data: bytes, offset: int = 0) -> Piece:
    return Piece(chunk_name(data), offset, len(data))


def on(servers: str, data: bytes) -> ChunkReceipts:
    """Receipts of these servers for a chunk with this content."""
    return ChunkReceipts(chunk_name(data), [Receipt(server, 1) for server in servers])


@contextlib.contextmanager
def volume_on(engine: str, folder: Path) -> Iterator[Volume]:
    """A new volume; the oracle looks at it when the test is over."""
    with stores.engine(engine, folder) as store:
        volume = Volume(store)
        yield volume
        volume.check()
