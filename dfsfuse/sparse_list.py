"""A list that is mostly holes: runs of holes take no room, however long they are. Pure.

What is no hole is kept in runs, each a plain list with the index of its first item. So a list without holes is one run,
as quick to copy as the plain list; and what a list costs, in memory and in time, follows from what it holds, never from
how long it is. Walks go over what it holds: a list is no iterable, as going over all of it would take for ever.

Not thread-safe: its owner locks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import compress
from typing import ClassVar, Generic, Self, TypeVar

T = TypeVar("T")


class SparseList(Generic[T]):
    """`hole` is what is at an index without an item; it is false, and no other item is."""

    __slots__ = ("_count", "_firsts", "_runs")
    __iter__ = None
    hole: ClassVar

    def __init__(self, items: Iterable[T] = (), count: int = 0):
        """These items, and holes up to `count`."""
        self._count = 0
        self._firsts: list[int] = []
        self._runs: list[list[T]] = []
        self.extend(items)
        self._count = max(self._count, count)

    @classmethod
    def of_runs(cls, runs: Iterable[tuple[int, list[T]]]) -> Self:
        """As `runs` has given them; it ends with the last."""
        made = cls()
        for first, run in runs:
            made._count = first
            made.extend(run)
        return made

    # -- one item

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> T:
        """Raises IndexError; counting from the end, as plain lists do, is not offered."""
        at = self._run_of(index)
        return self._runs[at][index - self._firsts[at]] if at >= 0 else self.hole

    def __setitem__(self, index: int, item: T) -> None:
        at = self._run_of(index)
        if at < 0:
            if item:
                self._fill(index, item)
        elif item:
            self._runs[at][index - self._firsts[at]] = item
        else:
            self._empty(at, index)

    def _run_of(self, index: int) -> int:
        """Which run has the item; -1 for a hole."""
        if not 0 <= index < self._count:
            raise IndexError(f"{index} of {self._count}")
        at = bisect_right(self._firsts, index) - 1
        return at if at >= 0 and index - self._firsts[at] < len(self._runs[at]) else -1

    def _fill(self, index: int, item: T) -> None:
        """Runs that touch become one."""
        at = bisect_right(self._firsts, index)
        joins = at > 0 and self._firsts[at - 1] + len(self._runs[at - 1]) == index
        if joins:
            at -= 1
            self._runs[at].append(item)
        else:
            self._firsts.insert(at, index)
            self._runs.insert(at, [item])
        if at + 1 < len(self._runs) and self._firsts[at + 1] == index + 1:
            self._runs[at] += self._runs.pop(at + 1)
            del self._firsts[at + 1]

    def _empty(self, at: int, index: int) -> None:
        first, run = self._firsts[at], self._runs[at]
        parts = [(first, run[: index - first]), (index + 1, run[index - first + 1 :])]
        parts = [part for part in parts if part[1]]
        self._firsts[at : at + 1] = [begin for begin, _ in parts]
        self._runs[at : at + 1] = [rest for _, rest in parts]

    # -- the whole

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseList):
            return NotImplemented
        return (self._count, self._firsts, self._runs) == (other._count, other._firsts, other._runs)

    __hash__ = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.runs())}, count={self._count})"

    def copy(self) -> Self:
        made = type(self)()
        made._count, made._firsts, made._runs = self._count, self._firsts[:], [run[:] for run in self._runs]
        return made

    def fit(self, count: int) -> Self:
        """Cut to `count`, or grown to it by holes."""
        if count < self._count:
            after = bisect_left(self._firsts, count)
            del self._firsts[after:], self._runs[after:]
            if after:
                del self._runs[-1][count - self._firsts[-1] :]
        self._count = count
        return self

    def extend(self, items: Iterable[T]) -> None:
        plain, begin = list(items), self._count
        for first, end in _runs_in(plain):
            self._count = begin + first
            self._append_run(plain[first:end])
        self._count = begin + len(plain)

    def _append_run(self, run: list[T]) -> None:
        if self._runs and self._firsts[-1] + len(self._runs[-1]) == self._count:
            self._runs[-1] += run
        else:
            self._firsts.append(self._count)
            self._runs.append(run)

    # -- what it holds

    def runs(self) -> list[tuple[int, list[T]]]:
        """(index of the first, items) of each run: not to be changed."""
        return list(zip(self._firsts, self._runs, strict=True))

    def items(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, T]]:
        """(index, item) of all that are no holes, in [first, last). It is not changed meanwhile, but by `[]` at the
        index that was just given, which stays no hole."""
        last = self._count if last is None else last
        for at in range(max(0, bisect_right(self._firsts, first) - 1), len(self._runs)):
            begin, run = self._firsts[at], self._runs[at]
            if begin >= last:
                return
            for index in range(max(first, begin), min(last, begin + len(run))):
                yield index, run[index - begin]

    def values(self) -> Iterator[T]:
        """All that are no holes."""
        for run in self._runs:
            yield from run

    def holes(self) -> Iterator[tuple[int, int]]:
        """The runs of holes, [first, last)."""
        begin = 0
        for first, run in zip(self._firsts, self._runs, strict=True):
            if begin < first:
                yield begin, first
            begin = first + len(run)
        if begin < self._count:
            yield begin, self._count

    def following(self, index: int) -> int:
        """The first index from `index` on that is no hole; the length where there is none."""
        at = bisect_right(self._firsts, index) - 1
        if at >= 0 and index - self._firsts[at] < len(self._runs[at]):
            return index
        return self._firsts[at + 1] if at + 1 < len(self._firsts) else self._count

    def part(self, first: int, last: int) -> list[T]:
        """The plain list of [first, last), without the holes at its end."""
        found: list[T] = []
        for at in range(max(0, bisect_right(self._firsts, first) - 1), bisect_left(self._firsts, last)):
            begin = self._firsts[at]
            items = self._runs[at][max(0, first - begin) : last - begin]
            if items:
                found += [self.hole] * (max(first, begin) - first - len(found))
                found += items
        return found


def indexes_of(*lists: SparseList) -> list[int]:
    """Indexes at which any of these is no hole, in order."""
    return sorted({index for one in lists for index, _ in one.items()})


def _runs_in(items: list) -> Iterator[tuple[int, int]]:
    """Where items are no holes: [first, end) of each run. What is done for each hole is done in C."""
    held = range(len(items)) if all(items) else list(compress(range(len(items)), items))
    ends = [at for at in range(1, len(held)) if held[at] > held[at - 1] + 1] if len(held) < len(items) else []
    for at, end in zip([0, *ends], [*ends, len(held)], strict=True) if held else ():
        yield held[at], held[end - 1] + 1
