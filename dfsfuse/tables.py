"""What commands print: tables for people, JSON for programs, complaints, and names whatever bytes they are made of.

Names are bytes: they are printed as they are (UTF-8 with surrogateescape). In tables and complaints what is not
printable is escaped with a backslash, so that no name can break a line or drive a terminal. In JSON a name that is not
printable UTF-8 is "hex:" and its hex digits, as everywhere in the system (messages.py).
"""

import datetime
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

_BATCH = 1000


def use_bytes_of_names() -> None:
    """From now on what is printed carries the bytes of names unchanged."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def write(text: str) -> None:
    """To standard output as it is."""
    sys.stdout.write(text)


def write_line(line: str) -> None:
    sys.stdout.write(line + "\n")


def write_progress(line: str) -> None:
    """A line that somebody waits for, also behind a pipe."""
    write_line(line)
    sys.stdout.flush()


def write_bytes(data: bytes | memoryview) -> None:
    """To standard output, after what was printed before."""
    sys.stdout.flush()
    left = memoryview(data)
    # Under PYTHONUNBUFFERED this is the bare file, which may take a part.
    while left:
        left = left[sys.stdout.buffer.write(left) :]


def complain(message: object) -> None:
    """One line on standard error."""
    sys.stdout.flush()
    sys.stderr.write(f"dfs: {_printable(' '.join(str(message).split()))}\n")
    sys.stderr.flush()


def write_table(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> None:
    """Columns as wide as their content; those named in `right` are aligned to the right. No rows: no table.

    Rows are taken _BATCH at a time, so a listing of any length takes little memory.
    """
    to_right = [title in set(right) for title in titles]
    source, widths = iter(rows), [0] * len(titles)
    head: list[Sequence[str]] = [titles] if any(titles) else []
    while batch := list(islice(source, _BATCH)):
        batch, head = head + batch, []
        widths = [max(width, *map(len, column)) for width, column in zip(widths, zip(*batch, strict=True), strict=True)]
        for row in batch:
            write_line(_aligned(row, widths, to_right))


def _aligned(row: Sequence[str], widths: list[int], to_right: list[bool]) -> str:
    cells = zip(row, widths, to_right, strict=True)
    return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip()


def write_json(value: Any) -> None:
    write_line(json.dumps(value, indent=2, ensure_ascii=False))


def write_json_list(values: Iterable[Any]) -> None:
    """A JSON array, one element a line, printed while it is made."""
    write("[")
    for count, value in enumerate(values):
        write((",\n " if count else "\n ") + json.dumps(value, ensure_ascii=False))
    write("\n]\n")


# -- values for people


def text_of(name: bytes) -> str:
    """The name as text that carries its bytes."""
    return name.decode(errors="surrogateescape")


def shown(name: bytes | str) -> str:
    """A name on one line: what is not printable, and the backslash, escaped with a backslash."""
    text = text_of(name) if isinstance(name, bytes) else name
    return _printable(text.replace("\\", "\\\\"))


def _printable(text: str) -> str:
    return "".join(_escaped(text))


def _escaped(text: str) -> Iterator[str]:
    for character in text:
        is_raw_byte = "\udc80" <= character <= "\udcff"
        keep = character.isprintable() or is_raw_byte
        yield character if keep else character.encode("unicode_escape").decode()


def count_text(count: int, what: str, whats: str = "") -> str:
    """A number of things, in the singular where it is one."""
    return f"{count} {what if count == 1 else whats or what + 's'}"


def age_text(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def time_text(time_ns: int) -> str:
    """Local time, to the second."""
    try:
        return datetime.datetime.fromtimestamp(time_ns // 10**9).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{time_ns / 1e9:.0f} s"


def yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
