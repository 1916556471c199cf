"""Extended attributes, as getxattr(2), setxattr(2), listxattr(2) and removexattr(2) have them.

Whether an inode has any is known with its attributes: where it has none, which kernels ask for at every write and
listing, nobody is asked.
"""

import stat
from collections.abc import Callable

from dfsfuse import errors
from dfsfuse.attributes import AttributeTable
from dfsfuse.content import Content
from dfsfuse.messages import (
    XATTR_CAPABILITY,
    XATTR_NAMESPACES,
    Attributes,
    GetXattr,
    ListXattrs,
    RemoveXattr,
    SetXattr,
    Xattr,
    XattrNames,
    has_namespace,
    shown_name,
)
from dfsfuse.openfiles import OpenFiles
from dfsfuse.places import Place
from dfsfuse.session import Session


class Xattrs:
    """`lookup` gives the attributes of what is at a place."""

    def __init__(
        self, session: Session, attributes: AttributeTable, files: OpenFiles, lookup: Callable[[Place], Attributes]
    ):
        self._session, self._attributes, self._files, self._lookup = session, attributes, files, lookup

    def get(self, place: Place, name: bytes) -> bytes:
        _check_namespace(name)
        known = self._known(place)
        if name in XATTR_NAMESPACES and (stat.S_ISREG(known.mode) or stat.S_ISDIR(known.mode)):
            raise errors.InvalidArgument(f"{shown_name(name)} is a namespace, and no attribute's name")
        if not known.has_xattrs or (name == XATTR_CAPABILITY and self._capability_is_gone(known.ino)):
            raise errors.NoAttribute(f"no attribute {shown_name(name)}")
        reply: Xattr = self._session.query(GetXattr(base=place[0], names=list(place[1]), name=name), Xattr)
        return reply.value

    def _known(self, place: Place) -> Attributes:
        return self._attributes.get(place) or self._lookup(place)

    def _capability_is_gone(self, ino: int) -> bool:
        """A program here has written since it was set; the commit takes it away for all."""
        content = self._files.of_inode(ino)
        return content is not None and content.clears_capability

    def names(self, place: Place, privileged: bool) -> list[bytes]:
        known = self._known(place)
        if not known.has_xattrs:
            return []
        reply: XattrNames = self._session.query(ListXattrs(place[0], list(place[1])), XattrNames)
        gone = XATTR_CAPABILITY if self._capability_is_gone(known.ino) else None
        return [name for name in reply.names if name != gone and (privileged or not name.startswith(b"trusted."))]

    def set(self, place: Place, name: bytes, value: bytes, flags: int, kills_setgid: bool = False) -> None:
        request = SetXattr(
            base=place[0], names=list(place[1]), name=name, value=value, flags=flags, kills_setgid=kills_setgid
        )
        content = self._change(request)
        if content is not None and name == XATTR_CAPABILITY:
            content.capability_set()

    def remove(self, place: Place, name: bytes) -> None:
        self._change(RemoveXattr(base=place[0], names=list(place[1]), name=name))

    def _change(self, request: SetXattr | RemoveXattr) -> Content | None:
        """The content of a file that is being written here."""
        _check_namespace(request.name)
        new = None if request.names else self._files.of_inode(request.base)
        if new is not None and new.owed is not None:
            # A list sets the mode, and a new owner takes a capability: the order counts.
            self._files.give_owed(new)
        with self._attributes.changing((request.base, tuple(request.names))) as asked_at:
            attributes: Attributes = self._session.change(request, Attributes)
            self._attributes.put_changed(attributes, asked_at)
        return self._files.attributes_set(attributes.ino)


def _check_namespace(name: bytes) -> None:
    if not has_namespace(name):
        raise errors.NotSupported(f"{shown_name(name)} is in none of the namespaces user, trusted and security")
