"""The Linux driver's requests on open folders: listing, with and without attributes.

The first entries are asked for when a folder is opened: so opendir() is never of what stood under that name before,
and nothing is asked for twice. The root is always itself, and df opens it: that asks nobody, and works with all servers
silent. A folder that is promised asks nobody either, and the kernel keeps its entries until one of them changes.

READDIRPLUS names nodes, and so counts look-ups. What of an entry is not known freshly enough goes without a node: the
kernel then looks it up when somebody asks. So does a name that has been removed, moved or replaced since the entries
were asked for: the kernel would have it lead there again. A folder it would move back there in its own table of names,
and answer ESTALE to who comes to its new place while another folder is being renamed.

Threads: the driver's. `_listings` is a dictionary whose single operations are atomic.
"""

import errno
import functools
import itertools
import os
from collections.abc import Callable, Iterator

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers import fuse_replies as replies
from dfsfuse.drivers.fuse_channel import BODY, PAYLOAD_BYTES_MAX, Handlers, Request, beyond, refusal
from dfsfuse.drivers.fuse_listings import DOTS, Listing
from dfsfuse.drivers.fuse_node import Node
from dfsfuse.drivers.fuse_nodes import Nodes
from dfsfuse.drivers.fuse_second_looks import SecondLooks
from dfsfuse.errors import Stale
from dfsfuse.filesystem import FileSystem
from dfsfuse.messages import ROOT_INO, FolderEntry
from dfsfuse.places import Place

_FOLDER = 0o040000
_OFFSETS = 1 << 63

Entry = tuple[int, bytes, int, int, bool]
"""(inode number, name, mode, offset of what follows, whether the kernel may look it up)."""


class Folders:
    """What is open, by the number that the kernel has for it."""

    def __init__(self, filesystem: FileSystem, nodes: Nodes, second_looks: SecondLooks):
        self._fs, self._nodes, self._second_looks = filesystem, nodes, second_looks
        self._listings: dict[int, Listing] = {}
        self._numbers = itertools.count(1)

    def handlers(self) -> Handlers:
        return {
            fuse.FUSE_OPENDIR: (self.opendir, beyond(fuse.fuse_open_in)),
            fuse.FUSE_READDIR: (self.readdir, beyond(fuse.fuse_read_in)),
            fuse.FUSE_READDIRPLUS: (self.readdirplus, beyond(fuse.fuse_read_in)),
            fuse.FUSE_RELEASEDIR: (self.releasedir, beyond(fuse.fuse_release_in)),
            fuse.FUSE_FSYNCDIR: (self.fsyncdir, BODY),
        }

    def opendir(self, request: Request) -> bytes:
        node = self._nodes.get(request.nodeid)
        moves_atime = not fuse.fuse_open_in.unpack_from(request.buffer, BODY)[0] & os.O_NOATIME

        def list_after(name: bytes) -> Iterator[FolderEntry]:
            return self._fs.list_folder((node.ino, ()), name, moves_atime=moves_atime and not name)

        def begin(place: Place, shown: bytes) -> Listing:
            return Listing(
                self._fs.list_folder(place, ino=node.ino, moves_atime=moves_atime), list_after, replies.KERNEL_HOLD_S
            )

        promised = self._nodes.lasting() and self._fs.promises(self._nodes.place_of(node)[0], node.ino)
        later = promised or node.ino == ROOT_INO
        listing = Listing(None, list_after, 0.0) if later else self._begin(request.pid, node, begin)
        fh = next(self._numbers)
        self._listings[fh] = listing
        request.undo = functools.partial(self._listings.pop, fh, None)
        return replies.open_out(fh, (fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE) * promised)

    def _begin(self, thread: int, node: Node, begin: Callable[[Place, bytes], Listing]) -> Listing:
        """The kernel looks the name up once more where it leads elsewhere; what it has found then is listed wherever it
        is. What it opens without a name is the folder that a program is in, or has open. Of one that was removed there
        is nothing to list."""
        nameless = node.name is None
        try:
            return self._nodes.through_name(node, begin)
        except Stale:
            second = self._second_looks.is_second(thread, node)
            if not (second or nameless) or node.folder is None:
                raise
            if self._is_gone(node):
                return Listing(iter(()), lambda _: iter(()), replies.KERNEL_HOLD_S)
            if not second:
                raise
            return begin((node.ino, ()), b"")

    def _is_gone(self, node: Node) -> bool:
        try:
            self._fs.lookup((node.ino, ()))
        except Stale:
            return True
        return False

    def releasedir(self, request: Request) -> bytes:
        self._listings.pop(fuse.fuse_release_in.unpack_from(request.buffer, BODY)[0], None)
        return b""

    def fsyncdir(self, request: Request) -> bytes:
        self._fs.session.sync()
        return b""

    def readdir(self, request: Request) -> bytes:
        listing, offset, room = self._asked(request)
        node, parts = self._nodes.get(request.nodeid), []
        for ino, name, mode, following, _ in self._entries(node, listing, offset):
            part = replies.dirent(name, ino, following, mode)
            room -= len(part)
            if room < 0:
                break
            parts.append(part)
        return b"".join(parts)

    def readdirplus(self, request: Request) -> bytes:
        listing, offset, room = self._asked(request)
        node, parts = self._nodes.get(request.nodeid), []
        counted: list[Node] = []
        request.undo = functools.partial(self._nodes.forget_all_of, counted)
        for ino, name, mode, following, real in self._entries(node, listing, offset):
            part = replies.dirent(name, ino, following, mode)
            room -= len(part) + len(replies.NO_ENTRY)
            if room < 0:
                break
            parts += (self._looked_up(node, name, ino, counted) if real else replies.NO_ENTRY), part
        return b"".join(parts)

    def _asked(self, request: Request) -> tuple[Listing, int, int]:
        fh, offset, size, *_ = fuse.fuse_read_in.unpack_from(request.buffer, BODY)
        listing = self._listings.get(fh)
        if listing is None or offset >= _OFFSETS:
            raise refusal(errno.EBADF)
        return listing, offset, min(size, PAYLOAD_BYTES_MAX)

    def _entries(self, folder: Node, listing: Listing, offset: int) -> Iterator[Entry]:
        """From `offset` on: "." and "..", which nobody looks up, and the folder's own."""
        if offset < 1:
            yield folder.ino, b".", _FOLDER, 1, False
        if offset < DOTS:
            yield self._nodes.parent_of(folder), b"..", _FOLDER, DOTS, False
        try:
            for following, entry in listing.entries_from(offset):
                yield entry.attributes.ino, entry.name, entry.attributes.mode, following, True
        except Stale:
            # Of a folder that is gone, as on a local disk: programs see the end of the listing.
            raise refusal(errno.ENOENT) from None

    def _looked_up(self, folder: Node, name: bytes, ino: int, counted: list[Node]) -> bytes:
        attributes = self._fs.known((folder.ino, (name,)))
        if attributes is None or attributes.ino != ino:
            return replies.NO_ENTRY
        node = self._nodes.found(ino, (folder.ino, name))
        counted.append(node)
        return replies.entry_out(node, self._nodes.tell(node, attributes))
