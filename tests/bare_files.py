"""Files by bare descriptors, as programs have them that ask the system themselves."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def opened(file: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    handle = os.open(file, flags, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


def whole(handle: int) -> bytes:
    """All that the descriptor can read, in pieces as `cat` takes them."""
    pieces, offset = [], 0
    while piece := os.pread(handle, 128 << 10, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)
