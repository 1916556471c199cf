"""What the volume may hold: a limit on inodes and on bytes, and how much of it is used. Pure over a transaction.

Bytes are those that files have stored, each counted once however many copies there are; holes are not counted. What is
there stays when a limit is set below it; only what would grow beyond a limit is refused.
"""

from dfsfuse import errors
from dfsfuse.messages import Quota, QuotaReply, size_as_text
from servers import records
from servers.store import Transaction

INODES_FREE = 1 << 40
"""What is told where nothing limits the number of inodes."""


def check_inode(tx: Transaction) -> None:
    """Before an inode is made."""
    limit = records.quota(tx).inodes
    if limit and records.usage(tx).inodes >= limit:
        more = "remove some, or raise it: dfs quota --inodes N"
        raise errors.QuotaExceeded(f"the quota of the volume, {limit} inodes, is used up; {more}")


def check_growth(tx: Transaction, more_bytes: int) -> None:
    """Before a file takes that many bytes more."""
    limit, used = records.quota(tx).size_bytes, records.usage(tx).allocated_bytes
    if limit and more_bytes > 0 and used + more_bytes > limit:
        room = f"{size_as_text(used)} of {size_as_text(limit)} are used, and this takes {size_as_text(more_bytes)} more"
        raise errors.QuotaExceeded(
            f"beyond the quota of the volume: {room}; remove some, or raise it: dfs quota --bytes N"
        )


def set_and_tell(tx: Transaction, request: Quota) -> QuotaReply:
    """Change what is not None; 0 is no limit."""
    limits, used = records.quota(tx), records.usage(tx)
    if request.bytes_max is not None or request.inodes_max is not None:
        limits = records.Limits(_limit(request.inodes_max, limits.inodes), _limit(request.bytes_max, limits.size_bytes))
        records.put_record(tx, b"mquota", limits)
    return QuotaReply(
        bytes_max=limits.size_bytes,
        inodes_max=limits.inodes,
        used_bytes=used.allocated_bytes,
        used_inodes=used.inodes,
    )


def _limit(wanted: int | None, present: int) -> int:
    if wanted is None:
        return present
    if not 0 <= wanted < 1 << 63:
        raise errors.InvalidArgument(f"{wanted} cannot be a limit")
    return wanted


def space(tx: Transaction, total_bytes: int, free_bytes: int) -> tuple[int, int, int, int]:
    """(total bytes, free bytes, inodes, free inodes) for statfs: those of the servers within the limits."""
    limits, used = records.quota(tx), records.usage(tx)
    if limits.size_bytes:
        total_bytes = min(total_bytes, limits.size_bytes)
        free_bytes = min(free_bytes, max(0, limits.size_bytes - used.allocated_bytes))
    inodes_free = max(0, limits.inodes - used.inodes) if limits.inodes else INODES_FREE
    return total_bytes, free_bytes, used.inodes, inodes_free
