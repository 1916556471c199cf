"""What fsync() must know: that a content is still in the file, and on disks. Pure over a transaction.

A power cut takes commits from the directory, and chunks from file servers; what a client has of a file may be in its
cache alone since. What was replaced since need not be on any disk, if that which has replaced it is: what was looked
at, and is noted, is the newest content.
"""

from dfsfuse import errors
from dfsfuse.messages import Durable
from servers import content, records, undurable, versions
from servers.group import Group
from servers.records import Inode
from servers.store import Reader, Transaction
from servers.tree import existing

CommitId = bytes
"""Of the newest content, which is on the disks of enough servers."""


def known(tx: Reader, request: Durable, group: Group) -> CommitId | None:
    """Enough servers have everything on their disks, or there is nothing to have; None where `check` must look at each
    chunk. Raises as `check`, but for NotEnoughCopies."""
    inode = _checked(tx, request)
    whole = [name for name in _there(tx, request, group) if not group.may_miss(tx, name)]
    is_empty = not request.version or not (inode.entries or inode.segments)
    return inode.commit_id if is_empty or len(whole) >= group.cluster.copies_min else None


def check(tx: Reader, request: Durable, group: Group) -> CommitId:
    """Raises Lost where the file has not had this content, or has it no more through a power cut; NotEnoughCopies where
    too few servers are known to have what is in the file now on their disks; Stale."""
    inode, there = _checked(tx, request), _there(tx, request, group)
    for names in content.parts(tx, inode):
        for chunk in names:
            have = [name for name in there if not group.is_missing(tx, name, chunk)]
            if len(have) < group.cluster.copies_min:
                on = ", ".join(sorted(have)) or "no server"
                raise errors.NotEnoughCopies(f"only {on} could sync, or is known to have all of the file")
    return inode.commit_id


def note(tx: Transaction, ino: int, found: CommitId) -> None:
    """It counts as committed durably: what comes a moment later does not take it along when it is lost."""
    inode, row = records.get_inode(tx, ino), undurable.get(tx, ino)
    if inode is not None and row is not None and inode.commit_id == found and not row.durable:
        row.durable = True
        undurable.put(tx, ino, row)


def _checked(tx: Reader, request: Durable) -> Inode:
    inode = existing(tx, request.ino)
    if not versions.has_had(tx, request.ino, inode, request.version, request.commit_id):
        raise errors.Lost(f"the file has version {inode.version}; servers lost power, and with it this version")
    return inode


def _there(tx: Reader, request: Durable, group: Group) -> list[str]:
    return group.on_disk(request.synced, undurable.get(tx, request.ino))
