"""Folders in which programs open what they look up."""

from dfsfuse.following import Following
from dfsfuse.places import Place

_HERE: Place = (1, ())
_THERE: Place = (2, ())


def followed(opens: int = 2) -> Following:
    made = Following()
    for ino in range(10, 10 + opens):
        made.looked(_HERE, ino)
        made.opened(ino)
    return made


def test_two_opens_after_looks_make_it_likely() -> None:
    """Goal: one may be chance; and what happens in one folder says nothing of another."""
    assert not followed(1).expects(_HERE)
    assert followed(2).expects(_HERE)
    assert not followed(2).expects(_THERE)


def test_looks_that_no_open_follows_end_it() -> None:
    """Goal: two files may be looked up beside those that are opened; with the third it is over, until files are opened
    again."""
    made = followed()
    for ino in (1, 2):
        made.looked(_HERE, ino)
        assert made.expects(_HERE)
    made.looked(_HERE, 3)
    assert not made.expects(_HERE)
    made.looked(_HERE, 4)
    made.opened(4)
    made.looked(_HERE, 5)
    made.opened(5)
    assert made.expects(_HERE)


def test_opens_of_what_was_not_looked_up_say_nothing() -> None:
    """Goal: only an open that has followed a look counts, once."""
    made = Following()
    made.looked(_HERE, 1)
    for _ in range(5):
        made.opened(1)
        made.opened(7)
    assert not made.expects(_HERE)


def test_it_is_bounded() -> None:
    """Goal: neither files nor folders that are looked up make it grow for ever; those that are used stay."""
    made = followed()
    for number in range(10_000):
        made.looked((number + 100, ()), number + 1000)
        if number % 10 == 0:
            made.looked(_HERE, -2)
            made.opened(-2)
    assert len(made._folders) <= 64
    assert len(made._looked) <= 256
    assert made.expects(_HERE)
