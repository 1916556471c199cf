"""Copies beside a file, of content that can never become its next version.

`name (conflict HOST DATE).ext` for what a program had closed, `name (recovered HOST DATE).ext` for what a killed
client left half written; in /lost+found where the folder is gone. So nothing overwrites what it was not based on, and
nothing is lost.

Threads: `Content.committing` is held from a content's refusal until its copy is made.
"""

import contextlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from dfsfuse import errors, salvage
from dfsfuse.attempts import Attempts
from dfsfuse.cache import Cache
from dfsfuse.cache_index import Copy
from dfsfuse.chunks import Ranges
from dfsfuse.commits import Committer
from dfsfuse.content import Content
from dfsfuse.gaps import Gap
from dfsfuse.gaps import as_text as gaps_as_text
from dfsfuse.holes import take_from_disk
from dfsfuse.locks import Lock, LockTable
from dfsfuse.manifests import Entries, SegmentIds
from dfsfuse.messages import (
    ROOT_INO,
    XATTR_ACL_ACCESS,
    Attributes,
    Create,
    GetXattr,
    Lookup,
    Made,
    PathOf,
    PathReply,
    SetXattr,
    Xattr,
)
from dfsfuse.session import Session
from dfsfuse.transfer import Transfer

log = logging.getLogger(__name__)

LOST_AND_FOUND = b"lost+found"
_NAMES_MAX = 100
WHY = {
    "conflict": "another client has committed meanwhile",
    "recovered": "a client was killed before it was closed",
}
"""Kind of copy -> why it was made."""


class _Beside(NamedTuple):
    """Where a copy goes: the folder (base, names), the file's name, its attributes if it is still there."""

    folder: tuple[int, list[bytes]]
    name: bytes
    original: Attributes | None


class _Begun(NamedTuple):
    """A copy that the directory may have made, or make yet: nobody has heard."""

    ino: int
    name: bytes


