"""The kernel's side of the FUSE protocol for tests: requests as bytes, replies taken apart. No mount is needed."""

import contextlib
import itertools
import socket
from typing import NamedTuple

from fake_filesystem import FakeFileSystem

from dfsfuse.drivers import fuse_protocol as fuse
from dfsfuse.drivers.fuse_channel import HEAD, Request
from dfsfuse.drivers.linux import Driver
from dfsfuse.options import KNOWN_FILES

_LARGEST = 2 << 20


class Reply(NamedTuple):
    """`error` is positive; 0 for success. A notification has `unique` 0, and its code as a negative `error`."""

    unique: int
    error: int
    body: bytes


class Entry(NamedTuple):
    """One entry of a listing; `nodeid` is 0 where it came without a look-up."""

    ino: int
    following: int
    kind: int
    name: bytes
    nodeid: int


_uniques = itertools.count(2, 2)


def request_bytes(
    opcode: int, body: bytes = b"", nodeid: int = 1, unique: int = 0, pid: int = 77, uid: int = 1000
) -> bytes:
    unique = unique or next(_uniques)
    return fuse.fuse_in_header.pack(40 + len(body), opcode, unique, nodeid, uid, 1001, pid, 0, 0) + body


def reply_of(message: bytes) -> Reply:
    length, error, unique = fuse.fuse_out_header.unpack_from(message)
    assert length == len(message)
    assert error == 0 or length == 16 or unique == 0, "an error has no body"
    return Reply(unique, -error, message[16:])


def entries_of(body: bytes, plus: bool = False) -> list[Entry]:
    """The entries of a reply to READDIR or READDIRPLUS."""
    found, start = [], 0
    while start < len(body):
        nodeid = fuse.fuse_entry_out.unpack_from(body, start)[0] if plus else 0
        start += fuse.fuse_entry_out.size if plus else 0
        ino, following, length, kind = fuse.fuse_dirent.unpack_from(body, start)
        name = body[start + 24 : start + 24 + length]
        found.append(Entry(ino, following, kind, name, nodeid))
        start += fuse.fuse_dirent_align(24 + length)
    assert start == len(body)
    return found


class Kernel:
    """A driver over a file system in memory, and the kernel's end of its device. `drop_replies`: as if nobody waited
    for the answers any more. `uid`: whose requests it passes on."""

    uid = 1000

    def __init__(self, filesystem: FakeFileSystem | None = None, known_files: int = KNOWN_FILES):
        self.fs = filesystem or FakeFileSystem()
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(0)
        for end in (self.ours, self.theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
        self.fs.known_files = known_files
        self.driver = Driver(self.fs, self.theirs.fileno())
        self._request = Request(self.theirs.fileno())

    def close(self) -> None:
        self._request.close()
        self.ours.close()
        self.theirs.close()

    def send(self, message: bytes) -> list[Reply]:
        """All that the driver writes while it answers one request."""
        self.driver.answer(self.put(message))
        return self.written()

    def put(self, message: bytes) -> Request:
        """As if it had been read."""
        self._request.end = HEAD + len(message)
        self._request.buffer[HEAD : self._request.end] = message
        return self._request

    def written(self) -> list[Reply]:
        replies = []
        with contextlib.suppress(BlockingIOError):
            while message := self.ours.recv(_LARGEST):
                replies.append(reply_of(message))
        return replies

    def ask(self, opcode: int, body: bytes = b"", nodeid: int = 1) -> Reply:
        """The one reply to a request; notifications that came before it are left out."""
        message = request_bytes(opcode, body, nodeid, uid=self.uid)
        *_, reply = self.send(message)
        assert reply.unique == fuse.fuse_in_header.unpack_from(message)[2]
        return reply

    def do(self, opcode: int, body: bytes = b"", nodeid: int = 1) -> bytes:
        """The body of the reply to a request that succeeds."""
        reply = self.ask(opcode, body, nodeid)
        assert reply.error == 0
        return reply.body

    # -- requests that tests make often

    def lookup(self, name: bytes, nodeid: int = 1) -> int:
        """The node's number."""
        return fuse.fuse_entry_out.unpack_from(self.do(fuse.FUSE_LOOKUP, name + b"\0", nodeid))[0]

    def open(self, nodeid: int, flags: int = 0) -> tuple[int, int]:
        """(number of the open file, FOPEN_ flags)."""
        return fuse.fuse_open_out.unpack(self.do(fuse.FUSE_OPEN, fuse.fuse_open_in.pack(flags, 0), nodeid))[:2]

    def read(self, fh: int, size: int, offset: int = 0, flags: int = 0) -> Reply:
        return self.ask(fuse.FUSE_READ, fuse.fuse_read_in.pack(fh, offset, size, flags, 0, 0))

    def write(self, fh: int, data: bytes, offset: int = 0, flags: int = 0, open_flags: int = 0) -> int:
        body = self.do(fuse.FUSE_WRITE, fuse.fuse_write_in.pack(fh, offset, len(data), flags, 0, open_flags) + data)
        return fuse.fuse_write_out.unpack(body)[0]

    def release(self, fh: int) -> None:
        self.do(fuse.FUSE_RELEASE, fuse.fuse_release_in.pack(fh, 0, 0, 0))
