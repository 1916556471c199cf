"""System calls that Python's os does not offer, by the names that the manual gives them; they raise OSError."""

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = 0x100, 0x400, 0x1000
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE_RANGE, FALLOC_ZERO_RANGE = 0x01, 0x02, 0x08, 0x10
SYNC_FILE_RANGE_ALL = 7
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
STATX_BASIC_STATS, STATX_BTIME = 0x7FF, 0x800
NANO = 10**9

_libc = ctypes.CDLL(None, use_errno=True)
_DIRENT = "=QqHB"
"""The head of struct linux_dirent64: ino, offset, length of the record, type."""

Where = str | bytes | os.PathLike


def _call(name: str, *arguments: object) -> int:
    result = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def renameat2(old: Where, new: Where, flags: int) -> None:
    _call("renameat2", AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags))


def linkat(old_dir: int, old: Where, new: Where, flags: int) -> None:
    """os.link follows symlinks or not by the platform's choice; this does what the flags say."""
    _call("linkat", old_dir, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _call("fallocate", fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def sync_file_range(fd: int, offset: int, length: int, flags: int) -> None:
    _call("sync_file_range", fd, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(flags))


def syncfs(fd: int) -> None:
    _call("syncfs", fd)


def readlink(path: Where, size: int) -> bytes:
    """At most `size` bytes of a symlink's target."""
    buffer = ctypes.create_string_buffer(size)
    length = _call("readlink", os.fsencode(path), buffer, ctypes.c_size_t(size))
    return buffer.raw[:length]


def getxattr(path: Where, name: str, size: int) -> int:
    """Into a buffer of `size` bytes; what the call returns."""
    buffer = ctypes.create_string_buffer(size) if size else None
    return _call("getxattr", os.fsencode(path), name.encode(), buffer, ctypes.c_size_t(size))


def listxattr(path: Where, size: int) -> int:
    """Into a buffer of `size` bytes; what the call returns."""
    buffer = ctypes.create_string_buffer(size) if size else None
    return _call("listxattr", os.fsencode(path), buffer, ctypes.c_size_t(size))


def write_from_nowhere(fd: int, length: int) -> None:
    """write() from an address that is not the program's."""
    _call("write", fd, ctypes.c_void_p(16), ctypes.c_size_t(length))


def read_to_nowhere(fd: int, length: int) -> None:
    """read() to an address that is not the program's."""
    _call("read", fd, ctypes.c_void_p(16), ctypes.c_size_t(length))


# -- times


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64)]


Time = tuple[int, int]
"""Seconds and nanoseconds; the latter may be UTIME_NOW or UTIME_OMIT."""


def utimensat(path: Where, atime: Time, mtime: Time, flags: int = 0) -> None:
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    _call("utimensat", AT_FDCWD, os.fsencode(path), times, flags)


# -- statx


class _StatxTime(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_uint32), ("_pad", ctypes.c_int32)]


class _Statx(ctypes.Structure):
    _fields_ = [
        ("mask", ctypes.c_uint32), ("blksize", ctypes.c_uint32), ("attributes", ctypes.c_uint64),
        ("nlink", ctypes.c_uint32), ("uid", ctypes.c_uint32), ("gid", ctypes.c_uint32), ("mode", ctypes.c_uint16),
        ("_pad", ctypes.c_uint16), ("ino", ctypes.c_uint64), ("size", ctypes.c_uint64), ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64), ("atime", _StatxTime), ("btime", _StatxTime), ("ctime", _StatxTime),
        ("mtime", _StatxTime), ("rdev", ctypes.c_uint32 * 2), ("dev", ctypes.c_uint32 * 2),
        ("_rest", ctypes.c_uint64 * 14),
    ]  # fmt: skip


@dataclass(frozen=True)
class Statx:
    """What statx tells, with times in nanoseconds."""

    mask: int
    mode: int
    nlink: int
    uid: int
    gid: int
    ino: int
    size: int
    blocks: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int


def statx(path: Where, *, dir_fd: int = AT_FDCWD, flags: int = 0, mask: int = STATX_BASIC_STATS | STATX_BTIME) -> Statx:
    told = _Statx()
    _call("statx", dir_fd, os.fsencode(path), flags, ctypes.c_uint(mask), ctypes.byref(told))
    same = (told.mask, told.mode, told.nlink, told.uid, told.gid, told.ino, told.size, told.blocks)
    return Statx(*same, *(time.seconds * NANO + time.nanoseconds for time in (told.mtime, told.ctime, told.btime)))


# -- folders


class Entry(NamedTuple):
    """What a listing tells of a name; `offset` is where to go on behind it."""

    name: str
    ino: int
    offset: int
    type: int


def getdents(fd: int, size: int) -> list[Entry]:
    """What one call brings into a buffer of `size` bytes; nothing at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _call("getdents64", fd, buffer, ctypes.c_size_t(size))
    entries, start = [], 0
    while start < length:
        ino, offset, record, kind = struct.unpack_from(_DIRENT, buffer, start)
        name = buffer.raw[start + struct.calcsize(_DIRENT) : start + record].split(b"\0")[0]
        entries.append(Entry(os.fsdecode(name), ino, offset, kind))
        start += record
    return entries


class _Dirent(ctypes.Structure):
    _fields_ = [
        ("ino", ctypes.c_uint64), ("offset", ctypes.c_int64), ("length", ctypes.c_ushort), ("type", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    ]  # fmt: skip


_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(_Dirent)
_libc.telldir.restype = ctypes.c_long


class Stream:
    """An open folder, read entry by entry: opendir and its family."""

    def __init__(self, folder: Path):
        self._stream = ctypes.c_void_p(_libc.opendir(os.fsencode(folder)))
        assert self._stream, f"opendir {folder}"

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        _libc.closedir(self._stream)

    def read(self) -> tuple[str, int, int] | None:
        """The next entry: name, inode number, type; None at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir(self._stream)
        if entry:
            return os.fsdecode(entry.contents.name), entry.contents.ino, entry.contents.type
        assert ctypes.get_errno() == 0, f"readdir: {os.strerror(ctypes.get_errno())}"
        return None

    def rest(self) -> list[str]:
        """The names from here to the end."""
        return [entry[0] for entry in iter(self.read, None)]

    def tell(self) -> int:
        return _libc.telldir(self._stream)

    def seek(self, place: int) -> None:
        _libc.seekdir(self._stream, ctypes.c_long(place))

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)


# -- bad addresses

_NOWHERE = ctypes.c_void_p(16)
PATH_CALLS: dict[str, tuple[object, ...]] = {
    "open": (_NOWHERE, os.O_RDONLY), "mkdir": (_NOWHERE, 0o755), "rmdir": (_NOWHERE,), "unlink": (_NOWHERE,),
    "chmod": (_NOWHERE, 0o600), "chown": (_NOWHERE, 0, 0), "lchown": (_NOWHERE, 0, 0), "chdir": (_NOWHERE,),
    "truncate": (_NOWHERE, ctypes.c_int64(0)), "mkfifo": (_NOWHERE, 0o600), "link": (_NOWHERE, b"other"),
    "symlink": (_NOWHERE, b"other"), "rename": (_NOWHERE, b"other"), "access": (_NOWHERE, 0),
    "readlink": (_NOWHERE, _NOWHERE, ctypes.c_size_t(10)), "utimes": (_NOWHERE, None),
}  # fmt: skip
"""Calls whose first path is at an address that is not the program's."""


def call_with_nowhere(name: str) -> None:
    _call(name, *PATH_CALLS[name])
