"""dfs check: is everything in the volume as it must be, on the directory and on every file server?

The metadata is checked by the directory, on a snapshot. Chunks are compared while the volume is in use: what looks
wrong is looked at again, against the newest state of all who know of it, before it is told.
"""

import argparse
import contextlib
from collections.abc import Iterable
from typing import Any

from dfsfuse import errors, tables
from dfsfuse.commands.chunk_check import ChunkCheck
from dfsfuse.commands.reach import Metadata, line_of, metadata
from dfsfuse.commands.surveys import survey
from dfsfuse.messages import Check, Checked, Mend, Mended, Problem, bytes_as_text
from dfsfuse.tables import count_text, shown

_CLEAN, _PROBLEMS, _UNCHECKED = 0, 1, 2
_ROUNDS = 4
"""Of repairing: one repair may show what is to be repaired next."""
_MENDED_AT_ONCE = 100
_TRIES = 3


class Result:
    """All that one check has found."""

    def __init__(self, asked: Metadata, read: bool):
        pages = _pages(asked)
        self.rows = sum(page.looked for page in pages)
        self.problems = [problem for page in pages for problem in page.problems]
        self.chunks = ChunkCheck(asked, read)
        self.chunks.run()
        self.problems += self.chunks.problems

    @property
    def status(self) -> int:
        return _PROBLEMS if self.problems else _UNCHECKED if self.chunks.silent else _CLEAN


def _pages(asked: Metadata) -> list[Checked]:
    """What the directory finds. One that starts again meanwhile has lost its place, so it begins anew."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(errors.NotFound):
            return list(survey(asked, "check", Check, Checked))
    return list(survey(asked, "check", Check, Checked))


def check(arguments: argparse.Namespace) -> int:
    """0: clean; 1: problems; 2: some of it could not be checked."""
    try:
        with metadata(arguments) as asked:
            result = Result(asked, not arguments.quick)
            repaired = _repair(asked, result, arguments) if arguments.repair else None
    except (errors.DfsError, OSError) as error:
        tables.complain(f"could not be checked: {line_of(error)}")
        return _UNCHECKED
    _tell(result, repaired, arguments)
    return (repaired or result).status


def _repair(asked: Metadata, result: Result, arguments: argparse.Namespace) -> Result:
    """Until there is nothing left that can be repaired; what there is then."""
    for _ in range(_ROUNDS):
        if not any(_mend(asked, [problem for problem in result.problems if problem.mend])):
            break
        result = Result(asked, not arguments.quick)
    return result


def _mend(asked: Metadata, problems: list[Problem]) -> Iterable[bool]:
    changed: list[bool] = []
    for at in range(0, len(problems), _MENDED_AT_ONCE):
        reply: Mended = asked.ask("mend", Mend(problems[at : at + _MENDED_AT_ONCE]), Mended)
        changed += reply.changed
    return changed


# -- what is told


def _tell(result: Result, repaired: Result | None, arguments: argparse.Namespace) -> None:
    if arguments.json:
        tables.write_json({**_as_json(result), "after_repair": _as_json(repaired) if repaired else None})
        return
    _write(result, "--repair: ")
    if repaired and result.problems:
        tables.write_line("\nafter repairing:")
        _write(repaired, "still, although: ")


def _write(result: Result, before_mend: str) -> None:
    for problem in result.problems:
        place = shown(problem.path) if problem.path else f"inode {problem.ino}" if problem.ino else problem.server
        mend = f" ({before_mend}{problem.mend})" if problem.mend else ""
        tables.write_line(f"{place or 'the volume'}: {problem.what}{mend}")
    for note in result.chunks.notes():
        tables.write_line(f"note: {note}")
    for name, why in result.chunks.silent.items():
        tables.write_line(f"{name} was not checked: {why}")
    how = "read and hashed" if result.chunks.read else "looked for"
    looked = f"{count_text(result.rows, 'row')} of metadata looked at; {count_text(result.chunks.count, 'chunk')} {how}"
    found = count_text(len(result.problems), "problem") if result.problems else "nothing is wrong"
    tables.write_line(f"{looked}, on {' '.join(result.chunks.asked_servers) or 'no server'}: {found}")


def _as_json(result: Result) -> dict[str, Any]:
    chunks = result.chunks
    return {
        "problems": [
            {"kind": problem.kind, "path": bytes_as_text(problem.path), "inode": problem.ino, "server": problem.server,
             "what": problem.what, "repair": problem.mend}
            for problem in result.problems
        ],
        "rows": result.rows, "chunks": chunks.count, "read": chunks.read, "servers": chunks.asked_servers,
        "unchecked": chunks.silent, "short": chunks.short, "surplus": chunks.surplus,
    }  # fmt: skip
