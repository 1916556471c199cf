"""What programs did and saw, and which promises (docs/SEMANTICS.md) that breaks. Pure.

    Files   versions of tables and records of logs: S2, S3, S4, S12, and what S10 lets a power cut take

What they did with names that all clients share is in orders.py.

Times are the simulation's. A version is *certain* for an open if its close() had returned 0 before the open began, and
no power cut may have taken it since.
"""

import dataclasses
from collections.abc import Collection, Iterator


class Violation(BaseException):
    """A promise is broken. Not an Exception: nothing on the way catches it."""


@dataclasses.dataclass
class Write:
    """One version of a table, or one record of a log, as its program knows it: `began` when its open was called,
    `returned` when close() or fsync() had an outcome, `acked` when one was 0, of whomever. `ino`: the inode that was
    flushed. `durable`: it was fsynced, and is `spared` by a power cut that would have taken it else. `forgotten`: one
    may have taken it, or its client does not come back."""

    number: int
    file: str
    client: str
    began: float
    base: int = 0
    returned: float | None = None
    acked: float | None = None
    durable: bool = False
    spared: bool = False
    forgotten: bool = False
    ino: int = 0


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
        write.returned = now
        if durable:
            self.fsynced([write.number], now)
        elif write.acked is None:
            self._ack(write, now)

    def fsynced(self, numbers: Collection[int], now: float) -> None:
        """A program has read these through a descriptor of which fsync() has returned 0 since. What a power cut had
        taken is there again."""
        for write in map(self.writes.__getitem__, numbers):
            if write.acked is None or write.forgotten:
                self._ack(write, now)
            write.spared = write.spared or write.forgotten
            write.durable, write.forgotten = True, False

    def _ack(self, write: Write, now: float) -> None:
        if write.acked is None:
            self._acked.setdefault(write.file, []).append(write)
        write.acked = now

    def power_cut(self, since: float, committed: Collection[int] = ()) -> None:
        """Of everything at once, or of the directory: what was not fsynced and is younger may be gone. When something
        was sent whose close() had failed, nobody knows. `committed`: inodes that were committed since; the answer may
        still be on its way."""
        for write in self.writes.values():
            under_way = write.returned is None and write.file not in self._shared
            write.spared = write.spared or (write.durable and write.acked > since)
            if write.durable or under_way and write.ino not in committed:
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
        made_from, first = self._made_from(number)
        for write in self._certain(file, began):
            if write.number not in made_from and not _may_follow(first, write):
                raise Violation(
                    f"{_promise(write, 'S2')}: {who} opened {file} at {began:.3f} and read version {number}, which "
                    f"lacks version {write.number} of {write.client}, closed with success at {write.acked:.3f}"
                )

    def includes(self, number: int, write: Write) -> bool:
        """Was the version made from that write, or may it have come after without reading?"""
        made_from, first = self._made_from(number)
        return write.number in made_from or _may_follow(first, write)

    def _made_from(self, number: int) -> tuple[set[int], Write]:
        """(the version and all that it was made from, the first of them, which was written without reading)"""
        found, seen = {number}, self.writes[number]
        while seen.base:
            found.add(seen.base)
            seen = self.writes[seen.base]
        return found, seen

    # -- logs

    def saw_log(self, file: str, numbers: list[int], began: float, who: str) -> None:
        known = set(numbers)
        if len(known) != len(numbers):
            twice = sorted({number for number in numbers if numbers.count(number) > 1})
            raise Violation(f"S12: {who} read records {twice} of {file} twice")
        for write in self._certain(file, began):
            if write.number not in known:
                raise Violation(
                    f"{_promise(write, 'S12')}: {who} opened {file} at {began:.3f} and missed record {write.number} of "
                    f"{write.client}, closed with success at {write.acked:.3f}"
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


def _promise(write: Write, otherwise: str) -> str:
    """Which one is broken where the write is not seen."""
    return "S10" if write.spared else otherwise


def _may_follow(first: Write, write: Write) -> bool:
    return first.acked is None or first.acked > write.began
