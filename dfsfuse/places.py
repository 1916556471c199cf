"""Places: where something is, as drivers name it. A driver that knows inodes passes (ino, ()) or (folder, (name,)), one
that knows paths passes (ROOT_INO, path).
"""

import os

from dfsfuse import errors
from dfsfuse.messages import NAME_BYTES_MAX, ROOT_INO

Place = tuple[int, tuple[bytes, ...]]
"""(base inode number, path below it)."""


def place_of(path: str) -> Place:
    """The place that a path from the volume's root leads to."""
    return ROOT_INO, tuple(part for part in os.fsencode(path).split(b"/") if part)


def as_path(place: Place) -> bytes:
    """A path for people, as far as it is known."""
    return b"/" + b"/".join(place[1])


def check_names(place: Place) -> None:
    """Raises NameTooLong."""
    for name in place[1]:
        if len(name) > NAME_BYTES_MAX:
            raise errors.NameTooLong(f"a name of {len(name)} bytes; at most {NAME_BYTES_MAX} are possible")
