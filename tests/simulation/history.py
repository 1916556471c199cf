"""What programs did and saw, and which promises (docs/SEMANTICS.md) that breaks. Pure.

    Files   versions of tables and records of logs: S2, S3, S4, S12, and what S10 lets a power cut take
    Names   operations on a few names that all clients share: S1, by search for an order that explains all answers

Times are the simulation's. A version is *certain* for an open if its close() had returned 0 before the open began, and
no power cut may have taken it since.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Violation(BaseException):
    """A promise is broken. Not an Exception: nothing on the way catches it."""


@dataclasses.dataclass
class Write:
    """One version of a table, or one record of a log, as its program knows it: `began` when its open was called,
    `returned` when close() or fsync() had an outcome, `acked` when that was 0. `forgotten`: a power cut may have taken
    it, or its client does not come back."""

    number: int
    file: str
    client: str
    began: float
    base: int = 0
    returned: float | None = None
    acked: float | None = None
    durable: bool = False
    forgotten: bool = False


class Files:
    """All writes of a run. `shared`: files that several programs of one client write at the same time, so that one's
    close() may have sent what another has written."""

    def __init__(self, shared: tuple[str, ...]) -> None:
        self._shared = shared
        self.writes: dict[int, Write] = {}
        self._acked: dict[str, list[Write]] = {}

    def begin(self, file: str, client: str, now: float, base: int = 0, began: float | None = None) -> Write:
        number = len(self.writes) + 1
        write = self.writes[number] = Write(number, file, client, now if began is None else began, base)
        return write

    def acked(self, write: Write, now: float, durable: bool) -> None:
        write.returned = write.acked = now
        write.durable = durable
        self._acked.setdefault(write.file, []).append(write)

    def power_cut(self, since: float) -> None:
        """Of everything at once, or of the directory: what was not fsynced and is younger may be gone. When something
        was sent whose close() had failed, nobody knows."""
        for write in self.writes.values():
            if write.durable or (write.returned is None and write.file not in self._shared):
                continue
            if write.acked is None or write.acked > since:
                write.forgotten = True

    def _certain(self, file: str, before: float) -> Iterator[Write]:
        return (w for w in self._acked.get(file, ()) if w.acked < before and not w.forgotten)

    # -- tables

    def saw_table(self, file: str, number: int, began: float, who: str) -> None:
        """A program has opened a table at `began` and read version `number`."""
        if number not in self.writes:
            raise Violation(f"S3: {who} read version {number} of {file}, which nobody has written")
        for write in self._certain(file, began):
            if not self.includes(number, write):
                raise Violation(
                    f"S2: {who} opened {file} at {began:.3f} and read version {number}, which lacks version "
                    f"{write.number} of {write.client}, closed with success at {write.acked:.3f}"
                )

    def includes(self, number: int, write: Write) -> bool:
        """Was the version made from that write, or may it have come after without reading?"""
        while True:
            if number == write.number:
                return True
            seen = self.writes[number]
            if not seen.base:
                return seen.acked is None or seen.acked > write.began
            number = seen.base

    # -- logs

    def saw_log(self, file: str, numbers: list[int], began: float, who: str) -> None:
        known = set(numbers)
        if len(known) != len(numbers):
            twice = sorted({number for number in numbers if numbers.count(number) > 1})
            raise Violation(f"S12: {who} read records {twice} of {file} twice")
        for write in self._certain(file, began):
            if write.number not in known:
                raise Violation(
                    f"S12: {who} opened {file} at {began:.3f} and missed record {write.number} of {write.client}, "
                    f"closed with success at {write.acked:.3f}"
                )

    # -- the end

    def nothing_is_lost(self, tables: dict[str, list[int]], records: dict[str, set[int]]) -> None:
        """`tables`, `records`: what all files and all copies of them have in the end. What a program has closed, with
        or without success, is in one of them."""
        for write in self.writes.values():
            if write.returned is None or write.forgotten:
                continue
            if write.file in records:
                kept = write.number in records[write.file]
            else:
                kept = any(self.includes(number, write) for number in tables[write.file])
            if not kept:
                outcome = "success" if write.acked is not None else "an error"
                raise Violation(
                    f"S4: write {write.number} of {write.client} to {write.file}, closed with {outcome} at "
                    f"{write.returned:.3f}, is neither in the file nor in a copy of it"
                )


class NameOp(NamedTuple):
    """`kind` is make, remove, rename or list; `answer` is ok, exists, missing, the names that were listed, or None: no
    answer, so it may have happened at any time since, or not at all."""

    kind: str
    names: tuple[str, ...]
    began: float
    ended: float
    answer: str | frozenset[str] | None
    who: str = ""


State = frozenset[str]


def _after(op: NameOp, state: State) -> Iterator[State]:
    """The states that the operation may leave if it happens in `state` and is answered as it was."""
    for answer, left in _outcomes(op, state):
        if op.answer is None or op.answer == answer:
            yield left


def _outcomes(op: NameOp, state: State) -> Iterator[tuple[str | State, State]]:
    name = op.names[0] if op.names else ""
    if op.kind == "list":
        yield state, state
    elif op.kind == "make":
        yield ("exists", state) if name in state else ("ok", state | {name})
    elif op.kind == "remove":
        yield ("ok", state - {name}) if name in state else ("missing", state)
    elif name not in state:
        yield "missing", state
    elif op.names[1] in state:
        yield "exists", state
    else:
        yield "ok", state - {name} | {op.names[1]}


SEARCH_MAX = 20_000


def check_names(ops: Iterable[NameOp], starts: Iterable[State]) -> bool:
    """Raises Violation if no order of the operations explains every answer, from any state of `starts`; False if the
    search was given up."""
    ordered = sorted(ops, key=lambda op: op.began)
    budget = [SEARCH_MAX]
    for start in starts:
        if _explains(ordered, start, budget):
            return True
        if not budget[0]:
            return False
    told = "\n".join(f"  {op.began:.3f}-{op.ended:.3f} {op.who} {op.kind} {op.names} -> {op.answer}" for op in ordered)
    raise Violation(f"S1: no order of these operations on names explains their answers:\n{told}")


def _explains(ops: list[NameOp], start: State, budget: list[int]) -> bool:
    """Depth first over (which are done, state); an answered operation comes before all that began after its end."""
    everything = sum(1 << i for i, op in enumerate(ops) if op.answer is not None)
    seen: set[tuple[int, State]] = set()
    stack = [(0, start)]
    while stack:
        done, state = stack.pop()
        if done & everything == everything:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        budget[0] -= 1
        if not budget[0]:
            return False
        first_end = min(op.ended for i, op in enumerate(ops) if not done >> i & 1 and op.answer is not None)
        for i, op in enumerate(ops):
            if not done >> i & 1 and op.began <= first_end:
                stack.extend((done | 1 << i, left) for left in _after(op, state))
    return False
