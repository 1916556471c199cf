"""The commits of one client that have happened lately, so that the index of its cache can be told when there is time.

An index row names the commit that was tried; that it has succeeded is written there within seconds, many rows at once.
A client that is killed before leaves a row that seems unsent. The directory knows better, unless another client has
removed the file meanwhile, or replaced it: with the file its history is gone. So each success is noted here at once,
which costs one write of 16 bytes and no transaction.

    the file    a ring of commit ids, the latest PLACES of them; a killed process loses none

PLACES is far more than the index lags behind. Where an id is missing all the same, as the disk was full, the directory
is asked.

Threads: `note` may be called by any number of them.
"""

import contextlib
import itertools
import os
from pathlib import Path

from dfsfuse.messages import COMMIT_ID_BYTES

PLACES = 4096


class DoneCommits:
    """`before` are those of the client that used the file before, which this one writes over."""

    def __init__(self, path: Path):
        self.before = done_in(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._turn = itertools.count()

    def close(self) -> None:
        os.close(self._fd)

    def note(self, commit_id: bytes) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, commit_id, next(self._turn) % PLACES * COMMIT_ID_BYTES)


def done_in(path: Path) -> frozenset[bytes]:
    """The commit ids in the file of a client that may be running; none where there is no file."""
    try:
        data = path.read_bytes()
    except OSError:
        return frozenset()
    return frozenset(data[at : at + COMMIT_ID_BYTES] for at in range(0, len(data), COMMIT_ID_BYTES))
