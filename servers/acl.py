"""POSIX access control lists: their form, which are valid, and how they and a mode belong together. Pure.

What is set and got is the value of an extended attribute, in the form of <linux/posix_acl_xattr.h>: the version, and
entries of tag:2 permissions:2 id:4, all little-endian. The arithmetic is that of POSIX 1003.1e draft 17, section 23.1,
as acl(5) tells it, with the details that Linux has in fs/posix_acl.c, whose function each one here names.

While a list has a mask, the group bits of the mode are the mask; otherwise they are those of the owning group's entry.
"""

import struct
from typing import NamedTuple

from dfsfuse import errors

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Tags: the owner, a user, the owning group, a group, the most that all but owner and others get, all others."""

_VERSION = 2
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF
_TAGS = frozenset((USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER))
_NAMED = frozenset((USER, GROUP))
_SHIFTS = {USER_OBJ: 6, GROUP_OBJ: 3, OTHER: 0}
_PERMISSIONS = 0o777


class AclEntry(NamedTuple):
    """Permissions are bits 4 (read), 2 (write) and 1 (execute). `id` is the user's or group's whom a named entry is
    for."""

    tag: int
    permissions: int
    id: int = _NO_ID


Acl = tuple[AclEntry, ...]
"""No entries: there is no list."""


def parse(value: bytes) -> Acl:
    """A list as a program has set it, if it is valid; setting nothing is setting none. posix_acl_from_xattr()"""
    if not value:
        return ()
    if len(value) < _HEADER.size:
        raise errors.InvalidArgument("an access control list has a header of 4 bytes")
    (version,) = _HEADER.unpack_from(value)
    if version != _VERSION:
        raise errors.NotSupported(f"access control lists of version {version}; version {_VERSION} is supported")
    if (len(value) - _HEADER.size) % _ENTRY.size:
        raise errors.InvalidArgument("an access control list ends within an entry")
    entries = (AclEntry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :]))
    acl = tuple(entry if entry.tag in _NAMED else entry._replace(id=_NO_ID) for entry in entries)
    if acl:
        _check(acl)
    return acl


def _check(acl: Acl) -> None:
    """posix_acl_valid(): the owner, users, the owning group, groups, the mask, all others, in that order; the mask is
    needed where users or groups are named."""
    if not all(entry.tag in _TAGS and entry.permissions <= 7 for entry in acl):
        raise errors.InvalidArgument("an entry of an access control list has an unknown tag or permission")
    if any(entry.tag in _NAMED and entry.id == _NO_ID for entry in acl):
        raise errors.InvalidArgument(f"no user or group has the number {_NO_ID}")
    tags = [entry.tag for entry in acl]
    once = {tag: tags.count(tag) for tag in (USER_OBJ, GROUP_OBJ, OTHER, MASK)}
    if tags != sorted(tags) or any(once[tag] != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)) or once[MASK] > 1:
        raise errors.InvalidArgument("the entries of an access control list are not those, or not in the order, of one")
    if not once[MASK] and not _NAMED.isdisjoint(tags):
        raise errors.InvalidArgument("an access control list that names users or groups needs a mask")


def as_value(acl: Acl) -> bytes:
    """posix_acl_to_xattr()"""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def is_minimal(acl: Acl) -> bool:
    """It says no more than a mode does. posix_acl_equiv_mode()"""
    return all(entry.tag in _SHIFTS for entry in acl)


def mode_of(acl: Acl, mode: int) -> int:
    """The mode of a file that has been given the list. posix_acl_equiv_mode()"""
    shifts = _shifts(acl)
    return mode & ~_PERMISSIONS | sum(entry.permissions << shifts[entry.tag] for entry in acl if entry.tag in shifts)


def with_mode(acl: Acl, mode: int) -> Acl:
    """The list of a file whose mode has been set. __posix_acl_chmod_masq()"""
    shifts = _shifts(acl)
    return tuple(
        entry._replace(permissions=mode >> shifts[entry.tag] & 7) if entry.tag in shifts else entry for entry in acl
    )


def inherited(default: Acl, mode: int) -> Acl:
    """The list of what is made with `mode` in a folder with this default: no right that either lacks. `mode_of` gives
    its mode. posix_acl_create_masq()"""
    shifts = _shifts(default)
    return tuple(
        entry._replace(permissions=entry.permissions & mode >> shifts[entry.tag]) if entry.tag in shifts else entry
        for entry in default
    )


def _shifts(acl: Acl) -> dict[int, int]:
    """Where in the mode the entries are that are in it."""
    if any(entry.tag == MASK for entry in acl):
        return {USER_OBJ: 6, MASK: 3, OTHER: 0}
    return _SHIFTS
