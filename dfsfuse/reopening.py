"""Whether an open file that a program has closed may stay open, and be the next program's.

For the rest of the client it is open all the same: what is kept so is not evicted, not freed at the directory when its
last name goes, and in use where that is asked. So only what the directory would tell of a change of is kept, with a
name, and nothing that programs here write or that is not sent.

Threads: no state of its own.
"""

import os
import time
from collections.abc import Callable

from dfsfuse.attributes import AttributeTable
from dfsfuse.handles import Handle
from dfsfuse.messages import Attributes, moves_atime
from dfsfuse.openfiles import OpenFiles
from dfsfuse.places import Place


class Reopening:
    """`as_written` gives attributes as programs here have just written them."""

    def __init__(
        self,
        attributes: AttributeTable,
        files: OpenFiles,
        as_written: Callable[[Attributes], Attributes],
        read_only: bool,
    ):
        self._attributes, self._files, self._as_written = attributes, files, as_written
        self._read_only = read_only

    def may_stay_open(self, handle: Handle) -> bool:
        """A program has closed it, which had it for reading."""
        content = handle.content
        if content.writers or content.changed or content.failed is not None:
            return False
        if content.token and not content.row_current:
            # The index has it as what may have been written, which it hears to be over when nobody has it in use.
            return False
        known = self._attributes.get((content.ino, ()))
        return known is not None and known.nlink > 0 and _is_newest(handle, known)

    def opened_again(self, handle: Handle, place: Place, flags: int) -> Attributes | None:
        """The attributes of what a program opens, where it can have a handle that has stayed open: without asking, what
        that has open is known to be the newest, and to be at the place."""
        known = self._attributes.get(place)
        flags |= os.O_NOATIME if self._read_only else 0
        if known is None or flags != handle.flags or handle.content.failed is not None:
            return None
        if not _is_newest(handle, known) or self._files.is_locking(known.ino):
            return None
        if not flags & os.O_NOATIME and moves_atime(known, time.time_ns()):
            return None
        return self._as_written(known)


def _is_newest(handle: Handle, known: Attributes) -> bool:
    """Is it promised that there is no newer content than what it has open?"""
    content = handle.content
    is_same = (known.ino, known.version, known.commit_id) == (content.ino, content.version, content.commit_id)
    return known.promised and is_same
