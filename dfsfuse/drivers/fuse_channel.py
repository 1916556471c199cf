"""/dev/fuse: requests read into buffers that are used again and again, and replies to the descriptor that each was read
from.

A descriptor of the mount can be cloned; what one of them has read must be answered there, while notifications may go
through any. INTERRUPT may be read from another descriptor than the request that it means, and before anybody here has
begun with that request; so what was interrupted is remembered, and asked about.

Threads: a Request belongs to one thread. `Interrupts` is a dictionary whose single operations are atomic.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from struct import Struct

from dfsfuse.drivers import fuse_protocol as fuse

log = logging.getLogger(__name__)

DEVICE = "/dev/fuse"
PAYLOAD_BYTES_MAX = 1 << 20
"""The largest READ, WRITE and listing, in one piece."""
DATA = 4096
"""Where a reply's data is put together: the room before it takes the header, so both go out in one write. Also where
the data of a WRITE is: at the border of a page, from which it can go to the disk as it is."""
HEAD = DATA - fuse.fuse_in_header.size - fuse.fuse_write_in.size
"""Where a request begins in its buffer."""
BODY = HEAD + fuse.fuse_in_header.size
"""Where its structure begins."""
_BUFFER_BYTES = DATA + PAYLOAD_BYTES_MAX
_HEADER = DATA - fuse.fuse_out_header.size
_NOTHING_READ = (errno.ENOENT, errno.EINTR, errno.EAGAIN)
"""ENOENT: the request was withdrawn while it was being read."""
_ENDED = (errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADF)
_INTERRUPTS_MAX = 4096

_pack_header = fuse.fuse_out_header.pack


def refusal(number: int, why: str = "") -> OSError:
    """To be raised by who answers a request: the errno for the program, and why for the log."""
    return OSError(number, why or os.strerror(number))


def clone(device: int) -> int:
    """One more descriptor of the same mount, with requests of its own in progress."""
    other = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(other, fuse.FUSE_DEV_IOC_CLONE, fuse.fuse_dev_ioc_clone.pack(device))
    except BaseException:
        os.close(other)
        raise
    return other


class Request:
    """The request that one thread works on, the bytes of `buffer` from HEAD to `end`. `undo` is called if the kernel
    does not take the reply: what the reply would have made the kernel the owner of."""

    __slots__ = (
        "device", "buffer", "view", "end", "opcode", "unique", "nodeid", "uid", "gid", "pid", "undo", "_into",
    )  # fmt: skip

    def __init__(self, device: int):
        self.device = device
        # An anonymous mapping takes memory only as far as it has been used.
        self.buffer = mmap.mmap(-1, _BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self._into = [self.view[HEAD:]]
        self.end = self.opcode = self.unique = self.nodeid = self.uid = self.gid = self.pid = 0
        self.undo: Callable[[], None] | None = None

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            self._into.clear()
            self.view.release()
            self.buffer.close()

    def receive(self) -> bool:
        """Wait for the next request; False: there will be none."""
        while True:
            try:
                count = os.readv(self.device, self._into)
                self.end = HEAD + count
                return count > 0
            except OSError as error:
                if error.errno in _NOTHING_READ:
                    continue
                if error.errno not in _ENDED:
                    log.error("reading from %s: %s", DEVICE, error)
                return False

    # -- parts of the request

    def name(self, start: int = BODY) -> bytes:
        """The name that begins there and ends with a zero byte."""
        end = self.buffer.find(b"\0", start, self.end)
        if end <= start:
            raise refusal(errno.EINVAL, "a name is missing")
        return self.buffer[start:end]

    def two_names(self, start: int = BODY) -> tuple[bytes, bytes]:
        first = self.name(start)
        return first, self.name(start + len(first) + 1)

    def data(self, start: int, length: int) -> memoryview:
        """Valid until the reply."""
        if start + length > self.end:
            raise refusal(errno.EINVAL, "data is missing")
        return self.view[start : start + length]

    # -- replies

    def reply(self, body: bytes = b"") -> None:
        try:
            os.write(self.device, _pack_header(16 + len(body), 0, self.unique) + body)
        except OSError as error:
            self._not_taken(error)

    def reply_data(self, length: int) -> None:
        """The `length` bytes that were put at DATA."""
        fuse.fuse_out_header.pack_into(self.buffer, _HEADER, 16 + length, 0, self.unique)
        try:
            os.write(self.device, self.view[_HEADER : DATA + length])
        except OSError as error:
            self._not_taken(error)

    def fail(self, number: int) -> None:
        try:
            os.write(self.device, _pack_header(16, -number, self.unique))
        except OSError as error:
            self._not_taken(error)

    def _not_taken(self, error: OSError) -> None:
        """ENOENT: nobody waits for this any more."""
        if error.errno not in (errno.ENOENT, *_ENDED):
            log.error("the kernel refuses the reply to %s: %s", fuse.OPCODES.get(self.opcode, self.opcode), error)
        self.give_up()

    def give_up(self) -> None:
        """Nobody gets the reply."""
        undo, self.undo = self.undo, None
        if undo is not None:
            try:
                undo()
            except Exception:
                log.exception("%s cannot be undone", fuse.OPCODES.get(self.opcode, self.opcode))


class LaterReply:
    """The reply to a request, given by another thread after the worker has gone on to the next one; once. The kernel
    takes it from the descriptor alone from which the request was read, so that one is kept open until then."""

    def __init__(self, request: Request):
        self._device, self._unique = os.dup(request.device), request.unique
        self._name = fuse.OPCODES.get(request.opcode, str(request.opcode))

    def reply(self, body: bytes = b"") -> None:
        self._write(_pack_header(16 + len(body), 0, self._unique) + body)

    def fail(self, number: int) -> None:
        self._write(_pack_header(16, -number, self._unique))

    def _write(self, reply: bytes) -> None:
        try:
            os.write(self._device, reply)
        except OSError as error:
            if error.errno not in (errno.ENOENT, *_ENDED):
                log.error("the kernel refuses the later reply to %s: %s", self._name, error)
        finally:
            os.close(self._device)


Handler = Callable[[Request], bytes | None]
"""Answers one kind of request: returns what follows fuse_out_header; None where it has replied itself, or where nothing
is to be replied."""

Handlers = dict[int, tuple[Handler, int]]
"""Opcode -> (handler, where such a request ends at the earliest)."""


def beyond(structure: Struct) -> int:
    """Where a request with this structure ends at the earliest: what lies beyond is of what was read before."""
    return BODY + structure.size


class Interrupts:
    """Which requests have been interrupted. Their numbers never come again, so the oldest are dropped without harm."""

    def __init__(self) -> None:
        self._arrived: dict[int, None] = {}
        self._all = False

    def arrived(self, unique: int) -> None:
        self._arrived[unique] = None
        while len(self._arrived) > _INTERRUPTS_MAX:
            self._arrived.pop(next(iter(self._arrived)), None)

    def everything(self) -> None:
        """The mount has ended: nobody waits for anything."""
        self._all = True

    def has(self, unique: int) -> bool:
        return self._all or unique in self._arrived

    def of(self, request: Request) -> Callable[[], bool]:
        """Has the program that made this request been interrupted or killed? To be asked from any thread."""
        return functools.partial(self.has, request.unique)


class Notifier:
    """What the kernel is told unasked."""

    def __init__(self, device: int):
        self._device = device

    def attributes_changed(self, nodeid: int) -> bool:
        """The kernel asks again for the attributes of a node before it uses them, and takes no answer that it has asked
        for before; its pages stay. False: it does not know the node."""
        return self._tell(fuse.FUSE_NOTIFY_INVAL_INODE, fuse.fuse_notify_inval_inode_out.pack(nodeid, -1, 0))

    def content_changed(self, nodeid: int, start: int = 0, end: int = 0) -> bool:
        """The same, and it forgets its pages too: those of [start, end), or all. Not from a thread that answers a read
        or a write of it: the kernel has pages locked while it waits for these."""
        body = fuse.fuse_notify_inval_inode_out.pack(nodeid, start, end - start)
        return self._tell(fuse.FUSE_NOTIFY_INVAL_INODE, body)

    def store(self, nodeid: int, data: bytes, offset: int) -> bool:
        """It has these bytes in its pages, and the file is as long at least. As `content_changed`, not from a thread
        that answers a read or a write."""
        head = fuse.fuse_notify_store_out.pack(nodeid, offset, len(data))
        return self._tell(fuse.FUSE_NOTIFY_STORE, head + data)

    def name_changed(self, folder: int, name: bytes) -> None:
        """It looks the name up again before it uses it. Waits for who holds the folder's lock, such as a request on a
        name of it: so not from a thread that answers requests."""
        head = fuse.fuse_notify_inval_entry_out.pack(folder, len(name), 0)
        self._tell(fuse.FUSE_NOTIFY_INVAL_ENTRY, head + name + b"\0")

    def names_changed(self) -> None:
        """It looks each name up again before it uses it; waits for nothing."""
        self._tell(fuse.FUSE_NOTIFY_INC_EPOCH, b"")

    def prune(self, nodeids: Sequence[int]) -> bool:
        """It forgets these nodes, unless they are in use; False: it does not know how."""
        body = fuse.fuse_notify_prune_out.pack(len(nodeids)) + struct.pack(f"={len(nodeids)}Q", *nodeids)
        try:
            self._write(fuse.FUSE_NOTIFY_PRUNE, body)
        except OSError as error:
            return error.errno != errno.EINVAL
        return True

    def _write(self, code: int, body: bytes) -> None:
        os.write(self._device, _pack_header(16 + len(body), code, 0) + body)

    def _tell(self, code: int, body: bytes) -> bool:
        try:
            self._write(code, body)
        except OSError as error:
            if error.errno not in (errno.ENOENT, *_ENDED):
                log.error("the kernel refuses notification %d: %s", code, error)
            return False
        return True
