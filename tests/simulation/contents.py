"""What simulated programs write: contents that tell by themselves whether they are whole, and what they were made from.

A table is one version of a file: a header that names the version, the one that it was made from, and the mark of each
slot; then the slots, each filled with its mark. Who edits one changes the header and one slot, so a content that mixes
two versions does not parse. A log is a row of records, each filled from its number.
"""

import struct
from typing import NamedTuple

HEADER_BYTES = 192
SLOT_BYTES = 520
SLOTS_MAX = 16
_HEAD = struct.Struct("<8sQQH")
_RECORD = struct.Struct("<4sQH")
_MAGIC, _RECORD_MAGIC = b"table-01", b"rec1"


class Torn(Exception):
    """A content that nobody has written as a whole."""


class Table(NamedTuple):
    """`tag` names the version; `base` the one that it was made from, 0 if it was written without reading."""

    tag: int
    base: int
    slots: tuple[int, ...]

    @property
    def header(self) -> bytes:
        marks = struct.pack(f"<{len(self.slots)}Q", *self.slots)
        return (_HEAD.pack(_MAGIC, self.tag, self.base, len(self.slots)) + marks).ljust(HEADER_BYTES, b"\0")

    def slot(self, index: int) -> bytes:
        return struct.pack("<Q", self.slots[index]) * (SLOT_BYTES // 8)

    def render(self) -> bytes:
        return self.header + b"".join(map(self.slot, range(len(self.slots))))

    def edited(self, tag: int, index: int, mark: int) -> "Table":
        """Another version: slot `index` has this mark; one beyond the end is added. With a mark of before a chunk of
        before may be needed again."""
        slots = [*self.slots[:index], mark, *self.slots[index + 1 :]]
        return Table(tag, self.tag, tuple(slots))

    def cut(self, tag: int, count: int) -> "Table":
        return Table(tag, self.tag, self.slots[:count])


def place_of_slot(index: int) -> int:
    return HEADER_BYTES + index * SLOT_BYTES


def _parse_header(data: bytes) -> Table:
    if len(data) < HEADER_BYTES:
        raise Torn(f"{len(data)} bytes")
    magic, tag, base, count = _HEAD.unpack_from(data)
    if magic != _MAGIC or count > SLOTS_MAX:
        raise Torn(f"no header: {data[:32]!r}")
    table = Table(tag, base, struct.unpack_from(f"<{count}Q", data, _HEAD.size))
    if table.header != data[:HEADER_BYTES]:
        raise Torn(f"header of version {tag} is broken")
    return table


def parse_table(data: bytes) -> Table:
    """Raises Torn."""
    table = _parse_header(data)
    tag, count = table.tag, len(table.slots)
    if len(data) != place_of_slot(count):
        raise Torn(f"version {tag} has {len(data)} bytes and not {place_of_slot(count)}")
    for index in range(count):
        here = data[place_of_slot(index) : place_of_slot(index + 1)]
        if here != table.slot(index):
            raise Torn(f"slot {index} of version {tag} has {here[:8].hex()} and not mark {table.slots[index]}")
    return table


def record(number: int) -> bytes:
    """One whole record of a log; its length follows from its number."""
    length = 40 + number * 131 % 700
    head = _RECORD.pack(_RECORD_MAGIC, number, length)
    return (head + struct.pack("<Q", number) * (length // 8 + 1))[:length]


def parse_log(data: bytes) -> list[int]:
    """The numbers of its records, in order. Raises Torn."""
    found, at = [], 0
    while at < len(data):
        if at + _RECORD.size > len(data):
            raise Torn(f"{len(data) - at} bytes behind the last record")
        magic, number, length = _RECORD.unpack_from(data, at)
        if magic != _RECORD_MAGIC or data[at : at + length] != record(number):
            raise Torn(f"no whole record at {at} of {len(data)}, after {found[-3:]}: {data[at : at + 16]!r}")
        found.append(number)
        at += length
    return found


def whole_header(data: bytes) -> list[int]:
    """The version, if that is there, of a table of which something else is missing."""
    try:
        return [_parse_header(data).tag]
    except Torn:
        return []


def whole_records(data: bytes) -> list[int]:
    """The numbers of those that are there, in a log of which something else is missing."""
    found, at = [], data.find(_RECORD_MAGIC)
    while at >= 0:
        if at + _RECORD.size <= len(data):
            _, number, length = _RECORD.unpack_from(data, at)
            found += [number] if data[at : at + length] == record(number) else []
        at = data.find(_RECORD_MAGIC, at + 1)
    return found
