"""Is there an order of operations on names that explains what each was answered? Pure.

A name leads nowhere, to a folder, or to a file, which is known by the number of the one who has written it. What a
power cut may have taken nobody knows: the names are UNKNOWN then, until an answer tells.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

from simulation.history import Violation

ABSENT, FOLDER, UNKNOWN, SOME_FILE = 0, -1, -2, -3
"""What a name leads to; a file is its number, from 1 on. SOME_FILE: which one is not known."""
_ANYTHING = (ABSENT, FOLDER, SOME_FILE)

Value = int
State = tuple[Value, ...]
Answer = str | int | frozenset[str]


class NameOp(NamedTuple):
    """`answer` is None where there was none: so it may have happened at any time since `began`, or not at all.

    make      a folder                                          ok, exists
    put       a file, `value`, in the place of another or none  ok, folder
    rename    where the new name must be free                   ok, missing, exists
    exchange  two names                                         ok, missing
    rmdir     a folder                                          ok, missing, file
    unlink    a file                                            ok, missing, folder
    see       what the name leads to                            that
    list      all names                                         those that are there
    """

    kind: str
    names: tuple[str, ...]
    began: float
    ended: float
    answer: Answer | None
    who: str = ""
    value: Value = 0


READS = ("see", "list")
SEARCH_MAX = 20_000


def check_names(ops: Iterable[NameOp], names: tuple[str, ...], start: Value = ABSENT) -> bool:
    """Raises Violation if no order of the operations explains every answer, from where each name is as `start` says;
    False if the search was given up."""
    ordered = sorted((op for op in ops if op.answer is not None or op.kind not in READS), key=lambda op: op.began)
    explained = _Search(ordered, names).explains((start,) * len(names))
    if explained is not False:
        return explained is True
    told = "\n".join(
        f"  {op.began:.3f}-{op.ended:.3f} {op.who} {op.kind} {op.names}{f' {op.value}' * bool(op.value)} -> {op.answer}"
        for op in ordered
    )
    raise Violation(f"S1: no order of these operations on names explains their answers:\n{told}")


class _Search:
    """Depth first over (which are done, state); an answered operation comes before all that began after its end."""

    def __init__(self, ops: list[NameOp], names: tuple[str, ...]):
        self._ops, self._names = ops, names
        self._places = [tuple(map(names.index, op.names)) for op in ops]
        self._answered = sum(1 << i for i, op in enumerate(ops) if op.answer is not None)
        self._afters: dict[tuple[int, State], list[State]] = {}

    def explains(self, start: State) -> bool | None:
        """None: the search was given up."""
        seen: set[tuple[int, State]] = set()
        stack = [(0, start)]
        while stack:
            if len(seen) == SEARCH_MAX:
                return None
            done, state = here = stack.pop()
            if done & self._answered == self._answered:
                return True
            if here not in seen:
                seen.add(here)
                stack += self._next(done, state)
        return False

    def _next(self, done: int, state: State) -> list[tuple[int, State]]:
        """What has told of names, or was refused, is taken at once where it fits: later it would explain no more."""
        first_end = min(op.ended for i, op in enumerate(self._ops) if not done >> i & 1 and op.answer is not None)
        found: list[tuple[int, State]] = []
        for i, op in enumerate(self._ops):
            if op.began > first_end:
                break
            if done >> i & 1:
                continue
            states = self._after(i, state)
            if states == [state] and op.answer is not None and (op.kind in READS or op.answer != "ok"):
                return [(done | 1 << i, state)]
            found.extend((done | 1 << i, left) for left in states)
        return found

    def _after(self, i: int, state: State) -> list[State]:
        """The states that the operation may leave if it happens in `state` and is answered as it was."""
        known = self._afters.get((i, state))
        if known is None:
            op, places = self._ops[i], self._places[i] or tuple(range(len(state)))
            known = self._afters[i, state] = [
                left
                for bound in _bound(state, places)
                for answer, left in (self._outcome(op, places, bound),)
                if op.answer in (None, answer)
            ]
        return known

    def _outcome(self, op: NameOp, places: tuple[int, ...], state: State) -> tuple[Answer, State]:
        if op.kind == "list":
            return frozenset(n for n, value in zip(self._names, state, strict=True) if value != ABSENT), state
        here = state[places[0]]
        if op.kind == "see":
            told = op.answer if here == SOME_FILE and isinstance(op.answer, int) and op.answer > 0 else here
            return told, _with(state, places, told)
        answer, values = _change(op, here, state[places[-1]])
        return answer, _with(state, places, *values)


def _change(op: NameOp, here: Value, there: Value) -> tuple[str, tuple[Value, ...]]:
    """(answer, what its names lead to then); nothing where that stays as it is."""
    if op.kind == "make":
        return ("ok", (FOLDER,)) if here == ABSENT else ("exists", ())
    if op.kind == "put":
        return ("ok", (op.value,)) if here != FOLDER else ("folder", ())
    if here == ABSENT or op.kind == "exchange" and there == ABSENT:
        return "missing", ()
    if op.kind == "exchange":
        return "ok", (there, here)
    if op.kind == "rename":
        return ("ok", (ABSENT, here)) if there == ABSENT else ("exists", ())
    if (op.kind == "rmdir") != (here == FOLDER):
        return ("folder" if here == FOLDER else "file"), ()
    return "ok", (ABSENT,)


def _with(state: State, places: tuple[int, ...], *values: Value) -> State:
    changed = list(state)
    for at, value in zip(places, values, strict=False):
        changed[at] = value
    return tuple(changed)


def _bound(state: State, places: tuple[int, ...]) -> Iterator[State]:
    """All that it may be, where these names matter."""
    unknown = tuple(at for at in places if state[at] == UNKNOWN)
    return (_with(state, unknown, *values) for values in product(_ANYTHING, repeat=len(unknown)))
