"""Mounting and unmounting on Linux, without libfuse: mount(2) for root, fusermount3 for others.

fusermount3 opens /dev/fuse and mounts with the rights that it has, and sends the descriptor through the socket that
_FUSE_COMMFD names.
"""

import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess

from dfsfuse.drivers.fuse_channel import DEVICE, PAYLOAD_BYTES_MAX

SUBTYPE = "dfsfuse"
KERNEL_MIN = 5, 15
FUSERMOUNT = "fusermount3"
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_FORCE, _MNT_DETACH = 1, 2
_FUSERMOUNT_S = 20
_HINTS = {
    errno.EPERM: "the right to mount is missing (CAP_SYS_ADMIN), as in most containers",
    errno.ENODEV: "the kernel has no FUSE; load its module with `modprobe fuse`",
}


class CannotMount(RuntimeError):
    """What was tried, and why it did not work."""


def unsupported() -> str:
    """Why this machine's kernel cannot have this driver; "" where it can."""
    if os.uname().sysname != "Linux":
        return f"this is {os.uname().sysname}, and the driver speaks Linux's protocol"
    release = os.uname().release
    if _version(release) < KERNEL_MIN:
        return f"Linux {release} is older than {'.'.join(map(str, KERNEL_MIN))}"
    return ""


def _version(release: str) -> tuple[int, int]:
    major, minor, *_ = (*release.split("."), "0")
    digits = "".join(character for character in minor if character.isdigit())
    return int(major), int(digits or 0)


def mount(
    mountpoint: str, *, fsname: str, read_only: bool, allow_other: bool, suid: bool = False, dev: bool = False
) -> int:
    """The descriptor of /dev/fuse on which this mount's requests arrive. `suid`, `dev`: set-id bits and device nodes
    count; fusermount3 allows neither. Raises CannotMount."""
    if os.geteuid() == 0:
        flags = _MS_RDONLY * read_only | _MS_NOSUID * (not suid) | _MS_NODEV * (not dev)
        return _mount_as_root(mountpoint, fsname, flags, allow_other)
    return _mount_through_fusermount(mountpoint, fsname, read_only, allow_other)


def unmount(mountpoint: str) -> None:
    """Lazily, also where programs use it; they get an error from then on where root unmounts."""
    if os.geteuid() == 0:
        _libc().umount2(os.fsencode(mountpoint), _MNT_FORCE | _MNT_DETACH)
    else:
        command = [FUSERMOUNT, "-u", "-z", "-q", "--", mountpoint]
        subprocess.run(command, capture_output=True, check=False, timeout=_FUSERMOUNT_S)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount_as_root(mountpoint: str, fsname: str, flags: int, allow_other: bool) -> int:
    try:
        root_mode = stat.S_IFMT(os.stat(mountpoint).st_mode)
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise CannotMount(f"{error.filename}: {error.strerror}") from None
    options = [f"fd={device}", f"rootmode={root_mode:o}", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    options += ["default_permissions", f"max_read={PAYLOAD_BYTES_MAX}"] + ["allow_other"] * allow_other
    names = fsname.encode(), os.fsencode(mountpoint), f"fuse.{SUBTYPE}".encode()
    if _libc().mount(*names, ctypes.c_ulong(flags), ",".join(options).encode()):
        number = ctypes.get_errno()
        os.close(device)
        why = _HINTS.get(number, "")
        raise CannotMount(f"mount(2): {os.strerror(number)}{': ' if why else ''}{why}")
    return device


def _mount_through_fusermount(mountpoint: str, fsname: str, read_only: bool, allow_other: bool) -> int:
    program = shutil.which(FUSERMOUNT)
    if program is None:
        raise CannotMount(f"there is no {FUSERMOUNT}, with which users other than root mount")
    options = ["default_permissions", f"max_read={PAYLOAD_BYTES_MAX}", f"fsname={_escaped(fsname)}"]
    options += [f"subtype={SUBTYPE}"] + ["allow_other"] * allow_other + ["ro"] * read_only
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        outcome = subprocess.run(
            [program, "-o", ",".join(options), "--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_FUSERMOUNT_S,
        )
        if outcome.returncode:
            raise CannotMount(" ".join(outcome.stderr.split()) or f"{FUSERMOUNT} ended with {outcome.returncode}")
        theirs.close()
        return _receive(ours)


def _receive(ours: socket.socket) -> int:
    descriptors = socket.recv_fds(ours, 1, 1)[1]
    if not descriptors:
        raise CannotMount(f"{FUSERMOUNT} has not sent the descriptor of {DEVICE}")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _escaped(value: str) -> str:
    """fusermount3 takes a comma as the end of an option."""
    return value.replace("\\", "\\\\").replace(",", "\\,")
