"""What tells one disk of a file server from another, and one start from the next.

home/store_id   a random id, made with the home: by it a new disk is told from one that has what it had
home/start      the start number, raised at each start: the high part of receipt numbers (receipts.py)
"""

import os
import pathlib
import secrets

from servers.chunk_files import sync_path


def store_id(home: pathlib.Path) -> str:
    """Random, made with the home."""
    path = home / "store_id"
    if not path.exists():
        _write_durably(path, secrets.token_hex(16))
    return path.read_text().strip()


def raise_start_number(home: pathlib.Path, least: int = 0) -> int:
    """The number of this start, on disk before it is used: that of the start before and one, or `least`."""
    path = home / "start"
    before = int(path.read_text()) if path.exists() else 0
    number = max(before, least) if least else before + 1
    _write_durably(path, str(number))
    return number


def _write_durably(path: pathlib.Path, text: str) -> None:
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    sync_path(str(path.parent), os.fsync)
