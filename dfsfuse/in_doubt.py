"""A commit that was sent and not answered: it may have happened. It is asked again before anything else is sent.

Threads: `Content.committing` is held by whoever makes or settles one, `Content.mutex` where its content is cut.
"""

from dfsfuse import chunks
from dfsfuse.chunks import Entry
from dfsfuse.messages import SEGMENT_ENTRIES, Commit


class InDoubt:
    """`entries` and `segments` are what of the content the servers have if `request` happens. They follow when it is
    cut; the request never changes, as it may have happened."""

    def __init__(self, request: Commit, entries: list[Entry]):
        self.request = request
        self.entries, self.segments = list(entries), list(request.manifest.segments)

    def cut(self, size: int) -> None:
        cut(self.entries, self.segments, size)


def cut(entries: list[Entry], segments: list[bytes], size: int) -> None:
    """Entries, and the segments that still hold, of a content that is cut to `size`."""
    count = chunks.entry_count(size)
    if len(entries) < count:
        return
    del entries[count:]
    # The segment of the last entry goes too: the entry is clipped now.
    del segments[max(count - 1, 0) // SEGMENT_ENTRIES :]
    if count:
        entries[-1] = chunks.clip(entries[-1], chunks.entry_length(count - 1, size))
