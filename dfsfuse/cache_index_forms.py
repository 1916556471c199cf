"""How rows of the cache's index have holes and what is here, and rows that earlier versions have made.

    form 2    `entries` and `segments` are runs [number of the first, items] of what is no hole; `present` are ranges
              [start, end) of numbers of entries
    form 1    `entries` and `segments` are plain lists; `present` has one byte for each entry: 1 if it is here

An index of form 1 becomes one of form 2 when it is opened, in one transaction: a client that is killed meanwhile leaves
it as it was.
"""

import sqlite3

import msgspec

from dfsfuse.chunks import Entry, Ranges
from dfsfuse.manifests import Entries, SegmentIds

EARLIER_FORM, FORM = 1, 2

_encode = msgspec.msgpack.Encoder().encode
_decode_entries = msgspec.msgpack.Decoder(list[tuple[int, list[Entry]]]).decode
_decode_ids = msgspec.msgpack.Decoder(list[tuple[int, list[bytes]]]).decode
_decode_ranges = msgspec.msgpack.Decoder(list[tuple[int, int]]).decode
_decode_plain_entries = msgspec.msgpack.Decoder(list[Entry]).decode
_decode_plain_ids = msgspec.msgpack.Decoder(list[bytes]).decode


def encoded(entries: Entries, segments: SegmentIds, present: Ranges) -> tuple[bytes, bytes, bytes]:
    return _encode(entries.runs()), _encode(segments.runs()), _encode(list(present))


def decoded(entries: bytes, segments: bytes, present: bytes) -> tuple[Entries, SegmentIds, Ranges]:
    """Lists end with what they hold."""
    return (
        Entries.of_runs(_decode_entries(entries)),
        SegmentIds.of_runs(_decode_ids(segments)),
        Ranges(_decode_ranges(present)),
    )


def upgrade(db: sqlite3.Connection) -> None:
    """From form 1. Nothing has happened where this fails."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for (number,) in db.execute("SELECT number FROM contents").fetchall():
            _upgrade_row(db, number)
        db.execute(f"PRAGMA user_version = {FORM}")
        db.execute("COMMIT")
    except BaseException:
        # A full disk has ended the transaction already.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _upgrade_row(db: sqlite3.Connection, number: int) -> None:
    select = "SELECT entries, segments, present FROM contents WHERE number = ?"
    entries, segments, present = db.execute(select, (number,)).fetchone()
    values = encoded(Entries(_decode_plain_entries(entries)), SegmentIds(_decode_plain_ids(segments)), _ranges(present))
    db.execute("UPDATE contents SET entries = ?, segments = ?, present = ? WHERE number = ?", (*values, number))


def _ranges(flags: bytes) -> Ranges:
    """Of the bytes that are not 0."""
    found, start = Ranges(), 0
    while (start := flags.find(1, start)) >= 0:
        end = flags.find(0, start)
        end = end if end >= 0 else len(flags)
        found.add(start, end)
        start = end
    return found
