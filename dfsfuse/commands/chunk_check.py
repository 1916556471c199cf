"""Whether each chunk that somebody needs is on all servers of the group, and no other chunk is.

Lists of all, in order of names, are merged: the chunks that are needed, and the inventory of each server. Both change
meanwhile. So a chunk that seems to be missing is asked for by its name, and the directory is asked whether it is needed
still and whether it knows that the server lacks it; it is told only if it was found missing before and after that.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dfsfuse import errors
from dfsfuse.commands.reach import Metadata
from dfsfuse.messages import (
    Audit,
    Audited,
    ChunkTrace,
    Inventoried,
    Inventory,
    Problem,
    Server,
    Trace,
    Traced,
    Verified,
    Verify,
)
from dfsfuse.tables import count_text

_PAGE = 1000
_SERVER_S = 30.0
_LOOKS = 3
_NEEDED = ""
"""Stands for the directory among the servers."""


class ChunkCheck:
    """`read`: every copy is read, and hashed. `short` and `surplus` count chunks for each server: those that it is
    known to lack, and those that nobody needs. `silent`: servers that could not be asked, and why."""

    def __init__(self, asked: Metadata, read: bool):
        self._asked, self.read = asked, read
        self.problems: list[Problem] = []
        self.count = 0
        self.short: Counter[str] = Counter()
        self.surplus: Counter[str] = Counter()
        self.silent: dict[str, str] = {}
        self._servers: dict[str, Server] = {}

    @property
    def asked_servers(self) -> list[str]:
        return [name for name in self._servers if name not in self.silent]

    def run(self) -> None:
        self._servers = {server.name: server for server in self._asked.fresh_cluster().files}
        streams = [self._needed(), *(self._inventory(name) for name in self._servers)]
        merged = itertools.groupby(heapq.merge(*streams), key=lambda pair: pair[0])
        with ThreadPoolExecutor(max(1, len(self._servers))) as self._threads:
            while page := list(itertools.islice(merged_names(merged), _PAGE)):
                self._compare(page)

    # -- the lists

    def _needed(self) -> Iterator[tuple[bytes, str]]:
        after, more = b"", True
        while more:
            page: Audited = self._asked.ask("audit", Audit(after), Audited)
            yield from ((chunk, _NEEDED) for chunk in page.chunks)
            after, more = page.chunks[-1] if page.chunks else b"", page.more and bool(page.chunks)

    def _inventory(self, name: str) -> Iterator[tuple[bytes, str]]:
        after, more = b"", True
        while more and (page := self._ask(name, "inventory", Inventory(after), Inventoried)):
            yield from ((chunk, name) for chunk in page.chunks)
            after, more = page.chunks[-1] if page.chunks else b"", page.more and bool(page.chunks)

    def _ask(self, name: str, operation: str, request: Any, reply: type) -> Any:
        """None where the server does not answer: then it is not asked again."""
        if name in self.silent:
            return None
        try:
            return self._asked.rpc.call(self._servers[name].url, operation, request, reply, _SERVER_S)
        except errors.DfsError as error:
            self.silent[name] = str(error)
            return None

    # -- comparing

    def _compare(self, page: list[tuple[bytes, set[str]]]) -> None:
        needed = [chunk for chunk, where in page if _NEEDED in where]
        self.count += len(needed)
        lacking = {name: [chunk for chunk, where in page if _NEEDED in where and name not in where]
                   for name in self._servers}  # fmt: skip
        wanted = {name: needed if self.read else lacking[name] for name in self.asked_servers}
        found = dict(zip(wanted, self._threads.map(self._lacks, wanted, wanted.values()), strict=True))
        suspects = sorted(set().union(*found.values()))
        if suspects:
            self._look_again(suspects, found)
        surplus = [(chunk, where) for chunk, where in page if _NEEDED not in where]
        if surplus:
            self._count_surplus(dict(surplus))

    def _lacks(self, name: str, chunks: list[bytes]) -> set[bytes]:
        """Those of these chunks that the server does not have, or not unbroken."""
        lacking: set[bytes] = set()
        while chunks:
            verified: Verified | None = self._ask(name, "verify", Verify(chunks=chunks, read=self.read), Verified)
            if verified is None:
                return set()
            lacking |= set(verified.lacking)
            chunks = chunks[len(verified.sound) + len(verified.lacking) :]
        return lacking

    def _look_again(self, suspects: list[bytes], found: dict[str, set[bytes]]) -> None:
        for look in range(_LOOKS):
            traces = {trace.chunk: trace for trace in self._trace(suspects)}
            suspects = [chunk for chunk in suspects if traces[chunk].needed]
            found = {name: self._lacks(name, [chunk for chunk in suspects if chunk in lacking])
                     for name, lacking in found.items()}  # fmt: skip
            if look == _LOOKS - 1:
                for chunk in suspects:
                    self._judge(traces[chunk], [name for name, lacking in found.items() if chunk in lacking])

    def _trace(self, chunks: list[bytes]) -> list[ChunkTrace]:
        traced: Traced = self._asked.ask("trace", Trace(chunks), Traced)
        return traced.chunks

    def _judge(self, trace: ChunkTrace, lacking: list[str]) -> None:
        text = f"chunk {trace.chunk.hex()}"
        if lacking and len(lacking) == len(self._servers):
            what = f"{text} is on no server any more: restore the file from a backup"
            self._tell(trace, "chunk_lost", what, "", "")
        for name in lacking:
            if name in trace.short:
                self.short[name] += 1
            else:
                what = f"{text} is missing on {name}, or broken, and {name} is not known to lack it"
                self._tell(trace, "copy_missing", what, f"{name} fetches it from another server", name)

    def _tell(self, trace: ChunkTrace, kind: str, what: str, mend: str, server: str) -> None:
        path, ino = next(iter(trace.paths), b""), next(iter(trace.inos), 0)
        self.problems.append(
            Problem(kind=kind, ino=ino, path=path, what=what, mend=mend, name=trace.chunk, server=server)
        )

    def _count_surplus(self, surplus: dict[bytes, set[str]]) -> None:
        """What was needed when the directory was asked last, or is gone by now, is none."""
        unneeded = [trace.chunk for trace in self._trace(list(surplus)) if not trace.needed]
        for name in self.asked_servers:
            here = [chunk for chunk in unneeded if name in surplus[chunk]]
            verified = self._ask(name, "verify", Verify(chunks=here), Verified) if here else None
            if verified is not None:
                self.surplus[name] += len(verified.sound)

    # -- what is no problem

    def notes(self) -> Iterator[str]:
        for name, count in sorted(self.short.items()):
            yield f"{name} lacks {count_text(count, 'chunk')}, as is known; it fetches what others have"
        for name, count in sorted(self.surplus.items()):
            chunks = count_text(count, "chunk")
            if count:
                yield f"{name} has {chunks} that nobody needs: garbage that it deletes, or uploads under way"


def merged_names(groups: Any) -> Iterator[tuple[bytes, set[str]]]:
    """(chunk, who has it or needs it) for each name of the merged lists."""
    for chunk, pairs in groups:
        yield chunk, {who for _, who in pairs}
