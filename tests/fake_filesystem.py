"""A file system in memory with the interface that drivers use: what a driver translates, and nothing of what the real
one does. Files are bytearrays; errors are those of `dfsfuse.errors`."""

import contextlib
import fcntl
import itertools
import stat
import threading
from collections.abc import Callable, Iterator

import msgspec

from dfsfuse import errors
from dfsfuse.messages import ROOT_INO, Attributes, FolderEntry
from dfsfuse.places import Place
from dfsfuse.range_locks import FileLock
from dfsfuse.space import Space


def attributes(ino: int, mode: int, **more: int) -> Attributes:
    fields = {"uid": 1, "gid": 2, "nlink": 1, "size": 0, "mtime_ns": 3, "ctime_ns": 4, "atime_ns": 5, **more}
    return Attributes(ino=ino, mode=mode, **fields)


class FakeUnseen:
    writers = 0


class FakeContent:
    """What a driver knows of a content: its size, which bytes they are (row, lineage), and how many have opened it for
    writing."""

    def __init__(self, ino: int, row: int):
        self.ino, self.row, self.lineage, self.data = ino, row, 1, bytearray()
        self.version, self.fd, self.unseen, self.writers = 1, -1, FakeUnseen(), 0

    @property
    def size(self) -> int:
        return len(self.data)

    def end(self) -> tuple[int, bytes]:
        return self.size, bytes(self.data[-1:])


class FakeHandle:
    def __init__(self, content: FakeContent, writable: bool, privileged: bool):
        self.content, self.writable, self.closed = content, writable, False
        self.privileged, self.past_pages, self.share, self.flags = privileged, False, None, 0
        content.writers += writable
        self.unseen, self.failed = False, None


