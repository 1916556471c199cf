"""What this machine must have for a mount, and what is mounted where: asked of the kernel, changed by nothing but
`free`, which removes a mount whose client was killed, and `unmount`.

A mount whose client hangs makes every question to it hang; so the kernel's list of mounts is asked first, and
the mount itself is asked by a thread that nobody waits for too long.
"""

import ctypes
import ctypes.util
import errno
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

FSTYPE = "fuse.dfsfuse"
MOUNTINFO = Path("/proc/self/mountinfo")
FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")
FUSERMOUNT = "fusermount3"
ANSWER_S = 5.0
_MNT_DETACH = 2
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)


class MountError(Exception):
    """The mount cannot be made; the message is one line for the user."""


class Mounted(NamedTuple):
    """One line of mountinfo. `source` is what was mounted; `root` is the folder of it that appears at `point`."""

    point: str
    fstype: str
    source: str = ""
    root: str = "/"


def mounts() -> list[Mounted]:
    """All mounts, in the order in which they were made."""
    found = []
    for line in MOUNTINFO.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        (root, point), (fstype, source) = before.split(b" ")[3:5], after.split(b" ")[:2]
        found.append(Mounted(*map(_unescaped, (point, fstype, source, root))))
    return found


def _unescaped(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), field))


def mounted_at(point: str) -> Mounted | None:
    """The uppermost mount on exactly this point."""
    return next((mount for mount in reversed(mounts()) if mount.point == point), None)


def is_fuse(mount: Mounted | None) -> bool:
    return mount is not None and (mount.fstype in ("fuse", "fuseblk") or mount.fstype.startswith("fuse."))


def resolve(path: str) -> str:
    """The absolute path without symlinks, found without touching a FUSE mount on that path."""
    absolute = os.path.abspath(path)
    if is_fuse(mounted_at(absolute)):
        return absolute
    folder, name = os.path.split(absolute)
    absolute = os.path.join(os.path.realpath(folder), name)
    return absolute if is_fuse(mounted_at(absolute)) else os.path.realpath(absolute)


def free(point: str, tell: Callable[[str], None]) -> None:
    """Unmount what a killed client has left on `point`. Raises MountError when something living is mounted there."""
    while is_fuse(mount := mounted_at(point)):
        if mount.fstype != FSTYPE:
            raise MountError(f"{point}: a {mount.fstype} file system is mounted there; unmount it first")
        failure = failure_of(point, ANSWER_S)
        if failure not in _DEAD:
            silent = " (its client does not answer)" if failure == errno.ETIMEDOUT else ""
            raise MountError(f"{point}: already mounted{silent}; to unmount it: {unmount_command(point)}")
        detach(point)
        tell(f"{point}: its client was killed; the dead mount has been unmounted lazily")


def require_folder(point: str) -> None:
    """Raises MountError unless `point` is a folder that can be entered."""
    try:
        if not os.path.isdir(point):
            os.stat(point)
            raise MountError(f"{point}: not a folder; a mountpoint must be one")
    except FileNotFoundError:
        raise MountError(f"{point}: no such mountpoint; make it with: mkdir -p {shlex.quote(point)}") from None
    except NotADirectoryError:
        raise MountError(f"{point}: not a folder; a mountpoint must be one") from None
    except OSError as error:
        raise MountError(f"{point}: cannot be a mountpoint: {error.strerror}") from None


def require_fuse() -> None:
    """Raises MountError when this machine cannot mount through FUSE."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        raise MountError(f"{FUSE_DEVICE} may not be opened: Permission denied; allow it for this user") from None
    except OSError:
        hint = "load the kernel's module with `modprobe fuse`, or give the device to the container"
        raise MountError(f"there is no {FUSE_DEVICE}: {hint}") from None
    if os.geteuid() != 0 and not shutil.which(FUSERMOUNT):
        raise MountError(f"there is no {FUSERMOUNT}, which mounts for users other than root; on Debian: package fuse3")


def require_libfuse() -> str:
    """What the fusepy driver needs; the name of libfuse 3's library. Raises MountError."""
    library = os.environ.get("FUSE_LIBRARY_PATH") or ctypes.util.find_library("fuse3")
    if not library:
        raise MountError("there is no libfuse 3; install it, on Debian with: apt-get install fuse3")
    if importlib.util.find_spec("mfusepy") is None:
        raise MountError("there is no mfusepy, which the fusepy driver needs; install it with: pip install mfusepy")
    return library


def others_may_enter() -> bool:
    """Root may let other users in; another user may when fuse.conf says so."""
    if os.geteuid() == 0:
        return True
    try:
        lines = FUSE_CONF.read_text().splitlines()
    except OSError:
        return False
    return any(line.split("#")[0].strip() == "user_allow_other" for line in lines)


def failure_of(point: str, wait_s: float) -> int:
    """The errno of statfs and stat; 0: it answers; ETIMEDOUT: it has not within `wait_s`.

    A stat alone may be answered by the kernel from what a dead client has told it.
    """
    outcome = []

    def ask() -> None:
        try:
            os.statvfs(point)
            os.stat(point)
            outcome.append(0)
        except OSError as error:
            outcome.append(error.errno)

    thread = threading.Thread(target=ask, name="asks the mount", daemon=True)
    thread.start()
    thread.join(wait_s)
    return outcome[0] if outcome else errno.ETIMEDOUT


def unmount_command(point: str) -> str:
    """What a user types to unmount it."""
    command = "umount" if os.geteuid() == 0 else f"{FUSERMOUNT} -u"
    return f"{command} {shlex.quote(point)}"


def detach(point: str) -> None:
    """Unmount what a killed client has left, lazily. Raises MountError."""
    if reason := _unmount(point, _MNT_DETACH):
        raise MountError(f"{point}: its client was killed, and the dead mount cannot be unmounted: {reason}")


def unmount(point: str) -> None:
    """As umount does. Raises MountError."""
    if reason := _unmount(point, 0):
        raise MountError(f"{point}: {reason}; the programs that use it: fuser -vm {shlex.quote(point)}")


def _unmount(point: str, flags: int) -> str:
    """Why it failed."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        failure = ctypes.get_errno() if libc.umount2(os.fsencode(point), flags) else 0
        return os.strerror(failure) if failure else ""
    options = "-uz" if flags == _MNT_DETACH else "-u"
    outcome = subprocess.run([FUSERMOUNT, options, point], capture_output=True, text=True, check=False)
    return " ".join(outcome.stderr.split()) if outcome.returncode else ""
