"""How files are written on which programs use locks: the write lock of such a file is nobody's for longer than needed.

Programs that lock ranges of a file, or flock it, keep it open for writing side by side, also on several clients, and
tell each other by their locks who may write. So for them the file's write lock is not held from open to close. It is
taken at the first write, with the newest content; it is given back, after a commit, when a program here unlocks
something, when a descriptor is closed, and when another client wants it. Before a lock of theirs is granted the content
is brought up to date in place (overtaking.py), and the kernel forgets what it has of it.

This goes for all that programs here have open of a file, from the first lock on that one of them has tried to take: who
writes through another descriptor than he locks, or under no lock at all, must not keep the write lock from programs
elsewhere that wait for it with a lock of theirs in hand. And it goes for a file that programs here only append to, from
the moment on at which another client wants to write it. The directory remembers that locks were used on a file. Who
opens it later need not keep others waiting until his first lock; only if he writes before any program here uses a lock,
the write lock is his until he closes it, as it is with any file.

    handle.lock     the write lock is this handle's until it is closed
    handle.share    the file is shared by locks; `Share.lock` is the write lock while something needs it

Threads: `Content.committing` guards the share of that content, and is held for each write, commit and overtaking of it;
it is not held while the write lock or a range lock is waited for. `_mutex` guards the table. One thread gives back what
others want, and keeps aside what was written under locks that are lost.
"""

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator

from dfsfuse import errors, unseen_writes
from dfsfuse.attributes import AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.content import Content, Download
from dfsfuse.copies import Copies
from dfsfuse.errands import Errands
from dfsfuse.handles import Handle, Share, is_only_appended_to, writers_of
from dfsfuse.locks import Lock, LockTable
from dfsfuse.messages import RangeGranted
from dfsfuse.old_pages import OldPages
from dfsfuse.openings import Openings, Version
from dfsfuse.overtaking import overtake
from dfsfuse.plain_writes import PlainWrites
from dfsfuse.range_locks import RangeLockTable
from dfsfuse.sending import Sending
from dfsfuse.waiting import Interrupted, never

_BRIEFLY_S = 1.0


