"""Standard input, output and error of a program that was started without one of them (`>&-`), which Python has as None.

What is read or written there then fails with a word; what would be told on standard error is told nobody.
"""

import errno
import io
import os
import sys


class _Closed(io.RawIOBase):
    """A stream of which each use fails."""

    def __init__(self, name: str):
        self._name = name

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise self._error()

    def write(self, data: object) -> int:
        raise self._error()

    def _error(self) -> OSError:
        return OSError(errno.EBADF, "it is closed", self._name)


def complete() -> None:
    """From now on all three are there."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _reserve(number)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(_Closed("standard input")))
    sys.stdout = sys.stdout or io.TextIOWrapper(_Closed("standard output"), write_through=True)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _reserve(number: int) -> None:
    """No file that is opened later gets this number, under which others write."""
    taken = os.open(os.devnull, os.O_RDWR)
    if taken != number:
        os.close(taken)
