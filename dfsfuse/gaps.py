"""Ranges of a copy that nobody has the bytes of any more: zeros, which are told wherever the copy is. Pure."""

from collections.abc import Iterable

from dfsfuse.chunks import Ranges

Gap = tuple[int, int]
"""Bytes [start, end) of the file."""

GAPS_MAX = 1000
_TOLD = 5


def merged(gaps: Iterable[Gap]) -> list[Gap]:
    """In order and apart; GAPS_MAX at most, the last of which reaches to the end of all then."""
    found = list(Ranges(gaps))
    if len(found) > GAPS_MAX:
        found[GAPS_MAX - 1 :] = [(found[GAPS_MAX - 1][0], found[-1][1])]
    return found


def as_text(gaps: list[Gap]) -> str:
    """To be added to what people are told of a copy; nothing where there are none."""
    if not gaps:
        return ""
    told = [f"{start} to {end - 1}" for start, end in gaps[:_TOLD]]
    if len(gaps) > _TOLD:
        told.append(f"{len(gaps) - _TOLD} ranges more, the last up to byte {gaps[-1][1] - 1}")
    return f"; bytes {', '.join(told)} are zeros in it, as no file server has what was there any more"
