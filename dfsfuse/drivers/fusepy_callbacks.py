"""What libfuse calls, on the way to the driver over fusepy.

mfusepy's FUSE with the few callbacks replaced in which mfusepy costs more than the operation itself (attributes through
a dictionary, data copied twice), or loses what libfuse has passed (rename's flags, the handle of ftruncate and chmod).
"""

import ctypes
import errno
import logging
import time

import mfusepy

from dfsfuse.errors import DfsError
from dfsfuse.space import BLOCK_BYTES

log = logging.getLogger(__name__)

_NANO = 10**9
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_as_view = ctypes.pythonapi.PyMemoryView_FromMemory
_as_view.restype = ctypes.py_object
_as_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_READ_ONLY, _READ_WRITE = 0x100, 0x200


class Callbacks(mfusepy.FUSE):
    """`operations` is the driver; errors of the file system become errno."""

    def _wrapper(self, func, *args):
        try:
            return func(*args) or 0
        except DfsError as error:
            log.debug("%s: %s", func.__name__, error)
            return -error.errno
        except OSError as error:
            return -(error.errno or errno.EIO)
        except Exception:
            log.exception("%s failed", func.__name__)
            return -errno.EIO

    def fgetattr(self, path, buf, fip) -> int:
        held = fip.contents if fip else None
        attributes = self.operations.getattr(self._text(path), held)
        ctypes.memset(buf, 0, ctypes.sizeof(mfusepy.c_stat))
        st = buf.contents
        st.st_ino, st.st_mode, st.st_nlink = attributes.ino, attributes.mode, attributes.nlink
        st.st_uid, st.st_gid, st.st_rdev, st.st_size = attributes.uid, attributes.gid, attributes.rdev, attributes.size
        st.st_blksize, st.st_blocks = BLOCK_BYTES, -(-attributes.allocated_bytes // 512)
        _set_time(st.st_mtimespec, attributes.mtime_ns)
        _set_time(st.st_ctimespec, attributes.ctime_ns)
        _set_time(st.st_atimespec, attributes.atime_ns)
        return 0

    def read(self, path, buf, size: int, offset: int, fip) -> int:
        view = _as_view(ctypes.addressof(buf.contents), size, _READ_WRITE)
        return self.operations.read(fip.contents, view, offset)

    def write(self, path, buf, size: int, offset: int, fip) -> int:
        view = _as_view(ctypes.addressof(buf.contents), size, _READ_ONLY)
        return self.operations.write(fip.contents, view, offset)

    def copy_file_range(self, path_in, fi_in, offset_in, path_out, fi_out, offset_out, size, flags) -> int:
        return self.operations.copy_file_range(fi_in.contents)

    def getxattr(self, path, name: bytes, buf, size: int, *more) -> int:
        return _given(self.operations.getxattr(self._text(path), name), buf, size)

    def listxattr(self, path, buf, size: int) -> int:
        return _given(self.operations.listxattr(self._text(path)), buf, size)

    def setxattr(self, path, name: bytes, value, size: int, flags: int, *more) -> int:
        return self.operations.setxattr(self._text(path), name, ctypes.string_at(value, size), flags)

    def removexattr(self, path, name: bytes) -> int:
        return self.operations.removexattr(self._text(path), name)

    def truncate_fuse_3(self, path, length: int, fip) -> int:
        return self.operations.truncate(self._text(path), length, fip.contents if fip else None)

    def chmod_fuse_3(self, path, mode: int, fip) -> int:
        return self.operations.chmod(self._text(path), mode, fip.contents if fip else None)

    def chown_fuse_3(self, path, uid: int, gid: int, fip) -> int:
        return self.operations.chown(self._text(path), uid, gid, fip.contents if fip else None)

    def rename_fuse_3(self, old, new, flags: int) -> int:
        return self.operations.rename(self._text(old), self._text(new), flags)

    def flock(self, path, fip, operation: int) -> int:
        return self.operations.flock(self._text(path), fip.contents, operation)

    def utimens_fuse_3(self, path, buf, fip) -> int:
        times = (_time(buf.contents.actime), _time(buf.contents.modtime)) if buf else (time.time_ns(), time.time_ns())
        return self.operations.utimens(self._text(path), times, fip.contents if fip else None)

    def _text(self, path: bytes | None) -> str | None:
        return None if path is None else path.decode(self.encoding, self.errors)


def _given(value: bytes, buf, size: int) -> int:
    """The value's length, which is all that is asked for with a size of 0."""
    if not size:
        return len(value)
    if len(value) > size:
        return -errno.ERANGE
    ctypes.memmove(buf, value, len(value))
    return len(value)


def _set_time(spec, time_ns: int) -> None:
    spec.tv_sec, spec.tv_nsec = divmod(time_ns, _NANO)


def _time(spec) -> int | None:
    """Nanoseconds; None for UTIME_OMIT."""
    if spec.tv_nsec == _UTIME_OMIT:
        return None
    return time.time_ns() if spec.tv_nsec == _UTIME_NOW else spec.tv_sec * _NANO + spec.tv_nsec
