"""Letting go of older contents when newer ones are on enough disks, by steps. Pure over a transaction.

Once a content is let go, nobody knows any more that a server which was not waited for may lack chunks of the newer one
on its disk. So there is a short row for each of them before: the server is to look for it. A content can have millions
of chunks, so these rows are put some at a time, and the last step lets go.
"""

from collections.abc import Callable
from typing import NamedTuple

from servers import records, short_rows, undurable, versions
from servers.records import Inode
from servers.store import Transaction
from servers.undurable import Content, Needs, Undurable, targets_of

FILES, ROWS = 50, 1000
"""Of a step at most: files, and short rows and references."""
Late = Callable[[Needs], set[str] | None]
"""None if a content with these needs is not on enough disks; else the servers that are not waited for."""


class Begun(NamedTuple):
    """A content for which some short rows are there: those of all parts before `part`, and `done` of that part."""

    ino: int
    version: int
    late: frozenset[str]
    part: int = 0
    done: int = 0


class Place(NamedTuple):
    """Where the next step goes on: behind inode `after`, and with what was begun."""

    after: int = 0
    begun: Begun | None = None


class Settled(NamedTuple):
    """Servers that lack a chunk of a content that stays, or may; and those that were not waited for."""

    lacking: set[str]
    late: set[str]


def settle(tx: Transaction, place: Place, late: Late) -> tuple[Place, Settled]:
    """One step, and where the next one goes on. At Place() all files have had their turn."""
    rows, settled, left = undurable.rows_after(tx, place.after, FILES), Settled(set(), set()), ROWS
    after = place.after
    for ino, row in rows:
        if left <= 0:
            return Place(after), settled
        inode = records.get_inode(tx, ino)
        contents = undurable.not_on_disks(inode, row)
        begun = _begin(ino, row, contents, late, place.begun)
        if begun is None:
            settled.lacking.update(name for needs in row.all_needs for name in (*needs.lacking, *needs.unsure))
        else:
            number = [content.version for content in contents].index(begun.version)
            rest, left = _look_later(tx, contents[number], row.before, begun, left)
            if rest is not None:
                return Place(after, rest), settled
            settled.late.update(begun.late)
            left -= _let_go(tx, ino, inode, row, number)
        after = ino
    return Place(after if len(rows) == FILES else 0), settled


def _begin(ino: int, row: Undurable, contents: list[Content | Inode], late: Late, begun: Begun | None) -> Begun | None:
    """With the newest content that is on enough disks; or what was begun, as newer ones may come more quickly than it
    is done with."""
    found: Begun | None = None
    for content, needs in zip(contents, row.all_needs, strict=True):
        names = late(needs)
        if names is not None:
            found = Begun(ino, content.version, frozenset(names))
            if begun is not None and found[:3] == begun[:3]:
                return begun
    return found


def _look_later(
    tx: Transaction, content: Content | Inode, before: Content, begun: Begun, left: int
) -> tuple[Begun | None, int]:
    """Up to `left` short rows for the late servers. Where to go on, None: all are there; and what is left of `left`."""
    for part in range(begun.part, len(undurable.parts(content)) if begun.late else 0):
        done = begun.done if part == begun.part else 0
        new = sorted(undurable.new_in_part(tx, content, part, before))
        rows = [(name, chunk) for chunk in new for name in sorted(begun.late)]
        short_rows.note(tx, rows[done : done + left])
        if done + left < len(rows):
            return begun._replace(part=part, done=done + left), 0
        left -= len(rows) - done
    return None, left


def _let_go(tx: Transaction, ino: int, inode: Inode, row: Undurable, number: int) -> int:
    """The content with this number is the one before; how many references went at most."""
    kept = [row.before, *(step.content for step in row.between[:number])]
    with versions.keeping(tx, ino, inode):
        if number == len(row.between):
            undurable.delete(tx, ino)
        else:
            row.before, row.between = row.between[number].content, row.between[number + 1 :]
            undurable.put(tx, ino, row)
    return sum(len(targets_of(content)) for content in kept)
