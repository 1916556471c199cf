"""A commit that was sent and not answered: it may have happened. It is asked again before anything else is sent.

Threads: `Content.committing` is held by whoever makes or settles one, `Content.mutex` where its content is cut.
"""

from dfsfuse.manifests import Entries, SegmentIds, cut
from dfsfuse.messages import Commit


class InDoubt:
    """`entries` and `segments` are what of the content the servers have if `request` happens. They follow when it is
    cut; the request never changes, as it may have happened. `synced`: all on whose receipts it rests had synced."""

    def __init__(self, request: Commit, entries: Entries, synced: bool):
        self.request, self.synced = request, synced
        self.entries, self.segments = entries.copy(), SegmentIds(request.manifest.segments)

    def cut(self, size: int) -> None:
        cut(self.entries, self.segments, size)
