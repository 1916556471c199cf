"""What commands have in common in reading their arguments: numbers as people type them, and errors in words.

Imported before anything heavy, so that misuse is answered at once.
"""

import argparse
from typing import NoReturn

_UNITS = "KMGT"
_RANGE = "from 1 to 2^63 - 1"


class Parser(argparse.ArgumentParser):
    """What a command does not know is an error of that command, with its own usage, and not of the program above it."""

    def parse_known_args(self, args=None, namespace=None):  # noqa: ANN001, ANN201, the names are argparse's
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def path(text: str) -> str:
    """Of a file, a folder or a mountpoint, or an address: an unset variable of a script must not become a default."""
    if not text:
        _refuse("it is empty, and names nothing")
    return text


def seconds(text: str) -> float:
    return _seconds(text, 0.0, "a number of seconds, up to a million, such as 10")


def timeout(text: str) -> float:
    return _seconds(text, 0.1, "a number of seconds, from 0.1 to a million")


def _seconds(text: str, least: float, wanted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= 1e6:
        _refuse(f"{text!r} is not {wanted}")
    return number


def size(text: str) -> int:
    """Bytes, 1 or more; K, M, G and T are powers of 1024."""
    return _counted(text, f"a number of bytes, {_RANGE}, such as 4096, 500M or 10G")


def size_or_zero(text: str) -> int:
    """As `size`, and 0."""
    return _counted(text, "a number of bytes, from 0 to 2^63 - 1, such as 0, 500M or 10G", least=0)


def count(text: str) -> int:
    return _counted(text, f"a number {_RANGE}, such as 50000 or 100K")


def limit(text: str) -> int:
    """0 for no limit, as the directory has it."""
    return 0 if text == "none" else _counted(text, f"a limit: a number {_RANGE}, such as 500M, or none")


def _counted(text: str, wanted: str, least: int = 1) -> int:
    unit = _UNITS.find(text[-1:].upper()) + 1 if text else 0
    digits = text[:-1] if unit else text
    number = int(digits) << 10 * unit if digits.isascii() and digits.isdecimal() and len(digits) < 20 else -1
    if not least <= number < 1 << 63:
        _refuse(f"{text!r} is not {wanted}")
    return number


def _refuse(why: str) -> NoReturn:
    raise argparse.ArgumentTypeError(why)
