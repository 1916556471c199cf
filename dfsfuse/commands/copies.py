"""Where the copies of files are: where and mappings."""

import argparse
import csv
import sys
from collections.abc import Iterator

from dfsfuse import tables
from dfsfuse.commands.reach import Metadata, about, metadata
from dfsfuse.messages import ListMappings, Lookup, Mappings, Whereabouts, WhereReply, bytes_as_text
from dfsfuse.tables import count_text, shown, text_of

COLUMNS = ("path", "inode", "version", "commit_id", "size", "chunks", "server", "address", "role", "state",
           "missing_chunks")  # fmt: skip


def where(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked, about(arguments.path):
        names = asked.paths.names(arguments.path)
        found: WhereReply = asked.ask("where", Lookup(names=list(names)), WhereReply)
    if arguments.json:
        tables.write_json(_as_json(found))
        return 0
    known = found.attributes
    rows = [["path", shown(path)] for path in _paths(found)]
    rows += [["inode", str(known.ino)], ["version", str(known.version)], ["commit id", known.commit_id.hex() or "-"],
             ["size", count_text(known.size, "byte")], ["chunks", str(found.chunks)]]  # fmt: skip
    tables.write_table(["", ""], rows)
    tables.write_line("")
    copies = [[copy.server, copy.url, copy.role, _state(copy), str(copy.missing_chunks)] for copy in found.copies]
    tables.write_table(["SERVER", "ADDRESS", "ROLE", "STATE", "MISSING"], copies, right=["MISSING"])
    return 0


def mappings(arguments: argparse.Namespace) -> int:
    with metadata(arguments) as asked:
        if arguments.json:
            tables.write_json_list(map(_as_json, _all(asked)))
        elif arguments.csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(
                row for found in _all(asked) for path in _paths(found) for row in _rows(found, text_of(path))
            )
        else:
            titles = ["INODE", "VERSION", "SIZE", "CHUNKS", "COPIES", "PATH"]
            rows = (_short_row(found, path) for found in _all(asked) for path in _paths(found))
            tables.write_table(titles, rows, right=titles[:4])
    return 0


def _all(asked: Metadata) -> Iterator[WhereReply]:
    """Every regular file, a page at a time."""
    after, more = 0, True
    while more:
        page: Mappings = asked.ask("mappings", ListMappings(after), Mappings)
        yield from page.rows
        more = page.more and bool(page.rows)
        after = page.rows[-1].attributes.ino if page.rows else 0


def _paths(found: WhereReply) -> list[bytes]:
    """Each name of a file; a file that was removed while a program has it open has content, and no name."""
    return found.paths or [found.path]


def _rows(found: WhereReply, path: str) -> Iterator[list[object]]:
    """One for each copy, as COLUMNS names them; one with empty ends where no file server is known."""
    known = found.attributes
    head = [path, known.ino, known.version, known.commit_id.hex(), known.size, found.chunks]
    for copy in found.copies:
        yield [*head, copy.server, copy.url, copy.role, _state(copy), copy.missing_chunks]
    if not found.copies:
        yield [*head, "", "", "", "", ""]


def _short_row(found: WhereReply, path: bytes) -> list[str]:
    known = found.attributes
    copies = " ".join(copy.server if copy.whole else f"{copy.server}(short)" for copy in found.copies)
    name = shown(path) or "(removed, still open)"
    return [str(known.ino), str(known.version), str(known.size), str(found.chunks), copies, name]


def _as_json(found: WhereReply) -> dict[str, object]:
    known = found.attributes
    return {
        "path": bytes_as_text(found.path), "paths": list(map(bytes_as_text, found.paths)), "inode": known.ino,
        "version": known.version,
        "commit_id": known.commit_id.hex(), "size": known.size, "chunks": found.chunks,
        "copies": [
            {"server": copy.server, "address": copy.url, "role": copy.role, "state": _state(copy),
             "missing_chunks": copy.missing_chunks}
            for copy in found.copies
        ],
    }  # fmt: skip


def _state(copy: Whereabouts) -> str:
    return "whole" if copy.whole else "short"
