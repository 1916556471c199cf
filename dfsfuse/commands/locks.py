"""dfs locks: who may write which file, and who waits for that."""

import argparse
from collections.abc import Iterator

from dfsfuse import errors, tables
from dfsfuse.commands.reach import metadata
from dfsfuse.messages import LockList, LockRow, LockWaiter, Nothing, bytes_as_text
from dfsfuse.tables import age_text, shown

_TIMEOUT_S = 5.0


def locks(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked:
        service = asked.cluster.locks
        if service is None:
            raise errors.Unreachable("the cluster has no lock service yet")
        try:
            found: LockList = asked.rpc.call(service.url, "locks", Nothing(), LockList, _TIMEOUT_S)
        except errors.Unreachable as error:
            raise errors.Unreachable(f"the lock service is down: {error}; it comes back by itself") from None
    if arguments.json:
        tables.write_json([_as_json(row) for row in found.locks])
    else:
        titles = ["PLACE", "HOST", "PID", "COMMAND", "AGE", "PATH"]
        tables.write_table(titles, (line for row in found.locks for line in _lines(row)), right=["PID", "AGE"])
    return 0


def _lines(row: LockRow) -> Iterator[list[str]]:
    """The holder, then those who wait, first place first."""
    path = shown(row.path) or f"inode {row.ino}"
    if row.token:
        yield ["holds", shown(row.host), str(row.pid), shown(row.command), age_text(row.held_s), path]
    for place, waiter in enumerate(row.waiters, 1):
        who = [shown(waiter.host), str(waiter.pid), shown(waiter.command)]
        yield [f"waits, {place}.", *who, age_text(waiter.waited_s), shown(waiter.path) or path]


def _as_json(row: LockRow) -> dict[str, object]:
    holder = None
    if row.token:
        holder = {"session": row.session, "host": row.host, "pid": row.pid, "command": row.command,
                  "age_s": round(row.held_s, 3), "token": row.token}  # fmt: skip
    waiters = [_waiter(waiter, place) for place, waiter in enumerate(row.waiters, 1)]
    return {"path": bytes_as_text(row.path), "inode": row.ino, "holder": holder, "waiters": waiters}


def _waiter(waiter: LockWaiter, place: int) -> dict[str, object]:
    return {
        "place": place, "session": waiter.session, "host": waiter.host, "pid": waiter.pid, "command": waiter.command,
        "path": bytes_as_text(waiter.path), "age_s": round(waiter.waited_s, 3),
    }  # fmt: skip