class Copies:
    """`in_use` brackets work on a content that no program may have open. `_begun`: by the content's row."""

    def __init__(self, session: Session, locks: LockTable, cache: Cache, transfer: Transfer, committer: Committer):
        self._session, self._locks, self._cache = session, locks, cache
        self._transfer, self._committer = transfer, committer
        self._begun: dict[int, _Begun] = {}

    @contextlib.contextmanager
    def in_use(self, content: Content) -> Iterator[None]:
        self._cache.use(content)
        try:
            yield
        finally:
            for row in self._cache.close_one(content):
                self._session.closed(*row)

    def keep(self, content: Content, kind: str, why: errors.DfsError | None = None) -> bytes:
        """Make the content a new file beside the one that it cannot become a version of; the new file's path.

        Every handle that has it open fails from now on, with `why`. The caller holds `committing` since it was refused,
        so that it is kept once.
        """
        with content.committing, self.in_use(content):
            content.failed = why
            self._cache.detach(content)
            with contextlib.suppress(errors.Stale):
                self._committer.give_owed(content)
            gaps = salvage.bring_all(content, self._transfer)
            copy = self._create_copy(content, self._place_of(content), kind, gaps)
        original, path, told = os.fsdecode(copy.original), os.fsdecode(copy.path), gaps_as_text(gaps)
        log.error("%s: %s; what was written here is kept as %s%s", original, WHY[kind], path, told)
        return copy.path

    def _place_of(self, content: Content) -> _Beside:
        name = content.where.rpartition(b"/")[2] or b"unnamed"
        try:
            reply: PathReply = self._session.query(PathOf(content.ino), PathReply)
            original: Attributes = self._session.query(Lookup(content.ino), Attributes)
            if reply.parent_ino:
                return _Beside((reply.parent_ino, []), reply.path.rpartition(b"/")[2], original)
        except (errors.Stale, errors.NotFound):
            pass
        names = [part for part in content.where.split(b"/")[:-1] if part]
        try:
            self._session.query(Lookup(ROOT_INO, names), Attributes)
            return _Beside((ROOT_INO, names), name, None)
        except errors.DfsError:
            return _Beside((ROOT_INO, [self._lost_and_found()]), name, None)

    def _lost_and_found(self) -> bytes:
        request = Create(names=[LOST_AND_FOUND], ino=self._session.new_inode(), mode=stat.S_IFDIR | 0o700)
        with contextlib.suppress(errors.AlreadyExists):
            self._session.change(request, Made)
            self._session.changed(ROOT_INO, LOST_AND_FOUND)
        return LOST_AND_FOUND

    def _create_copy(self, content: Content, beside: _Beside, kind: str, gaps: list[Gap]) -> Copy:
        lock, (base, names) = self._lock_for(content), beside.folder
        try:
            copy_name = self._create_under_free_name(content, beside, kind, lock)
            where = content.where.rpartition(b"/")[0] if base != ROOT_INO else b"/" + b"/".join(names)
            path = where.rstrip(b"/") + b"/" + copy_name
            copy = Copy(lock.ino, path, content.where, kind, time.time_ns(), gaps)
            self._cache.index.note_copy(copy)
            if gaps:
                self._cache.index.note_gaps(lock.ino, gaps)
            self._become(content, lock, gaps)
            self._begun.pop(content.row, None)
            self._committer.commit(content)
        finally:
            self._session.changed(lock.ino)
            self._locks.release(lock, os.getpid())
        return copy

    def _lock_for(self, content: Content) -> Lock:
        """That of a new inode, or of the one that an earlier attempt has begun with."""
        begun = self._begun.get(content.row)
        if begun is None:
            return self._locks.reserve(content.where, os.getpid())
        return self._locks.acquire(begun.ino, content.where, os.getpid(), wait=False)

    def _create_under_free_name(self, content: Content, beside: _Beside, kind: str, lock: Lock) -> bytes:
        """With one inode number however often it is tried: what has not been answered is made once, or not at all."""
        begun, ((base, names), name, original) = self._begun.get(content.row), beside
        mode, acl = self._rights_of(original)
        uid, gid = (original.uid, original.gid) if original else (os.getuid(), os.getgid())
        request = Create(base=base, names=[], ino=lock.ino, mode=mode, uid=uid, gid=gid, token=lock.token)
        for attempt in range(0 if begun else 1, _NAMES_MAX):
            copy_name = name_of_copy(name, kind, self._session.identity.host, time.localtime(), attempt)
            made = begun is not None and self._is_there(lock.ino)
            if begun is not None and (made or attempt == 0):
                copy_name = begun.name
            self._begun[content.row] = _Begun(lock.ino, copy_name)
            request.names = [*names, copy_name]
            if made or self._make(request):
                if acl:
                    self._session.change(SetXattr(base=lock.ino, name=XATTR_ACL_ACCESS, value=acl), Attributes)
                return copy_name
        raise errors.AlreadyExists(f"there are {_NAMES_MAX} copies of this file already")

    def _make(self, request: Create) -> bool:
        """False where the name is taken."""
        try:
            made: Made = self._session.change(request, Made)
        except errors.AlreadyExists:
            return False
        self._session.changed(made.folder.ino, request.names[-1])
        return True

    def _is_there(self, ino: int) -> bool:
        try:
            self._session.query(Lookup(ino), Attributes)
        except errors.Stale:
            return False
        return True

    def _rights_of(self, original: Attributes | None) -> tuple[int, bytes]:
        """(mode, access control list; b"": none) of a copy. With a list the mode's group bits would give more than the
        list does, so the mode that it gives comes with it."""
        if original is None:
            return stat.S_IFREG | 0o600, b""
        mode = original.mode & ~(stat.S_ISUID | stat.S_ISGID)
        if not original.has_xattrs:
            return mode, b""
        try:
            reply: Xattr = self._session.query(GetXattr(base=original.ino, name=XATTR_ACL_ACCESS), Xattr)
        except errors.NoAttribute:
            return mode, b""
        except errors.Stale:
            return mode & ~0o077, b""
        return mode & ~0o077, reply.value

    def _become(self, content: Content, lock: Lock, gaps: list[Gap]) -> None:
        """The content of another, new inode: everything in it is to be sent."""
        with content.mutex:
            content.give_up()
            content.owed = None
            content.ino, content.token = lock.ino, lock.token
            content.version, content.commit_id, content.segments = 0, b"", SegmentIds()
            content.ancestors.forget()
            content.entries = Entries(count=len(content.entries))
            content.present = Ranges([(0, len(content.entries))])
            take_from_disk(content, content.fd, 0, content.size)
            # Whoever ends this client now: the next one has the copy's inode and content, and finishes it.
            content.resized = content.promised = True
            content.gaps = gaps
            # What is as it was in the base, servers have already.
            content.attempts = Attempts(failed=True)
        self._cache.mark_open(content)


def name_of_copy(name: bytes, kind: str, host: str, when: time.struct_time, attempt: int) -> bytes:
    """`stem (kind HOST DATE).ext`, at most 255 bytes; from the second attempt on with its number."""
    stem, dot, extension = name.rpartition(b".")
    if not stem:
        stem, dot, extension = name, b"", b""
    label = f" ({kind} {host} {time.strftime('%Y-%m-%d %H.%M.%S', when)}{f' {attempt}' if attempt > 1 else ''})"
    tail = label.encode(errors="replace") + dot + extension
    return stem[: max(1, 255 - len(tail))] + tail
