"""inotify: what it tells of changes on the same machine."""

import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path

from posix_rules.files import made, made_folder, opened
from posix_rules.processes import DEADLINE_S, in_child

ACCESS, MODIFY, ATTRIB, CLOSE_WRITE, OPEN = 0x1, 0x2, 0x4, 0x8, 0x20
MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
_IGNORED = 0x8000
"""IN_IGNORED: the watch ends with what it watched."""
_HEADER = "iIII"
"""struct inotify_event: watch, mask, cookie, length of the name."""

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def _watched(path: Path, mask: int) -> Iterator[int]:
    """A descriptor that tells of these events of a path."""
    fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert _libc.inotify_add_watch(fd, os.fsencode(path), mask) >= 0, os.strerror(ctypes.get_errno())
        yield fd
    finally:
        os.close(fd)


def _told(fd: int, count: int) -> list[tuple[int, str]]:
    """The next `count` events: kind and name."""
    events: list[tuple[int, str]] = []
    while len(events) < count:
        assert select.select([fd], [], [], DEADLINE_S)[0], f"{events} and no more within {DEADLINE_S:g} s"
        data = os.read(fd, 65536)
        while data:
            _, mask, _, length = struct.unpack_from(_HEADER, data)
            start = struct.calcsize(_HEADER)
            if not mask & _IGNORED:
                events.append((mask & 0xFFF, os.fsdecode(data[start : start + length].rstrip(b"\0"))))
            data = data[start + length :]
    return events


def inotify_tells_of_names(folder: Path) -> None:
    """Names that are made, moved and removed, in their order. (inotify(7))"""
    with _watched(folder, CREATE | DELETE | MOVED_FROM | MOVED_TO) as fd:
        made(folder / "file")
        os.mkdir(folder / "sub")
        os.rename(folder / "file", folder / "moved")
        os.unlink(folder / "moved")
        os.rmdir(folder / "sub")
        expected = [
            (CREATE, "file"), (CREATE, "sub"), (MOVED_FROM, "file"), (MOVED_TO, "moved"), (DELETE, "moved"),
            (DELETE, "sub"),
        ]  # fmt: skip
        assert _told(fd, 6) == expected


def inotify_tells_of_writing(folder: Path) -> None:
    """That a file was changed, and closed after that. (inotify(7))"""
    made(folder / "file")
    with _watched(folder, MODIFY | CLOSE_WRITE) as fd:
        with opened(folder / "file", os.O_WRONLY) as file:
            os.write(file, b"content")
            assert _told(fd, 1) == [(MODIFY, "file")]
        assert _told(fd, 1) == [(CLOSE_WRITE, "file")]


def inotify_tells_of_attributes(folder: Path) -> None:
    """That mode or times were set. (inotify(7))"""
    made(folder / "file")
    with _watched(folder / "file", ATTRIB) as fd:
        os.chmod(folder / "file", 0o600)
        assert _told(fd, 1) == [(ATTRIB, "")]
        os.utime(folder / "file", ns=(1, 2))
        assert _told(fd, 1) == [(ATTRIB, "")]


def inotify_tells_of_other_processes(folder: Path) -> None:
    """Whoever on this machine makes a change. (inotify(7))"""
    with _watched(folder, CREATE | CLOSE_WRITE) as fd:
        in_child(made, folder / "file", b"content")
        assert _told(fd, 2) == [(CREATE, "file"), (CLOSE_WRITE, "file")]


def inotify_tells_a_folder_of_its_own_end(folder: Path) -> None:
    """That what is watched was moved, and removed. (inotify(7))"""
    made_folder(folder / "sub")
    with _watched(folder / "sub", MOVE_SELF | DELETE_SELF) as fd:
        os.rename(folder / "sub", folder / "moved")
        assert _told(fd, 1) == [(MOVE_SELF, "")]
        os.rmdir(folder / "moved")
        assert _told(fd, 1) == [(DELETE_SELF, "")]
