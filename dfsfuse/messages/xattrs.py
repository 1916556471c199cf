"""Messages about extended attributes: named values beside the content of an inode."""

from dfsfuse.messages.base import (
    ROOT_INO,
    XATTR_ACL_ACCESS,
    XATTR_ACL_DEFAULT,
    XATTR_NAMESPACES,
    Change,
    Message,
)


class GetXattr(Message, kw_only=True):
    """The value of one attribute of what is at a place."""

    base: int = ROOT_INO
    names: list[bytes] = []
    name: bytes


class Xattr(Message):
    value: bytes


class ListXattrs(Message):
    """The names of all attributes of what is at a place."""

    base: int = ROOT_INO
    names: list[bytes] = []


class XattrNames(Message):
    names: list[bytes]


class SetXattr(Change, kw_only=True):
    """Give an attribute a value. Flags as in setxattr(2). `kills_setgid`: with an access control list, who sets it may
    not keep the set-group-id bit."""

    base: int = ROOT_INO
    names: list[bytes] = []
    name: bytes
    value: bytes
    flags: int = 0
    kills_setgid: bool = False


class RemoveXattr(Change, kw_only=True):
    """One attribute less."""

    base: int = ROOT_INO
    names: list[bytes] = []
    name: bytes


def is_acl(name: bytes) -> bool:
    return name in (XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT)


def has_namespace(name: bytes) -> bool:
    """There can be attributes of this name, or of one that begins so."""
    return name.startswith(XATTR_NAMESPACES) or is_acl(name)
