"""How much a client has sent so far, in a file of its folder: who waits for its uploads sees that they go on.

Threads: several may add; who reads it is another process.
"""

import contextlib
import os
from pathlib import Path

NAME = "sent"
_BYTES = 8


class SentBytes:
    """From zero, in the client's folder."""

    def __init__(self, folder: Path):
        self._fd = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.tell(0)

    def close(self) -> None:
        os.close(self._fd)

    def tell(self, total: int) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, total.to_bytes(_BYTES, "little"), 0)


def sent_in(folder: Path) -> int:
    """What the client of this folder has sent; 0 where nobody knows."""
    try:
        return int.from_bytes((folder / NAME).read_bytes()[:_BYTES], "little")
    except OSError:
        return 0
