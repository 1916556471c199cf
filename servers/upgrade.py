"""What a volume of an earlier version lacks: references, and how many short rows there are. Both come when the
directory starts, before it answers anybody: what nobody seems to need would be deleted.

By steps: each is a transaction of its own, and notes how far it has come. So none is large, and a kill costs one of
them. Pure over a store.
"""

from collections.abc import Callable, Iterator

from dfsfuse import chunks
from servers import records, references, short_rows
from servers.references import ONLY_GROUP
from servers.store import Store, Transaction
from servers.undurable import targets_of

ROWS = 5000
"""Of a step: references or short rows, and the rows from which they follow."""
_STEPS_PER_SYNC = 20
_PLACE, _SHORT_PLACE = b"mreferences_place", b"mshort_place"
"""The keys where the next step goes on."""


def build_references(store: Store) -> None:
    """Those of a volume that was made before there were any; once."""
    _by_steps(store, _build_some)


def count_short_rows(store: Store) -> None:
    """Those of a volume that was made when nobody counted them; once. Then they also outlived what needed them."""
    _by_steps(store, _count_some)


def _by_steps(store: Store, step: Callable[[Transaction], bool]) -> None:
    steps = 0
    while store.transact(step):
        steps += 1
        if steps % _STEPS_PER_SYNC == 0:
            store.sync()


def _build_some(tx: Transaction) -> bool:
    """Is there more to do?"""
    if records.get_counter(tx, b"references"):
        return False
    left = ROWS
    for key, targets, holder in _holders(tx, tx.get(_PLACE) or b"i"):
        references.hold(tx, ONLY_GROUP, targets, holder)
        left -= 1 + len(targets)
        if left <= 0:
            tx.put(_PLACE, key + b"\0")
            return True
    _note_references(tx)
    return False


def _holders(tx: Transaction, start: bytes) -> Iterator[tuple[bytes, set[bytes], bytes]]:
    """(key, what it lists, holder) of all inodes and then of all segments that are needed, from a key on."""
    if start[:1] == b"i":
        for key, row in records.rows(tx, b"i", start):
            yield key, targets_of(records.decode_inode(row)), references.inode_holder(records.as_number(key[1:]))
        start = b"g"
    for key, row in records.rows(tx, b"g", start):
        if references.is_held(tx, ONLY_GROUP, key[1:]):
            yield key, chunks.chunks_of(records.decode_entries(row)), references.segment_holder(key[1:])


def _count_some(tx: Transaction) -> bool:
    """Is there more to do?"""
    if records.get_counter(tx, b"short_counted"):
        return False
    first, end = records.within(b"q")
    rows = tx.range(tx.get(_SHORT_PLACE) or first, end, ROWS)
    for key, _ in rows:
        server, chunk = short_rows.of_key(key)
        if references.is_held(tx, ONLY_GROUP, chunk):
            short_rows.add_to_count(tx, server, 1)
        else:
            tx.delete(key)
    if len(rows) == ROWS:
        tx.put(_SHORT_PLACE, rows[-1][0] + b"\0")
        return True
    _note_short_rows(tx)
    return False


def note_all(tx: Transaction) -> None:
    """The volume has all of it."""
    _note_references(tx)
    _note_short_rows(tx)


def _note_references(tx: Transaction) -> None:
    records.put_counter(tx, b"references", 1)
    tx.delete(_PLACE)


def _note_short_rows(tx: Transaction) -> None:
    records.put_counter(tx, b"short_counted", 1)
    tx.delete(_SHORT_PLACE)
