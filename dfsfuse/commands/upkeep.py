"""What `dfs status` tells of the copies: what file servers lack, how much of it is left, what was broken, what is
lost."""

from typing import NamedTuple

from dfsfuse import gaps, tables
from dfsfuse.messages import LostFile, Server, ServerCondition, StatusReply, bytes_as_text
from dfsfuse.tables import age_text, shown, time_text


class Condition(NamedTuple):
    """One file server, and what there is to be done at it."""

    server: Server
    told: ServerCondition

    @property
    def lacks_something(self) -> bool:
        return self.server.syncing or self.told.short > 0

    @property
    def left_s(self) -> float:
        """How long it will take until it has everything; -1 where that cannot be told, as where nothing goes on."""
        return self.told.left_s if self.server.up and self.lacks_something else -1.0


def conditions(whole: StatusReply) -> list[Condition]:
    """Those of the file servers that tell of their disks."""
    servers = {server.name: server for server in whole.cluster.files}
    return [Condition(servers[told.name], told) for told in whole.conditions if told.name in servers]


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
    counts = [told.short, told.garbage, server.broken_chunks, server.repaired_chunks]
    return [server.name, _state(condition), *map(str, counts), verified]


def _state(condition: Condition) -> str:
    server, told = condition.server, condition.told
    if not server.up:
        return "away"
    if not condition.lacks_something:
        return "serves"
    state = "syncing" if server.syncing else "serves, repairing"
    if told.caught_up < 1.0:
        state += f", {100 * told.caught_up:.0f} % done"
    if server.is_full:
        state += ", its disk is full"
    return state + (f", about {age_text(condition.left_s)} left" if condition.left_s >= 0 else "")


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
