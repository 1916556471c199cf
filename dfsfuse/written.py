"""The attributes of a file as programs here have just written it: what stat tells before the directory knows of it.

Threads: any; `Content.mutex` is held.
"""

import msgspec

from dfsfuse import unseen_writes
from dfsfuse.content import Content
from dfsfuse.messages import Attributes, without_set_ids
from dfsfuse.owed_attributes import shown_with


def as_written(attributes: Attributes, content: Content | None) -> Attributes:
    """While programs here have the file open for writing, its size and times are those of the local content, which
    nobody promises."""
    if content is None:
        return attributes
    with content.mutex:
        if content.owed is not None:
            attributes = shown_with(attributes, content.owed)
        unseen_writes.look(content)
        mode, mtime_ns, ctime_ns = attributes.mode, attributes.mtime_ns, attributes.ctime_ns
        if content.changed or content.unseen.stirred:
            mtime_ns = mtime_ns if content.mtime_set else content.mtime_ns
        if content.changed or content.owed is not None:
            ctime_ns = max(ctime_ns, content.changed_ns)
        if content.clears_set_ids:
            mode = without_set_ids(mode)
        return msgspec.structs.replace(
            attributes,
            mode=mode,
            size=content.size,
            allocated_bytes=unseen_writes.allocated_bytes(content),
            mtime_ns=mtime_ns,
            ctime_ns=ctime_ns,
            promised=False,
        )
