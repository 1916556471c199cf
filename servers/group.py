"""The placement group: which receipts count, and which servers lack a chunk. Pure over a transaction."""

from collections.abc import Iterable
from typing import NamedTuple

from dfsfuse import errors
from dfsfuse.chunks import NAME_BYTES
from dfsfuse.messages import ChunkReceipts, Cluster, Server
from servers import short_rows
from servers.server_states import ServerState
from servers.store import Reader, Transaction
from servers.undurable import Needs, Undurable

_LAST = b"\xff" * (NAME_BYTES + 1)
"""Behind the name of every chunk."""
Numbers = dict[bytes, dict[str, int]]
"""chunk -> server -> the number of its receipt."""


class Group(NamedTuple):
    """`states`: what is known of those servers that tell of their disks."""

    cluster: Cluster
    states: dict[str, ServerState]

    @property
    def names(self) -> list[str]:
        return [server.name for server in self.cluster.files]

    def checked(self, new: set[bytes], receipts: list[ChunkReceipts]) -> Numbers:
        """The receipts that count. Raises NotEnoughCopies; ReceiptsVoid if there were enough before their servers have
        started again or deleted what nobody needed; Starting if that is not known yet, as the directory has started and
        has not heard of enough of them since."""
        given = {row.chunk: {r.server: r.number for r in row.receipts} for row in receipts}
        names = set(self.names)
        valid = {
            chunk: {name: number for name, number in numbers.items() if name in names and self._is_valid(name, number)}
            for chunk, numbers in given.items()
        }
        heard = {server.name for server in self.cluster.files if self._was_heard(server)}
        for chunk in new:
            counted = valid.get(chunk, {}).keys()
            if len(counted) < self.cluster.copies_min:
                raise self._too_few(chunk, len(names & set(given.get(chunk, ()))))
            if len(counted & heard) < self.cluster.copies_min:
                raise errors.Starting("whether file servers have started again meanwhile is not known yet; ask again")
        return valid

    def lacking(self, receipts: list[ChunkReceipts]) -> set[str]:
        """The servers that have no receipt that counts for one of these chunks, or for several."""
        lacking: set[str] = set()
        for row in receipts:
            valid = {r.server for r in row.receipts if self._is_valid(r.server, r.number)}
            lacking.update(name for name in self.names if name not in valid)
        return lacking

    def _is_valid(self, name: str, number: int) -> bool:
        return name not in self.states or self.states[name].is_valid(number)

    def _too_few(self, chunk: bytes, count: int) -> errors.DfsError:
        if count >= self.cluster.copies_min:
            return errors.ReceiptsVoid(f"receipts for chunk {chunk.hex()} are void; confirm it, or send it again")
        return errors.NotEnoughCopies(
            f"chunk {chunk.hex()} is on {count} of at least {self.cluster.copies_min} servers"
        )

    def needs(self, new: Iterable[bytes], receipts: Numbers) -> Needs:
        """What has to be synced before all of these chunks are on disks."""
        needs = Needs({}, [], [])
        rows = [receipts[chunk] for chunk in new]
        for name in self.names if rows else ():
            if all(name in row for row in rows):
                needs.numbers[name] = max(row[name] for row in rows)
            else:
                needs.lacking.append(name)
        return needs

    def check_uploaded(self, needs: Needs) -> None:
        """ReceiptsVoid where servers have started again since segments were put: they may have lost what they had not
        synced. What was deleted since then is none of theirs, as they are referenced."""
        sure = needs.numbers.keys() - set(needs.unsure)
        if needs.numbers and len(sure) < self.cluster.copies_min:
            raise errors.ReceiptsVoid("servers have started again since segments were put; confirm, and put them again")

    def check_sure(self, needs: Needs) -> None:
        """Starting while a server is away or syncing and too few of the others are known to have these chunks, as after
        a power cut of all until they have looked: what is made from chunks that are lost would be lost with them,
        although somebody was told that it is safe. Where all are away, as they are cut off from the directory, what was
        known of them counts."""
        files = self.cluster.files
        if all(server.up and not server.syncing for server in files):
            return
        if all(not server.up and self._was_heard(server) for server in files):
            return
        there = [server.name for server in files if self._surely_has(server, needs)]
        if len(there) < self.cluster.copies_min:
            have = ", ".join(there) or "none"
            raise errors.Starting(f"servers look for what the file had before; so far {have} has it; ask again")

    def on_disk(self, synced: Iterable[str], row: Undurable | None) -> list[str]:
        """Those of the servers that have `synced` of which it is known that they have on their disks what is new in a
        file's newest content, save what they are known to lack. A server answers a sync when the directory has heard of
        its start; a directory that has started since has to hear of it again."""
        heard = {server.name for server in self.cluster.files if self._was_heard(server)}
        return [name for name in heard.intersection(synced) if row is None or self._has(name, row.needs)]

    def _was_heard(self, server: Server) -> bool:
        """Since the directory has started, of one that tells of its disk."""
        return bool(server.store) or server.name not in self.states

    def _surely_has(self, server: Server, needs: Needs) -> bool:
        """One that tells nothing of its disk is believed."""
        return server.name not in self.states or (server.up and self._has(server.name, needs))

    def _has(self, name: str, needs: Needs) -> bool:
        """No start since it has given its receipts can have taken anything of this from it."""
        known = name in needs.numbers and name not in needs.lacking and name not in needs.unsure
        return known and not self._is_unsure(name, needs)

    def _is_unsure(self, name: str, needs: Needs) -> bool:
        return name in self.states and self.states[name].is_unsure(needs.numbers[name])

    def note_short(self, tx: Transaction, receipts: Numbers, listed: set[bytes]) -> None:
        """A server without a receipt lacks the chunk, if what is committed lists it; one with a receipt does not (any
        more)."""
        names, short = self.names, {*short_rows.short_servers(tx)}
        lacking = ((chunk, name) for chunk in receipts.keys() & listed for name in names)
        short_rows.put(tx, [(name, chunk) for chunk, name in lacking if name not in receipts[chunk]])
        short_rows.delete(tx, [(name, chunk) for chunk, has in receipts.items() for name in has.keys() & short])

    def is_missing(self, tx: Reader, name: str, chunk: bytes) -> bool:
        """Is this server not known to have the chunk?"""
        return self._may_lack(name, chunk) or short_rows.get(tx, name, chunk) is not None

    def _may_lack(self, name: str, chunk: bytes) -> bool:
        state = self.states.get(name)
        return state is not None and state.catching_up and chunk > state.cursor

    def missing(self, tx: Reader, name: str, chunks: set[bytes]) -> int:
        """How many of these `is_missing`. Mostly a server has all, and there is nothing to look for."""
        if not short_rows.is_short(tx, name):
            return sum(self._may_lack(name, chunk) for chunk in chunks)
        return sum(self.is_missing(tx, name, chunk) for chunk in chunks)

    def may_miss(self, tx: Reader, name: str) -> bool:
        """May there be a chunk that `is_missing` there?"""
        return short_rows.is_short(tx, name) or self._may_lack(name, _LAST)
