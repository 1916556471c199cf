"""What `dfs status` tells of the copies: what file servers lack, how much of it is left, what was broken, what is lost.

How long it will take is measured: where something is under way the directory is asked twice, MEASURE_S apart.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors, gaps, tables
from dfsfuse.messages import LostFile, Server, ServerCondition, StatusReply, bytes_as_text
from dfsfuse.tables import age_text, shown, time_text

MEASURE_S = 1.0
COUNTED_MAX = 10_000
"""The directory counts no further."""


class Condition(NamedTuple):
    """One file server. `left_s`: how long it will take until it has everything; -1 where that cannot be told."""

    server: Server
    told: ServerCondition
    left_s: float = -1.0

    @property
    def lacks_something(self) -> bool:
        return self.server.syncing or self.told.short > 0


def conditions(whole: StatusReply, ask: Callable[[], StatusReply]) -> list[Condition]:
    """Those of the file servers that tell of their disks. `ask` asks the directory once more."""
    servers = {server.name: server for server in whole.cluster.files}
    now = [Condition(servers[told.name], told) for told in whole.conditions if told.name in servers]
    if not any(condition.lacks_something and condition.server.up for condition in now):
        return now
    time.sleep(MEASURE_S)
    try:
        later = {told.name: told for told in ask().conditions}
    except errors.DfsError:
        return now
    return [one._replace(left_s=left_s(one.told, later.get(one.server.name))) for one in now]


def left_s(before: ServerCondition, now: ServerCondition | None) -> float:
    """How long it takes at the pace of MEASURE_S; -1 where there was no progress, or more than is counted is left."""
    if now is None or (before.short, before.caught_up) == (0, 1.0):
        return -1.0
    if before.caught_up < 1.0:
        done = now.caught_up - before.caught_up
        return (1.0 - now.caught_up) / done * MEASURE_S if done > 0 else -1.0
    done = before.short - now.short
    return now.short / done * MEASURE_S if done > 0 else -1.0


# -- for people


def write(found: list[Condition], lost: list[LostFile]) -> None:
    if found:
        tables.write_line("")
        titles = ["COPIES", "STATE", "LACKS", "GARBAGE", "BROKEN", "REPLACED", "VERIFIED"]
        tables.write_table(titles, map(_row, found), right=titles[2:6])
    if lost:
        tables.write_line("\nlost: no server has all of the content any more:")
        tables.write_table(["NOTICED", "VERSION", "PATH", "NOW"], map(_lost_row, lost), right=["VERSION"])


def _row(condition: Condition) -> list[str]:
    server, told = condition.server, condition.told
    ago_s = server.scrubbed_ago_s
    verified = f"{age_text(ago_s)} ago" if ago_s >= 0 else "not yet"
    counts = [_counted(told.short), _counted(told.garbage), str(server.broken_chunks), str(server.repaired_chunks)]
    return [server.name, _state(condition), *counts, verified]


def _counted(count: int) -> str:
    return f"{count} or more" if count >= COUNTED_MAX else str(count)


def _state(condition: Condition) -> str:
    server, told = condition.server, condition.told
    if not server.up:
        return "away"
    if not condition.lacks_something:
        return "serves"
    state = "syncing" if server.syncing else "serves, repairing"
    if told.caught_up < 1.0:
        state += f", {100 * told.caught_up:.0f} % done"
    return state + (f", {age_text(condition.left_s)} left" if condition.left_s >= 0 else "")


def _lost_row(lost: LostFile) -> list[str]:
    return [time_text(lost.lost_ns), str(lost.version), shown(lost.path), _what_is_there(lost)]


def _what_is_there(lost: LostFile) -> str:
    if lost.gaps:
        return f"a copy of what there is{gaps.as_text(lost.gaps)}"
    return "the content before it, as a version of its own" if lost.reverted else "reading what is lost fails"


# -- for programs


def as_json(condition: Condition) -> dict[str, object]:
    server, told = condition.server, condition.told
    return {
        "name": server.name, "syncing": server.syncing, "short_chunks": told.short, "garbage_chunks": told.garbage,
        "caught_up": told.caught_up, "left_s": condition.left_s, "broken_chunks": server.broken_chunks,
        "repaired_chunks": server.repaired_chunks, "verified_ago_s": server.scrubbed_ago_s,
    }  # fmt: skip


def lost_as_json(lost: LostFile) -> dict[str, object]:
    return {
        "ino": lost.ino, "path": bytes_as_text(lost.path), "version": lost.version, "lost_ns": lost.lost_ns,
        "reverted": lost.reverted, "gaps": lost.gaps,
    }  # fmt: skip
