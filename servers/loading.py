"""`python -m servers load`: a dump becomes the database of a directory that has none, or an empty one.

It is loaded into a file beside the database, which takes its place when all of it is on the disk: what is cut off
leaves no volume, and the next attempt begins anew.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dfsfuse import errors
from dfsfuse.messages import ROOT_INO
from servers import records
from servers.load import LEAPS, Loaded, load
from servers.store import Reader
from servers.store.sqlite import SqliteStore

DATABASE = "directory.db"
_LINE_BYTES_MAX = 32 << 20


def load_file(home: Path, file: str) -> Loaded:
    """Load `file` ("-": standard input) into the directory's folder `home`, in which no directory runs. Raises
    AlreadyExists (there is a volume with something in it), BadRequest (no whole dump), NoSpace, ServerError."""
    database, new = home / DATABASE, home / f"{DATABASE}.loading"
    _refuse_volume(database)
    _remove(new)
    try:
        with sys.stdin.buffer if file == "-" else open(file, "rb") as source:
            loaded = _load_into(new, source)
        _remove(database)
        new.rename(database)
        _sync(home)
    finally:
        _remove(new)
    return loaded


def _load_into(new: Path, source: BinaryIO) -> Loaded:
    store = SqliteStore(new)
    try:
        loaded = load(store, _lines(source), 1 + secrets.randbelow(LEAPS))
        store.sync()
    finally:
        store.close()
    _sync(new)
    return loaded


def _lines(source: BinaryIO) -> Iterator[bytes]:
    while line := source.readline(_LINE_BYTES_MAX):
        yield line


def _refuse_volume(database: Path) -> None:
    if not database.exists():
        return
    try:
        store = SqliteStore(database)
        try:
            inodes = store.read(_inodes_but_the_root)
        finally:
            store.close()
    except errors.ServerError as error:
        raise errors.AlreadyExists(f"{database} is there and cannot be read ({error}); move it away first") from None
    if inodes:
        raise errors.AlreadyExists(
            f"{database} has a volume with files in it, and is not overwritten; load into another home, or move it away"
        )


def _inodes_but_the_root(tx: Reader) -> bool:
    return any(ino != ROOT_INO for ino, _ in records.inodes(tx))


def _remove(database: Path) -> None:
    """With its log: another database would take it for its own."""
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
