"""What earlier attempts to send a content have left at the servers, so that the next one need not send it anew.

Threads: `Content.committing` is held where it is changed.
"""

import secrets

from dfsfuse.manifests import Entries
from dfsfuse.messages import COMMIT_ID_BYTES, SEGMENT_ENTRIES, Segment


class Attempts:
    """`failed`: servers may have some of the chunks; they are asked before anything is sent."""

    def __init__(self, failed: bool = False):
        self.failed = failed
        self._segments: dict[int, Segment] = {}

    def segment(self, part: int, entries: Entries) -> Segment:
        """The part of a manifest's entries, with the id that it had if it is as it was put before, or else a new random
        one; holes alone have the id b""."""
        mine = entries.part(part * SEGMENT_ENTRIES, (part + 1) * SEGMENT_ENTRIES)
        known = self._segments.get(part)
        if known is None or known.entries != mine:
            known = Segment(secrets.token_bytes(COMMIT_ID_BYTES) if mine else b"", part, mine)
            self._segments[part] = known
        return known
