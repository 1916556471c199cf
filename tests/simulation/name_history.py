"""What programs did with the names that all clients share, and whether that has an order. Pure."""

import itertools
import math

from simulation.orders import ABSENT, READS, UNKNOWN, NameOp, check_names

NAMES = ("n1", "n2", "n3")
MARK = "mark"
LEASE_S = 4.2
"""How long promises count that a directory has given which lost power since."""


class NameHistory:
    """`inos`: those of the folder that has the names, and of the mark. `numbers`: inode number -> the file's."""

    def __init__(self) -> None:
        self.ops: list[NameOp] = []
        self.inos: dict[str, int] = {}
        self.numbers: dict[int, int] = {}
        self._next = itertools.count(1)

    def new_number(self) -> int:
        return next(self._next)

    def check(self, cut: float | None) -> bool:
        """As `check_names`. A power cut of the directory, the latest of which was at `cut`, begins the history anew:
        what it took, nobody knows."""
        since = -math.inf if cut is None else cut
        ops = [op._replace(answer=None) if _is_in_doubt(op, since) else op for op in self.ops if _may_last(op, since)]
        of_mark = [op for op in ops if MARK in op.names]
        of_names = [op for op in ops if MARK not in op.names]
        found = check_names(of_names, NAMES, ABSENT if cut is None else UNKNOWN), check_names(of_mark, (MARK,), UNKNOWN)
        return all(found)


def _may_last(op: NameOp, since: float) -> bool:
    """Whether it may happen after `since`, or has."""
    return op.ended > since or op.answer is None


def _is_in_doubt(op: NameOp, since: float) -> bool:
    """Whether its answer may be of what was taken; clients go on for a lease with what they were promised of that."""
    return op.began <= since + (LEASE_S if op.kind in READS else 0.0)
