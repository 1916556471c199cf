"""Types, modes, owners and device numbers: which there can be. Pure."""

import stat

from dfsfuse import errors

_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_MODE_MAX = 0o177777
_UMASK_MAX = 0o777


def possible_mode(mode: int) -> int:
    if not 0 <= mode <= _MODE_MAX:
        raise errors.InvalidArgument(f"{mode} cannot be a mode")
    return mode


def kind_of(mode: int) -> int:
    """The type (S_IFMT bits) of a new inode."""
    kind = stat.S_IFMT(possible_mode(mode))
    if kind not in _TYPES:
        raise errors.InvalidArgument(f"mode {mode:o} names no type of file")
    return kind


def check_owner(**numbers: int | None) -> None:
    """uid, gid and rdev as the kernel has them: 32 bits."""
    for name, number in numbers.items():
        if number is not None and not 0 <= number < 1 << 32:
            raise errors.InvalidArgument(f"{number} cannot be a {name}")


def check_umask(umask: int) -> None:
    if not 0 <= umask <= _UMASK_MAX:
        raise errors.InvalidArgument(f"{umask} cannot be a umask")
