"""Extended attributes of inodes: named values that programs keep beside the content. Pure over a transaction.

Each stands in a row of its own, so an inode's row stays small; the inode counts the bytes of all of them. Namespaces
are those that Linux has: `user.` (of files and folders alone), `trusted.` and `security.`. Who may read or set which is
the client's kernel's to check. Of `system.` there are the POSIX access control lists, which access.py keeps in step
with the mode.
"""

import stat

from dfsfuse import errors
from dfsfuse.messages import (
    XATTR_ACL_ACCESS,
    XATTR_CREATE,
    XATTR_NAME_BYTES_MAX,
    XATTR_NAMESPACES,
    XATTR_REPLACE,
    XATTR_VALUE_BYTES_MAX,
    Attributes,
    GetXattr,
    ListXattrs,
    RemoveXattr,
    SetXattr,
    Xattr,
    XattrNames,
    has_namespace,
    is_acl,
    shown_name,
)
from servers import access, acl, records
from servers.records import Inode, attributes_of, put_inode, xattr_key
from servers.store import Transaction
from servers.tree import at_place

TOTAL_BYTES_MAX = 128 << 10
NAMES_BYTES_MAX = 64 << 10
"""What listxattr(2) can return: all names, each with a NUL."""
NAMESPACES_TEXT = "there are those of user, trusted and security, and POSIX access control lists"
_NAMES_MAX = NAMES_BYTES_MAX // len("user.x")


def get(tx: Transaction, request: GetXattr, now_ns: int) -> Xattr:
    ino, _ = at_place(tx, request.base, request.names)
    value = tx.get(xattr_key(ino, _possible(request.name)))
    if value is None:
        raise _missing(request.name)
    return Xattr(value)


def list_names(tx: Transaction, request: ListXattrs, now_ns: int) -> XattrNames:
    ino, inode = at_place(tx, request.base, request.names)
    return XattrNames(_names(tx, ino) if inode.xattr_bytes else [])


def _names(tx: Transaction, ino: int) -> list[bytes]:
    prefix = xattr_key(ino, b"")
    return [key[len(prefix) :] for key, _ in tx.range(*records.within(prefix), _NAMES_MAX)]


def set_value(tx: Transaction, request: SetXattr, now_ns: int) -> Attributes:
    ino, inode = at_place(tx, request.base, request.names)
    if is_acl(request.name):
        return _set_acl(tx, ino, inode, request, now_ns)
    name = _of_inode(inode, request.name)
    known = tx.get(xattr_key(ino, name))
    _check_flags(request, known is not None)
    _check_room(tx, ino, inode, name, request.value, known)
    records.put_xattr(tx, ino, inode, name, request.value)
    return _changed(tx, ino, inode, now_ns)


def _set_acl(tx: Transaction, ino: int, inode: Inode, request: SetXattr, now_ns: int) -> Attributes:
    """An access list sets the mode too; one without entries is none. The flags do not count, as on Linux."""
    name, entries = request.name, access.possible(inode, request.name, request.value)
    if not entries:
        return _remove_acl(tx, ino, inode, name, now_ns)
    if name == XATTR_ACL_ACCESS:
        entries = access.rights_set(inode, entries, request.kills_setgid)
    if entries:
        _check_room(tx, ino, inode, name, acl.as_value(entries), tx.get(xattr_key(ino, name)))
        records.put_xattr(tx, ino, inode, name, acl.as_value(entries))
    else:
        records.delete_xattr(tx, ino, inode, name)
    return _changed(tx, ino, inode, now_ns)


def _remove_acl(tx: Transaction, ino: int, inode: Inode, name: bytes, now_ns: int) -> Attributes:
    """The mode stays. Where there is no list nothing is amiss, as on ext4."""
    if not records.delete_xattr(tx, ino, inode, name):
        return attributes_of(ino, inode)
    return _changed(tx, ino, inode, now_ns)


def _check_room(tx: Transaction, ino: int, inode: Inode, name: bytes, value: bytes, known: bytes | None) -> None:
    if len(value) > XATTR_VALUE_BYTES_MAX:
        raise errors.ValueTooLarge(f"a value of {len(value)} bytes; at most {XATTR_VALUE_BYTES_MAX} are possible")
    more = len(value) + len(name) if known is None else len(value) - len(known)
    listed = {*_names(tx, ino), name}
    if inode.xattr_bytes + more > TOTAL_BYTES_MAX or sum(len(one) + 1 for one in listed) > NAMES_BYTES_MAX:
        raise errors.AttributesFull(f"the attributes of one inode have at most {TOTAL_BYTES_MAX} bytes")


def _of_inode(inode: Inode, name: bytes) -> bytes:
    """A name that an inode of this type can have."""
    if name.startswith(b"user.") and not (inode.is_file or inode.is_folder):
        kind = "symlink" if stat.S_ISLNK(inode.mode) else "special file"
        raise errors.NotPermitted(f"a {kind} has no user attributes")
    return _possible(name)


def _check_flags(request: SetXattr, exists: bool) -> None:
    if request.flags & ~(XATTR_CREATE | XATTR_REPLACE):
        raise errors.InvalidArgument(f"setting an attribute knows no flags {request.flags:#x}")
    if request.flags & XATTR_CREATE and exists:
        raise errors.AlreadyExists(f"there is an attribute {shown_name(request.name)}")
    if request.flags & XATTR_REPLACE and not exists:
        raise _missing(request.name)


def remove(tx: Transaction, request: RemoveXattr, now_ns: int) -> Attributes:
    ino, inode = at_place(tx, request.base, request.names)
    if is_acl(request.name):
        return _remove_acl(tx, ino, inode, request.name, now_ns)
    if not records.delete_xattr(tx, ino, inode, _of_inode(inode, request.name)):
        raise _missing(request.name)
    return _changed(tx, ino, inode, now_ns)


def _changed(tx: Transaction, ino: int, inode: Inode, now_ns: int) -> Attributes:
    records.touch(inode, now_ns)
    put_inode(tx, ino, inode)
    return attributes_of(ino, inode)


def _possible(name: bytes) -> bytes:
    if len(name) > XATTR_NAME_BYTES_MAX:
        raise errors.NameTooLong(f"a name of {len(name)} bytes; at most {XATTR_NAME_BYTES_MAX} are possible")
    if not has_namespace(name):
        raise errors.NotSupported(f"no attributes like {shown_name(name)}: {NAMESPACES_TEXT}")
    if name in XATTR_NAMESPACES or b"\0" in name:
        raise errors.InvalidArgument(f"{shown_name(name)} cannot be the name of an attribute")
    return name


def _missing(name: bytes) -> errors.NoAttribute:
    return errors.NoAttribute(f"no attribute {shown_name(name)}")
