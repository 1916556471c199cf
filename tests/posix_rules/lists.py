"""Access control lists as setfacl(1) sets them, for rules."""

import errno
import os
import struct
from pathlib import Path

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, NAMED_USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF


def acl(
    owner: int, group: int, other: int, *, users: dict | None = None, groups: dict | None = None, mask: int = -1
) -> bytes:
    """The value that setfacl sets."""
    entries = [(OWNER, owner, NOBODY), *((NAMED_USER, bits, uid) for uid, bits in (users or {}).items())]
    entries += [(_OWNING_GROUP, group, NOBODY), *((_GROUP, bits, gid) for gid, bits in (groups or {}).items())]
    entries += [(_MASK, mask, NOBODY)] * (mask >= 0) + [(_OTHER, other, NOBODY)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def list_of(path: Path | int, name: str = ACCESS) -> bytes | None:
    """None: there is none."""
    try:
        return os.getxattr(path, name)
    except OSError as failed:
        if failed.errno != errno.ENODATA:
            raise
        return None
