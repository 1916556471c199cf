"""Messages about extended attributes: named values beside the content of an inode."""

from dfsfuse.messages.base import ROOT_INO, Change, Message


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
    """Give an attribute a value. Flags as in setxattr(2)."""

    base: int = ROOT_INO
    names: list[bytes] = []
    name: bytes
    value: bytes
    flags: int = 0


class RemoveXattr(Change, kw_only=True):
    """One attribute less."""

    base: int = ROOT_INO
    names: list[bytes] = []
    name: bytes
