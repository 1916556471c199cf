"""The one table of errors: complete, unambiguous, and the same on both sides of the wire."""

import errno
import re

import pytest

from dfsfuse import errors
from dfsfuse.errors import BY_CODE, DfsError


def below(root: type[DfsError]) -> list[type[DfsError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in below(child))]


CLASSES = below(DfsError)


def test_every_class_is_mapped_under_a_code_of_its_own() -> None:
    """Goal: no two classes share a code, no class was forgotten, codes are the classes' names in snake case."""
    assert len({cls.code for cls in CLASSES}) == len(CLASSES) == len(BY_CODE)
    assert set(BY_CODE.values()) == set(CLASSES)
    for cls in CLASSES:
        if cls is not DfsError:
            assert cls.code == re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
            assert "code" in vars(cls)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_has_an_errno_a_status_and_a_sentence(cls: type[DfsError]) -> None:
    """Goal: each error means something to programs, to HTTP and to people."""
    assert cls.errno in errno.errorcode
    assert 400 <= cls.status < 600
    assert cls.__doc__
    assert str(cls()) == cls.__doc__


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("message", ["", "what went wrong: 'ä\n'", "x" * 5000])
def test_an_error_survives_the_wire(cls: type[DfsError], message: str) -> None:
    """Goal: class, message and detail come back as they were."""
    before = cls(message, "http://primary:1")
    after = errors.from_wire(**errors.to_wire(before))
    assert type(after) is cls
    assert (str(after), after.detail) == (str(before), before.detail)


def test_an_unknown_code_becomes_internal() -> None:
    """Goal: what a newer server says is still an error with its message."""
    error = errors.from_wire("of_the_future", "said the server", "detail")
    assert (type(error), str(error), error.detail) == (errors.Internal, "said the server", "detail")


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    """Goal: the drawing at the top of errors.py has every class, under its parent, and no other."""
    drawn: list[tuple[str, str]] = []
    path: dict[int, str] = {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"^( {4}[| ]*)(?:\+-- )?([A-Z]\w+)", line)
        if found:
            depth = (line.index(found[2]) - 4) // 4
            path[depth] = found[2]
            drawn.append((path.get(depth - 1, ""), found[2]))
    real = [(cls.__bases__[0].__name__ if cls is not DfsError else "", cls.__name__) for cls in CLASSES]
    assert sorted(drawn) == sorted(real)


@pytest.mark.parametrize(
    ("number", "cls"),
    [(errno.ENOSPC, errors.NoSpace), (errno.EDQUOT, errors.NoSpace), (errno.EIO, errors.Internal)],
)
def test_errors_of_the_local_disk(number: int, cls: type[DfsError]) -> None:
    """Goal: a full disk is NoSpace, all else Internal; the message tells what was being done."""
    error = errors.from_os_error(OSError(number, "reason"), "storing a chunk")
    assert type(error) is cls
    assert str(error) == "storing a chunk: reason"
