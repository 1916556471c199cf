"""What the directory has to remember of each file server, over restarts of both. Pure over a transaction.

    w server    ServerState

A receipt is a server's word that it HAS a chunk, not that it has it on its disk: a power cut takes what was not synced
yet. So a receipt of an earlier start tells nothing, unless the server had synced past it before that start ended.
"""

import msgspec

from servers import records
from servers.store import Transaction

STARTS_APART = 1000 << 40
"""How far the numbers of a new disk are from those of the disk before: more starts than anybody has missed."""


class ServerState(msgspec.Struct, array_like=True, kw_only=True):
    """`store`: the id of its disk. `first`: the first receipt number of its present start, as it tells; `since`: from
    this number on receipts are of this disk and this start. `void_below`: receipts below this count for no commit: a
    chunk that they tell of may have been deleted. `synced_before`: receipts of earlier starts up to this were synced.

    `complete`: since it started it has looked for everything that it was told of. `catching_up`: its disk is new, and
    it has been told of all chunks up to `cursor`. `collected`: its place in the garbage log.
    """

    store: str
    first: int
    since: int
    void_below: int
    synced_before: int = 0
    complete: bool = False
    catching_up: bool = False
    cursor: bytes = b""
    collected: int = 0

    def is_valid(self, number: int) -> bool:
        """May a commit rest on this receipt?"""
        return self.void_below <= number < ((self.since >> 40) + 1) << 40

    def is_unsure(self, number: int) -> bool:
        """Is this a receipt of a chunk that a power cut may have taken, or that went with the disk? 0 stands for a
        chunk that is on the disk."""
        return number < self.since and (self.catching_up or number > self.synced_before)

    def is_on_disk(self, number: int, synced: int) -> bool:
        """`synced`: the number that it has told in its present start."""
        return not self.is_unsure(number) and (number < self.since or number <= synced)


def load(tx: Transaction) -> dict[str, ServerState]:
    rows = tx.range(*records.within(b"w"), 10_000)
    return {key[1:].decode(): msgspec.msgpack.decode(row, type=ServerState) for key, row in rows}


def put(tx: Transaction, name: str, state: ServerState) -> None:
    records.put_record(tx, b"w" + name.encode(), state)


def new_disk(store: str, first: int, following: int, before: ServerState | None, collected: int) -> ServerState:
    """A server that comes with a disk that is not known yet. `following`: its next receipt number. What it has given
    receipts for may be garbage that it has deleted since, where the metadata was loaded from a dump while it ran."""
    floor = (before.since >> 40 << 40) + STARTS_APART if before else 0
    since = max(first, floor)
    void_below = max(since, following)
    return ServerState(
        store=store, first=first, since=since, void_below=void_below, catching_up=True, collected=collected
    )


def new_start(state: ServerState, first: int, synced: int) -> ServerState:
    """`synced`: the last number that it told in its former start. Where it had not yet looked for everything then, what
    is unsure from before that start stays so."""
    before = max(state.synced_before, synced) if state.complete else state.synced_before
    since = max(first, state.since)
    return msgspec.structs.replace(
        state, first=first, since=since, void_below=max(since, state.void_below), synced_before=before, complete=False
    )
