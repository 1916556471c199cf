"""What a volume of an earlier version lacks: references. They are made when the directory starts, before it answers
anybody, since what nobody seems to need would be deleted.

By steps: each is a transaction of its own, and notes how far it has come. So none is large, and a kill costs one of
them. Pure over a store.
"""

from collections.abc import Iterator

from dfsfuse import chunks
from servers import records, references
from servers.references import ONLY_GROUP
from servers.store import Store, Transaction
from servers.undurable import targets_of

ROWS = 5000
"""Of a step: references, and the rows from which they follow."""
_STEPS_PER_SYNC = 20
_PLACE = b"mreferences_place"
"""The key where the next step goes on."""


def build_references(store: Store) -> None:
    """Those of a volume that was made before there were any; once."""
    steps = 0
    while store.transact(_build_some):
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
    note_references(tx)
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


def note_references(tx: Transaction) -> None:
    """The volume has them."""
    records.put_counter(tx, b"references", 1)
    tx.delete(_PLACE)
