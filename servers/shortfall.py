"""What a file server is not known to have: the pages of a repair pass. Pure over a transaction.

A pass goes through four stages; `after`, which travels to the server and back, is the stage's letter and a position in
it, so the directory keeps nothing between two pages.

    q    chunks that the server has no receipt for (its short rows)
    a    all chunks there are, where its disk is new
    d    the new chunks of contents that it is not known to have, as its receipts are unsure or it lacked a chunk
    f    no chunks: now that it has looked for those of `d`, it is noted of which contents it has all on its disk

A content may be committed, or a segment replaced, while the pass goes on: what is new then has receipts of this
start, or short rows.
"""

from collections.abc import Callable
from typing import NamedTuple

from dfsfuse import errors
from servers import records, references, short_rows, undurable
from servers.server_states import ServerState
from servers.store import Transaction
from servers.undurable import Needs, Undurable

_STAGES = b"qadf"
_ROWS = 500
_LAST_PART = 0xFFFFFFFE


class Page(NamedTuple):
    """`after` b"": the pass has ended."""

    chunks: list[bytes]
    after: bytes


class _Step(NamedTuple):
    chunks: list[bytes]
    position: bytes
    more: bool


def page(tx: Transaction, name: str, state: ServerState, after: bytes, limit: int) -> Page:
    """The chunks that follow `after`; a page without chunks is not the last one unless its `after` is b""."""
    stage, position = after[:1] or b"q", after[1:]
    if stage not in _STEPS:
        raise errors.BadRequest("a pass goes on after what the reply before has told")
    step = _STEPS[stage](tx, name, state, position, limit)
    if step.more:
        return Page(step.chunks, stage + step.position)
    following = _STAGES[_STAGES.index(stage) + 1 :][:1]
    return Page(step.chunks, following)


def _short(tx: Transaction, name: str, state: ServerState, position: bytes, limit: int) -> _Step:
    found = short_rows.chunks_after(tx, name, position, limit)
    return _Step(found, found[-1] if found else b"", len(found) == limit)


def _all(tx: Transaction, name: str, state: ServerState, position: bytes, limit: int) -> _Step:
    if not state.catching_up:
        return _Step([], b"", False)
    found, more = references.chunks_after(tx, references.ONLY_GROUP, position or state.cursor, limit)
    return _Step(found, found[-1] if found else b"", more)


def _unsure(tx: Transaction, name: str, state: ServerState, position: bytes, limit: int) -> _Step:
    """One part of one file: a segment lists up to 1,024 entries, more than a page has otherwise."""
    ino, part, row = _next_part(tx, name, state, position)
    if row is None:
        return _Step([], _place(ino, part), bool(ino))
    inode = records.get_inode(tx, ino)
    return _Step(sorted(undurable.new_in_all(tx, inode, part, row)), _place(ino, part), True)


def _finish(tx: Transaction, name: str, state: ServerState, position: bytes, limit: int) -> _Step:
    lacked = position[12:]
    ino, part, row = _next_part(tx, name, state, position[:12])
    if row is None:
        return _Step([], _place(ino, part), bool(ino))
    inode = records.get_inode(tx, ino)
    contents = undurable.not_on_disks(inode, row)
    if not part or len(lacked) != len(contents):
        # A commit that came meanwhile is taken to lack something; the next pass knows.
        lacked = (b"1" if part else b"0") * len(contents)
    found = (_lacks(tx, name, undurable.new_in_part(tx, content, part, row.before)) for content in contents)
    lacked = b"".join(b"1" if known == ord("1") or lacks else b"0" for known, lacks in zip(lacked, found, strict=True))
    if part == undurable.parts_of_all(inode, row)[-1]:
        for needs, lacks in zip(row.all_needs, lacked, strict=True):
            _conclude(needs, name, state, lacks == ord("1"))
        undurable.put(tx, ino, row)
    return _Step([], _place(ino, part) + lacked, True)


def _lacks(tx: Transaction, name: str, chunks: set[bytes]) -> bool:
    return any(short_rows.get(tx, name, chunk) is not None for chunk in chunks)


def _conclude(needs: Needs, name: str, state: ServerState, lacks: bool) -> None:
    """What it was found to have is on its disk; what it has given receipts for since it started will be."""
    number = needs.numbers.get(name, 0)
    needs.numbers[name] = number if number >= state.since else 0
    needs.unsure = [other for other in needs.unsure if other != name]
    needs.lacking = sorted({*(other for other in needs.lacking if other != name), *([name] if lacks else [])})


def _place(ino: int, part: int) -> bytes:
    return records.number(ino) + part.to_bytes(4, "big")


def _next_part(tx: Transaction, name: str, state: ServerState, position: bytes) -> tuple[int, int, Undurable | None]:
    """The part behind a position, of a file of which it is not known that this server has it. Without a row: how far
    was looked; 0 is the end."""
    ino, part = records.as_number(position[:8]), int.from_bytes(position[8:], "big") + 1
    row = undurable.get(tx, ino) if ino else None
    if row and part in undurable.parts_of_all(records.get_inode(tx, ino), row):
        return ino, part, row
    rows = undurable.rows_after(tx, ino, _ROWS)
    for ino, row in rows:
        if _is_wanted(row, name, state):
            return ino, 0, row
    return (rows[-1][0], _LAST_PART, None) if len(rows) == _ROWS else (0, 0, None)


def _is_wanted(row: Undurable, name: str, state: ServerState) -> bool:
    """One that lacked a chunk may have it by now, from another file's commit, and not on its disk."""
    return any(
        name in needs.lacking or name in needs.unsure or state.is_unsure(needs.numbers.get(name, 0))
        for needs in row.all_needs
    )


_STEPS: dict[bytes, Callable[[Transaction, str, ServerState, bytes, int], _Step]] = {
    b"q": _short,
    b"a": _all,
    b"d": _unsure,
    b"f": _finish,
}
