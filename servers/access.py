"""The access control lists of inodes: kept as their extended attributes, and in step with their modes. Pure over a
transaction.

A list that says no more than a mode does is kept in the mode alone. A folder's default list goes to what is made in
it. An inode without extended attributes costs no row here.
"""

import stat

from dfsfuse import errors
from dfsfuse.messages import XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT
from servers import acl, records
from servers.acl import Acl
from servers.records import Inode
from servers.store import Transaction


def listed(tx: Transaction, ino: int, inode: Inode, name: bytes) -> Acl:
    """The inode's list under one of the two names; empty where it has none."""
    value = tx.get(records.xattr_key(ino, name)) if inode.xattr_bytes else None
    return () if value is None else acl.parse(value)


def possible(inode: Inode, name: bytes, value: bytes) -> Acl:
    """A list that this inode can be given under this name."""
    entries = acl.parse(value)
    if stat.S_ISLNK(inode.mode):
        raise errors.NotSupported("a symlink has no access control list")
    if name == XATTR_ACL_DEFAULT and not inode.is_folder:
        raise errors.NotPermitted("only a folder has a default access control list")
    return entries


def rights_set(inode: Inode, entries: Acl, kills_setgid: bool) -> Acl:
    """The mode that an access list gives, as ext4_set_acl() sets it; what is left to be kept as a list."""
    inode.mode = acl.mode_of(entries, inode.mode)
    if kills_setgid:
        inode.mode &= ~stat.S_ISGID
    return () if acl.is_minimal(entries) else entries


def mode_set(tx: Transaction, ino: int, inode: Inode) -> None:
    """The inode has been given a mode, and its list follows. The caller puts the inode."""
    entries = listed(tx, ino, inode, XATTR_ACL_ACCESS)
    if entries:
        records.put_xattr(tx, ino, inode, XATTR_ACL_ACCESS, acl.as_value(acl.with_mode(entries, inode.mode)))


def inherit(tx: Transaction, parent: int, folder: Inode, ino: int, inode: Inode, umask: int) -> None:
    """The mode and lists of a new inode: the umask counts where its folder has no default list. The caller puts the
    inode. posix_acl_create()"""
    if stat.S_ISLNK(inode.mode):
        return
    default = listed(tx, parent, folder, XATTR_ACL_DEFAULT)
    if not default:
        inode.mode &= ~umask
        return
    entries = acl.inherited(default, inode.mode)
    inode.mode = acl.mode_of(entries, inode.mode)
    if not acl.is_minimal(entries):
        records.put_xattr(tx, ino, inode, XATTR_ACL_ACCESS, acl.as_value(entries))
    if inode.is_folder:
        records.put_xattr(tx, ino, inode, XATTR_ACL_DEFAULT, acl.as_value(default))
