"""The client's parts put together: session, locks, cache, transfer, open files; and taken apart again."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from dfsfuse.allocation import Allocation
from dfsfuse.attributes import HOLD_S, AttributeTable
from dfsfuse.cache import Cache
from dfsfuse.commits import Committer
from dfsfuse.copies import Copies
from dfsfuse.filesystem import FileSystem
from dfsfuse.home import readable
from dfsfuse.lapsing import Lapsing
from dfsfuse.lock_lease import LockLease
from dfsfuse.locks import LockTable
from dfsfuse.openfiles import OpenFiles
from dfsfuse.openings import Openings
from dfsfuse.options import ClientOptions
from dfsfuse.program_locks import ProgramLocks
from dfsfuse.range_locks import RangeLockTable
from dfsfuse.recalling import Recalling
from dfsfuse.recovery import Recovery
from dfsfuse.restoring import Restoring
from dfsfuse.rpc import Rpc
from dfsfuse.sending import Sending
from dfsfuse.sent_bytes import SentBytes
from dfsfuse.session import Session, boottime_s, identity
from dfsfuse.sharing import Sharing
from dfsfuse.succession import Succession
from dfsfuse.transfer import Transfer
from dfsfuse.unsent import Unsent
from dfsfuse.watching import Watching

RECOVER_S = 2.0


def _session(undo: contextlib.ExitStack, options: ClientOptions) -> Session:
    rpc = Rpc(options.token)
    undo.callback(rpc.close)
    who = identity(readable(options.mountpoint))
    session = Session(rpc, options.url, who, options.timeout_s, options.refind, options.another)
    undo.callback(session.close)
    return session


def _cache(undo: contextlib.ExitStack, session: Session, options: ClientOptions) -> Cache:
    cache = Cache(options.folder, options.cache_bytes)
    undo.callback(cache.close)
    succession = Succession(session, cache, options.folder)
    succession.begin()
    undo.callback(succession.close)
    return cache


def _promises(undo: contextlib.ExitStack, session: Session, options: ClientOptions) -> tuple[AttributeTable, Watching]:
    attributes = AttributeTable(HOLD_S, boottime_s, options.known_files, session.read_times)
    watching = Watching(session, attributes)
    undo.callback(watching.stop)
    session.on_closed(watching.join)
    session.on_changed(attributes.broken)
    session.closed_rows.keep_while(attributes.promised_version)
    attributes.on_broken(lambda ino, name: None if name else session.closed_rows.promise_ended(ino))
    return attributes, watching


def _lapsing(undo: contextlib.ExitStack, attributes: AttributeTable) -> Lapsing:
    lapsing = Lapsing(attributes)
    undo.callback(lapsing.stop)
    return lapsing


def _transfer(undo: contextlib.ExitStack, session: Session, folder: Path) -> Transfer:
    sent = SentBytes(folder)
    undo.callback(sent.close)
    transfer = Transfer(session, sent.tell)
    undo.callback(transfer.close)
    return transfer


def _locks(undo: contextlib.ExitStack, session: Session, options: ClientOptions) -> tuple[LockLease, LockTable]:
    lease = LockLease(session)
    undo.callback(lease.close)
    locks = LockTable(session, lease, options.lock_wait_s)
    undo.callback(locks.close)
    session.closed_rows.write_while(locks.here)
    return lease, locks


def _recalls(undo: contextlib.ExitStack, recalling: Recalling, session: Session) -> Recalling:
    session.on_closed(recalling.join)
    undo.callback(recalling.stop)
    return recalling


def connect(options: ClientOptions, tell: Callable[[str], None] | None = None) -> FileSystem:
    """A file system that works; what an earlier client of the same folder left unsent is taken up. `tell` takes lines
    for the user about what became of that, for which a little time is given.

    The caller has claimed `options.folder`: one client at a time uses a cache.
    """
    with contextlib.ExitStack() as undo:
        session = _session(undo, options)
        cache = _cache(undo, session, options)
        transfer = _transfer(undo, session, options.folder)
        lease, locks = _locks(undo, session, options)
        committer = Committer(session, transfer, cache)
        copies = Copies(session, locks, cache, transfer, committer)
        attributes, watching = _promises(undo, session, options)
        openings, ranges = Openings(session, attributes, cache), RangeLockTable(session, lease, locks)
        restoring = Restoring(session, openings, cache, transfer, committer)
        unsent = Unsent(session, locks, cache, restoring, copies)
        undo.callback(unsent.close)
        session.on_servers_changed(unsent.hurry)
        session.rpc.on_return(unsent.hurry)
        sending = Sending(attributes, cache, restoring, copies)
        sharing = Sharing(locks, ranges, cache, openings, attributes, copies, sending, transfer.download)
        undo.callback(sharing.close)
        lease.on_wanted(sharing.wanted)
        recalling = _recalls(undo, Recalling(session, lease, locks, sharing.wanted), session)
        files = OpenFiles(session, locks, attributes, cache, openings, transfer, sending, unsent, sharing)
        watching.pay_with(files.take_owed)
        parts = files, Allocation(session, files, cache), ProgramLocks(session, ranges, sharing, files)
        filesystem = FileSystem(session, locks, attributes, *parts, read_only=options.read_only)
        for part in (session, lease, locks, sharing, watching, recalling, _lapsing(undo, attributes)):
            part.start()
        recovery = Recovery(session, cache, transfer, unsent, openings.newest)
        if not options.read_only:
            recovery.run()
        unsent.start()
        for line in recovery.outcome(RECOVER_S) if tell is not None else ():
            tell(line)
        filesystem.on_close(undo.pop_all().close)
        return filesystem
