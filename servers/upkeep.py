"""That every file server has all chunks that somebody needs, and none that nobody needs. Pure; over one store.

A file server works through what it lacks, and through the garbage log, by itself and at its own pace; here it is told
what there is. What it tells in its heartbeats is kept in memory: how far it has synced, and that it may be asked again;
and so are who was passed over, and how fast passes go.

Threads: one.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from dfsfuse import errors
from dfsfuse.messages import (
    Audit,
    Audited,
    Collect,
    Garbage,
    LostFile,
    Mend,
    Mended,
    Repair,
    RepairWork,
    Server,
    ServerCondition,
)
from servers import (
    garbage_log,
    losses,
    mend,
    references,
    server_states,
    settling,
    short_rows,
    shortfall,
    undurable,
)
from servers.pace import Pace
from servers.passed_over import PassedOver
from servers.references import ONLY_GROUP
from servers.server_states import ServerState
from servers.store import Store, Transaction
from servers.undurable import Needs

LATE_S = 3.0
"""A server that has not synced for so long is not waited for."""
_PAGE_MAX = 1000
_TAKEN_APART = 50
"""Chunks of a segment, in a step between which others are answered."""

Reply = TypeVar("Reply")


class Upkeep:
    """`states`: what is known of each file server that tells of its disk. Others are taken to have what they say."""

    def __init__(self, store: Store, copies_min: int):
        self._store, self._copies_min = store, copies_min
        self.states: dict[str, ServerState] = store.read(server_states.load)
        self._synced: dict[str, int] = {}
        self._moved_s: dict[str, float] = {}
        self._may_find, self._looking, self._passing = set(self.states), set[str](), set[str]()
        self._to_confirm = set[str]()
        self._passed_over, self._paces = PassedOver(), defaultdict[str, Pace](Pace)
        self._settled = settling.Place()

    # -- what servers tell

    def heard(self, server: Server, returned: bool, now_s: float) -> None:
        """A heartbeat. `returned`: it was silent before, so others may find at it what they lack."""
        if returned:
            self._may_find_again(self.states)
        if not server.store:
            return
        state = self.states.get(server.name)
        if state is None or state.store != server.store:
            self._put(server.name, self._of_new_disk(server, state))
        elif state.first != server.first_number:
            synced = self._synced.get(server.name, 0)
            self._put(server.name, server_states.new_start(state, server.first_number, synced))
        moved = server.synced_number != self._synced.get(server.name, 0)
        if moved or server.synced_number + 1 >= server.next_number:
            self._moved_s[server.name] = now_s
        self._synced[server.name] = server.synced_number
        if (returned or server.is_full) and self._is_short(server.name):
            self._passed_over.add(server.name, anew=returned)

    def _of_new_disk(self, server: Server, before: ServerState | None) -> ServerState:
        collected = self._store.read(garbage_log.end)
        return server_states.new_disk(server.store, server.first_number, server.next_number, before, collected)

    def _put(self, name: str, state: ServerState) -> None:
        """A new disk or a new start. Where there is nothing to look for it serves at once."""
        self._synced[name] = 0
        self._may_find_again([name])

        def run(tx: Transaction, changed: ServerState) -> None:
            if not _first_work(tx, name, changed):
                _complete(changed)

        self._change(name, state, run)

    def _change(self, name: str, state: ServerState, change: Callable[[Transaction, ServerState], Reply]) -> Reply:
        """Run `change` on a copy of the state, which is the state once it is stored."""

        def run(tx: Transaction) -> tuple[ServerState, Reply]:
            changed = msgspec.structs.replace(state)
            reply = change(tx, changed)
            if changed != self.states.get(name):
                server_states.put(tx, name, changed)
            return changed, reply

        self.states[name], reply = self._store.transact(run)
        return reply

    def is_syncing(self, name: str) -> bool:
        """May it lack so much that others are to serve?"""
        return name in self._passed_over or (name in self.states and not self.states[name].complete)

    def numbers_from(self, server: Server) -> int:
        """From which number on its receipts have to be; 0 where they are."""
        state = self.states.get(server.name)
        return state.since if state and server.next_number < state.since else 0

    def committed(self, lacking: set[str]) -> None:
        """Servers without a receipt that counts may find the chunk at others now."""
        if lacking:
            self._may_find_again(lacking)

    def _may_find_again(self, names: Iterable[str]) -> None:
        """A pass that has begun before may have missed it, so another one follows."""
        self._may_find.update(names)
        self._looking.difference_update(names)

    # -- what is to be done

    def repairs(self, name: str) -> bool:
        """Is there something that this server should look for?"""
        if self.is_syncing(name):
            return True
        if name in self._to_confirm:
            return True
        if name not in self.states or name not in self._may_find:
            return False
        if not self._is_short(name):
            self._may_find.discard(name)
        return name in self._may_find

    def _is_short(self, name: str) -> bool:
        return self._store.read(lambda tx: short_rows.is_short(tx, name))

    def collects(self, name: str) -> bool:
        """Is there something in the garbage log that this server has not read?"""
        return name in self.states and self._garbage(name) > 0

    def _garbage(self, name: str) -> int:
        return self._store.read(garbage_log.end) - self.states[name].collected

    def repair(self, request: Repair, group: list[str], now_ns: int, now_s: float) -> RepairWork:
        """NotFound for a server that is not registered with this start."""
        name, state = request.server, self._state(request.server)
        if state.first != request.first_number:
            raise errors.NotFound(f"{name} has not registered since it started; register, then repair")
        if not request.after or name not in self._passing:
            # A directory that has lost power has lost what it was told in pages before: then it begins anew.
            request = msgspec.structs.replace(request, after=b"")
            self._looking.add(name)
            self._passed_over.pass_begins(name)
            self._paces[name].forget()
            self._passing.add(name)

        def run(tx: Transaction, changed: ServerState) -> RepairWork:
            if _note_answers(tx, request, group, now_ns):
                self._may_find_again(group)
            _note_cursor(changed, request.after)
            page = shortfall.page(tx, name, changed, request.after, _limited(request.limit))
            if not page.after:
                _complete(changed)
            left = short_rows.count(tx, name)
            return RepairWork(chunks=page.chunks, after=page.after, left=left, complete=not page.after)

        work = self._change(name, state, run)
        self._paces[name].note(_left(self.states[name], work.left), now_s)
        if work.complete:
            self._pass_has_ended(name)
        return work

    def _pass_has_ended(self, name: str) -> None:
        self._passed_over.pass_ends(name)
        self._paces[name].forget()
        if name in self._looking:
            for flags in (self._looking, self._may_find, self._to_confirm):
                flags.discard(name)

    def files_with(self, chunks: list[bytes]) -> list[int]:
        """Inode numbers of files that have these in one of their contents."""

        def find(tx: Transaction) -> set[int]:
            return {ino for chunk in chunks for ino in references.inodes_with(tx, ONLY_GROUP, chunk, losses.FILES_MAX)}

        return sorted(self._store.read(find))

    def begin_collecting(self, request: Collect) -> tuple[Garbage, list[bytes]]:
        """The answer but for its chunks, and which of them to ask `needless` about. From here on no commit rests on an
        older receipt, so what is needless at any time later stays so, or has a newer one. The caller sees to it that
        this is on disk before an answer that names chunks: they are deleted then."""

        def run(tx: Transaction, changed: ServerState) -> tuple[Garbage, list[bytes]]:
            changed.void_below = max(changed.void_below, request.next_number)
            # A place of before the metadata was loaded from a dump may be beyond the log's end.
            changed.collected = max(changed.collected, min(request.after, garbage_log.end(tx)))
            rows = garbage_log.read(tx, changed.collected, _limited(request.limit))
            last = rows[-1][0] if rows else changed.collected
            asked = sorted({*request.names, *(chunk for _, _, chunk in rows)})
            return Garbage(last=last, more=last < garbage_log.end(tx)), asked

        return self._change(request.server, self._state(request.server), run)

    def needless(self, chunks: list[bytes]) -> list[bytes]:
        """Those of them that nobody holds."""
        return self._store.read(lambda tx: [each for each in chunks if not references.is_held(tx, ONLY_GROUP, each)])

    def audit(self, request: Audit) -> Audited:
        limit = _limited(request.limit)
        return Audited(*self._store.read(lambda tx: references.chunks_after(tx, ONLY_GROUP, request.after, limit)))

    def _state(self, name: str) -> ServerState:
        state = self.states.get(name)
        if state is None:
            raise errors.NotFound(f"no file server {name} has registered with its disk's id")
        return state

    # -- checking and repairing the whole

    def mend(self, request: Mend, now_ns: int) -> Mended:
        """Each by itself. Servers may have short rows then that they have not been told of."""
        changed = [self._store.transact(lambda tx, p=p: mend.mend(tx, p, now_ns)) for p in request.problems]
        self._may_find_again(self.states)
        return Mended(changed)

    # -- what goes on by itself

    def settle(self, group: list[str], now_s: float) -> bool:
        """Let go of older contents whose newer ones are on enough disks, of segments, and of the garbage log; a bounded
        part of each. Is there more to do at once?"""
        passed = min((self.states[name].collected for name in group if name in self.states), default=0)
        place, nothing = self._settled, (settling.Place(), settling.Settled(set(), set()))
        wanted = self._store.read(lambda tx: (
            bool(undurable.rows_after(tx, place.after, 1)), references.is_work_left(tx), garbage_log.is_left(tx, passed)
        ))  # fmt: skip

        def run(tx: Transaction) -> tuple[settling.Place, settling.Settled, bool]:
            late = functools.partial(self._late, now_s)
            settled = settling.settle(tx, place, late) if wanted[0] else nothing
            apart = wanted[1] and references.work_off(tx, _TAKEN_APART)
            cut = wanted[2] and garbage_log.cut(tx, passed)
            return *settled, apart or cut

        self._settled, settled, more = self._store.transact(run) if any(wanted) else (*nothing, False)
        self._may_find_again(settled.late & self.states.keys())
        # These have got the chunks with another file's content since, and may not have synced them yet.
        self._to_confirm |= {name for name in settled.lacking & self.states.keys() if not self._is_short(name)}
        return more or self._settled != settling.Place()

    def _late(self, now_s: float, needs: Needs) -> set[str] | None:
        """None: a content that needs this is not on enough disks yet, or a server will have it on its disk soon."""
        there = {name for name in needs.numbers if needs.on_disk(name, self.states, self._synced)}
        others = {*needs.numbers, *needs.lacking} - there
        silent = {name for name in others if now_s - self._moved_s.get(name, -LATE_S) > LATE_S}
        coming = others - silent - {*needs.lacking}
        return None if coming or len(there) < self._copies_min else others

    # -- what people are told

    def conditions(self, group: list[str]) -> list[ServerCondition]:
        return [self._condition(name) for name in group if name in self.states]

    def _condition(self, name: str) -> ServerCondition:
        short = self._store.read(lambda tx: short_rows.count(tx, name))
        caught_up, left_s = _caught_up(self.states[name]), self._paces[name].left_s()
        return ServerCondition(name=name, short=short, garbage=self._garbage(name), caught_up=caught_up, left_s=left_s)

    def lost_files(self) -> list[LostFile]:
        return self._store.read(losses.told)


def _limited(limit: int) -> int:
    return max(1, min(limit, _PAGE_MAX))


def _caught_up(state: ServerState) -> float:
    """Which part of all chunks it has gone through. Their names are hashes, so they are spread evenly."""
    return int.from_bytes(state.cursor[:4].ljust(4, b"\0"), "big") / 2**32 if state.catching_up else 1.0


def _left(state: ServerState, short: int) -> float:
    """How much of a pass is left, in a unit that stays the same for all of it."""
    return 1.0 - _caught_up(state) if state.catching_up else short


def _complete(state: ServerState) -> None:
    state.complete, state.catching_up, state.cursor = True, False, b""


def _note_answers(tx: Transaction, request: Repair, group: list[str], now_ns: int) -> bool:
    """Is there something again that was looked for in vain?"""
    found = [losses.has(tx, request.server, chunk, group) for chunk in request.have]
    for chunk in request.lacks:
        if references.is_held(tx, ONLY_GROUP, chunk):
            losses.lacks(tx, request.server, chunk, group, now_ns)
    return any(found)


def _note_cursor(state: ServerState, after: bytes) -> None:
    """It has answered for all chunks up to there."""
    if state.catching_up and after[:1] == b"a":
        state.cursor = max(state.cursor, after[1:])


def _first_work(tx: Transaction, name: str, state: ServerState) -> bytes:
    """Where a pass would find its first chunk; b"" where there is none."""
    after = b"q"
    while after:
        page = shortfall.page(tx, name, state, after, 1)
        if page.chunks:
            return after
        after = page.after
    return b""
