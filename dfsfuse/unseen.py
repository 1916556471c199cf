"""What is known of a content that the kernel has for writing (passthrough), as its file's hashes are to tell what
programs have written (unseen_writes.py).

Threads: `Content.mutex` guards an `Unseen`; `Content.committing` is held for its `blocks`. `_mutex` guards which blocks
are known of all contents; nothing is taken under it.
"""

import threading
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from blake3 import blake3

from dfsfuse.chunks import BLOCK_BYTES, ENTRY_BYTES, Entry, entry_length
from dfsfuse.manifests import Entries

HASH_BYTES = 16
_HASHED_MAX, _RESTS = 64, 16
"""How many times more than what was written may be hashed, and for how many opens the kernel is not given a file of
which it was more."""
_ENTRIES_MAX = 8192
"""Of so many entries, 32 GiB, hashes are kept while nobody writes to them: each takes 1 KB and more."""
_UNKNOWN = bytes(HASH_BYTES)
_ALL_BYTES = ENTRY_BYTES // BLOCK_BYTES * HASH_BYTES


class Unseen:
    """`writers` have it open through the kernel, and may have it mapped. `passes`: the index knows that they may, and
    has all entries as here. `mtime_ns` is when the file was last written, `stirred`: it was since the last commit was
    begun. `left`: programs may write on though the client ends. `hashed` and `found` are bytes, since the kernel was
    given it; for so many opens to come it `rests`."""

    __slots__ = ("writers", "passes", "stirred", "left", "mtime_ns", "blocks", "hashed", "found", "rests")

    def __init__(self) -> None:
        self.writers, self.mtime_ns = 0, -1
        self.passes = self.stirred = self.left = False
        self.hashed = self.found = self.rests = 0
        self.blocks = Blocks()

    def ended(self) -> None:
        """Nobody writes to it any more. Where much was hashed for what little was written, the client had better seen
        the writes: it does in the next opens."""
        self.rests = _RESTS if self.hashed > _HASHED_MAX * self.found else 0
        self.hashed = self.found = 0
        self.blocks.let_go()

    def rested(self) -> bool:
        """At an open for writing: may the kernel be given it again?"""
        self.rests = max(0, self.rests - 1)
        return not self.rests


def hashes(data: memoryview) -> bytes:
    """Of each block, one behind the other."""
    return b"".join(
        blake3(data[start : start + BLOCK_BYTES]).digest(HASH_BYTES) for start in range(0, len(data), BLOCK_BYTES)
    )


class Blocks:
    """Hashes of the blocks of entries, as the servers have them. An entry says which bytes it is, so what is known of
    one is right for ever; of contents that the kernel does not have it goes where too much is known of all, those first
    of which something was learnt longest ago. `found` are those of parts (entry, first, last) that were just sent.
    `in_use`: the kernel has the content for writing."""

    def __init__(self) -> None:
        self.in_use = False
        self._known: dict[int, tuple[Entry, bytes]] = {}
        self._parts: dict[int, list[tuple[int, int]]] = {}
        self._punched: set[int] = set()
        self.found: dict[tuple[int, int, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._known)

    def let_go(self) -> None:
        """The kernel does not have the content any more."""
        self.in_use = False
        _bound()

    def forget(self) -> None:
        self._known = {}

    def of(self, index: int, entry: Entry) -> bytes | None:
        known = self._known.get(index)
        return known[1] if known is not None and known[0] == entry else None

    def learn(self, index: int, entry: Entry, known: bytes) -> None:
        is_new = index not in self._known
        self._known[index] = list(entry), known
        if is_new:
            _bound(self)

    def sending(self, parts: Iterable[tuple[int, int, int]], punched: set[int]) -> None:
        """A commit is about to send these parts, and has these entries with new holes."""
        self._parts, self._punched, self.found = {}, punched, {}
        for index, first, last in parts:
            self._parts.setdefault(index, []).append((first, last))

    def committed(self, former: Entries, entries: Entries, size: int) -> None:
        """The commit has made `entries` from `former`. Blocks of which only a part was sent are not known any more, nor
        are those of which nobody has seen what was sent."""
        for index, parts in self._parts.items():
            length = entry_length(index, size)
            known = self._after(index, parts, former, length) if index not in self._punched else None
            self._known.pop(index, None)
            # What was cut meanwhile may come to be written again.
            if known is not None and index < len(entries) and max(piece.end for piece in entries[index]) == length:
                self.learn(index, entries[index], known)
        self._parts, self.found = {}, {}

    def _after(self, index: int, parts: list[tuple[int, int]], former: Entries, length: int) -> bytes | None:
        before = self.of(index, former[index]) if index < len(former) else None
        if before is None and (parts[0] != (0, length) or (index, *parts[0]) not in self.found):
            return None
        known = bytearray((before or b"").ljust(_ALL_BYTES, b"\0"))
        for first, last in parts:
            _lay(known, first, last, self.found.get((index, first, last), b""), length)
        return bytes(known)


_mutex = threading.Lock()
_all: WeakKeyDictionary[Blocks, None] = WeakKeyDictionary()


def _bound(latest: Blocks | None = None) -> None:
    """Something was learnt of the latest ones, which may be about to be used."""
    with _mutex:
        if latest is not None:
            _all.pop(latest, None)
            _all[latest] = None
        surplus = sum(map(len, list(_all))) - _ENTRIES_MAX
        for blocks in list(_all) if surplus > 0 else ():
            if surplus > 0 and not (blocks.in_use or blocks is latest):
                surplus -= len(blocks)
                blocks.forget()
                del _all[blocks]


def _lay(known: bytearray, first: int, last: int, found: bytes, length: int) -> None:
    for number in range(first // BLOCK_BYTES, -(-last // BLOCK_BYTES)):
        whole = first % BLOCK_BYTES == 0 and min((number + 1) * BLOCK_BYTES, length) <= last
        at = (number - first // BLOCK_BYTES) * HASH_BYTES
        mine = found[at : at + HASH_BYTES] if whole else b""
        known[number * HASH_BYTES : (number + 1) * HASH_BYTES] = mine or _UNKNOWN
