"""dfs locks: who may write which file, what programs have locked, and who waits for that."""

import argparse
from collections.abc import Iterator

from dfsfuse import errors, tables
from dfsfuse.commands.reach import metadata
from dfsfuse.messages import (
    RANGE_END,
    LockList,
    LockRow,
    LockWaiter,
    Nothing,
    Range,
    RangeHolder,
    RangeRow,
    RangeWaiter,
    bytes_as_text,
)
from dfsfuse.tables import age_text, complain, count_text, shown

_TIMEOUT_S = 5.0
_RANGES_SHOWN_MAX = 3


def locks(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked:
        service = asked.cluster.locks
        if service is None:
            raise errors.Unreachable("the cluster has no lock service yet")
        try:
            found: LockList = asked.rpc.call(service.url, "locks", Nothing(), LockList, _TIMEOUT_S)
        except errors.Unreachable as error:
            raise errors.Unreachable(f"the lock service is down: {error}; it comes back by itself") from None
    rows = [row for row in found.locks if arguments.kept or row.waiters or not row.kept]
    if arguments.json:
        tables.write_json([*map(_as_json, rows), *map(_ranges_as_json, found.ranges)])
    elif not rows and not found.ranges:
        _tell_that_there_are_none(len(found.locks))
    else:
        lines = [*(line for row in rows for line in _lines(row))]
        lines += [line for row in found.ranges for line in _range_lines(row)]
        titles = ["PLACE", "LOCK", "HOST", "PID", "COMMAND", "AGE", "PATH"]
        tables.write_table(titles, lines, right=["PID", "AGE"])
    return 0


def _tell_that_there_are_none(kept: int) -> None:
    more = f"; clients keep {count_text(kept, 'lock')}, which --kept shows" if kept else ""
    complain(f"no file is open for writing, and no program has locked one{more}")


# -- write locks


def _lines(row: LockRow) -> Iterator[list[str]]:
    """The holder, then those who wait, first place first."""
    path = shown(row.path) or f"inode {row.ino}"
    if row.token:
        yield [
            "keeps" if row.kept else "holds",
            "writing",
            shown(row.host),
            str(row.pid),
            shown(row.command),
            age_text(row.held_s),
            path,
        ]
    for place, waiter in enumerate(row.waiters, 1):
        who = [shown(waiter.host), str(waiter.pid), shown(waiter.command)]
        yield [f"waits, {place}.", "writing", *who, age_text(waiter.waited_s), shown(waiter.path) or path]


def _as_json(row: LockRow) -> dict[str, object]:
    holder = None
    if row.token:
        holder = {"session": row.session, "host": row.host, "pid": row.pid, "command": row.command,
                  "age_s": round(row.held_s, 3), "token": row.token, "kept": row.kept}  # fmt: skip
    waiters = [_waiter(waiter, place) for place, waiter in enumerate(row.waiters, 1)]
    path = bytes_as_text(row.path)
    return {"lock": "writing", "path": path, "inode": row.ino, "holder": holder, "waiters": waiters}


def _waiter(waiter: LockWaiter, place: int) -> dict[str, object]:
    return {
        "place": place, "session": waiter.session, "host": waiter.host, "pid": waiter.pid, "command": waiter.command,
        "path": bytes_as_text(waiter.path), "age_s": round(waiter.waited_s, 3),
    }  # fmt: skip


# -- locks between programs


def _range_lines(row: RangeRow) -> Iterator[list[str]]:
    path = shown(row.path) or f"inode {row.ino}"
    for holder in row.holders:
        yield ["holds", _ranges(holder.kind, holder.ranges), *_who(holder), age_text(holder.held_s), path]
    for place, waiter in enumerate(row.waiters, 1):
        asked = _ranges(waiter.kind, [waiter.range])
        yield [f"waits, {place}.", asked, *_who(waiter), age_text(waiter.waited_s), path]


def _who(one: RangeHolder | RangeWaiter) -> list[str]:
    return [shown(one.host), str(one.pid), shown(one.command)]


def _ranges(kind: str, ranges: list[Range]) -> str:
    """Such as "write 0-99, read 200-"."""
    if kind == "flock":
        return "flock exclusive" if ranges[0][2] else "flock shared"
    texts = [
        f"{'write' if write else 'read'} {start}-{'' if end == RANGE_END else end - 1}" for start, end, write in ranges
    ]
    more = ["..."] if len(texts) > _RANGES_SHOWN_MAX else []
    return ", ".join(texts[:_RANGES_SHOWN_MAX] + more)


def _ranges_as_json(row: RangeRow) -> dict[str, object]:
    holders = [
        {**_person(holder), "ranges": [_range(one) for one in holder.ranges], "age_s": round(holder.held_s, 3)}
        for holder in row.holders
    ]
    waiters = [
        {"place": place, **_person(waiter), "range": _range(waiter.range), "age_s": round(waiter.waited_s, 3)}
        for place, waiter in enumerate(row.waiters, 1)
    ]
    lock = "flock" if any(one.kind == "flock" for one in (*row.holders, *row.waiters)) else "fcntl"
    return {"lock": lock, "path": bytes_as_text(row.path), "inode": row.ino, "holders": holders, "waiters": waiters}


def _person(one: RangeHolder | RangeWaiter) -> dict[str, object]:
    return {"session": one.session, "host": one.host, "pid": one.pid, "command": one.command}


def _range(one: Range) -> dict[str, object]:
    """`end` is the first byte that is not locked; none: there is no end."""
    start, end, write = one
    return {"start": start, "end": None if end == RANGE_END else end, "write": write}