class Sharing:
    """`start` begins to give back what others want."""

    def __init__(
        self, locks: LockTable, ranges: RangeLockTable, cache: Cache, openings: Openings, attributes: AttributeTable,
        copies: Copies, sending: Sending, download: Download,
    ):  # fmt: skip
        self._locks, self._ranges, self._cache, self._openings = locks, ranges, cache, openings
        self._attributes, self._copies, self._sending, self._download = attributes, copies, sending, download
        self._mutex, self._plain = threading.Lock(), PlainWrites()
        self._shares: dict[int, Share] = {}
        self._inos: Counter[int] = Counter()
        self._errands = Errands("sharing", "a shared file stays as it is for now")
        self.start, self.close = self._errands.start, self._errands.close
        self._pages = OldPages(ranges, self._errands)
        self.on_changed, self.misplaced = self._pages.on_changed, self._pages.misplaced
        ranges.on_lost(self._lost)
        openings.on_locking(self._overtaken_by)

    # -- who shares

    def opened(self, handle: Handle, noted: bool, cut: bool) -> None:
        """A descriptor was opened. `noted`: programs have used locks on the file. `cut`: it was cut by the open, which
        counts as writing."""
        share = self._shares.get(handle.content.row)
        if share is None and not noted:
            return
        share = self._join(handle)
        share.noted = share.noted or noted
        share.elsewhere = self._is_used_elsewhere(handle)
        handle.past_pages = handle.past_pages or share.elsewhere
        with handle.content.committing:
            if share.locking or not cut:
                self._hand_over(handle, share)
            if not handle.content.changed:
                self._give_back(share)

    def _is_used_elsewhere(self, handle: Handle) -> bool:
        """Who only reads is not kept waiting by a lock service that is away."""
        try:
            return self._ranges.ask_use(handle.content.ino, None if handle.writable else _BRIEFLY_S)
        except (errors.Unreachable, errors.Starting):
            if handle.writable:
                raise
            return True

    def begin_locking(self, handle: Handle) -> Share:
        """Its program is about to use a lock through it."""
        share, content = handle.share or self._join(handle), handle.content
        handle.locked = True
        if not share.locking:
            with self._plain.stopped(content), content.committing:
                self._share_writing(writers_of(content))
                share.locking = True
        return share

    def _share_writing(self, writers: list[Handle]) -> None:
        """None of them has the write lock for itself any more."""
        for each in writers:
            share = each.share or self._join(each)
            share.locking = True
            self._hand_over(each, share)

    def _join(self, handle: Handle) -> Share:
        content = handle.content
        with self._mutex:
            share = self._shares.setdefault(content.row, Share(content))
            share.users += 1
            self._inos[share.ino] += 1
            handle.share, content.shared = share, True
        self._ranges.begin_use(share.ino)
        return share

    def _hand_over(self, handle: Handle, share: Share) -> None:
        """The write lock that the descriptor has had since its open is the share's."""
        lock, handle.lock = handle.lock, None
        if lock is not None:
            share.token = max(share.token, lock.token)
        if lock is not None and share.lock is None:
            share.lock, share.pid = lock, handle.pid
        elif lock is not None:
            self._locks.release(lock, handle.pid)

    def give_up(self, handle: Handle) -> None:
        """The write lock that a descriptor has for itself goes with it. Until then it may become a share's."""
        with handle.content.committing:
            lock, handle.lock = handle.lock, None
        if lock is not None:
            self._locks.release(lock, handle.pid, keep=True)

    def closed(self, handle: Handle) -> None:
        """A descriptor is being closed, and what it has written is committed, or waits to be."""
        share = handle.share
        if share is None:
            return
        handle.share = None
        with share.content.committing:
            with self._mutex:
                share.users -= 1
                self._inos[share.ino] -= 1
                if not self._inos[share.ino]:
                    del self._inos[share.ino]
                last = not share.users
                if last:
                    del self._shares[share.content.row]
            if last or not share.content.changed:
                self._give_back(share)
            self._note_shared(share.content)
        self._ranges.end_use(share.ino)

    def _note_shared(self, content: Content) -> None:
        with self._mutex:
            content.shared = content.row in self._shares

    def _overtaken_by(self, newest: Version) -> None:
        """An open was answered with this. On a file on which programs use locks, all who have it open here see it: the
        kernel has one size for it, and who locks must be told the right one."""
        content = self._cache.current(newest.attributes.ino)
        if content is None or not content.users:
            return
        share = self._shares.get(content.row) or Share(content)
        with self._copies.in_use(content):
            content.shared = True
            with content.committing:
                former = content.version
                if former < newest.attributes.version and self._become(share, newest):
                    self._openings.overtaken(content, former, newest)
            self._pages.tell_if_old(share)
            # Who has only looked, or fails to open it, never closes it.
            self._note_shared(content)

    def is_shared(self, ino: int) -> bool:
        """Whether a program here has the file open that uses locks on it, or may."""
        return ino in self._inos

    # -- writing

    def may_commit(self, handle: Handle) -> bool:
        """Whether there is a write lock under which what was written through the descriptor can be committed. What is
        unsent without one is another descriptor's, and its to send."""
        share = handle.share
        return handle.lock is not None or (share is not None and self._claim(share) is not None)

    def _lock_of(self, share: Share) -> Lock | None:
        lock = share.lock or self._locks.held(share.ino)
        if lock is not None:
            with share.content.mutex:
                share.content.token = max(share.content.token, lock.token)
        return lock

    def writing(self, handle: Handle, interrupted: Interrupted) -> contextlib.AbstractContextManager[None]:
        """Within the block this client has the write lock, and the newest content. Raises Busy, Interrupted. Not to be
        entered within itself."""
        return self._plain.begin(handle, interrupted) or self._writing_shared(handle, interrupted)

    @contextlib.contextmanager
    def _writing_shared(self, handle: Handle, interrupted: Interrupted) -> Iterator[None]:
        share, content = handle.share, handle.content
        while True:
            self._ranges.check_lease()
            with content.committing:
                for failed in filter(None, (handle.failed, content.failed)):
                    raise failed
                if share.lock is not None and share.lock.held_now():
                    yield
                    return
            self._take(handle, share, interrupted)
            plain = self._plain.begin(handle, interrupted)
            if plain is not None:
                with plain:
                    yield
                return

    def _take(self, handle: Handle, share: Share, interrupted: Interrupted) -> None:
        content = handle.content
        with content.committing:
            if share.lock is not None and not share.lock.held_now():
                # It was lost. What was written under it is committed if nobody else has written since.
                self._commit(share)
                self._give_back(share)
        lock = self._locks.acquire(content.ino, content.where, handle.pid, True, interrupted)
        try:
            with content.committing:
                if share.lock is None:
                    if lock.token != share.token:
                        self._overtake(share, lock.token)
                    self._cache.mark_open(content)
                    self._keep(handle, share, lock)
                    return
        except BaseException:
            self._locks.release(lock, handle.pid)
            raise
        self._locks.release(lock, handle.pid)

    def _keep(self, handle: Handle, share: Share, lock: Lock) -> None:
        with share.content.mutex:
            share.content.token = max(share.content.token, lock.token)
        if share.locking:
            share.lock, share.pid = lock, handle.pid
        else:
            handle.lock = lock

    # -- what is written through the kernel

    def _claim(self, share: Share) -> Lock | None:
        """The write lock. What was written under none, and was not seen, needs it now; whether it is still based on the
        newest version its commit tells."""
        content = share.content
        with content.committing:
            unseen_writes.find(content)
            found = content.unseen.writers and content.changed and content.failed is None
            if not found or self._lock_of(share) is not None:
                return self._lock_of(share)
        lock = self._locks.acquire(content.ino, content.where, os.getpid(), True, never)
        with content.committing:
            if share.lock is None:
                share.lock, share.pid, lock = lock, os.getpid(), None
        if lock is not None:
            self._locks.release(lock, os.getpid())
        return self._lock_of(share)

    def may_write(self, handle: Handle) -> None:
        """A program has got a lock under which it may write, which nobody will see: this client has the write lock, and
        the newest content, from now on. Raises Busy."""
        share = handle.share
        if share is not None and handle.content.unseen.writers and not (share.lock and share.lock.held_now()):
            self._take(handle, share, never)

    def unlocked(self, handle: Handle) -> None:
        """A lock has gone: others may have the write lock, which was kept while it was there."""
        share = handle.share
        if share is not None and handle.content.unseen.writers:
            with handle.content.committing:
                if not handle.content.changed:
                    self._give_back(share)

    def _must_stay(self, share: Share) -> bool:
        """Programs may be writing through the kernel at any moment: who has locked something to write, or who has it
        open and does not write under locks, as far as anybody knows."""
        unseen = [handle for handle in list(share.content.handles) if handle.unseen]
        unlocked = not all(handle.locked for handle in unseen)
        return bool(unseen) and (unlocked or self._ranges.is_locked(share.ino, to_write=True))

    # -- locking and unlocking

    def settle(self, content: Content) -> None:
        """What was written here is committed, and the write lock given back: a lock of a program here is about to go.

        Raises what a commit raises; then both stay as they are, but where it can never succeed.
        """
        share = self._shares.get(content.row)
        if share is None:
            return
        self._claim(share)
        with content.committing:
            self._commit(share)
            self._give_back(share)
        self._pages.tell_if_old(share)

    def refresh(self, handle: Handle, granted: RangeGranted) -> None:
        """A lock was granted to a program through this descriptor: it sees what others have written before."""
        share, content = handle.share, handle.content
        with content.committing:
            share.elsewhere = granted.elsewhere
            unseen_writes.find(content)
            lock = self._locks.held(share.ino)
            newest = share.token in {lock.token if lock is not None else granted.writer} - {0}
            if not share.noted or not (newest or content.changed):
                self._overtake(share, 0)
                share.token = max(share.token, granted.writer)
            if not content.changed:
                self._give_back(share)
        self._pages.tell_if_old(share)

    def _commit(self, share: Share) -> None:
        """With the write lock that this client has; what is unsent without one is left to the retries."""
        content = share.content
        unseen_writes.find(content)
        if content.changed and content.failed is None and self._lock_of(share) is not None:
            self._sending.send(content)

    def _give_back(self, share: Share) -> None:
        if self._must_stay(share):
            return
        lock, share.lock = share.lock, None
        if lock is not None:
            self._locks.release(lock, share.pid)

    def _overtake(self, share: Share, token: int) -> None:
        """Become the newest version. What is unsent stays as it is: its commit tells if its base is gone."""
        self._openings.catch_up(share.content, token, lambda newest: self._become(share, newest))
        share.noted, share.token = True, token or share.token

    def _become(self, share: Share, newest: Version) -> bool:
        if share.content.changed:
            return False
        overtake(share.content, newest, self._cache, self._download)
        # Names may have changed along with the content, such as that of a journal beside it.
        self._attributes.forget_held()
        self._attributes.put_changed(newest.attributes, newest.asked_at)
        share.pages_old = True
        return True

    # -- what others want, and what is lost

    def wanted(self, inos: dict[int, float]) -> None:
        """Other clients wait for the write locks of these. Does not wait."""
        with self._mutex:
            shares = [share for share in self._shares.values() if share.ino in inos and share.lock is not None]
        for share in shares:
            self._errands.put(lambda share=share: self.settle(share.content))
        for ino in inos.keys() - {share.ino for share in shares}:
            self._errands.put(lambda ino=ino: self._yield_appends(ino))

    def _yield_appends(self, ino: int) -> None:
        """Programs that only append to a file need its write lock for each write, not from open to close."""
        content = self._cache.current(ino)
        if content is None or not is_only_appended_to(content):
            return
        with self._plain.stopped(content), content.committing:
            if not is_only_appended_to(content):
                return
            self._share_writing(writers_of(content))
        self.settle(content)

    def _lost(self, handles: Iterable[Handle]) -> None:
        """Nobody knows what others have done to the file meanwhile. Does not wait."""
        error = errors.LockLost("the locks of this program are lost: close the file, and open it again")
        for handle in handles:
            handle.failed = error
        for content, ino in {(each.content, each.share.ino if each.share else each.content.ino) for each in handles}:
            self._errands.put(lambda content=content, ino=ino: self._set_aside(content, ino, error))

    def _set_aside(self, content: Content, ino: int, error: errors.DfsError) -> None:
        """What was written under lost locks becomes a copy beside the file; and reads reach this client again."""
        with content.committing:
            unseen_writes.find(content)
            if content.changed and content.failed is None and content.where:
                self._copies.keep(content, "conflict", error)
        self._pages.tell(content, ino)