class FakeFiles:
    """The part of OpenFiles that drivers call. `calls` are those that leave no trace elsewhere; `lent` are the contents
    whose files the kernel reads itself."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.lent: list[FakeContent] = []
        self.mapped: list[FakeContent] = []
        self.writable, self.sizes, self.in_kernel = False, None, self

    def lend(self, content: FakeContent, least_bytes: int) -> bool:
        fit = content.size >= least_bytes
        self.lent += [content] * fit
        return fit

    def prepare_to_write(self, content: FakeContent) -> bool:
        return self.writable

    def lend_to_write(self, content: FakeContent, begins: bool) -> bool:
        if not self.writable:
            return False
        self.lent += [content] * begins
        content.unseen.writers += 1
        return True

    def not_lent(self, content: FakeContent) -> None:
        content.unseen.writers -= 1

    def may_close(self, handle: FakeHandle) -> bool:
        return handle.content not in self.mapped

    def leave(self, handle: FakeHandle) -> None: ...

    def ask_for_lease(self, fd: int) -> None: ...

    def is_in_memory(self, content: FakeContent) -> bool:
        return False

    def take_back(self, content: FakeContent) -> None:
        self.lent.remove(content)

    def read_into(self, handle: FakeHandle, buffer: memoryview, offset: int) -> int:
        piece = handle.content.data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def write(
        self, handle: FakeHandle, data: memoryview, offset: int, append: bool = False, interrupted: object = None
    ) -> int:
        if not handle.writable:
            raise errors.BadHandle
        if offset + len(data) > 1 << 24:
            raise errors.FileTooLarge
        content = handle.content.data
        offset = len(content) if append else offset
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self.calls.append(("write", offset, len(data), append))
        return len(data)

    def resize(self, handle: FakeHandle, size: int, interrupted: object = None) -> None:
        if size > 1 << 24:
            raise errors.FileTooLarge
        del handle.content.data[size:]
        handle.content.data.extend(bytes(size - handle.content.size))

    def flush(self, handle: FakeHandle, durable: bool = False) -> None:
        self.calls.append(("flush", handle.content.ino, durable))

    def release(self, handle: FakeHandle) -> None:
        assert not handle.closed
        handle.closed = True
        handle.content.unseen.writers -= handle.unseen
        self.calls.append(("release", handle.content.ino))


class FakeProgramLocks:
    """The part of ProgramLocks that drivers call. One lock is `held` at most; who waits for it is in `waiting`, with
    what is to be told when it is decided, and how to ask whether he was interrupted."""

    def __init__(self, files: FakeFiles) -> None:
        self._files = files
        self.held: FileLock | None = None
        self.waiting: list[tuple[FileLock, Callable, Callable[[], bool]]] = []
        self.shared: set[int] = set()
        self.tell: Callable[[FakeContent, int], None] | None = None

    def on_content_changed(self, tell: Callable[[FakeContent, int], None]) -> None:
        self.tell = tell

    def is_shared(self, ino: int) -> bool:
        return ino in self.shared

    def get(self, handle: FakeHandle, lock: FileLock) -> FileLock | None:
        return self.held

    def set(self, handle: FakeHandle, lock: FileLock, wait: bool = False, interrupted: object = None) -> None:
        if lock.kind == fcntl.F_UNLCK:
            self.held = None
        elif self.held is not None:
            raise errors.WouldBlock
        else:
            self.held = lock

    def begin(self, handle: FakeHandle, lock: FileLock, later: Callable, interrupted: Callable[[], bool]) -> bool:
        if self.held is None:
            self.held = lock
            return True
        self.waiting.append((lock, later(), interrupted))
        return False

    def flush(self, handle: FakeHandle, owner: int) -> None:
        self._files.flush(handle)
        if self.held is not None and self.held.owner == owner:
            self.held = None

    def release(self, handle: FakeHandle) -> None:
        self._files.release(handle)


class FakeSession:
    def __init__(self) -> None:
        self.synced = 0

    def sync(self) -> None:
        self.synced += 1


class FakeFileSystem:
    """`blocking`: an open for writing waits until it is interrupted, or until this is cleared."""

    def __init__(self) -> None:
        self.files, self.session = FakeFiles(), FakeSession()
        self.program_locks = FakeProgramLocks(self.files)
        self.inodes = {ROOT_INO: attributes(ROOT_INO, stat.S_IFDIR | 0o755, nlink=2)}
        self.names: dict[tuple[int, bytes], int] = {}
        self.contents: dict[int, FakeContent] = {}
        self.handles: list[FakeHandle] = []
        self.blocking = threading.Event()
        self.blocked = threading.Semaphore(0)
        self._numbers = itertools.count(100)
        self.forgotten = 0
        self.promised: set[int] = set()
        self.known_files, self.cache_bytes = 100_000, 10 << 30
        self.broken: list[Callable[[int, bytes], None]] = []
        self.on_broken = self.broken.append
        self.leased = True

    def lease_counts(self) -> bool:
        return self.leased

    def promises(self, place: Place, ino: int) -> bool:
        return ino in self.promised

    def may_stay_open(self, handle: FakeHandle) -> bool:
        content = handle.content
        return content.ino in self.promised and self.contents[content.ino] is content

    def opened_again(self, handle: FakeHandle, place: Place, flags: int) -> Attributes | None:
        fits = self.may_stay_open(handle) and flags == handle.flags and self._at(place) == handle.content.ino
        return self.lookup(place) if fits else None

    # -- for tests

    def add(self, name: bytes, mode: int = stat.S_IFREG | 0o644, parent: int = ROOT_INO, **more: int) -> int:
        ino = next(self._numbers)
        self.inodes[ino], self.names[parent, name] = attributes(ino, mode, **more), ino
        if stat.S_ISREG(mode):
            self.contents[ino] = FakeContent(ino, ino)
        return ino

    def replace_content(self, ino: int, data: bytes) -> None:
        """Another client has made a new version."""
        content = self.contents[ino] = FakeContent(ino, next(self._numbers))
        content.data[:] = data

    def _at(self, place: Place) -> int:
        ino = place[0]
        for name in place[1]:
            if len(name) > 255:
                raise errors.NameTooLong
            if (ino, name) not in self.names:
                raise errors.NotFound(name.decode(errors="replace")) if ino in self.inodes else errors.Stale
            ino = self.names[ino, name]
        if ino not in self.inodes:
            raise errors.Stale
        return ino

    # -- what drivers call

    def lookup(self, place: Place, shown: Callable[[], bytes] | None = None) -> Attributes:
        known = self.inodes[self._at(place)]
        content = self.contents.get(known.ino)
        if content is None:
            return known
        more = {"size": content.size, "allocated_bytes": content.size, "version": content.version}
        return msgspec.structs.replace(known, **more)

    def lookup_open(self, ino: int) -> Attributes:
        return self.lookup((ino, ()))

    def attributes_of(self, handle: FakeHandle) -> Attributes:
        return self.lookup_open(handle.content.ino)

    def known(self, place: Place) -> Attributes | None:
        with contextlib.suppress(errors.DfsError):
            return self.lookup(place)
        return None

    def forget_names(self) -> None:
        self.forgotten += 1

    def space(self) -> Space:
        return Space(total_bytes=100 << 20, free_bytes=40 << 20, inodes=7, inodes_free=1000)

    def open_folder(self, place: Place) -> int:
        return self._at(place)

    def list_folder(
        self, place: Place, after: bytes = b"", ino: int = 0, seen_at: Place | None = None, moves_atime: bool = False
    ) -> Iterator[FolderEntry]:
        folder = self._at(place)
        if ino and folder != ino:
            raise errors.Stale
        while True:
            later = sorted(name for parent, name in self.names if parent == folder and name > after)[:1000]
            for name in later:
                if (folder, name) in self.names:
                    yield FolderEntry(name, self.inodes[self.names[folder, name]])
                after = name
            if not later:
                return

    def make(
        self, place: Place, mode: int, uid: int, gid: int, target: bytes = b"", rdev: int = 0, umask: int = 0
    ) -> Attributes:
        mode &= ~(umask & 0o777)
        if not place[1] or place[1][-1] in (b".", b"..") or b"/" in place[1][-1]:
            raise errors.BadRequest
        parent, name = self._at((place[0], place[1][:-1])), place[1][-1]
        if len(name) > 255:
            raise errors.NameTooLong
        if (parent, name) in self.names:
            raise errors.AlreadyExists
        ino = self.add(name, mode, parent, uid=uid, gid=gid, rdev=rdev)
        self.inodes[ino].target = target
        return self.inodes[ino]

    def remove(self, place: Place, folder: bool, thread: int = 0) -> None:
        ino = self._at(place)
        if folder != stat.S_ISDIR(self.inodes[ino].mode):
            raise errors.NotADirectory if folder else errors.IsADirectory
        if any(parent == ino for parent, _ in self.names):
            raise errors.NotEmpty
        del self.names[self._at((place[0], place[1][:-1])), place[1][-1]]

    def rename(self, old: Place, new: Place, flags: int = 0, thread: int = 0) -> None:
        ino, before = self._at(old), self._at((old[0], old[1][:-1]))
        after = self._at((new[0], new[1][:-1]))
        if flags & 1 and (after, new[1][-1]) in self.names:
            raise errors.AlreadyExists
        del self.names[before, old[1][-1]]
        if flags & 2:
            self.names[before, old[1][-1]] = self._at(new)
        self.names[after, new[1][-1]] = ino

    def set_attributes(self, place: Place, **changes: int) -> Attributes:
        known = self.inodes[self._at(place)]
        for field, value in changes.items():
            setattr(known, field, stat.S_IFMT(known.mode) | value if field == "mode" else value)
        return known

    def create(
        self, place: Place, mode: int, uid: int, gid: int, flags: int, pid: int, privileged: bool, shown: bytes = b"",
        interrupted: Callable[[], bool] | None = None, umask: int = 0,
    ) -> tuple[FakeHandle, Attributes]:  # fmt: skip
        made = self.make(place, mode, uid, gid, umask=umask)
        self.files.calls.append(("create", shown, flags, pid))
        return self._handle(made.ino, True, privileged), made

    def open(
        self,
        place: Place,
        flags: int,
        pid: int,
        interrupted: Callable[[], bool],
        privileged: bool = False,
        *,
        ino: int = 0,
        shown: bytes = b"",
    ) -> tuple[FakeHandle, Attributes]:
        found = self._at(place)
        if ino and found != ino:
            raise errors.Stale
        if found not in self.contents:
            raise errors.IsADirectory
        if flags & 3 and self.blocking.is_set():
            self._block(interrupted)
        self.files.calls.append(("open", place, flags, pid, shown))
        handle = self._handle(found, bool(flags & 3), privileged)
        handle.flags = flags
        return handle, self.lookup(place)

    def _block(self, interrupted: Callable[[], bool]) -> None:
        self.blocked.release()
        while self.blocking.is_set():
            if interrupted():
                raise errors.Interrupted
            threading.Event().wait(0.001)

    def _handle(self, ino: int, writable: bool, privileged: bool) -> FakeHandle:
        self.handles.append(FakeHandle(self.contents[ino], writable, privileged))
        return self.handles[-1]

    def truncate(
        self,
        place: Place,
        size: int,
        pid: int,
        interrupted: Callable[[], bool],
        privileged: bool,
        *,
        ino: int = 0,
        shown: bytes = b"",
    ) -> None:
        handle = self.open(place, 1, pid, interrupted, privileged, ino=ino, shown=shown)[0]
        self.files.resize(handle, size)
        self.files.release(handle)
