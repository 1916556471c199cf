"""Contents that their file has lost, as a power cut took a commit or its chunks from the servers: put there again.

    the file has gone back to a content from which this one was made here     this one is its next version
    others have changed it since, or removed it                               this one becomes a copy (copies.py)

So what was acknowledged is where it was as soon as somebody finds that it is gone: fsync(), or the next commit. What
was never committed here is not this client's to put back.

Threads: `Content.committing` is held.
"""

import logging
import os

from dfsfuse import errors
from dfsfuse.cache import Cache
from dfsfuse.chunks import ENTRY_BYTES, entry_count
from dfsfuse.commits import Committer
from dfsfuse.content import Content
from dfsfuse.fetching import fetch
from dfsfuse.holes import take_from_disk
from dfsfuse.manifests import Entries, cut
from dfsfuse.messages import Attributes
from dfsfuse.openings import Openings, Version
from dfsfuse.session import Session
from dfsfuse.sparse_list import indexes_of
from dfsfuse.transfer import Transfer

log = logging.getLogger(__name__)

_ATTEMPTS = 3


class Restoring:
    def __init__(self, session: Session, openings: Openings, cache: Cache, transfer: Transfer, committer: Committer):
        self._session, self._openings, self._cache = session, openings, cache
        self._transfer, self._committer = transfer, committer
        self.give_owed = committer.give_owed

    def commit(self, content: Content, durable: bool = False) -> Attributes | None:
        """As `Committer.commit`, upon what the file has gone back to, where it has."""
        for _ in range(_ATTEMPTS):
            try:
                return self._committer.commit(content, durable)
            except errors.VersionConflict:
                if not self.rebase(content):
                    raise
        return self._committer.commit(content, durable)

    def note_lost(self, content: Content, error: errors.DfsError) -> None:
        """The file has not got the content that was committed: it is to be sent, by this client or the next one of its
        cache. Raises `error` where others have made it."""
        with content.committing:
            if content.failed is not None:
                raise content.failed
            if content.changed:
                return
            if not content.ancestors:
                raise error
            with content.mutex:
                content.resized = content.promised = True
            self._cache.mark_open(content)

    def rebase(self, content: Content) -> bool:
        """The content is based on what its file has now, if it was made here from that; else False."""
        if not content.ancestors:
            return False
        became: list[Version] = []

        def become(newest: Version) -> bool:
            if self._is_made_from(content, newest.attributes) and self._bring(content, newest):
                _base_on(content, newest, self._session.id)
                became.append(newest)
            return bool(became)

        self._openings.catch_up(content, content.token, become, locking=False)
        if became:
            self._cache.mark_open(content)
            log.warning(
                "%s: servers lost power and have version %d again; what was made of it here since is sent once more",
                os.fsdecode(content.where),
                content.version,
            )
        return bool(became)

    def _is_made_from(self, content: Content, newest: Attributes) -> bool:
        with content.mutex:
            return content.ancestors.include(newest.version, newest.commit_id, content.commit_id, self._session.id)

    def _bring(self, content: Content, newest: Version) -> bool:
        """All that is to be sent is here; False where servers have lost what this client has never had."""
        while missing := _missing(content, newest):
            try:
                for _ in self._transfer.each(lambda index: self._fetch(content, index), missing):
                    pass
            except errors.ChunkGone:
                return False
        return True

    def _fetch(self, content: Content, index: int) -> None:
        fetched = self._cache.with_room(lambda: fetch(content, index, self._transfer.latest.lend))
        self._cache.note_growth(content, fetched)


def _fitted(content: Content, newest: Version) -> Entries:
    entries = newest.entries.copy()
    cut(entries, newest.segments.copy(), content.size)
    return entries.fit(entry_count(content.size))


def _different(content: Content, entries: Entries) -> list[int]:
    return [index for index in indexes_of(content.entries, entries) if content.entries[index] != entries[index]]


def _missing(content: Content, newest: Version) -> list[int]:
    """Entries that are to be sent and are not here."""
    with content.mutex:
        different = _different(content, _fitted(content, newest))
        return [index for index in different if not content.here(index)]


def _base_on(content: Content, newest: Version, session: int) -> None:
    """All in which it differs from that is to be sent."""
    attributes = newest.attributes
    with content.mutex:
        entries, segments = _fitted(content, newest), newest.segments.copy()
        cut(newest.entries.copy(), segments, content.size)
        different = _different(content, entries)
        content.ancestors.add(content.version, content.commit_id, session)
        content.version, content.commit_id = attributes.version, attributes.commit_id
        content.entries, content.segments = entries, segments
        for index in different:
            take_from_disk(content, content.fd, index * ENTRY_BYTES, min((index + 1) * ENTRY_BYTES, content.size))
            content.present.add(index, index + 1)
        content.resized, content.synced = True, False
        # Nobody knows any more who has written it.
        content.clears_set_ids = content.clears_capability = True
        content.attempts.failed = True
