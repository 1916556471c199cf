"""What a change will touch, before it is made: the inodes whose attributes, content or entries others may have been
promised. Pure over a transaction; writes nothing.

A change that will be refused touches what it would, or nothing: being told too much costs a question, no more. That all
is found that a change writes is a test (test_touched.py).
"""

from collections.abc import Callable
from typing import Any

from dfsfuse import errors, messages
from dfsfuse.messages import Message
from servers import records
from servers.promises import Touch
from servers.records import entry_key
from servers.store import Transaction
from servers.tree import resolve

_BESIDE_MAX = 256


def touched(tx: Transaction, request: Message) -> list[Touch]:
    find = _FINDERS.get(type(request))
    if find is None:
        return []
    try:
        return find(tx, request)
    except errors.DfsError:
        return []


def beside(tx: Transaction, touch: Touch) -> list[int]:
    """The inodes of the names that follow one in its folder, _BESIDE_MAX of them."""
    folder, name = touch
    rows = tx.range(entry_key(folder, name + b"\0"), entry_key(folder + 1, b""), _BESIDE_MAX)
    return [records.unpack_entry(row)[0] for _, row in rows]


def _at(tx: Transaction, base: int, names: list[bytes]) -> list[Touch]:
    """What is at a place, and its entry."""
    if not names:
        return [(base, b"")]
    folder = resolve(tx, base, names[:-1])
    row = tx.get(entry_key(folder, names[-1]))
    there: list[Touch] = [(records.unpack_entry(row)[0], b"")] if row is not None else []
    return [(folder, names[-1]), *there]


def _inode_at(tx: Transaction, request: Any) -> list[Touch]:
    return [(resolve(tx, request.base, request.names), b"")]


def _created(tx: Transaction, request: messages.Create) -> list[Touch]:
    return [] if request.unnamed else _at(tx, request.base, request.names)


def _linked(tx: Transaction, request: messages.Link) -> list[Touch]:
    return _inode_at(tx, request) + _at(tx, request.new_base, request.new_names)


def _removed(tx: Transaction, request: messages.Remove) -> list[Touch]:
    return _at(tx, request.base, request.names)


def _renamed(tx: Transaction, request: messages.Rename) -> list[Touch]:
    return _at(tx, request.base, request.names) + _at(tx, request.new_base, request.new_names)


def _opened(tx: Transaction, request: messages.Open) -> list[Touch]:
    """That programs use locks on a file is no attribute, but whoever opens it is to know."""
    return _inode_at(tx, request) if request.locking else []


def _committed(tx: Transaction, request: messages.Commit) -> list[Touch]:
    return [(request.ino, b"")]


_FINDERS: dict[type[Message], Callable[[Transaction, Any], list[Touch]]] = {
    messages.Create: _created,
    messages.Link: _linked,
    messages.Remove: _removed,
    messages.Rename: _renamed,
    messages.SetAttributes: _inode_at,
    messages.SetXattr: _inode_at,
    messages.RemoveXattr: _inode_at,
    messages.Open: _opened,
    messages.Commit: _committed,
}
