"""What all messages are, and the limits that requests and replies keep."""

import msgspec

ROOT_INO = 1
NAME_BYTES_MAX = 255
LIST_PAGE_MAX = 1000
LINKS_MAX = 65_000
BODY_BYTES_MAX = 8 << 20
COMMIT_ID_BYTES = 16
SEGMENT_ENTRIES = 1024
INLINE_ENTRIES = 16
PUT_PIECES_MAX = 1024
"""Pieces in one request of PutSegments: the directory answers nobody else while it notes who has them."""
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
XATTR_CREATE = 1
XATTR_REPLACE = 2
XATTR_NAME_BYTES_MAX = 255
XATTR_VALUE_BYTES_MAX = 64 << 10
XATTR_NAMESPACES = (b"user.", b"trusted.", b"security.")
XATTR_ACL_ACCESS = b"system.posix_acl_access"
XATTR_ACL_DEFAULT = b"system.posix_acl_default"
"""POSIX access control lists, which are set and got as extended attributes are."""
XATTR_CAPABILITY = b"security.capability"
"""The extended attribute that lets a program run with more rights than its user has."""


class Message(msgspec.Struct, omit_defaults=True, gc=False):
    """Root of all messages."""


class Nothing(Message):
    """A request without arguments, or a reply without content."""


class Change(Message, kw_only=True):
    """A request that is executed once, however often it arrives: the reply of (session, slot, sequence) is kept.

    Session 0 asks for no such protection: for trying an operation by hand.
    """

    session: int = 0
    slot: int = 0
    sequence: int = 0
